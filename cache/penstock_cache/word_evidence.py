"""How much a word that only one of two prompts holds says against one answer for both: "please" nothing, "off" a lot.

Owns the features made of learned word weights. The weights are part of a decision rule; they are fitted in training.
Read `WordEvidence.features`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from penstock_cache.entries import FloatArray
from penstock_cache.guards.signature import PromptSignature

WORD_FEATURE_NAMES = ("word_largest", "word_second", "word_sum", "word_smaller_largest", "word_smaller_sum")


class WordEvidence:
    """Learned weights of words.

    Parameters
    ----------
    weights : mapping of str to float
        Log-odds, by lower-case word, that its presence on one side only means another answer.
    unknown : float
        Of every other word.
    """

    VERSION = "words1"

    def __init__(self, weights: Mapping[str, float], unknown: float) -> None:
        self.weights = dict(weights)
        self.unknown = unknown

    def features(self, one: PromptSignature, other: PromptSignature) -> FloatArray:
        """Return the features of a pair, shape (5,), the same for both orders.

        Returns
        -------
        ndarray of float32, shape (5,)
            The two largest weights of unshared words, the sum of all; and of each side's largest and each side's sum
            the smaller one, which is near zero when one prompt merely says more than the other.
        """
        return np.array(self.values(one, other), dtype=np.float32)

    def values(self, one: PromptSignature, other: PromptSignature) -> tuple[float, ...]:
        """Return what `features` returns before it is an array."""
        sides = [self._of(one.words - other.words), self._of(other.words - one.words)]
        largest = [*sorted(sides[0] + sides[1], reverse=True)[:2], 0.0, 0.0]
        tops = [max(side, default=0.0) for side in sides]
        sums = [sum(side) for side in sides]
        return largest[0], largest[1], sum(sums), min(tops), min(sums)

    def _of(self, words: frozenset[str]) -> list[float]:
        known, unknown = self.weights, self.unknown
        return [known.get(word, unknown) for word in words]
