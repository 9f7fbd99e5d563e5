"""From the messages of a chat request to the input items of a Responses request.

Owns what becomes of each message, its calls and its reasoning; `chat_over_responses_parts` does the parts of a content.
Text and arguments stay the client's own bytes. Pure. Read `Conversation.add`.

Wire rules: platform.openai.com/docs/api-reference/responses/create (input), /docs/guides/migrate-to-responses,
/docs/guides/reasoning (encrypted items) and /docs/guides/function-calling (custom tools).
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from penstock_gateway.request_body import raw
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.chat_over_responses_parts import Item, answer_content, said_content
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

MAX_CALL_ID_CHARACTERS: Final = 64
"""Of a ``call_id``; a longer one is refused with ``string_above_max_length``. Ids of other providers can be longer."""

_KNOWN: Final = {
    "assistant": frozenset(
        {
            "role",
            "content",
            "refusal",
            "tool_calls",
            "function_call",
            "reasoning_items",
            # Answers only; named when there is something in them.
            "reasoning_content",
            "annotations",
            "citations",
        }
    ),
    "tool": frozenset({"role", "content", "tool_call_id", "name"}),
    "function": frozenset({"role", "content", "name"}),
}
_OF_SAYING: Final = frozenset({"role", "content"})
_SAYING: Final = frozenset({"system", "developer", "user"})
_CALLS: Final = "messages.tool_calls"
_REASONING: Final = "messages.reasoning_items"
_NOTHING: Final = 2  # the length of "", [] and {}


class Conversation:
    """The input items of a request, one message after the other.

    Parameters
    ----------
    dropped : Dropped

    Attributes
    ----------
    items : list of dict
    has_reasoning : bool
        Whether reasoning items are among them.
    """

    def __init__(self, dropped: Dropped) -> None:
        self.items: list[Item] = []
        self.has_reasoning = False
        self._dropped = dropped
        self._custom_calls: set[str] = set()
        self._calls_without_id = 0

    def add(self, message: JsonObject) -> None:
        """Add a message.

        Raises
        ------
        InvalidRequest
            One of its fields is missing or of another type; `NOT_TRANSLATABLE` for sound.
        """
        role = read(required(message, "role", "messages.role"), STRING, "messages.role")
        self._dropped.note_others(message, _KNOWN.get(role, _OF_SAYING), "messages.")
        if role in _SAYING:
            content = required(message, "content", "messages.content")
            self.items.append({"role": role, "content": said_content(content, self._dropped)})
        elif role == "assistant":
            self._add_answer(message)
        elif role in ("tool", "function"):
            self._add_result(message, role)
        else:
            raise invalid("messages.role", f"is '{role[:40]}', which is not known")

    def _add_answer(self, message: JsonObject) -> None:
        """Add reasoning, text and calls of an assistant's message, in that order."""
        reasoning = self._reasoning(message)
        said: list[Item] = []
        content = answer_content(message, self._dropped)
        if content is not None:
            said.append({"role": "assistant", "content": content})
        said += self._calls(message)
        if reasoning and not said:  # refused: "was provided without its required following item"
            self._dropped.note(_REASONING)
            reasoning = []
        self.has_reasoning = self.has_reasoning or bool(reasoning)
        self.items += [*reasoning, *said]
        if not reasoning:
            self._note_unless_empty(message, "reasoning_content")
        self._note_unless_empty(message, "annotations")
        self._note_unless_empty(message, "citations")

    def _note_unless_empty(self, message: JsonObject, name: str) -> None:
        value = given(message, name)
        if value is not None and len(value) > _NOTHING:
            self._dropped.note(f"messages.{name}")

    def _reasoning(self, message: JsonObject) -> list[Item]:
        """Return the reasoning items as they came, without those that hold nothing but an id.

        The provider keeps nothing (``store`` is false) and answers 404 to an item that it would have to look up.
        """
        value = given(message, "reasoning_items")
        kept: list[Item] = []
        for item in read(value, OBJECTS, _REASONING) if value is not None else ():
            kind = given(item, "type")
            if (
                kind is not None
                and bytes(kind) == b'"reasoning"'
                and any(
                    len(held) > _NOTHING for name in ("encrypted_content", "content") if (held := given(item, name))
                )
            ):
                kept.append(dict(item))
            else:
                self._dropped.note(_REASONING)
        return kept

    def _calls(self, message: JsonObject) -> list[Item]:
        calls = given(message, "tool_calls")
        if calls is not None:
            return [self._call(call) for call in read(calls, OBJECTS, _CALLS)]
        call = given(message, "function_call")
        if call is None:
            return []
        self._calls_without_id += 1
        path = "messages.function_call"
        return [_function_call(read(call, OBJECT, path), path, raw(self._made_up_id()))]

    def _call(self, call: JsonObject) -> Item:
        kind = given(call, "type")
        name = "function" if kind is None else read(kind, STRING, f"{_CALLS}.type")
        call_id = _call_id(required(call, "id", f"{_CALLS}.id"), f"{_CALLS}.id")
        self._dropped.note_others(call, {"id", "type", "index", "function", "custom"}, f"{_CALLS}.")
        if name == "custom":
            path = f"{_CALLS}.custom"
            custom = read(required(call, "custom", path), OBJECT, path)
            self._custom_calls.add(read(call_id, STRING, f"{_CALLS}.id"))
            called = {field: _text(custom, field, f"{path}.{field}") for field in ("name", "input")}
            return {"type": "custom_tool_call", "call_id": call_id, **called}
        if name != "function":
            raise invalid(f"{_CALLS}.type", f"is '{name[:40]}', which is not known")
        path = f"{_CALLS}.function"
        return _function_call(read(required(call, "function", path), OBJECT, path), path, call_id)

    def _add_result(self, message: JsonObject, role: str) -> None:
        kind = "function_call_output"
        if role == "tool":
            path = "messages.tool_call_id"
            call_id = _call_id(required(message, "tool_call_id", path), path)
            if read(call_id, STRING, path) in self._custom_calls:
                kind = "custom_tool_call_output"
        else:
            call_id = raw(self._made_up_id())
        content = given(message, "content")
        output: object = "" if content is None else said_content(content, self._dropped)
        self.items.append({"type": kind, "call_id": call_id, "output": output})

    def _made_up_id(self) -> str:
        """Return an id for the latest call of the older form, whose result is the next one of that form."""
        return f"function_call_{self._calls_without_id}"


def _function_call(function: JsonObject, path: str, call_id: msgspec.Raw) -> Item:
    name = _text(function, "name", f"{path}.name")
    arguments = raw("{}") if given(function, "arguments") is None else _text(function, "arguments", f"{path}.arguments")
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def _call_id(given_id: msgspec.Raw, path: str) -> msgspec.Raw:
    """Return an id that is short enough, the same one for a call and its result."""
    text = read(given_id, STRING, path)
    if len(text) <= MAX_CALL_ID_CHARACTERS:
        return given_id
    return raw(f"call_{hashlib.blake2b(text.encode(), digest_size=24).hexdigest()}")


def _text(fields: JsonObject, name: str, path: str) -> msgspec.Raw:
    value = required(fields, name, path)
    if not is_string(value):
        raise invalid(path, "must be a string", code="invalid_type")
    return value
