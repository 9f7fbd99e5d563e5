"""Routing by the static encoder, by the transformer, and by the transformer only where the static one is unsure.

Not run alone; ``bench/adaptive_encoder.py`` prints it. Read `measure_routing`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from encoder_quality import COST_WEIGHTS, FloatArray, OutcomeSet, area_of_choices, estimated
from numpy.typing import NDArray

from penstock_training.cache_rule.certify import upper_bound

IntArray = NDArray[np.int64]
TARGETS = (0.95, 0.99)
"""Rates at which decisions are to agree with those of the transformer."""
SHOWN_WEIGHTS = (0.0, 0.03, 0.1, 0.3)
"""Relative weights of cost at which agreement and use of the transformer are counted."""
_PARTS = (0.6, 0.8)  # of the groups: to fit on, to calibrate on; the rest is asked


@dataclass(frozen=True)
class RoutedSplit:
    """What one split of one set gives for one way.

    Attributes
    ----------
    area : float
        Mean quality between the cheapest arm's cost and the best arm's.
    agreement : float
        Share of decisions that are the transformer's, over `SHOWN_WEIGHTS`.
    asked : float
        Share of prompts for which the transformer ran, over `SHOWN_WEIGHTS`.
    """

    area: float
    agreement: float
    asked: float


def measure_routing(
    outcomes: OutcomeSet, static: NDArray[np.float32], transformer: NDArray[np.float32], seed: int
) -> dict[str, RoutedSplit]:
    """Route the asked part of a set in every way.

    Parameters
    ----------
    outcomes : OutcomeSet
    static, transformer : ndarray of float32, shape (n, d)
        Unit vectors of its prompts by either encoder.
    seed : int
        Of the split.

    Returns
    -------
    dict of str to RoutedSplit
        ``static``, ``always``, and ``adaptive 0.95`` and the like: a decision of the static router is kept when the gap
        between its two best arms is at least a threshold, and made by the transformer's router otherwise. The threshold
        is the smallest at which, on the calibration part, the share of kept decisions that differ from the
        transformer's has a Clopper–Pearson upper bound (δ = .05) below 1 − the rate; one for each weight of cost.
    """
    shuffled = np.random.default_rng(seed).permutation(outcomes.groups.max() + 1)
    place = np.empty(len(shuffled))
    place[shuffled] = np.arange(len(shuffled)) / len(shuffled)
    train, held, test = (np.flatnonzero(np.digitize(place[outcomes.groups], _PARTS) == part) for part in range(3))
    known = outcomes.scores[train]
    estimates = {
        name: [_mean(*estimated(vectors[train], known, vectors[rows])) for rows in (held, test)]
        for name, vectors in (("static", static), ("always", transformer))
    }
    costs = outcomes.costs[train].mean(axis=0)
    made: dict[str, list[IntArray]] = {name: [] for name in ("static", "always", *map(_name, TARGETS))}
    kept: dict[str, list[FloatArray]] = {name: [] for name in made}
    for weight in COST_WEIGHTS:
        utility = {name: [part - weight * costs / costs.max() for part in parts] for name, parts in estimates.items()}
        choice = {name: [part.argmax(axis=1) for part in parts] for name, parts in utility.items()}
        gaps = [_gap(part) for part in utility["static"]]
        for name in ("static", "always"):
            made[name].append(choice[name][1])
            kept[name].append(np.full(len(test), name == "static"))
        for target in TARGETS:
            threshold = _threshold(gaps[0], choice["static"][0] != choice["always"][0], 1.0 - target)
            is_kept = gaps[1] >= threshold
            made[_name(target)].append(np.where(is_kept, choice["static"][1], choice["always"][1]))
            kept[_name(target)].append(is_kept)
    shown = [int(np.abs(COST_WEIGHTS - weight).argmin()) for weight in SHOWN_WEIGHTS]
    return {
        name: RoutedSplit(
            area_of_choices(choices, outcomes.scores[test], outcomes.costs[test]),
            float(np.mean([choices[at] == made["always"][at] for at in shown])),
            1.0 - float(np.mean([kept[name][at] for at in shown])),
        )
        for name, choices in made.items()
    }


def _name(target: float) -> str:
    return f"adaptive {target:.2f}"


def _mean(neighbours: FloatArray, ridge: FloatArray) -> FloatArray:
    return (neighbours + np.clip(ridge, 0.0, 1.0)) / 2.0


def _gap(utility: FloatArray) -> FloatArray:
    best = np.partition(utility, -2, axis=1)
    return np.asarray(best[:, -1] - best[:, -2])


def _threshold(gaps: FloatArray, differs: NDArray[np.bool_], most: float) -> float:
    """Return the smallest gap that keeps the bound; infinity when not even the largest gaps do."""
    found = np.inf
    for candidate in np.quantile(gaps, np.linspace(1.0, 0.0, 101)):
        if upper_bound(int((differs & (gaps >= candidate)).sum()), len(gaps)) > most:
            break
        found = float(candidate)
    return found
