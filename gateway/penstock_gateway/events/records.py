"""What an event says: the records of ``docs/events.md``, schema 2.

Owns the fields and their rounding, and knows no file. Money is decimal text or whole picodollars, never a binary float.
Read `outcome_record` and `decision_record`.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from penstock_gateway.accounts.principal import Principal
from penstock_gateway.attempts.records import AttemptRecord
from penstock_gateway.decisions import CandidateReport, RouteDecision, Settlement
from penstock_gateway.money.amounts import to_picousd
from penstock_gateway.money.prices import format_usd
from penstock_gateway.money.usage import Usage

SCHEMA: Final = 2
_TIMEOUT_CODE: Final = "upstream_timeout"


class CacheNote(msgspec.Struct, frozen=True, gc=False):
    """What the cache said to a request.

    Attributes
    ----------
    result : str
        ``hit``, ``miss``, ``bypass``, … as in the header ``x-penstock-cache``.
    similarity : float or None
        Of the nearest entry, when one was looked for by meaning.
    """

    result: str
    similarity: float | None = None


def decision_record(
    decision: RouteDecision,
    *,
    request_id: str,
    tenant: str,
    conversation: str | None,
    encoder: str | None,
    cache: CacheNote | None,
    shadow: RouteDecision | None,
) -> dict[str, Any]:
    """Return everything that explains a choice but candidates and content.

    Parameters
    ----------
    decision : RouteDecision
    request_id : str
    tenant : str
        Pseudonym.
    conversation : str or None
        What stands for the conversation.
    encoder : str or None
        Id of the encoder whose vectors the artifact read.
    cache : CacheNote or None
    shadow : RouteDecision or None
        What the router would have chosen, where it only observes.
    """
    intended = next((report.arm for report in decision.candidates if report.name == decision.chosen), None)
    return {
        "schema": SCHEMA,
        "type": "decision",
        "decision_id": decision.id,
        "request_id": request_id,
        "time": round(decision.created_at, 3),
        "tenant": tenant,
        "conversation": conversation,
        "requested_model": decision.requested_model,
        "api": decision.api,
        "intended_arm": decision.chosen,
        "intended_artifact_arm": intended,
        "reason": decision.reason.value,
        "is_explored": decision.is_explored,
        "propensity": decision.propensity,
        "tradeoff": decision.tradeoff,
        "max_cost_usd": decision.max_cost_usd,
        "min_quality": decision.min_quality,
        "floor": decision.floor,
        "category": decision.category,
        "novelty": decision.novelty,
        "artifact": decision.artifact_id,
        "encoder": encoder,
        "default_arm": decision.default_arm,
        "baseline": decision.baseline,
        "warm_arm": decision.warm,
        "input_tokens": decision.input_tokens,
        "system_bytes": decision.context.system_bytes,
        "tools": decision.context.tools,
        "turns": decision.context.turns,
        "estimated_cost_usd": _usd(decision.estimated_cost_usd),
        "baseline_cost_usd": _usd(decision.baseline_cost_usd),
        "routing_ms": round(decision.routing_ms, 3),
        "cache": None if cache is None else {"result": cache.result, "similarity": cache.similarity},
        "shadow": None if shadow is None else _shadow(shadow),
    }


def audit_record(
    audit_id: str, *, time: float, tenant: str, category: str, is_right: bool, is_steady: bool | None
) -> dict[str, Any]:
    """Return what the audit of a cache hit found.

    Parameters
    ----------
    audit_id : str
        As in the log's line about it and, with ``audit-`` before it, at the provider.
    time : float
        UNIX seconds.
    tenant : str
        Pseudonym.
    category : str
        Under which the request was looked up.
    is_right : bool
        Whether the model, asked all the same, agreed with the stored answer.
    is_steady : bool or None
        Whether it agreed with itself when asked twice; None when it was asked once.
    """
    return {
        "schema": SCHEMA,
        "type": "audit",
        "audit_id": audit_id,
        "time": round(time, 3),
        "tenant": tenant,
        "category": category,
        "is_right": is_right,
        "is_steady": is_steady,
    }


def candidate_record(report: CandidateReport) -> dict[str, Any]:
    """Return one deployment as the decision saw it."""
    return {
        "arm": report.name,
        "artifact_arm": report.arm,
        "tier": report.tier,
        "quality": report.quality,
        "quality_se": report.quality_se,
        "gain": report.gain,
        "gain_se": report.gain_se,
        "output_tokens": report.output_tokens,
        "cost_usd": _usd(report.estimated_cost_usd),
        "switch_cost_usd": _usd(report.switch_cost_usd),
        "utility": report.utility,
        "rejected": report.rejected,
    }


def outcome_record(
    principal: Principal,
    decision: RouteDecision,
    settlement: Settlement,
    *,
    request_id: str,
    tenant: str,
    time: float,
    admitted_at: float,
    cost_picousd: int,
    attempt_costs: Sequence[Decimal | None],
) -> dict[str, Any]:
    """Return what a request came to: the record that bills and budgets are rebuilt from.

    Parameters
    ----------
    principal : Principal
        Its accounts are written in clear: they are the operator's labels.
    decision : RouteDecision
    settlement : Settlement
    request_id : str
    tenant : str
        Pseudonym.
    time, admitted_at : float
        UNIX seconds.
    cost_picousd : int
        What the accounts are charged.
    attempt_costs : sequence of Decimal or None
        One for each of ``settlement.attempts``.
    """
    served, usage = settlement.served, settlement.usage
    return {
        "schema": SCHEMA,
        "type": "outcome",
        "decision_id": decision.id,
        "request_id": request_id,
        "time": round(time, 3),
        "admitted_at": round(admitted_at, 3),
        "tenant": tenant,
        "accounts": [account.scope for account in principal.accounts],
        "served_arm": served,
        "served_artifact_arm": next((report.arm for report in decision.candidates if report.name == served), None),
        "status": settlement.status,
        "error_code": settlement.error_code,
        "is_timeout": settlement.error_code == _TIMEOUT_CODE,
        "duration_ms": round(settlement.duration_ms, 3),
        "overhead_ms": round(settlement.overhead_ms, 3),
        "first_byte_ms": _milliseconds(settlement.first_byte_ms),
        "usage": None if usage is None else usage_record(usage),
        "is_cost_estimated": settlement.has_estimate,
        "cost_usd": None if settlement.cost_usd is None else format_usd(settlement.cost_usd),
        "cost_picousd": cost_picousd,
        "attempts": [_attempt(attempt, cost) for attempt, cost in zip(settlement.attempts, attempt_costs, strict=True)],
    }


def usage_record(usage: Usage) -> dict[str, Any]:
    """Return token counts as written in events."""
    return {
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "audio_input_tokens": usage.audio_input_tokens,
        "image_input_tokens": usage.image_input_tokens,
        "audio_output_tokens": usage.audio_output_tokens,
        "service_tier": usage.service_tier,
        "web_searches": usage.web_searches,
        "other_tool_calls": usage.other_tool_calls,
    }


def _attempt(attempt: AttemptRecord, cost: Decimal | None) -> dict[str, Any]:
    usage = attempt.usage
    return {
        "deployment": attempt.deployment,
        "kind": attempt.kind.value,
        "started_ms": round(attempt.started_ms, 3),
        "duration_ms": round(attempt.duration_ms, 3),
        "status": attempt.status,
        "error_code": attempt.error_code,
        "was_sent": attempt.was_sent,
        "first_byte_ms": _milliseconds(attempt.first_byte_ms),
        "usage": None if usage is None else usage_record(usage),
        "cost_usd": None if cost is None else format_usd(cost),
        "cost_picousd": None if cost is None else to_picousd(cost),
        "is_estimated": usage is not None and usage.is_estimated,
    }


def _shadow(shadow: RouteDecision) -> dict[str, Any]:
    chosen = next((report for report in shadow.candidates if report.name == shadow.chosen), None)
    return {
        "arm": shadow.chosen,
        "artifact_arm": None if chosen is None else chosen.arm,
        "reason": shadow.reason.value,
        "artifact": shadow.artifact_id,
        "category": shadow.category,
        "estimated_cost_usd": _usd(shadow.estimated_cost_usd),
        "quality": None if chosen is None else chosen.quality,
        "gain": None if chosen is None else chosen.gain,
        "gain_se": None if chosen is None else chosen.gain_se,
    }


def _milliseconds(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _usd(value: float | None) -> str | None:
    """Write an estimate as plain decimal text, to a billionth of a dollar."""
    return None if value is None else f"{value:.9f}"
