"""How many, and where in an order: at least, at most, more than, all, only, first, last.

Owns the classes and which of them contradict each other. A feature, not a veto: such words have many uses. Read
`read_quantifiers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from penstock_cache.guards.tokens import QUANTITY, Token, listed
from penstock_cache.guards.verdicts import ABSENT, AGREE, DIFFER, Verdict

_SINGLE: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(listed("all every each entire everyone everything whole both"), "all")
    | dict.fromkeys(listed("some several certain partially"), "some")
    | dict.fromkeys(listed("only solely exclusively"), "only")
    | dict.fromkeys(listed("none nobody neither"), "none")
    | dict.fromkeys(listed("any either anyone"), "any")
    | dict.fromkeys(listed("first earliest oldest"), "first")
    | dict.fromkeys(listed("last latest newest final"), "last")
    | dict.fromkeys(listed("exactly precisely"), "exact")
    | dict.fromkeys(listed("approximately roughly"), "about")
    | dict.fromkeys(listed("except besides excluding"), "except")
    | {"minimum": "at_least", "maximum": "at_most", "most": "most", "majority": "most"}
    | {"least": "least", "fewest": "least", "minority": "least"}
)
_GREATER = frozenset(listed("more greater larger higher older longer bigger later over above"))
_SMALLER = frozenset(listed("less fewer smaller lower younger shorter earlier under below"))
TRIGGERS = frozenset(_SINGLE) | _GREATER | _SMALLER | {"up"}
# "Where is the first …" against "the last …" and the like; other pairs of classes are as often two wordings of one.
_OPPOSITE = frozenset(
    frozenset(pair)
    for pair in (
        ("at_least", "at_most"),
        ("more_than", "less_than"),
        ("at_least", "less_than"),
        ("at_most", "more_than"),
        ("first", "last"),
        ("most", "least"),
        ("some", "none"),
        ("any", "none"),
        ("all", "most"),
        ("all", "except"),
        ("only", "except"),
    )
)
NO_QUANTIFIERS: frozenset[str] = frozenset()


def read_quantifiers(tokens: Sequence[Token]) -> frozenset[str]:
    """Return the classes that occur in a text."""
    found: set[str] = set()
    last = len(tokens) - 1
    for index, token in enumerate(tokens):
        if token.flags & QUANTITY:
            before = tokens[index - 1].low if index else ""
            after = tokens[index + 1].low if index < last else ""
            name = _class_of(token.low, before, after)
            if name:
                found.add(name)
    return frozenset(found)


def _class_of(word: str, before: str, after: str) -> str:
    """Class of a word between its neighbours; empty when it counts or compares nothing."""
    if word == "up":
        return "at_most" if after == "to" else ""
    if before == "at" and word in {"least", "most"}:
        return f"at_{word}"
    if word in _GREATER or word in _SMALLER:
        is_greater = word in _GREATER
        if before == "or":
            return "at_least" if is_greater else "at_most"
        if before in {"no", "not"} and after == "than":
            return "at_most" if is_greater else "at_least"
        if after == "than" or after[:1].isdecimal():
            return "more_than" if is_greater else "less_than"
        return ""
    return _SINGLE[word]


def compare_quantifiers(left: frozenset[str], right: frozenset[str]) -> Verdict:
    """Differ when each text says what contradicts the other."""
    if left == right:
        return AGREE if left else ABSENT
    if not left or not right:
        return ABSENT
    contradicts = any(frozenset((one, other)) in _OPPOSITE for one in left - right for other in right - left)
    return DIFFER if contradicts else ABSENT
