"""The process's own picture of the store: which entries there are, where their vectors lie, what they are worth.

Owns the index and the resident set as followers of a store's changes. Read `IndexMirror.admit` and `IndexMirror.add`;
the columns are in `tenant_rows`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal

import msgspec

from penstock_cache.admission import Candidate
from penstock_cache.entries import FloatArray
from penstock_cache.errors import CacheError
from penstock_cache.eviction import HitValue
from penstock_cache.lookups import VectorIndex
from penstock_cache.residency import ResidentSet
from penstock_cache.stores.changes import IndexRecord
from penstock_cache.tenant_rows import TenantRows

MIRRORED_BYTES = 400
"""What an entry takes in this process beside vector and answer, measured (`bench/cache.py`): the index's maps and spare
rows 250, columns and ids 115."""

_SLICE = 16  # removals before the event loop gets its turn: each takes 40 µs, and up to 1 ms in a large partition
_ROWS = 2_048  # looked at before it gets its turn: each takes a fifth of a microsecond


class MirrorAdmission(msgspec.Struct, frozen=True, gc=False):
    """Whether an entry may come in, and what has gone for it.

    Attributes
    ----------
    is_admitted : bool
    gone : list of (str, str)
        Tenant and id of entries that are no longer here; their documents may go too.
    """

    is_admitted: bool
    gone: list[tuple[str, str]]


@dataclass(slots=True)
class Holding:
    """What a tenant has in one category.

    Attributes
    ----------
    entries : int
    size_bytes : int
    """

    entries: int = 0
    size_bytes: int = 0


class IndexMirror:
    """Applies what is stored and removed; fulfils `stores.replication.IndexSink`.

    Parameters
    ----------
    index : VectorIndex
    residents : ResidentSet
        Belongs to the mirror from now on.
    clock : callable
        Unix time, seconds.
    on_problem : callable
        Called with a stable code for every entry that could not be taken in.
    on_removed : callable
        Called with the id of every entry that is gone.

    Notes
    -----
    An entry is admitted first and taken in when its store says that it is stored. What a tenant loses at once
    (`remove_all`) and what a new snapshot makes doubtful (`clear`) goes in slices between which the event loop has its
    turn, at once where no loop runs: a million entries take seconds. Until then a search may find them, but their
    documents are gone, which makes it a miss.
    """

    def __init__(
        self,
        index: VectorIndex,
        residents: ResidentSet,
        *,
        clock: Callable[[], float],
        on_problem: Callable[[str], None],
        on_removed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.index = index
        self.residents = residents
        self._clock = clock
        self._on_problem = on_problem
        self._on_removed = on_removed
        self._rows = TenantRows()
        self._snapshot = 1
        self._taken_in = 0
        self._gone: list[tuple[str, str]] | None = None
        self._work: deque[Iterator[None]] = deque()
        residents.on_freed = self._note_freed

    def __contains__(self, entry_id: str) -> bool:
        row = self.residents.row_of(entry_id)
        return row is not None and self._rows.snapshot(row) == self._snapshot

    def __len__(self) -> int:
        """Return how many entries are taken in, doubtful ones included."""
        return self._taken_in

    def admit(self, record: IndexRecord, now: float, *, is_discard: bool = False) -> MirrorAdmission:
        """Make room for an entry that is about to be stored; `add` takes it in when it is.

        Parameters
        ----------
        record : IndexRecord
        now : float
            Unix time, seconds.
        is_discard : bool
            `discard.predict_discard`.
        """
        gone: list[tuple[str, str]] = []
        self._gone = gone
        try:
            admission = self.residents.admit(candidate_of(record, is_discard=is_discard), now)
        finally:
            self._gone = None
        if admission.is_admitted:
            row = self.residents.row_of(record.entry_id)
            assert row is not None
            self._rows.put(row, record.tenant, record.stored_at)
        return MirrorAdmission(admission.is_admitted, gone)

    def add(self, record: IndexRecord, vector: FloatArray | None) -> None:
        """Take in an entry; one of another replica is admitted here first, and may push others out of this index."""
        row = self.residents.row_of(record.entry_id)
        if row is None:
            if not self.admit(record, self._clock()).is_admitted:
                return
            row = self.residents.row_of(record.entry_id)
            assert row is not None
        if not self._rows.snapshot(row):
            self._taken_in += 1
            self._index(row, record, vector)
        self._rows.set_snapshot(row, self._snapshot)  # what an id stands for never changes

    def remove(self, entry_id: str) -> None:
        """Forget an entry; nothing happens when it is not there."""
        self.residents.remove(entry_id)

    def expire(self, now: float) -> int:
        """Forget some of what has expired, and return how many: none when none is left."""
        return len(self.residents.expire(now, _SLICE))

    def remove_all(self, tenant: str, category: str | None, stored_until: float) -> None:
        """Forget what a tenant stored up to a Unix time, in one category or, with None, in all."""
        self._begin(self._removing(tenant, category, stored_until))

    def clear(self) -> None:
        """Doubt everything: what is not added again until it is its turn goes."""
        self._snapshot += 1
        self._begin(self._forgetting_doubtful())

    async def holdings(self, tenant: str) -> dict[str, Holding]:
        """Return what a tenant has, by category; counted in slices, so it may be off by what changes meanwhile."""
        held: dict[str, Holding] = {}
        for row in range(self._rows.size):
            if self._rows.is_of(row, tenant) and self._rows.snapshot(row):
                holding = held.setdefault(self.residents.category_of(row), Holding())
                holding.entries += 1
                holding.size_bytes += self.residents.size_of(row)
            if row % _ROWS == _ROWS - 1:
                await asyncio.sleep(0)
        return held

    def memory_bytes(self) -> int:
        """Return what the columns take, bytes, beside index and resident set."""
        return self._rows.memory_bytes()

    def _index(self, row: int, record: IndexRecord, vector: FloatArray | None) -> None:
        if vector is None:
            return
        try:
            self.index.add(record.partition, record.entry_id, vector)
        except CacheError as error:
            self._on_problem(error.code)
        else:
            self._rows.set_indexed(row)

    def _note_freed(self, row: int, entry_id: str) -> None:
        """Follow the resident set: whatever it lets go of leaves the index too."""
        if not self._rows.is_used(row):
            return  # refused between its admission and here; nobody knows it yet
        is_taken_in, is_indexed = self._rows.snapshot(row) > 0, self._rows.is_indexed(row)
        tenant = self._rows.free(row)
        if self._gone is not None:
            self._gone.append((tenant, entry_id))
        if is_indexed:
            self.index.remove(entry_id)
        if is_taken_in:
            self._taken_in -= 1
            self._on_removed(entry_id)

    def _begin(self, work: Iterator[None]) -> None:
        """Do some work in slices, after what was begun before it."""
        self._work.append(work)
        if len(self._work) > 1:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            while self._do_slice():
                pass
        else:
            self._go_on(loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._do_slice():
            loop.call_soon(self._go_on, loop)

    def _do_slice(self) -> bool:
        """Do one slice, and return whether work is left."""
        if next(self._work[0], self) is self:
            self._work.popleft()
        return bool(self._work)

    def _removing(self, tenant: str, category: str | None, stored_until: float) -> Iterator[None]:
        rows, removed = self._rows, 0
        for row in range(rows.size):
            if rows.is_of(row, tenant) and rows.stored_at(row) <= stored_until and self._is_in(row, category):
                self.remove(self.residents.id_of(row))
                removed += 1
            if row % _ROWS == _ROWS - 1 or removed == _SLICE:
                removed = 0
                yield

    def _forgetting_doubtful(self) -> Iterator[None]:
        rows, removed = self._rows, 0
        for row in range(rows.size):
            if rows.is_used(row) and 0 < rows.snapshot(row) < self._snapshot:
                self.remove(self.residents.id_of(row))
                removed += 1
            if row % _ROWS == _ROWS - 1 or removed == _SLICE:
                removed = 0
                yield

    def _is_in(self, row: int, category: str | None) -> bool:
        return category is None or self.residents.category_of(row) == category


def candidate_of(record: IndexRecord, *, is_discard: bool = False, precision: float = 1.0) -> Candidate:
    """Return an entry as the resident set weighs it.

    Parameters
    ----------
    record : IndexRecord
    is_discard : bool
        `discard.predict_discard`.
    precision : float
        Share of hits on it that are expected to be right.
    """
    return Candidate(
        entry_id=record.entry_id,
        category=record.category,
        size_bytes=record.size_bytes + len(record.vector) + MIRRORED_BYTES,
        value=HitValue(float(Decimal(record.cost_usd or "0")), record.latency_ms / 1000.0, precision),
        expires_at=record.expires_at,
        fingerprint=record.fingerprint,
        is_discard=is_discard,
    )
