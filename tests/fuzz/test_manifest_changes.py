"""Manifests changed at one place, with a right id: loaded or refused, never another error."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_routers.artifact import RouterArtifact
from penstock_routers.errors import ArtifactError
from penstock_routers.manifest import Manifest, artifact_id, encode_manifest
from support.small_router import ENCODER, fitted_small_router, small_manifest

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "cheap", "../..", [], {}, [[]], [[1.0], [1.0, 2.0]], 0, -1, 1e300]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small router's graph."""
    path = tmp_path_factory.mktemp("changed")
    (path / "router.onnx").write_bytes(fitted_small_router()[1].graph)
    return path


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values inside a JSON value, at most the first two of a list."""
    entries: list[Any] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value[:2]))
    return [path, *(place for key, item in entries for place in _places(item, (*path, key)))]


def _with_right_id(content: Any, graph: bytes) -> bytes:
    """Give the changed content the id that belongs to it, so that the checks behind the hash are reached."""
    try:
        manifest = msgspec.convert(content, Manifest)
    except msgspec.ValidationError:
        return json.dumps(content).encode()
    return encode_manifest(msgspec.structs.replace(manifest, id=artifact_id(manifest, graph)))


@pytest.mark.filterwarnings("ignore:overflow encountered")  # 1e300 as a float32
@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_load_manifest_changed_at_one_place_loads_or_is_an_artifact_error(data: st.DataObject, folder: Path) -> None:
    """Whatever stands at one place of a manifest, the result is a router or an `ArtifactError`."""
    content = json.loads(encode_manifest(small_manifest()))
    *above, last = data.draw(st.sampled_from([place for place in _places(content) if place]))
    target = content
    for key in above:
        target = target[key]
    target[last] = data.draw(VALUES)
    (folder / "manifest.json").write_bytes(_with_right_id(content, fitted_small_router()[1].graph))
    with contextlib.suppress(ArtifactError):
        assert RouterArtifact.load(folder, encoder_id=ENCODER.id).id.startswith("sha256:")
