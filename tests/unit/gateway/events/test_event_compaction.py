"""Rules of compaction: every event exactly once, whenever the process is killed, and nothing of it changed."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock_gateway.events import catalog, compaction, parquet_segments
from penstock_gateway.events.catalog import FolderBusy, list_segments, maintenance
from penstock_gateway.events.compaction import compact
from penstock_gateway.events.parquet_segments import ParquetMissing
from penstock_gateway.events.reading import read_events
from penstock_gateway.events.segments import SegmentWriter
from support.event_samples import decision_event, outcome_event, write_segment

EVENTS = [decision_event("1"), outcome_event("1"), outcome_event("2", cost_usd="0.000000000001", cost_picousd=1)]


def test_compaction_keeps_every_event_as_it_was_and_the_files_time(tmp_path: Path) -> None:
    """The events read the same afterwards, unknown fields included; the JSON is gone, the age stays."""
    events = [*EVENTS, {"schema": 2, "type": "novelty", "decision_id": "3", "later": {"a": [1.5, None, "é"]}}]
    path = write_segment(tmp_path, "1", events, age=5000.0)
    changed_at = path.stat().st_mtime
    report = compact(tmp_path)
    assert (report.segments, report.events, report.damaged_lines) == (1, 4, 0)
    (segment,) = list_segments(tmp_path)
    assert (segment.is_parquet, segment.id, path.exists()) == (True, "events-1", False)
    assert segment.changed_at == pytest.approx(changed_at, abs=1e-3)
    assert list(read_events(tmp_path, types={"decision", "outcome", "novelty"})) == events


def test_compacted_segment_has_columns_for_queries(tmp_path: Path) -> None:
    """Money is exact decimal and whole picodollars in columns of their own, so that other programs can add it up."""
    write_segment(tmp_path, "1", EVENTS)
    compact(tmp_path)
    table = pq.read_table(tmp_path / "events-1.parquet")
    assert table.column("type").to_pylist() == ["decision", "outcome", "outcome"]
    assert table.column("cost_usd").to_pylist() == [None, Decimal("0.000001"), Decimal("0.000000000001")]
    assert table.column("cost_picousd").to_pylist() == [None, 1_000_000, 1]
    assert table.column("input_tokens").to_pylist() == [None, 10, 10]
    assert table.column("accounts").to_pylist()[1] == ["key:k1", "team:search"]


def test_compaction_of_odd_values_keeps_the_record(tmp_path: Path) -> None:
    """A value that does not fit its column is missing there and whole in the record."""
    odd = outcome_event("1", cost_usd="1e400", cost_picousd=2**70, status="200", time="noon", accounts="k", usage=[])
    write_segment(tmp_path, "1", [odd])
    compact(tmp_path)
    assert list(read_events(tmp_path)) == [odd]


def test_compaction_of_damaged_lines_keeps_their_place_and_nothing_of_them(tmp_path: Path) -> None:
    """Unreadable lines become events that say so; half a line at the end, never acknowledged, is dropped."""
    write_segment(tmp_path, "1", [outcome_event("1"), b"{broken secret\n", outcome_event("2"), b'{"half'])
    report = compact(tmp_path)
    assert (report.events, report.damaged_lines) == (3, 1)
    found = list(read_events(tmp_path, types={"damaged", "outcome"}))
    assert [event["type"] for event in found] == ["outcome", "damaged", "outcome"]
    assert found[1] == {"schema": 2, "type": "damaged", "bytes": 14}
    assert b"secret" not in (tmp_path / "events-1.parquet").read_bytes()


def test_compaction_leaves_open_and_removes_empty_segments(tmp_path: Path) -> None:
    """A segment that a gateway writes is left for the next time; one that never got a line is removed."""
    writer = SegmentWriter(tmp_path, segment_bytes=10_000, segment_seconds=60.0)
    writer.append(b'{"schema":2,"type":"outcome","decision_id":"9","time":1}\n')
    write_segment(tmp_path, "0", [])
    report = compact(tmp_path)
    assert (report.segments, report.open_segments) == (0, 1)
    assert [segment.is_parquet for segment in list_segments(tmp_path)] == [False]
    writer.close()
    assert compact(tmp_path).segments == 1


def test_compaction_beside_another_is_refused(tmp_path: Path) -> None:
    """Two processes never rewrite one folder at a time."""
    write_segment(tmp_path, "1", EVENTS)
    with maintenance(tmp_path), pytest.raises(FolderBusy):
        compact(tmp_path)
    assert compact(tmp_path).segments == 1


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


@pytest.mark.parametrize("step", ["write", "fsync", "rename", "unlink", "sync_folder"])
def test_compaction_that_ends_at_any_step_leaves_every_event_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whenever the process ends, readers find each event once, before and after the next compaction."""
    write_segment(tmp_path, "1", EVENTS)
    write_segment(tmp_path, "2", [outcome_event("3")])

    def end(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        if step == "write":
            patched.setattr(compaction, "write_parquet", end)
        elif step == "fsync":
            patched.setattr(os, "fsync", end)
        elif step == "rename":
            patched.setattr(Path, "replace", end)
        elif step == "unlink":
            patched.setattr(Path, "unlink", end)
        else:
            patched.setattr(catalog, "sync_folder", end)
        with pytest.raises(Killed):
            compact(tmp_path)
    expected = [*EVENTS, outcome_event("3")]
    assert list(read_events(tmp_path)) == expected
    compact(tmp_path)
    assert list(read_events(tmp_path)) == expected
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".events.lock")) == [
        "events-1.parquet",
        "events-2.parquet",
    ]


def test_compaction_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    """Unfinished files are never read, and go with the next compaction."""
    write_segment(tmp_path, "1", EVENTS)
    unfinished = tmp_path / ".events-1.parquet.unfinished"
    unfinished.write_bytes(b"PAR1 half")
    assert list(read_events(tmp_path)) == EVENTS
    compact(tmp_path)
    assert not unfinished.exists()


def test_compaction_whose_file_reads_back_wrongly_keeps_the_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The JSON is deleted only after the Parquet has been read back with as many events."""
    path = write_segment(tmp_path, "1", EVENTS)
    monkeypatch.setattr(compaction, "read_parquet_lines", lambda _: iter([b"{}"]))
    with pytest.raises(ValueError, match="holds 1 events instead of 3"):
        compact(tmp_path)
    assert path.exists()
    assert list(read_events(tmp_path)) == EVENTS


def test_compaction_without_pyarrow_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway does not need pyarrow; what does says so, and compacted money is never passed over in silence."""
    write_segment(tmp_path, "1", EVENTS)
    compact(tmp_path)

    def missing() -> None:
        raise ParquetMissing("install it")

    monkeypatch.setattr(parquet_segments, "_import_arrow", missing)
    write_segment(tmp_path, "2", EVENTS)
    with pytest.raises(ParquetMissing):
        compact(tmp_path)
    with pytest.raises(ParquetMissing):
        list(read_events(tmp_path))


texts = st.text(st.characters(codec="utf-8"), max_size=5)
numbers = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from(["time", "cost_usd", "usage", "accounts", "label", "status", "cost_picousd", "else"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(changes=st.lists(st.dictionaries(fields, values, max_size=3), min_size=1, max_size=4))
def test_compaction_of_any_fields_changes_no_event(
    tmp_path_factory: pytest.TempPathFactory, changes: list[dict[str, object]]
) -> None:
    """Whatever a later version writes into an event comes back as it was."""
    folder = tmp_path_factory.mktemp("any")
    events = [{**outcome_event(str(n)), **change} for n, change in enumerate(changes)]
    write_segment(folder, "1", events)
    compact(folder)
    assert list(read_events(folder)) == events
