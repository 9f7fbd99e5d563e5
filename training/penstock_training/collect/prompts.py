"""Prompts to collect outcomes for: read from several kinds of files, checked, each question once.

Owns the prompt file formats (``docs/collecting.md``) and what is left out of them. Must not choose among prompts
(`selection` does) or call anything. Read `read_prompts`.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock_routers.token_counts import message_tokens
from penstock_training.errors import TrainingError
from penstock_training.importers.event_files import RECORD
from penstock_training.languages import UNKNOWN, language_of
from penstock_training.splits import normalise_question

SUFFIXES: Final = (".jsonl", ".jsonl.gz", ".ndjson", ".txt", ".parquet")
DEFAULT_MAX_PROMPT_TOKENS: Final = 8_000  # longer ones cost as much as dozens of others and teach as much as one
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
PROBLEM_KINDS: Final = (  # explained in docs/collecting.md
    "broken_line",
    "no_prompt",
    "empty_prompt",
    "not_text",
    "over_long",
    "duplicate_question",
    "repeated_query_id",
)
_EVENTS_WITHOUT_PROMPT: Final = frozenset({"outcome", "feedback", "audit", "damaged"})
_ROLES: Final = frozenset({"system", "developer", "user", "assistant"})


@dataclass(frozen=True, slots=True)
class CollectPrompt:
    """One prompt that may be asked.

    Attributes
    ----------
    query_id : str
        Given by the file, or made from the text.
    source : str
        Set that the prompt belongs to; the file's name without its ending when the file says nothing.
    prompt : str
        Text of the last user message: what a router looks at, and what the outcome rows carry.
    messages : tuple of (str, str)
        Role and text of every message that is sent.
    reference : str or None
        The right answer, for scorers that compare.
    category : str or None
    """

    query_id: str
    source: str
    prompt: str
    messages: tuple[tuple[str, str], ...]
    reference: str | None
    category: str | None

    @property
    def key(self) -> str:
        """Identifies the prompt over all files of a run."""
        return f"{self.source}\x1f{self.query_id}"


@dataclass(frozen=True, slots=True)
class PromptProblem:
    """One kind of problem: how often it occurred, and where first.

    Attributes
    ----------
    kind : str
        One of `PROBLEM_KINDS`.
    count : int
    example : str
        File, line and length of the first one; never its text.
    """

    kind: str
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class PromptSet:
    """What was read.

    Attributes
    ----------
    prompts : tuple of CollectPrompt
        In the order of the files.
    rows_read : int
    problems : tuple of PromptProblem
        Each names rows that were left out.
    languages : dict of str to int
        Prompts per guessed language, most frequent first; ``unknown`` where nothing speaks for one.
    digest : str
        SHA-256 over all prompts as 64 hex digits.
    """

    prompts: tuple[CollectPrompt, ...]
    rows_read: int
    problems: tuple[PromptProblem, ...]
    languages: dict[str, int]
    digest: str

    def describe(self) -> str:
        """Say what was read and what was left out, one fact per line."""
        lines = [f"{len(self.prompts):,} prompts to choose from, {self.rows_read:,} rows read"]
        lines += [f"  {p.count:>7,}  {p.kind:<20} left out; first: {p.example}" for p in self.problems]
        known = {name: count for name, count in self.languages.items() if name != UNKNOWN}
        if len(known) > 1:
            shown = ", ".join(f"{name} {count:,}" for name, count in known.items())
            lines.append(f"  several languages (a guess): {shown}; the bundled encoders know English best")
        return "\n".join(lines)


def read_prompts(paths: Sequence[Path], *, max_prompt_tokens: int = DEFAULT_MAX_PROMPT_TOKENS) -> PromptSet:
    """Read prompt files and event logs.

    Parameters
    ----------
    paths : sequence of Path
        JSON Lines (``.jsonl``, ``.jsonl.gz``, ``.ndjson``), plain text (``.txt``, a prompt per line) or Parquet.
    max_prompt_tokens : int
        Estimated tokens beyond which a prompt is left out; >= 1.

    Returns
    -------
    PromptSet
        Every question once, the first row of equal ones (`splits.normalise_question`) standing for all.

    Raises
    ------
    TrainingError
        ``prompt_file_missing``, ``prompt_file_format``, ``prompt_file_unreadable``, or ``no_prompts`` when nothing is
        left.
    """
    found = _Gathering(max_prompt_tokens)
    for path in paths:
        for place, row in _rows(path):
            if not _is_event_without_prompt(row):
                found.add(path, place, row)
    if not found.prompts:
        problems = "".join(f"\n  {p.count:,} {p.kind}; first: {p.example}" for p in found.problem_list())
        raise TrainingError(f"no usable prompt in {found.rows:,} rows{problems}", code="no_prompts")
    languages = Counter(language_of(entry.prompt) for entry in found.prompts)
    digest = hashlib.sha256()
    for entry in found.prompts:
        digest.update(msgspec.json.encode(entry) + b"\n")
    return PromptSet(
        tuple(found.prompts), found.rows, found.problem_list(), dict(languages.most_common()), digest.hexdigest()
    )


def _is_event_without_prompt(row: dict[str, Any] | None) -> bool:
    """Whether a row is an event of the gateway's that never holds a prompt: an outcome, or feedback."""
    return row is not None and "schema" in row and row.get("type") in _EVENTS_WITHOUT_PROMPT


class _RowError(Exception):
    """A row is left out: the kind of problem, and what may be shown of it."""

    def __init__(self, kind: str, shown: str) -> None:
        super().__init__(kind)
        self.kind, self.shown = kind, shown


class _Gathering:
    """Takes rows one by one; keeps good prompts, counts the rest."""

    def __init__(self, max_prompt_tokens: int) -> None:
        self.prompts: list[CollectPrompt] = []
        self.rows = 0
        self._max_prompt_tokens = max_prompt_tokens
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._questions: set[tuple[str, ...]] = set()
        self._keys: set[str] = set()

    def add(self, path: Path, place: str, row: dict[str, Any] | None) -> None:
        """Keep one row or count why not."""
        self.rows += 1
        try:
            self.prompts.append(self._check(_to_prompt(row, path.name.split(".")[0])))
        except _RowError as error:
            self._counts[error.kind] += 1
            self._examples.setdefault(error.kind, f"{path.name} {place}, {error.shown}")

    def _check(self, entry: CollectPrompt) -> CollectPrompt:
        tokens = sum(message_tokens(text) for _, text in entry.messages)
        length = f"{len(entry.prompt):,} characters"
        if tokens > self._max_prompt_tokens:
            raise _RowError("over_long", f"about {tokens:,} tokens, more than {self._max_prompt_tokens:,}")
        before = tuple(f"{role}\x1f{text}" for role, text in entry.messages[:-1])
        question = (*before, normalise_question(entry.prompt))
        if question in self._questions:
            raise _RowError("duplicate_question", length)
        if entry.key in self._keys:
            raise _RowError("repeated_query_id", f"another question under the same query_id, {length}")
        self._questions.add(question)
        self._keys.add(entry.key)
        return entry

    def problem_list(self) -> tuple[PromptProblem, ...]:
        """Problems, most frequent first."""
        return tuple(PromptProblem(kind, count, self._examples[kind]) for kind, count in self._counts.most_common())


def _to_prompt(row: dict[str, Any] | None, source: str) -> CollectPrompt:
    """Make a prompt of one row; None stands for a line that could not be read."""
    if row is None:
        raise _RowError("broken_line", "not one JSON object in UTF-8")
    messages = _messages(row)
    text = messages[-1][1]
    if not text.strip():
        raise _RowError("empty_prompt", f"{len(text):,} characters")
    identity = _text_or_none(row, "query_id") or _text_or_none(row, "decision_id")
    if identity is None:
        identity = "p-" + hashlib.sha256(msgspec.json.encode(messages)).hexdigest()[:16]
    return CollectPrompt(
        identity,
        _text_or_none(row, "source") or source,
        text,
        messages,
        _text_or_none(row, "reference"),
        _text_or_none(row, "category"),
    )


def _messages(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    prompt, messages = row.get("prompt"), row.get("messages")
    if isinstance(prompt, str):
        return (("user", prompt),)
    if prompt is not None:
        raise _RowError("no_prompt", f"prompt is a {type(prompt).__name__}, not a text")
    if not isinstance(messages, list) or not messages:
        raise _RowError("no_prompt", "neither prompt nor messages")
    found = [_message(message) for message in messages]
    while found and found[-1][0] == "assistant":  # a logged conversation ends with the answer that was given
        found.pop()
    if not found or found[-1][0] != "user":
        raise _RowError("no_prompt", "the last message is not the user's")
    return tuple(found)


def _message(message: object) -> tuple[str, str]:
    if not isinstance(message, dict) or message.get("role") not in _ROLES or message.get("tool_calls"):
        raise _RowError("not_text", "a message that is no text of system, user or assistant")
    content = message.get("content")
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        content = None if None in parts else "\n".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise _RowError("not_text", "a message with an attachment or without text")
    return str(message["role"]), content


def _text_or_none(row: dict[str, Any], name: str) -> str | None:
    """A text, or a number or truth value as JSON writes it; None where there is nothing."""
    value = row.get(name)
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Rows of one file with where they stand; None for a line that cannot be read."""
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise TrainingError(f"{path}: expected a file ending in {', '.join(SUFFIXES)}", code="prompt_file_format")
    if not path.is_file():
        raise TrainingError(f"{path}: no such file", code="prompt_file_missing")
    try:
        if name.endswith(".parquet"):
            yield from _parquet_rows(path)
        else:
            yield from _lines(path, is_plain=name.endswith(".txt"))
    except (OSError, EOFError, zlib.error) as error:
        message = f"{path}: cannot be read ({type(error).__name__})"
        raise TrainingError(message, code="prompt_file_unreadable") from error


def _lines(path: Path, *, is_plain: bool) -> Iterator[tuple[str, dict[str, Any] | None]]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place = f"line {number:,}"
            try:
                if len(line) > MAX_LINE_BYTES:
                    yield place, None
                elif is_plain:
                    yield place, {"prompt": line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")}
                elif line.strip():
                    yield place, decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                yield place, None


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = ("prompt", "messages", "reference", "query_id", "decision_id", "category", "source")
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in wanted if name in file.schema_arrow.names]
            is_segment = RECORD in file.schema_arrow.names and "prompt" not in columns
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=[RECORD] if is_segment else columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number:,}", _event_in(row) if is_segment else row
    except pa.ArrowException as error:
        message = f"{path}: not a readable Parquet file ({type(error).__name__})"
        raise TrainingError(message, code="prompt_file_unreadable") from error


def _event_in(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return the event of a compacted segment's row; None when it cannot be read."""
    try:
        return msgspec.json.decode(row[RECORD] or "", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
