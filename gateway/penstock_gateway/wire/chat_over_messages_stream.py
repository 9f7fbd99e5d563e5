"""From the events of a streamed Message to chunks of a chat completion.

Owns the state of one stream. Pure. Read `MessageEvents.feed`.

Wire rules: platform.claude.com/docs/en/build-with-claude/streaming;
platform.openai.com/docs/api-reference/chat-streaming.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock_gateway.wire.chat_over_messages_reply import (
    annotations_of,
    arguments_of,
    chat_usage,
    finish_reason,
    model_of,
    refusal_of,
    service_tier,
    tool_call,
    wants_functions,
)
from penstock_gateway.wire.server_sent import event_bytes
from penstock_gateway.wire.translation import Asked

_DONE: Final = b"data: [DONE]\n\n"


class _Delta(msgspec.Struct):
    type: Any = None
    text: msgspec.Raw = msgspec.Raw()
    thinking: msgspec.Raw = msgspec.Raw()
    partial_json: msgspec.Raw = msgspec.Raw()
    signature: Any = None
    citation: Any = None
    stop_reason: Any = None
    stop_details: Any = None


class _Block(msgspec.Struct):
    type: Any = None
    text: msgspec.Raw = msgspec.Raw()
    thinking: msgspec.Raw = msgspec.Raw()
    signature: Any = None
    data: Any = None
    id: Any = None
    name: Any = None
    input: msgspec.Raw = msgspec.Raw()
    citations: Any = None


class _Started(msgspec.Struct):
    id: Any = None
    model: Any = None
    usage: Any = None


class _Event(msgspec.Struct):
    type: Any = None
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Started | None = None
    usage: Any = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


class _OpenBlock:
    """What has to be remembered of the block that is being sent."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.start = 0
        self.citations: list[object] = []
        self.thoughts: list[str] = []
        self.signature = ""
        self.redacted: str | None = None
        self.has_arguments = False
        self.arguments = "{}"


class MessageEvents:
    """Turns one stream of a Message into chat chunks; fulfils `translation.StreamTranslator`.

    Parameters
    ----------
    asked : Asked

    Notes
    -----
    Pieces of text stay the provider's bytes. Blocks come one after the other, so only one is open at a time. A call
    without arguments gets an empty object, because clients parse what they have joined. Thinking blocks are sent whole
    when they end, their text in ``reasoning_content`` as it comes.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._wants_functions = wants_functions(asked)
        self._head = b""
        self._tail = (b',"usage":null}' if asked.wants_usage else b"}") + b"\n\n"
        self._block = _OpenBlock("")
        self._calls = 0
        self._characters = 0
        self._counts: dict[str, Any] = {}
        self._has_finished = False
        self._is_over = False

    def feed(self, name: str, data: bytes) -> bytes:
        """Take one event; see `translation.StreamTranslator.feed`."""
        if self._is_over:
            return b""
        try:
            event = _decode_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return b""
        kind = event.type if isinstance(event.type, str) else name
        if event.error is not None or kind == "error":
            return self._fail(event.error)
        if kind == "content_block_delta":
            return self._delta(event.delta) if event.delta is not None else b""
        if kind == "content_block_start":
            return self._begin_block(event.content_block) if event.content_block is not None else b""
        if kind == "content_block_stop":
            return self._end_block()
        if kind == "message_start":
            return self._begin(event.message or _Started())
        if kind == "message_delta":
            self._note_counts(event.usage)
            return self._stop(event.delta.stop_reason, event.delta.stop_details) if event.delta is not None else b""
        if kind == "message_stop":
            return self._stop("end_turn", None)
        return b""

    def finish(self) -> bytes:
        """Return the usage chunk, when it is wanted, and the end mark; nothing after an error or a cut."""
        if self._is_over or not self._has_finished:
            return b""
        self._is_over = True
        usage = chat_usage(self._counts) if self._asked.wants_usage else None
        if usage is None:
            return _DONE
        tier = service_tier(self._counts)
        extra = {"service_tier": tier} if tier is not None else {}
        fields = msgspec.json.decode(self._head + b"[]}")
        return event_bytes({**fields, "choices": [], **extra, "usage": usage}) + _DONE

    def _begin(self, message: _Started) -> bytes:
        self._note_counts(message.usage)
        if self._head:
            return b""
        head = _encode(
            {
                "id": message.id if message.id and isinstance(message.id, str) else self._asked.id,
                "object": "chat.completion.chunk",
                "created": self._asked.created,
                "model": model_of(message.model, self._asked),
            }
        )
        self._head = head[:-1] + b',"choices":'
        return self._chunk(b'{"role":"assistant","content":null,"refusal":null}')

    def _chunk(self, delta: bytes, reason: bytes = b"null") -> bytes:
        opening = b"" if self._head else self._begin(_Started())
        choice = b'[{"index":0,"delta":' + delta + b',"logprobs":null,"finish_reason":' + reason + b"}]"
        return opening + b"data: " + self._head + choice + self._tail

    def _begin_block(self, started: _Block) -> bytes:
        ended = self._end_block()  # a server that leaves the end of a block out
        block = self._block = _OpenBlock(started.type if isinstance(started.type, str) else "")
        block.start = self._characters
        if block.kind == "text":
            self._note_citations(started.citations)
            return ended + self._text(started.text)
        if block.kind == "thinking":
            block.signature = started.signature if isinstance(started.signature, str) else ""
            return ended + self._thought(started.thinking)
        if block.kind == "redacted_thinking":
            block.redacted = started.data if isinstance(started.data, str) else None
        elif block.kind == "tool_use":
            block.arguments = arguments_of(started.input)
            return ended + self._begin_call(started)
        return ended

    def _begin_call(self, started: _Block) -> bytes:
        call = tool_call(started.id, started.name, "", self._calls)
        self._calls += 1
        if not self._wants_functions:
            return self._chunk(_encode({"tool_calls": [{"index": self._calls - 1, **call}]}))
        return self._chunk(_encode({"function_call": call["function"]})) if self._calls == 1 else b""

    def _delta(self, delta: _Delta) -> bytes:
        kind = delta.type
        if kind == "text_delta":
            return self._text(delta.text)
        if kind == "input_json_delta":
            return self._arguments(bytes(delta.partial_json))
        if kind == "thinking_delta":
            return self._thought(delta.thinking)
        if kind == "signature_delta" and isinstance(delta.signature, str):
            self._block.signature += delta.signature
        elif kind == "citations_delta":
            self._note_citations([delta.citation])
        return b""

    def _text(self, text: msgspec.Raw) -> bytes:
        decoded = _string(text)
        if not decoded:
            return b""
        self._characters += len(decoded)
        return self._chunk(b'{"content":' + bytes(text) + b"}")

    def _thought(self, text: msgspec.Raw) -> bytes:
        decoded = _string(text)
        if not decoded:
            return b""
        self._block.thoughts.append(decoded)
        return self._chunk(b'{"reasoning_content":' + bytes(text) + b"}")

    def _arguments(self, piece: bytes) -> bytes:
        """Return the chunk of a piece of a call's arguments; those of the provider's own tools are not shown."""
        if self._block.kind != "tool_use" or len(piece) <= 2 or not piece.startswith(b'"'):
            return b""
        self._block.has_arguments = True
        if not self._wants_functions:
            index = str(self._calls - 1).encode()
            return self._chunk(b'{"tool_calls":[{"index":' + index + b',"function":{"arguments":' + piece + b"}}]}")
        return self._chunk(b'{"function_call":{"arguments":' + piece + b"}}") if self._calls == 1 else b""

    def _end_block(self) -> bytes:
        block, self._block = self._block, _OpenBlock("")
        if block.kind == "tool_use" and not block.has_arguments:
            self._block = block
            chunk = self._arguments(_encode(block.arguments))
            self._block = _OpenBlock("")
            return chunk
        if block.kind == "thinking" and (block.thoughts or block.signature):
            thinking = {"type": "thinking", "thinking": "".join(block.thoughts), "signature": block.signature}
            return self._chunk(_encode({"thinking_blocks": [thinking]}))
        if block.redacted is not None:
            return self._chunk(_encode({"thinking_blocks": [{"type": "redacted_thinking", "data": block.redacted}]}))
        if not block.citations:
            return b""
        cited: dict[str, object] = {"citations": block.citations}
        annotations = annotations_of(block.citations, block.start, self._characters)
        if annotations:
            cited["annotations"] = annotations
        return self._chunk(_encode(cited))

    def _note_citations(self, citations: object) -> None:
        if isinstance(citations, list):
            self._block.citations += [citation for citation in citations if isinstance(citation, dict)]

    def _note_counts(self, counts: object) -> None:
        """Overlay the counts known so far, as `upstream.messages_scanner` does."""
        if isinstance(counts, dict):
            self._counts.update({name: value for name, value in counts.items() if value or name not in self._counts})

    def _stop(self, reason: object, details: object) -> bytes:
        """Return the chunk with the finish reason, once."""
        if not reason or self._has_finished:
            return b""
        ended = self._end_block()
        self._has_finished = True
        refusal = refusal_of(reason, details)
        delta = _encode({"refusal": refusal} if refusal is not None else {})
        return ended + self._chunk(delta, _encode(finish_reason(reason, wants_functions=self._wants_functions)))

    def _fail(self, error: object) -> bytes:
        """Return the error in OpenAI's shape; it is the last event."""
        self._is_over = True
        fields = error if isinstance(error, dict) else {}
        kind = fields.get("type")
        message = fields.get("message")
        kind = kind if isinstance(kind, str) and kind else "api_error"
        shown = message if isinstance(message, str) else "The provider reported an error."
        return event_bytes({"error": {"message": shown, "type": kind, "param": None, "code": kind}})


def _string(text: msgspec.Raw) -> str:
    """Return a string's value; empty for anything else."""
    if len(text) <= 2:
        return ""
    try:
        return _decode_string(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
