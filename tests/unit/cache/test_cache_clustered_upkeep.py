"""Upkeep of the clustered index: cutting and dissolving lists loses nothing, and no call does much of it."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest

from penstock_cache.entries import FloatArray
from penstock_cache.index.clustered import ClusteredIndex, ClusterOptions
from penstock_cache.index.flat import FlatIndex
from penstock_cache.index.lists import RowLists
from penstock_cache.index.splitting import split_sides
from penstock_cache.index.vectors import unit_vector

DIMENSION = 16
OPTIONS = ClusterOptions(max_rows=40, min_rows=4, neighbour_lists=4)


def entry(number: int) -> str:
    """Return the id of an entry: 32 digits that look random."""
    return random.Random(number).randbytes(16).hex()


def unit_rows(count: int, seed: int, centre: float = 0.0) -> FloatArray:
    """Draw unit vectors, around a diagonal when `centre` is not 0."""
    draws = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32) + centre
    return np.stack([unit_vector(row, DIMENSION) for row in draws])


def assert_consistent(index: ClusteredIndex, expected: set[str]) -> None:
    """Check that lists, sizes, centres and map tell the same story."""
    lists = index._lists
    assert Counter(entry_id.hex() for entry_id, _ in index.entries()) == Counter(expected)
    assert lists.sizes.tolist() == [block.size for block in lists.blocks]
    for number, block in enumerate(lists.blocks):
        assert all(index._list_of.get(entry_id) == number for entry_id in block.entry_ids())
        if block.size:
            mean = block.rows.astype(np.float64).mean(axis=0)
            kept = lists.centres[number].astype(np.float64)
            # The centre is float16, and its sum in float32 has followed every change.
            assert mean @ kept / np.linalg.norm(mean) == pytest.approx(1.0, abs=2e-3)


def test_lists_through_growth_and_decay_stay_true_to_the_entries() -> None:
    """Every entry is in exactly one list, which the map names, and each centre is its rows' mean."""
    index, rows, kept = ClusteredIndex(DIMENSION, OPTIONS), unit_rows(1500, seed=1), set()
    draws = random.Random(2)
    for i, row in enumerate(rows):
        index.add(entry(i), row)
        kept.add(entry(i))
        if i % 3 == 0:
            gone = draws.choice(sorted(kept))
            assert index.remove(gone)
            kept.discard(gone)
        if i % 250 == 0:
            assert_consistent(index, kept)
    assert len(index._lists) > 15
    for i, name in enumerate(draws.sample(sorted(kept), len(kept) - 3)):
        assert index.remove(name)
        kept.discard(name)
        if i % 200 == 0:
            assert_consistent(index, kept)
    assert_consistent(index, kept)
    assert len(index._lists) <= 3


def test_lists_after_each_addition_keep_their_limit_but_for_the_next_cut() -> None:
    """One cut follows at once where a list has grown too long, so searches read what they are meant to read."""
    index = ClusteredIndex(DIMENSION, OPTIONS)
    for i, row in enumerate(unit_rows(3000, seed=3)):
        index.add(entry(i), row)
        # Rows that move between lists may lengthen a few beyond the limit until the next additions cut them.
        assert index._lists.sizes.max() <= 2 * OPTIONS.max_rows
    assert np.median(index._lists.sizes) >= OPTIONS.max_rows / 4


@pytest.mark.parametrize("noise", [0.0, 1e-5])
def test_lists_of_equal_rows_are_cut_and_do_not_flow_back(noise: float) -> None:
    """Thousands of equal vectors, as an adversary would send, neither pile up in a list nor make calls long."""
    index, (row,) = ClusteredIndex(DIMENSION, OPTIONS), unit_rows(1, seed=4)
    draws = np.random.default_rng(5)
    for i in range(1500):
        vector = unit_vector(row + noise * draws.standard_normal(DIMENSION).astype(np.float32), DIMENSION)
        index.add(entry(i), vector)
        assert index._lists.sizes.max() <= OPTIONS.max_rows + 1
    assert_consistent(index, {entry(i) for i in range(1500)})
    assert len(index.search(row, 10)) == 10


def test_flat_index_taken_over_is_searched_before_it_is_cut() -> None:
    """Between taking over and the last cut every entry is found, and later changes are not lost."""
    flat, rows = FlatIndex(DIMENSION), unit_rows(900, seed=6)
    for i in range(600):
        flat.add(entry(i), rows[i])
    index = ClusteredIndex.from_flat(flat, OPTIONS)
    kept = {entry(i) for i in range(600)}
    for i in range(600, 900):
        assert index.search(rows[i - 600], 1)[0].entry_id == entry(i - 600) or entry(i - 600) not in kept
        index.add(entry(i), rows[i])
        kept.add(entry(i))
        index.remove(entry(i - 555))
        kept.discard(entry(i - 555))
        assert len(index) == len(kept)
    assert_consistent(index, kept)
    assert index._lists.sizes.max() <= OPTIONS.max_rows
    assert Counter(index.to_flat().entries()) == Counter(index.entries())


def test_flat_index_taken_over_is_cut_up_over_many_changes_and_not_at_once() -> None:
    """Each cut takes milliseconds; a dozen in a row, one for each of the entries that come together, are a stall."""
    rows = unit_rows(2_048 + 1_600, seed=3)
    flat = FlatIndex(DIMENSION)
    for number in range(2_048):
        flat.add(entry(number), rows[number])
    index = ClusteredIndex.from_flat(flat)
    lists = []
    for number in range(2_048, len(rows)):
        index.add(entry(number), rows[number])
        lists.append(len(index._lists))
    cuts = [place for place, (before, after) in enumerate(itertools.pairwise(lists)) if after > before]
    pauses = [after - before for before, after in itertools.pairwise(cuts)]
    assert (lists[0], cuts[0] >= 80) == (2, True)  # the first addition makes a cut of two thousand rows
    assert min(pauses) >= 40
    assert max(index._lists.sizes[: len(index._lists)]) <= index.options.max_rows + 40


def test_recall_after_the_entries_have_changed_places_stays_high() -> None:
    """After every entry has been replaced by one of another region, searches read the right lists still."""
    options = ClusterOptions(max_rows=40, min_rows=4, scan_bytes=600 * 2 * DIMENSION)
    index = ClusteredIndex(DIMENSION, options)
    for i, row in enumerate(unit_rows(3000, seed=7)):
        index.add(entry(i), row)
    rows = unit_rows(3200, seed=8, centre=1.0)
    for i in range(3000):
        index.add(entry(i), rows[i])
    matrix = rows[:3000].astype(np.float16).astype(np.float32)
    # Rows of float16 are up to 5e-4 longer or shorter than 1, which moves the product by as much.
    nearest = sum(index.search(q, 4)[0].cosine >= float((matrix @ q).max()) - 1e-3 for q in rows[3000:])
    assert nearest >= 0.85 * 200  # a fifth of the rows is read, of data without any clusters


def test_index_let_go_step_by_step_returns_every_id_once() -> None:
    """Releasing list by list ends, and names all entries."""
    index = ClusteredIndex(DIMENSION, OPTIONS)
    for i, row in enumerate(unit_rows(500, seed=9)):
        index.add(entry(i), row)
    released: list[str] = []
    while ids := index.release_some():
        assert len(ids) <= 2 * OPTIONS.max_rows
        released += [entry_id.hex() for entry_id in ids]
        assert_consistent(index, {entry(i) for i in range(500)} - set(released))
    assert sorted(released) == sorted(entry(i) for i in range(500))


@pytest.mark.parametrize("rows", [2, 3, 40, 3000])
def test_cut_of_a_list_gives_both_sides_a_share(rows: int) -> None:
    """No cut leaves a side with less than a tenth, so that it is not undone by the next change."""
    side = split_sides(unit_rows(rows, seed=rows, centre=0.5))
    assert 0.1 <= side.mean() <= 0.9 or rows < 10
    assert 0 < side.sum() < rows


def test_cut_between_two_groups_goes_between_them() -> None:
    """Rows of two far groups are parted by group."""
    groups = np.vstack([unit_rows(60, seed=1, centre=4.0), unit_rows(40, seed=2, centre=-4.0)])
    side = split_sides(groups)
    assert set(side[:60].tolist()) != set(side[60:].tolist())
    assert len(set(side[:60].tolist())) == len(set(side[60:].tolist())) == 1


def test_cut_of_one_outlier_and_equal_rows_falls_back_to_halves() -> None:
    """Where two means would part one row from the rest, the halves are taken."""
    rows = np.vstack([np.tile(unit_rows(1, seed=1), (49, 1)), unit_rows(1, seed=2)])
    assert split_sides(rows).sum() == 25


def test_lists_that_lose_all_rows_have_no_centre() -> None:
    """An empty list attracts nothing by what rounding has left of its sum."""
    lists, rows = RowLists(DIMENSION), unit_rows(50, seed=3).astype(np.float16)
    number = lists.open()
    for i, row in enumerate(rows):
        lists.add(number, bytes.fromhex(entry(i)), row)
    for _ in rows:
        lists.remove(number, 0)
    assert not lists.centres.any()
    assert lists.sizes.tolist() == [0]


@pytest.mark.parametrize("min_rows", [-1, 5])
def test_options_that_would_undo_each_cut_are_refused(min_rows: int) -> None:
    """A list that is cut must not be dissolved by the next change."""
    with pytest.raises(ValueError, match="tenth"):
        ClusterOptions(max_rows=40, min_rows=min_rows)


def test_search_of_a_growing_index_reads_more_up_to_a_limit() -> None:
    """A search reads a fixed number of bytes while the index is small, and a bounded number of times as many later."""
    options = ClusterOptions()
    at_first, later, at_last = (options.rows_to_read(entries, 384) for entries in (1000, 200_000, 10_000_000))
    assert at_first == options.scan_bytes // 768
    assert at_first < later < at_last == int(options.scan_growth * options.scan_bytes / 768)
