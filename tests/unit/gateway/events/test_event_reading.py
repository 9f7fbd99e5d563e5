"""Rules of reading events: every readable line once, whatever else is in the folder, in either form and schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.events import reading
from penstock_gateway.events.catalog import list_segments
from penstock_gateway.events.compaction import compact
from penstock_gateway.events.reading import Problem, ReadingProblem, read_events, read_segment
from penstock_gateway.events.segments import SegmentWriter
from support.event_samples import decision_event, outcome_event, write_segment


def ids(folder: Path, **options: Any) -> list[str]:
    """Return type and decision of all events, shortened."""
    return [f"{event['type'][0]}{event['decision_id']}" for event in read_events(folder, **options)]


def test_read_events_gives_segments_oldest_first_and_types_as_asked(tmp_path: Path) -> None:
    """Segments follow each other by their start, lines as they were written; other types are left out."""
    write_segment(tmp_path, "20260102T000000Z-1-0001", [decision_event("2"), outcome_event("2")])
    write_segment(tmp_path, "20260101T000000Z-9-0001", [outcome_event("1")])
    assert ids(tmp_path) == ["o1", "d2", "o2"]
    assert ids(tmp_path, types={"outcome"}) == ["o1", "o2"]
    assert ids(tmp_path / "missing") == []


def test_read_events_of_a_time_leaves_out_the_rest(tmp_path: Path) -> None:
    """The beginning belongs to a span of time and the end does not; an event without a time is only in the whole."""
    events = [outcome_event(str(n), time=float(n)) for n in range(4)] + [outcome_event("x", time=None)]
    write_segment(tmp_path, "1", events)
    assert ids(tmp_path, since=1.0, until=3.0) == ["o1", "o2"]
    assert ids(tmp_path) == ["o0", "o1", "o2", "o3", "ox"]


def test_read_events_since_a_moment_opens_no_older_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of today does not read last year's files."""
    write_segment(tmp_path, "1", [outcome_event("1")], age=7200.0)
    path = write_segment(tmp_path, "2", [outcome_event("2", time=2e9)])
    opened: list[str] = []
    real = reading.raw_lines
    monkeypatch.setattr(reading, "raw_lines", lambda segment: (opened.append(segment.id), real(segment))[1])
    assert ids(tmp_path, since=path.stat().st_mtime - 60.0) == ["o2"]
    assert opened == ["events-2"]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"{broken\n", Problem.BROKEN_LINE),
        (b'{"schema":2}\n', Problem.BROKEN_LINE),
        (b'["type"]\n', Problem.BROKEN_LINE),
        (b'{"schema":"2","type":"outcome"}\n', Problem.BROKEN_LINE),
        (b'{"schema":2,"type":"outcome","x":"\xff"}\n', Problem.BROKEN_LINE),
        (b"\n", Problem.BROKEN_LINE),
        (b"[" * 100_000 + b"\n", Problem.BROKEN_LINE),
        (b'{"schema":3,"type":"outcome"}\n', Problem.UNKNOWN_SCHEMA),
    ],
)
def test_line_that_cannot_be_read_is_told_and_passed_over(tmp_path: Path, line: bytes, kind: Problem) -> None:
    """Damage in the middle costs its own line and no other, and is told by file and line."""
    write_segment(tmp_path, "1", [outcome_event("1"), line, outcome_event("2")])
    found: list[ReadingProblem] = []
    assert ids(tmp_path, on_problem=found.append) == ["o1", "o2"]
    assert found == [ReadingProblem(kind, "events-1.jsonl", 2)]


def test_line_longer_than_the_limit_is_passed_over_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without an end cannot fill the memory, and what follows it is read."""
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 400)
    long = json.dumps(decision_event("x", prompt="y" * 5000)).encode() + b"\n"
    write_segment(tmp_path, "1", [long, outcome_event("1")])
    found: list[ReadingProblem] = []
    assert ids(tmp_path, on_problem=found.append) == ["o1"]
    assert found == [ReadingProblem(Problem.BROKEN_LINE, "events-1.jsonl", 1)]


def test_tail_that_is_half_a_line_is_no_damage(tmp_path: Path) -> None:
    """Half a line at the end is told apart: a gateway may be writing it, or was killed before it acknowledged it."""
    write_segment(tmp_path, "1", [outcome_event("1"), b'{"schema":2,"type":"outc'])
    found: list[ReadingProblem] = []
    assert ids(tmp_path, on_problem=found.append) == ["o1"]
    assert found == [ReadingProblem(Problem.TORN_TAIL, "events-1.jsonl", 2)]


def test_segment_in_both_forms_is_read_once(tmp_path: Path) -> None:
    """A compaction that was killed before it deleted the JSON leaves every event exactly once."""
    path = write_segment(tmp_path, "1", [decision_event("1"), outcome_event("1")])
    content = path.read_bytes()
    compact(tmp_path)
    path.write_bytes(content)
    assert ids(tmp_path) == ["d1", "o1"]


def test_segment_that_is_compacted_after_it_was_listed_is_read_in_its_new_form(tmp_path: Path) -> None:
    """A reader that comes too late to a file finds the other form, and nothing when retention took both."""
    write_segment(tmp_path, "1", [outcome_event("1")])
    (segment,) = list_segments(tmp_path)
    compact(tmp_path)
    assert [line.event["decision_id"] for line in read_segment(segment)] == ["1"]
    (tmp_path / "events-1.parquet").unlink()
    assert list(read_segment(segment)) == []


def test_parquet_that_is_damaged_is_told_and_passed_over(tmp_path: Path) -> None:
    """A damaged file costs its own events; the others are read."""
    (tmp_path / "events-1.parquet").write_bytes(b"PAR1 nothing PAR1")
    write_segment(tmp_path, "2", [outcome_event("2")])
    found: list[ReadingProblem] = []
    assert ids(tmp_path, on_problem=found.append) == ["o2"]
    assert found == [ReadingProblem(Problem.UNREADABLE_FILE, "events-1.parquet")]


def test_segment_that_is_being_written_is_read_too(tmp_path: Path) -> None:
    """Readers need not wait for a segment to be closed."""
    writer = SegmentWriter(tmp_path, segment_bytes=10_000, segment_seconds=60.0)
    writer.append(json.dumps(outcome_event("1")).encode() + b"\n")
    assert ids(tmp_path) == ["o1"]
    writer.close()


def test_request_of_schema_1_comes_as_decision_and_outcome(tmp_path: Path) -> None:
    """The old record held both; its cost is exact, and it names no accounts, so nobody is charged for it."""
    old = {
        "schema": 1,
        "type": "request",
        "decision_id": "1",
        "time": 5.0,
        "tenant": "t",
        "intended_arm": "mini",
        "served_arm": "gpt",
        "propensity": 0.5,
        "input_tokens": 12,
        "cached_input_tokens": 1,
        "output_tokens": 3,
        "reasoning_tokens": 0,
        "cost_usd": "0.00018",
        "is_cost_estimated": False,
        "status": 200,
        "error_code": None,
        "duration_ms": 5.0,
        "is_timeout": False,
        "prompt": "why",
    }
    write_segment(tmp_path, "1", [old, {**old, "decision_id": "2", "cost_usd": None, "input_tokens": None}])
    decision, outcome, _, unknown = read_events(tmp_path)
    assert (decision["type"], decision["propensity"], decision["prompt"]) == ("decision", 0.5, "why")
    assert "cost_usd" not in decision
    assert (outcome["type"], outcome["decision_id"], outcome["served_arm"]) == ("outcome", "1", "gpt")
    assert (outcome["cost_picousd"], outcome["accounts"], outcome["admitted_at"]) == (180_000_000, [], 5.0)
    assert outcome["usage"]["output_tokens"] == 3
    assert (unknown["cost_picousd"], unknown["usage"]) == (0, None)
