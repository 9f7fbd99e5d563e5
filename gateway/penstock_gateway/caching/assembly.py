"""From a relayed stream back to the completion object that the same request would have got as a body.

Owns the joining of ``chat.completion.chunk`` events. It must not guess: a stream with anything in it that it cannot
join exactly gives None, and the answer is then not stored. Read `assemble`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock_gateway.money.usage import Usage

_decode = msgspec.json.Decoder().decode
_TOP_FIELDS = ("id", "created", "model", "system_fingerprint", "service_tier", "citations", "search_results")
_JOINED = frozenset({"content", "refusal", "reasoning_content", "reasoning"})
_Json = dict[str, Any]


class KeptStream:
    """The events of a stream under way, up to a size.

    Parameters
    ----------
    max_bytes : int
        Past this nothing is kept any more.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._blocks: list[bytes] = []
        self._size = 0

    def add(self, block: bytes) -> None:
        """Keep a block of events as it was relayed."""
        self._size += len(block)
        if self._size <= self._max_bytes:
            self._blocks.append(block)

    def complete(self) -> bytes | None:
        """Return all blocks; None when they were too many."""
        return b"".join(self._blocks) if self._size <= self._max_bytes else None


def assemble(stream: bytes, usage: Usage | None = None) -> bytes | None:
    """Join the events of one complete stream.

    Parameters
    ----------
    stream : bytes
        The server-sent events as relayed, ``[DONE]`` included.
    usage : Usage, optional
        Counts of the answer, for a stream that does not tell: the client did not ask for them, but who gets the answer
        as a body expects them there.

    Returns
    -------
    bytes or None
        A ``chat.completion`` object as JSON. None when the stream has no end, holds an error, a tool call or a field
        that cannot be joined, or is not made of chunks.

    Notes
    -----
    Tool calls could be joined but are never stored, so they are not.
    """
    try:
        chunks = _chunks(stream)
        return None if chunks is None else _joined(chunks, usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, KeyError, AttributeError, ValueError):
        return None  # not made of chunks


class _Delta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    content: str


class _Choice(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    index: int
    delta: _Delta
    finish_reason: None = None
    logprobs: None = None


class _WordChunk(msgspec.Struct, gc=False):
    """A chunk that brings text for one choice and nothing else, as nearly all do."""

    choices: tuple[_Choice]
    id: Any = None
    created: Any = None
    model: Any = None
    system_fingerprint: Any = None
    service_tier: Any = None
    citations: Any = None
    search_results: Any = None
    usage: None = None
    error: msgspec.UnsetType = msgspec.UNSET


_decode_words = msgspec.json.Decoder(_WordChunk).decode


def _chunks(stream: bytes) -> list[_WordChunk | _Json] | None:
    chunks: list[_WordChunk | _Json] = []
    is_complete = False
    for event in stream.replace(b"\r\n", b"\n").split(b"\n\n"):
        if event.startswith(b"data: {") and b"\n" not in event:  # as nearly all are
            data = event[6:]
        else:
            data = b"\n".join([line[5:].lstrip(b" ") for line in event.split(b"\n") if line.startswith(b"data:")])
        if not data:
            continue
        if data == b"[DONE]":
            is_complete = True
            break
        try:
            chunks.append(_decode_words(data))
            continue
        except msgspec.ValidationError:
            chunk = _decode(data)
        if "error" in chunk or not isinstance(chunk["choices"], list):
            return None
        chunks.append(chunk)
    return chunks if is_complete and chunks else None


def _joined(chunks: list[_WordChunk | _Json], counted: Usage | None) -> bytes | None:
    choices: dict[int, _Json] = {}
    words: dict[int, list[str]] = {}
    top: _Json = {}
    usage = None
    for chunk in chunks:
        if isinstance(chunk, _WordChunk):
            (brought,) = chunk.choices
            for name in _TOP_FIELDS:
                if name not in top and (value := getattr(chunk, name)) is not None:
                    top[name] = value
            if brought.index not in choices:
                choices[brought.index] = _new_choice()
            words.setdefault(brought.index, []).append(brought.delta.content)
            continue
        for name in _TOP_FIELDS:
            if chunk.get(name) is not None:
                top.setdefault(name, chunk[name])
        usage = chunk.get("usage") or usage
        for part in chunk["choices"]:
            index = int(part["index"])
            choice = choices.setdefault(index, _new_choice())
            _write_down(choice, words.pop(index, ()))
            if not _join_choice(choice, part):
                return None
    for index, texts in words.items():
        _write_down(choices[index], texts)
    if not choices or any(choice["finish_reason"] is None for choice in choices.values()):
        return None
    for choice in choices.values():
        choice["message"].setdefault("content", None)
    completion = {
        "id": top.pop("id", ""),
        "object": "chat.completion",
        **top,
        "choices": [{"index": index, **choices[index]} for index in sorted(choices)],
    }
    if usage is None and counted is not None:
        usage = {
            "prompt_tokens": counted.input_tokens,
            "completion_tokens": counted.output_tokens,
            "total_tokens": counted.input_tokens + counted.output_tokens,
        }
    if usage is not None:
        completion["usage"] = usage
    return msgspec.json.encode(completion)


def _new_choice() -> _Json:
    return {"message": {"role": "assistant"}, "finish_reason": None}


def _write_down(choice: _Json, words: Sequence[str]) -> None:
    if words:
        message = choice["message"]
        message["content"] = "".join((message.get("content", ""), *words))


def _join_choice(choice: _Json, part: _Json) -> bool:
    """Add one chunk's part to a choice; False when something in it cannot be joined."""
    for name, value in part.items():
        if name == "finish_reason":
            choice[name] = value or choice[name]
        elif name == "delta":
            if not _join_delta(choice["message"], value):
                return False
        elif name == "logprobs":
            if value is not None and not _join_logprobs(choice, value):
                return False
        elif name != "index" and value is not None:
            return False
    return True


def _join_delta(message: _Json, delta: _Json | None) -> bool:
    for name, value in (delta or {}).items():
        if value is None:
            continue
        if name == "role":
            message["role"] = value
        elif name in _JOINED and isinstance(value, str):
            message[name] = message.get(name, "") + value
        elif name == "annotations" and isinstance(value, list):
            message.setdefault(name, []).extend(value)
        elif value not in ("", [], {}):
            return False
    return True


def _join_logprobs(choice: _Json, value: _Json) -> bool:
    joined = choice.setdefault("logprobs", {})
    for name, entries in value.items():
        if entries is None:
            joined.setdefault(name, None)
        elif isinstance(entries, list):
            joined[name] = (joined.get(name) or []) + entries
        else:
            return False
    return True
