"""From the settings of a gateway to its event log, and to the key by which it knows its decisions again.

Read `open_event_log` and `decision_key`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

from penstock_gateway.events.log import EventLog
from penstock_gateway.made_secrets import made_secret
from penstock_gateway.settings_events import EventSettings
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_redis_checks import redis_url_of

DECISION_KEY_FILE: Final = "decisions.key"


def open_event_log(
    settings: Settings,
    *,
    on_drop: Callable[[str], None] = lambda _: None,
    on_problem: Callable[[str], None] = lambda _: None,
    settled_until: Callable[[], float] = lambda: math.inf,
) -> EventLog | None:
    """Return the event log of a gateway, not started; None when no folder is set.

    Parameters
    ----------
    settings : Settings
        A Redis stream that names no Redis of its own is shipped to ``redis.url``.
    on_drop, on_problem, settled_until : callable
        As for `EventLog`.
    """
    events = settings.events
    if events.folder is None:
        return None
    if events.ship is not None and events.ship.redis_stream is not None:
        ship = events.ship.model_copy(update={"redis_url": redis_url_of(settings, "events")})
        events = events.model_copy(update={"ship": ship})
    return EventLog(events, on_drop=on_drop, on_problem=on_problem, settled_until=settled_until)


def decision_key(events: EventSettings) -> bytes:
    """Return the secret under which ids of decisions say whose they are; blocks.

    Parameters
    ----------
    events : EventSettings
        With a folder.

    Returns
    -------
    bytes
        ``pseudonym_key``, which gateways with folders of their own can have in common; else what a file in the folder
        holds, which is made when it is missing.

    Raises
    ------
    SecretFileError, OSError
        The file cannot be used.
    """
    assert events.folder is not None
    if events.pseudonym_key is not None:
        return events.pseudonym_key.get_secret_value().encode()
    return made_secret(Path(events.folder) / DECISION_KEY_FILE)
