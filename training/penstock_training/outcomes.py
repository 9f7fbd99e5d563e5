"""Outcome files: what each arm scored on each prompt, checked before anything is fitted.

Owns the outcome schema (``docs/outcomes.md``) and the prompt × arm matrix. Must not judge values, fit, split or touch
pyarrow (`penstock_training.outcome_files` does the reading). Read `load_outcomes` first, then `OutcomeTable.matrix`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penstock_routers.features import NO_CONTEXT, PromptContext
from penstock_routers.token_counts import message_tokens
from penstock_training.errors import OutcomeError
from penstock_training.languages import language_of
from penstock_training.outcome_checks import (
    AreEdited,
    Findings,
    LoadReport,
    are_edited_texts,
    check_cells,
    check_values,
)
from penstock_training.outcome_files import (
    CONTEXT_COLUMNS,
    NUMBER_COLUMNS,
    REQUIRED_COLUMNS,
    TEXT_COLUMNS,
    CodedText,
    RawOutcomes,
    differing,
    join_coded,
    read_outcome_file,
)
from penstock_training.splits import question_groups

FloatMatrix = NDArray[np.float32]
IndexArray = NDArray[np.int64]


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
    tenants : list of str, length n, or None
        Whose requests they were, "" where the files say nothing; None where they never do.
    context : ndarray of float32, shape (n, 3), or None
        What stood around the prompts, as in `penstock_routers.features.PromptContext`; 0 where the files say nothing,
        None where they never do.
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
    tenants: list[str] | None = field(default=None, kw_only=True)
    context: FloatMatrix | None = field(default=None, kw_only=True)

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
            tenants=None if self.tenants is None else [self.tenants[i] for i in index],
            context=None if self.context is None else self.context[index],
        )

    @property
    def prompt_tokens(self) -> NDArray[np.float64]:
        """Tokens of each prompt, shape (n,): mean over the arms' counts, the gateway's own estimate without any."""
        counts = self.input_tokens.astype(np.float64)
        known = np.isfinite(counts)
        totals = np.where(known, counts, 0.0).sum(axis=1)
        return np.asarray(np.where(known.any(axis=1), totals / np.maximum(known.sum(axis=1), 1), self.text_tokens))

    @property
    def text_tokens(self) -> NDArray[np.float64]:
        """The gateway's own estimate of each prompt's tokens, from its text, shape (n,)."""
        return np.array([message_tokens(prompt) for prompt in self.prompts], dtype=np.float64)

    @property
    def contexts(self) -> list[PromptContext]:
        """What stood around each prompt, length n; nothing where the files do not say."""
        if self.context is None:
            return [NO_CONTEXT] * len(self.prompts)
        return [PromptContext(*map(int, row)) for row in self.context.tolist()]

    @property
    def languages(self) -> list[str]:
        """Guessed language of each prompt, length n (`penstock_training.languages.language_of`)."""
        return [language_of(prompt) for prompt in self.prompts]

    @property
    def digest(self) -> str:
        """SHA-256 of the content as 64 hex digits; independent of the order of prompts."""
        return content_digest(self.arms, self.content_lines())

    def content_lines(self) -> list[bytes]:
        """SHA-256 of each prompt with its outcomes, length n."""
        lines = []
        matrices = [self.score, self.input_tokens, self.output_tokens, self.cost_usd]
        matrices += [] if self.propensity is None else [self.propensity]
        matrices += [] if self.context is None else [self.context]
        for row, texts in enumerate(zip(self.prompts, self.sources, self.tasks, self.categories, strict=True)):
            digest = hashlib.sha256("\x00".join(texts).encode("utf-8", "surrogatepass"))
            for values in matrices:
                digest.update(values[row].astype("<f4").tobytes())
            lines.append(digest.digest())
        return lines


def content_digest(arms: Sequence[str], lines: Sequence[bytes]) -> str:
    """Put the lines of `OutcomeMatrix.content_lines` together, in whatever order they come."""
    names = "\x00".join(arms).encode("utf-8", "surrogatepass")
    return hashlib.sha256(hashlib.sha256(names).digest() + b"".join(sorted(lines))).hexdigest()


@dataclass(frozen=True, slots=True)
class OutcomeTable:
    """Checked outcome rows, r of them, each text stored once.

    Attributes
    ----------
    text : dict of str to CodedText
        Columns ``prompt``, ``arm``, ``query_id``, ``source``, ``category``, ``task``, ``intended_arm``, ``tenant``.
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

    def matrix(
        self, arms: Sequence[str] | None = None, *, number: Callable[[Sequence[str]], IndexArray] = question_groups
    ) -> OutcomeMatrix:
        """Arrange the rows as a prompt × arm table.

        Parameters
        ----------
        arms : sequence of str, optional
            Which arms, in which order; all of them by name when omitted. Prompts without a row for any of them are
            left out.
        number : callable
            Gives the prompts, shape (n,), the numbers of their questions.

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
            number(prompts),
            self._texts("source", heads),
            self._texts("task", heads),
            self._texts("category", heads),
            chosen,
            *(self._spread(name, kept, cells, shape) for name in names),
            tenants=self._texts("tenant", heads) if self.text["tenant"].values else None,
            context=self.context_of(heads),
        )

    def context_of(self, rows: IndexArray) -> FloatMatrix | None:
        """Return what stood around the prompts of some rows, as in `OutcomeMatrix`."""
        columns = np.stack([self.number[name][rows] for name in CONTEXT_COLUMNS], axis=1)
        return np.nan_to_num(columns).astype(np.float32) if np.isfinite(columns).any() else None

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
    return assemble_outcomes([read_outcome_file(path) for path in paths], on_bad_rows=on_bad_rows)


def assemble_outcomes(
    raws: list[RawOutcomes], *, on_bad_rows: Literal["refuse", "skip"], are_edited: AreEdited = are_edited_texts
) -> OutcomeTable:
    """Put columns together and check them.

    Parameters
    ----------
    raws : list of RawOutcomes
        Their gaps in ``source`` are filled.
    on_bad_rows : {"refuse", "skip"}
    are_edited : callable
        As for `penstock_training.outcome_checks.check_cells`.

    Returns
    -------
    OutcomeTable

    Raises
    ------
    OutcomeError
        As for `load_outcomes`.
    """
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
    found = Findings(int(starts[-1]))
    for raw, start in zip(raws, starts, strict=False):
        found.add_raw(raw, int(start))
    check_values(text, number, found)
    check_cells(text, query, found, are_edited)
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
