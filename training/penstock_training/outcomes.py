"""Outcome files: what each arm scored on each prompt, checked before anything is fitted.

Owns the outcome schema (``docs/outcomes.md``), the checks and the prompt × arm matrix. Must not fit, split or touch
pyarrow (`penstock_training.outcome_files` does the reading). Read `load_outcomes` first, then `OutcomeTable.matrix`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from penstock_routers.token_counts import message_tokens
from penstock_training.errors import OutcomeError
from penstock_training.outcome_files import (
    NUMBER_COLUMNS,
    REQUIRED_COLUMNS,
    TEXT_COLUMNS,
    WHOLE_NUMBER_COLUMNS,
    CodedText,
    RawOutcomes,
    differing,
    join_coded,
    read_outcome_file,
    shorten,
)
from penstock_training.splits import normalise_question, question_groups

FloatMatrix = NDArray[np.float32]
IndexArray = NDArray[np.int64]

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
_NON_NEGATIVE: Final = ("input_tokens", "output_tokens", "cost_usd", "latency_seconds")


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


@dataclass(frozen=True, slots=True)
class OutcomeMatrix:
    """Outcomes as a prompt × arm table, n prompts and m arms.

    Attributes
    ----------
    prompts, sources, tasks, categories : list of str, length n
        ``tasks`` and ``categories`` hold "" where the files say nothing.
    groups : ndarray of int64, shape (n,)
        Equal for prompts that ask the same question, across sources (`splits.question_groups`).
    arms : tuple of str, length m
    score : ndarray of float32, shape (n, m), in [0, 1]
    input_tokens, output_tokens : ndarray of float32, shape (n, m), tokens
    cost_usd : ndarray of float32, shape (n, m), USD per request
        All four are NaN where the cell, or the value in it, is missing.
    propensity : ndarray of float32, shape (n, m), or None
        Of logged cells, in (0, 1]; NaN where the arm was asked for certain, 0 where another arm than the intended one
        answered, so that none is valid. None where no row has one.
    """

    prompts: list[str]
    groups: IndexArray
    sources: list[str]
    tasks: list[str]
    categories: list[str]
    arms: tuple[str, ...]
    score: FloatMatrix
    input_tokens: FloatMatrix
    output_tokens: FloatMatrix
    cost_usd: FloatMatrix
    propensity: FloatMatrix | None = None

    def rows(self, index: IndexArray) -> OutcomeMatrix:
        """Take some prompts, in the order of `index` (shape (k,)); groups keep their numbers."""
        return OutcomeMatrix(
            [self.prompts[i] for i in index],
            self.groups[index],
            [self.sources[i] for i in index],
            [self.tasks[i] for i in index],
            [self.categories[i] for i in index],
            self.arms,
            self.score[index],
            self.input_tokens[index],
            self.output_tokens[index],
            self.cost_usd[index],
            None if self.propensity is None else self.propensity[index],
        )

    @property
    def prompt_tokens(self) -> NDArray[np.float64]:
        """Tokens of each prompt, shape (n,): mean over the arms' counts, the gateway's own estimate without any."""
        counts = self.input_tokens.astype(np.float64)
        known = np.isfinite(counts)
        lengths = np.array([message_tokens(prompt) for prompt in self.prompts], dtype=np.float64)
        totals = np.where(known, counts, 0.0).sum(axis=1)
        return np.asarray(np.where(known.any(axis=1), totals / np.maximum(known.sum(axis=1), 1), lengths))

    @property
    def digest(self) -> str:
        """SHA-256 of the content as 64 hex digits; independent of the order of prompts."""
        lines = []
        matrices = [self.score, self.input_tokens, self.output_tokens, self.cost_usd]
        matrices += [] if self.propensity is None else [self.propensity]
        for row, texts in enumerate(zip(self.prompts, self.sources, self.tasks, self.categories, strict=True)):
            digest = hashlib.sha256("\x00".join(texts).encode("utf-8", "surrogatepass"))
            for values in matrices:
                digest.update(values[row].astype("<f4").tobytes())
            lines.append(digest.digest())
        arms = "\x00".join(self.arms).encode("utf-8", "surrogatepass")
        return hashlib.sha256(hashlib.sha256(arms).digest() + b"".join(sorted(lines))).hexdigest()


@dataclass(frozen=True, slots=True)
class OutcomeTable:
    """Checked outcome rows, r of them, each text stored once.

    Attributes
    ----------
    text : dict of str to CodedText
        Columns ``prompt``, ``arm``, ``query_id``, ``source``, ``category``, ``task``, ``intended_arm``.
    number : dict of str to ndarray of float64, shape (r,)
        Columns ``score``, ``input_tokens``, ``output_tokens``, ``cost_usd``, ``latency_seconds``, ``timestamp`` (UNIX
        seconds), ``propensity``, ``is_censored`` (0 or 1); NaN where missing.
    query : ndarray of int64, shape (r,)
        Equal for rows about the same prompt of the same source.
    report : LoadReport
    """

    text: dict[str, CodedText]
    number: dict[str, NDArray[np.float64]]
    query: IndexArray
    report: LoadReport

    def __len__(self) -> int:
        """Count the rows."""
        return int(self.query.size)

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms that occur, sorted."""
        column = self.text["arm"]
        return tuple(sorted(column.values[code] for code in np.unique(column.codes)))

    @property
    def is_censored(self) -> NDArray[np.bool_]:
        """Rows that ended in a time-out, shape (r,); their score may be missing."""
        return np.asarray(self.number["is_censored"] == 1.0)

    @property
    def is_rerouted(self) -> NDArray[np.bool_]:
        """Rows that another arm answered than the one that was drawn, shape (r,)."""
        return differing(self.text["arm"], self.text["intended_arm"])

    def matrix(self, arms: Sequence[str] | None = None) -> OutcomeMatrix:
        """Arrange the rows as a prompt × arm table.

        Parameters
        ----------
        arms : sequence of str, optional
            Which arms, in which order; all of them by name when omitted. Prompts without a row for any of them are
            left out.

        Returns
        -------
        OutcomeMatrix
            Prompts in the order of their first row. A time-out without a score counts as 0: no answer came.

        Raises
        ------
        OutcomeError
            ``outcome_arm_unknown``: an arm has no row. ``outcome_arm_repeated``: an arm is named twice.
        """
        chosen = self.arms if arms is None else tuple(arms)
        if len(set(chosen)) != len(chosen):
            raise OutcomeError("an arm is named twice", code="outcome_arm_repeated")
        if unknown := sorted(set(chosen) - set(self.arms)):
            raise OutcomeError(f"no outcome for arm {', '.join(unknown)}", code="outcome_arm_unknown")
        position = {name: index for index, name in enumerate(chosen)}
        column_of = np.array([position.get(name, -1) for name in self.text["arm"].values], dtype=np.int64)
        columns = column_of[self.text["arm"].codes]
        kept = np.flatnonzero(columns >= 0)
        _, first, inverse = np.unique(self.query[kept], return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        cells = (rank[inverse], columns[kept])
        heads = kept[np.sort(first)]
        prompts, shape = self._texts("prompt", heads), (heads.size, len(chosen))
        is_logged = np.isfinite(self.number["propensity"][kept]).any()
        names = ("score", "input_tokens", "output_tokens", "cost_usd", *(("propensity",) if is_logged else ()))
        return OutcomeMatrix(
            prompts,
            question_groups(prompts),
            self._texts("source", heads),
            self._texts("task", heads),
            self._texts("category", heads),
            chosen,
            *(self._spread(name, kept, cells, shape) for name in names),
        )

    def _texts(self, name: str, rows: IndexArray) -> list[str]:
        column = self.text[name]
        return ["" if code < 0 else column.values[code] for code in column.codes[rows].tolist()]

    def _spread(
        self, name: str, rows: IndexArray, cells: tuple[IndexArray, IndexArray], shape: tuple[int, int]
    ) -> FloatMatrix:
        column = self.number[name][rows]
        if name == "score":
            column = np.where(self.is_censored[rows] & np.isnan(column), 0.0, column)
        elif name == "propensity":
            column = np.where(self.is_rerouted[rows], 0.0, column)
        values = np.full(shape, np.nan, dtype=np.float32)
        values[cells] = column
        return values


def load_outcomes(paths: Sequence[Path], *, on_bad_rows: Literal["refuse", "skip"] = "refuse") -> OutcomeTable:
    """Read and check outcome files.

    Parameters
    ----------
    paths : sequence of Path
        Parquet (``.parquet``) or JSON Lines (``.jsonl``, ``.jsonl.gz``) files; their rows are put together in this
        order. A file without a ``source`` column gets its own name, without the ending, as source.
    on_bad_rows : {"refuse", "skip"}
        Whether one bad row refuses everything, or is left out and counted in ``report``.

    Returns
    -------
    OutcomeTable

    Raises
    ------
    OutcomeError
        ``outcome_file_missing``, ``outcome_file_format``, ``outcome_file_unreadable``, ``outcome_column_missing``,
        ``outcome_rows_refused`` (counts and first bad rows in the message), ``outcome_no_usable_row`` (a file, or the
        whole list of files, has none).

    Notes
    -----
    The checks are vectorised: 522,119 rows over 35,163 prompts in four Parquet files took 0.7 s and a peak of 390 MB
    on one core of a 2-core machine.
    """
    if not paths:
        raise OutcomeError("no outcome file was named", code="outcome_no_usable_row")
    raws = [read_outcome_file(path) for path in paths]
    for raw in raws:
        if not raw.row_number.size:
            raise OutcomeError(f"{raw.path}: the file has no row", code="outcome_no_usable_row")
        if missing := [name for name in REQUIRED_COLUMNS if name in raw.absent_columns]:
            raise OutcomeError(f"{raw.path}: no column {', '.join(missing)}", code="outcome_column_missing")
        _set_default_source(raw)
    text = {name: join_coded([raw.text[name] for raw in raws]) for name in TEXT_COLUMNS}
    number = {name: np.concatenate([raw.number[name] for raw in raws]) for name in NUMBER_COLUMNS}
    query = _query_keys(text)
    starts = np.cumsum([0, *(raw.row_number.size for raw in raws)])
    found = _Findings(int(starts[-1]))
    for raw, start in zip(raws, starts, strict=False):
        found.add_raw(raw, int(start))
    _check_values(text, number, found)
    _check_cells(text, query, found)
    report = found.report(raws, starts, text, number)
    if on_bad_rows == "refuse" and report.rows_bad:
        raise OutcomeError(report.describe(), code="outcome_rows_refused")
    for raw, start in zip(raws, starts, strict=False):
        if bool(found.is_bad[start : start + raw.row_number.size].all()):
            raise OutcomeError(f"{raw.path}: no usable row\n{report.describe()}", code="outcome_no_usable_row")
    good = np.flatnonzero(~found.is_bad)
    return OutcomeTable(
        {name: CodedText(column.codes[good], column.values) for name, column in text.items()},
        {name: column[good] for name, column in number.items()},
        query[good],
        report,
    )


class _Findings:
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


def _set_default_source(raw: RawOutcomes) -> None:
    """Fill gaps in ``source`` with the file's name, without its ending."""
    column = raw.text["source"]
    if not (gaps := column.codes < 0).any():
        return
    name = raw.path.name.split(".")[0]
    values = column.values if name in column.values else (*column.values, name)
    raw.text["source"] = CodedText(np.where(gaps, values.index(name), column.codes), values)


def _query_keys(text: dict[str, CodedText]) -> IndexArray:
    """Give each query a number: source and ``query_id``, or source and prompt where there is no id."""
    ids, prompts = text["query_id"], text["prompt"]
    identity = np.where(ids.codes >= 0, ids.codes, len(ids.values) + 1 + prompts.codes)
    width = len(ids.values) + len(prompts.values) + 2
    _, keys = np.unique(text["source"].codes * width + identity, return_inverse=True)
    return keys.astype(np.int64)


def _check_values(text: dict[str, CodedText], number: dict[str, NDArray[np.float64]], found: _Findings) -> None:
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


def _check_cells(text: dict[str, CodedText], query: IndexArray, found: _Findings) -> None:
    """Check rows against each other: one row per query and arm, one question per query."""
    usable = np.flatnonzero(~found.is_bad)
    edited, other = _variants(text["prompt"], query[usable], usable)
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


def _variants(prompt: CodedText, query: IndexArray, rows: IndexArray) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mark rows whose text is not their query's first text: (edited versions of it, other questions)."""
    edited, other = np.zeros(rows.size, dtype=bool), np.zeros(rows.size, dtype=bool)
    if not rows.size:
        return edited, other
    codes = prompt.codes[rows]
    _, first, inverse = np.unique(query, return_index=True, return_inverse=True)
    expected = codes[first][inverse]
    is_like: dict[tuple[int, int], bool] = {}
    for row in np.flatnonzero(codes != expected).tolist():
        pair = (int(codes[row]), int(expected[row]))
        if pair not in is_like:
            is_like[pair] = _is_edited(prompt.values[pair[0]], prompt.values[pair[1]])
        (edited if is_like[pair] else other)[row] = True
    return edited, other


def _is_edited(first: str, second: str) -> bool:
    """Tell an edited prompt (a typing error mended, options added) from another one by the words they share."""
    one, two = set(_WORD.findall(first.casefold())), set(_WORD.findall(second.casefold()))
    shared = len(one & two) / max(1, min(len(one), len(two)))
    return shared >= EDITED_PROMPT_SHARED_WORDS or normalise_question(first) == normalise_question(second)
