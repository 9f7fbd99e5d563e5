"""The tool calls of a stream of chat chunks: which call a piece belongs to, and whether it is whole.

Owns the habits of servers: calls without index or id, all under one index, or repeated. Pure. Read `Calls.take`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from penstock_gateway.wire.messages_over_chat_reply import arguments_of, call_id, name_of
from penstock_gateway.wire.translation import Asked

_MARKS = re.compile(r"""\\.|["{}\[\]]""", re.DOTALL)


class Call:
    """A tool call as far as it has come.

    Attributes
    ----------
    own_id : str
        As the server gave it; empty when it gave none.
    id : str
        As the client sees it.
    name : str
        Empty as long as it has not come.
    arguments : list of str
        In pieces.
    is_sent : bool
        Its block has begun.
    is_whole : bool
        The arguments are a whole object: what comes after them is left out.
    """

    def __init__(self, piece: dict[str, Any], place: int, asked: Asked) -> None:
        self.own_id = _own_id(piece)
        self.id = call_id(piece, place, asked)
        self.name = ""
        self.arguments: list[str] = []
        self.is_sent = False
        self.is_whole = False
        self._depth = 0
        self._is_text = False
        self._is_escape = False
        self._is_object = True

    def add(self, piece: dict[str, Any]) -> str:
        """Take the next piece of the call and return what it adds to the arguments."""
        self.name = self.name or name_of(piece)
        added = arguments_of(piece)
        if not added or self.is_whole:
            return ""
        added = added[: self._end(added)]
        self.arguments.append(added)
        return added

    def _end(self, text: str) -> int:
        """Return where the arguments end in a piece: its own end unless the object is closed in it.

        Brackets are counted over the pieces, so that the time is linear in the length of all.
        """
        if self._depth == 0 and self._is_object:
            begin = text.lstrip()
            self._is_object = not begin or begin.startswith("{")
        if not self._is_object:
            return len(text)
        position = 1 if self._is_escape else 0
        self._is_escape = False
        while (mark := _MARKS.search(text, position)) is not None:
            position = mark.end()
            sign = mark[0]
            if sign == '"':
                self._is_text = not self._is_text
            elif not self._is_text and len(sign) == 1:
                self._depth += 1 if sign in "{[" else -1
                if self._depth == 0:
                    self.is_whole = True
                    return position
        self._is_escape = text.endswith("\\", position)  # it escapes what the next piece begins with
        return len(text)


class Calls:
    """All calls of one stream, in the order of their beginnings.

    Parameters
    ----------
    asked : Asked
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._all: list[Call] = []
        self._by_index: dict[int, Call] = {}

    def __iter__(self) -> Iterator[Call]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def take(self, piece: dict[str, Any]) -> Call:
        """Return the call that a piece belongs to; a new one is begun when it is none's.

        Notes
        -----
        By its index, as OpenAI does. Gemini's compatible API gives all calls of an answer the index 0, so a piece that
        names a function under another id begins a call of its own; old vLLM gives each piece an id of its own, but
        the name once. Without an index, a piece goes on with the last call unless it has another id.
        """
        index = piece.get("index")
        own = _own_id(piece)
        if isinstance(index, int):
            call = self._by_index.get(index)
        else:
            call = self._all[-1] if self._all else None
            call = None if call is not None and own and own != call.own_id else call
        if call is None or _is_another(call, piece):
            place = len(self._all)
            call = Call(piece, place, self._asked)
            self._all.append(call)
            self._by_index[index if isinstance(index, int) else place] = call
        return call


def _own_id(piece: dict[str, Any]) -> str:
    own = piece.get("id")
    return own if isinstance(own, str) else ""


def _is_another(call: Call, piece: dict[str, Any]) -> bool:
    own = _own_id(piece)
    if not name_of(piece):
        return False
    if own and call.own_id:
        return own != call.own_id
    return call.is_whole and not own and bool(arguments_of(piece).strip())
