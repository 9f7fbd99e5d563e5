"""What an index of one partition can do. Read `PartitionIndex`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from penstock_cache.entries import FloatArray, Neighbour


class PartitionIndex(Protocol):
    """Vectors of one partition under their entry ids.

    Vectors are what `vectors.unit_vector` returns: float32, shape (d,), length 1. They are kept as float16. Every
    method blocks for a few milliseconds at most and is called from one thread.
    """

    def add(self, entry_id: str, vector: FloatArray) -> None:
        """Add an entry, or replace the vector of one that is there.

        Parameters
        ----------
        entry_id : str
            32 hexadecimal digits.
        vector : ndarray of float32, shape (d,)
            Unit length.
        """
        ...

    def add_packed(self, packed: bytes, vector: FloatArray) -> None:
        """Add as `add` does, by the id's 16 bytes; a map may keep the object, so a caller that keeps it shares it."""
        ...

    def remove(self, entry_id: str) -> bool:
        """Remove an entry; False when it is not there."""
        ...

    def remove_packed(self, packed: bytes) -> bool:
        """Remove as `remove` does, by the id's 16 bytes."""
        ...

    def search(self, vector: FloatArray, k: int, min_cosine: float = -1.0) -> list[Neighbour]:
        """Return the nearest entries, best first.

        Parameters
        ----------
        vector : ndarray of float32, shape (d,)
            Unit length.
        k : int
            How many at most, at least 1.
        min_cosine : float
            Entries below it may be left out, which is quicker.

        Returns
        -------
        list of Neighbour
            At most `k`. Cosines are computed in float32 from the kept rows; of equal ones the smaller id comes first.
        """
        ...

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield each entry's id, 16 bytes, and its float16 row, 2·d bytes; nothing may be changed meanwhile."""
        ...

    def __contains__(self, entry_id: object) -> bool: ...

    def __len__(self) -> int: ...

    def memory_bytes(self) -> int:
        """Return what arrays, ids and maps take, bytes, without the allocator's own overhead."""
        ...
