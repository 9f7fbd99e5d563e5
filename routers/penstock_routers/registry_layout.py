"""How a registry of artifacts lies in a folder or under a URL, as those who read it need it.

Owns the names and the pointer's schema. It writes nothing: `penstock_training.publishing.registry` does. Read
`read_pointer`.

::

    current                  which artifact is in force; replaced as a whole
    artifacts/<64 digits>/   one folder per artifact, named by its id, never changed
    history.jsonl, holdouts/ for those who publish; gateways do not read them
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec

from penstock_routers.errors import ArtifactError
from penstock_routers.model_files import read_model_file

POINTER_FILE: Final = "current"
ARTIFACTS_FOLDER: Final = "artifacts"
MAX_POINTER_BYTES: Final = 64 << 10
_ID = re.compile(r"sha256:[0-9a-f]{64}")


class Pointer(msgspec.Struct, frozen=True):
    """The artifact in force; fields that this release does not know are ignored, so that registries may grow.

    Attributes
    ----------
    id : str
    published_at : str
        ISO 8601, UTC.
    published_by : str
    event : str
        ``publish`` or ``rollback``.
    verdict : str
        What the promotion gate said, ``first`` or ``forced``; empty on a rollback.
    reason : str
        In words.
    previous : str or None
        Id of the artifact that was in force before.
    """

    id: str
    published_at: str = ""
    published_by: str = ""
    event: str = "publish"
    verdict: str = ""
    reason: str = ""
    previous: str | None = None


def is_artifact_id(text: str) -> bool:
    """Tell whether a text is an artifact id: ``sha256:`` and 64 hexadecimal digits, in lower case."""
    return _ID.fullmatch(text) is not None


def artifact_path(artifact_id: str) -> str:
    """Place of an artifact below its registry, with ``/`` on every platform.

    Raises
    ------
    ValueError
        `artifact_id` is none; a pointer must not lead out of the registry.
    """
    if not is_artifact_id(artifact_id):
        raise ValueError("not an artifact id")
    return f"{ARTIFACTS_FOLDER}/{artifact_id.removeprefix('sha256:')}"


def is_registry(folder: Path) -> bool:
    """Tell a registry from an artifact folder."""
    return (folder / POINTER_FILE).is_file() or (folder / ARTIFACTS_FOLDER).is_dir()


def decode_pointer(raw: bytes) -> Pointer:
    """Read the pointer's content.

    Raises
    ------
    ArtifactError
        ``registry_pointer``: it is damaged or names no artifact.
    """
    try:
        pointer = msgspec.json.decode(raw, type=Pointer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"the registry's {POINTER_FILE!r} is not valid", code="registry_pointer") from error
    if not is_artifact_id(pointer.id):
        raise ArtifactError(f"the registry's {POINTER_FILE!r} names no artifact", code="registry_pointer")
    return pointer


def read_pointer(registry: Path) -> Pointer | None:
    """Read which artifact is in force.

    Parameters
    ----------
    registry : Path

    Returns
    -------
    Pointer or None
        None when nothing has been published yet.

    Raises
    ------
    ArtifactError
        ``registry_pointer``: it is damaged.
    """
    path = registry / POINTER_FILE
    if not path.exists():
        return None
    code = "registry_pointer"
    raw = read_model_file(path, MAX_POINTER_BYTES, error=ArtifactError, missing_code=code, too_large_code=code)
    return decode_pointer(raw)
