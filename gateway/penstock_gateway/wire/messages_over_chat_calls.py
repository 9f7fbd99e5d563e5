"""The tool calls of a stream of chat chunks: which call a piece belongs to, and whether it is whole.

Owns the habits of servers: calls without index or id, all under one index, or repeated. Pure. Read `Calls.take`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from penstock_gateway.wire.call_arguments import ArgumentsReader
from penstock_gateway.wire.messages_over_chat_reply import arguments_of, call_id, name_of
from penstock_gateway.wire.translation import Asked


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
    """

    def __init__(self, piece: dict[str, Any], place: int, asked: Asked) -> None:
        self.own_id = _own_id(piece)
        self.id = call_id(piece, place, asked)
        self.name = ""
        self.arguments: list[str] = []
        self.is_sent = False
        self._reader = ArgumentsReader()

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are a whole object: what comes after them is left out."""
        return self._reader.is_whole

    def add(self, piece: dict[str, Any]) -> str:
        """Take the next piece of the call and return what it adds to the arguments."""
        self.name = self.name or name_of(piece)
        added = arguments_of(piece)
        if not added or self.is_whole:
            return ""
        added = added[: self._reader.end_in(added)]
        self.arguments.append(added)
        return added


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
