"""From the messages of a chat request to the system prompt and the turns of the Messages API.

Owns who says what: which messages are one turn, where tool results stand, what a lone system prompt becomes. Pure.
Read `Conversation.add`.

Wire rules: platform.claude.com/docs/en/api/messages (roles, content), /agents-and-tools/tool-use/handle-tool-calls
(results of parallel calls in one user turn, before any text), /build-with-claude/extended-thinking (thinking blocks
first, unchanged).
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.request_body import raw
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.chat_over_messages_parts import Block, content_blocks, mark
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

_SYSTEM_ROLES: Final = frozenset({"system", "developer"})
_KNOWN: Final = {
    "system": frozenset({"role", "content", "cache_control"}),
    "user": frozenset({"role", "content", "cache_control"}),
    "assistant": frozenset(
        {
            "role",
            "content",
            "cache_control",
            "thinking_blocks",
            "tool_calls",
            "function_call",
            "refusal",
            # Noted apart: these say in other words what is sent, unless they are alone.
            "reasoning_content",
            "annotations",
            "citations",
        }
    ),
    "tool": frozenset({"role", "content", "cache_control", "tool_call_id", "name"}),
    "function": frozenset({"role", "content", "cache_control", "name"}),
}
# An id is made of these (tool_use.id: ^[a-zA-Z0-9_-]+$); those of some providers hold dots and colons.
_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")


class Turn:
    """One turn: all that a side says before the other one speaks.

    Attributes
    ----------
    role : str
        ``user`` or ``assistant``.
    results : list of dict
        Tool results; they come before the rest.
    blocks : list of dict
    """

    def __init__(self, role: str) -> None:
        self.role = role
        self.results: list[Block] = []
        self.blocks: list[Block] = []

    def as_message(self) -> Block:
        """Return the message; a single plain text is its content as it is."""
        content = [*self.results, *self.blocks]
        if len(content) == 1 and content[0].keys() == {"type", "text"}:
            return {"role": self.role, "content": content[0]["text"]}
        return {"role": self.role, "content": content}


class Conversation:
    """System prompt and turns, message by message.

    Parameters
    ----------
    dropped : Dropped

    Attributes
    ----------
    system : list of dict
        Text blocks. System and developer messages from the middle of a conversation are among them, in order: most
        generations of Claude know no other place for instructions that outrank the user (Anthropic's own layer for
        OpenAI clients does the same), at the price of a new beginning for the provider's prompt cache.
    turns : list of Turn
        Neighbours of one role are one turn.
    tool_names : dict of str to None
        Of all calls, in order.
    """

    def __init__(self, dropped: Dropped) -> None:
        self.system: list[Block] = []
        self.turns: list[Turn] = []
        self.tool_names: dict[str, None] = {}
        self._dropped = dropped
        self._calls_without_id = 0

    def add(self, message: JsonObject) -> None:
        """Take the next message.

        Raises
        ------
        InvalidRequest
            Unknown role, a part or a call without what it needs, or `NOT_TRANSLATABLE`.
        """
        role = read(required(message, "role", "messages.role"), STRING, "messages.role")
        kind = "system" if role in _SYSTEM_ROLES else role
        if kind not in _KNOWN:
            raise invalid("messages.role", f"is '{role[:40]}', which no chat request has")
        self._dropped.note_others(message, _KNOWN[kind], "messages.")
        if kind == "system":
            self._add_system(message)
        elif kind == "assistant":
            self._add_assistant(message)
        elif kind == "user":
            self._extend("user", _marked(self._content(message), message))
        else:
            self._add_result(message, kind)

    def close(self) -> None:
        """Make a valid conversation of what was added.

        A system prompt alone is said by the user, because there must be a turn. A last assistant turn, which the model
        continues, must not end with white space.

        Raises
        ------
        InvalidRequest
            Nothing was said at all.
        """
        if not self.turns and self.system:
            self._extend("user", self.system)
            self.system = []
        if not self.turns:
            raise InvalidRequest(
                "'messages' must hold a text, an image or a document.", code="empty_messages", param="messages"
            )
        last = self.turns[-1]
        if last.role == "assistant" and last.blocks[-1]["type"] == "text":
            text = last.blocks[-1]["text"]
            if isinstance(text, msgspec.Raw):
                said = read(text, STRING, "messages.content")
                last.blocks[-1]["text"] = said.rstrip() or said

    def may_think_by_budget(self) -> bool:
        """Whether the last assistant turn begins with its thinking, or calls no tool."""
        turn = next((turn for turn in reversed(self.turns) if turn.role == "assistant"), None)
        if turn is None or all(block["type"] != "tool_use" for block in turn.blocks):
            return True
        return _is_thinking(turn.blocks[0])

    def _content(self, message: JsonObject) -> list[Block]:
        return content_blocks(message.get("content", msgspec.Raw()), self._dropped)

    def _extend(self, role: str, blocks: list[Block]) -> None:
        if not blocks:
            return
        if not self.turns or self.turns[-1].role != role:
            self.turns.append(Turn(role))
        self.turns[-1].blocks.extend(blocks)

    def _add_system(self, message: JsonObject) -> None:
        blocks = self._content(message)
        if any(block["type"] != "text" for block in blocks):
            raise invalid("messages.content", "of a system message must be text")
        self.system.extend(_marked(blocks, message))

    def _add_assistant(self, message: JsonObject) -> None:
        blocks = self._thinking(message)
        if not blocks:
            self._note_unless_empty(message, "reasoning_content")
        self._note_unless_empty(message, "annotations")
        self._note_unless_empty(message, "citations")
        said = self._content(message)
        refusal = given(message, "refusal")
        if not said and refusal is not None:
            said = content_blocks(refusal, self._dropped)
        calls = self._calls(message)
        self._extend("assistant", [*blocks, *_marked([*said, *calls], message)])

    def _note_unless_empty(self, message: JsonObject, name: str) -> None:
        value = given(message, name)
        if value is not None and len(value) > 2:  # longer than "", [] and {}
            self._dropped.note(f"messages.{name}")

    def _thinking(self, message: JsonObject) -> list[Block]:
        """Return the thinking blocks as they came; one without its signature would be refused."""
        value = given(message, "thinking_blocks")
        blocks: list[Block] = []
        for item in read(value, ITEMS, "messages.thinking_blocks") if value is not None else ():
            block = read(item, OBJECT, "messages.thinking_blocks")
            kind = given(block, "type")
            proof = "data" if kind is not None and bytes(kind) == b'"redacted_thinking"' else "signature"
            if kind is None or given(block, proof) is None or not is_string(block[proof]) or len(block[proof]) == 2:
                self._dropped.note("messages.thinking_blocks")
                continue
            blocks.append({**block, "type": read(kind, STRING, "messages.thinking_blocks.type")})
        return blocks

    def _calls(self, message: JsonObject) -> list[Block]:
        calls: list[Block] = []
        tool_calls = given(message, "tool_calls")
        for call in read(tool_calls, OBJECTS, "messages.tool_calls") if tool_calls is not None else ():
            identity = given(call, "id")
            if identity is None:
                raise invalid("messages.tool_calls.id", "is required", code="missing_field")
            call_id = _clean_id(read(identity, STRING, "messages.tool_calls.id"))
            self._dropped.note_others(
                call, {"id", "type", "index", "function", "custom", "cache_control"}, "messages.tool_calls."
            )
            calls.append(mark(self._call(call, call_id), call))
        function = given(message, "function_call")
        if function is not None:
            self._calls_without_id += 1
            fields = read(function, OBJECT, "messages.function_call")
            calls.append(self._tool_use(fields, f"function_call_{self._calls_without_id}", "messages.function_call"))
        return calls

    def _call(self, call: JsonObject, call_id: str) -> Block:
        custom = given(call, "custom")
        if custom is None:
            path = "messages.tool_calls.function"
            return self._tool_use(read(required(call, "function", path), OBJECT, path), call_id, path)
        path = "messages.tool_calls.custom"
        fields = read(custom, OBJECT, path)
        name = read(required(fields, "name", f"{path}.name"), STRING, f"{path}.name")
        self.tool_names[name] = None
        return {"type": "tool_use", "id": call_id, "name": name, "input": {"input": given(fields, "input") or ""}}

    def _tool_use(self, function: JsonObject, call_id: str, path: str) -> Block:
        name = read(required(function, "name", f"{path}.name"), STRING, f"{path}.name")
        self.tool_names[name] = None
        return {"type": "tool_use", "id": call_id, "name": name, "input": _arguments(function, f"{path}.arguments")}

    def _add_result(self, message: JsonObject, kind: str) -> None:
        if kind == "tool":
            path = "messages.tool_call_id"
            call_id = _clean_id(read(required(message, "tool_call_id", path), STRING, path))
        else:
            call_id = f"function_call_{self._calls_without_id}"
        result: Block = {"type": "tool_result", "tool_use_id": call_id}
        blocks = self._content(message)
        if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
            result["content"] = blocks[0]["text"]
        elif blocks:
            result["content"] = blocks
        if not self.turns or self.turns[-1].role != "user":
            self.turns.append(Turn("user"))
        self.turns[-1].results.append(mark(result, message))


def _marked(blocks: list[Block], message: JsonObject) -> list[Block]:
    """Put a message's own cache mark on its last block."""
    if blocks:
        mark(blocks[-1], message)
    return blocks


def _is_thinking(block: Block) -> bool:
    return block["type"] in ("thinking", "redacted_thinking")


def _clean_id(call_id: str) -> str:
    """Return an id that Anthropic takes; the same one for a call and its result."""
    return _NOT_IN_IDS.sub("_", call_id) or "_"


def _arguments(function: JsonObject, path: str) -> msgspec.Raw:
    """Return a call's arguments, JSON in a string, as an object; others are put into one, as in answers the other way.

    OpenAI takes any text, and clients send a call that was cut back with what was wrong with it.
    """
    arguments = given(function, "arguments")
    text = read(arguments, STRING, path) if arguments is not None else ""
    if text.strip() in ("", "null"):  # how some servers write a call without arguments
        return raw({})
    try:
        msgspec.json.decode(text.encode(), type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return raw({"_arguments": text})
    return msgspec.Raw(text.strip().encode())
