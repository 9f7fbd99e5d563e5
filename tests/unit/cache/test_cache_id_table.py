"""Ids and their rows: a table that must behave as a dictionary does."""

from __future__ import annotations

import random

import pytest

from penstock_cache.entry_slots import EntrySlots
from penstock_cache.id_table import IdTable


def _ids(count: int, seed: int = 0) -> list[str]:
    draws = random.Random(seed)
    return [f"{draws.getrandbits(128):032x}" for _ in range(count)]


@pytest.mark.parametrize(
    "ids",
    [
        _ids(5_000),
        [f"{number:032x}" for number in range(5_000)],
        [f"{number:x}".ljust(32, "0") for number in range(5_000)],
        [f"any text {number}" for number in range(5_000)],
    ],
    ids=["random", "low digits", "high digits", "texts"],
)
def test_id_table_under_coming_and_going_finds_what_a_dictionary_finds(ids: list[str]) -> None:
    """Every id leads to its row and no other, however rows are freed and used again, and whatever the ids look like."""
    draws, slots, model = random.Random(1), EntrySlots(), dict[str, int]()
    for step in range(20_000):
        entry_id = draws.choice(ids)
        if entry_id in model:
            assert slots.free(model.pop(entry_id)) == entry_id
        else:
            model[entry_id] = slots.take(entry_id)
        if step % 2_000 == 0:
            assert {each: slots.slot_of(each) for each in ids} == {each: model.get(each) for each in ids}
    assert len(slots) == len(model)
    assert {slots.id_of(row) for row in model.values()} == set(model)


@pytest.mark.parametrize(
    "other", ["ABCDEF00" * 4, "abcdef0" * 4 + "    ", " " * 32, "abcdef00" * 4 + "0", "", "é" * 32, "\ud800"]
)
def test_id_table_id_that_is_not_lower_case_hexadecimal_is_kept_as_it_is(other: str) -> None:
    """Ids that would read as one number but differ in letters are different ids."""
    table = IdTable()
    table.put(0, "abcdef00" * 4)
    assert table.find(other) is None
    table.put(1, other)
    assert (table.find(other), table.find("abcdef00" * 4)) == (1, 0)
    assert table.remove(1) == other
    assert table.find(other) is None


def test_id_table_row_that_has_no_id_is_refused() -> None:
    """A row is freed once."""
    slots = EntrySlots()
    slot = slots.take("ab" * 16)
    slots.free(slot)
    with pytest.raises(KeyError):
        slots.free(slot)
