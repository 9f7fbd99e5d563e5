"""The file of the file store: frames with checksums, how they are read back, and which of them still count.

::

    header   "penstock cache log 1" and a line feed
    frame    content length (4 bytes, little-endian), kind (1), CRC-32 of the content (4), CRC-32 of those 9 bytes (4),
             and the content; a document has a longer checksum of its own

A frame holds a document, or a change that takes documents away. Owns the format and the repair of a damaged file. Read
`load_log` first, then `LiveFrames`.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from penstock_cache.entries import decode_document
from penstock_cache.errors import DocumentDamaged, StoreUnavailable
from penstock_cache.stores.changes import Cleared, Removed, WireChange, decode_change
from penstock_cache.stores.shelf import DocumentShelf

HEADER = b"penstock cache log 1\n"
DOCUMENT, CHANGE = 1, 2

_HEAD = struct.Struct("<IBI")
_GUARD = struct.Struct("<I")
_HEAD_BYTES = _HEAD.size + _GUARD.size
_MAX_CONTENT_BYTES = 256 << 20  # no answer is that long: a longer frame is damage that its checksum happens to fit
_READ_BYTES = 1 << 20


def frame(kind: int, content: bytes) -> bytes:
    """Return content as one frame; `kind` is `DOCUMENT` or `CHANGE`."""
    head = _HEAD.pack(len(content), kind, zlib.crc32(content))
    return b"".join((head, _GUARD.pack(zlib.crc32(head)), content))


class LiveFrames:
    """Where in the file the documents lie that have not been taken away.

    Attributes
    ----------
    size_bytes : int
        Of their frames together; the rest of the file is garbage.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._tenants: dict[str, dict[str, dict[str, int]]] = {}  # tenant, category, entry id: offset and size, packed

    def put(self, tenant: str, category: str, entry_id: str, offset: int, size: int) -> None:
        """Note the frame of a document, which takes the place of an older one with its id."""
        self.remove(tenant, entry_id)
        self._tenants.setdefault(tenant, {}).setdefault(category, {})[entry_id] = offset << 32 | size
        self.size_bytes += size

    def remove(self, tenant: str, entry_id: str) -> None:
        """Forget a document."""
        for places in self._tenants.get(tenant, {}).values():
            place = places.pop(entry_id, None)
            if place is not None:
                self.size_bytes -= place & 0xFFFFFFFF
                return

    def apply(self, change: WireChange) -> None:
        """Forget what a change takes away."""
        if isinstance(change, Removed):
            for entry_id in change.entry_ids:
                self.remove(change.tenant, entry_id)
        elif isinstance(change, Cleared):
            categories = self._tenants.get(change.tenant, {})
            for category in [change.category] if change.category is not None else list(categories):
                places = categories.pop(category, {})
                self.size_bytes -= sum(place & 0xFFFFFFFF for place in places.values())

    def clear(self) -> None:
        """Forget everything."""
        self._tenants.clear()
        self.size_bytes = 0

    def places(self) -> Iterator[tuple[str, str, str, int, int]]:
        """Yield tenant, category, entry id, offset and size of every frame that counts."""
        for tenant, categories in self._tenants.items():
            for category, places in categories.items():
                for entry_id, place in places.items():
                    yield tenant, category, entry_id, place >> 32, place & 0xFFFFFFFF


@dataclass(slots=True)
class LoadedLog:
    """What a file held.

    Attributes
    ----------
    shelf : DocumentShelf
    live : LiveFrames
    size_bytes : int
        Up to the end of the last whole frame; what followed has been cut off.
    cut_bytes : int
    damaged : list of str
        Codes of what was left out or cut, one per place.
    """

    shelf: DocumentShelf
    live: LiveFrames
    size_bytes: int = 0
    cut_bytes: int = 0
    damaged: list[str] = field(default_factory=list)


def load_log(path: Path, now: float) -> LoadedLog:
    """Read a file frame by frame, repair it, and return what it holds.

    Parameters
    ----------
    path : Path
        May be missing.
    now : float
        Unix time, seconds. What has expired is left out.

    Raises
    ------
    StoreUnavailable
        The file is not one of ours; it is left as it is.
    OSError
        It cannot be read or repaired.

    Notes
    -----
    A damaged document is left out and the next frame read. A frame whose head is damaged, or that is not whole, ends
    the file: a killed process leaves such a tail, and it is cut. A damaged frame that took documents away may have
    taken any, so everything before it is forgotten: a cache may lose an answer, but not bring a deleted one back.
    O(n) time for n frames; of the file, only a frame and a buffer are in memory.
    """
    loaded = LoadedLog(DocumentShelf(), LiveFrames())
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return loaded
    with path.open("rb", buffering=_READ_BYTES) as file:
        head = file.read(len(HEADER))
        if head == HEADER:
            loaded.size_bytes = len(HEADER)
            _read_frames(file, loaded, now)
        elif not HEADER.startswith(head):
            raise StoreUnavailable("The cache's file is not a log of this version.", code="cache_file_foreign")
    loaded.cut_bytes = size - loaded.size_bytes
    if loaded.cut_bytes:
        loaded.damaged.append("cache_file_tail_cut")
        os.truncate(path, loaded.size_bytes)
    return loaded


def _read_frames(file: BinaryIO, loaded: LoadedLog, now: float) -> None:
    while True:
        head = file.read(_HEAD_BYTES)
        if len(head) < _HEAD_BYTES or _GUARD.unpack(head[_HEAD.size :])[0] != zlib.crc32(head[: _HEAD.size]):
            return
        length, kind, checksum = _HEAD.unpack(head[: _HEAD.size])
        content = file.read(length) if length <= _MAX_CONTENT_BYTES else b""
        if len(content) < length:
            return
        _apply_frame(loaded, kind, content if zlib.crc32(content) == checksum else None, now)
        loaded.size_bytes += _HEAD_BYTES + length


def _apply_frame(loaded: LoadedLog, kind: int, content: bytes | None, now: float) -> None:
    """Apply one frame; `content` is None when its checksum does not fit."""
    try:
        if content is None:
            raise DocumentDamaged("A frame of the cache's file is damaged.")
        if kind == DOCUMENT:
            document = decode_document(content)
            if now < document.expires_at:
                loaded.shelf.put(document)
                size = _HEAD_BYTES + len(content)
                loaded.live.put(document.tenant, document.category, document.entry_id, loaded.size_bytes, size)
            return
        _apply_change(loaded, decode_change(content))
    except DocumentDamaged as error:
        loaded.damaged.append(error.code)
        if kind != DOCUMENT:
            loaded.shelf.clear()
            loaded.live.clear()


def _apply_change(loaded: LoadedLog, change: WireChange) -> None:
    loaded.live.apply(change)
    if isinstance(change, Removed):
        for entry_id in change.entry_ids:
            loaded.shelf.remove(change.tenant, entry_id)
    elif isinstance(change, Cleared) and change.category is None:
        loaded.shelf.detach_tenant(change.tenant)
    elif isinstance(change, Cleared) and change.category is not None:
        for entry_id in loaded.shelf.detach_category(change.tenant, change.category):
            loaded.shelf.remove(change.tenant, entry_id)
