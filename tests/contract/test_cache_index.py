"""One suite over every form that a partition can have, against a search in float64."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock_cache.entries import FloatArray, Neighbour
from penstock_cache.errors import CacheError
from penstock_cache.index.clustered import ClusteredIndex, ClusterOptions
from penstock_cache.index.flat import FlatIndex
from penstock_cache.index.partitions import IndexOptions, PartitionedIndex
from penstock_cache.index.protocol import PartitionIndex
from penstock_cache.index.vectors import unit_vector

DIMENSION = 24
PARTITION = b"partition number"
SMALL_LISTS = ClusterOptions(max_rows=20, min_rows=2, neighbour_lists=3)

# Both sides use the same float16 rows; the rest is float32 arithmetic over d products of at most 1.
TOLERANCE = 2e-6


class OnePartition:
    """`PartitionedIndex` seen through one of its partitions, so that the same suite covers it."""

    def __init__(self, dimension: int, options: IndexOptions) -> None:
        self.index = PartitionedIndex(dimension, options)

    def add(self, entry_id: str, vector: FloatArray) -> None:
        self.index.add(PARTITION, entry_id, vector)

    def remove(self, entry_id: str) -> bool:
        return self.index.remove(entry_id)

    def add_packed(self, packed: bytes, vector: FloatArray) -> None:
        self.index.add(PARTITION, packed.hex(), vector)

    def remove_packed(self, packed: bytes) -> bool:
        return self.index.remove(packed.hex())

    def search(self, vector: FloatArray, k: int, min_cosine: float = -1.0) -> list[Neighbour]:
        return self.index.search(PARTITION, vector, k, min_cosine)

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        return self.index.entries(PARTITION)

    def __contains__(self, entry_id: object) -> bool:
        return isinstance(entry_id, str) and self.index.partition_of(entry_id) == PARTITION

    def __len__(self) -> int:
        return len(self.index)

    def memory_bytes(self) -> int:
        return self.index.memory_bytes()


MAKERS: dict[str, Callable[[int], PartitionIndex]] = {
    "flat": FlatIndex,
    "clustered": lambda dimension: ClusteredIndex(dimension, SMALL_LISTS),
    "packed": lambda dimension: OnePartition(dimension, IndexOptions()),
    "changing": lambda dimension: OnePartition(
        dimension, IndexOptions(packed_entries=4, flat_entries=12, clusters=SMALL_LISTS)
    ),
}


@pytest.fixture(params=list(MAKERS))
def make(request: pytest.FixtureRequest) -> Callable[[int], PartitionIndex]:
    """One implementation."""
    return MAKERS[request.param]


def unit_rows(count: int, dimension: int, seed: int) -> FloatArray:
    """Draw unit vectors that lie in loose groups, as prompts do."""
    draws = np.random.default_rng(seed)
    centres = draws.standard_normal((max(1, count // 10), dimension))
    rows = centres[draws.integers(0, len(centres), count)] + 0.5 * draws.standard_normal((count, dimension))
    return np.stack([unit_vector(row.astype(np.float32), dimension) for row in rows])


def entry(number: int) -> str:
    """Return the id of an entry: 32 digits that look random."""
    return random.Random(number).randbytes(16).hex()


def cosines(kept: dict[str, FloatArray], vector: FloatArray) -> dict[str, float]:
    """Compute all cosines in float64 from the vectors as float16 keeps them."""
    rows = {name: row.astype(np.float16).astype(np.float64) for name, row in kept.items()}
    wide = vector.astype(np.float64)
    return {name: float(row @ wide / np.linalg.norm(row) / np.linalg.norm(wide)) for name, row in rows.items()}


def assert_exact(found: list[Neighbour], kept: dict[str, FloatArray], vector: FloatArray, k: int) -> None:
    """Check ids, cosines and order of a search that must be exact; entries within the tolerance may change places."""
    truth = cosines(kept, vector)
    assert len(found) == min(k, len(kept))
    assert len({neighbour.entry_id for neighbour in found}) == len(found)
    for neighbour in found:
        assert neighbour.cosine == pytest.approx(truth[neighbour.entry_id], abs=TOLERANCE)
    best = sorted(truth.values(), reverse=True)[: len(found)]
    assert [neighbour.cosine for neighbour in found] == pytest.approx(best, abs=TOLERANCE)
    assert [n.cosine for n in found] == sorted((n.cosine for n in found), reverse=True)


@pytest.mark.parametrize("dimension", [2, 5, 64, 67, 256, 384, 1024])
def test_index_of_any_dimension_finds_the_nearest_as_float64_does(
    make: Callable[[int], PartitionIndex], dimension: int
) -> None:
    """Searches agree with float64 over the kept rows, whatever the vector unit makes of the dimension."""
    index, rows = make(dimension), unit_rows(45, dimension, seed=dimension)
    kept = {entry(i): rows[i] for i in range(40)}
    for name, row in kept.items():
        index.add(name, row)
    for query in rows[35:]:
        for k in (1, 4, 40, 60):
            assert_exact(index.search(query, k), kept, query, k)


def test_index_without_entries_finds_nothing(make: Callable[[int], PartitionIndex]) -> None:
    """An index that never held an entry, and one that lost its last, find nothing."""
    index, (row,) = make(DIMENSION), unit_rows(1, DIMENSION, seed=1)
    assert (index.search(row, 3), len(index), index.remove(entry(1))) == ([], 0, False)
    index.add(entry(1), row)
    assert (index.remove(entry(1)), index.remove(entry(1))) == (True, False)
    assert (index.search(row, 3), len(index), list(index.entries())) == ([], 0, [])


def test_index_given_a_known_id_replaces_its_vector(make: Callable[[int], PartitionIndex]) -> None:
    """An id has one vector: the last one."""
    index, rows = make(DIMENSION), unit_rows(30, DIMENSION, seed=2)
    kept = {entry(i): rows[i] for i in range(25)}
    for name, row in kept.items():
        index.add(name, row)
    kept[entry(3)] = rows[29]
    index.add(entry(3), rows[29])
    assert len(index) == 25
    for query in (rows[3], rows[29]):
        assert_exact(index.search(query, 5), kept, query, 5)


def test_index_holding_equal_vectors_returns_the_smaller_ids_first(make: Callable[[int], PartitionIndex]) -> None:
    """Ties have one order, so replicas and repeated searches agree."""
    index, (row,) = make(DIMENSION), unit_rows(1, DIMENSION, seed=3)
    names = sorted(entry(i) for i in range(6))
    for name in reversed(names):
        index.add(name, row)
    assert [neighbour.entry_id for neighbour in index.search(row, 6)] == names


def test_index_asked_for_its_entries_yields_ids_and_rows(make: Callable[[int], PartitionIndex]) -> None:
    """What is yielded is enough to build the index again."""
    index, rows = make(DIMENSION), unit_rows(50, DIMENSION, seed=4)
    for i in range(50):
        index.add(entry(i), rows[i])
    for i in range(0, 50, 3):
        index.remove(entry(i))
    expected = {bytes.fromhex(entry(i)): rows[i].astype(np.float16).tobytes() for i in range(50) if i % 3}
    assert dict(index.entries()) == expected
    assert entry(1) in index
    assert entry(0) not in index
    assert 7 not in index


def test_index_that_grows_counts_at_least_its_rows(make: Callable[[int], PartitionIndex]) -> None:
    """The memory that an index reports covers rows and ids, and falls when entries go."""
    index, rows = make(DIMENSION), unit_rows(200, DIMENSION, seed=5)
    for i in range(200):
        index.add(entry(i), rows[i])
    full = index.memory_bytes()
    assert full >= 200 * (2 * DIMENSION + 16)
    for i in range(195):
        index.remove(entry(i))
    assert index.memory_bytes() < full


@pytest.mark.parametrize("wrong", ["", "ab", "g" * 32, "0" * 31, "0" * 34, "00 " * 16])
def test_index_given_an_id_of_another_form_refuses_it(make: Callable[[int], PartitionIndex], wrong: str) -> None:
    """An id that is not 32 hexadecimal digits is refused, and nothing changes."""
    index, (row,) = make(DIMENSION), unit_rows(1, DIMENSION, seed=6)
    with pytest.raises(CacheError) as refusal:
        index.add(wrong, row)
    assert (refusal.value.code, len(index)) == ("cache_entry_id", 0)


class IndexMachine(RuleBasedStateMachine):
    """Random additions, replacements, removals and searches, next to a dict."""

    make: Callable[[int], PartitionIndex] = FlatIndex
    pool = unit_rows(64, DIMENSION, seed=7)

    def __init__(self) -> None:
        super().__init__()
        self.index: Any = type(self).make(DIMENSION)
        self.kept: dict[str, FloatArray] = {}

    @rule(numbers=st.lists(st.integers(0, 79), min_size=1, max_size=30), shift=st.integers(0, 63))
    def add(self, numbers: list[int], shift: int) -> None:
        """Add a batch; some ids are there already, some vectors are equal."""
        for number in numbers:
            row = self.pool[(number + shift) % len(self.pool)]
            self.index.add(entry(number), row)
            self.kept[entry(number)] = row

    @rule(numbers=st.lists(st.integers(0, 79), min_size=1, max_size=30))
    def remove(self, numbers: list[int]) -> None:
        """Remove a batch; some ids are not there."""
        for number in numbers:
            assert self.index.remove(entry(number)) == (self.kept.pop(entry(number), None) is not None)

    @rule(number=st.integers(0, 63), k=st.sampled_from([1, 3, 8, 30]))
    def search(self, number: int, k: int) -> None:
        """Compare a search with float64."""
        assert_exact(self.index.search(self.pool[number], k), self.kept, self.pool[number], k)

    @invariant()
    def size_agrees(self) -> None:
        """Count entries on both sides."""
        assert len(self.index) == len(self.kept)


@pytest.mark.parametrize("name", list(MAKERS))
def test_index_under_random_changes_agrees_with_a_dict(name: str) -> None:
    """No order of additions, replacements and removals loses, doubles or misplaces an entry."""
    machine = type("Machine", (IndexMachine,), {"make": staticmethod(MAKERS[name])})
    machine.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
    case = machine.TestCase()
    case.runTest()


def test_clustered_index_larger_than_a_search_reads_finds_most_nearest() -> None:
    """Reading a sixth of the rows finds at least 19 of 20 nearest entries, and what it returns is true."""
    rows = unit_rows(6300, DIMENSION, seed=8)
    options = ClusterOptions(max_rows=40, min_rows=4, scan_bytes=1000 * 2 * DIMENSION)
    index, kept = ClusteredIndex(DIMENSION, options), {entry(i): rows[i] for i in range(6000)}
    for name, row in kept.items():
        index.add(name, row)
    matrix = np.stack(list(kept.values())).astype(np.float16).astype(np.float32)
    nearest = 0
    for query in rows[6000:]:
        found = index.search(query, 4)
        truth = cosines({neighbour.entry_id: kept[neighbour.entry_id] for neighbour in found}, query)
        assert all(abs(truth[neighbour.entry_id] - neighbour.cosine) < TOLERANCE for neighbour in found)
        # Rows of float16 are up to 5e-4 longer or shorter than 1, which moves the product by as much.
        nearest += found[0].cosine >= float((matrix @ query).max()) - 1e-3
    assert nearest >= 0.95 * 300
