"""The reader of events on damaged segments: it never fails, and damage costs no line but its own."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock_gateway.events.compaction import compact
from penstock_gateway.events.reading import ReadingProblem, read_events
from penstock_gateway.events.segments import repair
from penstock_gateway.events.verification import verify
from support.event_samples import decision_event, outcome_event, write_segment

SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
ALL = {"decision", "outcome", "feedback", "checkpoint", "damaged"}


@SHARED_FOLDER
@given(
    content=st.binary(max_size=400), name=st.sampled_from(["events-1.jsonl", "events-1.parquet", "spend.checkpoint"])
)
def test_reader_of_any_bytes_passes_over_what_it_cannot_read(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    """A file of noise under any name breaks no reader, no verification and no repair."""
    folder = tmp_path_factory.mktemp("noise")
    write_segment(folder, "2", [outcome_event("2")])
    (folder / name).write_bytes(content)
    repair(folder)
    assert "2" in [event.get("decision_id") for event in read_events(folder, types=ALL)]
    verify(folder)


@SHARED_FOLDER
@given(line=st.integers(0, 9), position=st.floats(0, 1, exclude_max=True), noise=st.binary(min_size=1, max_size=30))
def test_reader_of_a_line_with_noise_in_it_loses_at_most_that_line(
    tmp_path_factory: pytest.TempPathFactory, line: int, position: float, noise: bytes
) -> None:
    """Bytes written over one line, line ends among them, cost that line; the others are the same, compacted too."""
    folder = tmp_path_factory.mktemp("damage")
    events = [decision_event(str(n)) if n % 2 else outcome_event(str(n)) for n in range(10)]
    lines = [json.dumps(event).encode() for event in events]
    at = int(position * len(lines[line]))
    lines[line] = (lines[line][:at] + noise + lines[line][at + len(noise) :])[: len(lines[line])]
    write_segment(folder, "1", [part + b"\n" for part in lines])
    problems: list[ReadingProblem] = []
    found = list(read_events(folder, on_problem=problems.append))
    others = [event for number, event in enumerate(events) if number != line]
    assert [event for event in found if event in others] == others
    assert len(found) <= len(events)
    compact(folder)
    assert [event for event in read_events(folder) if event in others] == others
