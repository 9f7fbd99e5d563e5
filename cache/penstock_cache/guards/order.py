"""Which way round: the same words on the two sides of "to", "from", "minus", "than", "by" or a verb, exchanged.

Owns the pivots and the reading of sides. "vs", "and", "or" are no pivots: their order changes no answer. Read
`read_order`, then `compare_order`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from penstock_cache.guards.tokens import CONTENT, MARK, NUMBER, PIVOT, Token, listed
from penstock_cache.guards.verdicts import ABSENT, AGREE, DIFFER, Verdict

# pivot: relation, and whether the word after it comes first in the relation
_PIVOTS: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {"to": ("toward", False), "into": ("toward", False), "from": ("toward", True), "onto": ("toward", False)}
    | {"minus": ("minus", False), "-": ("-", False), "divided": ("divide", False), "/": ("/", False)}
    | {"than": ("than", False), "by": ("by", False), "before": ("before", False), "after": ("before", True)}
    | {"of": ("of", False), "instead": ("instead", False)}
)
TRIGGERS = frozenset(_PIVOTS)
# Questions about two things together, in which either may come first.
_SYMMETRIC = frozenset(listed("distance far difference differences differ differs compare comparison apart versus vs"))
_MAX_RELATIONS = 16  # of a text: their comparison is quadratic
_REACH = 2  # words on either side of a pivot: enough for "US dollars to Indian rupees"
_BETWEEN_DIGITS = frozenset({"of", "/", "-"})  # tell their sides apart only there: "5 % of 200"


class Relation(NamedTuple):
    """A pivot with the stems on its two sides, first to second."""

    name: str
    first: frozenset[str]
    second: frozenset[str]


class Order(NamedTuple):
    """Relations of a text, the runs of three content words in it, and whether it asks what has no direction."""

    relations: tuple[Relation, ...]
    triples: frozenset[tuple[str, str, str]]
    is_symmetric: bool


NO_ORDER = Order((), frozenset(), False)


def read_order(tokens: Sequence[Token], flags: int, content: Sequence[str]) -> Order:
    """Read the relations and triples of a text.

    Parameters
    ----------
    tokens : sequence of Token
    flags : int
        Of all tokens together.
    content : sequence of str
        The content words as written, lower case, in order: "lay eggs" and "egg-laying" name no one in another order.
    """
    triples = frozenset(zip(content, content[1:], content[2:], strict=False))
    if not flags & PIVOT and not triples:
        return NO_ORDER
    relations = tuple(_relations(tokens)) if flags & PIVOT else ()
    return Order(relations, triples, not _SYMMETRIC.isdisjoint(content))


def _relations(tokens: Sequence[Token]) -> list[Relation]:
    """Relations in one pass: a pivot takes the stems right before it and waits for those right after."""
    found: list[Relation] = []
    recent: list[str] = []
    waiting: tuple[str, list[str]] | None = None
    for token in tokens:
        _, low, stem, flags = token
        is_pivot = flags & PIVOT
        is_end = is_pivot or (flags & MARK and low in ".?!;:,")
        if is_end and waiting is not None and (recent or low != ","):
            _close(waiting, recent, found)
            waiting = None
        if is_pivot:
            waiting, recent = (low, recent[-_REACH:]), []
        elif is_end:
            recent = []
        elif flags & (CONTENT | NUMBER):
            recent.append(stem)
    if waiting is not None:
        _close(waiting, recent, found)
    return found[:_MAX_RELATIONS]


def _close(waiting: tuple[str, list[str]], after: list[str], found: list[Relation]) -> None:
    """Add the relation of a pivot whose second side is now known, if it tells its sides apart."""
    pivot, before = waiting
    if not before or not after:
        return
    name, is_backward = _PIVOTS[pivot]
    first, second = frozenset(before), frozenset(after[:_REACH])
    digits = sum(stem[0].isdecimal() for stem in first | second)
    if (name in _BETWEEN_DIGITS and digits < 2) or (name == "by" and digits):
        return
    found.append(Relation(name, second, first) if is_backward else Relation(name, first, second))


def compare_order(left: Order, right: Order) -> Verdict:
    """Differ when a relation, or a run of three words, stands the other way round in the other text."""
    if left.is_symmetric or right.is_symmetric:
        return ABSENT
    if left.triples and right.triples and _has_reversed_triple(left.triples, right.triples):
        return DIFFER
    verdict = ABSENT
    for one in left.relations:
        for other in right.relations:
            if one.name != other.name:
                continue
            if _is_parallel(one, other):
                verdict = AGREE
            elif _is_reversed(one, other) and not _has_parallel(one, other, left, right):
                return DIFFER
    return verdict


def _is_parallel(one: Relation, other: Relation) -> bool:
    return not (one.first.isdisjoint(other.first) or one.second.isdisjoint(other.second))


def _is_reversed(one: Relation, other: Relation) -> bool:
    """Whether a word of each side went over to the other one, and stands on one side only in either text."""
    if one.first.isdisjoint(other.second):
        return False
    return bool(
        (one.first - other.first) & (other.second - one.second)
        and (one.second - other.second) & (other.first - one.first)
    )


def _has_parallel(one: Relation, other: Relation, left: Order, right: Order) -> bool:
    """Whether a text says both ways: "from A to B and back from B to A"."""
    return any(one.name == relation.name and _is_parallel(one, relation) for relation in right.relations) or any(
        other.name == relation.name and _is_parallel(other, relation) for relation in left.relations
    )


def _has_reversed_triple(left: frozenset[tuple[str, str, str]], right: frozenset[tuple[str, str, str]]) -> bool:
    reversed_left = {(last, middle, first) for first, middle, last in left} - left
    return any(
        (last, middle, first) not in right and not (first[0].isdecimal() or last[0].isdecimal())
        for first, middle, last in reversed_left & right
    )
