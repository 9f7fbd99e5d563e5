"""``penstock-train artifact``: what is in artifacts and registries, and going back to an earlier one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock_training.commands.shell import DEFAULT_ARTIFACT, errors_shown, json_option, model_folder
from penstock_training.errors import TrainingError

if TYPE_CHECKING:
    from penstock_routers.manifest import Manifest

_artifact = click.Path(path_type=Path)
_registry = click.Path(path_type=Path, file_okay=False)


@click.group(short_help="Show, compare, verify, list and roll back artifacts.")
def artifact() -> None:
    """Show, compare and verify artifacts; list a registry and roll it back.

    ARTIFACT is a folder, a registry (its artifact in force is meant) or the name of a bundled artifact.
    """


@artifact.command()
@click.argument("folder", metavar="ARTIFACT", type=_artifact)
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Show arms, operating points, guard, sources and versions."""
    with errors_shown(as_json):
        from penstock_training.publishing.description import describe_artifact, describe_text

        place = _folder(folder)
        manifest, key = _manifest(place), _key_of(place)
        click.echo(_json(describe_artifact(manifest, key)) if as_json else describe_text(manifest, key))


@artifact.command()
@click.argument("first", metavar="A", type=_artifact)
@click.argument("second", metavar="B", type=_artifact)
@json_option
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Show how artifact B differs from artifact A."""
    with errors_shown(as_json):
        from penstock_training.publishing.description import compare_artifacts, compare_text

        pair = _manifest(_folder(first)), _manifest(_folder(second))
        click.echo(_json(compare_artifacts(*pair)) if as_json else compare_text(*pair))


@artifact.command()
@click.argument("folder", metavar="ARTIFACT", type=_artifact)
@click.option("--digest", metavar="ID", help="Id that the artifact must have.")
@click.option("--public-key", metavar="KEY", help="Ed25519 key that must have signed it, base64 or a file of that.")
@json_option
def verify(folder: Path, digest: str | None, public_key: str | None, as_json: bool) -> None:
    """Check an artifact as a gateway does: hashes, operators, golden batch, and who made it.

    Hashes alone prove that nothing was damaged, not who made it: give --digest or --public-key for that.
    """
    with errors_shown(as_json):
        from penstock_routers.artifact import RouterArtifact
        from penstock_routers.signatures import verify_signature

        key = None if public_key is None else _public_key(public_key)
        place = _folder(folder)
        found = RouterArtifact.load(place, encoder_id=None)
        if digest is not None and digest.removeprefix("sha256:") != found.id.removeprefix("sha256:"):
            raise TrainingError(f"the artifact's id is {found.id}, not {digest[:80]}", code="artifact_other_digest")
        signer = None if key is None else verify_signature(_signature(place), found.id, key).key_id
    checked = {"id": found.id, "digest_matches": digest is not None, "signed_by": signer}
    if as_json:
        click.echo(_json(checked))
        return
    click.echo(f"{found.id}: hashes, graph and golden batch are in order")
    if signer is not None:
        click.echo(f"signed by {signer}")
    elif digest is None:
        click.echo("who made it was not checked: give --digest or --public-key")


@artifact.command(name="list")
@click.argument("registry", type=_registry)
@json_option
def list_artifacts(registry: Path, as_json: bool) -> None:
    """List the artifacts of a registry and what happened to them."""
    with errors_shown(as_json):
        import msgspec

        from penstock_training.publishing.registry import Registry

        opened = Registry(_existing(registry))
        current, history, ids = opened.current(), opened.history(), opened.artifact_ids()
    in_force = None if current is None else current.id
    if as_json:
        entries: list[dict[str, Any]] = msgspec.to_builtins(history)
        click.echo(_json({"current": in_force, "artifacts": list(ids), "history": entries}))
        return
    click.echo("nothing is in force" if in_force is None else f"in force   {in_force}")
    for entry in history:
        mark = "*" if entry.id == in_force and entry.event in ("publish", "rollback") else " "
        what = entry.event if entry.event != "publish" else f"publish ({entry.verdict})"
        click.echo(f"{mark} {entry.at[:19]}Z  {_short(entry.id)}  {what:<20}  {entry.by}")
        if entry.reason:
            click.echo(f"      {entry.reason}")
    told = {entry.id for entry in history}
    for artifact_id in ids:
        if artifact_id not in told:
            click.echo(f"  {'–':<20}  {_short(artifact_id)}  stored, never in force")


@artifact.command()
@click.argument("registry", type=_registry)
@click.option("--to", metavar="ID", help="Id or its first digits; the one before the present one when omitted.")
@json_option
def rollback(registry: Path, to: str | None, as_json: bool) -> None:
    """Put an earlier artifact of a registry in force again; gateways follow at their next look."""
    with errors_shown(as_json):
        from penstock_training.publishing.registry import Registry

        opened = Registry(_existing(registry))
        with opened.locked():
            pointer = opened.rollback(to)
    if as_json:
        click.echo(_json({"current": pointer.id, "previous": pointer.previous}))
    else:
        click.echo(f"in force   {pointer.id}\nbefore     {pointer.previous}")


def _folder(given: Path) -> Path:
    """An artifact's folder: as given, the one in force in a registry, or a bundled one."""
    from penstock_routers.registry_layout import is_registry
    from penstock_training.publishing.registry import Registry

    if given.is_dir() and is_registry(given):
        found = Registry(given).current_folder()
        if found is None:
            raise TrainingError(f"nothing is in force in the registry {given}", code="registry_empty")
        return found
    return model_folder(given, DEFAULT_ARTIFACT, "artifact")


def _existing(registry: Path) -> Path:
    from penstock_routers.registry_layout import is_registry

    if not is_registry(registry):
        raise TrainingError(f"{registry} is no registry: 'penstock-train publish' makes one", code="registry_missing")
    return registry


def _manifest(folder: Path) -> Manifest:
    from penstock_routers.artifact import MAX_MANIFEST_BYTES
    from penstock_routers.errors import ArtifactError
    from penstock_routers.manifest import MANIFEST_FILE, decode_manifest
    from penstock_routers.model_files import read_model_file

    raw = read_model_file(
        folder / MANIFEST_FILE,
        MAX_MANIFEST_BYTES,
        error=ArtifactError,
        missing_code="artifact_missing",
        too_large_code="artifact_oversize",
    )
    return decode_manifest(raw)


def _signature(folder: Path) -> bytes | None:
    from penstock_routers.signatures import read_signature

    return read_signature(folder)


def _key_of(folder: Path) -> str | None:
    """The key that a signature names, unchecked; None without a readable one."""
    from penstock_routers.signatures import claimed_key_id

    return claimed_key_id(_signature(folder))


def _public_key(text: str) -> bytes:
    from penstock_routers.signatures import decode_public_key

    path = Path(text)
    try:
        content = path.read_text(encoding="ascii") if len(text) < 256 and path.is_file() else text
        return decode_public_key(content)
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise TrainingError(f"--public-key {error}", code="key_unusable") from error


def _short(artifact_id: str) -> str:
    return artifact_id.removeprefix("sha256:")[:12]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
