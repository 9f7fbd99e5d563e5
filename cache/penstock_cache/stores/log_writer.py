"""The thread that writes the file store's log.

Owns the descriptor, the queue, the order of writes, when the disk is waited for, and compaction. Read `LogWriter`
first. It must not touch the documents in memory: those belong to the event loop.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from penstock_cache.entries import CachedDocument, encode_document
from penstock_cache.errors import StoreUnavailable
from penstock_cache.stores.changes import Cleared, Removed, encode_change
from penstock_cache.stores.log_frames import CHANGE, DOCUMENT, HEADER, LiveFrames, frame

_log = logging.getLogger(__name__)

BATCH_SECONDS = 0.02  # changes this close together share one write and, where one is needed, one sync
MAX_WAITING_BYTES = 64 << 20  # beyond, documents are kept in memory alone until the disk has caught up
COMPACTION_MIN_BYTES = 4 << 20  # a smaller file is not worth it
_BATCH_ITEMS = 256  # written at once: joining many more would keep the event loop waiting for the interpreter
_COPY_BYTES = 1 << 20
_FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One thing to write; `done` is there when somebody waits until it is safe."""

    item: CachedDocument | Removed | Cleared
    size_bytes: int
    done: Future[None] | None = None


class LogWriter:
    """Appends frames from a thread of its own, in the order they were handed over.

    Parameters
    ----------
    path : Path
        Its folder exists; the file may be missing.
    live, size_bytes
        As loaded; `live` is the thread's from then on.
    on_problem : callable
        Called from the thread with a code, each time.
    """

    def __init__(self, path: Path, live: LiveFrames, size_bytes: int, on_problem: Callable[[str], None]) -> None:
        self._path = path
        self._live = live
        self._size = size_bytes
        self._on_problem = on_problem
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._is_broken = False
        self._next_compaction_bytes = COMPACTION_MIN_BYTES
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _FILE_MODE)
        os.fchmod(self._descriptor, _FILE_MODE)
        if self._size == 0:
            self._append(HEADER)
        self._thread = threading.Thread(target=self._run, name="penstock-cache-file", daemon=True)
        self._thread.start()

    def add_document(self, document: CachedDocument) -> None:
        """Queue a document; never waits. It is left out when too much is waiting for the disk."""
        with self._lock:
            is_left_out = self._waiting_bytes > MAX_WAITING_BYTES
            self._waiting_bytes += 0 if is_left_out else document.size_bytes()
        if is_left_out:
            self._on_problem("cache_file_behind")
        else:
            self._queue.put(_Waiting(document, document.size_bytes()))

    def add_change(self, change: Removed | Cleared, *, is_durable: bool) -> Future[None]:
        """Queue a change; the future is done when it is written and, if `is_durable`, synced to the disk."""
        done: Future[None] = Future()
        if is_durable:
            self._queue.put(_Waiting(change, 0, done))
        else:
            self._queue.put(_Waiting(change, 0))
            done.set_result(None)
        return done

    def close(self, timeout_seconds: float) -> None:
        """Write what is waiting, sync, and end the thread."""
        self._queue.put(None)
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        is_last = has_more = False
        while not is_last:
            batch = [self._queue.get()]
            if batch[0] is not None and not has_more:
                time.sleep(BATCH_SECONDS)
            with suppress(queue.Empty):
                while batch[-1] is not None and len(batch) < _BATCH_ITEMS:
                    batch.append(self._queue.get_nowait())
            is_last = batch[-1] is None
            has_more = len(batch) == _BATCH_ITEMS
            self._write([waiting for waiting in batch if waiting is not None], is_last=is_last)
            if not is_last and self._is_wasteful():
                self._try_compact()
        os.close(self._descriptor)

    def _write(self, batch: list[_Waiting], *, is_last: bool) -> None:
        try:
            if self._is_broken:
                self._compact()
            places = self._append_batch(batch)
            if is_last or any(waiting.done is not None for waiting in batch):
                os.fsync(self._descriptor)
        except OSError as error:
            self._take_back()
            self._on_problem("cache_file_write_failed")
            _log.warning("cache_file_write_failed", extra={"problem": error.strerror})
            failure = StoreUnavailable("The cache's file was not written.", code="cache_file_write_failed")
            self._finish(batch, failure)
            return
        for waiting, (offset, size) in zip(batch, places, strict=True):
            if isinstance(waiting.item, CachedDocument):
                document = waiting.item
                self._live.put(document.tenant, document.category, document.entry_id, offset, size)
            else:
                self._live.apply(waiting.item)
        self._size = sum(places[-1]) if places else self._size
        self._finish(batch, None)

    def _append_batch(self, batch: list[_Waiting]) -> list[tuple[int, int]]:
        """Write the frames of a batch and return the offset and size of each."""
        frames, places, offset = [], [], self._size
        for waiting in batch:
            if isinstance(waiting.item, CachedDocument):
                frames.append(frame(DOCUMENT, encode_document(waiting.item)))
            else:
                frames.append(frame(CHANGE, encode_change(waiting.item)))
            places.append((offset, len(frames[-1])))
            offset += len(frames[-1])
        _write_all(self._descriptor, b"".join(frames))
        return places

    def _append(self, content: bytes) -> None:
        _write_all(self._descriptor, content)
        self._size += len(content)

    def _take_back(self) -> None:
        """Cut what a failed write left; where even that fails, the next write begins with a new file."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError as error:
            self._is_broken = True
            _log.warning("cache_file_not_cut", extra={"problem": error.strerror})

    def _finish(self, batch: list[_Waiting], failure: StoreUnavailable | None) -> None:
        with self._lock:
            self._waiting_bytes -= sum(waiting.size_bytes for waiting in batch)
        for waiting in batch:
            if waiting.done is None or not waiting.done.set_running_or_notify_cancel():
                continue
            if failure is None:
                waiting.done.set_result(None)
            else:
                waiting.done.set_exception(failure)

    def _is_wasteful(self) -> bool:
        return self._size > self._next_compaction_bytes and self._live.size_bytes * 2 < self._size

    def _try_compact(self) -> None:
        try:
            self._compact()
        except OSError as error:
            self._next_compaction_bytes = self._size + self._size // 4  # not again at once
            self._on_problem("cache_file_compaction_failed")
            _log.warning("cache_file_compaction_failed", extra={"problem": error.strerror})

    def _compact(self) -> None:
        """Copy the frames that count into a new file and put it in the place of the old one.

        A crash on the way leaves the old file as it was: the new one has another name until it is synced.
        """
        fresh_path = self._path.with_suffix(".new")
        fresh_path.unlink(missing_ok=True)
        fresh = os.open(fresh_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, _FILE_MODE)
        try:
            live, size = self._copy(fresh)
            os.fsync(fresh)
            os.replace(fresh_path, self._path)
        except BaseException:
            os.close(fresh)
            fresh_path.unlink(missing_ok=True)
            raise
        os.close(self._descriptor)
        self._descriptor, self._live, self._size, self._is_broken = fresh, live, size, False
        self._next_compaction_bytes = COMPACTION_MIN_BYTES
        _sync_folder(self._path.parent)

    def _copy(self, target: int) -> tuple[LiveFrames, int]:
        live, buffered, size = LiveFrames(), [HEADER], len(HEADER)
        buffered_bytes = len(HEADER)
        for tenant, category, entry_id, offset, length in self._live.places():
            content = os.pread(self._descriptor, length, offset)
            if len(content) < length:
                continue  # cut by somebody else: the document is lost, the rest is not
            live.put(tenant, category, entry_id, size, length)
            buffered.append(content)
            size += length
            buffered_bytes += length
            if buffered_bytes >= _COPY_BYTES:
                _write_all(target, b"".join(buffered))
                buffered, buffered_bytes = [], 0
        _write_all(target, b"".join(buffered))
        return live, size


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_folder(folder: Path) -> None:
    """Make the renaming durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
