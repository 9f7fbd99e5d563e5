"""Negation: whether the two texts are negated equally often, and whether the same words are.

Owns the words that negate, the phrases that only look negated, and the comparison. Read `read_negation`, then
`compare_negation`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from typing import NamedTuple

from penstock_cache.guards.stems import form_of, stem_of
from penstock_cache.guards.tokens import CONTENT, NEGATION, Token, listed
from penstock_cache.guards.verdicts import ABSENT, AGREE, DIFFER, Verdict

_AUXILIARIES = listed("ai are ca could did does do had has have is might must need sha should was were wo would")
_CONTRACTED = frozenset(word + ending for word in _AUXILIARIES for ending in ("n't", "nt"))
_NEGATIONS = _CONTRACTED | frozenset(
    listed("not no never none nobody nothing nowhere neither nor without cannot can't cant hardly barely")
)
TRIGGERS = _NEGATIONS

# A negation and up to three tokens on either side of it: phrases that leave the request as it is.
_FILLER = re.compile(
    r"\b(?:or not|not only|why not|why don'?t (?:you|we)|(?:do not|don'?t) (?:really |quite )?"
    r"(?:know|understand|get|think|remember|care|mind)|not sure|no idea|(?:can'?t|cannot) (?:figure|wait|decide|think)"
    r"|nothing else|yes or no|no more questions|no matter|no problem|no worries|if not|not to mention|never ?mind"
    r"|no rush|not urgent|no doubt|nothing but|\w+n'?t (?:it|they|he|she|you|we|there) \?)"
)
_WINDOW = 3
_OPENERS = frozenset(listed("and but so hi hey hello please . ! ? , ; :"))
_PRONOUNS = frozenset(listed("i you we they it he she one"))
_MODALS = frozenset(listed("can could should would is are does do did"))
# Words that carry a negation inside: "unable to" is "cannot". They excuse a difference, they make none.
_IMPLICIT_WORDS = """
unable fail lack missing avoid prevent stop refuse broken absent except exclude excluding skip omit impossible
otherwise instead unless dead wrong fault faulty decline reject deny forbid ban ignore less free lose quit empty
error disable block blocked trouble struggle stuck illegal bad crash dislike hate forgot forget unlikely rarely
seldom exempt opt keep hidden unknown non different away against newcomer regardless risk danger disadvantage
drawback downside con only neither oppose safe out opposite mute delete remove cancel rid silence quiet clear pause
shut offline incorrect harm
"""
_IMPLICIT = frozenset(stem_of(word) for word in listed(_IMPLICIT_WORDS))
_NEGATIVE_PREFIX = re.compile(r"(?:un|in|im|ir|il|non|dis|anti)(?=[a-z]{4})|[a-z]{4,}(?=less$|free$)")
# Measured on the open corpus: below it one such difference in four was between paraphrases.
_LEAST_SHARED = 0.15
_SCOPE_ENDS = frozenset(listed(". , ; : ? ! and but"))
_SCOPE_REACH = 12  # tokens within which they must stand
_SCOPE_WORDS = 3  # content words after a negation that it is taken to cover


class Negation(NamedTuple):
    """How a text is negated.

    Attributes
    ----------
    negations : int
        Negations that are no filler.
    scope : frozenset of str
        Stems of the content words right after each.
    nearest : frozenset of str
        The first of them after each.
    implied : frozenset of str
        Stems of the words that carry a negation inside.
    """

    negations: int
    scope: frozenset[str]
    nearest: frozenset[str]
    implied: frozenset[str]


NO_NEGATION = Negation(0, frozenset(), frozenset(), frozenset())


def read_negation(tokens: Sequence[Token], flags: int, stems: Set[str]) -> Negation:
    """Read how a text is negated.

    Parameters
    ----------
    tokens : sequence of Token
    flags : int
        Of all tokens together.
    stems : set of str
        Stems of its content words.
    """
    implied = _IMPLICIT & stems
    if not flags & NEGATION:
        return Negation(0, NO_NEGATION.scope, NO_NEGATION.nearest, implied) if implied else NO_NEGATION
    places = [index for index, token in enumerate(tokens) if token.flags & NEGATION and _negates(tokens, index)]
    scopes = [_scope_after(tokens, place) for place in places]
    return Negation(
        len(places),
        frozenset(stem for scope in scopes for stem in scope),
        frozenset(scope[0] for scope in scopes if scope),
        implied,
    )


def _negates(tokens: Sequence[Token], index: int) -> bool:
    """Whether a negative word negates here: "no. 5" is a number, "isn't it …?" asks what "is it …?" asks."""
    word = tokens[index].low
    if word == "nor" or _is_polar_question(tokens, index):
        return False
    window = [token.low for token in tokens[max(index - _WINDOW, 0) : index + _WINDOW + 1]]
    if word == "no":
        after = [token.low for token in tokens[index + 1 : index + 3]]
        is_number_sign = len(after) == 2 and after[0] == "." and after[1][0].isdecimal()
        is_comparison = len(after) == 2 and (after[1] == "than" or after[0] in {"more", "less", "fewer"})
        if not after or after[0] == "," or is_number_sign or is_comparison:
            return False
    return not any(word in match.group() for match in _FILLER.finditer(" ".join(window)))


def _is_polar_question(tokens: Sequence[Token], index: int) -> bool:
    """Whether a sentence opens with "isn't …", "can't I …", "can I not …"."""
    word = tokens[index].low
    after = tokens[index + 1].low if index + 1 < len(tokens) else ""
    if word == "not":
        is_inverted = index >= 2 and tokens[index - 1].low in _PRONOUNS and tokens[index - 2].low in _MODALS
        return is_inverted and (index == 2 or tokens[index - 3].low in _OPENERS)
    if word not in _CONTRACTED and word not in {"can't", "cant"}:
        return False
    if index and tokens[index - 1].low not in _OPENERS:
        return False
    return after in _PRONOUNS if word in {"don't", "dont", "won't"} else bool(after) and not after.endswith("ing")


def _scope_after(tokens: Sequence[Token], place: int) -> list[str]:
    covered: list[str] = []
    for token in tokens[place + 1 : place + 1 + _SCOPE_REACH]:
        if token.low in _SCOPE_ENDS:
            break
        if token.flags & CONTENT:
            covered.append(token.stem)
            if len(covered) == _SCOPE_WORDS:
                break
    return covered


def compare_negation(left: Negation, right: Negation, left_stems: Set[str], right_stems: Set[str]) -> Verdict:
    """Compare the negations of two texts with their content stems.

    Notes
    -----
    Texts differ when one is negated an odd number of times and the other an even one, unless a word of only one of
    them carries the negation ("unable", "non-", "-free"), or the texts share next to no words, the negated ones least
    of all; or when each negates what the other affirms.
    """
    if left.negations % 2 != right.negations % 2:
        plain_stems, negated = (left_stems, right) if right.negations % 2 else (right_stems, left)
        if left.implied != right.implied or _is_prefixed(negated.scope, plain_stems):
            return ABSENT
        if negated.scope.isdisjoint(plain_stems) and not _has_shared_share(left_stems, right_stems):
            return ABSENT
        return DIFFER
    if left.negations and right.negations:
        only_left, only_right = left.nearest - right.scope, right.nearest - left.scope
        if only_left & right_stems and only_right & left_stems:
            return DIFFER
        return AGREE
    return ABSENT


def _has_shared_share(left_stems: Set[str], right_stems: Set[str]) -> bool:
    shared = len(left_stems & right_stems)
    return shared >= _LEAST_SHARED * (len(left_stems) + len(right_stems) - shared)


def _is_prefixed(scope: Set[str], stems: Set[str]) -> bool:
    """Whether some stem is a negated word with a negative prefix or ending: "not available", "unavailable"."""
    for stem in stems - scope:
        match = _NEGATIVE_PREFIX.match(stem)
        if match:
            rest = stem[match.end() :] if not stem.endswith(("less", "free")) else match.group()
            if rest in scope or form_of(rest) in scope:
                return True
    return False
