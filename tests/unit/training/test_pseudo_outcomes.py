"""Doubly robust pseudo-outcomes: right in the mean for every policy, whatever the estimates."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_training.bandit.pseudo import pseudo_outcomes

ROWS = 60_000


def _log(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean score per prompt and arm, one logged arm per prompt, its propensity, and which prompts are hard."""
    random = np.random.default_rng(seed)
    hard = random.random(ROWS) < 0.5
    mean = np.where(hard[:, None], [0.1, 0.3, 0.8], [0.8, 0.85, 0.9])
    chosen = np.where(hard[:, None], [0.1, 0.2, 0.7], [0.7, 0.2, 0.1])  # the log follows the prompt
    arm = (random.random(ROWS)[:, None] > chosen.cumsum(axis=1)).sum(axis=1)
    is_chosen = np.arange(3) == arm[:, None]
    score = np.where(is_chosen, (random.random(mean.shape) < mean).astype(float), np.nan)
    return mean, score, np.where(is_chosen, chosen, np.nan), hard


@pytest.mark.parametrize("kind", ["right", "wrong", "zero"])
def test_pseudo_outcomes_mean_is_unbiased_for_every_arm_and_policy(kind: str) -> None:
    """Right propensities make up for any estimate: per arm, and for a policy that follows the prompt."""
    mean, score, propensity, hard = _log()
    quality = {"right": mean, "wrong": 1.0 - mean, "zero": np.zeros_like(mean)}[kind]
    found = pseudo_outcomes(score, propensity, quality)
    # 1/p is 10 at most: a cell's variance is below 10, a mean over 60,000 has a standard error below 0.013.
    np.testing.assert_allclose(found.mean(axis=0), mean.mean(axis=0), atol=0.03)
    routed = np.where(hard, found[:, 2], found[:, 0]).mean()
    assert routed == pytest.approx(0.5 * 0.8 + 0.5 * 0.8, abs=0.03)
    naive = np.nanmean(score, axis=0)
    assert abs(naive[0] - mean[:, 0].mean()) > 0.1


def test_pseudo_outcomes_right_estimates_make_them_less_wild() -> None:
    """What the estimate explains need not be weighted."""
    mean, score, propensity, _ = _log()
    assert (
        pseudo_outcomes(score, propensity, mean).var() < pseudo_outcomes(score, propensity, np.zeros_like(mean)).var()
    )


def test_pseudo_outcomes_cells_asked_for_certain_or_not_to_be_weighted() -> None:
    """NaN means certain: the score as it is. 0 means do not weigh: the estimate as it is. Unseen: the estimate."""
    score = np.array([[1.0, 0.0, np.nan]])
    found = pseudo_outcomes(score, np.array([[np.nan, 0.0, np.nan]]), np.array([[0.4, 0.6, 0.7]]))
    np.testing.assert_allclose(found, [[1.0, 0.6, 0.7]])
