"""The live state of one deployment in this process: its slots, its breaker, its load, its recent first bytes.

Owns nothing but the parts' belonging together. Read `Lane`.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable

from penstock_gateway.attempts.breaker import Breaker, BreakerState
from penstock_gateway.attempts.load import GroupPace, LaneLoad
from penstock_gateway.attempts.slots import Slots
from penstock_gateway.deployments import Deployment
from penstock_gateway.settings_attempts import BreakerSettings

_log = logging.getLogger("penstock.attempts")

_HALF_LIFE_SECONDS = 10.0  # of the share of 429s
_REMEMBERED_FIRST_BYTES = 200
_NEEDED_FIRST_BYTES = 20


class Lane:
    """One deployment as this process sees it; outlives the configuration that it came from.

    Parameters
    ----------
    deployment : Deployment
    settings : BreakerSettings
    pace : GroupPace
        Its group's, or its own.
    on_state : callable, optional
        Called with the deployment's name and each new state of its breaker.

    Attributes
    ----------
    deployment : Deployment
        Replaced when the configuration is reloaded.
    name : str
    slots : Slots
    breaker : Breaker
    load : LaneLoad
        Fed only while `is_balanced`.
    is_balanced : bool
        Whether it is one of several in a group.
    first_bytes : FirstByteTimes
        Fed only while requests may be hedged.
    service_seconds : float
        Mean time that a request holds a slot.
    """

    __slots__ = (
        "_has_opened",
        "_input_usd",
        "_limited",
        "_limited_at",
        "_on_state",
        "_output_usd",
        "breaker",
        "deployment",
        "first_bytes",
        "is_balanced",
        "load",
        "name",
        "service_seconds",
        "slots",
    )

    def __init__(
        self,
        deployment: Deployment,
        settings: BreakerSettings,
        pace: GroupPace,
        on_state: Callable[[str, BreakerState], None] = lambda name, state: None,
    ) -> None:
        self.name = deployment.name
        self.slots = Slots()
        self.breaker = Breaker(settings, self._note_state)
        self.load = LaneLoad(pace)
        self.is_balanced = False
        self.first_bytes = FirstByteTimes()
        self.service_seconds = 0.0
        self._on_state = on_state
        self._limited = 0.0
        self._limited_at = 0.0
        self._has_opened = False
        self.use(deployment)

    def __repr__(self) -> str:
        """Return its name."""
        return f"Lane({self.name!r})"

    def use(self, deployment: Deployment) -> None:
        """Follow a changed configuration; what is known and who is under way stays."""
        self.deployment = deployment
        self._input_usd = float(deployment.price.input) / 1e6
        self._output_usd = float(deployment.price.output) / 1e6
        if deployment.max_parallel_requests != self.slots.limit:
            self.slots.resize(deployment.max_parallel_requests)

    def price_usd(self, input_tokens: float, output_tokens: float) -> float:
        """Return what a request would cost, roughly: only for choosing, nothing is charged by it."""
        return self._input_usd * input_tokens + self._output_usd * output_tokens

    def rate_limited_share(self, now: float) -> float:
        """Return the share of recent requests that were turned away with 429, without weight for old ones."""
        return self._limited * math.exp2(-max(0.0, now - self._limited_at) / _HALF_LIFE_SECONDS)

    def note_rate_limited(self, is_limited: bool, now: float) -> None:
        """Feed that share: each request counts for a twentieth."""
        share = self.rate_limited_share(now)
        self._limited = share + 0.05 * (float(is_limited) - share)
        self._limited_at = now

    def note_service(self, seconds: float) -> None:
        """Feed the mean time that a slot is held."""
        if self.service_seconds == 0.0:
            self.service_seconds = seconds
        else:
            self.service_seconds += 0.05 * (seconds - self.service_seconds)

    def _note_state(self, state: BreakerState) -> None:
        """Show the new state; log that it went bad and that it is well again, not every probe between."""
        self._on_state(self.name, state)
        if state is BreakerState.OPEN and not self._has_opened:
            self._has_opened = True
            _log.warning("breaker_opened", extra={"deployment": self.name})
        elif state is BreakerState.CLOSED:
            self._has_opened = False
            _log.info("breaker_closed", extra={"deployment": self.name})


class FirstByteTimes:
    """How long the last first bytes took, of streams and of plain replies by themselves."""

    __slots__ = ("_order", "_sorted")

    def __init__(self) -> None:
        self._order: tuple[deque[float], deque[float]] = (deque(), deque())
        self._sorted: tuple[list[float], list[float]] = ([], [])

    def add(self, seconds: float, *, is_stream: bool) -> None:
        """Note one; of more than `_REMEMBERED_FIRST_BYTES` the oldest is forgotten."""
        order, values = self._order[is_stream], self._sorted[is_stream]
        if len(order) >= _REMEMBERED_FIRST_BYTES:
            del values[bisect_left(values, order.popleft())]
        order.append(seconds)
        insort(values, seconds)

    def quantile(self, share: float, *, is_stream: bool) -> float | None:
        """Return a quantile in seconds, or None while too few have been seen.

        Parameters
        ----------
        share : float, in (0, 1)
        is_stream : bool
        """
        values = self._sorted[is_stream]
        if len(values) < _NEEDED_FIRST_BYTES:
            return None
        return values[min(int(share * len(values)), len(values) - 1)]
