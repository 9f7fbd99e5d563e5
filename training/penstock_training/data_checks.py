"""What is wrong, or dangerous, with outcomes before anything is fitted or measured on them.

Owns the findings about whole sets: arms, groups, labels, languages, sizes, encoders. Checks of single values stay in
`penstock_training.outcomes`, whose report is taken over here, so that a caller sees one list. Read `check_outcomes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np

from penstock_routers.manifest import RouterFamily
from penstock_training.errors import TrainingError
from penstock_training.languages import UNKNOWN
from penstock_training.outcome_checks import BadRow, LoadReport
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.splits import question_groups

Severity = Literal["refused", "warned"]

# 20 prompts scored on every arm are needed in validation and in test, and the smaller of them gets 15 % (fit.py): the
# families themselves can be fitted on 50 (a test does), so no family needs more than that.
MINIMUM_QUESTIONS: Final[Mapping[str, int]] = dict.fromkeys(get_args(RouterFamily), 134)
"""Per router family, how many different questions a fit needs, with scores on two arms unless rows carry
propensities."""

ENCODER_LANGUAGES: Final = frozenset({"en"})
"""What the bundled encoders were made for."""

# None of the 35,163 prompts of four English sets is taken for another language, so one in a hundred means something.
LANGUAGE_SHARE_WARNED: Final = 0.01
ONE_ARM_SHARE_WARNED: Final = 0.5

_ROW_CODES: Final[Mapping[tuple[str, str], str]] = {
    ("missing_value", "score"): "unscored_rows",
    ("missing_value", "prompt"): "empty_prompts",
    ("empty_prompt", "prompt"): "empty_prompts",
    ("duplicate_cell", "arm"): "duplicate_cells",
}
_ADVICE: Final[Mapping[str, str]] = {
    "unscored_rows": "give each row a score, or leave such rows out with --on-bad-rows skip",
    "empty_prompts": "leave such rows out with --on-bad-rows skip; nothing can be learned from them",
    "duplicate_cells": "keep one row per source, query and arm; skipping keeps the first",
    "score_out_of_range": "scale scores to 0 to 1",
    "unknown_arms": "rename the arms as in the artifact, evaluate with --tiers, or fit a router on these arms",
    "too_few_arms": "ask another arm the same prompts (penstock-train collect)",
    "one_arm_log": "ask several arms the same prompts (penstock-train collect), or use a log with propensities",
    "leaking_groups": "take these questions out of one of the two sets; a score on them proves nothing",
    "constant_scores": "there is nothing to learn where every score is the same; check how answers are scored",
    "too_few_prompts": "collect more outcomes, or use a family that needs fewer",
    "several_languages": "the bundled encoders know English; use an encoder of these languages, or expect abstentions",
    "encoder_mismatch": "use the encoder that the artifact names, or fit again with this one",
}
_OTHER_ADVICE: Final = "mend the rows, or leave them out with --on-bad-rows skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes
    ----------
    code : str
        Stable name, explained in ``docs/outcomes.md``.
    severity : {"refused", "warned"}
        Whether a fit stops here or goes on.
    count : int
        How many, of what `message` says.
    message : str
        One sentence with the count and what it means.
    example : str
        One instance: file and row, arm, or position; never a prompt.
    advice : str
        What to do.
    """

    code: str
    severity: Severity
    count: int
    message: str
    example: str
    advice: str


@dataclass(frozen=True, slots=True)
class DataReport:
    """All findings about one set of outcomes.

    Attributes
    ----------
    prompts, questions, cells : int
        Prompts, different questions among them, and scored cells.
    arms : tuple of str
    languages : dict of str to float
        Share of prompts per guessed language, in (0, 1].
    findings : tuple of Finding
        Refused ones first.
    """

    prompts: int
    questions: int
    cells: int
    arms: tuple[str, ...]
    languages: Mapping[str, float]
    findings: tuple[Finding, ...]

    @property
    def is_refused(self) -> bool:
        """Whether a fit must not go on."""
        return any(finding.severity == "refused" for finding in self.findings)

    def codes(self, severity: Severity | None = None) -> tuple[str, ...]:
        """Codes of the findings, of one severity when given."""
        return tuple(f.code for f in self.findings if severity in {None, f.severity})

    def raise_if_refused(self) -> None:
        """Raise the first refused finding as a `TrainingError` with its code; the others stand in the message."""
        refused = [finding for finding in self.findings if finding.severity == "refused"]
        if refused:
            lines = [f"{f.code}: {f.message}, such as {f.example}; {f.advice}" for f in refused]
            raise TrainingError("\n".join(["the outcomes are refused", *lines]), code=refused[0].code)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "prompts": self.prompts,
            "questions": self.questions,
            "cells": self.cells,
            "arms": list(self.arms),
            "languages": {code: round(share, 4) for code, share in self.languages.items()},
            "is_refused": self.is_refused,
            "findings": [
                {
                    "code": finding.code,
                    "severity": finding.severity,
                    "count": finding.count,
                    "message": finding.message,
                    "example": finding.example,
                    "advice": finding.advice,
                }
                for finding in self.findings
            ],
        }


def check_outcomes(
    matrix: OutcomeMatrix,
    *,
    load_report: LoadReport | None = None,
    on_bad_rows: Literal["refuse", "skip"] = "refuse",
    known_arms: Sequence[str] | None = None,
    against: OutcomeMatrix | None = None,
    has_propensity: bool = False,
    minimum_questions: Mapping[str, int] | None = None,
    encoder_languages: frozenset[str] = ENCODER_LANGUAGES,
    encoder_ids: tuple[str, str] | None = None,
) -> DataReport:
    """Check outcomes as a whole.

    Parameters
    ----------
    matrix : OutcomeMatrix
    load_report : LoadReport, optional
        What was found while its files were read; its bad rows become findings.
    on_bad_rows : {"refuse", "skip"}
        Severity of bad rows: ``skip`` makes them a warning, because they were left out.
    known_arms : sequence of str, optional
        Arms that an artifact or a configuration knows.
    against : OutcomeMatrix, optional
        A second set that must share no question with this one (a test set).
    has_propensity : bool
        Whether the rows carry propensities, so that a log with one arm per prompt can be weighted.
    minimum_questions : mapping of str to int, optional
        Per family that would be tried, the number of questions that it needs.
    encoder_languages : frozenset of str
        Languages that the encoder was made for.
    encoder_ids : (str, str), optional
        Id of the encoder behind the artifact or the vectors, and of the one in use.

    Returns
    -------
    DataReport

    Notes
    -----
    Linear in cells and in characters, but for `question_groups`, which sorts. A finding that rests on a guess
    (``several_languages``) only warns.
    """
    languages = matrix.languages
    findings = [
        *_row_findings(load_report, on_bad_rows),
        *_value_findings(matrix),
        *_arm_findings(matrix, known_arms),
        *_log_findings(matrix, has_propensity),
        *_size_findings(matrix, minimum_questions or {}, least_arms=1 if has_propensity else 2),
        *_score_findings(matrix),
        *_leak_findings(matrix, against),
        *_language_findings(languages, encoder_languages),
        *_encoder_findings(encoder_ids),
    ]
    names, counts = np.unique(np.asarray(languages, dtype=str), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return DataReport(
        prompts=len(matrix.prompts),
        questions=int(np.unique(matrix.groups).size),
        cells=int(np.isfinite(matrix.score).sum()),
        arms=matrix.arms,
        languages={str(names[i]): float(counts[i]) / len(languages) for i in order},
        findings=tuple(sorted(findings, key=lambda finding: finding.severity != "refused")),
    )


def are_scores_equal(matrix: OutcomeMatrix) -> bool:
    """Tell whether all scores that there are, at least one, have one value: nothing can be learned then."""
    observed = matrix.score[np.isfinite(matrix.score)]
    return bool(observed.size) and bool(observed.min() == observed.max())


def _finding(code: str, severity: Severity, count: int, message: str, example: str) -> Finding:
    return Finding(code, severity, count, message, example, _ADVICE.get(code, _OTHER_ADVICE))


def _row_findings(report: LoadReport | None, on_bad_rows: Literal["refuse", "skip"]) -> list[Finding]:
    """Bad rows of the files, kinds under the names of this module, each with its first place."""
    merged: dict[str, tuple[BadRow, int]] = {}
    for bad, count in report.by_column if report else ():
        code = _ROW_CODES.get((bad.kind, bad.column), bad.kind)
        first, before = merged.get(code, (bad, 0))
        merged[code] = (first, before + count)
    severity: Severity = "refused" if on_bad_rows == "refuse" else "warned"
    ending = "" if on_bad_rows == "refuse" else ", left out"
    return [
        _finding(
            code,
            severity,
            count,
            f"{code.replace('_', ' ')}: {count:,} of {report.rows_read if report else 0:,} rows{ending}",
            f"{bad.file} row {bad.row}, {bad.column} {bad.value}",
        )
        for code, (bad, count) in merged.items()
    ]


def _value_findings(matrix: OutcomeMatrix) -> list[Finding]:
    """What a matrix that did not come from files can hold: blank prompts, prompts without a score, wild scores."""
    found = []
    blank = np.flatnonzero([not prompt.strip() for prompt in matrix.prompts])
    if blank.size:
        message = f"blank prompts: {blank.size:,} of {len(matrix.prompts):,}"
        found.append(_finding("empty_prompts", "refused", int(blank.size), message, _position(matrix, int(blank[0]))))
    unscored = np.flatnonzero(~np.isfinite(matrix.score).any(axis=1))
    if unscored.size:
        message = f"prompts without a score on any arm: {unscored.size:,} of {len(matrix.prompts):,}"
        example = _position(matrix, int(unscored[0]))
        found.append(_finding("unscored_rows", "refused", int(unscored.size), message, example))
    wild = np.argwhere((matrix.score < 0) | (matrix.score > 1))
    if len(wild):
        row, column = (int(value) for value in wild[0])
        message = f"scores outside 0 to 1: {len(wild):,}"
        example = f"{_position(matrix, row)}, arm {matrix.arms[column]}: {matrix.score[row, column]:g}"
        found.append(_finding("score_out_of_range", "refused", len(wild), message, example))
    return found


def _arm_findings(matrix: OutcomeMatrix, known_arms: Sequence[str] | None) -> list[Finding]:
    found = []
    if len(matrix.arms) < 2:
        message = "the outcomes name one arm only: there is nothing to choose"
        found.append(_finding("too_few_arms", "refused", len(matrix.arms), message, f"arm {matrix.arms[0]}"))
    if known_arms is None or not (unknown := [arm for arm in matrix.arms if arm not in known_arms]):
        return found
    is_none_known = len(unknown) == len(matrix.arms)
    return [
        *found,
        _finding(
            "unknown_arms",
            "refused" if is_none_known else "warned",
            len(unknown),
            f"unknown arms: {len(unknown)} of {len(matrix.arms)}; known: {', '.join(known_arms)}",
            f"arm {unknown[0]}",
        ),
    ]


def _log_findings(matrix: OutcomeMatrix, has_propensity: bool) -> list[Finding]:
    """Questions that only one arm answered: differences between arms are then differences between prompts too."""
    arms_asked = _arms_per_question(matrix)
    single = int((arms_asked == 1).sum())
    if not single or single < ONE_ARM_SHARE_WARNED * arms_asked.size:
        return []
    severity: Severity = "refused" if single == arms_asked.size and not has_propensity else "warned"
    ending = "; the rows carry propensities" if has_propensity else ""
    message = f"questions answered by one arm only: {single:,} of {arms_asked.size:,}{ending}"
    counts = np.isfinite(matrix.score).sum(axis=0)
    fullest = int(counts.argmax())
    example = f"arm {matrix.arms[fullest]} answered {int(counts[fullest]):,} prompts"
    return [_finding("one_arm_log", severity, single, message, example)]


def _score_findings(matrix: OutcomeMatrix) -> list[Finding]:
    observed = matrix.score[np.isfinite(matrix.score)]
    if not observed.size:
        return []
    if are_scores_equal(matrix):
        message = f"all {observed.size:,} scores are {observed[0]:g}"
        return [_finding("constant_scores", "refused", int(observed.size), message, f"arm {matrix.arms[0]}")]
    constant = []
    for column, arm in enumerate(matrix.arms):
        own = matrix.score[np.isfinite(matrix.score[:, column]), column]
        if own.size and own.min() == own.max():
            constant.append(f"arm {arm}: all {own.size:,} scores are {own[0]:g}")
    if not constant:
        return []
    message = f"arms with one score on every prompt: {len(constant)} of {len(matrix.arms)}"
    return [_finding("constant_scores", "warned", len(constant), message, constant[0])]


def _size_findings(matrix: OutcomeMatrix, minimum_questions: Mapping[str, int], *, least_arms: int) -> list[Finding]:
    useful = int((_arms_per_question(matrix) >= least_arms).sum())
    short = {family: least for family, least in minimum_questions.items() if useful < least}
    if not short:
        return []
    family, least = min(short.items(), key=lambda item: item[1])
    is_none_left = len(short) == len(minimum_questions)
    condition = "a score" if least_arms == 1 else "scores on two arms or more"
    message = f"questions with {condition}: {useful:,}, too few for {', '.join(short)}"
    severity: Severity = "refused" if is_none_left else "warned"
    return [_finding("too_few_prompts", severity, useful, message, f"{family} needs {least:,}")]


def _leak_findings(matrix: OutcomeMatrix, against: OutcomeMatrix | None) -> list[Finding]:
    if against is None:
        return []
    groups = question_groups([*matrix.prompts, *against.prompts])
    own, other = groups[: len(matrix.prompts)], groups[len(matrix.prompts) :]
    shared = np.intersect1d(own, other)
    if not shared.size:
        return []
    first, second = int(np.flatnonzero(own == shared[0])[0]), int(np.flatnonzero(other == shared[0])[0])
    message = (
        f"questions in both sets: {shared.size:,} ({int(np.isin(own, shared).sum()):,} prompts of this one, "
        f"{int(np.isin(other, shared).sum()):,} of the other)"
    )
    example = f"{_position(matrix, first)} and {_position(against, second)}"
    return [_finding("leaking_groups", "refused", int(shared.size), message, example)]


def _language_findings(languages: Sequence[str], known: frozenset[str]) -> list[Finding]:
    foreign = [index for index, code in enumerate(languages) if code not in known and code != UNKNOWN]
    if not foreign or len(foreign) < LANGUAGE_SHARE_WARNED * len(languages):
        return []
    codes, counts = np.unique([languages[index] for index in foreign], return_counts=True)
    named = ", ".join(f"{codes[i]} {counts[i] / len(languages):.1%}" for i in np.argsort(-counts, kind="stable")[:5])
    message = f"prompts that seem to be in another language than the encoder's: {len(foreign):,} ({named})"
    example = f"prompt {foreign[0] + 1}, {languages[foreign[0]]}"
    return [_finding("several_languages", "warned", len(foreign), message, example)]


def _encoder_findings(encoder_ids: tuple[str, str] | None) -> list[Finding]:
    if encoder_ids is None or encoder_ids[0] == encoder_ids[1]:
        return []
    message = "the artifact or its vectors were made with another encoder than the one in use"
    return [_finding("encoder_mismatch", "refused", 1, message, f"made with {encoder_ids[0]}, in use {encoder_ids[1]}")]


def _arms_per_question(matrix: OutcomeMatrix) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How many different arms have a score on each question, shape (questions with a score,)."""
    rows, columns = np.nonzero(np.isfinite(matrix.score))
    pairs = np.unique(np.stack([matrix.groups[rows], columns.astype(np.int64)], axis=1), axis=0)
    return np.unique(pairs[:, 0], return_counts=True)[1].astype(np.int64)


def _position(matrix: OutcomeMatrix, row: int) -> str:
    return f"prompt {row + 1} ({matrix.sources[row] or 'no source'})"
