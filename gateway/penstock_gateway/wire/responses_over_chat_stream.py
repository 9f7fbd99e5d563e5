"""From chat chunks to the events of a streamed response.

Owns the state of one stream: which items are open, and how it ends. Pure. Read `ResponseEvents.feed`.

Wire rules: platform.openai.com/docs/api-reference/responses-streaming. The stream has no ``[DONE]``.
"""

from __future__ import annotations

from typing import Final

from penstock_gateway.wire.responses_over_chat_chunks import (
    CallView,
    ChoiceView,
    ChunkView,
    DeltaView,
    arguments_piece,
    content_pieces,
    piece_of,
    read_chunk,
)
from penstock_gateway.wire.responses_over_chat_output import (
    EventWriter,
    OpenCall,
    OpenItem,
    OpenMessage,
    OpenReasoning,
)
from penstock_gateway.wire.responses_over_chat_reasoning import OWN_REASONING_ID, whole_items
from penstock_gateway.wire.responses_over_chat_shape import (
    Item,
    Outcome,
    ResponseShape,
    flat_annotations,
    flat_logprobs,
    response_usage,
)
from penstock_gateway.wire.translation import Asked

_DONE: Final = b"[DONE]"
_OLD_CALL: Final = "function_call"


class ResponseEvents:
    """Turns one stream of chat chunks into one of a response; fulfils `translation.StreamTranslator`.

    Parameters
    ----------
    asked : Asked

    Notes
    -----
    Reasoning and text end when something else begins, as in OpenAI's streams. Calls stay open until the finish reason,
    because chat providers may interleave their arguments. The last event waits for `finish`: chat completions send the
    usage after the finish reason. After an error no item is ended; `finish` then returns nothing.
    """

    def __init__(self, asked: Asked) -> None:
        self._id = asked.id
        self._shape = ResponseShape(asked)
        self._writer = EventWriter()
        self._outcome = Outcome()
        self._output: list[Item] = []
        self._spoken: OpenMessage | OpenReasoning | None = None
        self._calls: list[OpenCall] = []
        self._by_index: dict[object, OpenCall] = {}
        self._has_begun = self._has_finished = self._is_over = False

    @property
    def sequence_number(self) -> int:
        """What the next event would be numbered."""
        return self._writer.next_number

    def feed(self, name: str, data: bytes) -> bytes:
        """Take one event; see `translation.StreamTranslator.feed`."""
        if self._is_over or data == _DONE:
            return b""
        chunk = read_chunk(data)
        if chunk is None:
            return b""
        self._note(chunk)
        events = self._begin()
        if chunk.error is not None:
            return events + self._fail(chunk.error)
        for choice in chunk.choices or ():
            if choice.index in (0, None) and not self._has_finished:
                events += self._choice(choice)
        return events

    def finish(self) -> bytes:
        """Return the last event, with the whole response; nothing after an error."""
        if self._is_over:
            return b""
        events = self._begin() + self._end(None)
        self._is_over = True
        return events + self._response(f"response.{self._outcome.status}")

    def _note(self, chunk: ChunkView) -> None:
        outcome = self._outcome
        outcome.model = outcome.model or chunk.model
        outcome.created = outcome.created or chunk.created
        outcome.service_tier = chunk.service_tier or outcome.service_tier
        if chunk.usage is not None and response_usage(chunk.usage) is not None:
            outcome.usage = chunk.usage

    def _begin(self) -> bytes:
        if self._has_begun:
            return b""
        self._has_begun = True
        return self._response("response.created") + self._response("response.in_progress")

    def _response(self, kind: str) -> bytes:
        return self._writer.write(kind, {"response": self._shape.encode(self._outcome, self._output)})

    def _choice(self, choice: ChoiceView) -> bytes:
        delta = choice.delta
        if delta is None and not self._output:
            delta = choice.message
        events = b"" if delta is None else self._delta(delta, choice.logprobs)
        return events + self._end(choice.finish_reason) if choice.finish_reason else events

    def _delta(self, delta: DeltaView, logprobs: object) -> bytes:
        said, thought = content_pieces(delta.content)
        thought = piece_of(delta.reasoning_content) or piece_of(delta.reasoning) or thought
        events = self._think(thought, delta.thinking_blocks)
        for item in whole_items(delta.reasoning_items):
            events += self._add_whole(item)
        if said:
            opening, message = self._open_message()
            events += opening + message.add_text(said, flat_logprobs(logprobs))
        if refusal := piece_of(delta.refusal):
            opening, message = self._open_message()
            events += opening + message.add_refusal(refusal)
        if delta.annotations is not None and isinstance(self._spoken, OpenMessage):
            events += self._spoken.annotate(flat_annotations(delta.annotations))
        for call in delta.tool_calls or ():
            events += self._call(call.index, call)
        if delta.function_call is not None:
            events += self._call(_OLD_CALL, CallView(function=delta.function_call))
        return events

    def _place(self) -> int:
        """Return the place in the output of the item that opens now."""
        self._output.append({})
        return len(self._output) - 1

    def _open_message(self) -> tuple[bytes, OpenMessage]:
        """Return the open message, with the events that were needed to open it."""
        if isinstance(self._spoken, OpenMessage):
            return b"", self._spoken
        ended = self._end_spoken()
        place = self._place()
        message = self._spoken = OpenMessage(self._writer, f"msg_chat_{self._id}_{place}", place)
        return ended + message.begin(), message

    def _open_reasoning(self, item_id: str | None = None) -> tuple[bytes, OpenReasoning]:
        """Return the open reasoning, with the events that were needed to open it."""
        if isinstance(self._spoken, OpenReasoning):
            return b"", self._spoken
        ended = self._end_spoken()
        place = self._place()
        wanted = f"{OWN_REASONING_ID}{self._id}_{place}" if item_id is None else item_id
        reasoning = self._spoken = OpenReasoning(self._writer, wanted, place)
        return ended + reasoning.begin(), reasoning

    def _think(self, piece: bytes, blocks: object) -> bytes:
        kept = blocks if isinstance(blocks, list) else []
        if not piece and not kept:
            return b""
        opening, reasoning = self._open_reasoning()
        reasoning.blocks += kept
        return opening + reasoning.add_text(piece) if piece else opening

    def _add_whole(self, item: Item) -> bytes:
        """Return the events of a reasoning item that came whole: the end of the one whose text came before it."""
        item_id = item["id"]
        opening, reasoning = self._open_reasoning(item_id if isinstance(item_id, str) else None)
        reasoning.whole = item
        return opening + self._end_spoken()

    def _call(self, index: object, view: CallView) -> bytes:
        """Return the events of a piece of a call.

        A new index begins a call, and so does a new id with a name: some servers number all calls 0, or none. Where
        they give no ids either, a name and arguments begin one when the call before has all of its own.
        """
        function = view.function
        if function is None:
            return b""
        name = function.name if isinstance(function.name, str) else ""
        call_id = view.id if isinstance(view.id, str) else ""
        key = index if isinstance(index, int | str) else None
        piece = arguments_piece(function.arguments)
        call = self._by_index.get(key)
        is_another = call is not None and name and (call_id != call.call_id if call_id else piece and call.is_whole())
        if call is None or is_another:
            number = len(self._calls)
            call = OpenCall(self._writer, f"fc_chat_{self._id}_{number}", call_id or f"call_{self._id}_{number}")
            self._calls.append(call)
            self._by_index[key] = call
        events = b""
        if name and not call.is_announced:
            call.name = name
            events = self._end_spoken() + call.announce(self._place())
        return events + call.add_arguments(piece) if piece else events

    def _end_spoken(self, status: str = "completed") -> bytes:
        item, self._spoken = self._spoken, None
        return b"" if item is None else self._close(item, status)

    def _close(self, item: OpenItem, status: str) -> bytes:
        events = item.close(status)
        self._output[item.index] = item.item(status)
        return events

    def _end(self, reason: object) -> bytes:
        """Return the events that end every item; the last of a cut answer is incomplete."""
        if self._has_finished:
            return b""
        self._has_finished = True
        self._outcome.end(reason)
        events: list[bytes] = []  # joined at the end: a hostile provider may leave thousands of calls open
        for call in self._calls:
            if not call.is_announced:
                events += (self._end_spoken(), call.announce(self._place()))
        open_items: list[OpenItem] = [*self._calls]
        if self._spoken is not None:
            open_items.append(self._spoken)
            self._spoken = None
        for item in sorted(open_items, key=lambda item: item.index):
            is_last = item.index == len(self._output) - 1
            events.append(self._close(item, self._outcome.status if is_last else "completed"))
        return b"".join(events)

    def _fail(self, error: object) -> bytes:
        """Return the two events of a failure, with what was said until then.

        OpenAI sends the error as an object; its documentation has the members beside ``type``. Clients read either.
        """
        self._is_over = True
        described = described_error(error)
        open_items: list[OpenItem | None] = [] if self._has_finished else [self._spoken, *self._calls]
        for item in open_items:
            if item is not None and item.index >= 0:
                self._output[item.index] = item.item("incomplete")
        flat = {name: described[name] for name in ("code", "message", "param")}
        events = self._writer.write("error", {**flat, "error": described})
        self._outcome.status = "failed"
        self._outcome.error = {"code": described["code"] or "server_error", "message": described["message"] or ""}
        return events + self._response("response.failed")


def described_error(error: object) -> dict[str, str | None]:
    """Return a chat stream's error with OpenAI's four members.

    Parameters
    ----------
    error : object
        The decoded ``error`` of a chunk: an object, or a text.
    """
    fields = error if isinstance(error, dict) else {"message": error}
    texts = {
        name: str(value)
        for name, value in fields.items()
        if isinstance(value, str | int) and not isinstance(value, bool) and value != ""
    }
    kind = texts.get("type") or "server_error"
    return {
        "type": kind,
        "code": texts.get("code") or kind,
        "message": texts.get("message") or "The provider reported an error.",
        "param": texts.get("param"),
    }
