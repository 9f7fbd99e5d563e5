"""Reading the token counts out of what a provider sent.

Owns the tolerant decoding of ``usage`` objects, OpenAI's shape and Anthropic's own, and of the bodies they come in. It
must not price anything and must never fail a request: counts that make no sense are treated as missing. Read
`read_usage` first.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeVar

import msgspec

from penstock_gateway.money.usage import Usage
from penstock_gateway.surrogates import without_halves
from penstock_gateway.upstream.server_tools import cites_pages, searched_at_least_once

MAX_PLAUSIBLE_TOKENS = 100_000_000
"""Counts above this are a provider's mistake: ten times the longest context window sold in 2026 (10 million)."""

FAILED_REPLY: Final = "an error object with a success status"
"""What a plain reply of that kind is called in the error that it ends in."""

_NULL = b"null"
# Where providers put the cached part of the prompt when they do not use prompt_tokens_details: DeepSeek; Moonshot and
# Together; Anthropic's models behind OpenAI-compatible gateways.
_CACHED_FIELDS = ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")
# The part written to the provider's cache, inside prompt_tokens_details: OpenAI and OpenRouter; litellm; DashScope.
_WRITTEN_DETAILS = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
# Anthropic's split of it by lifetime: its own name beside the counts (and DashScope's inside the details), litellm's.
_WRITTEN_SPLITS = ("cache_creation", "cache_creation_token_details")
_HOUR = "ephemeral_1h_input_tokens"
# The provider's standard service under each of its names: OpenAI's, Anthropic's, Bedrock's; a request for "auto" is
# answered with what it became. "scale" is paid for in advance, at the standard price per token.
_STANDARD_SERVICE = frozenset({"", "default", "standard", "auto", "on_demand", "scale"})
_SERVICE_NAMES = {"fast": "priority"}  # OpenAI's newer word for it
_MAX_SERVICE_NAME = 32
# What a provider's own tools did: Anthropic and OpenRouter; litellm, inside prompt_tokens_details; Perplexity. The live
# search of xAI is billed by source.
_TOOLS, _SEARCHES, _SOUGHT, _SOURCES = (
    "server_tool_use",
    "web_search_requests",
    ("num_search_queries",),
    "num_sources_used",
)
_NO_FEE = frozenset({_SEARCHES, "web_fetch_requests", "tool_search_requests"})  # or told apart
_PLAIN_FIELDS = 3  # prompt, completion and total: nothing that is priced apart


class HasText(Protocol):
    """A part of an answer."""

    def output_bytes(self) -> int:
        """Return how many bytes of generated text this holds."""
        ...


_View = TypeVar("_View")
_Part = TypeVar("_Part", bound=HasText)


class TextView(msgspec.Struct):
    """The text-bearing fields of a message or a delta, undecoded; only their lengths are wanted."""

    content: msgspec.Raw = msgspec.Raw()
    reasoning_content: msgspec.Raw = msgspec.Raw()
    reasoning: msgspec.Raw = msgspec.Raw()
    refusal: msgspec.Raw = msgspec.Raw()
    function_call: FunctionView | None = None
    tool_calls: list[ToolCallView] | None = None
    annotations: msgspec.Raw = msgspec.Raw()

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
    service_tier: Any = None
    error: Any = None
    choices: msgspec.Raw = msgspec.Raw()


class _ReplyChoice(msgspec.Struct):
    message: TextView | None = None
    text: msgspec.Raw = msgspec.Raw()  # of text completions

    def output_bytes(self) -> int:
        return raw_text_bytes(self.text) if self.message is None else self.message.output_bytes()


_REPLY = msgspec.json.Decoder(_ReplyView)
_CHOICES = msgspec.json.Decoder(list[_ReplyChoice])


def raw_text_bytes(raw: msgspec.Raw) -> int:
    """Return the length of a JSON string without its quotes; 0 when it is absent or null."""
    size = len(raw)
    if size < 3 or (size == 4 and bytes(raw) == _NULL):
        return 0
    return size - 2


def read_usage(fields: object, service_tier: object = None) -> Usage | None:
    """Return the token counts of an OpenAI-shaped ``usage`` object.

    Parameters
    ----------
    fields : object
        The decoded value of the ``usage`` field, whatever it is.
    service_tier : object
        The decoded value of the reply's (or chunk's) ``service_tier``; some providers put it into the usage instead.

    Returns
    -------
    Usage or None
        None when the value is not an object, or the prompt or completion count is missing, negative, not an
        integer or above `MAX_PLAUSIBLE_TOKENS`, or both are 0: no answer costs no token, and servers that do not count
        send zeros. Counts sent as digits in a string or as ``12.0`` are read.

    Notes
    -----
    - In OpenAI's convention ``completion_tokens`` includes reasoning tokens, and accepted and rejected prediction
      tokens (platform.openai.com/docs/guides/predicted-outputs), which are billed like the rest. xAI and Gemini's
      OpenAI-compatible API leave reasoning out of it and count it in ``total_tokens`` only (32 + 9 + 94 = 135 in xAI's
      own example), so whatever the total has beyond prompt and completion is added to the output, as reasoning.
    - ``prompt_tokens`` includes what was read from and written to the provider's cache. Gateways that pass Anthropic's
      ``cache_read_input_tokens`` and ``cache_creation_input_tokens`` on do it either way; they are added when they are
      more than the prompt, or when the total says so.
    - A part that is larger than its whole cannot be true. Cheap parts (cached, reasoning) are then read as 0, dear
      ones (written, sound, pictures) as the whole, so that the bill is not too low.

    Examples
    --------
    >>> usage = read_usage({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135})
    >>> usage.output_tokens, usage.reasoning_tokens
    (103, 94)
    """
    if not isinstance(fields, dict):
        return None
    prompt = _count(fields.get("prompt_tokens"))
    completion = _count(fields.get("completion_tokens"))
    total = _count(fields.get("total_tokens"))
    if prompt is None or (completion is None and total is None):
        return None
    if len(fields) == _PLAIN_FIELDS and completion is not None and prompt and total == prompt + completion:
        return Usage(prompt, completion, service_tier=read_service_tier(service_tier))
    details = _details(fields, "prompt_tokens_details")
    prompt += _outside_prompt(fields, prompt, completion, total)
    # litellm counts a search's own prompt in Gemini's total, and in the prompt only where it is billed.
    beyond = (total or 0) - prompt - (_count(details.get("tool_use_tokens")) or 0)
    output = max(completion or 0, beyond)
    if (completion is None and beyond < 0) or prompt == output == 0:
        return None
    hidden = output - completion if completion is not None else 0
    made = _details(fields, "completion_tokens_details")
    searches, other_calls = _tool_calls(fields, details)
    reasoning = max(_count(made.get("reasoning_tokens")) or 0, hidden)
    cached = _first_count(details, ("cached_tokens",)) or _first_count(fields, _CACHED_FIELDS)
    written, written_1h = _written(fields, details)
    return Usage(
        input_tokens=prompt,
        output_tokens=output,
        cached_input_tokens=cached if cached <= prompt else 0,
        reasoning_tokens=reasoning if reasoning <= output else 0,
        cache_write_tokens=min(written, prompt),
        cache_write_1h_tokens=min(written_1h, prompt),
        audio_input_tokens=min(_count(details.get("audio_tokens")) or 0, prompt),
        image_input_tokens=min(_count(details.get("image_tokens")) or 0, prompt),
        audio_output_tokens=min(_count(made.get("audio_tokens")) or 0, output),
        service_tier=read_service_tier(service_tier) or read_service_tier(fields.get("service_tier")),
        web_searches=searches,
        other_tool_calls=other_calls,
    )


def read_anthropic_usage(fields: object) -> Usage | None:
    """Return the token counts of a ``usage`` object of Anthropic's own Messages API.

    Parameters
    ----------
    fields : object
        The decoded value of a reply's ``usage``; in a stream, that of ``message_start`` overlaid with the last
        ``message_delta``'s, whose counts are totals.

    Returns
    -------
    Usage or None
        None under the same conditions as for `read_usage`.

    Notes
    -----
    Here ``input_tokens`` is only what was neither read from nor written to the cache; the three add up to the prompt
    (platform.claude.com/docs/en/build-with-claude/prompt-caching, "Tracking cache performance"). With server-side
    compaction the request has several ``iterations``, which the counts at the top leave out; their sum is billed.
    """
    if not isinstance(fields, dict):
        return None
    rounds = fields.get("iterations")
    parts = [fields] if not isinstance(rounds, list) or not rounds else [r for r in rounds if isinstance(r, dict)]
    plain = [_count(part.get("input_tokens")) for part in parts]
    made = [_count(part.get("output_tokens")) for part in parts]
    if not parts or None in plain or None in made:
        return None
    cached = sum(_count(part.get("cache_read_input_tokens")) or 0 for part in parts)
    written = [_written(part, {}) for part in parts]
    prompt = sum(filter(None, plain)) + cached + sum(count for count, _ in written)
    output = sum(filter(None, made))
    if prompt == output == 0:
        return None
    searches, other_calls = _tool_calls(fields, {})
    thought = sum(_count(_details(part, "output_tokens_details").get("thinking_tokens")) or 0 for part in parts)
    return Usage(
        input_tokens=prompt,
        output_tokens=output,
        cached_input_tokens=cached,
        reasoning_tokens=thought if thought <= output else 0,
        cache_write_tokens=sum(count for count, _ in written),
        cache_write_1h_tokens=sum(hour for _, hour in written),
        service_tier=read_service_tier(fields.get("service_tier")),
        web_searches=searches,
        other_tool_calls=other_calls,
    )


def read_service_tier(name: object) -> str:
    """Return what a provider says it served a request as, in small letters; empty for its standard service.

    Examples
    --------
    >>> read_service_tier("Priority"), read_service_tier("default"), read_service_tier(None)
    ('priority', '', '')
    """
    if not name or not isinstance(name, str) or len(name) > _MAX_SERVICE_NAME:
        return ""
    tier = name.strip().lower()
    return "" if tier in _STANDARD_SERVICE else _SERVICE_NAMES.get(tier, tier)


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
    view = decoded_reply(body, _REPLY)
    if view.error is not None and (not view.choices or bytes(view.choices) == _NULL):
        raise ValueError(FAILED_REPLY)
    usage = read_usage(view.usage, view.service_tier)
    if cites_pages(body):
        usage = searched_at_least_once(usage)
    return usage, 0 if usage is not None else text_bytes_in(view.choices, _CHOICES)


def decoded_reply(body: bytes, decoder: msgspec.json.Decoder[_View]) -> _View:
    """Return what is looked at of a plain reply.

    Raises
    ------
    ValueError
        The body is not a JSON object.
    """
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        if (mended := without_halves(body)) is not body:
            return decoded_reply(mended, decoder)
        raise ValueError("a body that is not a JSON object") from error


def text_bytes_in(parts: msgspec.Raw, decoder: msgspec.json.Decoder[list[_Part]]) -> int:
    """Return how many bytes of generated text some parts hold; all of their bytes when their shape is unknown."""
    try:
        return sum(part.output_bytes() for part in decoder.decode(parts))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return len(parts)


def _count(value: object) -> int | None:
    """Return a plausible token count, or None."""
    if type(value) is int:  # as nearly always
        return value if 0 <= value <= MAX_PLAUSIBLE_TOKENS else None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(MAX_PLAUSIBLE_TOKENS)):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_PLAUSIBLE_TOKENS:
        return None
    return value


def _details(fields: dict[str, Any], group: str) -> dict[str, Any]:
    """Return a nested details object, an empty one when it is missing."""
    details = fields.get(group)
    return details if isinstance(details, dict) else {}


def _first_count(fields: dict[str, Any], names: tuple[str, ...]) -> int:
    """Return the first count that is there and not 0."""
    for name in names:
        value = fields.get(name)
        if value and (count := _count(value)):
            return count
    return 0


def _tool_calls(fields: dict[str, Any], details: dict[str, Any]) -> tuple[int, int]:
    """Return the searches and the other calls of a provider's own tools that its counts tell of."""
    used = _details(fields, _TOOLS)
    searches = _first_count(used, (_SEARCHES,)) or _first_count(details, (_SEARCHES,)) or _first_count(fields, _SOUGHT)
    others = sum(_count(used.get(name)) or 0 for name in used if name.endswith("_requests") and name not in _NO_FEE)
    return searches, others + (_count(fields.get(_SOURCES)) or 0)


def _outside_prompt(fields: dict[str, Any], prompt: int, completion: int | None, total: int | None) -> int:
    """Return the cached and written tokens that a gateway left out of ``prompt_tokens``, as Anthropic itself does."""
    outside = (_count(fields.get("cache_read_input_tokens")) or 0) + (
        _count(fields.get("cache_creation_input_tokens")) or 0
    )
    is_said = total is not None and completion is not None and total == prompt + outside + completion
    return outside if outside > prompt or is_said else 0


def _written(fields: dict[str, Any], details: dict[str, Any]) -> tuple[int, int]:
    """Return how many tokens were written to the provider's cache, and how many of them for an hour."""
    written = _first_count(details, _WRITTEN_DETAILS) or _count(fields.get("cache_creation_input_tokens")) or 0
    hour = 0
    for name in _WRITTEN_SPLITS:
        split = fields.get(name) or details.get(name)
        if isinstance(split, dict):
            hour = hour or _count(split.get(_HOUR)) or 0
    return max(written, hour), hour
