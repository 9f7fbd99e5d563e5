"""Where the arguments of a tool call end, told while they come in pieces.

For servers that do not say which call a piece belongs to. Pure. Read `ArgumentsReader.end_in`.
"""

from __future__ import annotations

import re

_MARKS = re.compile(r"""\\.|["{}\[\]]""", re.DOTALL)


class ArgumentsReader:
    """Follows the arguments of one call until they are a whole object.

    Attributes
    ----------
    is_whole : bool
        They are a whole object: what comes after them is not theirs.

    Notes
    -----
    Brackets are counted over the pieces, so that the time is linear in the length of all.
    """

    def __init__(self) -> None:
        self.is_whole = False
        self._depth = 0
        self._is_text = False
        self._is_escape = False
        self._is_object = True

    def end_in(self, text: str) -> int:
        """Take the next piece and return where the arguments end in it: its own end unless the object closes there."""
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
