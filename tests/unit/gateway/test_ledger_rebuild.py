"""From rows of the event log to charges, and to spend by window."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.ledger.contract import Account, Charge, Period
from penstock_gateway.ledger.memory import MemoryLedger
from penstock_gateway.ledger.periods import Calendar
from penstock_gateway.ledger.rebuild import charges_of, spend_of
from penstock_gateway.money.amounts import MAX_PICOUSD
from support.ledger_parts import NOON, Clock

DAY_SECONDS = 86_400.0


def row(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return an outcome as the event log has it."""
    return {
        "schema": 2,
        "type": "outcome",
        "decision_id": f"dec_{number}",
        "admitted_at": NOON,
        "accounts": ["key:a", "team:red"],
        "cost_picousd": 75,
        "usage": {"input_tokens": 10, "output_tokens": 5},
        **changes,
    }


def test_charges_of_outcomes_are_what_was_charged() -> None:
    """An outcome gives the charge that its request was settled with."""
    [found] = charges_of([row()])
    assert found == Charge("dec_1", (Account("key:a"), Account("team:red")), 75, 15, NOON)
    [bare] = charges_of([{"decision_id": "d", "admitted_at": 5, "accounts": [], "cost_picousd": None, "tokens": 7}])
    assert bare == Charge("d", (), 0, 7, 5.0)


def test_charges_of_repeated_and_foreign_rows_count_each_request_once() -> None:
    """A decision that is there twice is charged once; decisions and feedback are no outcomes."""
    rows = [row(1), row(2), row(1, cost_picousd=9), {**row(3), "type": "decision"}, {**row(4), "type": "feedback"}]
    assert [each.id for each in charges_of(rows)] == ["dec_1", "dec_2"]


def test_charges_of_checkpoints_stand_for_the_requests_of_a_scope() -> None:
    """What was spent in deleted segments comes back by scope and quarter of an hour."""
    rows = [
        {"type": "checkpoint", "scope": scope, "at": int(NOON), "seconds": 900, "cost_picousd": amount}
        for scope, amount in (("key:a", 5), ("team:red", 7))
    ]
    first, second = charges_of([*rows, *rows])
    assert (first.accounts, first.amount_picousd, first.at) == ((Account("key:a"),), 5, NOON)
    assert first.id != second.id


def test_charges_of_checkpoints_of_two_logs_have_ids_of_their_own() -> None:
    """Two gateways may have spent for one team in the same quarter of an hour; put back, both count."""
    row = {"type": "checkpoint", "scope": "team:red", "at": int(NOON), "seconds": 900, "cost_picousd": 5}
    [here], [there] = charges_of([row], log="a"), charges_of([row], log="b")
    assert here.id != there.id


@pytest.mark.parametrize(
    "changes",
    [
        {"decision_id": None},
        {"decision_id": ""},
        {"admitted_at": None},
        {"admitted_at": True},
        {"admitted_at": float("nan")},
        {"cost_picousd": -1},
        {"cost_picousd": 1.5},
        {"cost_picousd": "75"},
        {"cost_picousd": MAX_PICOUSD + 1},
        {"accounts": [1]},
        {"accounts": 7},
        {"type": "checkpoint"},
    ],
)
def test_charges_of_a_row_that_makes_no_sense_are_none_and_it_is_counted(changes: dict[str, Any]) -> None:
    """A damaged row is passed over and told, and the others are read."""
    unreadable: list[int] = []
    found = list(charges_of([row(1, **changes), row(2)], on_unreadable=lambda: unreadable.append(1)))
    assert [each.id for each in found] == ["dec_2"]
    assert unreadable == [1]


def test_spend_of_charges_sums_by_scope_and_window() -> None:
    """Every charge is in all five windows of the moment of its admission."""
    rows = [row(1), row(2, accounts=["key:a", "key:a"]), row(3, admitted_at=NOON + DAY_SECONDS)]
    found = spend_of(charges_of(rows), Calendar())
    assert found["key:a", Period.DAY, "2096-10-02"].picousd == 150
    assert found["team:red", Period.DAY, "2096-10-02"].picousd == 75
    assert found["key:a", Period.DAY, "2096-10-03"].picousd == 75
    assert found["key:a", Period.TOTAL, "total"].picousd == 225
    assert found["team:red", Period.MONTH, "2096-10"].picousd == 150


outcomes = st.lists(
    st.fixed_dictionaries(
        {
            "decision_id": st.sampled_from([f"dec_{number}" for number in range(12)]),
            "admitted_at": st.floats(NOON, NOON + 3 * DAY_SECONDS).map(lambda at: round(at, 3)),
            "accounts": st.lists(st.sampled_from(["key:a", "key:b", "team:red"]), max_size=3),
            "cost_picousd": st.integers(0, 10**13),
        }
    ),
    max_size=25,
)


@given(outcomes, st.sampled_from(["UTC", "Asia/Kathmandu"]))
def test_spend_of_any_rows_is_what_a_restored_ledger_has(rows: list[dict[str, Any]], zone: str) -> None:
    """A ledger restored from the log, and the sums made from the log, agree on every window."""
    calendar = Calendar(zone)
    ledger = MemoryLedger(calendar, clock=Clock())
    ledger.restore(charges_of(rows))
    for spend in spend_of(charges_of(rows), calendar).values():
        assert asyncio.run(ledger.spent_picousd([spend.scope], spend.period, spend.at)) == (spend.picousd,)
