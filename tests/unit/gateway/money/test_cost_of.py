"""What attempts cost: known, estimated, unknown."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from penstock_gateway.attempts.records import AttemptKind, AttemptRecord
from penstock_gateway.money.cost_of import (
    attempt_cost,
    estimated_usage,
    is_cost_estimated,
    may_be_budgeted,
    total_cost,
    usage_of_cut_stream,
)
from penstock_gateway.money.prices import Price
from penstock_gateway.money.usage import Usage

PRICE = Price(Decimal(1), Decimal(1), Decimal(2), Decimal(2))
PRICES = {
    "known": PRICE,
    "guessed": replace(PRICE, is_estimate=True),
    "unknown": replace(PRICE, is_unknown=True),
    "searching": replace(PRICE, web_search=Decimal("0.01")),
}


def _record(deployment: str, usage: Usage | None) -> AttemptRecord:
    return AttemptRecord(deployment, AttemptKind.FIRST, 0.0, was_sent=True, usage=usage)


def test_attempt_without_work_costs_nothing_at_any_price() -> None:
    """A try that did nothing is free, even where the price is not known."""
    assert [attempt_cost(_record(name, None), price) for name, price in PRICES.items()] == [0] * 4


def test_attempt_at_an_unknown_price_costs_nobody_knows_what() -> None:
    """An unknown cost is None, never 0."""
    assert attempt_cost(_record("unknown", Usage(1, 1)), PRICES["unknown"]) is None
    assert attempt_cost(_record("guessed", Usage(1, 1)), PRICES["guessed"]) == Decimal("0.000003")


@pytest.mark.parametrize(
    ("records", "cost", "known", "is_estimated"),
    [
        ([("known", Usage(1, 1)), ("known", Usage(2, 0)), ("unknown", None)], "0.000005", "0.000005", False),
        ([("known", Usage(1, 1)), ("guessed", Usage(1, 1))], "0.000006", "0.000006", True),
        ([("known", Usage(1, 1, is_estimated=True))], "0.000003", "0.000003", True),
        ([("known", Usage(1, 1)), ("unknown", Usage(1, 1))], None, "0.000003", False),
        ([("known", Usage(1, 1, web_searches=1))], "0.000003", "0.000003", True),
        ([("known", Usage(1, 1, other_tool_calls=1))], "0.000003", "0.000003", True),
        ([("searching", Usage(1, 1, web_searches=2))], "0.020003", "0.020003", False),
        ([("searching", Usage(1, 1, web_searches=2, other_tool_calls=1))], "0.020003", "0.020003", True),
        ([], "0", "0", False),
    ],
)
def test_total_of_attempts_is_unknown_when_one_is_and_marked_when_one_is_estimated(
    records: list[tuple[str, Usage | None]], cost: str | None, known: str, is_estimated: bool
) -> None:
    """Failed tries count; doubt about one is doubt about all."""
    attempts = [_record(name, usage) for name, usage in records]
    costs = [attempt_cost(attempt, PRICES[attempt.deployment]) for attempt in attempts]
    total = total_cost(attempts, PRICES.__getitem__, costs)
    assert total.cost_usd == (None if cost is None else Decimal(cost))
    assert (total.known_usd, total.is_estimated) == (Decimal(known), is_estimated)


def test_price_that_is_unknown_may_not_be_budgeted() -> None:
    """A budget can hold an estimate, and not what nobody knows."""
    assert [may_be_budgeted(price) for price in PRICES.values()] == [True, True, False, True]
    assert not is_cost_estimated(Usage(1, 1), PRICE)
    assert is_cost_estimated(estimated_usage(1, 1), PRICE)


@pytest.mark.parametrize(
    ("reported", "output_bytes", "expected"),
    [
        (None, 40, Usage(7, 10, is_estimated=True)),
        (Usage(9, 100, cached_input_tokens=4), 440, Usage(9, 100, cached_input_tokens=4)),
        (Usage(9, 0, cached_input_tokens=4), 440, Usage(9, 110, cached_input_tokens=4, is_estimated=True)),
        (Usage(9, 1), 4, Usage(9, 1)),
        (Usage(9, 0), 0, Usage(9, 0)),
    ],
)
def test_usage_of_a_cut_stream_is_not_the_one_from_before_its_answer(
    reported: Usage | None, output_bytes: int, expected: Usage
) -> None:
    """A running total is kept; a count that was sent with the first chunk does not make the answer free."""
    assert usage_of_cut_stream(reported, 7, output_bytes) == expected


def test_estimated_usage_is_marked_and_not_negative() -> None:
    """An estimate says that it is one."""
    assert estimated_usage(-1, 3) == Usage(0, 3, is_estimated=True)
