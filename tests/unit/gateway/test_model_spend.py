"""Spend by deployment is added up from the events: each request once, in its own window, within a bounded time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway import model_spend
from penstock_gateway.errors import Conflict, Overloaded
from penstock_gateway.events.parquet_segments import ParquetMissing
from penstock_gateway.ledger.contract import Period
from penstock_gateway.ledger.periods import Calendar
from penstock_gateway.model_spend import ModelSpendReader, spend_of_rows

NOON = 1_796_040_000.0  # 2026-11-30T12:00Z
HOUR = 3600.0


def outcome(number: int, at: float, **costs: int | None) -> dict[str, Any]:
    """Return the outcome of a request with one attempt for each deployment."""
    attempts = [{"deployment": name, "cost_picousd": cost} for name, cost in costs.items()]
    return {"type": "outcome", "decision_id": f"dec_{number}", "admitted_at": at, "attempts": attempts}


def test_spend_by_model_counts_each_attempt_where_it_was_made_and_each_request_once() -> None:
    """A retry elsewhere belongs to who was asked; what comes twice, has no price or lies in another window is none."""
    rows = [
        outcome(1, NOON, small=5, large=7),
        outcome(1, NOON, small=5, large=7),
        outcome(2, NOON + HOUR, small=None, large=1),
        outcome(3, NOON - 24 * HOUR, small=100),
        outcome(4, NOON + 12 * HOUR, small=100),
        {"type": "outcome", "decision_id": "dec_5", "admitted_at": "noon", "attempts": [{"cost_picousd": 3}]},
        {"type": "outcome", "decision_id": "dec_6", "admitted_at": NOON, "attempts": None},
    ]
    for period, wanted in ((Period.DAY, {"small": 5, "large": 8}), (Period.TOTAL, {"small": 205, "large": 8})):
        spent = spend_of_rows(rows, Calendar("UTC"), period, NOON)
        assert {name: model.picousd for name, model in spent.items()} == wanted


def test_spend_by_model_tells_the_tokens_that_stand_behind_it() -> None:
    """Thought and cached tokens are parts of the others; a usage that is missing or no usage adds nothing."""
    rows = [outcome(number, NOON, small=5) for number in range(4)]
    usage = {"input_tokens": 9, "cached_input_tokens": 4, "output_tokens": 7, "reasoning_tokens": 6, "web_searches": 2}
    rows[0]["attempts"][0]["usage"] = usage
    rows[1]["attempts"][0]["usage"] = {**usage, "other_tool_calls": 1}
    rows[2]["attempts"][0]["usage"] = None
    rows[3]["attempts"][0]["usage"] = {"input_tokens": "many"}
    spent = spend_of_rows(rows, Calendar("UTC"), Period.DAY, NOON)["small"]
    assert spent.picousd == 20
    assert spent.counts == {
        "input_tokens": 18,
        "cached_input_tokens": 8,
        "output_tokens": 14,
        "reasoning_tokens": 12,
        "web_searches": 4,
        "other_tool_calls": 1,
    }


async def test_reading_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A huge log costs an admin request its answer and nothing else."""
    given = 0

    def endless(*_: object, **__: object) -> Iterator[dict[str, Any]]:
        nonlocal given
        while True:
            given += 1
            yield outcome(given, NOON, small=1)

    monkeypatch.setattr(model_spend, "read_events", endless)
    reader = ModelSpendReader(tmp_path, Calendar("UTC"), seconds=0.05)
    with pytest.raises(Overloaded) as caught:
        await reader.by_model(Period.TOTAL, NOON)
    assert caught.value.code == "spend_by_model_too_slow"
    assert given > 1000


async def test_reading_of_compacted_segments_without_their_reader_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is named instead of a wrong sum."""

    def missing(*_: object, **__: object) -> Iterator[dict[str, Any]]:
        raise ParquetMissing("install pyarrow")
        yield {}

    monkeypatch.setattr(model_spend, "read_events", missing)
    with pytest.raises(Conflict, match="pyarrow"):
        await ModelSpendReader(tmp_path, Calendar("UTC")).by_model(Period.DAY, NOON)


async def test_reading_asks_only_for_events_that_may_lie_in_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old segments are passed over; for all time nothing is."""
    since: list[float | None] = []

    def note(*_: object, **given: Any) -> Iterator[dict[str, Any]]:
        since.append(given["since"])
        return iter(())

    monkeypatch.setattr(model_spend, "read_events", note)
    reader = ModelSpendReader(tmp_path, Calendar("UTC"))
    await reader.by_model(Period.HOUR, NOON)
    await reader.by_model(Period.TOTAL, NOON)
    assert since == [pytest.approx(NOON - 0.2 * 86_400), None]


def test_usage_by_account_counts_every_attempt_on_each_account_of_its_request() -> None:
    """A key, its team and its tags each used what the request used; without accounts nobody did."""
    rows = [outcome(1, NOON, small=5, large=7), outcome(2, NOON, small=1), outcome(3, NOON, small=1)]
    rows[0]["accounts"], rows[1]["accounts"], rows[2]["accounts"] = ["key:a", "team:t"], ["key:b", "team:t"], None
    for row in rows:
        for attempt in row["attempts"]:
            attempt["usage"] = {"input_tokens": 3, "reasoning_tokens": 1}
    used = spend_of_rows(rows, Calendar("UTC"), Period.DAY, NOON, by="account")
    assert {scope: spent.picousd for scope, spent in used.items()} == {"key:a": 12, "key:b": 1, "team:t": 13}
    assert {scope: spent.counts["input_tokens"] for scope, spent in used.items()} == {
        "key:a": 6,
        "key:b": 3,
        "team:t": 9,
    }
