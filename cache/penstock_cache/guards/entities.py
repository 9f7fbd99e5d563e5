"""Names: capitalised words, acronyms, and listed names in any case.

Owns the reading of names and their comparison. A feature, not a veto: a lower-case name that no list holds cannot be
told from an ordinary word. Read `read_entities`, then `compare_entities`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from penstock_cache.guards.gazetteer import NAMES
from penstock_cache.guards.tokens import CAPITAL, CONTENT, MARK, NUMBER, PLACE, Token
from penstock_cache.guards.verdicts import ABSENT, AGREE, DIFFER, Verdict


class Entities(NamedTuple):
    """Names of a text.

    Attributes
    ----------
    capitals : frozenset of str
        Stems of capitalised words away from the start of a sentence that the list does not hold.
    listed : frozenset of (kind, name)
        Names of the list, in the list's first spelling.
    """

    capitals: frozenset[str]
    listed: frozenset[tuple[str, str]]


NO_ENTITIES = Entities(frozenset(), frozenset())
_CAPITALISED_TITLE_SHARE = 0.6  # of a text's words: above it, capitals are a style and name nothing
_SENTENCE_ENDS = frozenset(".!?:\"'(-")
_LONGEST_ACRONYM = 6


def _name_table() -> tuple[Mapping[str, tuple[tuple[str, str], ...]], frozenset[str]]:
    """Kinds and first spellings by name, phrases joined by spaces; and the first words of phrases."""
    table: dict[str, tuple[tuple[str, str], ...]] = {}
    for line in NAMES.strip().splitlines():
        kind, _, groups = line.partition(": ")
        for group in groups.split("|"):
            names = [name for name in group.split() if not name.endswith("_")]
            for name in names:
                spelling = name.replace("_", " ")
                table[spelling] = (*table.get(spelling, ()), (kind, names[0]))
    return MappingProxyType(table), frozenset(name.split()[0] for name in table if " " in name)


_NAMED, _PHRASE_STARTS = _name_table()
_LONGEST_PHRASE = 3
_TECHNICAL = frozenset({"code", "framework", "database", "system", "cloud", "tool", "file"})
LANGUAGES: Mapping[str, str] = MappingProxyType(
    {name: kinds[0][1] for name, kinds in _NAMED.items() if kinds[0][0] == "language"}
)
TRIGGERS = frozenset(_NAMED) | _PHRASE_STARTS | {"us"}


def read_entities(tokens: Sequence[Token], flags: int) -> Entities:
    """Read the names of a text.

    Parameters
    ----------
    tokens : sequence of Token
    flags : int
        Of all tokens together.
    """
    listed = _listed(tokens) if flags & PLACE else NO_ENTITIES.listed
    capitals = _capitals(tokens) if flags & CAPITAL else NO_ENTITIES.capitals
    return Entities(capitals, listed) if listed or capitals else NO_ENTITIES


def _listed(tokens: Sequence[Token]) -> frozenset[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    covered = 0
    for index, token in enumerate(tokens):
        if not token.flags & PLACE or index < covered:
            continue
        name = token.low
        if name in _PHRASE_STARTS:
            for length in range(_LONGEST_PHRASE, 1, -1):
                phrase = " ".join([word.low for word in tokens[index : index + length]])
                if phrase in _NAMED:
                    name, covered = phrase, index + length
                    break
        elif name == "us":
            name = "usa" if token.raw == "US" else ""
        found.update(_NAMED.get(name, ()))
    return frozenset(found)


def _capitals(tokens: Sequence[Token]) -> frozenset[str]:
    """Capitalised content words; the first of a sentence counts only when it is capitals throughout."""
    found: list[str] = []
    starts, words, capitalised = True, 0, 0
    for raw, low, stem, flags in tokens:
        if flags & MARK:
            starts = starts or raw in _SENTENCE_ENDS
            continue
        if flags & NUMBER and not flags & CAPITAL:
            starts = False
            continue
        words += 1
        if flags & CAPITAL:
            capitalised += 1
            is_listed = flags & PLACE and low in _NAMED
            if flags & CONTENT and not is_listed and (not starts or (len(raw) > 1 and raw.isupper())):
                found.append(stem)
        starts = False
    is_style = words > 3 and capitalised > _CAPITALISED_TITLE_SHARE * words
    return NO_ENTITIES.capitals if is_style else frozenset(found)


def compare_entities(
    left: Entities, right: Entities, left_content: Sequence[str], right_content: Sequence[str]
) -> Verdict:
    """Compare the names of two texts; a name is found in any case and inflection of the other text, or as initials.

    Parameters
    ----------
    left, right : Entities
    left_content, right_content : sequence of str
        Stems of the texts' content words, in order.

    Notes
    -----
    Names differ when each text has one that the other lacks; a name on one side only says nothing.
    """
    if left is NO_ENTITIES and right is NO_ENTITIES:
        return ABSENT
    only_left, only_right = left.listed - right.listed, right.listed - left.listed
    has_left = bool(only_left) or _missing(left.capitals, right_content)
    has_right = bool(only_right) or _missing(right.capitals, left_content)
    if has_left and has_right:
        return DIFFER
    return ABSENT if has_left or has_right else AGREE


def has_technical_swap(left: Entities, right: Entities) -> bool:
    """Whether each text alone holds a listed technical name of one kind: Python against Java, CSV against JSON."""
    if not left.listed or not right.listed:
        return False
    only_left = {kind for kind, _ in left.listed - right.listed} & _TECHNICAL
    return bool(only_left) and not only_left.isdisjoint(kind for kind, _ in right.listed - left.listed)


def _missing(capitals: frozenset[str], content: Sequence[str]) -> bool:
    """Whether some name is neither a word of the other text nor the initials of a run of its words."""
    missing = capitals.difference(content)
    if not missing:
        return False
    initials = "".join([stem[0] for stem in content])
    return any(len(name) > _LONGEST_ACRONYM or name not in initials for name in missing)
