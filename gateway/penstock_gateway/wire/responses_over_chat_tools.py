"""From the tools of a Responses request to those of a chat request, and which of them to use.

Schemas stay the client's own bytes. Pure. Read `add_tools`.

Wire rules: platform.openai.com/docs/guides/function-calling (flat functions in one API, nested in the other) and
/docs/api-reference/responses/create (``tool_choice``).
"""

from __future__ import annotations

from typing import Final

import msgspec

from penstock_gateway.request_body import raw
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
from penstock_gateway.wire.translation import NOT_TRANSLATABLE

_FUNCTION: Final = ("name", "description", "parameters", "strict")
_WORDS: Final = frozenset({"auto", "none", "required"})
_MODES: Final = frozenset({"auto", "required"})
_NO_SUCH_TOOL: Final = "asks for a tool that only the Responses API of its provider has"


def add_tools(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    """Set ``tools``, ``tool_choice`` and ``parallel_tool_calls`` of a chat request.

    Parameters
    ----------
    out : JsonObject
        The chat request; changed.
    fields : JsonObject
        The Responses request.
    dropped : Dropped

    Raises
    ------
    InvalidRequest
        A tool or choice that is none; `NOT_TRANSLATABLE` when the choice asks for a tool that is left out.

    Notes
    -----
    Tools that a provider runs itself and custom tools, whose input is not JSON, are left out and named. Chat providers
    refuse the other two fields in a request without tools.
    """
    value = given(fields, "tools")
    listed = [] if value is None else read(value, OBJECTS, "tools")
    tools = [tool for tool in (_tool(tool, dropped) for tool in listed) if tool is not None]
    choice_given = given(fields, "tool_choice")
    choice = None if choice_given is None else _choice(choice_given, dropped)
    if not tools:
        if choice is not None and choice not in ("auto", "none"):
            problem = _NO_SUCH_TOOL if listed else "needs 'tools'"
            raise invalid("tool_choice", problem, code=NOT_TRANSLATABLE if listed else "invalid_value")
        return
    out["tools"] = raw(tools)
    if choice is not None:
        out["tool_choice"] = raw(choice)
    parallel = given(fields, "parallel_tool_calls")
    if parallel is not None:
        out["parallel_tool_calls"] = parallel


def _tool(tool: JsonObject, dropped: Dropped) -> dict[str, object] | None:
    kind = read(required(tool, "type", "tools.type"), STRING, "tools.type")
    if kind != "function":
        dropped.note(f"tools.{kind[:40]}")
        return None
    dropped.note_others(tool, {"type", *_FUNCTION}, "tools.")
    name = required(tool, "name", "tools.name")
    if not is_string(name):
        raise invalid("tools.name", "must be a string", code="invalid_type")
    function = {field: tool[field] for field in _FUNCTION if given(tool, field) is not None}
    return {"type": "function", "function": function}


def _choice(choice: msgspec.Raw, dropped: Dropped) -> object:
    if is_string(choice):
        word = read(choice, STRING, "tool_choice")
        if word not in _WORDS:
            raise invalid("tool_choice", f"must be none, auto, required or a tool, not '{word[:40]}'")
        return word
    fields = read(choice, OBJECT, "tool_choice")
    kind = read(required(fields, "type", "tool_choice.type"), STRING, "tool_choice.type")
    if kind == "function":
        return _named(fields, "tool_choice")
    if kind == "allowed_tools":
        return _allowed(fields, dropped)
    raise invalid("tool_choice.type", f"is '{kind[:40]}': it {_NO_SUCH_TOOL}", code=NOT_TRANSLATABLE)


def _named(fields: JsonObject, path: str) -> dict[str, object]:
    name = required(fields, "name", f"{path}.name")
    if not is_string(name):
        raise invalid(f"{path}.name", "must be a string", code="invalid_type")
    return {"type": "function", "function": {"name": name}}


def _allowed(fields: JsonObject, dropped: Dropped) -> object:
    """Return the choice among some tools; those that were left out are left out here as well."""
    mode_given = given(fields, "mode")
    mode = "auto" if mode_given is None else read(mode_given, STRING, "tool_choice.mode")
    if mode not in _MODES:
        raise invalid("tool_choice.mode", f"must be auto or required, not '{mode[:40]}'")
    path = "tool_choice.tools"
    tools = []
    for tool in read(required(fields, "tools", path), OBJECTS, path):
        kind = read(required(tool, "type", f"{path}.type"), STRING, f"{path}.type")
        if kind == "function":
            tools.append(_named(tool, path))
        else:
            dropped.note(f"{path}.{kind[:40]}")
    if tools:
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}
    if mode == "required":
        raise invalid("tool_choice", _NO_SUCH_TOOL, code=NOT_TRANSLATABLE)
    return "none"
