"""An answer on its way to the client, from a provider or from the cache.

Owns what happens between the reply and the client: the cost in the usage, the end of a stream, the one settlement, and
the offer to the cache. Read `Answer`.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from penstock_cache.lookups import Hit
from penstock_gateway.attempts.draining import DrainDesk
from penstock_gateway.attempts.reply import AttemptReply
from penstock_gateway.caching.assembly import KeptStream
from penstock_gateway.caching.visit import Visit
from penstock_gateway.decisions import DECISION_ID_HEADER, RouteDecision, Settlement
from penstock_gateway.errors import GatewayError, Unauthenticated, UpstreamBroken
from penstock_gateway.money.prices import format_usd
from penstock_gateway.request_body import raw
from penstock_gateway.settling import Passage
from penstock_gateway.spending import Hold
from penstock_gateway.upstream.protocol import Shortcut, UpstreamReply
from penstock_gateway.wire.error_shapes import shaped_event
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.replies import in_chat
from penstock_gateway.wire.server_sent import event_bytes

CLIENT_LEFT_STATUS = 499  # as in nginx's logs; no client ever sees it
REVOCATION_SECONDS = 1.0
"""How often a stream under way looks whether its key is still valid."""

COST_EVENT = "penstock.cost"
"""Name of the opt-in event that tells a stream's cost in formats whose clients skip names that they do not know."""
MAX_DROPPED_CHARACTERS = 2048
"""Of the header that names what was left out: common servers take 8 kB of headers."""

_ENDING_WITH_DONE = (WireFormat.CHAT, WireFormat.COMPLETIONS)
_NO_NAME = re.compile(r"[^\w.,$@\[\]-]", re.ASCII)  # field names are the client's: nothing of them may end a header
_COMPLETION_ID = re.compile(rb'"id":\s*"([\w.:-]{1,128})"')
_DONE = re.compile(rb"(?<![^\r\n])data: ?\[DONE\]")  # at the start of a line: text may quote it
_NUMBERED = b'"sequence_number"'
_SEQUENCE_NUMBER = re.compile(rb'"sequence_number":\s*(\d{1,15})')  # quoted by text, it has backslashes in it
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Answer:
    """An upstream reply on its way to the client; settles itself exactly once, however it ends.

    Parameters
    ----------
    settle : callable
        Charges the request, given status and error code; called once.
    passage : Passage
        With a reply.
    visit : Visit or None
        The request's dealings with the cache.
    hit : Hit or None
        What was served; None when a model answered.
    max_kept_bytes : int
        Largest stream that is kept to be stored.
    drains : DrainDesk or None
        Reads on for its usage what a client has left, where the deployment says so.
    is_revoked : callable
        Whether a key has been revoked meanwhile, by its id.
    """

    def __init__(
        self,
        settle: Callable[[int, str | None], Settlement],
        passage: Passage,
        *,
        visit: Visit | None = None,
        hit: Hit | None = None,
        max_kept_bytes: int = 0,
        drains: DrainDesk | None = None,
        is_revoked: Callable[[str], bool] = lambda _: False,
    ) -> None:
        reply, request = passage.reply, passage.request
        assert reply is not None
        self.passage = passage
        self.decision = passage.decision
        self.reply = reply
        self.overhead_ms = passage.overhead_ms
        self.is_stream = request.is_stream and reply.status < 400
        self._settle = settle
        self._front = request.front
        self._includes_cost = passage.caller.includes_cost or request.includes_cost
        self._ends_with_done = self._includes_cost and self._front in _ENDING_WITH_DONE
        self._drains = drains
        self._is_revoked = is_revoked
        self._looked_at = 0.0
        self._completion_id: str | None = None
        self._wants_id = self._includes_cost or self._front is WireFormat.RESPONSES
        self._is_settled = False
        self._settlement: Settlement | None = None
        self._visit = visit
        self._hit = hit
        self._latest = b""
        self._kept = KeptStream(max_kept_bytes) if self.is_stream and self._may_keep else None

    def headers(self) -> dict[str, str]:
        """Return the ``x-penstock-`` headers of the response, and the caller's rate limits."""
        passage = self.passage
        served = None if passage.served is None else passage.served.deployment
        headers = decision_headers(self.decision, self.overhead_ms, served=served, attempts=len(passage.records))
        if self._visit is not None:
            headers.update(self._visit.headers(self._hit))
        if dropped := passage.dropped.get(served or ""):
            headers["x-penstock-dropped"] = _NO_NAME.sub("?", ",".join(dropped))[:MAX_DROPPED_CHARACTERS]
        if passage.hold is not None:
            headers.update(passage.hold.headers())
        return headers

    @property
    def settlement(self) -> Settlement | None:
        """What the request came to; None until it has been charged."""
        return self._settlement

    @property
    def _may_keep(self) -> bool:
        return self._visit is not None and self._hit is None and self._visit.wants_answer

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
            self.settle(*outcome_of(error))
            if isinstance(error, GatewayError):
                error.headers.update(decision_headers(self.decision, self.overhead_ms))
            raise
        if self._wants_id and (found := _COMPLETION_ID.search(body)):
            self._note_id(found[1].decode())
        settlement = self.settle(reply.status, None if reply.status < 400 else "upstream_status")
        if self._may_keep and reply.status == 200:
            self._keep(body, settlement)
        wants_cost = self._includes_cost and reply.status < 400
        return _with_cost(body, settlement) if wants_cost and settlement else body

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the stream's events; a failure becomes an error event and there is no ``[DONE]`` then."""
        try:
            async with aclosing(self.reply.events()) as blocks:
                async for block in blocks:
                    self._note(block)
                    if self._wants_id and (found := _COMPLETION_ID.search(block)):
                        self._note_id(found[1].decode())
                    if self._ends_with_done and (done := _DONE.search(block)):
                        yield block[: done.start()] + self._cost_event() + block[done.start() :]
                    else:
                        yield block
                    if not self._may_go_on(self.reply.output_bytes):
                        await self._keep_up()
            if self._includes_cost:
                yield self._cost_event()
            self._settle_stream()
            if self._kept is not None and self.reply.stream_error is None and (stream := self._kept.complete()):
                self._keep(stream, self._settlement, is_stream=True)
        except Exception as error:
            code = outcome_of(error)[1]
            if isinstance(self.reply, AttemptReply):
                self.reply.give_up(code)
            self.settle(200, code)
            if not isinstance(error, GatewayError):
                raise
            yield self.error_event(error)

    def shorten(self, may_send: Callable[[], bool], send: Callable[[bytes], None]) -> None:
        """Send ordinary events as they come, while the reader of `events` waits for the next.

        Parameters
        ----------
        may_send : callable
            Whether the client can take more at once.
        send : callable
        """
        reply = self.reply
        if not isinstance(reply, AttemptReply):
            return

        def may_take(output_bytes: int) -> bool:
            return may_send() and not self._wants_id and self._may_go_on(output_bytes)

        def take(block: bytes) -> None:
            self._note(block)
            send(block)

        reply.shorten(Shortcut(may_take, take))

    def error_event(self, error: GatewayError) -> bytes:
        """Return an error as the last event, numbered after what has been sent where the format numbers its events."""
        numbers = _SEQUENCE_NUMBER.findall(self._latest)
        return shaped_event(self._front, error, int(numbers[-1]) + 1 if numbers else 0)

    def settle(self, status: int, error_code: str | None) -> Settlement | None:
        """Charge the request once; later calls return None."""
        if self._is_settled:
            return None
        self._is_settled = True
        self._settlement = self._settle(status, error_code)
        return self._settlement

    def _note(self, block: bytes) -> None:
        """Keep what is wanted later of a block that is sent."""
        if self._kept is not None:
            self._kept.add(block)
        if self._front is WireFormat.RESPONSES and _NUMBERED in block:
            self._latest = block

    def _note_id(self, answer_id: str) -> None:
        self._wants_id = False
        self._completion_id = answer_id
        if self._front is WireFormat.RESPONSES:  # a provider that keeps it can be asked to go on
            self.passage.answer_id = answer_id

    def _may_go_on(self, output_bytes: int) -> bool:
        """Whether nobody has to be asked: what is held reaches so far, and the key was looked at a moment ago."""
        hold = self.passage.hold
        if hold is None or self._hit is not None:
            return True
        if time.monotonic() - self._looked_at >= REVOCATION_SECONDS:
            return False
        return self._is_settled or hold.covers(self._output_tokens(hold, output_bytes))

    def _output_tokens(self, hold: Hold, output_bytes: int) -> int:
        """Return how many completion tokens so many bytes of the stream's text count for."""
        usage, counted = self.reply.usage, hold.tokens_in(output_bytes)
        return counted if usage is None or usage.output_tokens < counted else usage.output_tokens

    async def _keep_up(self) -> None:
        """Let the stream go on, or not: its budget has to reach, and its key has to be valid still.

        Raises
        ------
        QuotaExceeded, Overloaded, Unauthenticated
        """
        hold = self.passage.hold
        if hold is None or self._hit is not None:
            return
        if hold.is_metered and not self._is_settled:
            await hold.keep_up(self._output_tokens(hold, self.reply.output_bytes))
        now = time.monotonic()
        if now - self._looked_at >= REVOCATION_SECONDS:
            self._looked_at = now
            if self._is_revoked(hold.principal.key_id):
                raise Unauthenticated("This client key has been revoked.", code="api_key_revoked")

    def _keep(self, answer: bytes, settlement: Settlement | None, *, is_stream: bool = False) -> None:
        """Offer a complete answer to the cache."""
        if self._visit is None or settlement is None:
            return
        stored = in_chat(self._front, answer, self.passage.asked, is_stream=is_stream)
        if stored is not None:
            self._visit.keep(stored, self.decision, settlement, is_stream=is_stream)

    async def aclose(self) -> None:
        """Release the provider's connection; a request that has not been settled by now was given up.

        Where the deployment says so, what is left of the answer is read on in the background, for its usage.
        """
        status = 200 if self.is_stream else CLIENT_LEFT_STATUS
        if not self._is_settled and self._drains is not None and self._drain(self._drains, status):
            return
        self.settle(status, "client_disconnected")
        if self._visit is not None:
            self._visit.close(is_over=self._settlement is None or self._settlement.error_code != "client_disconnected")
        await self.reply.aclose()

    def _drain(self, drains: DrainDesk, status: int) -> bool:
        """Hand the rest of the answer over; False when it is not wanted or there is no room for it."""

        def on_done() -> None:
            self.settle(status, "client_disconnected")
            if self._visit is not None:
                self._visit.close(is_over=False)

        reply = self.reply
        return isinstance(reply, AttemptReply) and self.is_stream and reply.may_drain and drains.drain(reply, on_done)

    def _settle_stream(self) -> Settlement | None:
        return self.settle(200, None if self.reply.stream_error is None else "upstream_stream_error")

    def _cost_event(self) -> bytes:
        """Settle the stream and return the opt-in cost chunk; empty when it was settled before, or has failed."""
        settlement = self._settle_stream()
        if settlement is None or settlement.usage is None or settlement.error_code is not None:
            return b""
        usage = settlement.usage
        if self._front not in _ENDING_WITH_DONE:
            return event_bytes({"type": COST_EVENT, "usage": _cost_fields(settlement)}, COST_EVENT)
        chunk: dict[str, object] = {
            "id": self._completion_id or self.decision.id,  # clients group chunks by id
            "object": "chat.completion.chunk" if self._front is WireFormat.CHAT else "text_completion",
            "created": int(self.decision.created_at),
            "model": settlement.served or self.decision.chosen,
            "choices": [],
            "usage": {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
                "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
                "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
                **_cost_fields(settlement),
            },
        }
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def decision_headers(
    decision: RouteDecision, overhead_ms: float, *, served: str | None = None, attempts: int = 0
) -> dict[str, str]:
    """Return the ``x-penstock-`` response headers of one decision.

    Parameters
    ----------
    decision : RouteDecision
    overhead_ms : float
    served : str or None
        Deployment that answered, when a provider did.
    attempts : int
    """
    headers = {
        "x-penstock-model": _ascii(served or decision.chosen),
        "x-penstock-reason": decision.reason.value,
        DECISION_ID_HEADER: decision.id,
        "x-penstock-baseline": _ascii(decision.baseline),
        "x-penstock-overhead-ms": f"{overhead_ms:.3f}",
    }
    if decision.artifact_id is not None:
        headers["x-penstock-artifact"] = decision.artifact_id
    if decision.estimated_cost_usd is not None:
        headers["x-penstock-estimated-cost-usd"] = f"{decision.estimated_cost_usd:.9f}"
    if attempts > 1:
        headers["x-penstock-attempts"] = str(attempts)
    if served is not None and served != decision.chosen:
        headers["x-penstock-intended-model"] = _ascii(decision.chosen)
    saving = decision.estimated_saving_usd
    if saving is not None:
        headers["x-penstock-estimated-saving-usd"] = f"{saving:.9f}"
    return headers


def outcome_of(error: BaseException) -> tuple[int, str]:
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
        "is_cost_estimated": settlement.has_estimate,
    }


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
