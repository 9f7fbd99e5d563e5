"""One chat request from parsed body to settled bill: a step per line in `Pipeline.answer`.

Owns the order of the steps and nothing else: the choice is made in `chooser`, the provider is called in
`upstream`, prices live in `money`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from penstock_gateway.asgi import RequestHead
from penstock_gateway.chooser import ArmChooser
from penstock_gateway.compatibility import body_for
from penstock_gateway.conversations import Warm, WarmConversations
from penstock_gateway.decisions import DECISION_ID_HEADER, RecentDecisions, RouteDecision, Settlement
from penstock_gateway.deployments import Deployment
from penstock_gateway.errors import GatewayError, NotFound, UpstreamBroken
from penstock_gateway.event_log import EventLog
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.money.prices import cost_usd, format_usd
from penstock_gateway.money.usage import Usage
from penstock_gateway.request_body import (
    AUTO_ALIASES,
    ChatRequest,
    is_alias,
    parse_alias,
    parse_tradeoff,
    raw,
)
from penstock_gateway.request_policy import PolicyBook, header_policy
from penstock_gateway.upstream.protocol import Upstream, UpstreamReply, UpstreamRequest
from penstock_routers.token_counts import estimate_tokens

_log = logging.getLogger("penstock.requests")

CLIENT_LEFT_STATUS = 499  # as in nginx's logs; no client ever sees it

_COMPLETION_ID = re.compile(rb'"id":\s*"([\w.:-]{1,128})"')
_DONE = re.compile(rb"(?<![^\r\n])data: ?\[DONE\]")  # at the start of a line: text may quote it
_HIGHEST_STATUS = 599
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


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
    """

    tenant: str
    request_id: str
    tradeoff: str | None
    includes_cost: bool
    started: float
    max_cost_usd: str | None = None
    min_quality: str | None = None


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
    )


class Answer:
    """An upstream reply on its way to the client; settles itself exactly once, however it ends.

    Parameters
    ----------
    pipeline : Pipeline
    caller : Caller
    request : ChatRequest
    decision : RouteDecision
    reply : UpstreamReply
    overhead_ms : float
        The gateway's own time before the provider was called.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        caller: Caller,
        request: ChatRequest,
        decision: RouteDecision,
        reply: UpstreamReply,
        overhead_ms: float,
    ) -> None:
        self.decision = decision
        self.reply = reply
        self.overhead_ms = overhead_ms
        self.is_stream = request.is_stream and reply.status < 400
        self._pipeline = pipeline
        self._caller = caller
        self._request = request
        self._includes_cost = caller.includes_cost or request.includes_cost
        self._completion_id: str | None = None
        self._is_settled = False

    async def body(self) -> bytes:
        """Return the whole body, untouched unless the client asked for the cost in its usage.

        Raises
        ------
        UpstreamError
            The body broke off or came too late, or is an error without JSON.
        """
        reply = self.reply
        try:
            body = await reply.read()
            if reply.status >= 400:
                _refuse_foreign_error(reply, body)
        except Exception as error:
            self.settle(*_outcome_of(error))
            if isinstance(error, GatewayError):
                error.headers.update(decision_headers(self.decision, self.overhead_ms))
            raise
        settlement = self.settle(reply.status, None if reply.status < 400 else "upstream_status")
        wants_cost = self._includes_cost and reply.status < 400
        return _with_cost(body, settlement) if wants_cost and settlement else body

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the stream's events; a failure becomes an error event and there is no ``[DONE]`` then."""
        try:
            async with aclosing(self.reply.events()) as blocks:
                async for block in blocks:
                    if self._includes_cost and self._completion_id is None and (found := _COMPLETION_ID.search(block)):
                        self._completion_id = found[1].decode()
                    if self._includes_cost and (done := _DONE.search(block)):
                        yield block[: done.start()] + self._cost_event() + block[done.start() :]
                    else:
                        yield block
            if self._includes_cost:
                yield self._cost_event()
            self._settle_stream()
        except Exception as error:
            self.settle(200, _outcome_of(error)[1])
            if not isinstance(error, GatewayError):
                raise
            yield error.sse_event()

    def settle(self, status: int, error_code: str | None) -> Settlement | None:
        """Charge the request once; later calls return None."""
        if self._is_settled:
            return None
        self._is_settled = True
        return self._pipeline.settle(
            self._caller, self._request, self.decision, self.reply, status, error_code, self.overhead_ms
        )

    async def aclose(self) -> None:
        """Release the provider's connection; a request that has not been settled by now was given up."""
        self.settle(200 if self.is_stream else CLIENT_LEFT_STATUS, "client_disconnected")
        await self.reply.aclose()

    def _settle_stream(self) -> Settlement | None:
        return self.settle(200, None if self.reply.stream_error is None else "upstream_stream_error")

    def _cost_event(self) -> bytes:
        """Settle the stream and return the opt-in cost chunk; empty when it was settled before, or has failed."""
        settlement = self._settle_stream()
        if settlement is None or settlement.usage is None or settlement.error_code is not None:
            return b""
        usage = settlement.usage
        chunk = {
            "id": self._completion_id or self.decision.id,  # clients group chunks by id
            "object": "chat.completion.chunk",
            "created": int(self.decision.created_at),
            "model": self.decision.chosen,
            "choices": [],
            "usage": {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
                **_cost_fields(settlement),
            },
        }
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


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
        decision = await self.decide(caller, request)
        deployment = self.deployments[decision.chosen]
        attempt = self._prepare(caller, request, deployment)
        self.decisions.add(caller.tenant, decision)
        overhead_ms = (time.perf_counter() - caller.started) * 1000.0
        try:
            reply = await self.upstreams[deployment.adapter].send(attempt)
            if reply.status > _HIGHEST_STATUS:
                await reply.aclose()
                raise UpstreamBroken("The provider answered with a status that does not exist.")
        except BaseException as error:
            self.settle(caller, request, decision, None, *_outcome_of(error), overhead_ms)
            if isinstance(error, GatewayError):
                error.headers.update(decision_headers(decision, overhead_ms))
            raise
        return Answer(self, caller, request, decision, reply, overhead_ms)

    async def decide(self, caller: Caller, request: ChatRequest) -> RouteDecision:
        """Return the decision for an alias or a physical model.

        Raises
        ------
        NotFound
            Code ``model_not_found``.
        InvalidRequest
            An unknown or contradictory control.
        NoCandidate
            Nothing can take the request, or nothing may within its limits.
        """
        given = None if caller.tradeoff is None else parse_tradeoff(caller.tradeoff, param="x-penstock-tradeoff")
        header = header_policy(tradeoff=given, max_cost_usd=caller.max_cost_usd, min_quality=caller.min_quality)
        is_routed = is_alias(request.model)
        alias = parse_alias(request.model) if is_routed else None
        policy = self.policies.resolve(caller.tenant, request, header, alias)
        warm = None
        if self.conversations is not None and request.is_follow_up:
            warm = self.conversations.find(caller.tenant, request.opening)
        if is_routed:
            return await self.chooser.choose(request, policy.tradeoff, policy, warm)
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
        settlement = Settlement(
            status=status,
            error_code=error_code,
            usage=usage,
            cost_usd=None if usage is None else cost_usd(usage, deployment.price),
            duration_ms=(time.perf_counter() - caller.started) * 1000.0,
            overhead_ms=overhead_ms,
        )
        self.decisions.settle(decision.id, settlement)
        self.metrics.observe(decision, settlement)
        served_arm = None if reply is None else deployment.name
        if self.conversations is not None and usage is not None and error_code is None:
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


def decision_headers(decision: RouteDecision, overhead_ms: float) -> dict[str, str]:
    """Return the ``x-penstock-`` response headers of one decision."""
    headers = {
        "x-penstock-model": _ascii(decision.chosen),
        "x-penstock-reason": decision.reason.value,
        DECISION_ID_HEADER: decision.id,
        "x-penstock-baseline": _ascii(decision.baseline),
        "x-penstock-overhead-ms": f"{overhead_ms:.3f}",
    }
    if decision.artifact_id is not None:
        headers["x-penstock-artifact"] = decision.artifact_id
    if decision.estimated_cost_usd is not None:
        headers["x-penstock-estimated-cost-usd"] = f"{decision.estimated_cost_usd:.9f}"
    saving = decision.estimated_saving_usd
    if saving is not None:
        headers["x-penstock-estimated-saving-usd"] = f"{saving:.9f}"
    return headers


def _usage_of(request: ChatRequest, reply: UpstreamReply | None) -> Usage | None:
    """Return the reported usage, or an estimate, or None when the provider did no work."""
    if reply is None or reply.status >= 400:
        return None
    if reply.usage is not None:
        return reply.usage
    output_tokens = estimate_tokens(reply.output_bytes)
    return Usage(input_tokens=request.input_tokens, output_tokens=output_tokens, is_estimated=True)


def _outcome_of(error: BaseException) -> tuple[int, str]:
    """Return status and code of a request that ended in `error`; one that was cancelled has been left."""
    if isinstance(error, GatewayError):
        return error.status, error.code
    if isinstance(error, Exception):
        return 500, "internal_error"
    return CLIENT_LEFT_STATUS, "client_disconnected"


def _refuse_foreign_error(reply: UpstreamReply, body: bytes) -> None:
    """Pass a provider's JSON error on; hide anything else (an HTML page of some proxy, say)."""
    try:
        _object_decoder.decode(body)
    except _UNREADABLE:
        raise UpstreamBroken(f"The provider answered with status {reply.status} and no JSON.") from None


def _with_cost(body: bytes, settlement: Settlement) -> bytes:
    """Return the answer with its cost in ``usage``, which is made when the provider sent no object there."""
    try:
        fields = _object_decoder.decode(body)
    except _UNREADABLE:
        return body  # it has been paid for, so it is passed on as it is
    try:
        usage = _object_decoder.decode(fields["usage"])
    except (KeyError, *_UNREADABLE):
        usage = {}
    fields["usage"] = raw({**usage, **_cost_fields(settlement)})
    return msgspec.json.encode(fields)


def _cost_fields(settlement: Settlement) -> dict[str, str | bool | None]:
    return {
        "cost_usd": None if settlement.cost_usd is None else format_usd(settlement.cost_usd),
        "is_cost_estimated": None if settlement.usage is None else settlement.usage.is_estimated,
    }


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


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
