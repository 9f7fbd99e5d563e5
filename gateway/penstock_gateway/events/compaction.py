"""Closed segments from JSON Lines to Parquet, each on its own and each event exactly once.

Owns the order of the steps: write under another name, make it durable, read it back, give it its name, and only then
delete the JSON. A process killed in between leaves either form whole, and readers take Parquet where both are there.
Read `compact`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock_gateway.events.catalog import (
    PARQUET_SUFFIX,
    Segment,
    closed_segment,
    list_segments,
    maintenance,
    replace_file,
)
from penstock_gateway.events.parquet_segments import read_parquet_lines, write_parquet
from penstock_gateway.events.reading import Problem, raw_lines
from penstock_gateway.events.segments import sync_folder

_encoder: Final = msgspec.json.Encoder()


@dataclass(slots=True)
class CompactionReport:
    """What a compaction did.

    Attributes
    ----------
    segments, events : int
        Compacted now.
    json_bytes, parquet_bytes : int
        Their size before and after.
    open_segments : int
        Left as they are, because a gateway writes them.
    damaged_lines : int
        Lines that could not be read; each is kept as an event of type ``damaged`` that says how long it was.
    """

    segments: int = 0
    events: int = 0
    json_bytes: int = 0
    parquet_bytes: int = 0
    open_segments: int = 0
    damaged_lines: int = 0


def compact(folder: Path, *, progress: Callable[[int, int], None] = lambda _done, _total: None) -> CompactionReport:
    """Turn every closed JSON segment of a folder into a Parquet segment of the same id.

    Parameters
    ----------
    folder : Path
    progress : callable
        Called with the number of segments done and in total.

    Returns
    -------
    CompactionReport

    Raises
    ------
    FolderBusy
        Another process tidies up in the folder.
    ParquetMissing
    OSError, ValueError
        A segment cannot be read or written; it is as it was.
    """
    report = CompactionReport()
    with maintenance(folder):
        segments = [segment for segment in list_segments(folder) if not segment.is_parquet]
        for done, segment in enumerate(segments):
            progress(done, len(segments))
            with closed_segment(segment.path) as is_closed:
                if is_closed:
                    _compact(segment, report)
                else:
                    report.open_segments += 1
        progress(len(segments), len(segments))
    return report


def damaged_event(content: bytes) -> bytes:
    """Return the JSON of the event that takes the place of a line that cannot be read: nothing of it is kept."""
    return _encoder.encode({"schema": 2, "type": "damaged", "bytes": len(content)})


def _compact(segment: Segment, report: CompactionReport) -> None:
    if segment.path.stat().st_size > 0:
        target = segment.path.with_suffix(PARQUET_SUFFIX)
        counts = [0]

        def check(written: Path) -> None:
            found = sum(1 for _ in read_parquet_lines(written))
            if found != counts[0]:
                raise ValueError(f"{written.name} holds {found} events instead of {counts[0]}")

        def write(stream: Any) -> None:
            counts[0] = write_parquet(stream, _lines(segment, report))

        replace_file(target, write, changed_at=segment.changed_at, check=check)
        report.segments += 1
        report.events += counts[0]
        report.json_bytes += segment.size
        report.parquet_bytes += target.stat().st_size
    segment.path.unlink()
    sync_folder(segment.path.parent)


def _lines(segment: Segment, report: CompactionReport) -> Iterator[tuple[dict[str, Any], bytes]]:
    for _, content, event in raw_lines(segment):
        if event is Problem.TORN_TAIL:  # was never acknowledged; the next start would cut it off
            continue
        if isinstance(event, Problem) and event is not Problem.UNKNOWN_SCHEMA:
            report.damaged_lines += 1
            content = damaged_event(content)
        yield (msgspec.json.decode(content), content)
