"""Rules of the thread beside the writer: content and segments go in time, and a failure of one step stops no other."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.events import housekeeping
from penstock_gateway.events.catalog import list_segments, maintenance
from penstock_gateway.events.checkpoint import CheckpointDamaged
from penstock_gateway.events.housekeeping import Housekeeper
from penstock_gateway.events.parquet_segments import ParquetMissing
from penstock_gateway.events.reading import read_events
from penstock_gateway.settings_events import EventSettings, ShipSettings
from support.event_samples import decision_event, outcome_event, write_segment
from support.learning_traffic import eventually

DAY = 86_400.0


def keeper(folder: Path, problems: list[str], clock: Any = None, **settings: Any) -> Housekeeper:
    """Return a housekeeper that is not started."""
    options = {} if clock is None else {"clock": clock}
    return Housekeeper(EventSettings(folder=str(folder), **settings), on_problem=problems.append, **options)


def test_housekeeping_removes_content_at_its_age_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content goes when a segment's last event is old enough; a segment that is done is not read again."""
    write_segment(tmp_path, "1", [decision_event("1"), outcome_event("1")], age=3 * DAY)
    write_segment(tmp_path, "2", [decision_event("2")], age=1 * DAY)
    keeping = keeper(tmp_path, [], content_days=2.0)
    keeping.tidy()
    assert ["prompt" in event for event in read_events(tmp_path, types={"decision"})] == [False, True]
    looked_at: list[str] = []
    real = housekeeping.remove_content

    def noting(folder: Path, is_due: Any, *, is_segment_due: Any, on_done: Any) -> Any:
        looked_at.extend(segment.id for segment in list_segments(folder) if is_segment_due(segment))
        return real(folder, is_due, is_segment_due=is_segment_due, on_done=on_done)

    monkeypatch.setattr(housekeeping, "remove_content", noting)
    keeper(tmp_path, [], content_days=2.0).tidy()  # another process, later
    assert looked_at == []


def test_housekeeping_deletes_by_age_and_says_so(tmp_path: Path) -> None:
    """Deleted segments are told by name; what they held is in the checkpoint."""
    write_segment(tmp_path, "1", [outcome_event("1")], age=3 * DAY)
    write_segment(tmp_path, "2", [outcome_event("2")], age=1 * DAY)
    problems: list[str] = []
    keeper(tmp_path, problems, retention_days=2.0).tidy()
    assert problems == ["segment_deleted"]
    assert [segment.id for segment in list_segments(tmp_path)] == ["events-2"]
    assert sum(row["cost_picousd"] for row in read_events(tmp_path, types={"checkpoint"})) == 2_000_000


def test_housekeeping_by_other_limits_begins_at_once(tmp_path: Path) -> None:
    """A shorter retention is kept to without waiting for the next round."""
    write_segment(tmp_path, "1", [outcome_event("1")], age=3 * DAY)
    write_segment(tmp_path, "2", [decision_event("2")], age=2 * DAY)
    problems: list[str] = []
    keeping = keeper(tmp_path, problems, retention_days=9.0)
    keeping.start()
    keeping.follow(EventSettings(folder=str(tmp_path), retention_days=2.5, content_days=1.5))
    eventually(lambda: True if problems else None)
    keeping.stop()
    assert problems == ["segment_deleted"]
    assert [event.get("prompt") for event in read_events(tmp_path, types={"decision"})] == [None]


def test_housekeeping_with_shipping_deletes_nothing_before_it_arrived(tmp_path: Path) -> None:
    """Money is never deleted here before it is there."""
    write_segment(tmp_path, "1", [outcome_event("1")], age=3 * DAY)
    ship = ShipSettings(url=f"file://{tmp_path}/elsewhere")
    keeping = keeper(tmp_path, [], retention_days=2.0, ship=ship)
    keeping.tidy()
    assert len(list_segments(tmp_path)) == 1
    keeping._shipper.ship_all()
    keeping.tidy()
    assert list_segments(tmp_path) == []
    assert (tmp_path / "elsewhere" / "events-1.jsonl").exists()


def test_housekeeping_deletes_nothing_that_is_not_charged_yet(tmp_path: Path) -> None:
    """While the ledger lags behind, single outcomes are kept for it."""
    write_segment(tmp_path, "1", [outcome_event("1")], age=3 * DAY)
    (segment,) = list_segments(tmp_path)
    settled = [segment.changed_at]
    keeping = keeper(tmp_path, [], retention_days=2.0)
    keeping._settled_until = lambda: settled[0]
    keeping.tidy()
    assert len(list_segments(tmp_path)) == 1
    settled[0] += 1.0
    keeping.tidy()
    assert list_segments(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ParquetMissing("install it"), "parquet_missing"),
        (OSError(5, "Input/output error"), "tidy_failed"),
        (CheckpointDamaged("spend.checkpoint"), "checkpoint_damaged"),
    ],
)
def test_housekeeping_step_that_fails_is_told_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str
) -> None:
    """Content that cannot be removed keeps no segment from being deleted."""
    write_segment(tmp_path, "1", [decision_event("1")], age=3 * DAY)

    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(housekeeping, "remove_content", failing)
    problems: list[str] = []
    keeper(tmp_path, problems, retention_days=2.0, content_days=1.0).tidy()
    assert problems == [problem, "segment_deleted"]


def test_housekeeping_beside_another_process_waits_its_turn(tmp_path: Path) -> None:
    """While another tidies up nothing is done and nothing is a problem; a folder that is not there is none either."""
    write_segment(tmp_path, "1", [outcome_event("1")], age=3 * DAY)
    problems: list[str] = []
    with maintenance(tmp_path):
        keeper(tmp_path, problems, retention_days=1.0).tidy()
    assert len(list_segments(tmp_path)) == 1
    keeper(tmp_path / "missing", problems, retention_days=1.0).tidy()
    assert problems == []


def test_housekeeping_thread_tidies_at_the_start_and_when_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed segment is looked at without waiting for the next round, and the thread ends when it is told."""
    keeping = keeper(tmp_path, [])
    rounds = threading.Semaphore(0)
    monkeypatch.setattr(keeping, "tidy", rounds.release)
    keeping.start()
    assert rounds.acquire(timeout=10)
    keeping.wake()
    assert rounds.acquire(timeout=10)
    keeping.stop()
    assert not keeping._thread.is_alive()
