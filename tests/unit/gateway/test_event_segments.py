"""Rules of the event log's files: durable batches, damaged tails, rotation and retention."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from penstock_gateway import event_segments
from penstock_gateway.event_segments import PATTERN, CutTail, SegmentWriter, is_being_written, repair


def writer(folder: Path, *, segment_bytes: int = 1000, max_bytes: int = 10_000, **options: object) -> SegmentWriter:
    """Return a writer of small segments."""
    return SegmentWriter(folder, segment_bytes=segment_bytes, max_bytes=max_bytes, **options)  # type: ignore[arg-type]


def segments(folder: Path) -> list[Path]:
    """Return the segments, oldest first."""
    return sorted(folder.glob(PATTERN))


def test_segment_of_a_batch_holds_it_and_is_the_owners_alone(tmp_path: Path) -> None:
    """Lines are appended as given, in a file that nobody else may read."""
    writing = writer(tmp_path)
    writing.append(b'{"a":1}\n')
    writing.append(b'{"a":2}\n{"a":3}\n')
    (segment,) = segments(tmp_path)
    assert segment.read_bytes() == b'{"a":1}\n{"a":2}\n{"a":3}\n'
    assert stat.S_IMODE(segment.stat().st_mode) == 0o600


def test_segment_that_is_full_is_followed_by_another(tmp_path: Path) -> None:
    """The batch that passes the limit is written whole; the next one begins a new segment."""
    writing = writer(tmp_path, segment_bytes=10)
    for number in range(3):
        writing.append(b'{"number":%d}\n' % number)
    assert [path.read_bytes() for path in segments(tmp_path)] == [b'{"number":%d}\n' % n for n in range(3)]


def test_segments_beyond_the_bound_lose_the_oldest_closed_ones(tmp_path: Path) -> None:
    """The folder stays within its bound; what is deleted is named, and a segment being written is not touched."""
    deleted: list[str] = []
    old = writer(tmp_path, segment_bytes=100_000)
    old.append(b'{"old":1}\n')  # stays open, as of another process
    kept_open = segments(tmp_path)[0]
    writing = writer(tmp_path, segment_bytes=10, max_bytes=40, on_delete=deleted.append)
    for number in range(6):
        writing.append(b'{"number":%d}\n' % number)
    left = segments(tmp_path)
    assert kept_open in left
    assert sum(path.stat().st_size for path in left) <= 40
    assert len(deleted) == 4
    assert b'{"number":5}\n' in [path.read_bytes() for path in left]


@pytest.mark.parametrize(
    ("tail", "kept"),
    [
        (b'{"half":', b""),
        (b'{"half":"\n', b""),  # a line end, but no object
        (b"\0" * 5000, b""),  # what a file system leaves after a power cut
        (b'{"a":1}\n{"b":', b'{"a":1}\n'),
        (b'{"a":1}\n\xff\xfe\n', b'{"a":1}\n'),
        (b'{"a":1}\n[1]\n', b'{"a":1}\n'),
    ],
)
def test_repair_of_a_damaged_tail_cuts_back_to_the_last_whole_line(tmp_path: Path, tail: bytes, kept: bytes) -> None:
    """What cannot be read is cut off and counted; what can be stays."""
    path = tmp_path / "events-20260101T000000Z-1-0001.jsonl"
    path.write_bytes(b'{"first":1}\n' + tail)
    assert repair(tmp_path) == [CutTail(path.name, len(tail) - len(kept))]
    assert path.read_bytes() == b'{"first":1}\n' + kept
    assert repair(tmp_path) == []


def test_repair_of_a_line_longer_than_the_first_look_keeps_it(tmp_path: Path) -> None:
    """A whole line of a long prompt is kept, however little of it the first look at the end shows."""
    path = tmp_path / "events-20260101T000000Z-1-0001.jsonl"
    whole = b'{"prompt":"' + b"x" * 300_000 + b'"}\n'
    path.write_bytes(whole + b'{"half')
    assert repair(tmp_path) == [CutTail(path.name, 6)]
    path.write_bytes(whole + whole[:200_000])
    assert repair(tmp_path) == [CutTail(path.name, 200_000)]
    assert path.read_bytes() == whole


def test_repair_of_whole_and_foreign_files_changes_nothing(tmp_path: Path) -> None:
    """A sound segment, an empty one and other files are left as they are."""
    contents = {
        "events-20260101T000000Z-1-0001.jsonl": b'{"a":1}\n',
        "events-20260101T000000Z-1-0002.jsonl": b"",
        "notes.txt": b"half a line",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert repair(tmp_path) == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_repair_leaves_a_segment_that_is_being_written(tmp_path: Path) -> None:
    """The half line of another process that is still writing is not damage."""
    writing = writer(tmp_path)
    writing.append(b'{"half":')
    (path,) = segments(tmp_path)
    assert is_being_written(path)
    assert repair(tmp_path) == []
    writing.close()
    assert not is_being_written(path)
    assert repair(tmp_path) == [CutTail(path.name, 8)]


def test_append_that_fails_leaves_nothing_behind_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up in the middle of a batch keeps the earlier ones whole, and the batch can be tried again."""
    writing = writer(tmp_path)
    writing.append(b'{"a":1}\n')
    write = os.write

    def full(descriptor: int, content: bytes) -> int:
        if len(content) <= 4:
            raise OSError(28, "No space left on device")
        return write(descriptor, bytes(content[:4]))

    with monkeypatch.context() as patched:
        patched.setattr(event_segments.os, "write", full)
        with pytest.raises(OSError, match="No space"):
            writing.append(b'{"a":2}\n')
    (path,) = segments(tmp_path)
    assert path.read_bytes() == b'{"a":1}\n'
    writing.append(b'{"a":2}\n')
    assert path.read_bytes() == b'{"a":1}\n{"a":2}\n'


def test_append_whose_truncation_fails_too_goes_on_in_another_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written behind half a line, so the next start finds it at the end and cuts it off."""
    writing = writer(tmp_path)
    writing.append(b'{"a":1}\n')
    write = os.write

    def half(descriptor: int, content: bytes) -> int:
        if len(content) <= 4:
            raise OSError(5, "Input/output error")
        return write(descriptor, bytes(content[:4]))

    def refused(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(event_segments.os, "write", half)
        patched.setattr(event_segments.os, "ftruncate", refused)
        with pytest.raises(OSError, match="Input/output"):
            writing.append(b'{"a":2}\n')
    writing.append(b'{"a":2}\n')
    writing.close()
    assert [cut.cut_bytes for cut in repair(tmp_path)] == [4]
    assert sorted(path.read_bytes() for path in segments(tmp_path)) == [b'{"a":1}\n', b'{"a":2}\n']


def test_append_whose_old_segments_cannot_be_deleted_is_not_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is on disk counts as written, or the log would hold it twice; the failure is told."""
    kept: list[OSError] = []
    writing = writer(tmp_path, segment_bytes=10, max_bytes=20, on_kept=kept.append)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refused)
        for number in range(3):
            writing.append(b'{"number":%d}\n' % number)
    assert [path.read_bytes() for path in segments(tmp_path)] == [b'{"number":%d}\n' % n for n in range(3)]
    assert [error.errno for error in kept] == [13, 13]


def test_segments_that_another_gateway_deletes_meanwhile_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gateways that share a folder tidy it up at the same time."""
    writing = writer(tmp_path, segment_bytes=10)
    for number in range(2):
        writing.append(b'{"number":%d}\n' % number)
    found = [tmp_path / "events-0-gone.jsonl", *segments(tmp_path)]
    monkeypatch.setattr(Path, "glob", lambda *_: iter(found))
    writer(tmp_path, max_bytes=15).delete_oldest()
    assert [path.exists() for path in found] == [False, False, True]
