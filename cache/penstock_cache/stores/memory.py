"""Documents in this process alone.

Owns nothing but the asynchronous face of `DocumentShelf`. It has no limit of its own: the caller evicts by
`size_bytes`. Read `MemoryDocumentStore`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence

from penstock_cache.entries import CachedDocument
from penstock_cache.stores.changes import Cleared, IndexEvent, IndexRecord, Inserted, Removed
from penstock_cache.stores.feed import ChangeFeed
from penstock_cache.stores.shelf import DocumentShelf

_SLICE = 1_000  # entries freed or looked at before the event loop gets its turn: well under a millisecond


class MemoryDocumentStore:
    """Keeps documents in memory; fulfils `DocumentStore` and is never unavailable.

    Parameters
    ----------
    shelf : DocumentShelf, optional
        With documents loaded from elsewhere; the store owns it from then on.
    """

    def __init__(self, shelf: DocumentShelf | None = None) -> None:
        self._shelf = DocumentShelf() if shelf is None else shelf
        self._feed = ChangeFeed(self._shelf.documents)

    @property
    def size_bytes(self) -> int:
        """What the documents take, bytes, without the overhead of dictionaries (about 400 bytes an entry)."""
        return self._shelf.size_bytes

    @property
    def entry_count(self) -> int:
        """How many documents there are, expired ones included until they are swept or evicted."""
        return self._shelf.entry_count

    async def get(self, tenant: str, entry_ids: Sequence[str], *, now: float) -> list[CachedDocument | None]:
        """Return documents, None for what is gone or not fresh."""
        return [_fresh(self._shelf.get(tenant, entry_id), now) for entry_id in entry_ids]

    async def find_exact(self, tenant: str, fingerprint: bytes, *, now: float) -> CachedDocument | None:
        """Return the newest document of a whole request."""
        return _fresh(self._shelf.find(tenant, fingerprint), now)

    async def put(self, document: CachedDocument, *, now: float) -> None:
        """Store a document."""
        if now < document.expires_at:
            self._shelf.put(document)
            self._feed.publish(Inserted(IndexRecord.of(document)))

    async def delete(self, tenant: str, entry_ids: Sequence[str]) -> int:
        """Delete entries."""
        removed = self._remove(tenant, entry_ids)
        self._feed.publish(Removed(tenant, tuple(entry_ids)))
        return removed

    async def evict(self, tenant: str, entry_ids: Sequence[str]) -> int:
        """Drop entries to make room."""
        return await self.delete(tenant, entry_ids)

    async def delete_tenant(self, tenant: str, *, now: float) -> int:
        """Delete everything of a tenant: it is gone at once, and freed in slices."""
        shelf = self._shelf.detach_tenant(tenant)
        self._feed.publish(Cleared(tenant, None, now))
        removed = len(shelf.documents)
        while shelf.documents:
            for _ in range(min(_SLICE, len(shelf.documents))):
                shelf.documents.popitem()
                if shelf.exact:
                    shelf.exact.popitem()
            await asyncio.sleep(0)
        return removed

    async def delete_category(self, tenant: str, category: str, *, now: float) -> int:
        """Delete what a tenant has in a category, slice by slice."""
        entry_ids = self._shelf.detach_category(tenant, category)
        self._feed.publish(Cleared(tenant, category, now))
        removed = 0
        while entry_ids:
            removed += self._remove(tenant, [entry_ids.popitem()[0] for _ in range(min(_SLICE, len(entry_ids)))])
            await asyncio.sleep(0)
        return removed

    async def sweep_expired(self, *, now: float) -> int:
        """Free what has expired; looks at every entry, in slices."""
        return len(await self.sweep(now))

    async def sweep(self, now: float) -> list[CachedDocument]:
        """Free what has expired and return it."""
        swept = []
        for seen, document in enumerate(self._shelf.documents()):
            if document.expires_at <= now and self._shelf.get(document.tenant, document.entry_id) is document:
                self._shelf.remove(document.tenant, document.entry_id)
                swept.append(document)
            if seen % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
        return swept

    def follow(self) -> AsyncGenerator[IndexEvent, None]:
        """Yield what is stored and removed."""
        return self._feed.follow()

    async def aclose(self) -> None:
        """Forget everything."""
        self._shelf.clear()

    def _remove(self, tenant: str, entry_ids: Iterable[str]) -> int:
        return sum(self._shelf.remove(tenant, entry_id) is not None for entry_id in entry_ids)


def _fresh(document: CachedDocument | None, now: float) -> CachedDocument | None:
    return document if document is not None and document.is_fresh(now) else None
