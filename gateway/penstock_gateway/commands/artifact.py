"""``penstock artifact``: what a gateway can say of a router artifact without the training package.

Owns arguments, output and exit codes: 0 in order, 1 refused. Comparing, publishing and rolling back are
``penstock-train``'s. Read `verify_command`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock_gateway.commands.admin_client import write_json
from penstock_gateway.commands.fetch_artifact import fetch_artifact_command

if TYPE_CHECKING:
    from penstock_routers.manifest import Manifest


@click.group("artifact")
def artifact_group() -> None:
    """Show, verify and fetch router artifacts; penstock-train compares, publishes and rolls back."""


artifact_group.add_command(fetch_artifact_command, "fetch")


@artifact_group.command("show")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
def show_command(folder: Path, as_json: bool) -> int:
    """Show the id, the arms and what FOLDER was made for; of a registry, the artifact in force."""
    manifest = _manifest(folder)
    shown: dict[str, Any] = {
        "id": manifest.id,
        "family": str(manifest.family),
        "arms": list(manifest.arms),
        "encoder": manifest.encoder.id,
        "categories": list(manifest.categories),
        "features": len(manifest.feature_names),
        "novelty_max": manifest.guard.novelty_max,
        "reference_arm": manifest.reference_arm,
    }
    if as_json:
        write_json(shown)
        return 0
    for name, value in shown.items():
        text = ", ".join(value) if isinstance(value, list) else value
        click.echo(f"{name.replace('_', ' '):<14} {text}")
    return 0


@artifact_group.command("verify")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--digest", help="Id that it must have: sha256: and 64 digits.")
@click.option("--public-key", help="Ed25519 key, base64, that must have signed it.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
def verify_command(folder: Path, digest: str | None, public_key: str | None, as_json: bool) -> int:
    """Check FOLDER as a gateway does before it serves it: who made it, hashes, operators, golden batch."""
    from penstock_gateway.artifact_source import Trust, check_trust
    from penstock_routers.artifact import RouterArtifact
    from penstock_routers.errors import RouterError
    from penstock_routers.signatures import decode_public_key

    place = _place(folder)
    try:
        trust = Trust(digest, None if public_key is None else decode_public_key(public_key))
        trusted_id = check_trust(place, trust)
        found = RouterArtifact.load(place, encoder_id=None, expected_id=trusted_id)
    except RouterError as error:
        if as_json:
            write_json({"ok": False, "code": error.code, "problem": str(error)})
            return 1
        raise click.ClickException(f"{error} ({error.code})") from error
    if as_json:
        write_json({"ok": True, "id": found.id, "is_trusted": trusted_id is not None})
        return 0
    click.echo(f"{found.id}: hashes, graph and golden batch are in order")
    if trusted_id is None:
        click.echo("who made it was not checked: give --digest or --public-key")
    return 0


def _place(folder: Path) -> Path:
    """Return the artifact's folder; of a registry, the one in force."""
    from penstock_gateway.artifact_source import offered_id
    from penstock_routers.errors import RouterError
    from penstock_routers.registry_layout import artifact_path, is_registry

    try:
        return folder / artifact_path(offered_id(folder)) if is_registry(folder) else folder
    except RouterError as error:
        raise click.ClickException(f"{error} ({error.code})") from error


def _manifest(folder: Path) -> Manifest:
    from penstock_routers.artifact import MAX_MANIFEST_BYTES
    from penstock_routers.errors import ArtifactError, RouterError
    from penstock_routers.manifest import MANIFEST_FILE, decode_manifest
    from penstock_routers.model_files import read_model_file

    path = _place(folder) / MANIFEST_FILE
    try:
        return decode_manifest(
            read_model_file(
                path,
                MAX_MANIFEST_BYTES,
                error=ArtifactError,
                missing_code="artifact_missing",
                too_large_code="artifact_oversize",
            )
        )
    except RouterError as error:
        raise click.ClickException(f"{error} ({error.code})") from error
