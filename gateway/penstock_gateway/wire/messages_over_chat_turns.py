"""From the turns of a Messages request to the messages of a chat request.

Owns who says what; single blocks are `messages_over_chat_parts`'s. Text, image data and the inputs of tools stay the
client's own bytes where both formats write them alike. Pure. Read `chat_messages`.

Wire rules: platform.claude.com/docs/en/api/messages and /docs/en/agents-and-tools/tool-use/handle-tool-calls;
platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

from typing import Final

import msgspec

from penstock_gateway.request_body import raw
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.extensions import is_unsigned
from penstock_gateway.wire.messages_over_chat_parts import (
    PARTS,
    PATH,
    Part,
    is_text,
    joined,
    kind_of,
    marked,
    parts_of,
    text_part,
)
from penstock_gateway.wire.raw_fields import (
    ITEMS,
    OBJECT,
    STRING,
    Dropped,
    given,
    invalid,
    is_string,
    read,
    required,
)
from penstock_gateway.wire.translation import NOT_TRANSLATABLE

_ROLES: Final = frozenset({"user", "assistant", "system"})
_THINKING: Final = frozenset({"thinking", "redacted_thinking"})
_NO_INPUT = raw("{}")


def chat_messages(messages: msgspec.Raw, dropped: Dropped) -> list[Part]:
    """Return the chat messages of a conversation.

    Parameters
    ----------
    messages : msgspec.Raw
        Value of ``messages``.
    dropped : Dropped

    Returns
    -------
    list of dict
        Results of tools become messages of their own, before the rest of their turn.

    Raises
    ------
    InvalidRequest
        A turn, a block or one of their fields is missing or of another type; `NOT_TRANSLATABLE` for what a provider of
        Anthropic's format keeps.
    """
    found: list[Part] = []
    for item in read(messages, ITEMS, "messages"):
        message = read(item, OBJECT, "messages")
        role = read(required(message, "role", "messages.role"), STRING, "messages.role")
        if role not in _ROLES:
            raise invalid("messages.role", f"is '{role[:40]}', which this provider cannot take", code=NOT_TRANSLATABLE)
        content = required(message, "content", PATH)
        dropped.note_others(message, {"role", "content"}, "messages.")
        if is_string(content):
            found.append({"role": role, "content": content})
            continue
        blocks = [read(block, OBJECT, PATH) for block in read(content, ITEMS, PATH)]
        if role == "assistant":
            found.append(_assistant(blocks, dropped))
        else:
            found += _user(role, blocks, dropped)
    return found


def text_content(content: msgspec.Raw, path: str, dropped: Dropped) -> object:
    """Return a string, or text blocks, as the content of a chat message.

    Raises
    ------
    InvalidRequest
        A block that is no text.
    """
    if is_string(content):
        return content
    parts = []
    for item in read(content, ITEMS, path):
        block = read(item, OBJECT, path)
        if (kind := kind_of(block, path)) != "text":
            raise invalid(f"{path}.type", f"must be text, not '{kind[:40]}'")
        parts.append(text_part(block, path, dropped))
    return joined(parts)


def _assistant(blocks: list[JsonObject], dropped: Dropped) -> Part:
    parts: list[Part] = []
    calls: list[Part] = []
    thinking: list[JsonObject] = []
    thoughts: list[str] = []
    for block in blocks:
        kind = kind_of(block, PATH)
        if kind == "text":
            parts.append(text_part(block, PATH, dropped))
        elif kind == "tool_use":
            calls.append(_call(block, dropped))
        elif kind in _THINKING:
            thoughts.append(_thought(block))
            if not is_unsigned(block):  # it was made of a chat provider's reasoning, and binds to no model
                thinking.append(block)
        elif kind == "compaction":  # the provider's summary of what the client may have left out before it
            parts += _summary(block, dropped)
        else:  # what the provider's own tools did is told by the text that follows
            dropped.note(f"{PATH}.{kind[:40]}")
    message: Part = {"role": "assistant", "content": joined(parts) if parts else None}
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if thinking:
        message["thinking_blocks"] = thinking
    if calls:
        message["tool_calls"] = calls
    elif message["content"] is None:
        message["content"] = ""
    return message


def _summary(block: JsonObject, dropped: Dropped) -> list[Part]:
    text = given(block, "content")
    dropped.note_others(block, {"type", "content", "cache_control"}, f"{PATH}.")
    if text is None:  # it failed, and the turns before it are all there
        return []
    read(text, STRING, PATH)
    return [marked({"type": "text", "text": text}, block)]


def _thought(block: JsonObject) -> str:
    text = given(block, "thinking")
    return "" if text is None else read(text, STRING, f"{PATH}.thinking")


def _call(block: JsonObject, dropped: Dropped) -> Part:
    path = f"{PATH}.tool_use"
    call_id, name = required(block, "id", f"{path}.id"), required(block, "name", f"{path}.name")
    for field, value in (("id", call_id), ("name", name)):
        read(value, STRING, f"{path}.{field}")
    given_input = given(block, "input")
    if given_input is not None:
        read(given_input, OBJECT, f"{path}.input")
    dropped.note_others(block, {"type", "id", "name", "input", "cache_control", "caller"}, f"{PATH}.")
    arguments = _NO_INPUT if given_input is None else raw(bytes(given_input).decode())
    return marked({"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}, block)


def _user(role: str, blocks: list[JsonObject], dropped: Dropped) -> list[Part]:
    results: list[Part] = []
    parts: list[Part] = []
    for block in blocks:
        kind = kind_of(block, PATH)
        if kind == "tool_result":
            results.append(_result(block, parts, dropped))
        elif kind in PARTS:
            parts += parts_of(kind, block, dropped)
        else:
            raise invalid(f"{PATH}.type", f"is '{kind[:40]}', which this provider cannot take", code=NOT_TRANSLATABLE)
    if parts or not results:
        results.append({"role": role, "content": joined(parts)})
    return results


def _result(block: JsonObject, parts: list[Part], dropped: Dropped) -> Part:
    """Return a tool message; pictures and documents, which it cannot hold, follow in the user's own message."""
    path = f"{PATH}.tool_result"
    call_id = required(block, "tool_use_id", f"{path}.tool_use_id")
    read(call_id, STRING, f"{path}.tool_use_id")
    dropped.note_others(block, {"type", "tool_use_id", "content", "is_error", "cache_control"}, f"{PATH}.")
    if (failed := given(block, "is_error")) is not None and bytes(failed) != b"false":
        dropped.note(f"{PATH}.is_error")
    message: Part = {"role": "tool", "tool_call_id": call_id, "content": raw("")}
    content = given(block, "content")
    if content is None:
        return marked(message, block)
    if is_string(content):
        return marked({**message, "content": content}, block)
    texts: list[Part] = []
    for item in read(content, ITEMS, path):
        inner = read(item, OBJECT, path)
        kind = kind_of(inner, path)
        if kind not in PARTS:
            dropped.note(f"{PATH}.{kind[:40]}")
            continue
        for part in parts_of(kind, inner, dropped):
            (texts if is_text(part) else parts).append(part)
    return marked({**message, "content": joined(texts)}, block)
