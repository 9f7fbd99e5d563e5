"""Calibration: from kernel means to probabilities, on prompts that made no prototype.

Owns the fit of `penstock_training.knn.GainCalibration`. Must not touch prototypes or choose operating points. Read
`fit_calibration` first.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.knn import QUALITY_BOUND, FloatArray, GainCalibration, RawEstimates, calibrated_quality

# Weight, in prompts, of the belief that the raw numbers are right already: decisive for a few dozen held-out prompts,
# negligible for thousands.
PRIOR_ROWS: Final = 50.0
SLOPE_BOUNDS: Final = (0.0, 1.5)
_NEWTON_STEPS: Final = 25


def identity_calibration(arms: int, anchor: int) -> GainCalibration:
    """Return the calibration that changes nothing."""
    return GainCalibration(anchor, 1.0, 0.0, np.ones(arms), np.zeros(arms))


def fit_calibration(raw: RawEstimates, score: NDArray[np.float32], anchor: int) -> GainCalibration:
    """Fit slopes and intercepts on held-out prompts.

    Parameters
    ----------
    raw : RawEstimates
        Kernel means of n held-out prompts.
    score : ndarray, shape (n, m), in [0, 1]
        Their outcomes, NaN where missing.
    anchor : int
        The arm whose quality is calibrated directly.

    Returns
    -------
    GainCalibration

    Notes
    -----
    The anchor's slope and intercept maximise the Bernoulli log-likelihood on the logit scale (Platt 1999; scores
    between 0 and 1 count as fractions), the gains' minimise the squared error of the observed paired differences. Both
    are drawn to slope 1 and intercept 0 with the weight of `PRIOR_ROWS` prompts, slopes are kept inside `SLOPE_BOUNDS`.
    An arm that shares no held-out prompt with the anchor is fitted against the anchor's calibrated quality instead of
    its outcome.
    """
    arms = score.shape[1]
    bounded = np.clip(raw.anchor_quality, QUALITY_BOUND, 1.0 - QUALITY_BOUND)
    logit = np.log(bounded / (1.0 - bounded))
    observed = np.isfinite(score[:, anchor])
    slope, intercept = _fit_logistic(logit[observed], score[observed, anchor].astype(np.float64))
    gain_slope, gain_intercept = np.ones(arms), np.zeros(arms)
    partial = GainCalibration(anchor, slope, intercept, gain_slope, gain_intercept)
    anchor_quality = calibrated_quality(raw, partial)[:, anchor]
    for arm in range(arms):
        if arm == anchor:
            continue
        both = observed & np.isfinite(score[:, arm])
        against = score[:, anchor].astype(np.float64)
        if not both.any():
            both, against = np.isfinite(score[:, arm]), anchor_quality
        target = score[both, arm] - against[both]
        gain_slope[arm], gain_intercept[arm] = _fit_line(raw.anchor_gain[both, arm], target)
    return GainCalibration(anchor, slope, intercept, gain_slope, gain_intercept)


def _fit_logistic(logit: FloatArray, score: FloatArray) -> tuple[float, float]:
    """Slope and intercept of a logistic model; where the slope leaves its bounds, the intercept fits the bound."""
    if logit.size == 0:
        return 1.0, 0.0
    slope, intercept = _newton(np.column_stack([logit, np.ones_like(logit)]), np.zeros_like(logit), score, [1.0, 0.0])
    bounded = float(np.clip(slope, *SLOPE_BOUNDS))
    if bounded != slope:
        (intercept,) = _newton(np.ones((logit.size, 1)), bounded * logit, score, [0.0])
    return bounded, float(intercept)


def _newton(design: FloatArray, offset: FloatArray, score: FloatArray, prior_mean: list[float]) -> FloatArray:
    """Coefficients of a logistic model by Newton's method, with a Gaussian prior of `PRIOR_ROWS` prompts."""
    prior = np.array(prior_mean)
    precision = np.eye(prior.size) * PRIOR_ROWS * 0.25  # 0.25 is a Bernoulli prompt's largest information
    beta = prior.copy()
    for _ in range(_NEWTON_STEPS):
        mean = 1.0 / (1.0 + np.exp(-(offset + design @ beta)))
        gradient = design.T @ (score - mean) - precision @ (beta - prior)
        hessian = (design * (mean * (1.0 - mean))[:, None]).T @ design + precision
        step = np.linalg.solve(hessian, gradient)
        beta += step
        if float(np.abs(step).max()) < 1e-12:
            break
    return beta


def _fit_line(raw: FloatArray, target: FloatArray) -> tuple[float, float]:
    """Slope and intercept by least squares, drawn to (1, 0) as if by `PRIOR_ROWS` prompts of typical spread."""
    if raw.size == 0:
        return 1.0, 0.0
    center = float(raw.mean())
    spread = float(np.square(raw - center).mean())
    covariance = float(((raw - center) * (target - target.mean())).mean())
    weight = PRIOR_ROWS / raw.size
    slope = float(np.clip((covariance + weight * spread) / max(spread * (1.0 + weight), 1e-12), *SLOPE_BOUNDS))
    if spread < 1e-12:
        slope = 1.0
    offset = float(target.mean()) - slope * center
    return slope, offset / (1.0 + weight)
