"""Lists of rows with a centre each: the storage of `clustered.ClusteredIndex`.

Owns rows, sizes and centres, and keeps them true to each other; knows no map and no limits. Read `RowLists`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock_cache.entries import FloatArray
from penstock_cache.index.kernels import HalfArray, score_rows
from penstock_cache.index.row_block import RowBlock, capacity_for

_MIN_CAPACITY = 8


class RowLists:
    """L lists, numbered from 0 without gaps.

    Attributes
    ----------
    blocks : list of RowBlock
        The rows of each list.

    Notes
    -----
    A centre is the mean of its rows scaled to unit length, held as float16; the sum of the rows, float32, follows each
    change, so that a centre costs one row's arithmetic. 6·d bytes a list beside its rows: 14 an entry at d = 384.
    """

    __slots__ = ("_centres", "_sizes", "_sums", "blocks")

    def __init__(self, dimension: int) -> None:
        self.blocks: list[RowBlock] = []
        self._centres: HalfArray = np.zeros((_MIN_CAPACITY, dimension), dtype=np.float16)
        self._sums: FloatArray = np.zeros((_MIN_CAPACITY, dimension), dtype=np.float32)
        self._sizes: NDArray[np.int32] = np.zeros(_MIN_CAPACITY, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def sizes(self) -> NDArray[np.int32]:
        """Rows of each list, shape (L,)."""
        return self._sizes[: len(self.blocks)]

    @property
    def centres(self) -> HalfArray:
        """Centres, shape (L, d), unit length; zero for a list without rows."""
        return self._centres[: len(self.blocks)]

    def scores(self, row: HalfArray) -> FloatArray:
        """Return the cosine of a unit row with each centre, shape (L,)."""
        out = np.empty(len(self.blocks), dtype=np.float32)
        score_rows(row, self.centres, out)
        return out

    def nearest(self, row: HalfArray) -> int:
        """Return the number of the list whose centre is nearest."""
        return int(self.scores(row).argmax())

    def around(self, number: int, count: int) -> NDArray[np.intp]:
        """Return up to `count` other lists whose centres are nearest to this one's."""
        scores = self.scores(self._centres[number])
        scores[number] = -np.inf
        count = min(count, len(self.blocks) - 1)
        return np.argpartition(scores, len(scores) - count)[len(scores) - count :]

    def open(self) -> int:
        """Open an empty list and return its number."""
        return self.append(RowBlock(self._centres.shape[1]))

    def append(self, block: RowBlock) -> int:
        """Take over a block as a new list and return its number."""
        number = len(self.blocks)
        if number == len(self._sizes):
            self._grow()
        self.blocks.append(block)
        self._sums[number] = block.rows.sum(axis=0, dtype=np.float32)
        self._update(number)
        return number

    def add(self, number: int, entry_id: bytes, row: HalfArray) -> None:
        """Add a row to a list."""
        self.blocks[number].append(entry_id, row)
        self._sums[number] += row
        self._update(number)

    def remove(self, number: int, slot: int) -> None:
        """Remove a row of a list; its last row takes the place."""
        block = self.blocks[number]
        self._sums[number] -= block.rows[slot]
        block.remove(slot)
        self._update(number)

    def move(self, source: int, slot: int, target: int) -> bytes:
        """Move a row to another list and return its entry id; the source's last row takes the place."""
        block = self.blocks[source]
        entry_id = block.entry_id(slot)
        self.add(target, entry_id, block.rows[slot])
        self.remove(source, slot)
        return entry_id

    def cut(self, number: int, side: NDArray[np.bool_], rows: FloatArray) -> int:
        """Put the rows of one side into a new list and return its number; `rows` are the list's rows as float32."""
        block, dimension = self.blocks[number], rows.shape[1]
        parts = []
        for chosen in (~side, side):
            count = int(chosen.sum())
            part = RowBlock(dimension, capacity_for(count))
            part.extend(block.id_words[chosen], block.rows[chosen])
            parts.append(part)
        self.blocks[number] = parts[0]
        new = self.append(parts[1])
        self._sums[number] = rows[~side].sum(axis=0)
        self._sums[new] = rows[side].sum(axis=0)
        self._update(number)
        self._update(new)
        return new

    def close(self, number: int) -> None:
        """Drop a list; the last one takes its number."""
        last = len(self.blocks) - 1
        for array in (self._centres, self._sums, self._sizes):
            array[number] = array[last]
        self.blocks[number] = self.blocks[last]
        self.blocks.pop()

    def memory_bytes(self) -> int:
        """Return what the arrays take, bytes."""
        arrays = self._centres.nbytes + self._sums.nbytes + self._sizes.nbytes
        return arrays + sum(block.memory_bytes() for block in self.blocks)

    def _update(self, number: int) -> None:
        size, total = self.blocks[number].size, self._sums[number]
        self._sizes[number] = size
        if not size:
            total[:] = 0.0  # what is left of rounding has no direction
        length = np.sqrt(total @ total)
        self._centres[number] = total / length if length > 1e-6 * max(size, 1) else 0.0

    def _grow(self) -> None:
        capacity = len(self._sizes) + max(len(self._sizes) // 4, _MIN_CAPACITY)
        for name in ("_centres", "_sums", "_sizes"):
            array = getattr(self, name)
            larger = np.zeros((capacity, *array.shape[1:]), dtype=array.dtype)
            larger[: len(array)] = array
            setattr(self, name, larger)
