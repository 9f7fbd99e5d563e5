"""Everything that is measured about a way of fitting, in one call.

Owns the list of splits and their names in reports. Must not know a router family: it is given a function that fits.
Read `evaluate_fitting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from penstock_training.cross_validation import (
    CrossValidation,
    CrossValidationOptions,
    cross_validate,
    grouped_folds,
    leave_sources_out,
    task_splits,
)
from penstock_training.evaluation_measures import SLICE_MINIMUM
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.progress import Progress, silent
from penstock_training.shuffled_control import MakeFit, ShuffledControl, run_shuffled_control


@dataclass(frozen=True, slots=True)
class FittingEvaluation:
    """A way of fitting, measured.

    Attributes
    ----------
    cross_validation : dict of str to CrossValidation
        By name of the way and its split; goes into `EvaluationRun.cross_validation`.
    control : ShuffledControl
        Goes into `EvaluationRun.control`.
    """

    cross_validation: Mapping[str, CrossValidation]
    control: ShuffledControl


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
        Tasks and sources only where there are at least two of them, each of at least 30 prompts after putting small
        tasks together.

    Raises
    ------
    TrainingError
        ``too_few_prompts``: fewer questions than folds.
    OutcomeError
        No prompt of some part was scored on every arm.
    """
    fit = make_fit(matrix)
    splits = grouped_folds(matrix.groups, folds, options.seed)
    found = {f"{name}, {folds} folds": cross_validate(matrix, fit, splits, options, progress=progress)}
    labels = np.array([t or c for t, c in zip(matrix.tasks, matrix.categories, strict=True)], dtype=object)
    _, counts = np.unique(labels, return_counts=True)
    if (counts >= SLICE_MINIMUM).sum() > 1:
        tasks = cross_validate(matrix, fit, task_splits(matrix), options, name="tasks left out", progress=progress)
        found[f"{name}, each task left out"] = tasks
    if len(set(matrix.sources)) > 1:
        for source, result in leave_sources_out(matrix, fit, options, progress=progress).items():
            found[f"{name}, without {source}"] = result
    control = run_shuffled_control(matrix, make_fit, options, splits=splits, progress=progress)
    return FittingEvaluation(found, control)
