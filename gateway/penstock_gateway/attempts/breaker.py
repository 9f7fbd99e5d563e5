"""When one deployment is left alone: its circuit breaker and its cool-downs.

Owns the state of one deployment's health in this process. Two things close it to requests. A *cool-down* is asked for
by the provider (429): it ends by itself, and then everything may pass again. An *open breaker* follows from failures
(time-outs count): when its time is over one probe is let through, whose success closes it. No clock: `now` is an
argument. Read `Breaker.admits`.

The states are those of M. Nygard, "Release It!", chapter "Stability Patterns".
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from penstock_gateway.settings_attempts import BreakerSettings

_BUCKETS = 10
_MAX_DOUBLINGS = 20


class BreakerState(StrEnum):
    """What the breaker does with requests."""

    CLOSED = "closed"  # all pass
    OPEN = "open"  # none passes
    HALF_OPEN = "half_open"  # one passes, as a probe


class Breaker:
    """The health of one deployment.

    Parameters
    ----------
    settings : BreakerSettings
    on_change : callable, optional
        Called with each new state.

    Attributes
    ----------
    state : BreakerState
    settings : BreakerSettings
        May be replaced at any time.
    """

    __slots__ = (
        "_consecutive",
        "_cool_until",
        "_cools",
        "_is_probed",
        "_on_change",
        "_open_until",
        "_opened",
        "_window",
        "settings",
        "state",
    )

    def __init__(
        self, settings: BreakerSettings, on_change: Callable[[BreakerState], None] = lambda state: None
    ) -> None:
        self.settings = settings
        self.state = BreakerState.CLOSED
        self._on_change = on_change
        self._window = _Window()
        self._consecutive = 0
        self._open_until = 0.0
        self._opened = 0  # times in a row, without a success between
        self._is_probed = False
        self._cool_until = 0.0
        self._cools = 0

    def admits(self, now: float) -> bool:
        """Whether a request may go there now; `begin` must follow if it does."""
        if now < self._cool_until:
            return False
        if self.state is BreakerState.CLOSED:
            return True
        return not self._is_probed and now >= self._open_until

    @property
    def may_be_probed(self) -> bool:
        """Whether it is open and no probe is under way: where nothing else can answer, one may go before its time."""
        return self.state is not BreakerState.CLOSED and not self._is_probed

    def cooling_seconds(self, now: float) -> float:
        """Return how long the cool-down still lasts; 0 without one."""
        return max(0.0, self._cool_until - now)

    def closed_seconds(self, now: float) -> float:
        """Return how long no request will pass, unless a probe succeeds before; 0 when one may."""
        waits = self.cooling_seconds(now)
        if self.state is BreakerState.CLOSED:
            return waits
        return max(waits, self._open_until - now, 1.0 if self._is_probed else 0.0)

    def begin(self) -> bool:
        """Note a request that goes there; whether it is the probe, which must end in `answer`, `fail` or `abandon`."""
        if self.state is BreakerState.CLOSED:
            return False
        self._is_probed = True
        self._change(BreakerState.HALF_OPEN)
        return True

    def answer(self, *, is_probe: bool) -> None:
        """Note a first byte: a probe has succeeded by then, a stream may go on for minutes."""
        if is_probe and self.state is BreakerState.HALF_OPEN:
            self._close()

    def succeed(self, now: float) -> None:
        """Note an answer that has ended well."""
        self._consecutive = 0
        self._cools = 0
        self._window.add(now, self.settings.window_seconds, is_failure=False)

    def fail(self, now: float, *, is_probe: bool) -> None:
        """Note a failure of the deployment; it may open the breaker."""
        if is_probe and self.state is not BreakerState.CLOSED:
            self._open(now, self.settings.open_seconds)
            return
        if self.state is not BreakerState.CLOSED:
            return  # begun before it opened: says nothing new
        self._consecutive += 1
        self._window.add(now, self.settings.window_seconds, is_failure=True)
        failures, attempts = self._window.counts(now, self.settings.window_seconds)
        is_frequent = attempts >= self.settings.min_attempts and failures >= self.settings.failure_share * attempts
        if is_frequent or self._consecutive >= self.settings.consecutive_failures:
            self._open(now, self.settings.open_seconds)

    def reject(self, now: float, *, is_probe: bool) -> None:
        """Note that our credential is refused, or the account has no credit: that does not pass by itself."""
        if is_probe or self.state is BreakerState.CLOSED:
            self._open(now, self.settings.rejected_key_seconds)

    def cool(self, now: float, asked_seconds: float | None, *, began: float, is_probe: bool) -> None:
        """Note a 429.

        Parameters
        ----------
        now : float
        asked_seconds : float or None
            What the provider asks for.
        began : float
            When the request was sent: those under way together raise the cool-down once.
        is_probe : bool
            A probe that is turned away this way has found the deployment alive.
        """
        self.answer(is_probe=is_probe)
        if asked_seconds is None:
            if began >= self._cool_until:
                self._cools = min(self._cools + 1, _MAX_DOUBLINGS)
            asked_seconds = self.settings.rate_limited_seconds * 2.0 ** (max(self._cools, 1) - 1)
            if began < self._cool_until:
                return
        self._cool_until = max(self._cool_until, now + min(asked_seconds, self.settings.max_cool_seconds))

    def abandon(self, *, is_probe: bool) -> None:
        """Note a request of which nothing was learnt; another may be the probe."""
        if is_probe and self.state is BreakerState.HALF_OPEN:
            self._is_probed = False

    def _open(self, now: float, seconds: float) -> None:
        self._is_probed = False
        seconds = min(seconds * 2.0**self._opened, max(seconds, self.settings.max_open_seconds))
        self._opened = min(self._opened + 1, _MAX_DOUBLINGS)
        self._open_until = now + seconds
        self._change(BreakerState.OPEN)

    def _close(self) -> None:
        self._is_probed = False
        self._consecutive = 0
        self._opened = 0
        self._window.clear()
        self._change(BreakerState.CLOSED)

    def _change(self, state: BreakerState) -> None:
        if state is not self.state:
            self.state = state
            self._on_change(state)


class _Window:
    """Attempts and failures of the last seconds, in `_BUCKETS` buckets."""

    __slots__ = ("_attempts", "_failures", "_last")

    def __init__(self) -> None:
        self._attempts = [0] * _BUCKETS
        self._failures = [0] * _BUCKETS
        self._last = 0

    def add(self, now: float, seconds: float, *, is_failure: bool) -> None:
        index = self._turn(now, seconds)
        self._attempts[index] += 1
        if is_failure:
            self._failures[index] += 1

    def counts(self, now: float, seconds: float) -> tuple[int, int]:
        self._turn(now, seconds)
        return sum(self._failures), sum(self._attempts)

    def clear(self) -> None:
        self._attempts = [0] * _BUCKETS
        self._failures = [0] * _BUCKETS

    def _turn(self, now: float, seconds: float) -> int:
        """Empty the buckets that have become too old; return the current one's index."""
        number = int(now * _BUCKETS / seconds)
        passed = number - self._last
        if passed:
            self._last = number
            if passed < 0 or passed >= _BUCKETS:  # also when the window's length was changed
                self.clear()
            else:
                for old in range(number - passed + 1, number + 1):
                    self._attempts[old % _BUCKETS] = self._failures[old % _BUCKETS] = 0
        return number % _BUCKETS
