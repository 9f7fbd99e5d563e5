"""Spend by the event log beside spend by the ledger, and why they may differ.

Pure: both sides are arguments. The counting of the log is `ledger.rebuild`'s. Read `log_spend`, then `compare_spend`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from penstock_gateway.ledger.contract import Account, Charge, Period
from penstock_gateway.ledger.periods import KEEP_SECONDS, Calendar
from penstock_gateway.ledger.rebuild import SpendRow, charges_of, spend_of
from penstock_gateway.reports.joined import Record, number_of, text_of, whole_of

SpendKey = tuple[str, Period, str]
"""Scope, period and window."""

RECENT_SECONDS: Final = 60.0
"""How long after its outcome a charge may be on its way to the ledger; settling takes a fraction of a second."""


class Cause(StrEnum):
    """Why log and ledger may differ."""

    NOT_SETTLED = "not_settled"  # outcomes of the last minute explain what the ledger lacks
    LOG_BEGINS_WITHIN = "log_begins_within"  # the log's first event lies in this window
    UNREADABLE = "unreadable"  # lines of the log could not be read
    LEDGER_EMPTY = "ledger_empty"  # the ledger has nothing at all: started anew, or the key is deleted
    NOT_IN_LOG = "not_in_log"  # the log has nothing at all: another gateway's folder, or deleted events
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SpendDifference:
    """A window in which log and ledger disagree.

    Attributes
    ----------
    scope : str
    period : Period
    window : str
    at : float
        A moment in it, UNIX seconds.
    logged_picousd, live_picousd : int
        By the event log, and by the ledger.
    causes : tuple of Cause
    """

    scope: str
    period: Period
    window: str
    at: float
    logged_picousd: int
    live_picousd: int
    causes: tuple[Cause, ...]

    @property
    def missing_picousd(self) -> int:
        """What the ledger lacks; negative when it has more than the log."""
        return self.logged_picousd - self.live_picousd


@dataclass(slots=True)
class LoggedSpend:
    """What a log says was spent.

    Attributes
    ----------
    rows : dict of SpendKey to SpendRow
    first_at : float or None
        When the earliest request was admitted, UNIX seconds.
    outcomes, unreadable : int
    estimated_picousd : int
        Part of all spend whose usage no provider reported, or whose price is not the deployment's own.
    recent : Counter of str
        Picodollars of the last minute, by scope.
    """

    rows: dict[SpendKey, SpendRow] = field(default_factory=dict)
    first_at: float | None = None
    outcomes: int = 0
    unreadable: int = 0
    estimated_picousd: int = 0
    recent: Counter[str] = field(default_factory=Counter)

    def windows(self, periods: Collection[Period], calendar: Calendar, now: float) -> dict[tuple[Period, str], float]:
        """Return the windows that a ledger still keeps, each with a moment in it.

        Parameters
        ----------
        periods : collection of Period
        calendar : Calendar
            The ledger's.
        now : float
            UNIX seconds.
        """
        found: dict[tuple[Period, str], float] = {}
        for row in sorted(self.rows.values()):
            ends_at = calendar.window(row.period, row.at).ends_at
            if row.period in periods and (ends_at is None or ends_at + KEEP_SECONDS > now):
                found.setdefault((row.period, row.window), row.at)
        return found


def log_spend(records: Iterable[Record], calendar: Calendar, *, now: float) -> LoggedSpend:
    """Add up what the events of a folder say was spent.

    Parameters
    ----------
    records : iterable of mapping
        ``outcome`` and ``checkpoint`` rows, as `events.reading.read_events` yields them.
    calendar : Calendar
        The ledger's.
    now : float
        UNIX seconds.

    Returns
    -------
    LoggedSpend
        Each request counted once, in the windows in which it was admitted.
    """
    found = LoggedSpend()

    def note_unreadable() -> None:
        found.unreadable += 1

    found.rows = spend_of(charges_of(_watched(records, found, now), on_unreadable=note_unreadable), calendar)
    return found


def compare_spend(
    logged: LoggedSpend,
    live: Mapping[SpendKey, int],
    asked: Mapping[tuple[Period, str], float],
    calendar: Calendar,
) -> list[SpendDifference]:
    """Return every window in which the figures differ, by scope and time.

    Parameters
    ----------
    logged : LoggedSpend
    live : mapping of SpendKey to int
        Picodollars by the ledger; a scope that it lacks has spent nothing.
    asked : mapping of (Period, str) to float
        The windows that the ledger was asked for, each with a moment in it; others are not compared.
    calendar : Calendar
    """
    by_log = {key: row.picousd for key, row in logged.rows.items() if key[1:] in asked}
    first = set() if logged.first_at is None else {(w.period, w.id) for w in calendar.windows(logged.first_at)}
    found = []
    for key in sorted(by_log.keys() | live.keys()):
        scope, period, window = key
        mine, theirs = by_log.get(key, 0), live.get(key, 0)
        if mine != theirs and (period, window) in asked:
            causes = _causes(mine, theirs, logged, scope, begins_within=(period, window) in first)
            found.append(SpendDifference(scope, period, window, asked[period, window], mine, theirs, causes))
    return found


def corrections(differences: Sequence[SpendDifference]) -> list[Charge]:
    """Return the charges that bring the ledger's days up to the log, and with them the longer windows.

    Parameters
    ----------
    differences : sequence of SpendDifference
        Those of days are corrected; whatever may still be settled is left alone, and what the ledger has above the log
        cannot be taken from it.

    Returns
    -------
    list of Charge
        The same difference gives the same id, so a correction that is sent twice counts once for as long as the ledger
        remembers ids.
    """
    return [
        Charge(
            f"reconcile {found.scope} {found.window} {found.live_picousd} {found.logged_picousd}",
            (Account(found.scope),),
            found.missing_picousd,
            0,
            found.at,
        )
        for found in differences
        if found.period is Period.DAY and found.missing_picousd > 0 and Cause.NOT_SETTLED not in found.causes
    ]


def _watched(records: Iterable[Record], found: LoggedSpend, now: float) -> Iterator[Record]:
    """Yield the records, noting what may explain a difference."""
    for record in records:
        kind = text_of(record.get("type"))
        at = number_of(record.get("at" if kind == "checkpoint" else "admitted_at"))
        if at is not None and (found.first_at is None or at < found.first_at):
            found.first_at = at
        if kind == "outcome":
            found.outcomes += 1
            amount = whole_of(record.get("cost_picousd")) or 0
            if record.get("is_cost_estimated") is True:
                found.estimated_picousd += amount
            if (number_of(record.get("time")) or 0.0) >= now - RECENT_SECONDS:
                scopes = record.get("accounts")
                found.recent.update({text_of(scope): amount for scope in scopes} if isinstance(scopes, list) else {})
        yield record


def _causes(mine: int, theirs: int, logged: LoggedSpend, scope: str, *, begins_within: bool) -> tuple[Cause, ...]:
    found = []
    missing = mine - theirs
    if 0 < missing <= logged.recent[scope]:
        found.append(Cause.NOT_SETTLED)
    elif missing > 0 and theirs == 0:
        found.append(Cause.LEDGER_EMPTY)
    if missing < 0:
        if logged.unreadable:
            found.append(Cause.UNREADABLE)
        if begins_within:
            found.append(Cause.LOG_BEGINS_WITHIN)
        if mine == 0:
            found.append(Cause.NOT_IN_LOG)
    return tuple(found) or (Cause.UNKNOWN,)
