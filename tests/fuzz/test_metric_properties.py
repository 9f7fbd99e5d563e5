"""Properties that the metrics have for any input."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock_training.baselines import ArmMeans, hull_quality, mixing_quality
from penstock_training.metrics import (
    average_improvement,
    brier_score,
    calibration_bins,
    concave_hull,
    cost_at_quality,
    envelope_area,
    expected_calibration_error,
    upper_envelope,
)

share = st.floats(0.0, 1.0, allow_nan=False, width=32)
cost = st.floats(0.0, 10.0, allow_nan=False, width=32)
points = st.lists(st.tuples(cost, share), min_size=1, max_size=20)


def _split(pairs: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])


@given(points)
def test_upper_envelope_rises_strictly_and_no_point_lies_above_it(pairs: list[tuple[float, float]]) -> None:
    """The envelope is increasing and dominates every point."""
    x, y = _split(pairs)
    curve = upper_envelope(x, y)
    assert (np.diff(curve.cost) > 0).all()
    assert (np.diff(curve.quality) > 0).all()
    assert (curve.step_at(x) >= y).all()


@given(points)
def test_concave_hull_is_concave_and_lies_on_or_above_the_envelope(pairs: list[tuple[float, float]]) -> None:
    """Slopes fall, and no point is above the hull beyond rounding."""
    x, y = _split(pairs)
    hull = concave_hull(x, y)
    run, rise = np.diff(hull.cost), np.diff(hull.quality)
    assert (rise[:-1] * run[1:] >= rise[1:] * run[:-1] - 1e-9).all()
    assert (hull.line_at(x) >= y - 1e-6).all()


@given(points, st.permutations(range(20)))
def test_curves_do_not_depend_on_the_order_of_points(pairs: list[tuple[float, float]], order: list[int]) -> None:
    """A shuffled sweep is the same curve."""
    shuffled = [pairs[i] for i in order if i < len(pairs)]
    one, two = upper_envelope(*_split(pairs)), upper_envelope(*_split(shuffled))
    assert one.cost.tolist() == two.cost.tolist()
    assert one.quality.tolist() == two.quality.tolist()


@given(points, st.tuples(cost, share), cost, cost)
def test_area_grows_with_points_and_stays_below_the_hull(
    pairs: list[tuple[float, float]], extra: tuple[float, float], one: float, two: float
) -> None:
    """One more operating point never lowers an area; mixing never lowers it either; both stay within [0, 1]."""
    low, high = min(one, two), max(one, two) + 0.5
    x, y = _split(pairs)
    more_x, more_y = _split([*pairs, extra])
    area = envelope_area(upper_envelope(x, y), low, high)
    assert -1e-9 <= area <= 1.0 + 1e-9
    assert envelope_area(upper_envelope(more_x, more_y), low, high) >= area - 1e-9
    assert average_improvement(x, y, low, high) >= area - 1e-6


@given(points, share, share)
def test_cost_at_quality_is_monotone(pairs: list[tuple[float, float]], one: float, two: float) -> None:
    """A higher target is never cheaper."""
    curve = upper_envelope(*_split(pairs))
    assert cost_at_quality(curve, min(one, two)) <= cost_at_quality(curve, max(one, two))


@given(st.lists(st.tuples(share, share), min_size=1, max_size=60), st.integers(1, 12))
def test_calibration_error_is_bounded_by_the_mean_absolute_error(pairs: list[tuple[float, float]], bins: int) -> None:
    """Averaging within bins can only cancel errors; bins hold every pair once, in rising order."""
    predicted, observed = _split(pairs)
    cut = calibration_bins(predicted, observed, bins)
    assert sum(cut.count) == len(pairs)
    assert len(cut.count) <= bins
    assert (np.diff(cut.predicted) > 0).all()
    error = expected_calibration_error(predicted, observed, bins)
    assert error <= np.abs(predicted - observed).mean() + 1e-6
    assert error**2 <= brier_score(predicted, observed) + 1e-6


@given(st.lists(st.tuples(cost, share), min_size=2, max_size=8), cost)
def test_constant_hull_is_never_below_mixing_two_arms(pairs: list[tuple[float, float]], budget: float) -> None:
    """Mixing cheapest and best is one of the mixtures that the hull is the best of."""
    x, y = _split(pairs)
    means = ArmMeans(score=y, cost_usd=x)
    spent = float(np.clip(budget, x[means.cheapest], x[means.best]))
    mixed = mixing_quality(means, spent, cheapest=means.cheapest, best=means.best)
    if x[means.best] > x[means.cheapest]:
        assert hull_quality(means, spent) >= mixed - 1e-6
