"""When a Redis that does not answer is left alone.

Owns the states of one circuit breaker. Pure: time is an argument. Read `CircuitBreaker`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    """What becomes of commands."""

    CLOSED = "closed"  # they are sent
    OPEN = "open"  # they fail at once
    HALF_OPEN = "half_open"  # they fail at once; a probe is on the way


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When a breaker opens, and when it is looked whether it may close.

    Attributes
    ----------
    failures : int, at least 1
        In a row, at which it opens.
    failure_share : float, in (0, 1]
        Share of the commands of a window at which it opens too: half of the commands may be lost without two in a row.
    window_seconds : float
        Length of the window; it is judged over the last one to two halves.
    least_commands : int
        In the window, before its share counts.
    first_wait_seconds, longest_wait_seconds : float
        Until the first probe, and what the wait doubles up to; each is shortened by up to a quarter at random, so that
        the replicas of a fleet do not probe in step.
    """

    failures: int = 5
    failure_share: float = 0.5
    window_seconds: float = 10.0
    least_commands: int = 20
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 5.0


DEFAULT_RULES = BreakerRules()


class CircuitBreaker:
    """Opens after failures, closes after a successful probe.

    Parameters
    ----------
    rules : BreakerRules
    jitter : callable
        Returns numbers in [0, 1).

    Notes
    -----
    The first command after a probe is on trial: should it fail, the breaker opens again at once and waits twice as
    long as before. All times are seconds of one monotonic clock. What comes in from commands that were sent before it
    opened changes nothing while it is open.
    """

    def __init__(self, rules: BreakerRules = DEFAULT_RULES, *, jitter: Callable[[], float] = random.random) -> None:
        self._rules = rules
        self._jitter = jitter
        self._state = BreakerState.CLOSED
        self._streak = 0
        self._is_on_trial = False
        self._wait_seconds = rules.first_wait_seconds
        self._probe_at = 0.0
        self._half_began = float("-inf")
        self._earlier = self._current = (0, 0)  # commands and failures of the last half window and of this one

    @property
    def state(self) -> BreakerState:
        """What becomes of commands now."""
        return self._state

    @property
    def is_open(self) -> bool:
        """Whether commands are to fail at once."""
        return self._state is not BreakerState.CLOSED

    @property
    def probe_at(self) -> float:
        """When to send the next probe; meaningful while open."""
        return self._probe_at

    def note_success(self, now: float) -> None:
        """Note that a command was answered."""
        if self.is_open:
            return
        self._streak = 0
        self._count(now, 0)
        if self._is_on_trial:
            self._is_on_trial = False
            self._wait_seconds = self._rules.first_wait_seconds

    def note_failure(self, now: float) -> bool:
        """Note that a command was not answered.

        Returns
        -------
        bool
            Whether that opened the breaker.
        """
        if self.is_open:
            return False
        self._streak += 1
        self._count(now, 1)
        commands, failures = (sum(pair) for pair in zip(self._earlier, self._current, strict=True))
        has_lost_many = commands >= self._rules.least_commands and failures >= self._rules.failure_share * commands
        if not (self._is_on_trial or self._streak >= self._rules.failures or has_lost_many):
            return False
        self._open(now, self._wait_seconds * 2 if self._is_on_trial else self._rules.first_wait_seconds)
        return True

    def begin_probe(self) -> None:
        """Note that a probe is on the way."""
        if self.is_open:
            self._state = BreakerState.HALF_OPEN

    def note_probe(self, *, has_answered: bool, now: float) -> bool:
        """Note how a probe ended.

        Returns
        -------
        bool
            Whether that closed the breaker.
        """
        if not self.is_open:
            return False
        if not has_answered:
            self._open(now, self._wait_seconds * 2)
            return False
        self._state = BreakerState.CLOSED
        self._is_on_trial = True
        self._streak = 0
        self._earlier = self._current = (0, 0)
        return True

    def _open(self, now: float, wait_seconds: float) -> None:
        self._state = BreakerState.OPEN
        self._is_on_trial = False
        self._wait_seconds = min(wait_seconds, self._rules.longest_wait_seconds)
        self._probe_at = now + self._wait_seconds * (1.0 - 0.25 * self._jitter())

    def _count(self, now: float, failures: int) -> None:
        half_seconds = self._rules.window_seconds / 2.0
        if now - self._half_began >= half_seconds:
            is_next = now - self._half_began < 2.0 * half_seconds
            self._earlier = self._current if is_next else (0, 0)
            self._current = (0, 0)
            self._half_began = now
        commands, failed = self._current
        self._current = (commands + 1, failed + failures)
