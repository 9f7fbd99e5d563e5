"""Signatures of artifacts: whose they are, what they cover, and what is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from penstock_routers import signatures
from penstock_routers.errors import ArtifactError, MissingExtraError
from penstock_routers.signatures import (
    MAX_SIGNATURE_BYTES,
    SIGNATURE_FILE,
    Signature,
    claimed_key_id,
    decode_public_key,
    encode_signature,
    key_id,
    read_signature,
    signed_bytes,
    verify_signature,
)

ID = "sha256:" + "ab" * 32
OTHER_ID = "sha256:" + "cd" * 32


def _signed(artifact_id: str = ID) -> tuple[bytes, bytes]:
    """A signature file over an id, and the public key."""
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    value = base64.b64encode(key.sign(signed_bytes(artifact_id))).decode()
    return encode_signature(Signature("ed25519", key_id(public), artifact_id, value)), public


def test_signature_by_the_given_key_is_accepted() -> None:
    """What the key signed passes, and the key is named."""
    raw, public = _signed()
    assert verify_signature(raw, ID, public).key_id == key_id(public)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda fields: fields | {"signature": base64.b64encode(bytes(64)).decode()}, "signature_wrong"),
        (lambda fields: fields | {"signature": "short"}, "signature_malformed"),
        (lambda fields: fields | {"algorithm": "none"}, "signature_malformed"),
        (lambda fields: fields | {"artifact_id": OTHER_ID}, "signature_other_artifact"),
        (lambda fields: fields | {"extra": 1}, "signature_malformed"),
    ],
)
def test_signature_with_any_field_changed_is_refused(change, code: str) -> None:
    """No field can be changed without being noticed, the algorithm included."""
    raw, public = _signed()
    with pytest.raises(ArtifactError) as caught:
        verify_signature(json.dumps(change(json.loads(raw))).encode(), ID, public)
    assert caught.value.code == code


def test_signature_moved_to_another_artifact_is_refused() -> None:
    """A good signature of one artifact, its id field rewritten, does not vouch for another."""
    raw, public = _signed()
    moved = json.dumps(json.loads(raw) | {"artifact_id": OTHER_ID}).encode()
    with pytest.raises(ArtifactError) as caught:
        verify_signature(moved, OTHER_ID, public)
    assert caught.value.code == "signature_wrong"


def test_signature_of_another_key_is_refused_although_it_names_the_right_one() -> None:
    """The key in the configuration decides, not the one that the file names."""
    raw, public = _signed()
    with pytest.raises(ArtifactError) as caught:
        verify_signature(raw, ID, bytes(reversed(public)))
    assert caught.value.code == "signature_wrong"


def test_signature_that_is_absent_has_its_own_code() -> None:
    """Whoever asks for a signature gets no unsigned artifact."""
    with pytest.raises(ArtifactError) as caught:
        verify_signature(None, ID, bytes(32))
    assert caught.value.code == "signature_missing"


def test_signature_check_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is said with the command that brings it, and nothing passes unchecked."""
    raw = encode_signature(Signature("ed25519", "k", ID, base64.b64encode(bytes(64)).decode()))

    def absent() -> None:
        raise MissingExtraError("checking a signature needs cryptography")

    monkeypatch.setattr(signatures, "_primitives", absent)
    with pytest.raises(MissingExtraError):
        verify_signature(raw, ID, bytes(32))


@pytest.mark.parametrize("text", ["", "AAAA", "A" * 44, "é" * 44, base64.b64encode(bytes(33)).decode()])
def test_public_key_of_another_form_is_refused(text: str) -> None:
    """A key is 32 bytes in base64 and nothing else."""
    with pytest.raises(ValueError, match="44 characters"):
        decode_public_key(text)


def test_public_key_with_a_line_end_is_read() -> None:
    """A key pasted from a file may bring its line end."""
    assert decode_public_key(base64.b64encode(bytes(range(32))).decode() + "\n") == bytes(range(32))


def test_signature_file_too_large_to_be_one_is_refused(tmp_path: Path) -> None:
    """A signature has a few hundred bytes; more is a mistake or an attack."""
    assert read_signature(tmp_path) is None
    (tmp_path / SIGNATURE_FILE).write_bytes(b" " * (MAX_SIGNATURE_BYTES + 1))
    with pytest.raises(ArtifactError) as caught:
        read_signature(tmp_path)
    assert caught.value.code == "signature_malformed"


def test_claimed_key_of_a_damaged_file_is_none() -> None:
    """What cannot be read names no key."""
    assert claimed_key_id(b"{") is None
    assert claimed_key_id(None) is None
    assert claimed_key_id(encode_signature(Signature("ed25519", "k", ID, ""))) == "k"
