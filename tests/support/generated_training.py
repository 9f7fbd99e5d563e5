"""Training sets drawn from a known truth, so that what a family finds can be compared with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penstock_routers.features import FEATURE_NAMES
from penstock_training.families.head import FloatArray, PromptInputs, TrainingSet
from penstock_training.fit import Corpus
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.places import FormScaler, Places

DIMENSION = 16
FORMS = len(FEATURE_NAMES)


@dataclass(frozen=True)
class Generated:
    """Prompts with the chance of a good answer on every arm, and one draw of outcomes."""

    vectors: FloatArray
    features: FloatArray
    truth: FloatArray
    score: FloatArray

    @property
    def inputs(self) -> PromptInputs:
        """The prompts as families see them."""
        return PromptInputs(self.vectors, FormScaler.fit(self.features).apply(self.features))

    def training(self, rows: int | None = None, directions: FloatArray | None = None) -> TrainingSet:
        """The first `rows` prompts, or all, as a training set."""
        count = len(self.vectors) if rows is None else rows
        inputs = self.inputs.rows(np.arange(count))
        places = Places(inputs.vectors, inputs.forms, 0, np.arange(count))
        size = inputs.vectors.shape[1] + inputs.forms.shape[1]
        known = np.zeros((size, 0)) if directions is None else directions
        return TrainingSet.make(inputs, self.score[:count], None, places, known)

    def corpus(self, propensity: NDArray[np.float32] | None = None) -> Corpus:
        """The prompts as `penstock_training.fit` takes them; arm k costs k + 1 times the first."""
        count, arms = self.score.shape
        names = tuple(f"arm{arm:02}" for arm in range(arms))
        seen = np.isfinite(self.score)
        cells = np.where(seen, 100.0, np.nan).astype(np.float32)
        matrix = OutcomeMatrix(
            prompts=[f"generated prompt {row}" for row in range(count)],
            groups=np.arange(count),
            sources=["generated"] * count,
            tasks=[""] * count,
            categories=[""] * count,
            arms=names,
            score=self.score.astype(np.float32),
            input_tokens=np.full((count, arms), 50.0, dtype=np.float32),
            output_tokens=cells,
            cost_usd=cells * 1e-6 * (1.0 + np.arange(arms, dtype=np.float32)),
            propensity=propensity,
        )
        prices = {name: (1.0 + arm, 1.0 + arm) for arm, name in enumerate(names)}
        return Corpus(matrix, self.vectors.astype(np.float32), self.features.astype(np.float32),
                      np.ones(count, dtype=bool), prices)  # fmt: skip

    def shuffled(self, seed: int = 0) -> Generated:
        """The same outcomes on other prompts, so that there is nothing to learn."""
        order = np.random.default_rng(seed).permutation(len(self.score))
        return replace(self, score=self.score[order], truth=np.tile(self.truth.mean(axis=0), (len(self.truth), 1)))


def generated(
    prompts: int = 1500,
    *,
    arms: int = 3,
    shape: str = "linear",
    missing: float = 0.0,
    seed: int = 0,
    strength: float = 1.0,
    dimension: int = DIMENSION,
) -> Generated:
    """Draw prompts around eight topics; the truth is ``linear`` in the vector, or one value per ``topic`` and arm."""
    random = np.random.default_rng(seed)
    topic = random.integers(0, 8, prompts)
    centers = random.standard_normal((8, dimension))
    vectors = centers[topic] + 0.6 * random.standard_normal((prompts, dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    features = random.standard_normal((prompts, FORMS))
    base = np.linspace(0.45, 0.65, arms)
    if shape == "linear":
        weight = strength * random.standard_normal((dimension, arms)) * 0.5
        truth = base + (vectors - vectors.mean(axis=0)) @ weight
    else:
        truth = base + strength * random.uniform(-0.3, 0.3, (8, arms))[topic]
    truth = np.clip(truth, 0.02, 0.98)
    score = (random.random((prompts, arms)) < truth).astype(np.float64)
    score[random.random((prompts, arms)) < missing] = np.nan
    score[:arms][np.eye(arms, dtype=bool)[:prompts]] = 1.0  # every arm has an outcome
    return Generated(vectors, features, truth, score)
