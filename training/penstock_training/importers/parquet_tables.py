"""Parquet for importers: foreign tables as records, and outcome columns as one file.

Owns pyarrow within this package. Must not know any format. Read `write_parquet`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from penstock_training.importers.collected import NUMBER_FIELDS, TEXT_FIELDS, TRUTH_FIELDS, WHOLE_FIELDS

BATCH_ROWS: Final = 1024
DICTIONARY_BYTES: Final = 256 * 1024 * 1024  # beyond it pyarrow stores every repetition of a text


def parquet_batches(stream: BinaryIO) -> Iterator[list[dict[str, Any]]]:
    """Read a Parquet file as lists of records.

    Parameters
    ----------
    stream : binary file

    Yields
    ------
    list of dict
        At most `BATCH_ROWS` records.

    Raises
    ------
    ValueError
        The file is damaged; the message holds no content of it.
    """
    try:
        with pq.ParquetFile(stream) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                yield batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, ValueError) as error:
        raise ValueError(f"not a readable Parquet file: {type(error).__name__}") from error


def write_parquet(path: Path, columns: Mapping[str, list[Any]]) -> None:
    """Write outcome columns; those without a single value are left out.

    Parameters
    ----------
    path : Path
    columns : mapping of str to list
        As in `Collector.columns`.

    Notes
    -----
    The bytes depend on the rows and on the version of pyarrow; compare `OutcomeMatrix.digest` rather than files.
    """
    plain = {
        **dict.fromkeys(NUMBER_FIELDS, pa.float64()),
        **dict.fromkeys(WHOLE_FIELDS, pa.int64()),
        **dict.fromkeys(TRUTH_FIELDS, pa.bool_()),
    }
    arrays = {name: _coded(columns[name]) for name in TEXT_FIELDS if _has_values(columns[name])}
    arrays |= {name: pa.array(columns[name], type=kind) for name, kind in plain.items() if _has_values(columns[name])}
    pq.write_table(pa.table(arrays), path, compression="zstd", dictionary_pagesize_limit=DICTIONARY_BYTES)


def _has_values(values: list[Any]) -> bool:
    return any(value is not None for value in values)


def _coded(values: list[str | None]) -> pa.DictionaryArray:
    """Each text once: a prompt that 29 models answered is neither copied in memory nor stored 29 times."""
    numbers: dict[str, int] = {}
    codes = [None if value is None else numbers.setdefault(value, len(numbers)) for value in values]
    return pa.DictionaryArray.from_arrays(pa.array(codes, type=pa.int32()), pa.array(list(numbers), type=pa.string()))
