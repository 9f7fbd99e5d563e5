"""Prometheus metrics of one gateway: names, units, bounded labels.

One registry per application object, nothing global. Label values come from closed sets: configured deployment
names, route reasons, status codes, error codes of our own.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from penstock_gateway.decisions import DECISION_ID_HEADER, RouteDecision, Settlement
from penstock_gateway.errors import GatewayError
from penstock_gateway.loop_metrics import Count, LoopCounter, LoopHistogram
from penstock_gateway.metrics_attempts import AttemptMetrics
from penstock_gateway.metrics_cache import CacheMetrics
from penstock_gateway.metrics_ledger import LedgerMetrics
from penstock_gateway.metrics_redis import RedisMetrics
from penstock_gateway.metrics_router import RouterMetrics
from penstock_gateway.metrics_text import OrderedRegistry, exposition
from penstock_gateway.money.usage import Usage
from penstock_gateway.remote_encoder.metrics import RemoteEncoderMetrics, show_cuda_faults
from penstock_routers.policy import RouteReason

_OVERHEAD_BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class GatewayMetrics:
    """The counters, gauges and histograms that the request path feeds."""

    def __init__(self) -> None:
        self.registry = OrderedRegistry()
        self._by_model: dict[str, _ModelCounts] = {}
        self._add_requests()
        self._add_money()
        self.log_dropped = Counter(
            "penstock_log_dropped", "Log lines dropped because the queue was full.", registry=self.registry
        )
        self.router = RouterMetrics(self.registry)
        self.artifact_refused = _artifact_metrics(self.registry)
        self.account_problems, self.admin_errors = _account_metrics(self.registry)
        self._add_event_log()
        self.cache = CacheMetrics(self.registry)
        self.ledger = LedgerMetrics(self.registry)
        self.redis = RedisMetrics(self.registry)
        self.attempts = AttemptMetrics(self.registry)
        self.remote_encoder = RemoteEncoderMetrics(self.registry)
        show_cuda_faults(self.registry)

    def _add_requests(self) -> None:
        self.requests = LoopCounter(
            "penstock_requests",
            "Requests by served model, HTTP status and route reason.",
            ("model", "status", "reason"),
            registry=self.registry,
        )
        self.errors = LoopCounter(
            "penstock_errors", "Requests that ended in an error, by stable code.", ("code",), registry=self.registry
        )
        self.unexpected = Counter(
            "penstock_unexpected_errors",
            "Failures that are bugs; each has a traceback in the log.",
            registry=self.registry,
        )
        self.duration = LoopHistogram(
            "penstock_request_duration_seconds",
            "Whole request, first byte in to last byte out.",
            ("model",),
            buckets=_DURATION_BUCKETS,
            registry=self.registry,
        )
        self.overhead = LoopHistogram(
            "penstock_overhead_seconds",
            "The gateway's own time before the provider is called.",
            buckets=_OVERHEAD_BUCKETS,
            registry=self.registry,
        )
        self.routing = LoopHistogram(
            "penstock_routing_duration_seconds",
            "Embedding, estimating and deciding.",
            buckets=_OVERHEAD_BUCKETS,
            registry=self.registry,
        )
        self.first_byte = LoopHistogram(
            "penstock_time_to_first_byte_seconds",
            "From the complete request to the first byte of the provider's answer.",
            ("model",),
            buckets=_DURATION_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge("penstock_in_flight_requests", "Requests under way.", registry=self.registry)
        self.router_failures = Counter(
            "penstock_router_failures",
            "Times the router failed and the default arm answered.",
            registry=self.registry,
        )

    def _add_money(self) -> None:
        self.tokens = LoopCounter(
            "penstock_tokens", "Tokens by model and kind.", ("model", "kind"), registry=self.registry
        )
        self.cost = LoopCounter(
            "penstock_cost_usd",
            "Cost in USD by model; is_estimated tells whether the provider reported usage.",
            ("model", "is_estimated"),
            registry=self.registry,
        )
        self.unpriced = Counter(
            "penstock_unpriced_requests",
            "Requests whose cost, or a part of it, nobody knows: the model, or a tool of its provider, has no price.",
            ("model",),
            registry=self.registry,
        )

    def _add_event_log(self) -> None:
        self.events_dropped = Counter(
            "penstock_events_dropped",
            "Decisions left out or without detail; outcomes and feedback only when the process ended on a dead disk.",
            ("kind",),
            registry=self.registry,
        )
        self.event_places = Gauge(
            "penstock_event_places",
            "Requests under way, and outcomes and feedback that are not on disk yet.",
            registry=self.registry,
        )
        self.event_problems = Counter(
            "penstock_event_problems",
            "Times the event log cut a damaged tail, failed to write, or deleted an old segment.",
            ("problem",),
            registry=self.registry,
        )

    def note_refusal(self, error: GatewayError) -> None:
        """Count an error that is shown to a client, unless `observe` has counted it: it then carries its decision."""
        if DECISION_ID_HEADER not in error.headers:
            self.errors.labels(error.code).inc()

    def observe(self, decision: RouteDecision, settlement: Settlement) -> None:
        """Count one finished request."""
        model = settlement.served or decision.chosen
        counts = self._by_model.get(model)
        if counts is None:
            counts = self._by_model[model] = _ModelCounts(self, model)
        counts.requests(settlement.status, decision.reason).inc()
        counts.duration.observe(settlement.duration_ms / 1000.0)
        self.overhead.observe(settlement.overhead_ms / 1000.0)
        if decision.routing_ms:
            self.routing.observe(decision.routing_ms / 1000.0)
        self.router.observe(decision, settlement)
        if settlement.error_code:
            self.errors.labels(settlement.error_code).inc()
        usage = None if decision.reason is RouteReason.CACHED else settlement.usage  # no model was at work then
        if usage is not None:
            counts.note_usage(usage)
        if usage is not None and settlement.cost_usd is not None:
            counts.cost(bool(settlement.has_estimate)).inc(float(settlement.cost_usd))
        if settlement.first_byte_ms is not None:
            self.first_byte.labels(model).observe(settlement.first_byte_ms / 1000.0)

    def render(self) -> bytes:
        """Return the exposition in Prometheus' text format."""
        return exposition(self.registry)


class _ModelCounts:
    """The children of one model, found once: a request adds to nine of them."""

    __slots__ = ("_costs", "_metrics", "_model", "_requests", "_tokens", "duration")

    def __init__(self, metrics: GatewayMetrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._requests: dict[tuple[int, RouteReason], Count] = {}
        self._costs: dict[bool, Count] = {}
        self._tokens: tuple[Count, Count, Count, Count] | None = None
        self.duration = metrics.duration.labels(model)

    def requests(self, status: int, reason: RouteReason) -> Count:
        """Return what counts requests of a status and a reason."""
        found = self._requests.get((status, reason))
        if found is None:
            found = self._metrics.requests.labels(self._model, str(status), reason.value)
            self._requests[status, reason] = found
        return found

    def cost(self, is_estimated: bool) -> Count:
        """Return what adds up the cost."""
        found = self._costs.get(is_estimated)
        if found is None:
            found = self._costs[is_estimated] = self._metrics.cost.labels(self._model, str(is_estimated).lower())
        return found

    def note_usage(self, usage: Usage) -> None:
        """Count tokens by kind."""
        if self._tokens is None:
            labels, model = self._metrics.tokens.labels, self._model
            self._tokens = (
                labels(model, "input"),
                labels(model, "cached_input"),
                labels(model, "output"),
                labels(model, "reasoning"),
            )
        read, cached, written, reasoned = self._tokens
        read.value += usage.input_tokens
        cached.value += usage.cached_input_tokens
        written.value += usage.output_tokens
        reasoned.value += usage.reasoning_tokens


def _account_metrics(registry: CollectorRegistry) -> tuple[Counter, Counter]:
    """What goes wrong with the store of keys, and what the admin API refuses."""
    problems = Counter(
        "penstock_account_problems",
        "Times the store of keys went away, was damaged, lost or of another pepper, or blocked keys were found.",
        ("problem",),
        registry=registry,
    )
    errors = Counter(
        "penstock_admin_errors", "Errors that the admin API showed, by stable code.", ("code",), registry=registry
    )
    return problems, errors


def _artifact_metrics(registry: CollectorRegistry) -> Counter:
    """How often an artifact was refused."""
    return Counter(
        "penstock_artifact_refused",
        "Times the artifact that the source offers was refused, by stable code; the one in force goes on serving.",
        ("code",),
        registry=registry,
    )
