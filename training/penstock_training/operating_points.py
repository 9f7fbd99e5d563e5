"""The knob: which λ gives ``cost``, ``balanced`` and ``quality``, and the frontier between them.

Owns the choice of guard and operating points on validation data. It sees estimates and outcomes, never prompts, and
decides only through `penstock_training.decisions.decide_rows`, the vectorised policy. Read `choose_knob` first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.manifest import FrontierPoint, Measured
from penstock_routers.policy import Tradeoff
from penstock_training.decisions import EstimateArrays, decide_rows
from penstock_training.intervals import GroupBootstrap

FloatArray = NDArray[np.float64]

COST_SHARE: Final = 0.95  # of the best arm's quality that ``cost`` must keep
BALANCED_SHARE: Final = 0.99
LOWER_QUANTILE: Final = 0.05  # of the bootstrap: the share must hold with 95 % confidence, not on average
GUARD_CANDIDATES: Final = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
# From where nothing is worth a saving to where no quality is: λ multiplies a cost relative to the dearest arm's.
COST_WEIGHTS: Final = (0.0, *(float(w) for w in np.geomspace(2e-3, 2e1, 81)), math.inf)
MAX_FRONTIER_POINTS: Final = 24


@dataclass(frozen=True, slots=True)
class Trial:
    """Prompts with estimates and outcomes of every arm.

    Attributes
    ----------
    estimates : EstimateArrays
        n prompts, m arms, expected costs in USD; its reference arm is the default arm.
    score, cost_usd : ndarray of float64, shape (n, m)
        What happened.
    groups : ndarray of int64, shape (n,)
        Question groups, the unit of the bootstrap.
    cost_scale_usd, novelty_max : float
        As for the policy.
    """

    estimates: EstimateArrays
    score: FloatArray
    cost_usd: FloatArray
    groups: NDArray[np.int64]
    cost_scale_usd: float
    novelty_max: float

    def chosen(self, tradeoff: Tradeoff) -> FloatArray:
        """Score and cost of the arms chosen at a setting, (n, 2)."""
        decisions = decide_rows(
            self.estimates, tradeoff, cost_scale_usd=self.cost_scale_usd, novelty_max=self.novelty_max
        )
        rows = np.arange(self.score.shape[0])
        return np.column_stack([self.score[rows, decisions.chosen], self.cost_usd[rows, decisions.chosen]])

    @property
    def reference(self) -> int:
        """Index of the default arm."""
        return self.estimates.arms.index(self.estimates.reference_arm)


@dataclass(frozen=True, slots=True)
class Knob:
    """What was chosen.

    Attributes
    ----------
    guard_z : float
    tradeoffs : tuple of Tradeoff
        ``cost``, ``balanced``, ``quality``.
    frontier : tuple of FrontierPoint
    """

    guard_z: float
    tradeoffs: tuple[Tradeoff, Tradeoff, Tradeoff]
    frontier: tuple[FrontierPoint, ...]


def choose_knob(trial: Trial, *, resamples: int, seed: int, guard_z_min: float = 0.0) -> Knob:
    """Choose guard, operating points and frontier on validation prompts.

    Parameters
    ----------
    trial : Trial
        At least one prompt.
    resamples, seed : int
        Of the bootstrap over question groups.
    guard_z_min : float
        Smaller guards are not tried.

    Returns
    -------
    Knob

    Notes
    -----
    Guard: the largest z of `GUARD_CANDIDATES` whose curve is not worse than the best one's by more than one standard
    error of the difference (the one-standard-error rule): caution is free up to there. ``quality`` is λ = 0.
    ``balanced`` and ``cost``: λ is raised step by step from 0 as long as the bootstrap's lower bound of (quality -
    share · best arm's quality) stays at or above 0, and the last such λ is taken. Stopping at the first failure
    makes this a fixed-sequence test, so trying many λ does not raise the error above 5 %.

    References
    ----------
    Angelopoulos et al., "Learn then Test" (arXiv 2110.01052), section 3.2: fixed sequence testing; ours uses a
    percentile bootstrap over groups instead of their concentration bounds, because scores of one question are
    dependent.
    """
    guard_z = _choose_guard(trial, resamples, seed, guard_z_min)
    columns = [trial.chosen(Tradeoff("sweep", weight, guard_z)) for weight in COST_WEIGHTS]
    best = int(trial.score.mean(axis=0).argmax())
    scores = np.column_stack([c[:, 0] for c in columns] + [trial.score[:, best]])
    bootstrap = GroupBootstrap(scores, trial.groups, resamples=resamples, seed=seed)
    balanced = _last_validated(bootstrap.draws, BALANCED_SHARE)
    cheap = max(_last_validated(bootstrap.draws, COST_SHARE), balanced)
    tradeoffs = (
        Tradeoff("cost", COST_WEIGHTS[cheap], guard_z),
        Tradeoff("balanced", COST_WEIGHTS[balanced], guard_z),
        Tradeoff("quality", 0.0, guard_z),
    )
    cost = np.array([c[:, 1].mean() for c in columns]) / trial.cost_usd[:, trial.reference].mean()
    return Knob(guard_z, tradeoffs, trace_frontier(COST_WEIGHTS, bootstrap.means[:-1], cost))


def trace_frontier(
    cost_weights: Sequence[float], quality: FloatArray, relative_cost: FloatArray
) -> tuple[FrontierPoint, ...]:
    """Turn a sweep over λ into the knob's positions.

    Parameters
    ----------
    cost_weights : sequence of float
        Rising, from 0 to ``inf``.
    quality, relative_cost : ndarray, shape (k,)
        What each λ yielded.

    Returns
    -------
    tuple of FrontierPoint
        From λ = ∞ at position 0 to λ = 0 at position 1. Position is the share of the way from the first point's quality
        to the last one's; points that do not raise it are left out.
    """
    last = len(cost_weights) - 1
    start, span = float(quality[last]), float(quality[0] - quality[last])
    points = [FrontierPoint(0.0, None, start, float(relative_cost[last]))]
    for index in range(last - 1, 0, -1):
        position = (float(quality[index]) - start) / span if span > 0 else 0.0
        if points[-1].position + 1.0 / MAX_FRONTIER_POINTS <= position < 1.0:
            point = (float(cost_weights[index]), float(quality[index]), float(relative_cost[index]))
            points.append(FrontierPoint(round(position, 6), *point))
    points.append(FrontierPoint(1.0, 0.0, float(quality[0]), float(relative_cost[0])))
    return tuple(points)


def measure(trial: Trial, tradeoff: Tradeoff, *, resamples: int, seed: int) -> Measured:
    """Measure one setting on other prompts than it was chosen on."""
    best = int(trial.score.mean(axis=0).argmax())
    columns = np.column_stack([trial.chosen(tradeoff), trial.score[:, best], trial.cost_usd[:, trial.reference]])
    bootstrap = GroupBootstrap(columns, trial.groups, resamples=resamples, seed=seed)
    interval = bootstrap.interval(lambda means: float(means[0]))
    return Measured(
        quality=interval.value,
        quality_low=interval.low,
        quality_high=interval.high,
        relative_cost=float(bootstrap.means[1] / bootstrap.means[3]),
        share_of_best=float(bootstrap.means[0] / max(bootstrap.means[2], 1e-12)),
        prompts=trial.score.shape[0],
    )


def _choose_guard(trial: Trial, resamples: int, seed: int, least: float) -> float:
    """Largest z within one standard error of the best; curves are compared by mean regret over λ."""
    weights = COST_WEIGHTS[:-1:4]
    candidates = [z for z in GUARD_CANDIDATES if z >= least] or [least]
    columns = []
    for z in candidates:
        utility = np.zeros(trial.score.shape[0])
        for weight in weights:
            score, cost = trial.chosen(Tradeoff("sweep", weight, z)).T
            utility += (score - weight * cost / trial.cost_scale_usd) / (1.0 + weight)
        columns.append(utility / len(weights))
    bootstrap = GroupBootstrap(np.column_stack(columns), trial.groups, resamples=resamples, seed=seed)
    best = int(bootstrap.means.argmax())
    difference = bootstrap.draws - bootstrap.draws[:, [best]]
    allowed = bootstrap.means - bootstrap.means[best] >= -difference.std(axis=0) - 1e-12
    return max(z for z, is_allowed in zip(candidates, allowed, strict=True) if is_allowed)


def _last_validated(draws: FloatArray, share: float) -> int:
    """Index of the largest λ up to which the lower bound holds; 0 when it never does."""
    margin = draws[:, :-1] - share * draws[:, [-1]]
    holds = np.quantile(margin, LOWER_QUANTILE, axis=0) >= 0.0
    return int(np.argmin(np.append(holds, False))) - 1 if holds[0] else 0
