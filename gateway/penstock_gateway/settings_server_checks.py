"""Whether pages of other origins may be let in, and several workers can do together, what the configuration says.

Read `check_server`.
"""

from __future__ import annotations

import sys

from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_server import ANY_ORIGIN
from penstock_gateway.settings_source import SettingsSource


def check_server(settings: Settings, source: SettingsSource) -> None:
    """Report origins that would give away more than they say, and what workers would count each for itself."""
    _check_cors(settings, source)
    if settings.server.workers > 1:
        _check_workers(settings, source)


def _check_cors(settings: Settings, source: SettingsSource) -> None:
    cors = settings.server.cors
    if ANY_ORIGIN not in cors.origins:
        return
    if len(cors.origins) > 1:
        source.report(("server", "cors", "origins"), "names '*' and others; '*' alone lets in every page")
    if cors.credentials:
        source.report(
            ("server", "cors", "credentials"),
            "cookies of every page on the web would be taken",
            "name the origins, or leave credentials out",
        )
    if not settings.asks_for_keys:
        source.report(
            ("server", "cors", "origins"),
            "'*' lets every page that somebody here opens use the models, as there are no client keys",
            "add client_keys, or name the origins",
        )


def _check_workers(settings: Settings, source: SettingsSource) -> None:
    key, workers = ("server", "workers"), settings.server.workers
    if sys.platform == "win32":
        source.report(key, "this system cannot share a socket among processes", "set it to 1")
    counts = settings.asks_for_keys or settings.teams or settings.tags or settings.admin.port is not None
    if counts and settings.ledger.kind == "memory":
        source.report(
            key,
            f"{workers} workers would each count spend and limits of keys, teams and tags for themselves",
            "set ledger.kind: redis, or workers: 1",
        )
    if settings.cache.mode != "off" and settings.cache.store.kind == "file":
        source.report(
            key, "cache.store.kind: file is for one process", "use the kind redis or memory, or set workers to 1"
        )
    for index, entry in enumerate(settings.deployments):
        parallel = entry.max_parallel_requests
        if parallel is not None and parallel < workers:
            source.report(
                ("deployments", index, "max_parallel_requests"),
                f"{parallel} cannot be divided among {workers} workers",
                f"set it to {workers} or more, or server.workers to {parallel} or less",
            )
