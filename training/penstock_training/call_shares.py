"""RouteLLM's measures: quality against the share of prompts that go to the best arm.

Owns APGR and CPT with their intervals. They look at the order of prompts by predicted gain only, not at costs or at
the knob. Read `measure_call_shares`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.intervals import Interval, group_weights

FloatVector = NDArray[np.float64]
RECOVERED: Final = (0.5, 0.8)  # shares of the gap that RouteLLM reports CPT for


@dataclass(frozen=True, slots=True)
class CallShares:
    """What ordering prompts by predicted gain of the best over the cheapest arm achieves.

    Attributes
    ----------
    gap_recovered : Interval
        APGR; 0.5 is random.
    gap_recovered_running_maximum : Interval
        APGR of the best threshold up to each share of calls; never below `gap_recovered`, and above 0.5 by luck alone.
    calls_for_50, calls_for_80 : Interval
        CPT: share of prompts sent to the best arm at which 50 and 80 % of the gap are recovered; 0.5 and 0.8 at random.
    """

    gap_recovered: Interval
    gap_recovered_running_maximum: Interval
    calls_for_50: Interval
    calls_for_80: Interval


def measure_call_shares(
    gain: FloatVector, difference: FloatVector, groups: NDArray[np.int64], *, resamples: int, seed: int
) -> CallShares:
    """Measure APGR and CPT.

    Parameters
    ----------
    gain : ndarray of float64, shape (n,)
        Predicted gain of the best over the cheapest arm.
    difference : ndarray of float64, shape (n,)
        Score of the best arm minus that of the cheapest.
    groups : ndarray of int64, shape (n,)
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    CallShares
        NaN where the best arm is not better at all.

    Notes
    -----
    Prompts are sent to the best arm in falling order of gain, equal gains in random order. The share of the gap
    recovered is then piecewise linear in the share of calls, with a corner behind each run of equal gains; the areas
    are exact. CPT is read from the running maximum, because the share recovered may fall. O(resamples · n).

    References
    ----------
    RouteLLM (arXiv 2406.18665, section 3). Its code samples ten thresholds and reads CPT by ``np.interp``, which
    assumes that quality rises with calls; the running maximum is ours.
    """
    value, drawn = draw_call_shares(gain, difference, groups, resamples=resamples, seed=seed)
    return CallShares(*(_interval(float(value[i]), drawn[:, i]) for i in range(4)))


def draw_call_shares(
    gain: FloatVector, difference: FloatVector, groups: NDArray[np.int64], *, resamples: int, seed: int
) -> tuple[FloatVector, NDArray[np.float64]]:
    """Compute the four numbers of `CallShares` on the data, (4,), and on bootstrap samples, (resamples, 4)."""
    _, rank = np.unique(-gain, return_inverse=True)
    order = np.argsort(rank, kind="stable")
    starts = np.flatnonzero(np.diff(rank[order], prepend=-1))
    ordered = difference[order]
    _, inverse = np.unique(groups, return_inverse=True)
    group = inverse[order]

    def measure(weights: FloatVector) -> list[float]:
        mass = np.add.reduceat(weights, starts)
        won = np.add.reduceat(weights * ordered, starts)
        if won.sum() <= 0.0:
            return [math.nan] * 4
        share = np.append(0.0, np.cumsum(mass)) / mass.sum()
        recovered = np.append(0.0, np.cumsum(won)) / won.sum()
        plain = float(np.trapezoid(recovered, share))
        calls = [_first_share(share, recovered, target) for target in RECOVERED]
        return [plain, _running_area(share, recovered), *calls]

    blocks = group_weights(int(group.max()) + 1, resamples, seed)
    drawn = [measure(row[group]) for block in blocks for row in block]
    return np.array(measure(np.ones(ordered.size))), np.array(drawn)


def _first_share(share: FloatVector, recovered: FloatVector, target: float) -> float:
    """First share of calls at which the piecewise linear curve reaches `target`; it ends at 1, so there is one."""
    index = int(np.argmax(recovered >= target))
    if index == 0 or recovered[index] == recovered[index - 1]:
        return float(share[index])
    part = (target - recovered[index - 1]) / (recovered[index] - recovered[index - 1])
    return float(share[index - 1] + part * (share[index] - share[index - 1]))


def _running_area(share: FloatVector, recovered: FloatVector) -> float:
    """Area under the running maximum of a piecewise linear curve from 0, exact."""
    highest = np.maximum.accumulate(recovered)
    before, width = highest[:-1], np.diff(share)
    rise = np.maximum(recovered[1:] - before, 0.0)
    run = recovered[1:] - recovered[:-1]
    # A segment adds a triangle above the maximum so far, over the part of its width that lies above it.
    part = np.divide(rise, run, out=np.zeros_like(rise), where=run > 0)
    return float(np.sum(width * (before + np.clip(part, 0.0, 1.0) * rise / 2.0)))


def _interval(value: float, drawn: FloatVector) -> Interval:
    usable = drawn[np.isfinite(drawn)]
    low, high = np.quantile(usable, (0.025, 0.975)) if usable.size else (math.nan, math.nan)
    return Interval(value, float(low), float(high))
