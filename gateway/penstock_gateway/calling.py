"""From a decision to an answer: which deployments may answer in which order, each attempt covered by the budget.

Owns the plan and the request as each deployment wants it; the attempts themselves are `attempts.runner`'s. Read
`AttemptDesk.call`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from penstock_gateway.accounts.principal import Principal
from penstock_gateway.attempts.draining import DrainDesk
from penstock_gateway.attempts.job import AttemptJob
from penstock_gateway.attempts.reply import AttemptReply
from penstock_gateway.attempts.runner import AttemptRunner
from penstock_gateway.attempts.slots import Priority
from penstock_gateway.callers import Caller
from penstock_gateway.compatibility import check_form, outgoing, reject
from penstock_gateway.deployments import Deployment, named_plan
from penstock_gateway.errors import InvalidRequest, UpstreamRejectedKey, UpstreamTimeout, UpstreamUnreachable
from penstock_gateway.metrics_attempts import AttemptMetrics
from penstock_gateway.request_body import ChatRequest, is_alias, parse_number
from penstock_gateway.settings_attempts import AttemptSettings
from penstock_gateway.settling import Passage
from penstock_gateway.tracing.context import TRACEPARENT
from penstock_gateway.upstream.protocol import Upstream, UpstreamReply, UpstreamRequest
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.native import NativeRequest
from penstock_routers.policy import RouteReason

_CHAT = NativeRequest(WireFormat.CHAT, {})  # in the place of none
_MAX_TIMEOUT_SECONDS = 86_400.0
_CONNECT_TIMEOUT = "upstream_connect_timeout"


class CoveredUpstream:
    """An upstream that asks the request's hold before it sends; fulfils `Upstream`.

    Parameters
    ----------
    inner : Upstream
    """

    def __init__(self, inner: Upstream) -> None:
        self._inner = inner

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """Send a request whose cost is held; what is surely free is held no longer.

        Raises
        ------
        UpstreamError
        QuotaExceeded, Overloaded, NoCandidate
            The budget does not reach for another attempt.
        """
        cover = request.cover
        if cover is None:
            return _in_clients_format(await self._inner.send(request), request)
        bound = await cover.begin(request.deployment)
        try:
            reply = await self._inner.send(request)
        except (UpstreamUnreachable, UpstreamRejectedKey):
            cover.forgive(bound)
            raise
        except UpstreamTimeout as error:
            if error.code == _CONNECT_TIMEOUT:
                cover.forgive(bound)
            raise
        if reply.status >= 400:
            cover.forgive(bound)
        return _in_clients_format(reply, request)

    async def aclose(self) -> None:
        """Close the upstream."""
        await self._inner.aclose()


class AttemptDesk:
    """Calls providers for the pipeline.

    Parameters
    ----------
    deployments : mapping of str to Deployment
    upstreams : mapping of str to Upstream
        By adapter name.
    settings : AttemptSettings, optional
    metrics : AttemptMetrics, optional

    Attributes
    ----------
    upstreams : dict of str to Upstream
        Always the same object, because audits of the cache call through it too: adapters are added, none is taken away.
    runner : AttemptRunner
    is_revoked : callable
        Whether a key has been revoked meanwhile, by its id.
    """

    def __init__(
        self,
        deployments: Mapping[str, Deployment],
        upstreams: Mapping[str, Upstream],
        settings: AttemptSettings | None = None,
        *,
        metrics: AttemptMetrics | None = None,
    ) -> None:
        self.settings = settings or AttemptSettings()
        self.upstreams = dict(upstreams)
        self.runner = AttemptRunner(deployments.values(), self.settings, _covered(upstreams), metrics=metrics)
        self.is_revoked: Callable[[str], bool] = lambda _: False

    def adopt(
        self, deployments: Sequence[Deployment], upstreams: Mapping[str, Upstream], settings: AttemptSettings
    ) -> None:
        """Follow another configuration; slots and breakers of deployments that stay are kept."""
        self.settings = settings
        self.upstreams.update(upstreams)
        self.runner.adopt(deployments, settings, _covered(upstreams))

    @property
    def drains(self) -> DrainDesk:
        """Reads answers on whose clients have left."""
        return self.runner.desk

    def plan(self, passage: Passage) -> tuple[Deployment, ...]:
        """Return what may answer, in the order of preference; one of a group stands for all of its members.

        Parameters
        ----------
        passage : Passage

        Returns
        -------
        tuple of Deployment
            What was chosen, then the rest of the ranking; for a model that the client named, the fallbacks that its
            deployment names. Only what the key may use and what can take the request.

        Raises
        ------
        InvalidRequest
            ``not_translatable``: what was chosen cannot take the client's format.
        """
        request, decision, deployments = passage.request, passage.decision, passage.deployments
        principal = passage.caller.principal
        chosen = deployments[decision.chosen]
        check_form(request, chosen)
        if request.front is WireFormat.EMBEDDINGS:
            return (chosen,)
        if decision.reason is RouteReason.PHYSICAL_MODEL:
            if not chosen.fallbacks and chosen.name == request.model:
                return (chosen,)
            others = [d for d in named_plan(deployments, request.model)[1:] if reject(request, d) is None]
        else:
            others = [deployments[report.name] for report in decision.candidates if report.rejected is None]
        allowed = (deployment for deployment in others if principal.may_choose(deployment.name))
        return tuple({d.name: d for d in (chosen, *allowed)}.values())

    async def call(self, passage: Passage, plan: tuple[Deployment, ...]) -> None:
        """Get an answer, and note in the passage who gave it.

        Parameters
        ----------
        passage : Passage
            Gets its attempts, its reply and who served it.
        plan : tuple of Deployment

        Raises
        ------
        GatewayError
            Nobody answered.
        """
        job = self._job(passage, plan)
        try:
            served = await self.runner.run(job)
        finally:
            passage.is_draining = job.is_draining
        self._serve(passage, served.reply)

    def _serve(self, passage: Passage, reply: AttemptReply) -> None:
        passage.reply, passage.served = reply, reply.record
        if passage.hold is not None:
            passage.hold.serve(reply.deployment)

    def _job(self, passage: Passage, plan: tuple[Deployment, ...]) -> AttemptJob:
        caller, request, decision = passage.caller, passage.request, passage.decision
        has_group = any(deployment.group is not None for deployment in plan)

        def on_drained(reply: AttemptReply | None) -> None:
            if reply is not None:
                self._serve(passage, reply)
            passage.on_drained()

        return AttemptJob(
            plan,
            partial(self._prepare, passage),
            caller.started,
            _priority(caller.principal),
            deadline_seconds=_deadline_seconds(caller),
            input_tokens=float(request.input_tokens),
            output_tokens={r.name: r.output_tokens for r in decision.candidates if r.output_tokens is not None},
            affinity_key=_affinity_key(caller, request) if has_group else None,
            is_pinned=request.model == decision.chosen or (request.native or _CHAT).answer_id is not None,
            may_use=lambda d: caller.principal.may_choose(d.name) and _may_stand_in(request, d, plan[0]),
            on_drained=on_drained,
            records=passage.records,
        )

    def _prepare(self, passage: Passage, deployment: Deployment) -> UpstreamRequest:
        request, hold = passage.request, passage.hold
        passage.tried[deployment.name] = deployment
        sent = outgoing(
            request,
            deployment,
            is_routed=is_alias(request.model) or deployment.name != passage.decision.chosen,
            max_tokens=None if hold is None else hold.limit_to_send(deployment),
        )
        passage.dropped[deployment.name] = sent.dropped
        is_native = request.native is not None and sent.wire is request.front
        return UpstreamRequest(
            deployment,
            sent.body,
            request.is_stream,
            sent.hides_usage,
            passage.caller.request_id,
            hold if hold is not None and hold.is_metered else None,
            sent.wire,
            passage.translation(sent.wire),
            (*(request.native.headers if is_native and request.native is not None else ()), *_traced(passage)),
        )


def _traced(passage: Passage) -> tuple[tuple[str, str], ...]:
    """Return the header that tells a provider where its call stands in a trace."""
    return () if passage.trace is None else ((TRACEPARENT, passage.trace.next_attempt()),)


def _in_clients_format(reply: UpstreamReply, request: UpstreamRequest) -> UpstreamReply:
    return reply if request.translation is None else request.translation.wrap(reply)


def _covered(upstreams: Mapping[str, Upstream]) -> dict[str, Upstream]:
    return {name: CoveredUpstream(upstream) for name, upstream in upstreams.items()}


def _may_stand_in(request: ChatRequest, deployment: Deployment, chosen: Deployment) -> bool:
    """Whether another member of a group may answer; vectors of two models do not mix."""
    if request.front is WireFormat.EMBEDDINGS and deployment.model != chosen.model:
        return False
    return reject(request, deployment) is None


def _priority(principal: Principal) -> Priority:
    return "high" if principal.priority == "high" else "low" if principal.priority == "low" else "normal"


def _affinity_key(caller: Caller, request: ChatRequest) -> bytes:
    """Return what stands for a conversation, the same in every gateway."""
    return hashlib.blake2b(f"{caller.tenant}\0{request.opening}".encode(), digest_size=16).digest()


def _deadline_seconds(caller: Caller) -> float | None:
    """Return the deadline that the caller asks for; it can only shorten the gateway's.

    Raises
    ------
    InvalidRequest
    """
    if caller.timeout is None:
        return None
    asked = parse_number(caller.timeout, param="x-penstock-timeout", high=_MAX_TIMEOUT_SECONDS)
    if asked <= 0.0:
        raise InvalidRequest(
            "'x-penstock-timeout' must be above 0 seconds.", code="invalid_value", param="x-penstock-timeout"
        )
    return asked
