"""The frame: novelty, evidence, answer lengths."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_routers.token_counts import ASSUMED_OUTPUT_TOKENS
from penstock_training.category_head import CategoryHead
from penstock_training.families.head import PromptInputs
from penstock_training.frame import EVIDENCE_STRENGTH, NOVELTY_WEIGHT, Frame, fit_frame, fit_lengths
from penstock_training.places import FORM_CLIP, FormScaler, Places
from support.generated_training import Generated, generated


def _frame(sample: Generated, observed: np.ndarray | None = None) -> Frame:
    training = sample.training()
    seen = np.ones(sample.score.shape, bool) if observed is None else observed
    size = sample.vectors.shape[1] + sample.features.shape[1]
    return fit_frame(
        FormScaler.fit(sample.features),
        training.prototypes(40),
        sample.inputs,
        seen,
        np.full(sample.score.shape, 100.0),
        CategoryHead(np.zeros((size, 1)), np.zeros(1)),
    )


def test_observe_novelty_is_zero_at_a_prototype_and_large_far_away() -> None:
    """One minus the best similarity, the form's distance included."""
    frame = _frame(generated(600))
    places = frame.prototypes
    at_home = PromptInputs(places.centroids[:1], places.forms[:1])
    assert frame.observe(at_home).novelty[0] == pytest.approx(0.0, abs=1e-12)
    moved = PromptInputs(places.centroids[:1], places.forms[:1] + 1.0)
    forms = places.forms.shape[1]
    assert 0.0 < frame.observe(moved).novelty[0] <= 0.5 * NOVELTY_WEIGHT * forms + 1e-12
    opposite = PromptInputs(-places.centroids.mean(axis=0, keepdims=True), places.forms[:1])
    assert frame.observe(opposite).novelty[0] > 0.9


def test_observe_evidence_grows_with_the_prompts_nearby() -> None:
    """More outcomes nearby make the variance factor smaller; it is nowhere above one over the belief."""
    once = generated(400, seed=2)
    rows = np.tile(np.arange(400), 3)
    thrice = Generated(once.vectors[rows], once.features[rows], once.truth[rows], once.score[rows])
    few = _frame(once).observe(once.inputs).variance_factor
    many = _frame(thrice).observe(once.inputs).variance_factor
    assert np.median(many) < 0.6 * np.median(few)
    assert few.max() <= 1.0 / EVIDENCE_STRENGTH + 1e-12
    assert few.min() > 1.0 / 400


def test_observe_evidence_counts_each_arms_own_outcomes() -> None:
    """An arm asked a tenth as often is known less well everywhere; equal counts share one column."""
    sample = generated(600)
    observed = np.ones((600, 3), bool)
    observed[np.arange(600) % 10 != 0, 1] = False
    factor = _frame(sample, observed).observe(sample.inputs).variance_factor
    assert factor.shape == (600, 3)
    assert (factor[:, 1] > factor[:, 0]).all()
    assert _frame(sample).observe(sample.inputs).variance_factor.shape == (600, 1)


def test_form_scaler_constant_feature_and_absurd_values_stay_bounded() -> None:
    """A feature that never varied cannot make a prompt infinitely strange."""
    features = np.column_stack([np.full(50, 7.0), np.linspace(0.0, 1.0, 50)])
    found = FormScaler.fit(features).apply(np.array([[7.0, 0.5], [1e9, -1e9]]))
    np.testing.assert_allclose(found, [[0.0, 0.0], [FORM_CLIP, -FORM_CLIP]], atol=1e-9)


def _lengths(rows: int, seed: int = 0) -> tuple[PromptInputs, np.ndarray, np.ndarray]:
    """Log-normal answer lengths that depend on the vector: inputs, one draw, and the mean per prompt."""
    sample = generated(rows, seed=seed)
    random = np.random.default_rng(seed)
    logs = 5.0 + sample.vectors @ random.standard_normal((sample.vectors.shape[1], 1))
    tokens = np.exp(logs + 0.8 * random.standard_normal((rows, 1)))
    return sample.inputs, tokens, np.exp(logs + 0.5 * 0.8**2)


def test_fit_lengths_mean_is_right_although_the_logarithm_is_fitted() -> None:
    """Costs are proportional to mean lengths; the exponential of a mean logarithm would be a quarter short."""
    inputs, tokens, mean = _lengths(6000)
    found = fit_lengths(inputs, tokens).predict(inputs)
    assert found.mean() == pytest.approx(float(tokens.mean()), rel=1e-6)  # the smear makes it so
    assert np.exp(np.log(tokens).mean()) < 0.8 * tokens.mean()
    assert np.abs(found / mean - 1.0).mean() < 0.15


def test_fit_lengths_stay_within_the_observed_quantiles() -> None:
    """However strange the prompt, a length is one that was seen, times the smear."""
    inputs, tokens, _ = _lengths(1000)
    head = fit_lengths(inputs, tokens)
    strange = PromptInputs(50.0 * inputs.vectors, inputs.forms)
    found = head.predict(strange)
    low, high = np.quantile(1.0 + tokens, (0.02, 0.98))
    assert found.min() >= low * head.smear[0] * 0.98 - 1.0  # quantiles of logs interpolate a little lower
    assert found.max() <= high * head.smear[0] * 1.02


def test_fit_lengths_few_or_no_answers_give_a_constant() -> None:
    """Under 30 answers the arm's mean; without any the mean of all arms; without one anywhere the assumed length."""
    inputs, tokens, _ = _lengths(100)
    three = np.hstack([tokens, tokens, tokens])
    three[20:, 1], three[:, 2] = np.nan, np.nan
    found = fit_lengths(inputs, three).predict(inputs)
    np.testing.assert_allclose(found[:, 1], np.nanmean(three[:, 1]))
    np.testing.assert_allclose(found[:, 2], np.nanmean(three))
    nothing = fit_lengths(inputs, np.full((100, 1), np.nan)).predict(inputs)
    np.testing.assert_allclose(nothing, ASSUMED_OUTPUT_TOKENS)


def test_places_make_each_clustering_once_and_share_it_with_views() -> None:
    """A fold sees the clusters of all prompts, which know no scores, with its own members only."""
    sample = generated(300)
    places = Places(sample.vectors, sample.inputs.forms, 0, np.arange(300))
    view = places.rows(np.arange(100, 150))
    whole = places.get(20)
    part = view.get(20)
    assert part.centroids is whole.centroids
    np.testing.assert_array_equal(part.members, whole.members[100:150])
    assert len(places.get(10_000)) <= 300 // 5
