"""uvicorn's HTTP/1.1 with bounds on heads, waiting requests and idle time: what holds before there is a request.

Read `BoundedHttp`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from penstock_gateway.errors import GatewayError, HeadTooLarge, InvalidRequest
from penstock_gateway.identifiers import identifier_source

MAX_HEAD_BYTES = 65_536
"""Largest request line with headers, give or take one read from the socket; nginx takes 32 kB by default."""

HEAD_TIMEOUT_SECONDS = 30.0
"""How long a client may take for request line and headers, from connecting or from their first byte on; and for the
rest of a body whose request was answered early."""

MAX_PIPELINED = 16
"""Requests that may wait on one connection for the answer to the one before; browsers and SDKs send none ahead."""

_new_request_id = identifier_source("req")


class _TooManyWaitError(Exception):
    """Stops the parser; the client will see that the connection ends, and may send the rest again."""


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with the bounds it lacks, which hold before any key is asked for.

    Notes
    -----
    Size and time of a request's head are bounded (chunk extensions and trailers count as head). A malformed request
    is answered in OpenAI's error shape. After a request that asks for another protocol the connection is closed: the
    parser has stopped there, and would take the rest of that request's body for a new one.

    Of requests that are sent ahead of their turn `MAX_PIPELINED` are answered, in order; then the connection is closed
    with a ``Connection: close`` on the last of these answers (RFC 9112 sections 9.3.2 and 9.6). Their bodies take no
    more memory than two reads from the socket and uvicorn's high-water mark (64 kB): nothing is read meanwhile.

    A connection between two requests is closed after uvicorn's ``timeout_keep_alive``, whatever trickles in.
    """

    _head_bytes = 0
    _head_deadline: asyncio.TimerHandle | None = None
    _is_full = False

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
        if self._is_full:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge(f"Request line and headers are larger than {MAX_HEAD_BYTES} bytes."))
        elif self._is_idle and self.timeout_keep_alive_task is None:  # uvicorn has just stopped that clock
            self._start_deadline()

    def on_message_begin(self) -> None:
        """Start the deadline of a further head on the same connection."""
        if len(self.pipeline) >= MAX_PIPELINED:
            self._is_full = True
            raise _TooManyWaitError
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
        """Take the end of a request; when it has been answered already, the connection is idle from now on."""
        self._head_bytes = 0
        super().on_message_complete()
        if self._is_idle:
            self._stop_deadline()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; when the parser was stopped, have the last request that waits end the connection."""
        if self._is_full:
            self.pipeline[0][0].keep_alive = False
            return
        self._refuse(InvalidRequest("This is not a valid HTTP/1.1 request.", code="invalid_http"))

    def _refuse(self, error: GatewayError) -> None:
        """Close the connection, with an answer unless one is under way."""
        if self.transport.is_closing():
            return
        if self._is_idle:
            body = error.body()
            head = (
                f"HTTP/1.1 {error.status} Refused\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
                f"x-request-id: {_new_request_id()}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()

    @property
    def _is_idle(self) -> bool:
        """Whether nothing is being answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _start_deadline(self) -> None:
        if self._head_deadline is None:
            self._head_deadline = self.loop.call_later(HEAD_TIMEOUT_SECONDS, self.transport.close)

    def _stop_deadline(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None
