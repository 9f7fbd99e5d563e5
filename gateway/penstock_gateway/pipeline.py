"""One chat request from parsed body to settled bill: a step per line in `Pipeline.answer` and `Pipeline._from_model`.

Owns the order of the steps and nothing else: the choice is made in `chooser`, money is held in `spending`, providers
are called by `calling`, and the request ends in `settling`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from penstock_cache.lookups import Hit
from penstock_gateway.accounts.principal import Principal
from penstock_gateway.answer import CLIENT_LEFT_STATUS, Answer, decision_headers, outcome_of
from penstock_gateway.caching.desk import CacheCaller, CacheDesk
from penstock_gateway.caching.replay import StoredReply
from penstock_gateway.caching.visit import Visit
from penstock_gateway.callers import Caller
from penstock_gateway.calling import AttemptDesk
from penstock_gateway.chooser import ArmChooser
from penstock_gateway.conversations import ConversationKeepers, WarmConversations
from penstock_gateway.decisions import RecentDecisions, RouteDecision, Settlement
from penstock_gateway.deployments import Deployment, members
from penstock_gateway.errors import Forbidden, GatewayError, InvalidRequest, NotFound, UpstreamError
from penstock_gateway.events.feedback import FeedbackDesk
from penstock_gateway.events.log import EventLog
from penstock_gateway.events.records import CacheNote
from penstock_gateway.identifiers import DecisionIds, identifier_source
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.money.usage import Usage
from penstock_gateway.prompt_readings import UNREAD, PromptReading
from penstock_gateway.request_body import (
    AUTO_ALIASES,
    ChatRequest,
    is_alias,
    parse_alias,
    parse_tradeoff,
)
from penstock_gateway.request_policy import PolicyBook, RequestPolicy, header_policy
from penstock_gateway.settings_models import Settings
from penstock_gateway.settling import Passage, Place, Settler, Tracing
from penstock_gateway.spending import SpendDesk
from penstock_gateway.upstream.protocol import Upstream
from penstock_gateway.wire.formats import WireFormat
from penstock_routers.policy import RouteReason

KEPT_PER_ANSWER_BYTE = 8
"""A stream's chunks take so many times the bytes of the answer that they add up to: a token of four characters travels
in a chunk of some 150 bytes, and clients' answers repeat id, model and time in each."""


class Pipeline:
    """The steps of one request over the parts built at start.

    Parameters
    ----------
    settings : Settings
        In force, the default arm filled in.
    deployments : sequence of Deployment
    chooser : ArmChooser
    attempts : AttemptDesk
    spending : SpendDesk
    decisions : RecentDecisions
    metrics : GatewayMetrics
    policies : PolicyBook
    conversations : WarmConversations or None
        None when no provider's prompt cache is counted on.
    events : EventLog or None
        None when no events are logged.
    decision_ids : DecisionIds, optional
        The chooser's.

    Attributes
    ----------
    observes : bool
        Whether requests that name a model get a shadow decision.
    cache : CacheDesk or None
        None when nothing is answered from a cache, and until the server has started one.
    """

    def __init__(
        self,
        settings: Settings,
        deployments: Sequence[Deployment],
        chooser: ArmChooser,
        attempts: AttemptDesk,
        spending: SpendDesk,
        decisions: RecentDecisions,
        metrics: GatewayMetrics,
        policies: PolicyBook,
        conversations: WarmConversations | None = None,
        events: EventLog | None = None,
        decision_ids: DecisionIds | None = None,
    ) -> None:
        self.settings = settings
        self.deployments = {deployment.name: deployment for deployment in deployments}
        self.chooser = chooser
        self.attempts = attempts
        self.spending = spending
        self.decisions = decisions
        self.metrics = metrics
        self.policies = policies
        self.conversations = conversations
        self.keepers = ConversationKeepers(settings.routing.warm_conversations)
        self.events = events
        self.decision_ids = decision_ids or DecisionIds()
        self.feedback = FeedbackDesk()
        self.observes = settings.routing.observe
        self.cache: CacheDesk | None = None
        self.max_kept_bytes = 0
        self._settler = Settler(
            decisions,
            metrics,
            spending,
            conversations,
            events,
            lambda: self.chooser.encoder_id,
            self.keepers,
        )
        self._new_completion_id = identifier_source("chatcmpl", "-")

    @property
    def upstreams(self) -> Mapping[str, Upstream]:
        """What speaks to providers, by adapter name."""
        return self.attempts.upstreams

    def use_cache(self, desk: CacheDesk | None) -> None:
        """Answer from a cache from now on; from none when it is None."""
        self.cache = desk
        self.max_kept_bytes = 0 if desk is None else KEPT_PER_ANSWER_BYTE * desk.services.settings.max_answer_bytes

    @property
    def tracing(self) -> Tracing | None:
        """What traces requests; None while nothing does."""
        return self._settler.tracing

    def use_tracing(self, tracing: Tracing | None) -> None:
        """Trace requests from now on, or none."""
        self._settler.tracing = tracing

    def use_spending(self, desk: SpendDesk) -> None:
        """Hold and charge at this desk from now on."""
        self.spending = self._settler.spending = desk

    def use_conversations(self, memory: WarmConversations | None) -> None:
        """Count on warm conversations from now on, or on none."""
        self.conversations = self._settler.conversations = memory

    def use_router(self, chooser: ArmChooser, deployments: Mapping[str, Deployment]) -> None:
        """Decide by another artifact, in which deployments may have other arms, from now on."""
        self.chooser = chooser
        self.deployments = dict(deployments)

    def adopt(
        self, settings: Settings, deployments: Sequence[Deployment], chooser: ArmChooser, policies: PolicyBook
    ) -> None:
        """Put another configuration in force for the requests that come from now on; those under way end as they began.

        A deployment that is gone is known to the requests that were decided before, and to nobody else.
        """
        self.settings = settings
        self.observes = settings.routing.observe
        self.policies = policies
        self.use_router(chooser, {deployment.name: deployment for deployment in deployments})

    async def answer(self, caller: Caller, request: ChatRequest) -> Answer:
        """Choose a deployment, call it, and return its reply.

        Parameters
        ----------
        caller : Caller
        request : ChatRequest

        Returns
        -------
        Answer
            Settles itself when its body or its events have been read.

        Raises
        ------
        GatewayError
            Before any byte of an answer.
        """
        policy = self.policy_of(caller, request)
        place = None if self.events is None else Place(self.events)
        visit = None
        before = self.deployments
        try:
            if self.cache is not None and request.is_reusable:
                visit = self._visit(self.cache, caller, request, policy)
            if visit is not None and (hit := await visit.exact()):
                return await self._from_cache(caller, request, place, visit, hit, before)
            reading = None
            if visit is not None:
                wants_reading = self._wants_reading(request, visit)
                reading = await self.chooser.read(request, caller.tenant) if wants_reading else UNREAD
            in_force = self.deployments  # what is chosen among: a reload changes it for later requests only
            must_ask = self._must_ask_who_keeps(caller, request)
            keeper = None if must_ask else await self._keeper(caller, request)
            decision = await self._choose(caller, request, policy, reading, keeper)
            if visit is not None and reading is not None and (hit := await visit.semantic(reading, decision)):
                return await self._from_cache(caller, request, place, visit, hit, before, reading)
            passage = Passage(caller, request, decision, place=place, deployments=in_force)
            return await self._from_model(passage, policy, visit, must_ask=must_ask)
        except BaseException as error:
            if place is not None:
                place.release()
            if visit is not None:
                visit.close(is_over=isinstance(error, UpstreamError))
            raise

    def _visit(self, cache: CacheDesk, caller: Caller, request: ChatRequest, policy: RequestPolicy) -> Visit:
        return cache.open(caller.cache or CacheCaller(caller.tenant), request, policy, self.chooser.tradeoff)

    def _wants_reading(self, request: ChatRequest, visit: Visit) -> bool:
        """Whether encoder and artifact are to be asked: for `auto`, and where another wording may answer."""
        return is_alias(request.model) or visit.wants_reading

    async def _from_model(
        self, passage: Passage, policy: RequestPolicy, visit: Visit | None, *, must_ask: bool = False
    ) -> Answer:
        """Hold the money, call the chosen deployment or its fallbacks, and return the answer that came."""
        caller, request = passage.caller, passage.request
        if self.tracing is not None:
            passage.trace = self.tracing.begin(caller.traceparent)
        passage.cache = None if visit is None else CacheNote(visit.status)
        plan = await self._held_with_keeper(passage, policy) if must_ask else await self._held(passage)
        decision = passage.decision
        self.decisions.add(caller.tenant, decision, caller.request_id)
        if self.cache is not None:
            self.cache.services.oversight.load.begin(decision.chosen)
        passage.overhead_ms = passage.since_start_ms()
        if self.observes and decision.reason is RouteReason.PHYSICAL_MODEL and request.is_reusable:
            passage.shadow = asyncio.ensure_future(self.chooser.shadow(request, policy))  # beside the call
        passage.on_drained = partial(self.settle, passage, CLIENT_LEFT_STATUS, "client_disconnected")
        try:
            await self.attempts.call(passage, plan)
        except BaseException as error:
            if not passage.is_draining:
                self.settle(passage, *outcome_of(error))
            elif passage.place is not None:
                passage.place.lend()
            if isinstance(error, GatewayError):
                error.headers.update(decision_headers(decision, passage.overhead_ms))
            raise
        return self._answer(passage, visit)

    async def _held(self, passage: Passage) -> tuple[Deployment, ...]:
        """Hold the money, and return the plan that it is held for."""
        plan = self.attempts.plan(passage)
        hold_id = passage.decision.id
        passage.hold = await self.spending.admit(passage.caller.principal, passage.request, plan[0], hold_id)
        return plan

    async def _held_with_keeper(self, passage: Passage, policy: RequestPolicy) -> tuple[Deployment, ...]:
        """Hold the money and ask other gateways who keeps the answer that is referred to, in one trip to Redis.

        What is held is for the deployment that would answer otherwise. Where another one keeps the answer, it is tried
        alone, and what it may cost beyond that is held before the try, as for any other.
        """
        asking = asyncio.ensure_future(self._keeper(passage.caller, passage.request))
        try:
            plan = await self._held(passage)
            keeper = await asking
            if keeper is None or keeper == passage.decision.chosen:
                return plan
            known = passage.decision.id  # under which the money is held
            decision = await self._choose(passage.caller, passage.request, policy, None, keeper)
            passage.decision = replace(decision, id=known)
            return self.attempts.plan(passage)
        except BaseException:
            asking.cancel()
            if passage.hold is not None:
                self.spending.put_charge(passage.hold.settle(None, 0))
            raise

    async def _from_cache(
        self,
        caller: Caller,
        request: ChatRequest,
        place: Place | None,
        visit: Visit,
        hit: Hit,
        before: Mapping[str, Deployment],
        reading: PromptReading = UNREAD,
    ) -> Answer:
        """Return a stored answer in the place of a model's."""
        document = hit.document
        # A reload may have taken the deployment away since its answer was found.
        deployment = self.deployments.get(document.arm) or before[document.arm]
        decision = self.chooser.cached(request, deployment, reading, tenant=caller.tenant)
        passage = Passage(caller, request, decision, place=place, cache=CacheNote(hit.kind, hit.similarity))
        if self.tracing is not None:
            passage.trace = self.tracing.begin(caller.traceparent)
        passage.hold = await self.spending.admit(caller.principal, request, deployment, decision.id, is_cached=True)
        self.decisions.add(caller.tenant, decision, caller.request_id)
        stored = StoredReply(
            document.body,
            completion_id=self._new_completion_id(),
            created=int(decision.created_at),
            wants_usage=request.wants_usage,
            usage=Usage(input_tokens=document.input_tokens, output_tokens=document.output_tokens),
        )
        translation = passage.translation(WireFormat.CHAT)
        passage.reply = stored if translation is None else translation.wrap(stored)
        passage.overhead_ms = passage.since_start_ms()
        return self._answer(passage, visit, hit)

    def _answer(self, passage: Passage, visit: Visit | None, hit: Hit | None = None) -> Answer:
        def settle(status: int, error_code: str | None) -> Settlement:
            return self.settle(passage, status, error_code)

        return Answer(
            settle,
            passage,
            visit=visit,
            hit=hit,
            max_kept_bytes=self.max_kept_bytes,
            drains=self.attempts.drains,
            is_revoked=self.attempts.is_revoked,
        )

    def settle(self, passage: Passage, status: int, error_code: str | None) -> Settlement:
        """End a request; see `Settler.settle`."""
        settlement = self._settler.settle(passage, status, error_code)
        if self.cache is not None and not passage.is_cached:
            self.cache.services.oversight.load.end(passage.decision.chosen, settlement)
        return settlement

    def policy_of(self, caller: Caller, request: ChatRequest) -> RequestPolicy:
        """Return what the request allows.

        Raises
        ------
        InvalidRequest
            An unknown or contradictory control.
        Forbidden
            ``model_not_allowed``.
        """
        given = None if caller.tradeoff is None else parse_tradeoff(caller.tradeoff, param="x-penstock-tradeoff")
        header = header_policy(tradeoff=given, max_cost_usd=caller.max_cost_usd, min_quality=caller.min_quality)
        alias = parse_alias(request.model) if is_alias(request.model) else None
        principal = caller.principal
        policy = self.policies.resolve(caller.tenant, request, header, alias, principal.policy)
        if principal.budget_rules and policy.min_quality is None:
            setting = self.spending.tradeoff(principal, policy.tradeoff, self.chooser.tradeoff)
            policy = replace(policy, tradeoff=setting)
        self._check_allowed(principal, request.model)
        if principal.choosable_models is not None:
            policy = replace(policy, choosable=self._choosable(principal.choosable_models))
        return policy

    def may_ask_for(self, principal: Principal, model: str) -> bool:
        """Whether a key may name a model; a group's name allows its deployments."""
        if principal.may_ask_for(model):
            return True
        deployment = self.deployments.get(model)
        return deployment is not None and deployment.group is not None and principal.may_ask_for(deployment.group)

    def _check_allowed(self, principal: Principal, model: str) -> None:
        """Refuse a model that the key may not ask for.

        Raises
        ------
        Forbidden
            ``model_not_allowed``.
        """
        if not self.may_ask_for(principal, model):
            shown = ", ".join(sorted(principal.allowed_models or ())[:12]) or "none"
            raise Forbidden(
                f"This key may not use the model '{model[:80]}'. It may use: {shown}.", code="model_not_allowed"
            )

    def _choosable(self, names: frozenset[str]) -> frozenset[str]:
        """Return the deployments among names of deployments and groups."""
        return frozenset(d.name for d in self.deployments.values() if d.name in names or d.group in names)

    async def decide(
        self,
        caller: Caller,
        request: ChatRequest,
        policy: RequestPolicy | None = None,
        reading: PromptReading | None = None,
    ) -> RouteDecision:
        """Return the decision for an alias or a physical model.

        Parameters
        ----------
        caller : Caller
        request : ChatRequest
        policy : RequestPolicy, optional
            What `policy_of` said.
        reading : PromptReading, optional
            What the chooser has read already.

        Raises
        ------
        NotFound
            Code ``model_not_found``.
        InvalidRequest
            An unknown or contradictory control.
        NoCandidate
            Nothing can take the request, or nothing may within its limits.
        """
        policy = policy or self.policy_of(caller, request)
        return await self._choose(caller, request, policy, reading, await self._keeper(caller, request))

    async def _choose(
        self,
        caller: Caller,
        request: ChatRequest,
        policy: RequestPolicy,
        reading: PromptReading | None,
        keeper: str | None,
    ) -> RouteDecision:
        """Return the decision, now that it is known who keeps the conversation; raises what `decide` does."""
        warm = None
        if self.conversations is not None and request.is_follow_up:
            warm = self.conversations.find(caller.tenant, request.opening)
        if is_alias(request.model):
            if request.front is WireFormat.EMBEDDINGS:
                raise InvalidRequest(
                    "Name an embedding model: vectors of two models do not mix, so they are not routed.",
                    code="embeddings_not_routed",
                    param="model",
                )
            return await self.chooser.choose(
                request, policy.tradeoff, policy, warm, reading, keeper, tenant=caller.tenant
            )
        deployment = self.deployments.get(request.model)
        if deployment is None:
            group = {other.name: other for other in members(self.deployments.values(), request.model)}
            deployment = group.get(keeper or "") or next(iter(group.values()), None)
        if deployment is None:
            raise self.unknown_model(request.model)
        return self.chooser.physical(request, deployment, policy, warm, tenant=caller.tenant)

    def _must_ask_who_keeps(self, caller: Caller, request: ChatRequest) -> bool:
        """Whether other gateways have to be asked who keeps the answer that a request refers to."""
        answer_id = None if request.native is None else request.native.answer_id
        if answer_id is None or self.keepers.shared is None:
            return False
        return self.keepers.known_answer(caller.tenant, answer_id) is None

    async def _keeper(self, caller: Caller, request: ChatRequest) -> str | None:
        """Return who goes on with a conversation, of which a part is readable or worth much to nobody else.

        Raises
        ------
        InvalidRequest
            ``previous_response_unknown``, ``previous_response_not_found``.
        """
        answer_id = None if request.native is None else request.native.answer_id
        if answer_id is not None:
            kept = await self.keepers.find_answer(caller.tenant, answer_id)
            if kept is not None and kept.is_foreign:  # in OpenAI's own words for an id that is nobody's
                raise InvalidRequest(
                    f"Previous response with id '{answer_id[:80]}' not found.",
                    code="previous_response_not_found",
                    param="previous_response_id",
                )
            if kept is None and is_alias(request.model):
                raise InvalidRequest(
                    "This gateway does not know who gave that earlier answer: name the model that did.",
                    code="previous_response_unknown",
                    param="previous_response_id",
                )
            return None if kept is None else kept.deployment
        if request.is_agent_step or request.is_bound:
            return self.keepers.find(caller.tenant, request.opening)
        return None

    def unknown_model(self, model: str) -> NotFound:
        """Return the error that names what is known instead."""
        groups = dict.fromkeys(d.group for d in self.deployments.values() if d.group is not None)
        known = [*AUTO_ALIASES, *groups, *self.deployments]
        shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
        return NotFound(
            f"The model '{model[:80]}' does not exist here. Known: {shown}; or auto@0.7.",
            code="model_not_found",
            param="model",
        )
