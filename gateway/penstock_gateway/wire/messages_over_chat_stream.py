"""From chunks of a chat completion to the events of a streamed Message.

Owns the state of one stream. Pure. Read `ChatChunks.feed`.

Wire rules: platform.claude.com/docs/en/build-with-claude/streaming;
platform.openai.com/docs/api-reference/chat-streaming.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock_gateway.wire.error_shapes import anthropic_type
from penstock_gateway.wire.messages_over_chat_calls import Call, Calls
from penstock_gateway.wire.messages_over_chat_reply import (
    ChatAnswer,
    ChatChoice,
    ChatMessage,
    calls_of,
    citations_of,
    message_head,
    message_usage,
    reasoning_of,
    refusal_of,
    stop_reason,
    text_of,
    thinking_blocks_of,
)
from penstock_gateway.wire.server_sent import event_bytes
from penstock_gateway.wire.translation import Asked

_decode_chunk = msgspec.json.Decoder(ChatAnswer).decode
_decode_any = msgspec.json.Decoder().decode
_DONE: Final = b"[DONE]"
_OBJECTS: Final = frozenset({"delta", "message"})
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_ERROR_TYPES: Final = frozenset(
    {
        "invalid_request_error",
        "authentication_error",
        "billing_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "timeout_error",
        "api_error",
        "overloaded_error",
    }
)
_LEAST_ERROR, _GREATEST_ERROR = 400, 599


class ChatChunks:
    """Turns one stream of chat chunks into the events of a Message; fulfils `translation.StreamTranslator`.

    Parameters
    ----------
    asked : Asked

    Notes
    -----
    Blocks of a Message come one after the other, while a chat server may mix its calls. The call that is open goes out
    as it comes; another one begins when the arguments of the open one are a whole object, and waits until the end
    otherwise. Usage comes after the last text in a chat stream, so ``message_start`` says 0 and ``message_delta`` has
    the counts; Anthropic's own clients overlay the one with the other.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._has_begun = False
        self._is_over = False
        self._open = ""  # kind of the block that is open
        self._index = -1
        self._calls = Calls(asked)
        self._open_call: Call | None = None
        self._is_told = False  # the open thinking block has its text from `reasoning_content`
        self._texts: list[str] = []
        self._late_text: list[str] = []
        self._has_refusal = False
        self._has_citations = False
        self._cited: list[object] = []
        self._ended: ChatChoice | None = None
        self._usage: object = None
        self._service_tier: object = None

    def feed(self, name: str, data: bytes) -> bytes:
        """Take one event; see `translation.StreamTranslator.feed`."""
        if self._is_over or data == _DONE:
            return b""
        chunk = _read_chunk(data)
        if chunk is None:
            return b""
        if chunk.error is not None:
            return self._fail(chunk.error)
        if chunk.usage is not None:
            self._usage = chunk.usage
        self._service_tier = chunk.service_tier or self._service_tier
        # Azure begins with a chunk about the prompt, which has neither id nor model.
        found = b"" if self._has_begun or not (chunk.choices or chunk.id) else self._begin(chunk)
        for choice in chunk.choices or ():
            if choice.index in (0, None):
                found += self._choice(choice)
        return found

    def finish(self) -> bytes:
        """Return what is left of the blocks, the stop reason with the usage, and the end."""
        if self._is_over:
            return b""
        found = (b"" if self._has_begun else self._begin(ChatAnswer())) + self._rest()
        self._is_over = True
        is_refusal = self._has_refusal and not self._texts
        reason, sequence = stop_reason(
            self._ended or ChatChoice(), has_calls=len(self._calls) > 0, is_refusal=is_refusal
        )
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        usage = message_usage(self._usage, self._service_tier)
        last = event_bytes({"type": "message_delta", "delta": delta, "usage": usage}, "message_delta")
        return found + last + event_bytes({"type": "message_stop"}, "message_stop")

    def _begin(self, chunk: ChatAnswer) -> bytes:
        self._has_begun = True
        message = {
            **message_head(chunk, self._asked),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return event_bytes({"type": "message_start", "message": message}, "message_start")

    def _choice(self, choice: ChatChoice) -> bytes:
        found = b""
        if choice.delta is not None:
            found = self._delta(choice.delta)
        elif choice.message is not None and not self._texts and not self._calls:
            found = self._delta(choice.message)  # the whole message in the place of deltas
        if choice.finish_reason and self._ended is None:
            self._ended = choice
        return found

    def _delta(self, delta: ChatMessage) -> bytes:
        reasoning = reasoning_of(delta)
        found = self._thought(reasoning, is_told=True) if reasoning else b""
        for block in thinking_blocks_of(delta):
            found += self._thinking_block(block)
        if text := text_of(delta.content):
            self._texts.append(text)
            found += self._text(text)
        elif refusal := refusal_of(delta):
            self._has_refusal = True
            found += self._text(refusal)
        found += self._cite(delta)
        for call in calls_of(delta):
            found += self._call(call)
        return found

    def _thought(self, text: str, *, is_told: bool) -> bytes:
        if self._is_calling:
            return b""  # a block cannot begin inside another
        opened = self._open_block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        self._is_told = is_told
        return opened + self._piece("thinking_delta", "thinking", text) if text else opened

    def _thinking_block(self, block: dict[str, Any]) -> bytes:
        """Take a block, whole or a piece of one: mostly the signature of what came as visible reasoning before."""
        if self._is_calling:
            return b""
        if block["type"] == "redacted_thinking":
            return self._close() + self._start(block) + self._stop()
        found = b""
        if self._open != "thinking" or not self._is_told:
            found = self._thought(block["thinking"], is_told=False)
        if not block["signature"]:
            return found
        return found + self._piece("signature_delta", "signature", block["signature"]) + self._close()

    def _text(self, text: str) -> bytes:
        if self._is_calling:
            self._late_text.append(text)
            return b""
        text, self._late_text = "".join([*self._late_text, text]), []
        return self._open_block("text", {"type": "text", "text": ""}) + self._piece("text_delta", "text", text)

    def _cite(self, delta: ChatMessage) -> bytes:
        """Return the citations of the text that is open, which they end, as Anthropic cites a block at a time.

        Web addresses are `annotations` too where citations come as they are, and some servers repeat them: each counts
        once.
        """
        if self._open != "text" or not (delta.citations or delta.annotations):
            return b""
        if self._has_citations and not delta.citations:
            return b""
        self._has_citations = self._has_citations or bool(delta.citations)
        found = citations_of(delta, "".join(self._texts))
        citations = found if delta.citations else [one for one in found if one not in self._cited]
        if not citations:
            return b""
        self._cited += citations
        return b"".join(self._piece("citations_delta", "citation", one) for one in citations) + self._close()

    @property
    def _is_calling(self) -> bool:
        """Whether the open block is a call that goes on."""
        return self._open_call is not None and not self._open_call.is_whole

    def _call(self, piece: dict[str, Any]) -> bytes:
        call = self._calls.take(piece)
        added = call.add(piece)
        if call.is_sent:
            return self._arguments(added) if call is self._open_call else b""
        if not call.name or self._is_calling:
            return b""
        return self._send(call)

    def _send(self, call: Call) -> bytes:
        """Open the block of a call with all that has come of it."""
        call.is_sent = True
        found = self._close()
        found += self._start({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
        self._open, self._open_call = "tool_use", call
        return found + self._arguments("".join(call.arguments))

    def _arguments(self, text: str) -> bytes:
        return self._piece("input_json_delta", "partial_json", text) if text else b""

    def _rest(self) -> bytes:
        """Return what waited: calls that were mixed with the open one, then the text that came between."""
        found = b"".join(self._send(call) for call in self._calls if not call.is_sent) + self._close()
        return found + self._text("") + self._close() if self._late_text else found

    def _open_block(self, kind: str, block: dict[str, object]) -> bytes:
        if self._open == kind:
            return b""
        closed = self._close()
        started = self._start(block)
        self._open = kind
        return closed + started

    def _start(self, block: dict[str, object]) -> bytes:
        self._index += 1
        return event_bytes(
            {"type": "content_block_start", "index": self._index, "content_block": block}, "content_block_start"
        )

    def _piece(self, kind: str, field: str, value: object) -> bytes:
        delta = {"type": kind, field: value}
        return event_bytes({"type": "content_block_delta", "index": self._index, "delta": delta}, "content_block_delta")

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open, self._open_call = "", None
        return self._stop()

    def _stop(self) -> bytes:
        return event_bytes({"type": "content_block_stop", "index": self._index}, "content_block_stop")

    def _fail(self, error: object) -> bytes:
        """Return the error in Anthropic's shape; it is the last event."""
        self._is_over = True
        message = error.get("message") if isinstance(error, dict) else error
        shown = message if isinstance(message, str) and message else "The provider reported an error."
        return event_bytes({"type": "error", "error": {"type": _error_type(error), "message": shown}}, "error")


def _read_chunk(data: bytes) -> ChatAnswer | None:
    """Return a chunk, without what has another type than it should; None for what is no object."""
    try:
        return _decode_chunk(data)
    except msgspec.ValidationError:
        return _mended(data)
    except _UNREADABLE:
        return None


def _mended(data: bytes) -> ChatAnswer | None:
    try:
        chunk = _decode_any(data)
    except _UNREADABLE:
        return None
    if not isinstance(chunk, dict):
        return None
    choices = chunk.get("choices")
    kept = [
        {name: value for name, value in choice.items() if name not in _OBJECTS or isinstance(value, dict)}
        for choice in (choices if isinstance(choices, list) else ())
        if isinstance(choice, dict)
    ]
    return msgspec.convert({**chunk, "choices": kept}, ChatAnswer)


def _error_type(error: object) -> str:
    """Return Anthropic's word for an error: its own, or by the status that some servers put into the code."""
    fields = error if isinstance(error, dict) else {}
    kind, code = fields.get("type"), fields.get("code")
    if isinstance(kind, str) and kind in _ERROR_TYPES:
        return kind
    if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) == 3:
        code = int(code)
    if isinstance(code, int) and _LEAST_ERROR <= code <= _GREATEST_ERROR:
        return anthropic_type(code)
    words = f"{kind} {code}"
    return "rate_limit_error" if "rate_limit" in words or "insufficient_quota" in words else "api_error"
