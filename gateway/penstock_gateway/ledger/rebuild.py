"""From the event log back to the ledger: the charges of its outcomes, and what was spent by window.

Pure. Rows are what ``events.reading.read_events`` yields for ``outcome`` and ``checkpoint``; ``reports.reconcile``
compares with live figures. Read `charges_of`, then `spend_of`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from penstock_gateway.ledger.contract import Account, Charge, Period
from penstock_gateway.ledger.periods import Calendar, moment
from penstock_gateway.money.amounts import MAX_PICOUSD

_REMEMBERED: Final = 1_000_000  # a repeated outcome follows the first one closely: a batch that the disk took half
_CHECKPOINT: Final = "checkpoint"


@dataclass(frozen=True, slots=True, order=True)
class SpendRow:
    """What a scope has spent in one window.

    Attributes
    ----------
    scope : str
    period : Period
    window : str
    at : float
        A moment in it, UNIX seconds.
    picousd : int
    """

    scope: str
    period: Period
    window: str
    at: float
    picousd: int


def charges_of(
    rows: Iterable[Mapping[str, Any]], *, log: str = "", on_unreadable: Callable[[], None] = lambda: None
) -> Iterator[Charge]:
    """Yield the charge of every outcome, each decision once.

    Parameters
    ----------
    rows : iterable of mapping
        Outcomes: ``decision_id``, ``admitted_at``, ``accounts`` (scopes), ``cost_picousd`` (None: nothing) and
        ``tokens`` or ``usage``. Rows of type ``checkpoint``: ``scope``, ``at``, ``seconds``, ``cost_picousd``. Rows of
        other types are passed over.
    log : str
        Identity of the log, where the charges of several are put into the same books.
    on_unreadable : callable
        Called for every row that names no request, no moment, or an amount that is none.

    Notes
    -----
    O(n); memory is bounded by the last million ids. A checkpoint's row stands for many requests of one scope in one
    log, and its charge has an id of its own.
    """
    seen: dict[str, None] = {}
    for row in rows:
        kind = row.get("type", "outcome")
        if kind not in ("outcome", _CHECKPOINT):
            continue
        charge = _checkpoint_charge(row, log) if kind == _CHECKPOINT else _outcome_charge(row)
        if charge is None:
            on_unreadable()
        elif charge.id not in seen:
            seen[charge.id] = None
            if len(seen) > _REMEMBERED:
                del seen[next(iter(seen))]
            yield charge


def spend_of(charges: Iterable[Charge], calendar: Calendar) -> dict[tuple[str, Period, str], SpendRow]:
    """Return what was spent by scope, period and window.

    Parameters
    ----------
    charges : iterable of Charge
        Each request once, as `charges_of` gives them.
    calendar : Calendar
        The ledger's.
    """
    found: dict[tuple[str, Period, str], list[Any]] = {}
    for charge in charges:
        at = moment(charge.at)
        for window in calendar.windows(at):
            for scope in {account.scope for account in charge.accounts}:
                entry = found.setdefault((scope, window.period, window.id), [at, 0])
                entry[1] += charge.amount_picousd
    return {key: SpendRow(*key, at, min(picousd, MAX_PICOUSD)) for key, (at, picousd) in found.items()}


def _outcome_charge(row: Mapping[str, Any]) -> Charge | None:
    decision_id, scopes = row.get("decision_id"), row.get("accounts") or ()
    at, amount = _number(row.get("admitted_at")), _amount(row.get("cost_picousd"))
    if not isinstance(decision_id, str) or not decision_id or at is None or amount is None:
        return None
    if not isinstance(scopes, Sequence) or not all(isinstance(scope, str) for scope in scopes):
        return None
    return Charge(decision_id, tuple(Account(scope) for scope in scopes), amount, _tokens(row), float(at))


def _checkpoint_charge(row: Mapping[str, Any], log: str) -> Charge | None:
    scope, at, amount = row.get("scope"), _number(row.get("at")), _amount(row.get("cost_picousd"))
    if not isinstance(scope, str) or at is None or amount is None:
        return None
    return Charge(f"checkpoint {log} {scope} {at} {row.get('seconds')}", (Account(scope),), amount, 0, float(at))


def _tokens(row: Mapping[str, Any]) -> int:
    usage = row.get("usage")
    if "tokens" not in row and isinstance(usage, Mapping):
        return sum(int(_number(usage.get(name)) or 0) for name in ("input_tokens", "output_tokens"))
    return int(_number(row.get("tokens")) or 0)


def _amount(value: object) -> int | None:
    if value is None:
        return 0
    is_amount = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_PICOUSD
    return value if is_amount else None  # type: ignore[return-value]


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None  # type: ignore[return-value]
