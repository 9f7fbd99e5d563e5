"""The partitioned index: isolation, refusals, replacing, the three forms, dropping."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_cache.entries import FloatArray
from penstock_cache.errors import CacheError
from penstock_cache.index.clustered import ClusteredIndex, ClusterOptions
from penstock_cache.index.partitions import IndexOptions, PartitionedIndex
from penstock_cache.index.row_block import RowBlock, capacity_for
from penstock_cache.index.sharded_map import ShardedMap

DIMENSION = 8
SMALL = IndexOptions(
    packed_entries=4, flat_entries=12, clusters=ClusterOptions(max_rows=20, min_rows=2, neighbour_lists=3)
)
ONE, TWO, THREE = (bytes([number]) * 16 for number in (1, 2, 3))


def entry(number: int) -> str:
    """Return the id of an entry: 32 digits that look random."""
    return random.Random(number).randbytes(16).hex()


def vectors(count: int, seed: int = 0) -> FloatArray:
    """Draw vectors of any length."""
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def filled(sizes: dict[bytes, int], options: IndexOptions = SMALL) -> PartitionedIndex:
    """Fill partitions in turn; entries are numbered through."""
    index, number = PartitionedIndex(DIMENSION, options), 0
    for partition, size in sizes.items():
        for row in vectors(size, seed=partition[0]):
            index.add(partition, entry(number), row)
            number += 1
    return index


def found(index: PartitionedIndex, partition: bytes, vector: FloatArray, k: int = 1000) -> set[str]:
    """Search and return the ids."""
    return {neighbour.entry_id for neighbour in index.search(partition, vector, k)}


@pytest.mark.parametrize("size", [1, 4, 5, 12, 13, 60])
def test_search_with_an_equal_vector_next_door_returns_own_entries_only(size: int) -> None:
    """An entry is never found from another partition, however near its vector is and whatever form either has."""
    index, row = filled({ONE: size, TWO: 3}), vectors(1, seed=9)[0]
    index.add(TWO, entry(500), row)
    own = {entry(i) for i in range(size)}
    assert found(index, ONE, row) == own
    assert found(index, TWO, row) == {entry(size), entry(size + 1), entry(size + 2), entry(500)}
    assert found(index, THREE, row) == set()


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["add", "remove", "drop"]), st.integers(0, 3), st.integers(0, 70)), max_size=250)
)
def test_partitions_under_random_changes_hold_what_was_put_into_them(changes: list[tuple[str, int, int]]) -> None:
    """Whatever is added, moved, removed and dropped, each partition finds its own entries and all of them."""
    index, rows = PartitionedIndex(DIMENSION, SMALL), vectors(71, seed=3)
    kept: dict[str, bytes] = {}
    for action, place, number in changes:
        partition = bytes([65 + place]) * 16
        if action == "add":
            for i in range(number, min(number + 9, 71)):
                index.add(partition, entry(i), rows[i])
                kept[entry(i)] = partition
        elif action == "remove":
            assert index.remove(entry(number)) == (kept.pop(entry(number), None) is not None)
        elif number < 12:
            gone = [name for name, where in kept.items() if where == partition]
            assert index.drop(partition) == len(gone)
            for name in gone:
                del kept[name]
        assert len(index) == len(kept)
    for place in range(4):
        partition = bytes([65 + place]) * 16
        own = {name for name, where in kept.items() if where == partition}
        assert found(index, partition, rows[0]) == own
        assert index.partition_size(partition) == len(own)
    assert all(index.partition_of(entry(i)) == kept.get(entry(i)) for i in range(71))
    assert index.partitions() == len(set(kept.values()))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(np.ones(DIMENSION + 1, dtype=np.float32), id="longer"),
        pytest.param(np.ones(DIMENSION - 1, dtype=np.float32), id="shorter"),
        pytest.param(np.ones((1, DIMENSION), dtype=np.float32), id="a-matrix"),
        pytest.param(np.zeros(DIMENSION, dtype=np.float32), id="zero"),
        pytest.param(np.array([np.nan] + [1.0] * (DIMENSION - 1), dtype=np.float32), id="nan"),
        pytest.param(np.array([np.inf] + [1.0] * (DIMENSION - 1), dtype=np.float32), id="infinite"),
    ],
)
@pytest.mark.parametrize("size", [2, 8, 40])
def test_vector_that_does_not_fit_is_refused_without_a_change(wrong: FloatArray, size: int) -> None:
    """A refused vector has a code, and the entry that it should have replaced stays as it was."""
    index = filled({ONE: size})
    before = dict(index.entries(ONE))
    for attempt in (lambda: index.add(ONE, entry(0), wrong), lambda: index.search(ONE, wrong, 3)):
        with pytest.raises(CacheError) as refusal:
            attempt()
        assert refusal.value.code == "cache_vector_mismatch"
    assert (dict(index.entries(ONE)), len(index)) == (before, size)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_vector_of_any_length_is_found_by_its_direction(scale: float) -> None:
    """Only the direction counts: very short and very long vectors are scaled, not lost."""
    index, row = PartitionedIndex(DIMENSION), vectors(1)[0]
    index.add(ONE, entry(1), row * np.float32(scale))
    (neighbour,) = index.search(ONE, row, 1)
    assert neighbour.cosine == pytest.approx(1.0, abs=1e-3)  # float16 keeps 11 bits of each component


@pytest.mark.parametrize("partition", [b"", b"short", b"x" * 17])
def test_partition_key_of_another_length_is_refused_without_a_change(partition: bytes) -> None:
    """A key that is no 16-byte digest is a mistake of the caller, found at once."""
    index = filled({ONE: 2})
    with pytest.raises(CacheError) as refusal:
        index.add(partition, entry(0), vectors(1)[0])
    assert (refusal.value.code, index.partition_of(entry(0))) == ("cache_partition_key", ONE)


@pytest.mark.parametrize("dimension", [0, 1, 4097])
def test_index_of_an_impossible_dimension_is_refused_by_code(dimension: int) -> None:
    """Dimensions that float16 rows cannot serve are refused when the index is made."""
    with pytest.raises(CacheError) as refusal:
        PartitionedIndex(dimension)
    assert refusal.value.code == "cache_index_dimension"


@pytest.mark.parametrize("size", [2, 8, 40])
def test_entry_added_to_another_partition_leaves_its_first(size: int) -> None:
    """An id is in one partition at a time, so one removal is enough to be rid of it."""
    index, row = filled({ONE: size, TWO: size}), vectors(1, seed=9)[0]
    index.add(TWO, entry(0), row)
    assert entry(0) not in found(index, ONE, row)
    assert (index.search(TWO, row, 1)[0].entry_id, len(index)) == (entry(0), 2 * size)
    assert index.remove(entry(0))
    assert entry(0) not in found(index, TWO, row)


def test_partition_that_grows_and_shrinks_changes_its_form_late() -> None:
    """A partition takes the larger form above a size and the smaller one at half of it, not at every change around."""
    index = PartitionedIndex(DIMENSION, SMALL)
    rows, forms = vectors(20), []
    for i in range(20):
        index.add(ONE, entry(i), rows[i])
        forms.append(index.form(ONE))
    assert forms == ["packed"] * 4 + ["flat"] * 8 + ["clustered"] * 8
    forms.clear()
    for i in range(20):
        index.remove(entry(i))
        forms.append(index.form(ONE))
    assert forms == ["clustered"] * 13 + ["flat"] * 4 + ["packed"] * 2 + ["absent"]


@pytest.mark.parametrize("size", [3, 9, 60])
def test_dropped_partition_whose_ids_come_back_forgets_only_the_old_ones(size: int) -> None:
    """Dropping is at once; ids that are added again meanwhile stay, though memory is still being let go."""
    index = filled({ONE: size, TWO: 2})
    assert index.drop(ONE) == size
    row = vectors(1, seed=9)[0]
    assert (found(index, ONE, row), len(index), index.partition_of(entry(0))) == (set(), 2, None)
    index.add(ONE, entry(0), row)
    index.add(TWO, entry(1), row)
    for i in range(200):
        index.remove(entry(900 + i))
    assert found(index, ONE, row) == {entry(0)}
    assert found(index, TWO, row) == {entry(1), entry(size), entry(size + 1)}
    assert [index.partition_of(entry(i)) for i in (0, 1)] == [ONE, TWO]
    assert (index.drop(ONE), index.drop(ONE), len(index)) == (1, 0, 3)


def test_dropped_large_partition_gives_its_memory_back_with_later_changes() -> None:
    """A large partition is let go list by list; afterwards nothing of it is left."""
    index = filled({TWO: 2})
    before = index.memory_bytes()
    for i, row in enumerate(vectors(400)):
        index.add(ONE, entry(1000 + i), row)
    index.drop(ONE)
    for i in range(100):
        index.remove(entry(9000 + i))
    # The tables that the 400 ids made grow stay as they are.
    assert index.memory_bytes() - before < 400 * 2 * DIMENSION + 80 * 400


@pytest.mark.parametrize("k", [0, -1])
def test_search_for_no_neighbour_returns_none(k: int) -> None:
    """Asking for less than one neighbour is not an error."""
    assert filled({ONE: 3}).search(ONE, vectors(1)[0], k) == []


def test_block_that_loses_a_row_moves_its_last_into_the_hole() -> None:
    """Ids stay with their rows through every removal and every change of capacity."""
    block, kept, draws = RowBlock(DIMENSION), {}, random.Random(5)
    for step in range(2000):
        name, row = draws.randbytes(16), np.full(DIMENSION, step % 2048, dtype=np.float16)
        if draws.random() < (0.7 if step < 1000 else 0.3) or not kept:
            block.append(name, row)
            kept[name] = row.tobytes()
        else:
            gone = draws.choice(sorted(kept))
            slot = block.find(gone)
            assert slot is not None
            block.remove(slot)
            del kept[gone]
            assert block.find(gone) is None
    assert dict(block.entries()) == kept
    assert block.memory_bytes() <= max(3 * block.size, 16) * (2 * DIMENSION + 16)


@pytest.mark.parametrize("rows", [0, 1, 8, 9, 512, 513, 1000, 1007, 1008, 2049])
def test_capacity_for_rows_holds_them_and_an_eighth_more_at_most(rows: int) -> None:
    """A block that lost its last row has room for the next, and one that grows never gets too little."""
    capacity = capacity_for(rows)
    assert max(rows, 8) <= capacity <= max(8, rows + 7, rows + rows // 8)


def test_block_with_ids_of_one_beginning_tells_them_apart() -> None:
    """Ids that share their first half are still different ids."""
    block = RowBlock(DIMENSION)
    names = [b"12345678" + bytes([i]) * 8 for i in range(5)]
    for i, name in enumerate(names):
        block.append(name, np.full(DIMENSION, i, dtype=np.float16))
    assert [block.find(name) for name in names] == [0, 1, 2, 3, 4]
    assert block.find(b"12345678" * 2) is None


def test_sharded_map_next_to_a_dict_holds_the_same() -> None:
    """The map is a dict in parts."""
    parts: ShardedMap[int] = ShardedMap()
    plain: dict[bytes, int] = {}
    draws = random.Random(6)
    keys = [draws.randbytes(16) for _ in range(400)]
    for step in range(3000):
        key = draws.choice(keys)
        if draws.random() < 0.5:
            parts[key] = plain[key] = step
        else:
            assert parts.pop(key) == plain.pop(key, None)
        assert len(parts) == len(plain)
    assert {key: parts.get(key) for key in keys if key in parts} == plain
    assert sorted(parts.values()) == sorted(plain.values())


def test_entry_of_a_large_partition_has_one_id_object() -> None:
    """An index keeps each id in two maps: as two objects it would take 64 bytes an entry more."""
    index = filled({ONE: 200})
    large = index._large[ONE].index
    assert isinstance(large, ClusteredIndex)
    outer = {id(key) for part in index._partition_of._parts for key in part}
    inner = [id(key) for part in large._list_of._parts for key in part]
    late = len(index) - SMALL.flat_entries - 1  # those before it came with the flat form, as numbers
    assert sum(key in outer for key in inner) >= late


def test_block_of_a_list_leaves_few_rows_empty() -> None:
    """A list of a hundred rows has room for seven more at most: what is empty in all lists adds up."""
    block = RowBlock(DIMENSION)
    row = vectors(1)[0].astype(np.float16)
    for number in range(300):
        block.append(bytes.fromhex(entry(number)), row)
        assert len(block._rows) - block.size < 8
    for slot in range(250):
        block.remove(0)
        assert len(block._rows) <= max(2 * block.size, 8), slot


@given(seed=st.integers(0, 10_000), size=st.sampled_from((3, 10, 60)), min_cosine=st.floats(-1.0, 1.0))
def test_search_with_a_least_cosine_finds_all_that_have_it(seed: int, size: int, min_cosine: float) -> None:
    """Only what the caller would drop is left out, in every form of a partition, and the order is the same."""
    index = filled({ONE: size})
    (asked,) = vectors(1, seed)
    everything = index.search(ONE, asked, 5)
    wanted = [each for each in everything if each.cosine >= min_cosine]
    kept = index.search(ONE, asked, 5, min_cosine)
    assert [each for each in kept if each.cosine >= min_cosine] == wanted
    assert index.search(ONE, asked, 5, 2.0) == [] or index.form(ONE) == "packed"


@pytest.mark.parametrize("size", [20, 60])
def test_search_with_a_least_cosine_tells_cosines_to_the_last_bit(size: int) -> None:
    """A cosine is a feature of the rule: it must not depend on which rows were scored beside it."""
    index = filled({ONE: size})
    for asked in vectors(20, seed=2):
        everything = index.search(ONE, asked, size)
        for number in (0, 3, 7):
            least = everything[number].cosine
            wanted = [each for each in everything if each.cosine >= least]
            assert index.search(ONE, asked, size, least)[: len(wanted)] == wanted


@pytest.mark.parametrize("size", [10, 60])
def test_search_for_the_very_cosine_of_an_entry_finds_it(size: int) -> None:
    """The first score is rounded: a row that has the least cosine exactly must not fall to that."""
    index = filled({ONE: size})
    for row in vectors(size, seed=1):
        asked = row + np.float32(0.3)
        best = index.search(ONE, asked, 1)
        assert index.search(ONE, asked, 1, best[0].cosine) == best
