"""From scores to neighbours: picks candidates by their first score and orders them by a second, exact one.

Pure. Read `best_rows`, then `rank_neighbours`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock_cache.entries import FloatArray, Neighbour
from penstock_cache.index.kernels import HalfArray, to_float32

OVERFETCH = 4
"""Candidates beyond k: the first score rounds the query to float16, which moves it by up to 1e-4."""

# One argmax takes 2 µs over 10,000 scores, one argpartition 90: up to here repeating the first is quicker.
_MAX_REPEATS = 24

_SCORE_ERROR = 5e-3
"""By more than this no first score is below the cosine: rounding to float16 and the row's length make 1e-3 at most."""


def best_rows(scores: FloatArray, count: int, min_cosine: float = -1.0) -> NDArray[np.intp]:
    """Return the rows of the largest scores, in no promised order; the scores are used up.

    Parameters
    ----------
    scores : ndarray of float32, shape (n,)
        Overwritten.
    count : int
        At least 1.
    min_cosine : float
        Rows that cannot have it are left out where they are known without a sorting.

    Returns
    -------
    ndarray of int, shape (m,)
        m is at most the smaller one of n and `count`.
    """
    if min_cosine > -1.0:
        able = (scores >= min_cosine - _SCORE_ERROR).nonzero()[0]
        if able.size <= count:
            return able
    if scores.size <= count:
        return np.arange(scores.size)
    if count > _MAX_REPEATS:
        return np.argpartition(scores, scores.size - count)[scores.size - count :]
    rows = np.empty(count, dtype=np.intp)
    for i in range(count):
        rows[i] = row = scores.argmax()
        scores[row] = -np.inf
    return rows


def rank_neighbours(vector: FloatArray, rows: HalfArray, ids: list[bytes], k: int) -> list[Neighbour]:
    """Score candidates again in float32 and return the best k, best first.

    Parameters
    ----------
    vector : ndarray of float32, shape (d,)
        Unit length.
    rows : ndarray of float16, shape (m, d)
    ids : list of bytes, length m
    k : int

    Returns
    -------
    list of Neighbour
        Of equal cosines the smaller id first.

    Notes
    -----
    A unit vector in float16 has a length of 1 ± 5e-4, so the product is divided by the length of the row as kept. A
    row's cosine is the same to the last bit whichever rows are scored with it: `einsum` takes each row by itself, what
    a matrix product does not.
    """
    exact = to_float32(rows)
    lengths = np.sqrt(np.einsum("ij,ij->i", exact, exact))
    turned = np.minimum(np.maximum(np.einsum("ij,j->i", exact, vector) / -lengths, -1.0), 1.0).tolist()
    ranked = sorted(zip(turned, ids, strict=True))  # by falling cosine, then by id
    return [Neighbour(entry_id.hex(), -cosine) for cosine, entry_id in ranked[:k]]
