"""Keeps an index in step with a store.

Owns what is applied and what is refused: duplicates, changes in another order than they happened, vectors that do not
fit, entries that have expired. No network. Read `IndexFollower.apply` first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import aclosing
from typing import Generic, Protocol, TypeVar

import numpy as np

from penstock_cache.entries import FloatArray
from penstock_cache.stores.changes import Cleared, IndexEvent, IndexRecord, Inserted, InStep, Removed, Reset

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")

_TURN_SECONDS = 0.002  # beyond it, one insert may take 10 ms, and the event loop must not stall for 20 ms
_TOMBSTONES = 100_000
_CLEARINGS = 10_000
_LENGTH_TOLERANCE = 0.01  # float16 has 11 bits: rounding d = 1024 parts moves the length by less than 5e-4


class IndexSink(Protocol):
    """What a follower fills."""

    def add(self, record: IndexRecord, vector: FloatArray | None) -> None:
        """Add an entry that is not there; `vector` has shape (d,) and unit length, None for one that is exact only."""
        ...

    def remove(self, entry_id: str) -> None:
        """Remove an entry; nothing happens when it is not there."""
        ...

    def remove_all(self, tenant: str, category: str | None, stored_until: float) -> None:
        """Remove what a tenant stored up to a Unix time, in one category or, with None, in all."""
        ...

    def clear(self) -> None:
        """Remove everything."""
        ...

    def __contains__(self, entry_id: str) -> bool:
        """Whether an entry is there."""
        ...


class ChangeSource(Protocol):
    """The part of a `DocumentStore` that a follower reads."""

    def follow(self) -> AsyncGenerator[IndexEvent, None]:
        """Yield `Reset`, a snapshot, `InStep`, and then every change."""
        ...


class IndexFollower:
    """Applies a store's changes to an index.

    Parameters
    ----------
    sink : IndexSink
    encoder_id : str
        Fingerprint of the encoder whose vectors the index holds.
    dimension : int
        d of its vectors.
    clock : callable
        Unix time, seconds.
    on_problem : callable
        Called with ``cache_vector_refused`` for every entry of another encoder or shape.

    Attributes
    ----------
    is_in_step : bool
        Whether the snapshot has been read, so that the index knows what the others know.

    Notes
    -----
    Applying is idempotent: an entry that is there is not added again, so the replica that stored it may add it itself
    at once. An entry whose removal was seen before its insertion is not added; as many removals are remembered as two
    gateways could reorder within minutes, and one that is forgotten too early only leaves an entry whose document is
    gone: a miss.
    """

    def __init__(
        self,
        sink: IndexSink,
        *,
        encoder_id: str,
        dimension: int,
        clock: Callable[[], float] = time.time,
        on_problem: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.is_in_step = False
        self._sink = sink
        self._encoder_id = encoder_id
        self._dimension = dimension
        self._clock = clock
        self._on_problem = on_problem
        self._removed: _Recent[str, None] = _Recent(_TOMBSTONES)
        self._cleared: _Recent[tuple[str, str | None], float] = _Recent(_CLEARINGS)

    async def run(self, source: ChangeSource) -> None:
        """Apply what a store tells until cancelled, and let the event loop have its turn in between.

        An error of the sink ends it; to run it again is to begin with a snapshot.
        """
        async with aclosing(source.follow()) as events:
            turn_ends_at = time.monotonic() + _TURN_SECONDS
            async for event in events:
                self.apply(event, self._clock())
                if time.monotonic() >= turn_ends_at:
                    await asyncio.sleep(0)
                    turn_ends_at = time.monotonic() + _TURN_SECONDS

    def apply(self, event: IndexEvent, now: float) -> None:
        """Apply one change.

        Parameters
        ----------
        event : Inserted, Removed, Cleared, Reset or InStep
        now : float
            Unix time, seconds.
        """
        if isinstance(event, Inserted):
            self._insert(event.record, now)
        elif isinstance(event, Removed):
            for entry_id in event.entry_ids:
                self._removed.note(entry_id, None)
                self._sink.remove(entry_id)
        elif isinstance(event, Cleared):
            self._cleared.note((event.tenant, event.category), event.cleared_at)
            self._sink.remove_all(event.tenant, event.category, event.cleared_at)
        elif isinstance(event, Reset):
            self.is_in_step = False
            self._sink.clear()
        elif isinstance(event, InStep):
            self.is_in_step = True

    def _insert(self, record: IndexRecord, now: float) -> None:
        if record.expires_at <= now or record.entry_id in self._sink or self._is_gone(record):
            return
        vector = record.prompt_vector() if record.vector else None
        if vector is not None and not self._has_fitting(record, vector):
            self._on_problem("cache_vector_refused")
            return
        self._sink.add(record, vector)

    def _is_gone(self, record: IndexRecord) -> bool:
        """Whether the entry, or everything it belonged to, was removed already."""
        if record.entry_id in self._removed:
            return True
        cleared_at = [self._cleared.get((record.tenant, category)) for category in (None, record.category)]
        return any(moment is not None and record.stored_at <= moment for moment in cleared_at)

    def _has_fitting(self, record: IndexRecord, vector: FloatArray) -> bool:
        if record.encoder_id != self._encoder_id or vector.shape != (self._dimension,):
            return False
        length = float(np.linalg.norm(vector))
        return abs(length - 1.0) <= _LENGTH_TOLERANCE  # False for what is not finite, too


class _Recent(Generic[_K, _V]):
    """Remembers the last few things that were noted, the oldest forgotten first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._noted: dict[_K, _V] = {}

    def note(self, key: _K, value: _V) -> None:
        self._noted.pop(key, None)  # so that it counts as new
        self._noted[key] = value
        if len(self._noted) > self._capacity:
            del self._noted[next(iter(self._noted))]

    def get(self, key: _K) -> _V | None:
        return self._noted.get(key)

    def __contains__(self, key: _K) -> bool:
        return key in self._noted
