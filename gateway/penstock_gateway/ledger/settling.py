"""Charges on their way to the ledger: collected, settled in batches, repeated until they are counted.

Off the request path. Nothing is dropped: how many may wait is decided where requests are admitted (`is_full`). Read
`SettleQueue`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from penstock_gateway.ledger.contract import Charge, Ledger, LedgerUnavailable

_log = logging.getLogger("penstock.ledger")

BATCH_CHARGES: Final = 200
BATCH_SECONDS: Final = 0.05
MAX_PENDING: Final = 200_000
"""Some 80 MB. At 100 requests a second that is half an hour without Redis."""
DISK_SECONDS: Final = 5.0
"""How long an outcome may take from its record's time to this queue; the log commits within 0.1 s."""

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0


class SettleQueue:
    """Settles charges in the background.

    Parameters
    ----------
    ledger : Ledger
    batch_seconds : float
        How long the first charge of a batch waits for others.
    max_pending : int
        Charges at which `is_full` asks for no more requests.
    on_settled : callable
        Called with the number of charges of every batch that was counted.
    on_failure : callable
        Called for every attempt that failed.
    wall_clock : callable
        UNIX seconds.

    Notes
    -----
    `put` belongs to the event loop that `start` ran in; `put_from_any_thread` may be called anywhere. A charge that
    alone makes the ledger fail in an unforeseen way is set aside, so that it does not hold up the others, and is tried
    again with each further batch.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        batch_seconds: float = BATCH_SECONDS,
        max_pending: int = MAX_PENDING,
        on_settled: Callable[[int], None] = lambda _: None,
        on_failure: Callable[[], None] = lambda: None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._batch_seconds = batch_seconds
        self.max_pending = max_pending
        self._on_settled = on_settled
        self._on_failure = on_failure
        self._wall_clock = wall_clock
        self._waiting: deque[Charge] = deque()
        self._aside: deque[Charge] = deque()
        self._settling = 0
        self._limit = BATCH_CHARGES
        self._pause_seconds = 0.0
        self._has_work = asyncio.Event()
        self._is_hurried = asyncio.Event()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """Charges that are not counted yet."""
        return len(self._waiting) + len(self._aside) + self._settling

    @property
    def is_full(self) -> bool:
        """Whether no further request should be admitted until charges have been counted."""
        return self.pending >= self.max_pending

    def counted_until(self) -> float | None:
        """Return a moment before which every outcome on disk is counted (UNIX seconds), or None if nobody can say."""
        return None if self.pending else self._wall_clock() - DISK_SECONDS

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run(), name="penstock-ledger-settling")

    def put(self, charge: Charge) -> None:
        """Add a charge; never waits."""
        self._waiting.append(charge)
        self._is_empty.clear()
        self._has_work.set()
        if len(self._waiting) >= BATCH_CHARGES:
            self._is_hurried.set()

    def put_from_any_thread(self, charge: Charge) -> None:
        """Add a charge from a thread that is not the event loop's.

        Raises
        ------
        RuntimeError
            The event loop is closed, or `start` was never called.
        """
        if self._loop is None:
            raise RuntimeError("the settle queue has not been started")
        self._loop.call_soon_threadsafe(self.put, charge)

    async def flush(self, deadline_seconds: float) -> int:
        """Settle what is waiting without delay, and return how many charges are left at the deadline."""
        await asyncio.sleep(0)  # for what other threads have put already
        if self.pending:
            self._is_hurried.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline_seconds):
                await self._is_empty.wait()
        return self.pending

    async def aclose(self) -> None:
        """Stop at once; call `flush` before. What is left is in the event log."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self.pending:
            _log.warning("ledger_charges_left", extra={"charges": self.pending})

    async def _run(self) -> None:
        while True:
            await self._has_work.wait()
            await self._wait()
            batch = [self._waiting.popleft() for _ in range(min(self._limit, len(self._waiting)))]
            if not batch and self._aside:
                batch = [self._aside.popleft()]
            self._settling = len(batch)
            try:
                is_counted = await self._settle(batch)
            except asyncio.CancelledError:
                self._waiting.extendleft(reversed(batch))
                raise
            finally:
                self._settling = 0
            self._note_end(batch, is_counted=is_counted)

    async def _wait(self) -> None:
        """Let a batch gather, unless somebody waits for it; after a failure, let the ledger rest."""
        if self._pause_seconds:
            await asyncio.sleep(self._pause_seconds)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._batch_seconds):
                await self._is_hurried.wait()

    async def _settle(self, batch: list[Charge]) -> bool:
        try:
            await self._ledger.settle(batch)
        except LedgerUnavailable:
            self._waiting.extendleft(reversed(batch))
        except Exception:  # whatever it is, the charges are kept
            _log.exception("ledger_settle_failed", extra={"charges": len(batch)})
            if len(batch) == 1:
                self._aside.append(batch[0])
            else:
                self._waiting.extendleft(reversed(batch))
            self._limit = max(1, len(batch) // 2)
        else:
            return True
        return False

    def _note_end(self, batch: list[Charge], *, is_counted: bool) -> None:
        if is_counted:
            self._on_settled(len(batch))
            self._limit = min(BATCH_CHARGES, 2 * self._limit)
            self._pause_seconds = 0.0
        else:
            self._on_failure()
            longer = max(_FIRST_PAUSE_SECONDS, 2 * self._pause_seconds)
            self._pause_seconds = min(longer, _LONGEST_PAUSE_SECONDS)
        if not self.pending:
            self._has_work.clear()
            self._is_hurried.clear()
            self._is_empty.set()
