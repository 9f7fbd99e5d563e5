"""From a parsed request to a route decision: filter, embed, estimate, apply the limits, decide.

Owns the router artifact and the encoder while serving. It never fails a request: when it does not know, it
abstains and the default deployment answers. Read `ArmChooser.choose` first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec
from msgspec import structs

from penstock_gateway.arm_costs import ArmCosts, cost_scale_usd
from penstock_gateway.compatibility import Rejection, reject
from penstock_gateway.conversations import Warm
from penstock_gateway.decisions import CandidateReport, RouteDecision
from penstock_gateway.deployments import TIERS, Deployment
from penstock_gateway.errors import GatewayError
from penstock_gateway.identifiers import DecisionIds
from penstock_gateway.prompt_readings import UNREAD, PromptReading, ReadingMemory, reading_digest
from penstock_gateway.remote_encoder.service import RemoteEncoderService
from penstock_gateway.request_body import ChatRequest, TradeoffValue
from penstock_gateway.request_policy import UNLIMITED, PolicyRules, RequestPolicy, tier_rank
from penstock_gateway.scored import (
    Scored,
    candidate_of,
    no_candidate,
    rejected_report,
    reports_of,
    too_dear,
    within_limits,
)
from penstock_gateway.wire.formats import WireFormat
from penstock_routers.artifact import RouterArtifact
from penstock_routers.encoder_service import EncoderService
from penstock_routers.estimates import Estimate, FloatArray, Scores
from penstock_routers.features import NO_CONTEXT, PromptContext, prompt_features
from penstock_routers.policy import Choice, RejectReason, RouteReason, decide, forgone_usd
from penstock_routers.policy_explore import Exploration, explore
from penstock_routers.policy_limits import NO_TIER, Limits, floor_rank, violation
from penstock_routers.token_counts import ASSUMED_OUTPUT_TOKENS

_log = logging.getLogger("penstock.router")

# Embedding and estimating take well under a millisecond on an idle machine; past this the default arm answers.
ROUTING_TIMEOUT_SECONDS = 0.5
_UNKNOWN = (0.0, 0.0, 0.0, 0.0, ASSUMED_OUTPUT_TOKENS)


@dataclass(frozen=True, slots=True)
class RoutingParts:
    """What a chooser needs to score prompts; absent when the artifact or the encoder was refused."""

    artifact: RouterArtifact
    encoder: EncoderService | RemoteEncoderService
    readings: ReadingMemory = field(default_factory=ReadingMemory)

    async def read(
        self, text: str, reference_arm: str, context: PromptContext = NO_CONTEXT
    ) -> tuple[FloatArray, Estimate]:
        """Return a prompt's vector and estimates, in one run where the artifact carries the joined graph."""
        if isinstance(self.encoder, EncoderService) and self.encoder.is_inline:  # a timer could never fire
            return await self._read(text, reference_arm, context)
        async with asyncio.timeout(ROUTING_TIMEOUT_SECONDS):
            return await self._read(text, reference_arm, context)

    async def _read(self, text: str, reference_arm: str, context: PromptContext) -> tuple[FloatArray, Estimate]:
        if self.artifact.fused is not None and isinstance(self.encoder, EncoderService):
            return await self.encoder.read(text, self.artifact.fused, reference_arm, context)
        vector = await self.encoder.encode(text)
        features = prompt_features(text)
        return vector, self.artifact.estimate(vector, features, reference_arm=reference_arm, context=context)


class _Asked(msgspec.Struct, frozen=True, gc=False):
    """One request with everything that its decision depends on beside the estimate."""

    request: ChatRequest
    setting: TradeoffValue
    policy: RequestPolicy
    warm: Warm | None
    decision_id: str
    started: float
    rejected: tuple[CandidateReport, ...] = ()
    reading_ms: float = 0.0


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
    rules : PolicyRules, optional
        What holds for every request beside its own policy.
    ids : DecisionIds, optional
        Names decisions.
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
        rules: PolicyRules | None = None,
        ids: DecisionIds | None = None,
    ) -> None:
        self._by_name = {deployment.name: deployment for deployment in deployments}
        self._routable = tuple(deployment for deployment in deployments if deployment.is_routable)
        self._default = self._by_name[default_arm]
        self._baseline = self._by_name[baseline]
        self.tradeoff = tradeoff
        self.parts = parts
        self._on_failure = on_failure
        self._rules = rules or PolicyRules()
        self._ids = ids or DecisionIds()
        self._cost_scale = 1.0 if parts is None else cost_scale_usd(parts.artifact, self._routable)
        self._costs = ArmCosts(deployments, self._rules.switch_share)
        self._known_columns: tuple[tuple[str, ...], dict[str, int]] = ((), {})

    @property
    def artifact_id(self) -> str | None:
        """Identifier of the artifact in force."""
        return self.parts.artifact.id if self.parts else None

    @property
    def encoder_id(self) -> str | None:
        """Identifier of the encoder in force."""
        return self.parts.artifact.manifest.encoder.id if self.parts else None

    def with_artifact(
        self, artifact: RouterArtifact, encoder: EncoderService | RemoteEncoderService, arms: Mapping[str, str]
    ) -> ArmChooser:
        """Return a chooser that decides by another artifact and is the same otherwise.

        Parameters
        ----------
        artifact : RouterArtifact
        encoder : EncoderService or RemoteEncoderService
        arms : mapping of str to str
            Arm of this artifact for each deployment, by name.

        Notes
        -----
        Requests that this object decides about keep its artifact, arms and cost scale to their end.
        """
        other = copy(self)
        other._by_name = {name: replace(d, arm=arms[name]) for name, d in self._by_name.items()}
        other._routable = tuple(deployment for deployment in other._by_name.values() if deployment.is_routable)
        other._default = other._by_name[self._default.name]
        other._baseline = other._by_name[self._baseline.name]
        other.parts = RoutingParts(artifact, encoder)
        other._known_columns = ((), {})
        other._cost_scale = cost_scale_usd(artifact, other._routable)
        return other

    async def choose(
        self,
        request: ChatRequest,
        tradeoff: TradeoffValue | None,
        policy: RequestPolicy = UNLIMITED,
        warm: Warm | None = None,
        reading: PromptReading | None = None,
        keeper: str | None = None,
        *,
        tenant: str | None = None,
    ) -> RouteDecision:
        """Return the decision for an alias.

        Parameters
        ----------
        request : ChatRequest
        tradeoff : str, float or None
            The request's own setting; None takes the configured one.
        policy : RequestPolicy
            Its limits; the trade-off in it is not looked at.
        warm : Warm, optional
            Who answered the conversation last.
        reading : PromptReading, optional
            What `read` said, when it has been asked already.
        keeper : str, optional
            Deployment that goes on with the conversation if it can: nothing is embedded and nothing chosen then.
        tenant : str, optional
            See `read`.

        Returns
        -------
        RouteDecision

        Raises
        ------
        NoCandidate
            No routable deployment can take the request; the message names each one's reason. ``category_floor_unmet``:
            none of them reaches the floor of the prompt's category; ``max_cost_exceeded``: every one of them is
            expected to cost more than the cap.
        """
        started = time.perf_counter()
        setting = self.tradeoff if tradeoff is None else tradeoff
        eligible: list[Deployment] = []
        rejections: dict[str, Rejection] = {}
        for deployment in self._routable:
            rejection = _not_allowed(deployment, policy) or reject(request, deployment)
            if rejection is None:
                eligible.append(deployment)
            else:
                rejections[deployment.name] = rejection
        if not eligible:
            raise no_candidate(self._routable, rejections)
        rejected = tuple([rejected_report(self._by_name[name], why) for name, why in rejections.items()])
        duration_ms = 0.0 if reading is None else reading.duration_ms
        asked = _Asked(request, setting, policy, warm, self._ids.new(tenant), started, rejected, duration_ms)
        if keeper is not None and any(deployment.name == keeper for deployment in eligible):
            return self._continue(asked, eligible, keeper)
        estimate = (reading or await self.read(request, tenant)).estimate
        return self._decide(asked, eligible, estimate)

    def physical(
        self,
        request: ChatRequest,
        deployment: Deployment,
        policy: RequestPolicy = UNLIMITED,
        warm: Warm | None = None,
        *,
        tenant: str | None = None,
    ) -> RouteDecision:
        """Return the decision that records a physical model: nothing is chosen, nothing is embedded.

        Floors are about what Penstock chooses and do not bind a client that names a model; a cap on the cost does.

        Raises
        ------
        NoCandidate
            ``max_cost_exceeded``.
        """
        asked = _Asked(request, "none", policy, warm, self._ids.new(tenant), 0.0)
        scored = self._costs.score(request, deployment, warm)
        if violation(Limits(max_cost_usd=policy.max_cost_usd), tier_rank=NO_TIER, cost_usd=scored.cost_usd):
            raise too_dear([scored], policy)
        report = scored.unranked_report()
        choice = Choice(deployment.name, RouteReason.PHYSICAL_MODEL, (deployment.name,), (0.0,))
        return self._record(asked, choice, (report,), None)

    def cached(
        self,
        request: ChatRequest,
        deployment: Deployment,
        reading: PromptReading = UNREAD,
        *,
        tenant: str | None = None,
    ) -> RouteDecision:
        """Return the decision that records an answer from the cache: nothing is chosen and no model is called.

        Parameters
        ----------
        request : ChatRequest
        deployment : Deployment
            That gave the stored answer.
        reading : PromptReading
        tenant : str, optional
        """
        asked = _Asked(request, "none", UNLIMITED, None, self._ids.new(tenant), 0.0)
        report = structs.replace(self._costs.score(request, deployment).unranked_report(), estimated_cost_usd=0.0)
        choice = Choice(deployment.name, RouteReason.CACHED, (deployment.name,), (0.0,))
        return self._record(asked, choice, (report,), reading.estimate)

    async def shadow(self, request: ChatRequest, policy: RequestPolicy = UNLIMITED) -> RouteDecision | None:
        """Return what would have been chosen had the client left the choice to the gateway.

        Parameters
        ----------
        request : ChatRequest
        policy : RequestPolicy

        Returns
        -------
        RouteDecision or None
            None when nothing could have been chosen.
        """
        try:
            return await self.choose(request, policy.tradeoff, policy)
        except GatewayError:
            return None

    async def read(self, request: ChatRequest, tenant: str | None = None) -> PromptReading:
        """Embed the prompt and score it on every arm; empty when there is nothing to go by.

        Parameters
        ----------
        request : ChatRequest
        tenant : str, optional
            Whose prompts are remembered; without one nothing is.
        """
        parts = self.parts
        if parts is None or not request.routing_text.strip() or request.attachments:
            return UNREAD
        context = request.context if parts.artifact.reads_context else NO_CONTEXT
        digest = None if tenant is None else reading_digest(tenant, request.routing_text, context)
        known = None if digest is None else parts.readings.find(digest)
        if known is not None:
            return known
        started = time.perf_counter()
        try:
            vector, estimate = await parts.read(request.routing_text, self._default.arm, context)
        except Exception as error:  # the guard around routing: a router's failure never fails a request
            self._on_failure()
            _log.warning("router_failed", extra={"error": type(error).__name__})
            return UNREAD
        reading = PromptReading(vector, estimate, (time.perf_counter() - started) * 1000.0)
        if digest is not None:
            parts.readings.keep(digest, reading)
        return reading

    def _decide(self, asked: _Asked, eligible: list[Deployment], estimate: Estimate | None) -> RouteDecision:
        scores: dict[str, Scores] = {}
        if estimate is not None:
            numbers = estimate.numbers()
            scores = {name: numbers[column] for name, column in self._columns(estimate.arms).items()}
        score, request, warm = self._costs.score, asked.request, asked.warm
        scored = [score(request, d, warm, scores.get(d.name, _UNKNOWN)[4]) for d in eligible]
        if not asked.policy.has_limits:
            return self._decide_among(asked, scored, estimate, scores)
        floor = self._floor(asked.policy, estimate)
        allowed, refused = within_limits(scored, asked.policy, floor)
        asked = structs.replace(asked, rejected=refused + asked.rejected)
        decision = self._decide_among(asked, allowed, estimate, scores)
        return structs.replace(decision, floor=TIERS[floor]) if floor > NO_TIER else decision

    def _columns(self, arms: tuple[str, ...]) -> dict[str, int]:
        """Return where an estimate has the numbers of each routable deployment; worked out once for an artifact."""
        known_arms, columns = self._known_columns
        if known_arms is not arms:
            places = {arm: place for place, arm in enumerate(arms)}
            columns = {d.name: places[d.arm] for d in self._routable if d.arm in places}
            self._known_columns = arms, columns
        return columns

    def _floor(self, policy: RequestPolicy, estimate: Estimate | None) -> int:
        """Return the rank of the lowest tier that may answer."""
        if not policy.floors:
            return NO_TIER
        is_novel = estimate is not None and self.parts is not None and self.parts.artifact.is_novel(estimate)
        return floor_rank(
            policy.floors,
            category=None if estimate is None else estimate.category,
            shares={} if estimate is None else estimate.category_shares(),
            is_novel=is_novel,
            probability=self._rules.floor_probability,
        )

    def _decide_among(
        self, asked: _Asked, allowed: list[Scored], estimate: Estimate | None, scores: dict[str, Scores]
    ) -> RouteDecision:
        known = [s for s in allowed if s.deployment.name in scores]
        if estimate is None or self.parts is None or not known:
            return self._abstain(asked, allowed)
        artifact = self.parts.artifact
        candidates = [candidate_of(item, scores[item.deployment.name]) for item in known]
        tradeoff = artifact.tradeoff(asked.setting)
        is_novel = artifact.is_novel(estimate)
        settled = partial(
            decide,
            default_arm=self._default.name,
            tradeoff=tradeoff,
            cost_scale_usd=self._cost_scale,
            is_novel=is_novel,
            min_quality=asked.policy.min_quality,
        )
        choice = settled(candidates)
        if asked.policy.explore_rate > 0.0:
            choice = explore(
                choice,
                candidates,
                default_arm=self._default.name,
                exploration=Exploration(
                    asked.policy.explore_rate, self._rules.draw(asked.decision_id), self._rules.max_cost_ratio
                ),
                is_novel=is_novel,
                min_quality=asked.policy.min_quality,
            )
        scored = {c.arm: (item, c) for item, c in zip(known, candidates, strict=True)}
        reports = reports_of(choice, scored)
        if len(known) < len(allowed):
            reports += tuple(
                rejected_report(d, Rejection(RejectReason.NO_ESTIMATE, f"the artifact has no arm '{d.arm}'"))
                for d in (s.deployment for s in allowed)
                if d.name not in scores
            )
        decision = self._record(asked, choice, reports, estimate, tradeoff.name)
        if asked.warm is None or choice.arm != asked.warm.deployment:
            return decision
        free = settled([structs.replace(c, switch_cost_usd=0.0) for c in candidates])
        if asked.policy.min_quality is None or is_novel:
            forgone = forgone_usd(choice, free, tradeoff, self._cost_scale)
        else:  # λ plays no part: the arms that are good enough differ in cost alone
            forgone = max(0.0, scored[choice.arm][0].cost_usd - scored[free.arm][0].cost_usd)
        return structs.replace(decision, forgone_usd=asked.warm.forgone_usd + forgone)

    def _continue(self, asked: _Asked, eligible: Sequence[Deployment], keeper: str) -> RouteDecision:
        """Take who answered last; the rest, dearest tier first, only where another model can read the conversation."""
        others = [d for d in eligible if d.name != keeper and not asked.request.is_bound]
        others.sort(key=lambda d: (d.name != self._default.name, -tier_rank(d.tier), d.name))
        ranking = [self._costs.score(asked.request, d, asked.warm) for d in (self._by_name[keeper], *others)]
        names = tuple(scored.deployment.name for scored in ranking)
        choice = Choice(names[0], RouteReason.CONTINUED, names, (0.0,) * len(names))
        return self._record(asked, choice, tuple(scored.unranked_report() for scored in ranking), None)

    def _abstain(self, asked: _Asked, allowed: list[Scored]) -> RouteDecision:
        """Take the default, or when it was filtered the highest tier that is left; with the knob at 0 the cheapest."""
        wants_cheapest = asked.setting == 0.0
        ranking = sorted(
            allowed,
            key=lambda s: (
                not wants_cheapest and s.deployment.name != self._default.name,
                0 if wants_cheapest else -tier_rank(s.deployment.tier),
                s.cost_usd,
                s.deployment.name,
            ),
        )
        reason = RouteReason.CHEAPEST if wants_cheapest else RouteReason.ABSTAINED_NO_ESTIMATE
        names = tuple(s.deployment.name for s in ranking)
        choice = Choice(names[0], reason, names, (0.0,) * len(names))
        return self._record(asked, choice, tuple(s.unranked_report() for s in ranking), None)

    def _record(
        self,
        asked: _Asked,
        choice: Choice,
        reports: tuple[CandidateReport, ...],
        estimate: Estimate | None,
        setting: str = "",
    ) -> RouteDecision:
        baseline = None
        if asked.warm is None:  # of a warm conversation another number is wanted than the baseline's own report has
            baseline = next((r.estimated_cost_usd for r in reports if r.name == self._baseline.name), None)
        request, policy = asked.request, asked.policy
        if request.front is WireFormat.EMBEDDINGS:
            baseline = None  # the baseline makes no vectors, so nothing is saved against it
        elif baseline is None:
            baseline = self._baseline_cost_usd(asked, estimate)
        return RouteDecision(
            id=asked.decision_id,
            created_at=time.time(),
            requested_model=request.model,
            tradeoff=setting or str(asked.setting),
            chosen=choice.arm,
            reason=choice.reason,
            candidates=reports + asked.rejected,
            artifact_id=self.artifact_id if estimate is not None else None,
            default_arm=self._default.name,
            baseline=self._baseline.name,
            input_tokens=request.input_tokens,
            estimated_cost_usd=reports[0].estimated_cost_usd,
            baseline_cost_usd=baseline,
            novelty=None if estimate is None else estimate.novelty,
            category=None if estimate is None else estimate.category,
            propensity=choice.propensity,
            routing_ms=(time.perf_counter() - asked.started) * 1000.0 + asked.reading_ms if asked.started else 0.0,
            max_cost_usd=policy.max_cost_usd,
            min_quality=policy.min_quality,
            warm=None if asked.warm is None else asked.warm.deployment,
            api=request.front.value,
            context=request.context,
        )

    def _baseline_cost_usd(self, asked: _Asked, estimate: Estimate | None) -> float:
        """Return the request's cost had the baseline answered it, and every earlier turn of its conversation."""
        tokens = ASSUMED_OUTPUT_TOKENS
        if estimate is not None and self._baseline.arm in estimate.arms:
            tokens = float(estimate.output_tokens[estimate.arms.index(self._baseline.arm)])
        warm = None if asked.warm is None else replace(asked.warm, deployment=self._baseline.name)
        return self._costs.score(asked.request, self._baseline, warm, tokens).cost_usd


def _not_allowed(deployment: Deployment, policy: RequestPolicy) -> Rejection | None:
    if policy.choosable is None or deployment.name in policy.choosable:
        return None
    return Rejection(RejectReason.NOT_ALLOWED, "this key may not use it")
