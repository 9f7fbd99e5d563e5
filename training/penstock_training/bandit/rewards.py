"""Reward models: what each arm is expected to score on each prompt of a log, for the doubly robust estimates.

Owns the model that is fitted on the log itself, out of fold. The artifact's own estimates need nothing from here. Must
not weigh rows or estimate policies. Read `crossfit_rewards`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.bandit.logged import LoggedOutcomes

FloatMatrix = NDArray[np.float64]

FOLDS: Final = 5
# Logs of 10,000 decisions on MMLU-Pro (bench/bandit.py), unit prompt vectors: the squared error with 3, 10, 30 and 100
# was .2299, .2269, .2271 and .2283 on a base fitted elsewhere, .2315, .2301, .2321 and .2347 without one.
RIDGE_PENALTY: Final = 10.0
PRIOR_ROWS: Final = 20.0  # rows after which an arm's own mean counts as much as what it is drawn to
ROWS_MIN: Final = 5


def crossfit_rewards(
    vectors: NDArray[np.floating],
    logged: LoggedOutcomes,
    outcome: NDArray[np.float64],
    *,
    base: FloatMatrix | None = None,
    seed: int = 0,
    folds: int = FOLDS,
) -> FloatMatrix:
    """Fit a ridge regression per arm on a log, and predict every row from folds without its question group.

    Parameters
    ----------
    vectors : ndarray of float, shape (n, d)
        Prompt vectors.
    logged : LoggedOutcomes
        n rows, m arms.
    outcome : ndarray of float64, shape (n,)
        What is predicted; rows that are not finite are not fitted on.
    base : ndarray of float64, shape (n, m), optional
        A model fitted elsewhere, whose errors are then fitted; the mean outcome of the other folds when omitted.
    seed : int
        Of the folds.
    folds : int, >= 2

    Returns
    -------
    ndarray of float64, shape (n, m)
        In the range of the outcomes. Where an arm has fewer than 5 rows in the other folds, the base.

    Notes
    -----
    Predictions of a row never depend on its own outcome, which keeps the doubly robust estimate unbiased and its
    influence function right although the model is fitted on the same log. Arm a's error on prompt x is
    ``c_a + (x − x̄)·β_a`` with the mean error ``c_a`` shrunk by ``n_a / (n_a + 20)``. O(folds · m · (n_a d² + d³)).

    References
    ----------
    Chernozhukov et al., "Double/debiased machine learning" (The Econometrics Journal 21, 2018), section 3.
    """
    fold = _group_folds(logged.groups, folds, seed)
    known = np.isfinite(outcome)
    low, high = float(outcome[known].min()), float(outcome[known].max())
    n, m = len(logged), len(logged.arms)
    predicted = np.full((n, m), float(outcome[known].mean())) if base is None else base.astype(np.float64)
    points = vectors.astype(np.float64)
    for number in range(folds):
        held_out = fold == number
        fitted = ~held_out & known
        if base is None and fitted.any():
            predicted[held_out] = float(outcome[fitted].mean())
        for index in range(m):
            rows = np.flatnonzero(fitted & (logged.arm == index))
            if rows.size < ROWS_MIN:
                continue
            start = float(outcome[fitted].mean()) if base is None else base[rows, index]
            error = outcome[rows] - start
            center = points[rows].mean(axis=0)
            spread = points[rows] - center
            gram = spread.T @ spread + RIDGE_PENALTY * np.eye(points.shape[1])
            slope = np.linalg.solve(gram, spread.T @ (error - error.mean()))
            level = error.mean() * rows.size / (rows.size + PRIOR_ROWS)
            predicted[held_out, index] += level + (points[held_out] - center) @ slope
    return np.asarray(np.clip(predicted, low, high))


def _group_folds(groups: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Give each question group a fold, shape (n,), equally many groups in each."""
    _, inverse = np.unique(groups, return_inverse=True)
    count = int(inverse.max()) + 1
    fold_of_group = np.random.default_rng(seed).permutation(np.arange(count) % folds)
    return fold_of_group[inverse].astype(np.int64)
