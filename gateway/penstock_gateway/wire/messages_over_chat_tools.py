"""From the tools of a Messages request, and which of them to use, to those of a chat request.

Schemas stay the client's own bytes. Pure. Read `add_tools`.

Wire rules: platform.claude.com/docs/en/agents-and-tools/tool-use/define-tools;
platform.openai.com/docs/api-reference/chat/create (``tools``, ``tool_choice``, ``parallel_tool_calls``).
"""

from __future__ import annotations

from typing import Final

from penstock_gateway.request_body import raw
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.messages_over_chat_schemas import is_strict
from penstock_gateway.wire.raw_fields import ITEMS, OBJECT, STRING, Dropped, given, invalid, read, required
from penstock_gateway.wire.translation import NOT_TRANSLATABLE

_KNOWN: Final = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control"})
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


def add_tools(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    """Set ``tools``, ``tool_choice`` and ``parallel_tool_calls``.

    Parameters
    ----------
    out : JsonObject
        The chat request so far.
    fields : JsonObject
        The Messages request.
    dropped : Dropped

    Raises
    ------
    InvalidRequest
        A tool or a choice that is none; `NOT_TRANSLATABLE` for the choice of a tool that only Anthropic has.

    Notes
    -----
    Tools that Anthropic defines (``web_search_20250305``, ``bash_20250124``) have no schema of their own, so they are
    left out, and named by their type. ``strict`` is passed on where the schema is one that OpenAI's strict mode takes.
    """
    value = given(fields, "tools")
    kept: list[dict[str, object]] = []
    names: set[str] = set()
    for item in () if value is None else read(value, ITEMS, "tools"):
        tool = read(item, OBJECT, "tools")
        kind = given(tool, "type")
        if kind is not None and (name := read(kind, STRING, "tools.type")) != "custom":
            dropped.note(f"tools.{name[:60]}")
            continue
        names.add(read(required(tool, "name", "tools.name"), STRING, "tools.name"))
        kept.append(_tool(tool, dropped))
    if kept:
        out["tools"] = raw(kept)
    _add_choice(out, fields, names, dropped)


def _tool(tool: JsonObject, dropped: Dropped) -> dict[str, object]:
    schema = required(tool, "input_schema", "tools.input_schema")
    read(schema, OBJECT, "tools.input_schema")
    dropped.note_others(tool, _KNOWN, "tools.")
    function: dict[str, object] = {"name": tool["name"]}
    if (description := given(tool, "description")) is not None:
        function["description"] = description
    if (strict := given(tool, "strict")) is not None:
        if bytes(strict) != b"true" or is_strict(schema, "tools.input_schema"):
            function["strict"] = strict
        else:
            dropped.note("tools.strict")
    function["parameters"] = schema
    chat: dict[str, object] = {"type": "function", "function": function}
    if (control := given(tool, "cache_control")) is not None:
        chat["cache_control"] = control
    return chat


def _add_choice(out: JsonObject, fields: JsonObject, names: set[str], dropped: Dropped) -> None:
    value = given(fields, "tool_choice")
    if value is None:
        return
    choice = read(value, OBJECT, "tool_choice")
    kind = read(required(choice, "type", "tool_choice.type"), STRING, "tool_choice.type")
    dropped.note_others(choice, {"type", "name", "disable_parallel_tool_use"}, "tool_choice.")
    if kind not in _CHOICES and kind != "tool":
        raise invalid("tool_choice.type", f"is '{kind[:40]}', which this provider cannot take", code=NOT_TRANSLATABLE)
    called = read(required(choice, "name", "tool_choice.name"), STRING, "tool_choice.name") if kind == "tool" else None
    if (called is not None and called not in names) or (kind == "any" and not names):
        raise invalid("tool_choice", "forces a tool that this provider does not have", code=NOT_TRANSLATABLE)
    if not names:
        return
    out["tool_choice"] = raw(_CHOICES[kind] if called is None else {"type": "function", "function": {"name": called}})
    if (alone := given(choice, "disable_parallel_tool_use")) is not None and bytes(alone) == b"true":
        out["parallel_tool_calls"] = raw(False)
