"""Documents in memory and in a file, for one machine: they are back after a restart.

Owns the folder, its lock, and when the file is waited for. Documents are read from memory alone. Read
`FileDocumentStore` first, then `log_frames` for the file.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from penstock_cache.entries import CachedDocument
from penstock_cache.errors import StoreUnavailable
from penstock_cache.stores.changes import Cleared, IndexEvent, Removed
from penstock_cache.stores.log_frames import LoadedLog, load_log
from penstock_cache.stores.log_writer import LogWriter
from penstock_cache.stores.memory import MemoryDocumentStore

if sys.platform != "win32":
    import fcntl

_FILE_NAME = "documents.log"
_FOLDER_MODE = 0o700  # answers and prompts are inside
_FILE_MODE = 0o600
_CLOSE_SECONDS = 10.0


class FileDocumentStore:
    """Keeps documents in memory and appends every change to a file; fulfils `DocumentStore`.

    Make one with `open`.

    Notes
    -----
    What survives: `put` returns when the document is in memory; it reaches the file some 20 ms later and the disk when
    the operating system likes. So a killed process loses the last moment's documents, and a power failure perhaps half
    a minute of them: this is a cache. `delete`, `delete_tenant` and `delete_category` return when the disk has them
    (one sync for all that come together); `evict` and `sweep_expired` do not wait. The file is rewritten without
    what is gone once that is more than half of it.
    """

    def __init__(
        self, memory: MemoryDocumentStore, writer: LogWriter, lock_descriptor: int, write_seconds: float
    ) -> None:
        self._memory = memory
        self._writer = writer
        self._lock_descriptor = lock_descriptor
        self._write_seconds = write_seconds

    @classmethod
    async def open(
        cls,
        folder: Path,
        *,
        now: float,
        on_problem: Callable[[str], None] = lambda _: None,
        write_seconds: float = 5.0,
    ) -> FileDocumentStore:
        """Load what the folder holds and start writing to it.

        Parameters
        ----------
        folder : Path
            Made when missing, for the owner only.
        now : float
            Unix time, seconds; what has expired is not loaded.
        on_problem : callable
            Called with a code for everything that was damaged, left out or not written; also from another thread.
        write_seconds : float
            Longest wait for the disk in a deletion.

        Raises
        ------
        StoreUnavailable
            ``cache_file_in_use`` (another process has the folder), ``cache_file_foreign`` or ``cache_file_unreadable``.
        """
        return await asyncio.to_thread(cls._open, folder, now, on_problem, write_seconds)

    @classmethod
    def _open(
        cls, folder: Path, now: float, on_problem: Callable[[str], None], write_seconds: float
    ) -> FileDocumentStore:
        path = folder / _FILE_NAME
        try:
            folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            lock_descriptor = _lock(folder / "lock")
        except OSError as error:
            raise _unreadable(error) from None
        try:
            path.with_suffix(".new").unlink(missing_ok=True)  # a compaction that was killed
            loaded = load_log(path, now)
            writer = LogWriter(path, loaded.live, loaded.size_bytes, on_problem)
        except OSError as error:
            os.close(lock_descriptor)
            raise _unreadable(error) from None
        except StoreUnavailable:
            os.close(lock_descriptor)
            raise
        _report(loaded, on_problem)
        return cls(MemoryDocumentStore(loaded.shelf), writer, lock_descriptor, write_seconds)

    @property
    def size_bytes(self) -> int:
        """What the documents take in memory, bytes."""
        return self._memory.size_bytes

    @property
    def entry_count(self) -> int:
        """How many documents there are."""
        return self._memory.entry_count

    async def get(self, tenant: str, entry_ids: Sequence[str], *, now: float) -> list[CachedDocument | None]:
        """Return documents, from memory."""
        return await self._memory.get(tenant, entry_ids, now=now)

    async def find_exact(self, tenant: str, fingerprint: bytes, *, now: float) -> CachedDocument | None:
        """Return the newest document of a whole request, from memory."""
        return await self._memory.find_exact(tenant, fingerprint, now=now)

    async def put(self, document: CachedDocument, *, now: float) -> None:
        """Store a document in memory and queue it for the file."""
        if now < document.expires_at:
            await self._memory.put(document, now=now)
            self._writer.add_document(document)

    async def delete(self, tenant: str, entry_ids: Sequence[str]) -> int:
        """Delete entries and wait until the disk has it."""
        removed = await self._memory.delete(tenant, entry_ids)
        await self._wait_for(self._writer.add_change(Removed(tenant, tuple(entry_ids)), is_durable=True))
        return removed

    async def evict(self, tenant: str, entry_ids: Sequence[str]) -> int:
        """Drop entries to make room."""
        removed = await self._memory.evict(tenant, entry_ids)
        self._writer.add_change(Removed(tenant, tuple(entry_ids)), is_durable=False)
        return removed

    async def delete_tenant(self, tenant: str, *, now: float) -> int:
        """Delete everything of a tenant and wait until the disk has it."""
        written = self._writer.add_change(Cleared(tenant, None, now), is_durable=True)
        removed = await self._memory.delete_tenant(tenant, now=now)
        await self._wait_for(written)
        return removed

    async def delete_category(self, tenant: str, category: str, *, now: float) -> int:
        """Delete what a tenant has in a category and wait until the disk has it."""
        written = self._writer.add_change(Cleared(tenant, category, now), is_durable=True)
        removed = await self._memory.delete_category(tenant, category, now=now)
        await self._wait_for(written)
        return removed

    async def sweep_expired(self, *, now: float) -> int:
        """Free what has expired."""
        swept = await self._memory.sweep(now)
        for document in swept:
            self._writer.add_change(Removed(document.tenant, (document.entry_id,)), is_durable=False)
        return len(swept)

    def follow(self) -> AsyncGenerator[IndexEvent, None]:
        """Yield what is stored and removed, beginning with what was loaded."""
        return self._memory.follow()

    async def aclose(self) -> None:
        """Write what is waiting and let go of the folder."""
        await asyncio.to_thread(self._writer.close, _CLOSE_SECONDS)
        os.close(self._lock_descriptor)
        await self._memory.aclose()

    async def _wait_for(self, written: Future[None]) -> None:
        try:
            await asyncio.wait_for(asyncio.wrap_future(written), self._write_seconds)
        except TimeoutError:
            raise StoreUnavailable("The cache's file was not written in time.", code="cache_store_timeout") from None


def _report(loaded: LoadedLog, on_problem: Callable[[str], None]) -> None:
    for code in loaded.damaged:
        on_problem(code)


def _lock(path: Path) -> int:
    """Take the folder for this process until the descriptor is closed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, _FILE_MODE)
    if sys.platform == "win32":
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StoreUnavailable("Another process uses the cache's folder.", code="cache_file_in_use") from None
    return descriptor


def _unreadable(error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"The cache's folder cannot be used: {error.strerror}.", code="cache_file_unreadable")
