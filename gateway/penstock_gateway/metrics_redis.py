"""Prometheus metrics of the gateway's use of Redis: names, units, bounded labels.

Label values come from closed sets: features and kinds of our own. Read `RedisMetrics`.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from penstock_gateway.redis_breaker import BreakerState

_STATE_NUMBERS = {BreakerState.CLOSED: 0.0, BreakerState.HALF_OPEN: 1.0, BreakerState.OPEN: 2.0}


class RedisMetrics:
    """What the guards feed.

    Parameters
    ----------
    registry : CollectorRegistry
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.breaker_state = Gauge(
            "penstock_redis_breaker_state",
            "By feature: 0 while commands are sent to Redis, 2 while they fail at once, 1 while a probe is on the way.",
            ("feature",),
            registry=registry,
        )
        self.errors = Counter(
            "penstock_redis_errors",
            "Commands without a reply of use, by feature: timeout, unreachable, refused (an error reply), or open "
            "(not sent, because Redis was away).",
            ("feature", "kind"),
            registry=registry,
        )
        self._errors: dict[tuple[str, str], Counter] = {}

    def show_state(self, feature: str, state: BreakerState) -> None:
        """Show a feature's breaker."""
        self.breaker_state.labels(feature).set(_STATE_NUMBERS[state])

    def count_error(self, feature: str, kind: str) -> None:
        """Count a failed command; the child is remembered, because finding it takes longer than failing at once."""
        child = self._errors.get((feature, kind))
        if child is None:
            child = self._errors[feature, kind] = self.errors.labels(feature, kind)
        child.inc()
