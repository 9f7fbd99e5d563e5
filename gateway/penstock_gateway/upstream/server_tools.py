"""Which tools a provider ran itself, as far as they are billed beside the tokens.

Owns the names under which the wire formats tell of them. Calls of tools that the client runs are no business of this
file, nor are tools of the provider that cost their tokens only. Read `ServerTools`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec.structs import replace

from penstock_gateway.money.usage import Usage

# Messages: platform.claude.com/docs, "Server tools"; fetching and looking tools up cost the tokens that they bring.
_BY_TOKENS: Final = frozenset({"web_fetch", "tool_search_tool_regex", "tool_search_tool_bm25", "advisor"})
# Responses: platform.openai.com/docs/pricing, "Built-in tools"; a shell's output is the provider's where it ran it.
_BILLED_ITEMS: Final = frozenset(
    {"file_search_call", "code_interpreter_call", "image_generation_call", "shell_call_output"}
)
_MARK: Final = b'"server_tool_use"'
_CITATION: Final = b'"url_citation"'


class ServerTools:
    """Counts the calls in one answer.

    Attributes
    ----------
    searches : int
        Searches of the web.
    others : int
        Calls of other tools that are billed beside the tokens: code, files, pictures.
    """

    __slots__ = ("others", "searches")

    def __init__(self) -> None:
        self.searches = 0
        self.others = 0

    def note_block(self, kind: object, name: msgspec.Raw) -> None:
        """Note a content block of the Messages API."""
        if kind != "server_tool_use":
            return
        tool = bytes(name).strip(b'"').decode("utf-8", "replace")
        if tool == "web_search":
            self.searches += 1
        elif tool not in _BY_TOKENS:
            self.others += 1

    def note_item(self, kind: object, action: object) -> None:
        """Note an output item of the Responses API: of what a search does, opening and reading pages is free."""
        if kind == "web_search_call":
            self.searches += not isinstance(action, dict) or action.get("type") in (None, "search")
        elif isinstance(kind, str) and kind in _BILLED_ITEMS:
            self.others += 1

    def added_to(self, usage: Usage | None) -> Usage | None:
        """Return a usage with the calls that the provider's own counts leave out."""
        if usage is None or not (self.searches or self.others):
            return usage
        return replace(
            usage,
            web_searches=max(usage.web_searches, self.searches),
            other_tool_calls=max(usage.other_tool_calls, self.others),
        )


def cites_pages(part: bytes | msgspec.Raw) -> bool:
    """Whether a chat reply, or its annotations, cites pages of the web; a text that quotes the word has it escaped."""
    return _CITATION in bytes(part)


def searched_at_least_once(usage: Usage | None) -> Usage | None:
    """Return the usage of a chat model that cites pages: OpenAI's search once for an answer, and do not count it."""
    if usage is None or usage.web_searches:
        return usage
    return replace(usage, web_searches=1)


class _Call(msgspec.Struct):
    type: Any = None
    name: msgspec.Raw = msgspec.Raw()
    action: Any = None


_CALLS: Final = msgspec.json.Decoder(list[_Call])


def tools_in_content(content: msgspec.Raw) -> ServerTools:
    """Return the calls in the content of a complete message; free of charge for one that has none."""
    found = ServerTools()
    for call in _calls(content) if _MARK in bytes(content) else ():
        found.note_block(call.type, call.name)
    return found


def tools_in_output(output: msgspec.Raw) -> ServerTools:
    """Return the calls in the output of a complete response."""
    found = ServerTools()
    for call in _calls(output) if b"_call" in bytes(output) else ():
        found.note_item(call.type, call.action)
    return found


def _calls(parts: msgspec.Raw) -> list[_Call]:
    try:
        return _CALLS.decode(parts)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return []
