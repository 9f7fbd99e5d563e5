"""Events for people and other programs: chosen by type, time and tenant, as JSON Lines, CSV or Parquet.

Owns the columns of the CSV and the reading of moments on the command line. Read `select`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from penstock_gateway.events.parquet_segments import write_parquet
from penstock_gateway.events.reading import OnProblem, read_events

TYPES: Final = ("decision", "outcome", "feedback", "audit")
FORMATS: Final = ("jsonl", "csv", "parquet")
CSV_COLUMNS: Final = (
    "type",
    "time",
    "decision_id",
    "request_id",
    "tenant",
    "accounts",
    "requested_model",
    "intended_arm",
    "served_arm",
    "reason",
    "category",
    "propensity",
    "status",
    "error_code",
    "duration_ms",
    "first_byte_ms",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_usd",
    "cost_picousd",
    "is_cost_estimated",
    "attempts",
    "score",
    "rating",
    "label",
)
_USAGE: Final = frozenset({"input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens"})
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_UNIT_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_encoder: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events are wanted.

    Attributes
    ----------
    types : tuple of str
    since, until : float or None
        UNIX seconds: of a time in [since, until).
    tenants : frozenset of str or None
        Pseudonyms; None for all.
    """

    types: tuple[str, ...] = TYPES
    since: float | None = None
    until: float | None = None
    tenants: frozenset[str] | None = None

    def takes(self, event: dict[str, Any]) -> bool:
        """Whether an event is of one of the tenants."""
        return self.tenants is None or event.get("tenant") in self.tenants


def select(folder: Path, wanted: Selection, *, on_problem: OnProblem = lambda _: None) -> Iterator[dict[str, Any]]:
    """Yield the events of a folder that are wanted."""
    found = read_events(folder, types=wanted.types, since=wanted.since, until=wanted.until, on_problem=on_problem)
    return (event for event in found if wanted.takes(event))


def export(events: Iterable[dict[str, Any]], stream: BinaryIO, format_name: str) -> int:
    """Write events in one of `FORMATS`; return how many.

    Raises
    ------
    ParquetMissing
    OSError
    """
    return _WRITERS[format_name](events, stream)


def parse_moment(text: str, now: float) -> float:
    """Return a moment as UNIX seconds.

    Parameters
    ----------
    text : str
        ISO 8601 (UTC unless it names an offset), UNIX seconds, or how long ago: ``30m``, ``24h``, ``7d``, ``2w``.
    now : float
        UNIX seconds.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> parse_moment("2026-11-26", 0.0), parse_moment("1h", 7200.0)
    (1795651200.0, 3600.0)
    """
    if found := _AGO.fullmatch(text):
        return now - float(found[1]) * _UNIT_SECONDS[found[2]]
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def csv_row(event: dict[str, Any]) -> list[str]:
    """Return the cells of an event in the order of `CSV_COLUMNS`.

    A text that a spreadsheet would take for a formula gets an apostrophe in front: labels and request ids are written
    by clients.
    """
    usage = event.get("usage")
    tokens = usage if isinstance(usage, dict) else {}
    cells = []
    for name in CSV_COLUMNS:
        value = tokens.get(name) if name in _USAGE and "usage" in event else event.get(name)
        if name == "accounts" and isinstance(value, list):
            value = " ".join(str(scope) for scope in value)
        elif name == "attempts" and isinstance(value, list):
            value = len(value)
        elif name == "time" and isinstance(value, int | float):
            value = datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds")
        text = "" if value is None else str(value)
        cells.append(f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text)
    return cells


def _write_jsonl(events: Iterable[dict[str, Any]], stream: BinaryIO) -> int:
    count = 0
    for event in events:
        stream.write(_encoder.encode(event) + b"\n")
        count += 1
    return count


def _write_csv(events: Iterable[dict[str, Any]], stream: BinaryIO) -> int:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    try:
        writer = csv.writer(text)
        writer.writerow(CSV_COLUMNS)
        count = 0
        for event in events:
            writer.writerow(csv_row(event))
            count += 1
        return count
    finally:
        text.detach()


def _write_parquet(events: Iterable[dict[str, Any]], stream: BinaryIO) -> int:
    return write_parquet(stream, ((event, _encoder.encode(event)) for event in events))


_WRITERS: Final[dict[str, Callable[[Iterable[dict[str, Any]], BinaryIO], int]]] = {
    "jsonl": _write_jsonl,
    "csv": _write_csv,
    "parquet": _write_parquet,
}
