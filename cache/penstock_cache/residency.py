"""Which entries stay: eviction and quotas together, as one set that answers with what has to go.

Owns who is resident, in which category, of which size, until when. Holds no answer and no vector, deletes nothing by
itself, reads no clock: the caller removes what `Admission.evictions` names. Not safe for threads. Read
`ResidentSet.admit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from penstock_cache.admission import Admission, Candidate, CategoryFigures, Eviction, EvictionReason
from penstock_cache.entries import Neighbour
from penstock_cache.entry_slots import EntrySlots
from penstock_cache.eviction import CategoryQueue, EvictionRules, near_miss_credits
from penstock_cache.ghosts import GhostTable, fingerprint_number
from penstock_cache.quotas import CategoryQuotas
from penstock_cache.slot_heap import SlotHeap

_EXPIRED_AT_ADMISSION: Final = 64  # an insert never pays for more of other entries' expiry than this


class _Category:
    """A category's queue and counters."""

    __slots__ = (
        "admitted", "discards_predicted", "discards_returned", "evicted", "hit_value_usd", "hits",
        "index", "name", "queue", "refused",
    )  # fmt: skip

    def __init__(self, name: str, index: int, queue: CategoryQueue) -> None:
        self.name = name
        self.index = index
        self.queue = queue
        self.hits = self.admitted = self.refused = self.evicted = 0
        self.discards_predicted = self.discards_returned = 0
        self.hit_value_usd = 0.0


class ResidentSet:
    """The entries that are in the cache.

    Parameters
    ----------
    quotas : CategoryQuotas
        Counts the bytes; belongs to this set from now on.
    rules : EvictionRules
    ghost_cells : int
        Power of two; evicted entries that are remembered, eight bytes each.

    Attributes
    ----------
    on_freed : callable
        Called with row and id of every entry that is no longer resident, whatever the reason, before its row is used
        again. Whoever keeps columns beside these sets it.

    Notes
    -----
    `admit` is O(log n) for each entry that comes or goes, plus O(c) for c categories; `note_hit` is O(1), and O(log n)
    on the first one; `note_near_miss` is O(k) for k neighbours; `expire` is O(log n) an entry. The same calls give the
    same answers: nothing is drawn, and no clock is read.
    """

    def __init__(
        self,
        quotas: CategoryQuotas,
        rules: EvictionRules | None = None,
        *,
        ghost_cells: int = 131_072,
    ) -> None:
        self.quotas = quotas
        self._rules = rules or EvictionRules()
        self._slots = EntrySlots()
        self._expiry = SlotHeap(self._slots.expires_at, self._slots.expiry_positions)
        self._ghosts = GhostTable(ghost_cells)
        self._categories: dict[str, _Category] = {}
        self._by_index: list[_Category] = []
        self.on_freed: Callable[[int, str], None] = _ignore

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._slots

    def row_of(self, entry_id: str) -> int | None:
        """Return the row of a resident entry, None of any other; it is the entry's until `on_freed` names it."""
        return self._slots.slot_of(entry_id)

    def id_of(self, row: int) -> str:
        """Return the id of the entry in a row."""
        return self._slots.id_of(row)

    def category_of(self, row: int) -> str:
        """Return the category of the entry in a row."""
        return self._by_index[self._slots.category[row]].name

    def size_of(self, row: int) -> int:
        """Return what the entry in a row takes, bytes."""
        return self._slots.size_bytes[row]

    def admit(self, candidate: Candidate, now: float) -> Admission:
        """Take an entry in, and name what has to go for it.

        Parameters
        ----------
        candidate : Candidate
            One with the id of a resident entry replaces it.
        now : float
            Unix time, seconds.

        Returns
        -------
        Admission

        Notes
        -----
        Refused are: an expired candidate, one that the quotas cannot make room for, and one with the discard bit when
        room would cost another entry. Expired entries go first, then the victims that `CategoryQuotas` names. A
        fingerprint that was evicted or turned away not long ago skips probation and overrules the discard bit.
        """
        evictions: list[Eviction] = []
        replaced = self._slots.slot_of(candidate.entry_id)
        if replaced is not None:
            evictions.append(self._evict(replaced, EvictionReason.REPLACED))
        evictions += self._expired(now, _EXPIRED_AT_ADMISSION)
        category = self._category(candidate.category)
        fingerprint = fingerprint_number(candidate.fingerprint)
        worth_usd = candidate.value.worth_usd(self._rules.usd_per_second)
        is_proven = self._note_request(category, candidate, fingerprint)
        if candidate.expires_at <= now or not self.quotas.can_fit(category.name, candidate.size_bytes):
            category.refused += 1
            return Admission(False, tuple(evictions))
        if candidate.is_discard and not is_proven and self._needs_room(candidate):
            category.refused += 1
            self._ghosts.add(fingerprint)
            return Admission(False, tuple(evictions))
        evictions += self._make_room(candidate)
        self._insert(category, candidate, fingerprint, worth_usd, now, is_proven=is_proven)
        return Admission(True, tuple(evictions))

    def note_hit(self, entry_id: str, now: float) -> bool:
        """Credit an entry that answered a request.

        Returns
        -------
        bool
            False when it is not resident.
        """
        slot = self._slots.slot_of(entry_id)
        if slot is None:
            return False
        slots = self._slots
        category = self._by_index[slots.category[slot]]
        worth_usd = slots.worth_usd[slot]
        category.hits += 1
        category.hit_value_usd += max(0.0, worth_usd)
        category.queue.note_hit(slot, now)
        return True

    def note_near_miss(self, neighbours: Iterable[Neighbour], now: float) -> None:
        """Share the credit of a request that no entry answered among the entries near it.

        Parameters
        ----------
        neighbours : iterable of Neighbour
            Those that are not resident are passed over.
        now : float
            Unix time, seconds.
        """
        near = [
            (slot, neighbour.cosine)
            for neighbour in neighbours
            if (slot := self._slots.slot_of(neighbour.entry_id)) is not None
        ]
        shares = near_miss_credits(
            [self._slots.credit[slot] for slot, _ in near],
            [cosine for _, cosine in near],
            sharpness=self._rules.sharpness,
            damping=self._rules.damping,
        )
        for (slot, _), share in zip(near, shares, strict=True):
            self._by_index[self._slots.category[slot]].queue.note_near_miss(slot, share, now)

    def rescale(self, entry_id: str, factor: float, now: float) -> bool:
        """Change what an entry is worth, after an audit or a report changed its precision.

        Parameters
        ----------
        entry_id : str
        factor : float, at least 0
            New precision over old one.
        now : float
            Unix time, seconds.

        Returns
        -------
        bool
            False when it is not resident.
        """
        slot = self._slots.slot_of(entry_id)
        if slot is None:
            return False
        self._by_index[self._slots.category[slot]].queue.reprice(slot, self._slots.worth_usd[slot] * factor, now)
        return True

    def remove(self, entry_id: str) -> bool:
        """Forget an entry that was deleted; its return earns it nothing.

        Returns
        -------
        bool
            False when it is not resident.
        """
        slot = self._slots.slot_of(entry_id)
        if slot is None:
            return False
        self._drop(slot)
        return True

    def expire(self, now: float, limit: int = 1_000) -> list[Eviction]:
        """Take out entries whose time is over, the longest expired first.

        Parameters
        ----------
        now : float
            Unix time, seconds.
        limit : int, at least 0
            So many at most, so that one call never holds an event loop up.

        Returns
        -------
        list of Eviction
            Shorter than `limit` when none is left.
        """
        return self._expired(now, limit)

    def figures(self) -> dict[str, CategoryFigures]:
        """Return every category's figures, in the order of first use."""
        return {category.name: self._figures(category) for category in self._by_index}

    def memory_bytes(self) -> int:
        """Return what the bookkeeping takes, bytes."""
        queues = sum(category.queue.memory_bytes() for category in self._by_index)
        return (
            self._slots.memory_bytes() + self._expiry.memory_bytes() + queues + self._ghosts.memory_bytes()
        )  # fmt: skip

    def _category(self, name: str) -> _Category:
        category = self._categories.get(name)
        if category is None:
            queue = CategoryQueue(self._slots, self._rules)
            category = self._categories[name] = _Category(name, len(self._by_index), queue)
            self._by_index.append(category)
        return category

    def _note_request(self, category: _Category, candidate: Candidate, fingerprint: int) -> bool:
        """Count a candidate, and return whether it is known to have been asked before."""
        is_ghost = self._ghosts.take(fingerprint)
        category.discards_predicted += candidate.is_discard
        category.discards_returned += candidate.is_discard and is_ghost
        return is_ghost or candidate.is_returning

    def _needs_room(self, candidate: Candidate) -> bool:
        return self.quotas.choose_victim_category(candidate.category, candidate.size_bytes) is not None

    def _make_room(self, candidate: Candidate) -> list[Eviction]:
        evictions: list[Eviction] = []
        while (name := self.quotas.choose_victim_category(candidate.category, candidate.size_bytes)) is not None:
            category = self._categories[name]
            slot = category.queue.pop_victim()
            size_bytes = self._slots.size_bytes[slot]
            category.evicted += 1
            self._ghosts.add(self._slots.fingerprint[slot])
            self._expiry.remove(slot)
            self.quotas.release(name, size_bytes)
            evictions.append(Eviction(self._free(slot), name, EvictionReason.ROOM))
        return evictions

    def _insert(
        self,
        category: _Category,
        candidate: Candidate,
        fingerprint: int,
        worth_usd: float,
        now: float,
        *,
        is_proven: bool,
    ) -> None:
        slots = self._slots
        slot = slots.take(candidate.entry_id)
        slots.worth_usd[slot] = worth_usd
        slots.credit[slot] = 2.0 if is_proven else 0.0 if candidate.is_discard else self._rules.newcomer_credit
        slots.size_bytes[slot] = candidate.size_bytes
        slots.fingerprint[slot] = fingerprint
        slots.category[slot] = category.index
        self._expiry.push(slot, candidate.expires_at)
        category.queue.add(slot, now, is_proven=is_proven)
        category.admitted += 1
        self.quotas.charge(category.name, candidate.size_bytes)

    def _expired(self, now: float, limit: int) -> list[Eviction]:
        expires_at = self._slots.expires_at
        evictions: list[Eviction] = []
        while len(evictions) < limit and len(self._expiry) and expires_at[slot := self._expiry.first()] <= now:
            evictions.append(self._evict(slot, EvictionReason.EXPIRED))
        return evictions

    def _evict(self, slot: int, reason: EvictionReason) -> Eviction:
        name = self._by_index[self._slots.category[slot]].name
        return Eviction(self._drop(slot), name, reason)

    def _drop(self, slot: int) -> str:
        category = self._by_index[self._slots.category[slot]]
        category.queue.remove(slot)
        self._expiry.remove(slot)
        self.quotas.release(category.name, self._slots.size_bytes[slot])
        return self._free(slot)

    def _free(self, slot: int) -> str:
        entry_id = self._slots.free(slot)
        self.on_freed(slot, entry_id)
        return entry_id

    def _figures(self, category: _Category) -> CategoryFigures:
        name = category.name
        return CategoryFigures(
            entries=len(category.queue),
            used_bytes=self.quotas.used_bytes(name),
            probation_bytes=category.queue.probation_bytes,
            reserve_bytes=self.quotas.quota(name).reserve_bytes,
            cap_bytes=self.quotas.cap_bytes(name),
            hits=category.hits,
            hit_value_usd=category.hit_value_usd,
            admitted=category.admitted,
            refused=category.refused,
            evicted=category.evicted,
            discards_predicted=category.discards_predicted,
            discards_returned=category.discards_returned,
        )


def _ignore(_row: int, _entry_id: str) -> None:
    """Nobody keeps columns beside these."""
