"""Text completions of a provider as chat completions: so that the cache, which stores these, can store them.

A provider that has text completions only gets no chat requests, so there is no translation of requests. Pure. Read
`CompletionsReplies`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock_gateway.wire.server_sent import event_bytes
from penstock_gateway.wire.translation import Asked, StreamTranslator

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class CompletionsReplies:
    """Answers of a text completions provider in the chat format; has `reply` and `stream` of a `Translator`."""

    def reply(self, body: bytes, asked: Asked) -> bytes:
        """Translate a plain answer.

        Raises
        ------
        ValueError
            It has no choices, or one that has no chat form; see `_choices`.
        """
        try:
            fields = _decode(body)
        except _UNREADABLE as error:
            raise ValueError("a body that is not a JSON object") from error
        if not isinstance(fields.get("choices"), list) or not fields["choices"]:
            raise ValueError("a body without choices")
        return _encode({**fields, "object": "chat.completion", "choices": _choices(fields["choices"], "message")})

    def stream(self, asked: Asked) -> StreamTranslator:
        """Return the translator of a stream; one that cannot be translated never ends."""
        return _Chunks()


class _Chunks:
    """Turns one stream of text chunks into chat chunks; fulfils `StreamTranslator`."""

    def __init__(self) -> None:
        self._is_done = False
        self._is_lost = False

    def feed(self, name: str, data: bytes) -> bytes:
        """Take one event."""
        if data == b"[DONE]":
            self._is_done = True
            return b""
        try:
            fields = _decode(data)
            choices = _choices(fields.get("choices") or [], "delta")
        except (*_UNREADABLE, ValueError):
            self._is_lost = True
            return b""
        if fields.get("error") is not None:
            self._is_lost = True
        return event_bytes({**fields, "object": "chat.completion.chunk", "choices": choices})

    def finish(self) -> bytes:
        """Return the end mark of a stream that ended."""
        return b"data: [DONE]\n\n" if self._is_done and not self._is_lost else b""


def _choices(choices: object, where: str) -> list[dict[str, Any]]:
    """Return text choices as chat choices.

    Raises
    ------
    ValueError
        There is something that a chat choice could not give back: log probabilities in the older shape count their
        places from the beginning of the prompt.
    """
    if not isinstance(choices, list):
        raise ValueError("choices that are no list")
    found = []
    for choice in choices:
        text = choice.get("text") if isinstance(choice, dict) else None
        if not isinstance(text, str) or choice.get("logprobs") is not None:
            raise ValueError("a choice that has no chat form")
        said: dict[str, Any] = {"role": "assistant", "content": text}
        if where == "message":
            said["refusal"] = None
        ended = choice.get("finish_reason")
        found.append({"index": choice.get("index", 0), where: said, "logprobs": None, "finish_reason": ended})
    return found
