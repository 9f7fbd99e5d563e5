"""How far a judge can be trusted: bias of position and of length, agreement with people.

Owns the measures and `JudgeReport`; reads a verdict log that judges wrote. Must not ask a judge. Read `report_on`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_training.errors import TrainingError
from penstock_training.intervals import GroupBootstrap, Interval
from penstock_training.scorers.judge_measures import kappa, length_correlation, length_slope
from penstock_training.scorers.verdict_log import GradeVerdict, PairVerdict, Verdict

FloatVector = NDArray[np.float64]
HumanLabels = Mapping[tuple[str, str], float]
_FEW: Final = 30  # below it intervals by resampling groups are too narrow to be believed


@dataclass(frozen=True, slots=True)
class PositionBias:
    """Whether the order of two answers decides.

    Attributes
    ----------
    inconsistent : Interval
        Share of pairs whose verdict changed with the order.
    first_wins : Interval or None
        Share of single verdicts, ties left out, that went to the answer standing first; 0.5 without bias.
    """

    inconsistent: Interval
    first_wins: Interval | None


@dataclass(frozen=True, slots=True)
class LengthBias:
    """Whether longer answers do better.

    Attributes
    ----------
    slope : Interval or None
        Pairs: change of the log odds of winning per doubling of the length relative to the opponent. Grades:
        correlation of score and log length within prompts. None when lengths do not differ or decide everything.
    longer_wins : Interval or None
        Pairs: share of decided pairs of different length that the longer answer won.
    human_slope : Interval or None
        The same as `slope` for people's labels on the same answers: what of it is not the judge's doing.
    """

    slope: Interval | None
    longer_wins: Interval | None
    human_slope: Interval | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often judge and people agree.

    Attributes
    ----------
    labelled : int
        Verdicts for which people's labels were given.
    accuracy : Interval
        Share of equal labels (better, as good, worse; or, of grades, good or not from 0.5 on).
    kappa : Interval
        Cohen's kappa: 0 is chance, 1 is perfect.
    """

    labelled: int
    accuracy: Interval
    kappa: Interval


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """What a verdict log says about one judge.

    Attributes
    ----------
    kind : {"pairwise", "rubric"}
    model : str
    verdicts, prompts : int
        Pairs or grades, and different prompts among them.
    position : PositionBias or None
        None for grades, which have no order.
    length : LengthBias
    agreement : Agreement or None
        None without labels for these answers.
    """

    kind: Literal["pairwise", "rubric"]
    model: str
    verdicts: int
    prompts: int
    position: PositionBias | None
    length: LengthBias
    agreement: Agreement | None

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return asdict(self)

    def as_text(self) -> str:
        """Return the report as lines for a terminal, every number with its 95 % interval."""
        what = "pairs, each judged in both orders" if self.kind == "pairwise" else "grades"
        lines = [f"judge {self.model} ({self.kind}): {self.verdicts:,} {what}, on {self.prompts:,} prompts"]
        if self.prompts < _FEW:
            lines.append(f"  fewer than {_FEW} prompts: the intervals are narrower than the truth")
        if self.position is not None:
            lines.append(_line("changes with the order", self.position.inconsistent, "of pairs; counted as ties"))
            lines.append(_line("first position wins", self.position.first_wins, "of decided verdicts; 50 % is fair"))
        lines += _length_lines(self.kind, self.length)
        if self.agreement is None:
            lines.append("  agreement with people   not measured: give --human-labels FILE")
        else:
            note = f"of {self.agreement.labelled:,} labelled"
            lines.append(_line("agreement with people", self.agreement.accuracy, note))
            lines.append(_line("Cohen's kappa", self.agreement.kappa, "0 is chance, 1 perfect", is_share=False))
        return "\n".join(lines)


def report_on(
    verdicts: Sequence[Verdict], labels: HumanLabels | None = None, *, resamples: int = 1000, seed: int = 0
) -> list[JudgeReport]:
    """Measure each judge in a log.

    Parameters
    ----------
    verdicts : sequence of Verdict
    labels : mapping from (query_id, arm) to score in [0, 1], optional
        Scores by people.
    resamples : int
        Of the bootstrap over prompts, >= 1.
    seed : int

    Returns
    -------
    list of JudgeReport
        One per kind and judging model, pairwise first.

    Raises
    ------
    TrainingError
        Code ``verdict_log``: there is no verdict.

    Notes
    -----
    Intervals of shares and of kappa come from resampling prompts, as the answers to one prompt are judged alike. A
    judge's liking for length cannot be told from longer answers being better by looking at verdicts alone; people's
    labels on the same answers can.
    """
    if not verdicts:
        raise TrainingError("there is no verdict in the log", code="verdict_log")
    reports = []
    pairs = [verdict for verdict in verdicts if isinstance(verdict, PairVerdict)]
    grades = [verdict for verdict in verdicts if isinstance(verdict, GradeVerdict)]
    for model in sorted({verdict.model for verdict in pairs}):
        of_model = [verdict for verdict in pairs if verdict.model == model]
        reports.append(_report_on_pairs(model, of_model, labels or {}, resamples, seed))
    for model in sorted({verdict.model for verdict in grades}):
        graded = [verdict for verdict in grades if verdict.model == model]
        reports.append(_report_on_grades(model, graded, labels or {}, resamples, seed))
    return reports


def read_human_labels(path: Path) -> dict[tuple[str, str], float]:
    """Read people's scores.

    Parameters
    ----------
    path : Path
        JSON Lines with `query_id`, `arm` and `score` in [0, 1]; other fields are not looked at, so that an outcome file
        scored by a person will do.

    Returns
    -------
    dict from (query_id, arm) to score
        Rows whose score is null are left out.

    Raises
    ------
    TrainingError
        Code ``human_labels``, with the line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TrainingError(f"there is no file of labels {str(path)!r}", code="human_labels") from error
    labels = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=_Label)
        except msgspec.MsgspecError as error:
            message = f"line {number} of {str(path)!r} needs query_id, arm and score: {error}"
            raise TrainingError(message, code="human_labels") from error
        if row.score is not None and not 0.0 <= row.score <= 1.0:
            raise TrainingError(f"line {number} of {str(path)!r}: the score is not in [0, 1]", code="human_labels")
        if row.score is not None:
            labels[row.query_id, row.arm] = float(row.score)
    if not labels:
        raise TrainingError(f"{str(path)!r} holds no label", code="human_labels")
    return labels


class _Label(msgspec.Struct):
    query_id: str
    arm: str
    score: float | bool | None


def _report_on_pairs(
    model: str, pairs: Sequence[PairVerdict], labels: HumanLabels, resamples: int, seed: int
) -> JudgeReport:
    groups = _groups([pair.query_id for pair in pairs])
    won_first = np.array([(pair.arm_first == "first") + (pair.arm_second == "first") for pair in pairs], dtype=float)
    decided = np.array([(pair.arm_first != "tie") + (pair.arm_second != "tie") for pair in pairs], dtype=float)
    score = np.array([pair.score for pair in pairs])
    ratio = np.array([_doublings(pair.arm_characters, pair.opponent_characters) for pair in pairs])
    counts = (score != 0.5) & (ratio != 0.0)
    longer = counts & ((score == 1.0) == (ratio > 0.0))
    columns = np.column_stack([[not pair.is_consistent for pair in pairs], won_first, decided, longer, counts])
    bootstrap = GroupBootstrap(columns.astype(float), groups, resamples=resamples, seed=seed)
    position = PositionBias(bootstrap.interval(lambda mean: mean[0]), _ratio(bootstrap, 1, 2))
    people = [_human_pair(pair, labels) for pair in pairs]
    known = np.array([label is not None for label in people])
    human = np.array([label for label in people if label is not None], dtype=float)
    slope = length_slope(score, ratio, groups)
    human_slope = length_slope(human, ratio[known], groups[known]) if known.any() else None
    agreement = _agreement(_three(score[known]), _three(human), groups[known], 3, resamples, seed)
    length = LengthBias(slope, _ratio(bootstrap, 3, 4), human_slope)
    return JudgeReport("pairwise", model, len(pairs), len(set(groups)), position, length, agreement)


def _report_on_grades(
    model: str, grades: Sequence[GradeVerdict], labels: HumanLabels, resamples: int, seed: int
) -> JudgeReport:
    groups = _groups([grade.query_id for grade in grades])
    score = np.array([grade.score for grade in grades])
    length = np.array([math.log2(max(1, grade.arm_characters)) for grade in grades])
    people = [labels.get((grade.query_id, grade.arm)) for grade in grades]
    known = np.array([label is not None for label in people])
    human = np.array([label for label in people if label is not None], dtype=float)
    options = {"resamples": resamples, "seed": seed}
    bias = LengthBias(
        length_correlation(score, length, groups, **options),
        None,
        length_correlation(human, length[known], groups[known], **options) if known.any() else None,
    )
    good, good_to_people = (score[known] >= 0.5).astype(int), (human >= 0.5).astype(int)
    agreement = _agreement(good, good_to_people, groups[known], 2, resamples, seed)
    return JudgeReport("rubric", model, len(grades), len(set(groups)), None, bias, agreement)


def _agreement(
    judge: NDArray[np.int64],
    people: NDArray[np.int64],
    groups: NDArray[np.int64],
    labels: int,
    resamples: int,
    seed: int,
) -> Agreement | None:
    if not len(people):
        return None
    cells = np.eye(labels * labels)[judge * labels + people]
    bootstrap = GroupBootstrap(cells, groups, resamples=resamples, seed=seed)

    def accuracy(means: FloatVector) -> float:
        return float(np.trace(means.reshape(labels, labels)))

    return Agreement(
        len(people),
        bootstrap.interval(accuracy),
        bootstrap.interval(lambda means: kappa(means.reshape(labels, labels))),
    )


def _human_pair(pair: PairVerdict, labels: HumanLabels) -> float | None:
    """Return 1, 0.5 or 0 as people see the pair; None when they did not see both answers."""
    arm, opponent = labels.get((pair.query_id, pair.arm)), labels.get((pair.query_id, pair.opponent))
    if arm is None or opponent is None:
        return None
    return 0.5 + 0.5 * ((arm > opponent) - (arm < opponent))


def _three(scores: FloatVector) -> NDArray[np.int64]:
    return np.rint(2 * scores).astype(np.int64)


def _doublings(one: int, other: int) -> float:
    return math.log2(max(1, one) / max(1, other))


def _groups(query_ids: Sequence[str]) -> NDArray[np.int64]:
    return np.unique(np.array(query_ids, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)


def _ratio(bootstrap: GroupBootstrap, above: int, below: int) -> Interval | None:
    if bootstrap.means[below] == 0.0:
        return None
    return bootstrap.interval(lambda means: means[above] / means[below] if means[below] else math.nan)


def _length_lines(kind: str, length: LengthBias) -> list[str]:
    if kind == "pairwise":
        lines = [_line("longer answer wins", length.longer_wins, "of decided pairs of different length")]
        name, unit = "per doubling of length", "log odds of winning; 0 is no bias"
    else:
        lines = []
        name, unit = "grade with length", "correlation within prompts; 0 is no bias"
    lines.append(_line(name, length.slope, unit, is_share=False))
    if length.human_slope is not None:
        lines.append(_line("the same for people", length.human_slope, unit.split(";", maxsplit=1)[0], is_share=False))
    return lines


def _line(name: str, found: Interval | None, note: str, *, is_share: bool = True) -> str:
    if found is None:
        return f"  {name:<24}not measurable here"
    if is_share:
        value, low, high = (100 * number for number in (found.value, found.low, found.high))
        return f"  {name:<24}{value:5.1f} %  ({low:.1f} to {high:.1f})  {note}"
    return f"  {name:<24}{found.value:+6.2f}   ({found.low:+.2f} to {found.high:+.2f})  {note}"


def as_json_text(reports: Sequence[JudgeReport]) -> str:
    """Return reports as one JSON object; numbers that are not finite become null."""
    return json.dumps(_finite({"judges": [report.as_json() for report in reports]}), indent=1)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
