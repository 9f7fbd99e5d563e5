"""Calibration recovers known distortions and stays put without evidence."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_training.calibration import SLOPE_BOUNDS, fit_calibration, identity_calibration
from penstock_training.knn import RawEstimates, calibrated_quality


def _outcomes(rows: int) -> tuple[RawEstimates, np.ndarray]:
    """True quality q and gain g; the raw numbers overstate the logit and the gain twofold."""
    random = np.random.default_rng(0)
    logit, gain = random.uniform(-1, 1, rows), random.uniform(-0.2, 0.2, rows)
    quality = 1 / (1 + np.exp(-logit))
    score = np.column_stack([random.random(rows) < quality, random.random(rows) < quality + gain]).astype(np.float32)
    raw_quality = 1 / (1 + np.exp(-(2 * logit + 0.5)))
    return RawEstimates(raw_quality, np.column_stack([np.zeros(rows), 2 * gain + 0.1])), score


def test_fit_calibration_many_rows_undo_a_known_distortion() -> None:
    """A doubled logit and a doubled, shifted gain come back to slope 1/2 and the right offset."""
    raw, score = _outcomes(40_000)
    found = fit_calibration(raw, score, 0)
    assert found.anchor_slope == pytest.approx(0.5, abs=0.05)
    assert found.anchor_intercept == pytest.approx(-0.25, abs=0.05)
    assert found.gain_slope[1] == pytest.approx(0.5, abs=0.05)
    assert found.gain_intercept[1] == pytest.approx(-0.05, abs=0.02)
    assert (found.gain_slope[0], found.gain_intercept[0]) == (1.0, 0.0)


def test_fit_calibration_without_rows_changes_nothing() -> None:
    """No held-out prompt, no correction."""
    raw = RawEstimates(np.zeros(0), np.zeros((0, 2)))
    found = fit_calibration(raw, np.zeros((0, 2), dtype=np.float32), 0)
    same = identity_calibration(2, 0)
    assert (found.anchor_slope, found.anchor_intercept) == (same.anchor_slope, same.anchor_intercept)
    assert found.gain_slope.tolist() == same.gain_slope.tolist()


def test_fit_calibration_few_rows_move_little() -> None:
    """A dozen prompts cannot turn the estimates upside down."""
    raw, score = _outcomes(12)
    found = fit_calibration(raw, score, 0)
    assert 0.7 < found.anchor_slope < 1.3
    assert 0.5 < found.gain_slope[1] < 1.4


def test_fit_calibration_reversed_gain_ends_at_the_bound() -> None:
    """A gain that predicts the opposite is ignored, never inverted."""
    raw, score = _outcomes(40_000)
    reversed_gain = RawEstimates(raw.anchor_quality, -raw.anchor_gain)
    assert fit_calibration(reversed_gain, score, 0).gain_slope[1] == SLOPE_BOUNDS[0]


def test_fit_calibration_slope_at_its_bound_keeps_the_mean_quality() -> None:
    """Where the slope is cut, the intercept is fitted to the cut slope, so that the level stays right."""
    random = np.random.default_rng(1)
    quality = random.uniform(0.55, 0.95, 20_000)
    score = (random.random((20_000, 1)) < (1.6 - quality)[:, None]).astype(np.float32)
    raw = RawEstimates(quality, np.zeros((20_000, 1)))
    found = fit_calibration(raw, score, 0)
    assert found.anchor_slope == SLOPE_BOUNDS[0]
    assert calibrated_quality(raw, found).mean() == pytest.approx(float(score.mean()), abs=0.003)


def test_fit_calibration_arm_without_common_prompts_is_fitted_against_the_anchor() -> None:
    """An arm scored on other prompts than the anchor is still calibrated."""
    raw, score = _outcomes(20_000)
    apart = score.copy()
    apart[::2, 0], apart[1::2, 1] = np.nan, np.nan
    found = fit_calibration(raw, apart, 0)
    assert found.gain_slope[1] == pytest.approx(0.5, abs=0.12)


def test_calibrated_quality_never_leaves_the_open_interval() -> None:
    """However large the gain, a quality stays a probability."""
    raw = RawEstimates(np.array([0.0, 1.0]), np.array([[0.0, -5.0], [0.0, 5.0]]))
    found = calibrated_quality(raw, identity_calibration(2, 0))
    assert found.min() > 0.0
    assert found.max() < 1.0
