"""The statistics behind the judge report: Cohen's kappa, the slope of winning on length, correlation within prompts.

Pure. Must not know logs or judges. Read `length_slope`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.intervals import GroupBootstrap, Interval

FloatVector = NDArray[np.float64]
_STEPS: Final = 50
_MAX_SLOPE: Final = 20.0  # a doubling that changes the odds by e²⁰ decides everything; there is no finite slope then
_Z_95: Final = 1.959963984540054


def kappa(table: NDArray[np.float64]) -> float:
    """Return Cohen's kappa.

    Parameters
    ----------
    table : ndarray of float, shape (k, k)
        Shares of pairs of labels, summing to 1.

    Returns
    -------
    float, in [-1, 1]
        NaN when both always give the same single label, where chance agrees fully too.

    Notes
    -----
    ``κ = (p_o − p_e) / (1 − p_e)`` with the observed agreement p_o and p_e = Σ row share · column share.

    References
    ----------
    Cohen, "A coefficient of agreement for nominal scales" (Educational and Psychological Measurement 20, 1960).
    """
    observed = float(np.trace(table))
    expected = float(table.sum(axis=1) @ table.sum(axis=0))
    return (observed - expected) / (1.0 - expected) if expected < 1.0 - 1e-12 else math.nan


def length_slope(score: FloatVector, doublings: FloatVector, groups: NDArray[np.int64]) -> Interval | None:
    """Return how the log odds of winning change with relative length.

    Parameters
    ----------
    score : ndarray of float, shape (n,)
        1 won, 0.5 tied, 0 lost.
    doublings : ndarray of float, shape (n,)
        log₂ of own over opponent's length.
    groups : ndarray of int64, shape (n,)
        Prompt of each pair.

    Returns
    -------
    Interval or None
        Slope with its 95 % interval; None when there are fewer than three groups, lengths do not vary, or they decide
        everything.

    Notes
    -----
    Fractional logit ``E[score] = σ(a + b·doublings)`` by Newton's method; standard error by the sandwich over groups,
    times G/(G − 1). O(n) per step.

    References
    ----------
    Papke, Wooldridge, "Econometric methods for fractional response variables" (Journal of Applied Econometrics 11,
    1996); Liang, Zeger, "Longitudinal data analysis using generalized linear models" (Biometrika 73, 1986).
    """
    count = len(np.unique(groups))
    if count < 3 or len(score) == 0 or float(np.ptp(doublings)) < 1e-9:
        return None
    design = np.column_stack([np.ones_like(doublings), doublings])
    fitted = _newton(design, score)
    if fitted is None:
        return None
    coefficients, information = fitted
    residuals = (score - _sigmoid(design @ coefficients))[:, None] * design
    sums = np.zeros((int(groups.max()) + 1, 2))
    np.add.at(sums, groups, residuals)
    bread = np.linalg.inv(information)
    variance = bread @ (sums.T @ sums) @ bread * count / (count - 1)
    slope, error = float(coefficients[1]), math.sqrt(max(0.0, float(variance[1, 1])))
    return Interval(slope, slope - _Z_95 * error, slope + _Z_95 * error)


def length_correlation(
    score: FloatVector, length: FloatVector, groups: NDArray[np.int64], *, resamples: int = 1000, seed: int = 0
) -> Interval | None:
    """Return the correlation of score and length within prompts.

    Parameters
    ----------
    score, length : ndarray of float, shape (n,)
        Length on a log scale.
    groups : ndarray of int64, shape (n,)
        Prompt of each answer; its mean is taken off both first, as long prompts ask for long answers.
    resamples, seed : int
        Of the bootstrap over prompts.

    Returns
    -------
    Interval or None
        Pearson's r, in [-1, 1]; None when one of the two does not vary within prompts.
    """
    if len(score) == 0:
        return None
    sizes = np.bincount(groups).astype(np.float64)
    centred = []
    for values in (score, length):
        means = np.bincount(groups, weights=values) / np.maximum(sizes, 1.0)
        centred.append(values - means[groups])
    first, second = centred
    if float(first @ first) < 1e-12 or float(second @ second) < 1e-12:
        return None
    columns = np.column_stack([first * second, first**2, second**2])

    def correlation(means: FloatVector) -> float:
        scale = math.sqrt(float(means[1] * means[2]))
        return float(means[0]) / scale if scale > 0.0 else math.nan

    return GroupBootstrap(columns, groups, resamples=resamples, seed=seed).interval(correlation)


def _newton(design: NDArray[np.float64], score: FloatVector) -> tuple[FloatVector, NDArray[np.float64]] | None:
    """Fit by Newton's method; None when there is no finite fit."""
    coefficients = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        chance = _sigmoid(design @ coefficients)
        information = (design * (chance * (1.0 - chance))[:, None]).T @ design
        if np.linalg.cond(information) > 1e12:
            return None
        step = np.linalg.solve(information, design.T @ (score - chance))
        # A full step can overshoot where the curve is flat; two units of log odds are enough for one step.
        step *= min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
        coefficients = coefficients + step
        if abs(coefficients[1]) > _MAX_SLOPE:
            return None
        if float(np.abs(step).max()) < 1e-9:
            return coefficients, information
    return None


def _sigmoid(values: FloatVector) -> FloatVector:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(values, -500.0, 500.0))))
