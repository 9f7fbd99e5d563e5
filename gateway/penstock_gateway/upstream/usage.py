"""Reading the token counts out of what a provider sent.

Owns the tolerant decoding of OpenAI-shaped ``usage`` objects and of the bodies they come in. It must not price
anything and must never fail a request: counts that make no sense are treated as missing. Read `read_usage` first.
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock_gateway.money.usage import Usage

MAX_PLAUSIBLE_TOKENS = 100_000_000
"""Counts above this are a provider's mistake: ten times the longest context window sold in 2026 (10 million)."""

_NULL = b"null"
# Where providers put the cached part of the prompt when they do not use prompt_tokens_details: DeepSeek, Moonshot.
_CACHED_FIELDS = ("prompt_cache_hit_tokens", "cached_tokens")


class TextView(msgspec.Struct):
    """The text-bearing fields of a message or a delta, undecoded; only their lengths are wanted."""

    content: msgspec.Raw = msgspec.Raw()
    reasoning_content: msgspec.Raw = msgspec.Raw()
    reasoning: msgspec.Raw = msgspec.Raw()
    refusal: msgspec.Raw = msgspec.Raw()
    function_call: FunctionView | None = None
    tool_calls: list[ToolCallView] | None = None

    def output_bytes(self) -> int:
        """Return how many bytes of generated text this holds, JSON escapes included."""
        total = raw_text_bytes(self.content) + raw_text_bytes(self.reasoning_content)
        total += raw_text_bytes(self.reasoning) + raw_text_bytes(self.refusal)
        if self.function_call is not None:
            total += self.function_call.output_bytes()
        for call in self.tool_calls or ():
            if call.function is not None:
                total += call.function.output_bytes()
        return total


class FunctionView(msgspec.Struct):
    """Name and arguments of a tool call, undecoded."""

    name: msgspec.Raw = msgspec.Raw()
    arguments: msgspec.Raw = msgspec.Raw()

    def output_bytes(self) -> int:
        """Return how many bytes of generated text this holds."""
        return raw_text_bytes(self.name) + raw_text_bytes(self.arguments)


class ToolCallView(msgspec.Struct):
    """One tool call of a message or a delta."""

    function: FunctionView | None = None


class _ReplyView(msgspec.Struct):
    usage: Any = None
    error: Any = None
    choices: msgspec.Raw = msgspec.Raw()


class _ReplyChoice(msgspec.Struct):
    message: TextView | None = None


_decode_reply = msgspec.json.Decoder(_ReplyView).decode
_decode_choices = msgspec.json.Decoder(list[_ReplyChoice]).decode


def raw_text_bytes(raw: msgspec.Raw) -> int:
    """Return the length of a JSON string without its quotes; 0 when it is absent or null."""
    size = len(raw)
    if size < 3 or (size == 4 and bytes(raw) == _NULL):
        return 0
    return size - 2


def read_usage(fields: object) -> Usage | None:
    """Return the token counts of an OpenAI-shaped ``usage`` object.

    Parameters
    ----------
    fields : object
        The decoded value of the ``usage`` field, whatever it is.

    Returns
    -------
    Usage or None
        None when the value is not an object, or the prompt or completion count is missing, negative, not an
        integer or above `MAX_PLAUSIBLE_TOKENS`. Counts sent as digits in a string or as ``12.0`` are read.

    Notes
    -----
    In OpenAI's convention ``completion_tokens`` includes reasoning tokens. xAI and Gemini's OpenAI-compatible
    API leave them out of it and count them in ``total_tokens`` only (32 + 9 + 94 = 135 in xAI's own example),
    so whatever the total has beyond prompt and completion is added to the output, as reasoning. A cached count
    above the prompt's, or a reasoning count above the output's, is inconsistent and read as 0: the tokens are
    then priced in full.

    Examples
    --------
    >>> read_usage({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135})
    Usage(input_tokens=32, output_tokens=103, cached_input_tokens=0, reasoning_tokens=94, is_estimated=False)
    """
    if not isinstance(fields, dict):
        return None
    prompt = _count(fields.get("prompt_tokens"))
    completion = _count(fields.get("completion_tokens"))
    total = _count(fields.get("total_tokens"))
    if prompt is None or (completion is None and total is None):
        return None
    output = max(completion or 0, (total or 0) - prompt)
    if completion is None and total is not None and total < prompt:
        return None
    hidden = output - completion if completion is not None else 0
    reasoning = _detail(fields, "completion_tokens_details", "reasoning_tokens")
    reasoning = max(reasoning, hidden)
    cached = _detail(fields, "prompt_tokens_details", "cached_tokens")
    for name in _CACHED_FIELDS:
        cached = cached or _count(fields.get(name)) or 0
    return Usage(
        input_tokens=prompt,
        output_tokens=output,
        cached_input_tokens=cached if cached <= prompt else 0,
        reasoning_tokens=reasoning if reasoning <= output else 0,
    )


def read_reply(body: bytes) -> tuple[Usage | None, int]:
    """Return usage and bytes of generated text of a complete, successful reply.

    Parameters
    ----------
    body : bytes
        The reply's JSON.

    Returns
    -------
    usage : Usage or None
    output_bytes : int
        Bytes of generated text; 0 when usage was reported, because nobody needs it then.

    Raises
    ------
    ValueError
        The body is not a JSON object, or it is an error object although the status said success.

    Notes
    -----
    Only ``usage`` is decoded; the choices are skipped as raw bytes (0.6 µs for a 600-byte reply).
    """
    try:
        view = _decode_reply(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ValueError("a body that is not a JSON object") from error
    if view.error is not None and (not view.choices or bytes(view.choices) == _NULL):
        raise ValueError("an error object with a success status")
    usage = read_usage(view.usage)
    if usage is not None:
        return usage, 0
    try:
        choices = _decode_choices(view.choices)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None, len(view.choices)
    return None, sum(choice.message.output_bytes() for choice in choices if choice.message is not None)


def _count(value: object) -> int | None:
    """Return a plausible token count, or None."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(MAX_PLAUSIBLE_TOKENS)):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_PLAUSIBLE_TOKENS:
        return None
    return value


def _detail(fields: dict[str, Any], group: str, name: str) -> int:
    """Return a count from a nested details object, 0 when missing."""
    details = fields.get(group)
    return (_count(details.get(name)) or 0) if isinstance(details, dict) else 0
