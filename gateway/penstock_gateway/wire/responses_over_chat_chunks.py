"""A thin, forgiving view of chat chunks: pieces of text stay the provider's bytes.

Pure. Read `read_chunk` and `piece_of`.

Wire rules: platform.openai.com/docs/api-reference/chat-streaming.
"""

from __future__ import annotations

from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder().decode
_decode_string = msgspec.json.Decoder(str).decode
_QUOTE = ord('"')
_BRACKET = ord("[")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class FunctionView(msgspec.Struct):
    """A piece of a function's call."""

    name: Any = None
    arguments: msgspec.Raw = msgspec.Raw()


class CallView(msgspec.Struct):
    """A piece of a tool call."""

    index: Any = None
    id: Any = None
    function: FunctionView | None = None


class DeltaView(msgspec.Struct):
    """What a chunk adds to the message."""

    content: msgspec.Raw = msgspec.Raw()
    refusal: msgspec.Raw = msgspec.Raw()
    reasoning_content: msgspec.Raw = msgspec.Raw()
    reasoning: msgspec.Raw = msgspec.Raw()
    thinking_blocks: Any = None
    reasoning_items: Any = None
    annotations: Any = None
    tool_calls: list[CallView] | None = None
    function_call: FunctionView | None = None


class ChoiceView(msgspec.Struct):
    """One choice of a chunk."""

    index: Any = None
    delta: DeltaView | None = None
    message: DeltaView | None = None  # some servers repeat the plain reply's shape
    finish_reason: Any = None
    logprobs: Any = None


class ChunkView(msgspec.Struct):
    """One chunk."""

    created: Any = None
    model: Any = None
    choices: list[ChoiceView] | None = None
    usage: Any = None
    service_tier: Any = None
    error: Any = None


_decode_chunk = msgspec.json.Decoder(ChunkView).decode


def read_chunk(data: bytes) -> ChunkView | None:
    """Return a view of a chunk, without what has another type than it should; None for what is no object.

    Parameters
    ----------
    data : bytes
    """
    try:
        return _decode_chunk(data)
    except msgspec.ValidationError:
        try:
            chunk = _decode_any(data)
            return _decode_chunk(_encode(_mended(chunk))) if isinstance(chunk, dict) else None
        except _UNREADABLE:
            return None
    except _UNREADABLE:
        return None


def piece_of(text: msgspec.Raw) -> bytes:
    """Return the inside of a JSON string as it was sent; empty for anything else."""
    if len(text) <= 2 or memoryview(text)[0] != _QUOTE:
        return b""
    try:
        _decode_string(text)  # what is passed over undecoded is not checked to be UTF-8
    except (msgspec.DecodeError, UnicodeDecodeError):
        return b""
    return bytes(text)[1:-1]


def as_piece(text: str) -> bytes:
    """Return a text as the inside of a JSON string."""
    return _encode(text)[1:-1]


def content_pieces(content: msgspec.Raw) -> tuple[bytes, bytes]:
    """Return what a content says and what it thinks, each as the inside of a JSON string."""
    if len(content) > 2 and memoryview(content)[0] == _BRACKET:
        try:
            said, thought = said_in(_decode_any(content))
        except _UNREADABLE:
            return b"", b""
        return as_piece(said), as_piece(thought)
    return piece_of(content), b""


def arguments_piece(arguments: msgspec.Raw) -> bytes:
    """Return a piece of a call's arguments; some servers send the object itself."""
    text = bytes(arguments)
    return as_piece(text.decode("utf-8", "replace")) if text.startswith(b"{") else piece_of(arguments)


def said_in(content: object) -> tuple[str, str]:
    """Return what a content says and what it thinks.

    Parameters
    ----------
    content : object
        Decoded: a string, or a list of parts (docs.mistral.ai/capabilities/reasoning has parts of both kinds).
    """
    if isinstance(content, str):
        return content, ""
    said: list[str] = []
    thought: list[str] = []
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        text = part.get("text")
        if part.get("type") == "text" and isinstance(text, str):
            said.append(text)
        elif part.get("type") == "thinking":
            thought.append(said_in(part.get("thinking"))[0])
    return "".join(said), "".join(thought)


def _mended(chunk: dict[str, Any]) -> dict[str, Any]:
    """Return a chunk without the members whose type is wrong."""
    choices = chunk.get("choices")
    kept = (
        [_mended_choice(choice) for choice in choices if isinstance(choice, dict)]
        if isinstance(choices, list)
        else None
    )
    return {**chunk, "choices": kept}


def _mended_choice(choice: dict[str, Any]) -> dict[str, Any]:
    mended = dict(choice)
    for name in ("delta", "message"):
        delta = choice.get(name)
        mended[name] = _mended_delta(delta) if isinstance(delta, dict) else None
    return mended


def _mended_delta(delta: dict[str, Any]) -> dict[str, Any]:
    calls = delta.get("tool_calls")
    kept = [_mended_call(call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else None
    function = delta.get("function_call")
    return {**delta, "tool_calls": kept, "function_call": function if isinstance(function, dict) else None}


def _mended_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    return {**call, "function": function if isinstance(function, dict) else None}
