"""Taking content out of segments that are closed, for one tenant or by age; money and choices stay.

Owns which fields are content. A segment is replaced whole or not at all. Read `remove_content`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from penstock_gateway.events.catalog import (
    Segment,
    closed_segment,
    list_segments,
    replace_file,
)
from penstock_gateway.events.compaction import damaged_event
from penstock_gateway.events.parquet_segments import write_parquet
from penstock_gateway.events.reading import Problem, raw_lines

CONTENT_FIELDS: Final = ("prompt", "stored_prompt", "is_prompt_cut", "prompt_hash", "comment", "label", "conversation")
"""What a user wrote, and what is derived from it."""
MARK: Final = "is_content_removed"
_encoder: Final = msgspec.json.Encoder()


@dataclass(slots=True)
class RemovalReport:
    """What was taken out.

    Attributes
    ----------
    segments : int
        Rewritten.
    events : int
        That lost their content.
    damaged_lines : int
        Unreadable lines that were taken out too: nobody can tell what was in them.
    open_segments : tuple of str
        Left as they are because a gateway writes them: do it again when they are closed.
    """

    segments: int = 0
    events: int = 0
    damaged_lines: int = 0
    open_segments: tuple[str, ...] = ()


def remove_content(
    folder: Path,
    is_due: Callable[[dict[str, Any]], bool],
    *,
    is_segment_due: Callable[[Segment], bool] = lambda _: True,
    on_done: Callable[[Segment], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> RemovalReport:
    """Take the content out of events; the caller holds the folder's lock (`catalog.maintenance`).

    Parameters
    ----------
    folder : Path
    is_due : callable
        Says of an event whether its content is to go.
    is_segment_due : callable
        Says of a segment whether it is looked at.
    on_done : callable
        Called with every segment that has been looked at whole.
    progress : callable
        Called with the number of segments done and in total.

    Returns
    -------
    RemovalReport

    Raises
    ------
    ParquetMissing
    OSError, ValueError
        A segment cannot be read or written; it is as it was.
    """
    report = RemovalReport()
    segments = [segment for segment in list_segments(folder) if is_segment_due(segment)]
    for done, segment in enumerate(segments):
        progress(done, len(segments))
        with closed_segment(segment.path) as is_closed:
            if not is_closed:
                report.open_segments = (*report.open_segments, segment.id)
                continue
            if any(_is_affected(event, is_due) for _, _, event in raw_lines(segment)):
                _rewrite(segment, is_due, report)
        on_done(segment)
    progress(len(segments), len(segments))
    return report


def _is_affected(event: dict[str, Any] | Problem, is_due: Callable[[dict[str, Any]], bool]) -> bool:
    if isinstance(event, Problem):
        return event in (Problem.BROKEN_LINE, Problem.TORN_TAIL)
    return any(event.get(name) is not None for name in CONTENT_FIELDS) and is_due(event)


def _rewrite(segment: Segment, is_due: Callable[[dict[str, Any]], bool], report: RemovalReport) -> None:
    def lines() -> Iterator[tuple[dict[str, Any], bytes]]:
        for _, content, event in raw_lines(segment):
            if event is Problem.TORN_TAIL:
                continue
            if event is Problem.BROKEN_LINE:
                report.damaged_lines += 1
                content = damaged_event(content)
            elif _is_affected(event, is_due):
                assert isinstance(event, dict)
                report.events += 1
                kept = {name: value for name, value in event.items() if name not in CONTENT_FIELDS}
                content = _encoder.encode({**kept, MARK: True})
            yield msgspec.json.decode(content), content

    def write(stream: BinaryIO) -> None:
        if segment.is_parquet:
            write_parquet(stream, lines())
        else:
            stream.writelines(content + b"\n" for _, content in lines())

    replace_file(segment.path, write, changed_at=segment.changed_at)
    report.segments += 1
