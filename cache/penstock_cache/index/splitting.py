"""Cuts a set of unit vectors in two near the middle, along the direction in which they differ most.

Pure and deterministic. Read `split_sides`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock_cache.entries import FloatArray

_POWER_STEPS = 4
_MEANS_STEPS = 4
_SAMPLE = 512  # rows that the cut is fitted on; keeps one of thousands of rows within milliseconds
_MIN_SHARE = 0.1  # a smaller side is worth no list of its own


def split_sides(rows: FloatArray) -> NDArray[np.bool_]:
    """Say for each row on which side of the cut it lies.

    Parameters
    ----------
    rows : ndarray of float32, shape (n, d)
        Unit vectors, n at least 2.

    Returns
    -------
    ndarray of bool, shape (n,)
        Each side has at least a tenth of the rows, and at least one.

    Notes
    -----
    Spherical 2-means that starts from the halves along the first principal direction (a few power steps are enough:
    any direction of large variance serves), on every n-th row where there are many. Where the result is lopsided the
    halves themselves are taken; of equal rows, the first half.
    """
    sample = rows[:: max(1, len(rows) // _SAMPLE)]
    direction = _principal_direction(sample - sample.mean(axis=0))
    side, difference = _halves(sample, direction), direction
    for _ in range(_MEANS_STEPS):
        difference = _unit(sample[side].mean(axis=0)) - _unit(sample[~side].mean(axis=0))
        side = _along(sample, difference) > 0.0
        if not _is_balanced(side):
            return _halves(rows, direction)
    if len(sample) < len(rows):
        side = _along(rows, difference) > 0.0
    return side if _is_balanced(side) else _halves(rows, direction)


def _halves(rows: FloatArray, direction: FloatArray) -> NDArray[np.bool_]:
    """Return the upper half along a direction."""
    side = np.zeros(len(rows), dtype=bool)
    side[np.argsort(_along(rows, direction), kind="stable")[len(rows) // 2 :]] = True
    return side


def _is_balanced(side: NDArray[np.bool_]) -> bool:
    return bool(_MIN_SHARE <= side.mean() <= 1.0 - _MIN_SHARE)


def _principal_direction(centred: FloatArray) -> FloatArray:
    direction: FloatArray = centred[np.einsum("ij,ij->i", centred, centred).argmax()]
    for _ in range(_POWER_STEPS):
        direction = _unit(np.einsum("i,ij->j", _along(centred, direction), centred))
    return direction


def _along(rows: FloatArray, direction: FloatArray) -> FloatArray:
    # `@` would share these few rows among BLAS threads, whose hand-over can take longer than the product.
    product: FloatArray = np.einsum("ij,j->i", rows, direction)
    return product


def _unit(vector: FloatArray) -> FloatArray:
    unit: FloatArray = vector / np.float32(max(float(np.linalg.norm(vector)), 1e-12))
    return unit
