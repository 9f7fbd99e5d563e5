"""When a store that does not answer is left alone.

Owns the states of one circuit breaker. Pure: time is an argument. Read `Breaker`.
"""

from __future__ import annotations


class Breaker:
    """Opens after failures in a row, and closes again when a probe and then a real call have succeeded.

    Parameters
    ----------
    failures : int
        In a row, before it opens.
    first_wait_seconds, longest_wait_seconds : float
        Until the first probe, and what the wait doubles up to while the store stays away.

    Notes
    -----
    The probe is not one of the callers' own calls: while the breaker is open nobody waits for the store. After
    a good probe calls pass again on trial: one failure opens it at once, with twice the wait, one success closes it.
    All times are seconds of one monotonic clock.
    """

    def __init__(
        self, *, failures: int = 3, first_wait_seconds: float = 1.0, longest_wait_seconds: float = 10.0
    ) -> None:
        self._allowed_failures = failures
        self._first_wait_seconds = first_wait_seconds
        self._longest_wait_seconds = longest_wait_seconds
        self._failures = 0
        self._wait_seconds = first_wait_seconds
        self._probe_at: float | None = None
        self._is_on_trial = False
        self._is_probing = False

    @property
    def is_open(self) -> bool:
        """Whether calls are to fail at once."""
        return self._probe_at is not None

    def take_probe(self, now: float) -> bool:
        """Whether the caller is to start a probe now; then nobody else is asked to until it is noted."""
        if self._probe_at is None or self._is_probing or now < self._probe_at:
            return False
        self._is_probing = True
        return True

    def note_probe(self, *, has_answered: bool, now: float) -> None:
        """Note how the probe ended."""
        self._is_probing = False
        if has_answered:
            self._probe_at, self._is_on_trial = None, True
        else:
            self._open(now, self._wait_seconds * 2)

    def note_success(self) -> None:
        """Note that a call was answered; a late answer to a call from before it opened changes nothing."""
        if not self.is_open:
            self._failures, self._wait_seconds, self._is_on_trial = 0, self._first_wait_seconds, False

    def note_failure(self, now: float) -> None:
        """Note that a call was not answered."""
        if self.is_open:
            return
        self._failures += 1
        if self._is_on_trial:
            self._open(now, self._wait_seconds * 2)
        elif self._failures >= self._allowed_failures:
            self._open(now, self._first_wait_seconds)

    def _open(self, now: float, wait_seconds: float) -> None:
        self._failures, self._is_on_trial = 0, False
        self._wait_seconds = min(wait_seconds, self._longest_wait_seconds)
        self._probe_at = now + self._wait_seconds
