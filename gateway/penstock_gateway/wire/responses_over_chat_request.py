"""From a Responses request to a chat request: every field but the items and the tools, and the whole.

Pure. Read `translate_request`.

Wire rules: platform.openai.com/docs/api-reference/responses/create and /chat/create,
/docs/guides/structured-outputs (``text.format`` and ``response_format``), /docs/guides/reasoning.
"""

from __future__ import annotations

from typing import Final

import msgspec

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.request_body import CONTROL_FIELD, raw
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.raw_fields import (
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
from penstock_gateway.wire.responses_over_chat_items import Dialogue
from penstock_gateway.wire.responses_over_chat_tools import add_tools
from penstock_gateway.wire.translation import NOT_TRANSLATABLE, TranslatedRequest

# The same in both APIs.
_SHARED: Final = (
    "model",
    "stream",
    "temperature",
    "top_p",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "service_tier",
    CONTROL_FIELD,
)
# Translated below, or kept by nobody: the answer says that it was not stored, and repeats the metadata.
_CONSUMED: Final = frozenset(
    {
        *_SHARED,
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "parallel_tool_calls",
        "reasoning",
        "store",
        "stream_options",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
    }
)
_STATE: Final = {
    "previous_response_id": "refers to an answer that a provider has stored",
    "conversation": "refers to a conversation that a provider has stored",
    "prompt": "refers to a prompt that a provider has stored",
}
# Fields that ask for nothing when they are set like this; null asks for nothing in any.
_IDLE: Final = {
    "background": frozenset({b"false"}),
    "context_management": frozenset({b"[]"}),
    "metadata": frozenset({b"{}"}),
    "truncation": frozenset({b'"disabled"'}),
}
_LOGPROBS: Final = "message.output_text.logprobs"
_SCHEMA: Final = ("name", "description", "schema", "strict")

_COUNT = msgspec.json.Decoder(int)
_FLAG = msgspec.json.Decoder(bool)
_STRINGS = msgspec.json.Decoder(list[str])


def translate_request(fields: JsonObject) -> TranslatedRequest:
    """Translate a Responses request; see `translation.Translator.request`.

    Parameters
    ----------
    fields : JsonObject

    Returns
    -------
    TranslatedRequest
        The control field among its fields is the client's.

    Notes
    -----
    - ``metadata`` is not sent, and named: OpenAI refuses it in a chat completion that is not stored, others do not know
      it. The answer repeats it.
    - ``reasoning.summary: auto`` is met by whatever reasoning the provider shows; other values are named.
    - ``top_logprobs`` counts only when ``include`` asks for them, as in the Responses API.
    - A stream carries no ``obfuscation``.
    - What becomes of items and tools is said in `responses_over_chat_items.Dialogue` and
      `responses_over_chat_tools.add_tools`.
    """
    dropped = Dropped()
    _refuse_state(fields)
    out: JsonObject = {name: fields[name] for name in _SHARED if given(fields, name) is not None}
    _add_messages(out, fields, dropped)
    add_tools(out, fields, dropped)
    _add_limit(out, fields)
    _add_reasoning(out, fields, dropped)
    _add_text(out, fields, dropped)
    _add_logprobs(out, fields, dropped)
    _note_options(fields, dropped)
    for name, value in fields.items():
        if name not in _CONSUMED and given(fields, name) is not None and bytes(value) not in _IDLE.get(name, ()):
            dropped.note(name)
    places = {name: place for place, name in enumerate(fields)}
    return TranslatedRequest(out, tuple(sorted(dropped.paths, key=lambda path: places.get(path.partition(".")[0], 0))))


def _refuse_state(fields: JsonObject) -> None:
    """Refuse what only a provider that keeps state can do."""
    for name, problem in _STATE.items():
        if given(fields, name) is not None:
            raise invalid(
                name,
                f"{problem}, and this model's provider keeps no state: send the whole conversation in 'input'",
                code=NOT_TRANSLATABLE,
            )
    background = given(fields, "background")
    if background is not None and read(background, _FLAG, "background"):
        raise invalid(
            "background",
            "asks for an answer to fetch later, and this model's provider keeps none",
            code=NOT_TRANSLATABLE,
        )


def _add_messages(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    dialogue = Dialogue(dropped)
    instructions = given(fields, "instructions")
    if instructions is not None:
        if not is_string(instructions):
            raise invalid("instructions", "must be a string", code="invalid_type")
        dialogue.instruct(instructions)
    said = required(fields, "input", "input")
    if is_string(said):
        dialogue.ask(said)
    else:
        for item in read(said, OBJECTS, "input"):
            dialogue.add(item)
    messages = dialogue.messages()
    if not messages:
        raise InvalidRequest("'input' must not be empty.", code="empty_messages", param="input")
    out["messages"] = raw(messages)


def _add_limit(out: JsonObject, fields: JsonObject) -> None:
    limit = given(fields, "max_output_tokens")
    if limit is None:
        return
    if read(limit, _COUNT, "max_output_tokens") < 1:
        raise invalid("max_output_tokens", "must be at least 1")
    out["max_completion_tokens"] = limit


def _add_reasoning(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    value = given(fields, "reasoning")
    if value is None:
        return
    wanted = read(value, OBJECT, "reasoning")
    effort = given(wanted, "effort")
    if effort is not None:
        if not is_string(effort):
            raise invalid("reasoning.effort", "must be a string", code="invalid_type")
        out["reasoning_effort"] = effort
    for name in ("summary", "generate_summary"):  # the second is its older name
        summary = given(wanted, name)
        if summary is not None and bytes(summary) != b'"auto"':
            dropped.note(f"reasoning.{name}")
    dropped.note_others(wanted, {"effort", "summary", "generate_summary"}, "reasoning.")


def _add_text(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    value = given(fields, "text")
    if value is None:
        return
    wanted = read(value, OBJECT, "text")
    dropped.note_others(wanted, {"format", "verbosity"}, "text.")
    verbosity = given(wanted, "verbosity")
    if verbosity is not None:
        out["verbosity"] = verbosity
    form = given(wanted, "format")
    if form is None:
        return
    described = read(form, OBJECT, "text.format")
    kind = read(required(described, "type", "text.format.type"), STRING, "text.format.type")
    if kind == "json_object":
        out["response_format"] = raw({"type": "json_object"})
    elif kind == "json_schema":
        dropped.note_others(described, {"type", *_SCHEMA}, "text.format.")
        for name in ("name", "schema"):
            required(described, name, f"text.format.{name}")
        schema = {name: described[name] for name in _SCHEMA if given(described, name) is not None}
        out["response_format"] = raw({"type": "json_schema", "json_schema": schema})
    elif kind != "text":
        raise invalid(
            "text.format.type", f"is '{kind[:40]}', which chat completions do not have", code=NOT_TRANSLATABLE
        )


def _add_logprobs(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    value = given(fields, "include")
    included = [] if value is None else read(value, _STRINGS, "include")
    for name in included:
        if name != _LOGPROBS:
            dropped.note(f"include.{name[:60]}")
    wanted = given(fields, "top_logprobs")
    if _LOGPROBS in included:
        out["logprobs"] = raw(True)
        if wanted is not None:
            out["top_logprobs"] = wanted
    elif wanted is not None and bytes(wanted) != b"0":
        dropped.note("top_logprobs")


def _note_options(fields: JsonObject, dropped: Dropped) -> None:
    value = given(fields, "stream_options")
    if value is None:
        return
    options = read(value, OBJECT, "stream_options")
    obfuscation = given(options, "include_obfuscation")
    if obfuscation is not None and bytes(obfuscation) != b"false":
        dropped.note("stream_options.include_obfuscation")
    dropped.note_others(options, {"include_obfuscation", "include_usage"}, "stream_options.")
