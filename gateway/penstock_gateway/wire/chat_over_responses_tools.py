"""From the tools of a chat request to those of a Responses request: nested there, flat here.

Schemas stay the client's own bytes. Pure. Read `translate_tools`.

Wire rules: platform.openai.com/docs/guides/migrate-to-responses (functions are strict by default in Responses and not
in chat), /docs/guides/function-calling (custom tools, allowed tools) and /docs/guides/tools-web-search.
"""

from __future__ import annotations

from typing import Final

from penstock_gateway.request_body import raw
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.raw_fields import OBJECT, OBJECTS, STRING, Dropped, given, invalid, is_string, read, required
from penstock_gateway.wire.translation import NOT_TRANSLATABLE

Tool = dict[str, object]
"""A tool or a choice of one; its values may be raw JSON."""

_DESCRIBED: Final = frozenset({"name", "description", "parameters", "strict"})


def translate_tools(out: JsonObject, fields: JsonObject, dropped: Dropped) -> None:
    """Set ``tools``, ``tool_choice`` and ``parallel_tool_calls``.

    Parameters
    ----------
    out : JsonObject
        The request under way.
    fields : JsonObject
        The chat request; its older ``functions`` and ``function_call`` are read when the newer fields are absent.
    dropped : Dropped

    Raises
    ------
    InvalidRequest
        A tool without what it needs; `NOT_TRANSLATABLE` for a kind of tool that the chat format does not have.
    """
    tools: list[Tool] = []
    if (value := given(fields, "tools")) is not None:
        tools = [_tool(tool, dropped) for tool in read(value, OBJECTS, "tools")]
    elif (value := given(fields, "functions")) is not None:
        tools = [_function(function, "functions", dropped) for function in read(value, OBJECTS, "functions")]
        out["parallel_tool_calls"] = raw(False)  # an older message has room for one call
    if (value := given(fields, "web_search_options")) is not None:
        tools.append(_web_search(read(value, OBJECT, "web_search_options"), dropped))
    if tools:
        out["tools"] = raw(tools)
    choice = given(fields, "tool_choice")
    if choice is not None:
        out["tool_choice"] = choice if is_string(choice) else raw(_choice(read(choice, OBJECT, "tool_choice")))
    elif (choice := given(fields, "function_call")) is not None:
        path = "function_call"
        out["tool_choice"] = choice if is_string(choice) else raw(_chosen("function", read(choice, OBJECT, path), path))


def _tool(tool: JsonObject, dropped: Dropped) -> Tool:
    kind_given = given(tool, "type")
    kind = "function" if kind_given is None else read(kind_given, STRING, "tools.type")
    if kind not in ("function", "custom"):
        raise invalid("tools.type", f"is '{kind[:40]}', which the chat format does not have", code=NOT_TRANSLATABLE)
    dropped.note_others(tool, {"type", kind}, "tools.")
    path = f"tools.{kind}"
    described = read(required(tool, kind, path), OBJECT, path)
    return _function(described, path, dropped) if kind == "function" else _custom(described, path, dropped)


def _function(described: JsonObject, path: str, dropped: Dropped) -> Tool:
    dropped.note_others(described, _DESCRIBED, f"{path}.")
    tool = _named("function", described, path)
    tool["parameters"] = given(described, "parameters") or raw({"type": "object", "properties": {}})
    tool["strict"] = given(described, "strict") or raw(False)
    return tool


def _custom(described: JsonObject, path: str, dropped: Dropped) -> Tool:
    """Return a tool that takes text; a grammar is nested once more in the chat format."""
    dropped.note_others(described, {"name", "description", "format"}, f"{path}.")
    tool = _named("custom", described, path)
    form = given(described, "format")
    if form is None:
        return tool
    path = f"{path}.format"
    fields = read(form, OBJECT, path)
    grammar = given(fields, "grammar")
    if grammar is None:
        return {**tool, "format": form}
    flat = read(grammar, OBJECT, f"{path}.grammar")
    dropped.note_others(flat, {"definition", "syntax"}, f"{path}.grammar.")
    names = ("definition", "syntax")
    return {**tool, "format": {"type": "grammar", **{name: flat[name] for name in names if name in flat}}}


def _named(kind: str, described: JsonObject, path: str) -> Tool:
    tool = _chosen(kind, described, path)
    description = given(described, "description")
    return tool if description is None else {**tool, "description": description}


def _chosen(kind: str, described: JsonObject, path: str) -> Tool:
    name = required(described, "name", f"{path}.name")
    if not is_string(name):
        raise invalid(f"{path}.name", "must be a string", code="invalid_type")
    return {"type": kind, "name": name}


def _choice(wanted: JsonObject) -> Tool:
    path = "tool_choice"
    kind = read(required(wanted, "type", f"{path}.type"), STRING, f"{path}.type")
    if kind != "allowed_tools":
        return _choice_of_one(kind, wanted, path)
    path = f"{path}.{kind}"
    allowed = read(required(wanted, kind, path), OBJECT, path)
    tools = read(required(allowed, "tools", f"{path}.tools"), OBJECTS, f"{path}.tools")
    flat = []
    for tool in tools:
        of_tool = read(required(tool, "type", f"{path}.tools.type"), STRING, f"{path}.tools.type")
        flat.append(_choice_of_one(of_tool, tool, f"{path}.tools"))
    return {"type": kind, "mode": given(allowed, "mode") or raw("auto"), "tools": flat}


def _choice_of_one(kind: str, wanted: JsonObject, path: str) -> Tool:
    if kind not in ("function", "custom"):
        raise invalid(f"{path}.type", f"is '{kind[:40]}', which the chat format does not have", code=NOT_TRANSLATABLE)
    path = f"{path}.{kind}"
    return _chosen(kind, read(required(wanted, kind, path), OBJECT, path), path)


def _web_search(options: JsonObject, dropped: Dropped) -> Tool:
    """Return the search tool, which is what ``web_search_options`` switches on."""
    path = "web_search_options"
    dropped.note_others(options, {"search_context_size", "user_location"}, f"{path}.")
    tool: Tool = {"type": "web_search"}
    if (size := given(options, "search_context_size")) is not None:
        tool["search_context_size"] = size
    if (location := given(options, "user_location")) is not None:
        path = f"{path}.user_location"
        place = given(read(location, OBJECT, path), "approximate")
        if place is not None:
            fields_of_place = read(place, OBJECT, f"{path}.approximate")
            tool["user_location"] = {**fields_of_place, "type": "approximate"}
    return tool
