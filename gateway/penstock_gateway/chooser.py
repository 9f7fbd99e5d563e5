"""From a parsed request to a route decision: filter, embed, estimate, decide.

Owns the router artifact and the encoder while serving. It never fails a request: when it does not know, it
abstains and the default deployment answers. Read `ArmChooser.choose` first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

from penstock_gateway.compatibility import Rejection, reject
from penstock_gateway.decisions import CandidateReport, RouteDecision
from penstock_gateway.deployments import TIERS, Deployment
from penstock_gateway.errors import NoCandidate
from penstock_gateway.identifiers import identifier_source
from penstock_gateway.request_body import ChatRequest, TradeoffValue
from penstock_routers.artifact import RouterArtifact
from penstock_routers.encoder_service import EncoderService
from penstock_routers.estimates import Estimate
from penstock_routers.features import prompt_features
from penstock_routers.policy import Candidate, Choice, RejectReason, RouteReason, decide
from penstock_routers.token_counts import ASSUMED_OUTPUT_TOKENS

_log = logging.getLogger("penstock.router")

# Embedding and estimating take well under a millisecond on an idle machine; past this the default arm answers.
ROUTING_TIMEOUT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class RoutingParts:
    """What a chooser needs to score prompts; absent when the artifact or the encoder was refused."""

    artifact: RouterArtifact
    encoder: EncoderService


@dataclass(frozen=True, slots=True)
class _Scored:
    """One eligible deployment with its expected output tokens and cost."""

    deployment: Deployment
    output_tokens: float
    cost_usd: float


class ArmChooser:
    """Chooses a deployment for a request.

    Parameters
    ----------
    deployments : sequence of Deployment
        Only routable ones are ever chosen.
    default_arm, baseline : str
        Names of the deployment that answers when in doubt, and of the one that savings are measured against.
    tradeoff : str or float
        In force when the client gives none.
    parts : RoutingParts or None
        None makes every decision an abstention.
    on_failure : callable
        Called once for every prompt that the router failed on.
    """

    def __init__(
        self,
        deployments: Sequence[Deployment],
        *,
        default_arm: str,
        baseline: str,
        tradeoff: TradeoffValue,
        parts: RoutingParts | None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._by_name = {deployment.name: deployment for deployment in deployments}
        self._routable = tuple(deployment for deployment in deployments if deployment.is_routable)
        self._default = self._by_name[default_arm]
        self._baseline = self._by_name[baseline]
        self._tradeoff = tradeoff
        self.parts = parts
        self._on_failure = on_failure
        self._new_id = identifier_source("dec")
        self._cost_scale = 1.0 if parts is None else self._cost_scale_usd(parts.artifact)

    @property
    def artifact_id(self) -> str | None:
        """Identifier of the artifact in force."""
        return self.parts.artifact.id if self.parts else None

    def with_artifact(self, artifact: RouterArtifact, encoder: EncoderService, arms: Mapping[str, str]) -> ArmChooser:
        """Return a chooser that decides by another artifact and is the same otherwise.

        Parameters
        ----------
        artifact : RouterArtifact
        encoder : EncoderService
        arms : mapping of str to str
            Arm of this artifact for each deployment, by name.

        Returns
        -------
        ArmChooser
            A new object: requests that this one decides about keep its artifact, arms and cost scale to their end.
        """
        other = copy(self)
        other._by_name = {name: replace(d, arm=arms[name]) for name, d in self._by_name.items()}
        other._routable = tuple(deployment for deployment in other._by_name.values() if deployment.is_routable)
        other._default = other._by_name[self._default.name]
        other._baseline = other._by_name[self._baseline.name]
        other.parts = RoutingParts(artifact, encoder)
        other._cost_scale = other._cost_scale_usd(artifact)
        return other

    async def choose(self, request: ChatRequest, tradeoff: TradeoffValue | None) -> RouteDecision:
        """Return the decision for an alias.

        Parameters
        ----------
        request : ChatRequest
        tradeoff : str, float or None
            The request's own setting; None takes the configured one.

        Returns
        -------
        RouteDecision

        Raises
        ------
        NoCandidate
            No routable deployment can take the request; the message names each one's reason.
        """
        started = time.perf_counter()
        setting = self._tradeoff if tradeoff is None else tradeoff
        rejections = {deployment.name: reject(request, deployment) for deployment in self._routable}
        eligible = [deployment for deployment in self._routable if rejections[deployment.name] is None]
        if not eligible:
            raise _no_candidate(self._routable, rejections)
        estimate = await self._estimate(request)
        decision = self._decide(request, setting, eligible, estimate)
        rejected = tuple(_rejected(d, rejection) for d in self._routable if (rejection := rejections[d.name]))
        return replace(
            decision,
            candidates=decision.candidates + rejected,
            routing_ms=(time.perf_counter() - started) * 1000.0,
        )

    def physical(self, request: ChatRequest, deployment: Deployment) -> RouteDecision:
        """Return the decision that records a physical model: nothing is chosen, nothing is embedded."""
        scored = self._score(request, deployment, None)
        report = CandidateReport(
            deployment.name,
            deployment.model,
            deployment.tier,
            output_tokens=scored.output_tokens,
            estimated_cost_usd=scored.cost_usd,
        )
        return self._record(request, "none", report, RouteReason.PHYSICAL_MODEL, (report,), None)

    async def _estimate(self, request: ChatRequest) -> Estimate | None:
        """Score the prompt on every arm; None when there is nothing to go by."""
        parts = self.parts
        if parts is None or not request.routing_text.strip() or request.attachments:
            return None
        try:
            async with asyncio.timeout(ROUTING_TIMEOUT_SECONDS):
                vector = await parts.encoder.encode(request.routing_text)
            features = prompt_features(request.routing_text)
            return parts.artifact.estimate(vector, features, reference_arm=self._default.arm)
        except Exception as error:  # the guard around routing: a router's failure never fails a request
            self._on_failure()
            _log.warning("router_failed", extra={"error": type(error).__name__})
            return None

    def _decide(
        self, request: ChatRequest, setting: TradeoffValue, eligible: list[Deployment], estimate: Estimate | None
    ) -> RouteDecision:
        if estimate is None or self.parts is None:
            return self._abstain(request, setting, eligible)
        artifact = self.parts.artifact
        known = {arm: index for index, arm in enumerate(estimate.arms)}
        scored = {d.name: self._score(request, d, estimate, known.get(d.arm)) for d in eligible if d.arm in known}
        if not scored:
            return self._abstain(request, setting, eligible)
        candidates = [_candidate(item, estimate, known[item.deployment.arm]) for item in scored.values()]
        tradeoff = artifact.tradeoff(setting)
        choice = decide(
            candidates,
            default_arm=self._default.name,
            tradeoff=tradeoff,
            cost_scale_usd=self._cost_scale,
            is_novel=artifact.is_novel(estimate),
        )
        reports = _reports(choice, {c.arm: c for c in candidates}, scored)
        unscored = tuple(
            _rejected(d, Rejection(RejectReason.NO_ESTIMATE, f"the artifact has no arm '{d.arm}'"))
            for d in eligible
            if d.name not in scored
        )
        name = tradeoff.name or str(setting)
        return self._record(request, name, reports[0], choice.reason, reports + unscored, estimate)

    def _abstain(self, request: ChatRequest, setting: TradeoffValue, eligible: list[Deployment]) -> RouteDecision:
        """Take the default, or when it was filtered the highest tier that is left; with the knob at 0 the cheapest."""
        wants_cheapest = setting == 0.0
        ranking = sorted(
            (self._score(request, deployment, None) for deployment in eligible),
            key=lambda s: (
                not wants_cheapest and s.deployment.name != self._default.name,
                0 if wants_cheapest else -_tier_rank(s.deployment),
                s.cost_usd,
                s.deployment.name,
            ),
        )
        reason = RouteReason.CHEAPEST if wants_cheapest else RouteReason.ABSTAINED_NO_ESTIMATE
        reports = tuple(
            CandidateReport(
                s.deployment.name,
                s.deployment.model,
                s.deployment.tier,
                output_tokens=s.output_tokens,
                estimated_cost_usd=s.cost_usd,
            )
            for s in ranking
        )
        return self._record(request, str(setting), reports[0], reason, reports, None)

    def _score(
        self, request: ChatRequest, deployment: Deployment, estimate: Estimate | None, column: int | None = None
    ) -> _Scored:
        """Return the expected output tokens and cost of one request on one deployment."""
        tokens = ASSUMED_OUTPUT_TOKENS
        if estimate is not None and column is not None:
            tokens = float(estimate.output_tokens[column])
        limit = deployment.max_output_tokens if request.max_tokens is None else request.max_tokens
        tokens = min(tokens, float(limit)) * request.choices
        price = deployment.price
        cost = (request.input_tokens * float(price.input) + tokens * float(price.output)) / 1e6
        return _Scored(deployment, tokens, cost)

    def _cost_scale_usd(self, artifact: RouterArtifact) -> float:
        """Return the cost of one typical request on the dearest routable deployment; 1 when all are free."""
        prices = (deployment.price for deployment in self._routable)
        return max(artifact.cost_scale_usd(float(price.input), float(price.output)) for price in prices) or 1.0

    def _record(
        self,
        request: ChatRequest,
        setting: str,
        chosen: CandidateReport,
        reason: RouteReason,
        reports: tuple[CandidateReport, ...],
        estimate: Estimate | None,
    ) -> RouteDecision:
        baseline = next((r.estimated_cost_usd for r in reports if r.name == self._baseline.name), None)
        if baseline is None:
            baseline = self._baseline_cost_usd(request, estimate)
        return RouteDecision(
            id=self._new_id(),
            created_at=time.time(),
            requested_model=request.model,
            tradeoff=setting,
            chosen=chosen.name,
            reason=reason,
            candidates=reports,
            artifact_id=self.artifact_id if estimate is not None else None,
            default_arm=self._default.name,
            baseline=self._baseline.name,
            input_tokens=request.input_tokens,
            estimated_cost_usd=chosen.estimated_cost_usd,
            baseline_cost_usd=baseline,
            novelty=None if estimate is None else estimate.novelty,
            category=None if estimate is None else estimate.category,
        )

    def _baseline_cost_usd(self, request: ChatRequest, estimate: Estimate | None) -> float:
        column = None
        if estimate is not None and self._baseline.arm in estimate.arms:
            column = estimate.arms.index(self._baseline.arm)
        return self._score(request, self._baseline, estimate, column).cost_usd


def _candidate(scored: _Scored, estimate: Estimate, column: int) -> Candidate:
    return Candidate(
        arm=scored.deployment.name,
        quality=float(estimate.quality[column]),
        quality_se=float(estimate.quality_se[column]),
        gain=float(estimate.gain[column]),
        gain_se=float(estimate.gain_se[column]),
        cost_usd=scored.cost_usd,
    )


def _reports(
    choice: Choice, candidates: dict[str, Candidate], scored: dict[str, _Scored]
) -> tuple[CandidateReport, ...]:
    """One report per candidate, in the order of the ranking."""
    return tuple(
        CandidateReport(
            arm,
            scored[arm].deployment.model,
            scored[arm].deployment.tier,
            quality=candidates[arm].quality,
            quality_se=candidates[arm].quality_se,
            gain=candidates[arm].gain,
            gain_se=candidates[arm].gain_se,
            output_tokens=scored[arm].output_tokens,
            estimated_cost_usd=scored[arm].cost_usd,
            utility=utility,
        )
        for arm, utility in zip(choice.ranking, choice.utilities, strict=True)
    )


def _rejected(deployment: Deployment, rejection: Rejection) -> CandidateReport:
    return CandidateReport(
        deployment.name,
        deployment.model,
        deployment.tier,
        rejected=rejection.reason,
        rejected_detail=rejection.detail,
    )


def _no_candidate(deployments: Sequence[Deployment], rejections: dict[str, Rejection | None]) -> NoCandidate:
    found = [(d.name, rejection) for d in deployments if (rejection := rejections[d.name])]
    reasons = {rejection.reason for _, rejection in found}
    code = "context_length_exceeded" if reasons == {RejectReason.CONTEXT_LENGTH} else None
    detail = "; ".join(f"{name}: {rejection.detail}" for name, rejection in found)
    return NoCandidate(f"No deployment can take this request. {detail}.", code=code)


def _tier_rank(deployment: Deployment) -> int:
    return TIERS.index(deployment.tier) if deployment.tier in TIERS else -1
