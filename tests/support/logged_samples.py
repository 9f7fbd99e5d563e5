"""Small logs of chosen arms, made up for tests, with the truth beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock_training.bandit.logged import LogCounts, LoggedOutcomes
from penstock_training.bandit.target import TargetPolicy, chosen_target

ARMS = ("cheap", "middle", "dear")
# Chance of a good answer: the cheap arm does well on easy prompts only.
SKILL = np.array([[0.9, 0.9, 0.9], [0.2, 0.5, 0.8]])


@dataclass(frozen=True)
class LoggedSample:
    """A log, what every arm would have scored on average on its prompts, and the logging policy."""

    logged: LoggedOutcomes
    mean: NDArray[np.float64]
    logging: NDArray[np.float64]
    is_hard: NDArray[np.int64]

    def router(self) -> TargetPolicy:
        """Send easy prompts to the cheap arm and hard ones to the dear arm."""
        return chosen_target("router", np.where(self.is_hard == 1, 2, 0), len(ARMS))

    def router_truth(self) -> float:
        """Expected score of `router` over easy and hard prompts, half of each."""
        return float((SKILL[0, 0] + SKILL[1, 2]) / 2.0)


def logged_sample(seed: int = 0, rows: int = 2000, exploration: float = 0.3, **changes: Any) -> LoggedSample:
    """Draw a log of a policy that takes the middle arm except when it explores; `changes` replace fields."""
    random = np.random.default_rng(seed)
    is_hard = random.integers(0, 2, rows)
    logging = np.full((rows, len(ARMS)), exploration / len(ARMS))
    logging[:, 1] += 1.0 - exploration
    arm = (random.random(rows)[:, None] > logging.cumsum(axis=1)).sum(axis=1).clip(0, len(ARMS) - 1)
    mean = SKILL[is_hard]
    score = (random.random(rows) < mean[np.arange(rows), arm]).astype(np.float64)
    unknown = np.full(rows, np.nan)
    logged = LoggedOutcomes(
        prompts=[f"{'hard' if hard else 'easy'} prompt {i}" for i, hard in enumerate(is_hard)],
        groups=np.arange(rows, dtype=np.int64),
        arms=ARMS,
        arm=arm.astype(np.int64),
        propensity=logging[np.arange(rows), arm],
        score=score,
        input_tokens=np.full(rows, 20.0),
        output_tokens=np.full(rows, 50.0),
        cost_usd=np.array([1e-4, 1e-3, 1e-2])[arm],
        latency_seconds=unknown,
        timestamp=unknown,
        is_censored=np.zeros(rows, dtype=bool),
        counts=LogCounts(rows, 0, {}),
    )
    return LoggedSample(replace(logged, **changes), mean, logging, is_hard)
