"""What an evaluation measures: operating points, curves, constant arms, each with its bootstrap.

Owns the measurements behind `penstock_training.evaluation.evaluate`, which prepares the prompts and puts the report
together. Must not read files or decide what is reported. Read `Trial` first, then `measure_point`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.policy import Tradeoff
from penstock_training.baselines import ArmMeans, hull_quality, mixing_quality, oracle_choices, same_shares_quality
from penstock_training.call_shares import CallShares, measure_call_shares
from penstock_training.decisions import EstimateArrays, RowDecisions, decide_rows
from penstock_training.evaluation_report import (
    ArmResult,
    CurvePoint,
    CurveSummary,
    OperatingPointResult,
    PolicyResult,
    SliceResult,
)
from penstock_training.intervals import GroupBootstrap, Interval, discordant_pairs
from penstock_training.metrics import (
    average_improvement,
    brier_score,
    calibration_bins,
    calibration_places,
    concave_hull,
    envelope_area,
    expected_calibration_error,
    path_area,
    quality_neutral_cost,
    upper_envelope,
)
from penstock_training.noninferiority import NonInferiority, non_inferiority
from penstock_training.outcomes import OutcomeMatrix

FloatMatrix = NDArray[np.float64]

SLICE_MINIMUM: Final = 30  # smaller slices have intervals wider than ±0.18 and only invite stories
SLICES_SHOWN_SINGLY: Final = 8  # so few are listed one by one, however small
_REST: Final = " smaller ones"
_PRICE_ONLY_WEIGHTS: Final = (0.0, *(float(w) for w in np.geomspace(1e-2, 3e1, 22)), math.inf)
BUDGET_SHARES: Final = (0.10, 0.25, 0.50)  # of the best arm's cost
ORACLE_NOTE: Final = "reads the scores; inflated by luck, no router can reach it"


@dataclass(frozen=True, slots=True)
class Trial:
    """Prompts and arms under evaluation, and the setting that all decisions share.

    Attributes
    ----------
    matrix : OutcomeMatrix
    estimates : EstimateArrays
        Same prompts as `matrix`, arms in the order of the columns below.
    score, cost_usd : ndarray of float64, shape (n, m), finite
    cost_scale_usd, novelty_max : float
    resamples, seed : int
    """

    matrix: OutcomeMatrix
    estimates: EstimateArrays
    score: FloatMatrix
    cost_usd: FloatMatrix
    cost_scale_usd: float
    novelty_max: float
    resamples: int
    seed: int

    @property
    def default(self) -> int:
        """Index of the default arm."""
        return self.estimates.arms.index(self.estimates.reference_arm)

    def take(self, rows: NDArray[np.int64]) -> Trial:
        """Take some prompts, in the given order."""
        return replace(
            self,
            matrix=self.matrix.rows(rows),
            estimates=self.estimates.take(rows, self.estimates.arms),
            score=self.score[rows],
            cost_usd=self.cost_usd[rows],
        )

    def decide(self, tradeoff: Tradeoff, *, is_guarded: bool = True) -> RowDecisions:
        """Decide for every prompt; without guard, novel prompts are routed too."""
        novelty_max = self.novelty_max if is_guarded else math.inf
        return decide_rows(self.estimates, tradeoff, cost_scale_usd=self.cost_scale_usd, novelty_max=novelty_max)

    def columns(self, chosen: NDArray[np.int64]) -> FloatMatrix:
        """Look up score and cost of the chosen arms, (n, 2)."""
        rows = np.arange(chosen.size)
        return np.column_stack([self.score[rows, chosen], self.cost_usd[rows, chosen]])

    def bootstrap(self, columns: FloatMatrix, rows: NDArray[np.bool_] | slice = slice(None)) -> GroupBootstrap:
        """Resample columns (n, k) of all or some prompts by question group."""
        return GroupBootstrap(columns[rows], self.matrix.groups[rows], resamples=self.resamples, seed=self.seed)


# ------------------------------------------------------------------------------------------------ operating points


def price_only_columns(trial: Trial, means: ArmMeans) -> tuple[FloatMatrix, FloatMatrix]:
    """Score and cost of the router's rule when it knows prices and lengths but only each arm's mean quality.

    Parameters
    ----------
    trial : Trial
    means : ArmMeans
        Of these very prompts, which favours this baseline.

    Returns
    -------
    (ndarray, ndarray), each of shape (n, s)
        One column per weight of cost. A dear arm is tried where the request is short: a saving that needs no knowledge
        about which arm answers what.
    """
    shape = trial.score.shape
    quality = np.broadcast_to(means.score, shape)
    flat = replace(
        trial.estimates, quality=quality, gain=quality - quality[:, [trial.default]], gain_se=np.zeros(shape)
    )
    blind = replace(trial, estimates=flat)
    tradeoffs = [Tradeoff(f"{weight:g}", weight, 0.0) for weight in _PRICE_ONLY_WEIGHTS]
    columns = [trial.columns(blind.decide(tradeoff, is_guarded=False).chosen) for tradeoff in tradeoffs]
    return np.column_stack([c[:, 0] for c in columns]), np.column_stack([c[:, 1] for c in columns])


def measure_point(
    trial: Trial, tradeoff: Tradeoff, means: ArmMeans, price_only: tuple[FloatMatrix, FloatMatrix]
) -> OperatingPointResult:
    """Measure the router at one setting, against every baseline at the same mean cost."""
    decisions = trial.decide(tradeoff)
    m = len(trial.estimates.arms)
    shares = decisions.arm_shares(m)
    routed = trial.columns(decisions.chosen)
    is_chosen = np.eye(m)[decisions.chosen]
    bootstrap = trial.bootstrap(np.hstack([routed, trial.score, trial.cost_usd, is_chosen, *price_only]))
    blind = 2 + 3 * m  # first of the price-only columns
    settings = price_only[0].shape[1]
    cheapest, best = means.cheapest, means.best

    def compare(means: NDArray[np.float64]) -> list[float]:
        quality, cost = float(means[0]), float(means[1])
        arms = ArmMeans(means[2 : 2 + m], means[2 + m : 2 + 2 * m])
        return [
            quality,
            cost,
            _ratio(cost, float(arms.cost_usd[best])),
            _ratio(quality, float(arms.score[best])),
            quality - float(arms.score[cheapest]),
            quality - float(arms.score[best]),
            quality - hull_quality(arms, cost),
            quality - mixing_quality(arms, cost, cheapest=cheapest, best=best),
            quality - same_shares_quality(arms, means[2 + 2 * m : blind]),
            quality - hull_quality(_with_price_only(arms, means[blind:], settings), cost),
        ]

    found = bootstrap.intervals(compare)
    optimal_selection, oracle_gap = _measure_against_oracle(trial, decisions)
    return OperatingPointResult(
        name=tradeoff.name,
        cost_weight=tradeoff.cost_weight,
        guard_z=tradeoff.guard_z,
        quality=found[0],
        cost_usd=found[1],
        relative_cost=found[2],
        share_of_best=found[3],
        over_cheapest=found[4],
        over_best=found[5],
        over_hull=found[6],
        over_mixing=found[7],
        over_same_shares=found[8],
        over_price_only=found[9],
        arm_shares={arm: float(share) for arm, share in zip(trial.estimates.arms, shares, strict=True)},
        reason_shares=decisions.reason_shares(),
        against_default=discordant_pairs(routed[:, 0], trial.score[:, trial.default]),
        non_inferiority=_measure_no_loss(trial, decisions),
        optimal_selection=optimal_selection,
        oracle_gap=oracle_gap,
        by_category=_slices(trial, decisions, trial.matrix.categories),
        by_task=_slices(trial, decisions, trial.matrix.tasks),
        by_source=_slices(trial, decisions, trial.matrix.sources),
    )


def _measure_no_loss(trial: Trial, decisions: RowDecisions) -> NonInferiority:
    return non_inferiority(
        trial.columns(decisions.chosen)[:, 0],
        trial.score[:, trial.default],
        decisions.chosen != trial.default,
        trial.matrix.groups,
        resamples=trial.resamples,
        seed=trial.seed,
    )


def _measure_against_oracle(trial: Trial, decisions: RowDecisions) -> tuple[Interval, Interval]:
    """OptSel and Gap@O.

    References
    ----------
    Optimal selection of RouterArena (arXiv 2510.00202), with "correct" read as "scored highest, above 0"; Gap@O of
    LLMRouterBench (arXiv 2601.07206).
    """
    oracle = oracle_choices(trial.score, trial.cost_usd)
    highest = trial.score.max(axis=1)
    has_answer = highest > 0.0
    routed = trial.columns(decisions.chosen)[:, 0]
    columns = [has_answer & (decisions.chosen == oracle), has_answer, routed, highest]
    bootstrap = trial.bootstrap(np.column_stack(columns).astype(np.float64))
    found = bootstrap.intervals(
        lambda v: [_ratio(float(v[0]), float(v[1])), _ratio(float(v[3] - v[2]), float(v[3]))],
    )
    return found[0], found[1]


def _ratio(value: float, whole: float) -> float:
    """Share of `whole`, NaN where that is 0 (a free arm, a bootstrap sample without one right answer)."""
    return value / whole if whole > 0.0 else math.nan


def _with_price_only(arms: ArmMeans, blind: NDArray[np.float64], settings: int) -> ArmMeans:
    """Add the price-only points to the constant arms, so that their hull is never below the constant hull."""
    return ArmMeans(np.append(arms.score, blind[:settings]), np.append(arms.cost_usd, blind[settings:]))


def _slices(trial: Trial, decisions: RowDecisions, labels: Sequence[str]) -> tuple[SliceResult, ...]:
    """Results per label, largest first; of many labels, those with few prompts are put together, at the end."""
    names, inverse, counts = np.unique(np.asarray(labels, dtype=object), return_inverse=True, return_counts=True)
    is_small = counts < SLICE_MINIMUM
    if is_small.sum() > 1 and names.size > SLICES_SHOWN_SINGLY:
        inverse = np.where(is_small[inverse], names.size, inverse)
        names = np.append(names, f"{int(is_small.sum())}{_REST}")
    results = [_slice(trial, decisions, str(names[i]) or "(none)", inverse == i) for i in np.unique(inverse)]
    return tuple(sorted(results, key=lambda part: (part.name.endswith(_REST), -part.prompts, part.name)))


def _slice(trial: Trial, decisions: RowDecisions, name: str, rows: NDArray[np.bool_]) -> SliceResult:
    routed = trial.columns(decisions.chosen)
    default = np.column_stack([trial.score[:, trial.default], trial.cost_usd[:, trial.default]])
    bootstrap = trial.bootstrap(np.hstack([routed, default]), rows)
    quality, cost, default_quality, default_cost = (float(value) for value in bootstrap.means)
    shares = np.bincount(decisions.chosen[rows], minlength=len(trial.estimates.arms)) / rows.sum()
    return SliceResult(
        name=name,
        prompts=int(rows.sum()),
        quality=quality,
        default_quality=default_quality,
        over_default=bootstrap.interval(lambda means: float(means[0] - means[2])),
        relative_cost=_ratio(cost, default_cost),
        arm_shares={arm: float(share) for arm, share in zip(trial.estimates.arms, shares, strict=True)},
    )


# ----------------------------------------------------------------------------------------------------------- curves


def measure_curve(
    trial: Trial,
    sweep: Sequence[Tradeoff],
    means: ArmMeans,
    price_only: tuple[FloatMatrix, FloatMatrix],
    *,
    is_guarded: bool,
) -> tuple[tuple[CurvePoint, ...], CurveSummary]:
    """Measure the router over a sweep of the weight of cost."""
    chosen = [trial.decide(tradeoff, is_guarded=is_guarded).chosen for tradeoff in sweep]
    columns = np.stack([trial.columns(c) for c in chosen], axis=2)  # (n, 2, s)
    s, m = len(sweep), len(trial.estimates.arms)
    bootstrap = trial.bootstrap(np.hstack([columns[:, 0], columns[:, 1], trial.score, trial.cost_usd, *price_only]))
    qualities = bootstrap.intervals(lambda values: [float(v) for v in values[:s]])
    points = tuple(
        CurvePoint(tradeoff.cost_weight, quality, float(cost))
        for tradeoff, quality, cost in zip(sweep, qualities, bootstrap.means[s : 2 * s], strict=True)
    )

    def summarise(values: NDArray[np.float64]) -> list[float]:
        arms = ArmMeans(values[2 * s : 2 * s + m], values[2 * s + m : 2 * s + 2 * m])
        blind = _with_price_only(arms, values[2 * s + 2 * m :], price_only[0].shape[1])
        return _curve_numbers(ArmMeans(values[:s], values[s : 2 * s]), arms, blind, means)

    return points, CurveSummary(*bootstrap.intervals(summarise))


def measure_price_only_curve(trial: Trial, price_only: tuple[FloatMatrix, FloatMatrix]) -> tuple[CurvePoint, ...]:
    """Measure the points of `price_only_columns`."""
    bootstrap = trial.bootstrap(price_only[0])
    qualities = bootstrap.intervals(lambda means: [float(value) for value in means])
    costs = price_only[1].mean(axis=0)
    return tuple(
        CurvePoint(weight, quality, float(cost))
        for weight, quality, cost in zip(_PRICE_ONLY_WEIGHTS, qualities, costs, strict=True)
    )


def _curve_numbers(router: ArmMeans, arms: ArmMeans, blind: ArmMeans, fixed: ArmMeans) -> list[float]:
    """Compute the numbers of a `CurveSummary`; which arm is cheapest and best is fixed by the data as they are."""
    low, high = float(arms.cost_usd[fixed.cheapest]), float(arms.cost_usd[fixed.best])
    best_quality = float(arms.score[fixed.best])
    area = hull_area = constants = price_only = path = math.nan
    if low < high:
        # Below its cheapest point a router falls back on the cheapest arm, which it could always be set to.
        cost, quality = np.append(router.cost_usd, low), np.append(router.score, arms.score[fixed.cheapest])
        area = envelope_area(upper_envelope(cost, quality), low, high)
        hull_area = average_improvement(cost, quality, low, high)
        constants = average_improvement(arms.cost_usd, arms.score, low, high)
        price_only = average_improvement(blind.cost_usd, blind.score, low, high)
        path = path_area(cost, quality, low, high)
    envelope = upper_envelope(router.cost_usd, router.score)
    shares = (0.95, 0.99, 1.0)
    neutral = [quality_neutral_cost(envelope, best_quality, high, share) if high > 0 else math.nan for share in shares]
    affordable = upper_envelope(
        np.append(router.cost_usd, low), np.append(router.score, arms.score[fixed.cheapest])
    ).step_at([share * high for share in BUDGET_SHARES])
    return [
        area,
        hull_area,
        hull_area - constants,
        hull_area - price_only,
        *neutral,
        *affordable.tolist(),
        path - constants,
        path - price_only,
    ]


def measure_constants(
    trial: Trial, means: ArmMeans, price_only: tuple[FloatMatrix, FloatMatrix]
) -> tuple[tuple[ArmResult, ...], tuple[PolicyResult, ...], tuple[CurvePoint, ...], CurveSummary]:
    """Measure each arm used for everything, the fixed baselines, the constant hull's corners and its numbers."""
    arms, m = trial.estimates.arms, len(trial.estimates.arms)
    oracle = trial.columns(oracle_choices(trial.score, trial.cost_usd))
    bootstrap = trial.bootstrap(np.hstack([trial.score, trial.cost_usd, oracle, *price_only]))
    found = bootstrap.intervals(lambda values: [float(v) for v in values[: 2 * m + 2]])
    results = tuple(_arm_result(trial, i, found[i], found[m + i]) for i in range(m))
    cheapest, best = means.cheapest, means.best
    baselines = (
        PolicyResult("always-cheapest", found[cheapest], found[m + cheapest], arms[cheapest]),
        PolicyResult("always-best", found[best], found[m + best], arms[best]),
        PolicyResult("oracle", found[2 * m], found[2 * m + 1], ORACLE_NOTE),
    )
    hull = concave_hull(means.cost_usd, means.score)
    corners = [
        int(np.flatnonzero(means.cost_usd == cost)[means.score[means.cost_usd == cost].argmax()]) for cost in hull.cost
    ]
    points = tuple(CurvePoint(math.nan, found[i], float(means.cost_usd[i])) for i in corners)

    def summarise(values: NDArray[np.float64]) -> list[float]:
        drawn = ArmMeans(values[:m], values[m : 2 * m])
        blind = _with_price_only(drawn, values[2 * m + 2 :], price_only[0].shape[1])
        return _curve_numbers(drawn, drawn, blind, means)

    return results, baselines, points, CurveSummary(*bootstrap.intervals(summarise))


def _arm_result(trial: Trial, arm: int, quality: Interval, cost_usd: Interval) -> ArmResult:
    predicted, observed = trial.estimates.quality[:, arm], trial.score[:, arm]
    actual_cost = float(trial.cost_usd[:, arm].mean())
    place = calibration_places(predicted)
    bins = int(place.max()) + 1
    is_in = np.eye(bins)[place]
    squared = (predicted - observed) ** 2
    columns = np.column_stack([squared, is_in * (predicted - observed)[:, None]])
    # Σ_b |mean of the bin's differences| weighted by its share is Σ_b |mean over all prompts of what lies in it|.
    found = trial.bootstrap(columns).intervals(lambda means: [float(means[0]), float(np.abs(means[1:]).sum())])
    return ArmResult(
        arm=trial.estimates.arms[arm],
        quality=quality,
        cost_usd=cost_usd,
        predicted_cost_ratio=_ratio(float(trial.estimates.cost_usd[:, arm].mean()), actual_cost),
        calibration_error=expected_calibration_error(predicted, observed),
        brier=brier_score(predicted, observed),
        brier_constant=float(observed.var()),
        bins=calibration_bins(predicted, observed),
        calibration_interval=found[1],
        brier_interval=found[0],
    )


def measure_gap(trial: Trial, means: ArmMeans) -> CallShares:
    """Measure APGR and CPT when prompts are ordered by the predicted gain of the best over the cheapest arm."""
    cheapest, best = means.cheapest, means.best
    return measure_call_shares(
        trial.estimates.gain[:, best] - trial.estimates.gain[:, cheapest],
        trial.score[:, best] - trial.score[:, cheapest],
        trial.matrix.groups,
        resamples=trial.resamples,
        seed=trial.seed,
    )
