"""A provider's export beside the log: any sane header, days and models, and words for what is wrong."""

from __future__ import annotations

from decimal import Decimal

import pytest

from penstock_gateway.reports.provider_export import ProviderFileError, compare_provider, provider_totals
from support.event_samples import outcome_event

AT = 1_700_000_000.0  # 2023-11-14


def test_export_is_added_up_by_day_and_model() -> None:
    """Rows of a day and model are summed exactly; other columns, times and a byte order mark are no matter."""
    lines = [
        "Date,Model,Cost,requests",
        "2023-11-14,gpt,0.10,3",
        "2023-11-14T23:00:00+00:00,gpt,$0.20,1",
        "2023-11-15,,1,1",
    ]
    text = "\ufeff" + "\n".join(lines)
    assert provider_totals(text) == {("2023-11-14", "gpt"): Decimal("0.30"), ("2023-11-15", "(none)"): Decimal(1)}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no column for the date"),
        ("date,cost\n", "no column for the model"),
        ("date,model\n", "no column for the cost"),
        ("date,model,cost\n14.11.2023,gpt,1\n", "line 2: '14.11.2023' is no ISO date"),
        ("date,model,cost\n2023-11-14,gpt,1\n2023-11-14,gpt,much\n", "line 3: 'much' is no amount"),
        ("date,model,cost\n2023-11-14,gpt,NaN\n", "no amount"),
        ("date,model,cost\n2023-11-14\n", "no amount"),
        (f"date,model,cost\n2023-11-14,{'x' * 200_000},1\n", "line 2"),
    ],
)
def test_export_that_cannot_be_used_says_where(text: str, problem: str) -> None:
    """Whatever is wrong is named with its line."""
    with pytest.raises(ProviderFileError, match=problem):
        provider_totals(text)


def test_comparison_counts_each_attempt_at_its_deployment() -> None:
    """A fallback bills two providers; each model is compared by what its own attempts cost, once per request."""
    attempts = [
        {"deployment": "gpt-eu", "cost_picousd": 3_000_000_000, "is_estimated": True},
        {"deployment": "mini", "cost_picousd": 7_000_000_000, "is_estimated": False},
        {"deployment": "mini", "cost_picousd": None},
    ]
    records = [
        outcome_event("a", admitted_at=AT, attempts=attempts),
        outcome_event("a", admitted_at=AT, attempts=attempts),
        outcome_event("b", admitted_at=AT, served_arm="mini", cost_picousd=1_000_000_000),
    ]
    billed = {("2023-11-14", "gpt-5"): Decimal("0.004"), ("2023-11-14", "mini"): Decimal("0.008")}
    rows = compare_provider(records, billed, {"gpt-eu": "gpt-5"})
    assert [(row.model, row.logged_usd, row.estimated_usd, row.difference_usd) for row in rows] == [
        ("gpt-5", Decimal("0.003"), Decimal("0.003"), Decimal("0.001")),
        ("mini", Decimal("0.008"), Decimal(0), Decimal(0)),
    ]


def test_comparison_shows_what_only_one_side_has() -> None:
    """A model that the provider bills and the log lacks is a difference; another provider's models are none."""
    records = [outcome_event("a", admitted_at=AT, served_arm="claude"), outcome_event("b", admitted_at=AT)]
    rows = compare_provider(records, {("2023-11-14", "gpt"): Decimal(1)}, {})
    assert [(row.model, row.logged_usd, row.billed_usd) for row in rows] == [("gpt", Decimal(0), Decimal(1))]
