"""The server's side: connections, handshakes, and vectors for the texts that come.

Owns every bound of it: connections, bytes of a text, texts that wait, seconds for a handshake and for a client that
does not read. It holds encoders and knows no settings. Read `EncodeServer.start`, then `_Connection.data_received`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import secrets
import socket
import ssl
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from penstock_gateway.remote_encoder import wire
from penstock_gateway.remote_encoder.address import EncoderAddress
from penstock_gateway.remote_encoder.metrics import EncoderCounts, EncodeServerMetrics
from penstock_gateway.remote_encoder.wire import Failure, Kind, Refusal, WireError
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_service import QUEUE_LIMIT, EncoderService
from penstock_routers.errors import EncoderError, RouterError

_log = logging.getLogger("penstock.encoder")

HANDSHAKE_SECONDS: Final = 5.0
UNREAD_SECONDS: Final = 10.0
"""How long a client may leave its answers unread before it is dropped."""
MAX_CONNECTIONS: Final = 512
_BACKLOG: Final = 128


class EncodeServer:
    """Serves the vectors of one or more encoders to gateways.

    Parameters
    ----------
    encoders : sequence of PromptEncoder
    secret : bytes
        That a client must know; empty asks for none.
    metrics : EncodeServerMetrics
    queue_limit : int
        Texts that may wait for each transformer.
    """

    def __init__(
        self,
        encoders: Sequence[PromptEncoder],
        *,
        secret: bytes,
        metrics: EncodeServerMetrics,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self.services: Mapping[str, EncoderService] = {
            encoder.encoder_id: EncoderService(
                _NotedEncoder(encoder, metrics.of(encoder.encoder_id)), queue_limit=queue_limit
            )
            for encoder in encoders
        }
        self.dimensions = {encoder.encoder_id: encoder.dimension for encoder in encoders}
        self.secret = secret
        self.metrics = metrics
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._address: EncoderAddress | None = None

    @property
    def address(self) -> EncoderAddress | None:
        """Where it listens, with the port that it took; None while it does not."""
        if self._server is None or self._address is None or self._address.kind == "unix":
            return self._address
        port = self._server.sockets[0].getsockname()[1]
        return EncoderAddress(self._address.kind, host=self._address.host, port=port)

    async def start(self, address: EncoderAddress, tls: ssl.SSLContext | None = None) -> None:
        """Listen from now on.

        Parameters
        ----------
        address : EncoderAddress
            A socket file is made for this user and group only; one that nobody listens on any more is replaced.
        tls : SSLContext, optional
            With the server's certificate; needed for ``tls``.

        Raises
        ------
        OSError
            The address cannot be taken.
        ValueError
            ``tls`` without a certificate.
        """
        if address.kind == "tls" and tls is None:
            raise ValueError("tls:// needs a certificate and its key")
        loop = asyncio.get_running_loop()
        new = partial(_Connection, self)
        if address.kind == "unix":
            listener = await asyncio.to_thread(_unix_listener, address.path)
            self._server = await loop.create_unix_server(new, sock=listener, backlog=_BACKLOG)
        else:
            self._server = await loop.create_server(
                new, address.host, address.port, ssl=tls if address.kind == "tls" else None, backlog=_BACKLOG
            )
        self._address = address

    async def aclose(self) -> None:
        """Stop listening, end the connections and the encoders' queues; safe to call twice."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in list(self.connections):
            connection.end()
        for service in self.services.values():
            await service.aclose()
        if server is not None and self._address is not None and self._address.kind == "unix":
            with suppress(OSError):
                await asyncio.to_thread(os.unlink, self._address.path)


class _NotedEncoder:
    """An encoder that notes how many texts each call takes."""

    def __init__(self, encoder: PromptEncoder, counts: EncoderCounts) -> None:
        self._encoder = encoder
        self._counts = counts
        self.kind = encoder.kind
        self.rows_per_run = encoder.rows_per_run

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self._counts.note_batch(len(texts))
        return self._encoder.encode(texts)


class _Connection(asyncio.Protocol):
    """One client: a handshake, then texts."""

    def __init__(self, server: EncodeServer) -> None:
        self._server = server
        self._frames = wire.FrameReader(wire.MAX_ID_BYTES + 256)
        self._nonce = secrets.token_bytes(wire.NONCE_BYTES)
        self._transport: asyncio.Transport | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._answer: Callable[[list[tuple[int, int, str]]], None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who serves here; a connection too many is ended before anything is kept for it."""
        self._transport = made = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        if len(self._server.connections) >= MAX_CONNECTIONS:
            made.abort()
            return
        self._server.connections.add(self)
        self._server.metrics.connections.set(len(self._server.connections))
        opened = made.get_extra_info("socket")
        if opened is not None and opened.family != socket.AF_UNIX:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._limit_to(HANDSHAKE_SECONDS)
        made.write(wire.challenge(self._nonce))

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of what still runs for it."""
        self._server.connections.discard(self)
        self._server.metrics.connections.set(len(self._server.connections))
        self._limit_to(None)
        for task in self._tasks:
            task.cancel()
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answer what has come completely; anything that is not of the protocol ends the connection."""
        try:
            frames = self._frames.feed(data)
            if self._answer is None and frames:
                kind, content = frames.pop(0)
                if kind != Kind.HELLO:
                    raise WireError("a hello was expected")
                self._greet(wire.read_hello(content))
            if frames and self._answer is not None:
                if any(kind != Kind.TEXT for kind, _ in frames):
                    raise WireError("a text was expected")
                self._answer([wire.read_text_request(content) for _, content in frames])
        except WireError as error:
            self._server.metrics.refusals.labels("wire").inc()
            _log.warning("encoder_client_refused", extra={"problem": str(error)})
            self.end()

    def pause_writing(self) -> None:
        """Read no more from a client that does not read its answers, and wait only so long for it."""
        if self._transport is not None:
            self._transport.pause_reading()
            self._limit_to(UNREAD_SECONDS)

    def resume_writing(self) -> None:
        """Go on."""
        if self._transport is not None:
            self._transport.resume_reading()
            self._limit_to(None)

    def end(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _limit_to(self, seconds: float | None) -> None:
        """Have the connection dropped in so many seconds; None: not any more."""
        if self._limit is not None:
            self._limit.cancel()
        self._limit = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self.end)

    def _greet(self, hello: wire.Hello) -> None:
        """Take a client on, or say why not."""
        secret, server = self._server.secret, self._server
        wanted = wire.proof_of(secret, b"client", self._nonce, hello.nonce, hello.encoder_id)
        refusal = None
        if hello.version != wire.VERSION:
            refusal = Refusal.VERSION
        elif secret and not hmac.compare_digest(wanted, hello.proof):
            refusal = Refusal.SECRET
        elif hello.encoder_id not in server.services:
            refusal = Refusal.ENCODER
        if refusal is not None:
            server.metrics.refusals.labels(refusal.name.lower()).inc()
            _log.warning("encoder_client_refused", extra={"problem": refusal.name.lower()})
            if self._transport is not None:
                self._transport.write(wire.frame(Kind.REFUSED, bytes([refusal])))
                self._transport.close()
            return
        service = server.services[hello.encoder_id]
        answer = self._answer_at_once if service.encoder.kind == "static" else self._answer_in_turn
        self._answer = partial(answer, service, server.metrics.of(hello.encoder_id), hello.precision)
        self._frames.max_bytes = wire.MAX_TEXT_BYTES + 6
        proof = wire.proof_of(secret, b"server", self._nonce, hello.nonce, hello.encoder_id)
        self._limit_to(None)
        if self._transport is not None:
            self._transport.write(wire.welcome(server.dimensions[hello.encoder_id], proof))

    def _answer_at_once(
        self,
        service: EncoderService,
        counts: EncoderCounts,
        precision: wire.Precision,
        requests: list[tuple[int, int, str]],
    ) -> None:
        """Encode what came together in one call: a static encoder takes less time than a hand-over."""
        started = time.perf_counter()
        try:
            vectors = service.encoder.encode([text for _, _, text in requests])
            answers = [wire.vector_answer(r[0], v, precision) for r, v in zip(requests, vectors, strict=True)]
            counts.note("encoded", len(requests), time.perf_counter() - started)
        except RouterError:
            answers = [wire.failure(request[0], Failure.ENCODER) for request in requests]
            counts.note("failed", len(requests), time.perf_counter() - started)
        if self._transport is not None:
            self._transport.write(b"".join(answers))

    def _answer_in_turn(
        self,
        service: EncoderService,
        counts: EncoderCounts,
        precision: wire.Precision,
        requests: list[tuple[int, int, str]],
    ) -> None:
        """Queue each text; what is queued while a batch runs is the next batch."""
        for number, milliseconds, text in requests:
            task = asyncio.create_task(self._encoded(service, counts, precision, number, milliseconds / 1000.0, text))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _encoded(
        self,
        service: EncoderService,
        counts: EncoderCounts,
        precision: wire.Precision,
        number: int,
        seconds: float,
        text: str,
    ) -> None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(seconds):
                vector: NDArray[np.float32] = await service.encode(text)
            answer, outcome = wire.vector_answer(number, vector, precision), "encoded"
        except TimeoutError:  # nobody waits for it any more
            answer, outcome = wire.failure(number, Failure.LATE), "late"
        except EncoderError as error:
            is_full = error.code == "encoder_queue_full"
            answer = wire.failure(number, Failure.OVERLOADED if is_full else Failure.ENCODER)
            outcome = "overloaded" if is_full else "failed"
        counts.note(outcome, 1, time.perf_counter() - started)
        if self._transport is not None:
            self._transport.write(answer)


def _unix_listener(path: str) -> socket.socket:
    """Bind a socket file that only this user and group may open; a left-over one is removed, a live one is not."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        place = Path(path)
        if place.exists() and stat.S_ISSOCK(place.stat().st_mode) and not _is_answered(path):
            place.unlink()
        mask = os.umask(0o117)  # before there is anything else in this process: nobody else may open it, ever
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
