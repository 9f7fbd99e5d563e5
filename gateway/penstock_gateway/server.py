"""Runs the application under uvicorn: one process, one loop, keep-alive, no access log.

Read `serve`.
"""

from __future__ import annotations

import asyncio
import socket
import sys

import uvicorn

from penstock_gateway.app import PenstockApp, create_app
from penstock_gateway.bounded_http import BoundedHttp
from penstock_gateway.garbage import collect_when_quiet, spare_old_objects
from penstock_gateway.http_edge import HttpEdge
from penstock_gateway.reloading import ReloadingApp
from penstock_gateway.settings import Settings
from penstock_gateway.settings_models import ServerSettings


def server_for(app: PenstockApp | ReloadingApp, *, host: str, port: int) -> _Server:
    """Return a server for `app` that is not running yet.

    Parameters
    ----------
    app : PenstockApp or ReloadingApp
    host : str
    port : int
        0 takes a free port.

    Returns
    -------
    uvicorn.Server
    """

    def settings() -> ServerSettings:
        return app.settings.server if isinstance(app, ReloadingApp) else app.pipeline.settings.server

    config = uvicorn.Config(
        HttpEdge(app, settings),
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
        timeout_keep_alive=settings().keep_alive_seconds,
        timeout_graceful_shutdown=settings().drain_seconds,
    )
    return _Server(config)


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


def free_port(host: str) -> socket.socket:
    """Bind a free TCP port, so that it can be told before the server runs.

    Parameters
    ----------
    host : str

    Returns
    -------
    socket
        Bound, not yet listening.

    Raises
    ------
    OSError
        The address cannot be bound.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host.strip("[]"), 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def serve(
    settings: Settings,
    app: PenstockApp | ReloadingApp | None = None,
    *,
    listener: socket.socket | None = None,
) -> bool:
    """Serve until interrupted.

    Parameters
    ----------
    settings : Settings
    app : PenstockApp, optional
        Made from `settings` already.
    listener : socket, optional
        Bound already; in place of the configured address.

    Returns
    -------
    bool
        False when it could not start; the log says why.
    """
    server = server_for(app or create_app(settings), host=settings.server.host, port=settings.server.port)
    server.collects_garbage = True
    spare_old_objects()
    try:
        server.run(sockets=None if listener is None else [listener])
    except SystemExit:  # uvicorn's way of saying that the application did not start
        return False
    return True
