"""What translators put into a chat request that not every server takes: left out before it is sent.

Owns which servers take which of the extensions named in `translation`. Pure. Read `without_extensions`.
"""

from __future__ import annotations

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
_MARKS: Final = tuple(f'"{name}"'.encode() for name in sorted(_OF_MESSAGES))
_decode_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_decode_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


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
    content = entry.get("content")
    if content is not None and bytes(content).startswith(b"["):
        clean["content"] = [_clean_part(part, dropped) for part in _decode_parts(content)]
    return clean


def _clean_part(part: msgspec.Raw, dropped: dict[str, None]) -> object:
    if not any(mark in bytes(part) for mark in _MARKS):
        return part
    fields = _decode_object(part)
    dropped.update(dict.fromkeys(name for name in fields if name in _OF_PARTS))
    return {name: value for name, value in fields.items() if name not in _OF_PARTS}
