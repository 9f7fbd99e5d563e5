"""Reading answers on whose clients have left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import structs

from penstock_gateway.attempts.draining import DrainDesk
from penstock_gateway.attempts.pump import MAX_BLOCKS_AHEAD
from penstock_gateway.deployments import Deployment
from penstock_gateway.errors import QuotaExceeded, UpstreamBroken
from penstock_gateway.settings_attempts import DrainSettings
from support.attempt_parts import DONE, USAGE, answer, bench, broken, status, stream
from support.fakes import FakeReply, deployment

DRAINED = deployment("small", on_disconnect="drain")
HELLO = b'data: {"a": 1}\n\n'


async def _left_stream(reply: FakeReply, **settings: Any) -> tuple[Any, Any, Any]:
    """Return a bench, a job and its reply, whose client has left after the first block."""
    made = bench([DRAINED], {"small": [reply]}, **settings)
    job = made.job(is_stream=True)
    served = await made.runner.run(job)
    events = served.reply.events()
    assert await anext(events) == HELLO
    await events.aclose()
    return made, job, served.reply


async def _drained(made: Any, reply: Any) -> list[str]:
    done: list[str] = []
    assert made.runner.desk.drain(reply, lambda: done.append("done"))
    while len(made.runner.desk):
        await asyncio.sleep(0)
    return done


async def test_drained_stream_is_read_to_its_usage() -> None:
    """The client has left, the provider goes on, and its bill becomes known."""
    made, job, reply = await _left_stream(stream(HELLO, *[HELLO] * 50))
    assert reply.may_drain
    assert (reply.usage, made.in_flight()) == (None, 1)
    assert await _drained(made, reply) == ["done"]
    assert (reply.usage, job.records[0].usage, job.records[0].error_code) == (USAGE, USAGE, None)
    assert made.in_flight() == 0
    assert made.upstream.replies[0].is_closed


async def test_drained_stream_that_breaks_is_settled_with_what_is_known() -> None:
    """A failure in the background ends it like any other."""
    made, job, reply = await _left_stream(FakeReply(blocks=[HELLO, HELLO, broken()]))
    assert await _drained(made, reply) == ["done"]
    assert (job.records[0].error_code, made.in_flight()) == ("upstream_broken", 0)


async def test_stream_that_is_drained_keeps_its_client_served_block_by_block() -> None:
    """With a client that stays, draining changes nothing: every block in order, then the end or the error."""
    blocks = [b"data: %d\n\n" % number for number in range(5 * MAX_BLOCKS_AHEAD)]
    made = bench([DRAINED], {"small": [stream(*blocks), FakeReply(blocks=[HELLO, broken()])]})
    served = await made.runner.run(made.job(is_stream=True))
    assert [block async for block in served.reply.events()] == [*blocks, DONE]
    await served.reply.aclose()
    served = await made.runner.run(made.job(is_stream=True))
    with pytest.raises(UpstreamBroken):
        async for _ in served.reply.events():
            pass
    assert not served.reply.may_drain
    await served.reply.aclose()


async def test_stream_that_is_drained_is_read_only_a_little_ahead_of_its_client() -> None:
    """A slow client holds the provider back: memory stays bounded."""
    made = bench([DRAINED], {"small": [stream(*[HELLO] * 1000)]})
    served = await made.runner.run(made.job(is_stream=True))
    events = served.reply.events()
    await anext(events)
    await anext(events)
    for _ in range(100):
        await asyncio.sleep(0)
    assert made.upstream.replies[0].output_bytes <= (MAX_BLOCKS_AHEAD + 3) * len(HELLO)
    await events.aclose()
    await served.reply.aclose()
    assert made.in_flight() == 0


async def test_stream_cancelled_in_the_middle_of_a_wait_can_still_be_drained() -> None:
    """A client that leaves while the provider thinks does not break the reading off."""
    gate = asyncio.Event()

    class Thinking(FakeReply):
        async def events(self) -> Any:
            yield HELLO
            await gate.wait()
            self.usage = USAGE
            yield DONE

    made = bench([DRAINED], {"small": [Thinking()]})
    served = await made.runner.run(made.job(is_stream=True))

    async def client() -> None:
        async for _ in served.reply.events():
            pass

    task = asyncio.create_task(client())
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    done: list[str] = []
    assert made.runner.desk.drain(served.reply, lambda: done.append("done"))
    gate.set()
    while not done:
        await asyncio.sleep(0)
    assert served.reply.usage == USAGE


async def test_stream_to_be_drained_that_is_closed_instead_is_cancelled() -> None:
    """Who ends a stream on purpose, because the money is gone, closes it; nothing goes on behind."""
    made, job, reply = await _left_stream(stream(*[HELLO] * 100))
    await reply.aclose()
    assert (job.records[0].error_code, made.in_flight(), reply.may_drain) == ("client_disconnected", 0, False)
    assert made.upstream.replies[0].is_closed


async def test_stream_of_a_deployment_that_cancels_is_not_to_be_drained() -> None:
    """The default is to stop the provider's work."""
    made = bench([deployment("small")], {"small": [stream(HELLO)]})
    served = await made.runner.run(made.job(is_stream=True))
    assert not served.reply.may_drain
    await served.reply.aclose()


async def test_drain_desk_takes_no_more_than_its_bound() -> None:
    """What does not fit is left to the caller, who closes it."""
    made, _, reply = await _left_stream(stream(HELLO, HELLO), drain={"max_answers": 0})
    assert not made.runner.desk.drain(reply, lambda: None)
    assert made.in_flight() == 1
    await reply.aclose()


class _Endless:
    """An answer that never ends."""

    def __init__(self) -> None:
        self.closed = 0

    async def read_to_end(self) -> None:
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.closed += 1


async def test_drain_desk_gives_an_endless_answer_up_after_its_time() -> None:
    """A background task has a deadline too."""
    outcomes: list[str] = []
    desk, endless, done = DrainDesk(DrainSettings(max_seconds=0.01), outcomes.append), _Endless(), asyncio.Event()
    assert desk.drain(endless, done.set)
    await asyncio.wait_for(done.wait(), 5)
    assert (outcomes, endless.closed) == (["timeout"], 1)


async def test_drain_desk_that_closes_settles_everything_it_holds() -> None:
    """No request is left without its bill when the gateway stops."""
    outcomes: list[str] = []
    desk, done = DrainDesk(DrainSettings(), outcomes.append), []
    held = [_Endless() for _ in range(3)]
    for endless in held:
        assert desk.drain(endless, lambda: done.append(1))
    await asyncio.sleep(0)
    await desk.aclose()
    assert (outcomes, done, [endless.closed for endless in held]) == (["stopped"] * 3, [1, 1, 1], [1, 1, 1])


async def test_drain_desk_that_closes_at_once_settles_what_has_not_begun() -> None:
    """An answer that was handed over in the moment of the stop is settled like the others."""
    desk, endless, done = DrainDesk(DrainSettings()), _Endless(), []
    assert desk.drain(endless, lambda: done.append(1))
    await desk.aclose()
    assert (done, endless.closed) == ([1], 1)


async def test_drain_desk_with_a_bug_in_the_answer_settles_it_and_logs(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected failure in the background is not silent and not the end of the bill."""

    class Faulty(_Endless):
        async def read_to_end(self) -> None:
            raise KeyError("bug")

    done = asyncio.Event()
    desk = DrainDesk(DrainSettings())
    assert desk.drain(Faulty(), done.set)
    await asyncio.wait_for(done.wait(), 5)
    assert "drain_failed" in caplog.text


@pytest.mark.parametrize("is_stream", [False, True])
async def test_request_whose_client_leaves_before_the_first_byte_is_drained(is_stream: bool) -> None:
    """The provider is at work already: its answer is waited for, read, and settled by the callback."""
    gate = asyncio.Event()

    async def slow(_: Any) -> FakeReply:
        await gate.wait()
        return stream(HELLO) if is_stream else answer()

    drained: list[Any] = []
    made = bench([DRAINED], {"small": [slow]})
    job = made.job(is_stream=is_stream, on_drained=drained.append)
    task = asyncio.create_task(made.runner.run(job))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (task.cancelled(), job.is_draining, made.in_flight(), drained) == (True, True, 1, [])
    gate.set()
    while not drained:
        await asyncio.sleep(0)
    assert (drained[0].usage, job.records[0].usage, made.in_flight()) == (USAGE, USAGE, 0)
    assert made.upstream.replies[0].is_closed


class _Purse:
    """A cover whose money ends after so many bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.served: list[str] = []

    async def begin(self, deployment: Deployment) -> int:
        return 0

    def forgive(self, bound_picousd: int) -> None:
        raise AssertionError("nothing here is free")

    def serve(self, deployment: Deployment) -> None:
        self.served.append(deployment.name)

    def tokens_in(self, output_bytes: int) -> int:
        return output_bytes

    async def keep_up(self, output_tokens: int) -> None:
        if output_tokens > self.most:
            raise QuotaExceeded("The budget is used up.")


async def test_request_that_is_drained_ends_where_its_budget_does() -> None:
    """Nobody looks at the answer any more, and still it costs no more than is granted."""
    gate, purse, drained = asyncio.Event(), _Purse(5 * len(HELLO)), list[Any]()

    async def slow(_: Any) -> FakeReply:
        await gate.wait()
        return stream(*[HELLO] * 1000)

    made = bench([DRAINED], {"small": [slow]})
    job = made.job(is_stream=True, on_drained=drained.append)
    prepare = job.prepare
    job.prepare = lambda deployment: structs.replace(prepare(deployment), cover=purse)
    task = asyncio.create_task(made.runner.run(job))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    gate.set()
    while not drained:
        await asyncio.sleep(0)
    assert purse.served == ["small"]
    assert job.records[0].error_code == "budget_exceeded"
    assert 5 * len(HELLO) < drained[0].output_bytes < 50 * len(HELLO)
    assert (made.upstream.replies[0].is_closed, made.in_flight()) == (True, 0)


async def test_request_that_fails_while_it_is_drained_tells_that_there_is_no_answer() -> None:
    """Nothing is tried again for nobody."""
    gate = asyncio.Event()

    async def fails(_: Any) -> FakeReply:
        await gate.wait()
        return status(500)

    drained: list[Any] = []
    made = bench([DRAINED], {"small": [fails]})
    job = made.job(on_drained=drained.append)
    task = asyncio.create_task(made.runner.run(job))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    gate.set()
    while not drained:
        await asyncio.sleep(0)
    assert (drained, len(made.upstream.sent), made.in_flight()) == ([None], 1, 0)


@pytest.mark.parametrize("settings", [{}, {"drain": {"max_answers": 0}}])
async def test_request_that_is_not_drained_is_cancelled_with_its_client(settings: Any) -> None:
    """Without a callback, or without room at the desk, the try ends at once."""
    began = asyncio.Event()

    async def slow(_: Any) -> FakeReply:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    made = bench([DRAINED], {"small": [slow]}, **settings)
    job = made.job(on_drained=(lambda reply: None) if settings else None)
    task = asyncio.create_task(made.runner.run(job))
    await began.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await made.runner.aclose()
    assert (job.is_draining, made.in_flight(), job.records[0].error_code) == (False, 0, "client_disconnected")
