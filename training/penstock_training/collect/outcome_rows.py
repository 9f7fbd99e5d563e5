"""From a journal to the outcome file, and to the numbers that are shown at the end.

Owns the rows (schema: ``docs/outcomes.md``), the atomic writing of the file and the summary per arm. Read
`outcome_rows`.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from penstock_training.collect.journal import CallEnded, RunState
from penstock_training.collect.plan import CollectPlan, PlannedPrompt
from penstock_training.errors import TrainingError

MIN_RANDOM_PROMPTS: Final = 10  # fewer say nothing about a mean


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """How one arm did.

    Attributes
    ----------
    arm : str
    scored, unscored, censored, failed, missing : int
        Cells: with a score; answered, but the scorer could not tell; timed out; failed in the last try; not asked yet.
    mean_score, mean_score_se : float
        Over the scored ones, and its standard error; NaN where there are too few.
    random_mean_score, random_mean_score_se : float
        Over those drawn uniformly: estimates the mean over all prompts to choose from. NaN below
        `MIN_RANDOM_PROMPTS`.
    cost_usd : Decimal
        What the answers with a known cost cost.
    cost_unknown : int
        Answers whose cost nobody said.
    cut : int
        Answers that ended at the limit of tokens.
    failures : dict of str to int
        Reasons of the failed cells.
    """

    arm: str
    scored: int
    unscored: int
    censored: int
    failed: int
    missing: int
    mean_score: float
    mean_score_se: float
    random_mean_score: float
    random_mean_score_se: float
    cost_usd: Decimal
    cost_unknown: int
    cut: int
    failures: dict[str, int]


def outcome_rows(plan: CollectPlan, state: RunState) -> Iterator[dict[str, Any]]:
    """Make the rows of the outcome file.

    Parameters
    ----------
    plan : CollectPlan
    state : RunState

    Yields
    ------
    dict
        One row per scored answer, and per time-out: that one has no score and ``is_censored``. Answers that could not
        be scored and failed cells give none.
    """
    for entry in plan.prompts:
        for arm in plan.arms:
            ended = state.ended.get((entry.prompt.key, arm))
            score = _score(state, entry.prompt.key, arm)
            if ended is None or (ended.result != "censored" and score is None):
                continue
            yield _row(entry, ended, score)


def write_outcomes(path: Path, plan: CollectPlan, state: RunState) -> int:
    """Write the outcome file so that there is either the old one or the whole new one.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    TrainingError
        ``out_unwritable``.
    """
    rows = 0
    try:
        # The journal's lock keeps every other run away from this name.
        part = path.with_name(f".{path.name}.part")
        try:
            with part.open("wb") as file:
                for row in outcome_rows(plan, state):
                    file.write(msgspec.json.encode(row) + b"\n")
                    rows += 1
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror}", code="out_unwritable") from error
    return rows


def summarise(plan: CollectPlan, state: RunState) -> tuple[ArmSummary, ...]:
    """Count and average per arm, in the order of the arms."""
    return tuple(_summarise_arm(plan, state, arm) for arm in plan.arms)


def _summarise_arm(plan: CollectPlan, state: RunState, arm: str) -> ArmSummary:
    ends = [state.ended.get((entry.prompt.key, arm)) for entry in plan.prompts]
    results = Counter("missing" if end is None else end.result for end in ends)
    answers = [end for end in ends if end is not None and end.result == "answered"]
    found = [
        (score, entry.sampling) for entry in plan.prompts if (score := _score(state, entry.prompt.key, arm)) is not None
    ]
    mean, error = _mean([score for score, _ in found], least=2)
    random_mean, random_error = _mean([s for s, sampling in found if sampling == "random"], least=MIN_RANDOM_PROMPTS)
    known = [end.cost_usd for end in answers if end.cost_usd is not None]
    return ArmSummary(
        arm,
        scored=len(found),
        unscored=len(answers) - len(found),
        censored=results["censored"],
        failed=results["failed"],
        missing=results["missing"],
        mean_score=mean,
        mean_score_se=error,
        random_mean_score=random_mean,
        random_mean_score_se=random_error,
        cost_usd=sum(known, Decimal(0)),
        cost_unknown=len(answers) - len(known),
        cut=sum(1 for end in answers if end.finish_reason == "length"),
        failures=dict(Counter(e.reason or "" for e in ends if e is not None and e.result == "failed").most_common()),
    )


def _mean(values: list[float], *, least: int) -> tuple[float, float]:
    if len(values) < least:
        return math.nan, math.nan
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def _score(state: RunState, key: str, arm: str) -> float | None:
    scored = state.scored.get(key)
    return None if scored is None or arm not in scored.scores else scored.scores[arm][0]


def _row(entry: PlannedPrompt, ended: CallEnded, score: float | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "prompt": entry.prompt.prompt,
        "arm": ended.arm,
        "score": None if ended.result == "censored" else score,
        "input_tokens": ended.input_tokens,
        "output_tokens": ended.output_tokens,
        "cost_usd": None if ended.cost_usd is None else float(ended.cost_usd),
        "latency_seconds": ended.latency_seconds,
        "category": entry.prompt.category,
        "source": entry.prompt.source,
        "query_id": entry.prompt.query_id,
        "timestamp": round(ended.timestamp, 3),
        "sampling": entry.sampling,
    }
    if ended.result == "censored":
        row["is_censored"] = True
    return {name: value for name, value in row.items() if value is not None or name == "score"}
