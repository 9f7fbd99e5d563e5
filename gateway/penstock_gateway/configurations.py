"""The configurations of one gateway, one after the other, as `reloading.ReloadingApp` exchanges them.

What holds something (connections, the ledger, the event log, stored answers, the router) belongs to the process and
stays; a configuration is what decides about requests, and its cache, which the next one takes over when nothing about
it changes. Read `reloading_app`.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock_gateway.app import PenstockApp
from penstock_gateway.asgi import Receive, Scope, Send
from penstock_gateway.lasting import Lasting
from penstock_gateway.metrics_reload import ReloadMetrics
from penstock_gateway.reload_triggers import FileWatch, HangUpSignal
from penstock_gateway.reloading import Generation, ReloadingApp, ReloadOthers, Trigger
from penstock_gateway.running_gateway import PreparedConfiguration
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
        """Let go of what was its own; the rest of what was started lasts as long as the process."""
        await self._app.running.first_hold.release()


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
        self._prepared: PreparedConfiguration | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._app(scope, receive, send)

    async def start(self) -> None:
        """Build what the configuration needs."""
        self._prepared = await self._app.running.take_on(self._settings)

    def take_over(self) -> None:
        """Put it in force for the requests that come from now on."""
        if self._prepared is not None:
            self._prepared.put_in_force()
        self._app.use_bounds(self._settings.server)

    async def aclose(self) -> None:
        """Let go of what is its own."""
        if self._prepared is not None:
            await self._prepared.hold.release()


def reloading_app(
    app: PenstockApp,
    settings: Settings,
    reader: ConfigurationReader,
    *,
    triggers: Sequence[Trigger] | None = None,
    reload_others: ReloadOthers | None = None,
) -> ReloadingApp:
    """Return a gateway whose configuration can change while it serves.

    Parameters
    ----------
    app : PenstockApp
        Of `settings`, not started.
    settings : Settings
    reader : ConfigurationReader
    triggers : sequence of Trigger, optional
        In place of SIGHUP.
    reload_others : callable, optional
        See `ReloadingApp`.

    Returns
    -------
    ReloadingApp
        Reads the configuration again on SIGHUP, on ``POST /admin/reload``, and, while ``server.reload_on_change`` is
        set, when its files change.
    """
    lasting = Lasting()
    lasting.keep("gateway", lambda: app.running, lambda running: running.aclose())

    async def build(new: Settings) -> Generation:
        return NextConfiguration(app, new)

    asking: list[Trigger] = [HangUpSignal()] if triggers is None else list(triggers)
    reloading = ReloadingApp(
        FirstConfiguration(app),
        settings,
        read=reader.read,
        build=build,
        lasting=lasting,
        metrics=ReloadMetrics(app.pipeline.metrics.registry),
        triggers=asking,
        reload_others=reload_others,
    )

    async def reload() -> dict[str, object]:
        return (await reloading.reload("admin")).as_json()

    app.running.reload = reload
    asking.append(
        FileWatch(
            lambda: reader.fingerprint(reloading.settings), is_on=lambda: reloading.settings.server.reload_on_change
        )
    )
    return reloading
