"""What audits have found and spent, over a restart.

Owns the file beside the file store: its form, its writing, and what is taken over from it. With another store it lives
in memory. Read `AuditBooks`, then `BookKeeper`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from penstock_cache.audit import AccountState, LedgerState
from penstock_cache.category_switch import SwitchState

FILE_NAME: Final = "audits.json"
_FILE_MODE: Final = 0o600
_PAUSE_SECONDS: Final = 1.0  # between two writes: audits come in bursts

_log = logging.getLogger("penstock.cache")


class AuditBooks(msgspec.Struct, forbid_unknown_fields=True):
    """All that outlives a process; no prompt, answer or tenant is in it.

    Attributes
    ----------
    rule : str
        Digest of the decision rule that the counts are about; empty without one.
    account : AccountState
    ledger : LedgerState
    switches : dict of str to SwitchState
        By category.
    """

    rule: str = ""
    account: AccountState = msgspec.field(default_factory=AccountState)
    ledger: LedgerState = msgspec.field(default_factory=LedgerState)
    switches: dict[str, SwitchState] = msgspec.field(default_factory=dict)

    def for_rule(self, rule: str) -> AuditBooks:
        """Return these books, or with another rule new ones with the same account: its hits are other hits."""
        return self if self.rule == rule else AuditBooks(rule=rule, account=self.account)


class BookKeeper:
    """Writes books to a file whenever they have changed.

    Parameters
    ----------
    path : Path or None
        None keeps them in memory only.
    books : AuditBooks
    on_problem : callable
        Called with a stable code when they cannot be written.
    """

    def __init__(self, path: Path | None, books: AuditBooks, on_problem: Callable[[str], None]) -> None:
        self.books = books
        self._path = path
        self._on_problem = on_problem
        self._has_changed = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, folder: Path | None, rule: str, on_problem: Callable[[str], None]) -> BookKeeper:
        """Read the books of a folder; damaged ones are a problem, and new ones are begun.

        Parameters
        ----------
        folder : Path or None
            None: nothing is kept.
        rule : str
            Digest of the rule in force.
        on_problem : callable
        """
        if folder is None:
            return cls(None, AuditBooks(rule=rule), on_problem)
        path = folder / FILE_NAME
        try:
            books = await asyncio.to_thread(_read, path)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            on_problem("cache_audits_unreadable")
            _log.warning("cache_audits_unreadable", extra={"path": str(path)})
            books = AuditBooks()
        return cls(path, books.for_rule(rule), on_problem)

    def note_change(self) -> None:
        """Have the books written soon."""
        self._has_changed.set()

    async def run(self) -> None:
        """Write the books whenever they have changed, without end."""
        while True:
            await self._has_changed.wait()
            self._writing = asyncio.create_task(self._write())
            await asyncio.shield(self._writing)  # its thread goes on when this is cancelled, so `close` waits for it
            await asyncio.sleep(_PAUSE_SECONDS)

    async def close(self) -> None:
        """Write what has changed since; `run` has been cancelled by now."""
        if self._writing is not None:
            await self._writing
        if self._has_changed.is_set():
            await self._write()

    async def _write(self) -> None:
        self._has_changed.clear()
        if self._path is None:
            return
        try:
            await asyncio.to_thread(_replace, self._path, msgspec.json.encode(self.books))
        except OSError:
            self._on_problem("cache_audits_unwritten")
            _log.warning("cache_audits_unwritten", extra={"path": str(self._path)})


def _read(path: Path) -> AuditBooks:
    if not path.exists():
        return AuditBooks()
    return msgspec.json.decode(path.read_bytes(), type=AuditBooks)


def _replace(path: Path, content: bytes) -> None:
    """Put a whole new file in the place of the old one, so that a crash leaves one of the two."""
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)
