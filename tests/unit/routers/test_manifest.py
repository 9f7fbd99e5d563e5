"""The manifest: strict reading, canonical bytes, id."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from penstock_routers.errors import ArtifactError
from penstock_routers.manifest import artifact_id, canonical_bytes, decode_manifest, encode_manifest
from support.small_router import fitted_small_router, small_manifest


def _changed(**changes: Any) -> bytes:
    return json.dumps(json.loads(encode_manifest(small_manifest())) | changes).encode()


def _part(name: str) -> Any:
    return json.loads(encode_manifest(small_manifest()))[name]


def _first(name: str, **changes: Any) -> list[Any]:
    """Return a list of the manifest whose first entry is changed."""
    first, *rest = _part(name)
    return [first | changes, *rest]


def test_decode_manifest_of_encoded_one_is_equal() -> None:
    """Writing and reading a manifest loses nothing, floating-point digits included."""
    assert decode_manifest(encode_manifest(small_manifest())) == small_manifest()


def test_artifact_id_follows_content_and_graph_but_not_the_stated_id() -> None:
    """The id covers every field except itself, and the graph."""
    manifest, graph = small_manifest(), fitted_small_router()[1].graph
    assert artifact_id(manifest, graph) == manifest.id
    assert artifact_id(msgspec.structs.replace(manifest, id="other"), graph) == manifest.id
    assert artifact_id(manifest, graph + b"\x00") != manifest.id
    assert artifact_id(msgspec.structs.replace(manifest, reference_input_tokens=1.0), graph) != manifest.id


def test_canonical_bytes_do_not_depend_on_indentation() -> None:
    """Reformatting manifest.json does not change what is hashed."""
    compact = json.dumps(json.loads(encode_manifest(small_manifest())), separators=(",", ":")).encode()
    assert canonical_bytes(decode_manifest(compact)) == canonical_bytes(small_manifest())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"null",
        b'{"schema_version": "1"}',
        b"[" * 100_000,
        _changed(schema_version=2),
        _changed(unknown_field=1),
        _changed(family="pickle"),
        _changed(arms=["cheap", "cheap", "dear"]),
        _changed(arms=["dear", "middle", "cheap"]),
        _changed(arms=[], arm_entries=[]),
        _changed(reference_arm="nobody"),
        _changed(categories=["maths"]),
        _changed(reference_output_tokens=0.0),
        _changed(frontier=[]),
        _changed(operating_points=[]),
        _changed(operating_points=_first("operating_points", cost_weight=-1.0)),
        _changed(operating_points=_first("operating_points", guard_z=-1.0)),
        _changed(operating_points=[*_part("operating_points"), _part("operating_points")[0]]),
        _changed(arm_entries=_first("arm_entries", price_usd_per_million_input_tokens=-1.0)),
        _changed(inputs=[]),
        _changed(inputs=_first("inputs", shape=[])),
        _changed(golden=_part("golden") | {"tolerance": 1e9}),
        _changed(golden=_part("golden") | {"tolerance": 0.0}),
        _changed(golden=_part("golden") | {"reference_arm": -1}),
        encode_manifest(small_manifest()).replace(b'"tolerance": 0.001', b'"tolerance": NaN'),
        encode_manifest(small_manifest()).replace(b'"tolerance": 0.001', b'"tolerance": 1e999'),
        _changed(guard={"z": -1.0, "novelty_max": 1.0, "novelty_quantile": 0.9, "definition": ""}),
    ],
)
def test_decode_manifest_bad_content_is_refused_with_one_code(raw: bytes) -> None:
    """Whatever is wrong with a manifest, the error is an ArtifactError with the code artifact_schema."""
    with pytest.raises(ArtifactError) as caught:
        decode_manifest(raw)
    assert caught.value.code == "artifact_schema"


def test_decode_manifest_frontier_that_turns_back_is_refused() -> None:
    """A higher position must never mean a larger weight of cost."""
    points = json.loads(encode_manifest(small_manifest()))["frontier"]
    points[-1]["cost_weight"] = 1e9
    with pytest.raises(ArtifactError, match="cost weights"):
        decode_manifest(_changed(frontier=points))
