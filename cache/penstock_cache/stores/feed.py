"""Changes inside one process, for stores that no other gateway shares.

Owns the queues between a store and its followers. Read `ChangeFeed`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator

from penstock_cache.entries import CachedDocument
from penstock_cache.stores.changes import IndexChange, IndexEvent, IndexRecord, Inserted, InStep, Reset


class ChangeFeed:
    """Tells every follower what a store did.

    Parameters
    ----------
    snapshot : callable
        Returns an iterator over the documents as they are when it is first advanced.
    capacity : int
        Changes that may wait for a follower; one that is further behind gets a new snapshot instead.
    """

    def __init__(self, snapshot: Callable[[], Iterator[CachedDocument]], *, capacity: int = 100_000) -> None:
        self._snapshot = snapshot
        self._capacity = capacity
        self._followers: set[asyncio.Queue[IndexChange | None]] = set()

    def publish(self, change: IndexChange) -> None:
        """Queue a change for every follower; never waits."""
        for queue in self._followers:
            if queue.qsize() < self._capacity:
                queue.put_nowait(change)
            elif queue.qsize() == self._capacity:
                queue.put_nowait(None)  # the follower stops here; what comes later it reads from the snapshot

    async def follow(self) -> AsyncGenerator[IndexEvent, None]:
        """Yield `Reset`, a snapshot, `InStep`, and then every change."""
        reason = "start"
        while True:
            queue: asyncio.Queue[IndexChange | None] = asyncio.Queue()
            documents = list(self._snapshot())  # at the moment of joining: what changes later is in the queue
            self._followers.add(queue)
            try:
                yield Reset(reason)
                while documents:
                    yield Inserted(IndexRecord.of(documents.pop()))
                yield InStep()
                while (change := await queue.get()) is not None:
                    yield change
            finally:
                self._followers.discard(queue)
            reason = "overflow"
