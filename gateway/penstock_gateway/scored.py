"""Candidates with their costs: which are within a request's limits, and how each is reported.

Owns the reports of a decision and the errors when nothing is left. Pure. Read `within_limits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal

import msgspec
from msgspec.structs import replace

from penstock_gateway.compatibility import Rejection
from penstock_gateway.decisions import CandidateReport
from penstock_gateway.deployments import TIERS, Deployment
from penstock_gateway.errors import NoCandidate
from penstock_gateway.money.prices import format_usd
from penstock_gateway.request_policy import RequestPolicy, tier_rank
from penstock_routers.estimates import Scores
from penstock_routers.policy import Candidate, Choice, RejectReason
from penstock_routers.policy_limits import Limits, violation


class Scored(msgspec.Struct, frozen=True, gc=False):
    """One eligible deployment with its expected output tokens and cost, and what switching to it costs later."""

    deployment: Deployment
    output_tokens: float
    cost_usd: float
    switch_cost_usd: float = 0.0

    def unranked_report(self) -> CandidateReport:
        """Return the report of a candidate without estimates."""
        d = self.deployment
        return CandidateReport(
            d.name, d.model, d.arm, d.tier, output_tokens=self.output_tokens, estimated_cost_usd=self.cost_usd
        )


def within_limits(
    scored: list[Scored], policy: RequestPolicy, floor: int
) -> tuple[list[Scored], tuple[CandidateReport, ...]]:
    """Part the candidates into those within the limits and reports of the others."""
    limits = Limits(floor, policy.max_cost_usd)
    kept: list[Scored] = []
    refused: list[CandidateReport] = []
    for item in scored:
        deployment = item.deployment
        reason = violation(limits, tier_rank=tier_rank(deployment.tier), cost_usd=item.cost_usd)
        if reason is None:
            kept.append(item)
            continue
        if reason is RejectReason.MAX_COST:
            detail = f"its expected cost of {_shown_usd(item.cost_usd)} USD is above the cap of {policy.max_cost_usd:g}"
        else:
            detail = f"its tier {deployment.tier or '(none)'} is below {TIERS[floor]}, the floor of this prompt"
        report = replace(item.unranked_report(), rejected=reason, rejected_detail=detail)
        refused.append(report)
    if kept:
        return kept, tuple(refused)
    above = [item for item in scored if tier_rank(item.deployment.tier) >= floor]
    if above:
        raise too_dear(above, policy)
    raise NoCandidate(
        f"This prompt may only be answered by tier {TIERS[floor]} or above, and no such deployment can take it.",
        code="category_floor_unmet",
    )


def too_dear(scored: list[Scored], policy: RequestPolicy) -> NoCandidate:
    """Return the refusal of a request whose cheapest candidate costs more than its cap."""
    cheapest = min(scored, key=lambda item: (item.cost_usd, item.deployment.name))
    return NoCandidate(
        f"The cheapest deployment that may answer, {cheapest.deployment.name}, is expected to cost "
        f"{_shown_usd(cheapest.cost_usd)} USD; the cap is {policy.max_cost_usd:g} USD.",
        code="max_cost_exceeded",
        param="max_cost_usd",
    )


def candidate_of(scored: Scored, scores: Scores) -> Candidate:
    """Return a deployment as the policy weighs it."""
    quality, quality_se, gain, gain_se, _ = scores
    return Candidate(
        scored.deployment.name, quality, quality_se, gain, gain_se, scored.cost_usd, scored.switch_cost_usd
    )


def reports_of(choice: Choice, scored: dict[str, tuple[Scored, Candidate]]) -> tuple[CandidateReport, ...]:
    """One report per candidate, in the order of the ranking."""
    reports = []
    for arm, utility in zip(choice.ranking, choice.utilities, strict=True):
        item, candidate = scored[arm]
        deployment = item.deployment
        reports.append(
            CandidateReport(
                arm,
                deployment.model,
                deployment.arm,
                deployment.tier,
                candidate.quality,
                candidate.quality_se,
                candidate.gain,
                candidate.gain_se,
                item.output_tokens,
                item.cost_usd,
                utility,
                item.switch_cost_usd or None,
            )
        )
    return tuple(reports)


def rejected_report(deployment: Deployment, rejection: Rejection) -> CandidateReport:
    """Return the report of a deployment that could not take the request."""
    d = deployment
    return CandidateReport(d.name, d.model, d.arm, d.tier, rejected=rejection.reason, rejected_detail=rejection.detail)


def no_candidate(deployments: Sequence[Deployment], rejections: dict[str, Rejection]) -> NoCandidate:
    """Return the refusal of a request that no deployment can take, with each one's reason."""
    found = [(d.name, rejections[d.name]) for d in deployments]
    reasons = {rejection.reason for _, rejection in found}
    code = "context_length_exceeded" if reasons == {RejectReason.CONTEXT_LENGTH} else None
    detail = "; ".join(f"{name}: {rejection.detail}" for name, rejection in found)
    return NoCandidate(f"No deployment can take this request. {detail}.", code=code)


def _shown_usd(cost: float) -> str:
    """Write an expected cost rounded up, so that it would do as a cap."""
    return format_usd(Decimal(cost).quantize(Decimal("1e-9"), ROUND_CEILING))
