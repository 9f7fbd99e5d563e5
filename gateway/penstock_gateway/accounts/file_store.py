"""Keys, teams and tags in one JSON file: for the gateways of one host.

Owns the file's layout, its lock, and how it is replaced: written beside, synced, renamed, so that a reader or a crash
never meets half of it. A file that cannot be read is refused and left as it is. Read `FileAccountStore`.

::

    <folder>/accounts.json   {"format": 1, "version": …, "pepper_check": …, "keys": […], "teams": […], "tags": […]}
    <folder>/accounts.lock   held while a change is written
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.accounts.records import (
    FORMAT,
    AccountsDamaged,
    AccountSnapshot,
    Changes,
    RecordReader,
    parse_json,
)
from penstock_gateway.accounts.store import AccountsConflict, AccountsLost, next_version

FILE: Final = "accounts.json"
LOCK: Final = "accounts.lock"
MAX_FILE_BYTES: Final = 268_435_456
_SLOW_FACTOR: Final = 20.0
_LOCK_WAIT_SECONDS: Final = 0.01
_PRIVATE: Final = 0o600
_LISTS: Final = (("keys", "key"), ("teams", "team"), ("tags", "tag"))

_T = TypeVar("_T")
_Stamp = tuple[int, int, int]


class FileAccountStore:
    """The records of one host; fulfils `store.AccountStore`.

    Parameters
    ----------
    folder : Path
        Made when it is missing, for its owner alone.
    timeout_seconds : float
        Deadline of a look at the version; reading and writing have twenty times as long.

    Notes
    -----
    Works in one thread of its own, so that a disk or a network folder that hangs stops neither the event loop nor
    other threads: whoever waits for it gives up at the deadline, and what has not begun by then never does.
    """

    kind = "file"

    def __init__(self, folder: Path, *, timeout_seconds: float) -> None:
        self._folder = folder
        self._path = folder / FILE
        self._timeout_seconds = timeout_seconds
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="penstock-accounts")
        self._seen: tuple[_Stamp, str] | None = None
        self._reader = RecordReader()
        self._refused: tuple[_Stamp, AccountsDamaged] | None = None

    async def version(self) -> str:
        """Return the version, read anew only when the file is another; see `AccountStore`."""
        return await self._within(self._timeout_seconds, self._read_version)

    async def load(self) -> AccountSnapshot:
        """Return everything; see `AccountStore`."""
        return await self._within(self._timeout_seconds * _SLOW_FACTOR, self._read)

    async def commit(self, expected_version: str, changes: Changes) -> str:
        """Write a change; see `AccountStore`."""
        seconds = self._timeout_seconds * _SLOW_FACTOR
        end = time.monotonic() + seconds
        return await self._within(seconds, lambda: self._replace(expected_version, changes, end))

    async def aclose(self) -> None:
        """Let go of the thread; what it has begun goes on."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def _within(self, seconds: float, work: Callable[[], _T]) -> _T:
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._worker, work)
        except TimeoutError:
            raise StoreUnavailable(f"{self._folder} did not answer in time.") from None
        except OSError as error:
            raise StoreUnavailable(f"{self._folder} cannot be used: {error.strerror or 'unknown error'}.") from None

    def _read_version(self) -> str:
        stamp = self._stamp()
        if stamp is None:
            return ""
        if self._refused is not None and self._refused[0] == stamp:
            raise self._refused[1]
        if self._seen is None or self._seen[0] != stamp:
            self._read()
        assert self._seen is not None
        return self._seen[1]

    def _stamp(self) -> _Stamp | None:
        """Return what changes whenever the file is replaced; None when there is none."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> AccountSnapshot:
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_mode & stat.S_IWOTH:
                    raise AccountsDamaged(f"{self._path} may be written by everybody; run: chmod 600 {self._path}")
                content = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            return AccountSnapshot()
        stamp = found.st_ino, found.st_mtime_ns, found.st_size
        try:
            snapshot = self._parsed(content)
        except AccountsDamaged as error:
            self._refused = stamp, error  # it need not be read again until it is another
            raise
        self._seen = stamp, snapshot.version
        return snapshot

    def _parsed(self, content: bytes) -> AccountSnapshot:
        restore = "restore it from a backup, or move it away to begin without keys"
        if len(content) > MAX_FILE_BYTES:
            raise AccountsDamaged(f"{self._path} is larger than {MAX_FILE_BYTES} bytes; {restore}")
        try:
            tree = parse_json(content)
        except (ValueError, RecursionError):
            raise AccountsDamaged(f"{self._path} is not valid JSON; {restore}") from None
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise AccountsDamaged(f"{self._path} is not a file of accounts of format {FORMAT}; {restore}")
        lists = [(kind, tree.get(name)) for name, kind in _LISTS]
        texts = tree.get("version"), tree.get("pepper_check")
        if not all(isinstance(part, list) for _, part in lists) or not all(isinstance(text, str) for text in texts):
            raise AccountsDamaged(f"{self._path} lacks a part; {restore}")
        try:
            records = self._reader.read(
                (kind, _name_of(kind, plain), plain) for kind, part in lists for plain in part or ()
            )
        except AccountsDamaged as error:
            raise AccountsDamaged(f"{self._path}: {error}; {restore}") from None
        snapshot = AccountSnapshot.of(str(texts[0]), str(texts[1]), records)
        if len(snapshot.records()) != len(records) or not snapshot.version:
            raise AccountsDamaged(f"{self._path} has a record twice, or no version; {restore}")
        return snapshot

    def _replace(self, expected_version: str, changes: Changes, end: float) -> str:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self._folder / LOCK, end):
            snapshot = self._read()
            if snapshot.version != expected_version:
                if not snapshot.version:
                    raise AccountsLost
                raise AccountsConflict
            version = next_version(expected_version)
            self._write(_encoded(snapshot.with_changes(changes, version), self._reader))
        return version

    def _write(self, content: bytes) -> None:
        """Put new content in the place of the old one, or leave the old one."""
        beside = self._path.with_name(f"{FILE}.new")  # one at a time: the lock is held
        beside.unlink(missing_ok=True)
        try:
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        sync_folder(self._folder)


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name in a folder survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _name_of(kind: str, plain: object) -> str:
    """Return the id or name in plain values that nobody has checked yet."""
    return str(plain.get("id" if kind == "key" else "name")) if isinstance(plain, dict) else ""


def _encoded(snapshot: AccountSnapshot, reader: RecordReader) -> bytes:
    """Return the file's content: a record a line, so that a difference can be read."""
    head = f'{{"format": {FORMAT}, "version": {json.dumps(snapshot.version)},\n'
    head += f'"pepper_check": {json.dumps(snapshot.pepper_check)},\n'
    lines = reader.encode(snapshot.records())
    content = head.encode()
    start = 0
    for name, count in (("keys", len(snapshot.keys)), ("teams", len(snapshot.teams)), ("tags", len(snapshot.tags))):
        content += f'"{name}": [\n'.encode() + b",\n".join(lines[start : start + count]) + b"\n],\n"
        start += count
    return content.removesuffix(b",\n") + b"}\n"


@contextmanager
def _locked(path: Path, end: float) -> Iterator[None]:
    """Hold a lock between processes; the system frees it when its holder dies."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, _PRIVATE)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise StoreUnavailable(f"{path} is held by another process.") from None
                time.sleep(_LOCK_WAIT_SECONDS)
        yield
    finally:
        os.close(handle)
