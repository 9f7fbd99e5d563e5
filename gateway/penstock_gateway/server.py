"""Runs the application under uvicorn: one process, one loop, keep-alive, no access log.

Owns what must be refused before there is a request that `app` could see. Read `serve`, then `BoundedHttp`.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from penstock_gateway.app import PenstockApp, create_app
from penstock_gateway.errors import GatewayError, HeadTooLarge, InvalidRequest
from penstock_gateway.settings import Settings

MAX_HEAD_BYTES = 65_536
"""Largest request line with headers, give or take one read from the socket; nginx takes 32 kB by default."""

HEAD_TIMEOUT_SECONDS = 30.0
"""How long a client may take for request line and headers, from connecting or from their first byte on."""

# Kubernetes kills 30 s after its first signal; what is still open by then should have been told.
_SHUTDOWN_GRACE_SECONDS = 25
_KEEP_ALIVE_SECONDS = 75


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with the bounds it lacks, which hold before any key is asked for.

    Notes
    -----
    Size and time of a request's head are bounded (chunk extensions and trailers count as head). A malformed request
    is answered in OpenAI's error shape. After a request that asks for another protocol the connection is closed: the
    parser has stopped there, and would take the rest of that request's body for a new one.
    """

    _head_bytes = 0
    _head_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the first head's deadline."""
        super().connection_made(transport)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the deadline."""
        self._stop_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, then look at how much has come since the parser last got something whole."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge(f"Request line and headers are larger than {MAX_HEAD_BYTES} bytes."))

    def on_message_begin(self) -> None:
        """Start the deadline of a further head on the same connection."""
        super().on_message_begin()
        self._start_deadline()

    def on_headers_complete(self) -> None:
        """Stop the deadline."""
        self._head_bytes = 0
        self._stop_deadline()
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of a body; `read_body` bounds its size and its time."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(InvalidRequest("This is not a valid HTTP/1.1 request.", code="invalid_http"))

    def _refuse(self, error: GatewayError) -> None:
        """Close the connection, with an answer unless one is under way."""
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            body = error.body()
            head = (
                f"HTTP/1.1 {error.status} Refused\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            )
            self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _start_deadline(self) -> None:
        if self._head_deadline is None:
            self._head_deadline = self.loop.call_later(HEAD_TIMEOUT_SECONDS, self.transport.close)

    def _stop_deadline(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None


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
        http=BoundedHttp,
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


def serve(settings: Settings, app: PenstockApp | None = None, *, listener: socket.socket | None = None) -> None:
    """Serve until interrupted.

    Parameters
    ----------
    settings : Settings
    app : PenstockApp, optional
        Made from `settings` already.
    listener : socket, optional
        Bound already; in place of the configured address.
    """
    server = server_for(app or create_app(settings), host=settings.server.host, port=settings.server.port)
    # What stands now stays: 70,000 objects that the collector would walk over, 55 ms in which nothing else runs.
    gc.collect()
    gc.freeze()
    server.run(sockets=None if listener is None else [listener])
