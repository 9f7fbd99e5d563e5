"""Where a router artifact comes from while serving, and whether its maker is trusted.

Owns the two kinds of folder (an artifact, a registry), the order of the checks (digest and signature before anything of
the graph is run), and joining what was fetched with the encoder. The download is in `artifact_download`. It blocks
where it reads files: call it in a thread. Read `open_trusted`, then `FolderSource`.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from penstock_gateway.settings_models import RoutingSettings
from penstock_routers.artifact import MAX_ARTIFACT_BYTES, MAX_MANIFEST_BYTES, RouterArtifact
from penstock_routers.encoder import PromptEncoder
from penstock_routers.errors import ArtifactError
from penstock_routers.fused import fused_with
from penstock_routers.manifest import GRAPH_FILE, MANIFEST_FILE, artifact_id, decode_manifest
from penstock_routers.model_files import read_model_file
from penstock_routers.registry_layout import artifact_path, is_artifact_id, is_registry, read_pointer
from penstock_routers.signatures import decode_public_key, read_signature, verify_signature


@dataclass(frozen=True, slots=True)
class Trust:
    """What an artifact must show before it is opened.

    Attributes
    ----------
    digest : str or None
        Its id.
    public_key : bytes or None
        Ed25519 key that signed it.
    """

    digest: str | None = None
    public_key: bytes | None = None

    @classmethod
    def from_settings(cls, routing: RoutingSettings) -> Trust:
        """Take what is configured."""
        key = routing.artifact_public_key
        return cls(routing.artifact_digest, None if key is None else decode_public_key(key))


class ArtifactSource(Protocol):
    """A place that offers one artifact at a time."""

    async def look(self) -> str:
        """Return the id that is offered now, as the place claims it; cheap.

        Raises
        ------
        ArtifactError
            The place cannot be read.
        """

    async def fetch(self, offered: str, encoder_id: str) -> RouterArtifact:
        """Return the artifact offered under an id, verified in every respect.

        Raises
        ------
        RouterError
            It cannot be had, or is refused.
        """


class FusingSource:
    """Another source, whose artifacts get the graph joined with the encoder's where that is worth it.

    Parameters
    ----------
    source : ArtifactSource
    encoder : PromptEncoder
        That serves.
    """

    def __init__(self, source: ArtifactSource, encoder: PromptEncoder) -> None:
        self._source = source
        self._encoder = encoder

    async def look(self) -> str:
        """Return the id that is offered now."""
        return await self._source.look()

    async def fetch(self, offered: str, encoder_id: str) -> RouterArtifact:
        """Return the artifact offered under an id; the graphs are joined in a thread."""
        artifact = await self._source.fetch(offered, encoder_id)
        return await asyncio.to_thread(fused_with, artifact, self._encoder)


class FolderSource:
    """An artifact folder or a registry on this machine.

    Parameters
    ----------
    folder : Path
    trust : Trust
    """

    def __init__(self, folder: Path, trust: Trust) -> None:
        self._folder = folder
        self._trust = trust

    async def look(self) -> str:
        """See `ArtifactSource.look`; in a registry a pinned artifact, whichever is in force."""
        if self._trust.digest is not None and is_registry(self._folder):
            return self._trust.digest
        return await asyncio.to_thread(offered_id, self._folder)

    async def fetch(self, offered: str, encoder_id: str) -> RouterArtifact:
        """See `ArtifactSource.fetch`."""
        return await asyncio.to_thread(self._open, offered, encoder_id)

    def _open(self, offered: str, encoder_id: str) -> RouterArtifact:
        is_in_registry = is_registry(self._folder)
        folder = self._folder / artifact_path(offered) if is_in_registry else self._folder
        artifact = open_trusted(folder, encoder_id, self._trust)
        if is_in_registry and artifact.id != offered:
            raise ArtifactError("the registry holds another artifact under this id", code="artifact_corrupt")
        return artifact


def is_artifact_url(artifact: str) -> bool:
    """Tell a URL from a folder in ``routing.artifact``."""
    return "://" in artifact


def artifact_url_problem(artifact: str) -> str | None:
    """Say what is wrong with an artifact's URL; None when it can be used.

    Parameters
    ----------
    artifact : str

    Returns
    -------
    str or None
        Plain ``http`` is for servers on this machine: whoever sits between could take the artifact away, though not
        replace it.
    """
    try:
        parts = urlsplit(artifact)
        host = parts.hostname or ""
        has_host = bool(host) and parts.port != 0
    except ValueError:
        return "is not a URL"
    if not has_host or parts.scheme not in ("https", "http"):
        return "should be a folder or start with https:// and a host"
    if parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        return "should start with https:// (http:// is for servers on this machine)"
    if parts.username or parts.password or parts.query or parts.fragment or any(c.isspace() for c in artifact):
        return "should have no credentials, no query, no fragment and no white space"
    return None


def offered_id(folder: Path) -> str:
    """Return the id that a folder or registry offers, unverified.

    Raises
    ------
    ArtifactError
        ``registry_pointer``, ``registry_empty``, ``artifact_missing``, ``artifact_oversize``, ``artifact_schema``.
    """
    if is_registry(folder):
        pointer = read_pointer(folder)
        if pointer is None:
            raise ArtifactError(f"nothing has been published in {folder.name!r}", code="registry_empty")
        return pointer.id
    return claimed_id(_read(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES))


def claimed_id(manifest: bytes) -> str:
    """Return the id that the bytes of a manifest state.

    Raises
    ------
    ArtifactError
        ``artifact_schema``; also when it is no id, which could be any text, and as long as a manifest.
    """
    try:
        claimed = msgspec.json.decode(manifest, type=_ManifestId).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{MANIFEST_FILE} is not valid", code="artifact_schema") from error
    if not is_artifact_id(claimed):
        raise ArtifactError(f"{MANIFEST_FILE} states no id", code="artifact_schema")
    return claimed


class _ManifestId(msgspec.Struct):
    id: str


def open_trusted(folder: Path, encoder_id: str, trust: Trust) -> RouterArtifact:
    """Open an artifact folder, its maker first; blocks.

    Parameters
    ----------
    folder : Path
    encoder_id : str
        Of the encoder in use.
    trust : Trust
        Without digest and key, whoever can write the folder is trusted.

    Returns
    -------
    RouterArtifact

    Raises
    ------
    ArtifactError
        ``artifact_other_digest``, the codes of `verify_signature` and those of `RouterArtifact.load`.

    Notes
    -----
    `RouterArtifact.load` hashes what it read itself, and goes on only if that is the content that was vouched for. So
    files that are exchanged after the check gain nothing.
    """
    trusted_id = check_trust(folder, trust)
    return RouterArtifact.load(folder, encoder_id=encoder_id, index_device="auto", expected_id=trusted_id)


def check_trust(folder: Path, trust: Trust) -> str | None:
    """Check who made an artifact, before anything but its manifest is parsed; blocks.

    Parameters
    ----------
    folder : Path
        An index beside the graph need not be there yet: its hashes are in the manifest.
    trust : Trust

    Returns
    -------
    str or None
        The id computed from the content; None when nothing is asked for.

    Raises
    ------
    ArtifactError
        ``artifact_other_digest``, ``artifact_corrupt``, ``artifact_schema``, and the codes of `verify_signature`.
    """
    if trust.digest is None and trust.public_key is None:
        return None
    found = _content_id(folder)
    if trust.digest is not None and found != trust.digest:
        raise ArtifactError(f"the artifact is {found}, not the pinned one", code="artifact_other_digest")
    if trust.public_key is not None:
        verify_signature(read_signature(folder), found, trust.public_key)
    return found


def _content_id(folder: Path) -> str:
    """Compute the id from the content; nothing of the graph is parsed."""
    manifest = decode_manifest(_read(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES))
    graph = _read(folder / GRAPH_FILE, MAX_ARTIFACT_BYTES)
    if hashlib.sha256(graph).hexdigest() != manifest.graph_sha256:
        raise ArtifactError("router.onnx is not the file that the manifest names", code="artifact_corrupt")
    return artifact_id(manifest, graph)


def _read(path: Path, max_bytes: int) -> bytes:
    return read_model_file(
        path, max_bytes, error=ArtifactError, missing_code="artifact_missing", too_large_code="artifact_oversize"
    )
