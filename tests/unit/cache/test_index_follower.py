"""What a follower applies to an index, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from penstock_cache.entries import encode_vector
from penstock_cache.stores import Cleared, IndexRecord, Inserted, InStep, Removed, Reset, replication
from support.cache_documents import NOW, RememberedIndex, document, follower, unit_vector


def inserted(number: int, **changes: object) -> Inserted:
    """The insertion of a document."""
    return Inserted(IndexRecord.of(document(number, **changes)))


def test_apply_of_the_same_insertion_twice_adds_once() -> None:
    """An entry that is there, because it was told twice or is one's own, is not added again."""
    index = RememberedIndex()
    applied = follower(index)
    for _ in range(3):
        applied.apply(inserted(1), NOW)
    assert index.added == 1


def test_apply_of_a_removal_before_its_insertion_leaves_the_entry_out() -> None:
    """When two gateways' changes arrive in the other order, the removal wins."""
    index = RememberedIndex()
    applied = follower(index)
    applied.apply(Removed("acme", (document(1).entry_id,)), NOW)
    applied.apply(inserted(1), NOW)
    assert index.records == {}


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_apply_of_changes_in_any_order_ends_the_same(order: tuple[int, ...]) -> None:
    """Insertions, a removal and a clearing give the same index in whatever order they arrive."""
    events = [
        inserted(1),
        inserted(2, stored_at=NOW + 5.0),
        Removed("acme", (document(1).entry_id,)),
        Cleared("acme", "faq", NOW + 1.0),
    ]
    index = RememberedIndex()
    applied = follower(index)
    for position in order:
        applied.apply(events[position], NOW + 10.0)
    assert set(index.records) == {document(2).entry_id}


@pytest.mark.parametrize("category", [None, "faq"])
def test_apply_of_a_late_insertion_after_a_clearing_depends_on_when_it_was_stored(category: str | None) -> None:
    """What was stored until the clearing stays away, whatever arrives later; what was stored after it is added."""
    index = RememberedIndex()
    applied = follower(index)
    applied.apply(Cleared("acme", category, NOW + 1.0), NOW + 1.0)
    for event in (
        inserted(1, stored_at=NOW + 1.0),
        inserted(2, stored_at=NOW + 1.1),
        inserted(3, tenant="rival"),
        inserted(4, category="medical"),
    ):
        applied.apply(event, NOW + 2.0)
    expected = {2, 3} if category is None else {2, 3, 4}
    assert set(index.records) == {document(number).entry_id for number in expected}


def test_apply_of_an_expired_insertion_adds_nothing() -> None:
    """An entry that has expired by one's own clock is skipped, at its expiry too."""
    index = RememberedIndex()
    follower(index).apply(inserted(1, expires_at=NOW), NOW)
    assert index.records == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder_id": "another"},
        {"vector": encode_vector(unit_vector(1, dimension=7))},
        {"vector": encode_vector(unit_vector(1, dimension=384))},
        {"vector": encode_vector(unit_vector(1) * 1.1)},
        {"vector": encode_vector(np.zeros(8, dtype=np.float32))},
        {"vector": encode_vector(np.full(8, np.nan, dtype=np.float32))},
        {"vector": encode_vector(np.full(8, np.inf, dtype=np.float32))},
    ],
    ids=["encoder", "shorter", "longer", "not unit", "zero", "nan", "infinite"],
)
def test_apply_of_a_vector_that_does_not_fit_is_refused_and_counted(changes: dict[str, object]) -> None:
    """A vector of another encoder or dimension, or that is no direction, never reaches the index."""
    index, problems = RememberedIndex(), list[str]()
    follower(index, problems).apply(inserted(1, **changes), NOW)
    assert index.records == {}
    assert problems == ["cache_vector_refused"]


def test_apply_of_an_exact_entry_adds_it_without_a_vector() -> None:
    """An entry that only the exact tier finds is told to the index as well, for its size and expiry."""
    index = RememberedIndex()
    follower(index).apply(inserted(1, vector=b"", encoder_id=""), NOW)
    assert index.vectors == {document(1).entry_id: None}


def test_apply_of_a_reset_empties_the_index_until_it_is_in_step() -> None:
    """After a reset nothing of before is left, and the follower says when the new snapshot is complete."""
    index = RememberedIndex()
    applied = follower(index)
    for event in (Reset("start"), inserted(1), InStep()):
        applied.apply(event, NOW)
    assert applied.is_in_step
    applied.apply(Reset("replaced"), NOW)
    assert not applied.is_in_step
    assert index.records == {}


def test_apply_of_very_many_removals_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of removals is bounded; the newest are remembered."""
    monkeypatch.setattr(replication, "_TOMBSTONES", 3)
    index = RememberedIndex()
    applied = follower(index)
    for number in range(5):
        applied.apply(Removed("acme", (document(number).entry_id,)), NOW)
    for number in range(5):
        applied.apply(inserted(number), NOW)
    assert set(index.records) == {document(0).entry_id, document(1).entry_id}
