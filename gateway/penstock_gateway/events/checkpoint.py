"""What was spent in segments that are no longer there: totals by scope and quarter of an hour.

Owns ``spend.checkpoint``. A segment is deleted only after its outcomes are in here, and its id with them, so that a
process killed in between counts nothing twice. Read `Checkpoint`.

A quarter of an hour, because the windows of budgets begin at full hours of some time zone, and every time zone in use
differs from UTC by whole quarters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from penstock_gateway.events.catalog import replace_file

NAME: Final = "spend.checkpoint"
QUARTER_SECONDS: Final = 900
DAY_SECONDS: Final = 86_400
EXACT_SECONDS: Final = 62 * DAY_SECONDS
"""Older rows are put together by UTC days: no window of a budget but the endless one reaches back so far."""
_SCHEMA: Final = 2
_SUMMED: Final = ("cost_picousd", "requests", "input_tokens", "output_tokens")
_encoder = msgspec.json.Encoder()


class CheckpointDamaged(Exception):
    """The checkpoint cannot be read; nothing may be deleted then.

    Attributes
    ----------
    file : str
    """

    def __init__(self, file: str) -> None:
        super().__init__(f"{file} is damaged")
        self.file = file


@dataclass(slots=True)
class Checkpoint:
    """Totals of the outcomes of some segments.

    Attributes
    ----------
    segments : set of str
        Ids of the segments that are in the totals, as long as their files may be there.
    totals : dict
        (scope, UNIX seconds of the beginning, seconds) to sums in the order of cost in picodollars, requests, prompt
        tokens and completion tokens.
    """

    segments: set[str] = field(default_factory=set)
    totals: dict[tuple[str, int, int], list[int]] = field(default_factory=dict)

    def add(self, segment_id: str, outcomes: Iterable[dict[str, Any]]) -> None:
        """Add the outcomes of a segment that is not in the totals yet, each decision once."""
        seen: set[object] = set()
        for outcome in outcomes:
            if outcome["decision_id"] in seen:
                continue
            seen.add(outcome["decision_id"])
            usage = outcome.get("usage") or {}
            amounts = [
                _whole(outcome.get("cost_picousd")),
                1,
                _whole(usage.get("input_tokens")),
                _whole(usage.get("output_tokens")),
            ]
            moment = outcome.get("admitted_at")
            begin = int(moment if isinstance(moment, int | float) else 0) // QUARTER_SECONDS * QUARTER_SECONDS
            for scope in outcome.get("accounts") or ():
                self._sum((str(scope), begin, QUARTER_SECONDS), amounts)
        self.segments.add(segment_id)

    def thin(self, now: float) -> None:
        """Put quarters of an hour older than `EXACT_SECONDS` together by UTC days."""
        for scope, begin, seconds in list(self.totals):
            if seconds == QUARTER_SECONDS and begin + seconds <= now - EXACT_SECONDS:
                amounts = self.totals.pop((scope, begin, seconds))
                self._sum((scope, begin // DAY_SECONDS * DAY_SECONDS, DAY_SECONDS), amounts)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the totals as plain rows, oldest first.

        Yields
        ------
        dict
            ``schema``, ``type`` (``checkpoint``), ``scope``, ``at`` and ``seconds`` (UNIX seconds of the beginning, and
            how long), ``cost_picousd``, ``requests``, ``input_tokens``, ``output_tokens``.
        """
        for (scope, begin, seconds), amounts in sorted(self.totals.items(), key=lambda item: (item[0][1], item[0][0])):
            yield {
                "schema": _SCHEMA,
                "type": "checkpoint",
                "scope": scope,
                "at": begin,
                "seconds": seconds,
                **dict(zip(_SUMMED, amounts, strict=True)),
            }

    def save(self, folder: Path) -> None:
        """Write it in place of the earlier one, whole or not at all.

        Raises
        ------
        OSError
        """
        replace_file(folder / NAME, self._write)

    def _sum(self, key: tuple[str, int, int], amounts: list[int]) -> None:
        known = self.totals.get(key)
        self.totals[key] = amounts if known is None else [a + b for a, b in zip(known, amounts, strict=True)]

    def _write(self, stream: BinaryIO) -> None:
        digest = hashlib.sha256()
        head = {"schema": _SCHEMA, "type": "checkpoint_head", "segments": sorted(self.segments)}
        for row in chain((head,), self.rows()):
            line = _encoder.encode(row) + b"\n"
            digest.update(line)
            stream.write(line)
        stream.write(_encoder.encode({"type": "checkpoint_end", "sha256": digest.hexdigest()}) + b"\n")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint of a folder; an empty one when there is none.

    Raises
    ------
    CheckpointDamaged
        It is not what was written.
    """
    try:
        lines = (folder / NAME).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return Checkpoint()
    except OSError:
        raise CheckpointDamaged(NAME) from None
    found = Checkpoint()
    try:
        digest = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
        if msgspec.json.decode(lines[-1])["sha256"] != digest:
            raise CheckpointDamaged(NAME)
        found.segments.update(msgspec.json.decode(lines[0])["segments"])
        for line in lines[1:-1]:
            row = msgspec.json.decode(line)
            found.totals[row["scope"], row["at"], row["seconds"]] = [row[name] for name in _SUMMED]
    except (msgspec.DecodeError, KeyError, TypeError, IndexError, UnicodeDecodeError):
        raise CheckpointDamaged(NAME) from None
    return found


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
