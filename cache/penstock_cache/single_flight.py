"""One call to a model for many identical requests at once.

Owns who of several equal requests asks the model (the leader) and who waits for it (the followers). Knows nothing of
keys, answers or stores. For one event loop, without locks: nothing here waits between reading and writing state. Read
`SingleFlight.seat` first.

::

    with flights.seat(fingerprint) as seat:
        shared = await seat.wait(seconds)  # what the leader got; None at once for the leader itself
        if shared is None:  # this one leads, or goes on by itself
            ...
            seat.deliver(document)  # or seat.decline(); both do nothing for one on its own
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Generic, TypeVar

T = TypeVar("T")

MAX_FOLLOWERS: Final = 1_000
"""Most requests that wait for one leader. Each holds a connection open; further ones go on by themselves."""


class SingleFlight(Generic[T]):
    """Seats equal requests behind one of them.

    Parameters
    ----------
    max_followers : int
        Most followers of one leader.

    Notes
    -----
    A flight lives as long as it has a leader, and a leader's seat is given back when its ``with`` ends, so nothing is
    left behind however a request ends.
    """

    def __init__(self, max_followers: int = MAX_FOLLOWERS) -> None:
        self._max_followers = max_followers
        self._flights: dict[bytes, _Flight[T]] = {}

    def __len__(self) -> int:
        """Return the number of flights under way."""
        return len(self._flights)

    def seat(self, fingerprint: bytes) -> Seat[T]:
        """Take part in the flight of `fingerprint`; the first to come leads it.

        Parameters
        ----------
        fingerprint : bytes
            Equal for requests that may share one answer: it has to carry tenant and scope.

        Returns
        -------
        Seat
            To be used in a ``with`` statement, at once.
        """
        flight = self._flights.get(fingerprint)
        seat: Seat[T] = Seat(self, fingerprint)
        if flight is None:
            self._flights[fingerprint] = _Flight(seat)
        elif len(flight.followers) < self._max_followers:
            flight.followers[seat] = None
        return seat

    def _is_leader(self, seat: Seat[T]) -> bool:
        flight = self._flights.get(seat.fingerprint)
        return flight is not None and flight.leader is seat

    def _is_follower(self, seat: Seat[T]) -> bool:
        flight = self._flights.get(seat.fingerprint)
        return flight is not None and seat in flight.followers

    def _land(self, leader: Seat[T], answer: T | None) -> None:
        """End the leader's flight; every follower wakes up with `answer`."""
        for follower in self._flights.pop(leader.fingerprint).followers:
            follower._wake(answer)

    def _leave(self, seat: Seat[T]) -> None:
        flight = self._flights.get(seat.fingerprint)
        if flight is None:
            return
        flight.followers.pop(seat, None)
        if flight.leader is not seat:
            return
        if not flight.followers:
            del self._flights[seat.fingerprint]
            return
        flight.leader = next(iter(flight.followers))  # who has waited longest
        del flight.followers[flight.leader]
        flight.leader._wake(None)


class _Flight(Generic[T]):
    __slots__ = ("__weakref__", "followers", "leader")

    def __init__(self, leader: Seat[T]) -> None:
        self.leader = leader
        self.followers: dict[Seat[T], None] = {}  # in order of arrival


class Seat(Generic[T]):
    """One request's place in a flight; made by `SingleFlight.seat`.

    Parameters
    ----------
    flights : SingleFlight
    fingerprint : bytes

    Notes
    -----
    Leaving the ``with`` without having delivered or declined (a cancelled client, an unexpected error) makes the
    follower that has waited longest the leader, while the others keep waiting: 100 requests whose first client hangs up
    still cost one call. A leader that knows its answer is of no use to others (an upstream error, tool calls, a
    refusal) declines, which releases all of them at once.
    """

    __slots__ = ("_answer", "_flights", "_woken", "fingerprint")

    def __init__(self, flights: SingleFlight[T], fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self._flights = flights
        self._answer: T | None = None  # kept here, for a follower that has not come to wait yet
        self._woken: asyncio.Future[None] | None = None

    def __enter__(self) -> Seat[T]:
        """Return the seat itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the seat back; see `leave`."""
        self.leave()

    def leave(self) -> None:
        """Give the seat back; a leader that has not landed hands the lead on. For those who cannot use ``with``."""
        self._flights._leave(self)

    @property
    def is_leader(self) -> bool:
        """Whether others wait, or may come to wait, for this request's answer."""
        return self._flights._is_leader(self)

    async def wait(self, seconds: float) -> T | None:
        """Wait for the leader's answer.

        Parameters
        ----------
        seconds : float, >= 0
            Longest wait.

        Returns
        -------
        T or None
            None: ask the model. The wait is over, the leader declined, or it left and this request now leads
            (`is_leader` tells). A leader, and a request that found the flight full, get None at once.
        """
        if not self._flights._is_follower(self):
            return self._answer
        self._woken = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait((self._woken,), timeout=seconds)
            return self._answer
        finally:
            self._woken = None
            if not self.is_leader:
                self._flights._leave(self)

    def deliver(self, answer: T) -> None:
        """Give every follower the answer and end the flight; without effect for any but the leader."""
        if self.is_leader:
            self._flights._land(self, answer)

    def decline(self) -> None:
        """Let every follower go on by itself and end the flight; without effect for any but the leader."""
        if self.is_leader:
            self._flights._land(self, None)

    def _wake(self, answer: T | None) -> None:
        self._answer = answer
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
