"""How good a router is on prompts it was not fitted on, against policies that do not read the prompt.

Owns the evaluation, from plain estimate arrays and outcomes to an `EvaluationReport`. Must not fit anything, open an
artifact (`penstock_training.router_under_test` does) or know a router family. Every interval is a paired bootstrap over
question groups. Read `evaluate` first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from penstock_routers.policy import Tradeoff
from penstock_training.baselines import ArmMeans
from penstock_training.decisions import EstimateArrays
from penstock_training.errors import OutcomeError
from penstock_training.evaluation_measures import (
    Trial,
    measure_constants,
    measure_curve,
    measure_gap,
    measure_point,
    measure_price_only_curve,
    price_only_columns,
)
from penstock_training.evaluation_report import CurveSummary, EvaluationReport, OperatingPointResult
from penstock_training.intervals import Interval
from penstock_training.outcomes import OutcomeMatrix

# λ from "quality only" over six decades to "cheapest"; 4 to 6 points fall between any two arms of the public sets.
COST_WEIGHTS: Final = (0.0, *(float(w) for w in np.geomspace(1e-3, 1e2, 46)), math.inf)
# Below, standard errors of mean scores reach 0.05, and 95 % bootstrap intervals are too narrow to claim knowledge from.
KNOWLEDGE_MINIMUM: Final = 100  # prompts


def evaluate(
    estimates: EstimateArrays,
    matrix: OutcomeMatrix,
    *,
    tradeoffs: Sequence[Tradeoff],
    cost_scale_usd: float,
    novelty_max: float,
    name: str = "held-out prompts",
    cost_weights: Sequence[float] = COST_WEIGHTS,
    resamples: int = 1000,
    seed: int = 0,
) -> EvaluationReport:
    """Measure a router.

    Parameters
    ----------
    estimates : EstimateArrays
        For the prompts of `matrix`, in the same order. Its reference arm is the default arm.
    matrix : OutcomeMatrix
        Outcomes of prompts that the router was not fitted on. Arms without any outcome, and then prompts without a
        score for each remaining arm, are left out and counted. Where an actual cost is missing the expected cost stands
        in, counted too.
    tradeoffs : sequence of Tradeoff
        The operating points to report, with unique names; the report has them from cheap to dear. The guard of the
        first one given is used for the curve.
    cost_scale_usd : float
        As for `penstock_routers.policy.decide`; > 0.
    novelty_max : float
        Prompts with a larger novelty keep the default arm.
    name : str
        What was held out, in words, for people.
    cost_weights : sequence of float
        λ values of the curve.
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    EvaluationReport

    Raises
    ------
    ValueError
        Lengths differ, no trade-off is given, or two have one name.
    OutcomeError
        ``outcome_no_complete_row``: fewer than two arms have outcomes, or no prompt has a score for each of them.
        ``outcome_arm_unknown``: the default arm has no outcome. ``outcome_best_arm_free``: the best arm costs nothing,
        so nothing can be saved.

    Notes
    -----
    Every policy is scored on the same prompts. The baselines choose the best and the cheapest arm and the hull's
    corners on these very prompts, which favours them. Quality at equal cost is compared inside each bootstrap sample:
    hull and mixture are recomputed there. O(resamples · (groups · k + m log m)) for k policies and m arms.
    """
    if len({t.name for t in tradeoffs}) != len(tradeoffs) or not tradeoffs:
        raise ValueError("operating points need unique names, at least one")
    trial, left_out, missing_costs = prepare_trial(
        estimates, matrix, (cost_scale_usd, novelty_max), resamples=resamples, seed=seed
    )
    report = measure_trial(trial, tradeoffs, name=name, cost_weights=cost_weights)
    return replace(
        report,
        prompts_left_out=len(matrix.prompts) - report.prompts,
        arms_left_out=left_out,
        cells_with_expected_cost=missing_costs,
    )


def measure_trial(
    trial: Trial, tradeoffs: Sequence[Tradeoff], *, name: str, cost_weights: Sequence[float] = COST_WEIGHTS
) -> EvaluationReport:
    """Measure prepared estimates, such as the pooled out-of-fold ones of a cross-validation.

    Parameters
    ----------
    trial : Trial
        Every prompt scored on every arm.
    tradeoffs : sequence of Tradeoff
    name : str
    cost_weights : sequence of float
        As for `evaluate`.

    Returns
    -------
    EvaluationReport
        Nothing counted as left out.

    Raises
    ------
    OutcomeError
        ``outcome_best_arm_free``.
    """
    means = ArmMeans(trial.score.mean(axis=0), trial.cost_usd.mean(axis=0))
    arms = trial.estimates.arms
    if means.cost_usd[means.best] <= 0.0:
        raise OutcomeError(
            f"the best arm, {arms[means.best]}, costs nothing on these prompts: there is nothing to save by routing",
            code="outcome_best_arm_free",
        )
    price_only = price_only_columns(trial, means)
    by_weight = sorted(tradeoffs, key=lambda tradeoff: -tradeoff.cost_weight)
    points = tuple(measure_point(trial, tradeoff, means, price_only) for tradeoff in by_weight)
    guarded, bare = _sweep(cost_weights, tradeoffs[0].guard_z), _sweep(cost_weights, 0.0)
    curve, summary = measure_curve(trial, guarded, means, price_only, is_guarded=True)
    unguarded, unguarded_summary = measure_curve(trial, bare, means, price_only, is_guarded=False)
    calls = measure_gap(trial, means)
    arm_results, baselines, hull, constants = measure_constants(trial, means, price_only)
    return EvaluationReport(
        name=name,
        prompts=trial.score.shape[0],
        groups=int(np.unique(trial.matrix.groups).size),
        prompts_left_out=0,
        arms_left_out=(),
        cells_with_expected_cost=0,
        default_arm=trial.estimates.reference_arm,
        cheapest_arm=arms[means.cheapest],
        best_arm=arms[means.best],
        cost_scale_usd=trial.cost_scale_usd,
        novelty_max=trial.novelty_max,
        arms=arm_results,
        baselines=baselines,
        points=points,
        curve=curve,
        unguarded_curve=unguarded,
        constant_hull=hull,
        price_only_curve=measure_price_only_curve(trial, price_only),
        summary=summary,
        unguarded_summary=unguarded_summary,
        constants_summary=constants,
        call_shares=calls,
        verdicts=tuple(_verdicts(points, unguarded_summary, calls.gap_recovered, trial.score.shape[0])),
        resamples=trial.resamples,
        seed=trial.seed,
    )


def prepare_trial(
    estimates: EstimateArrays, matrix: OutcomeMatrix, setting: tuple[float, float], *, resamples: int, seed: int
) -> tuple[Trial, tuple[str, ...], int]:
    """Keep the arms with outcomes and the prompts that were scored on all of them.

    Parameters
    ----------
    estimates, matrix
        As for `evaluate`.
    setting : (float, float)
        Cost scale and novelty bound, as for `evaluate`.
    resamples, seed : int

    Returns
    -------
    (Trial, tuple of str, int)
        The trial, the arms left out, and how many unknown costs were filled in by expected ones.

    Raises
    ------
    ValueError
        Lengths differ.
    OutcomeError
        ``outcome_arm_unknown`` or ``outcome_no_complete_row``.
    """
    if len(matrix.prompts) != estimates.quality.shape[0]:
        raise ValueError("estimates and outcomes must be about the same prompts")
    observed = {arm for i, arm in enumerate(matrix.arms) if np.isfinite(matrix.score[:, i]).any()}
    arms = tuple(arm for arm in estimates.arms if arm in observed)
    if estimates.reference_arm not in arms:
        raise OutcomeError(f"no outcome for the default arm {estimates.reference_arm}", code="outcome_arm_unknown")
    columns = np.array([matrix.arms.index(arm) for arm in arms], dtype=np.int64)
    rows = np.flatnonzero(np.isfinite(matrix.score[:, columns]).all(axis=1))
    if len(arms) < 2 or rows.size == 0:
        raise OutcomeError(
            "evaluating needs at least two arms that were scored on the same prompts", code="outcome_no_complete_row"
        )
    kept = estimates.take(rows, arms)
    cost = matrix.cost_usd[np.ix_(rows, columns)].astype(np.float64)
    is_missing = ~np.isfinite(cost)
    trial = Trial(
        matrix=matrix.rows(rows),
        estimates=kept,
        score=matrix.score[np.ix_(rows, columns)].astype(np.float64),
        cost_usd=np.where(is_missing, kept.cost_usd, cost),
        cost_scale_usd=setting[0],
        novelty_max=setting[1],
        resamples=resamples,
        seed=seed,
    )
    return trial, tuple(arm for arm in estimates.arms if arm not in observed), int(is_missing.sum())


def _verdicts(
    points: Sequence[OperatingPointResult], unguarded: CurveSummary, gap: Interval, prompts: int
) -> list[str]:
    """Say what the intervals allow, and nothing more."""
    sentences = []
    if gap.low > 0.5:
        sentences.append("The predicted gain orders prompts better than chance: routing by prompt can pay here.")
    elif gap.high < 0.5:
        sentences.append("The predicted gain orders prompts worse than chance: do not route these prompts with it.")
    else:
        sentences.append("No evidence that the predicted gain orders prompts better than chance on this traffic.")
    if unguarded.path_over_constants.low <= 0.0:
        sentences.append("Without guard the router's curve is not surely above mixing fixed arms at random.")
    if unguarded.path_over_price_only.low > 0.0:
        # Estimates that do not order prompts know nothing about them, whatever the luck of a small test set says.
        if gap.low > 0.5 and prompts >= KNOWLEDGE_MINIMUM:
            sentences.append("Over all budgets, the estimates surely know more than prices and lengths explain.")
    else:
        sentences.append("Over all budgets, the estimates do not surely know more than prices and lengths explain.")
    for point in points:
        hull, prices = _compared(point.over_hull), _compared(point.over_price_only)
        sentences.append(
            f"{point.name}: {hull} mixing fixed arms at the same cost; {prices} the same rule that knows prices and "
            f"lengths but not which arm suits the prompt."
        )
    return sentences


def _compared(difference: Interval) -> str:
    if difference.low > 0.0:
        return "surely better than"
    return "surely worse than" if difference.high < 0.0 else "not distinguishable from"


def _sweep(cost_weights: Sequence[float], guard_z: float) -> list[Tradeoff]:
    return [Tradeoff(f"{weight:g}", weight, guard_z) for weight in cost_weights]
