"""The messages of a chat request, as far as routing looks at them.

Owns what is read out of them: the last user turn, what stands around it, attachments, how a conversation begins. Read
`last_user_text`, then `context_of`. No I/O.
"""

from __future__ import annotations

from itertools import takewhile

import msgspec

from penstock_gateway.deployments import Ability
from penstock_gateway.upstream.protocol import JsonObject
from penstock_routers.features import PromptContext

_OPENING_CHARACTERS = 1024  # of each of the two texts; enough to tell conversations apart, too little to be slow
_TOOL_FIELDS = ("tools", "functions")
_SYSTEM_ROLES = frozenset({"system", "developer"})
_RESULT_ROLES = frozenset({"tool", "function"})
_EMPTY_BYTES = len(b"null")  # and less: an empty list

_ATTACHMENT_ABILITIES = {
    "image_url": Ability.VISION,
    "image": Ability.VISION,
    "input_image": Ability.VISION,
    "input_audio": Ability.AUDIO,
    "audio": Ability.AUDIO,
    "file": Ability.DOCUMENTS,
    "document": Ability.DOCUMENTS,
    "input_file": Ability.DOCUMENTS,
}


class _Part(msgspec.Struct):
    type: str = "text"
    text: str | None = None


class Message(msgspec.Struct):
    """One message, without what routing does not look at."""

    role: str
    content: str | list[_Part | str] | None = None
    thinking_blocks: msgspec.Raw = msgspec.Raw()
    reasoning_items: msgspec.Raw = msgspec.Raw()
    tool_calls: msgspec.Raw = msgspec.Raw()
    function_call: msgspec.Raw = msgspec.Raw()

    @property
    def is_bound(self) -> bool:
        """Whether it holds what only the model that made it can read: signed thinking, encrypted reasoning."""
        return len(self.thinking_blocks) > _EMPTY_BYTES or len(self.reasoning_items) > _EMPTY_BYTES


def survey(messages: list[Message]) -> tuple[int, int, set[Ability]]:
    """Return the text's bytes, the number of attachments, and the abilities they need."""
    text_bytes = attachments = 0
    needs: set[Ability] = set()
    for message in messages:
        text_bytes += len(message.tool_calls) + len(message.function_call)  # the prompt repeats them
        content = message.content
        for part in (content,) if isinstance(content, str) else content or ():
            if isinstance(part, str):
                text_bytes += len(part.encode())
            elif part.type in _ATTACHMENT_ABILITIES:
                attachments += 1
                needs.add(_ATTACHMENT_ABILITIES[part.type])
            elif part.text:
                text_bytes += len(part.text.encode())
    return text_bytes, attachments, needs


def is_agent_step(messages: list[Message]) -> bool:
    """Whether a tool's result came after the last answer; agents put reminders and pictures behind it."""
    after = takewhile(lambda message: message.role != "assistant", reversed(messages))
    return any(message.role in _RESULT_ROLES for message in after)


def last_user_text(messages: list[Message]) -> str:
    """Return the text of the last user turn; empty when there is none."""
    return next((_text_of(message) for message in reversed(messages) if message.role == "user"), "")


def _text_of(message: Message) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    texts = (part if isinstance(part, str) else part.text or "" for part in content or ())
    return "\n".join(text for text in texts if text)


def opening_of(messages: list[Message]) -> str:
    """Return the beginnings of the system prompt, if one comes first, and of the first user message."""
    first = messages[0]
    head = _text_of(first)[:_OPENING_CHARACTERS]
    if first.role == "user":
        return head
    asked = next((_text_of(message)[:_OPENING_CHARACTERS] for message in messages if message.role == "user"), "")
    return f"{head}\0{asked}"


def context_of(messages: list[Message], fields: JsonObject) -> PromptContext:
    """Return what stands around the last user turn: instructions, tools, earlier turns."""
    system_bytes = turns = 0
    for message in messages:
        if message.role == "user":
            turns += 1
        elif message.role in _SYSTEM_ROLES:
            system_bytes += len(_text_of(message).encode())
    return PromptContext(system_bytes, sum([_length_of(fields.get(name)) for name in _TOOL_FIELDS]), max(turns - 1, 0))


def _length_of(tools: msgspec.Raw | None) -> int:
    """Return how many tools there are; 0 for what is no list, which is for others to refuse."""
    if tools is None:
        return 0
    try:
        return len(_list_decoder.decode(tools))
    except (msgspec.DecodeError, RecursionError):
        return 0


messages_decoder = msgspec.json.Decoder(list[Message])
_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])
