"""Limits on parallel requests, the queue, groups and deadlines, as the runner applies them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock_gateway.errors import RateLimited, UpstreamTimeout
from penstock_gateway.settings_attempts import AttemptSettings
from support.attempt_parts import Bench, answer, bench, broken, status, until_cancelled
from support.fakes import FakeReply, deployment, price


class Gate:
    """An upstream's action that answers when it is opened."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.waiting = 0

    async def __call__(self, request: Any) -> FakeReply:
        """Wait for the gate."""
        self.waiting += 1
        await self.event.wait()
        return answer(request.deployment.name)


async def _turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _fill(made: Bench, gate: Gate, requests: int, **fields: Any) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(made.runner.run(made.job(**fields))) for _ in range(requests)]
    await _turns()
    return tasks


async def test_limit_on_parallel_requests_is_never_passed_and_all_are_served() -> None:
    """What does not fit waits, and is served in the end."""
    gate = Gate()
    made = bench([deployment("small", max_parallel_requests=2)], {"small": [gate]})
    tasks = await _fill(made, gate, 7)
    assert (made.in_flight(), gate.waiting, made.runner.book.room.waiting) == (2, 2, 5)
    gate.event.set()
    assert [served.reply.status for served in await asyncio.gather(*tasks)] == [200] * 7
    assert (made.in_flight(), made.runner.book.room.waiting) == (0, 0)


async def test_queue_beyond_its_bound_turns_requests_away() -> None:
    """Memory is bounded: the caller hears when to come back."""
    gate = Gate()
    made = bench([deployment("small", max_parallel_requests=1)], {"small": [gate]}, max_waiting=2)
    tasks = await _fill(made, gate, 3)
    with pytest.raises(RateLimited) as raised:
        await made.runner.run(made.job())
    assert raised.value.code == "queue_full"
    assert int(raised.value.headers["retry-after"]) >= 1
    gate.event.set()
    await asyncio.gather(*tasks)


async def test_queue_that_takes_too_long_turns_requests_away() -> None:
    """Nobody waits beyond `max_wait_seconds`."""
    gate = Gate()
    made = bench([deployment("small", max_parallel_requests=1)], {"small": [gate]}, max_wait_seconds=0.01)
    tasks = await _fill(made, gate, 1)
    with pytest.raises(RateLimited) as raised:
        await made.runner.run(made.job())
    assert raised.value.code == "queue_timeout"
    gate.event.set()
    await asyncio.gather(*tasks)


async def test_queue_that_outlasts_the_deadline_says_so() -> None:
    """A deadline that passes in the queue is a deadline that has passed."""
    gate = Gate()
    made = bench([deployment("small", max_parallel_requests=1)], {"small": [gate]})
    tasks = await _fill(made, gate, 1)
    with pytest.raises(UpstreamTimeout) as raised:
        await made.runner.run(made.job(deadline_seconds=0.01))
    assert raised.value.code == "deadline_exceeded"
    gate.event.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("when_full", ["wait", "fall_back"])
async def test_full_deployment_with_a_free_fallback_waits_or_falls_back_as_configured(when_full: str) -> None:
    """A fallback may be a worse model or a dearer one, so waiting is the default."""
    gate = Gate()
    small, large = deployment("small", max_parallel_requests=1), deployment("large")
    made = bench([small, large], {"small": [gate], "large": [answer()]}, when_full=when_full)
    tasks = await _fill(made, gate, 2)
    assert made.upstream.names == (["small"] if when_full == "wait" else ["small", "large"])
    gate.event.set()
    await asyncio.gather(*tasks)


async def test_request_waiting_for_its_group_takes_whichever_member_is_free_first() -> None:
    """A queue before each would let one stand idle beside waiting requests."""
    first, second = Gate(), Gate()
    members = [deployment(name, group="g", max_parallel_requests=1) for name in ("a", "b")]
    made = bench(members, {"a": [first], "b": [second, answer()]})
    tasks = [asyncio.create_task(made.runner.run(made.job("a"))) for _ in range(3)]
    await _turns()
    assert sorted(made.upstream.names) == ["a", "b"]
    second.event.set()
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await _turns()
    assert sorted(made.upstream.names) == ["a", "b", "b"]
    first.event.set()
    await asyncio.gather(*tasks)


async def test_group_spreads_requests_over_its_members() -> None:
    """A plan that names one member reaches all of them, by the work that is under way."""
    gate = Gate()
    made = bench([deployment(name, group="g") for name in "abc"], {name: [gate] for name in "abc"})
    tasks = await _fill(made, gate, 6)
    assert sorted(made.upstream.names) == ["a", "a", "b", "b", "c", "c"]
    gate.event.set()
    await asyncio.gather(*tasks)
    lanes = list(made.runner.book)
    assert [(lane.load.in_flight, lane.load.prompt_tokens, lane.load.output_tokens) for lane in lanes] == [
        (0, 0, 0)
    ] * 3


async def test_group_member_that_the_client_named_is_not_replaced() -> None:
    """Who names a deployment gets that one."""
    made = bench([deployment(name, group="g") for name in "ab"], {"a": [answer()], "b": [answer()]})
    for _ in range(4):
        await made.runner.run(made.job("b", is_pinned=True))
    assert made.upstream.names == ["b"] * 4


async def test_group_member_that_fails_is_replaced_by_another_without_a_pause() -> None:
    """Another machine with the same model is better than the same one again."""
    made = bench([deployment(name, group="g") for name in "ab"], {"a": [status(500)], "b": [answer()]})
    job = made.job("a")
    served = await made.runner.run(job)
    assert (served.deployment.name, made.clock.pauses) == ("b", [])
    assert [record.kind.value for record in job.records] == ["first", "fallback"]


async def test_group_member_that_cannot_take_the_request_is_left_out() -> None:
    """Members may differ in what they can do: the pipeline is asked."""
    members = [deployment(name, group="g") for name in "ab"]
    made = bench(members, {"a": [broken()], "b": [answer()]}, retries=0)
    job = made.job("a", may_use=lambda other: other.name != "b")
    with pytest.raises(Exception, match="broke"):
        await made.runner.run(job)
    assert made.upstream.names == ["a"]


async def test_group_member_in_cost_mode_spills_to_the_dearer_one_when_full() -> None:
    """The cheapest first; what it has no slot for does not wait while another of the group is free."""
    gate = Gate()
    members = [
        deployment("dear", group="g", price=price("9", "9"), max_parallel_requests=5),
        deployment("cheap", group="g", price=price("1", "1"), max_parallel_requests=2),
    ]
    made = bench(members, {"dear": [gate], "cheap": [gate]}, balance={"mode": "cost"})
    tasks = await _fill(made, gate, 4)
    assert made.upstream.names == ["cheap", "cheap", "dear", "dear"]
    gate.event.set()
    await asyncio.gather(*tasks)


async def test_conversation_with_a_key_stays_with_its_member() -> None:
    """A provider's prompt cache is of use only where the conversation goes on."""
    made = bench([deployment(name, group="g") for name in "abc"], {name: [answer()] for name in "abc"})
    for _ in range(3):
        await made.runner.run(made.job("a"))  # each is known by now
    made.upstream.sent.clear()
    for _ in range(6):
        await made.runner.run(made.job("a", affinity_key=b"one conversation"))
    assert len(set(made.upstream.names)) == 1


async def test_deadline_is_divided_among_tries_and_ends_the_last_one() -> None:
    """Each try gets what is left, never more than its own deadlines."""
    small = deployment("small", total_timeout_seconds=30.0, first_byte_timeout_seconds=3.0)
    made = bench([small, deployment("large")], {"small": [status(500)], "large": [answer()]}, retries=0)
    made.clock.now += 0.0
    job = made.job(deadline_seconds=8.0)
    made.clock.now += 2.0
    await made.runner.run(job)
    sent = [(r.deployment.total_timeout_seconds, r.deployment.first_byte_timeout_seconds) for r in made.upstream.sent]
    assert sent == [(6.0, 3.0), (6.0, 6.0)]


async def test_deadline_that_has_passed_before_the_first_try_is_told() -> None:
    """No provider is asked for what can no longer be delivered."""
    made = bench([deployment("small")], {"small": [answer()]})
    job = made.job(deadline_seconds=1.0)
    made.clock.now += 1.5
    with pytest.raises(UpstreamTimeout) as raised:
        await made.runner.run(job)
    assert (raised.value.code, made.upstream.sent) == ("deadline_exceeded", [])


async def test_deadline_that_an_upstream_ignores_is_kept_all_the_same() -> None:
    """The runner itself ends a try whose time is over; the deployment is not blamed for the client's haste."""
    made = bench([deployment("small")], {"small": [until_cancelled]})
    job = made.job(deadline_seconds=0.001)
    with pytest.raises(UpstreamTimeout) as raised:
        await made.runner.run(job)
    assert (raised.value.code, job.records[0].error_code) == ("deadline_exceeded", "deadline_exceeded")
    assert made.in_flight() == 0
    assert next(iter(made.runner.book)).breaker._consecutive == 0


async def test_time_out_by_the_clients_deadline_is_no_failure_of_the_deployment() -> None:
    """A short deadline of one client must not close a deployment to all."""
    made = bench([deployment("small")], {})

    async def late(_: Any) -> Any:
        made.clock.now += 0.5
        raise UpstreamTimeout("x")

    made.upstream.scripts["small"] = [late]
    for _ in range(10):
        with pytest.raises(UpstreamTimeout) as raised:
            await made.runner.run(made.job(deadline_seconds=0.5))
        assert raised.value.code == "deadline_exceeded"
    assert next(iter(made.runner.book)).breaker.admits(made.clock.now)


async def test_configuration_that_changes_keeps_what_is_known_and_under_way() -> None:
    """A reload forgets neither slots nor breakers, and takes new limits over at once."""
    gate = Gate()
    small = deployment("small", max_parallel_requests=1)
    made = bench([small, deployment("gone")], {"small": [gate], "gone": [gate], "new": [answer()]})
    tasks = await _fill(made, gate, 2, **{})
    gone = asyncio.create_task(made.runner.run(made.job("gone")))
    await _turns()
    settings = AttemptSettings(max_waiting=7)
    wider = deployment("small", max_parallel_requests=3)
    made.runner.adopt([wider, deployment("new")], settings, {"fake": made.upstream})
    await _turns()
    lanes = {lane.name: lane for lane in made.runner.book}
    assert set(lanes) == {"small", "new"}
    assert (lanes["small"].slots.in_flight, lanes["small"].slots.limit) == (2, 3)
    assert made.runner.book.room.max_waiting == 7
    gate.event.set()
    await asyncio.gather(*tasks, gone)
    assert made.in_flight() == 0


async def test_request_whose_deployment_is_closed_while_it_waits_goes_elsewhere() -> None:
    """A slot at a deployment that has failed meanwhile is passed on, not used."""
    gate = Gate()
    small, large = deployment("small", max_parallel_requests=1), deployment("large")
    made = bench([small, large], {"small": [gate], "large": [answer()]})
    tasks = await _fill(made, gate, 2)
    made.runner.book.lane(small).breaker.reject(made.clock.now, is_probe=False)
    gate.event.set()
    served = await asyncio.gather(*tasks)
    assert [each.deployment.name for each in served] == ["small", "large"]
    assert made.in_flight() == 0


async def test_request_whose_plan_names_two_of_a_group_waits_once() -> None:
    """A group is one stop on the way, whoever of it is named."""
    gate = Gate()
    members = [deployment(name, group="g", max_parallel_requests=1) for name in "ab"]
    made = bench(members, {"a": [gate], "b": [gate]}, when_full="fall_back")
    tasks = await _fill(made, gate, 3)
    assert [lane.slots.waiting for lane in made.runner.book] == [1, 1]
    gate.event.set()
    await asyncio.gather(*tasks)
    assert [(lane.slots.in_flight, lane.slots.waiting) for lane in made.runner.book] == [(0, 0), (0, 0)]


async def test_group_member_that_the_plan_names_needs_no_further_leave() -> None:
    """What the pipeline has planned it has checked."""
    made = bench([deployment(name, group="g") for name in "ab"], {"a": [answer()], "b": [answer()]})
    served = await made.runner.run(made.job("b", may_use=lambda other: False))
    assert served.deployment.name == "b"


async def test_group_member_that_turns_requests_away_is_under_pressure_until_it_takes_them() -> None:
    """429s of the tries themselves feed the pressure, and answers relieve it."""
    members = [deployment(name, group="g") for name in "ab"]
    made = bench(members, {"a": [status(429)] * 2 + [answer()], "b": [answer()]})
    lane = made.runner.book.lane(members[0])
    for _ in range(2):
        await made.runner.run(made.job("a", is_pinned=True))
    limited = lane.rate_limited_share(made.clock.now)
    await made.runner.run(made.job("a", is_pinned=True))
    assert 0.0 < lane.rate_limited_share(made.clock.now) < limited
