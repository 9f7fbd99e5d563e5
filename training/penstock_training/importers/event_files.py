"""Segments of the gateway's event log: finding them in either form, and reading their events.

Owns the files (``docs/events.md``): JSON Lines, or Parquet with each event's JSON in the column ``record``. Must not
join or judge events. Read `find_segments`, then `read_segment`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock_training.errors import TrainingError
from penstock_training.importers.source_files import SourceFile, find_sources, read_records, text_of, unreadable

SUFFIXES: Final = (".jsonl", ".jsonl.gz", ".parquet")
SCHEMAS: Final = (1, 2)
RECORD: Final = "record"


def find_segments(paths: Sequence[Path]) -> list[SourceFile]:
    """Find segments, each once: of one in both forms the Parquet counts, as for the gateway.

    Raises
    ------
    TrainingError
        What `find_sources` raises.
    """
    files = find_sources(paths, SUFFIXES)
    compacted = {_identity(file) for file in files if file.name.endswith(".parquet")}
    return [file for file in files if file.name.endswith(".parquet") or _identity(file) not in compacted]


def read_segment(file: SourceFile) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield each event with its row number; None for a row that is no event.

    Raises
    ------
    TrainingError
        ``event_schema_unknown``, ``import_file_unreadable``.
    """
    for number, row in read_records(file):
        event = _decoded(row, file) if file.name.endswith(".parquet") else row
        if event is None or not text_of(event.get("type")):
            yield number, None
        elif event.get("schema") not in SCHEMAS:
            raise TrainingError(
                f"{file.place(number)}: the event's schema is none of {', '.join(map(str, SCHEMAS))}; it was written "
                "by another version of the gateway",
                code="event_schema_unknown",
            )
        else:
            yield number, event


def _decoded(row: dict[str, Any] | None, file: SourceFile) -> dict[str, Any] | None:
    if row is None or RECORD not in row:
        raise unreadable(file, f"no column {RECORD}: not a segment of the event log")
    try:
        event = msgspec.json.decode(text_of(row[RECORD]))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _identity(file: SourceFile) -> str:
    """Path without the ending, equal for both forms of a segment."""
    name = f"{file.path}:{file.member}" if file.member else str(file.path)
    return name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")
