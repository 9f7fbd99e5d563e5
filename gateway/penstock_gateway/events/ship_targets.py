"""The places that segments can be shipped to: a folder, an object store, a Redis stream.

An object store is opened when its target is made. Read `target_of`.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.errors import GatewayError
from penstock_gateway.events.catalog import Segment, other_form, replace_file
from penstock_gateway.events.reading import Problem, raw_lines
from penstock_gateway.events.shipping import ShippingFailed, ShipTarget
from penstock_gateway.object_stores import open_store
from penstock_gateway.redis_client import RedisClient
from penstock_gateway.settings_events import ShipSettings
from penstock_routers.installation import install_command

COMMAND_SECONDS: Final = 5.0
_PROGRESS_LINES: Final = 256
_SHIPPING: Final = ".shipping"


def target_of(settings: ShipSettings) -> ShipTarget:
    """Return the target that the settings name.

    Raises
    ------
    ShippingFailed
        fsspec is missing, or knows no such place.
    """
    if settings.redis_stream is not None and settings.redis_url is not None:
        return StreamTarget(
            settings.redis_url.get_secret_value(), settings.redis_stream, settings.redis_stream_max_length
        )
    assert settings.url is not None
    parts = urlsplit(settings.url)
    if parts.scheme in ("", "file"):
        return FolderTarget(Path(unquote(parts.path)))
    return ObjectTarget(settings.url)


class FolderTarget:
    """A folder of this machine, or mounted on it: whole files, durable before they have their names.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ship(self, segment: Segment) -> None:
        """Copy a segment's file."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = _present(segment)
            if found is not None:
                with found.path.open("rb") as source:
                    target = self._folder / found.path.name
                    replace_file(target, lambda stream: shutil.copyfileobj(source, stream), changed_at=found.changed_at)
        except OSError as error:
            raise ShippingFailed(f"{error.strerror or type(error).__name__}") from error

    def close(self) -> None:
        """Nothing is held."""


class ObjectTarget:
    """An object store, through fsspec: an object has its whole content as soon as it is there.

    Parameters
    ----------
    url : str
        As fsspec names it; credentials come from where the store's client looks for them.
    """

    def __init__(self, url: str) -> None:
        try:
            self._store, self._root = open_store(url)
        except (ImportError, ValueError, OSError) as error:
            if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "fsspec":
                raise ShippingFailed(
                    f"Shipping to an object store needs fsspec, which is not installed: {install_command('ship')}"
                ) from error
            raise ShippingFailed(f"the client of {urlsplit(url).scheme}:// cannot be used: {error}") from error

    def ship(self, segment: Segment) -> None:
        """Upload a segment's file, and see that it arrived whole."""
        found = _present(segment)
        if found is None:
            return
        path = f"{self._root}/{found.path.name}"
        try:
            self._store.makedirs(self._root, exist_ok=True)
            self._store.put_file(str(found.path), path)
            size = self._store.info(path)["size"]
        except Exception as error:  # each store's client raises its own
            raise ShippingFailed(f"the object store did not take a segment: {type(error).__name__}") from error
        if size != found.path.stat().st_size:
            raise ShippingFailed("the object store has another size than the segment")

    def close(self) -> None:
        """Fsspec keeps its own connections."""


class StreamTarget:
    """A Redis stream: one entry per event, with an ``id`` by which a reader knows those that come twice.

    Parameters
    ----------
    url : str
    stream : str
        Key.
    max_length : int
        Entries that are kept, roughly.
    """

    def __init__(self, url: str, stream: str, max_length: int) -> None:
        self._stream = stream.encode()
        self._max_length = max_length
        self._runner = asyncio.Runner()
        try:
            self._client = self._runner.run(_made(lambda: RedisClient(url, connections=1)))
        except GatewayError as error:
            self._runner.close()
            raise ShippingFailed(error.message) from None

    def ship(self, segment: Segment) -> None:
        """Add a segment's events; after a failure it goes on behind the last mark."""
        mark = segment.path.with_name(f".{segment.id}{_SHIPPING}")
        try:
            done = int(mark.read_text())
        except (FileNotFoundError, ValueError):
            done = 0
        try:
            self._runner.run(self._send(segment, done, mark))
            mark.unlink(missing_ok=True)
        except StoreUnavailable as error:
            raise ShippingFailed(str(error)) from None
        except (OSError, ValueError) as error:
            raise ShippingFailed(f"a segment cannot be read: {type(error).__name__}") from error

    def close(self) -> None:
        """Close the connection."""
        self._runner.run(self._client.aclose())
        self._runner.close()

    async def _send(self, segment: Segment, done: int, mark: Path) -> None:
        for number, content, event in raw_lines(segment):
            if number <= done:
                continue
            if not isinstance(event, Problem):
                await self._add(f"{segment.id}:{number}", str(event["type"]), content)
            if number % _PROGRESS_LINES == 0:
                _note_progress(mark, number)

    async def _add(self, identity: str, kind: str, content: bytes) -> None:
        await self._client.execute(
            b"XADD",
            self._stream,
            b"MAXLEN",
            b"~",
            self._max_length,
            b"*",
            b"id",
            identity.encode(),
            b"type",
            kind.encode(),
            b"event",
            content,
            deadline_seconds=COMMAND_SECONDS,
        )


async def _made(make: Callable[[], RedisClient]) -> RedisClient:
    """Make a client inside the loop that it will be used in."""
    return make()


def _note_progress(mark: Path, number: int) -> None:
    replace_file(mark, lambda stream: stream.write(str(number).encode()))


def _present(segment: Segment) -> Segment | None:
    return segment if segment.path.exists() else other_form(segment)
