"""The files of the event log: append-only segments, one writer each, durable batch by batch.

Owns the writing of a segment, its end by size or age, its lock, and the repair of what a killed process left. It knows
nothing of what the lines say and has no thread; `log` calls it from one. Read `SegmentWriter` first.
"""

from __future__ import annotations

import errno
import os
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

if sys.platform != "win32":
    import fcntl

PATTERN: Final = "events-*.jsonl"
# How much of a segment's end is read to find its last whole line: mostly the first is enough. The second is above the
# longest line: 65,536 characters of prompt, each at most six bytes when escaped, and a thousand candidates.
_TAIL_BYTES: Final = (64 << 10, 4 << 20)
_MODE: Final = 0o600  # the owner only: prompts may be inside
_MAX_TO_CUT: Final = 4  # a disk on which so many cannot be cut takes nothing any more
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
    segment_seconds : float
        Age at which it is closed.
    on_closed : callable
        Called after a segment was closed.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int,
        segment_seconds: float,
        on_closed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._on_closed = on_closed
        self._clock = clock
        self._descriptor: int | None = None
        self._size = 0
        self._number = 0
        self._token = secrets.token_hex(6)  # segments of all gateways may meet in one object store
        self._opened_at = 0.0
        self._to_cut: list[tuple[int, int]] = []  # descriptors and sizes of segments that end in half a batch

    def limit(self, segment_bytes: int, segment_seconds: float) -> None:
        """Close segments at another size and age from now on, the current one too; from any thread."""
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds

    def append(self, batch: bytes) -> None:
        """Write whole lines and wait until they are on disk.

        Raises
        ------
        OSError
            Nothing of the batch counts as written then, so it may be tried again.
        """
        self._cut_waiting()
        if len(self._to_cut) >= _MAX_TO_CUT:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self._descriptor is None:
            self._open()
        assert self._descriptor is not None
        try:
            rest = memoryview(batch)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except OSError:
            # The batch is written anew behind this, so its beginning must not stay: a line would be there twice.
            if not _cut(self._descriptor, self._size):
                self._to_cut.append((self._descriptor, self._size))
                self._descriptor = None  # go on in another segment; this one stays locked until it can be cut
            raise
        self._size += len(batch)
        if self._size >= self._segment_bytes:
            self.close()

    def seconds_until_due(self) -> float | None:
        """Return when `close_if_due` is to be called; None when no segment is open."""
        if self._descriptor is None:
            return None
        return max(0.0, self._opened_at + self._segment_seconds - self._clock())

    def close_if_due(self) -> None:
        """Close the current segment when it is old enough."""
        if self.seconds_until_due() == 0.0:
            self.close()

    def close(self) -> None:
        """Close the current segment; the next batch begins another."""
        self._cut_waiting()
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            _close(descriptor)  # whatever counts as written has been synced
            self._on_closed()

    def _cut_waiting(self) -> None:
        waiting, self._to_cut = self._to_cut, []
        for descriptor, size in waiting:
            if _cut(descriptor, size):
                _close(descriptor)
            else:
                self._to_cut.append((descriptor, size))

    def _open(self) -> None:
        started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        while True:
            self._number += 1
            path = self._folder / f"events-{started}-{self._token}-{self._number:04d}.jsonl"
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, _MODE)
            except FileExistsError:
                continue
            if lock(descriptor) and _is_at(path, descriptor) and not path.with_suffix(".parquet").exists():
                break
            _close(descriptor)  # another process has looked at the new file meanwhile, and may have tidied it up
        self._descriptor, self._size, self._opened_at = descriptor, 0, self._clock()
        sync_folder(self._folder)


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
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:  # another gateway tidies up at the same time
            continue
        try:
            if not lock(descriptor):
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
        return not lock(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int, *, is_shared: bool = False) -> bool:
    """Take a file's lock, held until the file is closed or the process ends; False when another has it."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Make the entries of new, renamed and deleted files durable."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
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


def _cut(descriptor: int, size: int) -> bool:
    """Cut a file back to `size`; False when that fails."""
    try:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    except OSError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)
