"""The ledger in Redis: one script, and one round trip, for every operation.

Owns what this replica has under way and what the scripts' replies mean. It knows nothing of what happens while Redis is
away: then it refuses, and `fleet.FleetLedger` decides. Works with Redis 5 or later, one server or a cluster. Read
`RedisLedger.reserve`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from penstock_gateway.ledger.contract import (
    Account,
    BudgetState,
    Charge,
    Grant,
    LedgerUnavailable,
    Period,
    Refusal,
    RefusalReason,
    Reservation,
)
from penstock_gateway.ledger.leases import LEASE_SECONDS, MAX_OPEN_SECONDS
from penstock_gateway.ledger.periods import Calendar, moment
from penstock_gateway.ledger.rates import RateUse, limit_refusal, limit_states
from penstock_gateway.ledger.reckoning import (
    AWAY,
    BudgetLine,
    budget_lines,
    budget_refusal,
    budget_state,
    grant_of,
    prepared,
    whole_amount,
    whole_tokens,
)
from penstock_gateway.ledger.redis_layout import BooksMark, HeldRequest, Layout, ReplicaIdentity
from penstock_gateway.ledger.redis_scripts import RedisCommands, Reply, ScriptRunner
from penstock_gateway.ledger.slices import SliceAsk, SliceHeld

SETTLED_SECONDS: Final = 86_400
"""How long Redis remembers which requests were charged: a charge that is settled again later counts twice."""
TIMEOUT_SECONDS: Final = 0.05

_PATIENCE: Final = 5.0  # of what nobody waits for, as a factor on the deadline
_CHARGES_AT_ONCE: Final = 200  # some 3 ms of Redis's time
_IDS_AT_ONCE: Final = 500
_MAX_STRAYS: Final = 10_000
_COUNTER_FULL, _COUNTER_BROKEN = "counter_full", "counter_broken"


class RedisLedger:
    """Counts in Redis; every method is one script or a few.

    Parameters
    ----------
    commands : RedisCommands
        Anything that sends commands and raises `StoreUnavailable`; who made it closes it.
    calendar : Calendar, optional
        Windows of budgets; UTC by default. The same on every replica.
    organisation : str
        Fleets with different names share a server without meeting; the hash tag of all keys.
    lease_seconds, timeout_seconds, settled_seconds : float
        Life of a reservation that nobody prolongs; deadline of a reservation and of a top-up; life of a mark.
    clock : callable
        Monotonic seconds.
    server_clock : callable or None
        Seconds that take the place of Redis's own, in tests.
    on_problem : callable
        Called with ``counter_full`` or ``counter_broken`` when a counter could not be added to.

    Attributes
    ----------
    epoch : str
        Of the books that this replica knows to be whole. What is asked under another epoch is refused, so that no
        budget is granted from books that somebody has flushed.
    is_lost : bool
        The books have another epoch, or none.

    Notes
    -----
    A reservation whose reply does not come in time may have been made. The same id again finds it; else it is given
    back with the next `renew`, or when its lease ends.
    """

    def __init__(
        self,
        commands: RedisCommands,
        calendar: Calendar | None = None,
        *,
        organisation: str = "default",
        lease_seconds: float = LEASE_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        settled_seconds: float = SETTLED_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        server_clock: Callable[[], float] | None = None,
        on_problem: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.calendar = calendar or Calendar()
        self.epoch = ""
        self.is_lost = False
        self._lease_ms = round(lease_seconds * 1000)
        self._layout = Layout(
            organisation, self.calendar, lease_ms=self._lease_ms, settled_seconds=max(1, round(settled_seconds))
        )
        self._scripts = ScriptRunner(commands, timeout_seconds)
        self._clock = clock
        self._server_clock = server_clock
        self._on_problem = on_problem
        self._own: dict[str, HeldRequest] = {}
        self._strays: dict[str, None] = {}

    @property
    def open_requests(self) -> int:
        """Requests under way of this replica that are held here and not settled."""
        return len(self._own)

    async def reserve(self, reservation: Reservation) -> Grant | Refusal:
        """Hold a request's upper bound on all of its accounts, or on none; unavailable when nobody can say."""
        request = self._request(reservation)
        keys, ask = self._layout.reserve(request, self.epoch)
        self._strays.pop(request.id, None)
        try:
            reply = await self._run("reserve", keys, ask)
        except LedgerUnavailable:
            self._note_stray(request.id)
            return AWAY
        except asyncio.CancelledError:
            self._note_stray(request.id)
            raise
        outcome, place = _text(reply[0]), int(reply[1])
        if outcome == "lost":
            self.is_lost = True
            return AWAY
        states = _budget_states(request.lines, reply[2:])
        limited = [account for account in request.accounts if not account.limits.is_empty]
        uses = _rate_uses(reply[2 + 2 * len(states) :])
        if outcome == "budget":
            return budget_refusal(states[place - 1], request.amount_picousd, request.at)
        if outcome in ("requests", "tokens", "parallel"):
            account, use = limited[place - 1], uses[place - 1]
            return limit_refusal(RefusalReason(outcome), account.scope, account.limits, use, request.tokens)
        if outcome == "granted" or (outcome == "open" and request.id not in self._own):
            self._own[request.id] = request
        limits = [
            state
            for account, use in zip(limited, uses, strict=True)
            for state in limit_states(account.scope, account.limits, use)
        ]
        return grant_of(states, limits)

    async def top_up(self, reservation_id: str, amount_picousd: int, tokens: int) -> Refusal | None:
        """Hold so much more for a request under way; one that this replica did not reserve is unavailable."""
        request = self._own.get(reservation_id)
        if request is None:
            return AWAY
        grown = replace(
            request,
            amount_picousd=whole_amount(request.amount_picousd + whole_amount(amount_picousd)),
            tokens=whole_tokens(request.tokens + whole_tokens(tokens)),
        )
        try:
            outcome, states = await self._hold(grown, request, is_forced=grown.amount_picousd == request.amount_picousd)
        except LedgerUnavailable:
            return AWAY
        if isinstance(outcome, int):
            return budget_refusal(states[outcome - 1], grown.amount_picousd, request.at)
        request.amount_picousd, request.tokens = grown.amount_picousd, grown.tokens
        return None

    async def settle(self, charges: Sequence[Charge]) -> None:
        """Charge requests that are over and give back the rest of what was held for them."""
        for start in range(0, len(charges), _CHARGES_AT_ONCE):
            batch = charges[start : start + _CHARGES_AT_ONCE]
            await self._settle(batch, [])
            for charge in batch:
                self._own.pop(charge.id, None)
                self._strays.pop(charge.id, None)

    async def renew(self, identity: ReplicaIdentity | None = None, counted_until: float | None = None) -> None:
        """Prolong the leases of requests under way, hold again what was lost, and give back what has strayed.

        Parameters
        ----------
        identity : ReplicaIdentity, optional
        counted_until : float or None
            UNIX seconds; all charges that this replica's log had then are settled.

        Raises
        ------
        LedgerUnavailable
        """
        self._forget_the_oldest()
        progress: dict[str, Any] = {}
        if identity is not None and counted_until is not None:
            progress = {"log": f"{identity.log} {identity.replica}", "through": int(counted_until * 1000)}
        for ids in _chunks(list(self._own)) or [[]]:
            table = self._layout.table(self._layout.logs)
            ask = {"lease": self._lease_ms, "ids": ids, **progress}
            reply = await self._run("renew", table.keys, ask, patience=_PATIENCE)
            self._note_epoch(reply[0])
            if not self.has_books():
                return
            await self.hold_again(_text(missing) for missing in reply[1:])
        await self.release_strays()

    @property
    def has_strays(self) -> bool:
        """Whether there are requests that Redis may hold and that nobody here waits for."""
        return bool(self._strays)

    async def release_strays(self) -> None:
        """Give back what is held for requests whose reservation was not confirmed in time.

        Raises
        ------
        LedgerUnavailable
        """
        for strays in _chunks([each for each in self._strays if each not in self._own]):
            await self._settle((), strays)
            for stray in strays:
                self._strays.pop(stray, None)

    async def hold_again(self, request_ids: Iterable[str] | None = None) -> None:
        """Hold what requests under way may still come to, whatever the budgets say: they go on all the same.

        Parameters
        ----------
        request_ids : iterable of str, optional
            Default: all of this replica.

        Raises
        ------
        LedgerUnavailable
        """
        for request_id in list(self._own) if request_ids is None else request_ids:
            request = self._own.get(request_id)
            if request is not None:
                await self._hold(request, request, is_forced=True)

    def find(self, request_id: str) -> HeldRequest | None:
        """Return a request under way that this replica holds here."""
        return self._own.get(request_id)

    async def adopt(self, reservation: Reservation) -> Refusal | None:
        """Hold a request here that was granted elsewhere; limits on rates have been looked at there."""
        request = self._request(reservation)
        self._own[request.id] = replace(request, amount_picousd=0, tokens=0)
        refusal = await self.top_up(request.id, request.amount_picousd, request.tokens)
        if refusal is not None:
            self._own.pop(request.id, None)
            self._note_stray(request.id)
        return refusal

    async def states(self, accounts: Sequence[Account], at: float) -> tuple[BudgetState, ...]:
        """Return how far the accounts' budgets are used in the windows of a moment."""
        lines = budget_lines(prepared(accounts), self.calendar, moment(at))
        table = self._layout.table()
        reply = await self._read(table.keys, self._layout.budgets(lines, table))
        return tuple(_budget_states(lines, reply))

    async def spent_picousd(self, scopes: Sequence[str], period: Period, at: float) -> tuple[int, ...]:
        """Return what each scope has spent in the window of a moment."""
        window = self.calendar.window(period, moment(at))
        table = self._layout.table(self._layout.spent(window.id))
        place = len(table.keys)
        reply = await self._read(table.keys, [{"w": place, "s": scope} for scope in scopes])
        return tuple(int(spent) for spent in reply[::2])

    async def hold_slices(
        self, replica: str, asks: Sequence[SliceAsk], *, lease_seconds: float, share: int, is_forced: bool = False
    ) -> list[SliceHeld]:
        """Hold slices in the place of those that the replica had of the same budgets.

        Parameters
        ----------
        replica : str
        asks : sequence of SliceAsk
        lease_seconds : float
        share : int
            A slice takes at most one part in so many of what is free of its budget.
        is_forced : bool
            Also while the books are put back.

        Raises
        ------
        LedgerUnavailable
        """
        table = self._layout.table()
        budgets = self._layout.budgets([ask.line for ask in asks], table)
        for budget, each in zip(budgets, asks, strict=True):
            budget |= {
                "i": f"slice {replica} {each.line.field}",
                "want": str(each.wanted_picousd),
                "least": str(each.least_picousd),
                "share": share,
            }
        ask = {"epoch": self.epoch, "lease": round(lease_seconds * 1000), "budgets": budgets, "is_forced": is_forced}
        reply = await self._run("slice", table.keys, ask, patience=_PATIENCE)
        if _text(reply[0]) == "lost":
            self.is_lost = True
            raise _lost()
        return [SliceHeld(*(int(value) for value in reply[at : at + 3])) for at in range(1, len(reply), 3)]

    async def mark(
        self,
        state: str,
        identity: ReplicaIdentity,
        *,
        counted_until: float = 0.0,
        new_epoch: str = "",
        grace_seconds: float = 0.0,
    ) -> BooksMark:
        """Ask whether the books are whole, or say how far this replica is in putting its charges back.

        Parameters
        ----------
        state : str
            ``look``, ``busy``, ``done`` or ``close``.
        identity : ReplicaIdentity
        counted_until : float
            With ``done`` and ``close``: UNIX seconds up to which the log's charges are counted.
        new_epoch : str
            That the books get when every replica that is busy is done.
        grace_seconds : float
            How long after the first replica noticed the loss the others have to notice it.

        Raises
        ------
        LedgerUnavailable
        """
        table = self._layout.table(self._layout.logs, self._layout.replicas)
        ask = {
            "log": identity.log,
            "replica": identity.replica,
            "state": state,
            "through": int(counted_until * 1000),
            "new_epoch": new_epoch,
            "grace": round(grace_seconds * 1000),
            "stale": self._lease_ms,
        }
        reply = await self._run("mark", table.keys, ask, patience=_PATIENCE)
        through = _text(reply[1])
        return BooksMark(_text(reply[0]), int(through) / 1000.0 if through else None)

    async def aclose(self) -> None:
        """Do nothing: what is under way is held until it is settled or its lease ends."""

    def has_books(self) -> bool:
        """Whether this replica knows whole books, and has not seen since that they were lost."""
        return bool(self.epoch) and not self.is_lost

    def use(self, epoch: str) -> None:
        """Take the books of an epoch for whole."""
        self.epoch, self.is_lost = epoch, False

    async def _run(self, name: str, keys: Sequence[bytes], ask: dict[str, Any], *, patience: float = 1.0) -> Reply:
        ask["step"] = self._lease_ms // 2
        if self._server_clock is not None:
            ask["now"] = int(self._server_clock() * 1000.0)
        return await self._scripts.run(name, keys, ask, patience=patience)

    async def _read(self, keys: Sequence[bytes], budgets: list[dict[str, Any]]) -> Reply:
        reply = await self._run("read", keys, {"budgets": budgets}, patience=_PATIENCE)
        self._note_epoch(reply[0])
        if not self.has_books():
            raise _lost()
        return reply[1:]

    async def _hold(
        self, request: HeldRequest, before: HeldRequest, *, is_forced: bool
    ) -> tuple[int | None, list[BudgetState]]:
        """Hold so much in all, and return the place of the budget that refuses it, or None."""
        keys, ask = self._layout.reserve(request, self.epoch)
        ask |= {"more_tokens": request.tokens - before.tokens, "is_forced": is_forced}
        reply = await self._run("top_up", keys, ask)
        outcome = _text(reply[0])
        if outcome == "lost":
            self.is_lost = True
            raise _lost()
        return int(reply[1]) if outcome == "budget" else None, _budget_states(request.lines, reply[2:])

    async def _settle(self, charges: Sequence[Charge], released: Sequence[str]) -> None:
        keys, ask = self._layout.settle(charges, released)
        epoch, _, full, broken = await self._run("settle", keys, ask, patience=_PATIENCE)
        self._note_epoch(epoch)
        for problem, count in ((_COUNTER_FULL, full), (_COUNTER_BROKEN, broken)):
            if count:
                self._on_problem(problem)

    def _request(self, reservation: Reservation) -> HeldRequest:
        accounts, at = prepared(reservation.accounts), moment(reservation.at)
        return HeldRequest(
            reservation.id,
            accounts,
            budget_lines(accounts, self.calendar, at),
            whole_amount(reservation.amount_picousd),
            whole_tokens(reservation.tokens),
            at,
            self._clock(),
        )

    def _note_epoch(self, epoch: bytes | int) -> None:
        if _text(epoch) != self.epoch:
            self.is_lost = True

    def _note_stray(self, request_id: str) -> None:
        """Remember a request of which nobody can say whether it is held."""
        self._strays[request_id] = None
        if len(self._strays) > _MAX_STRAYS:
            self._strays.pop(next(iter(self._strays)))

    def _forget_the_oldest(self) -> None:
        latest = self._clock() - MAX_OPEN_SECONDS
        for request_id in [each.id for each in self._own.values() if each.began < latest]:
            del self._own[request_id]


def _budget_states(lines: Sequence[BudgetLine], counters: Reply) -> list[BudgetState]:
    return [
        budget_state(line, int(counters[2 * place]), int(counters[2 * place + 1])) for place, line in enumerate(lines)
    ]


def _rate_uses(counters: Reply) -> list[RateUse]:
    numbers: Iterable[int] = map(int, counters)
    return [RateUse(*three) for three in zip(*[iter(numbers)] * 3, strict=True)]


def _chunks(ids: list[str]) -> list[list[str]]:
    return [ids[start : start + _IDS_AT_ONCE] for start in range(0, len(ids), _IDS_AT_ONCE)]


def _text(value: bytes | int) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _lost() -> LedgerUnavailable:
    return LedgerUnavailable("The ledger in Redis was lost and is not put back yet.")
