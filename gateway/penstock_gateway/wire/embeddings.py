"""What is read of a request for vectors and of its answer; everything else passes through.

Pure. Read `parse_embeddings`.

Wire rules: platform.openai.com/docs/api-reference/embeddings/create.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.upstream.usage import FAILED_REPLY, decoded_reply, read_usage
from penstock_gateway.wire.raw_fields import STRING, is_null, is_string, read, required
from penstock_routers.token_counts import estimate_tokens

MAX_INPUTS: Final = 100_000
"""Texts of one request: more than any provider takes at once (OpenAI: 2,048; providers say their own limit)."""

_TEXTS = msgspec.json.Decoder(list[str])
_TOKENS = msgspec.json.Decoder(list[int])
_TOKEN_LISTS = msgspec.json.Decoder(list[list[int]])
_FIRST_ELEMENT = re.compile(rb"[ \t\r\n]*\[[ \t\r\n]*([^ \t\r\n])")


class _Reply(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw()
    usage: Any = None
    error: Any = None


_REPLY = msgspec.json.Decoder(_Reply)


@dataclass(frozen=True, slots=True)
class EmbeddingsView:
    """What the gateway knows of a request for vectors.

    Attributes
    ----------
    model : str
    inputs : int
        Texts to embed.
    input_tokens : int
        Estimated for text, exact for token ids.
    """

    model: str
    inputs: int
    input_tokens: int


def parse_embeddings(fields: JsonObject) -> EmbeddingsView:
    """Read a request for vectors.

    Parameters
    ----------
    fields : JsonObject
        ``dimensions``, ``encoding_format`` and everything else are not looked at.

    Returns
    -------
    EmbeddingsView

    Raises
    ------
    InvalidRequest
        ``model`` or ``input`` is missing (code ``missing_field``), of another type (``invalid_type``), empty or longer
        than `MAX_INPUTS` (``invalid_value``).
    """
    model = read(required(fields, "model", "model"), STRING, "model")
    given = required(fields, "input", "input")
    if is_string(given):
        return EmbeddingsView(model, 1, _tokens([_filled(read(given, STRING, "input"))]))
    first = _first_byte(given)
    if first == b"[":
        lists = read(given, _TOKEN_LISTS, "input")
        _check_count(lists)
        if not all(lists):
            raise _empty()
        return EmbeddingsView(model, len(lists), sum(len(tokens) for tokens in lists))
    if first.isdigit() or first == b"-":
        tokens = read(given, _TOKENS, "input")
        return EmbeddingsView(model, 1, len(tokens))
    texts = read(given, _TEXTS, "input")
    _check_count(texts)
    return EmbeddingsView(model, len(texts), _tokens([_filled(text) for text in texts]))


def read_embeddings_reply(body: bytes) -> tuple[Usage | None, int]:
    """Return the usage of an answer, and 0: there is no generated text.

    Parameters
    ----------
    body : bytes
        The reply's JSON.

    Returns
    -------
    usage : Usage or None
        Without output. Some servers tell only the total (Voyage) or only the prompt's count, which here are the same.
    output_bytes : int
        0.

    Raises
    ------
    ValueError
        The body is not a JSON object, or it is an error object although the status said success.
    """
    reply = decoded_reply(body, _REPLY)
    if reply.error is not None and is_null(reply.data):
        raise ValueError(FAILED_REPLY)
    counts = reply.usage
    if not isinstance(counts, dict):
        return None, 0
    prompt = counts.get("prompt_tokens")
    prompt = counts.get("total_tokens") if prompt is None else prompt
    return read_usage({**counts, "prompt_tokens": prompt, "completion_tokens": 0, "total_tokens": prompt}), 0


def _first_byte(given: msgspec.Raw) -> bytes:
    """Return the first byte of the first element of a list; empty for anything else."""
    found = _FIRST_ELEMENT.match(memoryview(given))
    return b"" if found is None else bytes(found.group(1))


def _check_count(items: list[Any]) -> None:
    if not items:
        raise _empty()
    if len(items) > MAX_INPUTS:
        raise InvalidRequest(f"'input' has more than {MAX_INPUTS} texts.", code="invalid_value", param="input")


def _filled(text: str) -> str:
    if not text:
        raise _empty()
    return text


def _empty() -> InvalidRequest:
    return InvalidRequest("'input' must not be empty.", code="invalid_value", param="input")


def _tokens(texts: list[str]) -> int:
    return sum(max(1, estimate_tokens(len(text.encode()))) for text in texts)
