"""Which segments a folder holds, in which form, and how one is replaced without a moment in which it is not whole.

Owns names, the folder's lock and atomic replacement. A segment is JSON Lines or, once compacted, Parquet; where both
are there, Parquet counts: it was complete before the other was to be deleted. Read `list_segments` first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from penstock_gateway.events.segments import lock, sync_folder

JSON_SUFFIX: Final = ".jsonl"
PARQUET_SUFFIX: Final = ".parquet"
_PREFIX: Final = "events-"
_UNFINISHED: Final = ".unfinished"
_LOCK_NAME: Final = ".events.lock"
_MONEY_LOCK_NAME: Final = ".money.lock"
_PATIENCE_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02
_MODE: Final = 0o600


class FolderBusy(Exception):
    """Another process compacts, deletes or tidies up in the folder."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a folder.

    Attributes
    ----------
    id : str
        File name without its ending; the same before and after compaction. In alphabetical order the oldest comes
        first.
    path : Path
    size : int
        Bytes.
    changed_at : float
        When its last event was written, UNIX seconds; rewriting keeps it.
    """

    id: str
    path: Path
    size: int
    changed_at: float

    @property
    def is_parquet(self) -> bool:
        """Whether it is compacted."""
        return self.path.suffix == PARQUET_SUFFIX


def list_segments(folder: Path) -> list[Segment]:
    """Return every segment once, oldest first.

    Parameters
    ----------
    folder : Path
        Nothing is in a folder that does not exist.
    """
    found: dict[str, Segment] = {}
    for suffix in (JSON_SUFFIX, PARQUET_SUFFIX):
        for path in folder.glob(f"{_PREFIX}*{suffix}"):
            with suppress(FileNotFoundError):  # deleted at this moment
                state = path.stat()
                found[path.stem] = Segment(path.stem, path, state.st_size, state.st_mtime)
    return [found[name] for name in sorted(found)]


def other_form(segment: Segment) -> Segment | None:
    """Return the segment as it is now, should it have been compacted or rewritten; None when it is gone."""
    for suffix in (PARQUET_SUFFIX, JSON_SUFFIX):
        path = segment.path.with_suffix(suffix)
        with suppress(FileNotFoundError):
            state = path.stat()
            return Segment(segment.id, path, state.st_size, state.st_mtime)
    return None


@contextmanager
def maintenance(folder: Path) -> Iterator[None]:
    """Keep other processes from rewriting and deleting segments meanwhile, and clear away what a killed one left.

    Raises
    ------
    FolderBusy
        Another process is at it.
    OSError
    """
    descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT, _MODE)
    try:
        if not lock(descriptor):
            raise FolderBusy(str(folder))
        _clear(folder)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def deleting(folder: Path) -> Iterator[None]:
    """Keep readers of money out while totals are saved and their segments deleted.

    Raises
    ------
    FolderBusy
        Somebody is reading.
    OSError
    """
    descriptor = os.open(folder / _MONEY_LOCK_NAME, os.O_RDWR | os.O_CREAT, _MODE)
    try:
        if not lock(descriptor):
            raise FolderBusy(str(folder))
        yield
    finally:
        os.close(descriptor)


@contextmanager
def reading_money(folder: Path) -> Iterator[None]:
    """Keep segments from being deleted while checkpoint and segments are read; several may read at once.

    Raises
    ------
    FolderBusy
        A deletion takes longer than `_PATIENCE_SECONDS`.
    """
    try:
        descriptor = os.open(folder / _MONEY_LOCK_NAME, os.O_RDWR | os.O_CREAT, _MODE)
    except OSError:  # no such folder, or one that we may only read: then nobody deletes, or we cannot stop it
        yield
        return
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not lock(descriptor, is_shared=True):
            if time.monotonic() > deadline:
                raise FolderBusy(str(folder))
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def closed_segment(path: Path) -> Iterator[bool]:
    """Hold a segment's lock; yields False when somebody writes it, or when it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    try:
        yield lock(descriptor)
    finally:
        os.close(descriptor)


def replace_file(
    path: Path,
    write: Callable[[BinaryIO], object],
    *,
    changed_at: float | None = None,
    check: Callable[[Path], None] = lambda _: None,
) -> None:
    """Write a file under another name, make it durable, and give it its name.

    Parameters
    ----------
    path : Path
    write : callable
        Writes the content to an open file.
    changed_at : float, optional
        Modification time of the result, UNIX seconds; now by default.
    check : callable
        Called with the finished file before it gets its name; what it raises stops the replacement.

    Raises
    ------
    OSError
        The file is as it was, and nothing else is left behind.
    """
    unfinished = path.with_name(f".{path.name}{_UNFINISHED}")
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE), "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        if changed_at is not None:
            os.utime(unfinished, (changed_at, changed_at))
        check(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _clear(folder: Path) -> None:
    """Remove unfinished files, and the JSON form of segments that are compacted."""
    for path in folder.glob(f".*{_UNFINISHED}"):
        path.unlink(missing_ok=True)
    for path in folder.glob(f"{_PREFIX}*{PARQUET_SUFFIX}"):
        path.with_suffix(JSON_SUFFIX).unlink(missing_ok=True)
