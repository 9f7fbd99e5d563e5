"""The pool of connections to providers.

Owns how connections are made and kept, and which of them may be used again; `http_connection` speaks HTTP on each.
Written by hand because a client library costs a request more than the rest of its path (ADR 0012). Read
`ConnectionPool.request`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, Final, NamedTuple

import aiohappyeyeballs

from penstock_gateway.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from penstock_gateway.upstream.http_connection import Deadlines, HttpConnection, HttpResponse, Origin

KEEP_ALIVE_SECONDS: Final = 55.0
"""How long an idle connection is kept. Under the 60 s at which common load balancers close theirs."""

STALE_RETRY_SECONDS: float = 1.0
"""A reused connection that dies later than this after sending was not stale: the server worked on the request."""

ADDRESS_SECONDS: Final = 10.0
"""How long the addresses of a name are used again: a burst of new connections asks the resolver once."""

SECOND_FAMILY_SECONDS: Final = 0.25
"""Head start of one address family over the other (RFC 8305 section 5 recommends 250 ms)."""

_MAX_NAMES = 1_000


class _Addresses(NamedTuple):
    """What a name resolves to, now or soon."""

    found: asyncio.Task[list[Any]]
    expires_at: float


class ConnectionPool:
    """Connections by origin, the one used last first.

    Notes
    -----
    Admission is the gateway's business: the pool itself never makes a request wait. A connection on which something
    comes that nobody asked for is closed, since it would pass for the answer to the next request, which may be another
    tenant's. Certificates are verified against the system's store (``SSL_CERT_FILE`` is honoured).
    """

    def __init__(self) -> None:
        self._idle: dict[Origin, list[HttpConnection]] = {}
        self._all: set[HttpConnection] = set()
        self._addresses: dict[tuple[str, int], _Addresses] = {}
        self._tls: ssl.SSLContext | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def request(self, origin: Origin, message: bytes, deadlines: Deadlines) -> HttpResponse:
        """Send a request and return its answer when the head is known.

        Parameters
        ----------
        origin : Origin
        message : bytes
            The whole request, head and body.
        deadlines : Deadlines

        Returns
        -------
        HttpResponse

        Raises
        ------
        UpstreamUnreachable
            Refused, name not resolved, TLS failed; nothing was sent.
        UpstreamTimeout
            Not connected, or no complete head in time.
        UpstreamBroken
            The connection broke before the head was complete, or the answer is not HTTP.

        Notes
        -----
        A request is repeated in one case, in which that is safe enough and needed: a kept connection that the server
        closed while the request was on its way. It had served before, it ended before any byte of an answer, and
        within `STALE_RETRY_SECONDS` of sending. A server that closes an idle connection has not read the request
        (RFC 9112 section 9.3.1 allows the repeat then); should it have read it after all, a chat completion changes
        nothing at the provider, and no provider bills an answer it did not begin to send.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        kept = self._take(origin, started)
        if kept is not None:
            response = kept.send(message, deadlines, started)
            try:
                await response.head()
            except UpstreamBroken:
                if response.is_begun or loop.time() - started >= STALE_RETRY_SECONDS:
                    raise
            else:
                return response
        connection = await self._connect(origin, deadlines, started)
        response = connection.send(message, deadlines, started)
        await response.head()
        return response

    async def aclose(self) -> None:
        """Close every connection, those in use too; safe to call twice."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for addresses in self._addresses.values():
            addresses.found.cancel()
        for connection in tuple(self._all):
            connection.give_up()
        self._idle.clear()

    def keep(self, connection: HttpConnection) -> None:
        """Take a connection back whose answer has been read to its end."""
        if self._is_closed:
            connection.close()
            return
        connection.idle_since = connection.loop.time()
        self._idle.setdefault(connection.origin, []).append(connection)
        if self._sweep is None:
            self._sweep = connection.loop.call_later(KEEP_ALIVE_SECONDS, self._close_idle)

    def forget(self, connection: HttpConnection) -> None:
        """Take note that a connection has ended."""
        self._all.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None and connection in idle:
            idle.remove(connection)
            if not idle:
                del self._idle[connection.origin]

    def _take(self, origin: Origin, now: float) -> HttpConnection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_usable and now - connection.idle_since < KEEP_ALIVE_SECONDS:
                return connection
            connection.close()
        return None

    def _close_idle(self) -> None:
        """Close what has been idle for too long, and look again while anything is kept."""
        self._sweep = None
        for origin, idle in tuple(self._idle.items()):
            now = idle[0].loop.time() if idle else 0.0
            while idle and now - idle[0].idle_since >= KEEP_ALIVE_SECONDS:
                idle.pop(0).close()
            if not idle:
                del self._idle[origin]
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(KEEP_ALIVE_SECONDS / 4, self._close_idle)

    async def _connect(self, origin: Origin, deadlines: Deadlines, started: float) -> HttpConnection:
        """Return a new connection.

        Raises
        ------
        UpstreamUnreachable
        UpstreamTimeout
            Code ``upstream_connect_timeout``.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(started + min(deadlines.connect_seconds, deadlines.total_seconds)):
                tls = await self._context() if origin.is_tls else None
                connected = await aiohappyeyeballs.start_connection(
                    await self._resolve(origin.host, origin.port), happy_eyeballs_delay=SECOND_FAMILY_SECONDS
                )
                try:
                    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    _, connection = await loop.create_connection(
                        lambda: HttpConnection(self, origin, loop),
                        sock=connected,
                        ssl=tls,
                        server_hostname=origin.host if tls is not None else None,
                    )
                except BaseException:
                    connected.close()
                    raise
        except TimeoutError:
            raise UpstreamTimeout(
                "The provider could not be reached in time.", code="upstream_connect_timeout"
            ) from None
        except (OSError, ValueError) as error:  # a name that cannot be encoded is a ValueError
            raise UpstreamUnreachable("The provider could not be reached.") from error
        self._all.add(connection)
        return connection

    async def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)  # reads hundreds of certificates
        return self._tls

    async def _resolve(self, host: str, port: int) -> list[Any]:
        """Return the addresses of a name; those who ask at once share one question."""
        loop = asyncio.get_running_loop()
        known = self._addresses.get((host, port))
        if known is None or loop.time() >= known.expires_at or _has_failed(known.found):
            if len(self._addresses) >= _MAX_NAMES:
                self._addresses.clear()
            found = asyncio.ensure_future(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            found.add_done_callback(_has_failed)  # a failure that nobody waits for any more is nobody's
            known = self._addresses[host, port] = _Addresses(found, loop.time() + ADDRESS_SECONDS)
        return await asyncio.shield(known.found)


def _has_failed(found: asyncio.Task[list[Any]]) -> bool:
    return found.done() and (found.cancelled() or found.exception() is not None)
