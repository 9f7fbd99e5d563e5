"""Measuring a way of fitting, not one artifact: grouped folds, a task left out, a whole source left out.

Owns the folds, the choice of λ and guard on inner validation prompts, and the pooling of out-of-fold predictions. Must
not know a router family: it is given a function that fits. Read `FitFold`, then `cross_validate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from penstock_routers.policy import Tradeoff
from penstock_training.decisions import EstimateArrays, RowDecisions, decide_rows
from penstock_training.engines.protocol import LOCAL, Engine
from penstock_training.errors import OutcomeError, TrainingError
from penstock_training.evaluation import measure_trial, prepare_trial
from penstock_training.evaluation_measures import SLICE_MINIMUM, Trial
from penstock_training.evaluation_report import EvaluationReport
from penstock_training.operating_points import Knob, choose_knob
from penstock_training.operating_points import Trial as KnobTrial
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.progress import Progress, silent
from penstock_training.splits import grouped_split, leave_source_out

IndexArray = NDArray[np.int64]
FitFold = Callable[[IndexArray, IndexArray, int], EstimateArrays]
"""Fits on the train rows of a corpus and estimates its test rows: ``(train_rows, test_rows, seed) -> estimates``. It
must not look at the outcomes of the test rows."""

INNER_VALIDATION: Final = 0.2  # of a fold's train rows: chooses λ and guard, then they are fitted on again


@dataclass(frozen=True, slots=True)
class Split:
    """Rows to fit on and rows to test on, with no question in both."""

    name: str
    train: IndexArray
    test: IndexArray


@dataclass(frozen=True, slots=True)
class CrossValidationOptions:
    """How folds are measured.

    Attributes
    ----------
    cost_scale_usd : float
        As for the policy; > 0.
    novelty_quantile : float or None
        Quantile of the inner validation prompts' novelty above which prompts keep the default arm; None switches that
        off.
    resamples, seed : int
    engine : Engine
        Where folds are fitted, one part of work per fold.
    """

    cost_scale_usd: float
    novelty_quantile: float | None = None
    resamples: int = 1000
    seed: int = 0
    engine: Engine = LOCAL


@dataclass(frozen=True, slots=True)
class FoldSummary:
    """What one fold chose without seeing its test prompts.

    Attributes
    ----------
    name : str
    train_prompts, test_prompts : int
    guard_z : float
    cost_weights : dict of str to float
        λ per operating point.
    novelty_max : float
    """

    name: str
    train_prompts: int
    test_prompts: int
    guard_z: float
    cost_weights: dict[str, float]
    novelty_max: float


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """Pooled result of several folds.

    Attributes
    ----------
    report : EvaluationReport
        Over all test prompts, each decided by the router and at the setting of its own fold. A point's `cost_weight`
        and `guard_z` are medians over folds.
    folds : tuple of FoldSummary
    trial : PooledTrial
        Out-of-fold estimates with the outcomes of the prompts and arms in the report.
    rows : ndarray of int64
        Their rows in the matrix, in the trial's order.
    """

    report: EvaluationReport
    folds: tuple[FoldSummary, ...]
    trial: PooledTrial
    rows: IndexArray


@dataclass(frozen=True, slots=True)
class PooledTrial(Trial):
    """A trial whose prompts were decided in several folds.

    Attributes
    ----------
    fold : ndarray of int64, shape (n,)
        Fold of each prompt.
    knobs : tuple of Knob
        Per fold; a trade-off is looked up by its name, any other weight of cost is used with the fold's guard.
    novelty_bounds : tuple of float
        Per fold.
    """

    fold: IndexArray
    knobs: tuple[Knob, ...]
    novelty_bounds: tuple[float, ...]

    def take(self, rows: IndexArray) -> PooledTrial:
        """Take some prompts, in the given order, each with its fold."""
        # `super()` does not work here: a dataclass with slots is a new class.
        taken = Trial.take(self, rows)
        return replace(cast(PooledTrial, taken), fold=self.fold[rows])

    def decide(self, tradeoff: Tradeoff, *, is_guarded: bool = True) -> RowDecisions:
        """Decide every prompt at the setting of its fold."""
        chosen = np.zeros(self.fold.size, dtype=np.int64)
        reason = np.zeros(self.fold.size, dtype=np.int64)
        for index, (knob, bound) in enumerate(zip(self.knobs, self.novelty_bounds, strict=True)):
            rows = np.flatnonzero(self.fold == index)
            named = {t.name: t for t in knob.tradeoffs}.get(tradeoff.name)
            own = named or replace(tradeoff, guard_z=knob.guard_z if is_guarded else 0.0)
            found = decide_rows(
                self.estimates.take(rows, self.estimates.arms),
                own,
                cost_scale_usd=self.cost_scale_usd,
                novelty_max=bound if is_guarded else math.inf,
            )
            chosen[rows], reason[rows] = found.chosen, found.reason
        return RowDecisions(chosen, reason)


# ------------------------------------------------------------------------------------------------------------ splits


def grouped_folds(groups: IndexArray, folds: int, seed: int) -> list[Split]:
    """Cut prompts into folds of about equal size without dividing a question.

    Parameters
    ----------
    groups : ndarray of int64, shape (n,)
    folds : int
        At least 2.
    seed : int

    Returns
    -------
    list of Split
        Each row is tested once.

    Raises
    ------
    TrainingError
        ``too_few_prompts``: fewer questions than folds.
    """
    if np.unique(groups).size < folds or folds < 2:
        raise TrainingError(f"{folds} folds need at least as many different questions", code="too_few_prompts")
    names = [f"fold {i + 1:02d}" for i in range(folds)]
    parts = grouped_split(groups, fractions=dict.fromkeys(names, 1.0 / folds), seed=seed)
    everything = np.arange(groups.size)
    return [Split(name, np.setdiff1d(everything, rows), rows) for name, rows in parts.items() if rows.size]


def task_splits(matrix: OutcomeMatrix, minimum: int = SLICE_MINIMUM) -> list[Split]:
    """Leave each task out, and from the rest every question that it shares.

    Parameters
    ----------
    matrix : OutcomeMatrix
        Where a prompt has no task, its category stands in.
    minimum : int
        Smaller tasks are put together and left out at once, as ``other tasks``.

    Returns
    -------
    list of Split
        Each prompt is tested once.

    Raises
    ------
    TrainingError
        ``too_few_tasks``: fewer than two tasks.
    """
    labels = np.array([t or c for t, c in zip(matrix.tasks, matrix.categories, strict=True)], dtype=object)
    names, counts = np.unique(labels, return_counts=True)
    small = set(names[counts < minimum])
    labels = np.array(["other tasks" if label in small else label for label in labels], dtype=object)
    splits = []
    for name in sorted(set(labels)):
        test = np.flatnonzero(labels == name)
        shared = np.isin(matrix.groups, matrix.groups[test])
        splits.append(Split(f"without {name or '(no task)'}", np.flatnonzero(~shared), test))
    if len(splits) < 2:
        raise TrainingError("leaving a task out needs at least two tasks or categories", code="too_few_tasks")
    return splits


def source_splits(matrix: OutcomeMatrix) -> list[Split]:
    """Leave each source out, and from the rest every question that it shares.

    Raises
    ------
    TrainingError
        ``too_few_sources``: there is only one.
    """
    sources = sorted(set(matrix.sources))
    if len(sources) < 2:
        raise TrainingError("leaving a source out needs at least two sources", code="too_few_sources")
    return [Split(f"without {source}", *leave_source_out(matrix, source)) for source in sources]


# --------------------------------------------------------------------------------------------------------- measuring


def cross_validate(
    matrix: OutcomeMatrix,
    fit: FitFold,
    splits: Sequence[Split],
    options: CrossValidationOptions,
    *,
    name: str = "out-of-fold prompts",
    progress: Progress = silent,
) -> CrossValidation:
    """Fit per split, choose the knob on inner validation prompts, and measure all test prompts together.

    Parameters
    ----------
    matrix : OutcomeMatrix
        The outcomes that `fit` fits on.
    fit : FitFold
        Called twice per split: once without the inner validation prompts, once on all train rows.
    splits : sequence of Split
        From `grouped_folds` or `task_splits`; the test parts must not overlap.
    options : CrossValidationOptions
    name : str
        What was held out, in words.
    progress : callable

    Returns
    -------
    CrossValidation

    Raises
    ------
    OutcomeError
        No prompt was scored on every arm, in the test parts or in an inner validation part.

    Notes
    -----
    The paired bootstrap runs over the pooled prompts, so its intervals cover the choice of prompts, not that of folds
    or seeds. λ, guard and novelty bound never see a test prompt.
    """
    shared = options.engine.share((matrix, fit, replace(options, engine=LOCAL)))
    folds = options.engine.map(_measured_fold, shared, splits, lambda done, total: progress("folds", done, total))
    knobs, bounds, pooled = [f.knob for f in folds], [f.bound for f in folds], [f.estimates for f in folds]
    summaries = [
        FoldSummary(
            split.name,
            split.train.size,
            split.test.size,
            found.knob.guard_z,
            {t.name: t.cost_weight for t in found.knob.tradeoffs},
            found.bound,
        )
        for split, found in zip(splits, folds, strict=True)
    ]
    rows = np.concatenate([split.test for split in splits])
    fold = np.concatenate([np.full(split.test.size, i) for i, split in enumerate(splits)])
    estimates = _stacked(pooled)
    part = matrix.rows(rows)
    setting = (options.cost_scale_usd, math.inf)
    trial, left_out, missing = prepare_trial(estimates, part, setting, resamples=options.resamples, seed=options.seed)
    kept = _kept_rows(part, trial.estimates.arms)
    pooled_trial = PooledTrial(
        **{field: getattr(trial, field) for field in Trial.__dataclass_fields__},
        fold=fold[kept],
        knobs=tuple(knobs),
        novelty_bounds=tuple(bounds),
    )
    report = replace(
        measure_trial(pooled_trial, _median_tradeoffs(knobs), name=name),
        novelty_max=float(np.median(bounds)),
        prompts_left_out=rows.size - kept.size,
        arms_left_out=left_out,
        cells_with_expected_cost=missing,
    )
    return CrossValidation(report, tuple(summaries), pooled_trial, rows[kept])


def leave_sources_out(
    matrix: OutcomeMatrix, fit: FitFold, options: CrossValidationOptions, *, progress: Progress = silent
) -> dict[str, CrossValidation]:
    """Measure each source by a router fitted without it and without the questions it shares with others.

    Parameters
    ----------
    matrix, fit, options, progress
        As for `cross_validate`.

    Returns
    -------
    dict of str to CrossValidation
        One per source: sources may lack different arms, so they are not pooled.
    """
    found, splits = {}, source_splits(matrix)
    for step, (source, split) in enumerate(zip(sorted(set(matrix.sources)), splits, strict=True)):
        progress("sources left out", step, len(splits))
        found[source] = cross_validate(matrix, fit, [split], options, name=f"all of {source}, fitted without it")
    progress("sources left out", len(splits), len(splits))
    return found


@dataclass(frozen=True, slots=True)
class _Fold:
    """What one fold chose, and its estimates of the test rows."""

    knob: Knob
    bound: float
    estimates: EstimateArrays


def _measured_fold(everything: tuple[OutcomeMatrix, FitFold, CrossValidationOptions], split: Split) -> _Fold:
    matrix, fit, options = everything
    knob, bound = _choose_on_inner_validation(matrix, fit, split, options)
    return _Fold(knob, bound, fit(split.train, split.test, options.seed))


def _choose_on_inner_validation(
    matrix: OutcomeMatrix, fit: FitFold, split: Split, options: CrossValidationOptions
) -> tuple[Knob, float]:
    """Choose guard, operating points and novelty bound on prompts held back from the train rows."""
    parts = grouped_split(
        matrix.groups[split.train],
        fractions={"fit": 1.0 - INNER_VALIDATION, "validation": INNER_VALIDATION},
        seed=options.seed + 1,
    )
    held_back = split.train[parts["validation"]]
    if held_back.size == 0:
        raise OutcomeError(f"{split.name}: too few questions to choose settings on", code="outcome_no_complete_row")
    estimates = fit(split.train[parts["fit"]], held_back, options.seed)
    bound = math.inf
    if options.novelty_quantile is not None:
        bound = float(np.quantile(estimates.novelty, options.novelty_quantile))
    trial, _, _ = prepare_trial(
        estimates, matrix.rows(held_back), (options.cost_scale_usd, bound), resamples=1, seed=options.seed
    )
    knob_trial = KnobTrial(
        trial.estimates, trial.score, trial.cost_usd, trial.matrix.groups, trial.cost_scale_usd, trial.novelty_max
    )
    return choose_knob(knob_trial, resamples=options.resamples, seed=options.seed), bound


def _stacked(parts: Sequence[EstimateArrays]) -> EstimateArrays:
    """Put the folds' estimates under each other."""
    first = parts[0]
    if any((part.arms, part.reference_arm) != (first.arms, first.reference_arm) for part in parts):
        raise ValueError("every fold must estimate the same arms against the same reference arm")
    stacked = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("quality", "gain", "gain_se", "novelty", "cost_usd")
    }
    return EstimateArrays(first.arms, first.reference_arm, **stacked)


def _kept_rows(matrix: OutcomeMatrix, arms: Sequence[str]) -> IndexArray:
    """Rows scored on every arm, as `prepare_trial` keeps them."""
    columns = [matrix.arms.index(arm) for arm in arms]
    return np.flatnonzero(np.isfinite(matrix.score[:, columns]).all(axis=1))


def _median_tradeoffs(knobs: Sequence[Knob]) -> list[Tradeoff]:
    """One trade-off per operating point to show; decisions use each fold's own."""
    guard_z = float(np.median([knob.guard_z for knob in knobs]))
    points = zip(*(knob.tradeoffs for knob in knobs), strict=True)
    return [Tradeoff(p[0].name, float(np.median([t.cost_weight for t in p])), guard_z) for p in points]
