"""The policy over many prompts at once: the same decisions as `penstock_routers.policy.decide`, vectorised.

Owns the array form of estimates and decisions. Must not differ from the policy in a single decision (a test compares
them on random inputs), and must not look at outcomes. Read `decide_rows` first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.policy import RouteReason, Tradeoff

FloatMatrix = NDArray[np.float64]
IndexArray = NDArray[np.int64]

# What a decision over at least two candidates, the default among them, can come out as.
REASONS: Final = (
    RouteReason.ROUTED,
    RouteReason.DEFAULT_BEST,
    RouteReason.DEFAULT_KEPT,
    RouteReason.ABSTAINED_NOVEL,
    RouteReason.CHEAPEST,
)


@dataclass(frozen=True, slots=True)
class EstimateArrays:
    """What a router says about n prompts and m arms.

    Attributes
    ----------
    arms : tuple of str, length m
    reference_arm : str
        The arm that `gain` is measured against.
    quality : ndarray of float64, shape (n, m), in [0, 1]
    gain, gain_se : ndarray of float64, shape (n, m)
        Expected quality minus the reference arm's, and its standard error.
    novelty : ndarray of float64, shape (n,)
    cost_usd : ndarray of float64, shape (n, m)
        Expected cost of the request, USD; finite and >= 0.
    """

    arms: tuple[str, ...]
    reference_arm: str
    quality: FloatMatrix
    gain: FloatMatrix
    gain_se: FloatMatrix
    novelty: NDArray[np.float64]
    cost_usd: FloatMatrix

    def __post_init__(self) -> None:
        """Check shapes and names, and bring all arrays to float64."""
        shape = (self.quality.shape[0], len(self.arms))
        for name in ("quality", "gain", "gain_se", "cost_usd"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if values.shape != shape:
                raise ValueError(f"{name} has shape {values.shape}, expected {shape}")
            object.__setattr__(self, name, values)
        if self.novelty.shape != shape[:1]:
            raise ValueError(f"novelty has shape {self.novelty.shape}, expected {shape[:1]}")
        if self.reference_arm not in self.arms:
            raise ValueError(f"reference arm {self.reference_arm!r} is not among the arms")

    def take(self, rows: IndexArray, arms: tuple[str, ...]) -> EstimateArrays:
        """Take some prompts and some arms, in the given orders; the reference arm must be among them."""
        columns = np.array([self.arms.index(arm) for arm in arms], dtype=np.int64)
        cut = np.ix_(rows, columns)
        return EstimateArrays(
            arms,
            self.reference_arm,
            self.quality[cut],
            self.gain[cut],
            self.gain_se[cut],
            self.novelty[rows],
            self.cost_usd[cut],
        )


@dataclass(frozen=True, slots=True)
class RowDecisions:
    """Decisions for n prompts.

    Attributes
    ----------
    chosen : ndarray of int64, shape (n,)
        Index of the chosen arm.
    reason : ndarray of int64, shape (n,)
        Index into `REASONS`.
    """

    chosen: IndexArray
    reason: IndexArray

    def arm_shares(self, arms: int) -> NDArray[np.float64]:
        """Share of prompts sent to each of `arms` arms, shape (arms,), summing to 1."""
        return np.bincount(self.chosen, minlength=arms) / self.chosen.size

    def reason_shares(self) -> dict[str, float]:
        """Share of prompts per reason, all reasons listed."""
        shares = np.bincount(self.reason, minlength=len(REASONS)) / self.reason.size
        return {reason.value: float(share) for reason, share in zip(REASONS, shares, strict=True)}


def decide_rows(
    estimates: EstimateArrays, tradeoff: Tradeoff, *, cost_scale_usd: float, novelty_max: float
) -> RowDecisions:
    """Decide for every prompt, with the reference arm as the default arm.

    Parameters
    ----------
    estimates : EstimateArrays
        At least two arms.
    tradeoff : Tradeoff
    cost_scale_usd : float
        As for `penstock_routers.policy.decide`; > 0.
    novelty_max : float
        Prompts with a larger novelty keep the default arm, unless λ is infinite; ``inf`` switches that off.

    Returns
    -------
    RowDecisions

    Raises
    ------
    ValueError
        There are fewer than two arms: nothing can be decided.

    Notes
    -----
    Same expressions in the same order in float64, so results are equal to the last bit. O(n m log m).
    """
    if len(estimates.arms) < 2:
        raise ValueError("a decision needs at least two arms")
    default = estimates.arms.index(estimates.reference_arm)
    if math.isinf(tradeoff.cost_weight):
        return _cheapest(estimates, cost_scale_usd)
    utility, bound = _scores(estimates, default, tradeoff, cost_scale_usd)
    order = _ranking(estimates, utility)
    is_default = order == default
    may_stop = is_default | (np.take_along_axis(bound, order, axis=1) > 0.0)
    position = np.argmax(may_stop, axis=1)
    chosen = np.take_along_axis(order, position[:, None], axis=1)[:, 0]
    reason = np.where(chosen != default, 0, np.where(is_default[:, 0], 1, 2))
    is_novel = estimates.novelty > novelty_max
    return RowDecisions(
        np.where(is_novel, default, chosen).astype(np.int64), np.where(is_novel, 3, reason).astype(np.int64)
    )


def _cheapest(estimates: EstimateArrays, cost_scale_usd: float) -> RowDecisions:
    """Take the cheapest arm of every prompt, as the policy does at an infinite λ."""
    chosen = _ranking(estimates, -(estimates.cost_usd / cost_scale_usd))[:, 0]
    return RowDecisions(chosen, np.full(chosen.shape, REASONS.index(RouteReason.CHEAPEST), dtype=np.int64))


def _ranking(estimates: EstimateArrays, utility: FloatMatrix) -> IndexArray:
    """Order the arms of every prompt by utility, then cost, then name, (n, m)."""
    rank_of_name = np.argsort(np.argsort(np.array(estimates.arms, dtype=object)))
    names = np.broadcast_to(rank_of_name, utility.shape)
    return np.lexsort((names, estimates.cost_usd, -utility), axis=1)


def _scores(
    estimates: EstimateArrays, default: int, tradeoff: Tradeoff, cost_scale_usd: float
) -> tuple[FloatMatrix, FloatMatrix]:
    """Compute utility and switch bound of `penstock_routers.policy`, each (n, m)."""
    relative_cost = estimates.cost_usd / cost_scale_usd
    relative_saving = (estimates.cost_usd[:, [default]] - estimates.cost_usd) / cost_scale_usd
    utility = estimates.quality - tradeoff.cost_weight * relative_cost
    guarded = estimates.gain - tradeoff.guard_z * estimates.gain_se
    return utility, guarded + tradeoff.cost_weight * relative_saving
