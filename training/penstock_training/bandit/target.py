"""Target policies: what is to be evaluated from a log, as probabilities of arms for every prompt of it.

Owns the three kinds: an artifact at an operating point, one arm for everything, and the logging policy itself. Must not
look at outcomes. Read `TargetPolicy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock_routers.policy import Tradeoff
from penstock_training.bandit.logged import LoggedOutcomes
from penstock_training.decisions import EstimateArrays, decide_rows
from penstock_training.errors import TrainingError

FloatMatrix = NDArray[np.float64]
LOGGED_POLICY = "as logged"


@dataclass(frozen=True, slots=True)
class TargetPolicy:
    """A policy over the prompts of a log.

    Attributes
    ----------
    name : str
    probability : ndarray of float64, shape (n, m), or None
        Probability of each arm for each prompt, rows summing to 1. None for the logging policy: its rows are what it
        does, whatever the probabilities of the arms that were not drawn.
    """

    name: str
    probability: FloatMatrix | None

    def weights(self, logged: LoggedOutcomes) -> NDArray[np.float64]:
        """Target's probability of each row's arm over the logging policy's, shape (n,), >= 0."""
        if self.probability is None:
            return np.ones(len(logged))
        return np.asarray(self.probability[np.arange(len(logged)), logged.arm] / logged.propensity)

    def shares(self, logged: LoggedOutcomes) -> NDArray[np.float64]:
        """Share of prompts that go to each arm, shape (m,)."""
        if self.probability is None:
            return logged.rows_per_arm / len(logged)
        return np.asarray(self.probability.mean(axis=0))


def logging_target() -> TargetPolicy:
    """Take the logging policy itself, exploration included."""
    return TargetPolicy(LOGGED_POLICY, None)


def constant_target(logged: LoggedOutcomes, arm: str) -> TargetPolicy:
    """Take one arm for every prompt.

    Raises
    ------
    TrainingError
        ``unknown_arm``.
    """
    if arm not in logged.arms:
        raise TrainingError(f"the log has no arm {arm!r}; arms: {', '.join(logged.arms)}", code="unknown_arm")
    return chosen_target(f"always {arm}", np.full(len(logged), logged.arms.index(arm)), len(logged.arms))


def chosen_target(name: str, chosen: NDArray[np.int64], arms: int) -> TargetPolicy:
    """Take the arm `chosen` (indices, shape (n,)) for each prompt, out of `arms`."""
    probability = np.zeros((chosen.size, arms))
    probability[np.arange(chosen.size), chosen] = 1.0
    return TargetPolicy(name, probability)


def artifact_target(
    logged: LoggedOutcomes,
    estimates: EstimateArrays,
    tradeoff: Tradeoff,
    *,
    cost_scale_usd: float,
    novelty_max: float,
) -> TargetPolicy:
    """Take what an artifact decides at an operating point.

    Parameters
    ----------
    logged : LoggedOutcomes
        Its arms contain the artifact's.
    estimates : EstimateArrays
        Of the prompts of `logged`, in the same order.
    tradeoff : Tradeoff
    cost_scale_usd, novelty_max : float
        As for `penstock_training.decisions.decide_rows`.

    Returns
    -------
    TargetPolicy
        Named after the trade-off.
    """
    decided = decide_rows(estimates, tradeoff, cost_scale_usd=cost_scale_usd, novelty_max=novelty_max)
    columns = np.array([logged.arms.index(arm) for arm in estimates.arms], dtype=np.int64)
    return chosen_target(tradeoff.name, columns[decided.chosen], len(logged.arms))


def spread_columns(values: FloatMatrix, arms: Sequence[str], onto: Sequence[str]) -> FloatMatrix:
    """Place columns named `arms` into a matrix with columns `onto`; NaN for arms without one."""
    spread = np.full((values.shape[0], len(onto)), np.nan)
    spread[:, [list(onto).index(arm) for arm in arms]] = values
    return spread
