"""The journal of a run: everything that was paid for, on disk before the next call starts.

Owns the file ``OUT.journal``: one JSON record per line, appended and never rewritten; its lock; what a run that was
killed leaves behind; and the comparison of settings. Must not call models or decide what is asked next. Read `Journal`.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock_training.errors import TrainingError

VERSION: Final = 1
SYNC_SECONDS: Final = 1.0  # a kill loses nothing; a power failure loses at most this much
_SHOWN: Final = 60


class RunStarted(msgspec.Struct, frozen=True, tag="run", forbid_unknown_fields=True):
    """First record: what is asked, and under which settings.

    Attributes
    ----------
    version : int
    settings : dict of str to JSON value
        A continued run must have equal ones.
    sample : list of (str, str)
        Key and sampling of every chosen prompt, in the order in which they are asked.
    """

    version: int
    settings: dict[str, Any]
    sample: list[tuple[str, str]]


class CallStarted(msgspec.Struct, frozen=True, tag="start", forbid_unknown_fields=True):
    """A call, or the scoring of a prompt (``arm`` is ""), is about to cost at most ``bound_usd``."""

    call: int
    key: str
    arm: str
    bound_usd: Decimal


class CallEnded(msgspec.Struct, frozen=True, tag="end", forbid_unknown_fields=True, omit_defaults=True):
    """A call came to an end.

    Attributes
    ----------
    call : int
    key, arm : str
    result : str
        ``answered``, ``censored`` (time-out) or ``failed``.
    charge_usd : Decimal
        What the budget is charged: the cost where it is known, else the most it can have been.
    timestamp : float
        UNIX seconds of the end.
    latency_seconds : float
    answer : str or None
    input_tokens, output_tokens : int or None
    cost_usd : Decimal or None
        None where nobody said.
    finish_reason : str or None
    reason : str or None
        Why it failed; a stable word.
    """

    call: int
    key: str
    arm: str
    result: str
    charge_usd: Decimal
    timestamp: float
    latency_seconds: float
    answer: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: Decimal | None = None
    finish_reason: str | None = None
    reason: str | None = None


class PromptScored(msgspec.Struct, frozen=True, tag="scores", forbid_unknown_fields=True):
    """The answers to one prompt were scored.

    Attributes
    ----------
    call : int
    key : str
    scores : dict of str to (float or None, str)
        Score and reason per arm.
    charge_usd : Decimal
    """

    call: int
    key: str
    scores: dict[str, tuple[float | None, str]]
    charge_usd: Decimal


Record = RunStarted | CallStarted | CallEnded | PromptScored
_decoder = msgspec.json.Decoder(Record)
_encoder = msgspec.json.Encoder(decimal_format="string")


@dataclass(slots=True)
class RunState:
    """What a journal says.

    Attributes
    ----------
    ended : dict of (str, str) to CallEnded
        The last end per key and arm; an answer or a time-out is never replaced by a failure.
    scored : dict of str to PromptScored
        The last scoring per key.
    spent_usd : Decimal
        All charges, and the bounds of calls that were under way when a run was killed.
    lost_calls : int
        How many of those there were.
    next_call : int
    """

    ended: dict[tuple[str, str], CallEnded] = field(default_factory=dict)
    scored: dict[str, PromptScored] = field(default_factory=dict)
    spent_usd: Decimal = Decimal(0)
    lost_calls: int = 0
    next_call: int = 1

    def take(self, record: CallEnded | PromptScored) -> None:
        """Remember a result."""
        if isinstance(record, PromptScored):
            self.scored[record.key] = record
            return
        cell = (record.key, record.arm)
        if record.result != "failed" or cell not in self.ended or self.ended[cell].result == "failed":
            self.ended[cell] = record

    def missing_arms(self, key: str, arms: tuple[str, ...]) -> tuple[str, ...]:
        """Arms that have neither answered a prompt nor let it time out."""
        return tuple(arm for arm in arms if (key, arm) not in self.ended or self.ended[key, arm].result == "failed")

    def answered_arms(self, key: str, arms: tuple[str, ...]) -> tuple[str, ...]:
        """Arms that have answered a prompt."""
        return tuple(arm for arm in arms if (key, arm) in self.ended and self.ended[key, arm].result == "answered")

    def needs_scoring(self, key: str, arms: tuple[str, ...]) -> bool:
        """Whether there are answers that the last scoring did not see."""
        answered = set(self.answered_arms(key, arms))
        return bool(answered) and (key not in self.scored or set(self.scored[key].scores) != answered)


class Journal:
    """An open journal, locked for this process.

    Attributes
    ----------
    path : Path
    start : RunStarted
    state : RunState
    cut_bytes : int
        Length of a damaged last line that was cut off; 0 when there was none.
    is_continued : bool
        Whether an earlier run had begun it.
    """

    def __init__(
        self, path: Path, descriptor: int, start: RunStarted, state: RunState, *, cut_bytes: int, is_continued: bool
    ) -> None:
        self.path, self.start, self.state = path, start, state
        self.cut_bytes, self.is_continued = cut_bytes, is_continued
        self._descriptor = descriptor
        self._synced = time.monotonic()

    def begin_call(self, key: str, arm: str, bound_usd: Decimal) -> int:
        """Write down that a call starts, before it starts; returns its number."""
        number = self.state.next_call
        self.state.next_call += 1
        self._append(CallStarted(number, key, arm, bound_usd))
        return number

    def end_call(self, record: CallEnded | PromptScored) -> None:
        """Write down how a call, or a scoring, ended."""
        self._append(record)
        self.state.take(record)

    def close(self) -> None:
        """Bring everything to the disk and give the lock back."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _append(self, record: Record) -> None:
        _write(self._descriptor, record)
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            os.fsync(self._descriptor)
            self._synced = time.monotonic()


@contextlib.contextmanager
def open_journal(path: Path, settings: Mapping[str, Any], sample: list[tuple[str, str]]) -> Iterator[Journal]:
    """Begin a journal, or go on with the one that is there.

    Parameters
    ----------
    path : Path
    settings : mapping of str to JSON value
        Of this run; those of the journal must be equal.
    sample : list of (str, str)
        The choice of a run that begins; one that goes on keeps the journal's.

    Yields
    ------
    Journal
        Closed at the end.

    Raises
    ------
    TrainingError
        ``journal_locked``: another process writes it. ``journal_damaged``: a line other than the last one cannot be
        read. ``other_settings``: it was begun with others, which are named. ``journal_unwritable``.
    """
    descriptor = _open_locked(path)
    try:
        records, cut_bytes = _read_records(path, descriptor)
        if records:
            start = _first(path, records)
            _refuse_other_settings(path, start.settings, settings)
        else:
            start = RunStarted(VERSION, dict(settings), sample)
            _write(descriptor, start)
            os.fsync(descriptor)
        journal = Journal(
            path, descriptor, start, _replay(records[1:]), cut_bytes=cut_bytes, is_continued=bool(records)
        )
    except BaseException:
        os.close(descriptor)
        raise
    try:
        yield journal
    finally:
        journal.close()


def peek_journal(path: Path, settings: Mapping[str, Any]) -> tuple[RunStarted, RunState] | None:
    """Read a journal without writing or locking it: its first record and its state; None when there is none.

    Raises
    ------
    TrainingError
        As `open_journal`.
    """
    if not path.exists():
        return None
    with path.open("rb") as file:
        records, _ = _read_records(path, file.fileno(), may_cut=False)
    if not records:
        return None
    start = _first(path, records)
    _refuse_other_settings(path, start.settings, settings)
    return start, _replay(records[1:])


def _open_locked(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror}", code="journal_unwritable") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        message = f"another run is writing {path}; wait for it, or choose another --out"
        raise TrainingError(message, code="journal_locked") from error
    return descriptor


def _read_records(path: Path, descriptor: int, *, may_cut: bool = True) -> tuple[list[Record], int]:
    """All records, and the length of a damaged end, which is cut off."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        content = file.read()
    records: list[Record] = []
    position = 0
    for number, line in enumerate(io.BytesIO(content), 1):
        try:
            if not line.endswith(b"\n"):
                raise msgspec.DecodeError("unfinished")
            records.append(_decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if position + len(line) < len(content):
                message = f"{path}: line {number} is damaged, and it is not the last one; mend or remove the file"
                raise TrainingError(message, code="journal_damaged") from error
            if may_cut:
                os.ftruncate(descriptor, position)
            return records, len(line)
        position += len(line)
    return records, 0


def _first(path: Path, records: list[Record]) -> RunStarted:
    start = records[0]
    if not isinstance(start, RunStarted) or start.version != VERSION:
        raise TrainingError(f"{path} is no journal of this version of penstock-train", code="journal_damaged")
    return start


def _replay(records: list[Record]) -> RunState:
    state = RunState()
    open_bounds: dict[int, Decimal] = {}
    for record in records:
        if isinstance(record, CallStarted):
            open_bounds[record.call] = record.bound_usd
            state.next_call = max(state.next_call, record.call + 1)
        elif isinstance(record, CallEnded | PromptScored):
            open_bounds.pop(record.call, None)
            state.spent_usd += record.charge_usd
            state.take(record)
    state.spent_usd += sum(open_bounds.values(), Decimal(0))
    state.lost_calls = len(open_bounds)
    return state


def _refuse_other_settings(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    as_stored = msgspec.json.decode(_encoder.encode(dict(now)))
    lines = [
        f"  {name}: {_shown(before.get(name))} before, {_shown(as_stored.get(name))} now"
        for name in sorted({*before, *as_stored})
        if before.get(name) != as_stored.get(name)
    ]
    if lines:
        message = f"{path} was begun with other settings; repeat them or choose another --out"
        raise TrainingError("\n".join([message, *lines]), code="other_settings")


def _shown(value: object) -> str:
    text = "nothing" if value is None else _encoder.encode(value).decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _write(descriptor: int, record: Record) -> None:
    """Append one record completely; the system has it when this returns, so a kill of the process loses nothing."""
    line = memoryview(_encoder.encode(record) + b"\n")
    while line:
        line = line[os.write(descriptor, line) :]
