"""Retry, fallback and what the client gets when nothing helps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock_gateway.attempts.breaker import BreakerState
from penstock_gateway.attempts.records import AttemptKind
from penstock_gateway.errors import (
    GatewayError,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    UpstreamBroken,
    UpstreamRejectedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from support.attempt_parts import USAGE, Bench, answer, bench, broken, status, until_cancelled
from support.fakes import deployment

SMALL, LARGE = deployment("small"), deployment("large")
UNREACHABLE = UpstreamUnreachable("x")


def _kinds(job: Any) -> list[tuple[str, str, str | None]]:
    return [(record.deployment, record.kind.value, record.error_code) for record in job.records]


async def test_runner_with_a_good_first_answer_serves_it_and_gives_everything_back() -> None:
    """The usual case: one try, its record complete, nothing held."""
    made = bench([SMALL], {"small": [answer()]})
    job = made.job()
    served = await made.runner.run(job)
    assert await served.reply.read() == b'{"answer": "yes"}'
    await served.reply.aclose()
    assert (served.deployment, served.record) == (SMALL, job.records[0])
    record = job.records[0]
    assert (record.status, record.error_code, record.was_sent, record.usage) == (200, None, True, USAGE)
    assert record.first_byte_ms == 0.0
    assert made.in_flight() == 0
    assert made.upstream.replies[0].is_closed


@pytest.mark.parametrize(
    "failure",
    [UNREACHABLE, UpstreamTimeout("x"), broken(), status(408), status(409), status(429), status(500), status(503)],
)
async def test_runner_after_a_passing_failure_tries_the_same_deployment_again(failure: Any) -> None:
    """One retry by default, after a random pause."""
    made = bench([SMALL], {"small": [failure, answer()]})
    job = made.job()
    served = await made.runner.run(job)
    assert served.reply.status == 200
    assert [record.kind for record in job.records] == [AttemptKind.FIRST, AttemptKind.RETRY]
    assert len(made.clock.pauses) == 1
    assert made.in_flight() == 0


async def test_runner_with_a_failure_that_is_not_listed_falls_back_at_once() -> None:
    """`retry_on` decides what is worth a second try; other deployments are always worth one."""
    made = bench([SMALL, LARGE], {"small": [status(500)], "large": [answer()]}, retry_on=("connect",))
    job = made.job()
    assert (await made.runner.run(job)).deployment is LARGE
    assert _kinds(job) == [("small", "first", "upstream_status"), ("large", "fallback", None)]
    assert made.clock.pauses == []


@pytest.mark.parametrize("code", [400, 404, 413, 422])
async def test_runner_with_a_refused_request_passes_the_refusal_on(code: int) -> None:
    """What the client did wrong is told as the provider told it, without further tries where it is alone."""
    made = bench([SMALL], {"small": [status(code, b'{"error": {"message": "wrong"}}')]})
    job = made.job()
    served = await made.runner.run(job)
    assert (served.reply.status, await served.reply.read()) == (code, b'{"error": {"message": "wrong"}}')
    assert len(job.records) == 1
    assert served.record.error_code == "upstream_status"


async def test_runner_with_a_refused_request_never_asks_the_fallback() -> None:
    """Another deployment would say the same, and take money for it."""
    made = bench([SMALL, LARGE], {"small": [status(400)], "large": [answer()]})
    assert (await made.runner.run(made.job())).reply.status == 400
    assert made.upstream.names == ["small"]


async def test_runner_with_a_refused_credential_falls_back_and_leaves_the_deployment_alone() -> None:
    """A key that is refused once is refused again: no retry, and the next request does not go there."""
    made = bench([SMALL, LARGE], {"small": [UpstreamRejectedKey("x")], "large": [answer()]})
    job = made.job()
    await made.runner.run(job)
    assert _kinds(job) == [("small", "first", "upstream_rejected_credential"), ("large", "fallback", None)]
    await made.runner.run(made.job())
    assert made.upstream.names == ["small", "large", "large"]


async def test_runner_with_an_empty_account_falls_back_without_retry() -> None:
    """429 with `insufficient_quota` does not pass by waiting."""
    body = b'{"error": {"code": "insufficient_quota"}}'
    made = bench([SMALL, LARGE], {"small": [status(429, body)], "large": [answer()]})
    assert (await made.runner.run(made.job())).deployment is LARGE
    assert made.clock.pauses == []


async def test_runner_retries_before_it_falls_back_and_counts_retries_by_deployment() -> None:
    """Each deployment of the plan has its own retries."""
    made = bench([SMALL, LARGE], {"small": [status(500)], "large": [status(500), answer()]})
    job = made.job()
    assert (await made.runner.run(job)).deployment is LARGE
    kinds = [(record.deployment, record.kind.value) for record in job.records]
    assert kinds == [("small", "first"), ("small", "retry"), ("large", "fallback"), ("large", "retry")]


async def test_runner_makes_no_more_tries_than_allowed() -> None:
    """An outage of everybody does not multiply each request by the length of the plan."""
    deployments = [deployment(f"d{number}") for number in range(5)]
    made = bench(deployments, {d.name: [status(500)] for d in deployments}, max_attempts=3)
    job = made.job()
    assert (await made.runner.run(job)).reply.status == 500
    assert len(job.records) == 3


@pytest.mark.parametrize(("draw", "expected"), [(0.0, 2.0), (1.0, 2.25)])
async def test_runner_waits_as_long_as_the_provider_asks_and_a_little_at_random(draw: float, expected: float) -> None:
    """`Retry-After` is the least; the rest keeps many clients from coming at once."""
    made = bench([SMALL], {"small": [status(429, retry_after="2"), answer()]}, draw=lambda: draw)
    assert (await made.runner.run(made.job())).reply.status == 200
    assert made.clock.pauses == [expected]


async def test_runner_asked_to_wait_too_long_falls_back_at_once() -> None:
    """A wait beyond `max_wait_seconds` is not waited, not even in part."""
    made = bench([SMALL, LARGE], {"small": [status(503, retry_after="11")], "large": [answer()]})
    assert (await made.runner.run(made.job())).deployment is LARGE
    assert made.clock.pauses == []


async def test_runner_asked_to_wait_beyond_the_deadline_falls_back_at_once() -> None:
    """What cannot be answered in time is not waited for."""
    made = bench([SMALL, LARGE], {"small": [status(429, retry_after="3")], "large": [answer()]})
    assert (await made.runner.run(made.job(deadline_seconds=2.0))).deployment is LARGE
    assert made.clock.pauses == []


async def test_runner_without_a_fallback_shows_the_providers_429_with_its_advice() -> None:
    """The client learns when to come back from who knows it."""
    made = bench([SMALL], {"small": [status(429, retry_after="60")]})
    served = await made.runner.run(made.job())
    assert (served.reply.status, served.reply.headers) == (429, ((b"retry-after", b"60"),))


async def test_runner_told_not_to_retry_does_not() -> None:
    """`x-should-retry: false` is OpenAI's way to say that it will not help."""
    made = bench([SMALL], {"small": [status(500, x_should_retry="false"), answer()]})
    assert (await made.runner.run(made.job())).reply.status == 500
    assert len(made.upstream.sent) == 1


async def test_runner_with_several_failures_shows_the_most_useful_one() -> None:
    """A 429 with advice helps more than the refused connection that came after it."""
    made = bench([SMALL, LARGE], {"small": [status(429, retry_after="60")], "large": [UNREACHABLE]})
    job = made.job()
    served = await made.runner.run(job)
    assert (served.reply.status, served.record) == (429, job.records[0])
    assert len(job.records) == 3


async def test_runner_with_errors_only_raises_the_last_of_equals() -> None:
    """Where no provider has said anything, our own error is shown."""
    made = bench([SMALL], {"small": [UNREACHABLE, UpstreamTimeout("x")]})
    job = made.job()
    with pytest.raises(UpstreamTimeout):
        await made.runner.run(job)
    assert [record.was_sent for record in job.records] == [False, True]
    assert job.records[0].status is None


async def test_runner_with_a_prompt_too_long_falls_back_to_a_larger_context_only() -> None:
    """Who has no more room would refuse as well."""
    body = b'{"error": {"code": "context_length_exceeded"}}'
    same, larger = deployment("same"), deployment("larger", context_tokens=100_000)
    made = bench([SMALL, same, larger], {"small": [status(400, body)], "same": [answer()], "larger": [answer()]})
    assert (await made.runner.run(made.job())).deployment is larger
    assert made.upstream.names == ["small", "larger"]
    alone = bench([SMALL, same], {"small": [status(400, body)], "same": [answer()]})
    served = await alone.runner.run(alone.job())
    assert (served.reply.status, alone.upstream.names) == (400, ["small"])


async def test_runner_with_a_body_that_breaks_off_tries_again() -> None:
    """Of a plain reply nothing has reached the client before it is whole."""
    cut = answer()
    cut.read = lambda: _raise(broken())  # type: ignore[method-assign]
    made = bench([SMALL], {"small": [cut, answer("whole")]})
    job = made.job()
    served = await made.runner.run(job)
    assert await served.reply.read() == b'{"answer": "whole"}'
    assert _kinds(job)[0] == ("small", "first", "upstream_broken")
    assert (job.records[0].status, cut.is_closed) == (200, True)


async def _raise(error: Exception) -> Any:
    raise error


async def test_runner_with_an_error_body_that_cannot_be_read_raises_why() -> None:
    """A status whose body is lost is still classified by the status, and never shown as an empty answer."""
    lost = status(500)
    lost.read = lambda: _raise(broken())  # type: ignore[method-assign]
    made = bench([SMALL], {"small": [lost]}, retries=0)
    with pytest.raises(UpstreamBroken):
        await made.runner.run(made.job())
    assert made.upstream.replies[0].is_closed


async def test_runner_with_a_status_beyond_http_treats_it_as_broken() -> None:
    """A status of 600 and more is no answer."""
    made = bench([SMALL], {"small": [status(799)]}, retries=0)
    with pytest.raises(UpstreamBroken):
        await made.runner.run(made.job())


async def test_runner_whose_budget_does_not_reach_for_a_second_try_shows_the_first_failure() -> None:
    """The provider's failure says more than that no money is left to try elsewhere."""
    made = bench([SMALL, LARGE], {"small": [status(500)], "large": [QuotaExceeded("x")]}, retries=0)
    job = made.job()
    assert (await made.runner.run(job)).reply.status == 500
    assert (job.records[1].error_code, job.records[1].was_sent) == ("budget_exceeded", False)
    with pytest.raises(QuotaExceeded):
        await made.runner.run(made.job("large"))
    assert all(lane.breaker.state is BreakerState.CLOSED for lane in made.runner.book)
    assert made.in_flight() == 0


async def test_runner_with_a_request_that_cannot_be_prepared_gives_the_slot_back() -> None:
    """A failure before sending is no failure of the deployment."""
    made = bench([SMALL], {"small": [answer()]})
    job = made.job()

    def refuse(_: Any) -> Any:
        raise RateLimited("x")

    job.prepare = refuse
    with pytest.raises(RateLimited):
        await made.runner.run(job)
    assert (made.in_flight(), made.upstream.sent, job.records[0].was_sent) == (0, [], False)


async def test_runner_with_a_bug_in_the_upstream_passes_it_on_and_gives_the_slot_back() -> None:
    """What is not ours to handle is not hidden and leaks nothing."""
    made = bench([SMALL], {"small": [KeyError("bug")]})
    job = made.job()
    with pytest.raises(KeyError):
        await made.runner.run(job)
    assert (made.in_flight(), job.records[0].error_code) == (0, "internal_error")


@pytest.mark.parametrize("settings", [{}, {"hedge": {"after": 0.001}}])
async def test_runner_whose_client_leaves_gives_the_slot_back_and_blames_nobody(settings: Any) -> None:
    """Cancelling ends the try, also one that is hedged; the deployment's health is as before."""
    made = bench([SMALL, LARGE], {"small": [until_cancelled], "large": [until_cancelled]}, **settings)
    made.runner._hedges._saved = 5.0
    job = made.job()
    task = asyncio.create_task(made.runner.run(job))
    expected = 2 if settings else 1
    while len(made.upstream.sent) < expected:
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert made.in_flight() == 0
    assert {record.error_code for record in job.records} == {"client_disconnected"}
    assert all(lane.breaker._consecutive == 0 for lane in made.runner.book)


async def test_runner_with_an_empty_plan_says_that_nothing_can_answer() -> None:
    """A plan without deployments is an error, not a hang."""
    made = bench([SMALL], {"small": [answer()]})
    job = made.job()
    job.plan = ()
    with pytest.raises(Overloaded):
        await made.runner.run(job)


async def _fail(made: Bench, times: int) -> None:
    for _ in range(times):
        try:
            await made.runner.run(made.job())
        except GatewayError:
            continue


async def test_runner_with_an_open_breaker_goes_straight_to_the_fallback() -> None:
    """After failures in a row nobody loses time with the deployment, until a probe finds it well."""
    small = [broken()] * 5 + [answer()]
    made = bench([SMALL, LARGE], {"small": small, "large": [answer()]}, retries=0)
    await _fail(made, 5)
    job = made.job()
    assert (await made.runner.run(job)).deployment is LARGE
    assert _kinds(job) == [("large", "first", None)]
    made.clock.now += 5.0
    assert (await made.runner.run(made.job())).deployment is SMALL


async def test_runner_with_everything_open_probes_one_request_at_a_time() -> None:
    """What nothing else can answer is tried all the same, one at a time; the others are told to come back."""
    gate = asyncio.Event()

    async def wait(_: Any) -> Any:
        await gate.wait()
        return answer()

    made = bench([SMALL], {"small": [broken()] * 5 + [wait]}, retries=0)
    await _fail(made, 5)
    probe = asyncio.create_task(made.runner.run(made.job()))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as raised:
        await made.runner.run(made.job())
    assert raised.value.code == "no_deployment_available"
    assert int(raised.value.headers["retry-after"]) >= 1
    gate.set()
    assert (await probe).reply.status == 200
    assert (await made.runner.run(made.job())).reply.status == 200


async def test_runner_with_everything_cooling_waits_when_it_may_and_else_says_how_long() -> None:
    """A short cool-down is waited for in the queue; a long one is told to the client."""
    made = bench([SMALL], {"small": [status(429, retry_after="4"), answer()]}, retries=0)
    assert (await made.runner.run(made.job())).reply.status == 429
    assert (await made.runner.run(made.job())).reply.status == 200
    assert made.clock.pauses == [4.0 + 0.5 * 0.25]
    long = bench([SMALL], {"small": [status(429, retry_after="40"), answer()]}, retries=0)
    await long.runner.run(long.job())
    with pytest.raises(RateLimited) as raised:
        await long.runner.run(long.job())
    assert (raised.value.code, raised.value.headers) == ("upstream_rate_limited", {"retry-after": "40"})
    assert len(long.upstream.sent) == 1


async def test_runner_whose_deployment_is_closed_during_its_pause_falls_back() -> None:
    """What others found out meanwhile counts: no retry goes to a deployment that has been left alone."""
    made = bench([SMALL, LARGE], {"small": [status(500)], "large": [answer()]})
    lane = made.runner.book.lane(SMALL)

    async def sleep(seconds: float) -> None:
        lane.breaker.reject(made.clock.now, is_probe=False)

    made.runner._sleep = sleep
    job = made.job()
    assert (await made.runner.run(job)).deployment is LARGE
    assert made.upstream.names == ["small", "large"]
    assert made.in_flight() == 0


async def test_runner_whose_fallback_is_full_shows_the_first_failure() -> None:
    """That no place was free elsewhere is not what went wrong."""
    large = deployment("large", max_parallel_requests=1)
    made = bench([SMALL, large], {"small": [status(500)], "large": [answer()]}, retries=0, max_waiting=0)
    made.runner.book.lane(large).slots.take()
    assert (await made.runner.run(made.job())).reply.status == 500


async def test_runner_whose_probe_is_not_sent_keeps_the_breaker_open_for_another() -> None:
    """A probe that the budget refuses has found out nothing."""
    made = bench([SMALL], {"small": [broken()] * 5 + [QuotaExceeded("x"), answer()]}, retries=0)
    await _fail(made, 5)
    lane = made.runner.book.lane(SMALL)
    made.clock.now += 5.0
    with pytest.raises(QuotaExceeded):
        await made.runner.run(made.job())
    assert lane.breaker.state is BreakerState.HALF_OPEN
    assert (await made.runner.run(made.job())).reply.status == 200
    assert lane.breaker.state is BreakerState.CLOSED
