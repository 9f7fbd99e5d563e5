"""A stored completion on its way to a client: as a body or as a stream, whatever it was stored from.

Owns the shape of replayed answers. No I/O. Read `StoredReply`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from penstock_gateway.money.usage import Usage

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode

PIECE_CHARACTERS = 256
"""Length of one replayed content chunk; clients draw text as chunks arrive, and a chunk costs about 150 bytes."""

_STREAMED_TEXT = ("reasoning_content", "reasoning", "content", "refusal")
_SAID_BY_THINKING = frozenset({"thinking_blocks", "reasoning_content", "reasoning"})
_SAYS_NOTHING: tuple[Any, ...] = (None, "", [], {})


class StoredReply:
    """A stored answer in the place of a provider's reply; see `upstream.protocol.UpstreamReply`.

    Parameters
    ----------
    body : bytes
        The stored ``chat.completion`` object.
    completion_id : str
        Id of this answer: clients tell answers apart by it, so a replay does not carry the first one's.
    created : int
        Unix time, seconds.
    wants_usage : bool
        The client asked for the stream's usage chunk.
    usage : Usage
        Counts of the stored answer.
    """

    def __init__(self, body: bytes, *, completion_id: str, created: int, wants_usage: bool, usage: Usage) -> None:
        self.status = 200
        self.content_type = "application/json"
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.usage: Usage | None = usage
        self.output_bytes = len(body)
        self.stream_error: str | None = None
        self._completion = _decode(body) | {"id": completion_id, "created": created}
        self._wants_usage = wants_usage

    async def read(self) -> bytes:
        """Return the completion with its own id and time."""
        return _encode(self._completion)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the completion as chunks, ``[DONE]`` last, in one block: it is all there, so nothing is waited for."""
        chunks = stream_chunks(self._completion, wants_usage=self._wants_usage)
        yield b"".join(b"data: " + _encode(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"

    async def aclose(self) -> None:
        """Release nothing."""


def stream_chunks(completion: dict[str, Any], *, wants_usage: bool) -> list[dict[str, Any]]:
    """Cut a completion into the chunks of a stream.

    Parameters
    ----------
    completion : dict
        A ``chat.completion`` object.
    wants_usage : bool
        Whether the last chunk holds the usage and the others ``"usage": null``, as with ``include_usage``.

    Returns
    -------
    list of dict
        ``chat.completion.chunk`` objects: for each choice the role, its texts in pieces, the finish reason.
    """
    head = {name: completion[name] for name in ("id", "created", "model", "system_fingerprint", "service_tier")
            if completion.get(name) is not None}  # fmt: skip
    head["object"] = "chat.completion.chunk"
    if wants_usage:
        head["usage"] = None
    parts = [part for choice in completion["choices"] for part in _parts(choice)]
    chunks = [head | {"choices": [part]} for part in parts]
    if wants_usage:
        chunks.append(head | {"choices": [], "usage": completion.get("usage")})
    return chunks


def _thinking(block: Any) -> list[dict[str, Any]]:
    text = block.get("thinking") if isinstance(block, dict) else None
    visible = [{"reasoning_content": text}] if isinstance(text, str) and text else []
    return [*visible, {"thinking_blocks": [block]}]


def _parts(choice: dict[str, Any]) -> list[dict[str, Any]]:
    index, message = choice.get("index", 0), choice["message"]
    opening = None if message.get("content") is None else ""
    deltas: list[dict[str, Any]] = [{"role": message.get("role", "assistant"), "content": opening}]
    signed = message.get("thinking_blocks")
    if isinstance(signed, list) and signed:  # each with its own text, before the answer that it led to
        deltas += [delta for block in signed for delta in _thinking(block)]
        message = {name: value for name, value in message.items() if name not in _SAID_BY_THINKING}
    for name in _STREAMED_TEXT:
        text = message.get(name) or ""
        if not isinstance(text, str):  # some providers put objects there; nothing says how to cut them
            deltas.append({name: text})
            continue
        deltas += [{name: text[start : start + PIECE_CHARACTERS]} for start in range(0, len(text), PIECE_CHARACTERS)]
    # Annotations, and whatever else a provider puts into a message: a client that knows it as a body knows it here.
    whole = (name for name in message if name != "role" and name not in _STREAMED_TEXT)
    deltas += [{name: message[name]} for name in whole if message[name] not in _SAYS_NOTHING]
    parts = [{"index": index, "delta": delta, "finish_reason": None} for delta in deltas]
    if choice.get("logprobs") is not None:
        parts[-1]["logprobs"] = choice["logprobs"]
    parts.append({"index": index, "delta": {}, "finish_reason": choice.get("finish_reason")})
    return parts
