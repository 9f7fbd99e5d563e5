"""The pair model and the word weights: what makes two near texts have the same answer.

Owns their fitting and the model's ONNX graph. Chooses no threshold. Read `fit_pair_model`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock_cache.guards.signature import PromptSignature
from penstock_cache.pair_features import FEATURE_NAMES
from penstock_cache.word_evidence import WORD_FEATURE_NAMES, WordEvidence
from penstock_routers.manifest import TensorSpec
from penstock_routers.onnx_session import create_session
from penstock_training.cache_rule.pair_table import PairTable
from penstock_training.errors import TrainingError
from penstock_training.families.trees import Trees, collect_trees
from penstock_training.graph import GraphBuilder

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.float64]

FOLDS: Final = 4
MIN_WORD_COUNT: Final = 4
"""Pairs in which a word must stand on one side only before it gets a weight of its own."""

MAX_PAIRS: Final = 40_000
"""Pairs of one set that trees are grown on; of more, so many are drawn. Word weights are counted over all of them."""

_RARE_COUNT: Final = 3
_UNKNOWN_WEIGHT: Final = 2.0  # of a word never seen, where no word was rare
_SETTINGS: Final[dict[str, Any]] = {
    "max_iter": 220,
    "learning_rate": 0.06,
    "max_leaf_nodes": 12,
    "min_samples_leaf": 40,
    "l2_regularization": 2.0,
}
_RISING: Final = ("cosine", "verify_cosine")


@dataclass(frozen=True, slots=True)
class FittingSet:
    """A table with the texts of it that may be fitted on.

    Attributes
    ----------
    table : PairTable
    rows : ndarray of int64
        Pairs with both texts among them are used.
    weight : float
        Of each pair.
    """

    table: PairTable
    rows: NDArray[np.int64]
    weight: float = 1.0

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and column of every pair that is fitted on: near, not vetoed, both texts inside."""
        inside = np.zeros(len(self.table.texts), dtype=np.bool_)
        inside[self.rows] = True
        usable = self.table.is_near & ~self.table.is_vetoed & inside[:, None] & inside[self.table.neighbours]
        found = np.argwhere(usable)
        return found[:, 0], found[:, 1]


class PairScorer(Protocol):
    """What gives pairs their probability: a fitted model, or one read back from a rule."""

    @property
    def words(self) -> WordEvidence:
        """The word weights that go with it."""
        ...

    def graph(self) -> bytes:
        """Return the ONNX graph."""
        ...


def open_scorer(scorer: PairScorer) -> Callable[[Float32Array], FloatArray]:
    """Open a scorer's graph: from features, (n, f), to probabilities of the same answer, (n,), as serving gets them."""
    session = create_session(scorer.graph())

    def probabilities(features: Float32Array) -> FloatArray:
        return session.run({"features": np.ascontiguousarray(features, dtype=np.float32)})[0].astype(np.float64)

    return probabilities


@dataclass(frozen=True, slots=True)
class PairModelFit:
    """A fitted pair model.

    Attributes
    ----------
    trees : Trees
    baseline : float
        Log-odds before any tree.
    words : WordEvidence
    pairs, same : int
        Pairs fitted on, and those of one group.
    """

    trees: Trees
    baseline: float
    words: WordEvidence
    pairs: int
    same: int

    def graph(self) -> bytes:
        """Return the model as an ONNX graph: ``features`` (n, f) to ``probability`` (n,)."""
        builder = GraphBuilder()
        sums = self.trees.add_nodes(builder, "features", 1)
        shifted = builder.op("Add", sums, builder.constant([self.baseline]))
        flat = builder.op("Reshape", builder.op("Sigmoid", shifted), builder.constant([-1], np.int64))
        builder.output("probability", flat)
        return builder.model(
            "pair_model",
            [TensorSpec("features", "float32", ("n", len(FEATURE_NAMES) + len(WORD_FEATURE_NAMES)))],
            [TensorSpec("probability", "float32", ("n",))],
        )


def fit_pair_model(sets: Sequence[FittingSet], *, seed: int = 0) -> PairModelFit:
    """Fit word weights and pair model.

    Parameters
    ----------
    sets : sequence of FittingSet
    seed : int

    Returns
    -------
    PairModelFit

    Raises
    ------
    TrainingError
        Code ``cache_texts_no_pairs``: no near pairs, or all of them with one label.

    Notes
    -----
    Word weights are log-odds with one added to every count, ``log P(word on one side | another answer) − log P(… | same
    answer)``; the model sees weights that were counted on other folds of the texts' blocks than the pair's own, so that
    it does not learn to trust them too much. Every pair is seen twice, with and without the second encoder's cosine:
    without it the model decides who is worth that encoder. Gradient-boosted trees (Friedman 2001, as in scikit-learn).
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    features, labels, weights = [], [], []
    listed = [_listed(fitting, seed) for fitting in sets]
    for pairs in listed:
        table, drawn = pairs.fitting.table, pairs.draw(MAX_PAIRS, seed)
        rows, columns = pairs.rows[drawn], pairs.columns[drawn]
        words = pairs.word_features(drawn)
        for block in (shared := table.features[rows, columns], without_verifier(shared)):
            features.append(np.hstack([block, words]))
            labels.append(table.is_same[rows, columns])
            weights.append(np.full(len(words), pairs.fitting.weight))
    columns, target = np.vstack(features), np.concatenate(labels)
    if np.unique(target).size < 2:
        raise TrainingError(
            "the texts hold no near pair with the same answer, or none with another one, so nothing could be told "
            "apart; add other wordings and near-misses",
            code="cache_texts_no_pairs",
        )
    names = [*FEATURE_NAMES, *WORD_FEATURE_NAMES]
    model = HistGradientBoostingClassifier(
        **_SETTINGS, monotonic_cst=[1 if name in _RISING else 0 for name in names], random_state=seed
    )
    model.fit(columns, target, sample_weight=np.concatenate(weights))
    word_weights, unknown = _weights(_Counts.of(counts for pairs in listed for counts in pairs.counts))
    return PairModelFit(
        trees=collect_trees([model]),
        baseline=float(np.ravel(model._baseline_prediction)[0]),
        words=WordEvidence(word_weights, unknown),
        pairs=len(target) // 2,
        same=int(target.sum()) // 2,
    )


def without_verifier(features: Float32Array) -> Float32Array:
    """Return pair features as they are before the second encoder is asked, shape (n, f)."""
    masked = features.copy()
    masked[:, [FEATURE_NAMES.index("verify_cosine"), FEATURE_NAMES.index("has_verify_cosine")]] = 0.0
    return masked


@dataclass(slots=True)
class _Counts:
    """In how many pairs of the same, and of another, answer each word stands on one side only."""

    same: Counter[str]
    other: Counter[str]
    same_pairs: int = 0
    other_pairs: int = 0

    @classmethod
    def of(cls, parts: Iterable[_Counts]) -> _Counts:
        total = cls(Counter(), Counter())
        for part in parts:
            total.same.update(part.same)
            total.other.update(part.other)
            total.same_pairs += part.same_pairs
            total.other_pairs += part.other_pairs
        return total


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The pairs of one fitting set with the fold that each belongs to."""

    fitting: FittingSet
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    folds: NDArray[np.int64]
    counts: list[_Counts]

    def signatures(self, number: int) -> tuple[PromptSignature, PromptSignature]:
        table, row = self.fitting.table, self.rows[number]
        return table.signatures[row], table.signatures[table.neighbours[row, self.columns[number]]]

    def draw(self, most: int, seed: int) -> NDArray[np.int64]:
        """Return the numbers of at most so many pairs."""
        count = len(self.rows)
        if count <= most:
            return np.arange(count)
        return np.sort(np.random.default_rng(seed).permutation(count)[:most])

    def word_features(self, drawn: NDArray[np.int64]) -> Float32Array:
        """Return word evidence of some pairs by counts of the other folds, shape (p, w)."""
        found = np.zeros((len(drawn), len(WORD_FEATURE_NAMES)), dtype=np.float32)
        for fold in range(FOLDS):
            others = [counts for number, counts in enumerate(self.counts) if number != fold]
            evidence = WordEvidence(*_weights(_Counts.of(others)))
            for place in np.flatnonzero(self.folds[drawn] == fold).tolist():
                found[place] = evidence.features(*self.signatures(drawn[place]))
        return found


def _listed(fitting: FittingSet, seed: int) -> _Pairs:
    """List the pairs of a set, with the words that stand on one side only counted by fold of the texts' blocks."""
    blocks = fitting.table.texts.blocks
    rows, columns = fitting.pairs()
    folds = np.random.default_rng(seed).integers(0, FOLDS, int(blocks.max()) + 1)[blocks[rows]]
    pairs = _Pairs(fitting, rows, columns, folds, [_Counts(Counter(), Counter()) for _ in range(FOLDS)])
    is_same = fitting.table.is_same[rows, columns].tolist()
    for number, fold in enumerate(folds.tolist()):
        one, other = pairs.signatures(number)
        counts = pairs.counts[fold]
        if is_same[number]:
            counts.same.update(one.words ^ other.words)
            counts.same_pairs += 1
        else:
            counts.other.update(one.words ^ other.words)
            counts.other_pairs += 1
    return pairs


def _weights(counts: _Counts) -> tuple[dict[str, float], float]:
    """Return the weight of every word that was seen often enough, and that of all others."""

    def weight(same: float, other: float) -> float:
        return float(
            np.log((other + 1.0) / (counts.other_pairs + 2.0)) - np.log((same + 1.0) / (counts.same_pairs + 2.0))
        )

    words = set(counts.same) | set(counts.other)
    rare = [word for word in words if counts.same[word] + counts.other[word] <= _RARE_COUNT]
    rare_same, rare_other = sum(counts.same[word] for word in rare), sum(counts.other[word] for word in rare)
    unknown = weight(rare_same, rare_other) if rare else _UNKNOWN_WEIGHT
    known = {
        word: round(weight(counts.same[word], counts.other[word]), 3)
        for word in sorted(words)
        if counts.same[word] + counts.other[word] >= MIN_WORD_COUNT
    }
    return known, round(unknown, 3)
