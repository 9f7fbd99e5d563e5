"""Comparing routers on the same prompts: paired, corrected, and honest about equals."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_routers.policy import Tradeoff
from penstock_training.comparison import AREA, Contender, compare_routers
from penstock_training.decisions import EstimateArrays
from penstock_training.evaluation import prepare_trial
from penstock_training.outcomes import OutcomeMatrix
from support.outcome_samples import random_trial

POINTS = (Tradeoff("quality", 0.0, 0.5), Tradeoff("cost", 0.6, 0.5))


def _contender(name: str, estimates: EstimateArrays, matrix: OutcomeMatrix) -> Contender:
    trial, _, _ = prepare_trial(estimates, matrix, (0.01, np.inf), resamples=200, seed=0)
    return Contender(name, trial, POINTS)


def test_compare_routers_knowing_one_is_surely_better_than_a_shuffled_one() -> None:
    """Estimates of other prompts lose against the right ones over all budgets, after correction."""
    estimates, matrix = random_trial(0, 1200, skill=0.95)
    order = np.random.default_rng(1).permutation(1200)
    shuffled = estimates.take(order, estimates.arms)
    found = compare_routers([_contender("knowing", estimates, matrix), _contender("blind", shuffled, matrix)])
    area = next(d for d in found.differences if d.measure == AREA)
    assert area.difference.low > 0
    assert area.adjusted_p_value < 0.05
    assert found.verdicts == ("Over all budgets, knowing is surely better than blind.",)
    assert (found.prompts, found.groups) == (1200, 600)


def test_compare_routers_difference_at_a_point_equals_a_direct_computation() -> None:
    """Quality and cost differences are those of the decisions on the same prompts."""
    estimates, matrix = random_trial(0, 600, skill=0.9)
    flat = estimates.take(np.random.default_rng(2).permutation(600), estimates.arms)
    one, two = _contender("one", estimates, matrix), _contender("two", flat, matrix)
    found = {d.measure: d for d in compare_routers([one, two]).differences}
    first, second = (c.trial.columns(c.trial.decide(POINTS[1]).chosen).mean(axis=0) for c in (one, two))
    best_cost = one.trial.cost_usd[:, 2].mean()
    assert found["quality at cost"].difference.value == pytest.approx(first[0] - second[0])
    assert found["relative cost at cost"].difference.value == pytest.approx((first[1] - second[1]) / best_cost)


def test_compare_routers_with_itself_finds_exactly_nothing() -> None:
    """Pairing removes everything that two routers share, so a router never differs from its copy."""
    estimates, matrix = random_trial(0, 300)
    found = compare_routers([_contender("a", estimates, matrix), _contender("b", estimates, matrix)])
    assert all(d.difference.low == d.difference.high == 0.0 for d in found.differences)
    assert {d.adjusted_p_value for d in found.differences} == {1.0}
    assert "cannot be told apart" in found.verdicts[0]


def test_compare_routers_many_pairs_are_corrected_within_each_kind() -> None:
    """Three routers make three areas: the smallest p-value is tripled, and cost differences do not count."""
    estimates, matrix = random_trial(0, 800, skill=0.95)
    orders = [np.random.default_rng(seed).permutation(800) for seed in (1, 2)]
    others = [estimates.take(order, estimates.arms) for order in orders]
    contenders = [_contender(name, e, matrix) for name, e in zip("abc", (estimates, *others), strict=True)]
    areas = [d for d in compare_routers(contenders).differences if d.measure == AREA]
    smallest = min(areas, key=lambda d: d.p_value)
    assert smallest.adjusted_p_value == pytest.approx(min(1.0, 3 * smallest.p_value))
    some = compare_routers(contenders, pairs=[(0, 2)])
    assert {(d.first, d.second) for d in some.differences} == {("a", "c")}


def test_compare_routers_bad_calls_are_refused() -> None:
    """Names are unique, two routers are the least, and all have the same prompts."""
    estimates, matrix = random_trial(0, 60)
    one = _contender("a", estimates, matrix)
    rows = np.arange(30)
    for contenders in ([one], [one, one]):
        with pytest.raises(ValueError, match="different names"):
            compare_routers(contenders)
    with pytest.raises(ValueError, match="same prompts"):
        compare_routers([one, _contender("b", estimates.take(rows, estimates.arms), matrix.rows(rows))])
