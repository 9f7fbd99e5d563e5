"""Intervals over conversations: right for means whose truth is known, honest about dependence."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_gateway.reports.bootstrap import BlockBootstrap, interval_of, student_quantile


def test_sums_over_blocks_are_those_of_the_rows() -> None:
    """The point is the plain sum by column; rows of no column add to none; draws are around it."""
    bootstrap = BlockBootstrap(np.array([7, 7, 3, 3, 9]), draws=2000, seed=1)
    columns = np.array([0, 1, 0, -1, 1])
    values = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [100.0, 100.0], [8.0, 80.0]])
    point, drawn = bootstrap.sums(columns, values, 2)
    assert point.tolist() == [[5.0, 50.0], [10.0, 100.0]]
    assert drawn.shape == (2000, 2, 2)
    assert drawn.mean(axis=0) == pytest.approx(point, rel=0.1)  # standard error of a mean draw: 2 %
    assert bootstrap.counts(columns, 2).tolist() == [2, 2]


def test_draws_of_separate_sums_belong_together() -> None:
    """A ratio of two sums over the same rows is 1 in every draw, so both used the same weights."""
    bootstrap = BlockBootstrap(np.arange(50), draws=20, seed=0)
    columns, values = np.zeros(50, dtype=np.int64), np.arange(50.0)[:, None] + 1.0
    _, first = bootstrap.sums(columns, values, 1)
    _, second = bootstrap.sums(columns, values, 1)
    assert (first == second).all()


def test_weights_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by working in steps; each step sums over its own blocks."""
    from penstock_gateway.reports import bootstrap as module

    monkeypatch.setattr(module, "_WEIGHTS_PER_STEP", 100)
    bootstrap = BlockBootstrap(np.repeat(np.arange(37), 2), draws=25, seed=0)
    point, drawn = bootstrap.sums(np.zeros(74, dtype=np.int64), np.ones((74, 1)), 1)
    assert point.item() == 74.0
    assert drawn.mean() == pytest.approx(74.0, rel=0.1)


def test_interval_of_dependent_rows_counts_conversations_and_not_rows() -> None:
    """Ten copies of a row in one conversation tell no more than one."""
    values = np.random.default_rng(0).normal(size=40)
    once, tenfold = (
        BlockBootstrap(np.repeat(np.arange(40), copies), draws=500, seed=3).sums(
            np.zeros(40 * copies, dtype=np.int64), np.repeat(values, copies)[:, None] / copies, 1
        )[1]
        for copies in (1, 10)
    )
    assert tenfold == pytest.approx(once)


def test_interval_of_a_mean_covers_the_truth_as_often_as_it_says() -> None:
    """In 400 samples of 20 values, the interval holds the true mean in 95 %, give or take 3 (2.7 standard errors)."""
    random = np.random.default_rng(0)
    hits = 0
    for seed in range(400):
        values = random.normal(5.0, 1.0, 20)
        bootstrap = BlockBootstrap(np.arange(20), draws=400, seed=seed)
        ones = np.ones(20)
        point, drawn = bootstrap.sums(np.zeros(20, dtype=np.int64), np.column_stack([values, ones]), 1)
        means = drawn[:, 0, 0] / drawn[:, 0, 1]
        found = interval_of(float(point[0, 0] / point[0, 1]), means, 20)
        hits += found.low <= 5.0 <= found.high
    assert 0.92 <= hits / 400 <= 0.98


@pytest.mark.parametrize(("degrees", "exact"), [(4.0, 2.776), (10.0, 2.228), (19.0, 2.093), (1000.0, 1.962)])
def test_student_quantile_of_small_samples_is_that_of_the_tables(degrees: float, exact: float) -> None:
    """The series is within half a percent of the tabulated 97.5 % quantile."""
    assert student_quantile(0.975, degrees) == pytest.approx(exact, rel=0.005)
