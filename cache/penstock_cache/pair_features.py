"""The numbers that the pair model sees of two prompts.

Owns the list of features and their order. A fitted model stores `feature_set_id` and refuses another list. Pure and
symmetric: the features of (a, b) are those of (b, a). Read `pair_features`.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Sequence, Set
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock_cache.guards.agreement import GUARD_NAMES, GuardReport
from penstock_cache.guards.signature import PromptSignature

FEATURE_VERSION = 1
"""Rises when a feature of the same name changes its meaning, or a guard what it reads."""

FEATURE_NAMES: tuple[str, ...] = (
    "cosine",
    "verify_cosine",
    "has_verify_cosine",
    "word_jaccard",
    "content_word_jaccard",
    "stem_jaccard",
    "trigram_dice",
    "bigram_overlap",
    "stem_order",
    "residual_max_larger",
    "residual_max_smaller",
    "residual_sum_larger",
    "residual_sum_smaller",
    "length_ratio",
    "has_same_question_type",
    "content_count_larger",
    "content_count_smaller",
    *(f"guard_{name}" for name in GUARD_NAMES),
    "veto_count",
)
"""Names of the features, in the order of the array."""

_MAX_RESIDUAL_SUM = 20.0  # beyond it two texts have nothing in common; bounds what a long text adds
_MAX_CONTENT_COUNT = 64.0


class Grams(NamedTuple):
    """Runs of neighbouring characters and words of one prompt."""

    trigrams: frozenset[str]
    bigrams: frozenset[tuple[str, str]]


def pair_features(
    a: PromptSignature,
    b: PromptSignature,
    report: GuardReport,
    *,
    cosine: float,
    verify_cosine: float = math.nan,
) -> NDArray[np.float32]:
    """Return the features of two prompts.

    Parameters
    ----------
    a, b : PromptSignature
        From `guards.signature_of`.
    report : GuardReport
        From `guards.compare` on the same two, in either order.
    cosine : float, in [-1, 1]
        Of the first encoder's vectors.
    verify_cosine : float, in [-1, 1], optional
        Of the second encoder's vectors; NaN where it was not run. The feature is then 0 and its flag 0.

    Returns
    -------
    ndarray of float32, shape (len(FEATURE_NAMES),)
        Finite where the arguments are.

    Notes
    -----
    Nothing here depends on what else is cached: how far a neighbour's cosine is above the next one's would, and a
    threshold that was certified on one cache would then say little about another.

    Jaccard is the size of the intersection over that of the union, Dice twice the intersection over the sum of sizes;
    two empty sets count as equal. A pair of values, one per text, is sorted into "larger" and "smaller", which makes
    the features symmetric. `stem_order` takes the longest increasing subsequence by patience sorting, O(n log n).

    References
    ----------
    C. Schensted, "Longest increasing and decreasing subsequences", Canadian Journal of Mathematics 13 (1961).
    """
    values = pair_values(a, b, report, cosine=cosine, verify_cosine=verify_cosine)
    return np.array(values, dtype=np.float32)


def pair_values(
    a: PromptSignature,
    b: PromptSignature,
    report: GuardReport,
    *,
    cosine: float,
    verify_cosine: float = math.nan,
    grams: Grams | None = None,
) -> tuple[float, ...]:
    """Return what `pair_features` returns before it is an array.

    Parameters
    ----------
    a, b, report, cosine, verify_cosine
        As for `pair_features`.
    grams : Grams, optional
        Of `a`, where it is compared with several others.
    """
    has_verify = not math.isnan(verify_cosine)
    of_a, of_b = grams or grams_of(a), grams_of(b)
    left, right = report.leftovers
    maxima = sorted((left[-1] if left else 0.0, right[-1] if right else 0.0))
    sums = sorted((min(sum(left), _MAX_RESIDUAL_SUM), min(sum(right), _MAX_RESIDUAL_SUM)))
    counts = sorted((min(len(a.content), _MAX_CONTENT_COUNT), min(len(b.content), _MAX_CONTENT_COUNT)))
    return (
        cosine,
        verify_cosine if has_verify else 0.0,
        has_verify,
        _jaccard(a.words, b.words),
        _jaccard(a.content_words, b.content_words),
        _jaccard(a.stems, b.stems),
        _dice(of_a.trigrams, of_b.trigrams),
        _dice(of_a.bigrams, of_b.bigrams),
        _order_similarity(a.content, b.content),
        maxima[1],
        maxima[0],
        sums[1],
        sums[0],
        _ratio(a.characters, b.characters),
        a.question == b.question,
        counts[1],
        counts[0],
        *map(float, report.verdicts()),  # numpy reads a float four times as fast as an enum's member
        len(report.vetoes),
    )


def grams_of(signature: PromptSignature) -> Grams:
    """Return a prompt's runs of three characters and of two words."""
    return Grams(_trigrams(signature.squashed), frozenset(pairwise(signature.content)))


@lru_cache(maxsize=1)
def feature_set_id() -> str:
    """Return 16 hexadecimal digits that change with the features' names, order or version."""
    text = "\n".join((str(FEATURE_VERSION), *FEATURE_NAMES))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _jaccard(left: Set[str], right: Set[str]) -> float:
    shared = len(left & right)
    union = len(left) + len(right) - shared
    return shared / union if union else 1.0


def _dice(left: Set[object], right: Set[object]) -> float:
    total = len(left) + len(right)
    return 2.0 * len(left & right) / total if total else 1.0


def _trigrams(text: str) -> frozenset[str]:
    """Runs of three characters of a text without spaces; a shorter text is its own."""
    if len(text) < 3:
        return frozenset((text,)) if text else frozenset()
    return frozenset(map("".join, zip(text, text[1:], text[2:], strict=False)))


def _order_similarity(left: Sequence[str], right: Sequence[str]) -> float:
    """Share of the common words that stand in one order: their longest common subsequence over their number.

    Each word counts at its first place, so the common words of one text are a permutation of the other's, and the
    subsequence is the longest increasing one.
    """
    place = {word: index for index, word in reversed(list(enumerate(right)))}
    places = [place[word] for word in dict.fromkeys(left) if word in place]
    if len(places) < 2:
        return 1.0
    tails: list[int] = []
    for position in places:
        index = bisect_left(tails, position)
        tails[index : index + 1] = [position]
    return len(tails) / len(places)


def _ratio(one: int, other: int) -> float:
    """Shorter over longer, in [0, 1]; 1 for two empty texts."""
    longer = max(one, other)
    return min(one, other) / longer if longer else 1.0
