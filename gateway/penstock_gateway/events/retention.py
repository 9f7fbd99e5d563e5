"""Which segments may go, and what must be kept of them.

Owns the deletion of segments by age and size. No money is lost with them: a segment goes only after what was spent in
it is in the checkpoint, after there was time to settle it, and, where segments are shipped, after it has been. Read
`delete_old`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from penstock_gateway.events.catalog import Segment, closed_segment, deleting, list_segments
from penstock_gateway.events.checkpoint import Checkpoint, load_checkpoint
from penstock_gateway.events.parquet_segments import ParquetMissing
from penstock_gateway.events.reading import OnProblem, Problem, ReadingProblem, read_segment, upgraded
from penstock_gateway.events.segments import sync_folder

UNSETTLED_SECONDS: Final = 900.0
"""A ledger that is away longer than this is reconciled from the checkpoint's totals instead of from single outcomes."""


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """What may stay.

    Attributes
    ----------
    max_bytes : int
        Of all segments together.
    max_age_seconds : float or None
        Since a segment's last event; None for no limit.
    unsettled_seconds : float
        Younger segments stay in any case.
    """

    max_bytes: int
    max_age_seconds: float | None = None
    unsettled_seconds: float = UNSETTLED_SECONDS


def delete_old(
    folder: Path,
    rules: RetentionRules,
    *,
    now: float,
    may_go: Callable[[Segment], bool] = lambda _: True,
    on_problem: OnProblem = lambda _: None,
) -> list[Segment]:
    """Delete the segments that the rules ask for, oldest first; the caller holds the folder's lock.

    Parameters
    ----------
    folder : Path
    rules : RetentionRules
    now : float
        UNIX seconds.
    may_go : callable
        Whether a segment has been shipped, where that is asked for.
    on_problem : callable
        Called for lines of deleted segments that could not be read. A file that cannot be read stays.

    Returns
    -------
    list of Segment
        Deleted.

    Raises
    ------
    FolderBusy
        Somebody reads what was spent just now.
    CheckpointDamaged, OSError
        Nothing has been deleted that is not in the checkpoint.
    """
    segments = list_segments(folder)
    checkpoint = load_checkpoint(folder)
    counted = [segment for segment in segments if segment.id in checkpoint.segments]  # a killed process left these
    total = sum(segment.size for segment in segments)
    due = []
    for segment in segments:
        is_old = rules.max_age_seconds is not None and segment.changed_at < now - rules.max_age_seconds
        is_settled = segment.changed_at <= now - rules.unsettled_seconds
        if (is_old or total > rules.max_bytes) and is_settled and may_go(segment) and segment not in counted:
            due.append(segment)
            total -= segment.size
    folded = [segment for segment in due if _fold(segment, checkpoint, on_problem)]
    if not counted and not folded:
        return []
    with deleting(folder):
        deleted = _delete(counted)
        if folded:
            checkpoint.segments.intersection_update(segment.id for segment in segments)
            checkpoint.thin(now)
            checkpoint.save(folder)
            deleted += _delete(folded)
    return deleted


def _fold(segment: Segment, checkpoint: Checkpoint, on_problem: OnProblem) -> bool:
    """Add a segment's outcomes to the totals; False when somebody writes it, or when it cannot be read."""
    problems: list[ReadingProblem] = []
    outcomes: list[dict[str, Any]] = []
    with closed_segment(segment.path) as is_closed:
        if not is_closed:
            return False
        try:
            for found in read_segment(segment, on_problem=problems.append):
                outcomes += [_money_of(event) for event in upgraded(found.event) if event["type"] == "outcome"]
        except ParquetMissing:
            problems.append(ReadingProblem(Problem.UNREADABLE_FILE, segment.path.name))
    for problem in problems:
        on_problem(problem)
    if any(problem.kind in (Problem.UNREADABLE_FILE, Problem.UNKNOWN_SCHEMA) for problem in problems):
        return False
    checkpoint.add(segment.id, outcomes)
    return True


def _money_of(outcome: dict[str, Any]) -> dict[str, Any]:
    return {name: outcome.get(name) for name in ("decision_id", "accounts", "admitted_at", "cost_picousd", "usage")}


def _delete(segments: list[Segment]) -> list[Segment]:
    for segment in segments:
        segment.path.unlink(missing_ok=True)
    if segments:
        sync_folder(segments[0].path.parent)
    return segments
