"""Making Ed25519 keys and signatures for artifacts.

Owns, in this package, the ``cryptography`` library and the private key's file. The check is in
`penstock_routers.signatures`. Read `sign_artifact`.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any, Final

from penstock_routers.installation import install_command
from penstock_routers.signatures import PUBLIC_KEY_BYTES, Signature, encode_signature, key_id, signed_bytes
from penstock_training.errors import TrainingError

_MAX_KEY_FILE_BYTES: Final = 16 << 10


def make_key(path: Path) -> str:
    """Make a key pair.

    Parameters
    ----------
    path : Path
        Where the private key is written, unencrypted PEM (PKCS #8), readable by its owner only. Must not exist.

    Returns
    -------
    str
        The public key, base64.

    Raises
    ------
    TrainingError
        ``key_exists``, ``key_not_writable``, ``missing_extra``.
    """
    serialization, private_key_type = _primitives()
    key = private_key_type.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
    except FileExistsError as error:
        raise TrainingError(f"{path} exists; a key is never overwritten", code="key_exists") from error
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror}", code="key_not_writable") from error
    return base64.b64encode(_public_bytes(key, serialization)).decode()


def sign_artifact(key_file: Path, artifact_id: str) -> bytes:
    """Sign an artifact's id, which covers manifest and graph.

    Parameters
    ----------
    key_file : Path
        From `make_key`, or any unencrypted Ed25519 private key in PEM.
    artifact_id : str

    Returns
    -------
    bytes
        Content of ``signature.json``.

    Raises
    ------
    TrainingError
        ``key_unusable``, ``missing_extra``.
    """
    serialization, private_key_type = _primitives()
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        with key_file.open("rb") as file:
            pem = file.read(_MAX_KEY_FILE_BYTES)
        key = serialization.load_pem_private_key(pem, password=None)
    except OSError as error:
        raise TrainingError(f"{key_file} cannot be read: {error.strerror}", code="key_unusable") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a pass phrase
        message = f"{key_file.name} is no unencrypted private key in PEM; make one with: penstock-train keygen"
        raise TrainingError(message, code="key_unusable") from error
    if not isinstance(key, private_key_type):
        raise TrainingError(f"{key_file.name} is no Ed25519 key", code="key_unusable")
    public = _public_bytes(key, serialization)
    value = base64.b64encode(key.sign(signed_bytes(artifact_id))).decode()
    return encode_signature(Signature("ed25519", key_id(public), artifact_id, value))


def _public_bytes(key: Any, serialization: Any) -> bytes:
    raw: bytes = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    assert len(raw) == PUBLIC_KEY_BYTES
    return raw


def _primitives() -> tuple[Any, Any]:
    """The library's serialization module and private key type."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        message = f"signing needs cryptography; run: {install_command('signing')}"
        raise TrainingError(message, code="missing_extra") from error
    return serialization, Ed25519PrivateKey
