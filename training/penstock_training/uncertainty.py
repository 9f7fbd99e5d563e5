"""How sure an estimate is: variances of single outcomes and of differences between arms, scaled to what was seen.

Owns the tables behind ``quality_se`` and ``gain_se``. Must not know any family. Read `fit_uncertainty`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

MIN_COMMON: Final = 30  # prompts that two arms must share before their difference is taken as paired
_SCALE_BOUNDS: Final = (0.25, 25.0)
_MIN_VARIANCE: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Variances per unit of the frame's variance factor.

    Attributes
    ----------
    own : ndarray of float64, shape (m,)
        Of one arm's quality.
    paired : ndarray of float64, shape (m, m)
        Of the difference of two arms, as far as they share prompts.
    unpaired : ndarray of float64, shape (m, m)
        Of the difference as far as they do not; 0 where all prompts are shared.
    scale : float
        Factor by which the theoretical variance was multiplied (`fit_uncertainty`), for the record.
    """

    own: FloatArray
    paired: FloatArray
    unpaired: FloatArray
    scale: float

    def quality_se(self, factor: FloatArray) -> FloatArray:
        """Standard error of quality, (n, m), for variance factors (n, m) or (n, 1)."""
        return np.asarray(np.sqrt(factor * self.own))

    def gain_se(self, factor: FloatArray, reference: int) -> FloatArray:
        """Standard error of the gain over one arm, (n, m); 0 for that arm itself."""
        against = factor[:, [reference]] if factor.shape[1] > 1 else factor
        both = np.maximum(factor, against) * self.paired[reference]
        apart = (factor + against) * self.unpaired[reference]
        return np.asarray(np.sqrt(both + apart))


def fit_uncertainty(
    residual: FloatArray, observed: NDArray[np.bool_], factor: FloatArray, members: NDArray[np.int64]
) -> Uncertainty:
    """Learn variances from out-of-fold residuals.

    Parameters
    ----------
    residual : ndarray of float64, shape (n, m)
        Score minus out-of-fold quality; any number where not observed.
    observed : ndarray of bool, shape (n, m)
    factor : ndarray of float64, shape (n, m) or (n, 1)
        The frame's variance factors of the same prompts.
    members : ndarray of int64, shape (n,)
        Cluster of each prompt.

    Returns
    -------
    Uncertainty

    Notes
    -----
    Arms share their neighbours and their prompts' difficulty, so the variance of a difference is taken from paired
    residuals and not from two variances added up: ``s²_ar = mean (e_a − e_r)²``. A local mean over about 1/h prompts
    has variance ``s² h`` if nothing but chance were wrong with it. Heads are smoother or rougher than that, so
    everything is scaled by one factor c²: in a cluster k of n_k prompts the mean residual difference has variance
    ``s²/n_k`` by chance and ``c² s² h`` from the estimate's own error, hence ``c² = Σ (ē² − s²/n_k) / Σ s² h`` over
    clusters and arms, kept within [0.25, 25].

    References
    ----------
    Moment estimator of a variance component, as in DerSimonian, Laird (Controlled Clinical Trials 7, 1986).
    """
    seen = observed.astype(np.float64)
    error = np.where(observed, residual, 0.0)
    square = np.square(error)
    common = seen.T @ seen
    cross = error.T @ error
    pair = (square.T @ seen + seen.T @ square - 2.0 * cross) / np.maximum(common, 1.0)
    own = np.maximum(square.sum(axis=0) / np.maximum(seen.sum(axis=0), 1.0), _MIN_VARIANCE)
    pair = np.where(common >= MIN_COMMON, np.maximum(pair, _MIN_VARIANCE), own[:, None] + own[None, :])
    answered = np.diag(common)
    share = np.where(common >= MIN_COMMON, common / np.maximum(np.minimum.outer(answered, answered), 1.0), 0.0)
    np.fill_diagonal(pair, 0.0)
    np.fill_diagonal(share, 1.0)
    scale = _scale(error, seen, factor, members, pair, common)
    alone = 0.5 * (own[:, None] + own[None, :]) * (1.0 - share)
    return Uncertainty(own * scale, pair * share * scale, alone * scale, scale)


def _scale(
    error: FloatArray,
    seen: FloatArray,
    factor: FloatArray,
    members: NDArray[np.int64],
    pair: FloatArray,
    common: FloatArray,
) -> float:
    """c² of `fit_uncertainty`, from the differences to the arm with the most outcomes."""
    anchor = int(seen.sum(axis=0).argmax())
    size = int(members.max(initial=0)) + 1
    factor = np.broadcast_to(factor, error.shape)
    excess = expected = 0.0
    for arm in range(error.shape[1]):
        if arm == anchor or common[arm, anchor] < MIN_COMMON:
            continue
        both = seen[:, arm] * seen[:, anchor]
        count = np.bincount(members, weights=both, minlength=size)
        total = np.bincount(members, weights=both * (error[:, arm] - error[:, anchor]), minlength=size)
        local = np.bincount(members, weights=both * factor[:, arm], minlength=size)
        used = count >= 2.0
        # Weighted by the count, so that clusters of two do not drown the rest in chance.
        excess += float((np.square(total[used]) / count[used] - pair[arm, anchor]).sum())
        expected += float((pair[arm, anchor] * local[used]).sum())
    if expected <= 0.0:
        return 1.0
    return float(np.clip(excess / expected, *_SCALE_BOUNDS))
