"""Whether the `events` section agrees with itself, with the disk and with what is installed.

Owns the checks of what `events` takes for granted. Read `check_events`.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from penstock_gateway.settings_events import ShipSettings
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_redis_checks import check_redis_url
from penstock_gateway.settings_source import SettingsSource
from penstock_routers.installation import install_command

_SHIP: Final = ("events", "ship")


def check_events(settings: Settings, source: SettingsSource) -> None:
    """Add a problem to `source` for bounds that contradict each other, a bad folder, and a bad place to ship to.

    Parameters
    ----------
    settings : Settings
        Valid in shape.
    source : SettingsSource
        Where each setting was written.
    """
    events = settings.events
    if events.segment_bytes > events.max_bytes:
        message = f"is less than one segment ({events.segment_bytes} bytes)"
        source.report(("events", "max_bytes"), message, "raise it, or lower events.segment_bytes")
    if events.retention_days is not None and events.segment_seconds > events.retention_days * 86_400.0:
        message = "is longer than events.retention_days"
        source.report(("events", "segment_seconds"), message, "lower it: what is written to is never deleted")
    if events.folder is None:
        return
    if events.max_waiting < settings.server.max_in_flight:
        message = f"is less than server.max_in_flight ({settings.server.max_in_flight})"
        source.report(("events", "max_waiting"), message, "raise it: every request under way takes a place")
    _check_folder(events.folder, source)
    if events.ship is not None:
        _check_ship(settings, events.ship, source)


def _check_folder(name: str, source: SettingsSource) -> None:
    folder = Path(name)
    existing = next((path for path in (folder, *folder.parents) if path.exists()), None)
    shown = source.written.get(("events", "folder"), name)
    if existing is not None and not existing.is_dir():
        source.report(("events", "folder"), f"{shown} is not a folder, or lies in a file")
    elif existing is not None and not os.access(existing, os.W_OK | os.X_OK):
        source.report(("events", "folder"), f"{shown} cannot be written")


def _check_ship(settings: Settings, ship: ShipSettings, source: SettingsSource) -> None:
    if (ship.url is None) == (ship.redis_stream is None):
        source.report(_SHIP, "needs either url or redis_stream", "write url: s3://BUCKET/PREFIX")
    elif ship.redis_stream is not None:
        check_redis_url(settings, source, "events")
    elif ship.url is not None:
        _check_url(ship.url, source)


def _check_url(url: str, source: SettingsSource) -> None:
    key = (*_SHIP, "url")
    parts = urlsplit(url)
    if not parts.scheme or "://" not in url:
        source.report(key, "is no URL", "write file:///FOLDER or s3://BUCKET/PREFIX")
    elif parts.password or parts.username:
        source.report(key, "holds a credential", "leave it to where the store's client looks for credentials")
    elif parts.scheme == "file" and not parts.path.startswith("/"):
        source.report(key, "names no absolute folder", "write file:///FOLDER, with three slashes")
    elif parts.scheme != "file" and find_spec("fsspec") is None:
        source.report(key, "fsspec is not installed", install_command("ship"))
