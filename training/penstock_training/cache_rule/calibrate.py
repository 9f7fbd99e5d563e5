"""From texts whose right answers are known to a decision rule: fit, screen, certify.

Owns the order of the steps and which texts are used for which. Read `fit_rule`, then `calibrate_rule`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_cache.categories import DEFAULT_POLICIES
from penstock_cache.rule import POOLED, OperatingPoint, RuleMode
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
        As in `penstock_cache.rule.RuleManifest`.
    points : list of OperatingPoint
    """

    min_cosine: float
    min_plausible: float
    plausible_miss_rate: float
    points: list[OperatingPoint]


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
    seed : int
        Of the streams' order.

    Returns
    -------
    RuleCalibration
        With one point per budget for all categories together, and for each that has `MIN_CATEGORY_TEXTS`.
    """
    scored = [(table, rows, score_pairs(table, model, rows)) for table, rows in parts]
    counts = _count(scored, 0.0, seed)
    pooled = certify_budget(counts, None, max(budgets), max_false_share)
    reference = THRESHOLDS[-1] if pooled.threshold is None else pooled.threshold
    min_plausible, lost = _plausible(scored, float(reference))
    counts = _count(scored, min_plausible, seed)
    points: list[OperatingPoint] = []
    for category in (None, *(_large_categories(parts) if by_category else ())):
        for budget in budgets:
            certificate = certify_budget(counts, category, margin * budget, max_false_share)
            points.append(_point(category or POOLED, mode, budget, certificate))
    return RuleCalibration(MIN_COSINE, min_plausible, lost, points)


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


def _plausible(scored: Sequence[tuple[PairTable, IntArray, PairScores]], threshold: float) -> tuple[float, float]:
    """Return the plausibility that loses `PLAUSIBLE_LOSS` of the true pairs above a threshold, and what it loses."""
    served = np.concatenate(
        [scores.plausible[(scores.full >= threshold) & table.is_same] for table, _, scores in scored]
    )
    if not served.size:
        return 0.0, 0.0
    least = float(np.floor(np.quantile(served, PLAUSIBLE_LOSS) * 1000.0) / 1000.0)
    return least, float((served < least).mean())


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
