"""From texts whose right answers are known to a decision rule: fit, screen, certify.

Owns the order of the steps and which texts are used for which. Read `fit_rule`, then `calibrate_rule`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_cache.categories import DEFAULT_POLICIES
from penstock_cache.rule import POOLED, OperatingPoint, OtherUse, RuleMode
from penstock_training.cache_rule.certify import DELTA, Certificate, certify
from penstock_training.cache_rule.pair_model import FittingSet, PairModelFit, PairScorer, fit_pair_model
from penstock_training.cache_rule.pair_table import PairTable
from penstock_training.cache_rule.scoring import PairScores, score_pairs
from penstock_training.cache_rule.streams import replay
from penstock_training.cache_rule.texts import TextSet

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

BUDGETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)
"""False hits per request that are tried, the budgets of the default policies among them."""

MAX_FALSE_SHARE: Final = 0.03
"""Most false hits per hit, estimated: within a budget per request a rare category could be wrong every other time."""

THRESHOLDS: Final = np.concatenate(
    [np.arange(0.999, 0.95, -0.001), np.arange(0.95, 0.9, -0.005), np.arange(0.9, 0.3, -0.02)]
)
"""Probabilities that are tried, strictest first, close together where small budgets are decided; fixed before any
calibration stream is looked at."""

MIN_COSINE: Final = 0.45
PLAUSIBLE_LOSS: Final = 0.02
"""Share of the true hits that may be lost by not asking the second encoder about implausible pairs."""

MIN_CATEGORY_TEXTS: Final = 300
"""Texts below which a category gets no operating point of its own: with fewer, not even zero errors certify 1 %."""


@dataclass(frozen=True, slots=True)
class RuleCalibration:
    """A rule before it is written.

    Attributes
    ----------
    min_cosine, min_plausible, plausible_miss_rate : float
    points : list of OperatingPoint
    other_uses : sequence of OtherUse
        All as in `penstock_cache.rule.RuleManifest`.
    """

    min_cosine: float
    min_plausible: float
    plausible_miss_rate: float
    points: list[OperatingPoint]
    other_uses: Sequence[OtherUse] = ()


def halves(texts: TextSet, share: float, seed: int) -> tuple[IntArray, IntArray]:
    """Part a set's rows into two, blocks kept together.

    Parameters
    ----------
    texts : TextSet
    share : float, in (0, 1)
        Of the blocks that go to the first part.
    seed : int

    Returns
    -------
    first, second : ndarray of int64
    """
    blocks = np.random.default_rng(seed).permutation(int(texts.blocks.max()) + 1)
    is_first = np.isin(texts.blocks, blocks[: round(share * len(blocks))])
    return np.flatnonzero(is_first), np.flatnonzero(~is_first)


def fit_rule(
    parts: Sequence[tuple[PairTable, IntArray]], *, weights: Mapping[str, float], seed: int = 0
) -> PairModelFit:
    """Fit the pair model on the given rows of some tables; `weights` by set name, 1 by default."""
    return fit_pair_model(
        [FittingSet(table, rows, weights.get(table.texts.name, 1.0)) for table, rows in parts], seed=seed
    )


def calibrate_rule(
    model: PairScorer,
    parts: Sequence[tuple[PairTable, IntArray]],
    *,
    mode: RuleMode = "semantic",
    budgets: Sequence[float] = BUDGETS,
    max_false_share: float = MAX_FALSE_SHARE,
    margin: float = 1.0,
    by_category: bool = True,
    min_plausible: float | None = None,
    seed: int = 0,
) -> RuleCalibration:
    """Find the operating points of a model.

    Parameters
    ----------
    model : PairScorer
    parts : sequence of (PairTable, ndarray of int64)
        Tables with the rows that form the calibration streams; none of them was fitted on.
    mode : str
    budgets : sequence of float
    max_false_share : float
    margin : float, in (0, 1]
        Share of each budget that is certified; below 1 where the rule is meant for other traffic than the streams'.
    by_category : bool
        Give large categories points of their own.
    min_plausible : float, optional
        Kept as it is instead of found, where points that were certified with it are kept.
    seed : int
        Of the streams' order.

    Returns
    -------
    RuleCalibration
        With one point per budget for all categories together, and for each that has `MIN_CATEGORY_TEXTS`.
    """
    scored = [(table, rows, score_pairs(table, model, rows)) for table, rows in parts]
    categories = [None, *(_large_categories(parts) if by_category else ())]

    def points_of(counts: StreamCounts) -> list[OperatingPoint]:
        return [
            _point(name or POOLED, mode, budget, certify_budget(counts, name, margin * budget, max_false_share))
            for name in categories
            for budget in budgets
        ]

    def reference_of(counts: StreamCounts) -> float | None:
        return certify_budget(counts, None, max(budgets), max_false_share).threshold

    always, never = _count(scored, 0.0, seed), _count(_unverified(scored), 0.0, seed)
    reference = reference_of(always)
    served = _true_pairs_served(scored, float(THRESHOLDS[-1] if reference is None else reference))
    if min_plausible is None:
        min_plausible = _plausible(served)
    alone = reference_of(never)
    uses = [
        OtherUse("always", 0.0, points_of(always)),
        OtherUse("never", _lost(served, np.inf if alone is None else alone), points_of(never)),
    ]
    points = points_of(_count(scored, min_plausible, seed))
    return RuleCalibration(MIN_COSINE, min_plausible, _lost(served, min_plausible), points, uses)


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """What calibration streams showed, by category and threshold.

    Attributes
    ----------
    requests : dict of str to int
    hits, false_hits : dict of str to ndarray of int64, shape (t,)
    """

    requests: dict[str, int]
    hits: dict[str, IntArray]
    false_hits: dict[str, IntArray]


def certify_budget(counts: StreamCounts, category: str | None, budget: float, max_false_share: float) -> Certificate:
    """Certify one budget for a category, or for all together with None."""
    names = list(counts.requests) if category is None else [category]
    return certify(
        THRESHOLDS,
        sum(counts.requests[name] for name in names),
        np.sum([counts.hits[name] for name in names], axis=0),
        np.sum([counts.false_hits[name] for name in names], axis=0),
        budget=budget,
        max_false_share=max_false_share,
    )


def _count(scored: Sequence[tuple[PairTable, IntArray, PairScores]], min_plausible: float, seed: int) -> StreamCounts:
    counts = StreamCounts({}, {}, {})
    for table, rows, scores in scored:
        order = np.random.default_rng(seed).permutation(rows)
        found = replay(scores.world(table, min_plausible), order, THRESHOLDS)
        categories = np.array(table.texts.categories)[order]
        for category in np.unique(categories).tolist():
            here = categories == category
            zero = np.zeros(len(THRESHOLDS), dtype=np.int64)
            counts.requests[category] = counts.requests.get(category, 0) + int(here.sum())
            counts.hits[category] = counts.hits.get(category, zero) + found.is_hit[:, here].sum(axis=1)
            counts.false_hits[category] = counts.false_hits.get(category, zero) + found.is_false[:, here].sum(axis=1)
    return counts


def _unverified(
    scored: Sequence[tuple[PairTable, IntArray, PairScores]],
) -> list[tuple[PairTable, IntArray, PairScores]]:
    """Take what the model says without the second encoder for its last word."""
    return [(table, rows, replace(scores, full=scores.plausible)) for table, rows, scores in scored]


def _true_pairs_served(scored: Sequence[tuple[PairTable, IntArray, PairScores]], threshold: float) -> FloatArray:
    """Return, for the true pairs that reach a threshold with the second encoder, the probability without it."""
    return np.concatenate([scores.plausible[(scores.full >= threshold) & table.is_same] for table, _, scores in scored])


def _plausible(served: FloatArray) -> float:
    """Return the plausibility that loses `PLAUSIBLE_LOSS` of them."""
    return float(np.floor(np.quantile(served, PLAUSIBLE_LOSS) * 1000.0) / 1000.0) if served.size else 0.0


def _lost(served: FloatArray, least: float) -> float:
    """Return the share that stays below a probability."""
    return float((served < least).mean()) if served.size else 0.0


def _large_categories(parts: Sequence[tuple[PairTable, IntArray]]) -> list[str]:
    names = np.concatenate([np.array(table.texts.categories)[rows] for table, rows in parts])
    found, sizes = np.unique(names, return_counts=True)
    known = {str(name): int(size) for name, size in zip(found, sizes, strict=True) if str(name) in DEFAULT_POLICIES}
    return [name for name, size in known.items() if size >= MIN_CATEGORY_TEXTS]


def _point(category: str, mode: RuleMode, budget: float, certificate: Certificate) -> OperatingPoint:
    return OperatingPoint(
        category=category,
        mode=mode,
        budget=budget,
        threshold=certificate.threshold,
        requests=certificate.requests,
        hits=certificate.hits,
        false_hits=certificate.false_hits,
        false_hit_rate_upper=round(certificate.false_hit_rate_upper, 6),
        delta=DELTA,
    )
