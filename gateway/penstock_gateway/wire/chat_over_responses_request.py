"""From a chat request to one of the Responses API: every field but messages and tools.

Pure. Read `translate_request`.

Wire rules: platform.openai.com/docs/api-reference/responses/create, /docs/guides/migrate-to-responses,
/docs/guides/reasoning and /docs/guides/structured-outputs.
"""

from __future__ import annotations

from typing import Final

import msgspec

from penstock_gateway.request_body import CONTROL_FIELD, raw
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.chat_over_responses_items import Conversation
from penstock_gateway.wire.chat_over_responses_tools import translate_tools
from penstock_gateway.wire.raw_fields import (
    ITEMS,
    OBJECT,
    OBJECTS,
    STRING,
    Dropped,
    given,
    invalid,
    is_string,
    read,
    required,
)
from penstock_gateway.wire.translation import NOT_TRANSLATABLE, TranslatedRequest

_SAME: Final = (
    "model",
    "temperature",
    "top_p",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "service_tier",
    "metadata",
    "moderation",
    "parallel_tool_calls",
    "stream",
)
_TRANSLATED: Final = frozenset(
    {
        CONTROL_FIELD,
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "tools",
        "functions",
        "tool_choice",
        "function_call",
        "web_search_options",
        "response_format",
        "reasoning_effort",
        "verbosity",
        "logprobs",
        "top_logprobs",
        "n",
        "stop",
        "modalities",
        "stream_options",
    }
)
# Fields of the chat API that ask for nothing when they are set like this; null asks for nothing in any.
_IDLE: Final = {
    "frequency_penalty": frozenset({b"0", b"0.0"}),
    "presence_penalty": frozenset({b"0", b"0.0"}),
    "logit_bias": frozenset({b"{}"}),
    "store": frozenset({b"false"}),
}
LEAST_OUTPUT_TOKENS: Final = 16
"""Smallest ``max_output_tokens``; less is refused with ``integer_below_min_value``."""
_FORMATS: Final = frozenset({"text", "json_object", "json_schema"})
_COUNT = msgspec.json.Decoder(int)
_FLAG = msgspec.json.Decoder(bool)
_STRINGS = msgspec.json.Decoder(list[str])


def translate_request(fields: JsonObject) -> TranslatedRequest:
    """Translate a chat request; see `translation.Translator.request`.

    Notes
    -----
    - ``store`` is always false: a chat client does not expect its provider to keep answers, and could not refer to one.
    - With ``reasoning_effort``, and in a conversation that has reasoning items, the encrypted reasoning is asked for,
      so that the next request can go on with it. Otherwise not: nothing says then that the model reasons at all.
    - A limit below 16 tokens is sent as 16, the least that is taken, and named.
    """
    dropped = Dropped()
    required(fields, "model", "model")
    _refuse(fields)
    out: JsonObject = {name: fields[name] for name in _SAME if given(fields, name) is not None}
    conversation = Conversation(dropped)
    for message in read(required(fields, "messages", "messages"), OBJECTS, "messages"):
        conversation.add(message)
    out["input"] = raw(conversation.items)
    out["store"] = raw(False)
    _add_limit(out, fields, dropped)
    translate_tools(out, fields, dropped)
    _add_text(out, fields, dropped)
    include = _add_reasoning(out, fields, has_reasoning=conversation.has_reasoning)
    include += _add_logprobs(out, fields, dropped)
    if include:
        out["include"] = raw(include)
    _add_stream_options(out, fields, dropped)
    for name, value in fields.items():
        if name in _TRANSLATED or name in _SAME or given(fields, name) is None:
            continue
        if bytes(value) not in _IDLE.get(name, ()):
            dropped.note(name)
    places = {name: place for place, name in enumerate(fields)}
    return TranslatedRequest(out, tuple(sorted(dropped.paths, key=lambda path: places.get(path.partition(".")[0], 0))))


def _refuse(fields: JsonObject) -> None:
    """Refuse what cannot be left out without another answer."""
    choices = given(fields, "n")
    if choices is not None and read(choices, _COUNT, "n") != 1:
        raise invalid("n", "must be 1 for this provider", code=NOT_TRANSLATABLE)
    stop = given(fields, "stop")
    if stop is not None and (read(stop, STRING, "stop") if is_string(stop) else read(stop, ITEMS, "stop")):
        raise invalid("stop", "has no counterpart at this provider", code=NOT_TRANSLATABLE)
    modalities = given(fields, "modalities")
    wanted = [] if modalities is None else read(modalities, _STRINGS, "modalities")
    if set(wanted) - {"text"}:
        raise invalid("modalities", "must be text for this provider", code=NOT_TRANSLATABLE)


def _add_limit(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    """Set ``max_output_tokens``; of the two names the newer one counts."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = given(fields, name)
        if value is None:
            continue
        limit = read(value, _COUNT, name)
        if limit < 1:
            raise invalid(name, "must be at least 1")
        if limit < LEAST_OUTPUT_TOKENS:
            dropped.note(name)
        out["max_output_tokens"] = value if limit >= LEAST_OUTPUT_TOKENS else raw(LEAST_OUTPUT_TOKENS)
        return


def _add_text(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    """Set ``text``: the form of the answer, and how much of it."""
    text: dict[str, object] = {}
    if (value := given(fields, "response_format")) is not None:
        text["format"] = _format(read(value, OBJECT, "response_format"), dropped)
    if (verbosity := given(fields, "verbosity")) is not None:
        text["verbosity"] = verbosity
    if text:
        out["text"] = raw(text)


def _format(form: JsonObject, dropped: Dropped) -> dict[str, object]:
    path = "response_format"
    kind = read(required(form, "type", f"{path}.type"), STRING, f"{path}.type")
    if kind not in _FORMATS:
        raise invalid(f"{path}.type", f"is '{kind[:40]}', which this provider does not have", code=NOT_TRANSLATABLE)
    if kind != "json_schema":
        dropped.note_others(form, {"type"}, f"{path}.")
        return {"type": kind}
    dropped.note_others(form, {"type", kind}, f"{path}.")
    path = f"{path}.{kind}"
    described = read(required(form, kind, path), OBJECT, path)
    names = ("name", "description", "schema", "strict")
    dropped.note_others(described, names, f"{path}.")
    return {"type": kind, **{name: described[name] for name in names if given(described, name) is not None}}


def _add_reasoning(out: JsonObject, fields: JsonObject, *, has_reasoning: bool) -> list[str]:
    """Set ``reasoning``, and return what is to be included because of it."""
    effort = given(fields, "reasoning_effort")
    does_reason = effort is not None and read(effort, STRING, "reasoning_effort") != "none"
    if effort is not None:
        out["reasoning"] = raw({"effort": effort})
    return ["reasoning.encrypted_content"] if does_reason or has_reasoning else []


def _add_logprobs(out: JsonObject, fields: JsonObject, dropped: Dropped) -> list[str]:
    """Set ``top_logprobs``, and return what is to be included because of it."""
    wanted, tops = given(fields, "logprobs"), given(fields, "top_logprobs")
    if wanted is not None and read(wanted, _FLAG, "logprobs"):
        if tops is not None:
            out["top_logprobs"] = tops
        return ["message.output_text.logprobs"]
    if tops is not None and bytes(tops) != b"0":
        dropped.note("top_logprobs")
    return []


def _add_stream_options(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    """Set ``stream_options``; whether usage is sent is our own business, and it always is here."""
    value = given(fields, "stream_options")
    if value is None:
        return
    path = "stream_options"
    options = read(value, OBJECT, path)
    dropped.note_others(options, {"include_usage", "include_obfuscation"}, f"{path}.")
    if (obfuscation := given(options, "include_obfuscation")) is not None:
        out[path] = raw({"include_obfuscation": obfuscation})
