"""Intervals of counted shares, p-values and their correction, against published and hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_training.intervals import binomial_upper, bootstrap_p_value, holm, share_difference, wilson_interval


def test_wilson_interval_equals_the_formula_and_has_a_width_at_the_ends() -> None:
    """The score interval by hand for 56 of 78, and 1 / (1 + z²/n) as the lower end where all succeed."""
    found = wilson_interval(56, 78)
    z, p, n = 1.959964, 56 / 78, 78
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert wilson_interval(0, 13).low == 0.0
    assert wilson_interval(13, 13).high == 1.0
    assert wilson_interval(13, 13).low == pytest.approx(0.7719, abs=1e-4)  # 1 / (1 + z²/n)
    assert np.isnan(wilson_interval(0, 0).value)


def test_share_difference_of_published_example_is_reproduced() -> None:
    """Newcombe (1998), table II, method 10: 56 of 70 against 48 of 80 gives 0.2000, 0.0524 to 0.3339."""
    found = share_difference(wilson_interval(56, 70), wilson_interval(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(("successes", "trials", "expected"), [(0, 300, 0.009936), (1, 20, 0.216107), (20, 20, 1.0)])
def test_binomial_upper_bound_equals_the_exact_one(successes: int, trials: int, expected: float) -> None:
    """Clopper–Pearson's one-sided 95 % bounds: 1 - .05^(1/300) for none of 300, the tabled value for one of 20."""
    assert binomial_upper(successes, trials) == pytest.approx(expected, abs=1e-5)


def test_holm_adjusts_from_the_smallest_and_never_decreases() -> None:
    """Four p-values by hand: .01·4, .02·3, .03·2, .04·1 with a running maximum, in the order given."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_bootstrap_p_value_counts_draws_on_the_other_side() -> None:
    """Of 99 draws 4 are at or below 0: p = 2 · 5 / 100; and draws that are all 0 prove nothing."""
    assert bootstrap_p_value(np.concatenate([np.full(95, 0.1), np.full(4, -0.1)])) == pytest.approx(0.1)
    assert bootstrap_p_value(np.zeros(99)) == 1.0
    assert bootstrap_p_value(np.full(99, np.nan)) == 1.0
