"""Reading a configuration for a gateway that runs already: what changes, and what cannot without a restart.

Owns the list of settings that keep their value. Read `RESTART_SETTINGS`, then `ConfigurationReader.read`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from penstock_gateway.settings import find_configuration, load_settings
from penstock_gateway.settings_ledger import LedgerSettings
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_source import MAX_FILE_BYTES
from penstock_gateway.settings_tracing import TracingSettings

_ROUTER_SETTINGS: Final = (
    "artifact",
    "artifact_digest",
    "artifact_public_key",
    "encoder",
    "device",
)

_KEPT_EVENT_SETTINGS: Final = ("folder", "pseudonym_key", "ship")
_LIVE_LEDGER_SETTINGS: Final = frozenset(
    {"reserve_output_tokens", "top_up_output_tokens", "max_pending_charges", "when_redis_is_away"}
)

RESTART_SETTINGS: Final[tuple[tuple[str, ...], ...]] = (
    *(("tracing", name) for name in TracingSettings.model_fields if name != "sample_share"),
    ("accounts",),  # the store, its pepper and the keys that were read from it
    ("admin", "host"),
    ("admin", "port"),
    *(("events", name) for name in _KEPT_EVENT_SETTINGS),  # bills stand in the log that is written
    # what was spent and is held
    *(("ledger", name) for name in LedgerSettings.model_fields if name not in _LIVE_LEDGER_SETTINGS),
    ("redis",),
    ("encoder",),
    *(("routing", name) for name in _ROUTER_SETTINGS),
    ("server", "host"),
    ("server", "port"),
    ("server", "workers"),
    ("server", "drain_seconds"),  # whoever stops the process counts on it
)
"""Settings of what is made once in a process: a change in the file is told in the log and takes effect at the next
start. Everything else is in force for the requests that arrive after a reload."""


@dataclass(frozen=True, slots=True)
class NewConfiguration:
    """A configuration that can take the place of the one in force.

    Attributes
    ----------
    settings : Settings
        With the running values of what cannot change.
    needs_restart : tuple of str
        The names of those that differ in the file.
    """

    settings: Settings
    needs_restart: tuple[str, ...] = ()


class ConfigurationReader:
    """Reads the configuration of a process again, from the same places.

    Parameters
    ----------
    path : Path or None
        As for `load_settings`.
    environ : mapping of str to str
        The environment of the process does not change; files that it names may.
    host : str, optional
        Command-line option.
    port : int, optional
        Command-line option.
    workers : int, optional
        Command-line option.
    is_insecure : bool
        Command-line option.
    adapt : callable
        Returns the settings that this process lives by, when it is one of several workers.
    """

    def __init__(
        self,
        path: Path | None,
        environ: Mapping[str, str],
        *,
        host: str | None = None,
        port: int | None = None,
        workers: int | None = None,
        is_insecure: bool = False,
        adapt: Callable[[Settings], Settings] = lambda settings: settings,
    ) -> None:
        self._path = path or find_configuration(environ)
        self._environ = dict(environ)
        self._host = host
        self._port = port
        self._workers = workers
        self._adapt = adapt
        self._is_insecure = is_insecure

    def first(self) -> Settings:
        """Read and check what the process starts with; blocks. Raises `ConfigurationError`."""
        return self._load(self._host, self._port)

    def read(self, running: Settings) -> NewConfiguration:
        """Read and check the configuration; blocks.

        Parameters
        ----------
        running : Settings
            In force.

        Returns
        -------
        NewConfiguration

        Raises
        ------
        ConfigurationError
            With all problems, those of the new settings on the address that is kept among them.
        """
        new = self._load(self._host, self._port)
        needs_restart = tuple(".".join(path) for path in RESTART_SETTINGS if _at(new, path) != _at(running, path))
        if not needs_restart:
            return NewConfiguration(new)
        if new.server.host != running.server.host:  # an address that is kept must not be left without client keys
            new = self._load(running.server.host, running.server.port)
        settings = reduce(lambda kept, path: _with(kept, path, _at(running, path)), RESTART_SETTINGS, new)
        return NewConfiguration(settings, needs_restart)

    def fingerprint(self, running: Settings) -> bytes:
        """Return a digest of the configuration file and of the key files that it names; blocks."""
        digest = hashlib.blake2b(digest_size=16)
        for path in self._files(running):
            content = _content(path)
            digest.update(b"absent" if content is None else b"%d:" % len(content) + content)
        return digest.digest()

    def _load(self, host: str | None, port: int | None) -> Settings:
        loaded = load_settings(
            self._path, self._environ, host=host, port=port, workers=self._workers, is_insecure=self._is_insecure
        )
        return self._adapt(loaded)

    def _files(self, running: Settings) -> Iterator[Path]:
        if self._path is not None:
            yield self._path
        named = [
            *(entry.key_file for entry in running.client_keys),
            *(entry.api_key_file for entry in running.deployments),
            running.admin.key_file,
        ]
        yield from (Path(name) for name in named if name is not None)


def changed_settings(before: Settings, after: Settings) -> tuple[str, ...]:
    """Return the names of settings that differ; a list is one setting.

    Parameters
    ----------
    before, after : Settings

    Returns
    -------
    tuple of str
        Dotted, without any value.
    """
    return tuple(_differences(before, after, ""))


def _differences(before: BaseModel, after: BaseModel, prefix: str) -> Iterator[str]:
    for name in type(before).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if old == new:
            continue
        if isinstance(old, BaseModel) and isinstance(new, BaseModel):
            yield from _differences(old, new, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _at(settings: BaseModel, path: tuple[str, ...]) -> Any:
    return reduce(getattr, path, settings)


def _with(section: Any, path: tuple[str, ...], value: object) -> Any:
    """Return a section with another value at a path."""
    name, rest = path[0], path[1:]
    inner = _with(getattr(section, name), rest, value) if rest else value
    return section.model_copy(update={name: inner})


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except OSError:
        return None
