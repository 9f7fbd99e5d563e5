"""Local source files of importers: finding them in folders and zip archives, and reading records from them.

Owns the limits and the refusals: no pickle is ever opened as one, no archive is unpacked to disk, no link in a folder
leads out of it. Must not know what the records mean. Read `find_sources`, then `read_records`.
"""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from penstock_training.errors import TrainingError

TABLE_SUFFIXES: Final = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")
JSON_SUFFIXES: Final = (".json", ".json.gz")
MAX_FILE_BYTES: Final = 2 * 1024**3  # the largest public file seen has 0.2 GB; more is taken for a zip bomb
MAX_FIELD_BYTES: Final = 16 * 1024 * 1024  # as for the lines of outcome files
_PICKLE_SUFFIXES: Final = (".pkl", ".pickle", ".p", ".joblib", ".pkl.gz", ".pkl.zip", ".npy", ".pt", ".pth")
_PICKLE_START: Final = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_PICKLE_ADVICE: Final = (
    "is a pickle, and loading one can run any program that its author put in. Convert it once where nothing can be "
    "harmed (a container without network and without your files): "
    "python -c \"import pandas; pandas.read_pickle('IN.pkl').to_csv('OUT.csv', index=False)\" and import OUT.csv"
)
_READ_ERRORS: Final = (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file on disk, or one member of a zip archive on disk.

    Attributes
    ----------
    path : Path
        The file, or the archive.
    member : str
        Name within the archive; empty for a plain file.
    relative : PurePosixPath
        The name below the folder that was given, for a plain file its own name.
    """

    path: Path
    member: str
    relative: PurePosixPath

    @property
    def name(self) -> str:
        """Last part of the name, in lower case."""
        return PurePosixPath(self.member or self.path.name).name.lower()

    @property
    def shown(self) -> str:
        """Short name for reports."""
        return f"{self.path.name}:{self.member}" if self.member else self.relative.as_posix()

    def place(self, row: int) -> str:
        """Name a row of this file, counted from 1."""
        return f"{self.shown} row {row}"

    def content(self) -> bytes:
        """Read everything, decompressed; refused as ``import_file_unreadable`` beyond `MAX_FILE_BYTES`."""
        try:
            with self._open() as stream:
                found = stream.read(MAX_FILE_BYTES + 1)
        except _READ_ERRORS as error:
            raise unreadable(self, type(error).__name__) from error
        if len(found) > MAX_FILE_BYTES:
            raise unreadable(self, f"larger than {MAX_FILE_BYTES:,} bytes")
        return found

    def _open(self) -> io.BufferedIOBase:
        if self.member:
            with zipfile.ZipFile(self.path) as archive:
                raw = archive.read(self.member) if _is_small(archive, self.member) else b"\0" * (MAX_FILE_BYTES + 1)
            stream: io.BufferedIOBase = io.BytesIO(raw)
        else:
            stream = self.path.open("rb")
        return gzip.GzipFile(fileobj=stream) if self.name.endswith(".gz") else stream


def unreadable(file: SourceFile | Path, reason: str) -> TrainingError:
    """Make the error for a damaged file; `reason` must hold no text of the file."""
    shown = file.shown if isinstance(file, SourceFile) else str(file)
    return TrainingError(f"{shown}: cannot be read ({reason})", code="import_file_unreadable")


def find_sources(paths: Sequence[Path], suffixes: Sequence[str]) -> list[SourceFile]:
    """Find the files to read, in sorted order, so that equal inputs give equal outputs.

    Parameters
    ----------
    paths : sequence of Path
        Files, folders (searched to any depth; hidden files and links are left alone) and zip archives.
    suffixes : sequence of str
        Endings of interest, in lower case. A file that is named itself must have one of them.

    Returns
    -------
    list of SourceFile
        At least one.

    Raises
    ------
    TrainingError
        ``import_path_missing``, ``import_pickle_refused``, ``import_file_format`` (a named file with another ending),
        ``import_file_unreadable`` (damaged archive), ``import_nothing_found``.
    """
    found: list[SourceFile] = []
    for path in paths:
        if path.is_dir():
            found += _in_folder(path, suffixes)
        elif not path.exists():
            raise TrainingError(f"{path}: no such file or folder", code="import_path_missing")
        elif zipfile.is_zipfile(path) and path.suffix.lower() == ".zip":
            found += _in_archive(path, PurePosixPath(path.name), suffixes)
        else:
            refuse_pickle(path)
            if not path.name.lower().endswith(tuple(suffixes)):
                raise TrainingError(
                    f"{path}: expected a file ending in {', '.join(suffixes)}", code="import_file_format"
                )
            found.append(SourceFile(path, "", PurePosixPath(path.name)))
    if not found:
        named = ", ".join(str(path) for path in paths)
        raise TrainingError(f"{named}: no file ending in {', '.join(suffixes)}", code="import_nothing_found")
    return found


def refuse_pickle(path: Path) -> None:
    """Raise ``import_pickle_refused`` for a pickle, by its ending or its first bytes."""
    try:
        with path.open("rb") as stream:
            start = stream.read(2)
    except OSError as error:
        raise unreadable(path, type(error).__name__) from error
    if path.name.lower().endswith(_PICKLE_SUFFIXES) or start in _PICKLE_START:
        raise TrainingError(f"{path.name} {_PICKLE_ADVICE}", code="import_pickle_refused")


def read_records(file: SourceFile) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Read a table or a list of objects, whatever its format.

    Parameters
    ----------
    file : SourceFile
        CSV with a head line, JSON Lines, JSON (a list of objects, or an object that holds one under ``data``) or
        Parquet; each but Parquet may be compressed (``.gz``).

    Yields
    ------
    (int, dict or None)
        Row number from 1, and the record; None for a row that is none (a CSV line with too many or too few fields, a
        JSON value that is no object).

    Raises
    ------
    TrainingError
        ``import_file_unreadable``.
    """
    name = file.name.removesuffix(".gz")
    if name.endswith(".csv"):
        return _csv_records(file)
    if name.endswith(".jsonl"):
        return _json_lines(file)
    if name.endswith(".parquet"):
        return _parquet_records(file)
    return _json_records(file)


def read_json(file: SourceFile) -> object:
    """Decode a whole JSON file; damage is ``import_file_unreadable``."""
    try:
        return msgspec.json.decode(file.content())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise unreadable(file, f"not JSON: {_reason(error)}") from error


def text_of(value: object) -> str:
    """Read a field that should hold text; numbers become text, anything else the empty text."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def number_of(value: object) -> float | None:
    """Read a number, a truth value or the text of one; None for anything else and for NaN."""
    if isinstance(value, bool | int | float):
        try:
            number = float(value)
        except OverflowError:
            return None
        return None if number != number else number
    if not isinstance(value, str) or len(value) > 64:
        return None
    text = value.strip().lower()
    if text in {"true", "false"}:
        return float(text == "true")
    try:
        number = float(text)
    except ValueError:
        return None
    return None if number != number else number


def whole_of(value: object) -> int | None:
    """Read a whole number >= 0 or the text of one; None for anything else."""
    number = number_of(value)
    return int(number) if number is not None and 0 <= number < 2**53 and number == int(number) else None


def _in_folder(folder: Path, suffixes: Sequence[str]) -> Iterator[SourceFile]:
    for path in sorted(folder.rglob("*")):
        relative = PurePosixPath(path.relative_to(folder).as_posix())
        if path.is_symlink() or not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        if path.suffix.lower() == ".zip":
            yield from _in_archive(path, relative, suffixes)
        elif path.name.lower().endswith(tuple(suffixes)):
            yield SourceFile(path, "", PurePosixPath(folder.name) / relative)


def _in_archive(path: Path, relative: PurePosixPath, suffixes: Sequence[str]) -> Iterator[SourceFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
    except _READ_ERRORS as error:
        raise unreadable(path, type(error).__name__) from error
    for name in names:
        parts = PurePosixPath(name).parts
        if name.lower().endswith(tuple(suffixes)) and not any(part.startswith((".", "__MACOSX")) for part in parts):
            yield SourceFile(path, name, relative / name)


def _is_small(archive: zipfile.ZipFile, member: str) -> bool:
    return archive.getinfo(member).file_size <= MAX_FILE_BYTES


def _csv_records(file: SourceFile) -> Iterator[tuple[int, dict[str, Any] | None]]:
    text = io.TextIOWrapper(io.BytesIO(file.content()), encoding="utf-8-sig", newline="")
    before = csv.field_size_limit(MAX_FIELD_BYTES)
    try:
        reader = csv.reader(text, strict=True)
        head = next(reader, [])
        for number, fields in enumerate(reader, 1):
            if fields:
                yield number, dict(zip(head, fields, strict=True)) if len(fields) == len(head) else None
    except (csv.Error, UnicodeDecodeError) as error:
        raise unreadable(file, f"not CSV in UTF-8: {_reason(error)}") from error
    finally:
        csv.field_size_limit(before)


def _json_lines(file: SourceFile) -> Iterator[tuple[int, dict[str, Any] | None]]:
    for number, line in enumerate(file.content().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            record = None
        yield number, record if isinstance(record, dict) else None


def _json_records(file: SourceFile) -> Iterator[tuple[int, dict[str, Any] | None]]:
    content = read_json(file)
    if isinstance(content, dict):
        content = content.get("data")
    if not isinstance(content, list):
        raise unreadable(file, "neither a list of objects nor an object with one under 'data'")
    for number, record in enumerate(content, 1):
        yield number, record if isinstance(record, dict) else None


def _parquet_records(file: SourceFile) -> Iterator[tuple[int, dict[str, Any] | None]]:
    from penstock_training.importers.parquet_tables import parquet_batches

    number = 0
    try:
        for batch in parquet_batches(io.BytesIO(file.content())):
            for record in batch:
                number += 1
                yield number, record
    except ValueError as error:
        raise unreadable(file, str(error)) from error


def _reason(error: Exception) -> str:
    """Say what is wrong without repeating the file's text."""
    return type(error).__name__
