"""Ridge regression of all arms at once, with as much shrinkage per direction of disagreement as the data ask for.

Owns `fit_low_rank`, the solver behind the ``linear`` and ``kernel`` heads. Must not know what the columns of a design
mean. Read `fit_low_rank`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# From almost no shrinkage to almost nothing left: the ridge strength in units of prompts on unit-length rows.
STRENGTHS: Final = tuple(float(value) for value in np.geomspace(0.1, 3000.0, 30))


@dataclass(frozen=True, slots=True)
class LowRankFit:
    """Coefficients of ``x @ weight + bias``.

    Attributes
    ----------
    weight : ndarray of float64, shape (k, m)
    bias : ndarray of float64, shape (m,)
    explained : ndarray of float64, shape (min(n, m),)
        Share of each component's variance explained out of sample (leave-one-out), largest component first; 0 where
        nothing could be explained.
    """

    weight: FloatArray
    bias: FloatArray
    explained: FloatArray


def fit_low_rank(design: FloatArray, target: FloatArray) -> LowRankFit:
    """Regress m arms on k columns, shrinking each principal component of the arms separately.

    Parameters
    ----------
    design : ndarray of float64, shape (n, k)
    target : ndarray of float64, shape (n, m)
        Without gaps.

    Returns
    -------
    LowRankFit

    Notes
    -----
    The centred target is rotated into its principal components (what all arms find hard together, then what sets them
    apart, in falling order). Each component gets the ridge strength of `STRENGTHS` with the smallest leave-one-out
    error, or none of the prompt at all when even that error is not below that of its mean. Arms whose differences
    cannot be told from the prompt therefore keep constant differences, which is what keeps a router of 30 arms from
    chasing noise. With one eigendecomposition of the Gram matrix and ``H = Z (Λ + α)⁻¹ Zᵀ``, the leave-one-out residual
    is ``(y − ŷ) / (1 − H_ii − 1/n)``: O(n k² + k³ + s n k m) for s strengths.

    References
    ----------
    Breiman, Friedman, "Predicting multivariate responses in multiple linear regression" (JRSS B 59, 1997), who shrink
    in canonical coordinates; ours are principal components of the responses and the shrinkage is ridge, chosen by the
    leave-one-out formula of Allen (Technometrics 16, 1974).
    """
    n = target.shape[0]
    mean, center = target.mean(axis=0), design.mean(axis=0)
    centered = design - center
    _, _, rotation = np.linalg.svd(target - mean, full_matrices=False)
    components = (target - mean) @ rotation.T
    values, basis = np.linalg.eigh(centered.T @ centered)
    values = np.maximum(values, 0.0)
    projected = centered @ basis
    products, leverage_terms = projected.T @ components, np.square(projected)
    total = np.square(components).sum(axis=0)
    best = total * (n / max(n - 1.0, 1.0)) ** 2  # leave-one-out error of the mean
    without = best.copy()
    coefficients = np.zeros((design.shape[1], components.shape[1]))
    for strength in STRENGTHS:
        inverse = 1.0 / (values + strength)
        leverage = np.minimum(leverage_terms @ inverse + 1.0 / n, 1.0 - 1e-6)
        fitted = projected @ (inverse[:, None] * products)
        error = np.square((components - fitted) / (1.0 - leverage)[:, None]).sum(axis=0)
        better = error < best
        best = np.where(better, error, best)
        coefficients[:, better] = (basis @ (inverse[:, None] * products))[:, better]
    is_flat = without <= 1e-12 * max(float(without.max(initial=0.0)), 1e-12)  # arms that never differ, or never vary
    weight = (coefficients * ~is_flat) @ rotation
    explained = np.where(is_flat, 0.0, 1.0 - best / np.where(is_flat, 1.0, without))
    return LowRankFit(weight, mean - center @ weight, explained)
