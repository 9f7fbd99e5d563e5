"""Rules of the event log's files: durable batches, damaged tails and rotation."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.events import segments as event_segments
from penstock_gateway.events.segments import PATTERN, CutTail, SegmentWriter, is_being_written, repair


def writer(folder: Path, *, segment_bytes: int = 1000, segment_seconds: float = 60.0, **options: Any) -> SegmentWriter:
    """Return a writer of small segments."""
    return SegmentWriter(folder, segment_bytes=segment_bytes, segment_seconds=segment_seconds, **options)


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


def test_segment_that_is_old_is_closed_and_followed_by_another(tmp_path: Path) -> None:
    """A segment is closed at its age, whoever asks, and the next batch begins a new one."""
    now, closed = [0.0], []
    writing = writer(tmp_path, segment_seconds=60.0, clock=lambda: now[0], on_closed=lambda: closed.append(now[0]))
    assert writing.seconds_until_due() is None
    writing.append(b'{"a":1}\n')
    now[0] = 59.0
    writing.close_if_due()
    assert (writing.seconds_until_due(), closed) == (1.0, [])
    now[0] = 60.0
    writing.close_if_due()
    assert (writing.seconds_until_due(), closed) == (None, [60.0])
    writing.append(b'{"a":2}\n')
    assert [path.read_bytes() for path in segments(tmp_path)] == [b'{"a":1}\n', b'{"a":2}\n']


def test_segment_that_another_process_tidies_up_before_it_is_locked_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its making and its locking a new segment looks closed; what is written must not go to a deleted file."""
    real, seen = event_segments.lock, []

    def lock_after_deletion(descriptor: int) -> bool:
        if not seen:
            seen.append(segments(tmp_path)[0])
            seen[0].unlink()
        return real(descriptor)

    monkeypatch.setattr(event_segments, "lock", lock_after_deletion)
    writing = writer(tmp_path)
    writing.append(b'{"a":1}\n')
    (segment,) = segments(tmp_path)
    assert segment != seen[0]
    assert segment.read_bytes() == b'{"a":1}\n'


def test_segment_is_never_named_like_a_compacted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers pass over the JSON of a segment that is there as Parquet, so no new one may have its name."""
    monkeypatch.setattr(event_segments.secrets, "token_hex", lambda _: "0a")
    monkeypatch.setattr(event_segments.time, "strftime", lambda *_: "20260101T000000Z")
    (tmp_path / "events-20260101T000000Z-0a-0001.parquet").write_bytes(b"")
    (tmp_path / "events-20260101T000000Z-0a-0002.jsonl").write_bytes(b"")
    writer(tmp_path).append(b'{"a":1}\n')
    assert (tmp_path / "events-20260101T000000Z-0a-0003.jsonl").read_bytes() == b'{"a":1}\n'


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


class BrokenCut:
    """A disk that fails in the middle of a batch, and on which nothing can be cut off."""

    def __init__(self, patched: pytest.MonkeyPatch, kept_bytes: int) -> None:
        self._write, self._kept_bytes = os.write, kept_bytes
        patched.setattr(event_segments.os, "write", self._half)
        patched.setattr(event_segments.os, "ftruncate", self._refused)

    def _half(self, descriptor: int, content: bytes) -> int:
        if len(content) <= self._kept_bytes:
            raise OSError(5, "Input/output error")
        return self._write(descriptor, bytes(content[: self._kept_bytes]))

    def _refused(self, *_: object) -> None:
        raise OSError(5, "Input/output error")


def test_append_whose_truncation_fails_too_cuts_later_and_writes_no_line_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole lines of a batch that failed are in the new segment again, so they are cut off the old one before."""
    writing = writer(tmp_path)
    writing.append(b'{"a":1}\n')
    batch = b'{"a":2}\n{"a":3}\n'
    with monkeypatch.context() as patched:
        BrokenCut(patched, 8)
        with pytest.raises(OSError, match="Input/output"):
            writing.append(batch)
        assert segments(tmp_path)[0].read_bytes() == b'{"a":1}\n{"a":2}\n'
        assert is_being_written(segments(tmp_path)[0])  # nobody compacts it meanwhile
    writing.append(batch)
    writing.close()
    assert repair(tmp_path) == []
    assert [path.read_bytes() for path in segments(tmp_path)] == [b'{"a":1}\n', batch]
    assert not any(is_being_written(path) for path in segments(tmp_path))


def test_append_on_a_disk_that_cuts_nothing_gives_up_after_some_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead disk must not be filled with new files, one for every try."""
    writing = writer(tmp_path)
    with monkeypatch.context() as patched:
        BrokenCut(patched, 8)
        for _ in range(10):
            with pytest.raises(OSError, match="Input/output"):
                writing.append(b'{"a":1}\n{"a":2}\n')
    assert len(segments(tmp_path)) == 4
    writing.append(b'{"a":1}\n')
    assert [path.stat().st_size for path in segments(tmp_path)] == [0, 0, 0, 0, 8]
