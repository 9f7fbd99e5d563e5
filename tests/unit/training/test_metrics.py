"""Metrics: worked examples small enough to check by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from penstock_training.metrics import (
    average_improvement,
    brier_score,
    calibration_bins,
    concave_hull,
    cost_at_quality,
    envelope_area,
    expected_calibration_error,
    path_area,
    quality_neutral_cost,
    upper_envelope,
)

COST = [1.0, 2.0, 3.0, 4.0, 5.0]
QUALITY = [0.2, 0.5, 0.4, 0.55, 0.8]


def test_upper_envelope_drops_points_that_a_cheaper_one_beats() -> None:
    """The point at cost 3 is worse than the one at cost 2."""
    curve = upper_envelope(COST, QUALITY)
    assert curve.cost.tolist() == [1.0, 2.0, 4.0, 5.0]
    assert curve.quality.tolist() == [0.2, 0.5, 0.55, 0.8]


def test_upper_envelope_equal_cost_keeps_the_better_point() -> None:
    """Two points of one cost are one choice."""
    curve = upper_envelope([1.0, 1.0, 2.0], [0.3, 0.6, 0.6])
    assert (curve.cost.tolist(), curve.quality.tolist()) == ([1.0], [0.6])


def test_concave_hull_drops_points_below_a_mixture() -> None:
    """Mixing costs 2 and 5 gives 0.7 at cost 4, so 0.55 there is no corner."""
    hull = concave_hull(COST, QUALITY)
    assert hull.cost.tolist() == [1.0, 2.0, 5.0]
    assert hull.line_at(4.0) == pytest.approx(0.7)
    assert hull.line_at(9.0) == pytest.approx(0.8)
    assert math.isnan(float(hull.line_at(0.5)))


def test_step_at_takes_the_best_affordable_point() -> None:
    """Between two points the cheaper one is used; below the first there is none."""
    curve = upper_envelope(COST, QUALITY)
    np.testing.assert_allclose(curve.step_at([1.0, 3.9, 4.0, 9.0]), [0.2, 0.5, 0.55, 0.8])
    assert math.isnan(float(curve.step_at(0.99)))


def test_envelope_area_is_the_mean_of_the_steps() -> None:
    """Steps of width 1, 2, 1 with 0.2, 0.5, 0.55: (0.2 + 1.0 + 0.55) / 4."""
    assert envelope_area(upper_envelope(COST, QUALITY), 1.0, 5.0) == pytest.approx(1.75 / 4)


def test_envelope_area_below_the_cheapest_point_counts_as_nothing() -> None:
    """A router that starts at cost 1 has no quality to offer from 0 to 1."""
    assert envelope_area(upper_envelope([1.0], [0.6]), 0.0, 2.0) == pytest.approx(0.3)


def test_average_improvement_is_the_mean_under_the_hull() -> None:
    """Trapezoids (0.2 + 0.5) / 2 and 3 · (0.5 + 0.8) / 2, over a width of 4."""
    assert average_improvement(COST, QUALITY, 1.0, 5.0) == pytest.approx((0.35 + 1.95) / 4)


def test_average_improvement_beyond_the_last_point_stays_level() -> None:
    """More money than the dearest point buys no more."""
    assert average_improvement([1.0, 2.0], [0.0, 1.0], 1.0, 4.0) == pytest.approx((0.5 + 2.0) / 3)


def test_area_empty_range_is_refused() -> None:
    """A range of costs has a width."""
    with pytest.raises(ValueError, match="empty"):
        envelope_area(upper_envelope(COST, QUALITY), 2.0, 2.0)


@pytest.mark.parametrize(("cost", "quality"), [([], []), ([1.0], [1.0, 2.0]), ([math.nan], [1.0]), ([1.0], [math.inf])])
def test_upper_envelope_unusable_points_are_refused(cost: list[float], quality: list[float]) -> None:
    """Points are finite pairs, at least one."""
    with pytest.raises(ValueError, match="cost and quality"):
        upper_envelope(cost, quality)


def test_cost_at_quality_is_the_first_point_that_reaches_it() -> None:
    """0.52 is first reached at cost 4; 0.9 never."""
    curve = upper_envelope(COST, QUALITY)
    assert cost_at_quality(curve, 0.52) == 4.0
    assert math.isinf(cost_at_quality(curve, 0.9))


def test_quality_neutral_cost_is_relative_to_the_best_arm() -> None:
    """95 % of 0.8 needs cost 5 of 10; all of it too."""
    curve = upper_envelope(COST, QUALITY)
    assert quality_neutral_cost(curve, 0.8, 10.0) == 0.5
    assert quality_neutral_cost(curve, 0.8, 10.0, share=0.68) == 0.4


def test_calibration_bins_have_equal_counts_and_keep_equal_predictions_together() -> None:
    """Ten predictions in five bins make pairs; a constant prediction makes one bin."""
    cut = calibration_bins(np.arange(10) / 10, np.ones(10), bins=5)
    assert cut.count == (2, 2, 2, 2, 2)
    assert cut.predicted == pytest.approx((0.05, 0.25, 0.45, 0.65, 0.85))
    assert calibration_bins(np.full(8, 0.3), [0, 1] * 4, bins=5).count == (8,)
    assert calibration_bins([math.nan], [1.0]).count == ()


def test_expected_calibration_error_of_a_constant_is_its_bias() -> None:
    """Predicting 0.3 where half is right is off by 0.2."""
    assert expected_calibration_error(np.full(8, 0.3), [0, 1] * 4) == pytest.approx(0.2)
    assert math.isnan(expected_calibration_error([], []))


def test_expected_calibration_error_weights_bins_by_count() -> None:
    """Two bins of one and three pairs, off by 0.4 and 0.1."""
    assert expected_calibration_error([0.1, 0.9, 0.9, 0.9], [0.5, 0.8, 0.8, 0.8], bins=2) == pytest.approx(0.175)


def test_brier_score_is_the_mean_squared_error_of_known_pairs() -> None:
    """Unknown outcomes are left out."""
    assert brier_score([0.5, 1.0, 0.2], [1.0, 1.0, math.nan]) == pytest.approx(0.125)
    assert math.isnan(brier_score([0.5], [math.nan]))


def test_path_area_follows_the_points_and_selects_none() -> None:
    """From (0, .2) over a bad point (1, .1) to (2, .6): two trapezoids, where hull and envelope skip the bad point."""
    cost, quality = [0.0, 2.0, 1.0], [0.2, 0.6, 0.1]
    assert path_area(cost, quality, 0.0, 2.0) == pytest.approx((0.15 + 0.35) / 2)
    assert path_area(cost, quality, 0.0, 4.0) == pytest.approx((0.15 + 0.35 + 2 * 0.6) / 4)  # the last point holds on
    assert path_area([1.0, 1.0], [0.2, 0.4], 0.0, 2.0) == pytest.approx(0.3)  # equal costs are averaged
    assert average_improvement(cost, quality, 0.0, 2.0) == pytest.approx(0.4)


def test_path_area_of_pure_noise_is_unbiased_where_the_hull_is_not() -> None:
    """Noise around a constant quality averages out along the path; the hull climbs onto its peaks."""
    random = np.random.default_rng(0)
    cost = np.linspace(0.0, 1.0, 40)
    draws = [0.5 + 0.02 * random.standard_normal(40) for _ in range(400)]
    path = np.mean([path_area(cost, quality, 0.0, 1.0) for quality in draws])
    hull = np.mean([average_improvement(cost, quality, 0.0, 1.0) for quality in draws])
    assert path == pytest.approx(0.5, abs=1e-3)  # six standard errors of 0.02 / sqrt(40 · 400)
    assert hull > 0.52
