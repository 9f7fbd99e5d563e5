"""Compacted segments: Parquet with every event's JSON, and beside it the columns that people ask for.

Owns pyarrow within this package; it is imported when a file is read or written, and needs the ``ship`` extra. The
column ``record`` is the event exactly as it was written, so that nothing is lost and nothing has to be kept in step;
the others are made from it. Read `write_parquet`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, BinaryIO, Final

from penstock_routers.installation import install_command

RECORD: Final = "record"
_GROUP_ROWS: Final = 16_384
_GROUP_BYTES: Final = 16 << 20
_READ_ROWS: Final = 128  # of the longest prompts, 50 MB
_TEXTS: Final = (
    "type",
    "decision_id",
    "request_id",
    "tenant",
    "requested_model",
    "intended_arm",
    "served_arm",
    "reason",
    "category",
    "error_code",
    "rating",
    "label",
)
_NUMBERS: Final = ("time", "admitted_at", "duration_ms", "first_byte_ms", "propensity", "score")
_WHOLES: Final = ("schema", "status", "cost_picousd")
_USAGE: Final = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
_COST_DIGITS: Final = Decimal("1e-18")


class ParquetMissing(Exception):
    """pyarrow is not installed; the message says how to install it."""


def write_parquet(stream: BinaryIO, lines: Iterable[tuple[dict[str, Any], bytes]]) -> int:
    """Write events as one Parquet file.

    Parameters
    ----------
    stream : binary file
    lines : iterable of (dict, bytes)
        Each event, and the JSON that it was read from.

    Returns
    -------
    int
        Number of events.

    Raises
    ------
    ParquetMissing
    OSError
    """
    arrow, parquet = _import_arrow()
    schema = _schema(arrow)
    count = 0
    with parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        for group in _groups(lines):
            rows = [_row(event, content) for event, content in group]
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def read_parquet_lines(path: Path) -> Iterator[bytes]:
    """Yield the JSON of every event of a compacted segment.

    Raises
    ------
    FileNotFoundError
        Before anything has been yielded.
    ValueError
        The file is damaged, or not one of ours.
    ParquetMissing
    """
    arrow, parquet = _import_arrow()
    with path.open("rb") as stream:
        try:
            with parquet.ParquetFile(stream) as file:
                for batch in file.iter_batches(_READ_ROWS, columns=[RECORD]):
                    for text in batch.column(0).to_pylist():
                        yield b"" if text is None else text.encode()
        except (arrow.ArrowException, OSError, KeyError) as error:
            raise ValueError(f"not a readable Parquet file: {type(error).__name__}") from error


def _groups(lines: Iterable[tuple[dict[str, Any], bytes]]) -> Iterator[list[tuple[dict[str, Any], bytes]]]:
    group: list[tuple[dict[str, Any], bytes]] = []
    size = 0
    for event, content in lines:
        group.append((event, content))
        size += len(content)
        if len(group) >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _schema(arrow: Any) -> Any:
    return arrow.schema(
        [
            *((name, arrow.string()) for name in _TEXTS),
            *((name, arrow.float64()) for name in _NUMBERS),
            *((name, arrow.int64()) for name in (*_WHOLES, *_USAGE)),
            ("cost_usd", arrow.decimal128(38, 18)),
            ("is_cost_estimated", arrow.bool_()),
            ("accounts", arrow.list_(arrow.string())),
            (RECORD, arrow.string()),
        ]
    )


def _row(event: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Return the columns of an event; a value of another type than its column's is left out there, not in `RECORD`."""
    usage = event.get("usage")
    tokens = usage if isinstance(usage, dict) else event
    row: dict[str, Any] = {name: _of(str, event.get(name)) for name in _TEXTS}
    row.update({name: _of((int, float), event.get(name)) for name in _NUMBERS})
    row.update({name: _whole(event.get(name)) for name in _WHOLES})
    row.update({name: _whole(tokens.get(name)) for name in _USAGE})
    row["cost_usd"] = _cost(event.get("cost_usd"))
    row["is_cost_estimated"] = _of(bool, event.get("is_cost_estimated"))
    accounts = event.get("accounts")
    row["accounts"] = [str(scope) for scope in accounts] if isinstance(accounts, list) else None
    row[RECORD] = content.decode()
    return row


def _of(kind: type | tuple[type, ...], value: object) -> object:
    is_truth_for_number = isinstance(value, bool) and kind is not bool
    return value if isinstance(value, kind) and not is_truth_for_number else None


def _whole(value: object) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return value if is_whole and isinstance(value, int) else None


def _cost(value: object) -> Decimal | None:
    if not isinstance(value, str):
        return None
    try:
        cost = Decimal(value)
        return cost.quantize(_COST_DIGITS) if cost.is_finite() and abs(cost) < 10**9 else None
    except InvalidOperation:
        return None


def _import_arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ParquetMissing(
            f"Compacted segments need pyarrow, which is not installed: {install_command('ship')}"
        ) from error
    return pyarrow, pyarrow.parquet
