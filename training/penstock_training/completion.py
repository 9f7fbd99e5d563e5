"""Missing cells: what an arm would have scored on a prompt that it was never asked.

Owns the filling of an outcome matrix, so that every family can be fitted as if all arms had answered all prompts.
Filled cells shape estimates only as far as the observed ones say; they never count as evidence
(`TrainingSet.observed`). Read `complete`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_TURNS: Final = 50
_SETTLED: Final = 1e-4
_RIDGE: Final = 10.0  # in prompts; the filled value is a rough one by design


def complete(
    score: NDArray[np.floating], design: FloatArray, weight: NDArray[np.floating] | None = None
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Fill the missing cells of an outcome matrix.

    Parameters
    ----------
    score : ndarray, shape (n, m), in [0, 1]
        NaN where missing. An arm without outcomes is filled with the mean of all others.
    design : ndarray of float64, shape (n, k)
        What is known of the prompts (`PromptInputs.design`).
    weight : ndarray, shape (n, m), optional
        Weight of each observed cell, mean 1 per arm (inverse propensities); equal weights when omitted.

    Returns
    -------
    target : ndarray of float64, shape (n, m)
        Observed scores as they are, the rest filled, in [0, 1].
    observed : ndarray of bool, shape (n, m)

    Notes
    -----
    ``fill = clip(x·β_a + α_a + u_i, 0, 1)``: a ridge regression per arm on the prompts it answered, plus a row effect
    u_i (this prompt was harder than it looks) shrunk as in a random-effects model,
    ``u_i = σ_u² Σ_a e_ia / (σ_e² + k_i σ_u²)`` over the k_i observed residuals e of the row, with σ_u² the mean product
    of two residuals of one row. α_a is fitted
    beside them, in turn, so an arm that was asked hard prompts only is not taken for a bad one. Prompts logged
    with one arm each have no pair and u = 0. O(n k² + k³) per distinct set of answered prompts.

    References
    ----------
    Searle, Casella, McCulloch, "Variance Components" (1992), section 3.4: best linear unbiased prediction in the
    one-way random model, here on the residuals of a regression.
    """
    observed = np.isfinite(score)
    filled = np.where(observed, score, 0.0).astype(np.float64)
    if observed.all():
        return filled, observed
    predicted = _ridge_per_arm(filled, observed, design, weight)
    predicted += _both_effects(np.where(observed, filled - predicted, 0.0), observed, weight)
    return np.where(observed, filled, np.clip(predicted, 0.0, 1.0)), observed


def _ridge_per_arm(
    filled: FloatArray, observed: NDArray[np.bool_], design: FloatArray, weight: NDArray[np.floating] | None
) -> FloatArray:
    """Predictions of every arm on every prompt, (n, m); arms with the same prompts and no weights share a solution."""
    predicted = np.zeros_like(filled)
    patterns = np.packbits(observed, axis=0).T
    _, pattern = np.unique(patterns, axis=0, return_inverse=True)
    names = pattern if weight is None else np.arange(filled.shape[1])
    for name in np.unique(names):
        arms = np.flatnonzero(names == name)
        rows = observed[:, arms[0]]
        if not rows.any():
            predicted[:, arms] = filled.sum() / max(int(observed.sum()), 1)
            continue
        mass = np.ones(int(rows.sum())) if weight is None else weight[rows, arms[0]].astype(np.float64)
        mass = mass / mass.mean() if mass.any() else np.ones_like(mass)
        x, y = design[rows], filled[np.ix_(rows, arms)]
        center, mean = np.average(x, axis=0, weights=mass), np.average(y, axis=0, weights=mass)
        centered = x - center
        gram = (centered * mass[:, None]).T @ centered + _RIDGE * np.eye(x.shape[1])
        beta = np.linalg.solve(gram, (centered * mass[:, None]).T @ (y - mean))
        predicted[:, arms] = (design - center) @ beta + mean
    return predicted


def _both_effects(residual: FloatArray, observed: NDArray[np.bool_], weight: NDArray[np.floating] | None) -> FloatArray:
    """Row effects and corrections of the arms' levels, fitted to residuals in turn until they agree, summed (n, m)."""
    mass = observed if weight is None else weight * observed
    total = np.maximum(mass.sum(axis=0), 1e-12)
    level, rows = np.zeros(residual.shape[1]), np.zeros(residual.shape[0])
    for _ in range(_TURNS):
        rows = _row_effects(np.where(observed, residual - level, 0.0), observed)
        found = (mass * (residual - rows[:, None])).sum(axis=0) / total
        moved, level = float(np.abs(found - level).max()), found
        if moved < _SETTLED:
            break
    return np.asarray(rows[:, None] + level)


def _row_effects(residual: FloatArray, observed: NDArray[np.bool_]) -> FloatArray:
    """Shrunken common part of each row's residuals, (n,)."""
    count = observed.sum(axis=1).astype(np.float64)
    total, square = residual.sum(axis=1), np.square(residual).sum(axis=1)
    pairs = float((count * (count - 1.0)).sum())
    if pairs == 0.0:
        return np.zeros(count.size)
    between = max(float((np.square(total) - square).sum()) / pairs, 0.0)
    within = max(float(square.sum() / count.sum()) - between, 1e-6)
    return np.asarray(between * total / (within + count * between))
