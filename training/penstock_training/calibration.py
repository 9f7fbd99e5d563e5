"""Calibration: from raw quality to probabilities, on out-of-fold predictions.

Owns the map and its fit. Must not touch heads or choose operating points. Read `fit_calibration`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from penstock_training.graph import GraphBuilder

FloatArray = NDArray[np.float64]
Method = Literal["temperature", "isotonic", "identity"]

QUALITY_BOUND: Final = 0.005  # estimates stay inside [bound, 1 − bound]
KNOTS: Final = 41
# Weight, in prompts, of the belief that the raw numbers are right already: decisive for a few dozen prompts, negligible
# for thousands.
PRIOR_ROWS: Final = 50.0
SLOPE_BOUNDS: Final = (0.0, 3.0)
_NEWTON_STEPS: Final = 50
_NEWTON_REACH: Final = 1.0  # largest change of a coefficient in a step; longer ones may never come back
_MIN_ISOTONIC: Final = 1000  # outcomes of an arm below which a free curve is noise
_MIN_BLOCK: Final = 50.0  # prompts behind every point of an isotonic curve


@dataclass(frozen=True, slots=True)
class Calibration:
    """A piecewise-linear map per arm on [0, 1], constant outside.

    Attributes
    ----------
    method : str
        ``temperature``, ``isotonic`` or ``identity``.
    values : ndarray of float64, shape (m, 41)
        Calibrated quality at 41 equidistant raw qualities from 0 to 1; not falling.
    rows : int
        Prompts that it was fitted on.
    """

    method: Method
    values: FloatArray
    rows: int

    def apply(self, raw: FloatArray) -> FloatArray:
        """Calibrate raw quality (n, m)."""
        position = np.clip(raw, 0.0, 1.0) * (KNOTS - 1)
        left = np.minimum(position.astype(np.int64), KNOTS - 2)
        arms = np.arange(raw.shape[1])
        low, high = self.values[arms, left], self.values[arms, left + 1]
        curve = low + (position - left) * (high - low)
        return np.asarray(np.clip(curve, QUALITY_BOUND, 1.0 - QUALITY_BOUND), dtype=np.float64)

    def add_nodes(self, b: GraphBuilder, raw: str) -> str:
        """Write `apply` into a graph, as a gather of two neighbouring knots."""
        m = self.values.shape[0]
        inside = b.op("Clip", raw, b.constant(0.0), b.constant(1.0))
        position = b.op("Mul", inside, b.constant(float(KNOTS - 1)))
        left = b.op("Min", b.op("Floor", position), b.constant(float(KNOTS - 2)))
        share = b.op("Sub", position, left)
        offset = b.constant(np.arange(m) * KNOTS, np.float32)
        index = b.op("Cast", b.op("Add", left, offset), to=7)
        low = b.op("Gather", b.constant(self.values.ravel()), index)
        steps = np.append(np.diff(self.values, axis=1), np.zeros((m, 1)), axis=1)
        step = b.op("Gather", b.constant(steps.ravel()), index)
        curve = b.op("Add", low, b.op("Mul", share, step))
        return b.op("Clip", curve, b.constant(QUALITY_BOUND), b.constant(1.0 - QUALITY_BOUND))


def identity_calibration(arms: int) -> Calibration:
    """Return the calibration that changes nothing but the ends."""
    return Calibration("identity", np.tile(np.linspace(0.0, 1.0, KNOTS), (arms, 1)), 0)


def fit_calibration(raw: FloatArray, score: NDArray[np.floating], groups: NDArray[np.int64]) -> Calibration:
    """Fit one map per arm on out-of-fold predictions.

    Parameters
    ----------
    raw : ndarray of float64, shape (n, m)
        Predictions for prompts that the predicting head was not fitted on.
    score : ndarray, shape (n, m), in [0, 1]
        Outcomes, NaN where missing.
    groups : ndarray of int64, shape (n,)
        Question groups; a group is never divided when methods are compared.

    Returns
    -------
    Calibration

    Notes
    -----
    ``temperature``: slope and intercept on the logit by maximum likelihood (Platt 1999; fractional scores count as
    fractions), drawn to 1 and 0 by `PRIOR_ROWS` prompts. ``isotonic``: pool adjacent violators, then linear between the
    centres of blocks of at least 50 prompts, so that the order of prompts inside a block is kept. The method with the
    smaller Brier score on the other half of the groups is taken for all arms with at least 1,000 outcomes;
    ``temperature`` for the others.

    References
    ----------
    Platt (Advances in Large Margin Classifiers, 1999); Zadrozny, Elkan (KDD 2002); centred isotonic regression: Oron,
    Flournoy (Statistics in Biopharmaceutical Research 9, 2017).
    """
    method: Method = "temperature"
    answered = np.isfinite(score).sum(axis=0)
    if answered.max(initial=0) >= _MIN_ISOTONIC and _brier(raw, score, groups, "isotonic") < _brier(
        raw, score, groups, "temperature"
    ):
        method = "isotonic"
    return Calibration(method, _fit_values(raw, score, method, answered >= _MIN_ISOTONIC), raw.shape[0])


def _brier(raw: FloatArray, score: NDArray[np.floating], groups: NDArray[np.int64], method: Method) -> float:
    """Mean squared error when each half of the groups is calibrated on the other."""
    half, many = groups % 2 == 0, np.isfinite(score).sum(axis=0) >= _MIN_ISOTONIC
    errors = []
    for fitted, tested in ((half, ~half), (~half, half)):
        if fitted.any() and tested.any():
            found = Calibration(method, _fit_values(raw[fitted], score[fitted], method, many), 0).apply(raw[tested])
            errors.append(float(np.nansum(np.square(found - score[tested]))))
    return sum(errors)


def _fit_values(
    raw: FloatArray, score: NDArray[np.floating], method: Method, has_many: NDArray[np.bool_]
) -> FloatArray:
    """Calibrated quality at the knots, per arm; `has_many` says which arms may have a free curve."""
    knots = np.linspace(0.0, 1.0, KNOTS)
    values = []
    for arm in range(raw.shape[1]):
        seen = np.isfinite(score[:, arm])
        x, y = np.clip(raw[seen, arm], 0.0, 1.0), score[seen, arm].astype(np.float64)
        fit = _isotonic if method == "isotonic" and has_many[arm] else _temperature
        values.append(fit(x, y, knots) if x.size else knots)
    return np.stack(values)


def _isotonic(raw: FloatArray, score: FloatArray, knots: FloatArray) -> FloatArray:
    from sklearn.isotonic import isotonic_regression

    x, place, counts = np.unique(raw, return_inverse=True, return_counts=True)  # equal raw numbers get one level
    fitted = isotonic_regression(np.bincount(place, weights=score) / counts, sample_weight=counts.astype(np.float64))
    edges = np.flatnonzero(np.diff(fitted, prepend=-np.inf))
    sizes = np.add.reduceat(counts, edges)
    centers = np.add.reduceat(x * counts, edges) / sizes
    levels = fitted[edges]
    points: list[tuple[float, float, float]] = []
    for block in zip(centers.tolist(), levels.tolist(), sizes.astype(float).tolist(), strict=True):
        if points and points[-1][2] < _MIN_BLOCK:
            points[-1] = _merged(points[-1], block)
        else:
            points.append(block)
    if len(points) > 1 and points[-1][2] < _MIN_BLOCK:
        last = points.pop()
        points[-1] = _merged(points[-1], last)
    return np.interp(knots, [point[0] for point in points], [point[1] for point in points])


def _merged(one: tuple[float, float, float], two: tuple[float, float, float]) -> tuple[float, float, float]:
    """Put two blocks (raw, level, prompts) together."""
    total = one[2] + two[2]
    return (one[0] * one[2] + two[0] * two[2]) / total, (one[1] * one[2] + two[1] * two[2]) / total, total


def _temperature(raw: FloatArray, score: FloatArray, knots: FloatArray) -> FloatArray:
    slope, intercept = _fit_logistic(_logit(raw), score)
    return np.asarray(1.0 / (1.0 + np.exp(-(slope * _logit(knots) + intercept))))


def _logit(quality: FloatArray) -> FloatArray:
    bounded = np.clip(quality, QUALITY_BOUND, 1.0 - QUALITY_BOUND)
    return np.asarray(np.log(bounded / (1.0 - bounded)))


def _fit_logistic(logit: FloatArray, score: FloatArray) -> tuple[float, float]:
    """Slope and intercept of a logistic model; where the slope leaves its bounds, the intercept fits the bound."""
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
        beta += step * min(1.0, _NEWTON_REACH / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-12:
            break
    return beta
