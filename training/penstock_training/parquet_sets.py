"""Outcome data sets in Parquet, near or far: where their row groups are, and reading one of them.

Owns the opening of a set by path or URL; everything here may run in a worker of another machine. Must not judge values.
Read `list_chunks`, then `read_chunk`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from penstock_routers.installation import install_command
from penstock_training.errors import OutcomeError
from penstock_training.outcome_files import CodedText, RawOutcomes, open_parquet, parquet_columns, target_column
from penstock_training.splits import normalise_question

_SAMPLED: Final = 32  # questions of a chunk that help to divide all of them evenly
_SAMPLE_LETTERS: Final = 64
_ENDING: Final = ".parquet"
_INSTALL: Final = f"install that store's fsspec package, and: {install_command('ship')}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One row group of one file of a set.

    Attributes
    ----------
    url : str
        Path or URL of the set.
    path : str
        Of the file, as the set's file system names it.
    row_group : int
    """

    url: str
    path: str
    row_group: int


@dataclass(frozen=True, slots=True)
class ScannedChunk:
    """A chunk's columns without its prompts' texts.

    Attributes
    ----------
    raw : RawOutcomes
        In the place of each prompt `prompt_key` of it; a blank prompt stays as it is.
    questions : tuple of str
        Beginnings of a few normalised questions.
    """

    raw: RawOutcomes
    questions: tuple[str, ...]


def is_parquet_set(given: str) -> bool:
    """Whether an outcome source is a URL or a folder, which only a set can be."""
    return "://" in given or Path(given).is_dir()


def set_name(url: str) -> str:
    """Name a set in reports and as the source of its rows: the last part of its path or URL."""
    return PurePosixPath(url.partition("://")[2] or url).name


def list_chunks(url: str) -> list[Chunk]:
    """List the row groups of a set, files in the order of their names.

    Parameters
    ----------
    url : str
        A Parquet file or a folder of them, below it included; a local path, or a URL as fsspec names it. Files whose
        names begin with ``.`` or ``_`` are left out, as is their custom.

    Returns
    -------
    list of Chunk

    Raises
    ------
    OutcomeError
        ``outcome_file_missing``, ``outcome_file_format`` (no Parquet file), ``outcome_file_unreadable``,
        ``outcome_store_unknown``.
    """
    store, root = _open_store(url)
    try:
        kind = store.get_file_info(root).type
        if kind == pafs.FileType.NotFound:
            raise OutcomeError(f"{url}: no such file or folder", code="outcome_file_missing")
        paths = [root] if kind == pafs.FileType.File else _parquet_files(store, root)
        if not paths or not all(path.endswith(_ENDING) for path in paths):
            raise OutcomeError(f"{url}: expected Parquet files, ending in {_ENDING}", code="outcome_file_format")
        counts = [pq.read_metadata(path, filesystem=store).num_row_groups for path in paths]
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(url, error) from error
    return [Chunk(url, path, group) for path, count in zip(paths, counts, strict=True) for group in range(count)]


def scan_chunk(shared: None, chunk: Chunk) -> ScannedChunk:
    """Read a chunk where the texts of its prompts may be, and return it without them; work for an engine."""
    store, _ = _open_store(chunk.url)
    try:
        with open_parquet(chunk.path, store) as file:
            raw = parquet_columns(Path(set_name(chunk.url)), file, [chunk.row_group])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(chunk.path, error) from error
    prompt = raw.text["prompt"]
    step = max(1, len(prompt.values) // _SAMPLED)
    questions = tuple(normalise_question(text)[:_SAMPLE_LETTERS] for text in prompt.values[::step])
    raw.text["prompt"] = CodedText(prompt.codes, tuple(prompt_key(text) for text in prompt.values))
    return ScannedChunk(raw, questions)


def read_texts(chunk: Chunk, keys: Sequence[str]) -> list[str]:
    """Read the texts of some prompts of a chunk, in the order of their keys.

    Raises
    ------
    OutcomeError
        ``outcome_file_unreadable``: the set cannot be read, or has changed since it was scanned.
    """
    store, _ = _open_store(chunk.url)
    try:
        with open_parquet(chunk.path, store) as file:
            present = frozenset(file.schema_arrow.names)
            (name,) = (name for name in file.schema_arrow.names if target_column(name, present) == "prompt")
            column = file.read_row_group(chunk.row_group, columns=[name]).column(0)
            texts = {prompt_key(text): text for text in column.unique().to_pylist() if text is not None}
            return [texts[key] for key in keys]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(chunk.path, error) from error
    except (KeyError, ValueError) as error:
        message = f"{chunk.path}: the file has changed while it was read"
        raise OutcomeError(message, code="outcome_file_unreadable") from error


def prompt_key(text: str) -> str:
    """SHA-256 of a prompt as 64 hex digits, to stand for it where its text is not; a blank one stands for itself."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() if text.strip() else text


def _parquet_files(store: Any, root: str) -> list[str]:
    found = store.get_file_info(pafs.FileSelector(root, recursive=True))
    own = [info.path for info in found if info.type == pafs.FileType.File and info.path.endswith(_ENDING)]
    start = len(PurePosixPath(root).parts)
    return sorted(path for path in own if not any(part[0] in "._" for part in PurePosixPath(path).parts[start:]))


def _open_store(url: str) -> tuple[Any, str]:
    """Open the file system of a path or URL: fsspec's client where there is one, pyarrow's own otherwise."""
    if "://" not in url:
        return pafs.LocalFileSystem(), str(Path(url).absolute())
    try:
        import fsspec.core

        store, path = fsspec.core.url_to_fs(url)
        return pafs.PyFileSystem(pafs.FSSpecHandler(store)), str(path).rstrip("/")
    except (ImportError, ValueError) as missing:
        try:
            inner, path = pafs.FileSystem.from_uri(url)
        except (pa.ArrowException, OSError) as error:
            message = f"nothing that is installed opens {url.partition('://')[0]}:// ({missing}); {_INSTALL}"
            raise OutcomeError(message, code="outcome_store_unknown") from error
        return inner, str(path).rstrip("/")


def _unreadable(path: str, error: Exception) -> OutcomeError:
    if isinstance(error, FileNotFoundError):
        return OutcomeError(
            f"{path}: no such file where it was to be read; a path has to exist on every node, a URL does anyway",
            code="outcome_file_missing",
        )
    return OutcomeError(f"{path}: not a readable Parquet file ({type(error).__name__})", code="outcome_file_unreadable")
