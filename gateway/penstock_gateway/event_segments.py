"""The files of the event log: append-only segments, one writer each, durable batch by batch.

Owns names, locks, the repair of what a killed process left, rotation and retention. It knows nothing of what the lines
say and has no thread; `event_log` calls it from one. Read `SegmentWriter` first.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

if sys.platform != "win32":
    import fcntl

PATTERN = "events-*.jsonl"
# How much of a segment's end is read to find its last whole line: mostly the first is enough. The second is above the
# longest line: 65,536 characters of prompt, each at most six bytes when escaped, and a thousand candidates.
_TAIL_BYTES = (64 << 10, 4 << 20)
_MODE = 0o600  # the owner only: prompts may be inside
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class CutTail:
    """A damaged end that was cut off a segment.

    Attributes
    ----------
    file : str
        Its name.
    cut_bytes : int
    """

    file: str
    cut_bytes: int


class SegmentWriter:
    """Appends batches of lines to the current segment.

    Parameters
    ----------
    folder : Path
        Exists.
    segment_bytes : int
        Size at which the segment is closed; the batch that passes it is still written whole.
    max_bytes : int
        Size of all segments above which the oldest closed ones are deleted.
    on_delete : callable
        Called with the name of every segment that was deleted.
    on_kept : callable
        Called with the error when old segments should have been deleted and could not be.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int,
        max_bytes: int,
        on_delete: Callable[[str], None] = lambda _: None,
        on_kept: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._max_bytes = max_bytes
        self._on_delete = on_delete
        self._on_kept = on_kept
        self._descriptor: int | None = None
        self._size = 0
        self._number = 0

    def append(self, batch: bytes) -> None:
        """Write whole lines and wait until they are on disk.

        Raises
        ------
        OSError
            Nothing of the batch is in the file then, so it may be tried again.
        """
        if self._descriptor is None:
            self._open()
        assert self._descriptor is not None
        try:
            rest = memoryview(batch)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except OSError:
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError:  # nothing may follow what cannot be taken back, so that the next start finds it at the end
                self.close()
            raise
        self._size += len(batch)
        if self._size >= self._segment_bytes:
            self.close()
            try:
                self.delete_oldest()
            except OSError as error:  # the batch is on disk: it must not be tried again for an old segment's sake
                self._on_kept(error)

    def delete_oldest(self) -> None:
        """Delete the oldest segments that nobody writes until all together are within `max_bytes`."""
        segments = []
        for path in sorted(self._folder.glob(PATTERN)):
            with suppress(FileNotFoundError):  # another gateway may delete at the same time
                segments.append((path, path.stat().st_size))
        total = sum(size for _, size in segments)
        for path, size in segments:
            if total <= self._max_bytes:
                return
            if is_being_written(path):
                continue
            path.unlink(missing_ok=True)
            total -= size
            self._on_delete(path.name)

    def close(self) -> None:
        """Close the current segment; the next batch begins another."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with suppress(OSError):  # whatever counts as written has been synced
                os.close(descriptor)

    def _open(self) -> None:
        started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        while True:
            self._number += 1
            path = self._folder / f"events-{started}-{os.getpid()}-{self._number:04d}.jsonl"
            try:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, _MODE)
                break
            except FileExistsError:  # another container's process of the same number
                continue
        self._size = 0
        _lock(self._descriptor)
        _sync_folder(self._folder)


def repair(folder: Path) -> list[CutTail]:
    """Cut the damaged ends of segments that nobody writes.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of CutTail
        One per segment that ended in a half or unreadable line.

    Raises
    ------
    OSError
        A segment cannot be read or written.

    Notes
    -----
    Only the end is looked at: a batch is synced before the next one, so damage cannot lie further in than the last.
    O(s) for s segments.
    """
    cuts = []
    for path in sorted(folder.glob(PATTERN)):
        descriptor = os.open(path, os.O_RDWR)
        try:
            if not _lock(descriptor):
                continue
            size = os.fstat(descriptor).st_size
            end = _readable_end(descriptor, size)
            if end < size:
                os.ftruncate(descriptor, end)
                os.fsync(descriptor)
                cuts.append(CutTail(path.name, size - end))
        finally:
            os.close(descriptor)
    return cuts


def is_being_written(path: Path) -> bool:
    """Whether some process has a segment open for writing."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _readable_end(descriptor: int, size: int) -> int:
    """Return where the last whole line ends; the size where none is found within the longest that a line can be."""
    for window in _TAIL_BYTES:
        start = max(0, size - window)
        good = _whole_lines(os.pread(descriptor, size - start, start))
        if good > 0 or start == 0:
            return start + good
    return size


def _whole_lines(tail: bytes) -> int:
    """Return the length of the part of `tail` that ends with a whole, readable line."""
    end = tail.rfind(b"\n") + 1
    while end > 0:
        begin = tail.rfind(b"\n", 0, end - 1) + 1
        try:
            _object_decoder.decode(tail[begin : end - 1])
            return end
        except (msgspec.DecodeError, UnicodeDecodeError):
            end = begin
    return 0


def _lock(descriptor: int) -> bool:
    """Take the writer's lock, held until the file is closed or the process ends; False when another has it."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Make the entry of a new file durable."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
