"""What every guard is told about a token: its stem and which guards want to look at it.

Owns the map from guards to flags. Read `read_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType

from penstock_cache.guards.antonyms import has_sides
from penstock_cache.guards.dates import TRIGGERS as DATE_WORDS
from penstock_cache.guards.entities import TRIGGERS as NAME_WORDS
from penstock_cache.guards.formats import TRIGGERS as FORMAT_WORDS
from penstock_cache.guards.language import ENGLISH_STOPWORDS
from penstock_cache.guards.language import TRIGGERS as FOREIGN_WORDS
from penstock_cache.guards.modality import TRIGGERS as MODAL_WORDS
from penstock_cache.guards.negation import TRIGGERS as NEGATION_WORDS
from penstock_cache.guards.numbers import TRIGGERS as NUMBER_WORDS
from penstock_cache.guards.order import TRIGGERS as PIVOT_WORDS
from penstock_cache.guards.quantifiers import TRIGGERS as QUANTITY_WORDS
from penstock_cache.guards.stems import stem_of
from penstock_cache.guards.tokens import (
    ANTONYM,
    CAMEL,
    CAPITAL,
    CONTENT,
    DATE,
    DIGIT,
    FOREIGN,
    FORMAT,
    MARK,
    MODAL,
    NEGATION,
    NUMBER,
    PIVOT,
    PLACE,
    QUANTITY,
    STOP,
    UNIT,
    Token,
)
from penstock_cache.guards.units import TRIGGERS as UNIT_WORDS

_REMEMBERED_TOKENS = 32_768  # about 10 MB; a prompt's words are almost always among the last as many
_LONGEST_REMEMBERED = 40  # characters

_FLAG_BY_WORDS: Mapping[int, frozenset[str]] = MappingProxyType(
    {
        STOP: ENGLISH_STOPWORDS,
        NUMBER: NUMBER_WORDS,
        UNIT: UNIT_WORDS,
        DATE: DATE_WORDS,
        NEGATION: NEGATION_WORDS,
        MODAL: MODAL_WORDS,
        PLACE: NAME_WORDS,
        PIVOT: PIVOT_WORDS,
        QUANTITY: QUANTITY_WORDS,
        FORMAT: FORMAT_WORDS,
        FOREIGN: FOREIGN_WORDS,
    }
)


def read_tokens(found: list[str]) -> list[Token]:
    """Read the tokens that `tokens.tokenise` has found.

    Notes
    -----
    Pure: what is remembered changes the time only. A very long token is read anew, so the memory stays bounded.
    """
    is_ordinary = max(map(len, found), default=0) <= _LONGEST_REMEMBERED
    return list(map(_remembered if is_ordinary else _read, found))


def _read(raw: str) -> Token:
    low = raw.lower()
    if low.endswith("'s") and low not in ENGLISH_STOPWORDS and len(low) > 2:
        low = low[:-2]
    flags = sum(flag for flag, words in _FLAG_BY_WORDS.items() if low in words)
    if raw[0].isdecimal():
        return Token(raw, low, low, flags | NUMBER | DIGIT | CONTENT)
    if not raw[0].isalpha():
        return Token(raw, low, low, flags | MARK)
    if has_sides(low):
        flags |= ANTONYM
    if raw[0].isupper():
        flags |= CAPITAL
    if not raw.islower() and any(one.islower() and two.isupper() for one, two in pairwise(raw)):
        flags |= CAMEL
    if not flags & (STOP | NEGATION) and (len(low) > 1 or not low.isascii()):
        flags |= CONTENT
    return Token(raw, low, stem_of(low), flags)


_remembered = lru_cache(maxsize=_REMEMBERED_TOKENS)(_read)
