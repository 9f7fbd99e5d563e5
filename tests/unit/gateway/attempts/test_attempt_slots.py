"""Slots of deployments and the queue before them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from penstock_gateway.attempts.slots import Priority, Slots, WaitingRoom
from penstock_gateway.errors import RateLimited

LONG = 30.0


def _full(limit: int = 1) -> Slots:
    slots = Slots(limit)
    for _ in range(limit):
        slots.take()
    return slots


async def _started(
    room: WaitingRoom,
    places: Sequence[Slots],
    priority: Priority = "normal",
    since: float = 0.0,
    timeout_seconds: float = LONG,
) -> asyncio.Task[Slots]:
    """Start waiting and come back when it waits."""
    task = asyncio.create_task(room.wait(places, priority, since, timeout_seconds, 2.0))
    await asyncio.sleep(0)
    return task


async def test_slots_given_back_go_to_high_before_normal_before_low() -> None:
    """Who matters more is served first, and of equals who came first."""
    room, slots = WaitingRoom(10, 5.0), _full()
    served: list[str] = []
    tasks = []
    for name, priority in [("low", "low"), ("normal", "normal"), ("normal2", "normal"), ("high", "high")]:
        task = await _started(room, [slots], priority)
        task.add_done_callback(lambda _, name=name: served.append(name))
        tasks.append(task)
    for _ in tasks:
        slots.give_back()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert served == ["high", "normal", "normal2", "low"]
    assert (slots.in_flight, slots.waiting, room.waiting) == (1, 0, 0)


async def test_low_priority_that_has_waited_long_goes_before_a_fresh_high_one() -> None:
    """Two classes are worth twice the ageing time of seniority, so nobody starves."""
    room, slots = WaitingRoom(10, 5.0), _full()
    low = await _started(room, [slots], "low", since=0.0)
    high = await _started(room, [slots], "high", since=10.5)
    slots.give_back()
    assert await low is slots
    assert not high.done()
    slots.give_back()
    assert await high is slots


async def test_waiting_room_that_is_full_refuses_at_once_with_advice() -> None:
    """The queue is bounded: what does not fit is turned away and told when to come back."""
    codes: list[str] = []
    room, slots = WaitingRoom(2, 5.0, codes.append), _full()
    waiting = [await _started(room, [slots]) for _ in range(2)]
    with pytest.raises(RateLimited) as raised:
        await room.wait([slots], "high", 0.0, LONG, 4.0)
    assert (raised.value.code, raised.value.headers, codes) == ("queue_full", {"retry-after": "12"}, ["queue_full"])
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert (room.waiting, slots.waiting) == (0, 0)


async def test_request_that_waits_too_long_is_refused_and_leaves_the_queue() -> None:
    """Nobody waits beyond the bound, and no slot is kept for who has gone."""
    room, slots = WaitingRoom(2, 5.0), _full()
    with pytest.raises(RateLimited) as raised:
        await room.wait([slots], "normal", 0.0, 0.0, 0.0)
    assert (raised.value.code, raised.value.headers) == ("queue_timeout", {"retry-after": "1"})
    slots.give_back()
    assert (slots.in_flight, slots.waiting, room.waiting) == (0, 0, 0)


async def test_request_that_waits_for_several_takes_the_first_and_leaves_the_others() -> None:
    """One request takes one slot, wherever it is free first."""
    room, first, second = WaitingRoom(10, 5.0), _full(), _full()
    task = await _started(room, [first, second])
    assert (first.waiting, second.waiting) == (1, 1)
    second.give_back()
    assert await task is second
    assert (first.waiting, second.waiting) == (0, 0)
    first.give_back()
    assert (first.in_flight, second.in_flight) == (0, 1)


async def test_cancelled_request_leaves_the_queue_without_a_slot() -> None:
    """A client that leaves makes room."""
    room, slots = WaitingRoom(10, 5.0), _full()
    gone, stays = await _started(room, [slots]), await _started(room, [slots])
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    slots.give_back()
    assert await stays is slots
    assert slots.in_flight == 1


@pytest.mark.parametrize("gives_first", [True, False])
async def test_slot_handed_to_a_request_that_is_cancelled_meanwhile_goes_on_to_the_next(gives_first: bool) -> None:
    """Handing over and cancelling in the same turn of the loop lose nothing."""
    room, slots = WaitingRoom(10, 5.0), _full()
    gone, stays = await _started(room, [slots]), await _started(room, [slots])
    if gives_first:
        slots.give_back()
        gone.cancel()
    else:
        gone.cancel()
        slots.give_back()
    results = await asyncio.gather(gone, stays, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] is slots
    assert (slots.in_flight, slots.waiting, room.waiting) == (1, 0, 0)


async def test_limit_that_is_lowered_serves_nobody_until_few_enough_are_in_flight() -> None:
    """A reload with a lower limit takes effect as requests end; with a higher one who waits is served at once."""
    room, slots = WaitingRoom(10, 5.0), _full(3)
    task = await _started(room, [slots])
    slots.resize(1)
    slots.give_back()
    slots.give_back()
    await asyncio.sleep(0)
    assert (slots.in_flight, task.done()) == (1, False)
    slots.resize(2)
    assert await task is slots
    assert slots.in_flight == 2


async def test_hold_for_a_cool_down_counts_as_waiting() -> None:
    """Those that wait for a cool-down share the bound."""
    room = WaitingRoom(1, 5.0)
    gate = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await gate.wait()

    held = asyncio.create_task(room.hold(sleep, 3.0, "low", []))
    await asyncio.sleep(0)
    assert room.counts == {"high": 0, "normal": 0, "low": 1}
    with pytest.raises(RateLimited):
        await room.hold(sleep, 3.0, "high", [])
    gate.set()
    await held
    assert room.waiting == 0
