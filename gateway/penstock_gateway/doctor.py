"""What is right and wrong with an installation: one finding per line, each with its fix.

Owns the checks behind ``penstock doctor``. It changes nothing, calls no provider and shows no secret. Read `examine`
first.
"""

from __future__ import annotations

import asyncio
import platform
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from penstock_gateway.artifact_source import is_artifact_url
from penstock_gateway.configuration_problems import ConfigurationError
from penstock_gateway.doctor_cache import examine_cache
from penstock_gateway.doctor_machine import port_holder
from penstock_gateway.findings import Finding
from penstock_gateway.listening import port_problem
from penstock_gateway.settings import Settings, find_configuration, load_settings, note_settings
from penstock_gateway.settings_deployments import model_folder
from penstock_gateway.settings_models import RoutingSettings
from penstock_gateway.wiring import RoutingFinding, fetch_artifact, load_routing
from penstock_routers.encoder_manifest import read_encoder_folder
from penstock_routers.errors import RouterError
from penstock_routers.installation import install_command
from penstock_routers.manifest import MANIFEST_FILE

if TYPE_CHECKING:
    from penstock_routers.manifest import Manifest

VersionOf = Callable[[str], str | None]

PINNED_LITELLM = "1.105.3"
_MINIMUM_PYTHON = (3, 11)


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution without importing it; None when it is not there."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def examine(
    path: Path | None, environ: Mapping[str, str], *, version_of: VersionOf = installed_version
) -> tuple[Finding, ...]:
    """Look at the installation and the configuration.

    Parameters
    ----------
    path : Path or None
        Configuration file; None looks where ``penstock serve`` looks.
    environ : mapping of str to str
    version_of : callable
        Distribution name → version or None; tests pass their own.

    Returns
    -------
    tuple of Finding
        In reading order. The installation works when none is a ``"fail"``.
    """
    findings = [_python(), *_builds(version_of), *_options(version_of)]
    settings, found = _configuration(path, environ)
    findings += found
    found, manifest = _routing(settings.routing if settings else RoutingSettings())
    findings += found
    if settings is not None:
        findings += examine_cache(settings, manifest)
        findings.append(_port(settings.server.host, settings.server.port))
        if settings.admin.port is not None:
            findings.append(_port(settings.admin.host, settings.admin.port, "admin.port"))
    return tuple(findings)


def _python() -> Finding:
    version = platform.python_version()
    detail = f"{version} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] < _MINIMUM_PYTHON:
        return Finding("fail", "python", detail, "install Python 3.11 or newer")
    return Finding("ok", "python", detail)


def _builds(version_of: VersionOf) -> list[Finding]:
    """Two builds of one library overwrite each other's files, and pip does not notice."""
    findings = [_build("onnxruntime", version_of, is_needed=True), _build("faiss", version_of, is_needed=False)]
    has_cpu = version_of("onnxruntime") is not None or version_of("faiss-cpu") is not None
    has_gpu = version_of("onnxruntime-gpu") is not None or version_of("faiss-gpu") is not None
    if has_cpu and has_gpu and all(finding.level == "ok" for finding in findings):
        detail = "one library is the CPU build, the other the GPU build"
        findings.append(Finding("warn", "builds", detail, "choose one of the extras cpu and gpu"))
    return findings


def _build(library: str, version_of: VersionOf, *, is_needed: bool) -> Finding:
    cpu_name = "onnxruntime" if library == "onnxruntime" else f"{library}-cpu"
    cpu, gpu = version_of(cpu_name), version_of(f"{library}-gpu")
    if cpu is not None and gpu is not None:
        fix = f"pip uninstall -y {cpu_name} {library}-gpu, then {install_command('cpu')} (or gpu in the place of cpu)"
        return Finding("fail", library, f"both {cpu_name} {cpu} and {library}-gpu {gpu} are installed", fix)
    if cpu is None and gpu is None:
        if is_needed:
            fix = f"{install_command('cpu')} (or gpu in the place of cpu)"
            return Finding("fail", library, "is not installed, so nothing can be routed", fix)
        return Finding("ok", library, "not installed; only routers with an index beside the graph need it")
    return Finding("ok", library, f"{cpu_name} {cpu}" if cpu is not None else f"{library}-gpu {gpu}")


def _options(version_of: VersionOf) -> list[Finding]:
    litellm, redis = version_of("litellm"), version_of("redis")
    if litellm is None:
        found = Finding("ok", "litellm", "not installed; only deployments with adapter litellm need it")
    elif litellm != PINNED_LITELLM:
        detail = f"{litellm}; Penstock is tested with {PINNED_LITELLM}"
        found = Finding("warn", "litellm", detail, install_command("litellm"))
    else:
        found = Finding("ok", "litellm", litellm)
    return [found, Finding("ok", "redis", redis or "not installed; state is kept in this process")]


def _configuration(path: Path | None, environ: Mapping[str, str]) -> tuple[Settings | None, list[Finding]]:
    file = path or find_configuration(environ)
    try:
        settings = load_settings(path, environ)
    except ConfigurationError as error:
        if file is None and len(error.problems) == 1:
            problem = error.problems[0]
            return None, [Finding("warn", "configuration", problem.message, problem.hint)]
        return None, [
            Finding("fail", "configuration", f"{problem.where}: {problem.setting}: {problem.message}", problem.hint)
            for problem in error.problems
        ]
    origin = str(file) if file else "provider keys in the environment"
    size = len(settings.deployments)
    detail = f"{origin}: {size} deployment{'' if size == 1 else 's'}, default {settings.default_arm}"
    messages = list(dict.fromkeys(note.message for note in note_settings(settings, environ)))
    notes = [Finding("ok", "base URL", message) for message in messages if "requests go to" in message]
    if count := len(messages):
        plural = "note: penstock check-config shows it" if count == 1 else "notes: penstock check-config shows them"
        notes.append(Finding("ok", "configuration", f"{count} {plural}"))
    return settings, [Finding("ok", "configuration", detail), *notes]


def _routing(routing: RoutingSettings) -> tuple[list[Finding], Manifest | None]:
    """Load what routing needs; the manifest is there when it could be."""
    if is_artifact_url(routing.artifact):
        return _remote_artifact(routing)
    parts, refused = load_routing(routing)
    if refused is not None:
        fix = _routing_fix(routing, refused)
        return [Finding("fail", "routing", f"{refused.message} [{refused.code}]", fix)], None
    if parts is None:
        return [Finding("warn", "routing", "routing.artifact is none: 'auto' always takes the default arm")], None
    detail = f"encoder {routing.encoder}, artifact {parts.artifact.id[:19]} ({parts.artifact.manifest.family})"
    return [Finding("ok", "routing", f"{detail}{_proof(routing)}{_age(routing)}")], parts.artifact.manifest


def _remote_artifact(routing: RoutingSettings) -> tuple[list[Finding], Manifest | None]:
    """Fetch and verify the artifact once, as a server does when it starts."""
    try:
        encoder_id = read_encoder_folder(model_folder(routing.encoder))[0].encoder_id
        artifact = asyncio.run(fetch_artifact(routing, encoder_id))
    except RouterError as error:
        refused = RoutingFinding(error.code, error.message)
        fix = _routing_fix(routing, refused)
        return [Finding("fail", "routing", f"{refused.message} [{refused.code}]", fix)], None
    detail = (
        f"encoder {routing.encoder}, artifact {artifact.id[:19]} ({artifact.manifest.family}) from {routing.artifact}"
    )
    return [Finding("ok", "routing", detail + _proof(routing))], artifact.manifest


def _proof(routing: RoutingSettings) -> str:
    """Say what the artifact was compared with; whoever loaded it has done that."""
    proofs = ["content matches its id"]
    if routing.artifact_digest is not None:
        proofs.append("and the configured digest")
    if routing.artifact_public_key is not None:
        proofs.append("signed by the configured key")
    return ": " + ", ".join(proofs)


def _age(routing: RoutingSettings) -> str:
    """Say how long ago a folder of one's own was written; the bundled one is as old as the release."""
    try:
        written = (Path(routing.artifact) / MANIFEST_FILE).stat().st_mtime
    except OSError:
        return ""
    return f", written {max(0.0, time.time() - written) / 86_400.0:.0f} days ago"


def _routing_fix(routing: RoutingSettings, refused: RoutingFinding) -> str:
    """What is configured may be mistyped; what is bundled may be damaged."""
    if refused.code == "missing_extra":
        return install_command("cpu")
    bundled = RoutingSettings()
    if routing.encoder != bundled.encoder and not refused.code.startswith("artifact_"):
        return "check routing.encoder: a bundled name or a folder"
    if refused.code == "artifact_encoder_mismatch":
        return "set routing.encoder to the one that the artifact was fitted with"
    if routing.artifact != bundled.artifact:
        if refused.code.startswith("signature_") or refused.code == "artifact_other_digest":
            return "check routing.artifact_digest and routing.artifact_public_key, and who published the artifact"
        what = "address" if is_artifact_url(routing.artifact) else "folder"
        return f"check the {what} named in routing.artifact"
    return "install Penstock again: a bundled model is missing or damaged"


def _port(host: str, port: int, subject: str = "port") -> Finding:
    problem = port_problem(host, port)
    if problem is None:
        return Finding("ok", subject, f"{host}:{port} is free")
    holder = port_holder(port)
    other = "use --port" if subject == "port" else f"change {subject}"
    if holder is None:
        return Finding("warn", subject, problem, f"stop what listens there, or {other}")
    return Finding(
        "warn", subject, f"{problem}: {holder} listens there", f"stop it, or {other}; fine if it is Penstock"
    )
