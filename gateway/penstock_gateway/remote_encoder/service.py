"""A gateway's encoder in another process, and what answers when that does not.

Owns the deadline, the breaker, the one connection and the fall-back: the same encoder in this process, loaded when it
is first needed, or nothing, in which case the router abstains. No request fails or waits for longer than the deadline
because of the other process. Read `RemoteEncoderService.encode`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_gateway.redis_breaker import BreakerRules, BreakerState, CircuitBreaker
from penstock_gateway.remote_encoder.address import EncoderAddress
from penstock_gateway.remote_encoder.connection import EncoderConnection, RemoteFailure, open_connection
from penstock_gateway.remote_encoder.metrics import RemoteEncoderMetrics
from penstock_gateway.remote_encoder.wire import Precision
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_manifest import EncoderManifest
from penstock_routers.encoder_service import CLOSE_TIMEOUT_SECONDS, EncoderService
from penstock_routers.errors import EncoderError, RouterError
from penstock_routers.text import repaired, window

FloatArray = NDArray[np.float32]

_log = logging.getLogger("penstock.encoder")

HANDSHAKE_SECONDS: Final = 2.0
"""For a probe in the background; a request waits for its own deadline only."""
RENEWAL_SECONDS: Final = 300.0
"""After that, less up to a quarter, a connection is replaced: behind one address there may be more servers than before,
and a connection that lasts would never find them."""
_STATES: Final = {BreakerState.CLOSED: 0.0, BreakerState.HALF_OPEN: 1.0, BreakerState.OPEN: 2.0}
_RULES: Final = BreakerRules(first_wait_seconds=0.5, longest_wait_seconds=15.0)


@dataclass(frozen=True, slots=True)
class RemotePlace:
    """Where the encoder is and how it is spoken to.

    Attributes
    ----------
    address : EncoderAddress
    timeout_seconds : float
        Until a text is answered otherwise; > 0.
    secret : bytes
        Empty for none.
    precision : Precision
    tls : SSLContext or None
    """

    address: EncoderAddress
    timeout_seconds: float
    secret: bytes = b""
    precision: Precision = Precision.FLOAT32
    tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        """Name the address only."""
        return f"RemotePlace({self.address})"


class RemoteEncoderService:
    """Encodes single texts in another process; lives as long as this one.

    Parameters
    ----------
    manifest : EncoderManifest
        Of the encoder whose vectors are wanted: its id, window and dimension.
    place : RemotePlace
    load_local : callable or None
        Loads the same encoder here when the other does not answer; blocks, called once, in a thread. None: without the
        other process there is no vector.
    metrics : RemoteEncoderMetrics
    rules : BreakerRules

    Attributes
    ----------
    manifest : EncoderManifest
    encoder_id : str
    """

    def __init__(
        self,
        manifest: EncoderManifest,
        place: RemotePlace,
        *,
        load_local: Callable[[], PromptEncoder] | None,
        metrics: RemoteEncoderMetrics,
        rules: BreakerRules = _RULES,
    ) -> None:
        self.manifest = manifest
        self.encoder_id = manifest.encoder_id
        self._place = place
        self._load_local = load_local
        self._metrics = metrics
        self._breaker = CircuitBreaker(rules)
        self._connection: EncoderConnection | None = None
        self._connecting: asyncio.Task[EncoderConnection] | None = None
        self._probing: asyncio.Task[None] | None = None
        self._local: asyncio.Task[EncoderService] | None = None
        self._renew_at = 0.0
        self._is_closed = False

    @property
    def state(self) -> BreakerState:
        """Whether texts are sent."""
        return self._breaker.state

    @property
    def waiting(self) -> int:
        """Texts that were sent and not answered."""
        return 0 if self._connection is None else self._connection.under_way

    async def encode(self, text: str) -> FloatArray:
        """Encode one text, there or here.

        Parameters
        ----------
        text : str
            A whole prompt of any length; the encoder's window is applied before it is sent.

        Returns
        -------
        ndarray of float32, shape (d,)
            Of length 1, or zeros for a text without a token.

        Raises
        ------
        EncoderError
            ``encoder_closed``; ``encoder_remote_unavailable``: it did not answer and nothing stands in; or what the
            local encoder raised.

        Notes
        -----
        After `BreakerRules.failures` in a row, nothing is sent until a probe in the background has been answered.
        """
        if self._is_closed:
            raise _closed()
        windowed = window(text, self.manifest.window)
        if self._breaker.is_open:
            self._look_again()
            return await self._encode_here(windowed, "open")
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            connection = self._connection
            if connection is None or not connection.is_open:
                connection = await self._connected()
            vector = await connection.ask(_encoded(windowed), self._place.timeout_seconds)
        except RemoteFailure as failure:
            self._note_failure(failure, loop.time())
            return await self._encode_here(windowed, failure.kind)
        now = loop.time()
        if now >= self._renew_at:
            self._renew(now)
        self._breaker.note_success(now)
        self._metrics.seconds.observe(now - started)
        return vector

    async def latency(self, seconds: float, *, texts: int = 5) -> float:
        """Return how long a short text takes there, the median of a few; for whoever looks before anything is served.

        Parameters
        ----------
        seconds : float
            For the handshake, and for each text.
        texts : int, at least 1

        Returns
        -------
        float
            Seconds.

        Raises
        ------
        RemoteFailure
        """
        loop, times = asyncio.get_running_loop(), []
        connection = await self._open(seconds)
        for _ in range(texts):
            started = loop.time()
            await connection.ask(b"Is anybody there?", seconds)
            times.append(loop.time() - started)
        return statistics.median(times)

    async def aclose(self) -> None:
        """Drop the connection and refuse new texts; safe to call twice."""
        self._is_closed = True
        tasks = [task for task in (self._connecting, self._probing, self._local) if task is not None]
        done = [task for task in tasks if task is self._local and task.done() and not task.cancelled()]
        for task in tasks:
            if task not in done:
                task.cancel()
        await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_SECONDS) if tasks else None
        if self._connection is not None:
            self._connection.close()
        if done and self._local is not None and self._local.exception() is None:
            await self._local.result().aclose()

    async def _connected(self) -> EncoderConnection:
        """Connect once for all that wait; each waits for its own deadline only."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._open(self._place.timeout_seconds))
            self._connecting.add_done_callback(_look_at)
        connecting = self._connecting
        try:
            async with asyncio.timeout(self._place.timeout_seconds):
                await asyncio.wait((connecting,))  # a cancelled caller leaves it to the others, and the other way round
        except TimeoutError:
            raise RemoteFailure("late", "it was not connected in time") from None
        if connecting.cancelled():
            raise _closed()
        return connecting.result()

    async def _open(self, seconds: float) -> EncoderConnection:
        opened = await open_connection(
            self._place.address,
            self.encoder_id,
            self.manifest.dimension,
            seconds=seconds,
            secret=self._place.secret,
            precision=self._place.precision,
            tls=self._place.tls,
        )
        if self._connection is not None:
            self._connection.retire()
        self._connection = opened
        self._renew_at = asyncio.get_running_loop().time() + RENEWAL_SECONDS * (0.75 + 0.25 * random.random())
        return opened

    def _renew(self, now: float) -> None:
        """Take another connection in the background; texts go on over the old one until there is one."""
        self._renew_at = now + HANDSHAKE_SECONDS
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._open(HANDSHAKE_SECONDS))
            self._connecting.add_done_callback(_look_at)

    async def _encode_here(self, windowed: str, kind: str) -> FloatArray:
        """Answer from this process's own encoder, if it is to have one."""
        self._metrics.fallbacks[kind].inc()
        if self._load_local is None:
            raise EncoderError("the remote encoder does not answer", code="encoder_remote_unavailable")
        if self._local is None:
            _log.warning("encoder_loaded_here", extra={"encoder": self.encoder_id})
            self._local = asyncio.create_task(self._loaded(self._load_local))
            self._local.add_done_callback(_look_at)
        local = self._local
        if not local.done():
            await asyncio.wait((local,))
        if local.cancelled():
            raise _closed()
        return await local.result().encode(windowed)

    async def _loaded(self, load: Callable[[], PromptEncoder]) -> EncoderService:
        try:
            encoder = await asyncio.to_thread(load)
        except RouterError as failure:
            _log.warning("encoder_not_loaded_here", extra={"code": failure.code, "problem": failure.message})
            raise
        return EncoderService(encoder)

    def _note_failure(self, failure: RemoteFailure, now: float) -> None:
        if self._breaker.note_failure(now):
            _log.warning(
                "remote_encoder_left_alone", extra={"address": str(self._place.address), "problem": failure.message}
            )
            self._show_state()

    def _look_again(self) -> None:
        """Send a probe in the background when it is time for one."""
        now = asyncio.get_running_loop().time()
        if self._breaker.state is BreakerState.OPEN and now >= self._breaker.probe_at:
            self._breaker.begin_probe()
            self._show_state()
            self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        """Connect anew and encode a word."""
        has_answered = False
        try:
            connection = await self._open(HANDSHAKE_SECONDS)
            await connection.ask(b"probe", self._place.timeout_seconds)
            has_answered = True
        except RemoteFailure as failure:
            _log.info("remote_encoder_probed", extra={"problem": failure.message})
        finally:
            if self._breaker.note_probe(has_answered=has_answered, now=asyncio.get_running_loop().time()):
                _log.info("remote_encoder_back", extra={"address": str(self._place.address)})
            self._show_state()

    def _show_state(self) -> None:
        self._metrics.breaker_state.set(_STATES[self._breaker.state])


def _closed() -> EncoderError:
    return EncoderError("the encoder is shutting down", code="encoder_closed")


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # lone surrogates, which JSON allows
        return repaired(text).encode()


def _look_at(task: asyncio.Task[object]) -> None:
    """Take note of a task's failure, so that the loop does not complain where nobody waits for it any more."""
    if not task.cancelled():
        task.exception()
