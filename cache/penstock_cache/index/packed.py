"""A small partition as one immutable bytes object: first the ids, then the float16 rows.

Most partitions hold one to five entries, so their overhead decides the memory of all. One bytes object costs 33 bytes
whatever it holds, and the garbage collector never looks at it. Adding and removing copy it, which for 32 entries of 384
dimensions is 25 kB and takes 2 µs. Pure. Read `search`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock_cache.entries import FloatArray, Neighbour
from penstock_cache.index.kernels import HalfArray, score_rows
from penstock_cache.index.ranking import OVERFETCH, best_rows, rank_neighbours
from penstock_cache.index.vectors import ID_BYTES


def count(packed: bytes, dimension: int) -> int:
    """Return how many entries there are."""
    return len(packed) // (ID_BYTES + 2 * dimension)


def entry_ids(packed: bytes, dimension: int) -> list[bytes]:
    """Return the ids, 16 bytes each."""
    return [packed[at : at + ID_BYTES] for at in range(0, ID_BYTES * count(packed, dimension), ID_BYTES)]


def id_words(packed: bytes, dimension: int) -> NDArray[np.uint64]:
    """Return the ids as two words each, shape (n, 2); a read-only view."""
    entries = count(packed, dimension)
    return np.frombuffer(packed, dtype=np.uint64, count=2 * entries).reshape(entries, 2)


def rows(packed: bytes, dimension: int) -> HalfArray:
    """Return the rows, shape (n, d); a read-only view."""
    entries = count(packed, dimension)
    return np.frombuffer(packed, dtype=np.float16, offset=ID_BYTES * entries).reshape(entries, dimension)


def with_entry(packed: bytes, entry_id: bytes, row: HalfArray) -> bytes:
    """Return it with one entry more."""
    middle = ID_BYTES * count(packed, row.size)
    return b"".join((packed[:middle], entry_id, packed[middle:], row.tobytes()))


def without_entry(packed: bytes, entry_id: bytes, dimension: int) -> bytes:
    """Return it without an entry, or as it is when the entry is not there."""
    ids = entry_ids(packed, dimension)
    if entry_id not in ids:
        return packed
    slot, row_bytes = ids.index(entry_id), 2 * dimension
    id_at, row_at = ID_BYTES * slot, ID_BYTES * len(ids) + row_bytes * slot
    return packed[:id_at] + packed[id_at + ID_BYTES : row_at] + packed[row_at + row_bytes :]


def search(packed: bytes, vector: FloatArray, k: int) -> list[Neighbour]:
    """Return the nearest entries, best first, as `protocol.PartitionIndex.search` does."""
    kept, ids = rows(packed, vector.size), entry_ids(packed, vector.size)
    if len(ids) <= k + OVERFETCH:
        return rank_neighbours(vector, kept, ids, k)
    scores = np.empty(len(ids), dtype=np.float32)
    score_rows(vector.astype(np.float16), kept, scores)
    slots = best_rows(scores, k + OVERFETCH)
    return rank_neighbours(vector, kept[slots], [ids[slot] for slot in slots.tolist()], k)
