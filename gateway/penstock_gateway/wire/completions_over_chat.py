"""Clients of OpenAI's older text completions in front of providers of chat completions.

The text becomes a user's message, and the answer the completion: a chat model answers a text rather than going on with
it. Pure. Read `CompletionsOverChat`.

Wire rules: platform.openai.com/docs/api-reference/completions.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock_gateway.request_body import CONTROL_FIELD, raw
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.raw_fields import ITEMS, STRING, Dropped, given, invalid, is_string, read, required
from penstock_gateway.wire.server_sent import event_bytes
from penstock_gateway.wire.translation import NOT_TRANSLATABLE, Asked, StreamTranslator, TranslatedRequest

_SAME: Final = (
    "model",
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "stream",
    "stream_options",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "user",
    CONTROL_FIELD,
)
_TRANSLATED: Final = frozenset({"prompt", "logprobs", "best_of", "echo", "suffix"})
_DEFAULT_TOKENS: Final = 16  # of the older endpoint
_COUNT = msgspec.json.Decoder(int)
_FLAG = msgspec.json.Decoder(bool)
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_TOKENS = msgspec.json.Decoder(list[int])
_TOKEN_LISTS = msgspec.json.Decoder(list[list[int]])
_TEXTS = msgspec.json.Decoder(list[str])
_HEAD: Final = ("created", "model", "system_fingerprint")
_CALLS: Final = ("tool_calls", "function_call")


class CompletionsOverChat:
    """Front text completions, back chat completions; fulfils `translation.Translator`."""

    def __init__(self) -> None:
        self.front = WireFormat.COMPLETIONS
        self.back = WireFormat.CHAT

    def request(self, fields: JsonObject) -> TranslatedRequest:
        """Translate a request; see `translation.Translator.request`.

        Notes
        -----
        Without ``max_tokens`` the older endpoint stops after 16 tokens, and so does this. Several prompts, token ids,
        a suffix, an echo and ``best_of`` above ``n`` have no counterpart.
        """
        dropped = Dropped()
        required(fields, "model", "model")
        out: JsonObject = {name: fields[name] for name in _SAME if name in fields}
        out["messages"] = raw([{"role": "user", "content": _prompt(required(fields, "prompt", "prompt"))}])
        if given(fields, "max_tokens") is None:
            out["max_tokens"] = raw(_DEFAULT_TOKENS)
        _refuse(fields)
        if (wanted := given(fields, "logprobs")) is not None:
            out["logprobs"] = raw(True)
            out["top_logprobs"] = raw(read(wanted, _COUNT, "logprobs"))
        dropped.note_others(fields, {*_SAME, *_TRANSLATED})
        return TranslatedRequest(out, dropped.paths)

    def reply(self, body: bytes, asked: Asked) -> bytes:
        """Translate a chat completion; see `translation.Translator.reply`."""
        try:
            fields = _decode(body)
        except _UNREADABLE as error:
            raise ValueError("a body that is not a JSON object") from error
        choices = fields.get("choices")
        if not isinstance(choices, list) or not choices:
            raise ValueError("a body without choices")
        completion = _head(fields, asked)
        found = [choice for choice in choices if isinstance(choice, dict)]
        if not found:
            raise ValueError("a body whose choices are no objects")
        completion["choices"] = [_choice(choice, "message") for choice in found]
        if isinstance(fields.get("usage"), dict):
            completion["usage"] = fields["usage"]
        return _encode(completion)

    def stream(self, asked: Asked) -> StreamTranslator:
        """Return the translator of one stream of chunks."""
        return _Chunks(asked)


class _Chunks:
    """Turns one stream of chat chunks into text chunks; fulfils `StreamTranslator`."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._characters: dict[int, int] = {}  # of each choice's tokens so far
        self._is_over = False

    def feed(self, name: str, data: bytes) -> bytes:
        """Take one event; see `translation.StreamTranslator.feed`."""
        if self._is_over or data == b"[DONE]":
            return b""
        try:
            chunk = _decode(data)
        except _UNREADABLE:
            return b""
        if chunk.get("error") is not None:
            self._is_over = True
            return event_bytes({"error": chunk["error"]})
        usage, choices = chunk.get("usage"), chunk.get("choices")
        parts = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
        shown = [self._shifted(_choice(part, "delta")) for part in parts]
        shown = [choice for choice in shown if choice["text"] or choice["finish_reason"] is not None]
        if not shown and not isinstance(usage, dict):
            return b""
        fields = {**_head(chunk, self._asked), "choices": shown}
        if self._asked.wants_usage:
            fields["usage"] = usage if isinstance(usage, dict) else None
        return event_bytes(fields) if shown or self._asked.wants_usage else b""

    def _shifted(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Count the places of tokens from the beginning of the choice's text, not of this piece."""
        probs = choice["logprobs"]
        if probs is not None:
            before = self._characters.get(choice["index"], 0)
            self._characters[choice["index"]] = before + sum(len(token) for token in probs["tokens"])
            probs["text_offset"] = [before + place for place in probs["text_offset"]]
        return choice

    def finish(self) -> bytes:
        """Return the end mark; nothing after an error."""
        if self._is_over:
            return b""
        self._is_over = True
        return b"data: [DONE]\n\n"


def _prompt(prompt: msgspec.Raw) -> msgspec.Raw:
    """Return the one text of a prompt, as it came.

    Raises
    ------
    InvalidRequest
        `NOT_TRANSLATABLE` for token ids and for several prompts, each of which would want an answer of its own.
    """
    if is_string(prompt):
        return prompt
    items = read(prompt, ITEMS, "prompt")
    if not items:
        raise invalid("prompt", "must not be empty")
    if len(items) == 1 and is_string(items[0]):
        return items[0]
    first = bytes(memoryview(items[0])[:1])
    if first == b"[":
        read(prompt, _TOKEN_LISTS, "prompt")
    elif first == b'"':
        read(prompt, _TEXTS, "prompt")
    else:
        read(prompt, _TOKENS, "prompt")
    raise invalid("prompt", "must be one text: this model's provider has chat completions only", code=NOT_TRANSLATABLE)


def _refuse(fields: JsonObject) -> None:
    """Refuse what would give another answer when it is left out."""
    suffix = given(fields, "suffix")
    if suffix is not None and read(suffix, STRING, "suffix"):
        raise invalid("suffix", "has no counterpart at this model's provider", code=NOT_TRANSLATABLE)
    echo = given(fields, "echo")
    if echo is not None and read(echo, _FLAG, "echo"):
        raise invalid("echo", "has no counterpart at this model's provider", code=NOT_TRANSLATABLE)
    best, choices = given(fields, "best_of"), given(fields, "n")
    wanted = 1 if choices is None else read(choices, _COUNT, "n")
    if best is not None and read(best, _COUNT, "best_of") > wanted:
        raise invalid("best_of", "above 'n' has no counterpart at this model's provider", code=NOT_TRANSLATABLE)


def _head(fields: dict[str, Any], asked: Asked) -> dict[str, Any]:
    own = fields.get("id")
    own = own if isinstance(own, str) and own else asked.id
    plain = own.removeprefix("chatcmpl-").removeprefix("cmpl-")
    head: dict[str, Any] = {"id": f"cmpl-{plain}", "object": "text_completion"}
    head |= {"created": asked.created, "model": ""}
    return head | {name: fields[name] for name in _HEAD if fields.get(name) is not None}


def _choice(choice: dict[str, Any], where: str) -> dict[str, Any]:
    message = choice.get(where)
    message = message if isinstance(message, dict) else {}
    text = _text_of(message.get("content")) or _text_of(message.get("refusal"))
    reason = choice.get("finish_reason")
    index = choice.get("index")
    return {
        "text": text,
        "index": index if isinstance(index, int) else 0,
        "logprobs": _logprobs(choice.get("logprobs")),
        "finish_reason": "stop" if reason in _CALLS else reason,
    }


def _text_of(content: object) -> str:
    """Return the text of a string or of parts; empty for anything else."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _logprobs(given_probs: object) -> dict[str, Any] | None:
    """Return log probabilities in the older shape; None where there are none."""
    content = given_probs.get("content") if isinstance(given_probs, dict) else None
    if not isinstance(content, list):
        return None
    entries = [entry for entry in content if isinstance(entry, dict) and isinstance(entry.get("token"), str)]
    offsets, place = [], 0
    for entry in entries:
        offsets.append(place)
        place += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry.get("logprob") for entry in entries],
        "top_logprobs": [_tops(entry.get("top_logprobs")) for entry in entries],
        "text_offset": offsets,
    }


def _tops(tops: object) -> dict[str, Any]:
    found = [top for top in tops if isinstance(top, dict)] if isinstance(tops, list) else []
    return {top["token"]: top.get("logprob") for top in found if isinstance(top.get("token"), str)}
