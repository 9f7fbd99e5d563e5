"""How the search judges a router: one number from out-of-fold predictions, with a paired bootstrap.

Owns the metrics by name, the sweep of decisions behind them, and what counts as the constant router. Must not fit
anything or choose between candidates. Read `Judge`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock_training.bandit.pseudo import pseudo_outcomes
from penstock_training.calibration import fit_calibration
from penstock_training.errors import TrainingError
from penstock_training.families.head import FloatArray, IndexArray, PromptInputs
from penstock_training.fit import MIN_COMPLETE_PROMPTS, Corpus, cost_scale_usd, mean_output_tokens
from penstock_training.frame import fit_lengths
from penstock_training.intervals import GroupBootstrap
from penstock_training.metrics import Curve, average_improvement, concave_hull, upper_envelope
from penstock_training.operating_points import COST_WEIGHTS

METRICS: Final[Mapping[str, str]] = {
    "area": "mean quality over the range of costs from the cheapest to the best arm",
    "aiq": "mean quality of the non-decreasing concave hull over the same range",
    "cost95": "cost of 95 % of the best arm's quality, relative to that arm",
    "cost99": "cost of 99 % of the best arm's quality, relative to that arm",
    "brier": "mean squared error of calibrated quality",
}
_FALLING: Final = ("cost95", "cost99", "brier")  # the smaller the better
_SHARES: Final = {"cost95": 0.95, "cost99": 0.99}
_WEIGHTS: Final = (*COST_WEIGHTS[:-1:2], math.inf)  # every other one: curves are compared, no point is chosen


@dataclass(frozen=True, slots=True)
class Measurement:
    """A metric with its bootstrap.

    Attributes
    ----------
    value : float
        As the metric is defined.
    gain : float
        The same, signed so that more is better.
    draws : ndarray of float64, shape (resamples,)
        `gain` in each bootstrap sample; sample k is the same draw of question groups for every router.
    """

    value: float
    gain: float
    draws: FloatArray

    @property
    def standard_error(self) -> float:
        """Standard deviation of the draws."""
        return float(self.draws.std())


class Judge(Protocol):
    """What the search needs to know about the quality of predictions."""

    def measure(self, raw: FloatArray, *, is_constant: bool = False) -> Measurement:
        """Measure out-of-fold raw quality (n, m) of all prompts."""

    def is_hopeless(self, raw: FloatArray, best: FloatArray, rows: IndexArray) -> bool:
        """Whether raw quality (n, m) is surely far worse than the best so far on `rows`, the first fold."""


class RoutingJudge:
    """Measures candidates on the training prompts of one corpus.

    Parameters
    ----------
    train : Corpus
    inputs : PromptInputs
        Of its n prompts.
    reference_arm : str
        Whose typical request is the unit of cost.
    metric : str
        A name in `METRICS`.
    resamples, seed : int
        Of the bootstrap.

    Raises
    ------
    TrainingError
        ``unknown_metric``; ``too_few_prompts``: fewer than 20 prompts were scored on every arm.

    Notes
    -----
    Predictions are calibrated as serving calibrates them, then every prompt goes to the arm with the highest
    ``quality − λ · expected cost / cost scale`` for 42 λ, without guard and abstention, which are chosen later on
    validation prompts. Costs that count are those that occurred. Logs that show one arm a prompt are completed by
    doubly robust pseudo-outcomes around each arm's mean, the same for all candidates.

    Neighbouring points of a curve may be mixed at random, for every router alike: steps would be held against routers
    of few arms. The one called constant is judged at its best, any mixture of fixed arms, so by the concave hull of
    their points and of its own. Whatever looks better than that must know which arm suits the prompt. O(n m + r n) for
    r resamples.

    References
    ----------
    Area and QNC of UniRoute (arXiv 2502.08773, section 6), with lines in place of steps; AIQ and the mixture ("zero
    router") of RouterBench (arXiv 2403.12031, section 3), as in `penstock_training.metrics`.
    """

    def __init__(
        self, train: Corpus, inputs: PromptInputs, *, reference_arm: str, metric: str, resamples: int, seed: int
    ) -> None:
        matrix = train.matrix
        self._metric, self._resamples, self._seed = known_metric(metric), resamples, seed
        self._observed = matrix.score.astype(np.float64)
        self._groups = matrix.groups
        score = self._observed
        if matrix.propensity is not None:
            means = np.broadcast_to(np.nanmean(score, axis=0), score.shape)
            score = pseudo_outcomes(matrix.score, matrix.propensity, np.asarray(means))
        self._rows = np.flatnonzero(np.isfinite(score).all(axis=1))
        if self._rows.size < MIN_COMPLETE_PROMPTS:
            raise TrainingError(
                f"only {self._rows.size} training prompts were scored on every arm; {MIN_COMPLETE_PROMPTS} are needed "
                "to compare routers",
                code="too_few_prompts",
            )
        lengths = fit_lengths(inputs, np.where(train.is_free_form[:, None], matrix.output_tokens, np.nan))
        prices = np.array([train.prices[arm] for arm in matrix.arms])
        expected = matrix.prompt_tokens[:, None] * prices[:, 0] + lengths.predict(inputs) * prices[:, 1]
        expected = (expected / 1e6)[self._rows]
        written = float(mean_output_tokens(train)[matrix.arms.index(reference_arm)])
        scale = cost_scale_usd(train.prices, float(matrix.prompt_tokens.mean()), written)
        occurred = matrix.cost_usd[self._rows].astype(np.float64)
        self._score = score[self._rows]
        self._cost = np.where(np.isfinite(occurred), occurred, expected)
        self._relative_cost = expected / scale
        self._cheapest = int(self._cost.mean(axis=0).argmin())
        self._best = int(self._score.mean(axis=0).argmax())

    def measure(self, raw: FloatArray, *, is_constant: bool = False) -> Measurement:
        """Measure a candidate.

        Parameters
        ----------
        raw : ndarray of float64, shape (n, m)
            Out-of-fold raw quality of every training prompt.
        is_constant : bool
            Whether this is the constant router.

        Returns
        -------
        Measurement
        """
        quality = fit_calibration(raw, self._observed, self._groups).apply(raw)
        if self._metric == "brier":
            return self._summary(self._error_columns(quality), self._groups, is_constant)
        return self._summary(self._sweep_columns(quality[self._rows]), self._groups[self._rows], is_constant)

    def is_hopeless(self, raw: FloatArray, best: FloatArray, rows: IndexArray) -> bool:
        """Compare two candidates on one fold, before calibration.

        Parameters
        ----------
        raw, best : ndarray of float64, shape (n, m)
            Only `rows` are looked at.
        rows : ndarray of int64

        Returns
        -------
        bool
            True when `raw` is worse by more than three standard errors of the paired difference.
        """
        kept = np.isin(self._rows, rows)
        if kept.sum() < MIN_COMPLETE_PROMPTS:
            return False
        found = [self._on_fold(predicted, rows, kept) for predicted in (raw, best)]
        spread = float((found[1].draws - found[0].draws).std())
        return bool(found[1].gain - found[0].gain > 3.0 * spread > 0.0)

    def _on_fold(self, raw: FloatArray, rows: IndexArray, kept: NDArray[np.bool_]) -> Measurement:
        quality = np.clip(raw, 0.0, 1.0)
        if self._metric == "brier":
            return self._summary(self._error_columns(quality)[rows], self._groups[rows], False)
        columns = self._sweep_columns(quality[self._rows][kept], kept)
        return self._summary(columns, self._groups[self._rows][kept], False)

    def _error_columns(self, quality: FloatArray) -> FloatArray:
        """Squared errors and cells of every prompt, (n, 2)."""
        squared = np.square(quality - self._observed)
        return np.column_stack([np.nansum(squared, axis=1), np.isfinite(squared).sum(axis=1)])

    def _sweep_columns(self, quality: FloatArray, kept: NDArray[np.bool_] | slice = slice(None)) -> FloatArray:
        """Score and cost under every λ and of every arm, (r, 2 s + 2 m)."""
        score, cost, relative = self._score[kept], self._cost[kept], self._relative_cost[kept]
        rows = np.arange(score.shape[0])
        chosen = [
            (-relative if math.isinf(weight) else quality - weight * relative).argmax(axis=1) for weight in _WEIGHTS
        ]
        columns = [score[rows, arms] for arms in chosen] + [cost[rows, arms] for arms in chosen]
        return np.hstack([np.column_stack(columns), score, cost])

    def _summary(self, columns: FloatArray, groups: IndexArray, is_constant: bool) -> Measurement:
        bootstrap = GroupBootstrap(columns, groups, resamples=self._resamples, seed=self._seed)
        sign = -1.0 if self._metric in _FALLING else 1.0
        value = self._statistic(bootstrap.means, is_constant)
        draws = np.array([sign * self._statistic(draw, is_constant) for draw in bootstrap.draws])
        return Measurement(value, sign * value, draws)

    def _statistic(self, means: FloatArray, is_constant: bool) -> float:
        if self._metric == "brier":
            return float(means[0] / max(means[1], 1e-12))
        s, m = len(_WEIGHTS), self._score.shape[1]
        quality, cost = means[:s], means[s : 2 * s]
        arm_quality, arm_cost = means[2 * s : 2 * s + m], means[2 * s + m :]
        fixed = slice(None) if is_constant else [self._cheapest]
        quality, cost = np.append(quality, arm_quality[fixed]), np.append(cost, arm_cost[fixed])
        low, high = float(arm_cost[self._cheapest]), float(arm_cost[self._best])
        if self._metric in _SHARES:
            target = _SHARES[self._metric] * float(arm_quality[self._best])
            curve = concave_hull(cost, quality) if is_constant else upper_envelope(cost, quality)
            return min(_cost_of(curve, target) / max(high, 1e-300), 1.0)
        high = high if high > low else float(arm_cost.max())
        if not low < high:  # all arms cost the same: only quality is left to compare
            return float(quality.max())
        if is_constant or self._metric == "aiq":
            return average_improvement(cost, quality, low, high)
        return _area(upper_envelope(cost, quality), low, high)


def known_metric(name: str) -> str:
    """Return a metric's name.

    Raises
    ------
    TrainingError
        ``unknown_metric``.
    """
    if name not in METRICS:
        raise TrainingError(f"there is no metric {name!r}; known: {', '.join(METRICS)}", code="unknown_metric")
    return name


def _area(curve: Curve, low: float, high: float) -> float:
    """Mean quality over a range of costs, neighbouring points mixed; the curve begins at `low` or below."""
    inner = curve.cost[(curve.cost > low) & (curve.cost < high)]
    edges = np.concatenate([[low], inner, [high]])
    return float(np.trapezoid(curve.line_at(edges), edges) / (high - low))


def _cost_of(curve: Curve, target: float) -> float:
    """Lowest mean cost at which neighbouring points, mixed, reach a quality; ``inf`` when never."""
    if target > curve.quality[-1]:
        return math.inf
    return float(np.interp(target, curve.quality, curve.cost))
