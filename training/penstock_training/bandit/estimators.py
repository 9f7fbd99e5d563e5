"""Estimates of a policy's mean outcome from weighted log rows: inverse propensity, direct, doubly robust.

Owns the formulas, their influence functions and the intervals made from them. Must not know logs, artifacts or what an
outcome is (scores and costs are both estimated here). Read `estimate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatVector = NDArray[np.float64]
IndexArray = NDArray[np.int64]

ESTIMATORS: Final = ("ips", "snips", "dm", "dr", "sndr")
TITLES: Final = {
    "ips": "inverse propensity",
    "snips": "self-normalised",
    "dm": "direct (model only)",
    "dr": "doubly robust",
    "sndr": "doubly robust, self-normalised",
}


@dataclass(frozen=True, slots=True)
class WeightedRows:
    """Log rows as the estimators see them, n of them.

    Attributes
    ----------
    weight : ndarray of float64, shape (n,), >= 0
        Target policy's probability of the row's arm over the logging policy's; 0 where nothing was observed.
    outcome : ndarray of float64, shape (n,)
        Finite wherever the weight is above 0.
    groups : ndarray of int64, shape (n,)
        Rows of one group may depend on each other.
    expected : ndarray of float64, shape (n,), or None
        Reward model's outcome under the target policy, ``Σ_a π(a|x) μ(x, a)``; None without a model.
    expected_served : ndarray of float64, shape (n,), or None
        Reward model's outcome of the row's arm, ``μ(x, a_i)``.
    """

    weight: FloatVector
    outcome: FloatVector
    groups: IndexArray
    expected: FloatVector | None = None
    expected_served: FloatVector | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean outcome with what its interval is made of.

    Attributes
    ----------
    name : str
        One of `ESTIMATORS`, or a name for a difference.
    value : float
    standard_error : float
    low, high : float
        95 % interval. That of ``dm`` covers sampling of prompts only, not the model's error: do not report it.
    influence : ndarray of float64, shape (g,)
        Contribution of each group to the error of `value`; the standard error is the root of their summed squares.
    degrees : float
        Degrees of freedom of the interval.
    """

    name: str
    value: float
    standard_error: float
    low: float
    high: float
    influence: FloatVector
    degrees: float


def effective_sample_size(weight: FloatVector) -> float:
    """Number of unweighted rows that would be as informative as these weighted ones.

    Parameters
    ----------
    weight : ndarray of float64, shape (n,), >= 0

    Returns
    -------
    float
        In [0, n]; 0 when all weights are 0.

    Notes
    -----
    ``(Σ w)² / Σ w²``.

    References
    ----------
    Kish, "Survey Sampling" (1965), section 11.7: loss of precision by unequal weights.

    Examples
    --------
    >>> effective_sample_size(np.array([1.0, 1.0, 0.0]))
    2.0
    """
    squares = float(weight @ weight)
    return float(weight.sum()) ** 2 / squares if squares > 0.0 else 0.0


def estimate(rows: WeightedRows, names: Sequence[str] = ESTIMATORS) -> dict[str, Estimate]:
    """Estimate the target policy's mean outcome.

    Parameters
    ----------
    rows : WeightedRows
        At least two groups.
    names : sequence of str
        Which of `ESTIMATORS`; those that need a reward model are left out without one, ratios where all weights are 0.

    Returns
    -------
    dict of str to Estimate

    Notes
    -----
    With w the weights, r the outcomes, e = r − μ(x, a) the residuals, d = Σ_a π(a|x) μ(x, a)::

        ips    mean(w r)                          dm     mean(d)
        snips  Σ w r / Σ w                        dr     mean(d + w e)
                                                  sndr   mean(d) + Σ w e / Σ w

    ``dr`` is unbiased when the propensities are right *or* the model is; ``sndr`` is so up to a term of order 1/ESS,
    and its error does not grow with the model's mean error. Standard errors are those of the influence function (the
    delta method for the ratios), summed within groups; ratios use the leave-one-group-out form
    ``w_i (r_i − v) / (1 − W_g/W)``, without which a few heavy rows make intervals too narrow. Intervals use Student's t
    with ESS − 1 degrees of freedom. O(n) per estimator.

    References
    ----------
    Horvitz and Thompson (JASA 47, 1952); Swaminathan and Joachims, "The self-normalized estimator for counterfactual
    learning" (NeurIPS 2015), section 4; Dudík, Langford and Li, "Doubly robust policy evaluation and learning" (ICML
    2011), section 2.2; Liang and Zeger (Biometrika 73, 1986) for sums within groups; Efron and Stein (Annals of
    Statistics 9, 1981) for the jackknife form. Ours: the jackknife form within groups and the degrees of freedom.
    """
    clusters = _Clusters.of(rows.groups)
    weight, outcome = rows.weight, np.where(rows.weight > 0.0, rows.outcome, 0.0)
    total = float(weight.sum())
    ess = effective_sample_size(weight)
    found: dict[str, Estimate] = {}
    if "ips" in names:
        found["ips"] = _mean("ips", weight * outcome, clusters, ess)
    if "snips" in names and total > 0.0:
        value = float((weight / total) @ outcome)
        found["snips"] = _finish("snips", value, _ratio(weight, outcome - value, clusters), clusters, ess)
    if rows.expected is None or rows.expected_served is None:
        return found
    residual = np.where(weight > 0.0, outcome - np.where(weight > 0.0, rows.expected_served, 0.0), 0.0)
    if "dm" in names:
        found["dm"] = _mean("dm", rows.expected, clusters, math.inf)
    if "dr" in names:
        found["dr"] = _mean("dr", rows.expected + weight * residual, clusters, ess)
    if "sndr" in names and total > 0.0:
        direct = float(rows.expected.mean())
        correction = float((weight / total) @ residual)
        influence = clusters.sums(rows.expected - direct) + _ratio(weight, residual - correction, clusters)
        found["sndr"] = _finish("sndr", direct + correction, influence, clusters, ess)
    return found


def difference(first: Estimate, second: Estimate) -> Estimate:
    """Estimate `first` minus `second` from the same rows; the interval is that of the paired difference.

    Notes
    -----
    Influence functions of a difference subtract, so what both estimates share cancels. Degrees of freedom are the
    smaller of both.
    """
    value, influence = first.value - second.value, first.influence - second.influence
    return _with_interval(f"{first.name} - {second.name}", value, influence, min(first.degrees, second.degrees))


def student_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t.

    Parameters
    ----------
    probability : float, in (0, 1)
    degrees : float, >= 1
        ``inf`` for the normal distribution.

    Returns
    -------
    float
        Within 0.5 % of the exact value for degrees >= 4 and probabilities in [.025, .975].

    References
    ----------
    Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), 26.7.5.
    """
    z = NormalDist().inv_cdf(probability)
    if math.isinf(degrees):
        return z
    terms = (
        (z**3 + z) / 4.0,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96.0,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384.0,
    )
    return z + sum(term / degrees ** (power + 1) for power, term in enumerate(terms))


def clip_weights(weight: FloatVector, limit: float) -> tuple[FloatVector, float]:
    """Cap weights.

    Parameters
    ----------
    weight : ndarray of float64, shape (n,)
    limit : float
        Largest weight allowed, > 0; ``inf`` changes nothing.

    Returns
    -------
    clipped : ndarray of float64, shape (n,)
    lost : float
        Share of the total weight that was cut off, in [0, 1).

    Notes
    -----
    The price is bias: at most ``lost · mean(w)`` for ``ips`` with outcomes in [0, 1], and at most that times the
    largest |r − μ| for ``dr``; intervals do not contain it.

    References
    ----------
    Ionides, "Truncated importance sampling" (Journal of Computational and Graphical Statistics 17, 2008).
    """
    clipped = np.minimum(weight, limit)
    total = float(weight.sum())
    return clipped, 1.0 - float(clipped.sum()) / total if total > 0.0 else 0.0


@dataclass(frozen=True, slots=True)
class _Clusters:
    """Which group each row is in, as 0 … g − 1."""

    of_row: IndexArray
    count: int

    @classmethod
    def of(cls, groups: IndexArray) -> _Clusters:
        _, inverse = np.unique(groups, return_inverse=True)
        return cls(inverse.astype(np.int64), int(inverse.max()) + 1)

    @property
    def rows(self) -> int:
        return int(self.of_row.size)

    def sums(self, values: FloatVector) -> FloatVector:
        return np.bincount(self.of_row, weights=values, minlength=self.count).astype(np.float64)


def _mean(name: str, values: FloatVector, clusters: _Clusters, ess: float) -> Estimate:
    value = float(values.mean())
    return _finish(name, value, clusters.sums(values - value), clusters, ess)


def _ratio(weight: FloatVector, centred: FloatVector, clusters: _Clusters) -> FloatVector:
    """Influence of each group on ``Σ w c / Σ w``, times n; the leave-one-group-out form."""
    total = float(weight.sum())
    left = np.maximum(1.0 - clusters.sums(weight) / total, 1.0 / clusters.rows)
    return clusters.rows * clusters.sums(weight * centred) / total / left


def _finish(name: str, value: float, influence: FloatVector, clusters: _Clusters, ess: float) -> Estimate:
    degrees = max(min(ess, clusters.count) - 1.0, 1.0)
    return _with_interval(name, value, influence / clusters.rows, degrees)


def _with_interval(name: str, value: float, influence: FloatVector, degrees: float) -> Estimate:
    g = influence.size
    error = math.sqrt(float(influence @ influence) * (g / (g - 1.0) if g > 1 else 1.0))
    half = student_quantile(0.975, degrees) * error
    return Estimate(name, value, error, value - half, value + half, influence, degrees)
