"""The vectorised policy makes the decisions of the policy itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from penstock_routers.policy import Candidate, Tradeoff, decide
from penstock_training.decisions import REASONS, EstimateArrays, decide_rows

COST_SCALE_USD = 0.013


def _random_estimates(seed: int, arms: int, *, is_coarse: bool) -> EstimateArrays:
    """Random estimates; coarse ones are full of ties in utility, cost and bound."""
    generator = np.random.default_rng(seed)
    shape = (300, arms)
    quality, gain, gain_se = generator.random(shape), generator.normal(0, 0.2, shape), generator.random(shape) * 0.2
    cost = generator.choice([0.0, 0.001, 0.002, 0.013], shape)
    if is_coarse:
        quality, gain, gain_se = quality.round(1), gain.round(1), gain_se.round(1)
    names = tuple(f"arm-{chr(ord('z') - i)}" for i in range(arms))  # not in alphabetical order
    return EstimateArrays(names, names[arms // 2], quality, gain, gain_se, generator.random(300), cost)


def _policy_decision(estimates: EstimateArrays, row: int, tradeoff: Tradeoff, novelty_max: float) -> tuple[str, str]:
    candidates = [
        Candidate(
            arm=arm,
            quality=float(estimates.quality[row, i]),
            quality_se=0.0,
            gain=float(estimates.gain[row, i]),
            gain_se=float(estimates.gain_se[row, i]),
            cost_usd=float(estimates.cost_usd[row, i]),
        )
        for i, arm in enumerate(estimates.arms)
    ]
    choice = decide(
        candidates,
        default_arm=estimates.reference_arm,
        tradeoff=tradeoff,
        cost_scale_usd=COST_SCALE_USD,
        is_novel=bool(estimates.novelty[row] > novelty_max),
    )
    return choice.arm, choice.reason.value


@pytest.mark.parametrize("is_coarse", [True, False])
@pytest.mark.parametrize("cost_weight", [0.0, 0.05, 0.3, 4.0, math.inf])
@pytest.mark.parametrize("guard_z", [0.0, 1.0])
@pytest.mark.parametrize("arms", [2, 5])
def test_decide_rows_every_decision_equals_the_policy(
    arms: int, guard_z: float, cost_weight: float, is_coarse: bool
) -> None:
    """Arm and reason agree on every row, ties included."""
    estimates = _random_estimates(arms, arms, is_coarse=is_coarse)
    tradeoff = Tradeoff("t", cost_weight, guard_z)
    found = decide_rows(estimates, tradeoff, cost_scale_usd=COST_SCALE_USD, novelty_max=0.8)
    decided = [(estimates.arms[c], REASONS[r].value) for c, r in zip(found.chosen, found.reason, strict=True)]
    assert decided == [_policy_decision(estimates, row, tradeoff, 0.8) for row in range(300)]


def test_decide_rows_all_reasons_occur_and_shares_sum_to_one() -> None:
    """The comparison above is about all reasons; the cheapest is its own, at an infinite weight only."""
    estimates = _random_estimates(5, 5, is_coarse=False)
    found = decide_rows(estimates, Tradeoff("t", 0.3, 1.0), cost_scale_usd=COST_SCALE_USD, novelty_max=0.8)
    shares = found.reason_shares()
    assert {reason for reason, share in shares.items() if share == 0} == {"cheapest"}
    free = decide_rows(estimates, Tradeoff("0", math.inf, 1.0), cost_scale_usd=COST_SCALE_USD, novelty_max=0.8)
    assert free.reason_shares()["cheapest"] == 1.0
    assert sum(shares.values()) == pytest.approx(1.0)
    assert found.arm_shares(5).sum() == pytest.approx(1.0)


def test_decide_rows_single_arm_is_refused() -> None:
    """With one arm there is nothing to decide."""
    one = np.zeros((2, 1))
    estimates = EstimateArrays(("a",), "a", one, one, one, np.zeros(2), one)
    with pytest.raises(ValueError, match="two arms"):
        decide_rows(estimates, Tradeoff("t", 0.0, 0.0), cost_scale_usd=1.0, novelty_max=1.0)


def test_estimate_arrays_of_wrong_shape_are_refused() -> None:
    """Every array has a row per prompt and a column per arm."""
    good = np.zeros((2, 2))
    with pytest.raises(ValueError, match="gain_se"):
        EstimateArrays(("a", "b"), "a", good, good, np.zeros((2, 3)), np.zeros(2), good)
    with pytest.raises(ValueError, match="novelty"):
        EstimateArrays(("a", "b"), "a", good, good, good, np.zeros(3), good)
    with pytest.raises(ValueError, match="reference arm"):
        EstimateArrays(("a", "b"), "c", good, good, good, np.zeros(2), good)


def test_estimate_arrays_take_reorders_arms_with_their_numbers() -> None:
    """A cut keeps each number with its prompt and its arm."""
    estimates = _random_estimates(1, 3, is_coarse=False)
    first, _, third = estimates.arms
    cut = estimates.take(np.array([7, 2]), (third, estimates.reference_arm, first))
    np.testing.assert_array_equal(cut.quality, estimates.quality[[7, 2]][:, [2, 1, 0]])
    np.testing.assert_array_equal(cut.novelty, estimates.novelty[[7, 2]])
