"""One chat request from parsed body to settled bill: a step per line in `Pipeline.answer`.

Owns the order of the steps and nothing else: the choice is made in `chooser`, the provider is called in
`upstream`, prices live in `money`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from penstock_cache.lookups import Hit
from penstock_gateway.answer import Answer, decision_headers, outcome_of
from penstock_gateway.asgi import RequestHead
from penstock_gateway.caching.desk import CacheCaller, CacheDesk
from penstock_gateway.caching.replay import StoredReply
from penstock_gateway.caching.visit import Visit
from penstock_gateway.chooser import UNREAD, ArmChooser, PromptReading
from penstock_gateway.compatibility import body_for
from penstock_gateway.conversations import Warm, WarmConversations
from penstock_gateway.decisions import RecentDecisions, RouteDecision, Settlement
from penstock_gateway.deployments import Deployment
from penstock_gateway.errors import GatewayError, NotFound, UpstreamBroken, UpstreamError
from penstock_gateway.event_log import EventLog
from penstock_gateway.identifiers import identifier_source
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.money.prices import cost_usd
from penstock_gateway.money.usage import Usage
from penstock_gateway.request_body import (
    AUTO_ALIASES,
    ChatRequest,
    is_alias,
    parse_alias,
    parse_tradeoff,
)
from penstock_gateway.request_policy import PolicyBook, RequestPolicy, header_policy
from penstock_gateway.upstream.protocol import Upstream, UpstreamReply, UpstreamRequest
from penstock_routers.policy import RouteReason
from penstock_routers.token_counts import estimate_tokens

_log = logging.getLogger("penstock.requests")

KEPT_PER_ANSWER_BYTE = 8
"""A stream's chunks take so many times the bytes of the answer that they add up to: a token of four characters travels
in a chunk of some 150 bytes, and clients' answers repeat id, model and time in each."""


_HIGHEST_STATUS = 599


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and with which control headers.

    Attributes
    ----------
    tenant : str
    request_id : str
    tradeoff : str or None
        Value of ``x-penstock-tradeoff``.
    includes_cost : bool
        ``x-penstock-include-cost``.
    started : float
        ``time.perf_counter()`` when the body was complete.
    max_cost_usd, min_quality : str or None
        Values of the headers of these names.
    cache : CacheCaller or None
        What the headers say of the cache.
    """

    tenant: str
    request_id: str
    tradeoff: str | None
    includes_cost: bool
    started: float
    max_cost_usd: str | None = None
    min_quality: str | None = None
    cache: CacheCaller | None = None


def caller_of(head: RequestHead, tenant: str, request_id: str) -> Caller:
    """Return who sent a request whose body is complete by now."""
    return Caller(
        tenant,
        request_id,
        head.tradeoff,
        head.include_cost,
        time.perf_counter(),
        head.max_cost_usd,
        head.min_quality,
        CacheCaller(tenant, head.cache, head.cache_category, head.cache_marks),
    )


class Pipeline:
    """The steps of one request over the parts built at start.

    Parameters
    ----------
    deployments : sequence of Deployment
    chooser : ArmChooser
    upstreams : mapping of str to Upstream
        By adapter name.
    decisions : RecentDecisions
    metrics : GatewayMetrics
    policies : PolicyBook
    conversations : WarmConversations or None
        None when no provider's prompt cache is counted on.
    events : EventLog or None
        None when no events are logged.

    Attributes
    ----------
    cache : CacheDesk or None
        None when nothing is answered from a cache, and until the server has started one.
    """

    def __init__(
        self,
        deployments: Sequence[Deployment],
        chooser: ArmChooser,
        upstreams: Mapping[str, Upstream],
        decisions: RecentDecisions,
        metrics: GatewayMetrics,
        policies: PolicyBook,
        conversations: WarmConversations | None = None,
        events: EventLog | None = None,
    ) -> None:
        self.deployments = {deployment.name: deployment for deployment in deployments}
        self.chooser = chooser
        self.upstreams = upstreams
        self.decisions = decisions
        self.metrics = metrics
        self.policies = policies
        self.conversations = conversations
        self.events = events
        self.cache: CacheDesk | None = None
        self.max_kept_bytes = 0
        self._new_completion_id = identifier_source("chatcmpl")

    def use_cache(self, desk: CacheDesk) -> None:
        """Answer from a cache from now on."""
        self.cache = desk
        self.max_kept_bytes = KEPT_PER_ANSWER_BYTE * desk.services.settings.max_answer_bytes

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
        visit = None if self.cache is None else self._visit(self.cache, caller, request, policy)
        try:
            if visit is not None and (hit := await visit.exact()):
                return self._from_cache(caller, request, visit, hit)
            if visit is None:
                return await self._from_model(caller, request, await self.decide(caller, request, policy), None)
            reading = await self.chooser.read(request) if self._wants_reading(request, visit) else UNREAD
            decision = await self.decide(caller, request, policy, reading)
            if hit := await visit.semantic(reading, decision):
                return self._from_cache(caller, request, visit, hit, reading)
            return await self._from_model(caller, request, decision, visit)
        except BaseException as error:
            if visit is not None:
                visit.close(is_over=isinstance(error, UpstreamError))
            raise

    def _visit(self, cache: CacheDesk, caller: Caller, request: ChatRequest, policy: RequestPolicy) -> Visit:
        return cache.open(caller.cache or CacheCaller(caller.tenant), request, policy, self.chooser.tradeoff)

    def _wants_reading(self, request: ChatRequest, visit: Visit) -> bool:
        """Whether encoder and artifact are to be asked: for `auto`, and where another wording may answer."""
        return is_alias(request.model) or visit.wants_reading

    async def _from_model(
        self, caller: Caller, request: ChatRequest, decision: RouteDecision, visit: Visit | None
    ) -> Answer:
        """Call the chosen deployment."""
        deployment = self.deployments[decision.chosen]
        attempt = self._prepare(caller, request, deployment)
        self.decisions.add(caller.tenant, decision)
        if self.cache is not None:
            self.cache.services.oversight.load.begin(deployment.name)
        overhead_ms = (time.perf_counter() - caller.started) * 1000.0
        try:
            reply = await self.upstreams[deployment.adapter].send(attempt)
            if reply.status > _HIGHEST_STATUS:
                await reply.aclose()
                raise UpstreamBroken("The provider answered with a status that does not exist.")
        except BaseException as error:
            self.settle(caller, request, decision, None, *outcome_of(error), overhead_ms)
            if isinstance(error, GatewayError):
                error.headers.update(decision_headers(decision, overhead_ms))
            raise
        return self._answer(caller, request, decision, reply, overhead_ms, visit)

    def _from_cache(
        self, caller: Caller, request: ChatRequest, visit: Visit, hit: Hit, reading: PromptReading = UNREAD
    ) -> Answer:
        """Return a stored answer in the place of a model's."""
        document = hit.document
        decision = self.chooser.cached(request, self.deployments[document.arm], reading)
        self.decisions.add(caller.tenant, decision)
        reply = StoredReply(
            document.body,
            completion_id=self._new_completion_id(),
            created=int(decision.created_at),
            wants_usage=request.wants_usage,
            usage=Usage(input_tokens=document.input_tokens, output_tokens=document.output_tokens),
        )
        overhead_ms = (time.perf_counter() - caller.started) * 1000.0
        return self._answer(caller, request, decision, reply, overhead_ms, visit, hit)

    def _answer(
        self,
        caller: Caller,
        request: ChatRequest,
        decision: RouteDecision,
        reply: UpstreamReply,
        overhead_ms: float,
        visit: Visit | None,
        hit: Hit | None = None,
    ) -> Answer:
        def settle(status: int, error_code: str | None) -> Settlement:
            return self.settle(caller, request, decision, reply, status, error_code, overhead_ms)

        return Answer(
            settle,
            request,
            decision,
            reply,
            overhead_ms,
            includes_cost=caller.includes_cost or request.includes_cost,
            visit=visit,
            hit=hit,
            max_kept_bytes=self.max_kept_bytes,
        )

    def policy_of(self, caller: Caller, request: ChatRequest) -> RequestPolicy:
        """Return what the request allows.

        Raises
        ------
        InvalidRequest
            An unknown or contradictory control.
        """
        given = None if caller.tradeoff is None else parse_tradeoff(caller.tradeoff, param="x-penstock-tradeoff")
        header = header_policy(tradeoff=given, max_cost_usd=caller.max_cost_usd, min_quality=caller.min_quality)
        alias = parse_alias(request.model) if is_alias(request.model) else None
        return self.policies.resolve(caller.tenant, request, header, alias)

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
        warm = None
        if self.conversations is not None and request.is_follow_up:
            warm = self.conversations.find(caller.tenant, request.opening)
        if is_alias(request.model):
            return await self.chooser.choose(request, policy.tradeoff, policy, warm, reading)
        deployment = self.deployments.get(request.model)
        if deployment is None:
            raise self._unknown_model(request.model)
        return self.chooser.physical(request, deployment, policy, warm)

    def settle(
        self,
        caller: Caller,
        request: ChatRequest,
        decision: RouteDecision,
        reply: UpstreamReply | None,
        status: int,
        error_code: str | None,
        overhead_ms: float,
    ) -> Settlement:
        """Work out the actual cost, remember it, count it and write the request's log line."""
        usage = _usage_of(request, reply)
        deployment = self.deployments[decision.chosen]
        cost = None if usage is None else cost_usd(usage, deployment.price)
        is_cached = decision.reason is RouteReason.CACHED
        settlement = Settlement(
            status=status,
            error_code=error_code,
            usage=usage,
            cost_usd=Decimal(0) if is_cached else cost,
            duration_ms=(time.perf_counter() - caller.started) * 1000.0,
            overhead_ms=overhead_ms,
        )
        self.decisions.settle(decision.id, settlement)
        self.metrics.observe(decision, settlement)
        if self.cache is not None and not is_cached:
            self.cache.services.oversight.load.end(decision.chosen, settlement)
        served_arm = None if reply is None or is_cached else deployment.name
        if self.conversations is not None and usage is not None and error_code is None and not is_cached:
            warm = Warm(deployment.name, usage.input_tokens, decision.forgone_usd)
            self.conversations.remember(caller.tenant, request.opening, warm)
        if self.events is not None:
            self.events.note_request(caller.tenant, request, decision, settlement, served_arm)
        _log.info("request", extra=_log_fields(caller, decision, settlement, request.is_stream))
        return settlement

    def _prepare(self, caller: Caller, request: ChatRequest, deployment: Deployment) -> UpstreamRequest:
        may_ask = "stream_options" not in deployment.parameters.unsupported
        asks_usage = request.is_stream and not request.wants_usage and may_ask
        body = body_for(request, deployment, is_routed=is_alias(request.model), asks_usage=asks_usage)
        return UpstreamRequest(deployment, body, request.is_stream, asks_usage, caller.request_id)

    def _unknown_model(self, model: str) -> NotFound:
        known = [*AUTO_ALIASES, *self.deployments]
        shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
        return NotFound(
            f"The model '{model[:80]}' does not exist here. Known: {shown}; or auto@0.7.",
            code="model_not_found",
            param="model",
        )


def _usage_of(request: ChatRequest, reply: UpstreamReply | None) -> Usage | None:
    """Return the reported usage, or an estimate, or None when the provider did no work."""
    if reply is None or reply.status >= 400:
        return None
    if reply.usage is not None:
        return reply.usage
    output_tokens = estimate_tokens(reply.output_bytes)
    return Usage(input_tokens=request.input_tokens, output_tokens=output_tokens, is_estimated=True)


def _log_fields(caller: Caller, decision: RouteDecision, settlement: Settlement, is_stream: bool) -> dict[str, object]:
    return {
        "request_id": caller.request_id,
        "tenant": caller.tenant,
        "decision_id": decision.id,
        "requested_model": decision.requested_model[:80],
        "model": decision.chosen,
        "reason": decision.reason.value,
        "is_stream": is_stream,
        **settlement.as_json(),
    }
