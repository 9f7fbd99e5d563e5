"""``penstock artifact fetch``: a router from an object store into a folder, for containers that start with none.

Owns arguments, output and exit codes: 0 fetched or there already, 1 refused. Nothing but an artifact with the right
digest is ever seen under the folder's name. Read `fetch`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from penstock_gateway.commands.admin_client import write_json


@click.command("fetch")
@click.argument("url")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--digest", required=True, help="Id that it must have: sha256: and 64 digits.")
@click.option("--public-key", help="Ed25519 key, base64, that must have signed it.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
def fetch_artifact_command(url: str, folder: Path, digest: str, public_key: str | None, as_json: bool) -> int:
    """Copy the artifact folder at URL (s3://…, gs://…, a path) to FOLDER, once its digest has been checked.

    \b
    penstock artifact fetch s3://routers/support /artifact/router --digest sha256:…

    s3:// and gs:// need the extra 'ship', other stores their fsspec package beside it (adlfs …). Credentials come from
    where the clients look for them: variables, files, the identity of the pod. A FOLDER that already has this artifact
    is left as it is.
    """  # noqa: D301 - click reads the character
    from penstock_routers.errors import RouterError

    try:
        has_fetched = fetch(url, folder, digest=digest, public_key=public_key)
    except RouterError as error:
        raise click.ClickException(f"{error} ({error.code})") from error
    if as_json:
        write_json({"id": digest, "folder": str(folder), "fetched": has_fetched})
    else:
        click.echo(f"{digest}: {'fetched to' if has_fetched else 'already in'} {folder}")
    return 0


def fetch(url: str, folder: Path, *, digest: str, public_key: str | None = None) -> bool:
    """Fetch an artifact, unless the folder has it.

    Parameters
    ----------
    url : str
        Of an artifact's folder, as fsspec names it.
    folder : Path
        Is replaced as a whole.
    digest : str
    public_key : str, optional
        Base64.

    Returns
    -------
    bool
        Whether it was fetched.

    Raises
    ------
    ArtifactError
        ``artifact_source_unusable``, ``artifact_missing``, ``artifact_oversize``, ``artifact_other_digest`` and the
        other codes of `artifact_source.check_trust`; the folder is as it was.
    """
    import shutil
    import tempfile

    from penstock_gateway.artifact_source import Trust, check_trust
    from penstock_routers.errors import ArtifactError
    from penstock_routers.registry_layout import is_artifact_id
    from penstock_routers.signatures import decode_public_key

    if not is_artifact_id(digest):
        raise ArtifactError("the digest should be sha256: and 64 digits", code="artifact_other_digest")
    trust = Trust(digest, None if public_key is None else decode_public_key(public_key))
    if folder.is_dir():
        try:
            check_trust(folder, trust)
        except ArtifactError:
            pass  # another one, or half of one
        else:
            return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as name:
        fetched = Path(name) / "artifact"
        fetched.mkdir()
        _copy(url, fetched)
        check_trust(fetched, trust)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(fetched, folder)
    return True


def _copy(url: str, folder: Path) -> None:
    """Copy the small files, then what the manifest says lies beside them, each up to its size."""
    from penstock_routers.artifact import MAX_ARTIFACT_BYTES, MAX_MANIFEST_BYTES
    from penstock_routers.manifest import GRAPH_FILE, MANIFEST_FILE, decode_manifest
    from penstock_routers.signatures import MAX_SIGNATURE_BYTES, SIGNATURE_FILE

    files, base = _store(url)
    _copy_file(files, f"{base}/{MANIFEST_FILE}", folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)
    manifest = decode_manifest((folder / MANIFEST_FILE).read_bytes())
    _copy_file(files, f"{base}/{GRAPH_FILE}", folder / GRAPH_FILE, MAX_ARTIFACT_BYTES)
    _copy_file(files, f"{base}/{SIGNATURE_FILE}", folder / SIGNATURE_FILE, MAX_SIGNATURE_BYTES, is_needed=False)
    if manifest.neighbours is not None:
        for name, size in manifest.neighbours.sizes.items():
            _copy_file(files, f"{base}/{name}", folder / name, size)


def _store(url: str) -> tuple[Any, str]:
    """Return the store and the folder in it."""
    from penstock_gateway.object_stores import open_store
    from penstock_routers.errors import ArtifactError
    from penstock_routers.installation import install_command

    try:
        return open_store(url)
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "fsspec":
            message = f"fetching needs fsspec, which is not installed: {install_command('ship')}"
        else:
            message = f"the place cannot be used: no client for it is installed ({type(error).__name__})"
        raise ArtifactError(message, code="artifact_source_unusable") from error
    except (ValueError, OSError) as error:
        message = f"the place cannot be used: {type(error).__name__}"
        raise ArtifactError(message, code="artifact_source_unusable") from error


def _copy_file(files: Any, source: str, target: Path, max_bytes: int, *, is_needed: bool = True) -> None:
    from penstock_routers.errors import ArtifactError

    name = target.name
    left = max_bytes
    try:
        with files.open(source, "rb") as reader, target.open("xb") as writer:
            while block := reader.read(1 << 20):
                left -= len(block)
                if left < 0:
                    raise ArtifactError(f"{name} is larger than {max_bytes:,} bytes", code="artifact_oversize")
                writer.write(block)
    except FileNotFoundError as error:
        target.unlink(missing_ok=True)
        if is_needed:
            raise ArtifactError(f"the source has no {name}", code="artifact_missing") from error
    except OSError as error:
        message = f"{name} could not be read: {type(error).__name__}"
        raise ArtifactError(message, code="artifact_source_unusable") from error
