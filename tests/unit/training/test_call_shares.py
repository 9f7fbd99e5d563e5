"""RouteLLM's measures against curves drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_training.call_shares import measure_call_shares

FOUR = np.arange(4)


def test_call_shares_perfect_order_gives_values_computed_by_hand() -> None:
    """With one of four prompts gaining and sent first, the gap is closed after a quarter of the calls."""
    found = measure_call_shares(
        np.array([4.0, 3.0, 2.0, 1.0]), np.array([1.0, 0.0, 0.0, 0.0]), FOUR, resamples=5, seed=0
    )
    assert found.gap_recovered.value == pytest.approx(0.125 + 0.75)  # triangle, then a rectangle of height 1
    assert found.gap_recovered_running_maximum.value == pytest.approx(0.875)
    assert found.calls_for_50.value == pytest.approx(0.125)
    assert found.calls_for_80.value == pytest.approx(0.2)


def test_call_shares_curve_that_falls_is_read_by_its_running_maximum() -> None:
    """Where the dear arm loses on the last prompts, CPT takes the first share of calls that reaches the target."""
    found = measure_call_shares(
        np.array([4.0, 3.0, 2.0, 1.0]), np.array([1.0, 1.0, 0.0, -1.0]), FOUR, resamples=5, seed=0
    )
    # Recovered: 0, 1, 2, 2, 1 at shares 0, .25, .5, .75, 1; the running maximum stays at 2.
    assert found.gap_recovered.value == pytest.approx(0.25 * (0.5 + 1.5 + 2.0 + 1.5))
    assert found.gap_recovered_running_maximum.value == pytest.approx(0.25 * (0.5 + 1.5 + 2.0 + 2.0))
    assert found.calls_for_50.value == pytest.approx(0.125)
    assert found.calls_for_80.value == pytest.approx(0.2)


def test_call_shares_running_maximum_counts_only_what_lies_above_it() -> None:
    """A curve that dips first adds area only after it has come back to its maximum so far."""
    found = measure_call_shares(np.array([2.0, 1.0]), np.array([-1.0, 2.0]), np.arange(2), resamples=5, seed=0)
    # Recovered: 0, -1, 1: the second segment passes 0 in its middle, so a triangle of a quarter by 1 is left.
    assert found.gap_recovered.value == pytest.approx(0.5 * (-0.5) + 0.5 * 0.0)
    assert found.gap_recovered_running_maximum.value == pytest.approx(0.5 * 0.25 * 1.0)
    assert found.calls_for_50.value == pytest.approx(0.875)


def test_call_shares_equal_gains_are_a_random_order() -> None:
    """Estimates that are all equal recover half of the gap and need half of the calls for half of it."""
    difference = np.array([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    found = measure_call_shares(np.zeros(6), difference, np.arange(6), resamples=20, seed=0)
    assert found.gap_recovered.value == pytest.approx(0.5)
    assert found.calls_for_50.value == pytest.approx(0.5)
    assert found.calls_for_80.value == pytest.approx(0.8)


def test_call_shares_best_arm_without_advantage_are_undefined() -> None:
    """Where the arms score alike there is no gap to recover, and nothing is claimed."""
    found = measure_call_shares(np.arange(4.0), np.zeros(4), FOUR, resamples=5, seed=0)
    assert np.isnan([found.gap_recovered.value, found.calls_for_80.value, found.calls_for_50.low]).all()
