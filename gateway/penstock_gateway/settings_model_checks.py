"""Whether the configured artifact and encoder can serve, without loading them.

Owns the checks that ``penstock check-config`` makes and ``penstock serve`` does not insist on. Graphs are hashed, never
run: ``penstock doctor`` loads them. Read `check_models` first.
"""

from __future__ import annotations

from pathlib import Path

from penstock_gateway.artifact_source import is_artifact_url
from penstock_gateway.configuration_problems import did_you_mean
from penstock_gateway.settings_checks import note_settings
from penstock_gateway.settings_deployments import artifact_folder, model_folder, read_artifact_arms
from penstock_gateway.settings_models import RoutingSettings, Settings
from penstock_gateway.settings_policy_checks import check_floor_categories
from penstock_gateway.settings_source import SettingsSource
from penstock_routers.bundled import DEFAULT_ENCODER, PARAPHRASE_ENCODER
from penstock_routers.encoder_manifest import EncoderManifest, read_encoder_folder
from penstock_routers.errors import RouterError
from penstock_routers.manifest import GRAPH_FILE, MANIFEST_FILE, Manifest, artifact_id, decode_manifest

_MAX_FILE_BYTES = 64 << 20  # as for serving, `penstock_routers.artifact.MAX_ARTIFACT_BYTES`


def check_models(settings: Settings, source: SettingsSource) -> None:
    """Add a problem for an artifact, an encoder or an arm with which nothing can be routed.

    Parameters
    ----------
    settings : Settings
        Valid in shape.
    source : SettingsSource
        Where each setting was written.
    """
    if settings.routing.artifact == "none":
        return
    if is_artifact_url(settings.routing.artifact):
        _encoder(settings.routing, source)
        return
    artifact = _artifact(settings.routing, source)
    encoder = _encoder(settings.routing, source)
    if artifact is not None and encoder is not None and artifact.encoder.id != encoder.encoder_id:
        source.report(
            ("routing", "encoder"),
            f"the artifact was fitted with {artifact.encoder.id}, not with {encoder.encoder_id}",
            f"set encoder: {artifact.encoder.name}",
        )
    if artifact is not None:
        check_floor_categories(settings, source, artifact.categories)
    arms = read_artifact_arms(settings.routing)
    for index, entry in enumerate(settings.deployments):
        if arms and entry.arm is not None and entry.arm not in arms:
            message = f"the artifact has no arm {entry.arm!r}"
            source.report(("deployments", index, "arm"), message, did_you_mean(entry.arm, arms))


def routing_obstacle(settings: Settings) -> str:
    """Return in one sentence why a gateway with these settings does not route; the log has the loader's own words."""
    if settings.routing.artifact == "none":
        return "routing.artifact is none"
    if is_artifact_url(settings.routing.artifact):
        return "until the artifact has been fetched"
    source = SettingsSource("settings", Path.cwd())
    check_models(settings, source)
    found = [problem for problem in source.problems if problem.setting.startswith("routing.")]
    found += [note for note in note_settings(settings) if note.setting == "routing.default_arm"]
    return found[0].message if found else "the log says why"


def _artifact(routing: RoutingSettings, source: SettingsSource) -> Manifest | None:
    key = ("routing", "artifact")
    try:
        folder = artifact_folder(routing)
        assert folder is not None
        if not (folder / MANIFEST_FILE).is_file():
            written = source.written.get(key, routing.artifact)
            hint = f"make one with: penstock-train fit --outcomes FILE --out {written}"
            source.report(key, f"{written} has no {MANIFEST_FILE}", hint)
            return None
        manifest = decode_manifest(_read(folder / MANIFEST_FILE))
        if artifact_id(manifest, _read(folder / GRAPH_FILE)) != manifest.id:
            message = f"{MANIFEST_FILE} and {GRAPH_FILE} in {folder.name!r} are damaged or do not belong together"
            source.report(key, message, "copy the whole folder again")
        return manifest
    except OSError as error:
        source.report(key, f"{GRAPH_FILE} or {MANIFEST_FILE} cannot be read: {error.strerror or 'unknown error'}")
        return None
    except RouterError as error:
        if error.code == "bundled_model_missing" and routing.artifact != "default":
            message = f"there is no bundled artifact {routing.artifact!r}"
            near = did_you_mean(routing.artifact, ("default", "none"))
            source.report(key, message, f"{near}; a folder is written ./{routing.artifact}")
        else:
            source.report(key, error.message)
        return None


def _encoder(routing: RoutingSettings, source: SettingsSource) -> EncoderManifest | None:
    key = ("routing", "encoder")
    try:
        folder = model_folder(routing.encoder)
        if not (folder / MANIFEST_FILE).is_file():
            source.report(key, f"{source.written.get(key, routing.encoder)} has no {MANIFEST_FILE}")
            return None
        return read_encoder_folder(folder)[0]
    except RouterError as error:
        if error.code == "bundled_model_missing":
            near = did_you_mean(routing.encoder, (DEFAULT_ENCODER, PARAPHRASE_ENCODER))
            source.report(key, f"there is no bundled encoder {routing.encoder!r}", near)
        else:
            source.report(key, error.message)
        return None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_FILE_BYTES)
