"""The client's side of one connection: many texts under way at once, each with a deadline.

Owns the handshake, matching answers to texts, and one timer for all deadlines. It never tries anything twice
(`remote_encoder.service` decides). Read `open_connection`, then `EncoderConnection.ask`.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import socket
import ssl
from collections import deque
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from penstock_gateway.remote_encoder import wire
from penstock_gateway.remote_encoder.address import EncoderAddress
from penstock_gateway.remote_encoder.wire import Failure, Kind, Precision, Refusal, WireError

FloatArray = NDArray[np.float32]

MAX_UNDER_WAY: Final = 1024
"""Texts without an answer, per connection."""
_FAILURES: Final = {Failure.OVERLOADED: "overloaded", Failure.LATE: "late", Failure.ENCODER: "failed"}


class RemoteFailure(Exception):
    """A text has no vector.

    Parameters
    ----------
    kind : str
        One of `metrics.FALLBACK_KINDS`.
    message : str
        For the log; without text or secret.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class EncoderConnection(asyncio.Protocol):
    """One connection to an encode server.

    Parameters
    ----------
    encoder_id : str
        That the server must have.
    dimension : int
        Of its vectors.
    secret : bytes
        Empty: none is asked for on either side.
    precision : Precision
        Of the vectors on the wire.
    """

    def __init__(
        self, encoder_id: str, dimension: int, *, secret: bytes = b"", precision: Precision = Precision.FLOAT32
    ) -> None:
        self._encoder_id = encoder_id
        self._dimension = dimension
        self._secret = secret
        self._precision = precision
        self._loop = asyncio.get_running_loop()
        self.is_ready: asyncio.Future[None] = self._loop.create_future()
        self._frames = wire.FrameReader(max(256, 4 * dimension + 4))
        self._nonce = secrets.token_bytes(wire.NONCE_BYTES)
        self._server_nonce: bytes | None = None
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, asyncio.Future[FloatArray]] = {}
        self._deadlines: deque[tuple[float, int]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0
        self._is_writable = True
        self._is_retired = False

    @property
    def is_open(self) -> bool:
        """Whether texts can be sent."""
        return self._transport is not None and self.is_ready.done() and not self._transport.is_closing()

    @property
    def under_way(self) -> int:
        """Texts sent and not answered."""
        return len(self._waiting)

    def ask(self, text: bytes, seconds: float) -> asyncio.Future[FloatArray]:
        """Send a text.

        Parameters
        ----------
        text : bytes
            UTF-8, windowed.
        seconds : float
            Until the future fails; the same for every text of a connection, so that the oldest ends first.

        Returns
        -------
        Future of ndarray of float32, shape (d,)
            Ends with `RemoteFailure` otherwise, at the deadline at the latest.

        Raises
        ------
        RemoteFailure
            ``broken``: it is closed; ``overloaded``: too many texts are under way or nothing is read at the other end.
        """
        transport = self._transport
        if transport is None or not self.is_open:
            raise RemoteFailure("broken", "the connection is closed")
        if len(self._waiting) >= MAX_UNDER_WAY or not self._is_writable or len(text) > wire.MAX_TEXT_BYTES:
            raise RemoteFailure("overloaded", "too much is under way")
        self._last = number = self._last + 1 & 0xFFFFFFFF
        future: asyncio.Future[FloatArray] = self._loop.create_future()
        self._waiting[number] = future
        self._deadlines.append((self._loop.time() + seconds, number))
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._expire)
        transport.write(wire.text_request(number, min(int(seconds * 1000) + 1, wire.MAX_MILLISECONDS), text))
        return future

    def retire(self) -> None:
        """Close as soon as what is under way has been answered or given up; nothing more is to be asked."""
        self._is_retired = True
        if not self._waiting:
            self.close()

    def close(self) -> None:
        """Drop the connection and whatever waits."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the challenge."""
        self._transport = made = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        opened = made.get_extra_info("socket")
        if opened is not None and opened.family != socket.AF_UNIX:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whatever waits."""
        self._transport = None
        self._fail_all(RemoteFailure("broken", "the connection was lost"))

    def eof_received(self) -> bool:
        """Close: nothing is answered any more."""
        return False

    def pause_writing(self) -> None:
        """Send no more for now."""
        self._is_writable = False

    def resume_writing(self) -> None:
        """Go on."""
        self._is_writable = True

    def data_received(self, data: bytes) -> None:
        """Hand out what has come; anything that is not of the protocol ends the connection."""
        try:
            for kind, content in self._frames.feed(data):
                self._take(kind, content)
            if self._is_retired and not self._waiting:
                self.close()
        except WireError as error:
            self._fail_all(RemoteFailure("broken", str(error)))
            self.close()

    def _take(self, kind: int, content: bytes) -> None:
        if not self.is_ready.done():
            self._shake_hands(kind, content)
        elif kind == Kind.VECTOR:
            number, vector = wire.read_vector(content, self._dimension, self._precision)
            if not np.isfinite(vector.sum()):  # not finite as soon as one number is not
                raise WireError("a vector is not finite")
            future = self._waiting.pop(number, None)
            if future is not None and not future.done():
                future.set_result(vector)
        elif kind == Kind.FAILED:
            number, why = wire.read_failure(content)
            _fail(self._waiting.pop(number, None), RemoteFailure(_FAILURES[why], f"the server said {why.name.lower()}"))
        else:
            raise WireError("an answer was expected")

    def _shake_hands(self, kind: int, content: bytes) -> None:
        assert self._transport is not None
        if kind == Kind.CHALLENGE and self._server_nonce is None:
            self._server_nonce = wire.read_challenge(content)
            proof = wire.proof_of(self._secret, b"client", self._server_nonce, self._nonce, self._encoder_id)
            self._transport.write(wire.hello(self._precision, self._nonce, proof, self._encoder_id))
        elif kind == Kind.WELCOME and self._server_nonce is not None:
            dimension, proof = wire.read_welcome(content)
            wanted = wire.proof_of(self._secret, b"server", self._server_nonce, self._nonce, self._encoder_id)
            if not hmac.compare_digest(wanted, proof):
                raise WireError("the server does not know the secret")
            if dimension != self._dimension:
                raise WireError("the server's vectors have another length")
            self.is_ready.set_result(None)
        elif kind == Kind.REFUSED and self._server_nonce is not None and len(content) == 1:
            known = {reason.value: reason.name.lower() for reason in Refusal}
            why = known.get(content[0], "unknown")
            self._fail_all(RemoteFailure("refused", f"the server refused this gateway's {why}"))
            self.close()
        else:
            raise WireError("the handshake went another way")

    def _expire(self) -> None:
        """Fail what is over its deadline; forget what has been answered."""
        self._timer = None
        now = self._loop.time()
        while self._deadlines:
            deadline, number = self._deadlines[0]
            if number in self._waiting:
                if deadline > now:
                    self._timer = self._loop.call_at(deadline, self._expire)
                    return
                _fail(self._waiting.pop(number), RemoteFailure("late", "no vector came in time"))
            self._deadlines.popleft()
        if self._is_retired and not self._waiting:
            self.close()

    def _fail_all(self, failure: RemoteFailure) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, {}
        self._deadlines.clear()
        if not self.is_ready.done():
            self.is_ready.set_exception(failure)
            self.is_ready.exception()  # whoever opened it may be gone
        for future in waiting.values():
            _fail(future, RemoteFailure(failure.kind, failure.message))


async def open_connection(
    address: EncoderAddress,
    encoder_id: str,
    dimension: int,
    *,
    seconds: float,
    secret: bytes = b"",
    precision: Precision = Precision.FLOAT32,
    tls: ssl.SSLContext | None = None,
) -> EncoderConnection:
    """Connect and shake hands.

    Parameters
    ----------
    address : EncoderAddress
    encoder_id : str
    dimension : int
    seconds : float
        For all of it.
    secret : bytes
    precision : Precision
    tls : SSLContext, optional
        For ``tls``.

    Returns
    -------
    EncoderConnection

    Raises
    ------
    RemoteFailure
        ``unreachable``, ``refused``, ``late`` or ``broken``.
    """
    connection: EncoderConnection | None = None

    def new() -> EncoderConnection:
        nonlocal connection
        connection = EncoderConnection(encoder_id, dimension, secret=secret, precision=precision)
        return connection

    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            if address.kind == "unix":
                _, made = await loop.create_unix_connection(new, address.path)
            else:
                context = tls if address.kind == "tls" else None
                _, made = await loop.create_connection(new, address.host, address.port, ssl=context)
            await asyncio.shield(made.is_ready)
            return made
    except TimeoutError:
        failure = RemoteFailure("late", f"{address} did not answer in time")
    except OSError as error:  # TLS failures among them
        failure = RemoteFailure("unreachable", f"{address}: {error.strerror or type(error).__name__}")
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    if connection is not None:
        connection.close()
    raise failure


def _fail(future: asyncio.Future[FloatArray] | None, failure: RemoteFailure) -> None:
    if future is not None and not future.done():
        future.set_exception(failure)
