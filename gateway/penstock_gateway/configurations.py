"""The configurations of one gateway, one after the other, as `reloading.ReloadingApp` exchanges them.

Everything that holds something (connections, the ledger, the event log, the cache, the router) belongs to the process
and stays; a configuration is what decides about requests. Read `reloading_app`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from penstock_gateway.app import PenstockApp
from penstock_gateway.asgi import Receive, Scope, Send
from penstock_gateway.lasting import Lasting
from penstock_gateway.metrics_reload import ReloadMetrics
from penstock_gateway.reload_triggers import FileWatch, HangUpSignal
from penstock_gateway.reloading import Generation, ReloadingApp, Trigger
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_restart import ConfigurationReader


class FirstConfiguration:
    """What the process starts with; fulfils `reloading.Generation`.

    Parameters
    ----------
    app : PenstockApp
    """

    def __init__(self, app: PenstockApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._app(scope, receive, send)

    async def start(self) -> None:
        """Start the gateway."""
        await self._app.running.start()

    def take_over(self) -> None:
        """Nothing came before."""

    async def aclose(self) -> None:
        """What was started lasts as long as the process."""


class NextConfiguration:
    """Another configuration of a gateway that runs; fulfils `reloading.Generation`.

    Parameters
    ----------
    app : PenstockApp
    settings : Settings
    """

    def __init__(self, app: PenstockApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._put_in_force: Callable[[], None] = lambda: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._app(scope, receive, send)

    async def start(self) -> None:
        """Build what the configuration needs."""
        self._put_in_force = await self._app.running.take_on(self._settings)

    def take_over(self) -> None:
        """Put it in force for the requests that come from now on."""
        self._put_in_force()
        self._app.use_bounds(self._settings.server)
        logging.getLogger("penstock").setLevel(self._settings.log.level.upper())

    async def aclose(self) -> None:
        """Nothing is its own."""


def reloading_app(app: PenstockApp, settings: Settings, reader: ConfigurationReader) -> ReloadingApp:
    """Return a gateway whose configuration can change while it serves.

    Parameters
    ----------
    app : PenstockApp
        Of `settings`, not started.
    settings : Settings
    reader : ConfigurationReader

    Returns
    -------
    ReloadingApp
        Reads the configuration again on SIGHUP, on ``POST /admin/reload``, and when ``server.reload_on_change`` is set,
        when its files change.
    """
    lasting = Lasting()
    lasting.keep("gateway", lambda: app.running, lambda running: running.aclose())

    async def build(new: Settings) -> Generation:
        return NextConfiguration(app, new)

    triggers: list[Trigger] = [HangUpSignal()]
    reloading = ReloadingApp(
        FirstConfiguration(app),
        settings,
        read=reader.read,
        build=build,
        lasting=lasting,
        metrics=ReloadMetrics(app.pipeline.metrics.registry),
        triggers=triggers,
    )

    async def reload() -> dict[str, object]:
        return (await reloading.reload("admin")).as_json()

    app.running.reload = reload
    if settings.server.reload_on_change:
        triggers.append(FileWatch(lambda: reader.fingerprint(reloading.settings)))
    return reloading
