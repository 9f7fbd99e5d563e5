"""Reading a registry: its pointer cannot lead elsewhere; and which artifacts carry what people wrote."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from penstock_routers.errors import ArtifactError
from penstock_routers.manifest import SourceEntry
from penstock_routers.prompt_content import holds_prompt_vectors, is_from_captured_prompts
from penstock_routers.registry_layout import (
    MAX_POINTER_BYTES,
    POINTER_FILE,
    artifact_path,
    decode_pointer,
    is_registry,
    read_pointer,
)
from support.artifact_variants import bundled_manifest

DIGITS = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"id": "sha256:../../etc"}',
        b'{"id": "sha256:' + DIGITS.upper().encode() + b'"}',
        b'{"id": "sha256:' + DIGITS.encode() + b'/.."}',
        b'{"id": 7}',
        b"\xff\xfe",
    ],
)
def test_pointer_that_names_no_artifact_is_refused(content: bytes) -> None:
    """A pointer holds 64 hexadecimal digits and can lead nowhere but to a folder of that name."""
    with pytest.raises(ArtifactError) as caught:
        decode_pointer(content)
    assert caught.value.code == "registry_pointer"


def test_pointer_with_unknown_fields_is_read() -> None:
    """A registry of a later release can be followed."""
    assert decode_pointer(b'{"id": "sha256:' + DIGITS.encode() + b'", "colour": "red"}').id == f"sha256:{DIGITS}"


def test_pointer_file_absent_or_too_large_is_told_apart(tmp_path: Path) -> None:
    """Nothing published is no error; an enormous pointer is."""
    assert read_pointer(tmp_path) is None
    assert not is_registry(tmp_path)
    (tmp_path / POINTER_FILE).write_bytes(b" " * (MAX_POINTER_BYTES + 1))
    assert is_registry(tmp_path)
    with pytest.raises(ArtifactError):
        read_pointer(tmp_path)


def test_artifact_path_of_something_else_than_an_id_is_refused() -> None:
    """No other text becomes a path."""
    assert artifact_path(f"sha256:{DIGITS}") == f"artifacts/{DIGITS}"
    with pytest.raises(ValueError, match="not an artifact id"):
        artifact_path("sha256:..")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),
        ({"prototypes": 500.0, "support_points": 0.0}, False),
        ({"support_points": 900.0}, True),
        ({"linear.penalty": 1.0, "knn.support_points": 0.0}, False),
        ({"linear.penalty": 1.0, "knn.support_points": 1.0}, True),
    ],
)
def test_prompt_vectors_follow_from_support_points(settings: dict[str, float], expected: bool) -> None:
    """Support points are vectors of single prompts, in an ensemble's member too; prototypes are not."""
    manifest = bundled_manifest()
    assert not holds_prompt_vectors(manifest)
    assert holds_prompt_vectors(msgspec.structs.replace(manifest, hyperparameters=settings)) is expected


def test_captured_prompts_are_known_by_any_source() -> None:
    """One captured source among public ones is enough."""
    manifest = bundled_manifest()
    assert not is_from_captured_prompts(manifest)
    sources = (*manifest.training.sources, SourceEntry("gateway", "Captured", 10, 20))
    training = msgspec.structs.replace(manifest.training, sources=sources)
    assert is_from_captured_prompts(msgspec.structs.replace(manifest, training=training))
