"""How a prompt is cut into tokens, and what every guard is told about one.

Owns the normal form of a text, the tokenising pattern, the flags and `Token`. Knows no word list: `readings` says
which flags a word gets. Read `tokenise` first.
"""

from __future__ import annotations

import re
import unicodedata
from types import MappingProxyType
from typing import NamedTuple

STOP = 1 << 0
NUMBER = 1 << 1
UNIT = 1 << 2
DATE = 1 << 3
NEGATION = 1 << 4
MODAL = 1 << 5
ANTONYM = 1 << 6
PLACE = 1 << 7
PIVOT = 1 << 8
QUANTITY = 1 << 9
FORMAT = 1 << 10
FOREIGN = 1 << 11
MARK = 1 << 12  # punctuation and other single symbols
CAPITAL = 1 << 13
CONTENT = 1 << 14
DIGIT = 1 << 15
CAMEL = 1 << 16  # a capital after a small letter


def listed(words: str) -> list[str]:
    """Cut a table of words apart."""
    return words.split()


class Token(NamedTuple):
    """One token with everything that can be known without its neighbours.

    Attributes
    ----------
    raw : str
        As written, after `normal_form`.
    low : str
        Lower case.
    stem : str
        Key under which its inflections and close synonyms meet; `low` for digits and marks.
    flags : int
        Bits above: which guards want to look at it.
    """

    raw: str
    low: str
    stem: str
    flags: int


_TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+(?:[.,:]\d+)*|\S")
# Scripts written without spaces: each sign is a token, or a whole sentence would be one word.
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_TOKEN_UNSPACED = re.compile(
    rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W\d_])+(?:'(?:(?![{_UNSPACED}])[^\W\d_])+)*|\d+(?:[.,:]\d+)*|\S"
)
_DOTTED_LETTERS = re.compile(r"\b[^\W\d_](?:\. ?[^\W\d_]\b){1,5}\.?(?!\w)")
_QUOTES = {ord(mark): "'" for mark in "\u2018\u2019\u02bc\u2032"} | {ord(mark): '"' for mark in "“”„«»"}
_MINUS = {ord(mark): "-" for mark in "\u2010\u2011\u2012\u2013\u2014\u2212"}
_POWERS = {ord("²"): "^2", ord("³"): "^3", ord("√"): " square root of "}
_TYPOGRAPHY = MappingProxyType({**_QUOTES, **_MINUS})
_BEFORE_FOLDING = MappingProxyType({**_POWERS, 0xB4: "'"})  # NFKC would make "x2" of "x²"


def normal_form(text: str) -> str:
    """Return a text with compatibility forms, quotes and dashes folded; letters keep their case.

    Notes
    -----
    NFKC makes full-width digits, ligatures and unit signs ordinary; letters with dots ("U.S.", "a. m.") are joined.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_BEFORE_FOLDING)).translate(_TYPOGRAPHY)
    if "." in text:
        text = _DOTTED_LETTERS.sub(_join_letters, text)
    return text


def _join_letters(found: re.Match[str]) -> str:
    letters = found.group().replace(".", "").replace(" ", "")
    return letters + " ." if letters.lower() in {"am", "pm"} and found.end() == len(found.string) else letters


def tokenise(text: str) -> list[str]:
    """Cut a normal-form text into words, numbers and single marks, in order; spaces are dropped.

    Notes
    -----
    Linear in the length of the text: no alternative of the pattern can match the same span in two ways.
    """
    if not text.isascii() and _HAS_UNSPACED.search(text):
        return _TOKEN_UNSPACED.findall(text)
    return _TOKEN.findall(text)
