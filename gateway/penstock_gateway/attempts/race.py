"""Two tries of one request side by side, and the tries that nobody waits for any more.

Owns the tasks of hedged tries until they are over. It decides nothing. Read `Race.winner`, then `Leftovers.drop`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

from penstock_gateway.attempts.attempt import Attempt
from penstock_gateway.attempts.failures import Failure
from penstock_gateway.attempts.reply import AttemptReply

_log = logging.getLogger("penstock.attempts")

Outcome = AttemptReply | Failure


class Leftovers:
    """Tries that were given up, until they have let go of their connections."""

    def __init__(self) -> None:
        self._closing: set[asyncio.Task[None]] = set()

    def drop(self, task: asyncio.Task[Outcome], attempt: Attempt, error_code: str) -> None:
        """Give a try up: its slot is free at once, its connection is closed as soon as the loop comes to it."""
        attempt.abandon(error_code)
        task.cancel()
        closing = asyncio.get_running_loop().create_task(self._close(task))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Wait for all of them."""
        if self._closing:
            await asyncio.wait(set(self._closing))

    async def _close(self, task: asyncio.Task[Outcome]) -> None:
        await asyncio.wait({task})
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            _log.error("dropped_attempt_failed", exc_info=error)
        elif isinstance(reply := task.result(), AttemptReply):
            await reply.aclose()


class Race:
    """The tries of one request that run at the same time.

    Parameters
    ----------
    leftovers : Leftovers
        Takes the losers.
    """

    def __init__(self, leftovers: Leftovers) -> None:
        self._leftovers = leftovers
        self._racers: dict[asyncio.Task[Outcome], Attempt] = {}

    def enter(self, attempt: Attempt, sending: Coroutine[object, object, Outcome]) -> None:
        """Start a try."""
        self._racers[asyncio.create_task(sending)] = attempt

    async def is_late(self, seconds: float) -> bool:
        """Wait so long for the end of any; whether none has ended or had its first byte by then."""
        done, _ = await asyncio.wait(self._racers, timeout=seconds)
        return not done and all(attempt.record.first_byte_ms is None for attempt in self._racers.values())

    async def winner(self) -> AttemptReply | None:
        """Return the first answer, and give the others up; None when all have failed."""
        pending = set(self._racers)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in [racer for racer in self._racers if racer in done]:  # of two at once, the one begun first
                if isinstance(reply := task.result(), AttemptReply):
                    del self._racers[task]
                    self.drop("hedge_lost")
                    return reply
        return None

    def failures(self) -> list[tuple[Attempt, Failure]]:
        """Return what the tries failed with, in the order in which they began; empty after a win."""
        outcomes = [(attempt, task.result()) for task, attempt in self._racers.items()]
        return [(attempt, outcome) for attempt, outcome in outcomes if isinstance(outcome, Failure)]

    def drop(self, error_code: str) -> None:
        """Give up all that are left."""
        while self._racers:
            self._leftovers.drop(*self._racers.popitem(), error_code)
