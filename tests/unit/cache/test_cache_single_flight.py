"""Single flight: one call for equal requests, however its leader ends."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest

from penstock_cache.single_flight import SingleFlight

LONG = 60.0  # seconds; no test waits that long, it only stands for a bound that is not reached


class Model:
    """Counts its calls and answers when told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.may_answer = asyncio.Event()

    async def ask(self) -> str:
        self.calls += 1
        call = self.calls
        await self.may_answer.wait()
        return f"answer {call}"


async def _request(flights: SingleFlight[str], model: Model, *, name: bytes = b"f", seconds: float = LONG) -> str:
    with flights.seat(name) as seat:
        shared = await seat.wait(seconds)
        if shared is None:
            shared = await model.ask()
            seat.deliver(shared)
        return shared


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def _start(flights: SingleFlight[str], model: Model, count: int) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(_request(flights, model)) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_hundred_equal_requests_at_once_cost_one_call() -> None:
    """The first asks, the other 99 get its answer, and nothing is left behind."""
    flights, model = SingleFlight[str](), Model()
    tasks = await _start(flights, model, 100)
    assert (model.calls, len(flights)) == (1, 1)
    model.may_answer.set()
    assert await asyncio.gather(*tasks) == ["answer 1"] * 100
    assert (model.calls, len(flights)) == (1, 0)


async def test_different_requests_never_wait_for_each_other() -> None:
    """Each fingerprint has a flight of its own."""
    flights, model = SingleFlight[str](), Model()
    model.may_answer.set()
    answers = await asyncio.gather(*(_request(flights, model, name=bytes([number])) for number in range(50)))
    assert len(set(answers)) == model.calls == 50
    assert len(flights) == 0


async def test_request_after_the_answer_starts_a_new_flight() -> None:
    """A flight shares among those at once; what comes later is the cache's business."""
    flights, model = SingleFlight[str](), Model()
    model.may_answer.set()
    assert [await _request(flights, model) for _ in range(2)] == ["answer 1", "answer 2"]


async def test_leader_that_is_cancelled_hands_the_lead_to_the_next() -> None:
    """However many leaders hang up one after another, there is one call at a time and the last one serves all."""
    flights, model = SingleFlight[str](), Model()
    tasks = await _start(flights, model, 100)
    for gone in range(10):
        tasks[gone].cancel()
        await _until(lambda gone=gone: model.calls == gone + 2)  # type: ignore[misc]
        assert len(flights) == 1
    model.may_answer.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[:10])
    assert results[10:] == ["answer 11"] * 90
    assert len(flights) == 0


async def test_leader_that_fails_hands_the_lead_on_with_its_own_error() -> None:
    """An unexpected error stays with the request that had it."""
    flights, model = SingleFlight[str](), Model()

    async def failing() -> None:
        with flights.seat(b"f") as seat:
            assert seat.is_leader
            await asyncio.sleep(0)
            raise ValueError("upstream")

    failure = asyncio.create_task(failing())
    await asyncio.sleep(0)
    tasks = await _start(flights, model, 5)
    model.may_answer.set()
    assert await asyncio.gather(*tasks) == ["answer 1"] * 5
    with pytest.raises(ValueError, match="upstream"):
        await failure
    assert len(flights) == 0


async def test_leader_that_declines_releases_every_follower_at_once() -> None:
    """An answer that may not be shared sends the others to the model, each by itself."""
    flights, model = SingleFlight[str](), Model()
    leader = flights.seat(b"f")
    tasks = await _start(flights, model, 20)
    assert model.calls == 0
    leader.decline()
    await _until(lambda: model.calls == 20)
    model.may_answer.set()
    assert len(set(await asyncio.gather(*tasks))) == 20
    assert len(flights) == 0


async def test_follower_whose_wait_is_over_goes_on_by_itself() -> None:
    """A bounded wait ends without the leader, and the leader's flight goes on for others."""
    flights, model = SingleFlight[str](), Model()
    leader = flights.seat(b"f")
    impatient = asyncio.create_task(_request(flights, model, seconds=0))
    patient = asyncio.create_task(_request(flights, model))
    await _until(lambda: model.calls == 1)
    model.may_answer.set()
    assert await impatient == "answer 1"
    assert leader.is_leader
    leader.deliver("shared")
    assert await patient == "shared"
    assert (model.calls, len(flights)) == (1, 0)


async def test_follower_whose_wait_is_over_is_never_promoted() -> None:
    """Whoever went on by itself has left the flight: the lead goes to one that still waits."""
    flights, model = SingleFlight[str](), Model()
    leader = flights.seat(b"f")
    impatient = asyncio.create_task(_request(flights, model, seconds=0))
    await _until(lambda: model.calls == 1)
    patient = asyncio.create_task(_request(flights, model))
    await asyncio.sleep(0)
    leader.leave()
    await _until(lambda: model.calls == 2)
    model.may_answer.set()
    assert await asyncio.gather(impatient, patient) == ["answer 1", "answer 2"]
    assert len(flights) == 0


async def test_followers_that_are_cancelled_leave_the_flight_as_it_is() -> None:
    """Clients that hang up while waiting cost nothing and lose nobody's answer."""
    flights, model = SingleFlight[str](), Model()
    tasks = await _start(flights, model, 100)
    for task in tasks[1:99]:
        task.cancel()
    await asyncio.gather(*tasks[1:99], return_exceptions=True)
    model.may_answer.set()
    assert await asyncio.gather(tasks[0], tasks[99]) == ["answer 1"] * 2
    assert len(flights) == 0


async def test_everybody_cancelled_leaves_no_flight() -> None:
    """When leader and followers all hang up in one tick, the lead is handed on to nobody."""
    flights, model = SingleFlight[str](), Model()
    tasks = await _start(flights, model, 100)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert len(flights) == 0


async def test_follower_promoted_and_cancelled_in_one_tick_hands_the_lead_on() -> None:
    """A promotion that arrives together with a cancellation is not lost."""
    flights, model = SingleFlight[str](), Model()
    leader = flights.seat(b"f")
    tasks = await _start(flights, model, 3)
    leader.leave()
    tasks[0].cancel()
    model.may_answer.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == ["answer 1"] * 2
    assert len(flights) == 0


async def test_answer_before_a_follower_comes_to_wait_is_kept_for_it() -> None:
    """What is delivered between taking the seat and waiting is not lost."""
    flights = SingleFlight[str]()
    leader, follower = flights.seat(b"f"), flights.seat(b"f")
    leader.deliver("early")
    assert await follower.wait(LONG) == "early"
    assert not follower.is_leader


async def test_promotion_before_a_follower_comes_to_wait_is_kept_for_it() -> None:
    """A follower that became leader before it waited does not wait for itself."""
    flights = SingleFlight[str]()
    leader, follower = flights.seat(b"f"), flights.seat(b"f")
    leader.leave()
    assert follower.is_leader
    assert await follower.wait(LONG) is None


async def test_follower_beyond_the_limit_goes_on_by_itself() -> None:
    """A full flight takes no more; whoever finds it full neither waits nor disturbs it."""
    flights = SingleFlight[str](max_followers=1)
    leader, follower, late = (flights.seat(b"f") for _ in range(3))
    assert await late.wait(LONG) is None
    late.deliver("not for others")
    late.leave()
    assert not late.is_leader
    leader.deliver("shared")
    assert await follower.wait(LONG) == "shared"
    assert len(flights) == 0


async def test_follower_and_former_leader_cannot_end_a_flight() -> None:
    """Delivering or declining is the leader's alone, and once."""
    flights = SingleFlight[str]()
    first, follower = flights.seat(b"f"), flights.seat(b"f")
    follower.deliver("mine")
    follower.decline()
    assert first.is_leader
    first.deliver("one")
    second = flights.seat(b"f")
    first.deliver("two")
    first.decline()
    first.leave()
    assert second.is_leader
    assert await follower.wait(LONG) == "one"


async def test_seats_of_an_ended_flight_are_not_kept_alive() -> None:
    """Nothing of a request stays in memory when its flight is over."""
    flights, model = SingleFlight[str](), Model()
    tasks = await _start(flights, model, 10)
    watched = weakref.ref(flights._flights[b"f"])
    model.may_answer.set()
    await asyncio.gather(*tasks)
    gc.collect()
    assert watched() is None
