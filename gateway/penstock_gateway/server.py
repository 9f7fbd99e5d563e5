"""Runs the application under uvicorn: one process, one loop, keep-alive, no access log.

Read `serve`.
"""

from __future__ import annotations

import gc
import socket
import sys

import uvicorn

from penstock_gateway.app import PenstockApp, create_app
from penstock_gateway.bounded_http import BoundedHttp
from penstock_gateway.http_edge import HttpEdge
from penstock_gateway.reloading import ReloadingApp
from penstock_gateway.settings import Settings
from penstock_gateway.settings_models import ServerSettings

_YOUNG_OBJECTS = 20_000
"""Allocations between two looks at the youngest objects. A request makes some 150 that live until it is settled; looked
at every 700, as is the default, each is walked over several times for nothing."""


def server_for(app: PenstockApp | ReloadingApp, *, host: str, port: int) -> uvicorn.Server:
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
    return uvicorn.Server(config)


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
    # What stands now stays: 70,000 objects that the collector would walk over, 55 ms in which nothing else runs.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 50)
    try:
        server.run(sockets=None if listener is None else [listener])
    except SystemExit:  # uvicorn's way of saying that the application did not start
        return False
    return True
