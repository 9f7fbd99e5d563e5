"""One request and its answer on a server's connection, as ASGI sees them.

Owns the framing of answers. `bounded_http` owns the connection. Read `HttpExchange.send`.
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, Final, Protocol

Message = MutableMapping[str, Any]
AsgiApp = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Any]

EXCHANGE: Final = "penstock.exchange"
"""Key of a request's `HttpExchange` in its scope: a shorter way to its body, and to news of its client, than
``receive``."""

_WITHOUT_BODY = frozenset({204, 304})
_log = logging.getLogger("uvicorn.error")


def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


_STATUS_LINES: Mapping[int, bytes] = MappingProxyType({status: _status_line(status) for status in range(100, 600)})


class Connection(Protocol):
    """What an exchange needs of its connection; see `bounded_http.BoundedHttp`."""

    @property
    def common_headers(self) -> bytes:
        """Headers of every answer, as they are sent."""
        ...

    def write(self, data: bytes) -> None:
        """Send bytes."""
        ...

    def close(self) -> None:
        """Close the connection when what was written has gone out."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether `drain` would not wait."""
        ...

    async def drain(self) -> None:
        """Wait until there is room for more, when there is none."""
        ...

    def resume_reading(self) -> None:
        """Take more of the request's body."""
        ...

    def note_answered(self) -> None:
        """Take note that an answer is complete."""
        ...


class HttpExchange:
    """A request, and its answer.

    Parameters
    ----------
    connection : Connection
    scope : dict
        Of ASGI; its headers are complete, its body may not be.
    keep_alive : bool
        Whether the connection may serve another request.
    expects_continue : bool
        The client waits for an interim answer before it sends the body.

    Attributes
    ----------
    is_answered : bool
        Whether the answer is complete.
    is_client_gone : bool
    on_client_gone : callable or None
        Called once when the client leaves before its answer is complete.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_expects_continue",
        "_has_whole_body",
        "_head",
        "_is_chunked",
        "_is_head_request",
        "_is_started",
        "_left_bytes",
        "_waiter",
        "is_answered",
        "is_client_gone",
        "keep_alive",
        "on_client_gone",
        "scope",
    )

    def __init__(
        self, connection: Connection, scope: dict[str, Any], *, keep_alive: bool, expects_continue: bool
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.is_answered = False
        self.is_client_gone = False
        self.on_client_gone: Callable[[], None] | None = None
        self._connection = connection
        self._expects_continue = expects_continue
        self._is_head_request = scope["method"] == "HEAD"
        self._body: list[bytes] = []
        self._has_whole_body = False
        self._waiter: asyncio.Future[None] | None = None
        self._is_started = False
        self._head: bytes | None = None
        self._is_chunked = False
        self._left_bytes = 0

    async def run(self, app: AsgiApp) -> None:
        """Have the application answer; what it leaves undone is made up for."""
        scope, self.scope = self.scope, {}  # which refers to this object: no cycle for the garbage collector
        try:
            await app(scope, self.receive, self.send)
        except BaseException as error:
            _log.error("Exception in ASGI application\n", exc_info=error)
            await self._give_up()
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
            return
        if not self.is_answered and not self.is_client_gone:
            _log.error("ASGI callable returned without completing response.")
            await self._give_up()

    # The request.

    def take_whole_body(self) -> bytes | None:
        """Return the body if all of it has come and none was received before, else None."""
        if not self._has_whole_body or self._body is _TAKEN or self.is_client_gone:
            return None
        parts, self._body = self._body, _TAKEN
        self._expects_continue = False
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def receive(self) -> Message:
        """Return the next part of the body, or that the client has left or has been answered (ASGI)."""
        if self._expects_continue:
            self._expects_continue = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._may_return():
            self._connection.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self.is_client_gone or self.is_answered:
            return {"type": "http.disconnect"}
        body = b"".join(self._body)
        self._body = _TAKEN if self._has_whole_body else []
        return {"type": "http.request", "body": body, "more_body": not self._has_whole_body}

    def _may_return(self) -> bool:
        if self.is_client_gone or self.is_answered:
            return True
        if self._body is _TAKEN:
            return False
        return bool(self._body) or self._has_whole_body

    def add_body(self, part: bytes) -> int:
        """Take a part of the body and return how many bytes nobody has received yet."""
        self._body.append(part)
        self._wake()
        return sum(map(len, self._body))

    def end_body(self) -> None:
        """Take note that the body is complete."""
        self._has_whole_body = True
        self._wake()

    def lose_client(self) -> None:
        """Take note that the client has left."""
        if self.is_answered or self.is_client_gone:
            return
        self.is_client_gone = True
        self._wake()
        if self.on_client_gone is not None:
            self.on_client_gone()

    # The answer.

    async def send(self, message: Message) -> None:
        """Send a part of the answer (ASGI); the head of one whose length is known goes out with its body.

        Raises
        ------
        RuntimeError
            The messages make no answer: out of order, a broken header, or another length than stated.
        """
        if self.is_client_gone:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self._is_started:
            self._is_started = True
            self._start(message["status"], message.get("headers", ()))
        elif kind == "http.response.body" and self._is_started and not self.is_answered:
            more = message.get("more_body", False)
            data = self._framed(message.get("body", b""), more)
            if self._head is not None:
                data, self._head = self._head + data, None
            if data:
                self._connection.write(data)
            if more:
                await self._connection.drain()
            else:
                self._end()
        else:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")

    async def relay(self, part: bytes) -> None:
        """Send a further part of a stream's body, whose head has gone out, without a message for each.

        Raises
        ------
        RuntimeError
            The answer has not begun, or is complete.
        """
        if self.is_client_gone or not part:
            return
        if not self._is_started or self._head is not None or self.is_answered:
            raise RuntimeError("a part of a body before or after the answer")
        self._connection.write(self._framed(part, True))
        await self._connection.drain()

    def may_relay_now(self) -> bool:
        """Whether `relay_now` may be called: the head has gone out, and the client takes what is sent."""
        return self._is_started and self._connection.has_room and not (self.is_client_gone or self.is_answered)

    def relay_now(self, part: bytes) -> None:
        """Send a further part of a stream's body at once; see `may_relay_now`."""
        self._connection.write(self._framed(part, True))

    def _start(self, status: int, headers: Any) -> None:
        lines = []
        length = None
        is_chunked = has_close = False
        for name, value in headers:
            lower = name.lower()
            if lower not in _FRAMING:
                pass
            elif lower == b"content-length":
                length = int(value)
            elif lower == b"transfer-encoding":
                is_chunked = value.strip().lower() == b"chunked"
            elif b"close" in value.lower():
                self.keep_alive, has_close = False, True
            lines.append(b"%b: %b\r\n" % (lower, value))
        if not self.keep_alive and not has_close:
            lines.append(b"connection: close\r\n")
        if length is None and not is_chunked and not self._is_head_request and status not in _WITHOUT_BODY:
            is_chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        fields = b"".join(lines)
        if fields.count(b"\n") != len(lines) or fields.count(b"\r") != len(lines) or b"\0" in fields:
            raise RuntimeError("a header of the answer has a line break in it")
        self._is_chunked = is_chunked
        self._left_bytes = 0 if is_chunked or length is None or self._is_head_request else length
        self._expects_continue = False
        head = b"%b%b%b\r\n" % (_STATUS_LINES[status], self._connection.common_headers, fields)
        if is_chunked:  # the first event of a stream may be a while away
            self._connection.write(head)
        else:
            self._head = head

    def _framed(self, body: bytes, more: bool) -> bytes:
        """Return a part of the body as it is sent."""
        if self._is_head_request:
            return b""
        if self._is_chunked:
            part = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return part if more else part + b"0\r\n\r\n"
        self._left_bytes -= len(body)
        if self._left_bytes < 0 or (self._left_bytes and not more):
            raise RuntimeError("the body of the answer has another length than its header says")
        return body

    def _end(self) -> None:
        self.is_answered = True
        self.on_client_gone = None
        self._wake()
        if not self.keep_alive:
            self._connection.close()
        self._connection.note_answered()

    async def _give_up(self) -> None:
        """End an answer that its application did not: with an error while nothing has gone out, else by closing."""
        if self.is_answered or self.is_client_gone:
            return
        if self._is_started and self._head is None:
            self._connection.close()
            return
        self._is_started, self._head, self.keep_alive = False, None, False
        body = b"Internal Server Error"
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_TAKEN: list[bytes] = []  # stands for a body that has been received to its end; never appended to
