"""Logged outcomes as if every arm had answered: doubly robust pseudo-outcomes.

Owns the completion of a matrix for choosing and measuring operating points on logs that show one arm per prompt. Never
fit a head on them: single values are wild, only their means are right. Read `pseudo_outcomes`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def pseudo_outcomes(score: NDArray[np.floating], propensity: NDArray[np.floating], quality: FloatArray) -> FloatArray:
    """Complete an outcome matrix so that the mean over prompts is unbiased for every policy.

    Parameters
    ----------
    score : ndarray, shape (n, m), in [0, 1]
        NaN where the arm did not answer.
    propensity : ndarray, shape (n, m)
        Probability with which the arm was chosen for the prompt; NaN where it was asked for certain, 0 where the cell
        must not be weighted.
    quality : ndarray of float64, shape (n, m)
        Estimates from a head that did not see these prompts.

    Returns
    -------
    ndarray of float64, shape (n, m)
        ``q + (y − q) / p`` where observed, q elsewhere; may leave [0, 1].

    References
    ----------
    Dudík, Langford, Li, "Doubly robust policy evaluation and learning" (ICML 2011), equation 6, for every arm at once.
    """
    known = np.where(np.isnan(propensity), 1.0, propensity)
    usable = np.isfinite(score) & (known > 0.0)
    weight = np.divide(1.0, known, out=np.zeros_like(known, dtype=np.float64), where=usable)
    return np.asarray(quality + np.where(usable, weight * (np.nan_to_num(score) - quality), 0.0))
