"""HTTP/1.1 for uvicorn's server, with bounds on heads, waiting requests and idle time, which hold before any key does.

In the place of uvicorn's own protocol, which costs a request three times as much (ADR 0012). Read
`BoundedHttp.data_received`.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections import deque
from typing import Any, Final, cast

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from penstock_gateway.errors import GatewayError, HeadTooLarge, InvalidRequest
from penstock_gateway.http_exchange import EXCHANGE, HttpExchange
from penstock_gateway.identifiers import identifier_source

MAX_HEAD_BYTES = 65_536
"""Largest request line with headers, give or take one read from the socket; nginx takes 32 kB by default."""

HEAD_TIMEOUT_SECONDS = 30.0
"""How long a client may take for request line and headers, from connecting or from their first byte on; and for the
rest of a body whose request was answered early."""

MAX_PIPELINED = 16
"""Requests that may wait on one connection for the answer to the one before; browsers and SDKs send none ahead."""

UNREAD_BYTES: Final = 65_536
"""Of a request's body that nobody has received yet: no more is read from the connection until it has been."""

_new_request_id = identifier_source("req")


class _TooManyWaitError(Exception):
    """Stops the parser; the client will see that the connection ends, and may send the rest again."""


class _ClosedTransport:
    """Stands for the transport of a connection that is gone, for an application that is still at work."""

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return True

    def write(self, data: bytes) -> None:
        """Drop bytes."""

    def close(self) -> None:
        """Do nothing."""


_CLOSED: Final = _ClosedTransport()


class BoundedHttp(asyncio.Protocol):
    """One connection of a client.

    Parameters
    ----------
    config : uvicorn.Config
    server_state : ServerState
        uvicorn's, in which connections and tasks under way are kept, so that it can end them.
    app_state : dict
        Of ASGI's lifespan.
    _loop : AbstractEventLoop, optional

    Attributes
    ----------
    closes_at : float or None
        When the connection is closed unless the client does something, on the loop's clock; None while it is the
        gateway's turn.

    Notes
    -----
    Size and time of a request's head are bounded (chunk extensions and trailers count as head). A malformed request
    is answered in OpenAI's error shape. After a request that asks for another protocol the connection is closed: the
    parser has stopped there, and would take the rest of that request's body for a new one.

    Of requests that are sent ahead of their turn `MAX_PIPELINED` are answered, in order; then the connection is closed
    with a ``Connection: close`` on the last of these answers (RFC 9112 sections 9.3.2 and 9.6). Their bodies take no
    more memory than two reads from the socket and `UNREAD_BYTES`: nothing is read meanwhile.

    A connection between two requests is closed after uvicorn's ``timeout_keep_alive``, whatever trickles in. There is
    one timer a connection, which looks at `closes_at` when it fires and sleeps again until then: a request moves the
    time, not the timer.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self.closes_at: float | None = None
        self._config = config
        self._state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_event_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # what follows a last request is dropped
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._addresses: dict[str, Any] = {}
        self._exchange: HttpExchange | None = None
        self._waiting: deque[HttpExchange] = deque()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False
        self._head_bytes = 0
        self._is_head_timed = False
        self._is_body_complete = True
        self._is_between = False
        self._is_full = False
        self._is_reading_paused = False
        self._room: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._known_headers: list[tuple[bytes, bytes]] | None = None
        self._common_headers = b""

    # What an exchange calls.

    @property
    def common_headers(self) -> bytes:
        """The server's own headers, made once a second, when uvicorn has made a new date."""
        if self._state.default_headers is not self._known_headers:
            self._known_headers = self._state.default_headers
            self._common_headers = b"".join(b"%b: %b\r\n" % header for header in self._known_headers)
        return self._common_headers

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._transport.write(data)

    def close(self) -> None:
        """Close the connection when what was written has gone out."""
        self._transport.close()

    @property
    def has_room(self) -> bool:
        """Whether the client takes what is sent."""
        return self._room is None

    async def drain(self) -> None:
        """Wait until there is room for more, when there is none."""
        if self._room is not None:
            await self._room.wait()

    def resume_reading(self) -> None:
        """Take more of the request's body."""
        if self._is_reading_paused and not self._transport.is_closing():
            self._is_reading_paused = False
            self._transport.resume_reading()

    def note_answered(self) -> None:
        """Go on to the request that waits, or start the clock of an idle connection."""
        self._state.total_requests += 1
        if self._transport.is_closing():
            return
        self.resume_reading()
        if self._waiting:
            self._start(self._waiting.popleft())
        elif not self._is_head_timed:
            self._wait_for(self._config.timeout_keep_alive if self._is_body_complete else HEAD_TIMEOUT_SECONDS)

    # The transport's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the first head's deadline."""
        self._transport = cast(asyncio.Transport, transport)
        self._state.connections.add(cast(Any, self))
        self._addresses = {
            "server": get_local_addr(self._transport),
            "client": get_remote_addr(self._transport),
            "scheme": "https" if is_ssl(self._transport) else "http",
        }
        self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the requests under way."""
        self._state.connections.discard(cast(Any, self))
        self.closes_at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.resume_writing()
        if self._exchange is not None:
            self._exchange.lose_client()
        for exchange in self._waiting:
            exchange.lose_client()
        self._waiting.clear()
        # These refer to this object: no cycle for the garbage collector.
        self._parser = self._exchange = None
        self._transport = cast(asyncio.Transport, _CLOSED)

    def eof_received(self) -> None:
        """Have the transport close: a client that half-closes has left."""

    def pause_writing(self) -> None:
        """Take note that the client does not read."""
        if self._room is None:
            self._room = asyncio.Event()

    def resume_writing(self) -> None:
        """Take note that it does."""
        room, self._room = self._room, None
        if room is not None:
            room.set()

    def shutdown(self) -> None:
        """End the connection after the answer under way (uvicorn)."""
        if self._is_idle:
            self._transport.close()
        elif self._exchange is not None:
            (self._waiting[-1] if self._waiting else self._exchange).keep_alive = False

    def data_received(self, data: bytes) -> None:
        """Parse, then look at how much has come since the parser last got something whole."""
        if self._is_full:
            return
        self._head_bytes += len(data)
        self._is_between = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request has been taken as it stands, and is answered; its connection is not kept
        except httptools.HttpParserError:
            self._refuse_rest()
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge(f"Request line and headers are larger than {MAX_HEAD_BYTES} bytes."))
        elif self._is_idle and not self._is_between:
            self._time_head()

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        """Start the deadline of a further head on the same connection."""
        if len(self._waiting) >= MAX_PIPELINED:
            self._is_full = True
            raise _TooManyWaitError
        self._url = b""
        self._headers = []
        self._expects_continue = False
        self._time_head()

    def on_url(self, url: bytes) -> None:
        """Take a part of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Stop the deadline, and start the request or have it wait for its turn."""
        self._head_bytes = 0
        self._is_head_timed = False
        self._is_body_complete = False
        self.closes_at = None
        parser = self._parser
        version = parser.get_http_version()
        keep_alive = version != "1.0" and parser.should_keep_alive() and not parser.should_upgrade()
        scope = self._scope(version)
        exchange = HttpExchange(self, scope, keep_alive=keep_alive, expects_continue=self._expects_continue)
        scope[EXCHANGE] = exchange
        if self._is_idle:
            self._start(exchange)
        else:
            self._pause_reading()
            self._waiting.append(exchange)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body; `asgi.read_body` bounds its size and its time."""
        self._head_bytes = 0
        exchange = self._parsed
        if not exchange.is_answered and exchange.add_body(body) > UNREAD_BYTES:
            self._pause_reading()

    def on_message_complete(self) -> None:
        """Take the end of a request; when it has been answered already, the connection is idle from now on."""
        self._head_bytes = 0
        self._is_body_complete = True
        exchange = self._parsed
        exchange.end_body()
        if self._is_idle and exchange.is_answered:
            self._is_head_timed = False
            self._is_between = True
            self._wait_for(self._config.timeout_keep_alive)

    @property
    def _parsed(self) -> HttpExchange:
        """The request that the parser is in."""
        return self._waiting[-1] if self._waiting else cast(HttpExchange, self._exchange)

    @property
    def _is_idle(self) -> bool:
        """Whether nothing is being answered."""
        return self._exchange is None or self._exchange.is_answered

    def _scope(self, version: str) -> dict[str, Any]:
        target = httptools.parse_url(self._url)
        raw_path = target.path
        path = raw_path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            **self._addresses,
            "method": self._parser.get_method().decode("ascii"),
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": target.query or b"",
            "root_path": self._config.root_path,
            "headers": self._headers,
            "state": self._app_state.copy(),
        }

    def _start(self, exchange: HttpExchange) -> None:
        self._exchange = exchange
        limit, state = self._config.limit_concurrency, self._state
        is_over = limit is not None and (len(state.connections) >= limit or len(state.tasks) >= limit)
        app: Any = service_unavailable if is_over else self._config.loaded_app
        task = self._loop.create_task(exchange.run(app))
        state.tasks.add(task)
        task.add_done_callback(state.tasks.discard)

    def _refuse_rest(self) -> None:
        """Answer what is not HTTP; when the parser was stopped, have the last request that waits end the connection."""
        if self._is_full:
            self._waiting[-1].keep_alive = False
            return
        self._refuse(InvalidRequest("This is not a valid HTTP/1.1 request.", code="invalid_http"))

    def _refuse(self, error: GatewayError) -> None:
        """Close the connection, with an answer unless one is under way."""
        if self._transport.is_closing():
            return
        if self._is_idle:
            body = error.body()
            head = (
                f"HTTP/1.1 {error.status} Refused\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
                f"x-request-id: {_new_request_id()}\r\nconnection: close\r\n\r\n"
            )
            self._transport.write(head.encode() + body)
        self._transport.close()

    def _pause_reading(self) -> None:
        if not self._is_reading_paused and not self._transport.is_closing():
            self._is_reading_paused = True
            self._transport.pause_reading()

    def _time_head(self) -> None:
        if not self._is_head_timed:
            self._is_head_timed = True
            self._wait_for(HEAD_TIMEOUT_SECONDS)

    def _wait_for(self, seconds: float) -> None:
        """Close the connection after so long, unless something happens first."""
        closes_at = self.closes_at = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_at(closes_at, self._look_at_clock)
        elif closes_at < self._timer.when():
            self._timer.cancel()
            self._timer = self._loop.call_at(closes_at, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        if self.closes_at is None or self._transport.is_closing():
            return
        if self._loop.time() >= self.closes_at:
            self._transport.close()
        else:
            self._timer = self._loop.call_at(self.closes_at, self._look_at_clock)
