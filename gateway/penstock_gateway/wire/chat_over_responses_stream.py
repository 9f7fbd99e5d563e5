"""From the events of a streamed response to chunks of a chat completion.

Owns the state of one stream. Pure. Read `ResponseEvents.feed`.

Wire rules: platform.openai.com/docs/api-reference/responses-streaming and /chat-streaming.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock_gateway.wire.chat_over_responses_reply import (
    Fields,
    ItemView,
    ResponseView,
    chat_annotations,
    chat_logprobs,
    chat_usage,
    completion_head,
    extras,
    finish_reason,
    is_self_contained,
    item_of,
    items_of,
    reasoning_texts,
    tool_call,
    wants_functions,
)
from penstock_gateway.wire.server_sent import event_bytes
from penstock_gateway.wire.translation import Asked

_DONE: Final = b"data: [DONE]\n\n"
_NULL: Final = b"null"
_SAID: Final = {"response.output_text.delta": b"content", "response.refusal.delta": b"refusal"}
_THOUGHTS: Final = {"response.reasoning_summary_text.delta": "summary", "response.reasoning_text.delta": "content"}
_ARGUMENTS: Final = frozenset({"response.function_call_arguments.delta", "response.custom_tool_call_input.delta"})
_ENDS: Final = frozenset({"response.completed", "response.incomplete"})
_ERRORS: Final = frozenset({"error", "response.failed"})
_BETWEEN_THOUGHTS: Final = "\n\n"
_INPUTS: Final = {"function": "arguments", "custom": "input"}


class _Event(msgspec.Struct):
    type: Any = None
    delta: msgspec.Raw = msgspec.Raw()
    item: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    output_index: Any = None
    content_index: Any = None
    summary_index: Any = None
    item_id: Any = None
    logprobs: Any = None
    annotation: Any = None
    error: Any = None
    message: Any = None
    param: Any = None
    code: Any = None


class _Call:
    """A call that is being streamed."""

    def __init__(self, index: int, kind: str) -> None:
        self.index = index
        self.kind = kind
        self.has_input = False


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_response = msgspec.json.Decoder(ResponseView).decode
_decode_string = msgspec.json.Decoder(str).decode
_decode_anything = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class ResponseEvents:
    """Turns one stream of a response into chat chunks; fulfils `translation.StreamTranslator`.

    Parameters
    ----------
    asked : Asked

    Notes
    -----
    Pieces of text stay the provider's bytes. Servers differ in how much comes in pieces: what an item holds that was
    not sent before is sent when the item ends, and what the whole response holds when nothing was. Reasoning items are
    sent whole when they end, their text in ``reasoning_content`` as it comes.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._wants_functions = wants_functions(asked)
        self._head: Fields = {}
        self._prefix = b""
        self._suffix = (b',"usage":null}' if asked.wants_usage else b"}") + b"\n\n"
        self._calls: dict[object, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._parts: dict[object, int] = {}  # where each text part begins in the message, characters
        self._characters = 0
        self._has_said = False  # in the message under way
        self._has_thought = False  # in the reasoning item under way
        self._thought: tuple[object, str, object] | None = None
        self._is_empty = True
        self._response: ResponseView | None = None
        self._is_over = False

    def feed(self, name: str, data: bytes) -> bytes:
        """Take one event; see `translation.StreamTranslator.feed`."""
        if self._is_over or self._response is not None:
            return b""
        try:
            event = _decode_event(data)
        except _UNREADABLE:
            return b""
        kind = event.type if isinstance(event.type, str) and event.type else name
        if kind in _ERRORS:
            return self._fail(event)
        if not self._head:
            if not kind.startswith("response."):
                return b""
            return self._begin(event) + self._read(kind, event)
        return self._read(kind, event)

    def finish(self) -> bytes:
        """Return the usage chunk, when it is wanted, and the end mark; nothing after an error or a cut."""
        if self._is_over or self._response is None:
            return b""
        self._is_over = True
        usage = chat_usage(self._response.usage) if self._asked.wants_usage else None
        if usage is None:
            return _DONE
        return event_bytes({**self._head, "choices": [], **extras(self._response), "usage": usage}) + _DONE

    def _read(self, kind: str, event: _Event) -> bytes:
        if kind in _SAID:
            return self._say(_SAID[kind], event)
        if kind in _THOUGHTS:
            return self._think(_THOUGHTS[kind], event)
        if kind in _ARGUMENTS:
            return self._continue_call(event)
        if kind == "response.output_item.added":
            item = item_of(event.item)
            return self._begin_call(_place(event), item) if item is not None else b""
        if kind == "response.output_item.done":
            item = item_of(event.item)
            return self._end_item(_place(event), item, event.item) if item is not None else b""
        if kind == "response.output_text.annotation.added":
            return self._annotate(event)
        return self._end(kind, event) if kind in _ENDS else b""

    def _begin(self, event: _Event) -> bytes:
        self._head = {**completion_head(_response_of(event), self._asked), "object": "chat.completion.chunk"}
        self._prefix = b"data: " + _encode(self._head)[:-1] + b',"choices":[{"index":0,"delta":'
        return self._chunk(b'{"role":"assistant","content":null,"refusal":null}')

    def _chunk(self, delta: bytes, reason: bytes = _NULL, logprobs: bytes = _NULL) -> bytes:
        choice = delta + b',"logprobs":' + logprobs + b',"finish_reason":' + reason + b"}]"
        return self._prefix + choice + self._suffix

    def _say(self, field: bytes, event: _Event) -> bytes:
        text = _decoded(event.delta)
        if not text:
            return b""
        self._is_empty = False
        self._has_said = True
        if field == b"content":
            self._parts.setdefault((_place(event), _plain(event.content_index)), self._characters)
            self._characters += len(text)
        logprobs = chat_logprobs(event.logprobs) if field == b"content" and event.logprobs else None
        shown = _encode({"content": logprobs, "refusal": None}) if logprobs else _NULL
        return self._chunk(b'{"' + field + b'":' + bytes(event.delta) + b"}", logprobs=shown)

    def _think(self, kind: str, event: _Event) -> bytes:
        """Pass a piece of reasoning on; of an item that comes as summary and in full, what began first."""
        if not _decoded(event.delta):
            return b""
        place, before = _place(event), self._thought
        if before is not None and before[0] == place and before[1] != kind:
            return b""
        index = _plain(event.summary_index if kind == "summary" else event.content_index)
        self._thought = (place, kind, index)
        self._has_thought = True
        text = bytes(event.delta)
        if before is not None and before != self._thought:
            text = _encode(_BETWEEN_THOUGHTS)[:-1] + text[1:]  # into the provider's string
        return self._chunk(b'{"reasoning_content":' + text + b"}")

    def _begin_call(self, place: object, item: ItemView) -> bytes:
        call = tool_call(item)
        if call is None:
            return b""
        self._is_empty = False
        kind = call["type"]
        begun = self._calls[place] = _Call(len(self._calls), kind)
        if call["id"]:
            self._by_id.setdefault(call["id"], begun)
        call[kind][_INPUTS[kind]] = ""
        if not self._wants_functions:
            return self._chunk(_encode({"tool_calls": [{"index": begun.index, **call}]}))
        return self._chunk(_encode({"function_call": call[kind]})) if begun.index == 0 else b""

    def _continue_call(self, event: _Event) -> bytes:
        call = self._calls.get(_place(event))
        if call is None or not _decoded(event.delta):
            return b""
        return self._piece(call, bytes(event.delta))

    def _piece(self, call: _Call, text: bytes) -> bytes:
        call.has_input = True
        piece = b'{"' + _INPUTS[call.kind].encode() + b'":' + text + b"}"
        if not self._wants_functions:
            place = b'{"tool_calls":[{"index":' + str(call.index).encode()
            return self._chunk(place + b',"' + call.kind.encode() + b'":' + piece + b"}]}")
        return self._chunk(b'{"function_call":' + piece + b"}") if call.index == 0 else b""

    def _end_item(self, place: object, item: ItemView, raw: msgspec.Raw) -> bytes:
        if item.type == "reasoning":
            return self._end_reasoning(item, raw)
        if item.type == "message":
            sent = b"" if self._has_said else self._say_whole(place, item)
            self._has_said = False
            return sent
        whole = tool_call(item)
        return b"" if whole is None else self._end_call(place, item, whole)

    def _end_reasoning(self, item: ItemView, raw: msgspec.Raw) -> bytes:
        sent = b""
        if not self._has_thought and (texts := reasoning_texts(item)):
            thoughts = _BETWEEN_THOUGHTS.join(texts if self._thought is None else ["", *texts])
            self._thought = (item.id, "item", None)
            sent = self._chunk(_encode({"reasoning_content": thoughts}))
        self._has_thought = False
        if not is_self_contained(item):
            return sent
        return sent + self._chunk(b'{"reasoning_items":[' + _on_one_line(raw) + b"]}")

    def _end_call(self, place: object, item: ItemView, whole: Fields) -> bytes:
        """Send what has not come in pieces: the call itself, or its input."""
        call = self._calls.get(place) or self._by_id.get(whole["id"])
        begun = b""
        if call is None:
            begun = self._begin_call(place, item)
            call = self._calls[place]
        text = whole[call.kind][_INPUTS[call.kind]] if call.kind == whole["type"] else ""
        return begun if call.has_input or not text else begun + self._piece(call, _encode(text))

    def _say_whole(self, place: object, item: ItemView) -> bytes:
        """Send a message that did not come in pieces."""
        sent = b""
        for index, part in enumerate(item.parts):
            text = part.get("text") if part.get("type") == "output_text" else part.get("refusal")
            if isinstance(text, str) and text:
                field = b"content" if part.get("type") == "output_text" else b"refusal"
                probs = part.get("logprobs")
                said = _Event(output_index=place, content_index=index, logprobs=probs, delta=msgspec.Raw(_encode(text)))
                sent += self._say(field, said)
                cited = chat_annotations(part.get("annotations"), self._characters - len(text))
                sent += self._chunk(_encode({"annotations": cited})) if cited else b""
        return sent

    def _annotate(self, event: _Event) -> bytes:
        start = self._parts.get((_place(event), _plain(event.content_index)), 0)
        cited = chat_annotations([event.annotation], start)
        return self._chunk(_encode({"annotations": cited})) if cited else b""

    def _end(self, kind: str, event: _Event) -> bytes:
        response = self._response = _response_of(event)
        sent = []
        if self._is_empty:
            for index, raw in enumerate(items_of(response)):
                if (item := item_of(raw)) is not None and item.type != "reasoning":
                    sent.append(self._end_item(index, item, raw))
        reason = finish_reason(
            response,
            has_calls=bool(self._calls),
            wants_functions=self._wants_functions,
            is_cut=kind == "response.incomplete",
        )
        return b"".join(sent) + self._chunk(b"{}", _encode(reason))

    def _fail(self, event: _Event) -> bytes:
        """Return the error in OpenAI's shape for chat; it is the last event."""
        self._is_over = True
        error = _response_of(event).error or event.error
        if not isinstance(error, dict):
            error = {"code": event.code, "message": event.message, "param": event.param}
        message, code, param = error.get("message"), error.get("code"), error.get("param")
        code = code if isinstance(code, str) and code else None
        shown = {
            "message": message if isinstance(message, str) and message else "The provider reported an error.",
            "type": _error_type(error.get("type"), code or ""),
            "param": param if isinstance(param, str) else None,
            "code": code,
        }
        return event_bytes({"error": shown})


def _error_type(told: object, code: str) -> str:
    if isinstance(told, str) and told and told != "error":
        return told
    if code.startswith("rate_limit"):
        return "rate_limit_error"
    return "invalid_request_error" if code.startswith("invalid_") else "server_error"


def _response_of(event: _Event) -> ResponseView:
    try:
        return _decode_response(event.response)
    except _UNREADABLE:
        return ResponseView()


def _place(event: _Event) -> object:
    """Return by what an item is known: its place in the output, which every event has; some servers change ids."""
    place = event.output_index
    return place if isinstance(place, int) else str(event.item_id)


def _on_one_line(raw: msgspec.Raw) -> bytes:
    """Return JSON as it came, unless it came in several lines, which would end the event."""
    found = bytes(raw)
    return _encode(_decode_anything(found)) if b"\n" in found or b"\r" in found else found


def _plain(index: object) -> object:
    return index if isinstance(index, int) else None


def _decoded(text: msgspec.Raw) -> str:
    """Return a piece of text; empty when it is none, or of a kind that is not known."""
    try:
        return _decode_string(text)
    except _UNREADABLE:
        return ""
