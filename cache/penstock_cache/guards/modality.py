"""Modality and tense: may, can, should, must, did, will.

Owns the classes of auxiliary words. Politeness ("could you", "can you tell me") has none. Read `read_modality`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from penstock_cache.guards.tokens import MODAL, Token
from penstock_cache.guards.verdicts import ABSENT, AGREE, DIFFER, Verdict

_CLASSES = """
can: can can't cannot cant could couldn't couldnt able possible
may: may might allowed permitted legal illegal allow
should: should shouldn't shouldnt ought advisable recommended
must: must mustn't need needn't required mandatory obligatory necessary compulsory have_to has_to
past: did didn't didnt was wasn't wasnt were weren't had hadn't
future: will won't wont gonna shall going_to
would: would wouldn't wouldnt
safe: safe unsafe dangerous harmful
"""


def _class_table() -> Mapping[str, str]:
    table: dict[str, str] = {}
    for line in _CLASSES.strip().splitlines():
        name, words = line.split(": ")
        table |= dict.fromkeys(words.split(), name)
    return MappingProxyType(table)


_CLASS = _class_table()
TRIGGERS = frozenset(word for word in _CLASS if "_" not in word) | {"have", "has", "going"}
_POLITE_SUBJECTS = frozenset({"you", "u", "ya", "someone", "anyone", "anybody", "somebody"})
_POLITE = frozenset({"can", "could", "will", "would"})
# Pairs that are seldom two wordings of one request; "may I" and "can I" are, and so are "must I" and "should I".
_CONTRARY = frozenset(
    frozenset(pair)
    for pair in (
        ("past", "future"),
        ("can", "should"),
        ("can", "must"),
        ("may", "must"),
        ("past", "should"),
        ("past", "must"),
        ("past", "may"),
        ("safe", "may"),
    )
)
NO_MODALITY: frozenset[str] = frozenset()


def read_modality(tokens: Sequence[Token]) -> frozenset[str]:
    """Return the classes that occur, politeness left out."""
    found: set[str] = set()
    for index, token in enumerate(tokens):
        if not token.flags & MODAL:
            continue
        word = token.low
        after = tokens[index + 1].low if index + 1 < len(tokens) else ""
        if word in _POLITE and after in _POLITE_SUBJECTS:
            continue
        if word in {"have", "has", "going"}:
            word = f"{word}_{after}"
        name = _CLASS.get(word)
        if name:
            found.add(name)
    return frozenset(found)


def compare_modality(left: frozenset[str], right: frozenset[str]) -> Verdict:
    """Differ when the texts share no modality and have contrary ones."""
    if not left or not right:
        return ABSENT
    if left == right:
        return AGREE
    only_left, only_right = left - right, right - left
    contradicts = any(frozenset((one, other)) in _CONTRARY for one in only_left for other in only_right)
    return DIFFER if contradicts and not left & right else ABSENT
