"""Baselines: worked examples."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_training.baselines import (
    ArmMeans,
    hull_quality,
    mixing_quality,
    oracle_choices,
    same_shares_quality,
)

MEANS = ArmMeans(score=np.array([0.3, 0.7, 0.9]), cost_usd=np.array([1.0, 2.0, 5.0]))


def test_arm_means_cheapest_and_best_break_ties_in_favour_of_the_baseline() -> None:
    """Of equally cheap arms the better one is the cheapest, of equally good ones the cheaper one the best."""
    means = ArmMeans(score=np.array([0.5, 0.6, 0.9, 0.9]), cost_usd=np.array([1.0, 1.0, 4.0, 3.0]))
    assert (means.cheapest, means.best) == (1, 3)


@pytest.mark.parametrize(("cost", "quality"), [(0.5, 0.3), (1.0, 0.3), (1.5, 0.5), (3.5, 0.8), (5.0, 0.9), (9.0, 0.9)])
def test_hull_quality_interpolates_between_corners(cost: float, quality: float) -> None:
    """Beyond the ends the nearest arm alone is used."""
    assert hull_quality(MEANS, cost) == pytest.approx(quality)


def test_mixing_quality_uses_cheapest_and_best_only() -> None:
    """Half of the way in cost is half of the way in quality, whatever lies between."""
    assert mixing_quality(MEANS, 3.0, cheapest=0, best=2) == pytest.approx(0.6)
    assert mixing_quality(MEANS, 0.0, cheapest=0, best=2) == pytest.approx(0.3)
    assert mixing_quality(MEANS, 9.0, cheapest=0, best=2) == pytest.approx(0.9)
    assert mixing_quality(MEANS, 1.0, cheapest=1, best=1) == pytest.approx(0.7)


def test_same_shares_quality_is_the_weighted_mean() -> None:
    """Calls at random have the mean quality of the arms called."""
    assert same_shares_quality(MEANS, np.array([0.5, 0.25, 0.25])) == pytest.approx(0.55)


def test_oracle_choices_take_the_cheapest_of_the_best() -> None:
    """Ties in score go to the cheaper arm, wherever it stands."""
    score = np.array([[1.0, 1.0, 0.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.0]])
    cost = np.array([[2.0, 1.0, 0.1], [1.0, 1.0, 1.0], [3.0, 2.0, 1.0]])
    assert oracle_choices(score, cost).tolist() == [1, 2, 2]
