"""From the tools of a chat request, old functions included, to those of the Messages API, and which of them to use.

Schemas stay the client's own bytes. Pure. Read `translate_tools`.

Wire rules: platform.claude.com/docs/en/agents-and-tools/tool-use/define-tools and /docs/en/api/messages (``tools``,
``tool_choice``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from penstock_gateway.request_body import raw
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.chat_over_messages_parts import Block, mark
from penstock_gateway.wire.claude_generations import FIRST_STRICT, Generation
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

_ANY_OBJECT: Final = raw({"type": "object", "properties": {}})
# Anthropic's own tools (web_search_20250305, bash_20250124): some chat clients list them, because other gateways do.
_DATED = re.compile(r".*_20\d{6}")
_SIMPLE_CHOICES: Final = {"auto": "auto", "none": "none", "required": "any"}
_FLAG = msgspec.json.Decoder(bool)


@dataclass(slots=True)
class Tools:
    """Tools and choice of a request.

    Attributes
    ----------
    tools : list of dict
    choice : dict or None
    """

    tools: list[Block]
    choice: Block | None = None

    @property
    def is_forced(self) -> bool:
        """Whether the model must call a tool."""
        return self.choice is not None and self.choice["type"] in ("any", "tool")


def translate_tools(
    fields: JsonObject, called: Iterable[str], generation: Generation | None, dropped: Dropped
) -> Tools:
    """Return the tools of a request, and which of them the model shall use.

    Parameters
    ----------
    fields : JsonObject
        The chat request.
    called : iterable of str
        Tools that were called in the conversation. Anthropic refuses calls in a conversation without tools, chat
        clients leave the tools out when they want no more calls: then each is listed by name, and none may be used.
    generation : tuple of int or None
    dropped : Dropped

    Raises
    ------
    InvalidRequest
        A tool or choice that is none; `NOT_TRANSLATABLE` for tools whose input is not JSON.
    """
    tools = [_tool(tool, generation, dropped) for tool in _listed(fields, "tools")]
    functions = [_function(function, generation, dropped, "functions") for function in _listed(fields, "functions")]
    search = _web_search(fields, dropped)
    found = Tools([*tools, *functions, *([search] if search else [])])
    if not found.tools:
        for name in ("tool_choice", "function_call"):
            if given(fields, name) is not None and bytes(fields[name]) not in (b'"none"', b'"auto"'):
                dropped.note(name)
        names = list(called)
        found.tools = [{"name": name, "input_schema": _ANY_OBJECT} for name in names]
        found.choice = {"type": "none"} if names else None
        return found
    _choose(found, fields)
    parallel = given(fields, "parallel_tool_calls")
    is_single = bool(functions) or (parallel is not None and not read(parallel, _FLAG, "parallel_tool_calls"))
    if is_single:
        found.choice = found.choice or {"type": "auto"}
        if found.choice["type"] != "none":
            found.choice["disable_parallel_tool_use"] = True
    return found


def _listed(fields: JsonObject, name: str) -> list[JsonObject]:
    value = given(fields, name)
    return [] if value is None else read(value, OBJECTS, name)


def _tool(tool: JsonObject, generation: Generation | None, dropped: Dropped) -> Block:
    kind_given = given(tool, "type")
    kind = "function" if kind_given is None else read(kind_given, STRING, "tools.type")
    if _DATED.fullmatch(kind) or ("input_schema" in tool and "function" not in tool):
        return dict(tool)
    if kind == "custom":
        raise invalid("tools.type", "is 'custom', and this provider's tools take JSON only", code=NOT_TRANSLATABLE)
    if kind != "function":
        raise invalid("tools.type", f"is '{kind[:40]}', which this provider does not have", code=NOT_TRANSLATABLE)
    dropped.note_others(tool, {"type", "function", "cache_control"}, "tools.")
    function = read(required(tool, "function", "tools.function"), OBJECT, "tools.function")
    return mark(_function(function, generation, dropped, "tools.function"), tool)


def _function(function: JsonObject, generation: Generation | None, dropped: Dropped, path: str) -> Block:
    """Return the tool of a function; also when that is the older ``functions`` entry."""
    name = required(function, "name", f"{path}.name")
    if not is_string(name):
        raise invalid(f"{path}.name", "must be a string", code="invalid_type")
    dropped.note_others(function, {"name", "description", "parameters", "strict", "cache_control"}, f"{path}.")
    tool: Block = {"name": name}
    description = given(function, "description")
    if description is not None:
        tool["description"] = description
    tool["input_schema"] = _schema(given(function, "parameters"), f"{path}.parameters")
    strict = given(function, "strict")
    if strict is not None and read(strict, _FLAG, f"{path}.strict"):
        if generation is None or generation >= FIRST_STRICT:
            tool["strict"] = True
        else:
            dropped.note(f"{path}.strict")
    return mark(tool, function)


def _schema(parameters: msgspec.Raw | None, path: str) -> object:
    """Return the schema as it came; one without a type gets ``object``, which Anthropic requires."""
    if parameters is None:
        return _ANY_OBJECT
    fields = read(parameters, OBJECT, path)
    return parameters if given(fields, "type") is not None else {**fields, "type": "object"}


def _web_search(fields: JsonObject, dropped: Dropped) -> Block | None:
    """Return Anthropic's search tool for ``web_search_options`` (docs: /agents-and-tools/tool-use/web-search-tool)."""
    value = given(fields, "web_search_options")
    if value is None:
        return None
    options = read(value, OBJECT, "web_search_options")
    dropped.note_others(options, {"user_location"}, "web_search_options.")
    tool: Block = {"type": "web_search_20250305", "name": "web_search"}
    location = given(options, "user_location")
    if location is not None:
        path = "web_search_options.user_location"
        place = given(read(location, OBJECT, path), "approximate")
        if place is not None:
            fields_of_place = read(place, OBJECT, f"{path}.approximate")
            tool["user_location"] = {"type": "approximate", **fields_of_place}
    return tool


def _choose(found: Tools, fields: JsonObject) -> None:
    choice = given(fields, "tool_choice")
    if choice is not None:
        found.choice = _choice(choice, found)
        return
    choice = given(fields, "function_call")
    if choice is None:
        return
    if is_string(choice):
        found.choice = _choice(choice, found, "function_call")
        return
    name = required(read(choice, OBJECT, "function_call"), "name", "function_call.name")
    found.choice = {"type": "tool", "name": read(name, STRING, "function_call.name")}


def _choice(choice: msgspec.Raw, found: Tools, path: str = "tool_choice") -> Block:
    if is_string(choice):
        word = read(choice, STRING, path)
        if word not in _SIMPLE_CHOICES:
            raise invalid(path, f"must be none, auto, required or a tool, not '{word[:40]}'")
        return {"type": _SIMPLE_CHOICES[word]}
    fields = read(choice, OBJECT, path)
    kind = read(required(fields, "type", f"{path}.type"), STRING, f"{path}.type")
    if kind == "function":
        function = read(required(fields, "function", f"{path}.function"), OBJECT, f"{path}.function")
        name = required(function, "name", f"{path}.function.name")
        return {"type": "tool", "name": read(name, STRING, f"{path}.function.name")}
    if kind == "allowed_tools":
        allowed = read(required(fields, kind, f"{path}.{kind}"), OBJECT, f"{path}.{kind}")
        return _allow(allowed, found, f"{path}.{kind}")
    raise invalid(f"{path}.type", f"is '{kind[:40]}', which this provider does not have", code=NOT_TRANSLATABLE)


def _allow(allowed: JsonObject, found: Tools, path: str) -> Block:
    """Leave only the allowed tools, which Anthropic cannot tell from the rest otherwise, and return the choice."""
    names = set()
    for tool in read(required(allowed, "tools", f"{path}.tools"), OBJECTS, f"{path}.tools"):
        function = given(tool, "function")
        fields = tool if function is None else read(function, OBJECT, f"{path}.tools.function")
        names.add(read(required(fields, "name", f"{path}.tools.name"), STRING, f"{path}.tools.name"))
    found.tools = [tool for tool in found.tools if _name_of(tool) in names]
    if not found.tools:
        raise invalid(f"{path}.tools", "names no tool of 'tools'")
    mode = given(allowed, "mode")
    return {"type": "any" if mode is not None and bytes(mode) == b'"required"' else "auto"}


def _name_of(tool: Block) -> str:
    name = tool.get("name")
    return read(name, STRING, "tools.name") if isinstance(name, msgspec.Raw) else str(name)
