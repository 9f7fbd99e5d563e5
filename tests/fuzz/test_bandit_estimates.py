"""Estimates from any log: within the range of what was seen, and the same in any order of rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock_training.bandit.estimators import WeightedRows, effective_sample_size, estimate

row = st.tuples(
    st.floats(0.0, 100.0),  # weight
    st.floats(0.0, 1.0),  # outcome
    st.integers(0, 5),  # group
    st.floats(0.0, 1.0),  # expected
    st.floats(0.0, 1.0),  # expected of the served arm
)


def _weighted(rows: list[tuple[float, float, int, float, float]]) -> WeightedRows:
    weight, outcome, groups, expected, served = (np.array(column) for column in zip(*rows, strict=True))
    return WeightedRows(weight, outcome, groups.astype(np.int64), expected, served)


@given(st.lists(row, min_size=1, max_size=40))
@example([(5e-324, 0.5, 0, 0.0, 0.0)])  # the least weight times an outcome is nothing
def test_estimates_of_any_log_are_finite_and_snips_is_within_the_scores(
    rows: list[tuple[float, float, int, float, float]],
) -> None:
    """The self-normalised mean lies between the smallest and the largest weighted score; ESS is at most n."""
    weighted = _weighted(rows)
    found = estimate(weighted)
    assert all(np.isfinite([entry.value, entry.low, entry.high]).all() for entry in found.values())
    assert all(entry.low <= entry.value <= entry.high for entry in found.values())
    assert 0.0 <= effective_sample_size(weighted.weight) <= len(rows) * (1 + 1e-9)
    if "snips" in found:
        seen = weighted.outcome[weighted.weight > 0.0]
        assert seen.min() - 1e-9 <= found["snips"].value <= seen.max() + 1e-9


@given(st.lists(row, min_size=2, max_size=40), st.randoms(use_true_random=False))
def test_estimates_of_any_log_do_not_depend_on_the_order_of_rows(
    rows: list[tuple[float, float, int, float, float]], random: np.random.Generator
) -> None:
    """A log is a set of decisions: shuffled, it gives the same values and standard errors up to rounding."""
    shuffled = list(rows)
    random.shuffle(shuffled)
    one, other = estimate(_weighted(rows)), estimate(_weighted(shuffled))
    assert one.keys() == other.keys()
    for name, entry in one.items():
        assert other[name].value == pytest.approx(entry.value, abs=1e-9)
        assert other[name].standard_error == pytest.approx(entry.standard_error, rel=1e-6, abs=1e-9)
