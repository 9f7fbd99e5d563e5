"""Asking a second deployment while the first is slow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from penstock_gateway.attempts.hedging import MAX_SAVED_HEDGES, Hedges
from penstock_gateway.attempts.lanes import FirstByteTimes, Lane
from penstock_gateway.attempts.load import GroupPace
from penstock_gateway.errors import QuotaExceeded
from penstock_gateway.metrics_attempts import AttemptMetrics
from penstock_gateway.settings_attempts import BreakerSettings, HedgeSettings
from support.attempt_parts import DONE, Bench, answer, bench, broken, status, stream, until_cancelled
from support.fakes import FakeReply, deployment

SMALL, LARGE = deployment("small"), deployment("large")
AT_ONCE = {"after": 0.001, "max_share": 1.0}


def _bench(small: Any, large: Any, **settings: Any) -> Bench:
    made = bench([SMALL, LARGE], {"small": [small], "large": [large]}, **{"hedge": AT_ONCE, **settings})
    made.runner._hedges._saved = 5.0
    return made


async def test_hedge_of_a_slow_request_wins_and_the_loser_is_recorded() -> None:
    """The first answer counts; the other is cancelled, its slot is free, and it may have cost something."""
    registry = CollectorRegistry()
    made = _bench(until_cancelled, answer(), metrics=AttemptMetrics(registry))
    job = made.job()
    served = await made.runner.run(job)
    assert (served.deployment, served.record) == (LARGE, job.records[1])
    assert [(r.deployment, r.kind.value, r.error_code) for r in job.records] == [
        ("small", "first", "hedge_lost"),
        ("large", "hedge", None),
    ]
    assert job.records[0].was_sent
    assert (made.in_flight(), made.clock.pauses) == (0, [])
    assert registry.get_sample_value("penstock_hedges_total", {"deployment": "large", "result": "won"}) == 1
    await made.runner.aclose()


async def test_hedge_that_is_slower_loses_and_is_cancelled() -> None:
    """When the first comes in after all, the second is given up."""
    hedge_asked = asyncio.Event()

    async def after_the_hedge(_: Any) -> FakeReply:
        await hedge_asked.wait()
        return answer()

    async def never(request: Any) -> FakeReply:
        hedge_asked.set()
        return await until_cancelled(request)

    made = _bench(after_the_hedge, never)
    job = made.job()
    assert (await made.runner.run(job)).deployment is SMALL
    assert [record.error_code for record in job.records] == [None, "hedge_lost"]
    assert made.in_flight() == 0


async def test_hedge_is_not_made_for_an_answer_in_time() -> None:
    """A quick answer costs one call."""
    made = _bench(answer(), answer())
    await made.runner.run(made.job())
    assert made.upstream.names == ["small"]


@pytest.mark.parametrize("why", ["budget", "job", "off", "alone", "busy", "attempts"])
async def test_hedge_is_not_made_without_budget_leave_or_place(why: str) -> None:
    """Each of these is reason enough to wait for the first answer."""
    gate = asyncio.Event()

    async def slow(_: Any) -> FakeReply:
        await gate.wait()
        return answer()

    settings: dict[str, Any] = {"max_attempts": 1} if why == "attempts" else {}
    made = _bench(slow, answer(), **settings)
    if why == "budget":
        made.runner._hedges._saved = -5.0
    if why == "off":
        made.runner._hedges.settings = HedgeSettings(after="off")
    if why == "busy":
        made.runner.book.lane(LARGE).slots.resize(1)
        made.runner.book.lane(LARGE).slots.take()
    job = made.job(*(["small"] if why == "alone" else []), may_hedge=why != "job")
    task = asyncio.create_task(made.runner.run(job))
    await asyncio.sleep(0.02)
    assert made.upstream.names == ["small"]
    gate.set()
    assert (await task).deployment is SMALL


async def test_hedge_is_not_made_once_the_status_line_is_there() -> None:
    """Who has begun to answer is waited for."""

    class LongBody(FakeReply):
        async def read(self) -> bytes:
            await asyncio.sleep(0.02)
            return b"{}"

    made = _bench(LongBody(), answer())
    assert (await made.runner.run(made.job())).deployment is SMALL
    assert made.upstream.names == ["small"]


async def test_hedge_beside_a_failing_first_try_is_waited_for() -> None:
    """A failure is no answer while the other may still come."""
    hedge_asked = asyncio.Event()

    async def fails(_: Any) -> FakeReply:
        await hedge_asked.wait()
        raise broken()

    async def good(_: Any) -> FakeReply:
        hedge_asked.set()
        await asyncio.sleep(0.01)
        return answer()

    made = _bench(fails, good)
    job = made.job()
    assert (await made.runner.run(job)).deployment is LARGE
    assert [record.error_code for record in job.records] == ["upstream_broken", None]


async def test_hedge_that_fails_like_the_first_leaves_the_rest_of_the_plan() -> None:
    """Both failures are remembered, and the first deployment may be tried again as usual."""
    third = deployment("third")
    hedge_asked = asyncio.Event()

    async def fails(_: Any) -> FakeReply:
        await hedge_asked.wait()
        raise broken()

    async def fails_too(_: Any) -> FakeReply:
        hedge_asked.set()
        return status(500)

    scripts: dict[str, list[Any]] = {"small": [fails, broken()], "large": [fails_too], "third": [answer()]}
    made = bench([SMALL, LARGE, third], scripts, hedge=AT_ONCE)
    made.runner._hedges._saved = 1.0
    job = made.job()
    assert (await made.runner.run(job)).deployment is third
    assert [(record.deployment, record.kind.value) for record in job.records] == [
        ("small", "first"),
        ("large", "hedge"),
        ("small", "retry"),
        ("third", "fallback"),
    ]


async def test_hedge_that_fails_more_usefully_than_the_first_is_what_the_client_sees() -> None:
    """When nothing helps, the better of both failures is shown."""
    hedge_asked = asyncio.Event()

    async def fails(_: Any) -> FakeReply:
        await hedge_asked.wait()
        raise broken()

    async def limited(_: Any) -> FakeReply:
        hedge_asked.set()
        return status(429, retry_after="30")

    made = _bench(fails, limited, retries=0)
    served = await made.runner.run(made.job())
    assert (served.reply.status, served.deployment) == (429, LARGE)


async def test_hedge_that_the_budget_refuses_does_not_harm_the_first_try() -> None:
    """No money for a second call is no failure of the first."""
    refused = asyncio.Event()

    async def slow(_: Any) -> FakeReply:
        await refused.wait()
        return answer()

    async def refuse(_: Any) -> FakeReply:
        refused.set()
        raise QuotaExceeded("x")

    made = _bench(slow, refuse)
    job = made.job()
    assert (await made.runner.run(job)).deployment is SMALL
    assert (job.records[1].error_code, job.records[1].was_sent) == ("budget_exceeded", False)


async def test_hedged_stream_is_decided_by_its_first_event() -> None:
    """A status line is no answer yet; the loser's connection is closed."""

    class Stalled(FakeReply):
        async def events(self) -> Any:
            await asyncio.Event().wait()
            yield b""

    made = _bench(Stalled(), stream(b"data: 1\n\n"))
    served = await made.runner.run(made.job(is_stream=True))
    assert [block async for block in served.reply.events()] == [b"data: 1\n\n", DONE]
    await served.reply.aclose()
    await made.runner.aclose()
    assert all(reply.is_closed for reply in made.upstream.replies)
    assert made.in_flight() == 0


async def test_hedged_answers_that_come_together_leave_nothing_open() -> None:
    """Of two answers in one turn the first is taken and the other closed."""
    gate = asyncio.Event()

    async def wait(_: Any) -> FakeReply:
        await gate.wait()
        return stream(b"data: 1\n\n")

    made = _bench(wait, wait)
    task = asyncio.create_task(made.runner.run(made.job(is_stream=True)))
    while len(made.upstream.sent) < 2:
        await asyncio.sleep(0.001)
    gate.set()
    served = await task
    await served.reply.aclose()
    await made.runner.aclose()
    assert len(made.upstream.replies) == 2
    assert all(reply.is_closed for reply in made.upstream.replies)
    assert made.in_flight() == 0


def test_hedge_budget_earns_a_share_and_saves_up_to_its_bound() -> None:
    """Extra calls are at most that share of requests, and a quiet day buys no flood."""
    hedges = Hedges(HedgeSettings(after=1.0, max_share=0.05))
    made = 0
    for _ in range(1000):
        hedges.earn()
        if hedges.may_spend:
            hedges.spend()
            made += 1
    assert made == pytest.approx(50, abs=1)
    for _ in range(10_000):
        hedges.earn()
    assert hedges._saved == MAX_SAVED_HEDGES


def test_hedge_after_a_quantile_needs_enough_first_bytes_of_the_same_kind() -> None:
    """Streams and plain replies take different times; of a few nothing is known."""
    lane = Lane(SMALL, BreakerSettings(), GroupPace())
    hedges = Hedges(HedgeSettings(after="p95"))
    for number in range(19):
        lane.first_bytes.add(float(number), is_stream=True)
    assert hedges.after_seconds(lane, is_stream=True) is None
    lane.first_bytes.add(19.0, is_stream=True)
    assert hedges.after_seconds(lane, is_stream=True) == 19.0
    assert hedges.after_seconds(lane, is_stream=False) is None


def test_first_byte_times_forget_the_oldest() -> None:
    """The quantile is of what happened lately, in bounded memory."""
    times = FirstByteTimes()
    for _ in range(500):
        times.add(9.0, is_stream=True)
    for number in range(200):
        times.add(number / 100.0, is_stream=True)
    assert times.quantile(0.5, is_stream=True) == 1.0
    assert times.quantile(0.99, is_stream=True) == 1.98


async def test_hedged_out_first_byte_counts_as_at_least_so_slow() -> None:
    """What was cancelled for being slow would otherwise make the quantile smaller each time."""
    made = _bench(until_cancelled, answer())
    await made.runner.run(made.job())
    assert len(made.runner.book.lane(SMALL).first_bytes._sorted[False]) == 1
