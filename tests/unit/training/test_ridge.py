"""Low-rank ridge: its leave-one-out formula is exact, it ignores what cannot be told, and a prior only helps."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_training.families.linear import LinearFamily
from penstock_training.families.ridge import STRENGTHS, fit_low_rank
from support.generated_training import Generated, generated


def _brute_force(design: NDArray[np.float64], target: NDArray[np.float64], strength: float) -> float:
    """Leave-one-out error of a ridge regression with a free intercept, fitted n times."""
    error = 0.0
    for row in range(len(design)):
        rest = np.delete(np.arange(len(design)), row)
        center, mean = design[rest].mean(axis=0), target[rest].mean()
        x = design[rest] - center
        beta = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ (target[rest] - mean))
        error += float((target[row] - mean - (design[row] - center) @ beta) ** 2)
    return error


def test_fit_low_rank_explained_share_equals_brute_force_leave_one_out() -> None:
    """The share explained is one minus the smallest error of n refits over that of n means."""
    random = np.random.default_rng(0)
    design = random.standard_normal((40, 5))
    target = (design @ random.standard_normal((5, 1)) + random.standard_normal((40, 1))) * 0.1
    errors = [_brute_force(design, target[:, 0], strength) for strength in STRENGTHS]
    of_mean = float(np.square((target - target.mean()) * 40 / 39).sum())
    found = fit_low_rank(design, target)
    assert found.explained[0] == pytest.approx(1.0 - min(errors) / of_mean, rel=1e-9)  # two exact formulas, in float64


def test_fit_low_rank_weights_are_those_of_the_best_strength() -> None:
    """One arm is an ordinary ridge regression at the strength that leave-one-out takes."""
    random = np.random.default_rng(1)
    design = random.standard_normal((60, 4))
    target = design[:, :1] + 0.5 * random.standard_normal((60, 1))
    best = min(STRENGTHS, key=lambda strength: _brute_force(design, target[:, 0], strength))
    x = design - design.mean(axis=0)
    beta = np.linalg.solve(x.T @ x + best * np.eye(4), x.T @ (target - target.mean()))
    np.testing.assert_allclose(fit_low_rank(design, target).weight, beta, atol=1e-10)


def test_fit_low_rank_difference_without_signal_stays_constant() -> None:
    """Two arms that share all that can be told keep a constant difference, whatever the prompt."""
    random = np.random.default_rng(2)
    design = random.standard_normal((2000, 6))
    shared = design @ random.standard_normal((6, 1))
    gap = random.standard_normal((2000, 1))
    found = fit_low_rank(design, np.hstack([shared + 0.1 * gap, shared - 0.1 * gap]))
    assert np.linalg.norm(found.weight[:, 0]) > 0.5
    # Of six noise columns over 2,000 rows, leave-one-out keeps nothing or next to nothing.
    assert np.linalg.norm(found.weight[:, 0] - found.weight[:, 1]) < 0.02
    assert found.explained[1] < 0.01


def test_fit_low_rank_pure_noise_gives_about_the_mean() -> None:
    """Where nothing can be told from the prompt, predictions are the arms' means."""
    random = np.random.default_rng(3)
    design, target = random.standard_normal((500, 8)), random.random((500, 3))
    found = fit_low_rank(design, target)
    predicted = design @ found.weight + found.bias
    assert predicted.std(axis=0).max() < 0.05
    assert (found.explained >= 0.0).all()


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_fit_low_rank_fewer_rows_than_columns_is_finite(rows: int) -> None:
    """More dimensions than prompts is the usual state of a small log."""
    random = np.random.default_rng(4)
    found = fit_low_rank(random.standard_normal((rows, 20)), random.random((rows, 4)))
    assert np.isfinite(found.weight).all()
    assert np.isfinite(found.bias).all()
    assert found.explained.shape == (min(rows, 4),)


def test_fit_low_rank_arms_that_never_differ_explain_nothing_of_their_difference() -> None:
    """A component without variance has a share of 0, not of 1: boosting would fit trees to it."""
    random = np.random.default_rng(5)
    design = random.standard_normal((200, 3))
    one = design[:, :1] + random.standard_normal((200, 1))
    found = fit_low_rank(design, np.hstack([one, one, np.full((200, 1), 0.5)]))
    assert found.explained[0] > 0.2
    assert found.explained[1:].tolist() == [0.0, 0.0]
    assert not fit_low_rank(design, np.full((200, 2), 0.3)).explained.any()


def _error(sample: Generated, directions: NDArray[np.float64] | None) -> float:
    """Squared distance from the truth on 2,000 prompts, fitted on the 120 before."""
    head = LinearFamily().fit(sample.training(120, directions), LinearFamily.defaults, 0)
    rest = np.arange(120, 2120)
    return float(np.square(head.predict(sample.inputs.rows(rest)) - sample.truth[rest]).mean())


def test_linear_prior_directions_help_when_right_and_hardly_hurt_when_wrong() -> None:
    """An earlier router's directions save prompts; senseless ones cost no more than as many free coefficients."""
    right, wrong, without = [], [], []
    for seed in range(6):
        sample = generated(2120, seed=seed, strength=0.5, dimension=48)
        design = sample.inputs.design(1.0)
        slopes = np.linalg.lstsq(design - design.mean(axis=0), sample.truth - sample.truth.mean(axis=0), rcond=None)[0]
        without.append(_error(sample, None))
        right.append(_error(sample, slopes))
        wrong.append(_error(sample, np.random.default_rng(seed).standard_normal(slopes.shape)))
    assert np.mean(right) < 0.6 * np.mean(without)
    # Three directions that mean nothing cost three free coefficients an arm: their variance, s²/n each.
    assert np.mean(wrong) - np.mean(without) < 3 * 0.25 / 120
