"""A binary heap of entry slots in flat arrays: smallest key first, removal from the middle, four bytes an entry.

Owns the order of slots and where each stands; keys and positions lie in arrays that several heaps share, because an
entry is in one of them at a time. Must not know what a slot holds. Read `SlotHeap`.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import MutableSequence
from typing import Final

NOWHERE: Final = -1
"""Position of a slot that is in no heap."""


class SlotHeap:
    """Slots ordered by key, smallest first.

    Parameters
    ----------
    keys : sequence of float
        Key of every slot. Change the key of a slot that stands here only through `rekey`.
    positions : sequence of int
        Where every slot stands in its heap; `NOWHERE` in none. Written by the heap.

    Notes
    -----
    `push`, `rekey` and `remove` are O(log n), `first` is O(1). ``heapq`` with tuples would take some 130 bytes an
    entry, and cannot remove from the middle.
    """

    def __init__(self, keys: MutableSequence[float], positions: MutableSequence[int]) -> None:
        self._keys = keys
        self._positions = positions
        self._slots = array("i")

    def __len__(self) -> int:
        return len(self._slots)

    def first(self) -> int:
        """Return the slot with the smallest key.

        Raises
        ------
        IndexError
            The heap is empty.
        """
        return self._slots[0]

    def push(self, slot: int, key: float) -> None:
        """Add a slot that stands in no heap."""
        self._keys[slot] = key
        self._slots.append(slot)
        self._rise(len(self._slots) - 1)

    def rekey(self, slot: int, key: float) -> None:
        """Give a slot that stands here another key."""
        self._keys[slot] = key
        self._sink(self._rise(self._positions[slot]))

    def remove(self, slot: int) -> None:
        """Take out a slot that stands here."""
        position = self._positions[slot]
        last = self._slots.pop()
        self._positions[slot] = NOWHERE
        if last != slot:
            self._slots[position] = last
            self._positions[last] = position
            self._sink(self._rise(position))

    def memory_bytes(self) -> int:
        """Return what the order takes, bytes, without keys and positions."""
        return sys.getsizeof(self._slots)

    def _rise(self, position: int) -> int:
        """Move a slot towards the front, and return where it stands then."""
        slots, keys, positions = self._slots, self._keys, self._positions
        slot = slots[position]
        key = keys[slot]
        while position:
            parent = (position - 1) >> 1
            other = slots[parent]
            if keys[other] <= key:
                break
            slots[position] = other
            positions[other] = position
            position = parent
        slots[position] = slot
        positions[slot] = position
        return position

    def _sink(self, position: int) -> None:
        """Move a slot towards the back."""
        slots, keys, positions = self._slots, self._keys, self._positions
        slot, count = slots[position], len(slots)
        key = keys[slot]
        while (child := 2 * position + 1) < count:
            if child + 1 < count and keys[slots[child + 1]] < keys[slots[child]]:
                child += 1
            other = slots[child]
            if key <= keys[other]:
                break
            slots[position] = other
            positions[other] = position
            position = child
        slots[position] = slot
        positions[slot] = position
