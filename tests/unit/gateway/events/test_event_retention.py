"""Rules of retention: segments go, what was spent in them stays, counted once whenever the process is killed."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.events import catalog, retention
from penstock_gateway.events import checkpoint as checkpoint_module
from penstock_gateway.events.catalog import FolderBusy, deleting, list_segments
from penstock_gateway.events.checkpoint import (
    EXACT_SECONDS,
    NAME,
    Checkpoint,
    CheckpointDamaged,
    load_checkpoint,
)
from penstock_gateway.events.compaction import compact
from penstock_gateway.events.parquet_segments import ParquetMissing
from penstock_gateway.events.reading import Problem, ReadingProblem, read_events
from penstock_gateway.events.retention import RetentionRules, delete_old
from penstock_gateway.events.segments import SegmentWriter
from support.event_samples import ADMITTED_AT, decision_event, outcome_event, write_segment

DAY = 86_400.0
MONEY = {"outcome", "checkpoint"}


def spent(folder: Path) -> Counter[str]:
    """Return what every scope has spent, from events and checkpoint together, each decision once."""
    total: Counter[str] = Counter()
    seen: set[str] = set()
    for event in read_events(folder, types=MONEY):
        if event["type"] == "checkpoint":
            total[event["scope"]] += event["cost_picousd"]
        elif event["decision_id"] not in seen:
            seen.add(event["decision_id"])
            for scope in event["accounts"]:
                total[scope] += event["cost_picousd"]
    return total


def old_segments(folder: Path, count: int = 3) -> list[Path]:
    """Write segments whose last events are 10, 9, 8, … days old."""
    return [
        write_segment(folder, str(n), [decision_event(str(n)), outcome_event(str(n))], age=(10 - n) * DAY)
        for n in range(count)
    ]


def now_of(folder: Path) -> float:
    """Return the moment from which the ages of `old_segments` count."""
    return list_segments(folder)[0].changed_at + 10 * DAY


def test_retention_by_age_deletes_what_is_older_and_keeps_what_was_spent(tmp_path: Path) -> None:
    """A segment goes at its age since the last event; every scope has spent as much as before."""
    old_segments(tmp_path)
    before = spent(tmp_path)
    deleted = delete_old(tmp_path, RetentionRules(10**9, 8.5 * DAY), now=now_of(tmp_path))
    assert [segment.id for segment in deleted] == ["events-0", "events-1"]
    assert [segment.id for segment in list_segments(tmp_path)] == ["events-2"]
    assert spent(tmp_path) == before == Counter({"key:k1": 3_000_000, "team:search": 3_000_000})


def test_retention_by_size_deletes_the_oldest_until_the_rest_fits(tmp_path: Path) -> None:
    """The folder stays within its bound, and no more goes than has to."""
    paths = old_segments(tmp_path, 5)
    size = paths[0].stat().st_size
    deleted = delete_old(tmp_path, RetentionRules(2 * size + 1), now=now_of(tmp_path))
    assert [segment.id for segment in deleted] == ["events-0", "events-1", "events-2"]


def test_retention_never_touches_what_is_open_young_or_not_shipped(tmp_path: Path) -> None:
    """A segment stays while somebody writes it, while its outcomes may not be settled, and until it was shipped."""
    paths = old_segments(tmp_path, 3)
    now = now_of(tmp_path)
    writer = SegmentWriter(tmp_path, segment_bytes=10**6, segment_seconds=60.0)
    writer.append(b'{"schema":2,"type":"outcome","decision_id":"9","time":1}\n')
    write_segment(tmp_path, "young", [outcome_event("8")], age=now - now_of(tmp_path))
    rules = RetentionRules(0, unsettled_seconds=8.5 * DAY)
    deleted = delete_old(tmp_path, rules, now=now, may_go=lambda segment: segment.id != "events-0")
    assert [segment.id for segment in deleted] == ["events-1"]
    assert [path.exists() for path in paths] == [True, False, True]
    deleted = delete_old(tmp_path, RetentionRules(0, unsettled_seconds=0.0), now=now + 100 * DAY)
    assert {segment.id for segment in deleted} == {"events-0", "events-2", "events-young"}
    assert len(list_segments(tmp_path)) == 1
    writer.close()


def test_retention_waits_for_those_who_read_what_was_spent(tmp_path: Path) -> None:
    """Whoever adds up the money sees each segment, or its totals, and not neither because it went in between."""
    old_segments(tmp_path)
    before = spent(tmp_path)
    reading = read_events(tmp_path, types=MONEY)
    first = next(reading)
    with pytest.raises(FolderBusy):
        delete_old(tmp_path, RetentionRules(0), now=now_of(tmp_path))
    rest = [first, *reading]
    assert sum(event["cost_picousd"] for event in rest) == before["key:k1"]
    delete_old(tmp_path, RetentionRules(0), now=now_of(tmp_path))
    assert spent(tmp_path) == before


def test_money_in_a_folder_that_is_being_tidied_is_refused_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader waits for a deletion, and says so rather than give a wrong sum; a folder without a lock is read."""
    monkeypatch.setattr(catalog, "_PATIENCE_SECONDS", 0.0)
    old_segments(tmp_path)
    with deleting(tmp_path), pytest.raises(FolderBusy):
        spent(tmp_path)
    assert spent(tmp_path / "missing") == Counter()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("step", ["before_save", "after_save", "between_deletions"])
def test_retention_that_ends_at_any_step_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Segments that are in the checkpoint but still there are not read as money, and go the next time."""
    old_segments(tmp_path)
    before, now = spent(tmp_path), now_of(tmp_path)
    unlink = Path.unlink

    def end(*_: object, **__: object) -> None:
        raise Killed

    def end_at_the_second(path: Path, missing_ok: bool = False) -> None:
        if path.name == "events-1.jsonl":
            raise Killed
        unlink(path, missing_ok=missing_ok)

    rules = RetentionRules(0)
    with monkeypatch.context() as patched:
        if step == "before_save":
            patched.setattr(Checkpoint, "save", end)
        else:
            patched.setattr(Path, "unlink", end if step == "after_save" else end_at_the_second)
        with pytest.raises(Killed):
            delete_old(tmp_path, rules, now=now)
    assert spent(tmp_path) == before
    delete_old(tmp_path, rules, now=now)
    assert spent(tmp_path) == before
    assert list_segments(tmp_path) == []
    assert load_checkpoint(tmp_path).segments == {"events-0", "events-1", "events-2"}


def test_retention_over_random_runs_and_compactions_keeps_every_picodollar(tmp_path: Path) -> None:
    """Whatever is written, compacted and deleted in whatever order, what was spent is the same in the end."""
    random_source = random.Random(7)
    expected: Counter[str] = Counter()
    for number in range(40):
        events: list[dict[str, Any]] = []
        for index in range(random_source.randrange(5)):
            scopes = random_source.sample(["key:a", "key:b", "team:x", "tag:p"], random_source.randrange(1, 4))
            cost = random_source.randrange(10**15)
            moment = ADMITTED_AT + random_source.uniform(0.0, 200 * DAY)
            events.append(outcome_event(f"{number}-{index}", accounts=scopes, cost_picousd=cost, admitted_at=moment))
            expected.update(dict.fromkeys(scopes, cost))
        write_segment(tmp_path, f"{number:03d}", [*events, *events[:1]], age=1e6 - number)  # one line is there twice
        if random_source.random() < 0.3:
            compact(tmp_path)
        if random_source.random() < 0.3:
            now = ADMITTED_AT + random_source.uniform(0.0, 300 * DAY)
            size = random_source.randrange(4000)
            delete_old(tmp_path, RetentionRules(size, unsettled_seconds=-1e12), now=now)
        assert spent(tmp_path) == expected
    assert len(list_segments(tmp_path)) < 40


def test_checkpoint_keeps_quarters_of_an_hour_and_then_days(tmp_path: Path) -> None:
    """Windows of budgets can be rebuilt in every time zone; what is older than any of them takes one row a day."""
    kept = Checkpoint()
    times = [0.0, 899.9, 900.0, DAY - 1.0, DAY]
    kept.add("events-1", [outcome_event(str(t), admitted_at=t, accounts=["key:a"]) for t in times])
    assert [(row["at"], row["seconds"], row["requests"]) for row in kept.rows()] == [
        (0, 900, 2),
        (900, 900, 1),
        (85_500, 900, 1),
        (86_400, 900, 1),
    ]
    kept.thin(EXACT_SECONDS + 86_400.0)
    kept.save(tmp_path)
    again = load_checkpoint(tmp_path)
    assert [(row["at"], row["seconds"], row["requests"]) for row in again.rows()] == [(0, 86_400, 4), (86_400, 900, 1)]
    row = next(again.rows())
    assert (row["cost_picousd"], row["input_tokens"], row["output_tokens"]) == (4_000_000, 40, 20)
    assert again.segments == {"events-1"}


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"x"])
def test_checkpoint_that_is_damaged_stops_every_deletion(tmp_path: Path, damage: bytes) -> None:
    """What cannot be read must not be written over: nothing is deleted, and readers are told."""
    old_segments(tmp_path, 1)
    delete_old(tmp_path, RetentionRules(0), now=now_of(tmp_path))
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:-20] + damage)
    old_segments(tmp_path, 2)
    with pytest.raises(CheckpointDamaged):
        delete_old(tmp_path, RetentionRules(0), now=now_of(tmp_path))
    assert len(list_segments(tmp_path)) == 2
    found: list[ReadingProblem] = []
    assert len(list(read_events(tmp_path, types=MONEY, on_problem=found.append))) == 2
    assert found == [ReadingProblem(Problem.DAMAGED_CHECKPOINT, NAME)]


def test_checkpoint_forgets_segments_that_are_gone(tmp_path: Path) -> None:
    """The list of segments in the checkpoint does not grow with the years."""
    old_segments(tmp_path, 1)
    now = now_of(tmp_path)
    delete_old(tmp_path, RetentionRules(0), now=now)
    write_segment(tmp_path, "5", [outcome_event("5")], age=5 * DAY)
    delete_old(tmp_path, RetentionRules(0), now=now)
    assert load_checkpoint(tmp_path).segments == {"events-5"}


def test_segment_that_cannot_be_read_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Money that nobody can read now may be readable later; a broken line, which never will be, is told."""
    (tmp_path / "events-0.parquet").write_bytes(b"no")
    write_segment(tmp_path, "1", [b'{"schema":9,"type":"outcome"}\n'])
    write_segment(tmp_path, "2", [b"{broken\n", outcome_event("2")])
    write_segment(tmp_path, "3", [outcome_event("3")])
    compact_one = tmp_path / "apart"
    write_segment(compact_one, "4", [outcome_event("4")])
    compact(compact_one)
    (compact_one / "events-4.parquet").rename(tmp_path / "events-4.parquet")
    real = retention.read_segment

    def without_pyarrow(segment: Any, **options: Any) -> Any:
        if segment.id == "events-4":
            raise ParquetMissing("install it")
        return real(segment, **options)

    monkeypatch.setattr(retention, "read_segment", without_pyarrow)
    found: list[ReadingProblem] = []
    rules = RetentionRules(0, unsettled_seconds=-1e12)
    deleted = delete_old(tmp_path, rules, now=0.0, on_problem=found.append)
    assert [segment.id for segment in deleted] == ["events-2", "events-3"]
    assert [(problem.kind, problem.file) for problem in found] == [
        (Problem.UNREADABLE_FILE, "events-0.parquet"),
        (Problem.UNKNOWN_SCHEMA, "events-1.jsonl"),
        (Problem.BROKEN_LINE, "events-2.jsonl"),
        (Problem.UNREADABLE_FILE, "events-4.parquet"),
    ]


def test_checkpoint_that_cannot_be_written_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk must not cost what was spent."""
    old_segments(tmp_path)
    before = spent(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "replace_file", full)
    with pytest.raises(OSError, match="No space"):
        delete_old(tmp_path, RetentionRules(0), now=now_of(tmp_path))
    assert spent(tmp_path) == before
    assert len(list_segments(tmp_path)) == 3
