"""Serves the admin API on its own port, beside the gateway's server in the same event loop.

Owns the second server: it takes its address before it starts, so that a port in use is an error and not an exit, and it
leaves signals to the first one. Read `AdminServer.start`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn

from penstock_gateway.asgi import Receive, Scope, Send
from penstock_gateway.listening import bound_socket

_log = logging.getLogger("penstock.admin")

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

START_SECONDS: Final = 10.0
STOP_SECONDS: Final = 5.0
_KEEP_ALIVE_SECONDS: Final = 15
_MAX_CONNECTIONS: Final = 128
_BACKLOG: Final = 64


class AdminServer:
    """One listening admin API.

    Parameters
    ----------
    app : callable
        The admin API, by ASGI.
    host : str
    port : int
        0 takes a free one.
    http : type of asyncio.Protocol
        uvicorn's HTTP protocol; `bounded_http.BoundedHttp`, whose bounds hold before any credential is looked at.
    """

    def __init__(self, app: AsgiApp, *, host: str, port: int, http: type[asyncio.Protocol]) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._http = http
        self._server: QuietServer | None = None
        self._serving: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None

    @property
    def port(self) -> int:
        """The port that it listens on; the configured one before it does."""
        return self._port if self._listener is None else int(self._listener.getsockname()[1])

    async def start(self) -> None:
        """Take the address and answer from now on.

        Raises
        ------
        OSError
            The address cannot be taken, or the server did not come up in `START_SECONDS`.
        """
        self._listener = _listen(self._host, self._port)
        self._server = QuietServer.beside(
            self._app,
            self._http,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(STOP_SECONDS),
        )
        self._serving = asyncio.get_running_loop().create_task(self._server.serve([self._listener]))
        coming_up = asyncio.get_running_loop().create_task(self._server.is_up.wait())
        await asyncio.wait((coming_up, self._serving), timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        coming_up.cancel()
        if not self._server.is_up.is_set():
            await self.aclose()
            raise OSError(f"the admin API did not come up on {self._host}:{self._port}")
        _log.info("admin_api_listens", extra={"address": f"{self._host}:{self.port}"})

    async def aclose(self) -> None:
        """Stop listening, and wait for requests under way, `STOP_SECONDS` at most."""
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = True
        _, late = await asyncio.wait((self._serving,), timeout=STOP_SECONDS + 1.0)
        for serving in late:
            self._server.force_exit = True
            serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()


class QuietServer(uvicorn.Server):
    """A server that takes no signals, as the process has one that does, and that says when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    @classmethod
    def beside(cls, app: AsgiApp, http: type[asyncio.Protocol], **options: Any) -> QuietServer:
        """Return a server for the event loop that runs already.

        Parameters
        ----------
        app : callable
        http : type of asyncio.Protocol
        **options : object
            Further ones of `uvicorn.Config`: bounds, or where it listens.
        """
        config = uvicorn.Config(
            app,
            http=http,
            loop="none",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            **options,
        )
        return cls(config)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        if self.started:
            self.is_up.set()


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens."""
    bound = bound_socket(host, port)
    try:
        bound.listen(_BACKLOG)
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound
