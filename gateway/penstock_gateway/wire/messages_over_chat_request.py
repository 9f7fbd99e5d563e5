"""From a Messages request to a chat request: every field but the turns and the tools, and the whole.

Pure. Read `translate_request`.

Wire rules: platform.claude.com/docs/en/api/messages, /docs/en/build-with-claude/effort, /extended-thinking and
/structured-outputs, and the types of Anthropic's official client where those are silent;
platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from penstock_gateway.request_body import CONTROL_FIELD, raw
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.messages_over_chat_schemas import is_strict
from penstock_gateway.wire.messages_over_chat_tools import add_tools
from penstock_gateway.wire.messages_over_chat_turns import chat_messages, text_content
from penstock_gateway.wire.raw_fields import ITEMS, OBJECT, STRING, Dropped, given, invalid, read, required
from penstock_gateway.wire.translation import NOT_TRANSLATABLE, TranslatedRequest

_SAME: Final = ("model", "max_tokens", "temperature", "top_p", "stream", CONTROL_FIELD)
_TRANSLATED: Final = frozenset(
    {
        "messages",
        "system",
        "stop_sequences",
        "metadata",
        "thinking",
        "output_config",
        "output_format",
        "tools",
        "tool_choice",
    }
)
_IDLE: Final = {"service_tier": frozenset({b'"auto"'}), "mcp_servers": frozenset({b"[]"})}
_EFFORTS: Final = frozenset({"low", "medium", "high", "xhigh", "max"})
# The other way round in `claude_generations`: each step about doubles what is thought.
_LOW_BELOW, _MEDIUM_BELOW = 4096, 16_384
_COUNT = msgspec.json.Decoder(int)
# OpenAI refuses a longer `user`; coding agents put account and session into theirs, 150 characters and more.
_MAX_USER_CHARACTERS = 64


def translate_request(fields: JsonObject) -> TranslatedRequest:
    """Translate a Messages request; see `translation.Translator.request`.

    Notes
    -----
    - ``thinking`` with a budget becomes a ``reasoning_effort``: below 4,096 tokens low, below 16,384 medium, else high;
      adaptive thinking takes ``output_config.effort``. A model without reasoning takes neither, so the gateway leaves
      it out there (`compatibility.outgoing`).
    - ``is_error`` of a tool's result is left out, and named: what went wrong stands in its content.
    - A ``metadata.user_id`` of more than 64 characters becomes its SHA-256 in hexadecimal digits: as stable, and as
      good to tell users apart by.
    - Values of a list that Anthropic may lengthen (efforts, ways of thinking, roles, choices) are never the client's
      mistake: they are left out and named, or `NOT_TRANSLATABLE`, so that Anthropic's own servers still get them.
    """
    dropped = Dropped()
    required(fields, "model", "model")
    _check_limit(fields)
    out: JsonObject = {name: value for name in _SAME if (value := given(fields, name)) is not None}
    messages = chat_messages(required(fields, "messages", "messages"), dropped)
    if not messages:
        raise invalid("messages", "must not be empty", code="empty_messages")
    system = given(fields, "system")
    if system is not None:
        messages.insert(0, {"role": "system", "content": text_content(system, "system", dropped)})
    out["messages"] = raw(messages)
    stops = given(fields, "stop_sequences")
    if stops is not None and read(stops, ITEMS, "stop_sequences"):
        out["stop"] = stops
    _add_user(out, fields, dropped)
    _add_reasoning(out, fields, dropped)
    _add_format(out, fields, dropped)
    add_tools(out, fields, dropped)
    for name, value in fields.items():
        if name in _TRANSLATED or name in _SAME or given(fields, name) is None:
            continue
        if bytes(value) not in _IDLE.get(name, ()):
            dropped.note(name)
    places = {name: place for place, name in enumerate(fields)}
    return TranslatedRequest(out, tuple(sorted(dropped.paths, key=lambda path: places.get(path.partition(".")[0], 0))))


def _check_limit(fields: JsonObject) -> None:
    limit = read(required(fields, "max_tokens", "max_tokens"), _COUNT, "max_tokens")
    if limit < 0:
        raise invalid("max_tokens", "must be at least 0")
    if limit == 0:  # Anthropic reads the prompt into its cache and answers nothing
        raise invalid("max_tokens", "is 0, which only fills Anthropic's prompt cache", code=NOT_TRANSLATABLE)


def _add_user(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    value = given(fields, "metadata")
    if value is None:
        return
    metadata = read(value, OBJECT, "metadata")
    dropped.note_others(metadata, {"user_id"}, "metadata.")
    if (user := given(metadata, "user_id")) is not None:
        name = read(user, STRING, "metadata.user_id")
        is_long = len(name) > _MAX_USER_CHARACTERS
        out["user"] = raw(hashlib.sha256(name.encode()).hexdigest()) if is_long else user


def _add_reasoning(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    value = given(fields, "thinking")
    thinking = {} if value is None else read(value, OBJECT, "thinking")
    kind = read(required(thinking, "type", "thinking.type"), STRING, "thinking.type") if thinking else "none"
    dropped.note_others(thinking, {"type", "budget_tokens", "display"}, "thinking.")
    display = given(thinking, "display")
    if display is not None and bytes(display) != b'"summarized"':
        dropped.note("thinking.display")
    effort = _effort(fields, dropped)
    if kind == "enabled":
        budget = read(required(thinking, "budget_tokens", "thinking.budget_tokens"), _COUNT, "thinking.budget_tokens")
        effort = effort or ("low" if budget < _LOW_BELOW else "medium" if budget < _MEDIUM_BELOW else "high")
    elif kind not in ("none", "adaptive", "disabled"):
        dropped.note("thinking.type")
    if kind != "disabled" and effort is not None:
        out["reasoning_effort"] = raw("xhigh" if effort == "max" else effort)


def _effort(fields: JsonObject, dropped: Dropped) -> str | None:
    """Return ``output_config.effort``."""
    value = given(fields, "output_config")
    if value is None:
        return None
    config = read(value, OBJECT, "output_config")
    dropped.note_others(config, {"effort", "format"}, "output_config.")
    effort = given(config, "effort")
    if effort is None:
        return None
    name = read(effort, STRING, "output_config.effort")
    if name not in _EFFORTS:
        dropped.note("output_config.effort")
        return None
    return name


def _add_format(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    """Set ``response_format`` from ``output_config.format``, or from ``output_format``, its older name."""
    config = given(fields, "output_config")
    value = None if config is None else given(read(config, OBJECT, "output_config"), "format")
    path = "output_config.format"
    if value is None:
        value, path = given(fields, "output_format"), "output_format"
    if value is None:
        return
    form = read(value, OBJECT, path)
    kind = read(required(form, "type", f"{path}.type"), STRING, f"{path}.type")
    if kind != "json_schema":
        raise invalid(f"{path}.type", f"is '{kind[:40]}', which this provider does not have", code=NOT_TRANSLATABLE)
    dropped.note_others(form, {"type", "schema"}, f"{path}.")
    schema = required(form, "schema", f"{path}.schema")
    read(schema, OBJECT, f"{path}.schema")
    described = {"name": "answer", "strict": is_strict(schema, f"{path}.schema"), "schema": schema}
    out["response_format"] = raw({"type": "json_schema", "json_schema": described})
