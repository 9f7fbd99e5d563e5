"""Traffic whose truth is known, for `bench/bandit.py`: generated grades, and real right-or-wrong outcomes.

Not run alone. Owns prompts, logging policy, target policies and reward models; must not estimate. Read `World`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Predictor = Callable[[FloatArray], FloatArray]

ARMS = 5
EXPLORATION = 0.1
LOGGED_TRADEOFF = 0.2
TRADEOFFS = {"artifact, λ = .3": 0.3, "artifact, λ = .1": 0.1}
# Beta-distributed grades with mean μ and variance μ(1 − μ)/10: a standard deviation of .16 at most, about that of a
# rubric from 0 to 10 around what an arm deserves.
GRADE_CONCENTRATION = 9.0
# Five arms of MMLU-Pro from the cheapest to the best, .41 to .70 right; all answered 12,020 prompts.
REAL_ARMS = (
    "Phi-3-mini-4k-instruct",
    "Meta-Llama-3_1-8B-Instruct",
    "Qwen1.5-72B-Chat",
    "Meta-Llama-3_1-70B-Instruct",
    "gemini-1.5-pro-002",
)
FOREIGN_CATEGORIES = ("math", "physics", "chemistry", "engineering", "computer science")


@dataclass(frozen=True)
class World:
    """A population of N prompts over m arms, from which logs are drawn.

    Attributes
    ----------
    name : str
    points : ndarray of float64, shape (N, d)
        What the reward model that is corrected on the log may read.
    mean : ndarray of float64, shape (N, m)
        Expected score; where `is_fixed`, the score itself.
    is_fixed : bool
        Whether a prompt always scores the same.
    logging : ndarray of float64, shape (N, m)
        Probabilities of the logging policy.
    policies : dict of str to ndarray of float64, shape (N, m)
    models : dict of str to ndarray of float64, shape (N, m)
        Reward models fitted on prompts that are not in the population.
    noise : ndarray of float64, shape (N, m)
        Variance of the score that no model of the prompt can explain; squared errors of the best model if `is_fixed`.
    """

    name: str
    points: FloatArray
    mean: FloatArray
    is_fixed: bool
    logging: FloatArray
    policies: dict[str, FloatArray]
    models: dict[str, FloatArray]
    noise: FloatArray

    def truth(self, policy: str) -> float:
        """Mean score of a policy over the population."""
        return float((self.policies[policy] * self.mean).sum(axis=1).mean())

    def score(self, prompts: NDArray[np.int64], arm: NDArray[np.int64], random: np.random.Generator) -> FloatArray:
        """Draw the scores of arms on prompts."""
        mean = self.mean[prompts, arm]
        if self.is_fixed:
            return mean
        return random.beta(mean * GRADE_CONCENTRATION, (1.0 - mean) * GRADE_CONCENTRATION)

    def smallest_half_width(self, policy: str, rows: int) -> float:
        """Half-width that no unbiased estimator can undercut on average: the semiparametric bound.

        Where `is_fixed` it holds for reward models that explain no more of the scores than the first one.
        """
        target = self.policies[policy]
        noise = (target**2 / self.logging * self.noise).sum(axis=1).mean()
        model = next(iter(self.models.values())) if self.is_fixed else self.mean
        return float(1.96 * np.sqrt((noise + (target * model).sum(axis=1).var()) / rows))


def generated_world(seed: int, prompts: int = 60_000) -> World:
    """Make up prompts in 8 dimensions, curved quality of 5 arms of rising price, and graded scores.

    Notes
    -----
    ``own`` is a linear model of 600 prompts of this traffic scored on all arms; ``foreign`` one of 600 prompts of
    other traffic (first coordinate one deviation higher), graded half a logit more mildly.
    """
    random = np.random.default_rng(seed)
    slopes = 0.3 * random.normal(size=(8, ARMS)) + 0.5 * random.normal(size=(8, 1))
    level = np.linspace(-0.6, 1.0, ARMS)

    def quality(points: FloatArray, mildness: float = 0.0) -> FloatArray:
        curve = 0.5 * np.sin(2.0 * points[:, [0]]) + 0.3 * points[:, [1]] * points[:, [2]] * np.linspace(-1, 1, ARMS)
        return 1.0 / (1.0 + np.exp(-(level + mildness + points @ slopes + curve)))

    def graded(points: FloatArray, mildness: float = 0.0) -> FloatArray:
        mean = quality(points, mildness)
        return random.beta(mean * GRADE_CONCENTRATION, (1.0 - mean) * GRADE_CONCENTRATION)

    shifted = random.normal(size=(600, 8)) + np.eye(1, 8)
    foreign = _ridge(shifted, graded(shifted, 0.5), 5.0)
    familiar = random.normal(size=(600, 8))
    own = _ridge(familiar, graded(familiar), 5.0)
    few = random.normal(size=(100, 8))
    router = _ridge(few, graded(few), 5.0)
    points = random.normal(size=(prompts, 8))
    mean = quality(points)
    price = np.geomspace(0.05, 1.0, ARMS)
    models = {"own": own(points), "foreign": foreign(points)}
    noise = mean * (1.0 - mean) / (GRADE_CONCENTRATION + 1.0)
    logging = _explored(router(points), price)
    return World("generated grades", points, mean, False, logging, _policies(models["own"], price), models, noise)


def real_world(folder: Path, seed: int) -> World:
    """Take five models' real outcomes on MMLU-Pro, one prompt per question.

    Notes
    -----
    2,000 prompts are set aside and never logged: ``own`` is fitted on all of them, ``foreign`` on those of mathematics
    and natural science only, the logging router on 400.
    """
    from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder  # noqa: PLC0415  (needs the data first)
    from penstock_routers.encoder import PromptEncoder  # noqa: PLC0415
    from penstock_training.outcomes import load_outcomes  # noqa: PLC0415
    from penstock_training.vectors import encode_prompts  # noqa: PLC0415

    matrix = load_outcomes([folder / "routing" / "mmlu_pro.parquet"]).matrix(REAL_ARMS)
    complete = np.isfinite(matrix.score).all(axis=1) & np.isfinite(matrix.cost_usd).all(axis=1)
    matrix = matrix.rows(np.flatnonzero(complete))
    matrix = matrix.rows(np.sort(np.unique(matrix.groups, return_index=True)[1]))
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    points = encode_prompts(encoder, matrix.prompts, lambda *_: None).astype(np.float64)
    score = matrix.score.astype(np.float64)
    order = np.random.default_rng(seed).permutation(len(matrix.prompts))
    aside, kept = order[:2000], order[2000:]
    science = aside[np.isin(np.array(matrix.categories)[aside], FOREIGN_CATEGORIES)]
    own, foreign = (_ridge(points[rows], score[rows], 20.0) for rows in (aside, science))
    router = _ridge(points[aside[:400]], score[aside[:400]], 10.0)
    price = matrix.cost_usd.mean(axis=0).astype(np.float64)
    price /= price.max()
    points, score = points[kept], score[kept]
    models = {"own": own(points), "foreign": foreign(points)}
    noise = (score - models["own"]) ** 2
    logging = _explored(router(points), price)
    return World(
        "MMLU-Pro, right or wrong", points, score, True, logging, _policies(models["own"], price), models, noise
    )


def _ridge(points: FloatArray, score: FloatArray, penalty: float) -> Predictor:
    center, level = points.mean(axis=0), score.mean(axis=0)
    spread = points - center
    slope = np.linalg.solve(spread.T @ spread + penalty * np.eye(points.shape[1]), spread.T @ (score - level))
    return lambda others: np.clip((others - center) @ slope + level, 0.0, 1.0)


def _chosen(quality: FloatArray, price: FloatArray, tradeoff: float) -> FloatArray:
    return np.eye(ARMS)[np.argmax(quality - tradeoff * price, axis=1)]


def _explored(quality: FloatArray, price: FloatArray) -> FloatArray:
    return (1.0 - EXPLORATION) * _chosen(quality, price, LOGGED_TRADEOFF) + EXPLORATION / ARMS


def _policies(quality: FloatArray, price: FloatArray) -> dict[str, FloatArray]:
    fixed = np.broadcast_to(np.eye(ARMS)[:, None, :], (ARMS, len(quality), ARMS))
    return {
        **{name: _chosen(quality, price, tradeoff) for name, tradeoff in TRADEOFFS.items()},
        "always dearest": fixed[-1],
        "always cheapest": fixed[0],
        "uniform": np.full(quality.shape, 1.0 / ARMS),
    }
