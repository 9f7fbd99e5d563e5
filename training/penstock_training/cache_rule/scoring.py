"""What a rule says of every pair in a table: the same numbers that serving computes.

Owns the joining of table, model and word evidence into scores for a replay. Read `score_pairs`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock_training.cache_rule.pair_model import PairScorer, open_scorer, without_verifier
from penstock_training.cache_rule.pair_table import PairTable
from penstock_training.cache_rule.streams import Neighbourhood

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PairScores:
    """Probabilities of the pairs of some texts.

    Attributes
    ----------
    full, plausible : ndarray of float64, shape (n, k)
        With and without the second encoder's cosine; minus infinity where a guard forbids the pair, it is too far, or
        the text was not asked for.
    """

    full: FloatArray
    plausible: FloatArray

    def world(self, table: PairTable, min_plausible: float = 0.0) -> Neighbourhood:
        """Return what a replay needs; pairs that are not plausible without the second encoder are never served."""
        scores = np.where(self.plausible >= min_plausible, self.full, -np.inf)
        return Neighbourhood(table.neighbours, scores, table.texts.groups)


def score_pairs(
    table: PairTable, model: PairScorer, rows: NDArray[np.int64], *, uses_guards: bool = True
) -> PairScores:
    """Score the pairs of some texts.

    Parameters
    ----------
    table : PairTable
    model : PairScorer
    rows : ndarray of int64, shape (r,)
    uses_guards : bool
        False lets the model judge pairs that a guard forbids.

    Returns
    -------
    PairScores
    """
    full, plausible = (np.full(table.cosines.shape, -np.inf) for _ in range(2))
    judged = table.is_near[rows] if not uses_guards else table.is_near[rows] & ~table.is_vetoed[rows]
    words = table.word_features(rows, model.words)[judged]
    shared = table.features[rows][judged]
    probabilities = open_scorer(model)
    for found, features in ((full, shared), (plausible, without_verifier(shared))):
        values = np.full(judged.shape, -np.inf)
        values[judged] = probabilities(np.hstack([features, words]))
        found[rows] = values
    return PairScores(full, plausible)
