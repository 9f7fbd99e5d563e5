"""What eviction remembers of every entry, in columns: a slot is a row, and freed rows are used again.

Owns the columns; the map from entry id to slot is `id_table`. Must not decide anything. Read `EntrySlots`.
"""

from __future__ import annotations

import sys
from array import array
from typing import Final

from penstock_cache.columns import column
from penstock_cache.id_table import IdTable
from penstock_cache.slot_heap import NOWHERE

MAX_SIZE_BYTES: Final = 2**32 - 1
"""Largest entry that a column of 32-bit sizes can hold."""


class EntrySlots:
    """Columns of numbers, one row an entry.

    Attributes
    ----------
    worth_usd : array of float32
        What one hit saves on expectation, USD; negative when errors outweigh the saving.
    credit : array of float32
        Fractional frequency: 1 for being stored, 1 a hit, a share of 1 for near misses.
    size_bytes : array of uint32
    expires_at : array of float64
        Unix time, seconds.
    fingerprint : array of uint64
        First eight bytes of the request's fingerprint.
    category : array of uint16
        Index of the category in the order of first use.
    is_probation : array of int8
        1 while the entry waits for its first useful hit.
    priority : array of float64
        GDSF priority as of the last touch; meaningless in probation.
    queue_keys, queue_positions : arrays of float64 and int32
        Of the category's queues; a key may lag behind `priority` from below.
    expiry_positions : array of int32
        Of the heap by `expires_at`.

    Notes
    -----
    55 bytes a row, 16 for the id, and 6 to 12 for the table in which it is found.
    """

    def __init__(self) -> None:
        self.worth_usd: array[float] = column("f", 1)
        self.credit: array[float] = column("f", 2)
        self.size_bytes: array[int] = column("I", 3)
        self.expires_at: array[float] = column("d", 4)
        self.fingerprint: array[int] = column("Q", 5)
        self.category: array[int] = column("H", 6)
        self.is_probation: array[int] = column("b", 7)
        self.priority: array[float] = column("d", 8)
        self.queue_keys: array[float] = column("d", 9)
        self.queue_positions: array[int] = column("i", 10, NOWHERE)
        self.expiry_positions: array[int] = column("i", 11, NOWHERE)
        self._rows = 0
        self._ids = IdTable()
        self._free = array("i")

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, entry_id: str) -> bool:
        return self._ids.find(entry_id) is not None

    def slot_of(self, entry_id: str) -> int | None:
        """Return the row of an entry, None when there is none."""
        return self._ids.find(entry_id)

    def take(self, entry_id: str) -> int:
        """Return a row for a new entry; its columns hold whatever they held before."""
        slot = self._free.pop() if self._free else self._grow()
        self._ids.put(slot, entry_id)
        return slot

    def free(self, slot: int) -> str:
        """Give a row back and return the id that it held.

        Raises
        ------
        KeyError
            It is free already.
        """
        entry_id = self._ids.remove(slot)
        self._free.append(slot)
        return entry_id

    def id_of(self, slot: int) -> str:
        """Return the id of an entry."""
        return self._ids.id_of(slot)

    def memory_bytes(self) -> int:
        """Return what all of it takes, bytes."""
        columns = sum(sys.getsizeof(column) for column in (*self._columns(), self._free))
        return columns + self._ids.memory_bytes()

    def _columns(self) -> tuple[array[int] | array[float], ...]:
        return (
            self.worth_usd, self.credit, self.size_bytes, self.expires_at, self.fingerprint, self.category,
            self.is_probation, self.priority, self.queue_keys, self.queue_positions, self.expiry_positions,
        )  # fmt: skip

    def _grow(self) -> int:
        """Add a row to every column and return its number."""
        slot = self._rows
        self._rows += 1
        for amounts in (self.worth_usd, self.credit, self.expires_at, self.priority, self.queue_keys):
            amounts.append(0.0)
        for counts in (self.size_bytes, self.fingerprint, self.category, self.is_probation):
            counts.append(0)
        for positions in (self.queue_positions, self.expiry_positions):
            positions.append(NOWHERE)
        return slot
