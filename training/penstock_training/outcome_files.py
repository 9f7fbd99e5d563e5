"""From Parquet and JSON Lines files to columns: reading, column names and value types.

Owns pyarrow and the mapping of foreign column names. Must not judge values (ranges, duplicates): that is done in
`penstock_training.outcomes`. Read `read_outcome_file` first.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock_routers.features import PromptContext
from penstock_training.errors import OutcomeError

TEXT_COLUMNS: Final = ("prompt", "arm", "query_id", "source", "category", "task", "intended_arm", "tenant")
CONTEXT_COLUMNS: Final = PromptContext._fields  # of what stood around a prompt
NUMBER_COLUMNS: Final = (
    "score",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "latency_seconds",
    "timestamp",
    "propensity",
    "is_censored",
    *CONTEXT_COLUMNS,
)
FLAG_COLUMNS: Final = ("score", "is_censored")  # true and false count as 1 and 0
REQUIRED_COLUMNS: Final = ("prompt", "arm", "score")
WHOLE_NUMBER_COLUMNS: Final = ("input_tokens", "output_tokens", *CONTEXT_COLUMNS)

# Foreign names on the left. The right-hand name wins when a file has both.
COLUMN_ALIASES: Final[Mapping[str, str]] = {"model": "arm", "dataset": "source", "latency_s": "latency_seconds"}
# Known companions of outcome data that say how a number, or the prompt, was obtained; read by people, not by us.
IGNORED_COLUMNS: Final = ("tokens_source", "cost_source", "sampling")

MAX_LINE_BYTES: Final = 16 * 1024 * 1024  # a longer JSON line is damage rather than a prompt
SUFFIXES: Final = (".parquet", ".jsonl", ".jsonl.gz")


@dataclass(frozen=True, slots=True)
class CodedText:
    """A text column stored once per distinct value.

    Attributes
    ----------
    codes : ndarray of int64, shape (n,)
        Position in `values`, or -1 where the value is missing.
    values : tuple of str
    """

    codes: NDArray[np.int64]
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RawProblem:
    """A value that could not be read; `row` is a position in the columns, `shown` is safe to print."""

    row: int
    column: str
    kind: str
    shown: str


@dataclass(slots=True)
class RawOutcomes:
    """The columns of one file under our names, with everything that could not be read.

    Attributes
    ----------
    path : Path
    row_number : ndarray of int64, shape (n,)
        Where the row stands in the file, counted from 1: the line of a JSONL file, the row of a Parquet file.
    text : dict of str to CodedText
        One entry per name in `TEXT_COLUMNS`.
    number : dict of str to ndarray of float64, shape (n,)
        One entry per name in `NUMBER_COLUMNS`, NaN where missing; timestamps are UNIX seconds.
    problems : list of RawProblem
    absent_columns, unknown_columns : list of str
        Columns of ours that the file lacks, and columns of the file that we do not know.
    """

    path: Path
    row_number: NDArray[np.int64]
    text: dict[str, CodedText]
    number: dict[str, NDArray[np.float64]]
    problems: list[RawProblem] = field(default_factory=list)
    absent_columns: list[str] = field(default_factory=list)
    unknown_columns: list[str] = field(default_factory=list)


def read_outcome_file(path: Path) -> RawOutcomes:
    """Read one outcome file, chosen by its ending.

    Parameters
    ----------
    path : Path
        ``.parquet``, ``.jsonl`` or ``.jsonl.gz``.

    Returns
    -------
    RawOutcomes

    Raises
    ------
    OutcomeError
        ``outcome_file_missing``, ``outcome_file_format`` (unknown ending) or ``outcome_file_unreadable`` (damaged).

    Notes
    -----
    Texts are stored once per distinct value, in memory as in the file, so memory grows with the distinct prompts and
    not with the rows.
    """
    if not path.is_file():
        raise OutcomeError(f"{path}: no such file", code="outcome_file_missing")
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _read_parquet(path)
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _read_json_lines(path)
    raise OutcomeError(f"{path}: expected a file ending in {', '.join(SUFFIXES)}", code="outcome_file_format")


def shorten(column: str, value: object) -> str:
    """Render a bad value for a report: at most 40 characters, and of a prompt only its type and length."""
    kind = type(value).__name__
    if column in {"prompt", "query_id"} and isinstance(value, str):
        return f"<{kind}, {len(value)} characters>"
    if value is None or isinstance(value, bool | int | float):
        shown = repr(value)
    elif isinstance(value, str):
        shown = repr(value[:41])
    else:
        return f"<{kind}>"
    return shown if len(shown) <= 40 else shown[:39] + "…"


def join_coded(columns: Sequence[CodedText]) -> CodedText:
    """Concatenate coded columns under one set of values, each value once."""
    numbers: dict[str, int] = {}
    parts = [np.zeros(0, dtype=np.int64)]
    for column in columns:
        mapped = [numbers.setdefault(value, len(numbers)) for value in column.values]
        parts.append(np.array([*mapped, -1], dtype=np.int64)[column.codes])
    return CodedText(np.concatenate(parts), tuple(numbers))


def differing(first: CodedText, second: CodedText) -> NDArray[np.bool_]:
    """Mark rows where both columns have a value and the values differ, shape (n,)."""
    code_of = {value: code for code, value in enumerate(first.values)}
    mapped = np.array([*(code_of.get(value, -2) for value in second.values), -1], dtype=np.int64)[second.codes]
    return np.asarray((first.codes >= 0) & (second.codes >= 0) & (first.codes != mapped))


def target_column(name: str, present: frozenset[str]) -> str | None:
    """Map a column name of a file to ours; ``None`` for a column that we do not read."""
    if name in TEXT_COLUMNS or name in NUMBER_COLUMNS:
        return name
    alias = COLUMN_ALIASES.get(name)
    return alias if alias is not None and alias not in present else None


def _describe_columns(raw: RawOutcomes, present: frozenset[str]) -> None:
    known = {name: target_column(name, present) for name in present}
    covered = {target for target in known.values() if target is not None}
    raw.absent_columns = [name for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS) if name not in covered]
    raw.unknown_columns = sorted(n for n, target in known.items() if target is None and n not in IGNORED_COLUMNS)


# ---------------------------------------------------------------------------------------------------- Parquet


def _read_parquet(path: Path) -> RawOutcomes:
    try:
        with pq.ParquetFile(path, read_dictionary=_text_names(pq.read_schema(path))) as file:
            return parquet_columns(path, file)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = type(error).__name__
        raise OutcomeError(f"{path}: not a readable Parquet file ({reason})", code="outcome_file_unreadable") from error


def open_parquet(path: str, store: Any) -> pq.ParquetFile:
    """Open a Parquet file in a pyarrow file system, its text columns kept coded."""
    return pq.ParquetFile(path, filesystem=store, read_dictionary=_text_names(pq.read_schema(path, filesystem=store)))


def parquet_columns(path: Path, file: pq.ParquetFile, row_groups: Sequence[int] | None = None) -> RawOutcomes:
    """Read the columns of a Parquet file that we know.

    Parameters
    ----------
    path : Path
        Its name in reports.
    file : ParquetFile
        Opened with its text columns coded.
    row_groups : sequence of int, optional
        All when omitted.

    Returns
    -------
    RawOutcomes
        Rows are numbered from 1 within what was read.

    Raises
    ------
    ArrowException, OSError, UnicodeDecodeError
        It is damaged.
    """
    present = frozenset(file.schema_arrow.names)
    wanted = {n: t for n in file.schema_arrow.names if (t := target_column(n, present)) is not None}
    groups = range(file.num_row_groups) if row_groups is None else row_groups
    table = file.read_row_groups(list(groups), columns=list(wanted))
    raw = RawOutcomes(path, np.arange(1, table.num_rows + 1, dtype=np.int64), {}, {})
    for name, target in wanted.items():
        read = _parquet_text if target in TEXT_COLUMNS else _parquet_number
        read(raw, target, table.column(name))
    _fill_absent(raw, table.num_rows)
    _describe_columns(raw, present)
    return raw


def join_raw(path: Path, parts: Sequence[RawOutcomes]) -> RawOutcomes:
    """Put parts of one set under each other; rows are numbered through, and a column is absent where no part has it."""
    starts = np.cumsum([0, *(part.row_number.size for part in parts)]).tolist()
    return RawOutcomes(
        path,
        np.arange(1, starts[-1] + 1, dtype=np.int64),
        {name: join_coded([part.text[name] for part in parts]) for name in TEXT_COLUMNS},
        {name: np.concatenate([np.zeros(0), *(part.number[name] for part in parts)]) for name in NUMBER_COLUMNS},
        [
            replace(each, row=each.row + start)
            for part, start in zip(parts, starts, strict=False)
            for each in part.problems
        ],
        [name for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS) if all(name in part.absent_columns for part in parts)],
        sorted({name for part in parts for name in part.unknown_columns}),
    )


def _parquet_text(raw: RawOutcomes, target: str, column: pa.ChunkedArray) -> None:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(kind):
        raw.text[target] = CodedText(np.full(len(column), -1, dtype=np.int64), ())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        coded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
        parts = [_coded_chunk(chunk) for chunk in coded.chunks]
        raw.text[target] = join_coded(parts)
    else:
        _reject_column(raw, target, column)
        raw.text[target] = CodedText(np.full(len(column), -1, dtype=np.int64), ())


def _text_names(schema: pa.Schema) -> list[str]:
    """Name the text columns, so that pyarrow keeps them coded and no prompt is decoded once per arm."""
    present = frozenset(schema.names)
    texts = (f for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type))
    return [f.name for f in texts if target_column(f.name, present) in TEXT_COLUMNS]


def _coded_chunk(chunk: pa.DictionaryArray) -> CodedText:
    codes = pc.fill_null(chunk.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    values = chunk.dictionary.to_pylist()
    is_null = np.array([*(value is None for value in values), True], dtype=bool)
    return CodedText(np.where(is_null[codes], -1, codes), tuple(value or "" for value in values))


def _parquet_number(raw: RawOutcomes, target: str, column: pa.ChunkedArray) -> None:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    is_clock = target == "timestamp"
    if pa.types.is_null(kind):
        raw.number[target] = np.full(len(column), np.nan)
    elif is_clock and pa.types.is_timestamp(kind):
        microseconds = column.cast(pa.timestamp("us", tz=kind.tz), safe=False).cast(pa.int64())
        raw.number[target] = _to_float(microseconds) / 1e6
    elif is_clock and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raw.number[target] = _parse_clock_texts(raw, column)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        raw.number[target] = _to_float(column)
    elif pa.types.is_boolean(kind) and target in FLAG_COLUMNS:
        raw.number[target] = _to_float(column.cast(pa.int8()))
    else:
        _reject_column(raw, target, column)
        raw.number[target] = np.full(len(column), np.nan)


def _to_float(column: pa.ChunkedArray) -> NDArray[np.float64]:
    values = column.cast(pa.float64(), safe=False).to_numpy()
    return np.asarray(values, dtype=np.float64)


def _parse_clock_texts(raw: RawOutcomes, column: pa.ChunkedArray) -> NDArray[np.float64]:
    seconds = np.full(len(column), np.nan)
    for row, value in enumerate(column.to_pylist()):
        if value is not None:
            _store_number(raw.problems, seconds, row, "timestamp", value)
    return seconds


def _reject_column(raw: RawOutcomes, target: str, column: pa.ChunkedArray) -> None:
    shown = f"<column of type {column.type}>"
    raw.problems.extend(RawProblem(row, target, "wrong_type", shown) for row in range(len(column)))


def _fill_absent(raw: RawOutcomes, rows: int) -> None:
    for name in TEXT_COLUMNS:
        raw.text.setdefault(name, CodedText(np.full(rows, -1, dtype=np.int64), ()))
    for name in NUMBER_COLUMNS:
        raw.number.setdefault(name, np.full(rows, np.nan))


# ----------------------------------------------------------------------------------------------------- JSON Lines


class _TextBuilder:
    """Collects one text column, each distinct value once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.codes: list[int] = []

    def append(self, value: str | None) -> None:
        self.codes.append(-1 if value is None else self.numbers.setdefault(value, len(self.numbers)))

    def build(self) -> CodedText:
        return CodedText(np.asarray(self.codes, dtype=np.int64), tuple(self.numbers))


def _read_json_lines(path: Path) -> RawOutcomes:
    texts = {name: _TextBuilder() for name in TEXT_COLUMNS}
    numbers: dict[str, list[float]] = {name: [] for name in NUMBER_COLUMNS}
    problems: list[RawProblem] = []
    row_numbers: list[int] = []
    present: set[str] = set()
    decode = msgspec.json.Decoder().decode
    for line_number, line in _lines(path):
        row = len(row_numbers)
        row_numbers.append(line_number)
        record = _decode_line(line, decode, row, problems)
        present.update(record)
        _append_record(record, frozenset(record), row, texts, numbers, problems)
    raw = RawOutcomes(
        path,
        np.asarray(row_numbers, dtype=np.int64),
        {name: builder.build() for name, builder in texts.items()},
        {name: np.asarray(values, dtype=np.float64) for name, values in numbers.items()},
        problems,
    )
    _describe_columns(raw, frozenset(present))
    return raw


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line) for lines that are not blank; a line is cut at `MAX_LINE_BYTES` + 1."""
    opener = cast(Callable[[Path, str], BinaryIO], gzip.open if path.name.lower().endswith(".gz") else open)
    number = 0
    try:
        with opener(path, "rb") as stream:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                whole = line
                while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):  # skip the rest of the long line
                    line = stream.readline(MAX_LINE_BYTES + 1)
                if whole.strip():
                    yield number, whole
    except (OSError, EOFError, zlib.error) as error:
        reason = type(error).__name__
        raise OutcomeError(
            f"{path}: cannot be read beyond line {number} ({reason})", code="outcome_file_unreadable"
        ) from error


def _decode_line(
    line: bytes, decode: Callable[[bytes], object], row: int, problems: list[RawProblem]
) -> dict[str, Any]:
    """Decode a line; a broken one becomes an empty record and a problem that tells the position, not the text."""
    try:
        if len(line) > MAX_LINE_BYTES:
            raise msgspec.DecodeError(f"longer than {MAX_LINE_BYTES} bytes")
        record = decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error) if isinstance(error, msgspec.DecodeError) else type(error).__name__
        problems.append(RawProblem(row, "(line)", "broken_line", reason[:120]))
        return {}
    if not isinstance(record, dict):
        problems.append(RawProblem(row, "(line)", "broken_line", f"<{type(record).__name__} instead of an object>"))
        return {}
    return record


def _append_record(
    record: dict[str, Any],
    present: frozenset[str],
    row: int,
    texts: dict[str, _TextBuilder],
    numbers: dict[str, list[float]],
    problems: list[RawProblem],
) -> None:
    values = {target: v for name, v in record.items() if (target := target_column(name, present)) is not None}
    for name, builder in texts.items():
        value = values.get(name)
        if value is not None and not isinstance(value, str):
            problems.append(RawProblem(row, name, "wrong_type", shorten(name, value)))
            value = None
        builder.append(value)
    for name, column in numbers.items():
        column.append(math.nan)
        if (value := values.get(name)) is not None:
            _store_number(problems, column, row, name, value)


def _store_number(
    problems: list[RawProblem], column: list[float] | NDArray[np.float64], row: int, name: str, value: object
) -> None:
    """Put a number into `column`, or record why the value is none."""
    try:
        column[row] = _as_float(name, value)
    except (ValueError, OverflowError):
        problems.append(RawProblem(row, name, "wrong_type", shorten(name, value)))


def _as_float(name: str, value: object) -> float:
    if isinstance(value, bool):
        if name not in FLAG_COLUMNS:
            raise ValueError("a boolean is no number here")
        return float(value)
    if isinstance(value, int | float):
        return float(value)
    if name == "timestamp" and isinstance(value, str):
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("a timestamp needs a time zone")
        return moment.timestamp()
    raise ValueError("not a number")
