"""The knob: how guard, operating points and frontier are chosen."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from penstock_routers.policy import Tradeoff
from penstock_training.decisions import EstimateArrays
from penstock_training.operating_points import (
    BALANCED_SHARE,
    COST_SHARE,
    COST_WEIGHTS,
    GUARD_CANDIDATES,
    MAX_FRONTIER_POINTS,
    Trial,
    choose_knob,
    measure,
    trace_frontier,
)


def _trial(rows: int = 3000, *, is_informed: bool = True, seed: int = 1) -> Trial:
    """Cheap and dear arm; on half of the prompts the cheap one is as good, and the estimates know which, or do not."""
    random = np.random.default_rng(seed)
    is_easy = random.random(rows) < 0.5
    chance = np.column_stack([np.where(is_easy, 0.9, 0.3), np.full(rows, 0.9)])
    score = (random.random((rows, 2)) < chance).astype(float)
    known = chance if is_informed else np.tile(chance.mean(axis=0), (rows, 1))
    cost = np.tile([0.001, 0.01], (rows, 1))
    estimates = EstimateArrays(
        arms=("cheap", "dear"),
        reference_arm="dear",
        quality=known,
        gain=known - known[:, [1]],
        gain_se=np.tile([0.03, 0.0], (rows, 1)),
        novelty=np.zeros(rows),
        cost_usd=cost,
    )
    return Trial(estimates, score, cost, np.arange(rows), 0.01, 1.0)


def test_choose_knob_informed_estimates_keep_the_promised_quality_on_fresh_prompts() -> None:
    """Balanced keeps 99 % and cost 95 % of the best arm's quality on fresh prompts, for less money."""
    knob = choose_knob(_trial(), resamples=300, seed=0)
    fresh = _trial(6000, seed=2)
    found = {t.name: measure(fresh, t, resamples=100, seed=0) for t in knob.tradeoffs}
    assert found["balanced"].share_of_best >= BALANCED_SHARE - 0.01  # standard error of the share: 0.004
    assert found["cost"].share_of_best >= COST_SHARE - 0.01
    assert found["cost"].relative_cost <= found["balanced"].relative_cost < 0.65
    assert found["balanced"].quality_low <= found["balanced"].quality <= found["balanced"].quality_high


def test_choose_knob_uninformed_estimates_stay_with_the_default_arm() -> None:
    """When the estimates cannot tell prompts apart, balanced and quality are the default arm."""
    trial = _trial(is_informed=False)
    knob = choose_knob(trial, resamples=300, seed=0)
    for tradeoff in knob.tradeoffs[1:]:
        assert measure(trial, tradeoff, resamples=50, seed=0).relative_cost == pytest.approx(1.0)


def test_choose_knob_order_of_points_and_guard_are_as_declared() -> None:
    """λ falls from cost over balanced to quality, which is 0, and the guard is one of the candidates for all."""
    knob = choose_knob(_trial(), resamples=100, seed=0)
    names, weights = [t.name for t in knob.tradeoffs], [t.cost_weight for t in knob.tradeoffs]
    assert names == ["cost", "balanced", "quality"]
    assert weights[0] >= weights[1] >= weights[2] == 0.0
    assert knob.guard_z in GUARD_CANDIDATES
    assert {t.guard_z for t in knob.tradeoffs} == {knob.guard_z}


def test_choose_knob_same_trial_gives_same_knob() -> None:
    """The bootstrap is seeded."""
    assert choose_knob(_trial(), resamples=100, seed=3) == choose_knob(_trial(), resamples=100, seed=3)


def test_measure_novel_prompts_keep_the_default_arm_unless_the_cheapest_is_asked_for() -> None:
    """The abstention is in the loop when points are measured; the knob's zero needs no estimate."""
    trial = _trial(200)
    novel = Trial(trial.estimates, trial.score, trial.cost_usd, trial.groups, trial.cost_scale_usd, novelty_max=-1.0)
    cheapest = Tradeoff("0", math.inf, 0.0)
    eager = Tradeoff("t", 1e6, 0.0)
    assert measure(novel, eager, resamples=20, seed=0).relative_cost == pytest.approx(1.0)
    assert measure(novel, cheapest, resamples=20, seed=0).relative_cost == pytest.approx(0.1)
    assert measure(trial, cheapest, resamples=20, seed=0).relative_cost == pytest.approx(0.1)


def test_trace_frontier_positions_rise_and_weights_fall() -> None:
    """The frontier runs from λ = ∞ at 0 to λ = 0 at 1, strictly rising, with a bounded number of points."""
    weights = np.array(COST_WEIGHTS[1:-1])
    quality = np.concatenate([[0.8], 0.4 + 0.4 / (1 + weights), [0.4]])
    cost = np.concatenate([[1.0], 1 / (1 + weights), [0.01]])
    points = trace_frontier(COST_WEIGHTS, quality, cost)
    assert (points[0].position, points[0].cost_weight) == (0.0, None)
    assert (points[-1].position, points[-1].cost_weight) == (1.0, 0.0)
    assert len(points) <= MAX_FRONTIER_POINTS + 2
    positions, finite = [p.position for p in points], [p.cost_weight or 0.0 for p in points[1:]]
    assert all(b > a for a, b in itertools.pairwise(positions))
    assert all(b < a for a, b in itertools.pairwise(finite))


def test_trace_frontier_where_money_buys_nothing_has_two_points() -> None:
    """When the cheapest setting is as good as the best, only the ends remain."""
    flat = np.full(len(COST_WEIGHTS), 0.7)
    assert [p.position for p in trace_frontier(COST_WEIGHTS, flat, flat)] == [0.0, 1.0]
