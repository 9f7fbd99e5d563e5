"""What is left when the two texts' content words are matched: words that only one of them holds, rare ones first.

Owns the weight of a leftover word and the matching of misspelt and compound words. A feature, not a veto. Read
`residual_of`.
"""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from penstock_cache.guards.tokens import listed
from penstock_cache.guards.verdicts import ABSENT, AGREE, DIFFER, Verdict

# Content words that mark a request, not its subject: their absence on one side says little.
_LIGHT_STEMS = """
like want need require tri us way method make creat get obtain show display find look search work thing someth someon
peopl person good best better great nice new old bad real possib possibl abl explain describ list tel say question
answer repli recommend suggest advic advis chang differ mean definit exampl case time year day today now current start
begin set go take put let give choos select pick reason cause know think understand learn see help assist ask guid
tutori start quick easi easy simpl step process proces detail inform info write ad add call name allow happen exist
type kind sort form part number amount correct proper current still ever also anyth everyth actual main import sure
wond wonder curious lot bit com turn keep retain deal handl perform run provid offer includ contain involv relat
specif certain particul general usual normal common popular know famous top effect effici fast suit someon anybodi
check quickest fastest exact world life thought idea opinion tip feel become seem appear expect going hav
"""
_LIGHT = frozenset(listed(_LIGHT_STEMS))
_LIGHT_WEIGHT = 0.4
_PLAIN_WEIGHT = 0.7
_CAPITAL_WEIGHT = 0.8
_DIGIT_WEIGHT = 1.0
_LENGTH_WEIGHT = 0.08  # per letter beyond five: longer words are rarer (Zipf's law of abbreviation)
_PLAIN_LENGTH = 5
_MAX_LENGTH_WEIGHT = 0.6
RARE_WEIGHT = 1.0
_SHARED_PREFIX = 5  # letters; words that share as many are taken for inflections or spellings of one
_COMPARED = 24  # leftover words per side that are matched for spelling; more means another text anyway


class Residual(NamedTuple):
    """Weights of the content words that one text alone holds, ascending."""

    left: tuple[float, ...]
    right: tuple[float, ...]


def residual_of(
    left_stems: Set[str],
    right_stems: Set[str],
    left_capitals: Set[str],
    right_capitals: Set[str],
    left_squashed: str,
    right_squashed: str,
) -> Residual:
    """Weigh what each text alone holds.

    Parameters
    ----------
    left_stems, right_stems : set of str
        Stems of content words.
    left_capitals, right_capitals : set of str
        Those of names.
    left_squashed, right_squashed : str
        The texts' letters without spaces: "set up" holds "setup".
    """
    only_left, only_right = left_stems - right_stems, right_stems - left_stems
    if only_left and only_right and len(only_left) + len(only_right) <= _COMPARED:
        only_left, only_right = _unmatched(only_left, only_right)
    return Residual(
        tuple(
            sorted([weight_of(stem, stem in left_capitals) for stem in only_left if not _is_in(stem, right_squashed)])
        ),
        tuple(
            sorted([weight_of(stem, stem in right_capitals) for stem in only_right if not _is_in(stem, left_squashed)])
        ),
    )


def _is_in(stem: str, squashed: str) -> bool:
    return len(stem) >= _PLAIN_LENGTH and stem in squashed


def _unmatched(left: Set[str], right: Set[str]) -> tuple[Set[str], Set[str]]:
    """Both sides without the stems that are another spelling of a stem of the other side."""
    by_initial: dict[str, list[str]] = {}
    for stem in right:
        by_initial.setdefault(stem[0], []).append(stem)
    matched_left: set[str] = set()
    matched_right: set[str] = set()
    for stem in left:
        for other in by_initial.get(stem[0], ()):
            if _is_spelling(stem, other):
                matched_left.add(stem)
                matched_right.add(other)
    return left - matched_left, right - matched_right


def _is_spelling(one: str, other: str) -> bool:
    """Whether two words share their first letters, or one letter was missed, doubled, changed or exchanged."""
    if not (one.isalpha() and other.isalpha()):
        return False
    shortest = min(len(one), len(other))
    if one[:_SHARED_PREFIX] == other[:_SHARED_PREFIX]:
        return shortest >= _SHARED_PREFIX
    if shortest < _SHARED_PREFIX - 1 or abs(len(one) - len(other)) > 1:
        return False
    start = next((index for index in range(shortest) if one[index] != other[index]), shortest)
    rest_one, rest_other = one[start:], other[start:]
    return (
        rest_one[1:] == rest_other
        or rest_one == rest_other[1:]
        or (shortest > _SHARED_PREFIX and rest_one[1:] == rest_other[1:])
        or (rest_one[:2] == rest_other[1::-1] and rest_one[2:] == rest_other[2:])
    )


def weight_of(stem: str, is_capital: bool) -> float:
    """Return how much a leftover stem counts: 0.4 for a request word, 0.7 for a plain one, above 1 if it looks rare."""
    if stem in _LIGHT:
        return _LIGHT_WEIGHT
    weight = _PLAIN_WEIGHT + min(max(len(stem) - _PLAIN_LENGTH, 0) * _LENGTH_WEIGHT, _MAX_LENGTH_WEIGHT)
    if is_capital:
        weight += _CAPITAL_WEIGHT
    return weight if stem.isalpha() else weight + _DIGIT_WEIGHT


def compare_residual(residual: Residual) -> Verdict:
    """Agree when nothing is left; differ when a rare-looking word is left on both sides."""
    if not residual.left or not residual.right:
        return ABSENT if residual.left or residual.right else AGREE
    return DIFFER if min(residual.left[-1], residual.right[-1]) >= RARE_WEIGHT else ABSENT
