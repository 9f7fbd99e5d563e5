"""Router artifacts over HTTP: bounded in size and time, no redirects, nothing kept on the disk.

Owns the requests. What comes back is trusted for nothing: `artifact_source.open_trusted` checks it, in a thread and a
temporary folder that is removed at once. An index beside the graph may be large: it is asked for only when digest and
signature of the rest are right. Read `UrlSource.fetch`.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import aiohttp

from penstock_gateway.artifact_source import Trust, check_trust, claimed_id, open_trusted
from penstock_routers.artifact import MAX_ARTIFACT_BYTES, MAX_MANIFEST_BYTES, RouterArtifact
from penstock_routers.errors import ArtifactError
from penstock_routers.manifest import GRAPH_FILE, MANIFEST_FILE, Manifest, decode_manifest
from penstock_routers.registry_layout import (
    MAX_POINTER_BYTES,
    POINTER_FILE,
    artifact_path,
    decode_pointer,
)
from penstock_routers.signatures import MAX_SIGNATURE_BYTES, SIGNATURE_FILE

LOOK_TIMEOUT_SECONDS: Final = 10.0
FETCH_TIMEOUT_SECONDS: Final = 60.0
"""For manifest, signature and graph together; the largest allowed, 64 MiB, then needs 9 Mbit/s."""
SLOWEST_BYTES_PER_SECOND: Final = 1 << 20
"""An index beside the graph gets more time, by its size: as much as this rate needs."""
_CHUNK_BYTES: Final = 1 << 16
_BLOCK_BYTES: Final = 4 << 20
_ABSENT: Final = frozenset({403, 404, 410})  # object stores answer 403 for what is not there to whoever may not list


class UrlSource:
    """A registry or an artifact folder behind a web server.

    Parameters
    ----------
    url : str
        ``<url>/current`` is asked for first; where there is none (403, 404, 410), `url` is taken for an artifact
        folder.
    trust : Trust
        With a digest, a key, or both.
    look_timeout_seconds, fetch_timeout_seconds : float

    Notes
    -----
    Redirects are refused, proxy variables and ``.netrc`` are not read, no cookie is kept, certificates are verified
    against the system's store. No header but ``User-Agent`` tells who asks.
    """

    def __init__(
        self,
        url: str,
        trust: Trust,
        *,
        look_timeout_seconds: float = LOOK_TIMEOUT_SECONDS,
        fetch_timeout_seconds: float = FETCH_TIMEOUT_SECONDS,
    ) -> None:
        if trust.digest is None and trust.public_key is None:
            raise ValueError("an artifact from a URL needs a digest or a key")
        self._base = url.rstrip("/")
        self._trust = trust
        self._look_timeout_seconds = look_timeout_seconds
        self._fetch_timeout_seconds = fetch_timeout_seconds

    async def look(self) -> str:
        """Return the id that is offered now; a pinned one without asking."""
        if self._trust.digest is not None:
            return self._trust.digest
        async with _session() as session, _deadline(self._look_timeout_seconds):
            pointer = await _get(session, f"{self._base}/{POINTER_FILE}", MAX_POINTER_BYTES)
            if pointer is not None:
                return decode_pointer(pointer).id
            return claimed_id(await self._needed(session, f"{self._base}/{MANIFEST_FILE}", MAX_MANIFEST_BYTES))

    async def fetch(self, offered: str, encoder_id: str) -> RouterArtifact:
        """Download the artifact that is offered under an id, and verify it off the event loop."""
        async with _session() as session, _deadline(self._fetch_timeout_seconds):
            place = f"{self._base}/{artifact_path(offered)}"
            manifest = await _get(session, f"{place}/{MANIFEST_FILE}", MAX_MANIFEST_BYTES)
            if manifest is None:
                place = self._base
                manifest = await self._needed(session, f"{place}/{MANIFEST_FILE}", MAX_MANIFEST_BYTES)
            files = {MANIFEST_FILE: manifest}
            if self._trust.public_key is not None:
                signature = await _get(session, f"{place}/{SIGNATURE_FILE}", MAX_SIGNATURE_BYTES)
                files |= {} if signature is None else {SIGNATURE_FILE: signature}
            files[GRAPH_FILE] = await self._needed(session, f"{place}/{GRAPH_FILE}", MAX_ARTIFACT_BYTES)
        with _temporary_folder() as folder:
            found = await asyncio.to_thread(_lay_down, folder, files, self._trust)
            neighbours = found.neighbours
            if neighbours is not None and found.encoder.id == encoder_id:  # else it is refused without them
                seconds = self._fetch_timeout_seconds + neighbours.total_bytes / SLOWEST_BYTES_PER_SECOND
                async with _session() as session, _deadline(seconds):
                    for name, size in neighbours.sizes.items():
                        await _get_file(session, f"{place}/{name}", size, folder / name)
            artifact = await asyncio.to_thread(open_trusted, folder, encoder_id, self._trust)
        if place != self._base and artifact.id != offered:
            raise ArtifactError("the registry holds another artifact under this id", code="artifact_corrupt")
        return artifact

    async def _needed(self, session: aiohttp.ClientSession, url: str, max_bytes: int) -> bytes:
        content = await _get(session, url, max_bytes)
        if content is None:
            raise ArtifactError(f"the source has no {url.rpartition('/')[2]}", code="artifact_missing")
        return content


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    try:
        with tempfile.TemporaryDirectory(prefix="penstock-artifact-") as name:
            yield Path(name)
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> ArtifactError:
    message = f"no room for a downloaded artifact: {error.strerror or 'unknown error'}"
    return ArtifactError(message, code="artifact_source_unusable")


def _append(file: BinaryIO, block: bytes) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:  # which would otherwise be taken for one of the transport
        raise _no_room(error) from error


def _lay_down(folder: Path, files: dict[str, bytes], trust: Trust) -> Manifest:
    """Write the small files, check who made them, and return the manifest that says what else there is."""
    for file, content in files.items():
        (folder / file).write_bytes(content)
    check_trust(folder, trust)
    return decode_manifest(files[MANIFEST_FILE])


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "penstock", "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,  # a few bytes could unpack to gigabytes; what is compressed fails the hashes
        trust_env=False,
    )


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    """Bound the time of what is done inside, and turn the errors of time and transport into ours."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        message = f"the source of the artifact took longer than {seconds:g} s"
        raise ArtifactError(message, code="artifact_source_timeout") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        message = f"the source of the artifact cannot be read: {type(error).__name__}"
        raise ArtifactError(message, code="artifact_source_unreachable") from error


async def _get(session: aiohttp.ClientSession, url: str, max_bytes: int) -> bytes | None:
    """Read one file; None when there is none."""
    name = url.rpartition("/")[2]
    async with session.get(url, allow_redirects=False) as response:
        if not _is_there(response, name):
            return None
        content = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            content += chunk
            if len(content) > max_bytes:
                raise ArtifactError(f"{name} is larger than {max_bytes:,} bytes", code="artifact_oversize")
        return bytes(content)


async def _get_file(session: aiohttp.ClientSession, url: str, size: int, path: Path) -> None:
    """Read one file of a known size to the disk, a block at a time."""
    name = url.rpartition("/")[2]
    async with session.get(url, allow_redirects=False) as response:
        if not _is_there(response, name):
            raise ArtifactError(f"the source has no {name}", code="artifact_missing")
        left, block = size, bytearray()
        with path.open("xb") as file:
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise ArtifactError(f"{name} is larger than {size:,} bytes", code="artifact_oversize")
                block += chunk
                if len(block) >= _BLOCK_BYTES:
                    await asyncio.to_thread(_append, file, bytes(block))
                    block.clear()
            await asyncio.to_thread(_append, file, bytes(block))


def _is_there(response: aiohttp.ClientResponse, name: str) -> bool:
    """Whether the source has a file; raises where it answers neither yes nor no."""
    if response.status in _ABSENT:
        return False
    if 300 <= response.status < 400:
        message = f"the source redirects {name}; give the address that it leads to"
        raise ArtifactError(message, code="artifact_source_redirect")
    if response.status != 200:
        message = f"the source answered with status {response.status} to {name}"
        raise ArtifactError(message, code="artifact_source_status")
    return True
