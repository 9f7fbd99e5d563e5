"""Prometheus metrics of attempts: names, units, bounded labels.

Label values come from closed sets: configured deployments and groups, kinds and outcomes of our own. Read
`AttemptMetrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge

from penstock_gateway.loop_metrics import LoopCounter, LoopHistogram

_STATES = {"closed": 0, "half_open": 1, "open": 2}
_FIRST_BYTE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class AttemptMetrics:
    """The counters and gauges that attempts feed.

    Parameters
    ----------
    registry : CollectorRegistry
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = LoopCounter(
            "penstock_attempts",
            "Tries by deployment, kind (first, retry, fallback, hedge) and outcome (ok or the kind of failure).",
            ("deployment", "kind", "outcome"),
            registry=registry,
        )
        self.first_byte = LoopHistogram(
            "penstock_first_byte_seconds",
            "From sending a request to the first event of a stream, or to the status line of a plain reply.",
            ("deployment",),
            buckets=_FIRST_BYTE_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "penstock_attempts_in_flight", "Tries under way by deployment.", ("deployment",), registry=registry
        )
        self.breaker_state = Gauge(
            "penstock_breaker_state",
            "State of a deployment's breaker: 0 closed, 1 half open, 2 open.",
            ("deployment",),
            registry=registry,
        )
        self.breaker_opened = Counter(
            "penstock_breaker_opened",
            "Times a breaker opened, after a failed probe too.",
            ("deployment",),
            registry=registry,
        )
        self.waiting = Gauge(
            "penstock_waiting_requests", "Requests that wait for a slot, by priority.", ("priority",), registry=registry
        )
        self.refusals = Counter(
            "penstock_queue_refusals",
            "Requests turned away because too many waited, or because their wait was too long.",
            ("code",),
            registry=registry,
        )
        self.hedges = Counter(
            "penstock_hedges",
            "Second calls beside a slow one, by deployment and result (won, lost, failed).",
            ("deployment", "result"),
            registry=registry,
        )
        self.capacity_mode = Gauge(
            "penstock_group_capacity_mode",
            "1 while a group is balanced by work, 0 while the cheapest go first.",
            ("group",),
            registry=registry,
        )
        self.drains = Counter(
            "penstock_drains",
            "Answers read on after the client had left, by outcome (complete, failed, timeout, stopped, over_budget, "
            "refused).",
            ("outcome",),
            registry=registry,
        )

    def watch(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Show how many requests wait, read whenever the metrics are."""
        for priority in counts():
            self.waiting.labels(priority).set_function(partial(_count, counts, priority))

    def watch_lane(self, deployment: str, in_flight: Callable[[], int]) -> None:
        """Show how many tries are under way at a deployment, read whenever the metrics are."""
        self.in_flight.labels(deployment).set_function(in_flight)
        self.breaker_state.labels(deployment).set(0)

    def forget_lane(self, deployment: str) -> None:
        """Show a deployment no more that has left the configuration; its counters stay."""
        self.in_flight.remove(deployment)
        self.breaker_state.remove(deployment)

    def note_first_byte(self, deployment: str, seconds: float) -> None:
        """Note how long the first byte took."""
        self.first_byte.labels(deployment).observe(seconds)

    def note_end(self, deployment: str, kind: str, outcome: str) -> None:
        """Count a try that is over."""
        self.attempts.labels(deployment, kind, outcome).inc()

    def note_state(self, deployment: str, state: str) -> None:
        """Show the state of a breaker."""
        self.breaker_state.labels(deployment).set(_STATES[state])
        if state == "open":
            self.breaker_opened.labels(deployment).inc()

    def note_refusal(self, code: str) -> None:
        """Count a request that was turned away."""
        self.refusals.labels(code).inc()

    def note_hedge(self, deployment: str, result: str) -> None:
        """Count a second call by what came of it."""
        self.hedges.labels(deployment, result).inc()

    def note_mode(self, group: str, mode: str) -> None:
        """Show a group's mode."""
        self.capacity_mode.labels(group).set(1 if mode == "capacity" else 0)

    def note_drain(self, outcome: str) -> None:
        """Count an answer that was read on, or was not."""
        self.drains.labels(outcome).inc()


def _count(counts: Callable[[], Mapping[str, int]], priority: str) -> int:
    return counts()[priority]
