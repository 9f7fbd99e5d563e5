"""What is checked in outcome rows before anything is fitted, and how the findings are reported.

Owns the kinds of problems and their report. Must not read files or arrange rows. Read `LoadReport`, then `Findings`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.outcome_files import WHOLE_NUMBER_COLUMNS, CodedText, RawOutcomes, shorten
from penstock_training.splits import normalise_question

IndexArray = NDArray[np.int64]
AreEdited = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]

BAD_ROWS_SHOWN: Final = 10
# Rows with one query_id but other texts: in four public sets 31 of 35,163 questions (options added, spaces mended).
# They share at least 0.56 of the shorter text's words, 30 of them 0.91; of unrelated questions 95 % share below 0.5.
EDITED_PROMPT_SHARED_WORDS: Final = 0.5
_WORD = re.compile(r"\w+")
PROBLEM_KINDS: Final = (  # explained in docs/outcomes.md
    "missing_value",
    "empty_prompt",
    "empty_arm",
    "wrong_type",
    "score_out_of_range",
    "propensity_out_of_range",
    "negative_value",
    "not_a_whole_number",
    "not_a_flag",
    "not_finite",
    "broken_line",
    "duplicate_cell",
    "conflicting_prompt",
)
_NON_NEGATIVE: Final = ("cost_usd", "latency_seconds", *WHOLE_NUMBER_COLUMNS)


@dataclass(frozen=True, slots=True)
class BadRow:
    """One value that is refused.

    Attributes
    ----------
    file : str
        Name of the file.
    row : int
        Line of a JSONL file or row of a Parquet file, counted from 1.
    column : str
    kind : str
        What is wrong with it; the kinds are listed in ``docs/outcomes.md``.
    value : str
        The value, at most 40 characters; of a prompt only type and length.
    """

    file: str
    row: int
    column: str
    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was found while outcome files were read.

    Attributes
    ----------
    rows_read, rows_bad : int
        Rows seen, and rows with at least one problem.
    problems : dict of str to int
        Number of refused values per kind.
    first_bad_rows : tuple of BadRow
        The first of them, at most `BAD_ROWS_SHOWN`.
    prompt_variants : int
        Queries whose rows carry slightly different prompt texts; the first text stands for all of them.
    unknown_columns : dict of str to tuple of str
        Per file, columns that were not read.
    by_column : tuple of (BadRow, int)
        For each kind of problem and column, the first refused value and how many there are.
    """

    rows_read: int
    rows_bad: int
    problems: dict[str, int]
    first_bad_rows: tuple[BadRow, ...]
    prompt_variants: int
    unknown_columns: dict[str, tuple[str, ...]]
    by_column: tuple[tuple[BadRow, int], ...] = ()

    def describe(self) -> str:
        """Render what is worth knowing as plain text, one fact per line; empty when all is well."""
        lines = [f"{self.rows_bad:,} of {self.rows_read:,} rows are bad"] if self.rows_bad else []
        lines += [f"  {count:>9,}  {kind}" for kind, count in sorted(self.problems.items(), key=lambda kv: -kv[1])]
        if self.first_bad_rows:
            lines.append("first bad values:")
        lines += [f"  {b.file} row {b.row}, {b.column}: {b.kind} {b.value}" for b in self.first_bad_rows]
        if self.prompt_variants:
            lines.append(f"{self.prompt_variants:,} queries have slightly different prompts; the first text is used")
        for file, names in self.unknown_columns.items():
            lines.append(f"{file}: columns not read: {', '.join(names)}")
        return "\n".join(lines)


class Findings:
    """Collects problems: which rows are bad, how many values of each kind, and what to show."""

    def __init__(self, rows: int) -> None:
        self.is_bad = np.zeros(rows, dtype=bool)
        self.counts: Counter[tuple[str, str]] = Counter()  # by kind and column
        self.shown: list[tuple[int, str, str, str | None]] = []
        self.prompt_variants = 0

    def add_raw(self, raw: RawOutcomes, start: int) -> None:
        """Take over what the reader could not make sense of."""
        for problem in raw.problems:
            self.is_bad[start + problem.row] = True
            self.counts[problem.kind, problem.column] += 1
            if self.counts[problem.kind, problem.column] <= BAD_ROWS_SHOWN:
                self.shown.append((start + problem.row, problem.column, problem.kind, problem.shown))

    def add(self, mask: NDArray[np.bool_], column: str, kind: str) -> None:
        """Refuse the value of `column` in the rows of `mask`, unless the row could not be read at all."""
        rows = np.flatnonzero(mask)
        if rows.size:
            self.is_bad[rows] = True
            self.counts[kind, column] += int(rows.size)
            self.shown += [(int(row), column, kind, None) for row in rows[:BAD_ROWS_SHOWN]]

    def report(
        self,
        raws: list[RawOutcomes],
        starts: NDArray[np.int64],
        text: dict[str, CodedText],
        number: dict[str, NDArray[np.float64]],
    ) -> LoadReport:
        """Put everything together; bad rows in the order of the files."""
        bad_rows: list[BadRow] = []
        problems: Counter[str] = Counter()
        for (kind, _), count in self.counts.items():
            problems[kind] += count
        for row, column, kind, shown in sorted(self.shown, key=lambda entry: entry[:3]):
            file = int(np.searchsorted(starts, row, side="right")) - 1
            line = int(raws[file].row_number[row - int(starts[file])])
            value = shown if shown is not None else _shown_value(text, number, column, row)
            bad_rows.append(BadRow(raws[file].path.name, line, column, kind, value))
        first = {(bad.kind, bad.column): bad for bad in reversed(bad_rows)}
        return LoadReport(
            int(self.is_bad.size),
            int(self.is_bad.sum()),
            dict(problems),
            tuple(bad_rows[:BAD_ROWS_SHOWN]),
            self.prompt_variants,
            {raw.path.name: tuple(raw.unknown_columns) for raw in raws if raw.unknown_columns},
            tuple((first[key], count) for key, count in self.counts.items()),
        )


def _shown_value(text: dict[str, CodedText], number: dict[str, NDArray[np.float64]], column: str, row: int) -> str:
    if column in number:
        value = float(number[column][row])
        return "missing" if np.isnan(value) else shorten(column, value)
    coded = text[column]
    code = int(coded.codes[row])
    return "missing" if code < 0 else shorten(column, coded.values[code])


def check_values(text: dict[str, CodedText], number: dict[str, NDArray[np.float64]], found: Findings) -> None:
    """Check each value by itself. Values that could not be read are already counted and are not counted again."""
    unread = found.is_bad.copy()
    for name in ("prompt", "arm"):
        column = text[name]
        is_blank = np.append(np.array([not value.strip() for value in column.values], dtype=bool), False)
        found.add((column.codes < 0) & ~unread, name, "missing_value")
        found.add(is_blank[column.codes], name, f"empty_{name}")
    score, propensity = number["score"], number["propensity"]
    found.add(np.isnan(score) & (number["is_censored"] != 1.0) & ~unread, "score", "missing_value")
    found.add((score < 0) | (score > 1), "score", "score_out_of_range")
    found.add((propensity <= 0) | (propensity > 1), "propensity", "propensity_out_of_range")
    for name in _NON_NEGATIVE:
        found.add(number[name] < 0, name, "negative_value")
        found.add(np.isposinf(number[name]), name, "not_finite")
    for name in WHOLE_NUMBER_COLUMNS:
        values = number[name]
        found.add(np.isfinite(values) & (values != np.floor(values)), name, "not_a_whole_number")
    flag = number["is_censored"]
    found.add(~np.isnan(flag) & (flag != 0.0) & (flag != 1.0), "is_censored", "not_a_flag")
    found.add(np.isinf(number["timestamp"]), "timestamp", "not_finite")


def check_cells(text: dict[str, CodedText], query: IndexArray, found: Findings, are_edited: AreEdited) -> None:
    """Check rows against each other: one row per query and arm, one question per query.

    Parameters
    ----------
    text : dict of str to CodedText
    query : ndarray of int64, shape (r,)
    found : Findings
    are_edited : callable
        Tells of pairs of prompts, as they stand in `text`, which are one prompt in two versions.
    """
    usable = np.flatnonzero(~found.is_bad)
    edited, other = _variants(text["prompt"], query[usable], usable, are_edited)
    found.prompt_variants = int(np.unique(query[usable][edited]).size)
    conflict = np.zeros(found.is_bad.size, dtype=bool)
    conflict[usable] = other
    cells = query[usable] * (len(text["arm"].values) + 1) + text["arm"].codes[usable]
    _, first_cell = np.unique(cells, return_index=True)
    repeated = np.zeros(found.is_bad.size, dtype=bool)
    repeated[usable] = True
    repeated[usable[first_cell]] = False
    found.add(conflict, "query_id", "conflicting_prompt")
    found.add(repeated, "arm", "duplicate_cell")


def _variants(
    prompt: CodedText, query: IndexArray, rows: IndexArray, are_edited: AreEdited
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mark rows whose text is not their query's first text: (edited versions of it, other questions)."""
    edited, other = np.zeros(rows.size, dtype=bool), np.zeros(rows.size, dtype=bool)
    if not rows.size:
        return edited, other
    codes = prompt.codes[rows]
    _, first, inverse = np.unique(query, return_index=True, return_inverse=True)
    differing = np.flatnonzero(codes != codes[first][inverse])
    if not differing.size:
        return edited, other
    pairs, which = np.unique(np.stack([codes, codes[first][inverse]], axis=1)[differing], axis=0, return_inverse=True)
    is_like = np.array(are_edited([(prompt.values[i], prompt.values[k]) for i, k in pairs.tolist()]), dtype=bool)
    which = which.ravel()
    edited[differing], other[differing] = is_like[which], ~is_like[which]
    return edited, other


def are_edited_texts(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Compare texts that are at hand; see `is_edited`."""
    return [is_edited(first, second) for first, second in pairs]


def is_edited(first: str, second: str) -> bool:
    """Tell an edited prompt (a typing error mended, options added) from another one by the words they share."""
    one, two = set(_WORD.findall(first.casefold())), set(_WORD.findall(second.casefold()))
    shared = len(one & two) / max(1, min(len(one), len(two)))
    return shared >= EDITED_PROMPT_SHARED_WORDS or normalise_question(first) == normalise_question(second)
