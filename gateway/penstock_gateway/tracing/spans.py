"""What is said of a request in a trace: one span for it, one for every try, made when it is over.

Names are those of OpenTelemetry's semantic conventions for generative AI (opentelemetry.io/docs/specs/semconv/gen-ai)
and HTTP, our own begin with ``penstock.``. No prompt, no answer and no key is ever in them. Read `request_spans`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from penstock_gateway.money.prices import format_usd
from penstock_gateway.wire.formats import WireFormat

if TYPE_CHECKING:
    from penstock_gateway.attempts.records import AttemptRecord
    from penstock_gateway.decisions import Settlement
    from penstock_gateway.deployments import Deployment
    from penstock_gateway.settling import Passage
    from penstock_gateway.tracing.context import Trace

Value = str | int | float | bool | tuple[str, ...]

_OPERATIONS: Final = {
    WireFormat.CHAT: "chat",
    WireFormat.MESSAGES: "chat",
    WireFormat.RESPONSES: "chat",
    WireFormat.COMPLETIONS: "text_completion",
    WireFormat.EMBEDDINGS: "embeddings",
}
# Well-known values of gen_ai.provider.name where ours differ.
_PROVIDERS: Final = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}


@dataclass(frozen=True, slots=True)
class SpanData:
    """A span that is over.

    Attributes
    ----------
    name : str
    trace_id, span_id : int
    parent_id : int or None
    is_server : bool
        True of the request itself, False of a call that was made for it.
    started_ns, ended_ns : int
        Since 1970.
    attributes : dict
    error : str or None
        Code of the error that it ended in.
    """

    name: str
    trace_id: int
    span_id: int
    parent_id: int | None
    is_server: bool
    started_ns: int
    ended_ns: int
    attributes: dict[str, Value]
    error: str | None


def request_spans(
    passage: Passage, settlement: Settlement, trace: Trace, *, now_ns: Callable[[], int] = time.time_ns
) -> list[SpanData]:
    """Return the spans of a request that is over, its own first.

    Parameters
    ----------
    passage : Passage
    settlement : Settlement
    trace : Trace
    now_ns : callable

    Returns
    -------
    list of SpanData
    """
    ended = now_ns()
    started = ended - int(settlement.duration_ms * 1e6)
    operation = _OPERATIONS[passage.request.front]
    spans = [
        SpanData(
            f"{operation} {passage.decision.requested_model[:80]}",
            trace.trace_id,
            trace.span_id,
            trace.parent_id,
            True,
            started,
            ended,
            _request_attributes(passage, settlement, operation),
            settlement.error_code,
        )
    ]
    for record, span_id in zip(passage.records, trace.attempt_ids, strict=False):
        deployment = passage.deployment(record.deployment)
        began = started + int(record.started_ms * 1e6)
        spans.append(
            SpanData(
                f"{operation} {deployment.model[:80]}",
                trace.trace_id,
                span_id,
                trace.span_id,
                False,
                began,
                began + int(record.duration_ms * 1e6),
                _attempt_attributes(record, deployment, operation),
                record.error_code,
            )
        )
    return spans


def _request_attributes(passage: Passage, settlement: Settlement, operation: str) -> dict[str, Value]:
    decision, request, usage = passage.decision, passage.request, settlement.usage
    served = settlement.served or decision.chosen
    found: dict[str, Value | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": decision.requested_model[:80],
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.response.model": served,
        "gen_ai.usage.input_tokens": None if usage is None else usage.input_tokens,
        "gen_ai.usage.output_tokens": None if usage is None else usage.output_tokens,
        "http.response.status_code": settlement.status,
        "error.type": settlement.error_code,
        "penstock.request.id": passage.caller.request_id,
        "penstock.tenant": passage.caller.tenant,
        "penstock.is_stream": request.is_stream,
        "penstock.decision.id": decision.id,
        "penstock.decision.model": decision.chosen,
        "penstock.decision.reason": decision.reason.value,
        "penstock.decision.tradeoff": decision.tradeoff,
        "penstock.decision.category": decision.category,
        "penstock.decision.novelty": decision.novelty,
        "penstock.artifact.id": decision.artifact_id,
        "penstock.attempts": len(passage.records),
        "penstock.overhead_ms": round(settlement.overhead_ms, 3),
        "penstock.cache.result": None if passage.cache is None else passage.cache.result,
        # Text: a binary fraction would not be the amount that is charged.
        "penstock.cost.usd": None if settlement.cost_usd is None else format_usd(settlement.cost_usd),
        "penstock.cost.is_estimated": settlement.has_estimate,
    }
    return {name: value for name, value in found.items() if value is not None}


def _attempt_attributes(record: AttemptRecord, deployment: Deployment, operation: str) -> dict[str, Value]:
    place = urlsplit(deployment.base_url)
    usage = record.usage
    found: dict[str, Value | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDERS.get(deployment.provider, deployment.provider) or None,
        "gen_ai.request.model": deployment.model[:80],
        "gen_ai.usage.input_tokens": None if usage is None else usage.input_tokens,
        "gen_ai.usage.output_tokens": None if usage is None else usage.output_tokens,
        "server.address": place.hostname,
        "server.port": place.port,
        "http.response.status_code": record.status,
        "error.type": record.error_code,
        "penstock.deployment": record.deployment,
        "penstock.attempt.kind": record.kind.value,
        "penstock.attempt.first_byte_ms": None
        if record.first_byte_ms is None
        else round(record.first_byte_ms - record.started_ms, 3),
    }
    return {name: value for name, value in found.items() if value is not None}
