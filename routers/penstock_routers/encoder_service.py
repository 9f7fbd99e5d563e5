"""The encoder inside an event loop: static at once, transformer in one worker thread with continuous batching.

Owns the queue, its bound and its end. It knows nothing of graphs or tokens. Read `EncoderService.encode` first.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock_routers.encoder_manifest import Kind
from penstock_routers.errors import EncoderError, RouterError

FloatArray = NDArray[np.float32]

_LOG = logging.getLogger(__name__)

# Waiting texts: at 2.3 ms for a 30-token prompt on one thread, a full queue is over half a second of work. Whoever
# comes later is better served by the default arm.
QUEUE_LIMIT = 256
# A batch that is running cannot be stopped; the longest takes about a second on a busy CPU.
CLOSE_TIMEOUT_SECONDS = 5.0


class TextEncoder(Protocol):
    """What the service needs of an encoder; `PromptEncoder` is one."""

    @property
    def kind(self) -> Kind:
        """``"static"`` is fast enough for the event loop."""

    @property
    def rows_per_run(self) -> int:
        """Texts of one batch at most."""

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return vectors, shape (n, d); blocks; called from one thread at a time."""


class EncoderService:
    """Encodes single texts for many concurrent requests; lives as long as the process.

    Parameters
    ----------
    encoder : TextEncoder
    queue_limit : int
        Texts that may wait; >= 1. The batch being encoded does not count.

    Notes
    -----
    A static encoder runs inline: at 40 µs for a short prompt and 3 ms for the longest window it costs less than what a
    hand-over to a thread and back adds to the tail (9 ms at p99). A transformer runs in one worker thread, and what
    arrives while a batch runs is the next batch, so an idle service adds no wait and a busy one fills its batches. The
    batch is bounded by the encoder's `rows_per_run`, which is 1 for int8.
    """

    def __init__(self, encoder: TextEncoder, *, queue_limit: int = QUEUE_LIMIT) -> None:
        if queue_limit < 1:
            raise ValueError("queue_limit must be at least 1")
        self._encoder = encoder
        self._queue_limit = queue_limit
        self._waiting: deque[tuple[str, asyncio.Future[FloatArray]]] = deque()
        self._running: list[asyncio.Future[FloatArray]] = []
        self._batches: asyncio.Task[None] | None = None
        self._is_closed = False
        self._worker: ThreadPoolExecutor | None = None
        if encoder.kind != "static":
            self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="penstock-encoder")

    async def encode(self, text: str) -> FloatArray:
        """Encode one text.

        Parameters
        ----------
        text : str
            A whole prompt; the encoder applies its window.

        Returns
        -------
        ndarray of float32, shape (d,)
            Of length 1, or zeros for a text without a token.

        Raises
        ------
        EncoderError
            Codes ``encoder_queue_full``, ``encoder_closed``, or what the encoder raised.

        Notes
        -----
        May be cancelled at any time; a text that has not been started is then never encoded.
        """
        if self._is_closed:
            raise _closed()
        if self._worker is None:
            vectors = self._encoder.encode([text])
            return np.asarray(vectors[0])
        if len(self._waiting) >= self._queue_limit:
            self._drop_cancelled()
        if len(self._waiting) >= self._queue_limit:
            raise EncoderError(f"{self._queue_limit} texts wait for the encoder already", code="encoder_queue_full")
        future: asyncio.Future[FloatArray] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, future))
        if self._batches is None or self._batches.done():
            self._batches = asyncio.create_task(self._run_batches(self._worker), name="penstock-encoder")
        return await future

    async def aclose(self) -> None:
        """Refuse new texts, fail the waiting ones, give the running batch a few seconds; safe to call twice."""
        self._is_closed = True
        while self._waiting:
            _fail(self._waiting.popleft()[1], _closed())
        if self._batches is not None:
            await asyncio.wait([self._batches], timeout=CLOSE_TIMEOUT_SECONDS)
            self._batches.cancel()
        for future in self._running:
            _fail(future, _closed())
        if self._worker is not None:
            self._worker.shutdown(wait=False, cancel_futures=True)

    async def _run_batches(self, worker: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next_batch():
            texts, self._running = [text for text, _ in batch], [future for _, future in batch]
            try:
                vectors = await loop.run_in_executor(worker, self._encoder.encode, texts)
            except RouterError as failure:
                self._fail_running(failure)
            except Exception as failure:  # the edge of the worker thread; the waiters must hear of it, whatever it is
                _LOG.exception("the encoder failed")
                self._fail_running(EncoderError(f"the encoder failed: {type(failure).__name__}", code="encoder_failed"))
            else:
                for future, vector in zip(self._running, vectors, strict=True):
                    if not future.done():
                        future.set_result(vector)
            finally:
                self._fail_running(_closed())  # only those left over when this task itself was cancelled
                self._running = []

    def _next_batch(self) -> list[tuple[str, asyncio.Future[FloatArray]]]:
        batch: list[tuple[str, asyncio.Future[FloatArray]]] = []
        while self._waiting and len(batch) < self._encoder.rows_per_run:
            text, future = self._waiting.popleft()
            if not future.done():  # cancelled while it waited
                batch.append((text, future))
        return batch

    def _drop_cancelled(self) -> None:
        self._waiting = deque(entry for entry in self._waiting if not entry[1].done())

    def _fail_running(self, failure: RouterError) -> None:
        """Give each waiter an error of its own: one object raised in several tasks would gather their tracebacks."""
        for future in self._running:
            _fail(future, type(failure)(failure.message, code=failure.code))


def _closed() -> EncoderError:
    return EncoderError("the encoder is shutting down", code="encoder_closed")


def _fail(future: asyncio.Future[FloatArray], failure: RouterError) -> None:
    if not future.done():
        future.set_exception(failure)
