"""What every document store does.

Owns the contract that memory, file and Redis fulfil; `tests/contract/test_cache_stores.py` runs one suite over all
three. Read `DocumentStore`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from penstock_cache.entries import CachedDocument
from penstock_cache.stores.changes import IndexEvent


class DocumentStore(Protocol):
    """Keeps documents by tenant and tells indexes what was stored and removed.

    Every coroutine ends within the store's own deadline and raises only `StoreUnavailable`. Nothing of one tenant is
    ever returned for another; a shared entry is asked for under the tenant that owns it. `now` is Unix time in
    seconds; a document that is not fresh at `now` is not returned. TTLs are fixed: reading never prolongs anything.

    Notes
    -----
    A change is told to `follow` after the document has changed, never before. So a document may exist that an index
    does not know (only the exact tier finds it), and an index may know an entry that is gone (`get` returns None for
    it, which is a miss; the caller then drops it from its index).
    """

    async def get(self, tenant: str, entry_ids: Sequence[str], *, now: float) -> list[CachedDocument | None]:
        """Return the documents of some entries, in the order asked for; None for what is gone, damaged or not fresh."""
        ...

    async def find_exact(self, tenant: str, fingerprint: bytes, *, now: float) -> CachedDocument | None:
        """Return the newest document stored for a whole request, by its fingerprint of 16 bytes."""
        ...

    async def put(self, document: CachedDocument, *, now: float) -> None:
        """Store a document and make it the one its fingerprint finds; nothing happens when it has expired at `now`."""
        ...

    async def delete(self, tenant: str, entry_ids: Sequence[str]) -> int:
        """Delete entries for good and return how many there were; ids that are unknown do not count.

        An error means that it may have been done in part: ask again.
        """
        ...

    async def evict(self, tenant: str, entry_ids: Sequence[str]) -> int:
        """Drop entries to make room, and return how many there were.

        Like `delete`, but cheaper where that costs: an evicted entry may be back after a crash, until it expires.
        """
        ...

    async def delete_tenant(self, tenant: str, *, now: float) -> int:
        """Delete everything that a tenant has stored until `now`, and return how many entries that were."""
        ...

    async def delete_category(self, tenant: str, category: str, *, now: float) -> int:
        """Delete what a tenant has stored in a category until `now`, and return how many entries that were."""
        ...

    async def sweep_expired(self, *, now: float) -> int:
        """Free what has expired and return how many entries that were; to be called about once a minute.

        Not told to `follow`: an index knows when its entries expire.
        """
        ...

    def follow(self) -> AsyncGenerator[IndexEvent, None]:
        """Yield `Reset`, a snapshot, `InStep`, and then every change, own ones included, without end.

        Never raises `StoreUnavailable`: an interrupted store is waited for and reported as a problem. Close the
        generator (``aclose``) when done.
        """
        ...

    async def aclose(self) -> None:
        """Let go of files, connections and threads; the store is not used afterwards."""
        ...
