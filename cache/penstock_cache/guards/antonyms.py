"""Opposites: one text says a word, the other says its opposite in its place.

Owns the compiled table of `antonym_axes` and the reading of verb particles ("turn dark mode on", "log in", "check
out"). A side is a signed integer: the axis number, negative for the second side. Read `read_antonyms`, then
`opposed_sides`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from penstock_cache.guards.antonym_axes import AXES
from penstock_cache.guards.stems import form_of
from penstock_cache.guards.tokens import ANTONYM, MARK, NEGATION, Token, listed

_PARTICLES = frozenset({"on", "off", "in", "out", "up", "down"})
_COMPARATIVES = frozenset({"more", "less", "fewer", "later", "earlier", "higher", "lower", "longer", "shorter"})
_SWITCH_VERBS = frozenset(
    listed(
        "turn turns turned turning switch switches switched switching put puts putting keep keeps flip toggle set power"
        " leave stay stays go goes is are be shut come comes remain get"
    )
)
_STEERING: Mapping[str, str] = MappingProxyType(
    {"log": "login", "logs": "login", "logging": "login", "logged": "login"}
    | {"sign": "sign", "signs": "sign", "signing": "sign", "signed": "sign"}
    | {"check": "check", "checks": "check", "checking": "check", "checked": "check"}
    | {"clock": "clock", "clocking": "clock", "opt": "opt", "opting": "opt", "opted": "opt"}
    | {"zoom": "zoom", "zooming": "zoom", "fade": "fade", "fading": "fade", "scale": "scale", "scaling": "scale"}
    | {"turn": "turn", "turning": "turn", "turned": "turn", "speed": "speed", "speeding": "speed"}
    | {"slow": "slow", "slowing": "slow", "go": "go", "goes": "go", "going": "go", "went": "go"}
    | {"move": "move", "moving": "move", "moved": "move", "back": "back", "backing": "back"}
)
_SWITCH_REACH = 6  # tokens between a verb and its particle: "turn the kitchen lights on"
_OFF_REACH = 4
_STEER_REACH = 3
_NEGATED = 2  # tokens: "not open", "didn't quite pass"


def _side_table() -> Mapping[str, frozenset[int]]:
    """Sides by word form; a word that would stand on both sides of an axis is on none of it."""
    table: dict[str, set[int]] = {}
    for axis, line in enumerate(AXES.strip().splitlines(), start=1):
        left, right = (
            {word if "_" in word else form_of(word) for word in side.split() if not word.endswith("_")}
            for side in line.split("|")
        )
        for word in left - right:
            table.setdefault(word, set()).add(axis)
        for word in right - left:
            table.setdefault(word, set()).add(-axis)
    return MappingProxyType({word: frozenset(sides) for word, sides in table.items()})


_SIDES = _side_table()
_ON = _SIDES["switch_on"] | _SIDES["enabl"]
_OFF = _SIDES["switch_off"] | _SIDES["disabl"]
# A word on one side of "up" and such is read here only after a verb that takes it as a particle.
NO_SIDES: frozenset[int] = frozenset()


def has_sides(word: str) -> bool:
    """Whether a lower-case word, or the particle of a verb, may stand on a side of some axis."""
    return word in _PARTICLES or form_of(word) in _SIDES or word in _SIDES


@lru_cache(maxsize=4096)  # as many words as ever stand on a side, in all their forms
def sides_of(word: str) -> frozenset[int]:
    """Return the sides of one lower-case word, particles apart."""
    return NO_SIDES if word in _PARTICLES else _SIDES.get(word) or _SIDES.get(form_of(word), NO_SIDES)


class Sides(NamedTuple):
    """Sides that a text stands on.

    Attributes
    ----------
    said : frozenset of int
        Those of its words.
    meant : frozenset of int
        The same with the words right after a negation moved to the other side: "not open" means closed.
    negated : frozenset of int
        Those of `meant` that were moved.
    """

    said: frozenset[int]
    meant: frozenset[int]
    negated: frozenset[int]


NOTHING_SAID = Sides(NO_SIDES, NO_SIDES, NO_SIDES)


def read_antonyms(tokens: Sequence[Token], flags: int) -> Sides:
    """Return every side that a text stands on.

    Parameters
    ----------
    tokens : sequence of Token
    flags : int
        Of all tokens together.
    """
    said: set[int] = set()
    meant: set[int] = set()
    negated: set[int] = set()
    may_negate = bool(flags & NEGATION)
    for index, token in enumerate(tokens):
        if token.flags & ANTONYM:
            if index and token.low in _COMPARATIVES and tokens[index - 1].low in {"no", "not"}:
                continue  # "no more than" is "at most"
            sides = _particle(tokens, index) if token.low in _PARTICLES else sides_of(token.low)
            if not sides:
                continue
            said |= sides
            if may_negate and any(before.flags & NEGATION for before in tokens[max(index - _NEGATED, 0) : index]):
                sides = frozenset([-side for side in sides])
                negated |= sides
            meant |= sides
    return Sides(frozenset(said), frozenset(meant), frozenset(negated)) if said else NOTHING_SAID


def _particle(tokens: Sequence[Token], index: int) -> frozenset[int]:
    """Sides of "on" or "off" near a switching verb, and of "in", "out", "up", "down" near a verb that takes them."""
    word = tokens[index].low
    if word in {"on", "off"}:
        return _switch(tokens, index, word)
    for place in range(index - 1, max(index - _STEER_REACH, 0) - 1, -1):
        name = _STEERING.get(tokens[place].low)
        if name == "login":
            return _SIDES["login"] if word == "in" else _SIDES["logout"] if word == "out" else NO_SIDES
        if name:
            return _SIDES.get(f"{name}_{word}", NO_SIDES)
    return NO_SIDES


def _switch(tokens: Sequence[Token], index: int, word: str) -> frozenset[int]:
    """Sides of "on" and "off": right after a switching verb, at the end of its clause, or, for "off", close to it."""
    is_last = index + 1 == len(tokens) or bool(tokens[index + 1].flags & MARK)
    reach = _SWITCH_REACH if is_last else _OFF_REACH if word == "off" else 1
    for place in range(index - 1, max(index - reach, 0) - 1, -1):
        if tokens[place].low in _SWITCH_VERBS:
            return _ON if word == "on" else _OFF
    return NO_SIDES


def opposed_sides(left: Sides, right: Sides) -> bool:
    """Whether the texts stand on opposite sides of an axis, by what they say and by what they mean.

    Notes
    -----
    An axis of which either text says both sides ("buy or sell") opposes nothing.
    """
    return _are_opposed(left.said, right.said) and _are_opposed(left.meant, right.meant)


def _are_opposed(left: frozenset[int], right: frozenset[int]) -> bool:
    return any(-side in right and -side not in left and side not in right for side in left)
