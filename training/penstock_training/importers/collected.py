"""What importers hand over: outcome rows in columns, with everything that was left out or refused counted.

Owns the checks of a single row and the report. Must not read source files or write outcome files. Read `Collector`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from penstock_training.outcome_files import WHOLE_NUMBER_COLUMNS

PLACES_SHOWN: Final = 10

TEXT_FIELDS: Final = (
    "source",
    "query_id",
    "prompt",
    "arm",
    "category",
    "task",
    "tokens_source",
    "cost_source",
    "intended_arm",
    "tenant",
)
NUMBER_FIELDS: Final = ("score", "cost_usd", "latency_seconds", "timestamp", "propensity")
WHOLE_FIELDS: Final = WHOLE_NUMBER_COLUMNS
TRUTH_FIELDS: Final = ("is_censored",)
_NON_NEGATIVE: Final = ("cost_usd", "latency_seconds", *WHOLE_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    """One outcome as an importer read it; fields as in ``docs/outcomes.md``, None where the source says nothing.

    Attributes
    ----------
    prompt, arm, source : str
    query_id, category, task : str or None
    score : float or None
        In [0, 1]; a row without one is left out and counted as ``unscored``.
    input_tokens, output_tokens : int or None
    cost_usd : float or None
        USD of the request.
    latency_seconds : float or None
    timestamp : float or None
        UNIX seconds.
    propensity : float or None
        In (0, 1].
    tokens_source, cost_source : str or None
        How the numbers were obtained; for readers, not for programs.
    intended_arm : str or None
        What the policy chose, when a log tells it.
    is_censored : bool or None
        The arm passed a deadline: its score is unknown, not 0.
    tenant : str or None
        Whose request it was, under a pseudonym.
    system_bytes, tools, turns : int or None
        What stood around the prompt, see `penstock_routers.features.PromptContext`.
    """

    prompt: str
    arm: str
    source: str
    query_id: str | None = None
    category: str | None = None
    task: str | None = None
    score: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    latency_seconds: float | None = None
    timestamp: float | None = None
    propensity: float | None = None
    tokens_source: str | None = None
    cost_source: str | None = None
    intended_arm: str | None = None
    is_censored: bool | None = None
    tenant: str | None = None
    system_bytes: int | None = None
    tools: int | None = None
    turns: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was found: a kind, and a file with a row; never a text of the file.

    Attributes
    ----------
    kind : str
    where : str
        Such as ``results.csv row 12``.
    """

    kind: str
    where: str


@dataclass(slots=True)
class Collector:
    """Takes rows, checks each and keeps them in columns.

    Attributes
    ----------
    columns : dict of str to list
        One list per field of `OutcomeRow`, equally long.
    bad, left_out : Counter of str
        Values that are wrong, and rows that the format's rules leave out, per kind.
    places : list of Place
        The first few of each kind, at most `PLACES_SHOWN` per kind.
    arms : frozenset of str, optional
        Only these arms are kept when given.
    keeps_censored : bool
        Whether a censored row is kept although it has no score.
    """

    arms: frozenset[str] | None = None
    keeps_censored: bool = False
    columns: dict[str, list[Any]] = field(default_factory=lambda: {f.name: [] for f in fields(OutcomeRow)})
    bad: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    places: list[Place] = field(default_factory=list)
    _cells: set[tuple[str, ...]] = field(default_factory=set)
    _texts: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the rows that were kept."""
        return len(self.columns["prompt"])

    def refuse(self, kind: str, where: str) -> None:
        """Count a value that is wrong: the import fails unless bad rows are to be skipped."""
        self.bad[kind] += 1
        self._remember(self.bad[kind], kind, where)

    def leave_out(self, kind: str, where: str) -> None:
        """Count a row that the format's documented rules leave out; the import goes on."""
        self.left_out[kind] += 1
        self._remember(self.left_out[kind], kind, where)

    def add(self, row: OutcomeRow, where: str) -> None:
        """Check a row and keep it, or count why it is not kept.

        Parameters
        ----------
        row : OutcomeRow
        where : str
            File and row, for the report.
        """
        if self.arms is not None and row.arm not in self.arms:
            self.left_out["arm_not_asked_for"] += 1
        elif (problem := _problem(row)) is not None:
            self.refuse(problem, where)
        elif row.score is None and not (row.is_censored and self.keeps_censored):
            self.leave_out("unscored", where)
        else:
            cell = tuple(self._texts.setdefault(t, t) for t in (row.source, row.query_id or row.prompt, row.arm))
            if cell in self._cells:
                self.refuse("duplicate_cell", where)
                return
            self._cells.add(cell)
            for name, values in self.columns.items():
                value = getattr(row, name)  # equal texts are kept once: each model's file repeats every prompt
                values.append(self._texts.setdefault(value, value) if isinstance(value, str) else value)

    def describe_counts(self) -> str:
        """Render what was refused and left out as plain text, one fact per line; empty when nothing was."""
        lines = [f"  {n:>9,}  refused: {kind}" for kind, n in self.bad.most_common()]
        lines += [f"  {n:>9,}  left out: {kind}" for kind, n in self.left_out.most_common()]
        if self.places:
            lines += ["first places:", *(f"  {place.where}: {place.kind}" for place in self.places[:PLACES_SHOWN])]
        return "\n".join(lines)

    def _remember(self, count: int, kind: str, where: str) -> None:
        if count <= PLACES_SHOWN:
            self.places.append(Place(kind, where))


def _problem(row: OutcomeRow) -> str | None:
    """Name what is wrong with a row; the kinds are those of ``docs/outcomes.md``."""
    if not row.prompt.strip():
        return "empty_prompt"
    if not row.arm.strip():
        return "empty_arm"
    if row.score is not None and not 0 <= row.score <= 1:  # NaN fails this too
        return "score_out_of_range"
    if row.propensity is not None and not 0 < row.propensity <= 1:
        return "propensity_out_of_range"
    for name in _NON_NEGATIVE:
        value = getattr(row, name)
        if value is not None and not value >= 0:
            return "negative_value"
        if value is not None and math.isinf(value):
            return "not_finite"
    if row.timestamp is not None and not math.isfinite(row.timestamp):
        return "not_finite"
    return None


@dataclass(frozen=True, slots=True)
class ArmCount:
    """Rows of one arm and the mean of their scores, in [0, 1]."""

    rows: int
    mean_score: float


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import read, wrote and left out.

    Attributes
    ----------
    format_name, out : str
    rows, prompts : int
    arms : dict of str to ArmCount
    digest : str
        SHA-256 of the outcome matrix (`OutcomeMatrix.digest`); equal inputs and options give equal digests.
    bad, left_out : dict of str to int
    places : tuple of Place
    remarks : tuple of str
        What a reader of the numbers should know.
    """

    format_name: str
    out: str
    rows: int
    prompts: int
    arms: Mapping[str, ArmCount]
    digest: str
    bad: Mapping[str, int]
    left_out: Mapping[str, int]
    places: tuple[Place, ...]
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "format": self.format_name,
            "out": self.out,
            "rows": self.rows,
            "prompts": self.prompts,
            "arms": {name: {"rows": a.rows, "mean_score": round(a.mean_score, 4)} for name, a in self.arms.items()},
            "digest": self.digest,
            "refused": dict(self.bad),
            "left_out": dict(self.left_out),
            "places": [{"kind": place.kind, "where": place.where} for place in self.places],
            "remarks": list(self.remarks),
        }
