"""The mirror: what the store says, what the resident set lets go of, and what the index then holds, are one thing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from penstock_cache.entries import FloatArray, Neighbour
from penstock_cache.errors import CacheError
from penstock_cache.mirror import MIRRORED_BYTES, IndexMirror
from penstock_cache.quotas import CategoryQuotas
from penstock_cache.residency import ResidentSet
from penstock_cache.stores.changes import IndexRecord
from support.cache_documents import NOW, document, unit_vector


class RememberedVectors:
    """An index that only remembers, and refuses vectors that hold a NaN."""

    def __init__(self) -> None:
        self.partitions: dict[str, bytes] = {}

    def add(self, partition: bytes, entry_id: str, vector: FloatArray) -> None:
        """Keep an entry."""
        if np.isnan(vector).any():
            raise CacheError("no", code="cache_vector_mismatch")
        self.partitions[entry_id] = partition

    def remove(self, entry_id: str) -> bool:
        """Forget an entry that must be there."""
        del self.partitions[entry_id]
        return True

    def search(self, partition: bytes, vector: FloatArray, k: int, min_cosine: float = -1.0) -> list[Neighbour]:
        """Find nothing."""
        return []


class Made:
    """A mirror, and what it told."""

    def __init__(self, capacity: int = 1 << 20) -> None:
        self.index = RememberedVectors()
        self.residents = ResidentSet(CategoryQuotas(capacity, {}))
        self.problems: list[str] = []
        self.removed: list[str] = []
        self.mirror = IndexMirror(
            self.index,
            self.residents,
            clock=lambda: NOW,
            on_problem=self.problems.append,
            on_removed=self.removed.append,
        )

    def take_in(self, number: int, **changes: object) -> str:
        """Add an entry and return its id."""
        each = document(number, **changes)
        self.mirror.add(IndexRecord.of(each), unit_vector(number) if each.vector else None)
        return each.entry_id

    def holds(self, *entry_ids: str) -> None:
        """Check that exactly these are here, in the mirror, the resident set and the index."""
        assert len(self.mirror) == len(self.residents) == len(entry_ids)
        assert all(each in self.mirror and each in self.residents for each in entry_ids)
        assert set(self.index.partitions) == set(entry_ids)


def room_for(count: int) -> int:
    """Return a capacity in which so many documents fit."""
    each = document(0)
    return count * (each.size_bytes() + len(each.vector) + MIRRORED_BYTES + 16)


def test_mirror_entry_that_has_to_make_room_leaves_the_index_too() -> None:
    """What the resident set evicts is gone everywhere at once, and is named with its tenant."""
    made = Made(room_for(3))
    old = [made.take_in(number, tenant=f"t{number}", cost_usd="0") for number in range(3)]
    new = document(9, tenant="newcomer", cost_usd="1")
    admission = made.mirror.admit(IndexRecord.of(new), NOW)
    [(tenant, gone)] = admission.gone
    assert admission.is_admitted
    assert gone in old
    assert tenant == f"t{old.index(gone)}"
    assert made.removed == [gone]
    assert new.entry_id not in made.mirror
    made.mirror.add(IndexRecord.of(new), unit_vector(9))
    made.holds(*(each for each in old if each != gone), new.entry_id)


def test_mirror_entry_that_was_admitted_but_not_stored_is_known_when_it_has_to_go() -> None:
    """Its document may be on the way, so its owner is named although the store has not confirmed it."""
    made = Made(room_for(1))
    pending, other = document(1, tenant="ann"), document(2, tenant="bob", cost_usd="1")
    assert made.mirror.admit(IndexRecord.of(pending), NOW).is_admitted
    assert made.mirror.admit(IndexRecord.of(other), NOW).gone == [("ann", pending.entry_id)]
    assert made.removed == []
    assert len(made.mirror) == 0


def test_mirror_clearing_takes_the_tenant_the_category_and_the_time_by_their_word() -> None:
    """Only what was stored up to the moment, in that category, by that tenant goes."""
    made = Made()
    kept = [
        made.take_in(1, tenant="bob"),
        made.take_in(2, category="code"),
        made.take_in(3, stored_at=NOW + 1, expires_at=NOW + 9),
    ]
    gone = [made.take_in(number) for number in range(4, 8)]
    made.mirror.remove_all("acme", "faq", NOW)
    made.holds(*kept)
    assert sorted(made.removed) == sorted(gone)
    made.mirror.remove_all("acme", None, NOW)
    made.holds(kept[0], kept[2])
    made.mirror.remove_all("nobody", None, NOW)
    made.holds(kept[0], kept[2])


def test_mirror_snapshot_that_names_an_entry_again_keeps_it_in_the_index() -> None:
    """After a reset everything is doubtful until named again; what is named stays, the rest goes."""

    async def reset() -> None:
        made = Made()
        entry_ids = [made.take_in(number) for number in range(500)]
        made.mirror.clear()
        assert not any(each in made.mirror for each in entry_ids)
        again = [made.take_in(number) for number in range(400, 500)]
        await until(lambda: len(made.mirror) == 100)
        made.holds(*again)
        assert sorted(made.removed) == sorted(entry_ids[:400])

    asyncio.run(reset())


def test_mirror_clearing_of_many_gives_the_event_loop_its_turn() -> None:
    """A tenant with thousands of entries is forgotten in slices, and what comes in meanwhile is not touched."""

    async def clearing() -> tuple[int, int]:
        made, turns = Made(1 << 30), 0
        for number in range(5_000):
            made.take_in(number)
        made.mirror.remove_all("acme", None, NOW)
        fresh = made.take_in(6_000, stored_at=NOW + 1, expires_at=NOW + 9)
        while len(made.mirror) > 1:
            before = len(made.mirror)
            await asyncio.sleep(0)
            turns += 1
            assert before - len(made.mirror) <= 100
        made.holds(fresh)
        return turns, len(made.removed)

    turns, removed = asyncio.run(clearing())
    assert removed == 5_000
    assert turns >= 50


def test_mirror_vector_that_is_refused_leaves_an_entry_for_the_exact_tier() -> None:
    """A vector that the index does not take is counted; the entry's room and its removal are as of any other."""
    made = Made()
    each = document(1)
    made.mirror.add(IndexRecord.of(each), np.full(8, np.nan, dtype=np.float32))
    exact = made.take_in(2, vector=b"", encoder_id="")
    assert made.problems == ["cache_vector_mismatch"]
    assert made.index.partitions == {}
    for entry_id in (each.entry_id, exact):
        assert entry_id in made.mirror
        made.mirror.remove(entry_id)
        made.mirror.remove(entry_id)
    made.holds()


def test_mirror_expired_entries_are_forgotten_some_at_a_time() -> None:
    """Each call forgets a bounded number, and none once there is nothing left."""
    made = Made()
    for number in range(200):
        made.take_in(number, expires_at=NOW + 1)
    kept = made.take_in(300)
    counts = [made.mirror.expire(NOW + 2) for _ in range(14)]
    assert sum(counts) == 200
    assert max(counts) <= 100
    assert counts[-1] == 0
    made.holds(kept)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)
