"""Texts whose right answers are known: groups of wordings, read from files.

Owns the reading and checking of group and pair files. Must not embed or judge. Read `read_texts`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock_training.errors import TrainingError

# Signs count beside words, or "C" and "C++" would be one text; what merely punctuates a sentence does not.
_WORD = re.compile(r"(?<!\w)-?\d+(?:[.,:]\d+)*|\w+|[^\w\s.,;:!?'\"\u2018\u2019\u201c\u201d()\[\]-]+")
MAX_TEXT_CHARACTERS = 200_000
_QUAD = ("a", "a2", "b", "b2")


@dataclass(frozen=True, slots=True)
class TextSet:
    """A set of texts in groups of the same answer.

    Attributes
    ----------
    name : str
    texts : tuple of str, length n
    groups : ndarray of int64, shape (n,)
        0 … g − 1.
    categories : tuple of str, length n
        ``general`` where the file names none.
    blocks : ndarray of int64, shape (n,)
        Groups that were written as each other's near-miss, or the group itself: splits keep a block together.
    digest : str
        SHA-256 of the files' content.
    remarks : tuple of str
        What was noticed and handled while reading.
    """

    name: str
    texts: tuple[str, ...]
    groups: NDArray[np.int64]
    categories: tuple[str, ...]
    blocks: NDArray[np.int64]
    digest: str
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, rows: NDArray[np.int64]) -> TextSet:
        """Return some of the texts, with groups numbered anew."""
        return TextSet(
            self.name,
            tuple(self.texts[row] for row in rows),
            np.unique(self.groups[rows], return_inverse=True)[1],
            tuple(self.categories[row] for row in rows),
            np.unique(self.blocks[rows], return_inverse=True)[1],
            self.digest,
        )


def read_texts(files: Sequence[Path], *, name: str | None = None) -> TextSet:
    """Read JSONL files of groups, pairs or quads; ``.gz`` is unpacked.

    Parameters
    ----------
    files : sequence of Path
        One row is ``{"text", "group", "category"?}``, ``{"a", "b", "same": true|false, "category"?}``, or a quad
        ``{"a", "a2", "b", "b2", "category"?}`` whose first two texts have one answer and whose last two another.
    name : str, optional
        Default: the first file's.

    Returns
    -------
    TextSet
        The same words in two groups of one file set make one group of both: their labels contradict each other, and
        to serve one for the other is right. The remarks count them.

    Raises
    ------
    TrainingError
        Codes ``cache_texts_missing``, ``cache_texts_invalid`` (with file, line and what is wrong) and
        ``cache_texts_one_group`` when nothing could be told apart.
    """
    digest = hashlib.sha256()
    rows: list[tuple[str, str, str, str]] = []
    for path in files:
        content = _content(path)
        digest.update(content)
        # Not splitlines: texts hold line separators of Unicode, which JSON leaves as they are.
        for number, line in enumerate(content.decode("utf-8", "replace").split("\n"), start=1):
            if line.strip():
                rows += _rows(line, f"{path.name}:{number}", f"{path.name}:{number}")
    if len({group for _, group, _, _ in rows}) < 2:
        raise TrainingError(
            "the files hold fewer than two groups, so nothing could be told apart", code="cache_texts_one_group"
        )
    return _assembled(rows, name or files[0].name.split(".")[0], digest.hexdigest())


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is not a complete gzip file"
        raise TrainingError(f"{path} cannot be read: {reason}", code="cache_texts_missing") from None


def _rows(line: str, where: str, own: str) -> list[tuple[str, str, str, str]]:
    """Return text, group, category and block of one line's texts."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _invalid(where, f"not JSON ({getattr(error, 'msg', 'nested too deep or a number too long')})") from None
    if not isinstance(row, dict):
        raise _invalid(where, "not an object")
    category = row.get("category", "general")
    if not isinstance(category, str) or not category:
        raise _invalid(where, "'category' should be a text")
    if "text" in row:
        group = row.get("group")
        if not isinstance(group, str | int) or isinstance(group, bool) or group == "":
            raise _invalid(where, "'group' is missing, or neither a text nor a whole number")
        key = str(group)
        return [(_text(row, "text", where), key, category, key)]
    if all(name in row for name in _QUAD):
        return [(_text(row, name, where), f"{own}:{name[0]}", category, own) for name in _QUAD]
    if "a" in row and "b" in row and isinstance(row.get("same"), bool):
        second = "a" if row["same"] else "b"
        return [
            (_text(row, "a", where), f"{own}:a", category, own),
            (_text(row, "b", where), f"{own}:{second}", category, own),
        ]
    raise _invalid(where, "a row has 'text' and 'group', or 'a', 'b' and 'same', or 'a', 'a2', 'b' and 'b2'")


def _text(row: dict[str, Any], name: str, where: str) -> str:
    text = row[name]
    if not isinstance(text, str) or not text.strip():
        raise _invalid(where, f"'{name}' should be a text that is not empty")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise _invalid(where, f"'{name}' has more than {MAX_TEXT_CHARACTERS:,} characters")
    return text


def _invalid(where: str, what: str) -> TrainingError:
    return TrainingError(f"{where}: {what}", code="cache_texts_invalid")


def _assembled(rows: Iterable[tuple[str, str, str, str]], name: str, digest: str) -> TextSet:
    """Join groups that hold the same words, and number what is left."""
    texts, groups, categories, blocks = (list(column) for column in zip(*rows, strict=True))
    leader: dict[str, str] = {}

    def root(group: str) -> str:
        while (above := leader.get(group, group)) != group:
            group = above
        return group

    first: dict[str, str] = {}
    joined = 0
    for text, group in zip(texts, groups, strict=True):
        words = " ".join(_WORD.findall(text.casefold())) or text.strip()
        known = root(first.setdefault(words, group))
        if known != (own := root(group)):
            leader[own] = known
            joined += 1
    remarks = (f"{joined} groups hold the same words as another and were joined with it",) if joined else ()
    return TextSet(
        name,
        tuple(texts),
        np.unique([root(group) for group in groups], return_inverse=True)[1].astype(np.int64),
        tuple(categories),
        np.unique(blocks, return_inverse=True)[1].astype(np.int64),
        digest,
        remarks,
    )
