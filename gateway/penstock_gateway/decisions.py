"""Route decisions: the immutable record of one choice, and the bounded memory of recent ones.

`RouteDecision` is made by the router, completed by `Settlement`, shown by ``GET /v1/decisions/{id}``. Tenants see
only their own.
"""

from __future__ import annotations

from collections import OrderedDict
from decimal import Decimal
from itertools import islice
from typing import Any

import msgspec

from penstock_gateway.attempts.records import AttemptRecord
from penstock_gateway.money.prices import format_usd
from penstock_gateway.money.usage import Usage
from penstock_routers.features import NO_CONTEXT, PromptContext
from penstock_routers.policy import RejectReason, RouteReason

DECISION_ID_HEADER = "x-penstock-decision-id"


class CandidateReport(msgspec.Struct, frozen=True, gc=False):
    """One deployment as seen by a decision: its scores, or why it was not a candidate.

    Its arm is the one that it had in the artifact of that decision; another artifact may give it another.
    """

    name: str
    model: str
    arm: str
    tier: str | None
    quality: float | None = None
    quality_se: float | None = None
    gain: float | None = None
    gain_se: float | None = None
    output_tokens: float | None = None
    estimated_cost_usd: float | None = None
    utility: float | None = None
    switch_cost_usd: float | None = None
    rejected: RejectReason | None = None
    rejected_detail: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values, absent scores as null."""
        return {
            "model": self.name,
            "upstream_model": self.model,
            "tier": self.tier,
            "quality": _rounded(self.quality),
            "quality_se": _rounded(self.quality_se),
            "gain": _rounded(self.gain),
            "gain_se": _rounded(self.gain_se),
            "output_tokens": None if self.output_tokens is None else round(self.output_tokens, 1),
            "estimated_cost_usd": _usd(self.estimated_cost_usd),
            "utility": _rounded(self.utility),
            "switch_cost_usd": _usd(self.switch_cost_usd),
            "rejected": self.rejected,
            "rejected_detail": self.rejected_detail,
        }


class RouteDecision(msgspec.Struct, frozen=True, gc=False):
    """One choice, with everything that explains it.

    Attributes
    ----------
    id : str
    created_at : float
        Unix time, seconds.
    requested_model : str
    tradeoff : str
        The knob's setting in force.
    chosen : str
        Name of the deployment.
    reason : RouteReason
    candidates : tuple of CandidateReport
        Ranking first, then the rejected ones.
    artifact_id : str or None
    default_arm, baseline : str
    input_tokens : int
        Estimated.
    estimated_cost_usd, baseline_cost_usd : float or None
    novelty : float or None
    category : str or None
    propensity : float
        Probability with which this policy chose this arm; 1 without exploration.
    max_cost_usd, min_quality : float or None
        Limits in force.
    floor : str or None
        Tier below which nothing could be chosen.
    warm : str or None
        Name of the deployment that answered this conversation last, while its provider has the prompt cached.
    forgone_usd : float
        What staying there has cost so far, this request included.
    shadow : RouteDecision or None
        In observe mode, what would have been decided about a request that names its model.
    api : str
        Wire format of the client.
    routing_ms : float
        Time spent embedding, estimating and deciding.
    context : PromptContext
        What stood around the prompt.
    """

    id: str
    created_at: float
    requested_model: str
    tradeoff: str
    chosen: str
    reason: RouteReason
    candidates: tuple[CandidateReport, ...]
    artifact_id: str | None
    default_arm: str
    baseline: str
    input_tokens: int
    estimated_cost_usd: float | None
    baseline_cost_usd: float | None
    novelty: float | None = None
    category: str | None = None
    propensity: float = 1.0
    routing_ms: float = 0.0
    max_cost_usd: float | None = None
    min_quality: float | None = None
    floor: str | None = None
    warm: str | None = None
    forgone_usd: float = 0.0
    shadow: RouteDecision | None = None
    api: str = "chat"
    context: PromptContext = NO_CONTEXT

    @property
    def tier(self) -> str | None:
        """Tier of the chosen deployment."""
        for report in self.candidates:
            if report.name == self.chosen:
                return report.tier
        return None

    @property
    def is_explored(self) -> bool:
        """Whether the deployment was drawn instead of the policy's own choice."""
        return self.reason is RouteReason.EXPLORED

    @property
    def estimated_saving_usd(self) -> float | None:
        """Estimated cost on the baseline minus the estimated cost on the chosen deployment."""
        if self.baseline_cost_usd is None or self.estimated_cost_usd is None:
            return None
        return self.baseline_cost_usd - self.estimated_cost_usd

    def as_json(self) -> dict[str, Any]:
        """Return the decision as plain values for ``/v1/route`` and ``/v1/decisions``."""
        return {
            "id": self.id,
            "object": "route.decision",
            "created": int(self.created_at),
            "requested_model": self.requested_model,
            "tradeoff": self.tradeoff,
            "model": self.chosen,
            "reason": self.reason,
            "default_model": self.default_arm,
            "baseline_model": self.baseline,
            "estimated_cost_usd": _usd(self.estimated_cost_usd),
            "baseline_cost_usd": _usd(self.baseline_cost_usd),
            "estimated_saving_usd": _usd(self.estimated_saving_usd),
            "input_tokens": self.input_tokens,
            "novelty": _rounded(self.novelty),
            "category": self.category,
            "propensity": self.propensity,
            "is_explored": self.is_explored,
            "max_cost_usd": self.max_cost_usd,
            "min_quality": self.min_quality,
            "floor": self.floor,
            "warm_model": self.warm,
            "artifact": self.artifact_id,
            "routing_ms": round(self.routing_ms, 3),
            "shadow": None if self.shadow is None else _shadow_json(self.shadow),
            "candidates": [candidate.as_json() for candidate in self.candidates],
        }


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """What a request came to in the end.

    Attributes
    ----------
    status : int
        HTTP status that the client saw (a broken stream keeps 200 and has an `error_code`); 499 when it left, or
        the server stopped, before there was one.
    error_code : str or None
    usage : Usage or None
    cost_usd : Decimal or None
        Exact cost of all attempts; None when no provider did any work, or a price is not known.
    duration_ms, overhead_ms : float
        Whole request, and the gateway's own share before the provider was called.
    served : str or None
        Name of the deployment that answered; None when no provider did.
    attempts : tuple of AttemptRecord
        In the order in which they began, the one that answered included.
    first_byte_ms : float or None
        From the complete body of the request to the first byte of the answer.
    is_cost_estimated : bool or None
        Whether some usage was not reported, or some price is that of models like it; None: as the usage says.
    """

    status: int
    error_code: str | None
    usage: Usage | None
    cost_usd: Decimal | None
    duration_ms: float
    overhead_ms: float
    served: str | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    first_byte_ms: float | None = None
    is_cost_estimated: bool | None = None

    @property
    def has_estimate(self) -> bool | None:
        """Whether the cost, or the usage where there is no cost, is an estimate; None where there is neither."""
        if self.is_cost_estimated is not None:
            return self.is_cost_estimated
        return None if self.usage is None else self.usage.is_estimated

    def as_json(self) -> dict[str, Any]:
        """Return the settlement as plain values."""
        usage = self.usage
        return {
            "status": self.status,
            "error_code": self.error_code,
            "cost_usd": None if self.cost_usd is None else format_usd(self.cost_usd),
            "is_cost_estimated": self.has_estimate,
            "input_tokens": None if usage is None else usage.input_tokens,
            "cached_input_tokens": None if usage is None else usage.cached_input_tokens,
            "output_tokens": None if usage is None else usage.output_tokens,
            "reasoning_tokens": None if usage is None else usage.reasoning_tokens,
            "duration_ms": round(self.duration_ms, 3),
            "overhead_ms": round(self.overhead_ms, 3),
        }


class RecentDecisions:
    """The last decisions with their settlements, bounded by count, partitioned by tenant.

    Parameters
    ----------
    keep : int
        How many decisions are remembered; the oldest go first. May be changed at any time.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self._records: OrderedDict[str, tuple[str, RouteDecision, Settlement | None]] = OrderedDict()
        self._requests: dict[tuple[str, str], str] = {}
        self._requests_of: dict[str, tuple[str, str]] = {}

    def add(self, tenant: str, decision: RouteDecision, request_id: str = "") -> None:
        """Remember a decision whose request is under way.

        Parameters
        ----------
        tenant : str
        decision : RouteDecision
        request_id : str
            By which the tenant may ask for it, too; empty for none. Clients may use one twice: the last one counts.
        """
        self._records[decision.id] = (tenant, decision, None)
        if request_id:
            self._requests[tenant, request_id] = decision.id
            self._requests_of[decision.id] = (tenant, request_id)
        while len(self._records) > self.keep:
            self._forget(self._records.popitem(last=False)[0])

    def settle(self, decision_id: str, settlement: Settlement) -> None:
        """Attach the outcome, unless the decision has been forgotten."""
        record = self._records.get(decision_id)
        if record is not None:
            self._records[decision_id] = (record[0], record[1], settlement)

    def find(self, tenant: str, decision_id: str) -> tuple[RouteDecision, Settlement | None] | None:
        """Return a tenant's own decision, or None."""
        record = self._records.get(decision_id)
        if record is None or record[0] != tenant:
            return None
        return record[1], record[2]

    def newest(self, count: int) -> list[tuple[str, RouteDecision, Settlement | None]]:
        """Return the last decisions of all tenants with the tenant of each, the newest first; for the operator only.

        Parameters
        ----------
        count : int
            At most so many.
        """
        return list(islice(reversed(self._records.values()), count))

    def find_any(self, decision_id: str) -> tuple[str, RouteDecision, Settlement | None] | None:
        """Return a decision of any tenant with its tenant, or None; for the operator only."""
        return self._records.get(decision_id)

    def id_of_request(self, tenant: str, request_id: str) -> str | None:
        """Return the id of the decision of a tenant's own request, or None."""
        return self._requests.get((tenant, request_id))

    def request_id_of(self, decision_id: str) -> str:
        """Return the id of the request that a decision was made for; empty when there is none."""
        return self._requests_of.get(decision_id, ("", ""))[1]

    def _forget(self, decision_id: str) -> None:
        key = self._requests_of.pop(decision_id, None)
        if key is not None and self._requests.get(key) == decision_id:
            del self._requests[key]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _usd(value: float | None) -> str | None:
    """Write an estimate as plain decimal text, to a billionth of a dollar."""
    return None if value is None else format_usd(Decimal(f"{value:.9f}"))


def _shadow_json(shadow: RouteDecision) -> dict[str, Any]:
    return {
        "model": shadow.chosen,
        "reason": shadow.reason,
        "estimated_cost_usd": _usd(shadow.estimated_cost_usd),
        "category": shadow.category,
        "novelty": _rounded(shadow.novelty),
    }
