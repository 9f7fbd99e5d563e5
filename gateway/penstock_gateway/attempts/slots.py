"""Who may call a deployment now and who waits: slots of each deployment, and one bounded queue before all of them.

Owns the counts of requests in flight and the order of those that wait. A request may wait for several deployments at
once and takes the first slot that is given back. Nothing is polled: a slot that is given back is handed over in the
same moment. Read `WaitingRoom.wait`, then `Slots.give_back`.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from penstock_gateway.errors import RateLimited

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")

_RANKS = {priority: rank for rank, priority in enumerate(PRIORITIES)}
_LONGEST_ADVICE_SECONDS = 60


class Slots:
    """The requests in flight at one deployment.

    Parameters
    ----------
    limit : int or None, at least 1
        Most of them; None for no limit.

    Attributes
    ----------
    in_flight : int
    limit : int or None
        Changed by `resize`.

    Notes
    -----
    Whoever waits does so because all slots are taken: ``waiting > 0`` implies ``in_flight >= limit``.
    """

    __slots__ = ("_waiters", "in_flight", "limit")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.in_flight = 0
        self._waiters: list[_Waiter] = []

    @property
    def has_free(self) -> bool:
        """Whether one may be taken at once."""
        return self.limit is None or self.in_flight < self.limit

    @property
    def waiting(self) -> int:
        """How many requests wait for one."""
        return len(self._waiters)

    def take(self) -> None:
        """Take one that is free; it must be given back."""
        self.in_flight += 1

    def give_back(self) -> None:
        """Give one back: to the first of those who wait, if anybody does."""
        if self._waiters and (self.limit is None or self.in_flight <= self.limit):
            self._waiters[0].be_given(self)
        else:
            self.in_flight -= 1

    def resize(self, limit: int | None) -> None:
        """Change the limit; with a lower one, those in flight go on and nobody follows until they are few enough."""
        self.limit = limit
        while self._waiters and self.has_free:
            self.in_flight += 1
            self._waiters[0].be_given(self)

    def _enter(self, waiter: _Waiter) -> None:
        insort(self._waiters, waiter)

    def _leave(self, waiter: _Waiter) -> None:
        index = bisect_left(self._waiters, waiter)
        if index < len(self._waiters) and self._waiters[index] is waiter:
            del self._waiters[index]


class WaitingRoom:
    """All requests that wait for a slot, whichever it is.

    Parameters
    ----------
    max_waiting : int, at least 0
        Most at once, over all deployments and priorities.
    ageing_seconds : float, above 0
        Seniority that a class of priority is worth.
    on_refusal : callable, optional
        Called with ``queue_full`` or ``queue_timeout``.

    Attributes
    ----------
    max_waiting : int
    ageing_seconds : float
        Both may be changed at any time; who waits already keeps its place.
    counts : dict of str to int
        Requests that wait, by priority.

    Notes
    -----
    The order is by ``since + rank · ageing_seconds`` (rank 0, 1, 2 of high, normal, low), which does not change while a
    request waits: a low one that came ``2 · ageing_seconds`` before a high one goes first, so nobody starves. Entering
    and leaving take a binary search and a move of at most `max_waiting` pointers.
    """

    def __init__(
        self, max_waiting: int, ageing_seconds: float, on_refusal: Callable[[str], None] = lambda code: None
    ) -> None:
        self.max_waiting = max_waiting
        self.ageing_seconds = ageing_seconds
        self.counts: dict[str, int] = dict.fromkeys(PRIORITIES, 0)
        self._on_refusal = on_refusal
        self._entered = 0

    @property
    def waiting(self) -> int:
        """How many wait in all."""
        return sum(self.counts.values())

    async def wait(
        self, places: Sequence[Slots], priority: Priority, since: float, timeout_seconds: float, service_seconds: float
    ) -> Slots:
        """Wait for a slot of any of some deployments, which is then taken.

        Parameters
        ----------
        places : sequence of Slots
            With none free.
        priority : str
        since : float
            When the request began, on the caller's clock: its seniority.
        timeout_seconds : float
        service_seconds : float, at least 0
            How long one holds a slot; for the advice when to come back.

        Returns
        -------
        Slots
            To be given back.

        Raises
        ------
        RateLimited
            Code ``queue_full`` or ``queue_timeout``, with ``Retry-After``.
        """
        self._admit(places, service_seconds)
        self._entered += 1
        key = since + _RANKS[priority] * self.ageing_seconds
        waiter = _Waiter(key, self._entered, tuple(places), asyncio.get_running_loop().create_future())
        waiter.enter()
        self.counts[priority] += 1
        try:
            async with asyncio.timeout(max(0.0, timeout_seconds)):
                return await waiter.granted
        except TimeoutError:
            if waiter.place is not None:  # handed over in the same turn of the loop
                return waiter.place
            raise self._refusal("queue_timeout", places, service_seconds) from None
        except BaseException:
            if waiter.place is not None:
                waiter.place.give_back()
            raise
        finally:
            waiter.leave()
            self.counts[priority] -= 1

    async def hold(
        self, sleep: Callable[[float], Awaitable[object]], seconds: float, priority: Priority, places: Sequence[Slots]
    ) -> None:
        """Wait for a cool-down to end, as one of those who wait.

        Parameters
        ----------
        sleep : callable
            Given seconds.
        seconds : float
        priority : str
        places : sequence of Slots

        Raises
        ------
        RateLimited
            Code ``queue_full``.
        """
        self._admit(places, seconds)
        self.counts[priority] += 1
        try:
            await sleep(seconds)
        finally:
            self.counts[priority] -= 1

    def _admit(self, places: Sequence[Slots], service_seconds: float) -> None:
        if self.waiting >= self.max_waiting:
            raise self._refusal("queue_full", places, service_seconds)

    def _refusal(self, code: str, places: Sequence[Slots], service_seconds: float) -> RateLimited:
        self._on_refusal(code)
        slots = sum(place.limit or 1 for place in places) or 1
        ahead = max((place.waiting for place in places), default=0) + 1
        advice = min(max(1, round(service_seconds * ahead / slots)), _LONGEST_ADVICE_SECONDS)
        message = "Too many requests wait for this model; try again later."
        if code == "queue_timeout":
            message = "No place became free for this request in time; try again later."
        return RateLimited(message, code=code, headers={"retry-after": str(advice)})


class _Waiter:
    """One request that waits."""

    __slots__ = ("_key", "_places", "granted", "place")

    def __init__(self, key: float, number: int, places: tuple[Slots, ...], granted: asyncio.Future[Slots]) -> None:
        self._key = (key, number)
        self._places = places
        self.granted = granted
        self.place: Slots | None = None

    def __lt__(self, other: _Waiter) -> bool:
        return self._key < other._key

    def enter(self) -> None:
        for place in self._places:
            place._enter(self)

    def leave(self) -> None:
        for place in self._places:
            place._leave(self)

    def be_given(self, place: Slots) -> None:
        """Take over a slot, whose count stays as it is."""
        self.leave()
        self.place = place
        if not self.granted.done():
            self.granted.set_result(place)
