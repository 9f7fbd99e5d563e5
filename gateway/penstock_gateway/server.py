"""Runs the application under uvicorn: one process, one loop, keep-alive, no access log."""

from __future__ import annotations

import sys

import uvicorn

from penstock_gateway.app import PenstockApp, create_app
from penstock_gateway.settings import Settings

_SHUTDOWN_GRACE_SECONDS = 30
_KEEP_ALIVE_SECONDS = 75


def server_for(app: PenstockApp, *, host: str, port: int) -> uvicorn.Server:
    """Return a server for `app` that is not running yet.

    Parameters
    ----------
    app : PenstockApp
    host : str
    port : int
        0 takes a free port.

    Returns
    -------
    uvicorn.Server
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http="httptools",
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=2048,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_GRACE_SECONDS,
    )
    return uvicorn.Server(config)


def serve(settings: Settings) -> None:
    """Serve until interrupted.

    Parameters
    ----------
    settings : Settings
    """
    server_for(create_app(settings), host=settings.server.host, port=settings.server.port).run()
