"""What a router has to beat: policies that do not read the prompt, and the oracle that reads the answer.

Owns their definitions. Everything works on column means (one mean score and one mean cost per arm), so that the
bootstrap can recompute each baseline on each resample. Read `hull_quality` and `mixing_quality` first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock_training.metrics import concave_hull

FloatVector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ArmMeans:
    """Mean score and mean cost of m arms over the same prompts.

    Attributes
    ----------
    score : ndarray of float64, shape (m,), in [0, 1]
    cost_usd : ndarray of float64, shape (m,), USD per request
    """

    score: FloatVector
    cost_usd: FloatVector

    @property
    def cheapest(self) -> int:
        """Index of the arm with the lowest mean cost; the better one of equals."""
        return int(np.lexsort((-self.score, self.cost_usd))[0])

    @property
    def best(self) -> int:
        """Index of the arm with the highest mean score; the cheaper one of equals."""
        return int(np.lexsort((self.cost_usd, -self.score))[0])


def hull_quality(means: ArmMeans, cost_usd: float) -> float:
    """Quality of the constant hull: the best random mixture of any arms with a given mean cost.

    Parameters
    ----------
    means : ArmMeans
    cost_usd : float
        Mean cost per request to spend.

    Returns
    -------
    float
        In [0, 1]. Below the cheapest arm's cost, that arm's score; beyond the best arm's cost, the best score.

    References
    ----------
    The zero router of RouterBench (arXiv 2403.12031, section 3), on the same test prompts.
    """
    hull = concave_hull(means.cost_usd, means.score)
    return float(np.interp(cost_usd, hull.cost, hull.quality))


def mixing_quality(means: ArmMeans, cost_usd: float, *, cheapest: int, best: int) -> float:
    """Quality of sending a random share of prompts to the best arm and the rest to the cheapest, at a given mean cost.

    Parameters
    ----------
    means : ArmMeans
    cost_usd : float
        Mean cost per request to spend; beyond the two arms' costs the nearer arm alone is used.
    cheapest, best : int
        Indices of the two arms.

    Returns
    -------
    float
        In [0, 1].
    """
    gap = means.cost_usd[best] - means.cost_usd[cheapest]
    share = float(np.clip((cost_usd - means.cost_usd[cheapest]) / gap, 0.0, 1.0)) if gap > 0 else 1.0
    return float((1.0 - share) * means.score[cheapest] + share * means.score[best])


def same_shares_quality(means: ArmMeans, shares: FloatVector) -> float:
    """Quality of calling each arm as often as the router does, on random prompts.

    Parameters
    ----------
    means : ArmMeans
    shares : ndarray of float64, shape (m,), summing to 1

    Returns
    -------
    float
        In [0, 1]. What is above it comes from reading the prompts; its cost is ``shares @ means.cost_usd``.
    """
    return float(shares @ means.score)


def oracle_choices(score: NDArray[np.floating], cost_usd: NDArray[np.floating]) -> NDArray[np.int64]:
    """Pick, for each prompt, the cheapest of the arms that scored highest on it.

    Parameters
    ----------
    score, cost_usd : ndarray of float, shape (n, m), finite

    Returns
    -------
    ndarray of int64, shape (n,)

    Notes
    -----
    No router can do this: each score is one draw of a random answer, and the maximum over arms collects lucky draws.
    With ten arms that are right half of the time at random, the oracle is right on 99.9 % of prompts.
    """
    is_highest = score >= score.max(axis=1, keepdims=True)
    return np.asarray(np.where(is_highest, cost_usd, np.inf).argmin(axis=1), dtype=np.int64)
