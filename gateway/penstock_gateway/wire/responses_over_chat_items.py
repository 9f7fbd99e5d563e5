"""From the input items of a Responses request to chat messages.

Owns which items are one assistant message, and where results of calls stand: the Responses API takes them in any
order, chat providers only right after the message that made the calls. Pure. Read `Dialogue.add`.

Wire rules: platform.openai.com/docs/api-reference/responses/create (``input``), /docs/guides/migrate-to-responses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.raw_fields import (
    OBJECTS,
    STRING,
    Dropped,
    given,
    invalid,
    is_string,
    read,
    required,
)
from penstock_gateway.wire.responses_over_chat_parts import Part, content_of, joined, parts_of, said_by_assistant
from penstock_gateway.wire.responses_over_chat_reasoning import OWN_REASONING_ID, open_thinking
from penstock_gateway.wire.translation import NOT_TRANSLATABLE

Message = dict[str, object]
"""A chat message; its values may be raw JSON."""

_ROLES: Final = frozenset({"user", "assistant", "system", "developer"})
_PARAGRAPH: Final = b"\\n\\n"
# Records of a provider's own tools: the answer that follows tells what came of them.
_RECORDS: Final = frozenset({"web_search_call", "file_search_call", "mcp_list_tools"})
_OF_MESSAGES: Final = frozenset({"type", "id", "status", "role", "content"})
_OF_CALLS: Final = frozenset({"type", "id", "status", "call_id", "name", "arguments"})
_OF_CUSTOM_CALLS: Final = frozenset({"type", "id", "status", "call_id", "name", "input"})
_OF_RESULTS: Final = frozenset({"type", "id", "status", "call_id", "output"})
_OF_REASONING: Final = frozenset({"type", "id", "status", "summary", "content", "encrypted_content"})

_encode = msgspec.json.Encoder().encode


class _Reasoning:
    """What reasoning items say, for the answer that follows them."""

    def __init__(self) -> None:
        self.items: list[JsonObject] = []
        self.texts: list[str] = []
        self.thinking: list[dict[str, object]] = []

    def __bool__(self) -> bool:
        return bool(self.items or self.texts or self.thinking)

    def take(self, other: _Reasoning) -> None:
        """Add what another one holds."""
        self.items += other.items
        self.texts += other.texts
        self.thinking += other.thinking


class _Turn:
    """An assistant message, the results of its calls, and what those results show besides text."""

    def __init__(self) -> None:
        self.texts: list[msgspec.Raw] = []
        self.refusals: list[msgspec.Raw] = []
        self.calls: list[Message] = []
        self.reasoning = _Reasoning()
        self.results: list[Message] = []
        self.shown: list[Part] = []

    def messages(self) -> list[Message]:
        """Return it as chat messages."""
        content = joined(self.texts, _PARAGRAPH) if self.texts else None
        message: Message = {"role": "assistant", "content": content}
        if content is None and not self.calls and not self.refusals:
            message["content"] = ""
        if self.refusals:
            message["refusal"] = joined(self.refusals, _PARAGRAPH)
        if self.reasoning.texts:
            message["reasoning_content"] = "\n\n".join(self.reasoning.texts)
        if self.reasoning.thinking:
            message["thinking_blocks"] = self.reasoning.thinking
        if self.reasoning.items:
            message["reasoning_items"] = self.reasoning.items
        if self.calls:
            message["tool_calls"] = self.calls
        shown: list[Message] = [{"role": "user", "content": self.shown}] if self.shown else []
        return [message, *self.results, *shown]


class Dialogue:
    """The conversation, item by item.

    Parameters
    ----------
    dropped : Dropped

    Notes
    -----
    - Calls are added to the assistant message before them; text that comes between calls and their results joins that
      message too, because a chat provider takes nothing else there.
    - Images and files in the result of a call follow in a user message: most chat providers take only text from tools.
    - A custom tool's input becomes the argument ``input`` of a function call.
    - Reasoning items are kept whole for the provider that made them, unless they were made here of a chat answer; see
      `responses_over_chat_reasoning`.
    """

    def __init__(self, dropped: Dropped) -> None:
        self._dropped = dropped
        self._said: list[Message | _Turn] = []
        self._callers: dict[str, _Turn] = {}
        self._reasoning = _Reasoning()
        self._readers: dict[str, Callable[[JsonObject], None]] = {
            "message": self._add_message,
            "function_call": self._add_call,
            "custom_tool_call": self._add_custom_call,
            "function_call_output": self._add_result,
            "custom_tool_call_output": self._add_result,
            "reasoning": self._add_reasoning,
        }

    def instruct(self, instructions: msgspec.Raw) -> None:
        """Add ``instructions``, which come first."""
        self._said.append({"role": "system", "content": instructions})

    def ask(self, text: msgspec.Raw) -> None:
        """Add an input that is a string."""
        self._said.append({"role": "user", "content": text})

    def add(self, item: JsonObject) -> None:
        """Take the next item.

        Raises
        ------
        InvalidRequest
            An item without what it needs; `NOT_TRANSLATABLE` for those of a kind that chat completions do not have.
        """
        given_kind = given(item, "type")
        if given_kind is None and given(item, "role") is None:
            raise InvalidRequest("'input.type' is required.", code="missing_field", param="input.type")
        kind = "message" if given_kind is None else read(given_kind, STRING, "input.type")
        reader = self._readers.get(kind)
        if reader is not None:
            reader(item)
        elif kind in _RECORDS:
            self._dropped.note(f"input.{kind}")
        elif kind == "item_reference":
            raise invalid(
                "input.type",
                "is 'item_reference', and this model's provider keeps no state: send the item itself",
                code=NOT_TRANSLATABLE,
            )
        else:
            raise invalid("input.type", f"is '{kind[:40]}', which chat completions do not have", code=NOT_TRANSLATABLE)

    def messages(self) -> list[Message]:
        """Return all that was said; reasoning that no answer follows is left out, and named."""
        open_turn = self._open_turn()
        if self._reasoning and open_turn is not None:
            open_turn.reasoning.take(self._reasoning)
            self._reasoning = _Reasoning()
        self._forget_reasoning()
        return [message for one in self._said for message in (one.messages() if isinstance(one, _Turn) else (one,))]

    def _open_turn(self) -> _Turn | None:
        """Return the assistant message that is being put together."""
        last = self._said[-1] if self._said else None
        return last if isinstance(last, _Turn) and not last.results else None

    def _turn(self, *, joins: bool) -> _Turn:
        """Return the assistant message that an item belongs to, with the reasoning before it."""
        turn = self._open_turn() if joins else None
        if turn is None:
            turn = _Turn()
            self._said.append(turn)
        turn.reasoning.take(self._reasoning)
        self._reasoning = _Reasoning()
        return turn

    def _forget_reasoning(self) -> None:
        if self._reasoning:
            self._dropped.note("input.reasoning")
            self._reasoning = _Reasoning()

    def _add_message(self, item: JsonObject) -> None:
        role = read(required(item, "role", "input.role"), STRING, "input.role")
        if role not in _ROLES:
            raise invalid("input.role", f"must be one of {', '.join(sorted(_ROLES))}, not '{role[:40]}'")
        content = required(item, "content", "input.content")
        if role != "assistant":
            self._dropped.note_others(item, _OF_MESSAGES, "input.")
            self._forget_reasoning()
            self._said.append({"role": role, "content": content_of(content, self._dropped, "input.content")})
            return
        self._dropped.note_others(item, _OF_MESSAGES, "input.")
        texts, refusals = said_by_assistant(content, self._dropped, "input.content")
        open_turn = self._open_turn()
        turn = self._turn(joins=open_turn is not None and bool(open_turn.calls))
        if texts:
            turn.texts.append(joined(texts))
        turn.refusals += refusals

    def _add_call(self, item: JsonObject) -> None:
        self._dropped.note_others(item, _OF_CALLS, "input.")
        self._call(item, _required_string(item, "arguments"))

    def _add_custom_call(self, item: JsonObject) -> None:
        self._dropped.note_others(item, _OF_CUSTOM_CALLS, "input.")
        text = _required_string(item, "input")
        self._call(item, msgspec.Raw(_encode(_encode({"input": text}).decode())))

    def _call(self, item: JsonObject, arguments: msgspec.Raw) -> None:
        call_id = _required_string(item, "call_id")
        name = _required_string(item, "name")
        turn = self._turn(joins=True)
        turn.calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}})
        self._callers[read(call_id, STRING, "input.call_id")] = turn

    def _add_result(self, item: JsonObject) -> None:
        self._dropped.note_others(item, _OF_RESULTS, "input.")
        call_id = _required_string(item, "call_id")
        output = required(item, "output", "input.output")
        shown: list[Part] = []
        content: object = output
        if not is_string(output):
            parts = parts_of(output, self._dropped, "input.output")
            texts = [part for part in parts if part["type"] == "text"]
            shown = [part for part in parts if part["type"] != "text"]
            content = texts[0]["text"] if len(texts) == 1 and texts[0].keys() == {"type", "text"} else texts or ""
        result: Message = {"role": "tool", "tool_call_id": call_id, "content": content}
        turn = self._callers.get(read(call_id, STRING, "input.call_id"))
        if turn is not None:
            turn.results.append(result)
            turn.shown += shown
            return
        self._forget_reasoning()
        self._said.append(result)
        if shown:
            self._said.append({"role": "user", "content": shown})

    def _add_reasoning(self, item: JsonObject) -> None:
        self._dropped.note_others(item, _OF_REASONING, "input.")
        texts = _texts(item, "content") or _texts(item, "summary")
        if texts:
            self._reasoning.texts.append("\n\n".join(texts))
        sealed = given(item, "encrypted_content")
        blocks = open_thinking(None if sealed is None else read(sealed, STRING, "input.encrypted_content"))
        if blocks is not None:
            self._reasoning.thinking += blocks
            return
        item_id = given(item, "id")
        is_own = item_id is not None and read(item_id, STRING, "input.id").startswith(OWN_REASONING_ID)
        if not is_own:
            self._reasoning.items.append(item)


def _required_string(item: JsonObject, name: str) -> msgspec.Raw:
    value = required(item, name, f"input.{name}")
    if not is_string(value):
        raise invalid(f"input.{name}", "must be a string", code="invalid_type")
    return value


def _texts(item: JsonObject, name: str) -> list[str]:
    """Return the texts of a reasoning item's ``summary`` or ``content``."""
    value = given(item, name)
    if value is None:
        return []
    path = f"input.{name}"
    parts = read(value, OBJECTS, path)
    texts = [read(required(part, "text", f"{path}.text"), STRING, f"{path}.text") for part in parts]
    return [text for text in texts if text]
