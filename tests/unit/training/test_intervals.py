"""Bootstrap intervals and discordant pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from penstock_training.intervals import GroupBootstrap, discordant_pairs, group_weights


def test_group_bootstrap_means_are_column_means_of_the_data() -> None:
    """Whatever the groups, the value is that of the data as they are."""
    columns = np.random.default_rng(0).random((50, 3))
    bootstrap = GroupBootstrap(columns, np.arange(50) % 7, resamples=20)
    np.testing.assert_allclose(bootstrap.means, columns.mean(axis=0))
    assert bootstrap.draws.shape == (20, 3)


def test_group_bootstrap_width_agrees_with_the_normal_interval() -> None:
    """For independent rows the interval of a mean is about 1.96 standard errors to each side."""
    values = np.random.default_rng(1).normal(size=(2000, 1))
    found = GroupBootstrap(values, np.arange(2000), resamples=2000, seed=1).interval(lambda means: float(means[0]))
    expected = 1.96 * values.std() / math.sqrt(2000)
    assert found.high - found.value == pytest.approx(expected, rel=0.1)
    assert found.value - found.low == pytest.approx(expected, rel=0.1)


def test_group_bootstrap_repeated_rows_of_a_group_do_not_narrow_the_interval() -> None:
    """A question asked ten times is one observation."""
    values = np.random.default_rng(2).normal(size=(200, 1))
    groups = np.arange(200)
    once = GroupBootstrap(values, groups, resamples=1500, seed=3).interval(lambda means: float(means[0]))
    tenfold = GroupBootstrap(np.repeat(values, 10, axis=0), np.repeat(groups, 10), resamples=1500, seed=3)
    ten = tenfold.interval(lambda means: float(means[0]))
    assert (ten.high - ten.low) == pytest.approx(once.high - once.low, rel=1e-9)


def test_group_bootstrap_difference_of_columns_is_paired() -> None:
    """A constant difference has an interval of width zero, however noisy the columns are."""
    noise = np.random.default_rng(4).normal(size=300)
    bootstrap = GroupBootstrap(np.column_stack([noise + 0.25, noise]), np.arange(300), resamples=200)
    found = bootstrap.interval(lambda means: float(means[0] - means[1]))
    assert found.low == pytest.approx(0.25)
    assert found.high == pytest.approx(0.25)


def test_group_bootstrap_same_seed_gives_the_same_interval() -> None:
    """Intervals repeat."""
    values = np.random.default_rng(5).random((80, 1))
    intervals = [
        GroupBootstrap(values, np.arange(80), resamples=100, seed=seed).interval(lambda m: float(m[0]))
        for seed in (7, 7, 8)
    ]
    assert intervals[0] == intervals[1]
    assert intervals[0] != intervals[2]


def test_group_bootstrap_infinite_and_missing_draws_are_handled() -> None:
    """A cost that is never reached is infinite, not an error; draws that are no number are left out."""
    values = np.array([[0.0], [1.0]])
    bootstrap = GroupBootstrap(values, np.arange(2), resamples=400, seed=0)
    reached = bootstrap.interval(lambda means: math.inf if means[0] < 0.4 else 1.0)
    assert (reached.value, reached.low, reached.high) == (1.0, 1.0, math.inf)
    missing = bootstrap.interval(lambda _: math.nan)
    assert math.isnan(missing.low)


def test_group_bootstrap_without_rows_is_refused() -> None:
    """There is nothing to resample."""
    with pytest.raises(ValueError, match="no row"):
        GroupBootstrap(np.zeros((0, 1)), np.zeros(0, dtype=np.int64))


def test_group_weights_sum_to_the_number_of_groups_in_every_sample() -> None:
    """Every bootstrap sample is as large as the data."""
    blocks = np.concatenate(list(group_weights(13, 57, seed=0)))
    assert blocks.shape == (57, 13)
    assert (blocks.sum(axis=1) == 13).all()


def test_discordant_pairs_count_and_exact_test() -> None:
    """Nine against one: p = 2 · (1 + 10) / 1024."""
    first = np.array([1.0] * 9 + [0.0] + [0.5] * 5)
    second = np.array([0.0] * 9 + [1.0] + [0.5] * 5)
    pairs = discordant_pairs(first, second)
    assert (pairs.first_better, pairs.second_better, pairs.equal) == (9, 1, 5)
    assert pairs.p_value == pytest.approx(22 / 1024)


def test_discordant_pairs_without_difference_prove_nothing() -> None:
    """Equal policies have p = 1, and so has an even split."""
    assert discordant_pairs([1.0, 0.0], [1.0, 0.0]).p_value == 1.0
    assert discordant_pairs([1.0, 0.0], [0.0, 1.0]).p_value == 1.0


def test_discordant_pairs_of_many_prompts_do_not_overflow() -> None:
    """A hundred thousand discordant prompts are counted in logarithms."""
    first = np.concatenate([np.ones(50_500), np.zeros(49_500)])
    assert discordant_pairs(first, 1.0 - first).p_value == pytest.approx(0.00158, rel=0.02)


def test_discordant_pairs_of_unequal_length_are_refused() -> None:
    """Pairs need two scores each."""
    with pytest.raises(ValueError, match="every prompt"):
        discordant_pairs([1.0], [1.0, 0.0])
