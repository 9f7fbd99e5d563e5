"""HTTP/1.1 on one connection to a provider: a request goes out, its answer comes in, then the next.

Owns the parser's callbacks, deadlines and back-pressure. It must not know providers, retries or the pool's rules. Read
`HttpConnection.data_received` first, then `HttpResponse.packet`.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, cast

import httptools

from penstock_gateway.errors import UpstreamBroken, UpstreamError, UpstreamTimeout

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of a head, of trailers, of what else comes between two parts of a body. Some cloud front ends send header fields
beyond 8 kB; it bounds what a connection can make us keep."""

PAUSE_BYTES: Final = 256 * 1024
"""Of a body that nobody has taken yet: no more is read from the connection until it has been."""

_INFLATED_BYTES: Final = 1024 * 1024  # of a compressed body at once, whatever a packet claims to hold
_SWITCHING_PROTOCOLS = 101
_CODINGS = frozenset({b"gzip", b"x-gzip", b"deflate"})
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class Origin(NamedTuple):
    """Where a connection leads.

    Attributes
    ----------
    host : str
        A name or an address, without brackets.
    port : int
    is_tls : bool
    """

    host: str
    port: int
    is_tls: bool


class Deadlines(NamedTuple):
    """How long a provider may take.

    Attributes
    ----------
    connect_seconds : float
    first_byte_seconds : float
        From sending to the first byte of the body.
    idle_seconds : float
        Between two packets of the body.
    total_seconds : float
        From asking for a connection to the end of the body.
    """

    connect_seconds: float
    first_byte_seconds: float
    idle_seconds: float
    total_seconds: float


class Keeper(Protocol):
    """Where connections come from; see `connections.ConnectionPool`."""

    def keep(self, connection: HttpConnection) -> None:
        """Take a connection back."""
        ...

    def forget(self, connection: HttpConnection) -> None:
        """Take note that a connection has ended."""
        ...


class HttpResponse:
    """An answer on its way in.

    Attributes
    ----------
    status : int
        0 until the head is complete.
    headers : list of (bytes, bytes)
        Names in lower case, values as sent.
    is_begun : bool
        Whether any byte of the answer has come.
    is_complete : bool
        Whether the body has come to its end.
    buffered_bytes : int
        Of the body, that nobody has taken yet.
    on_part : callable or None
        Offered what comes of the body while its reader waits; true when it has taken it: the reader waits on then.
    """

    __slots__ = (
        "_connection",
        "_error",
        "_inflating",
        "_parts",
        "_waiter",
        "buffered_bytes",
        "headers",
        "is_begun",
        "is_complete",
        "on_part",
        "status",
    )

    def __init__(self, connection: HttpConnection) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_begun = False
        self.is_complete = False
        self.buffered_bytes = 0
        self.on_part: Callable[[bytes], bool] | None = None
        self._connection: HttpConnection | None = connection
        self._parts: list[bytes] = []
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._inflating: Any = None

    def header(self, name: bytes) -> bytes:
        """Return the first value of a header, by its name in lower case; empty when it is missing."""
        for known, value in self.headers:
            if known == name:
                return value
        return b""

    async def head(self) -> None:
        """Wait for the head.

        Raises
        ------
        UpstreamTimeout
        UpstreamBroken
        """
        try:
            while not self.status:
                self._raise_failure()
                await self._wait()
        except BaseException:
            self.close()
            raise
        coding = self.header(b"content-encoding").strip().lower()
        if coding in _CODINGS:
            self._inflating = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, as its first bytes say
        elif coding and coding != b"identity":
            self.close()
            raise UpstreamBroken("The provider compressed its answer in a way that was not asked for.")

    async def packet(self) -> bytes:
        """Return what has come of the body, at least one byte; empty at its end.

        Raises
        ------
        UpstreamTimeout
            No next byte in time; what had come before has been returned.
        UpstreamBroken
        """
        while True:
            while not self._parts and not self.is_complete:
                self._raise_failure()
                await self._wait()
            packet = self._taken()
            if self._inflating is None:
                return packet
            if not packet:
                if not self._inflating.eof:
                    raise UpstreamBroken("The provider's answer ended before its compressed body did.")
                return b""
            if inflated := self._inflate(packet):
                return inflated

    def close(self) -> None:
        """Give up what has not come yet, with its connection; without effect on a complete answer."""
        connection, self._connection = self._connection, None
        if connection is not None and not self.is_complete:
            connection.abort()

    def break_off(self, error: UpstreamError) -> None:
        """Give up what has not come yet, and have its reader raise an error."""
        if self._connection is not None and not self.is_complete:
            self._connection.abort()
        self.fail(error)

    # What the connection calls.

    def offer(self) -> bool:
        """Offer what has come to `on_part`; whether it was taken, and the reader need not look."""
        waiter = self._waiter
        if self.on_part is None or waiter is None or waiter.done() or self._inflating is not None or not self._parts:
            return False
        part = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts[:] = (part,)
        if not self.on_part(part):
            return False
        self._parts.clear()
        self.buffered_bytes = 0
        return True

    def take(self, part: bytes) -> None:
        """Keep a part of the body for its reader."""
        self._parts.append(part)
        self.buffered_bytes += len(part)

    def wake(self) -> None:
        """Let the reader look."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, error: UpstreamError) -> None:
        """End the answer; what has come of it can still be read."""
        if self._error is None:
            self._error = error
        self.wake()

    def _taken(self) -> bytes:
        parts, self._parts = self._parts, []
        if not parts:
            return b""
        if self.buffered_bytes >= PAUSE_BYTES and self._connection is not None and not self.is_complete:
            self._connection.resume()
        self.buffered_bytes = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _raise_failure(self) -> None:
        """Raise what the answer ended in, once.

        An error that is kept here and has been raised refers to this object through its traceback: a cycle for the
        garbage collector, with everything that the request's frames hold.
        """
        error, self._error = self._error, None
        if error is not None:
            self._connection = None
            try:
                raise error
            finally:
                del error
        if self._connection is None:
            raise UpstreamBroken("The answer was given up before it was complete.")

    def _inflate(self, packet: bytes) -> bytes:
        """Undo the compression of a packet; what it holds beyond a bound waits for the next call."""
        try:
            inflated: bytes = self._inflating.decompress(packet, _INFLATED_BYTES)
        except zlib.error as error:
            raise UpstreamBroken("The provider's answer could not be decompressed.") from error
        rest: bytes = self._inflating.unconsumed_tail
        if rest:
            self._parts.insert(0, rest)
            self.buffered_bytes += len(rest)
        return inflated

    async def _wait(self) -> None:
        assert self._connection is not None
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class HttpConnection(asyncio.Protocol):
    """One connection, with at most one request under way.

    Parameters
    ----------
    keeper : Keeper
    origin : Origin
    loop : AbstractEventLoop

    Attributes
    ----------
    idle_since : float
        On the loop's clock.

    Notes
    -----
    A deadline that moves with every packet and every request costs an assignment: the connection's one timer looks at
    it when it fires, and goes to sleep again until then.
    """

    def __init__(self, keeper: Keeper, origin: Origin, loop: asyncio.AbstractEventLoop) -> None:
        self.origin = origin
        self.loop = loop
        self.idle_since = 0.0
        self._keeper = keeper
        self._transport: asyncio.Transport | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._response: HttpResponse | None = None
        self._is_usable = True
        self._is_framed = False
        self._is_paused = False
        self._has_unasked = False
        self._quiet_bytes = 0
        self._deadline = self._ends_at = 0.0
        self._idle_seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_usable(self) -> bool:
        """Whether a request can be sent."""
        transport = self._transport
        return self._is_usable and transport is not None and not transport.is_closing()

    def send(self, message: bytes, deadlines: Deadlines, started: float) -> HttpResponse:
        """Send a request.

        Parameters
        ----------
        message : bytes
        deadlines : Deadlines
        started : float
            On the loop's clock; from which the total counts.
        """
        assert self._transport is not None
        assert self._response is None
        response = self._response = HttpResponse(self)
        self._is_framed = False
        self._quiet_bytes = 0
        self._idle_seconds = deadlines.idle_seconds
        self._ends_at = started + deadlines.total_seconds
        self._deadline = min(self.loop.time() + deadlines.first_byte_seconds, self._ends_at)
        self._set_timer()
        self._transport.write(message)
        return response

    def close(self) -> None:
        """Close an idle connection."""
        self._is_usable = False
        self._stop_timer()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once, with what has not been sent."""
        self._is_usable = False
        self._response = None
        self._stop_timer()
        if self._transport is not None:
            self._transport.abort()

    def give_up(self) -> None:
        """End the connection at once; who waits for an answer on it is told."""
        self._fail(UpstreamBroken("The connection to the provider was closed."))

    def resume(self) -> None:
        """Read on, after a pause: the provider's time begins anew."""
        if self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._is_paused = False
            self._note_progress()
            self._set_timer()
            self._transport.resume_reading()

    # The transport's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        response = self._response
        if response is None:  # nobody asked for it
            self.abort()
            return
        response.is_begun = True
        self._quiet_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._is_usable = False  # its status tells the reader
        except httptools.HttpParserError:
            self._fail(UpstreamBroken("The provider's answer is not valid HTTP."))
            return
        if response.is_complete:
            self._finish(response)
            return
        if self._quiet_bytes > MAX_HEAD_BYTES:
            self._fail(UpstreamBroken("The provider sent headers that are too large."))
            return
        if response.buffered_bytes >= PAUSE_BYTES and not self._is_paused:
            self._is_paused = True
            cast(asyncio.Transport, self._transport).pause_reading()
        self._set_timer()
        if not response.offer():
            response.wake()

    def connection_lost(self, error: Exception | None) -> None:
        """Take note of the end; it is the end of a body without a stated length, too."""
        self._is_usable = False
        self._stop_timer()
        self._keeper.forget(self)
        self._parser = self._transport = None  # they refer to this object: no cycle for the garbage collector
        response = self._response
        if response is None:
            return
        if error is None and response.status and not self._is_framed:
            response.is_complete = True
            self._response = None
            response.wake()
        else:
            self._fail(UpstreamBroken("The connection to the provider broke before the answer was complete."))

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        """Take note of an answer beyond the one that was asked for."""
        if self._response is None or self._response.is_complete:
            self._has_unasked = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; a trailer is none."""
        response = self._response
        if response is not None and not response.status:
            response.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Take the status; an interim one is followed by the real one (RFC 9110 section 15.2)."""
        response = self._response
        if response is None or response.is_complete:
            return
        status: int = self._parser.get_status_code()
        if 100 <= status < 200 and status != _SWITCHING_PROTOCOLS:
            response.headers.clear()
            return
        self._quiet_bytes = 0
        for name, _ in response.headers:
            if name in _FRAMING:
                self._is_framed = True
        response.status = status

    def on_body(self, body: bytes) -> None:
        """Hand a part of the body to the reader."""
        response = self._response
        if response is None or response.is_complete or not body:
            return
        self._quiet_bytes = 0
        self._note_progress()
        response.take(body)

    def on_message_complete(self) -> None:
        """Take note of the end of the answer."""
        response = self._response
        if response is not None and response.status:
            response.is_complete = True
            self._is_usable = self._is_usable and bool(self._parser.should_keep_alive())

    def _finish(self, response: HttpResponse) -> None:
        """Let go of a complete answer, and give the connection back."""
        self._response = None
        if self._has_unasked or not self._is_usable:
            self.close()
        else:
            if self._is_paused:
                self._is_paused = False
                cast(asyncio.Transport, self._transport).resume_reading()
            self._keeper.keep(self)
        response.wake()

    def _fail(self, error: UpstreamError) -> None:
        response = self._response
        self.abort()
        if response is not None:
            response.fail(error)

    def _note_progress(self) -> None:
        deadline = self.loop.time() + self._idle_seconds
        self._deadline = deadline if deadline < self._ends_at else self._ends_at

    def _set_timer(self) -> None:
        """Have the timer fire at the deadline, or before it."""
        timer = self._timer
        if timer is not None:
            if timer.when() <= self._deadline:
                return
            timer.cancel()
        self._timer = self.loop.call_at(self._deadline, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        if self._response is None:
            return
        due = self._ends_at if self._is_paused else self._deadline  # a pause is our own doing
        if self.loop.time() >= due:
            self._fail(UpstreamTimeout("The provider did not answer in time."))
        else:
            self._timer = self.loop.call_at(due, self._look_at_clock)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
