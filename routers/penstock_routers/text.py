"""Text windows: the part of a prompt that an encoder or a feature may look at.

Owns `TextWindow` and `window`. Cutting happens before tokenising, because the tokenizer's time grows with the text
even when it truncates afterwards (1.5 ms for 1,000 words, measured). Knows nothing of tokens or models. Read `window`
first.
"""

from __future__ import annotations

import msgspec

# Between head and tail, so that the two words at the cut do not melt into one.
CUT_MARK = "\n"


class TextWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many characters are kept at the two ends of a long text.

    Attributes
    ----------
    head_characters, tail_characters : int
        Code points (``len`` of a ``str``) kept from the start and from the end; >= 0, not both 0. A code point takes
        1 to 4 bytes in UTF-8, so the windows of 4,096 characters hold 4 kB of English and at most 16 kB of anything.
    """

    head_characters: int
    tail_characters: int

    def __post_init__(self) -> None:
        """Refuse negative sizes and an empty window."""
        if self.head_characters < 0 or self.tail_characters < 0 or self.total_characters == 0:
            raise ValueError("a text window needs sizes >= 0 and at least one character")

    @property
    def total_characters(self) -> int:
        """Characters kept at most, without the cut mark."""
        return self.head_characters + self.tail_characters


def window(text: str, text_window: TextWindow) -> str:
    r"""Cut a long text to its head and its tail.

    Parameters
    ----------
    text : str
        Any length, any Unicode; lone surrogates are allowed (see `repaired`).
    text_window : TextWindow

    Returns
    -------
    str
        `text` itself when it fits into both windows together, otherwise head, a line break, tail. Sizes are counted
        in code points, so a cut never falls inside a UTF-8 sequence; it may fall inside a word or a grapheme.

    Notes
    -----
    O(head + tail), whatever the length of `text`.

    Examples
    --------
    >>> window("abcdefgh", TextWindow(2, 3))
    'ab\nfgh'
    """
    if len(text) <= text_window.total_characters:
        return text
    tail = text[len(text) - text_window.tail_characters :]
    return text[: text_window.head_characters] + CUT_MARK + tail


def repaired(text: str) -> str:
    r"""Replace lone surrogates, which JSON allows (``"\ud800"``) and UTF-8 does not.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
        The same text with every lone surrogate replaced by U+FFFD; everything else is kept.

    Examples
    --------
    >>> repaired("a\ud800b") == "a\ufffdb"
    True
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
