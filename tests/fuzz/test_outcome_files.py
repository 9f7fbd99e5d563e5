"""Outcome files of any content: a table or an `OutcomeError`, never anything else."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock_training.errors import OutcomeError
from penstock_training.outcome_checks import PROBLEM_KINDS
from penstock_training.outcome_files import NUMBER_COLUMNS, TEXT_COLUMNS
from penstock_training.outcomes import OutcomeTable, load_outcomes

SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

names = st.sampled_from([*TEXT_COLUMNS, *NUMBER_COLUMNS, "model", "dataset", "latency_s", "other"])
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["a", "b", "2026-01-05T10:00:00Z", " "]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=1),
)
records = st.dictionaries(names, values, max_size=8)
usable = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["One?", "Two?"]), "arm": st.sampled_from(["a", "b"]), "score": st.floats(0, 1)},
    optional={"cost_usd": st.one_of(st.none(), st.floats(0, 1)), "query_id": st.sampled_from(["p", "q"])},
)


def _load(path: Path) -> OutcomeTable | None:
    """Load with skipping; None when the file is refused as a whole."""
    try:
        return load_outcomes([path], on_bad_rows="skip")
    except OutcomeError:
        return None


def _check(table: OutcomeTable) -> None:
    """What is left after skipping keeps every promise of the schema."""
    report = table.report
    assert len(table) == report.rows_read - report.rows_bad > 0
    assert (report.rows_bad == 0) == (not report.problems)
    assert set(report.problems) <= set(PROBLEM_KINDS)
    assert len(report.first_bad_rows) == min(10, sum(report.problems.values()))
    matrix = table.matrix()
    assert int(np.isfinite(matrix.score).sum()) == len(table)
    assert all(prompt.strip() for prompt in matrix.prompts)
    assert all(arm.strip() for arm in matrix.arms)
    assert bool((matrix.score[np.isfinite(matrix.score)] <= 1).all())
    assert not bool((matrix.cost_usd < 0).any())
    assert len(matrix.digest) == 64


@SHARED_FOLDER
@given(st.lists(st.one_of(records, usable), max_size=8))
def test_load_outcomes_any_json_records_give_a_valid_table_or_an_outcome_error(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    """Whatever the values are, no other exception and no invalid row comes out."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    if (table := _load(path)) is not None:
        _check(table)


@SHARED_FOLDER
@given(st.lists(st.one_of(st.binary(max_size=40), usable.map(lambda row: json.dumps(row).encode())), max_size=6))
def test_load_outcomes_any_lines_of_bytes_give_a_valid_table_or_an_outcome_error(
    tmp_path: Path, lines: list[bytes]
) -> None:
    """Lines that are no JSON, or no UTF-8, cost themselves only."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    if (table := _load(path)) is not None:
        _check(table)


@SHARED_FOLDER
@given(st.binary(max_size=200), st.sampled_from(["x.parquet", "x.jsonl.gz"]), st.booleans())
def test_load_outcomes_any_bytes_as_binary_file_are_an_outcome_error(
    tmp_path: Path, content: bytes, name: str, is_wrapped: bool
) -> None:
    """A file that is not what its ending says is refused by name."""
    path = tmp_path / name
    path.write_bytes(b"PAR1" + content + b"PAR1" if is_wrapped else content)
    assert _load(path) is None


@SHARED_FOLDER
@given(st.lists(usable, min_size=1, max_size=6), st.integers(0, 10_000), st.integers(0, 255))
def test_load_outcomes_parquet_with_a_changed_byte_never_raises_anything_else(
    tmp_path: Path, rows: list[dict[str, Any]], position: int, value: int
) -> None:
    """Damage inside a Parquet file is refused or yields values that pass every check."""
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(bytes(content))
    if (table := _load(path)) is not None:
        _check(table)


@SHARED_FOLDER
@given(st.lists(usable, min_size=1, max_size=6), st.integers(0, 400))
def test_load_outcomes_cut_gzip_is_refused_or_whole(tmp_path: Path, rows: list[dict[str, Any]], cut: int) -> None:
    """A compressed file that ends early is never used in part."""
    path = tmp_path / "rows.jsonl.gz"
    whole = gzip.compress("\n".join(json.dumps(row) for row in rows).encode())
    path.write_bytes(whole[: len(whole) - 1 - cut % len(whole)])
    assert _load(path) is None


@SHARED_FOLDER
@given(
    st.dictionaries(
        names,
        st.sampled_from(
            [pa.int64(), pa.float32(), pa.string(), pa.bool_(), pa.list_(pa.int32()), pa.date32(), pa.null()]
        ),
        min_size=1,
    ).map(lambda columns: {**columns, "prompt": pa.string(), "arm": pa.string(), "score": pa.float64()} | columns)
)
def test_load_outcomes_parquet_columns_of_any_type_are_read_or_reported(
    tmp_path: Path, columns: dict[str, pa.DataType]
) -> None:
    """A column of the wrong type is a counted problem, whatever the type."""
    samples: dict[pa.DataType, Any] = {
        pa.int64(): 1,
        pa.float32(): 0.5,
        pa.string(): "a",
        pa.bool_(): True,
        pa.list_(pa.int32()): [1],
        pa.date32(): 3,
    }
    arrays = {name: pa.array([samples.get(kind)], type=kind) for name, kind in columns.items()}
    pq.write_table(pa.table(arrays), tmp_path / "rows.parquet")
    if (table := _load(tmp_path / "rows.parquet")) is not None:
        _check(table)
