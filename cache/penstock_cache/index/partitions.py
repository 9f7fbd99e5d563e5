"""All partitions of one encoder: each has an index of its own, so no search can reach another's entries.

Owns the maps from partition to index and from entry to partition, and which of three forms a partition has: packed
bytes up to 32 entries, flat up to 2,048, clustered beyond. Must not filter: a tenant's or a context's entries are apart
because their partition keys differ. Read `PartitionedIndex.add`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from penstock_cache.entries import FloatArray, Neighbour
from penstock_cache.errors import CacheError
from penstock_cache.index import packed
from penstock_cache.index.clustered import ClusteredIndex, ClusterOptions
from penstock_cache.index.flat import FlatIndex
from penstock_cache.index.kernels import HalfArray
from penstock_cache.index.sharded_map import ShardedMap
from penstock_cache.index.vectors import ID_BYTES, MAX_DIMENSION, MIN_DIMENSION, pack_id, unit_vector

KEY_BYTES = 16

Form = Literal["absent", "packed", "flat", "clustered"]

_BYTES_OBJECT = 64  # 33 bytes of CPython header and terminator, 16 of content, rounded to the allocator's 16


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """From how many entries on a partition takes which form; it goes back at half as many.

    Attributes
    ----------
    packed_entries : int
        At most so many are one bytes object, which each change copies: 32 of 384 dimensions are 25 kB.
    flat_entries : int
        At most so many are searched row by row. Above, reading all rows would take longer than a search may: at 384
        dimensions 0.1 ms for 2,048 rows, 2.2 ms for 50,000.
    clusters : ClusterOptions
    """

    packed_entries: int = 32
    flat_entries: int = 2048
    clusters: ClusterOptions = field(default_factory=ClusterOptions)


class PartitionedIndex:
    """Nearest entries within a partition, for any number of partitions.

    Parameters
    ----------
    dimension : int
        Of all vectors, in [2, 4096].
    options : IndexOptions

    Raises
    ------
    CacheError
        The dimension is out of range; code ``cache_index_dimension``.

    Notes
    -----
    One thread uses it, inline. Every call returns within milliseconds whatever the sizes: no array, table or partition
    is ever copied, rebuilt or freed as a whole once it is large.
    """

    def __init__(self, dimension: int, options: IndexOptions | None = None) -> None:
        if not MIN_DIMENSION <= dimension <= MAX_DIMENSION:
            raise CacheError(
                f"An index has {MIN_DIMENSION} to {MAX_DIMENSION} dimensions, not {dimension}.",
                code="cache_index_dimension",
            )
        self.dimension = dimension
        self.options = options or IndexOptions()
        self._packed: ShardedMap[bytes] = ShardedMap()
        self._large: dict[bytes, _Large] = {}
        self._partition_of: ShardedMap[bytes] = ShardedMap()
        self._going: list[ClusteredIndex] = []
        self._entries = 0

    def add(self, partition: bytes, entry_id: str, vector: FloatArray) -> None:
        """Add an entry, or replace the one of this id wherever it is.

        Parameters
        ----------
        partition : bytes, length 16
        entry_id : str
            32 hexadecimal digits.
        vector : ndarray, shape (d,)
            Of any length but 0.

        Raises
        ------
        VectorMismatch
            Another dimension, not finite, or zero; nothing has changed then.
        CacheError
            An id or a partition key of another form; nothing has changed then.
        """
        unit = unit_vector(vector, self.dimension)
        key, entry = _checked(partition), pack_id(entry_id)
        self._take_out(entry)
        large = self._large.get(key)
        if large is None:
            key = self._add_packed(key, entry, unit.astype(np.float16))
        else:
            key = large.key
            large.index.add_packed(entry, unit)
            if isinstance(large.index, FlatIndex) and len(large.index) > self.options.flat_entries:
                large.index = ClusteredIndex.from_flat(large.index, self.options.clusters)
        self._partition_of[entry] = key
        self._entries += 1
        self._let_go()

    def remove(self, entry_id: str) -> bool:
        """Remove an entry; False when it is not there."""
        is_there = self._take_out(pack_id(entry_id))
        self._let_go()
        return is_there

    def search(self, partition: bytes, vector: FloatArray, k: int, min_cosine: float = -1.0) -> list[Neighbour]:
        """Return the nearest entries of one partition, best first.

        Parameters
        ----------
        partition : bytes, length 16
        vector : ndarray, shape (d,)
            Of any length but 0.
        k : int
            How many at most; none for less than 1.
        min_cosine : float
            Entries below it may be left out: most misses have nothing near, and end there.

        Returns
        -------
        list of Neighbour
            Empty for a partition without entries.

        Raises
        ------
        VectorMismatch
            Another dimension, not finite, or zero.
        """
        unit = unit_vector(vector, self.dimension)
        if k < 1:
            return []
        large = self._large.get(partition)
        if large is not None:
            return large.index.search(unit, k, min_cosine)
        kept = self._packed.get(_checked(partition))
        return packed.search(kept, unit, k) if kept else []

    def drop(self, partition: bytes) -> int:
        """Remove all entries of a partition and return how many there were.

        Notes
        -----
        A large partition is out of reach at once; its memory goes list by list with the next additions and removals.
        """
        count = self.partition_size(partition)
        large = self._large.pop(partition, None)
        if large is None:
            self._forget(packed.entry_ids(self._packed.pop(partition) or b"", self.dimension))
        elif isinstance(large.index, ClusteredIndex):
            self._going.append(large.index)
        else:
            self._forget(large.index.block.entry_ids())
        self._entries -= count
        return count

    def partition_of(self, entry_id: str) -> bytes | None:
        """Return the partition of an entry, or None."""
        entry = pack_id(entry_id)
        key = self._partition_of.get(entry)
        return key if key is not None and self._holds(key, entry) else None

    def partition_size(self, partition: bytes) -> int:
        """Return how many entries a partition has."""
        large = self._large.get(partition)
        if large is not None:
            return len(large.index)
        return packed.count(self._packed.get(_checked(partition)) or b"", self.dimension)

    def form(self, partition: bytes) -> Form:
        """Return which form a partition has."""
        large = self._large.get(partition)
        if large is None:
            return "packed" if _checked(partition) in self._packed else "absent"
        return "flat" if isinstance(large.index, FlatIndex) else "clustered"

    def entries(self, partition: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield ids, 16 bytes, and float16 rows of one partition; nothing may be changed meanwhile."""
        large = self._large.get(partition)
        if large is not None:
            return large.index.entries()
        kept = self._packed.get(_checked(partition)) or b""
        rows = (row.tobytes() for row in packed.rows(kept, self.dimension))
        return zip(packed.entry_ids(kept, self.dimension), rows, strict=True)

    def partitions(self) -> int:
        """Return how many partitions have entries."""
        return len(self._packed) + len(self._large)

    def __len__(self) -> int:
        return self._entries

    def memory_bytes(self) -> int:
        """Return what rows, ids, keys and maps take, bytes; walks over every partition."""
        small = sum(sys.getsizeof(kept) for kept in self._packed.values())
        large = sum(each.memory_bytes() for each in (*(large.index for large in self._large.values()), *self._going))
        maps = self._packed.memory_bytes() + self._partition_of.memory_bytes() + sys.getsizeof(self._large)
        return small + large + maps + _BYTES_OBJECT * (len(self._partition_of) + self.partitions())

    def _add_packed(self, key: bytes, entry: bytes, row: HalfArray) -> bytes:
        """Add to a packed partition, or turn it flat; returns the key object that its other entries share."""
        kept = self._packed.get(key)
        if not kept:
            self._packed[key] = packed.with_entry(b"", entry, row)
            return key
        key = self._partition_of.get(kept[:ID_BYTES]) or key
        kept = packed.with_entry(kept, entry, row)
        count = packed.count(kept, self.dimension)
        if count <= self.options.packed_entries:
            self._packed[key] = kept
            return key
        index = FlatIndex(self.dimension, count + count // 2)
        index.block.extend(packed.id_words(kept, self.dimension), packed.rows(kept, self.dimension))
        self._packed.pop(key)
        self._large[key] = _Large(key, index)
        return key

    def _take_out(self, entry: bytes) -> bool:
        """Remove an entry from wherever it is; False when it is nowhere, or its partition has been dropped."""
        key = self._partition_of.pop(entry)
        if key is None:
            return False
        large = self._large.get(key)
        is_there = self._take_packed(key, entry) if large is None else large.index.remove_packed(entry)
        self._entries -= is_there
        if large is not None and is_there:
            self._shrink(large)
        return is_there

    def _take_packed(self, key: bytes, entry: bytes) -> bool:
        kept = self._packed.get(key) or b""
        rest = packed.without_entry(kept, entry, self.dimension)
        if len(rest) == len(kept):
            return False
        if rest:
            self._packed[key] = rest
        else:
            self._packed.pop(key)
        return True

    def _shrink(self, large: _Large) -> None:
        """Take the smaller form at half of the size at which the larger one was taken."""
        if isinstance(large.index, ClusteredIndex) and len(large.index) <= self.options.flat_entries // 2:
            large.index = large.index.to_flat()
        if isinstance(large.index, FlatIndex) and len(large.index) <= self.options.packed_entries // 2:
            block = large.index.block
            del self._large[large.key]
            if block.size:
                self._packed[large.key] = block.id_words.tobytes() + block.rows.tobytes()

    def _holds(self, key: bytes, entry: bytes) -> bool:
        large = self._large.get(key)
        if large is not None:
            return entry.hex() in large.index
        return entry in packed.entry_ids(self._packed.get(key) or b"", self.dimension)

    def _let_go(self) -> None:
        """Free one list of a dropped partition."""
        if self._going:
            ids = self._going[-1].release_some()
            if not ids:
                self._going.pop()
            self._forget(ids)

    def _forget(self, ids: list[bytes]) -> None:
        """Take ids of a dropped partition out of the map, but for those that have been added again since."""
        for entry in ids:
            key = self._partition_of.get(entry)
            if key is not None and not self._holds(key, entry):
                self._partition_of.pop(entry)


@dataclass(slots=True)
class _Large:
    """A partition that is not packed, with the one key object that all its entries share."""

    key: bytes
    index: FlatIndex | ClusteredIndex


def _checked(partition: bytes) -> bytes:
    if len(partition) != KEY_BYTES:
        raise CacheError(f"A partition key is {KEY_BYTES} bytes.", code="cache_partition_key")
    return partition
