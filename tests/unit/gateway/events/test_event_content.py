"""Rules of removing content: nothing that a user wrote is left, money and choices stay, and files are never half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.events import content as content_module
from penstock_gateway.events.catalog import list_segments
from penstock_gateway.events.compaction import compact
from penstock_gateway.events.content import CONTENT_FIELDS, remove_content
from penstock_gateway.events.reading import read_events
from penstock_gateway.events.segments import SegmentWriter
from support.event_samples import SECRET_TEXT, decision_event, outcome_event, write_segment

MINE, OTHER = "0011223344556677", "ffffffffffffffff"


def feedback_event(decision_id: str, **changes: Any) -> dict[str, Any]:
    """Return feedback with content."""
    return {
        "schema": 2,
        "type": "feedback",
        "decision_id": decision_id,
        "time": 1.0,
        "tenant": MINE,
        "score": 0.5,
        "label": "Rumpel label",
        "comment": "Rumpel comment",
        **changes,
    }


EVENTS = [
    decision_event("1"),
    outcome_event("1"),
    feedback_event("1"),
    decision_event("2", tenant=OTHER, prompt="another's words"),
]


def is_mine(event: dict[str, Any]) -> bool:
    """Whether an event is of the tenant whose content is to go."""
    return event.get("tenant") == MINE


@pytest.mark.parametrize("is_compacted", [False, True])
def test_content_of_a_tenant_goes_and_its_money_stays(tmp_path: Path, is_compacted: bool) -> None:
    """Prompts, hashes, comments and labels of one tenant are gone in either form; everything else reads as before."""
    write_segment(tmp_path, "1", EVENTS, age=5000.0)
    if is_compacted:
        compact(tmp_path)
    before = list_segments(tmp_path)[0]
    report = remove_content(tmp_path, is_mine)
    assert (report.segments, report.events, report.open_segments) == (1, 2, ())
    decision, outcome, feedback, other = read_events(tmp_path)
    for event in (decision, feedback):
        assert event["is_content_removed"] is True
        assert not set(CONTENT_FIELDS) & set(event)
    assert (decision["intended_arm"], feedback["score"]) == ("mini", 0.5)
    assert (outcome, other) == (EVENTS[1], EVENTS[3])
    (after,) = list_segments(tmp_path)
    assert b"Rumpel" not in after.path.read_bytes()
    assert (after.id, after.is_parquet) == (before.id, is_compacted)
    assert after.changed_at == pytest.approx(before.changed_at, abs=1e-3)


def test_content_that_is_gone_leaves_the_file_alone(tmp_path: Path) -> None:
    """A second removal finds nothing and rewrites nothing."""
    path = write_segment(tmp_path, "1", EVENTS)
    remove_content(tmp_path, is_mine)
    inode = path.stat().st_ino
    assert remove_content(tmp_path, is_mine).segments == 0
    assert path.stat().st_ino == inode


def test_content_in_a_line_that_cannot_be_read_goes_too(tmp_path: Path) -> None:
    """Nobody can tell whose words are in a damaged line, so they go; that there was a line stays."""
    half = json.dumps(decision_event("3")).encode()[:-20]
    path = write_segment(tmp_path, "1", [outcome_event("1"), half + b"\n", half])
    report = remove_content(tmp_path, is_mine)
    assert (report.damaged_lines, report.events) == (1, 0)
    assert SECRET_TEXT.encode() not in path.read_bytes()
    assert [event["type"] for event in read_events(tmp_path, types={"damaged", "outcome"})] == ["outcome", "damaged"]


def test_content_in_an_open_segment_is_reported(tmp_path: Path) -> None:
    """What a gateway is writing cannot be rewritten beneath it; whoever deletes is told to come again."""
    writer = SegmentWriter(tmp_path, segment_bytes=10**6, segment_seconds=60.0)
    writer.append(json.dumps(decision_event("1")).encode() + b"\n")
    (segment,) = list_segments(tmp_path)
    assert remove_content(tmp_path, is_mine).open_segments == (segment.id,)
    writer.close()
    assert remove_content(tmp_path, is_mine).events == 1


def test_content_removal_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up in the middle of a rewriting costs nothing."""
    path = write_segment(tmp_path, "1", EVENTS)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(content_module, "damaged_event", full)
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            remove_content(tmp_path, is_mine)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
