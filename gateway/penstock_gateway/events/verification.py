"""Whether a folder of events is sound: every line can be read, and every outcome is there once.

Owns what counts as unsound. It changes nothing. Read `verify`.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock_gateway.events.catalog import JSON_SUFFIX, PARQUET_SUFFIX, Segment, list_segments
from penstock_gateway.events.checkpoint import CheckpointDamaged, load_checkpoint
from penstock_gateway.events.reading import Problem, ReadingProblem, read_segment, upgraded
from penstock_gateway.events.segments import is_being_written

SHOWN: Final = 20
_JOINED: Final = ("decision", "outcome", "feedback")
_HARMLESS: Final = frozenset({Problem.TORN_TAIL})


@dataclass(slots=True)
class Verification:
    """What a folder holds and what is wrong with it.

    Attributes
    ----------
    segments, compacted, open_segments : int
        All, those in Parquet, and those that a gateway writes.
    both_forms : int
        Compacted segments whose JSON a killed process left behind; readers pass it over.
    events : Counter of str
        By type. ``damaged`` events stand for lines that could not be read when they were rewritten.
    problems : Counter of str
        Everything that was passed over, by `Problem`.
    places : list of ReadingProblem
        The first `SHOWN`.
    duplicate_outcomes : int
        Outcomes beyond the first of their decision.
    duplicates : list of str
        Where the first of them are: file, line and decision id.
    decisions_without_outcome, outcomes_without_decision, feedback_without_decision : int
        Not wrong in themselves: requests under way, detail that was left out, older segments that were deleted.
    checkpoint_rows : int
    """

    segments: int = 0
    compacted: int = 0
    open_segments: int = 0
    both_forms: int = 0
    events: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    places: list[ReadingProblem] = field(default_factory=list)
    duplicate_outcomes: int = 0
    duplicates: list[str] = field(default_factory=list)
    decisions_without_outcome: int = 0
    outcomes_without_decision: int = 0
    feedback_without_decision: int = 0
    checkpoint_rows: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether everything can be read and no outcome is there twice; a torn tail is cut at the next start."""
        return not self.duplicate_outcomes and all(kind in _HARMLESS for kind in self.problems)

    def as_json(self) -> dict[str, Any]:
        """Return the findings as plain values."""
        return {
            "is_sound": self.is_sound,
            "segments": self.segments,
            "compacted": self.compacted,
            "open_segments": self.open_segments,
            "both_forms": self.both_forms,
            "events": dict(self.events),
            "problems": {str(kind): count for kind, count in self.problems.items()},
            "places": [{"kind": p.kind.value, "file": p.file, "line": p.line} for p in self.places],
            "duplicate_outcomes": self.duplicate_outcomes,
            "duplicates": self.duplicates,
            "decisions_without_outcome": self.decisions_without_outcome,
            "outcomes_without_decision": self.outcomes_without_decision,
            "feedback_without_decision": self.feedback_without_decision,
            "checkpoint_rows": self.checkpoint_rows,
        }

    def note(self, problem: ReadingProblem) -> None:
        """Count something that was passed over."""
        self.problems[problem.kind] += 1
        if len(self.places) < SHOWN:
            self.places.append(problem)


def verify(folder: Path, *, progress: Callable[[int, int], None] = lambda _done, _total: None) -> Verification:
    """Read every event of a folder.

    Parameters
    ----------
    folder : Path
    progress : callable
        Called with the number of segments done and in total.

    Returns
    -------
    Verification

    Raises
    ------
    ParquetMissing

    Notes
    -----
    Of every id 64 bits of a hash are kept, eight bytes: 10 million requests take 0.25 GB, and the chance that two of
    them look alike is 3e-6. Duplicates are then looked for by the whole id, in a second reading.
    """
    found = Verification()
    ids: dict[str, array[int]] = {kind: array("Q") for kind in _JOINED}
    segments = list_segments(folder)
    found.segments = len(segments)
    for done, segment in enumerate(segments):
        progress(done, len(segments))
        _look_at(segment, found)
        for line in read_segment(segment, on_problem=found.note):
            for event in upgraded(line.event):
                found.events[event["type"]] += 1
                if event["type"] in ids:
                    ids[event["type"]].append(_hash(event.get("decision_id")))
    progress(len(segments), len(segments))
    decided, came, rated = (np.frombuffer(ids[kind], dtype=np.uint64) for kind in _JOINED)
    twice = _repeated(came)
    if twice:
        _find_duplicates(segments, twice, found)
    found.decisions_without_outcome = int((~np.isin(np.unique(decided), came)).sum())
    found.outcomes_without_decision = int((~np.isin(np.unique(came), decided)).sum())
    found.feedback_without_decision = int((~np.isin(rated, decided)).sum())
    try:
        found.checkpoint_rows = len(load_checkpoint(folder).totals)
    except CheckpointDamaged as error:
        found.note(ReadingProblem(Problem.DAMAGED_CHECKPOINT, error.file))
    return found


def _look_at(segment: Segment, found: Verification) -> None:
    if segment.is_parquet:
        found.compacted += 1
        found.both_forms += segment.path.with_suffix(JSON_SUFFIX).exists()
    elif is_being_written(segment.path) and not segment.path.with_suffix(PARQUET_SUFFIX).exists():
        found.open_segments += 1


def _repeated(ids: NDArray[np.uint64]) -> set[int]:
    values, counts = np.unique(ids, return_counts=True)
    return set(values[counts > 1].tolist())


def _find_duplicates(segments: list[Segment], hashes: set[int], found: Verification) -> None:
    seen: set[object] = set()
    for segment in segments:
        for line in read_segment(segment):
            for event in upgraded(line.event):
                key = event.get("decision_id")
                if event["type"] != "outcome" or _hash(key) not in hashes:
                    continue
                if key in seen:
                    found.duplicate_outcomes += 1
                    if len(found.duplicates) < SHOWN:
                        found.duplicates.append(f"{segment.path.name} line {line.line}: {key}")
                seen.add(key)


def _hash(value: object) -> int:
    return int.from_bytes(hashlib.blake2b(str(value).encode("utf-8", "replace"), digest_size=8).digest(), "big")
