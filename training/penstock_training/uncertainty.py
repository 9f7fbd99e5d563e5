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
# An estimate is never taken for surer than a local mean.
_SCALE_BOUNDS: Final = (1.0, 25.0)
# Believed as far as chance hides the factor. On generated outcomes with a known truth (150 to 6,000 prompts, linear or
# one value per topic) it lay between 0.6 and 3.6 for heads that were not a constant.
_TYPICAL_SCALE: Final = 2.0
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
    residual: FloatArray, observed: NDArray[np.bool_], factor: FloatArray, cells: NDArray[np.int64]
) -> Uncertainty:
    """Learn variances from out-of-fold residuals.

    Parameters
    ----------
    residual : ndarray of float64, shape (n, m)
        Score minus out-of-fold quality; any number where not observed.
    observed : ndarray of bool, shape (n, m)
    factor : ndarray of float64, shape (n, m) or (n, 1)
        The frame's variance factors of the same prompts.
    cells : ndarray of int64, shape (n,)
        Number >= 0 of each prompt's cell: prompts near each other that one fold's head predicted.

    Returns
    -------
    Uncertainty

    Notes
    -----
    Arms share their neighbours and their prompts' difficulty, so the variance of a difference is taken from paired
    residuals and not from two variances added up: ``s²_ar = mean (e_a − e_r)²``. A local mean over about 1/h prompts
    has variance ``s² h`` if nothing but chance were wrong with it. Heads are smoother or rougher than that, so
    everything is scaled by one factor c². The outcomes of two prompts i and j of one fold are independent of the head
    that predicted them and of each other, so that the product of their residuals is, in the mean, the product of that
    head's errors there: ``c² = Σ_cells Σ_{i≠j} e_i e_j / n_k / Σ_cells (n_k − 1) s² h̄_k``, over differences to the arm
    with the most outcomes, or over single arms where no two share prompts. Residuals of different folds may not be
    multiplied: each head was fitted on the other's outcomes, which hides the error of a local head entirely. What
    chance could do to the numerator (one standard deviation) counts as evidence for `_TYPICAL_SCALE`, and the factor
    stays within [1, 25]. An error that changes sign between neighbours cannot be seen and is not in it.

    References
    ----------
    Method of moments, as for the between-study variance of DerSimonian, Laird (Controlled Clinical Trials 7, 1986);
    products of distinct residuals as in Hoeffding's U-statistics (Annals of Mathematical Statistics 19, 1948).
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
    anchor = int(answered.argmax())
    shared = np.flatnonzero((common[anchor] >= MIN_COMMON) & (np.arange(answered.size) != anchor))
    factor = np.broadcast_to(factor, error.shape)
    if shared.size:
        difference, both = error[:, shared] - error[:, [anchor]], seen[:, shared] * seen[:, [anchor]]
        scale = _scale(difference, both, factor[:, shared], cells, pair[shared, anchor])
    else:
        scale = _scale(error, seen, factor, cells, own)
    alone = 0.5 * (own[:, None] + own[None, :]) * (1.0 - share)
    return Uncertainty(own * scale, pair * share * scale, alone * scale, scale)


def _scale(
    error: FloatArray,
    seen: FloatArray,
    factor: FloatArray,
    cells: NDArray[np.int64],
    variance: FloatArray,
) -> float:
    """c² of `fit_uncertainty`, from errors (n, k) with their variances (k,) by chance."""
    size = int(cells.max(initial=0)) + 1
    excess = expected = chance = 0.0
    for column in range(error.shape[1]):
        used, own = seen[:, column], error[:, column]
        count, total, square, local = (
            np.bincount(cells, weights=used * values, minlength=size)
            for values in (np.ones_like(own), own, np.square(own), factor[:, column])
        )
        several = count >= 2.0
        count, total, square, local = (values[several] for values in (count, total, square, local))
        excess += float(((np.square(total) - square) / count).sum())
        expected += float(variance[column] * ((count - 1.0) / count * local).sum())
        chance += float(variance[column] * np.sqrt(2.0 * ((count - 1.0) / count).sum()))
    if expected <= 0.0:
        return 1.0
    return float(np.clip((excess + _TYPICAL_SCALE * chance) / (expected + chance), *_SCALE_BOUNDS))
