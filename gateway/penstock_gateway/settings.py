"""The door to the configuration: find it, read it, check it, and build what the gateway runs on.

Owns the order of the steps and the names that the rest of the gateway imports. A configuration is either right or
refused with all of its problems. Read `load_settings` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from penstock_gateway.configuration_problems import ConfigurationError, Problem
from penstock_gateway.environment import default_arm_of, deployments_from_keys, key_of, use_foreign_variables
from penstock_gateway.providers import PROVIDERS
from penstock_gateway.settings_checks import check_settings, note_settings
from penstock_gateway.settings_deployments import build_deployments, with_default_arm
from penstock_gateway.settings_model_checks import check_models
from penstock_gateway.settings_models import DeploymentSettings, Settings
from penstock_gateway.settings_source import SettingKey, SettingsSource, entries, read_source
from penstock_gateway.settings_validation import explain

__all__ = [
    "ConfigurationError",
    "DeploymentSettings",
    "Problem",
    "Settings",
    "build_deployments",
    "find_configuration",
    "load_settings",
    "note_settings",
]

CONFIGURATION_VARIABLE = "PENSTOCK_CONFIG"
DEFAULT_FILE = Path("penstock.yaml")

_OPTIONS: dict[str, SettingKey] = {
    "--host": ("server", "host"),
    "--port": ("server", "port"),
    "--workers": ("server", "workers"),
}

_NOTHING_FOUND = (
    "there is no configuration and no provider key, so there is no model to call",
    "try: penstock demo (needs no key); or: export OPENAI_API_KEY=… (or ANTHROPIC_API_KEY) and start again; "
    "or write ./penstock.yaml: 'deployments: [{name: gpt-5-mini, provider: openai, tier: small}]'",
)


def load_settings(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    is_insecure: bool = False,
    must_route: bool = False,
) -> Settings:
    """Read and check a configuration.

    Parameters
    ----------
    path : Path or None
        The file. None: ``PENSTOCK_CONFIG``, then ``./penstock.yaml``, then the environment alone.
    environ : mapping of str to str
        ``PENSTOCK__SECTION__SETTING`` variables lie over the file; ``${VARIABLE}`` references are looked up here.
    host, port, workers : str, int, int, optional
        Command-line options; they lie over everything.
    is_insecure : bool
        Accept a non-loopback address without client keys.
    must_route : bool
        Also refuse an artifact or encoder that cannot serve. The gateway itself starts without: it then sends every
        ``auto`` request to the default arm.

    Returns
    -------
    Settings

    Raises
    ------
    ConfigurationError
        With all problems: place, setting, what is wrong, nearest match.
    """
    path = path or find_configuration(environ)
    options = {"--host": host}
    options |= {name: None if n is None else str(n) for name, n in (("--port", port), ("--workers", workers))}
    overrides = {name: (_OPTIONS[name], text) for name, text in options.items() if text is not None}
    source = read_source(path, environ, overrides)
    if source.problems and not source.tree:
        raise ConfigurationError(source.problems)  # not a configuration at all: nothing more can be said of it
    if path is None and not source.tree.get("deployments"):
        _use_keys(source, environ)
    else:
        _use_provider_keys(source, environ)
    _resolve_paths(source)
    settings = _validate(source)
    if settings is not None:
        check_settings(settings, source, is_insecure=is_insecure)
        if must_route:
            check_models(settings, source)
    if source.problems or settings is None:
        raise ConfigurationError(sorted(source.problems, key=_reading_order))
    return with_default_arm(settings)


def find_configuration(environ: Mapping[str, str]) -> Path | None:
    """Return the file that would be read: ``PENSTOCK_CONFIG``, else ``./penstock.yaml`` if there, else None."""
    named = environ.get(CONFIGURATION_VARIABLE)
    if named:
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def _use_keys(source: SettingsSource, environ: Mapping[str, str]) -> None:
    """Without a file, and without deployments in PENSTOCK__ variables, take the providers whose keys are there."""
    server = source.tree.get("server")
    deployments = deployments_from_keys(environ, server if isinstance(server, dict) else None)
    if not deployments:
        raise ConfigurationError([*source.problems, Problem("environment", "", *_NOTHING_FOUND)])
    source.tree["deployments"] = deployments
    for entry in deployments:
        source.hide(str(entry["api_key"]))
    routing = source.tree.setdefault("routing", {})
    is_own_artifact = isinstance(routing, dict) and routing.get("artifact") not in (None, "default", "none")
    if isinstance(routing, dict) and not routing.get("default_arm") and not is_own_artifact:
        routing["default_arm"] = default_arm_of(deployments)
        source.places["routing", "default_arm"] = "environment"
    use_foreign_variables(source, environ)


def _use_provider_keys(source: SettingsSource, environ: Mapping[str, str]) -> None:
    """Give deployments without a credential the one in their provider's usual variable.

    Only when the base URL is the provider's own: a key never goes to another host because of a default.
    """
    for entry in entries(source, "deployments"):
        provider = PROVIDERS.get(str(entry.get("provider")))
        if provider is None or entry.get("adapter", provider.adapter) != "direct" or entry.get("base_url"):
            continue
        key = key_of(provider.name, environ)
        if not entry.get("api_key") and not entry.get("api_key_file") and key:
            entry["api_key"] = key
            source.hide(key)


def _resolve_paths(source: SettingsSource) -> None:
    """Make relative paths start at the configuration's folder."""
    for section, name in (("client_keys", "key_file"), ("deployments", "api_key_file")):
        for entry in entries(source, section):
            if isinstance(entry.get(name), str):
                entry[name] = str(source.folder / Path(str(entry[name])).expanduser())
    for section, name in (
        ("admin", "key_file"),
        ("accounts", "pepper_file"),
        ("accounts", "folder"),
        ("encoder", "ca_file"),
    ):
        part = source.tree.get(section)
        if isinstance(part, dict) and isinstance(part.get(name), str) and part[name]:
            source.written[section, name] = part[name]
            part[name] = str(source.folder / Path(part[name]).expanduser())
    routing = source.tree.get("routing")
    for name in ("artifact", "encoder"):
        text = routing.get(name) if isinstance(routing, dict) else None
        is_path = isinstance(text, str) and "://" not in text and ("/" in text or text.startswith((".", "~")))
        if isinstance(routing, dict) and isinstance(text, str) and is_path:
            routing[name] = str(source.folder / Path(text).expanduser())
            source.written["routing", name] = text
    events = source.tree.get("events")
    if isinstance(events, dict) and isinstance(events.get("folder"), str) and events["folder"]:
        source.written["events", "folder"] = events["folder"]
        events["folder"] = str(source.folder / Path(events["folder"]).expanduser())
    cache = source.tree.get("cache")
    if isinstance(cache, dict):
        _resolve_cache_paths(cache, source)


def _resolve_cache_paths(cache: dict[str, object], source: SettingsSource) -> None:
    store = cache.get("store")
    if isinstance(store, dict) and isinstance(store.get("folder"), str) and store["folder"]:
        source.written["cache", "store", "folder"] = store["folder"]
        store["folder"] = str(source.folder / Path(store["folder"]).expanduser())
    for name in ("rule", "verifier"):
        text = cache.get(name)
        if isinstance(text, str) and ("/" in text or text.startswith((".", "~"))):
            source.written["cache", name] = text
            cache[name] = str(source.folder / Path(text).expanduser())


def _validate(source: SettingsSource) -> Settings | None:
    """Return the settings; when the shape is wrong, what is left of them, so that the checks can go on."""
    try:
        return Settings.model_validate(source.tree)
    except ValidationError as error:
        explain(error, source)
    try:
        return Settings.model_validate(source.tree)
    except ValidationError:
        return None


def _reading_order(problem: Problem) -> tuple[str, int]:
    """Sort by file, then line."""
    name, _, rest = problem.where.partition(":")
    line = rest.partition(":")[0]
    return name, int(line) if line.isdecimal() else 0
