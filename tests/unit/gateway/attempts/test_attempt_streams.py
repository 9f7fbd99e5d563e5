"""Streams: what can be tried again before the first event, and nothing after it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock_gateway.attempts import exchange as exchange_module
from penstock_gateway.attempts.breaker import BreakerState
from penstock_gateway.errors import UpstreamBroken, UpstreamTimeout
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.attempt_parts import DONE, USAGE, bench, broken, status, stream
from support.fakes import FakeReply, deployment

SMALL, LARGE = deployment("small"), deployment("large")
HELLO, WORLD = b'data: {"a": 1}\n\n', b'data: {"a": 2}\n\n'
COMMENT = b": keep-alive\n\n"


class ErrorStream(FakeReply):
    """A stream whose events carry the provider's error."""

    def __init__(self, code: str, *before: bytes) -> None:
        super().__init__(blocks=[*before, b'data: {"error": {"code": "%s"}}\n\n' % code.encode()])
        self._code = code

    async def events(self) -> Any:
        """Yield the blocks; the error is known when its block is."""
        async for block in super().events():
            if b'"error"' in block:
                self.stream_error = self._code
            yield block


async def _collect(reply: Any, received: list[bytes] | None = None) -> list[bytes]:
    received = [] if received is None else received
    async for block in reply.events():
        received.append(block)
    return received


async def test_stream_that_begins_well_is_relayed_block_by_block() -> None:
    """The first block was read ahead, and nothing is lost, doubled or merged."""
    made = bench([SMALL], {"small": [stream(HELLO, WORLD)]})
    job = made.job(is_stream=True)
    served = await made.runner.run(job)
    assert (made.in_flight(), served.reply.status, served.record.first_byte_ms) == (1, 200, 0.0)
    assert await _collect(served.reply) == [HELLO, WORLD, DONE]
    assert (made.in_flight(), served.reply.usage, served.record.usage, served.record.error_code) == (
        0,
        USAGE,
        USAGE,
        None,
    )
    await served.reply.aclose()
    assert made.upstream.replies[0].is_closed


@pytest.mark.parametrize(
    "bad",
    [
        FakeReply(blocks=[broken()]),
        FakeReply(blocks=[UpstreamTimeout("x")]),
        FakeReply(blocks=[]),
        FakeReply(blocks=[COMMENT]),
        FakeReply(blocks=[COMMENT, broken()]),
        ErrorStream("overloaded_error"),
        ErrorStream("rate_limit_exceeded"),
        ErrorStream("overloaded_error", COMMENT),
        status(503),
    ],
)
async def test_stream_that_fails_before_its_first_event_is_tried_again(bad: FakeReply) -> None:
    """Errors, an error event, the end or silence in the place of the first event: the client has seen nothing yet."""
    made = bench([SMALL], {"small": [bad, stream(HELLO)]})
    job = made.job(is_stream=True)
    served = await made.runner.run(job)
    assert await _collect(served.reply) == [HELLO, DONE]
    assert job.records[0].error_code is not None
    assert len(job.records) == 2
    assert bad.is_closed


async def test_stream_that_begins_with_comments_keeps_them_in_front() -> None:
    """What keeps a connection alive is held back until the first event, then relayed with it."""
    made = bench([SMALL], {"small": [stream(COMMENT, COMMENT, HELLO)]})
    served = await made.runner.run(made.job(is_stream=True))
    assert await _collect(served.reply) == [COMMENT + COMMENT + HELLO, DONE]


async def test_stream_of_comments_for_long_counts_as_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that waits long needs the signs of life more than a second try."""
    monkeypatch.setattr(exchange_module, "COMMENT_SECONDS", -1.0)
    made = bench([SMALL], {"small": [stream(COMMENT, HELLO)]})
    served = await made.runner.run(made.job(is_stream=True))
    assert await _collect(served.reply) == [COMMENT, HELLO, DONE]


async def test_stream_whose_first_event_blames_the_request_is_shown_as_it_is() -> None:
    """Nothing else is tried, and the client gets the provider's own event."""
    made = bench([SMALL, LARGE], {"small": [ErrorStream("invalid_request_error")], "large": [stream(HELLO)]})
    served = await made.runner.run(made.job(is_stream=True))
    assert await _collect(served.reply) == [b'data: {"error": {"code": "invalid_request_error"}}\n\n']
    assert (served.reply.status, served.reply.stream_error) == (200, "invalid_request_error")
    assert made.upstream.names == ["small"]
    assert made.in_flight() == 0


async def test_stream_that_only_ever_begins_with_an_error_event_shows_the_last() -> None:
    """When all tries end so, the client sees what the provider said."""
    made = bench([SMALL], {"small": [ErrorStream("overloaded_error")]})
    job = made.job(is_stream=True)
    served = await made.runner.run(job)
    assert len(job.records) == 2
    assert await _collect(served.reply) == [b'data: {"error": {"code": "overloaded_error"}}\n\n']


async def test_stream_that_breaks_after_its_first_event_is_never_tried_again() -> None:
    """The client has seen the beginning: the failure is its end, and counts against the deployment."""
    made = bench([SMALL, LARGE], {"small": [FakeReply(blocks=[HELLO, broken()])], "large": [stream(HELLO)]})
    job = made.job(is_stream=True)
    served = await made.runner.run(job)
    received: list[bytes] = []
    with pytest.raises(UpstreamBroken):
        await _collect(served.reply, received)
    assert received == [HELLO]
    assert made.upstream.names == ["small"]
    assert (job.records[0].error_code, made.in_flight()) == ("upstream_broken", 0)


async def test_streams_that_break_in_the_middle_open_the_breaker() -> None:
    """Good beginnings do not hide that no answer comes to its end."""
    made = bench([SMALL], {"small": [FakeReply(blocks=[HELLO, UpstreamTimeout("idle")])]})
    lane = next(iter(made.runner.book))
    for _ in range(5):
        assert lane.breaker.state is BreakerState.CLOSED
        served = await made.runner.run(made.job(is_stream=True))
        with pytest.raises(UpstreamTimeout):
            await _collect(served.reply)
    assert lane.breaker.state is BreakerState.OPEN


async def test_stream_with_an_error_event_in_the_middle_is_recorded_as_failed() -> None:
    """The event was passed on, and the record says that it was no answer."""
    made = bench([SMALL], {"small": [ErrorStream("overloaded_error", HELLO)]})
    job = made.job(is_stream=True)
    served = await made.runner.run(job)
    assert len(await _collect(served.reply)) == 2
    assert (job.records[0].error_code, served.reply.stream_error) == ("upstream_stream_error", "overloaded_error")


async def test_stream_that_its_client_leaves_is_closed_and_blames_nobody() -> None:
    """Giving up ends the provider's work, frees the slot, and says nothing of the deployment's health."""
    made = bench([SMALL], {"small": [stream(HELLO, WORLD)]})
    job = made.job(is_stream=True)
    served = await made.runner.run(job)
    events = served.reply.events()
    assert await anext(events) == HELLO
    served.reply.complete_record()
    assert job.records[0].error_code is None
    await events.aclose()
    await served.reply.aclose()
    await served.reply.aclose()
    assert (job.records[0].error_code, made.in_flight()) == ("client_disconnected", 0)
    assert made.upstream.replies[0].is_closed


async def test_stream_probe_closes_the_breaker_with_its_first_event() -> None:
    """A stream may go on for minutes: others need not wait for its end."""
    made = bench([SMALL], {"small": [broken()] * 5 + [stream(HELLO)]}, retries=0)
    for _ in range(5):
        with pytest.raises(UpstreamBroken):
            await made.runner.run(made.job(is_stream=True))
    made.clock.now += 5.0
    served = await made.runner.run(made.job(is_stream=True))
    assert next(iter(made.runner.book)).breaker.state is BreakerState.CLOSED
    await served.reply.aclose()


async def test_stream_cancelled_while_its_first_event_is_awaited_is_closed() -> None:
    """Nothing stays open of a try that nobody waits for."""
    began = asyncio.Event()

    class Stalled(FakeReply):
        async def events(self) -> Any:
            began.set()
            await asyncio.Event().wait()
            yield b""

    async def send(_: UpstreamRequest) -> FakeReply:
        return Stalled()

    made = bench([SMALL], {"small": [send]})
    task = asyncio.create_task(made.runner.run(made.job(is_stream=True)))
    await began.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert made.upstream.replies[0].is_closed
    assert made.in_flight() == 0


async def test_stream_that_was_a_probe_once_does_not_speak_for_a_later_one() -> None:
    """Its first event settled the matter; when its client leaves later, the probe of that time goes on alone."""
    made = bench([SMALL], {"small": [broken()] * 5 + [stream(HELLO)]}, retries=0)
    for _ in range(5):
        with pytest.raises(UpstreamBroken):
            await made.runner.run(made.job(is_stream=True))
    old = await made.runner.run(made.job(is_stream=True))
    breaker = made.runner.book.lane(SMALL).breaker
    breaker.reject(made.clock.now, is_probe=False)
    assert breaker.begin()
    await old.reply.aclose()
    assert not breaker.may_be_probed


async def test_stream_cut_by_the_clients_deadline_says_so_and_blames_nobody() -> None:
    """A deadline that passes in the middle has a name of its own, and the deployment did what it could."""
    made = bench([SMALL], {})

    class Slow(FakeReply):
        async def events(self) -> Any:
            yield HELLO
            made.clock.now += 2.0
            raise UpstreamTimeout("x")

    made.upstream.scripts["small"] = [Slow()]
    for _ in range(10):
        job = made.job(is_stream=True, deadline_seconds=2.0)
        served = await made.runner.run(job)
        with pytest.raises(UpstreamTimeout) as raised:
            await _collect(served.reply)
        assert (raised.value.code, job.records[0].error_code) == ("deadline_exceeded", "deadline_exceeded")
    assert made.runner.book.lane(SMALL).breaker.state is BreakerState.CLOSED


async def test_stream_with_a_bug_in_the_middle_gives_the_slot_back() -> None:
    """What is not an upstream's error is passed on, and still ends the try."""
    made = bench([SMALL], {"small": [FakeReply(blocks=[HELLO, KeyError("bug")])]})
    job = made.job(is_stream=True)
    served = await made.runner.run(job)
    with pytest.raises(KeyError):
        await _collect(served.reply)
    assert (made.in_flight(), job.records[0].error_code) == (0, "internal_error")
