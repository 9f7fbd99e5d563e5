"""Prometheus metrics of an encode server and of a gateway's client for it: names, units, bounded labels.

Label values come from closed sets: encoder ids that are served, outcomes and kinds of our own. Read
`EncodeServerMetrics`, then `RemoteEncoderMetrics`.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from penstock_gateway.loop_metrics import LoopCounter, LoopHistogram
from penstock_routers.cuda_fallback import CUDA_FAULTS

OUTCOMES: Final = ("encoded", "overloaded", "late", "failed")
FALLBACK_KINDS: Final = ("open", "late", "unreachable", "overloaded", "refused", "broken", "failed")
_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)
_BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128)


class EncoderCounts:
    """What is counted for one encoder."""

    def __init__(self, metrics: EncodeServerMetrics, encoder_id: str) -> None:
        self._texts = {outcome: metrics.texts.labels(encoder_id, outcome) for outcome in OUTCOMES}
        self._seconds = metrics.seconds.labels(encoder_id)
        self._batch = metrics.batch.labels(encoder_id)

    def note(self, outcome: str, texts: int, seconds: float) -> None:
        """Note texts that were answered together, and how long after they came."""
        self._texts[outcome].inc(texts)
        self._seconds.observe(seconds)

    def note_batch(self, texts: int) -> None:
        """Note how many texts one call of the encoder took."""
        self._batch.observe(texts)


class EncodeServerMetrics:
    """What an encode server feeds.

    Parameters
    ----------
    registry : CollectorRegistry
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.texts = LoopCounter(
            "penstock_encode_server_texts",
            "Texts by encoder and outcome: encoded, overloaded (the queue was full), late (nobody waited any more) or "
            "failed.",
            ("encoder", "outcome"),
            registry=registry,
        )
        self.seconds = LoopHistogram(
            "penstock_encode_server_duration_seconds",
            "From a text's arrival to its answer.",
            ("encoder",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch = LoopHistogram(
            "penstock_encode_server_batch_texts",
            "Texts that one call of the encoder took.",
            ("encoder",),
            buckets=_BATCHES,
            registry=registry,
        )
        self.connections = Gauge("penstock_encode_server_connections", "Gateways connected.", registry=registry)
        self.waiting = Gauge("penstock_encode_server_waiting_texts", "Texts that wait for a batch.", registry=registry)
        self.refusals = Counter(
            "penstock_encode_server_refusals",
            "Connections refused: another version, encoder or secret, or what came was not of the protocol (wire).",
            ("reason",),
            registry=registry,
        )
        self.log_dropped = Counter(
            "penstock_log_dropped", "Log lines dropped because the queue was full.", registry=registry
        )
        show_cuda_faults(registry)
        self._counts: dict[str, EncoderCounts] = {}

    def of(self, encoder_id: str) -> EncoderCounts:
        """Return what is counted for an encoder that is served."""
        if encoder_id not in self._counts:
            self._counts[encoder_id] = EncoderCounts(self, encoder_id)
        return self._counts[encoder_id]


def show_cuda_faults(registry: CollectorRegistry) -> None:
    """Show how often the GPU failed in this process, gateway or encode server."""
    faults = Gauge(
        "penstock_cuda_faults",
        "Runs since the process began that failed on the GPU and were answered by the CPU.",
        registry=registry,
    )
    faults.set_function(lambda: CUDA_FAULTS.total)


class RemoteEncoderMetrics:
    """What a gateway with a remote encoder feeds.

    Parameters
    ----------
    registry : CollectorRegistry
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = LoopHistogram(
            "penstock_remote_encoder_duration_seconds",
            "From a text's departure to its vector.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.seconds = self._seconds.labels()
        self._fallbacks = LoopCounter(
            "penstock_remote_encoder_fallbacks",
            "Texts that the remote encoder did not answer, by kind: open (left alone after failures), late, "
            "unreachable, overloaded, refused (other encoder, version or secret), broken (the connection, or what came "
            "over it) or failed.",
            ("kind",),
            registry=registry,
        )
        self.fallbacks = {kind: self._fallbacks.labels(kind) for kind in FALLBACK_KINDS}
        self.breaker_state = Gauge(
            "penstock_remote_encoder_breaker_state",
            "0 while texts are sent to the remote encoder, 2 while it is left alone, 1 while a probe is on the way.",
            registry=registry,
        )
