"""The ledger of one process: what it forgets, what it restores, and its task."""

from __future__ import annotations

import asyncio

import pytest

from penstock_gateway.ledger import memory
from penstock_gateway.ledger.contract import Account, Grant, Period, RateLimits, Refusal
from penstock_gateway.ledger.leases import MAX_OPEN_SECONDS, LeaseClock, LeaseKeeper
from penstock_gateway.ledger.memory import MemoryLedger
from support.ledger_parts import LEASE_SECONDS, NOON, Clock, ask, charge, key

DAY_SECONDS = 86_400.0


async def test_memory_of_a_busy_year_keeps_only_what_is_recent() -> None:
    """Windows that are long over, ids settled long ago and idle buckets are forgotten; what never ends is kept."""
    clock = Clock()
    ledger = MemoryLedger(lease_seconds=LEASE_SECONDS, clock=clock)
    account = key((Period.DAY, 10**6), limits=RateLimits(requests_per_minute=5, parallel_requests=5))
    sizes = []
    for number in range(4 * 365):
        at = clock()
        await ledger.reserve(ask(number, account, amount=1, at=at))
        await ledger.settle([charge(number, account, amount=1, at=at)])
        clock.advance(DAY_SECONDS / 4)
        sizes.append(ledger.remembered)
    assert max(sizes[700:]) == max(sizes[400:700]) < 80
    assert await ledger.spent_picousd(["key:a"], Period.TOTAL, NOON) == (4 * 365,)


async def test_memory_of_a_window_lasts_for_35_days_after_its_end() -> None:
    """What was spent last month can still be asked for this month; a window nobody asks for again goes in the end."""
    clock = Clock()
    ledger = MemoryLedger(clock=clock)
    await ledger.settle([charge(1, key(), amount=5)])
    clock.advance(35 * DAY_SECONDS)
    assert await ledger.spent_picousd(["key:a"], Period.DAY, NOON) == (5,)
    clock.advance(2 * DAY_SECONDS)
    assert await ledger.spent_picousd(["key:a"], Period.DAY, NOON) == (0,)
    assert await ledger.spent_picousd(["key:a"], Period.MONTH, NOON) == (5,)


async def test_memory_after_a_wall_clock_was_wrong_for_a_moment_has_today_still() -> None:
    """A charge of a year far away costs the spend of no other window."""
    clock = Clock()
    ledger = MemoryLedger(clock=clock)
    await ledger.settle([charge(1, key(), amount=5)])
    await ledger.settle(
        [charge(2, key(), amount=7, at=NOON + 50 * 365 * DAY_SECONDS), charge(3, key(), amount=1, at=0.0)]
    )
    clock.advance(120.0)
    assert await ledger.spent_picousd(["key:a"], Period.DAY, NOON) == (5,)
    assert await ledger.spent_picousd(["key:a"], Period.DAY, 0.0) == (1,)


async def test_memory_of_settled_ids_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest ids are forgotten first when there are too many."""
    monkeypatch.setattr(memory, "MAX_SETTLED", 10)
    ledger = MemoryLedger(clock=Clock())
    charges = [charge(number, key(), amount=1) for number in range(15)]
    await ledger.settle(charges)
    await ledger.settle(charges[5:])
    assert await ledger.spent_picousd(["key:a"], Period.TOTAL, NOON) == (15,)


async def test_memory_of_a_request_that_nobody_settles_ends_after_a_day() -> None:
    """A mistake of ours holds a budget for a day, not for ever."""
    clock = Clock()
    ledger = MemoryLedger(lease_seconds=LEASE_SECONDS, clock=clock)
    account = key((Period.TOTAL, 10))
    await ledger.reserve(ask(1, account, amount=10))
    for _ in range(round(MAX_OPEN_SECONDS / LEASE_SECONDS) * 3 + 2):
        clock.advance(LEASE_SECONDS / 3)
        await ledger.renew()
    assert ledger.open_requests == 0
    assert isinstance(await ledger.reserve(ask(2, account, amount=10)), Grant)


async def test_restore_of_charges_counts_each_once_in_its_window() -> None:
    """A new process begins with what the log says, and a repeated row counts once."""
    ledger = MemoryLedger(clock=Clock())
    logged = [charge(1, key(), amount=5), charge(2, key(), amount=6, at=NOON + DAY_SECONDS), charge(1, key(), amount=5)]
    assert ledger.restore(logged) == 2
    assert await ledger.spent_picousd(["key:a"], Period.DAY, NOON) == (5,)
    assert await ledger.spent_picousd(["key:a"], Period.TOTAL, NOON) == (11,)
    refusal = await ledger.reserve(ask(3, key((Period.DAY, 9)), amount=5))
    assert isinstance(refusal, Refusal)


async def test_start_of_a_ledger_prolongs_leases_until_it_is_closed() -> None:
    """The background task renews; closing ends it."""
    ledger = MemoryLedger(lease_seconds=0.03)
    ledger.start()
    account = Account("key:a", key((Period.TOTAL, 10)).budgets)
    await ledger.reserve(ask(1, account, amount=10))
    for _ in range(20):
        await asyncio.sleep(0.01)
        assert isinstance(await ledger.reserve(ask(2, account, amount=1)), Refusal)
    await ledger.aclose()
    before = asyncio.all_tasks()
    assert not [task for task in before if task.get_name() == "penstock-ledger-leases"]


async def test_lease_keeper_whose_renewal_fails_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """A failure of one renewal, foreseen or not, is not the last renewal."""
    from penstock_gateway.ledger.contract import LedgerUnavailable

    calls: list[int] = []
    enough = asyncio.Event()

    async def renew() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise LedgerUnavailable
        if len(calls) == 2:
            raise ValueError("unforeseen")
        enough.set()

    keeper = LeaseKeeper(renew, 0.003)
    keeper.start()
    await asyncio.wait_for(enough.wait(), 30.0)
    await keeper.aclose()
    await keeper.aclose()
    assert "ledger_renewal_failed" in caplog.messages


def test_lease_clock_between_two_looks_moves_on_by_half_a_lease_at_most() -> None:
    """A long pause and a clock that goes back are no time that passed."""
    clock = LeaseClock(1000)
    assert [clock.advance(at) for at in (5_000, 5_300, 99_000, 98_000, 98_100)] == [0, 300, 800, 800, 900]
