"""The end of a request: what it came to, who is charged for it, and who is told.

Owns the order: work out the cost, remember and count it, write the outcome, and charge the accounts when the outcome is
on disk. Read `Settler.settle`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Protocol

import msgspec
from msgspec.structs import replace

from penstock_gateway.attempts.records import AttemptRecord
from penstock_gateway.attempts.reply import AttemptReply
from penstock_gateway.callers import Caller
from penstock_gateway.conversations import ConversationKeepers, Warm, WarmConversations
from penstock_gateway.decisions import RecentDecisions, RouteDecision, Settlement
from penstock_gateway.deployments import Deployment
from penstock_gateway.errors import Overloaded
from penstock_gateway.events.log import EventLog
from penstock_gateway.events.records import CacheNote
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.money.cost_of import attempt_cost, estimated_usage, total_cost, usage_of_cut_stream
from penstock_gateway.money.usage import Usage
from penstock_gateway.request_body import ChatRequest
from penstock_gateway.request_log import log_request
from penstock_gateway.settings_tracing import TracingSettings
from penstock_gateway.spending import Hold, SpendDesk
from penstock_gateway.tracing.context import Trace
from penstock_gateway.upstream.protocol import UpstreamReply
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.pairs import find_translator
from penstock_gateway.wire.replies import Translation
from penstock_gateway.wire.translation import Asked
from penstock_routers.policy import RouteReason
from penstock_routers.token_counts import estimate_tokens

_log = logging.getLogger("penstock.requests")


class Tracing(Protocol):
    """Tells of requests to whoever collects traces; see `tracing.export.Tracing`."""

    def begin(self, traceparent: str | None) -> Trace:
        """Return the place of a request."""
        ...

    def end(self, passage: Passage, settlement: Settlement, trace: Trace) -> None:
        """Tell of a request that is over."""
        ...

    def follow(self, settings: TracingSettings) -> None:
        """Take on what of the settings may change."""
        ...


class Place:
    """A request's place in the event log, for its outcome: used once, or given back."""

    __slots__ = ("_events", "_is_held", "_is_lent")

    def __init__(self, events: EventLog) -> None:
        if not events.admit():
            raise Overloaded(
                "The event log does not keep up, and no request goes unrecorded; try again shortly.",
                code="events_overloaded",
                headers={"retry-after": "2"},
            )
        self._events = events
        self._is_held = True
        self._is_lent = False

    def use(self) -> bool:
        """Whether the outcome may be written; true once."""
        is_held, self._is_held = self._is_held, False
        return is_held

    def lend(self) -> None:
        """Keep the place for an answer that is read on without its client."""
        self._is_lent = True

    def release(self) -> None:
        """Give the place back, unless it has been used or lent."""
        if not self._is_lent and self.use():
            self._events.release()


def _nothing() -> None:
    """In the place of something to do."""


class Passage(msgspec.Struct):
    """One request on its way through the gateway: what is known of it so far.

    Attributes
    ----------
    caller : Caller
    request : ChatRequest
    decision : RouteDecision
    hold : Hold or None
        None while nothing is held.
    records : list of AttemptRecord
        Every try, in the order in which they began.
    overhead_ms : float
        The gateway's own time before the provider was called.
    reply : UpstreamReply or None
        None when nobody has answered.
    served : AttemptRecord or None
        The try that answered; None for an answer from the cache.
    cache : CacheNote or None
        What the cache said.
    place : Place or None
        In the event log; None when no events are logged.
    on_drained : callable
        Settles the request when its answer has been read on without its client.
    is_draining : bool
        The client has left, and the answer is read on in the background.
    shadow : future of RouteDecision or None
        In observe mode: what would have been chosen, as soon as that is known.
    deployments : mapping of str to Deployment
        In force when the request was decided: it is charged by their prices, whatever a reload changes meanwhile.
    tried : dict of str to Deployment
        Where it was tried, with deadlines cut to what was left: one that joined a group meanwhile is in here alone.
    dropped : dict of str to tuple of str
        What of the request was not sent, because the deployment's format has no place for it, by deployment.
    answer_id : str or None
        By which the client may refer to this answer, when its provider keeps it.
    trace : Trace or None
        Where the request stands in a trace; None when nothing is traced.
    """

    caller: Caller
    request: ChatRequest
    decision: RouteDecision
    hold: Hold | None = None
    records: list[AttemptRecord] = msgspec.field(default_factory=list)
    overhead_ms: float = 0.0
    reply: UpstreamReply | None = None
    served: AttemptRecord | None = None
    cache: CacheNote | None = None
    place: Place | None = None
    on_drained: Callable[[], object] = _nothing
    is_draining: bool = False
    shadow: asyncio.Future[RouteDecision | None] | None = None
    deployments: Mapping[str, Deployment] = msgspec.field(default_factory=dict)
    tried: dict[str, Deployment] = msgspec.field(default_factory=dict)
    dropped: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    answer_id: str | None = None
    trace: Trace | None = None

    @property
    def asked(self) -> Asked:
        """What a translation of the answer may depend on."""
        request, decision = self.request, self.decision
        fields = request.fields if request.native is None else request.native.fields
        return Asked(fields, decision.id, int(decision.created_at), request.wants_usage)

    def translation(self, wire: WireFormat) -> Translation | None:
        """Return how an answer in a format is put into the client's; None when it is the same."""
        translator = find_translator(self.request.front, wire)
        return None if translator is None else Translation(translator, self.asked)

    def deployment(self, name: str) -> Deployment:
        """Return one of the deployments that the request was tried at, as it is charged."""
        return self.deployments.get(name) or self.tried[name]

    @property
    def is_cached(self) -> bool:
        """Whether a stored answer was served."""
        return self.decision.reason is RouteReason.CACHED

    def since_start_ms(self) -> float:
        """Return the time since the request's body was complete."""
        return (time.perf_counter() - self.caller.started) * 1000.0


class Settler:
    """Ends requests.

    Parameters
    ----------
    decisions : RecentDecisions
    metrics : GatewayMetrics
    spending : SpendDesk
    conversations : WarmConversations or None
    events : EventLog or None
    encoder_id : callable
        Returns the id of the encoder in force; None without one.
    keepers : ConversationKeepers, optional
        Told who answered.

    Attributes
    ----------
    tracing : Tracing or None
        Told of every request that is over.
    """

    def __init__(
        self,
        decisions: RecentDecisions,
        metrics: GatewayMetrics,
        spending: SpendDesk,
        conversations: WarmConversations | None = None,
        events: EventLog | None = None,
        encoder_id: Callable[[], str | None] = lambda: None,
        keepers: ConversationKeepers | None = None,
    ) -> None:
        self.keepers = ConversationKeepers() if keepers is None else keepers  # an empty one is false
        self.encoder_id = encoder_id
        self.decisions = decisions
        self.metrics = metrics
        self.spending = spending
        self.conversations = conversations
        self.events = events
        self.tracing: Tracing | None = None

    def settle(self, passage: Passage, status: int, error_code: str | None) -> Settlement:
        """Work out the actual cost, charge it, and write the request's events and log line.

        Parameters
        ----------
        passage : Passage
        status : int
            That the client has seen.
        error_code : str or None

        Returns
        -------
        Settlement

        Notes
        -----
        The accounts are charged when the outcome is on disk, so that a process that is killed has charged nothing that
        cannot be found again, and what it has not charged is found at the next start. Without an event log they are
        charged at once.
        """
        if isinstance(passage.reply, AttemptReply):
            passage.reply.complete_record()
        usage = self._usage(passage, is_cut=error_code is not None)
        costs = [self._cost(record, passage) for record in passage.records]
        total = total_cost(passage.records, lambda name: passage.deployment(name).price, costs)
        has_worked = any(record.usage is not None for record in passage.records)
        if total.is_incomplete:
            self.metrics.unpriced.labels(passage.decision.chosen).inc()
        settlement = Settlement(
            status=status,
            error_code=error_code,
            usage=usage,
            cost_usd=Decimal(0) if passage.is_cached else total.cost_usd if has_worked else None,
            is_cost_estimated=total.is_estimated if has_worked else None,
            duration_ms=passage.since_start_ms(),
            overhead_ms=passage.overhead_ms,
            served=None if passage.served is None else passage.served.deployment,
            attempts=tuple(passage.records),
            first_byte_ms=None if passage.served is None else passage.served.first_byte_ms,
        )
        self.decisions.settle(passage.decision.id, settlement)
        self.metrics.observe(passage.decision, settlement)
        self._remember(passage, settlement)
        self._charge(passage, settlement, costs, total.known_usd)
        passage.on_drained = _nothing  # it refers to the passage: no cycle for the garbage collector
        log_request(_log, _log_fields(passage, settlement))
        if passage.trace is not None and self.tracing is not None:
            self.tracing.end(passage, settlement, passage.trace)
        return settlement

    def _usage(self, passage: Passage, *, is_cut: bool) -> Usage | None:
        """Return the usage of the answer, reported or estimated; None when the provider did no work for it."""
        reply, served = passage.reply, passage.served
        if reply is None or reply.status >= 400:
            return None
        usage = reply.usage
        if usage is None or is_cut:
            usage = usage_of_cut_stream(usage, passage.request.input_tokens, reply.output_bytes)
        if served is not None:
            served.usage = usage
        return usage

    def _cost(self, record: AttemptRecord, passage: Passage) -> Decimal | None:
        request = passage.request
        if record.usage is None and record.may_be_billed:  # the provider may have begun, and bills it then
            limit = request.max_tokens or passage.deployment(record.deployment).max_output_tokens
            arrived = min(estimate_tokens(record.output_bytes), limit * request.choices)
            record.usage = estimated_usage(request.input_tokens, arrived)
        return attempt_cost(record, passage.deployment(record.deployment).price)

    def _remember(self, passage: Passage, settlement: Settlement) -> None:
        """Note who answered a conversation last."""
        usage, served, tenant = settlement.usage, settlement.served, passage.caller.tenant
        if served is None or settlement.error_code is not None or passage.request.front is WireFormat.EMBEDDINGS:
            return
        self.keepers.remember(tenant, passage.request.opening, served)
        if passage.request.front is WireFormat.RESPONSES and WireFormat.RESPONSES in passage.deployment(served).wires:
            native = passage.request.native  # the conversation that it went on with is kept there as well
            is_kept = native is None or bytes(native.fields.get("store", b"")) != b"false"
            for kept in (passage.answer_id if is_kept else None, None if native is None else native.answer_id):
                if kept is not None:
                    self.keepers.remember_answer(tenant, kept, served)
        if self.conversations is None or usage is None:
            return
        is_chosen = served == passage.decision.chosen
        warm = Warm(served, usage.input_tokens, passage.decision.forgone_usd if is_chosen else 0.0)
        self.conversations.remember(tenant, passage.request.opening, warm)

    def _charge(
        self, passage: Passage, settlement: Settlement, costs: Sequence[Decimal | None], known_usd: Decimal
    ) -> None:
        """Charge what is known of the cost: an attempt without a price takes nothing off the bill of the others."""
        hold = passage.hold or Hold(self.spending, passage.caller.principal, passage.request, passage.decision.id)
        charge = hold.settle(known_usd, _tokens(settlement.attempts))
        if self.events is None or passage.place is None or not passage.place.use():
            self.spending.put_charge(charge)
            return
        caller = passage.caller
        if passage.shadow is None or passage.shadow.done():
            self._note_decision(passage)
        else:  # the answer was quicker than the router
            passage.shadow.add_done_callback(lambda _: self._note_decision(passage))
        self.events.note_outcome(
            caller.principal,
            caller.request_id,
            passage.decision,
            settlement,
            admitted_at=hold.admitted_at,
            cost_picousd=charge.amount_picousd,
            attempt_costs=costs,
            on_written=partial(self.spending.put_from_any_thread, charge),
        )

    def _note_decision(self, passage: Passage) -> None:
        if self.events is None:
            return
        _note_shadow(passage)
        caller, decision = passage.caller, passage.decision
        self.events.note_decision(
            caller.principal,
            caller.request_id,
            passage.request,
            decision,
            encoder=None if decision.artifact_id is None else self.encoder_id(),
            cache=passage.cache,
            shadow=decision.shadow,
        )


def _note_shadow(passage: Passage) -> None:
    """Add the shadow to the decision."""
    shadow = passage.shadow
    if shadow is None or not shadow.done():
        return
    if not shadow.cancelled() and shadow.exception() is None:
        passage.decision = replace(passage.decision, shadow=shadow.result())


def _tokens(attempts: Sequence[AttemptRecord]) -> int:
    return sum(a.usage.input_tokens + a.usage.output_tokens for a in attempts if a.usage is not None)


def _log_fields(passage: Passage, settlement: Settlement) -> dict[str, object]:
    caller, decision = passage.caller, passage.decision
    return {
        "request_id": caller.request_id,
        "tenant": caller.tenant,
        "key_id": caller.principal.key_id,
        "decision_id": decision.id,
        "requested_model": decision.requested_model[:80],
        "model": settlement.served or decision.chosen,
        "reason": decision.reason.value,
        "attempts": len(passage.records),
        "is_stream": passage.request.is_stream,
        **settlement.as_json(),
    }
