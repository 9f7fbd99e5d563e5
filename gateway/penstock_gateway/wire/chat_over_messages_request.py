"""From a chat request to one of the Messages API: every field but the messages and the tools, and the whole.

Pure. Read `translate_request`.

What becomes of each field is written in `_CONSUMED` and in the functions below; wire rules are those of
platform.claude.com/docs/en/api/messages, and of /docs/en/api/openai-sdk, Anthropic's own layer for OpenAI clients.
"""

from __future__ import annotations

from typing import Final

import msgspec

from penstock_gateway.request_body import CONTROL_FIELD, raw
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.chat_over_messages_parts import Block
from penstock_gateway.wire.chat_over_messages_tools import Tools, translate_tools
from penstock_gateway.wire.chat_over_messages_turns import Conversation
from penstock_gateway.wire.claude_generations import (
    EFFORTS,
    FIRST_WITHOUT_BOTH,
    FIRST_WITHOUT_SAMPLING,
    Generation,
    Thinking,
    generation_of,
    thinking_for,
)
from penstock_gateway.wire.raw_fields import (
    ITEMS,
    OBJECT,
    OBJECTS,
    STRING,
    Dropped,
    given,
    invalid,
    is_blank,
    is_string,
    read,
    required,
)
from penstock_gateway.wire.translation import NOT_TRANSLATABLE, TranslatedRequest

# Translated below, or without meaning for a provider.
_CONSUMED: Final = frozenset(
    {
        CONTROL_FIELD,
        "function_call",
        "functions",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "modalities",
        "model",
        "n",
        "parallel_tool_calls",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "service_tier",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_p",
        "user",
        "web_search_options",
    }
)
# Fields of the chat API that ask for nothing when they are set like this; null asks for nothing in any.
_IDLE: Final = {
    "frequency_penalty": frozenset({b"0", b"0.0"}),
    "logit_bias": frozenset({b"{}"}),
    "logprobs": frozenset({b"false"}),
    "metadata": frozenset({b"{}"}),
    "presence_penalty": frozenset({b"0", b"0.0"}),
    "store": frozenset({b"false"}),
    "top_logprobs": frozenset({b"0"}),
}
_SERVICE_TIERS: Final = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
_JSON_INSTRUCTION: Final = "Answer with a single JSON object and nothing else: no code fence, no text around it."
_LEAST_TOP_P_BESIDE_THINKING = 0.95
_MAX_USER_CHARACTERS = 256

_COUNT = msgspec.json.Decoder(int)
_NUMBER = msgspec.json.Decoder(float)
_STRINGS = msgspec.json.Decoder(list[str])


def translate_request(fields: JsonObject) -> TranslatedRequest:
    """Translate a chat request; see `translation.Translator.request`.

    Parameters
    ----------
    fields : JsonObject
        ``model`` already names the provider's model: what it accepts depends on its generation.

    Returns
    -------
    TranslatedRequest
        Without ``max_tokens`` when the request has no limit; it is required, so whoever calls this sets one first.

    Notes
    -----
    - ``temperature`` above 1 becomes 1, and is named. Sampling parameters are left out, and named, for generations and
      beside thinking where they are refused; of ``temperature`` and ``top_p`` the first stays where both are refused.
    - ``response_format: json_object`` has no counterpart: an instruction at the end of the system prompt takes its
      place, and the field is named because nothing enforces it. The name of a JSON schema is not sent.
    - ``reasoning_effort`` becomes ``thinking`` and ``output_config.effort``; see `claude_generations`. The fields
      ``thinking`` and ``top_k``, which many chat clients send, are passed on where the model takes them.
    - Extensions of messages are those of `translation`.
    """
    dropped = Dropped()
    model = required(fields, "model", "model")
    generation = generation_of(read(model, STRING, "model"))
    _refuse(fields)
    conversation = Conversation(dropped)
    for message in read(required(fields, "messages", "messages"), OBJECTS, "messages"):
        conversation.add(message)
    conversation.close()
    out: JsonObject = {"model": model}
    max_tokens = _add_limit(out, fields)
    tools = translate_tools(fields, conversation.tool_names, generation, dropped)
    form = _output_format(fields, conversation, dropped)
    thinking = _add_thinking(out, fields, generation, max_tokens, tools, conversation, dropped)
    config = {
        **({"effort": thinking.effort} if thinking.effort is not None else {}),
        **({"format": form} if form is not None else {}),
    }
    if config:
        out["output_config"] = raw(config)
    _add_conversation(out, conversation, tools)
    _add_sampling(out, fields, generation, is_thinking=_is_on(out), dropped=dropped)
    _add_rest(out, fields, dropped)
    for name, value in fields.items():
        if name not in _CONSUMED and given(fields, name) is not None and bytes(value) not in _IDLE.get(name, ()):
            dropped.note(name)
    places = {name: place for place, name in enumerate(fields)}
    return TranslatedRequest(out, tuple(sorted(dropped.paths, key=lambda path: places.get(path.partition(".")[0], 0))))


def _refuse(fields: JsonObject) -> None:
    """Refuse what cannot be left out without another answer."""
    choices = given(fields, "n")
    if choices is not None and read(choices, _COUNT, "n") != 1:
        raise invalid("n", "must be 1 for this provider", code=NOT_TRANSLATABLE)
    modalities = given(fields, "modalities")
    wanted = read(modalities, _STRINGS, "modalities") if modalities is not None else []
    if set(wanted) - {"text"}:
        raise invalid("modalities", "must be text for this provider", code=NOT_TRANSLATABLE)


def _add_limit(out: JsonObject, fields: JsonObject) -> int | None:
    """Set ``max_tokens``; of the two names the newer one counts."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = given(fields, name)
        if value is not None:
            limit = read(value, _COUNT, name)
            if limit < 1:
                raise invalid(name, "must be at least 1")
            out["max_tokens"] = value
            return limit
    return None


def _output_format(fields: JsonObject, conversation: Conversation, dropped: Dropped) -> Block | None:
    """Return ``output_config.format`` (docs: /build-with-claude/structured-outputs)."""
    value = given(fields, "response_format")
    if value is None:
        return None
    wanted = read(value, OBJECT, "response_format")
    kind = read(required(wanted, "type", "response_format.type"), STRING, "response_format.type")
    if kind == "text":
        return None
    if kind == "json_object":
        conversation.system.append({"type": "text", "text": _JSON_INSTRUCTION})
        dropped.note("response_format")
        return None
    if kind != "json_schema":
        raise invalid(
            "response_format.type", f"is '{kind[:40]}', which this provider does not have", code=NOT_TRANSLATABLE
        )
    path = "response_format.json_schema"
    described = read(required(wanted, "json_schema", path), OBJECT, path)
    dropped.note_others(described, {"name", "strict", "schema"}, f"{path}.")
    schema = required(described, "schema", f"{path}.schema")
    read(schema, OBJECT, f"{path}.schema")
    return {"type": "json_schema", "schema": schema}


def _add_thinking(
    out: JsonObject,
    fields: JsonObject,
    generation: Generation | None,
    max_tokens: int | None,
    tools: Tools,
    conversation: Conversation,
    dropped: Dropped,
) -> Thinking:
    """Set ``thinking`` from the field of that name, else from ``reasoning_effort``, and return what was asked for."""
    asked = Thinking()
    effort = given(fields, "reasoning_effort")
    if effort is not None:
        name = read(effort, STRING, "reasoning_effort")
        if name not in EFFORTS:
            raise invalid("reasoning_effort", f"must be one of {', '.join(EFFORTS)}, not '{name[:40]}'")
        asked = thinking_for(
            name,
            generation,
            max_tokens,
            may_think=not tools.is_forced,
            may_budget=conversation.may_think_by_budget(),
        )
        if not asked.is_met:
            dropped.note("reasoning_effort")
    own = given(fields, "thinking")
    if own is not None:
        out["thinking"] = _own_thinking(own, generation, dropped)
    elif asked.thinking is not None:
        out["thinking"] = raw(asked.thinking)
    return asked


def _own_thinking(value: msgspec.Raw, generation: Generation | None, dropped: Dropped) -> msgspec.Raw:
    """Return the client's ``thinking``; a budget is left to the model where budgets are refused."""
    wanted = read(value, OBJECT, "thinking")
    budget = given(wanted, "budget_tokens")
    if budget is None or generation is None or generation < FIRST_WITHOUT_SAMPLING:
        return value
    dropped.note("thinking.budget_tokens")
    rest = {name: item for name, item in wanted.items() if name != "budget_tokens"}
    return raw({"display": "summarized", **rest, "type": "adaptive"})


def _is_on(out: JsonObject) -> bool:
    thinking = out.get("thinking")
    if thinking is None:
        return False
    kind = given(read(thinking, OBJECT, "thinking"), "type")
    return kind is not None and bytes(kind) in (b'"enabled"', b'"adaptive"')


def _add_conversation(out: JsonObject, conversation: Conversation, tools: Tools) -> None:
    system = conversation.system
    if len(system) == 1 and system[0].keys() == {"type", "text"}:
        out["system"] = raw(system[0]["text"])
    elif system:
        out["system"] = raw(system)
    out["messages"] = raw([turn.as_message() for turn in conversation.turns])
    if tools.tools:
        out["tools"] = raw(tools.tools)
    if tools.choice is not None:
        out["tool_choice"] = raw(tools.choice)


def _add_sampling(
    out: JsonObject, fields: JsonObject, generation: Generation | None, *, is_thinking: bool, dropped: Dropped
) -> None:
    names = [name for name in ("temperature", "top_p", "top_k") if given(fields, name) is not None]
    has_none = generation is not None and generation >= FIRST_WITHOUT_SAMPLING
    has_one = generation is not None and generation >= FIRST_WITHOUT_BOTH
    for name in names:
        number = read(fields[name], _NUMBER, name)
        is_refused = is_thinking and (
            (name == "temperature" and number != 1)
            or name == "top_k"
            or (name == "top_p" and number < _LEAST_TOP_P_BESIDE_THINKING)
        )
        if has_none or is_refused or (has_one and name == "top_p" and "temperature" in out):
            dropped.note(name)
        elif name == "temperature" and number > 1:
            dropped.note(name)
            out[name] = raw(1)
        else:
            out[name] = fields[name]


def _add_rest(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    stop = given(fields, "stop")
    if stop is not None:
        _add_stop(out, stop, dropped)
    _add_user(out, fields, dropped)
    tier = given(fields, "service_tier")
    if tier is not None:
        name = read(tier, STRING, "service_tier")
        if name in _SERVICE_TIERS:
            out["service_tier"] = raw(_SERVICE_TIERS[name])
        else:
            dropped.note("service_tier")
    if "stream" in fields:
        out["stream"] = fields["stream"]


def _add_stop(out: JsonObject, stop: msgspec.Raw, dropped: Dropped) -> None:
    """Set ``stop_sequences``; those of white space alone are refused by Anthropic."""
    sequences = [stop] if is_string(stop) else read(stop, ITEMS, "stop")
    for sequence in sequences:
        read(sequence, STRING, "stop")
    kept = [sequence for sequence in sequences if not is_blank(sequence)]
    if len(kept) < len(sequences):
        dropped.note("stop")
    if kept:
        out["stop_sequences"] = raw(kept)


def _add_user(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    """Set ``metadata.user_id``; Anthropic refuses an address of a person in it."""
    for name in ("user", "safety_identifier"):
        value = given(fields, name)
        if value is None:
            continue
        user = read(value, STRING, name)
        if "metadata" in out or "@" in user or not user or len(user) > _MAX_USER_CHARACTERS:
            dropped.note(name)
        else:
            out["metadata"] = raw({"user_id": value})
