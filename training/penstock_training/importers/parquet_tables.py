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
    kinds = {
        **dict.fromkeys(TEXT_FIELDS, pa.string()),
        **dict.fromkeys(NUMBER_FIELDS, pa.float64()),
        **dict.fromkeys(WHOLE_FIELDS, pa.int64()),
        **dict.fromkeys(TRUTH_FIELDS, pa.bool_()),
    }
    arrays = {
        name: pa.array(columns[name], type=kind)
        for name, kind in kinds.items()
        if any(value is not None for value in columns[name])
    }
    pq.write_table(pa.table(arrays), path, compression="zstd")
