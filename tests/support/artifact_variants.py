"""Artifacts that differ from the bundled one in their settings only, so that a test has several within a second."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec

from penstock_routers.bundled import bundled_folder
from penstock_routers.manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    Manifest,
    artifact_id,
    decode_manifest,
    encode_manifest,
)

BUNDLED = "default-router"


def bundled_manifest() -> Manifest:
    """Return the manifest of the bundled artifact."""
    return decode_manifest((bundled_folder(BUNDLED) / MANIFEST_FILE).read_bytes())


def write_variant(folder: Path, *, cost_weight: float | None = None, **changes: Any) -> str:
    """Write the bundled artifact with another λ at ``balanced`` or other changes of its manifest; return its id."""
    graph = (bundled_folder(BUNDLED) / GRAPH_FILE).read_bytes()
    manifest = bundled_manifest()
    if cost_weight is not None:
        points = [
            msgspec.structs.replace(point, cost_weight=cost_weight) if point.name == "balanced" else point
            for point in manifest.operating_points
        ]
        manifest = msgspec.structs.replace(manifest, operating_points=tuple(points))
    manifest = msgspec.structs.replace(manifest, **changes)
    manifest = msgspec.structs.replace(manifest, id=artifact_id(manifest, graph))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GRAPH_FILE).write_bytes(graph)
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    return manifest.id


def damage(folder: Path) -> None:
    """Change one byte of the graph."""
    path = folder / GRAPH_FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def copy_artifact(source: Path, target: Path) -> None:
    """Copy an artifact folder."""
    shutil.copytree(source, target)
