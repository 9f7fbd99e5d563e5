"""The ledger of one process: plain dictionaries, no I/O, bounded memory.

For a gateway without Redis. It starts from the event log's charges (`MemoryLedger.restore`) and forgets everything when
the process ends. It answers as `redis_ledger.RedisLedger` does, operation by operation. Read `MemoryLedger.reserve`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from penstock_gateway.ledger.contract import (
    Account,
    BudgetState,
    Charge,
    Grant,
    Period,
    Refusal,
    Reservation,
)
from penstock_gateway.ledger.leases import LEASE_SECONDS, MAX_OPEN_SECONDS, LeaseClock, LeaseKeeper
from penstock_gateway.ledger.periods import KEEP_SECONDS, Calendar, Window, moment
from penstock_gateway.ledger.rates import RateBook
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
from penstock_gateway.money.amounts import MAX_PICOUSD

SETTLED_SECONDS: Final = 300.0
"""How long an id is remembered that was charged. Only a mistake of ours settles one twice in a process."""
MAX_SETTLED: Final = 500_000
"""Ids that are remembered at most, some 60 MB; the oldest go first."""

_KEEP_MS: Final[dict[Period, int | None]] = {
    Period.HOUR: 2 * 86_400_000,  # there are 840 in 35 days, and here they are in our own memory
    Period.DAY: (KEEP_SECONDS + 86_400) * 1000,
    Period.WEEK: (KEEP_SECONDS + 7 * 86_400) * 1000,
    Period.MONTH: (KEEP_SECONDS + 31 * 86_400) * 1000,
    Period.TOTAL: None,
}
_PURGE_MS: Final = 60_000


class _Request(msgspec.Struct):
    """A request under way. `lease_end` is None when its lease has ended: nothing is held for it then."""

    accounts: tuple[Account, ...]
    lines: list[BudgetLine]
    amount: int
    tokens: int
    at: float
    began_ms: int
    lease_end: int | None = None


@dataclass(slots=True)
class _Spend:
    """What every scope has spent in one window."""

    keep_ms: int | None
    touched_ms: int
    by_scope: dict[str, int]


class MemoryLedger:
    """Counts in this process; fulfils `Ledger`.

    Parameters
    ----------
    calendar : Calendar, optional
        Windows of budgets; UTC by default.
    lease_seconds : float
        How long a reservation is held that nobody prolongs.
    clock : callable
        Monotonic seconds.

    Notes
    -----
    Every method runs to its end without giving way to another task, and so is atomic. Leases are prolonged by `renew`,
    which `start` calls regularly.

    A zero amount fits into any budget, one that is used up included: a budget limits what is spent.
    """

    def __init__(
        self,
        calendar: Calendar | None = None,
        *,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calendar = calendar or Calendar()
        self._lease_ms = round(lease_seconds * 1000)
        self._clock = clock
        self._lease_clock = LeaseClock(self._lease_ms)
        self._keeper = LeaseKeeper(self.renew, lease_seconds)
        self._spent: dict[str, _Spend] = {}
        self._held: dict[str, int] = {}
        self._rates = RateBook()
        self._own: dict[str, _Request] = {}
        self._leased: OrderedDict[str, None] = OrderedDict()  # the one whose lease ends first comes first
        self._settled: OrderedDict[str, int] = OrderedDict()
        self._purged_ms = self._now_ms()

    def start(self) -> None:
        """Prolong leases from now on."""
        self._keeper.start()

    @property
    def open_requests(self) -> int:
        """Requests under way that are not settled."""
        return len(self._own)

    @property
    def remembered(self) -> int:
        """Entries of every kind that take memory."""
        spent = sum(len(spend.by_scope) for spend in self._spent.values())
        return spent + len(self._held) + len(self._own) + len(self._settled) + len(self._rates)

    async def reserve(self, reservation: Reservation) -> Grant | Refusal:
        """Hold a request's upper bound on all of its accounts, or on none."""
        now_ms, served_ms = self._open_books()
        request = self._request(reservation, now_ms)
        known = self._own.get(reservation.id)
        if known is not None and known.lease_end is not None:
            self._lease(reservation.id, known, served_ms)
        elif reservation.id not in self._settled:
            refusal = self._refusing_budget(request, request.amount) if request.amount else None
            refusal = refusal or self._rates.refusal(request.accounts, request.tokens, now_ms)
            if refusal is not None:
                return refusal
            self._own[reservation.id] = request
            self._hold(reservation.id, request, served_ms)
            self._rates.take(request.accounts, request.tokens, now_ms)
        return grant_of(self._states(request.lines), self._rates.states(request.accounts, now_ms))

    async def top_up(self, reservation_id: str, amount_picousd: int, tokens: int) -> Refusal | None:
        """Hold so much more for a request under way; one that is not is refused as unavailable."""
        now_ms, served_ms = self._open_books()
        request = self._own.get(reservation_id)
        if request is None:
            return AWAY
        total = whole_amount(request.amount + whole_amount(amount_picousd))
        all_tokens = whole_tokens(request.tokens + whole_tokens(tokens))
        if total > request.amount:
            refusal = self._refusing_budget(request, total)
            if refusal is not None:
                if request.lease_end is not None:
                    self._lease(reservation_id, request, served_ms)
                return refusal
        self._give_back(reservation_id, request)
        self._rates.correct(request.accounts, all_tokens - request.tokens, now_ms)
        request.amount, request.tokens = total, all_tokens
        self._hold(reservation_id, request, served_ms)
        return None

    async def settle(self, charges: Sequence[Charge]) -> None:
        """Charge requests that are over and give back the rest of what was held for them."""
        now_ms, _ = self._open_books()
        for charge in charges:
            self._charge(charge, now_ms)

    def restore(self, charges: Iterable[Charge]) -> int:
        """Charge what the event log says was spent before this process began, and return how many charges counted."""
        now_ms, _ = self._open_books()
        return sum(self._charge(charge, now_ms) for charge in charges)

    async def renew(self) -> None:
        """Prolong every lease, and hold again what a lease has ended for: its request goes on all the same."""
        now_ms, served_ms = self._open_books()
        for request_id, request in list(self._own.items()):
            if now_ms - request.began_ms > MAX_OPEN_SECONDS * 1000:
                self._give_back(request_id, request)
                del self._own[request_id]
            elif request.lease_end is not None:
                self._lease(request_id, request, served_ms)
            else:
                self._hold(request_id, request, served_ms)

    async def states(self, accounts: Sequence[Account], at: float) -> tuple[BudgetState, ...]:
        """Return how far the accounts' budgets are used in the windows of a moment."""
        self._open_books()
        return self._states(budget_lines(prepared(accounts), self._calendar, moment(at)))

    async def spent_picousd(self, scopes: Sequence[str], period: Period, at: float) -> tuple[int, ...]:
        """Return what each scope has spent in the window of a moment."""
        self._open_books()
        window = self._calendar.window(period, moment(at)).id
        return tuple(self._spent_in(window, scope) for scope in scopes)

    async def aclose(self) -> None:
        """Stop prolonging leases."""
        await self._keeper.aclose()

    def _now_ms(self) -> int:
        return int(self._clock() * 1000.0)

    def _open_books(self) -> tuple[int, int]:
        """Return the time of the buckets and that of the leases, and give back what leases have ended for."""
        now_ms = self._now_ms()
        served_ms = self._lease_clock.advance(now_ms)
        while self._leased:
            request_id = next(iter(self._leased))
            request = self._own[request_id]
            if request.lease_end is None or request.lease_end > served_ms:
                break
            self._give_back(request_id, request)
        if now_ms - self._purged_ms >= _PURGE_MS:
            self._purge(now_ms)
        return now_ms, served_ms

    def _request(self, reservation: Reservation, now_ms: int) -> _Request:
        accounts, at = prepared(reservation.accounts), moment(reservation.at)
        lines = budget_lines(accounts, self._calendar, at)
        amount, tokens = whole_amount(reservation.amount_picousd), whole_tokens(reservation.tokens)
        return _Request(accounts, lines, amount, tokens, at, now_ms)

    def _refusing_budget(self, request: _Request, amount: int) -> Refusal | None:
        """Return the refusal of the first budget in which an amount has no room in the place of what is held now."""
        own = request.amount if request.lease_end is not None else 0
        for line in request.lines:
            spent, held = self._spent_in(line.window.id, line.scope), self._held.get(line.field, 0)
            if spent + held - own + amount > line.budget.limit_picousd:
                return budget_refusal(budget_state(line, spent, held), amount, request.at)
        return None

    def _states(self, lines: Sequence[BudgetLine]) -> tuple[BudgetState, ...]:
        return tuple(
            [
                budget_state(line, self._spent_in(line.window.id, line.scope), self._held.get(line.field, 0))
                for line in lines
            ]
        )

    def _hold(self, request_id: str, request: _Request, served_ms: int) -> None:
        for line in request.lines:
            if request.amount:
                self._held[line.field] = self._held.get(line.field, 0) + request.amount
        self._rates.begin(request.accounts)
        self._lease(request_id, request, served_ms)

    def _lease(self, request_id: str, request: _Request, served_ms: int) -> None:
        request.lease_end = served_ms + self._lease_ms
        self._leased[request_id] = None
        self._leased.move_to_end(request_id)

    def _give_back(self, request_id: str, request: _Request) -> None:
        """Hold nothing for a request any more; it may be held again."""
        if request.lease_end is None:
            return
        request.lease_end = None
        del self._leased[request_id]
        self._rates.end(request.accounts)
        for line in request.lines:
            left = self._held.get(line.field, 0) - request.amount
            if left > 0:
                self._held[line.field] = left
            else:
                self._held.pop(line.field, None)

    def _charge(self, charge: Charge, now_ms: int) -> bool:
        """Charge a request unless it was charged before, and whether it was."""
        is_new = charge.id not in self._settled
        if is_new:
            self._settled[charge.id] = now_ms
            if len(self._settled) > MAX_SETTLED:
                self._settled.popitem(last=False)
            amount = whole_amount(charge.amount_picousd)
            if amount:
                scopes = {account.scope for account in charge.accounts}
                for window in self._calendar.windows(moment(charge.at)):
                    self._add(window, scopes, amount, now_ms)
        request = self._own.pop(charge.id, None)
        if request is not None and request.lease_end is not None:
            tokens = whole_tokens(charge.tokens) if is_new else 0
            self._rates.correct(request.accounts, tokens - request.tokens, now_ms)
            self._give_back(charge.id, request)
        return is_new

    def _add(self, window: Window, scopes: set[str], amount: int, now_ms: int) -> None:
        spend = self._spent.get(window.id)
        if spend is None:
            spend = self._spent[window.id] = _Spend(_KEEP_MS[window.period], now_ms, {})
        spend.touched_ms = now_ms
        for scope in scopes:
            spent = spend.by_scope.get(scope, 0) + amount
            spend.by_scope[scope] = spent if spent < MAX_PICOUSD else MAX_PICOUSD

    def _spent_in(self, window_id: str, scope: str) -> int:
        spend = self._spent.get(window_id)
        return 0 if spend is None else spend.by_scope.get(scope, 0)

    def _purge(self, now_ms: int) -> None:
        """Forget windows that are long over and ids that were charged long ago.

        Windows go by how long nothing was charged to them, not by their end: a wall clock that is set wrong for a
        moment must not cost the spend of the right day.
        """
        self._purged_ms = now_ms
        for window_id, spend in list(self._spent.items()):
            if spend.keep_ms is not None and now_ms - spend.touched_ms > spend.keep_ms:
                del self._spent[window_id]
        while self._settled:
            charge_id, settled_ms = next(iter(self._settled.items()))
            if now_ms - settled_ms <= SETTLED_SECONDS * 1000:
                return
            del self._settled[charge_id]
