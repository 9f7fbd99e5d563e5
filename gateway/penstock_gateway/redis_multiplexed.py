"""Many commands in flight over one connection to one Redis server.

Owns the connection: opening it, one write for all commands of one turn of the event loop, replies matched by their
order, and bounds on what may wait. It makes no task per command. Read `MultiplexedRedis.execute`, then `_Link`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.redis_errors import RedisRefused, crowded, late, refused, unreachable
from penstock_gateway.redis_url import RedisPlace

_log = logging.getLogger("penstock.redis")

GRACE_SECONDS: Final = 1.0
"""How long after its deadline a command's reply may come before the connection is taken for dead."""
CONNECT_SECONDS: Final = 1.0
"""For connecting, TLS, the credential and a first PING together; callers wait for it within their own deadlines."""
MAX_WAITING: Final = 10_000
"""Commands sent or to be sent; with 50 ms each, that is 200,000 a second."""
MAX_UNSENT_BYTES: Final = 16 * 1024 * 1024
"""Of commands that wait for the connection to take them; the largest single one is an answer for the cache, 256 kB."""

SWEEP_SECONDS: Final = 0.005
"""A command is called late by so much at most. One timer for all commands costs 2 µs less than one for each."""

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 1.0  # between attempts to connect
_LAST_LOOK_SECONDS = 0.001
_WRITE_BUFFER_BYTES = 1024 * 1024
_NO_REPLY = object()

_Command = tuple[bytes, "asyncio.Future[object]", float]  # packed; its reply; monotonic time of its deadline


class ErrorReply(Exception):
    """An error that Redis sent in place of a reply; its text stays in the process."""


class MultiplexedRedis:
    """Sends commands of many callers to one server.

    Parameters
    ----------
    place : RedisPlace
        Not a cluster.
    max_waiting : int
        Commands without a reply, those that were given up included, before further ones fail at once.
    jitter : callable
        Returns numbers in [0, 1), for the pauses between attempts to connect.

    Notes
    -----
    Commands of one turn of the event loop leave in one write, and Redis answers in the order in which they came, so
    the first reply belongs to the first command that waits. Whoever gives up leaves a place in that order: the late
    reply is dropped there and can reach nobody else. When the oldest command has got no reply `GRACE_SECONDS` after its
    deadline, the connection is closed and everything on it fails.

    A command that was not sent before its deadline is never sent. While the server takes no more bytes, commands wait
    here within `max_waiting` and `MAX_UNSENT_BYTES`; beyond those they fail at once.

    A server that says ``READONLY`` was a primary once: the next commands go over a new connection, which a name or a
    load balancer may lead to the new primary.
    """

    def __init__(
        self,
        place: RedisPlace,
        *,
        max_waiting: int = MAX_WAITING,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._place = place
        self._max_waiting = max_waiting
        self._jitter = jitter
        import hiredis  # noqa: PLC0415 - only where Redis is called for; `redis_client` has looked whether it is there

        self._pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command
        self._link: _Link | None = None
        self._links: set[_Link] = set()
        self._opening: asyncio.Task[None] | None = None
        self._unsent: deque[_Command] = deque()
        self._unsent_bytes = 0
        self._is_flush_due = False
        self._sweep_at: float | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._failures = 0
        self._resting_until = 0.0
        self._rest_cause: StoreUnavailable = unreachable("NotConnected")
        self._exchanged_at = float("-inf")
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """Commands that have no reply yet, those that were given up included."""
        return len(self._unsent) + sum(len(link.waiting) for link in self._links)

    async def execute(self, command: tuple[bytes | int, ...], deadline_seconds: float) -> object:
        """Send a command and return its reply as it is on the wire.

        Raises
        ------
        StoreUnavailable
        """
        if deadline_seconds <= 0.0:
            raise late()
        packed = self._pack(command)
        link = self._link
        if (
            link is None
            or len(self._unsent) + len(link.waiting) >= self._max_waiting
            or self._unsent_bytes + len(packed) > MAX_UNSENT_BYTES
        ):
            self._make_room(len(packed))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        self._unsent.append((packed, future, time.monotonic() + deadline_seconds))
        self._unsent_bytes += len(packed)
        if not self._is_flush_due:
            self._is_flush_due = True
            loop.call_soon(self._flush)
        reply = await future
        if type(reply) is ErrorReply:
            raise self._refusal(str(reply))
        return reply

    async def aclose(self) -> None:
        """Close the connection; commands without a reply fail."""
        self._is_closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
        for link in list(self._links):
            link.abort("Closed")
        self._fail_unsent(unreachable("Closed"))

    def _make_room(self, length: int) -> None:
        """Refuse a command that cannot be sent soon."""
        if self._is_closed:
            raise unreachable("Closed")
        if self._link is None and self._opening is None and time.monotonic() < self._resting_until:
            raise _again(self._rest_cause)
        kept = [each for each in self._unsent if not each[1].done()]
        self._unsent = deque(kept)
        self._unsent_bytes = sum(len(packed) for packed, _, _ in kept)
        if self.waiting >= self._max_waiting or self._unsent_bytes + length > MAX_UNSENT_BYTES:
            raise crowded()

    def _flush(self) -> None:
        """Send what waits, in one write."""
        self._is_flush_due = False
        if self._sweep_at is None:
            self._sweep_later(SWEEP_SECONDS)
        link = self._link
        if link is None:
            if self._unsent and self._opening is None and not self._is_closed:
                self._opening = asyncio.get_running_loop().create_task(self._open(), name="penstock-redis-connect")
            return
        if link.is_full:
            return
        batch, self._unsent, self._unsent_bytes = self._unsent, deque(), 0
        link.send(batch)

    def _sweep_later(self, seconds: float) -> None:
        self._sweep_at = time.monotonic() + seconds
        self._sweeping = asyncio.get_running_loop().call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        """End the wait of commands whose deadline has passed, and connections that have been silent for too long.

        After a moment in which nothing else ran either, replies may lie in the socket unread (uvloop runs timers before
        it looks at sockets); then it is too early to call anything late.
        """
        due, self._sweep_at = self._sweep_at, None
        now = time.monotonic()
        if due is not None and now - due > SWEEP_SECONDS:
            self._sweep_later(_LAST_LOOK_SECONDS)
            return
        for _, future, end in self._unsent:
            if end <= now and not future.done():
                future.set_exception(late())
        for link in list(self._links):
            link.sweep(now)
        if self._unsent or any(link.waiting for link in self._links):
            self._sweep_later(SWEEP_SECONDS)

    async def _open(self) -> None:
        """Connect, and send what waits; when that fails, what waits fails, and so does what comes until it is over."""
        loop = asyncio.get_running_loop()
        link = _Link(self)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._connect(loop, link)
                await self._introduce(loop, link)
        except TimeoutError:
            failure: StoreUnavailable | None = unreachable("TimeoutError")
        except OSError as error:
            failure = unreachable(type(error).__name__)
        except StoreUnavailable as error:
            failure = error
        except asyncio.CancelledError:
            link.abort("Cancelled")
            raise
        except Exception as error:  # the edge of a background task; say, a host name that cannot be one
            _log.warning("redis_broken", extra={"problem": type(error).__name__})
            failure = unreachable(type(error).__name__)
        else:
            failure = None
        self._opening = None
        if failure is not None:
            link.abort("NotConnected")
            self._rest(failure)
            return
        self._failures = 0
        self._link = link
        self._flush()

    async def _connect(self, loop: asyncio.AbstractEventLoop, link: _Link) -> None:
        place = self._place
        if place.socket_path:
            await loop.create_unix_connection(lambda: link, place.socket_path)
            return
        options: dict[str, Any] = {}
        if place.tls is not None:
            options = {"ssl": place.tls.context(), "server_hostname": place.host}
        await loop.create_connection(lambda: link, place.host, place.port, **options)

    async def _introduce(self, loop: asyncio.AbstractEventLoop, link: _Link) -> None:
        """Give the credential, choose the database, and wait until the server answers at all.

        Raises
        ------
        StoreUnavailable
        """
        place = self._place
        commands: list[tuple[bytes | int, ...]] = [(b"PING",)]
        if place.database:
            commands.insert(0, (b"SELECT", place.database))
        if place.password is not None:
            user = () if place.user is None else (place.user.encode(),)
            commands.insert(0, (b"AUTH", *user, place.password.encode()))
        futures = [loop.create_future() for _ in commands]
        end = math.inf  # `_open` has a deadline
        link.send(deque((self._pack(each), future, end) for each, future in zip(commands, futures, strict=True)))
        try:
            replies = await asyncio.gather(*futures)
        finally:
            for future in futures:
                future.cancel()
        for (name, *_), reply in zip(commands, replies, strict=True):
            if isinstance(reply, ErrorReply) and name == b"AUTH":
                raise RedisRefused("credential")
            # A server that does not let this user PING is there all the same.
            if isinstance(reply, ErrorReply) and not (name == b"PING" and str(reply).startswith("NOPERM")):
                raise _refusal(str(reply))

    def _rest(self, cause: StoreUnavailable) -> None:
        pause = min(_FIRST_PAUSE_SECONDS * 2.0**self._failures, _LONGEST_PAUSE_SECONDS)
        self._failures += 1
        self._resting_until = time.monotonic() + pause * (0.5 + 0.5 * self._jitter())
        self._rest_cause = cause
        self._fail_unsent(cause)

    def _fail_unsent(self, cause: StoreUnavailable) -> None:
        unsent, self._unsent, self._unsent_bytes = self._unsent, deque(), 0
        for _, future, _ in unsent:
            if not future.done():
                future.set_exception(_again(cause))

    def _refusal(self, message: str) -> StoreUnavailable:
        """Return the error of an error reply, and leave a server that is no primary any more."""
        error = _refusal(message)
        if isinstance(error, RedisRefused) and error.reason == "READONLY":
            now = time.monotonic()
            if self._link is not None and now - self._exchanged_at >= 1.0:  # a replica would say so again at once
                self._exchanged_at = now
                link, self._link = self._link, None
                link.retire()
        return error

    def _note_opened(self, link: _Link) -> None:
        self._links.add(link)

    def _note_lost(self, link: _Link) -> None:
        self._links.discard(link)
        if self._link is link:
            self._link = None
            if self._unsent:
                self._flush()

    def _note_room(self, link: _Link) -> None:
        if self._link is link and self._unsent:
            self._flush()


class _Link(asyncio.Protocol):
    """One connection and the commands on it that wait for a reply, in the order in which they were sent."""

    def __init__(self, owner: MultiplexedRedis) -> None:
        import hiredis  # noqa: PLC0415 - as above

        self.waiting: deque[tuple[asyncio.Future[object], float]] = deque()
        self.is_full = False
        self._owner = owner
        self._reader = hiredis.Reader(notEnoughData=_NO_REPLY, replyError=ErrorReply)
        self._protocol_error = hiredis.ProtocolError
        self._transport: asyncio.Transport | None = None
        self._is_retired = False
        self._cause = "ConnectionError"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._owner._note_opened(self)

    def send(self, batch: deque[_Command]) -> None:
        """Send commands that are still wanted, in one write."""
        if self._transport is None:
            for _, future, _ in batch:
                if not future.done():
                    future.set_exception(unreachable(self._cause))
            return
        pieces = []
        for packed, future, end in batch:
            if not future.done():
                pieces.append(packed)
                self.waiting.append((future, end))
        if pieces:
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self.waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NO_REPLY:
                future = waiting.popleft()[0]
                if not future.done():  # else it came too late
                    future.set_result(reply)
        except (self._protocol_error, IndexError):  # something else than Redis, or a reply to nothing
            _log.warning("redis_broken", extra={"problem": "ProtocolError"})
            self.abort("ProtocolError")
            return
        if self._is_retired and not waiting:
            self.abort("Retired")

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        self._owner._note_room(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._cause = type(exc).__name__
        self._end()

    def retire(self) -> None:
        """Close once what is on the way has been answered."""
        self._is_retired = True
        if not self.waiting:
            self.abort("Retired")

    def abort(self, cause: str) -> None:
        """Close at once; commands without a reply fail."""
        self._cause = cause
        if self._transport is not None:
            self._transport.abort()
        self._end()

    def _end(self) -> None:
        self._transport = None
        waiting, self.waiting = self.waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(unreachable(self._cause))
        self._owner._note_lost(self)

    def sweep(self, now: float) -> None:
        """End the wait of commands whose deadline has passed; close when the oldest one's reply is long overdue."""
        if self.waiting and self.waiting[0][1] + GRACE_SECONDS <= now:
            self.abort("TimeoutError")
            return
        for future, end in self.waiting:
            if end <= now and not future.done():
                future.set_exception(late())


def _refusal(message: str) -> StoreUnavailable:
    """Return the error of an error reply; a server that loads its data is not there yet."""
    return unreachable("BusyLoadingError") if message.startswith("LOADING") else refused(message)


def _again(cause: StoreUnavailable) -> StoreUnavailable:
    """Return the same error as a new object: one raised many times would collect the frames of all of its raisers."""
    if isinstance(cause, RedisRefused):
        return RedisRefused(cause.reason)
    return StoreUnavailable(cause.message, code=cause.code)
