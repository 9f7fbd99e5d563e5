"""The index of large partitions: rows in lists of near ones; a search reads the lists whose centres are nearest.

Owns the lists, their centres and the map from entry to list. There is no rebuild: a list that grows too long is cut in
two and its neighbours' rows find their nearest centre again, a list that shrinks too much is dissolved into its
neighbours. Each is a matter of milliseconds and done inline, one for each change. Read `ClusteredIndex.search`, then
`_maintain`.

Why no graph: among 100,000 real prompts (the bundled encoder's vectors, 256 dimensions; 1,000 others as queries) a
graph (usearch, float16, M 16, effort 64) finds the nearest entry of 0.92 queries in 0.33 ms, lists of as many in 0.47.
But a miss is followed by an addition, which takes the graph 0.4 to 0.8 ms and lists 0.05. And a cache removes as much
as it adds: after ten times all entries, lists find 0.94, while a graph of 5,000 that uses its slots again has gone from
0.97 to 0.89. Here nothing is ever rebuilt. `bench/cache_index.py` measures both.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from penstock_cache.entries import FloatArray, Neighbour
from penstock_cache.index.flat import FlatIndex
from penstock_cache.index.kernels import HalfArray, score_pairs, score_rows, to_float32
from penstock_cache.index.lists import RowLists
from penstock_cache.index.ranking import OVERFETCH, best_rows, rank_neighbours
from penstock_cache.index.row_block import RowBlock
from penstock_cache.index.sharded_map import ShardedMap
from penstock_cache.index.splitting import split_sides
from penstock_cache.index.vectors import pack_id

# Above what rounding a centre to float16 can feign. Without it the halves of equal rows would flow back into one list.
_MIN_GAIN = 5e-4
_ROWS_OF_REST = 25  # of a cut, for each change that passes without another one


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """How long lists are and how much a search reads.

    Attributes
    ----------
    max_rows : int
        Rows of a list beyond which it is cut in two, while half the square root of the entries is less; beyond 100,000
        entries that takes over, so that centres and rows that a search compares stay in balance.
    min_rows : int
        Rows of a list below which it is dissolved; at most a tenth of `max_rows`, so that no cut undoes itself.
    neighbour_lists : int
        Lists around a cut whose rows look for a nearer centre; SPFresh (SOSP 2023, section 4) calls it reassigning.
    scan_bytes : int
        Rows that a search reads, bytes, while the index has up to `scan_entries`: what is smaller is searched exactly.
        It grows with the square root of the entries above, up to `scan_growth` times.
    scan_entries : int
    scan_growth : float
    """

    max_rows: int = 160
    min_rows: int = 16
    neighbour_lists: int = 8
    scan_bytes: int = 3 << 19
    scan_entries: int = 100_000
    scan_growth: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= 10 * self.min_rows <= self.max_rows:
            raise ValueError("min_rows is at most a tenth of max_rows")

    def longest(self, entries: int) -> int:
        """Return how many rows a list may have in an index with so many entries."""
        return max(self.max_rows, math.isqrt(entries) // 2)

    def rows_to_read(self, entries: int, dimension: int) -> int:
        """Return how many rows a search reads of an index with so many entries."""
        growth = min(max(math.sqrt(entries / self.scan_entries), 1.0), self.scan_growth)
        return int(growth * self.scan_bytes / (2 * dimension))


class ClusteredIndex:
    """Approximate search over any number of entries; exact while they fit into one search's reading.

    Parameters
    ----------
    dimension : int
    options : ClusterOptions

    Notes
    -----
    Fulfils `protocol.PartitionIndex`. With n entries in L lists (n / 110, or 3·√n beyond 100,000), a search compares
    the query with L centres and `ClusterOptions.rows_to_read` rows, an addition with L centres.
    """

    __slots__ = ("_list_of", "_lists", "_numbers", "_overfull", "_rest", "_underfull", "dimension", "options")

    def __init__(self, dimension: int, options: ClusterOptions | None = None) -> None:
        self.dimension = dimension
        self.options = options or ClusterOptions()
        self._lists = RowLists(dimension)
        self._list_of: ShardedMap[int] = ShardedMap()
        self._numbers: list[int] = []
        self._overfull: set[int] = set()
        self._underfull: set[int] = set()
        self._rest = 0  # changes until the next cut

    @classmethod
    def from_flat(cls, flat: FlatIndex, options: ClusterOptions | None = None) -> ClusteredIndex:
        """Take over the rows of a flat index, which must not be used afterwards; it is cut up by the next additions."""
        index = cls(flat.dimension, options)
        index._lists.append(flat.block)
        for entry_id in flat.block.entry_ids():
            index._put(entry_id, 0)
        index._note_size(0)
        return index

    def add(self, entry_id: str, vector: FloatArray) -> None:
        """Add or replace; see `protocol.PartitionIndex.add`."""
        self.add_packed(pack_id(entry_id), vector)

    def add_packed(self, packed: bytes, vector: FloatArray) -> None:
        """Add or replace; see `protocol.PartitionIndex.add_packed`."""
        row = vector.astype(np.float16)
        self._take_out(packed)
        number = self._lists.nearest(row) if len(self._lists) else self._lists.open()
        self._lists.add(number, packed, row)
        self._put(packed, number)
        self._note_size(number)
        self._maintain()

    def remove(self, entry_id: str) -> bool:
        """Remove; see `protocol.PartitionIndex.remove`."""
        return self.remove_packed(pack_id(entry_id))

    def remove_packed(self, packed: bytes) -> bool:
        """Remove; see `protocol.PartitionIndex.remove_packed`."""
        is_there = self._take_out(packed)
        self._maintain()
        return is_there

    def search(self, vector: FloatArray, k: int, min_cosine: float = -1.0) -> list[Neighbour]:
        """Return the nearest entries, best first; see `protocol.PartitionIndex.search`."""
        query = vector.astype(np.float16)
        blocks = self._blocks_to_read(query, k)
        if not blocks:
            return []
        ends = list(accumulate(block.size for block in blocks))
        scores = np.empty(ends[-1], dtype=np.float32)
        start = 0
        for block, end in zip(blocks, ends, strict=True):
            score_rows(query, block.rows, scores[start:end])
            start = end
        found = best_rows(scores, k + OVERFETCH, min_cosine).tolist()
        if not found:
            return []
        rows, ids = np.empty((len(found), self.dimension), dtype=np.float16), []
        for i, position in enumerate(found):
            block = blocks[place := bisect_right(ends, position)]
            slot = position - ends[place] + block.size
            rows[i] = block.rows[slot]
            ids.append(block.entry_id(slot))
        return rank_neighbours(vector, rows, ids, k)

    def to_flat(self) -> FlatIndex:
        """Return the same entries as a flat index."""
        flat = FlatIndex(self.dimension, len(self) + len(self) // 8)
        for block in self._lists.blocks:
            flat.block.extend(block.id_words, block.rows)
        return flat

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield id and row; see `protocol.PartitionIndex.entries`."""
        for block in self._lists.blocks:
            yield from block.entries()

    def release_some(self) -> list[bytes]:
        """Let go of one list and return its ids, [] when none is left: how a large index goes without a stall."""
        if not len(self._lists):
            return []
        number = len(self._lists) - 1
        ids = self._lists.blocks[number].entry_ids()
        for entry_id in ids:
            self._list_of.pop(entry_id)
        self._close(number)
        return ids

    def __contains__(self, entry_id: object) -> bool:
        return isinstance(entry_id, str) and pack_id(entry_id) in self._list_of

    def __len__(self) -> int:
        return len(self._list_of)

    def memory_bytes(self) -> int:
        """Return what rows, ids, centres and the map take, bytes."""
        return self._lists.memory_bytes() + self._list_of.memory_bytes()

    def _blocks_to_read(self, query: HalfArray, k: int) -> list[RowBlock]:
        """Return the lists whose centres are nearest, as many as hold the rows that a search reads."""
        blocks = self._lists.blocks
        budget = max(self.options.rows_to_read(len(self), self.dimension), k)
        if len(self) <= budget:
            return [block for block in blocks if block.size]
        # One and a half times the lists that hold the budget on average are enough to choose from, or nearly always.
        count = min(len(blocks), 2 + int(1.5 * budget * len(blocks) / len(self)))
        scores = self._lists.scores(query)
        numbers = scores.argpartition(len(blocks) - count)[len(blocks) - count :]
        chosen = []
        for number in numbers[scores[numbers].argsort()[::-1]].tolist():
            block = blocks[number]
            if block.size:
                chosen.append(block)
                budget -= block.size
                if budget <= 0:
                    break
        return chosen

    def _take_out(self, packed: bytes) -> bool:
        number = self._list_of.pop(packed)
        if number is None:
            return False
        slot = self._lists.blocks[number].find(packed)
        assert slot is not None, "the map names a list that does not hold the entry"
        self._lists.remove(number, slot)
        self._note_size(number)
        return True

    def _note_size(self, number: int) -> None:
        size = int(self._lists.sizes[number])
        is_overfull = size > self.options.longest(len(self))
        (self._overfull.add if is_overfull else self._overfull.discard)(number)
        (self._underfull.add if size < self.options.min_rows else self._underfull.discard)(number)

    def _maintain(self) -> None:
        """Cut one list that is too long, or dissolve one that is too short.

        After a cut some changes pass without another one, the more the more rows it had: a flat index that was taken
        over is cut up over some hundred changes, and not by a dozen in a row, each of which takes milliseconds. New
        lists grow too long more slowly than that.
        """
        if self._rest:
            self._rest -= 1
        elif self._overfull:
            self._cut(next(iter(self._overfull)))
        elif self._underfull and len(self._lists) > 1:
            self._dissolve(next(iter(self._underfull)))

    def _cut(self, number: int) -> None:
        self._rest = max(self._lists.blocks[number].size // _ROWS_OF_REST, self.options.max_rows // 4)
        rows = to_float32(self._lists.blocks[number].rows)
        new = self._lists.cut(number, split_sides(rows), rows)
        self._rename(new)
        self._note_size(number)
        self._note_size(new)
        self._reassign(number, new)

    def _reassign(self, number: int, new: int) -> None:
        """Move rows of the lists around a cut to their nearest centre; about one in twenty-five moves."""
        lists = self._lists
        around = lists.around(number, self.options.neighbour_lists + 1)
        numbers = np.array(sorted({*around.tolist(), number, new}))  # np.unique would first import numpy.ma: 0.1 s
        centres = lists.centres[numbers]
        for place, source in enumerate(numbers.tolist()):
            block = lists.blocks[source]
            if not block.size:
                continue
            scores = score_pairs(block.rows, centres)
            best = scores.argmax(axis=1)
            gains = scores[np.arange(block.size), best] - scores[:, place]
            for slot in np.flatnonzero(gains > _MIN_GAIN)[::-1].tolist():
                self._move(source, slot, int(numbers[best[slot]]))

    def _dissolve(self, number: int) -> None:
        """Move all rows of a list to the nearest others and close it."""
        lists = self._lists
        others = lists.around(number, self.options.neighbour_lists)
        block = lists.blocks[number]
        if block.size:
            targets = others[score_pairs(block.rows, lists.centres[others]).argmax(axis=1)]
            for slot in range(block.size - 1, -1, -1):
                self._move(number, slot, int(targets[slot]))
        self._close(number)

    def _move(self, source: int, slot: int, target: int) -> None:
        self._put(self._lists.move(source, slot, target), target)
        self._note_size(source)
        self._note_size(target)

    def _close(self, number: int) -> None:
        """Drop a list; the last one takes its number."""
        last = len(self._lists) - 1
        self._lists.close(number)
        for numbers in (self._overfull, self._underfull):
            numbers.discard(number)
            if last in numbers:
                numbers.discard(last)
                numbers.add(number)
        if number != last:
            self._rename(number)

    def _rename(self, number: int) -> None:
        for entry_id in self._lists.blocks[number].entry_ids():
            self._put(entry_id, number)

    def _put(self, entry_id: bytes, number: int) -> None:
        """Note an entry's list, with the one int object that stands for it: an own one would take 32 bytes an entry."""
        while len(self._numbers) <= number:
            self._numbers.append(len(self._numbers))
        self._list_of[entry_id] = self._numbers[number]
