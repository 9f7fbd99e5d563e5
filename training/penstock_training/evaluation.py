"""How good a router is on prompts it was not fitted on, against policies that do not read the prompt.

Owns the evaluation, from plain estimate arrays and outcomes to an `EvaluationReport`, and that of an artifact folder.
Must not fit anything and must not know a router family. Every interval is a paired bootstrap over question groups. Read
`evaluate` first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from penstock_routers.artifact import RouterArtifact
from penstock_routers.encoder import PromptEncoder
from penstock_routers.features import prompt_features
from penstock_routers.policy import Tradeoff
from penstock_training.baselines import ArmMeans
from penstock_training.decisions import EstimateArrays
from penstock_training.errors import OutcomeError
from penstock_training.evaluation_measures import (
    Trial,
    measure_constants,
    measure_curve,
    measure_gap_recovered,
    measure_point,
    measure_price_only_curve,
    price_only_columns,
)
from penstock_training.evaluation_report import CurveSummary, EvaluationReport, OperatingPointResult
from penstock_training.intervals import Interval
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.predict import known_arm, open_router
from penstock_training.splits import grouped_split
from penstock_training.vectors import encode_prompts

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
    trial, left_out, missing_costs = _prepare(
        estimates, matrix, (cost_scale_usd, novelty_max), resamples=resamples, seed=seed
    )
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
    gap = measure_gap_recovered(trial, means)
    arm_results, baselines, hull, constants = measure_constants(trial, means, price_only)
    return EvaluationReport(
        name=name,
        prompts=trial.score.shape[0],
        groups=int(np.unique(trial.matrix.groups).size),
        prompts_left_out=len(matrix.prompts) - trial.score.shape[0],
        arms_left_out=left_out,
        cells_with_expected_cost=missing_costs,
        default_arm=trial.estimates.reference_arm,
        cheapest_arm=arms[means.cheapest],
        best_arm=arms[means.best],
        cost_scale_usd=cost_scale_usd,
        novelty_max=novelty_max,
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
        gap_recovered=gap,
        verdicts=tuple(_verdicts(points, unguarded_summary, gap, trial.score.shape[0])),
        resamples=resamples,
        seed=seed,
    )


def _prepare(
    estimates: EstimateArrays, matrix: OutcomeMatrix, setting: tuple[float, float], *, resamples: int, seed: int
) -> tuple[Trial, tuple[str, ...], int]:
    """Keep arms with outcomes and prompts with all of them; name the arms left out, count costs filled in."""
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
    if unguarded.area_over_constants.low <= 0.0:
        sentences.append("Without guard the router's curve is not surely above mixing fixed arms at random.")
    if unguarded.area_over_price_only.low > 0.0:
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


def estimate_with_artifact(
    artifact: RouterArtifact,
    encoder: PromptEncoder,
    matrix: OutcomeMatrix,
    default_arm: str,
    progress: Callable[[str, int, int], None],
) -> EstimateArrays:
    """Ask an artifact about every prompt, the way the gateway does, one at a time.

    Parameters
    ----------
    artifact : RouterArtifact
    encoder : PromptEncoder
        The artifact's own.
    matrix : OutcomeMatrix
        n prompts.
    default_arm : str
        The arm that gains are measured against.
    progress : callable
        Called with a stage's name, steps done and steps in total.

    Returns
    -------
    EstimateArrays
        Expected costs follow from the prompt's tokens, the predicted answer length and the artifact's price reference.

    Raises
    ------
    ArtifactError
        The artifact does not know `default_arm`, or its graph fails.
    """
    vectors = encode_prompts(encoder, matrix.prompts, lambda done, total: progress("encoding", done, total))
    found = [
        artifact.estimate(vector, prompt_features(prompt), reference_arm=default_arm)
        for vector, prompt in zip(vectors, matrix.prompts, strict=True)
    ]
    price = np.array(
        [
            (arm.price_usd_per_million_input_tokens, arm.price_usd_per_million_output_tokens)
            for arm in artifact.manifest.arm_entries
        ]
    )
    answer_tokens = np.stack([estimate.output_tokens for estimate in found]).astype(np.float64)
    return EstimateArrays(
        arms=artifact.manifest.arms,
        reference_arm=default_arm,
        quality=np.stack([estimate.quality for estimate in found]),
        gain=np.stack([estimate.gain for estimate in found]),
        gain_se=np.stack([estimate.gain_se for estimate in found]),
        novelty=np.array([estimate.novelty for estimate in found], dtype=np.float64),
        cost_usd=(matrix.prompt_tokens[:, None] * price[:, 0] + answer_tokens * price[:, 1]) / 1e6,
    )


def _sweep(cost_weights: Sequence[float], guard_z: float) -> list[Tradeoff]:
    return [Tradeoff(f"{weight:g}", weight, guard_z) for weight in cost_weights]


def evaluate_artifact(
    folder: Path,
    matrix: OutcomeMatrix,
    *,
    encoder_folder: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    default_arm: str | None = None,
    files_digest: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> EvaluationReport:
    """Measure an artifact folder at its own operating points.

    Parameters
    ----------
    folder : Path
    matrix : OutcomeMatrix
        Its arms are matched with the artifact's by name.
    encoder_folder : Path, optional
        The bundled encoder of the manifest's name when omitted.
    default_arm : str, optional
        The artifact's reference arm when omitted.
    progress : callable, optional
        Called with a stage's name, steps done and steps in total.
    files_digest : str, optional
        Digest of the outcome files' matrix, before any grouping of arms. If it is the one that the artifact was fitted
        on, only the test part of the artifact's split is used.
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    EvaluationReport

    Raises
    ------
    RouterError
        The artifact or the encoder is refused.
    TrainingError
        ``unknown_arm``: the artifact has no arm `default_arm`.
    OutcomeError
        The outcomes do not fit the artifact's arms.
    """
    artifact, encoder = open_router(folder, encoder_folder)
    manifest = artifact.manifest
    reference = known_arm(manifest, default_arm)
    name = "all prompts of the files"
    if files_digest == manifest.training.digest:
        split = grouped_split(matrix.groups, fractions=manifest.split.fractions, seed=manifest.split.seed)
        matrix, name = matrix.rows(split["test"]), "test part of the data that the artifact was fitted on"
    prices = [
        (arm.price_usd_per_million_input_tokens, arm.price_usd_per_million_output_tokens)
        for arm in manifest.arm_entries
    ]
    estimates = estimate_with_artifact(artifact, encoder, matrix, reference, progress)
    progress("bootstrap", 0, 1)
    report = evaluate(
        estimates,
        matrix,
        tradeoffs=[artifact.tradeoff(point.name) for point in manifest.operating_points],
        cost_scale_usd=max(artifact.cost_scale_usd(*price) for price in prices) or 1.0,
        novelty_max=manifest.guard.novelty_max,
        name=name,
        resamples=resamples,
        seed=seed,
    )
    progress("bootstrap", 1, 1)
    return report
