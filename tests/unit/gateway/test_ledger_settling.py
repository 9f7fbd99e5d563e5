"""Charges on their way: batched, repeated until they are counted, never dropped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from penstock_gateway.ledger.contract import Charge, LedgerUnavailable, Period
from penstock_gateway.ledger.memory import MemoryLedger
from penstock_gateway.ledger.settling import BATCH_CHARGES, DISK_SECONDS, SettleQueue
from support.ledger_parts import NOON, Clock, charge, key

LONG_SECONDS = 30.0


class FailingLedger(MemoryLedger):
    """A ledger that fails when a test says so."""

    def __init__(self) -> None:
        super().__init__(clock=Clock())
        self.failures: list[Exception] = []
        self.poison = ""
        self.batches: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def settle(self, charges: Sequence[Charge]) -> None:
        """Count charges, or fail before or after."""
        await self.gate.wait()
        if any(each.id == self.poison for each in charges):
            raise ValueError("unforeseen")
        if self.failures:
            failure = self.failures.pop(0)
            if len(self.failures) % 2:  # some failures come after the batch was counted
                await super().settle(charges)
            raise failure
        self.batches.append(len(charges))
        await super().settle(charges)

    async def spent(self) -> int:
        """Return what was counted."""
        [spent] = await self.spent_picousd(["key:a"], Period.TOTAL, NOON)
        return spent


@asynccontextmanager
async def running(ledger: FailingLedger, batch_seconds: float = 0.001, **options: int) -> AsyncIterator[SettleQueue]:
    """A queue that is running."""
    queue = SettleQueue(ledger, batch_seconds=batch_seconds, **options)
    queue.start()
    try:
        yield queue
    finally:
        await queue.aclose()


async def test_put_of_charges_settles_them_in_batches() -> None:
    """Charges that come together are settled together, and at most 200 at once."""
    ledger = FailingLedger()
    async with running(ledger) as queue:
        for number in range(450):
            queue.put(charge(number, key(), amount=1))
        assert queue.pending == 450
        assert await queue.flush(LONG_SECONDS) == 0
    assert await ledger.spent() == 450
    assert ledger.batches == [BATCH_CHARGES, BATCH_CHARGES, 50]


async def test_put_while_a_batch_is_under_way_is_settled_with_the_next() -> None:
    """What comes while the ledger is busy waits for it, counted as pending."""
    ledger = FailingLedger()
    async with running(ledger) as queue:
        ledger.gate.clear()
        queue.put(charge(1, key(), amount=1))
        while queue._settling == 0:
            await asyncio.sleep(0.001)
        queue.put(charge(2, key(), amount=1))
        assert queue.pending == 2
        assert queue.counted_until() is None
        ledger.gate.set()
        assert await queue.flush(LONG_SECONDS) == 0
    assert ledger.batches == [1, 1]


async def test_settle_that_fails_is_repeated_until_it_is_counted_once() -> None:
    """Whether the ledger failed before or after counting, every charge counts once in the end."""
    ledger = FailingLedger()
    ledger.failures = [LedgerUnavailable() for _ in range(4)]
    failed: list[int] = []
    settled: list[int] = []
    queue = SettleQueue(ledger, batch_seconds=0.001, on_failure=lambda: failed.append(1), on_settled=settled.append)
    queue.start()
    for number in range(5):
        queue.put(charge(number, key(), amount=10))
    assert await queue.flush(LONG_SECONDS) == 0
    await queue.aclose()
    assert await ledger.spent() == 50
    assert (len(failed), settled) == (4, [5])


async def test_charge_that_alone_breaks_the_ledger_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """An unforeseen failure costs time, and the charge stays pending until it can be counted."""
    ledger = FailingLedger()
    ledger.poison = "dec_3"
    async with running(ledger) as queue:
        for number in range(8):
            queue.put(charge(number, key(), amount=1))
        async with asyncio.timeout(LONG_SECONDS):
            while await ledger.spent() < 7:
                await asyncio.sleep(0.005)
        assert queue.pending == 1
        assert "ledger_settle_failed" in caplog.messages
        ledger.poison = ""
        assert await queue.flush(LONG_SECONDS) == 0
    assert await ledger.spent() == 8


async def test_put_from_other_threads_loses_nothing() -> None:
    """The event log's thread may put charges while the event loop settles others."""
    ledger = FailingLedger()
    async with running(ledger) as queue:

        def write(first: int) -> None:
            for number in range(first, first + 250):
                queue.put_from_any_thread(charge(number, key(), amount=1))

        threads = [threading.Thread(target=write, args=(1000 * each,)) for each in range(4)]
        for thread in threads:
            thread.start()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
        assert await queue.flush(LONG_SECONDS) == 0
    assert await ledger.spent() == 1000


async def test_put_from_a_thread_before_the_start_is_an_error() -> None:
    """There is no event loop yet that would take it."""
    with pytest.raises(RuntimeError):
        SettleQueue(FailingLedger()).put_from_any_thread(charge(1, key()))


async def test_flush_at_its_deadline_says_how_many_are_left(caplog: pytest.LogCaptureFixture) -> None:
    """A ledger that stays away does not hold up the end of the process; what is left is told."""
    ledger = FailingLedger()
    ledger.failures = [LedgerUnavailable() for _ in range(10_001)]
    async with running(ledger) as queue:
        queue.put(charge(1, key(), amount=1))
        assert await queue.flush(0.05) == 1
    assert queue.pending == 1
    assert "ledger_charges_left" in caplog.messages


async def test_flush_of_an_empty_queue_returns_at_once_and_delays_nothing_later() -> None:
    """An idle queue has nothing to settle, and still gathers batches afterwards."""
    ledger = FailingLedger()
    async with running(ledger, batch_seconds=0.02) as queue:
        assert await queue.flush(LONG_SECONDS) == 0
        for number in range(3):
            queue.put(charge(number, key(), amount=1))
            await asyncio.sleep(0)
        assert await queue.flush(LONG_SECONDS) == 0
    assert sum(ledger.batches) == 3


async def test_queue_of_too_many_charges_asks_for_no_more_requests() -> None:
    """Nothing is dropped: a full queue is for admission to see."""
    ledger = FailingLedger()
    async with running(ledger, max_pending=3) as queue:
        ledger.gate.clear()
        for number in range(3):
            assert not queue.is_full
            queue.put(charge(number, key(), amount=1))
        assert queue.is_full
        queue.put(charge(3, key(), amount=1))
        ledger.gate.set()
        assert await queue.flush(LONG_SECONDS) == 0
        assert not queue.is_full
    assert await ledger.spent() == 4


async def test_counted_until_of_an_empty_queue_is_a_little_while_ago() -> None:
    """With nothing pending, what was on disk some seconds ago is counted."""
    clock = Clock()
    queue = SettleQueue(FailingLedger(), wall_clock=clock)
    assert queue.counted_until() == NOON - DISK_SECONDS
    queue.put(charge(1, key()))
    assert queue.counted_until() is None
