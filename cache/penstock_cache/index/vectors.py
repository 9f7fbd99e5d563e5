"""Which vectors and ids an index takes, in the form in which it keeps them.

Owns the checks. Must not keep anything. Read `unit_vector`.
"""

from __future__ import annotations

import math

import numpy as np

from penstock_cache.entries import FloatArray
from penstock_cache.errors import CacheError

ID_BYTES = 16
MIN_DIMENSION = 2
MAX_DIMENSION = 4096
"""Beyond it the largest component of a unit vector could fall out of float16's normal range."""

# Outside these the square of the length may have lost digits in float32, so it is computed again in float64.
_SMALLEST_SQUARE, _LARGEST_SQUARE = 1e-24, 1e30


class VectorMismatch(CacheError):
    """A vector has another dimension than the index, no direction, or values that are not finite."""

    default_code = "cache_vector_mismatch"


def unit_vector(vector: FloatArray, dimension: int) -> FloatArray:
    """Check a vector and scale it to length 1.

    Parameters
    ----------
    vector : ndarray, shape (d,)
        Of any length but 0.
    dimension : int
        What d must be.

    Returns
    -------
    ndarray of float32, shape (d,)
        A new array.

    Raises
    ------
    VectorMismatch
        Another shape, a value that is not finite, or all zeros.
    """
    if np.shape(vector) != (dimension,):
        raise VectorMismatch(f"A vector of shape {np.shape(vector)} does not fit an index of {dimension} dimensions.")
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is looked at again below
        single = np.asarray(vector, dtype=np.float32)
        square = float(single @ single)
    if _SMALLEST_SQUARE < square < _LARGEST_SQUARE:
        return single * np.float32(1.0 / math.sqrt(square))
    wide = np.asarray(vector, dtype=np.float64)
    largest = float(np.abs(wide).max())
    if not math.isfinite(largest):
        raise VectorMismatch("A vector holds values that are not finite.")
    if largest == 0.0:
        raise VectorMismatch("A vector of zeros has no direction.")
    wide = wide / largest
    unit: FloatArray = (wide / np.linalg.norm(wide)).astype(np.float32)
    return unit


def pack_id(entry_id: str) -> bytes:
    """Return an entry id's 16 bytes.

    Raises
    ------
    CacheError
        It is not 32 hexadecimal digits; code ``cache_entry_id``.
    """
    try:
        packed = bytes.fromhex(entry_id)
    except ValueError:
        packed = b""
    if len(packed) != ID_BYTES or len(entry_id) != 2 * ID_BYTES:
        raise CacheError("An entry id is 32 hexadecimal digits.", code="cache_entry_id")
    return packed
