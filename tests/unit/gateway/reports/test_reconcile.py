"""Spend by the log beside spend by the ledger: equal figures, differences with their causes, and corrections."""

from __future__ import annotations

from typing import Any

from penstock_gateway.ledger.contract import Account, Period, Reservation
from penstock_gateway.ledger.memory import MemoryLedger
from penstock_gateway.ledger.periods import Calendar
from penstock_gateway.ledger.rebuild import charges_of
from penstock_gateway.reports.reconcile import (
    Cause,
    LoggedSpend,
    SpendDifference,
    SpendKey,
    compare_spend,
    corrections,
    log_spend,
)
from support.event_samples import outcome_event

DAY = 1_796_000_000.0 // 86_400 * 86_400
NOW = DAY + 3600.0
SCOPES = ("key:k1", "team:search")


def outcome(number: int, at: float, picousd: int = 1_000, **changes: Any) -> dict[str, Any]:
    """Return an outcome of a request admitted at a moment."""
    return outcome_event(f"dec_{number}", admitted_at=at, time=at + 1.0, cost_picousd=picousd, **changes)


async def live_of(ledger: MemoryLedger, asked: dict[tuple[Period, str], float]) -> dict[SpendKey, int]:
    """Ask a ledger for the windows."""
    found: dict[SpendKey, int] = {}
    for (period, window), at in asked.items():
        for scope, spent in zip(SCOPES, await ledger.spent_picousd(SCOPES, period, at), strict=True):
            found[scope, period, window] = spent
    return found


async def compared(
    ledger: MemoryLedger, rows: list[dict[str, Any]], *, now: float = NOW, unreadable: int = 0
) -> tuple[LoggedSpend, list[SpendDifference]]:
    """Compare a log with a ledger by day, month and in total."""
    calendar = Calendar()
    logged = log_spend(rows, calendar, now=now)
    logged.unreadable += unreadable
    asked = logged.windows((Period.DAY, Period.MONTH, Period.TOTAL), calendar, now)
    return logged, compare_spend(logged, await live_of(ledger, asked), asked, calendar)


async def test_ledger_that_was_charged_with_the_log_agrees_with_it() -> None:
    """Spend rebuilt from the events equals the live figure, over days, with outcomes that are there twice."""
    rows = [outcome(n, DAY - 86_400.0 * (n % 3) + n, picousd=n * 7 + 1) for n in range(90)]
    ledger = MemoryLedger()
    await ledger.settle(list(charges_of(rows)))
    logged, found = await compared(ledger, rows + rows[:10])
    assert found == []
    assert logged.rows["key:k1", Period.TOTAL, "total"].picousd == sum(n * 7 + 1 for n in range(90))


async def test_charge_of_the_last_minute_is_called_not_settled() -> None:
    """What the ledger lacks is on its way when outcomes of the last minute explain it; it is not corrected."""
    rows = [outcome(1, DAY), outcome(2, NOW - 3.0, picousd=500)]
    ledger = MemoryLedger()
    await ledger.settle(list(charges_of(rows[:1])))
    _, found = await compared(ledger, rows)
    assert {each.missing_picousd for each in found} == {500}
    assert {each.causes for each in found} == {(Cause.NOT_SETTLED,)}
    assert corrections(found) == []


async def test_corrections_bring_the_ledger_up_to_the_log() -> None:
    """A charge that was lost is added once, to the day and to every longer window, however often it is sent."""
    rows = [outcome(n, DAY - 86_400.0 * n, picousd=100 + n) for n in range(4)]
    ledger = MemoryLedger()
    await ledger.settle(list(charges_of(rows[:1] + rows[2:])))
    _, found = await compared(ledger, rows)
    charges = corrections(found)
    assert [charge.amount_picousd for charge in charges] == [101, 101]
    await ledger.settle(charges)
    await ledger.settle(charges)
    assert (await compared(ledger, rows))[1] == []


async def test_ledger_without_anything_is_told_as_such() -> None:
    """A ledger that was started anew without the log lacks everything."""
    _, found = await compared(MemoryLedger(), [outcome(1, DAY)])
    assert len(found) == 6  # two scopes in three periods
    assert {each.causes for each in found} == {(Cause.LEDGER_EMPTY,)}


async def test_spend_that_the_log_does_not_have_is_shown_and_never_taken_back() -> None:
    """What the ledger has above the log has causes of its own, and no correction takes from a ledger."""
    first, second = outcome(1, DAY), outcome(2, DAY + 5.0, picousd=70)
    ledger = MemoryLedger()
    await ledger.settle(list(charges_of([first, second])))
    _, found = await compared(ledger, [first], unreadable=1)
    assert {each.missing_picousd for each in found} == {-70}
    assert all(each.causes == (Cause.UNREADABLE, Cause.LOG_BEGINS_WITHIN) for each in found)
    assert corrections(found) == []


async def test_scope_that_only_the_ledger_has_is_a_difference() -> None:
    """Spend of a key of which the log holds nothing does not pass unseen."""
    ledger = MemoryLedger()
    rows = [outcome(1, DAY, accounts=["key:k1"])]
    await ledger.settle(list(charges_of([outcome(1, DAY)])))
    _, found = await compared(ledger, rows)
    assert {each.scope for each in found} == {"team:search"}
    assert all(Cause.NOT_IN_LOG in each.causes for each in found)


async def test_request_over_midnight_counts_for_the_day_in_which_it_was_admitted() -> None:
    """Log and ledger file a request under its admission, so that its end in the next day makes no difference."""
    ledger = MemoryLedger()
    row = {**outcome(1, DAY - 1.0), "time": DAY + 600.0}
    accounts = tuple(Account(scope) for scope in SCOPES)
    await ledger.reserve(Reservation("dec_1", accounts, 5_000, 10, DAY - 1.0))
    await ledger.settle(list(charges_of([row])))
    logged, found = await compared(ledger, [row])
    assert found == []
    assert {window for scope, period, window in logged.rows if period is Period.DAY} == {"2026-11-29"}


async def test_checkpoint_stands_for_deleted_outcomes() -> None:
    """The rows that replace deleted segments count like the outcomes that were in them."""
    kept, deleted = outcome(1, DAY + 10.0), outcome(2, DAY + 20.0, picousd=400)
    ledger = MemoryLedger()
    await ledger.settle(list(charges_of([kept, deleted])))
    checkpoint = [
        {"type": "checkpoint", "scope": scope, "at": int(DAY), "seconds": 900, "cost_picousd": 400} for scope in SCOPES
    ]
    logged, found = await compared(ledger, [*checkpoint, kept])
    assert found == []
    assert logged.outcomes == 1


def test_windows_that_no_ledger_keeps_are_not_asked_for() -> None:
    """Old days are over for a ledger; the total is not."""
    calendar = Calendar()
    logged = log_spend([outcome(1, DAY - 86_400.0 * 90), outcome(2, DAY)], calendar, now=NOW)
    asked = logged.windows((Period.DAY, Period.TOTAL), calendar, NOW)
    assert sorted(window for _, window in asked) == ["2026-11-30", "total"]


def test_estimated_part_of_the_log_is_added_up() -> None:
    """Whoever compares the log with a bill wants to know how much of it is an estimate."""
    rows = [outcome(1, DAY, is_cost_estimated=True), outcome(2, DAY, picousd=7, is_cost_estimated=False)]
    assert log_spend(rows, Calendar(), now=NOW).estimated_picousd == 1_000


def test_damaged_outcome_is_counted_and_costs_nothing() -> None:
    """A row without moment or amount is told as unreadable and adds nothing."""
    rows = [outcome(1, DAY), {**outcome(2, DAY), "cost_picousd": "12"}, {**outcome(3, DAY), "admitted_at": None}]
    logged = log_spend(rows, Calendar(), now=NOW)
    assert logged.unreadable == 2
    assert logged.rows["key:k1", Period.TOTAL, "total"].picousd == 1_000
