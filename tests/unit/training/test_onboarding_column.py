"""A new arm's column: what it learns from few scores, and how sure it says it is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_training.onboarding.column import (
    OnboardedColumn,
    ScoredPrompts,
    fit_column,
    fit_length_ratio,
)

FloatArray = NDArray[np.float64]


def _qualities(random: np.random.Generator, prompts: int) -> FloatArray:
    """Estimates of four arms: a common difficulty, and a talent of each arm's own."""
    difficulty = random.uniform(0.0, 1.0, (prompts, 1))
    talent = 0.15 * np.sin(6.0 * random.uniform(0.0, 1.0, (prompts, 4)))
    return np.asarray(np.clip(0.75 - 0.4 * difficulty + talent + [0.1, 0.0, -0.1, 0.05], 0.02, 0.98))


def _score(random: np.random.Generator, quality: FloatArray) -> FloatArray:
    return (random.uniform(size=quality.shape) < quality).astype(np.float64)


def _scored(random: np.random.Generator, prompts: int, weight: FloatArray, bias: float = 0.0) -> ScoredPrompts:
    quality = _qualities(random, prompts)
    return ScoredPrompts(quality, _score(random, quality @ weight + bias), np.full_like(quality, np.nan))


def _fit(prompts: int, seed: int = 0) -> OnboardedColumn:
    return fit_column(_scored(np.random.default_rng(seed), prompts, np.array([0.0, 1.0, 0.0, 0.0])))


def test_new_arm_identical_to_a_known_one_gets_about_its_estimates() -> None:
    """Scores drawn from a known arm's quality give that arm's column back, prompt by prompt."""
    column = _fit(600)
    fresh = _qualities(np.random.default_rng(1), 500)
    assert column.nearest == 1
    # 600 yes-or-no scores leave a standard error of .02 on the level and more on the contrasts.
    assert np.abs(column.quality(fresh) - fresh[:, 1]).mean() < 0.06


def test_new_arm_on_another_level_is_found_with_few_prompts() -> None:
    """Fifty prompts move the level to where the scores are, not to the known arms' mean."""
    weight = np.full(4, 0.25)
    found = [
        fit_column(_scored(np.random.default_rng(seed), 50, weight, -0.25)).quality(
            _qualities(np.random.default_rng(99), 500)
        )
        for seed in range(20)
    ]
    wanted = (_qualities(np.random.default_rng(99), 500) @ weight - 0.25).mean()
    assert np.mean(found) == pytest.approx(wanted, abs=0.05)  # sd .065 of one draw, .015 of the mean of 20


def test_uncertainty_shrinks_with_prompts() -> None:
    """Sixteen times the prompts leave about a quarter of the standard error."""
    known = _qualities(np.random.default_rng(5), 300)
    few, many = (np.sqrt(_fit(prompts).own_variance(known) - _fit(prompts).remainder).mean() for prompts in (25, 400))
    assert 0.15 < many / few < 0.5


def test_stated_interval_covers_the_truth_on_generated_arms() -> None:
    """Of 300 arms, each a random mixture on a random level, about 95 % lie inside their interval."""
    hits = []
    for seed in range(300):
        random = np.random.default_rng(seed)
        weight = np.full(4, 0.25) + random.normal(0.0, 0.3, 4)
        bias = 0.5 - float(_qualities(random, 200).mean(axis=0) @ weight) + random.normal(0.0, 0.05)
        column = fit_column(_scored(random, 50, weight, bias))
        known = _qualities(np.random.default_rng(10_000 + seed), 2000)
        mean, error = column.mean_quality(known)
        hits.append(abs(mean - float(np.clip(known @ weight + bias, 0.0, 1.0).mean())) < 1.96 * error)
    assert 0.91 < np.mean(hits) <= 0.995  # .0126 is the standard error of a share of .95 in 300


def test_scores_of_known_arms_make_the_level_surer() -> None:
    """Where prompts hold shared difficulty that the router cannot see, paired scores take it out of the noise."""
    errors: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(40):
        random = np.random.default_rng(seed)
        quality = 0.5 + 0.1 * (_qualities(random, 50) - 0.5)
        truth = quality + random.choice([-0.4, 0.4], (50, 1))
        score, known = _score(random, truth[:, 1]), _score(random, truth)
        for is_paired in (True, False):
            scored = ScoredPrompts(quality, score, known if is_paired else np.full_like(known, np.nan))
            mean, _ = fit_column(scored).mean_quality(quality)
            errors[is_paired].append(mean - float(quality[:, 1].mean()))
    assert np.std(errors[True]) < 0.85 * np.std(errors[False])


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_constant_scores_are_shrunk_and_leave_doubt(constant: float) -> None:
    """Twelve prompts all right or all wrong prove no certainty, and nothing is infinite."""
    quality = _qualities(np.random.default_rng(0), 12)
    column = fit_column(ScoredPrompts(quality, np.full(12, constant), np.full_like(quality, np.nan)))
    mean, error = column.mean_quality(quality)
    assert abs(mean - constant) > 0.003
    assert error > 0.03
    assert np.isfinite(column.quality(quality)).all()


def test_artifact_with_one_known_arm_takes_a_second() -> None:
    """A single known arm still gives a level, a slope and a finite error."""
    quality = _qualities(np.random.default_rng(0), 40)[:, :1]
    column = fit_column(
        ScoredPrompts(quality, _score(np.random.default_rng(1), quality[:, 0]), np.full((40, 1), np.nan))
    )
    assert column.quality(quality).mean() == pytest.approx(quality.mean(), abs=0.2)
    assert column.remainder == 0.0


def test_prompts_to_halve_keeps_its_promise() -> None:
    """With that many more prompts of the same kind the standard error of the mean is about half."""
    known = _qualities(np.random.default_rng(5), 300)
    first = _fit(60)
    second = _fit(60 + first.prompts_to_halve())
    before, after = (column.mean_quality(known)[1] for column in (first, second))
    assert after / before == pytest.approx(0.5, abs=0.08)  # other prompts, and the noise is estimated anew


def test_length_ratio_follows_observed_answers_and_is_one_without() -> None:
    """Answers twice as long give nearly 2; five answers' worth of belief draw it to 1."""
    estimated = np.full((50, 3), 100.0)
    assert fit_length_ratio(estimated, np.full(50, np.nan)) == 1.0
    assert fit_length_ratio(estimated, np.full(50, 200.0)) == pytest.approx((50 * 200 + 500) / (50 * 100 + 500))
