"""Continuous batching: single requests of an event loop share the runs of one worker thread.

Owns the queue, its bound, the bounded wait for company, and the end. It knows nothing of what a run does; the encoder
(`penstock_routers.encoder_service`) and a fused graph on a GPU are used through it alike. Read `Batcher.submit`, then
`Batcher._run_batches`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from penstock_routers.errors import EncoderError, RouterError

_LOG = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    """An item, who waits for its result, and since when (seconds of the loop's clock)."""

    item: Item
    future: asyncio.Future[Result]
    since: float


class Batcher(Generic[Item, Result]):
    """Runs many items at once for callers that have one each; lives as long as the process.

    Parameters
    ----------
    run : callable
        From a list of items to as many results, in order; blocks; called in one worker thread, once at a time.
    max_rows : callable
        How many items one run takes at most, asked before each; >= 1.
    max_wait_seconds : float
        How long the first of a batch waits for company while nothing runs; 0: not at all. What arrives while a batch
        runs is the next batch either way, and its wait counts from its arrival, so that a busy service never waits.
    queue_limit : int
        Items that may wait; >= 1. The batch being run does not count.
    name : str
        Of the worker thread, and of what a message calls "the encoder".

    Raises
    ------
    ValueError
        A bound is out of range.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Result]],
        *,
        max_rows: Callable[[], int],
        queue_limit: int,
        max_wait_seconds: float = 0.0,
        name: str = "encoder",
    ) -> None:
        if queue_limit < 1:
            raise ValueError("queue_limit must be at least 1")
        if not 0.0 <= max_wait_seconds < 1.0:
            raise ValueError("max_wait_seconds must be at least 0 and below 1")
        self._run = run
        self._max_rows = max_rows
        self._max_wait = max_wait_seconds
        self._queue_limit = queue_limit
        self._name = name
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._running: list[asyncio.Future[Result]] = []
        self._batches: asyncio.Task[None] | None = None
        self._is_enough = asyncio.Event()
        self._is_closed = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"penstock-{name}")

    @property
    def waiting(self) -> int:
        """Items that wait, those whose callers have gone included."""
        return len(self._queue)

    async def submit(self, item: Item) -> Result:
        """Run one item together with what others submit.

        Parameters
        ----------
        item : Item

        Returns
        -------
        Result

        Raises
        ------
        EncoderError
            Codes ``encoder_queue_full``, ``encoder_closed``, ``encoder_failed``.
        RouterError
            What the run raised; each waiter gets an error of its own.

        Notes
        -----
        May be cancelled at any time; an item that has not been started is then never run.
        """
        if self._is_closed:
            raise self._closed()
        if len(self._queue) >= self._queue_limit:
            self._queue = deque(entry for entry in self._queue if not entry.future.done())
        if len(self._queue) >= self._queue_limit:
            raise EncoderError(
                f"{self._queue_limit} texts wait for the {self._name} already", code="encoder_queue_full"
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._queue.append(_Waiting(item, future, loop.time()))
        if self._batches is None or self._batches.done():
            self._batches = asyncio.create_task(self._run_batches(), name=f"penstock-{self._name}")
        elif len(self._queue) >= self._max_rows():
            self._is_enough.set()
        return await future

    async def aclose(self, timeout_seconds: float) -> None:
        """Refuse new items, fail the waiting ones, give the running batch some time; safe to call twice."""
        self._is_closed = True
        while self._queue:
            _fail(self._queue.popleft().future, self._closed())
        self._is_enough.set()
        if self._batches is not None:
            await asyncio.wait([self._batches], timeout=timeout_seconds)
            self._batches.cancel()
        for future in self._running:
            _fail(future, self._closed())
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def _run_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            if self._max_wait > 0.0:
                await self._wait_for_company(loop)
            batch = self._next_batch()
            if not batch:
                continue
            self._running = [entry.future for entry in batch]
            try:
                results = await loop.run_in_executor(self._worker, self._run, [entry.item for entry in batch])
                pairs = list(zip(self._running, results, strict=True))
            except RouterError as failure:
                self._fail_running(failure)
            except Exception as failure:  # the edge of the worker thread; the waiters must hear of it, whatever it is
                _LOG.exception("the %s failed", self._name)
                message = f"the {self._name} failed: {type(failure).__name__}"
                self._fail_running(EncoderError(message, code="encoder_failed"))
            else:
                for future, result in pairs:
                    if not future.done():
                        future.set_result(result)
            finally:
                self._fail_running(self._closed())  # only those left over when this task itself was cancelled
                self._running = []

    async def _wait_for_company(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return when a batch is full, or when the first of it has waited as long as it may."""
        self._is_enough.clear()
        remaining = self._queue[0].since + self._max_wait - loop.time()
        if remaining > 0.0 and len(self._queue) < self._max_rows() and not self._is_closed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_enough.wait(), remaining)

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        batch: list[_Waiting[Item, Result]] = []
        rows = self._max_rows()
        while self._queue and len(batch) < rows:
            entry = self._queue.popleft()
            if not entry.future.done():  # cancelled while it waited
                batch.append(entry)
        return batch

    def _fail_running(self, failure: RouterError) -> None:
        """Give each waiter an error of its own: one object raised in several tasks would gather their tracebacks."""
        for future in self._running:
            _fail(future, type(failure)(failure.message, code=failure.code))

    def _closed(self) -> EncoderError:
        return EncoderError(f"the {self._name} is shutting down", code="encoder_closed")


def _fail(future: asyncio.Future[Any], failure: RouterError) -> None:
    if not future.done():
        future.set_exception(failure)
