"""Filling missing cells: fair to an arm that was asked hard prompts only, bounded, and never evidence."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_training.completion import complete
from support.generated_training import generated


def test_complete_matrix_is_returned_untouched() -> None:
    """Without gaps there is nothing to do, to the last bit."""
    sample = generated(100)
    target, observed = complete(sample.score, sample.inputs.design(0.03))
    np.testing.assert_array_equal(target, sample.score)
    assert observed.all()


def test_complete_filled_cells_stay_inside_and_observed_ones_as_they_are() -> None:
    """A regression may leave [0, 1]; a filled score may not."""
    sample = generated(400, missing=0.5, strength=3.0)
    target, observed = complete(sample.score, sample.inputs.design(0.03))
    assert target.min() >= 0.0
    assert target.max() <= 1.0
    np.testing.assert_array_equal(target[observed], sample.score[observed])
    assert not observed[np.isnan(sample.score)].any()


def test_complete_arm_asked_hard_prompts_only_is_not_taken_for_a_bad_one() -> None:
    """Difficulty that only the other arms' answers show is credited to the prompt, not to the arm."""
    random = np.random.default_rng(0)
    easy = random.random(4000) < 0.5  # not to be told from the vector
    vectors = random.standard_normal((4000, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    score = np.clip(np.where(easy, 0.9, 0.3)[:, None] + 0.02 * random.standard_normal((4000, 3)), 0.0, 1.0)
    score[easy, 2] = np.nan
    target, _ = complete(score, vectors)
    assert np.nanmean(score[:, 2]) < 0.35
    assert target[:, 2].mean() == pytest.approx(0.6, abs=0.08)  # the arms' equal; the row effect is shrunk


def test_complete_prompts_with_a_known_topic_are_filled_by_topic() -> None:
    """What the prompt tells is used: missing cells are nearer to the truth than the arm's mean is."""
    sample = generated(3000, missing=0.6, shape="topic", strength=1.5)
    target, observed = complete(sample.score, sample.inputs.design(0.03))
    filled = np.square(target - sample.truth)[~observed].mean()
    means = np.square(np.nanmean(sample.score, axis=0) - sample.truth)[~observed].mean()
    assert filled < 0.7 * means


def test_complete_weights_undo_a_choice_that_followed_the_prompt() -> None:
    """An arm chosen mostly where it does well has its mean, weighted by inverse propensity, right."""
    random = np.random.default_rng(1)
    well = random.random(20_000) < 0.5  # hidden from the design, so that only weights can help
    propensity = np.where(well, 0.8, 0.2)
    score = np.where(well, 0.9, 0.1)[:, None] + np.zeros((1, 2))
    score[random.random(20_000) > propensity, 0] = np.nan
    score[np.isfinite(score[:, 0]), 1] = np.nan
    weight = np.column_stack([1.0 / propensity, 1.0 / (1.0 - propensity)])
    design = random.standard_normal((20_000, 2))
    blind, observed = complete(score, design)
    fair, _ = complete(score, design, weight)
    missing = ~observed[:, 0]
    assert blind[missing, 0].mean() > 0.7
    assert fair[missing, 0].mean() == pytest.approx(0.5, abs=0.02)  # 10,000 weighted cells: 0.006 of standard error


def test_complete_arm_without_outcomes_gets_the_mean_of_all_others() -> None:
    """A fold may hold none of a rare arm's outcomes; nothing breaks."""
    sample = generated(60)
    score = sample.score.copy()
    score[:, 1] = np.nan
    target, _ = complete(score, sample.inputs.design(0.03))
    assert target[:, 1].mean() == pytest.approx(float(np.nanmean(score)), abs=0.02)
    assert np.isfinite(target).all()


def test_training_set_rows_are_filled_from_themselves_alone() -> None:
    """Other prompts' outcomes never reach a fold by way of its filled cells."""
    sample = generated(200, missing=0.4)
    changed = sample.score.copy()
    changed[100:] = 1.0 - changed[100:]
    first = np.arange(100)
    one = sample.training().rows(first)
    two = type(sample)(sample.vectors, sample.features, sample.truth, changed).training().rows(first)
    np.testing.assert_array_equal(one.target, two.target)
