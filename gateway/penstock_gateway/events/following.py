"""The newest events, and those that come: across rotation, compaction and several writers.

Read `Follower`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from penstock_gateway.events.catalog import list_segments
from penstock_gateway.events.reading import Problem, decode_line, read_segment, upgraded
from penstock_gateway.events.segments import PATTERN, is_being_written


class Follower:
    """Gives the last events of a folder, then every new one once.

    Parameters
    ----------
    folder : Path

    Notes
    -----
    A segment that is being written is kept open, so that nothing is missed should it be closed and compacted between
    two looks. Lines that cannot be read are passed over; `verification` finds them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, BinaryIO] = {}
        self._done: set[str] = set()

    def last(self, count: int) -> list[dict[str, Any]]:
        """Return the last `count` events by time, and begin to follow behind them."""
        newest: deque[dict[str, Any]] = deque(maxlen=max(count, 1))
        for path in sorted(self._folder.glob(PATTERN)):
            if is_being_written(path) and (stream := _opened(path)) is not None:
                self._open[path.stem] = stream
                newest.extend(_lines(stream))
        found = list(newest)
        for segment in reversed(list_segments(self._folder)):
            if segment.id in self._open:
                continue
            self._done.add(segment.id)
            if len(found) < count:
                tail: deque[dict[str, Any]] = deque(maxlen=count)
                for line in read_segment(segment):
                    tail.extend(upgraded(line.event))
                found.extend(tail)
        found.sort(key=_time_of)
        return found[-count:] if count else []

    def poll(self) -> Iterator[dict[str, Any]]:
        """Yield what has come since the last look."""
        paths = {path.stem: path for path in self._folder.glob(PATTERN)}
        for name in sorted(paths):
            if name not in self._open and name not in self._done and (stream := _opened(paths[name])) is not None:
                self._open[name] = stream
        for name, stream in list(self._open.items()):
            is_closed = name not in paths or not is_being_written(paths[name])  # before the last look into it
            yield from _lines(stream)
            if is_closed:
                stream.close()
                del self._open[name]
                self._done.add(name)

    def close(self) -> None:
        """Close the files."""
        for stream in self._open.values():
            stream.close()
        self._open.clear()


def _opened(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _lines(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    """Yield the whole lines from here on, and stay in front of half a line."""
    while True:
        place = stream.tell()
        line = stream.readline()
        if not line.endswith(b"\n"):
            stream.seek(place)
            return
        event = decode_line(line[:-1])
        if not isinstance(event, Problem):
            yield from upgraded(event)


def _time_of(event: dict[str, Any]) -> float:
    time = event.get("time")
    return float(time) if isinstance(time, int | float) else 0.0
