"""Runs the application under uvicorn: one process, one loop, keep-alive, no access log.

Read `serve`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn

from penstock_gateway.app import PenstockApp, create_app
from penstock_gateway.bounded_http import BoundedHttp
from penstock_gateway.garbage import collect_when_quiet, spare_old_objects
from penstock_gateway.http_edge import AsgiApp, HttpEdge
from penstock_gateway.reloading import ReloadingApp
from penstock_gateway.settings import Settings
from penstock_gateway.settings_models import ServerSettings


def server_for(app: PenstockApp | ReloadingApp, *, host: str, port: int, front: AsgiApp | None = None) -> _Server:
    """Return a server for `app` that is not running yet.

    Parameters
    ----------
    app : PenstockApp or ReloadingApp
    host : str
    port : int
        0 takes a free port.
    front : callable, optional
        What requests go to instead, and which hands them on to `app`.

    Returns
    -------
    uvicorn.Server
    """

    def settings() -> ServerSettings:
        return app.settings.server if isinstance(app, ReloadingApp) else app.pipeline.settings.server

    config = _Config(
        HttpEdge(front or app, settings),
        settings,
        host=host,
        port=port,
        http=BoundedHttp,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=2048,
        timeout_graceful_shutdown=settings().drain_seconds,
    )
    return _Server(config)


class _Config(uvicorn.Config):
    """uvicorn's, but for what follows the settings in force.

    Parameters
    ----------
    app : callable
    settings : callable
    **options
        uvicorn's.
    """

    def __init__(self, app: AsgiApp, settings: Callable[[], ServerSettings], **options: Any) -> None:
        self._settings = settings
        super().__init__(app, **options)

    @property
    def timeout_keep_alive(self) -> int:
        """Seconds that a connection may wait for its next request."""
        return self._settings().keep_alive_seconds

    @timeout_keep_alive.setter
    def timeout_keep_alive(self, seconds: int) -> None:
        """Leave it to the settings; uvicorn sets its default."""


class _Server(uvicorn.Server):
    """uvicorn's, which may also decide when the collector runs: where the process is the gateway's own.

    Attributes
    ----------
    collects_garbage : bool
    """

    collects_garbage = False

    async def main_loop(self) -> None:
        """Serve until told to stop."""
        if not self.collects_garbage:
            await super().main_loop()
            return
        collecting = asyncio.ensure_future(collect_when_quiet(lambda: not self.server_state.tasks))
        try:
            await super().main_loop()
        finally:
            collecting.cancel()


def serve(
    settings: Settings,
    app: PenstockApp | ReloadingApp | None = None,
    *,
    listener: socket.socket | None = None,
    front: AsgiApp | None = None,
) -> bool:
    """Serve until interrupted.

    Parameters
    ----------
    settings : Settings
    app : PenstockApp, optional
        Made from `settings` already.
    listener : socket, optional
        Bound already; in place of the configured address.
    front : callable, optional
        See `server_for`.

    Returns
    -------
    bool
        False when it could not start; the log says why.
    """
    host, port = settings.server.host, settings.server.port
    server = server_for(app or create_app(settings), host=host, port=port, front=front)
    server.collects_garbage = True
    spare_old_objects()
    try:
        server.run(sockets=None if listener is None else [listener])
    except SystemExit:  # uvicorn's way of saying that the application did not start
        return False
    return True
