"""From the settings of a gateway to its event log.

Read `open_event_log`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from penstock_gateway.events.log import EventLog
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_redis_checks import redis_url_of


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
