"""Ed25519 signatures of router artifacts: what is signed, how it is written, and the check that serving makes.

Owns ``signature.json`` and, in this package, the ``cryptography`` library, which is imported only when a signature is
checked. Signing is in `penstock_training.publishing.signing`. Read `signed_bytes`, then `verify_signature`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from penstock_routers.errors import ArtifactError, MissingExtraError
from penstock_routers.installation import install_command
from penstock_routers.model_files import read_model_file

SIGNATURE_FILE: Final = "signature.json"
MAX_SIGNATURE_BYTES: Final = 4096
PUBLIC_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
# Keeps a signature made here from being taken for one over other content by the same key.
_CONTEXT: Final = b"penstock router artifact v1\n"


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who vouches for an artifact.

    Attributes
    ----------
    algorithm : str
        ``ed25519``.
    key_id : str
        Names the public key, see `key_id`; a hint for people, the check uses the key that serving was given.
    artifact_id : str
        What was signed; must be the artifact's own id.
    signature : str
        64 bytes in base64.
    """

    algorithm: Literal["ed25519"]
    key_id: str
    artifact_id: str
    signature: str


def signed_bytes(artifact_id: str) -> bytes:
    """Return what a signature is computed over: a context line and the id, which covers manifest and graph."""
    return _CONTEXT + artifact_id.encode()


def decode_public_key(text: str) -> bytes:
    """Read a public key as people write it.

    Parameters
    ----------
    text : str
        32 bytes in base64, as ``penstock-train keygen`` prints them.

    Returns
    -------
    bytes, length 32

    Raises
    ------
    ValueError
        It is not that.
    """
    key = _decode(text.strip(), PUBLIC_KEY_BYTES)
    if key is None:
        raise ValueError("should be an Ed25519 public key: 32 bytes in base64, 44 characters")
    return key


def key_id(public_key: bytes) -> str:
    """Name a public key: ``ed25519:`` and the first 16 hexadecimal digits of its SHA-256."""
    return f"ed25519:{hashlib.sha256(public_key).hexdigest()[:16]}"


def encode_signature(signature: Signature) -> bytes:
    """Return the content of ``signature.json``."""
    return msgspec.json.format(msgspec.json.encode(signature), indent=1) + b"\n"


def read_signature(folder: Path) -> bytes | None:
    """Read an artifact folder's ``signature.json``, unchecked; None when it has none.

    Raises
    ------
    ArtifactError
        ``signature_malformed``: it is too large or no regular file.
    """
    path = folder / SIGNATURE_FILE
    if not path.exists():
        return None
    code = "signature_malformed"
    return read_model_file(path, MAX_SIGNATURE_BYTES, error=ArtifactError, missing_code=code, too_large_code=code)


def claimed_key_id(raw: bytes | None) -> str | None:
    """Return the key that a signature names, without checking it; None when it cannot be read."""
    try:
        return None if raw is None else msgspec.json.decode(raw, type=Signature).key_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def verify_signature(raw: bytes | None, artifact_id: str, public_key: bytes) -> Signature:
    """Check that an artifact was signed with the private half of a key.

    Parameters
    ----------
    raw : bytes or None
        Content of ``signature.json``; None when there is no such file.
    artifact_id : str
        Id of the artifact as computed from its content.
    public_key : bytes, length 32

    Returns
    -------
    Signature

    Raises
    ------
    ArtifactError
        ``signature_missing``, ``signature_malformed``, ``signature_other_artifact`` (it belongs to another id),
        ``signature_wrong`` (not made with this key).
    MissingExtraError
        ``cryptography`` is not installed.

    References
    ----------
    RFC 8032, "Edwards-Curve Digital Signature Algorithm (EdDSA)", Ed25519.
    """
    if raw is None:
        raise ArtifactError(f"the artifact has no {SIGNATURE_FILE}", code="signature_missing")
    try:
        found = msgspec.json.decode(raw, type=Signature)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{SIGNATURE_FILE} is not valid", code="signature_malformed") from error
    value = _decode(found.signature, _SIGNATURE_BYTES)
    if value is None:
        raise ArtifactError(f"{SIGNATURE_FILE} holds no Ed25519 signature", code="signature_malformed")
    if found.artifact_id != artifact_id:
        raise ArtifactError("the signature is one of another artifact", code="signature_other_artifact")
    invalid_signature, public_key_type = _primitives()
    try:
        public_key_type.from_public_bytes(public_key).verify(value, signed_bytes(artifact_id))
    except (invalid_signature, ValueError) as error:
        message = f"the signature (by key {found.key_id[:40]!r}) was not made with the key {key_id(public_key)}"
        raise ArtifactError(message, code="signature_wrong") from error
    return found


def _primitives() -> tuple[Any, Any]:
    """The library's exception and key type."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        message = f"checking a signature needs cryptography; run: {install_command('signing')}"
        raise MissingExtraError(message) from error
    return InvalidSignature, Ed25519PublicKey


def _decode(text: str, length: int) -> bytes | None:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return value if len(value) == length else None
