"""Where the ledger's counters lie in Redis, and how its scripts are asked.

Owns key names and the shape of every script's argument; the scripts own what happens. Read `Layout`.

All keys of an organisation have one hash tag, so that one script may touch any of them on a cluster:

======================== ====== ==========================================================================
``{penstock:ORG}:clock``   hash   ``epoch`` (empty: the books were lost), ``served``, ``now``
``…:open``                 hash   id of a request or slice under way → its record (``books.lua``)
``…:leases``               zset   the same ids by the time at which their leases end
``…:held``                 hash   ``WINDOW|SCOPE`` → picodollars held; ``parallel|SCOPE`` → requests under way
``…:spent:WINDOW``         hash   scope → picodollars; kept 35 days after the window's end, ``total`` for ever
``…:settled:SECOND``       set    marks of requests admitted in that second that were charged
``…:rate:SCOPE``           hash   units used of both buckets, gone when they are whole again
``…:logs``                 hash   ``LOG`` and ``LOG REPLICA`` → up to when its charges are counted, ms
``…:replicas``             hash   who puts its charges back after a loss
======================== ====== ==========================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from penstock_gateway.ledger.contract import Account, Charge
from penstock_gateway.ledger.periods import KEEP_SECONDS, Calendar, moment, moment_ms
from penstock_gateway.ledger.reckoning import BudgetLine, distinct, whole_amount, whole_tokens

_encode = msgspec.json.Encoder().encode
_PARALLEL: Final = "parallel"


@dataclass(frozen=True, slots=True)
class ReplicaIdentity:
    """Who a replica is to the books.

    Attributes
    ----------
    replica : str
        Of this process alone.
    log : str
        Of its event log, the same after a restart; the books remember up to when its charges are counted. Without
        spaces.
    """

    replica: str
    log: str


@dataclass(frozen=True, slots=True)
class BooksMark:
    """Whether the books are whole.

    Attributes
    ----------
    epoch : str
        Changes when the books were lost and put back; empty while they are not whole.
    counted_until : float or None
        UNIX seconds up to which a log's charges are counted; None when the books know nothing of that log.
    """

    epoch: str
    counted_until: float | None


@dataclass(slots=True)
class HeldRequest:
    """A request under way, as its owner knows it.

    Attributes
    ----------
    id : str
    accounts : tuple of Account
        Prepared.
    lines : list of BudgetLine
    amount_picousd, tokens : int
        Held in all.
    at : float
        UNIX seconds.
    began : float
        Monotonic seconds.
    """

    id: str
    accounts: tuple[Account, ...]
    lines: list[BudgetLine]
    amount_picousd: int
    tokens: int
    at: float
    began: float

    @property
    def record(self) -> str:
        """What Redis keeps of it; see ``books.lua``."""
        record = {
            "a": str(self.amount_picousd),
            "t": self.tokens,
            "f": [line.field for line in self.lines],
            "p": [_parallel(each.scope) for each in self.accounts if each.limits.parallel_requests is not None],
            "b": [
                (each.scope, each.limits.tokens_per_minute)
                for each in self.accounts
                if each.limits.tokens_per_minute is not None
            ],
        }
        return _encode(record).decode()


class KeyTable:
    """Keys of one run of a script, each once, by their place."""

    def __init__(self, first: Sequence[bytes]) -> None:
        self.keys = list(first)
        self._places = {key: place for place, key in enumerate(first, start=1)}

    def place(self, key: bytes) -> int:
        """Return a key's place, from 1 on."""
        place = self._places.get(key)
        if place is None:
            self.keys.append(key)
            place = self._places[key] = len(self.keys)
        return place


class Layout:
    """Names and arguments for one organisation.

    Parameters
    ----------
    organisation : str
        Without braces.
    calendar : Calendar
    lease_ms : int
    settled_seconds : int
        How long a mark is kept.
    """

    def __init__(self, organisation: str, calendar: Calendar, *, lease_ms: int, settled_seconds: int) -> None:
        self._prefix = f"{{penstock:{organisation}}}:".encode()
        self._calendar = calendar
        self._lease_ms = lease_ms
        self._settled_seconds = settled_seconds
        self.shared = tuple(self._prefix + name for name in (b"clock", b"open", b"leases", b"held"))
        self.logs = self._prefix + b"logs"
        self.replicas = self._prefix + b"replicas"

    def table(self, *more: bytes) -> KeyTable:
        """Return a table that begins with the keys which every script wants."""
        return KeyTable((*self.shared, *more))

    def spent(self, window_id: str) -> bytes:
        """Return the key of a window's spend."""
        return self._prefix + b"spent:" + window_id.encode()

    def rate(self, scope: str) -> bytes:
        """Return the key of a scope's buckets."""
        return self._prefix + b"rate:" + scope.encode()

    def marks(self, at: float) -> bytes:
        """Return the key of the marks of requests admitted in the same second.

        Small sets of whole numbers take eight bytes an entry, up to 512 a second; sets of ids would take ten times as
        much.
        """
        return self._prefix + b"settled:" + str(moment_ms(at) // 1000).encode()

    def reserve(self, request: HeldRequest, epoch: str) -> tuple[list[bytes], dict[str, Any]]:
        """Return keys and argument of ``reserve.lua``, and of ``top_up.lua`` with some more."""
        table = self.table(self.marks(request.at))
        ask = {
            "epoch": epoch,
            "lease": self._lease_ms,
            "id": request.id,
            "mark": mark_of(request.id),
            "amount": str(request.amount_picousd),
            "tokens": request.tokens,
            "record": request.record,
            "budgets": self.budgets(request.lines, table),
            "rates": self.rates(request.accounts, table),
        }
        return table.keys, ask

    def budgets(self, lines: Iterable[BudgetLine], table: KeyTable) -> list[dict[str, Any]]:
        """Return what scripts are told of budgets."""
        return [
            {
                "w": table.place(self.spent(line.window.id)),
                "s": line.scope,
                "f": line.field,
                "l": str(whole_amount(line.budget.limit_picousd)),
            }
            for line in lines
        ]

    def rates(self, accounts: Iterable[Account], table: KeyTable) -> list[dict[str, Any]]:
        """Return what scripts are told of limits; accounts without any are left out."""
        found = []
        for account in accounts:
            limits = account.limits
            if limits.is_empty:
                continue
            given = {"r": limits.requests_per_minute, "t": limits.tokens_per_minute, "p": limits.parallel_requests}
            rate = {name: limit for name, limit in given.items() if limit is not None}
            place = table.place(self.rate(account.scope))
            found.append({"k": place, "s": account.scope, "f": _parallel(account.scope), **rate})
        return found

    def settle(self, charges: Sequence[Charge], released: Sequence[str]) -> tuple[list[bytes], dict[str, Any]]:
        """Return keys and argument of ``settle.lua``."""
        table = self.table()
        ends: dict[int, int] = {}
        rates: dict[str, int] = {}
        asked = []
        for charge in charges:
            scopes = [account.scope for account in distinct(charge.accounts)]
            places = []
            for window in self._calendar.windows(moment(charge.at)):
                place = table.place(self.spent(window.id))
                places.append(place)
                if window.ends_at is not None:
                    ends[place] = int(window.ends_at) + KEEP_SECONDS
            for account in charge.accounts:
                rates[account.scope] = table.place(self.rate(account.scope))
            asked.append(
                {
                    "i": charge.id,
                    "k": table.place(self.marks(charge.at)),
                    "m": mark_of(charge.id),
                    "a": str(whole_amount(charge.amount_picousd)),
                    "t": whole_tokens(charge.tokens),
                    "s": scopes,
                    "w": places,
                }
            )
        ask = {
            "keep": self._settled_seconds,
            "charges": asked,
            "rates": rates,
            "ends": list(ends.items()),
            "released": list(released),
        }
        return table.keys, ask


def mark_of(request_id: str) -> str:
    """Return 64 bits that stand for an id among those of its second, as decimal text.

    Notes
    -----
    Two of 500 ids in one second share a mark with a probability of 7·10⁻¹⁵, and the later one would not be charged.
    """
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return str(int.from_bytes(digest, "big", signed=True))


def _parallel(scope: str) -> str:
    return f"{_PARALLEL}|{scope}"
