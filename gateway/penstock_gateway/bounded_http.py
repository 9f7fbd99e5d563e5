"""uvicorn's HTTP/1.1 with bounds on a request's head: what must be refused before there is a request to look at.

Read `BoundedHttp`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from penstock_gateway.errors import GatewayError, HeadTooLarge, InvalidRequest

MAX_HEAD_BYTES = 65_536
"""Largest request line with headers, give or take one read from the socket; nginx takes 32 kB by default."""

HEAD_TIMEOUT_SECONDS = 30.0
"""How long a client may take for request line and headers, from connecting or from their first byte on."""


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
