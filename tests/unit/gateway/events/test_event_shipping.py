"""Rules of shipping: every closed segment arrives whole, at least once, and what fails is tried again."""

from __future__ import annotations

import json
import logging
import sys
import threading
from pathlib import Path

import fsspec
import pytest

from penstock_gateway.events import ship_targets
from penstock_gateway.events.catalog import Segment, list_segments
from penstock_gateway.events.compaction import compact
from penstock_gateway.events.reading import read_events
from penstock_gateway.events.segments import SegmentWriter
from penstock_gateway.events.ship_targets import FolderTarget, ObjectTarget, target_of
from penstock_gateway.events.shipping import Shipper, ShippingFailed, is_shipped
from penstock_gateway.settings_events import ShipSettings
from support.event_samples import decision_event, outcome_event, write_segment
from support.object_store import S3_CREDENTIALS, object_store


class FakeTarget:
    """Takes segments, or refuses them while `refuses`."""

    def __init__(self) -> None:
        self.shipped: list[str] = []
        self.refuses = False
        self.closed = 0
        self.attempts = threading.Semaphore(0)

    def ship(self, segment: Segment) -> None:
        """Note a segment."""
        self.attempts.release()
        if self.refuses:
            raise ShippingFailed("the store is away")
        self.shipped.append(segment.path.name)

    def close(self) -> None:
        """Count the closing."""
        self.closed += 1


def shipper(folder: Path, target: FakeTarget, **options: object) -> Shipper:
    """Return a shipper to a fake target."""
    return Shipper(folder, lambda: target, **{"retry_seconds": 0.01, **options})  # type: ignore[arg-type]


def test_shipper_ships_closed_segments_once(tmp_path: Path) -> None:
    """A segment is shipped when it is closed, in the order of age, and not again, compacted or not."""
    write_segment(tmp_path, "2", [outcome_event("2")])
    write_segment(tmp_path, "1", [outcome_event("1")])
    writer = SegmentWriter(tmp_path, segment_bytes=10**6, segment_seconds=60.0)
    writer.append(b'{"schema":2,"type":"outcome","decision_id":"9","time":1}\n')
    target = FakeTarget()
    assert shipper(tmp_path, target).ship_all() == 2
    assert target.shipped == ["events-1.jsonl", "events-2.jsonl"]
    compact(tmp_path)
    assert shipper(tmp_path, target).ship_all() == 0
    writer.close()
    assert shipper(tmp_path, target).ship_all() == 1


def test_shipper_forgets_the_marks_of_deleted_segments(tmp_path: Path) -> None:
    """Marks do not gather over the years."""
    path = write_segment(tmp_path, "1", [outcome_event("1")])
    sending = shipper(tmp_path, FakeTarget())
    sending.ship_all()
    (segment,) = list_segments(tmp_path)
    assert is_shipped(segment)
    path.unlink()
    sending.ship_all()
    assert not is_shipped(segment)


def test_shipper_tries_again_and_logs_each_change_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While the target is away every round counts, one line is logged, nothing is lost, and its return is logged."""
    write_segment(tmp_path, "1", [outcome_event("1")])
    target = FakeTarget()
    target.refuses = True
    problems: list[str] = []
    has_arrived = threading.Event()
    sending = shipper(tmp_path, target, on_problem=problems.append, on_shipped=has_arrived.set)
    with caplog.at_level(logging.INFO, logger="penstock.events"):
        sending.start()
        for _ in range(3):
            assert target.attempts.acquire(timeout=10)
        target.refuses = False
        assert has_arrived.wait(10)
        sending.stop()
    assert target.shipped == ["events-1.jsonl"]
    assert len(problems) >= 2
    assert set(problems) == {"ship_failed"}
    assert target.closed >= len(problems)
    assert [record.getMessage() for record in caplog.records] == ["events_ship_failed", "events_shipping_again"]


def test_shipper_of_two_gateways_ships_each_segment_once(tmp_path: Path) -> None:
    """One of the processes that share a folder ships; the other leaves it to that one."""
    write_segment(tmp_path, "1", [outcome_event("1")])
    first, second = FakeTarget(), FakeTarget()
    other = shipper(tmp_path, second)

    class Slow(FakeTarget):
        def ship(self, segment: Segment) -> None:
            """Let the other process have a round meanwhile."""
            other._round()
            super().ship(segment)

    slow = Slow()
    shipper(tmp_path, slow)._round()
    assert (slow.shipped, second.shipped, first.shipped) == (["events-1.jsonl"], [], [])


def test_folder_target_copies_either_form_whole(tmp_path: Path) -> None:
    """What arrives can be read like the folder itself; again is harmless."""
    write_segment(tmp_path / "a", "1", [decision_event("1"), outcome_event("1")])
    write_segment(tmp_path / "a", "2", [outcome_event("2")])
    stale = list_segments(tmp_path / "a")
    compact(tmp_path / "a")
    target = target_of(ShipSettings(url=(tmp_path / "b c").as_uri()))
    assert isinstance(target, FolderTarget)
    for segment in stale * 2:  # listed before they were compacted
        target.ship(segment)
    assert list(read_events(tmp_path / "b c")) == list(read_events(tmp_path / "a"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ShippingFailed):
        FolderTarget(tmp_path / "file" / "x").ship(list_segments(tmp_path / "a")[0])


def test_object_target_uploads_through_fsspec_and_checks_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that kept less than it was given has not got the segment."""
    path = write_segment(tmp_path, "1", [outcome_event("1")])
    (segment,) = list_segments(tmp_path)
    target = target_of(ShipSettings(url="memory://events-test/a"))
    target.ship(segment)
    store = fsspec.filesystem("memory")
    assert store.cat_file("/events-test/a/events-1.jsonl") == path.read_bytes()

    def cutting(local: str, remote: str) -> None:
        store.pipe_file(remote, b"cut")

    assert isinstance(target, ObjectTarget)
    monkeypatch.setattr(target._store, "put_file", cutting)
    with pytest.raises(ShippingFailed, match="another size"):
        target.ship(segment)


def test_object_target_of_s3_needs_no_client_beside_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image ships to S3 as it is: the extra `ship` alone is in it."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    write_segment(tmp_path, "1", [outcome_event("1")])
    (segment,) = list_segments(tmp_path)
    with object_store() as store:
        for name, value in {"AWS_ENDPOINT_URL": store.url, **S3_CREDENTIALS}.items():
            monkeypatch.setenv(name, value)
        store.objects["/events"] = b""
        target_of(ShipSettings(url="s3://events/gateways")).ship(segment)
        assert store.objects[f"/events/gateways/{segment.path.name}"] == segment.path.read_bytes()


def test_object_target_that_fails_hides_what_the_client_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store's error may hold a signed URL or a key: only its name is told."""
    write_segment(tmp_path, "1", [outcome_event("1")])
    (segment,) = list_segments(tmp_path)
    target = ObjectTarget("memory://events-test/b")

    def refused(*_: object) -> None:
        raise RuntimeError("https://bucket/?X-Amz-Signature=secret")

    monkeypatch.setattr(target._store, "put_file", refused)
    with pytest.raises(ShippingFailed) as caught:
        target.ship(segment)
    assert str(caught.value) == "the object store did not take a segment: RuntimeError"


def test_ship_target_that_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown store, and a missing fsspec, are told with what to do."""
    with pytest.raises(ShippingFailed, match="nowhere"):
        target_of(ShipSettings(url="nowhere://bucket"))
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    with pytest.raises(ShippingFailed, match=r"fsspec, which is not installed: .*ship"):
        target_of(ShipSettings(url="s3://bucket"))


def test_stream_target_goes_on_behind_its_mark_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure the lines behind the last mark are sent again, with the ids by which a reader knows them."""
    monkeypatch.setattr(ship_targets, "_PROGRESS_LINES", 4)
    sent: list[tuple[str, dict[str, object]]] = []
    fails_at: list[int] = [6]

    class FakeClient:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        async def execute(self, *command: bytes | int, deadline_seconds: float) -> object:
            """Note an XADD, or fail once."""
            assert command[:5] == (b"XADD", b"events", b"MAXLEN", b"~", 1000)
            assert deadline_seconds > 0.0
            if fails_at and len(sent) == fails_at[0]:
                fails_at.clear()
                raise ship_targets.StoreUnavailable("Redis is away", code="cache_store_unreachable")
            sent.append((bytes(command[7]).decode(), json.loads(command[11])))
            return b"1-1"

        async def aclose(self) -> None:
            """Nothing is open."""

    monkeypatch.setattr(ship_targets, "RedisClient", FakeClient)
    write_segment(tmp_path, "1", [outcome_event(str(n)) for n in range(3)] + [b"{broken\n"]
                  + [outcome_event(str(n)) for n in range(3, 9)])  # fmt: skip
    (segment,) = list_segments(tmp_path)
    target = ship_targets.StreamTarget("redis://x", "events", 1000)
    with pytest.raises(ShippingFailed):
        target.ship(segment)
    target.ship(segment)
    target.close()
    assert [identity for identity, _ in sent][:6] == [f"events-1:{n}" for n in (1, 2, 3, 5, 6, 7)]
    unique = {identity: event["decision_id"] for identity, event in sent}
    assert list(unique.values()) == [str(n) for n in range(9)]
    assert len(sent) == 6 + 6  # the mark is behind line 4, which could not be read: 5 to 7 come again
    assert [path.name for path in tmp_path.iterdir()] == ["events-1.jsonl"]
