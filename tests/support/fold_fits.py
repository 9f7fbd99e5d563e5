"""Prompts of known difficulty with their outcomes, and plain NumPy ways of fitting on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock_training.cross_validation import FitFold, IndexArray
from penstock_training.decisions import EstimateArrays
from penstock_training.outcomes import OutcomeMatrix

ARMS = ("cheap", "middle", "dear")
PRICES = np.array([1e-4, 2e-3, 1e-2])
COST_SCALE_USD = 1e-2
# Chance of a good answer per topic and arm: the cheap arm suffices on the first topic, only the dear one on the last.
SKILL = np.array([[0.90, 0.91, 0.92], [0.30, 0.85, 0.88], [0.10, 0.15, 0.80]])


@dataclass(frozen=True)
class TopicCorpus:
    """Outcomes with a vector per prompt that shows its topic."""

    matrix: OutcomeMatrix
    vectors: np.ndarray


def topic_corpus(prompts: int = 600, *, seed: int = 3, sources: int = 2) -> TopicCorpus:
    """Return prompts of three topics; two prompts share each question, and tasks are named after topics."""
    random = np.random.default_rng(seed)
    topic = np.repeat(random.integers(0, len(SKILL), (prompts + 1) // 2), 2)[:prompts]
    score = (random.random((prompts, len(ARMS))) < SKILL[topic]).astype(np.float32)
    vectors = np.eye(len(SKILL))[topic] + 0.2 * random.standard_normal((prompts, len(SKILL)))
    matrix = OutcomeMatrix(
        prompts=[f"{'long ' * (40 * t)}prompt {i} about topic {t}" for i, t in enumerate(topic)],
        groups=np.arange(prompts, dtype=np.int64) // 2,
        sources=[f"source{(i // 2) % sources}" for i in range(prompts)],
        tasks=[f"task{t}" for t in topic],
        categories=[("code", "maths", "law")[t] for t in topic],
        arms=ARMS,
        score=score,
        input_tokens=np.full(score.shape, 20.0, dtype=np.float32),
        output_tokens=np.full(score.shape, 50.0, dtype=np.float32),
        cost_usd=(PRICES * random.uniform(0.9, 1.1, (prompts, 1))).astype(np.float32),
    )
    return TopicCorpus(matrix, vectors)


def ridge_fit(matrix: OutcomeMatrix, vectors: np.ndarray, penalty: float = 1.0) -> FitFold:
    """Ridge regression of each arm's score on the vectors."""

    def fit(train: IndexArray, test: IndexArray, seed: int) -> EstimateArrays:
        del seed
        x, y = np.column_stack([vectors[train], np.ones(train.size)]), matrix.score[train].astype(np.float64)
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
        quality = np.clip(np.column_stack([vectors[test], np.ones(test.size)]) @ weights, 0.0, 1.0)
        return as_estimates(quality)

    return fit


def peeking_fit(matrix: OutcomeMatrix) -> FitFold:
    """A fit that reads the test outcomes: what a leaking evaluation looks like."""

    def fit(train: IndexArray, test: IndexArray, seed: int) -> EstimateArrays:
        del train, seed
        return as_estimates(0.3 + 0.5 * matrix.score[test].astype(np.float64))

    return fit


def as_estimates(quality: np.ndarray) -> EstimateArrays:
    """Estimates of the corpus' arms with the dear arm as reference."""
    gain = quality - quality[:, [2]]
    return EstimateArrays(
        arms=ARMS,
        reference_arm="dear",
        quality=quality,
        gain=gain,
        gain_se=np.full(quality.shape, 0.03),
        novelty=np.linspace(0.0, 1.0, quality.shape[0]),
        cost_usd=np.tile(PRICES, (quality.shape[0], 1)),
    )
