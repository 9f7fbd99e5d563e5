"""Semantic hits without the second encoder, with it where it can matter, and with it always.

Not run alone; ``bench/adaptive_encoder.py`` prints it. Read `measure_hits`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock_cache.pair_features import FEATURE_NAMES
from penstock_training.cache_rule.calibrate import MAX_FALSE_SHARE, THRESHOLDS, halves
from penstock_training.cache_rule.certify import certify
from penstock_training.cache_rule.pair_model import PairScorer, open_scorer
from penstock_training.cache_rule.pair_table import PairTable
from penstock_training.cache_rule.scoring import score_pairs
from penstock_training.cache_rule.streams import CANDIDATES, Neighbourhood, replay

FloatArray = NDArray[np.float64]
BUDGET = 0.01
"""False hits per request."""


@dataclass(frozen=True)
class CachedStream:
    """What one order of one set gives for one way.

    Attributes
    ----------
    hits, false_hits : float
        Per request.
    asked : float
        Share of requests for which the second encoder ran.
    agreement : float
        Share of requests with the verdict, hit or miss, of the way that always asks.
    """

    hits: float
    false_hits: float
    asked: float
    agreement: float


def measure_hits(
    table: PairTable, scorer: PairScorer, min_plausible: float, seed: int, budget: float = BUDGET
) -> dict[str, CachedStream]:
    """Send one half of a set through a cache that starts empty, in every way; thresholds are certified on the other.

    Parameters
    ----------
    table : PairTable
    scorer : PairScorer
        The pair model.
    min_plausible : float
        Probability without the second encoder under which it is not asked.
    seed : int
        Of the halves and of the order.
    budget : float

    Returns
    -------
    dict of str to CachedStream
        ``static``, ``adaptive``, ``possible``, ``always``. What ``cache.verifier_use`` calls ``never`` is ``static``,
        and its ``always`` is ``possible``: about all that no guard forbids and that could reach the threshold, with
        the hits of asking about everything.
    """
    calibration, test = halves(table.texts, 0.5, seed)
    draws = np.random.default_rng(1000 + seed)
    calibration_order, order = draws.permutation(calibration), draws.permutation(test)
    scores = score_pairs(table, scorer, np.arange(len(table.texts)))
    most = _most(table, scorer)
    worlds = {
        "static": Neighbourhood(table.neighbours, scores.plausible, table.texts.groups),
        "adaptive": scores.world(table, min_plausible),
        "possible": scores.world(table),
        "always": scores.world(table),
    }
    thresholds = {name: _certified(world, calibration_order, budget) for name, world in worlds.items()}
    plausible = scores.plausible >= min_plausible
    asks = {
        "static": np.zeros_like(plausible),
        "adaptive": plausible & (most >= thresholds["adaptive"]),
        "possible": most >= thresholds["possible"],
        "always": np.ones_like(plausible),
    }
    runs = {name: _stream(worlds[name], order, thresholds[name], asks[name]) for name in worlds}
    wanted = runs["always"][0]
    return {
        name: CachedStream(float(hit.mean()), float(false.mean()), float(asked.mean()), float((hit == wanted).mean()))
        for name, (hit, false, asked) in runs.items()
    }


def _most(table: PairTable, scorer: PairScorer) -> FloatArray:
    """What a pair could score if the second encoder found no difference."""
    judged = table.is_near & ~table.is_vetoed
    words = table.word_features(np.arange(len(table.texts)), scorer.words)[judged]
    features = table.features[judged].copy()
    features[:, FEATURE_NAMES.index("verify_cosine")] = 1.0
    features[:, FEATURE_NAMES.index("has_verify_cosine")] = 1.0
    found = np.full(judged.shape, -np.inf)
    found[judged] = open_scorer(scorer)(np.hstack([features, words]))
    return found


def _certified(world: Neighbourhood, order: NDArray[np.int64], budget: float) -> float:
    run = replay(world, order, THRESHOLDS)
    hits, false_hits = run.is_hit.sum(axis=1), run.is_false.sum(axis=1)
    found = certify(THRESHOLDS, len(order), hits, false_hits, budget=budget, max_false_share=MAX_FALSE_SHARE)
    return np.inf if found.threshold is None else found.threshold


def _stream(
    world: Neighbourhood, order: NDArray[np.int64], threshold: float, asks: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Replay at one threshold: hits, false hits, and for which requests the second encoder ran."""
    run = replay(world, order, np.array([threshold]))
    hit, false = run.is_hit[0], run.is_false[0]
    cached = np.zeros(len(world.groups), dtype=np.bool_)
    asked = np.zeros(len(order), dtype=np.bool_)
    for moment, row in enumerate(order.tolist()):
        if cached[row]:
            continue
        present = cached[world.neighbours[row]]
        judged = present & (np.cumsum(present) <= CANDIDATES)
        asked[moment] = bool((judged & asks[row]).any())
        cached[row] = not hit[moment]
    return hit, false, asked
