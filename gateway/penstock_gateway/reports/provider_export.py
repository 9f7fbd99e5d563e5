"""A provider's own account of its usage beside the event log's, by day and model: what finance compares.

Owns the reading of such a file. Days are UTC, as providers bill them. Read `provider_totals`, then `compare_provider`.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from io import StringIO
from typing import Final

from penstock_gateway.money.amounts import to_usd
from penstock_gateway.reports.joined import Record, number_of, records_of, text_of, whole_of
from penstock_gateway.reports.savings_rows import day_of

_COLUMNS: Final = {
    "date": ("date", "day", "usage_date", "start_time"),
    "model": ("model", "model_name", "model_id", "line_item"),
    "cost": ("cost_usd", "cost", "amount_usd", "amount", "cost_in_usd"),
}
NO_MODEL: Final = "(none)"


class ProviderFileError(ValueError):
    """The file cannot be used; the message names the line and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """One model on one day.

    Attributes
    ----------
    day : str
        ISO date, UTC.
    model : str
    logged_usd, billed_usd : Decimal
        By the event log, and by the provider.
    estimated_usd : Decimal
        Part of `logged_usd` that was estimated: the likely cause of a difference.
    """

    day: str
    model: str
    logged_usd: Decimal
    billed_usd: Decimal
    estimated_usd: Decimal

    @property
    def difference_usd(self) -> Decimal:
        """What the provider bills above the log."""
        return self.billed_usd - self.logged_usd


def provider_totals(text: str) -> dict[tuple[str, str], Decimal]:
    """Add up a provider's export.

    Parameters
    ----------
    text : str
        CSV with a header: a date (ISO, or a time of which the date is taken), a model, and a cost in USD. Other
        columns are passed over.

    Returns
    -------
    dict of (str, str) to Decimal
        USD by ISO date and model.

    Raises
    ------
    ProviderFileError
    """
    reader = csv.DictReader(StringIO(text.removeprefix("\ufeff")))
    given = {name.strip().lower(): name for name in reader.fieldnames or ()}
    names = {}
    for column, choices in _COLUMNS.items():
        if not (found := [given[choice] for choice in choices if choice in given]):
            raise ProviderFileError(f"there is no column for the {column}: name one of {', '.join(choices)}")
        names[column] = found[0]
    totals: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for row in _rows(reader):
        day, cost = _day(row[names["date"]], reader.line_num), _usd(row[names["cost"]], reader.line_num)
        totals[day, (row[names["model"]] or "").strip() or NO_MODEL] += cost
    return dict(totals)


def compare_provider(
    records: Iterable[Record], billed: Mapping[tuple[str, str], Decimal], models: Mapping[str, str]
) -> list[ProviderRow]:
    """Return log and provider side by side, for every day and model that either has.

    Parameters
    ----------
    records : iterable of mapping
        Events; outcomes count, each decision once, attempts at several deployments each at its own.
    billed : mapping of (str, str) to Decimal
        From `provider_totals`. Only models that it has are compared on its days, so that one provider's file is not
        held against the others' spend.
    models : mapping of str to str
        What the provider calls a deployment; one that is missing keeps its name.

    Returns
    -------
    list of ProviderRow
        By day and model.
    """
    logged: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    seen: set[str] = set()
    for record in records:
        key = text_of(record.get("decision_id"))
        if record.get("type") != "outcome" or not key or key in seen:
            continue
        seen.add(key)
        day = day_of(number_of(record.get("admitted_at")) or 0.0)
        for deployment, amount, is_estimated in _costs(record):
            entry = logged[day, models.get(deployment, deployment)]
            entry[0] += amount
            entry[1] += amount if is_estimated else 0
    days, known = {day for day, _ in billed}, {model for _, model in billed}
    keys = billed.keys() | {(day, model) for day, model in logged if day in days and model in known}
    return [
        ProviderRow(
            day,
            model,
            to_usd(logged[day, model][0]),
            billed.get((day, model), Decimal(0)),
            to_usd(logged[day, model][1]),
        )
        for day, model in sorted(keys)
    ]


def _costs(outcome: Record) -> list[tuple[str, int, bool]]:
    """Return what each deployment cost within one request, and whether that is an estimate."""
    found = [
        (text_of(attempt.get("deployment")), amount, attempt.get("is_estimated") is True)
        for attempt in records_of(outcome.get("attempts"))
        if (amount := whole_of(attempt.get("cost_picousd"))) is not None
    ]
    if found:
        return found
    amount = whole_of(outcome.get("cost_picousd")) or 0
    return [(text_of(outcome.get("served_arm")), amount, outcome.get("is_cost_estimated") is True)] if amount else []


def _rows(reader: csv.DictReader[str]) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise ProviderFileError(f"line {reader.line_num + 1}: {error}") from None


def _day(text: str | None, line: int) -> str:
    try:
        return datetime.fromisoformat((text or "").strip()).date().isoformat()
    except ValueError:
        raise ProviderFileError(f"line {line}: {(text or '')[:40]!r} is no ISO date") from None


def _usd(text: str | None, line: int) -> Decimal:
    try:
        amount = Decimal((text or "").strip().removeprefix("$").replace(",", ""))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise ProviderFileError(f"line {line}: {(text or '')[:40]!r} is no amount of USD")
    return amount
