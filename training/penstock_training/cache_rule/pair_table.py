"""Pairs of near texts with their features, the way serving computes them.

Owns the table that a rule is fitted on and judged with. Fits nothing. Read `pair_table`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock_cache.guards.agreement import compare
from penstock_cache.guards.signature import PromptSignature, signature_of
from penstock_cache.pair_features import pair_features
from penstock_cache.rule import MAX_SEMANTIC_CHARACTERS
from penstock_cache.word_evidence import WORD_FEATURE_NAMES, WordEvidence
from penstock_training.cache_rule.streams import nearest
from penstock_training.cache_rule.texts import TextSet
from penstock_training.progress import Progress, silent

Float32Array = NDArray[np.float32]

_ROWS_PER_BLOCK = 2_000
_STEP = 500

NEIGHBOURS = 24
"""Near texts that are listed for each: three times what a look-up judges, since only some are cached when it comes."""


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Texts with their vectors by both encoders.

    Attributes
    ----------
    texts : TextSet, length n
    search, verify : ndarray of float32, shapes (n, d) and (n, e)
        Of unit length.
    """

    texts: TextSet
    search: Float32Array
    verify: Float32Array

    def part(self, rows: NDArray[np.int64]) -> EncodedTexts:
        """Return some of the texts."""
        return EncodedTexts(self.texts.part(rows), self.search[rows], self.verify[rows])


@dataclass(frozen=True, slots=True)
class PairTable:
    """The pairs of every text with its near texts.

    Attributes
    ----------
    texts : TextSet, length n
    signatures : list of PromptSignature, length n
    neighbours : ndarray of int64, shape (n, k)
    cosines, verified : ndarray of float64, shape (n, k)
        By the search encoder and by the second one.
    features : ndarray of float32, shape (n, k, f)
        `pair_features` with the second encoder's cosine, without word evidence; zero where `is_near` is false.
    is_near, is_vetoed, is_same : ndarray of bool, shape (n, k)
        Cosine at or above the table's least and neither text too long; a guard forbids it; both are of one group.
    veto_names : ndarray of str, shape (n, k)
        First veto, empty without.
    """

    texts: TextSet
    signatures: list[PromptSignature]
    neighbours: NDArray[np.int64]
    cosines: NDArray[np.float64]
    verified: NDArray[np.float64]
    features: Float32Array
    is_near: NDArray[np.bool_]
    is_vetoed: NDArray[np.bool_]
    is_same: NDArray[np.bool_]

    def word_features(self, rows: NDArray[np.int64], words: WordEvidence) -> Float32Array:
        """Return the word evidence of the pairs of some texts, shape (r, k, w)."""
        found = np.zeros((len(rows), self.neighbours.shape[1], len(WORD_FEATURE_NAMES)), dtype=np.float32)
        for place, row in enumerate(rows.tolist()):
            own = self.signatures[row]
            for column in np.flatnonzero(self.is_near[row]).tolist():
                found[place, column] = words.features(own, self.signatures[self.neighbours[row, column]])
        return found


def pair_table(
    encoded: EncodedTexts, *, min_cosine: float, count: int = NEIGHBOURS, progress: Progress = silent
) -> PairTable:
    """List every text's near texts and compute the features of each pair.

    Parameters
    ----------
    encoded : EncodedTexts
    min_cosine : float
        Search cosine below which a pair is not looked at.
    count : int
        Near texts of each.
    progress : Progress

    Returns
    -------
    PairTable
    """
    texts = encoded.texts
    neighbours, cosines = nearest(encoded.search, count)
    verified = _cosines_in_blocks(encoded.verify, neighbours)
    is_short = np.array([len(text) <= MAX_SEMANTIC_CHARACTERS for text in texts.texts])
    is_near = (cosines >= min_cosine) & is_short[:, None] & is_short[neighbours]
    signatures = [signature_of(text[:MAX_SEMANTIC_CHARACTERS]) for text in texts.texts]
    first = pair_features(signatures[0], signatures[0], compare(signatures[0], signatures[0]), cosine=1.0)
    features = np.zeros((*neighbours.shape, first.size), dtype=np.float32)
    is_vetoed = np.zeros(neighbours.shape, dtype=np.bool_)
    for row in range(len(texts)):
        if row % _STEP == 0:
            progress("comparing pairs", row, len(texts))
        own = signatures[row]
        for column in np.flatnonzero(is_near[row]).tolist():
            other = signatures[neighbours[row, column]]
            report = compare(own, other)
            is_vetoed[row, column] = bool(report.vetoes)
            features[row, column] = pair_features(
                own,
                other,
                report,
                cosine=cosines[row, column],
                verify_cosine=verified[row, column],
            )
    is_same = texts.groups[neighbours] == texts.groups[:, None]
    return PairTable(texts, signatures, neighbours, cosines, verified, features, is_near, is_vetoed, is_same)


def _cosines_in_blocks(vectors: Float32Array, neighbours: NDArray[np.int64]) -> NDArray[np.float64]:
    found = np.empty(neighbours.shape)
    for start in range(0, len(vectors), _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        found[rows] = np.einsum("nd,nkd->nk", vectors[rows], vectors[neighbours[rows]])
    return found
