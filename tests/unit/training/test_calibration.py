"""Calibration recovers known distortions, stays put without evidence, and is never free where outcomes are few."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_training.calibration import (
    KNOTS,
    PRIOR_ROWS,
    QUALITY_BOUND,
    SLOPE_BOUNDS,
    fit_calibration,
    identity_calibration,
)

KNOT_VALUES = np.linspace(0.0, 1.0, KNOTS)


def _logit(quality: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(quality / (1.0 - quality)))


def _overstated(rows: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """True quality, a raw number whose logit is twice as large and shifted by 1/2, and outcomes; two arms."""
    random = np.random.default_rng(seed)
    logit = random.uniform(-1.0, 1.0, (rows, 2))
    quality = 1.0 / (1.0 + np.exp(-logit))
    raw = 1.0 / (1.0 + np.exp(-(2.0 * logit + 0.5)))
    return quality, raw, (random.random((rows, 2)) < quality).astype(np.float64)


def _stepped(rows: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A raw number whose truth is 0.2 below one half and 0.8 above: no straight line on the logit."""
    random = np.random.default_rng(1)
    raw = random.uniform(0.0, 1.0, (rows, 1))
    return raw, (random.random((rows, 1)) < np.where(raw < 0.5, 0.2, 0.8)).astype(np.float64)


def test_fit_calibration_many_rows_undo_a_known_distortion() -> None:
    """A doubled, shifted logit comes back to the true quality."""
    quality, raw, score = _overstated(40_000)
    found = fit_calibration(raw, score, np.arange(40_000))
    # 40,000 outcomes in blocks of some hundreds: a standard error of about 0.01 per prompt of a free curve.
    assert np.sqrt(np.square(found.apply(raw) - quality).mean()) < 0.015
    assert np.sqrt(np.square(raw - quality).mean()) > 0.1


@pytest.mark.parametrize("rows", [30, 300, 3000])
def test_fit_calibration_curves_never_fall_and_stay_inside_the_bounds(rows: int) -> None:
    """A higher raw number never means a lower quality, by whichever method."""
    _, raw, score = _overstated(rows)
    found = fit_calibration(raw, score, np.arange(rows))
    assert (np.diff(found.values, axis=1) >= 0.0).all()
    applied = found.apply(np.array([[-5.0, 0.0], [0.3, 1.0], [7.0, 0.5]]))
    assert applied.min() >= QUALITY_BOUND
    assert applied.max() <= 1.0 - QUALITY_BOUND


def test_fit_calibration_without_rows_changes_nothing() -> None:
    """No held-out outcome of an arm, no correction of it."""
    found = fit_calibration(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, dtype=np.int64))
    np.testing.assert_array_equal(found.values, identity_calibration(2).values)
    _, raw, score = _overstated(500)
    score[:, 1] = np.nan
    np.testing.assert_array_equal(fit_calibration(raw, score, np.arange(500)).values[1], KNOT_VALUES)


def test_fit_calibration_few_rows_move_little() -> None:
    """A dozen prompts weigh a quarter of the belief that the raw numbers are right."""
    _, raw, score = _overstated(12)
    assert PRIOR_ROWS > 12
    assert np.abs(fit_calibration(raw, score, np.arange(12)).values - KNOT_VALUES).max() < 0.15


def test_fit_calibration_reversed_numbers_are_ignored_and_keep_the_mean() -> None:
    """Raw numbers that say the opposite are never inverted: the curve is flat at the mean outcome."""
    random = np.random.default_rng(1)
    raw = random.uniform(0.55, 0.95, (800, 1))
    score = (random.random((800, 1)) < 1.6 - raw - 0.2).astype(np.float64)
    found = fit_calibration(raw, score, np.arange(800))
    assert SLOPE_BOUNDS[0] == 0.0
    assert np.ptp(found.values) == pytest.approx(0.0, abs=1e-12)
    # The prior of 50 prompts draws the level towards one half.
    assert found.values[0, 0] == pytest.approx(float(score.mean()), abs=0.02)


def test_fit_calibration_takes_the_method_with_the_smaller_brier_score() -> None:
    """A step is no logistic line, so the free curve is taken; a line on the logit is one."""
    raw, score = _stepped(20_000)
    found = fit_calibration(raw, score, np.arange(20_000))
    assert found.method == "isotonic"
    assert found.apply(np.array([[0.2], [0.8]])).ravel() == pytest.approx([0.2, 0.8], abs=0.03)
    _, raw, score = _overstated(1200)
    assert fit_calibration(raw, score, np.arange(1200)).method == "temperature"


def test_fit_calibration_fewer_than_a_thousand_prompts_have_no_free_curve() -> None:
    """On few prompts a free curve is noise, however well it seems to fit."""
    raw, score = _stepped(999)
    assert fit_calibration(raw, score, np.arange(999)).method == "temperature"


def test_fit_calibration_arm_with_one_outcome_keeps_about_its_raw_numbers() -> None:
    """Beside an arm with thousands of outcomes, one lucky answer does not make a quality of 1."""
    raw, score = _stepped(5000)
    raw, score = np.hstack([raw, raw]), np.hstack([score, np.full_like(score, np.nan)])
    score[0, 1] = 1.0
    found = fit_calibration(raw, score, np.arange(5000))
    assert found.method == "isotonic"
    assert np.abs(found.values[1] - KNOT_VALUES)[2:-2].max() < 0.05  # the ends are bounded on the logit


def test_fit_calibration_equal_raw_numbers_get_their_mean_outcome() -> None:
    """The order of the rows says nothing: a head with three values gets three levels, even with outcomes sorted."""
    raw = np.repeat([0.2, 0.5, 0.8], 3000)[:, None]
    tenths = np.arange(3000) % 10
    score = np.concatenate([np.sort(tenths < good) for good in (1, 8, 9)])[:, None].astype(np.float64)
    found = fit_calibration(raw, score, np.tile(np.arange(3000), 3))
    assert found.method == "isotonic"
    assert found.apply(np.array([[0.2], [0.5], [0.8]])).ravel() == pytest.approx([0.1, 0.8, 0.9], abs=0.02)


def test_fit_calibration_raw_numbers_far_too_high_still_converge() -> None:
    """Where 99 % was promised and half held, Newton's first step overshoots and has to come back."""
    raw, score = np.full((50_000, 1), 0.99), np.tile([[0.0], [1.0]], (25_000, 1))
    one_question = np.zeros(50_000, dtype=np.int64)  # no halves to compare methods on
    with np.errstate(over="raise"):
        found = fit_calibration(raw, score, one_question)
    assert found.method == "temperature"
    assert found.apply(raw[:1])[0, 0] == pytest.approx(0.5, abs=0.002)  # 50 prompts of belief against 50,000


def test_fit_calibration_depends_on_no_order_of_the_rows() -> None:
    """Shuffled rows give the same curves."""
    _, raw, score = _overstated(3000)
    order = np.random.default_rng(2).permutation(3000)
    one = fit_calibration(raw, score, np.arange(3000))
    two = fit_calibration(raw[order], score[order], order)
    np.testing.assert_allclose(one.values, two.values, atol=1e-9)  # sums in another order
