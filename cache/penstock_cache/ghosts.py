"""What eviction lost: fingerprints of entries without the entries.

Owns the list of what was evicted. Must not evict anything. Read `GhostTable`.
"""

from __future__ import annotations

import sys
from array import array


def fingerprint_number(fingerprint: bytes) -> int:
    """Return the first eight bytes of a digest as a number above 0.

    Raises
    ------
    ValueError
        The digest has fewer than eight bytes.
    """
    if len(fingerprint) < 8:
        raise ValueError("a fingerprint has at least 8 bytes")
    return int.from_bytes(fingerprint[:8], "little") or 1


class GhostTable:
    """Fingerprints of the entries that were evicted not long ago.

    Parameters
    ----------
    cells : int
        Power of two, eight bytes each.

    Notes
    -----
    Direct mapped: a newer fingerprint replaces an older one in its cell, so old ones fade without any list. O(1). A
    wrong "yes" needs 64 equal bits.
    """

    def __init__(self, cells: int) -> None:
        if cells < 1 or cells & (cells - 1):
            raise ValueError("the number of ghost cells is a power of two")
        self._mask = cells - 1
        self._cells = array("Q", bytes(8 * cells))

    def add(self, fingerprint: int) -> None:
        """Remember an evicted entry."""
        self._cells[fingerprint & self._mask] = fingerprint

    def take(self, fingerprint: int) -> bool:
        """Whether it is remembered; it is forgotten then."""
        cell = fingerprint & self._mask
        if self._cells[cell] != fingerprint:
            return False
        self._cells[cell] = 0
        return True

    def memory_bytes(self) -> int:
        """Return what the table takes, bytes."""
        return sys.getsizeof(self._cells)
