"""What more outcomes would buy: quality of the curve against the number of own outcomes, and whether more would pay.

Owns the curve, its intervals and the forecast. Must not fit a router: it is given a function that does. Read
`measure_learning_curve`, then `advice`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.policy import Tradeoff
from penstock_training.baselines import ArmMeans
from penstock_training.call_shares import draw_call_shares
from penstock_training.decisions import EstimateArrays
from penstock_training.errors import TrainingError
from penstock_training.evaluation import COST_WEIGHTS, prepare_trial
from penstock_training.evaluation_measures import Trial
from penstock_training.evaluation_text import interval_text, number_text
from penstock_training.intervals import Interval
from penstock_training.metrics import average_improvement, envelope_area, path_area, upper_envelope
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.progress import Progress, silent

IndexArray = NDArray[np.int64]
FitSize = Callable[[IndexArray, int, bool], EstimateArrays]
"""Fits on own outcomes and estimates the fixed test prompts: ``(own_rows, seed, with_prior) -> estimates``."""

SIZES: Final = (50, 100, 200, 400, 800, 1600, 3200)  # prompts of one's own, each scored on every arm
DRAWS: Final = 20
WORTHWHILE: Final = 0.002  # of quality averaged over budgets; less is not worth collecting for
_EXPONENTS: Final = tuple(float(c) for c in np.linspace(0.2, 1.0, 17))


@dataclass(frozen=True, slots=True)
class LearningPoint:
    """Mean over draws of one number of own outcomes.

    Attributes
    ----------
    size : int
        Prompts of one's own that were fitted on, each scored on every arm.
    has_prior : bool
    area : Interval
        Mean quality under the step envelope between the cheapest and the best arm's cost.
    gain : Interval
        Mean quality along the curve, no point selected, minus that of the constant hull (`metrics.path_area`).
    gap_recovered : Interval
        APGR.
    draws : int
    """

    size: int
    has_prior: bool
    area: Interval
    gain: Interval
    gap_recovered: Interval
    draws: int


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Points with and without prior, and what they say.

    Attributes
    ----------
    points : tuple of LearningPoint
        Without prior first, by size.
    last_doubling : Interval
        Gain at the largest size minus that at the size before, of the form that is better at the largest size.
    forecast : float
        Further gain that a power law expects from doubling the largest size; NaN with fewer than four sizes.
    constants_area : float
        Of the constant hull.
    test_prompts : int
    sentence : str
    """

    points: tuple[LearningPoint, ...]
    last_doubling: Interval
    forecast: float
    constants_area: float
    test_prompts: int
    sentence: str


@dataclass(frozen=True, slots=True)
class LearningOptions:
    """How the curve is measured.

    Attributes
    ----------
    cost_scale_usd : float
    sizes : sequence of int
        Rising; those beyond the pool are left out.
    draws : int
        Random choices of own outcomes per size.
    resamples, seed : int
        Of the bootstrap over test questions.
    priors : tuple of bool
        Which forms to fit.
    """

    cost_scale_usd: float
    sizes: Sequence[int] = SIZES
    draws: int = DRAWS
    resamples: int = 200
    seed: int = 0
    priors: tuple[bool, ...] = (False, True)


def measure_learning_curve(
    fit: FitSize,
    pool: IndexArray,
    test: OutcomeMatrix,
    options: LearningOptions,
    *,
    progress: Progress = silent,
) -> LearningCurve:
    """Fit on growing random samples of own outcomes and measure on fixed test prompts.

    Parameters
    ----------
    fit : FitSize
    pool : ndarray of int64, shape (p,)
        Rows that own outcomes are drawn from; none asks a question of the test prompts.
    test : OutcomeMatrix
        The prompts that `fit` estimates.
    options : LearningOptions
    progress : callable

    Returns
    -------
    LearningCurve

    Raises
    ------
    TrainingError
        ``too_few_prompts``: the pool is smaller than the two smallest sizes.

    Notes
    -----
    Nothing is guarded: a guard needs validation prompts, which would blur what the outcomes buy. Each bootstrap sample
    of test questions is shared by all draws and sizes. The interval of a point has the variance
    ``Var(bootstrap of the mean over draws) + Var(draws) / draws``.
    """
    sizes = [size for size in options.sizes if size <= pool.size]
    if len(sizes) < 2:
        raise TrainingError(
            f"{pool.size} own prompts are too few for a learning curve of sizes {list(options.sizes)[:2]}",
            code="too_few_prompts",
        )
    points, gains, constants, prompts = [], {}, math.nan, 0
    steps, step = len(options.priors) * len(sizes), 0
    for has_prior in options.priors:
        for size in sizes:
            progress("learning curve", step, steps)
            found = [_one_draw(fit, pool, size, draw, has_prior, test, options) for draw in range(options.draws)]
            samples = np.stack([samples for samples, _, _ in found])  # (draws, 1 + resamples, 3)
            gains[has_prior, size] = samples[:, :, 1]
            constants, prompts = found[0][1], found[0][2]
            area, gain, recovered = (_mean(samples[:, :, i]) for i in range(3))
            points.append(LearningPoint(size, has_prior, area, gain, recovered, options.draws))
            step += 1
    progress("learning curve", steps, steps)
    last = sizes[-1]
    best = max(options.priors, key=lambda prior: float(gains[prior, last][:, 0].mean()))
    doubling = _mean(gains[best, last] - gains[best, sizes[-2]])
    own = [point for point in points if point.has_prior == best]
    forecast = forecast_doubling([p.size for p in own], [p.gain.value for p in own])
    sentence = advice(own, doubling, forecast)
    return LearningCurve(tuple(points), doubling, forecast, constants, prompts, sentence)


def forecast_doubling(sizes: Sequence[int], gains: Sequence[float]) -> float:
    """Forecast what doubling the largest size adds.

    Parameters
    ----------
    sizes : sequence of int, length k
        Rising.
    gains : sequence of float, length k

    Returns
    -------
    float
        NaN with fewer than four sizes; never negative.

    Notes
    -----
    Least squares of ``gain = a - b · size^(-c)`` with b >= 0, c on a grid from 0.2 to 1; the forecast is
    ``b · (n^(-c) - (2n)^(-c))``. An extrapolation by one doubling, no more.

    References
    ----------
    Viering, Loog, "The shape of learning curves: a review" (IEEE TPAMI 45, 2023): power laws with an offset fit most
    curves.
    """
    if len(sizes) < 4:
        return math.nan
    n, y = np.asarray(sizes, dtype=np.float64), np.asarray(gains, dtype=np.float64)
    best: tuple[float, float] = (math.inf, 0.0)
    for exponent in _EXPONENTS:
        power = n**-exponent
        spread = float(np.sum((power - power.mean()) ** 2))
        slope = max(0.0, -float(np.sum((power - power.mean()) * (y - y.mean()))) / spread)
        error = float(np.sum((y - y.mean() + slope * (power - power.mean())) ** 2))
        best = min(best, (error, slope * float(n[-1] ** -exponent - (2 * n[-1]) ** -exponent)))
    return best[1]


def advice(points: Sequence[LearningPoint], doubling: Interval, forecast: float) -> str:
    """Say whether more outcomes are likely to pay.

    Parameters
    ----------
    points : sequence of LearningPoint
        One form, by size.
    doubling : Interval
        What the last doubling added.
    forecast : float
        What the next one is expected to add; may be NaN.

    Returns
    -------
    str
    """
    last = points[-1]
    measured = f"the last step, from {points[-2].size:,} to {last.size:,} prompts, added {_signed(doubling)}"
    expected = (
        ""
        if math.isnan(forecast)
        else f"; another {last.size:,} are expected to add {number_text(forecast, signed=True)}"
    )
    if last.gain.low <= 0.0 and doubling.low <= 0.0:
        return (
            f"With {last.size:,} own prompts the router is not surely better than mixing fixed arms "
            f"({_signed(last.gain)}) and {measured}: routing by prompt does not pay on this traffic, and more outcomes "
            "of this kind are unlikely to change that."
        )
    if doubling.high < WORTHWHILE or (
        not math.isnan(forecast) and forecast < WORTHWHILE and doubling.value < WORTHWHILE
    ):
        return (
            f"{last.size:,} own prompts are enough: {measured}{expected}, less than {WORTHWHILE:g} of quality averaged "
            "over budgets."
        )
    if doubling.low > 0.0:
        return f"More outcomes are likely to pay: {measured}{expected}."
    return f"More outcomes may pay, but it is not sure: {measured}{expected}."


def _one_draw(
    fit: FitSize,
    pool: IndexArray,
    size: int,
    draw: int,
    has_prior: bool,
    test: OutcomeMatrix,
    options: LearningOptions,
) -> tuple[NDArray[np.float64], float, int]:
    """Area, gain and APGR on the data and on each bootstrap sample, (1 + resamples, 3); hull area; prompts."""
    # The same draw takes nested samples, so that two sizes differ by the outcomes added and not by luck.
    rows = np.random.default_rng([options.seed, draw]).permutation(pool)[:size]
    estimates = fit(rows, options.seed + draw, has_prior)
    setting = (options.cost_scale_usd, math.inf)
    trial, _, _ = prepare_trial(estimates, test, setting, resamples=options.resamples, seed=options.seed)
    means = ArmMeans(trial.score.mean(axis=0), trial.cost_usd.mean(axis=0))
    sweep = [Tradeoff(f"{weight:g}", weight, 0.0) for weight in COST_WEIGHTS]
    columns = np.stack([trial.columns(trial.decide(t, is_guarded=False).chosen) for t in sweep], axis=2)
    bootstrap = trial.bootstrap(np.hstack([columns[:, 0], columns[:, 1], trial.score, trial.cost_usd]))
    values = [_areas(row, len(sweep), trial, means) for row in (bootstrap.means, *bootstrap.draws)]
    gain = trial.estimates.gain[:, means.best] - trial.estimates.gain[:, means.cheapest]
    won = trial.score[:, means.best] - trial.score[:, means.cheapest]
    calls = draw_call_shares(gain, won, trial.matrix.groups, resamples=options.resamples, seed=options.seed)
    apgr = np.append(calls[0][0], calls[1][:, 0])
    samples = np.column_stack([[v[0] for v in values], [v[1] - v[2] for v in values], apgr])
    return samples, values[0][2], trial.score.shape[0]


def _areas(values: NDArray[np.float64], s: int, trial: Trial, means: ArmMeans) -> tuple[float, float, float]:
    """Step area of the router, mean quality along its curve, hull area of the constants."""
    m = trial.score.shape[1]
    score, cost = values[2 * s : 2 * s + m], values[2 * s + m :]
    low, high = float(cost[means.cheapest]), float(cost[means.best])
    if not low < high:
        return math.nan, math.nan, math.nan
    x, y = np.append(values[s : 2 * s], low), np.append(values[:s], score[means.cheapest])
    area = envelope_area(upper_envelope(x, y), low, high)
    return area, path_area(x, y, low, high), average_improvement(cost, score, low, high)


def _mean(samples: NDArray[np.float64]) -> Interval:
    """Mean over draws (rows); the first column holds the data as they are, the others bootstrap samples."""
    value = float(samples[:, 0].mean())
    within = float(np.nanvar(samples[:, 1:].mean(axis=0)))
    between = float(samples[:, 0].var(ddof=1)) / samples.shape[0] if samples.shape[0] > 1 else 0.0
    half = 1.96 * math.sqrt(within + between)
    return Interval(value, value - half, value + half)


def _signed(interval: Interval) -> str:
    return interval_text(interval, signed=True)
