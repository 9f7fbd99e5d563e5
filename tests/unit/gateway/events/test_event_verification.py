"""Rules of verifying a folder: what is unsound is named with its place, what is only unfinished is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock_gateway.events.checkpoint import NAME, Checkpoint
from penstock_gateway.events.compaction import compact
from penstock_gateway.events.reading import Problem, ReadingProblem
from penstock_gateway.events.segments import SegmentWriter
from penstock_gateway.events.verification import SHOWN, verify
from support.event_samples import decision_event, outcome_event, write_segment


def test_verify_of_a_sound_folder_counts_events_and_joins(tmp_path: Path) -> None:
    """Missing halves are counted and are no fault: requests are under way, detail is left out, segments go."""
    write_segment(tmp_path, "1", [decision_event("1"), outcome_event("1"), decision_event("2")])
    compact(tmp_path)
    write_segment(tmp_path, "2", [outcome_event("3"), {"schema": 2, "type": "feedback", "decision_id": "4"}, b'{"half'])
    writer = SegmentWriter(tmp_path, segment_bytes=10**6, segment_seconds=60.0)
    writer.append(json.dumps(outcome_event("5")).encode() + b"\n")
    steps: list[tuple[int, int]] = []
    found = verify(tmp_path, progress=lambda done, total: steps.append((done, total)))
    assert found.is_sound
    assert (found.segments, found.compacted, found.open_segments) == (3, 1, 1)
    assert found.events == {"decision": 2, "outcome": 3, "feedback": 1}
    assert (found.decisions_without_outcome, found.outcomes_without_decision) == (1, 2)
    assert found.feedback_without_decision == 1
    assert found.problems == {Problem.TORN_TAIL: 1}
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    writer.close()


def test_verify_of_an_outcome_that_is_there_twice_names_both_places(tmp_path: Path) -> None:
    """Money that would be counted twice is unsound, across segments and forms."""
    write_segment(tmp_path, "1", [outcome_event("1"), outcome_event("2")])
    compact(tmp_path)
    write_segment(tmp_path, "2", [outcome_event("3"), outcome_event("2"), outcome_event("2")])
    found = verify(tmp_path)
    assert not found.is_sound
    assert found.duplicate_outcomes == 2
    assert found.duplicates == ["events-2.jsonl line 2: 2", "events-2.jsonl line 3: 2"]


@pytest.mark.parametrize("line", [b"{broken\n", b'{"schema":3,"type":"outcome"}\n'])
def test_verify_of_a_line_that_cannot_be_read_is_unsound(tmp_path: Path, line: bytes) -> None:
    """A damaged line and one of a later version are named with file and line."""
    write_segment(tmp_path, "1", [outcome_event("1"), line])
    found = verify(tmp_path)
    assert not found.is_sound
    assert [(place.file, place.line) for place in found.places] == [("events-1.jsonl", 2)]


def test_verify_of_a_very_damaged_folder_keeps_its_report_short(tmp_path: Path) -> None:
    """A file of noise is counted whole and shown in part."""
    write_segment(tmp_path, "1", [b"noise\n"] * 500)
    found = verify(tmp_path)
    assert found.problems == {Problem.BROKEN_LINE: 500}
    assert len(found.places) == SHOWN
    assert json.loads(json.dumps(found.as_json()))["is_sound"] is False


def test_verify_counts_what_a_killed_compaction_left_and_the_checkpoint(tmp_path: Path) -> None:
    """Both forms of one segment are one segment; a checkpoint that cannot be read is unsound."""
    path = write_segment(tmp_path, "1", [outcome_event("1")])
    content = path.read_bytes()
    compact(tmp_path)
    path.write_bytes(content)
    kept = Checkpoint()
    kept.add("events-0", [outcome_event("0")])
    kept.save(tmp_path)
    found = verify(tmp_path)
    assert (found.is_sound, found.both_forms, found.open_segments, found.checkpoint_rows) == (True, 1, 0, 2)
    (tmp_path / NAME).write_bytes(b"{}\n")
    found = verify(tmp_path)
    assert not found.is_sound
    assert found.places == [ReadingProblem(Problem.DAMAGED_CHECKPOINT, NAME)]


def test_verify_of_an_empty_folder_is_sound(tmp_path: Path) -> None:
    """Nothing is nothing wrong."""
    assert verify(tmp_path).is_sound
