"""Reading events: one streaming reader for everything in the gateway that reads the log.

Owns the tolerance: whatever cannot be read is reported with file and line, and passed over. Memory is bounded by one
batch of lines. Events of schema 1 are given as the two records of schema 2. Read `read_events`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from penstock_gateway.events.catalog import Segment, list_segments, other_form, reading_money
from penstock_gateway.events.checkpoint import CheckpointDamaged, load_checkpoint
from penstock_gateway.events.parquet_segments import read_parquet_lines
from penstock_gateway.money.amounts import to_picousd

MAX_LINE_BYTES: Final = 16 << 20
SCHEMAS: Final = frozenset({1, 2})
CHECKPOINT: Final = "checkpoint"
"""Type of the rows that stand for the outcomes of deleted segments."""


class Problem(StrEnum):
    """What is wrong with a line or a file."""

    BROKEN_LINE = "broken_line"  # not one JSON object with a type, or longer than `MAX_LINE_BYTES`
    UNKNOWN_SCHEMA = "unknown_schema"  # written by a later version
    TORN_TAIL = "torn_tail"  # half a line at the end: the process was killed, or is writing just now
    UNREADABLE_FILE = "unreadable_file"
    DAMAGED_CHECKPOINT = "damaged_checkpoint"


@dataclass(frozen=True, slots=True)
class ReadingProblem:
    """Something that was passed over.

    Attributes
    ----------
    kind : Problem
    file : str
        Name.
    line : int
        From 1; 0 for the file as a whole.
    """

    kind: Problem
    file: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class EventLine:
    """One event with where it stands.

    Attributes
    ----------
    segment : Segment
    line : int
        From 1.
    event : dict
        As it was written.
    content : bytes
        The line itself, without its end.
    """

    segment: Segment
    line: int
    event: dict[str, Any]
    content: bytes


OnProblem = Callable[[ReadingProblem], None]


def read_events(
    folder: Path,
    *,
    types: Collection[str] | None = None,
    since: float | None = None,
    until: float | None = None,
    on_problem: OnProblem = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """Yield the events of a folder, oldest segment first.

    Parameters
    ----------
    folder : Path
    types : collection of str, optional
        ``decision``, ``outcome``, ``feedback``; all three by default. With ``checkpoint`` among them, the rows that
        stand for the outcomes of deleted segments come first, and no outcome is given that they hold already: together
        they are all that was ever spent.
    since, until : float, optional
        UNIX seconds: events of a time in [since, until). Of checkpoint rows, the time is the beginning of their
        quarter of an hour.
    on_problem : callable
        Called for everything that is passed over.

    Yields
    ------
    dict
        Records of schema 2. A request of schema 1 comes as a decision and an outcome, both with ``"schema": 1``.

    Raises
    ------
    ParquetMissing
        A segment is compacted, and pyarrow is not installed.
    FolderBusy
        Only with ``checkpoint``: a deletion takes very long. No segment is deleted until the last event was taken.

    Notes
    -----
    Events of one process are in the order in which they were written; several processes' segments come one after the
    other. A decision may come before or after its outcome, and either may be missing. An outcome may, after a failure
    of the disk, be there twice: count each decision id once.
    """
    wanted = frozenset(("decision", "outcome", "feedback")) if types is None else frozenset(types)
    if CHECKPOINT not in wanted:
        yield from _select(folder, wanted, since, until, on_problem, ())
        return
    with reading_money(folder):
        covered: Collection[str] = ()
        try:
            checkpoint = load_checkpoint(folder)
        except CheckpointDamaged as error:
            on_problem(ReadingProblem(Problem.DAMAGED_CHECKPOINT, error.file))
        else:
            covered = checkpoint.segments
            yield from (row for row in checkpoint.rows() if _is_within(row["at"], since, until))
        yield from _select(folder, wanted, since, until, on_problem, covered)


def _select(
    folder: Path,
    wanted: frozenset[str],
    since: float | None,
    until: float | None,
    on_problem: OnProblem,
    covered: Collection[str],
) -> Iterator[dict[str, Any]]:
    for segment in list_segments(folder):
        if since is not None and segment.changed_at < since:
            continue
        for found in read_segment(segment, on_problem=on_problem):
            for event in upgraded(found.event):
                kind = event["type"]
                if kind not in wanted or (kind == "outcome" and segment.id in covered):
                    continue
                if _is_within(event.get("time"), since, until):
                    yield event


def read_segment(segment: Segment, *, on_problem: OnProblem = lambda _: None) -> Iterator[EventLine]:
    """Yield the events of one segment as they were written, in either of its forms.

    Parameters
    ----------
    segment : Segment
        May have been compacted, rewritten or deleted since it was listed.
    on_problem : callable
    """
    try:
        for number, content, event in raw_lines(segment):
            if isinstance(event, Problem):
                on_problem(ReadingProblem(event, segment.path.name, number))
            else:
                yield EventLine(segment, number, event, content)
    except (OSError, ValueError):
        on_problem(ReadingProblem(Problem.UNREADABLE_FILE, segment.path.name))


def raw_lines(segment: Segment) -> Iterator[tuple[int, bytes, dict[str, Any] | Problem]]:
    """Yield every line of a segment: its number, its content without the line's end, and the event or what is wrong.

    Parameters
    ----------
    segment : Segment
        May have been compacted, rewritten or deleted since it was listed. Of a line above `MAX_LINE_BYTES` only the
        beginning is given.

    Raises
    ------
    OSError, ValueError
        The file cannot be read, or not further.
    ParquetMissing
    """
    while True:
        try:
            yield from _parquet_lines(segment) if segment.is_parquet else _json_lines(segment)
            return
        except FileNotFoundError:  # raised when it is opened, so nothing has been given yet
            now = other_form(segment)
            if now is None or now.path == segment.path:
                return
            segment = now


def decode_line(content: bytes) -> dict[str, Any] | Problem:
    """Return the event that a line holds, or what is wrong with it."""
    try:
        event = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Problem.BROKEN_LINE
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        return Problem.BROKEN_LINE
    schema = event.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool):
        return Problem.BROKEN_LINE
    return event if schema in SCHEMAS else Problem.UNKNOWN_SCHEMA


def upgraded(event: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return an event as records of schema 2; a request of schema 1 held decision and outcome in one.

    Parameters
    ----------
    event : dict
        Of a known schema.
    """
    if event.get("schema") != 1 or event.get("type") != "request":
        return (event,)
    decision = {name: value for name, value in event.items() if name not in _OUTCOME_FIELDS}
    usage = None
    if event.get("input_tokens") is not None:
        usage = {name: event.get(name) for name in _USAGE_FIELDS}
    outcome: dict[str, Any] = {
        "schema": 1,
        "type": "outcome",
        **{name: event.get(name) for name in _SHARED_FIELDS},
        **{name: event.get(name) for name in _OUTCOME_FIELDS if name not in _USAGE_FIELDS},
        "admitted_at": event.get("time"),
        "accounts": [],
        "usage": usage,
        "cost_picousd": _picousd(event.get("cost_usd")),
        "attempts": [],
    }
    return {**decision, "type": "decision"}, outcome


_USAGE_FIELDS: Final = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
_SHARED_FIELDS: Final = ("decision_id", "time", "tenant")
_OUTCOME_FIELDS: Final = (
    "served_arm",
    "served_artifact_arm",
    *_USAGE_FIELDS,
    "cost_usd",
    "is_cost_estimated",
    "status",
    "error_code",
    "duration_ms",
    "is_timeout",
)


def _json_lines(segment: Segment) -> Iterator[tuple[int, bytes, dict[str, Any] | Problem]]:
    with segment.path.open("rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                _skip_line(stream)
                yield number, line, Problem.BROKEN_LINE
            elif not line.endswith(b"\n"):
                yield number, line, Problem.TORN_TAIL
            else:
                yield number, line[:-1], decode_line(line[:-1])


def _parquet_lines(segment: Segment) -> Iterator[tuple[int, bytes, dict[str, Any] | Problem]]:
    for number, content in enumerate(read_parquet_lines(segment.path), 1):
        yield number, content, decode_line(content)


def _skip_line(stream: BinaryIO) -> None:
    while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        continue


def _is_within(time: object, since: float | None, until: float | None) -> bool:
    if not isinstance(time, int | float):
        return since is None and until is None
    return (since is None or time >= since) and (until is None or time < until)


def _picousd(cost: object) -> int:
    """Return a cost written as decimal text; 0 for anything else, which is never charged."""
    if not isinstance(cost, str):
        return 0
    try:
        return to_picousd(Decimal(cost))
    except InvalidOperation:
        return 0
