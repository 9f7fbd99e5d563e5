"""Everything that is measured about a way of fitting, in one call.

Owns the list of splits and their names in reports. Must not know a router family: it is given a function that fits.
Read `evaluate_fitting`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from penstock_training.cross_validation import (
    INNER_VALIDATION,
    CrossValidation,
    CrossValidationOptions,
    IndexArray,
    Split,
    cross_validate,
    grouped_folds,
    task_splits,
)
from penstock_training.errors import TrainingError
from penstock_training.evaluation_measures import SLICE_MINIMUM
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.progress import Progress, renamed, silent
from penstock_training.shuffled_control import MakeFit, ShuffledControl, run_shuffled_control
from penstock_training.splits import leave_source_out

MOST_PARTS: Final = 10  # tasks, and sources, that are left out one by one, since each costs two fits
_OTHER_TASKS: Final = "other tasks"
# What is left without a source, or the source itself, may not suffice; then nothing is measured on it.
_TOO_LITTLE: Final = ("too_few_prompts", "outcome_no_complete_row", "outcome_arm_unknown", "outcome_best_arm_free")


@dataclass(frozen=True, slots=True)
class FittingEvaluation:
    """A way of fitting, measured.

    Attributes
    ----------
    cross_validation : dict of str to CrossValidation
        By name of the way and its split; goes into `EvaluationRun.cross_validation`.
    control : ShuffledControl
        Goes into `EvaluationRun.control`.
    skipped : dict of str to str
        Parts that could not be left out, and why.
    """

    cross_validation: Mapping[str, CrossValidation]
    control: ShuffledControl
    skipped: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FittingPlan:
    """Which parts are left out.

    Attributes
    ----------
    folds : list of Split
    tasks : list of Split
        Empty where there are not two tasks of at least 30 prompts.
    sources : dict of str to Split
        Empty where there is one source only; small ones are missing.
    """

    folds: list[Split]
    tasks: list[Split]
    sources: dict[str, Split]

    @property
    def fit_sizes(self) -> IndexArray:
        """Prompts of every fit that `evaluate_fitting` makes, shape (k,): two per split, folds twice over."""
        trained = [s.train.size for s in (*self.folds, *self.folds, *self.tasks, *self.sources.values())]
        inner = [round((1.0 - INNER_VALIDATION) * size) for size in trained]
        return np.array([*trained, *inner], dtype=np.int64)


def plan_fitting(matrix: OutcomeMatrix, *, folds: int = 5, seed: int = 0) -> FittingPlan:
    """Choose the splits.

    Parameters
    ----------
    matrix : OutcomeMatrix
    folds : int
        At least 2.
    seed : int

    Returns
    -------
    FittingPlan
        The `MOST_PARTS` largest tasks and sources are left out one by one, all other tasks at once.

    Raises
    ------
    TrainingError
        ``too_few_prompts``: fewer questions than folds.
    """
    labels = [t or c for t, c in zip(matrix.tasks, matrix.categories, strict=True)]
    tasks = _largest(labels)
    named = [label if label in tasks else _OTHER_TASKS for label in labels]
    sources = sorted(_largest(matrix.sources)) if len(set(matrix.sources)) > 1 else []
    return FittingPlan(
        grouped_folds(matrix.groups, folds, seed),
        task_splits(replace(matrix, tasks=named), 1) if len(tasks) > 1 else [],
        {source: Split(f"without {source}", *leave_source_out(matrix, source)) for source in sources},
    )


def _largest(labels: list[str]) -> set[str]:
    """The most frequent labels, at most `MOST_PARTS`, each of enough prompts to be measured."""
    return {label for label, count in Counter(labels).most_common(MOST_PARTS) if count >= SLICE_MINIMUM}


def evaluate_fitting(
    name: str,
    matrix: OutcomeMatrix,
    make_fit: MakeFit,
    options: CrossValidationOptions,
    *,
    folds: int = 5,
    progress: Progress = silent,
) -> FittingEvaluation:
    """Cross-validate by grouped folds, with each task and each source left out, and run the shuffled-label control.

    Parameters
    ----------
    name : str
        Of the way of fitting, such as its family.
    matrix : OutcomeMatrix
    make_fit : callable
        Makes the fitting function for these outcomes, and for the shuffled ones.
    options : CrossValidationOptions
    folds : int
    progress : callable

    Returns
    -------
    FittingEvaluation
        Tasks and sources as `plan_fitting` chooses them. They are skipped where they, or what is left without them, do
        not suffice.

    Raises
    ------
    TrainingError
        ``too_few_prompts``: fewer questions than folds.
    OutcomeError
        No prompt of some fold was scored on every arm.
    """
    plan = plan_fitting(matrix, folds=folds, seed=options.seed)
    fit = make_fit(matrix)
    found = {f"{name}, {folds} folds": cross_validate(matrix, fit, plan.folds, options, progress=progress)}
    parts = {"each task left out": (plan.tasks, "tasks left out")} if plan.tasks else {}
    parts |= {f"without {s}": ([split], f"all of {s}, fitted without it") for s, split in plan.sources.items()}
    skipped = {}
    for part, (splits, title) in parts.items():
        stage = "tasks left out" if splits is plan.tasks else part
        try:
            found[f"{name}, {part}"] = cross_validate(
                matrix, fit, splits, options, name=title, progress=renamed(progress, stage)
            )
        except TrainingError as error:
            if error.code not in _TOO_LITTLE:
                raise
            skipped[part] = error.message
    control = run_shuffled_control(
        matrix, make_fit, options, splits=plan.folds, progress=renamed(progress, "shuffled control")
    )
    return FittingEvaluation(found, control, skipped)
