"""The numbers by which routers are compared: cost-quality curves and calibration.

Owns formulas and nothing else: no files, no decisions, no randomness (`penstock_training.intervals` has the bootstrap).
A curve is a set of operating points, each with a mean cost and a mean quality; a router may be run at any of them.
Read `upper_envelope` and `concave_hull` first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatVector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """Operating points in order of cost.

    Attributes
    ----------
    cost : ndarray of float64, shape (k,), increasing
        Mean cost per request, any one unit (USD in this package).
    quality : ndarray of float64, shape (k,), non-decreasing
        Mean quality, in [0, 1].
    """

    cost: FloatVector
    quality: FloatVector

    def step_at(self, cost: ArrayLike) -> FloatVector:
        """Take the best point that is affordable.

        Parameters
        ----------
        cost : array_like of float

        Returns
        -------
        ndarray of float64, same shape
            Quality of the last point with at most that cost; NaN below the cheapest point.
        """
        position = np.searchsorted(self.cost, np.asarray(cost, dtype=np.float64), side="right")
        return np.concatenate([[np.nan], self.quality])[position]

    def line_at(self, cost: ArrayLike) -> FloatVector:
        """Mix the two neighbouring points at random so that the mean cost is exactly `cost`.

        Parameters
        ----------
        cost : array_like of float

        Returns
        -------
        ndarray of float64, same shape
            Linear interpolation; the last quality beyond the dearest point, NaN below the cheapest.

        References
        ----------
        "Interpolation" of RouterBench (arXiv 2403.12031, section 3).
        """
        return np.asarray(
            np.interp(np.asarray(cost, dtype=np.float64), self.cost, self.quality, left=np.nan), dtype=np.float64
        )


def upper_envelope(cost: ArrayLike, quality: ArrayLike) -> Curve:
    """Keep the points that no cheaper point equals or beats.

    Parameters
    ----------
    cost, quality : array_like of float, shape (n,), finite
        Points in any order, at least one.

    Returns
    -------
    Curve
        Strictly increasing in cost and quality.

    Raises
    ------
    ValueError
        No point, unequal lengths, or a value that is not finite.

    Notes
    -----
    O(n log n).
    """
    x, y = _points(cost, quality)
    order = np.lexsort((-y, x))
    x, y = x[order], y[order]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(y)[:-1]])
    kept = y > before
    return Curve(x[kept], y[kept])


def concave_hull(cost: ArrayLike, quality: ArrayLike) -> Curve:
    """Find the best that random mixing of fixed points can do: the zero router, when the points are single arms.

    Parameters
    ----------
    cost, quality : array_like of float, shape (n,), finite

    Returns
    -------
    Curve
        Corners of the non-decreasing concave hull, from the cheapest point to the best one.

    Raises
    ------
    ValueError
        As for `upper_envelope`.

    Notes
    -----
    Andrew's monotone chain on the upper envelope, O(n log n).

    References
    ----------
    "Zero router" of RouterBench (arXiv 2403.12031, section 3), called non-decreasing convex hull there.
    """
    points = upper_envelope(cost, quality)
    hull: list[int] = []
    for i in range(points.cost.size):
        while len(hull) >= 2 and _is_below(points, hull[-2], hull[-1], i):
            hull.pop()
        hull.append(i)
    return Curve(points.cost[hull], points.quality[hull])


def envelope_area(curve: Curve, low: float, high: float) -> float:
    """Mean quality of the step envelope over a range of costs.

    Parameters
    ----------
    curve : Curve
        From `upper_envelope`.
    low, high : float
        Range of costs, ``low < high``; the same for all routers that are compared. Usually the cost of the cheapest
        arm and of the best arm.

    Returns
    -------
    float
        In [0, 1]. Where `low` lies below the cheapest point, that part of the range counts as quality 0.

    Raises
    ------
    ValueError
        `low` is not below `high`.

    Notes
    -----
    ``1 / (high - low) · ∫ max{quality_i : cost_i <= c} dc``; exact, no sampling.

    References
    ----------
    Area under the deferral curve of UniRoute (arXiv 2502.08773, section 6), here divided by the range instead of the
    highest cost, so that cheap arms near cost 0 do not shift it.
    """
    edges, inside = _clipped(curve, low, high)
    values = np.nan_to_num(curve.step_at(edges[:-1]), nan=0.0)
    return float(np.sum(values * np.diff(edges)) / inside)


def average_improvement(cost: ArrayLike, quality: ArrayLike, low: float, high: float) -> float:
    """AIQ: mean quality of the non-decreasing concave hull over a range of costs.

    Parameters
    ----------
    cost, quality : array_like of float, shape (n,)
        All operating points of the router.
    low, high : float
        Common range of costs, ``low < high``.

    Returns
    -------
    float
        In [0, 1]; below the cheapest point the quality counts as 0.

    Raises
    ------
    ValueError
        `low` is not below `high`, or the points are unusable.

    Notes
    -----
    ``1 / (high - low) · ∫ hull(c) dc`` by the trapezoid rule on the corners, which is exact.

    References
    ----------
    AIQ of RouterBench (arXiv 2403.12031, section 3). Its published code divides by the highest cost; this follows the
    paper's formula, on one range for all routers.
    """
    curve = concave_hull(cost, quality)
    edges, inside = _clipped(curve, low, high)
    start = max(low, float(curve.cost[0]))
    edges = edges[edges >= start]
    return float(np.trapezoid(curve.line_at(edges), edges) / inside)


def path_area(cost: ArrayLike, quality: ArrayLike, low: float, high: float) -> float:
    """Mean quality over a range of costs along the points as they are, none selected.

    Parameters
    ----------
    cost, quality : array_like of float, shape (n,)
        Operating points of one router, in any order.
    low, high : float
        Range of costs, ``low < high``.

    Returns
    -------
    float
        In [0, 1]; beyond the ends the nearest point's quality counts.

    Raises
    ------
    ValueError
        `low` is not below `high`, or the points are unusable.

    Notes
    -----
    ``1 / (high - low) · ∫ line(c) dc`` through the points sorted by cost, equal costs averaged; exact. The envelope and
    the hull take the best of many noisy points on the very prompts they are measured on, so a router that knows nothing
    comes out above mixtures of fixed arms (by .007 on 600 prompts with three arms and 48 points). A line through all
    points does not: it is linear in the scores, so noise cancels.
    """
    x, y = _points(cost, quality)
    places, inverse = np.unique(x, return_inverse=True)
    curve = Curve(places, np.bincount(inverse, y) / np.bincount(inverse))
    edges, inside = _clipped(curve, low, high)
    return float(np.trapezoid(np.interp(edges, curve.cost, curve.quality), edges) / inside)


def cost_at_quality(curve: Curve, target: float) -> float:
    """Find the lowest cost at which a curve reaches a quality.

    Parameters
    ----------
    curve : Curve
        From `upper_envelope`: points as they are, no mixing.
    target : float
        Quality to reach, in [0, 1].

    Returns
    -------
    float
        Cost, or ``inf`` when no point reaches `target`.
    """
    reached = np.flatnonzero(curve.quality >= target)
    return float(curve.cost[reached[0]]) if reached.size else float("inf")


def quality_neutral_cost(curve: Curve, best_quality: float, best_cost: float, share: float = 1.0) -> float:
    """QNC: relative cost at which a router equals a share of the best single arm's quality.

    Parameters
    ----------
    curve : Curve
        From `upper_envelope`.
    best_quality, best_cost : float
        Mean quality and mean cost of the best single arm; `best_cost` > 0.
    share : float, in (0, 1]
        Share of `best_quality` to reach: 1 for QNC, 0.95 and 0.99 for the operating points of this package.

    Returns
    -------
    float
        Cost divided by `best_cost`; ``inf`` when never reached.

    References
    ----------
    QNC of UniRoute (arXiv 2502.08773, section 6); `share` is ours.
    """
    return cost_at_quality(curve, share * best_quality) / best_cost


@dataclass(frozen=True, slots=True)
class CalibrationBins:
    """Predicted against observed quality, in bins of equal counts.

    Attributes
    ----------
    predicted, observed : tuple of float, length b
        Means within each bin.
    count : tuple of int, length b
    """

    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    count: tuple[int, ...]


def calibration_bins(predicted: ArrayLike, observed: ArrayLike, bins: int = 10) -> CalibrationBins:
    """Sort by prediction and cut into bins of equal counts.

    Parameters
    ----------
    predicted, observed : array_like of float, shape (n,), in [0, 1]
        NaN in either leaves the pair out.
    bins : int
        Number of bins, >= 1; fewer when predictions coincide, since equal predictions share a bin.

    Returns
    -------
    CalibrationBins
        Empty when no pair is left.
    """
    p = np.asarray(predicted, dtype=np.float64).ravel()
    y = np.asarray(observed, dtype=np.float64).ravel()
    usable = np.isfinite(p) & np.isfinite(y)
    p, y = p[usable], y[usable]
    if not p.size:
        return CalibrationBins((), (), ())
    index = calibration_places(p, bins)
    count = np.bincount(index)
    return CalibrationBins(
        tuple((np.bincount(index, p) / count).tolist()),
        tuple((np.bincount(index, y) / count).tolist()),
        tuple(int(n) for n in count),
    )


def calibration_places(predicted: FloatVector, bins: int = 10) -> NDArray[np.int64]:
    """Give each of n >= 1 finite predictions the number of its bin, as `calibration_bins` cuts them, (n,)."""
    _, value, ties = np.unique(predicted, return_inverse=True, return_counts=True)
    middle = np.cumsum(ties) - ties / 2.0  # rank of the middle of each run of equal predictions
    _, index = np.unique((middle * bins / predicted.size).astype(np.int64)[value], return_inverse=True)
    return np.asarray(index, dtype=np.int64)


def expected_calibration_error(predicted: ArrayLike, observed: ArrayLike, bins: int = 10) -> float:
    """ECE: mean distance between predicted and observed quality over bins of equal counts.

    Parameters
    ----------
    predicted, observed : array_like of float, shape (n,), in [0, 1]
    bins : int

    Returns
    -------
    float
        In [0, 1]; NaN without data. A perfect predictor still shows about ``0.8 · sqrt(p(1-p) · bins / n)`` by chance.

    References
    ----------
    Naeini, Cooper, Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning" (AAAI 2015), with bins
    of equal counts instead of equal widths.
    """
    cut = calibration_bins(predicted, observed, bins)
    if not cut.count:
        return float("nan")
    distance = np.abs(np.asarray(cut.predicted) - np.asarray(cut.observed))
    return float(np.average(distance, weights=cut.count))


def brier_score(predicted: ArrayLike, observed: ArrayLike) -> float:
    """Mean squared difference between predicted and observed quality.

    Parameters
    ----------
    predicted, observed : array_like of float, shape (n,), in [0, 1]
        NaN in either leaves the pair out.

    Returns
    -------
    float
        In [0, 1]; NaN without data.

    References
    ----------
    Brier, "Verification of forecasts expressed in terms of probability" (Monthly Weather Review 78, 1950).
    """
    squared = (np.asarray(predicted, dtype=np.float64) - np.asarray(observed, dtype=np.float64)) ** 2
    usable = np.isfinite(squared)
    return float(squared[usable].mean()) if usable.any() else float("nan")


def _points(cost: ArrayLike, quality: ArrayLike) -> tuple[FloatVector, FloatVector]:
    x, y = np.asarray(cost, dtype=np.float64).ravel(), np.asarray(quality, dtype=np.float64).ravel()
    if x.size == 0 or x.size != y.size:
        raise ValueError("cost and quality must have the same length, at least 1")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("cost and quality must be finite")
    return x, y


def _is_below(points: Curve, left: int, middle: int, right: int) -> bool:
    """Tell whether `middle` lies on or under the line from `left` to `right`."""
    run = (points.cost[middle] - points.cost[left]) * (points.quality[right] - points.quality[left])
    rise = (points.quality[middle] - points.quality[left]) * (points.cost[right] - points.cost[left])
    return bool(rise <= run)


def _clipped(curve: Curve, low: float, high: float) -> tuple[FloatVector, float]:
    """Corners within [low, high] with both ends, and the width of the range."""
    if not low < high:
        raise ValueError(f"the range of costs is empty: {low} to {high}")
    inner = curve.cost[(curve.cost > low) & (curve.cost < high)]
    return np.concatenate([[low], inner, [high]]), high - low
