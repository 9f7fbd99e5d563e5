"""What travels in a conversation that not every server takes: left out before it is sent.

Owns which servers take which of the extensions named in `translation`, and thinking that nobody has signed. Pure. Read
`without_extensions` and `without_unsigned_thinking`.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from penstock_gateway.request_body import raw
from penstock_gateway.upstream.protocol import JsonObject

_OF_MESSAGES: Final = frozenset(
    {"thinking_blocks", "reasoning_content", "reasoning_items", "cache_control", "citations"}
)
_OF_PARTS: Final = frozenset({"cache_control", "citations"})
_TAKES_ALL: Final = frozenset({"openrouter"})
# DeepSeek wants its reasoning back in an agent's loop; servers of one's own skip what they do not know.
_TAKES_REASONING: Final = frozenset({"deepseek", "openai_compatible", "ollama"})
_UNSIGNED: Final = re.compile(rb'"signature"\s*:\s*""')
_MARKS: Final = tuple(f'"{name}"'.encode() for name in sorted(_OF_MESSAGES))
_decode_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_decode_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def is_unsigned(block: JsonObject) -> bool:
    """Whether a block is thinking without a signature: made here of what a chat provider showed of its reasoning."""
    if bytes(block.get("type", b"")) != b'"thinking"':
        return False
    return bytes(block.get("signature", b"")) in (b"", b'""', b"null")


def without_unsigned_thinking(body: JsonObject) -> tuple[JsonObject, tuple[str, ...]]:
    """Return a Messages body as Anthropic takes it: it refuses thinking whose signature it did not make.

    Parameters
    ----------
    body : JsonObject
        As its client wrote it. Nothing but the turns that hold such thinking is written anew.

    Returns
    -------
    body : JsonObject
    dropped : tuple of str
        ``("messages.content.thinking",)`` when there was any.
    """
    messages = body.get("messages")
    if messages is None or _UNSIGNED.search(bytes(messages)) is None:
        return body, ()
    try:
        turns = [_without_thinking(turn) for turn in _decode_parts(messages)]
    except msgspec.DecodeError:  # of another shape than any that we know: the provider says what is wrong with it
        return body, ()
    return {**body, "messages": raw([turn for turn in turns if turn is not None])}, ("messages.content.thinking",)


def _without_thinking(turn: msgspec.Raw) -> object | None:
    """Return a turn without its unsigned thinking; None when nothing is left of it."""
    if _UNSIGNED.search(bytes(turn)) is None:
        return turn
    fields = _decode_object(turn)
    content = fields.get("content")
    if content is None or not bytes(content).startswith(b"["):
        return turn
    blocks = [block for block in _decode_parts(content) if not is_unsigned(_decode_object(block))]
    return {**fields, "content": blocks} if blocks else None


def without_extensions(body: JsonObject, provider: str, adapter: str) -> tuple[JsonObject, tuple[str, ...]]:
    """Return a translated chat body as a provider takes it, and the names of what was left out.

    Parameters
    ----------
    body : JsonObject
        Made by a translator.
    provider, adapter : str
        Of the deployment. litellm and OpenRouter take all extensions; others refuse unknown fields.

    Returns
    -------
    body : JsonObject
    dropped : tuple of str
        Names of extensions.
    """
    if adapter == "litellm" or provider in _TAKES_ALL:
        return body, ()
    kept = {"reasoning_content"} if provider in _TAKES_REASONING else set()
    dropped: dict[str, None] = {}
    out = dict(body)
    for name in ("messages", "tools"):
        value = body.get(name)
        if value is None or not any(mark in bytes(value) for mark in _MARKS):
            continue
        out[name] = raw([_cleaned(entry, kept, dropped) for entry in _decode_objects(value)])
    return out, tuple(dropped)


def _cleaned(entry: JsonObject, kept: set[str], dropped: dict[str, None]) -> dict[str, object]:
    dropped.update(dict.fromkeys(name for name in entry if name in _OF_MESSAGES and name not in kept))
    clean: dict[str, object] = {name: v for name, v in entry.items() if name not in _OF_MESSAGES or name in kept}
    for name in ("content", "tool_calls"):
        parts = entry.get(name)
        if parts is not None and bytes(parts).startswith(b"["):
            clean[name] = [_clean_part(part, dropped) for part in _decode_parts(parts)]
    return clean


def _clean_part(part: msgspec.Raw, dropped: dict[str, None]) -> object:
    if not any(mark in bytes(part) for mark in _MARKS):
        return part
    fields = _decode_object(part)
    dropped.update(dict.fromkeys(name for name in fields if name in _OF_PARTS))
    return {name: value for name, value in fields.items() if name not in _OF_PARTS}
