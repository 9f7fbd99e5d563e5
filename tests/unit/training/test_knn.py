"""The knn estimator against hand-computed cases."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_training.calibration import identity_calibration
from penstock_training.knn import (
    MIN_MEMBERS,
    KnnEstimator,
    KnnSettings,
    Prototypes,
    make_priors,
    make_prototypes,
    pair_moments,
    tabulate,
)
from support.small_router import ARMS, SKILL, fitted_small_router, made_up_corpus

NO_FEATURES = np.zeros((1, 1))


def _estimator(
    score: np.ndarray, members: list[int], *, strength: float = 1e-9, bandwidth: float = 1e-3
) -> KnnEstimator:
    """Two orthogonal prototypes with the given members; tiny shrinkage and a sharp kernel by default."""
    size = max(members) + 1
    places = Prototypes(
        centroids=np.eye(size),
        feature_centroids=np.zeros((size, 1)),
        feature_mean=np.zeros(1),
        feature_scale=np.ones(1),
        members=np.array(members),
    )
    tokens = np.full(score.shape, 100.0, dtype=np.float32)
    table = tabulate(places, score.astype(np.float32), tokens, np.zeros(len(members), dtype=np.int64), 2)
    settings = KnnSettings(size, bandwidth, 0.0, 0.0, strength, strength, strength, strength)
    return KnnEstimator(settings, places, table, make_priors(table), identity_calibration(score.shape[1], 0))


def test_predict_at_a_prototype_gives_its_mean_and_standard_error() -> None:
    """With a sharp kernel and no shrinkage the estimate is the mean of the prototype, its error sd / sqrt(n)."""
    score = np.array([[1, 0], [1, 1], [0, 1], [1, 1]] * 10 + [[0, 0], [0, 0]], dtype=float)
    estimator = _estimator(score, [0] * 40 + [1, 1])
    found = estimator.predict(np.eye(2)[:1], NO_FEATURES, 0)
    assert found.quality[0] == pytest.approx([0.75, 0.75], abs=1e-6)
    difference = score[:40, 1] - score[:40, 0]
    assert found.gain[0] == pytest.approx([0.0, difference.mean()], abs=1e-6)
    assert found.gain_se[0, 1] == pytest.approx(difference.std() / np.sqrt(40), abs=1e-6)
    assert found.quality_se[0, 0] == pytest.approx(score[:40, 0].std() / np.sqrt(40), abs=1e-6)
    assert found.novelty[0] == pytest.approx(0.0, abs=1e-9)


def test_predict_with_strong_shrinkage_gives_the_priors() -> None:
    """As the prior strength grows, estimates go to the overall means."""
    score = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=float)
    estimator = _estimator(score, [0, 0, 1, 1], strength=1e9)
    found = estimator.predict(np.eye(2), np.zeros((2, 1)), 0)
    assert np.allclose(found.quality, 0.5, atol=1e-6)
    assert np.allclose(found.category[:, -1], 1.0, atol=1e-6)


def test_predict_shrunken_gain_is_the_textbook_formula() -> None:
    """The gain is (Σ d + κ·prior) / (n + κ) and its variance (Σ (d - gain)² + κσ²) / (n + κ)²."""
    score = np.array([[1, 0], [1, 1]] * 20 + [[1, 1], [0, 1]] * 20, dtype=float)
    kappa = 3.0
    estimator = _estimator(score, [0] * 40 + [1] * 40, strength=kappa)
    found = estimator.predict(np.eye(2)[:1], NO_FEATURES, 0)
    everything = score[:, 1] - score[:, 0]
    differences = everything[:40]
    gain = (differences.sum() + kappa * everything.mean()) / (40 + kappa)
    variance = (np.square(differences - gain).sum() + kappa * everything.var()) / (40 + kappa) ** 2
    assert found.gain[0, 1] == pytest.approx(gain, abs=1e-6)
    assert found.gain_se[0, 1] == pytest.approx(np.sqrt(variance), abs=1e-6)


def test_predict_arms_scored_on_other_prompts_compare_by_common_ones_only() -> None:
    """An arm that was only tried on hard prompts is not taken for a bad one: its paired gain decides."""
    anchor = np.array([1.0] * 40 + [0.0] * 40)
    other = np.concatenate([np.full(40, np.nan), np.array([1.0] * 20 + [0.0] * 20)])
    estimator = _estimator(np.column_stack([anchor, other]), [0] * 80, bandwidth=1.0)
    found = estimator.predict(np.ones((1, 1)), NO_FEATURES, 0)
    assert np.nanmean(other) == pytest.approx(anchor.mean())  # the plain means are equal
    assert found.gain[0, 1] == pytest.approx(0.5 - 0.005, abs=0.01)  # on common prompts it wins half; 0.995 is the cap


def test_pair_moments_without_common_prompts_use_the_arms_means() -> None:
    """Live logs have one arm per prompt; then the difference of means inside a prototype stands in."""
    score = np.full((40, 2), np.nan, dtype=np.float32)
    score[:20, 0], score[20:, 1] = 1.0, 0.25
    members = np.zeros(40, dtype=np.int64)
    places = Prototypes(np.eye(1), np.zeros((1, 1)), np.zeros(1), np.ones(1), members)
    table = tabulate(places, score, score, members, 1)
    found = pair_moments(score, table.score, members, 1)
    assert found.count[0, 1, 0] == 20
    assert found.total[0, 1, 0] / 20 == pytest.approx(0.75)


def test_make_prototypes_never_leaves_fewer_than_the_minimum_of_members() -> None:
    """Every published centroid stands for at least five prompts."""
    corpus = made_up_corpus(300)
    places = make_prototypes(corpus.vectors.astype(float), corpus.features.astype(float), prototypes=60, seed=1)
    counts = np.bincount(places.members)
    assert counts.min() >= MIN_MEMBERS
    assert counts.size == places.centroids.shape[0]
    assert np.allclose(np.linalg.norm(places.centroids, axis=1), 1.0)


def test_make_prototypes_same_seed_gives_same_centroids() -> None:
    """Clustering is repeatable."""
    corpus = made_up_corpus(300)
    inputs = corpus.vectors.astype(float), corpus.features.astype(float)
    first, second = (make_prototypes(*inputs, prototypes=20, seed=5) for _ in range(2))
    assert np.array_equal(first.centroids, second.centroids)


def test_predict_small_router_finds_the_skill_behind_the_scores() -> None:
    """On made-up topics the estimates lie near the chances that the scores were drawn with."""
    corpus, fitted = fitted_small_router()
    test = corpus.rows(fitted.split["test"])
    topic = np.array([int(prompt.split()[1]) for prompt in test.matrix.prompts])
    found = fitted.estimator.predict(test.vectors.astype(float), test.features.astype(float), ARMS.index("dear"))
    for index in range(len(SKILL)):
        # about 115 training prompts per topic: the standard error of a mean is at most 0.047
        assert found.quality[topic == index].mean(axis=0) == pytest.approx(SKILL[index], abs=0.14)
