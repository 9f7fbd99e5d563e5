"""Documents in this process, by tenant: what the memory store is made of, and what the file store loads into.

Owns the three ways to find a document (entry id, fingerprint, category) and the sizes. No I/O, no clock, no locks: one
thread at a time. Read `DocumentShelf`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from penstock_cache.entries import CachedDocument


@dataclass(slots=True)
class TenantShelf:
    """Everything of one tenant.

    Attributes
    ----------
    documents : dict
        By entry id.
    exact : dict
        Fingerprint to entry id.
    categories : dict
        Category to entry ids: a dictionary, not a set, because the garbage collector skips dictionaries of plain
        values and walks every set (0.3 s for a million entries).
    size_bytes : int
    """

    documents: dict[str, CachedDocument] = field(default_factory=dict)
    exact: dict[bytes, str] = field(default_factory=dict)
    categories: dict[str, dict[str, None]] = field(default_factory=dict)
    size_bytes: int = 0


class DocumentShelf:
    """Holds documents; every operation but `documents` is O(1).

    Attributes
    ----------
    size_bytes : int
        Sum of the documents' `size_bytes`.
    entry_count : int
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self.entry_count = 0
        self._tenants: dict[str, TenantShelf] = {}

    def get(self, tenant: str, entry_id: str) -> CachedDocument | None:
        """Return a document of a tenant."""
        shelf = self._tenants.get(tenant)
        return None if shelf is None else shelf.documents.get(entry_id)

    def find(self, tenant: str, fingerprint: bytes) -> CachedDocument | None:
        """Return the newest document with a fingerprint."""
        shelf = self._tenants.get(tenant)
        entry_id = None if shelf is None else shelf.exact.get(fingerprint)
        return None if shelf is None or entry_id is None else shelf.documents.get(entry_id)

    def put(self, document: CachedDocument) -> None:
        """Add a document, or replace the one with its id."""
        self.remove(document.tenant, document.entry_id)
        shelf = self._tenants.get(document.tenant)
        if shelf is None:
            shelf = self._tenants[document.tenant] = TenantShelf()
        shelf.documents[document.entry_id] = document
        shelf.exact[document.fingerprint] = document.entry_id
        shelf.categories.setdefault(document.category, {})[document.entry_id] = None
        self._resize(shelf, document.size_bytes(), 1)

    def remove(self, tenant: str, entry_id: str) -> CachedDocument | None:
        """Take a document out and return it; None when there was none."""
        shelf = self._tenants.get(tenant)
        document = None if shelf is None else shelf.documents.pop(entry_id, None)
        if shelf is None or document is None:
            return None
        if shelf.exact.get(document.fingerprint) == entry_id:
            del shelf.exact[document.fingerprint]
        members = shelf.categories.get(document.category)
        if members is not None:  # None while the category is being cleared
            members.pop(entry_id, None)
            if not members:
                del shelf.categories[document.category]
        self._resize(shelf, -document.size_bytes(), -1)
        if not shelf.documents:
            del self._tenants[tenant]
        return document

    def detach_tenant(self, tenant: str) -> TenantShelf:
        """Take out everything of a tenant at once; freeing it, which takes longer, is the caller's."""
        shelf = self._tenants.pop(tenant, None)
        if shelf is None:
            return TenantShelf()
        self.size_bytes -= shelf.size_bytes
        self.entry_count -= len(shelf.documents)
        return shelf

    def detach_category(self, tenant: str, category: str) -> dict[str, None]:
        """Forget which entries a category has and return their ids; the caller removes them one by one."""
        shelf = self._tenants.get(tenant)
        return {} if shelf is None else shelf.categories.pop(category, {})

    def clear(self) -> None:
        """Forget everything."""
        self._tenants.clear()
        self.size_bytes = self.entry_count = 0

    def documents(self) -> Iterator[CachedDocument]:
        """Yield every document, as they are now: later changes do not disturb it. O(n) for n entries."""
        for documents in [list(shelf.documents.values()) for shelf in self._tenants.values()]:
            yield from documents

    def _resize(self, shelf: TenantShelf, size_bytes: int, entries: int) -> None:
        shelf.size_bytes += size_bytes
        self.size_bytes += size_bytes
        self.entry_count += entries
