"""The ledger of a fleet: Redis, and what happens while Redis is away.

Owns the fail modes. The counting is `redis_ledger`'s, slices are `slices`', the background is `upkeep`'s. Read
`FleetLedger`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from msgspec import structs

from penstock_gateway.ledger.contract import (
    Account,
    BudgetState,
    Charge,
    Grant,
    LedgerUnavailable,
    Period,
    RateLimits,
    Refusal,
    RefusalReason,
    Reservation,
)
from penstock_gateway.ledger.periods import moment
from penstock_gateway.ledger.rates import RateBook
from penstock_gateway.ledger.reckoning import (
    AWAY,
    BudgetLine,
    budget_lines,
    grant_of,
    prepared,
    whole_amount,
    whole_tokens,
)
from penstock_gateway.ledger.redis_ledger import RedisLedger
from penstock_gateway.ledger.slices import SliceBook
from penstock_gateway.ledger.upkeep import BooksState, Upkeep
from penstock_gateway.metrics_ledger import LedgerMetrics
from penstock_gateway.redis_guard import FailMode

_ATTEMPTS: Final = 5  # to find room where this replica's own slices were in the way, one for each period


@dataclass(slots=True)
class _Local:
    """A request, or the further part of one, that was granted from slices. `extra` is that it is also held in Redis."""

    reservation: Reservation
    accounts: tuple[Account, ...]
    lines: list[BudgetLine]
    amount: int
    tokens: int
    is_over: bool = False
    is_extra: bool = False


class FleetLedger:
    """Counts in Redis, and keeps to a stated bound without it; fulfils `Ledger`.

    Parameters
    ----------
    redis : RedisLedger
    upkeep : Upkeep
        Of the same `redis` and `slices`.
    mode : FailMode
        What happens to requests while Redis is away: ``local`` grants them from this replica's slices, ``open`` grants
        all, ``closed`` refuses all that have a budget or a limit.
    slices : SliceBook or None
        Needed for `FailMode.LOCAL`.
    metrics : LedgerMetrics
    replicas : int, at least 1
        Limits on rates are divided by it while Redis is away.
    is_full : callable
        Whether so many charges wait that no request should be admitted.
    clock : callable
        Monotonic seconds.

    Notes
    -----
    **The bound.** While Redis is away in `FailMode.LOCAL`, a replica grants at most what Redis holds for it as slices,
    and Redis counts slices as held. So over all replicas, what is spent, reserved and granted from slices never passes
    a limit, however long Redis is away, whether it comes back with its data or without (the replicas hold everything
    again before the books are opened). Three things can pass it, each by a known amount:

    - costs above their reservation (bounded by the top-up step where streams ask for more as they grow);
    - a replica that is cut off from a Redis that others reach: when its leases have ended (``lease_seconds`` for
      requests, ``slice_seconds`` for slices), what it had reserved and its slices are granted to others, and its own
      charges come later. At most its open reservations and its slices, each as large as `SliceRules` says;
    - a Redis that lost its data while a replica could not reach it for longer than the grace: at most that replica's
      open reservations and slices, and the charges of its own log until it puts them back.

    Limits on rates are kept by each replica alone meanwhile, divided by `replicas`; buckets are whole when that begins,
    and requests that Redis had granted do not count as parallel.

    In `FailMode.OPEN` nothing bounds anything while Redis is away. In every mode each charge is counted in the end.
    """

    def __init__(
        self,
        redis: RedisLedger,
        upkeep: Upkeep,
        mode: FailMode,
        slices: SliceBook | None,
        metrics: LedgerMetrics,
        *,
        replicas: int = 1,
        is_full: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_full = is_full
        self.upkeep = upkeep
        self._redis = redis
        self._slices = slices
        self.follow(mode)
        self._metrics = metrics
        self._replicas = replicas
        self._clock = clock
        self._rates = RateBook()
        self._local: dict[str, _Local] = {}

    def follow(self, mode: FailMode) -> None:
        """Do from now on what another mode says while Redis is away.

        Parameters
        ----------
        mode : FailMode
            Slices are given back, or taken, at the next look at the books. What was granted from a slice stays granted.
        """
        assert self._slices is not None or mode is not FailMode.LOCAL
        self._mode = mode
        if self._slices is not None:
            self._slices.is_filled = mode is FailMode.LOCAL

    async def start(self, deadline_seconds: float = 10.0) -> None:
        """Look at the books, put back what they lack, and go on in the background.

        Parameters
        ----------
        deadline_seconds : float
            How long to wait for it; after that requests are answered as the fail mode says until it is done.
        """
        await self.upkeep.start(deadline_seconds)

    @property
    def local_requests(self) -> int:
        """Requests granted from slices whose charges are not counted in Redis yet."""
        return len(self._local)

    async def reserve(self, reservation: Reservation) -> Grant | Refusal:
        """Hold a request's upper bound on all of its accounts, or on none."""
        if self.is_full():
            return AWAY
        if reservation.id not in self._local and self.upkeep.state is not BooksState.LOST:
            answer = await self._reserve_in_redis(reservation)
            if not _is_away(answer):
                return answer
        return self._reserve_without(reservation)

    async def top_up(self, reservation_id: str, amount_picousd: int, tokens: int) -> Refusal | None:
        """Hold so much more for a request under way."""
        local = self._local.get(reservation_id)
        if local is None or local.is_extra:
            refusal = await self._top_up_in_redis(reservation_id, amount_picousd, tokens)
            return self._top_up_without(reservation_id, amount_picousd, tokens) if _is_away(refusal) else refusal
        if self._slices is None or self._grow(local, amount_picousd, tokens):
            return None
        grown = structs.replace(
            local.reservation,
            amount_picousd=whole_amount(local.amount + whole_amount(amount_picousd)),
            tokens=whole_tokens(local.tokens + whole_tokens(tokens)),
        )
        refusal = await self._redis.adopt(grown)
        if refusal is None:
            self._end_local(reservation_id, local)
        return refusal

    async def settle(self, charges: Sequence[Charge]) -> None:
        """Charge requests that are over and give back the rest of what was held for them."""
        for charge in charges:
            local = self._local.get(charge.id)
            if local is not None and not local.is_over:
                self._end_local_request(local, charge)
        try:
            await self._redis.settle(charges)
        except LedgerUnavailable:
            self.upkeep.note_failure()
            raise
        self._note_redis()
        for charge in charges:
            local = self._local.pop(charge.id, None)
            if local is not None and self._slices is not None:
                self._slices.charge(local.lines, local.amount)

    async def states(self, accounts: Sequence[Account], at: float) -> tuple[BudgetState, ...]:
        """Return how far the accounts' budgets are used in the windows of a moment."""
        return await self._redis.states(accounts, at)

    async def spent_picousd(self, scopes: Sequence[str], period: Period, at: float) -> tuple[int, ...]:
        """Return what each scope has spent in the window of a moment."""
        return await self._redis.spent_picousd(scopes, period, at)

    async def aclose(self) -> None:
        """Give slices back and stop prolonging leases."""
        await self.upkeep.aclose()
        await self._redis.aclose()

    def _note_redis(self) -> None:
        if self._redis.is_lost:
            self.upkeep.note_failure()
            return
        self.upkeep.note_success()
        if self._redis.has_strays:
            self.upkeep.want()

    async def _reserve_in_redis(self, reservation: Reservation) -> Grant | Refusal:
        changes = self._changes
        answer = await self._redis.reserve(reservation)
        for _ in range(_ATTEMPTS):
            if not isinstance(answer, Refusal) or answer.budget is None:
                break
            if not await self._made_room(answer.budget, changes):
                break
            changes = self._changes
            answer = await self._redis.reserve(reservation)
        if _is_away(answer):
            self.upkeep.note_failure()
            return answer
        self._note_redis()
        held = self._redis.find(reservation.id)
        if held is not None and held.amount_picousd and self._slices is not None and self._slices.note(held.lines):
            self.upkeep.want()
        return answer

    async def _top_up_in_redis(self, reservation_id: str, amount_picousd: int, tokens: int) -> Refusal | None:
        if self.upkeep.state is BooksState.LOST:
            return AWAY
        changes = self._changes
        refusal = await self._redis.top_up(reservation_id, amount_picousd, tokens)
        for _ in range(_ATTEMPTS):
            if refusal is None or refusal.budget is None or not await self._made_room(refusal.budget, changes):
                break
            changes = self._changes
            refusal = await self._redis.top_up(reservation_id, amount_picousd, tokens)
        if refusal is None:
            self._note_redis()
        elif _is_away(refusal) and self._redis.find(reservation_id) is not None:
            self.upkeep.note_failure()
        return refusal

    @property
    def _changes(self) -> int:
        return 0 if self._slices is None else self._slices.changes

    async def _made_room(self, budget: BudgetState, changes: int) -> bool:
        """Give back what this replica holds of a budget for nobody, and whether that was something.

        That is its slice, and reservations that were not confirmed in time: a Redis that was paused makes all of them
        when it goes on. Another request may have given it back meanwhile.
        """
        has_strays = self._redis.has_strays
        if has_strays:
            with suppress(LedgerUnavailable):
                await self._redis.release_strays()
        given = await self.upkeep.give_way(f"{budget.window}|{budget.scope}")
        return has_strays or given or self._changes != changes

    def _reserve_without(self, reservation: Reservation) -> Grant | Refusal:
        known = self._local.get(reservation.id)
        now_ms = int(self._clock() * 1000.0)
        is_free = all(account.is_free for account in reservation.accounts)
        if self._mode is FailMode.OPEN or (self._mode is FailMode.CLOSED and is_free):
            self._metrics.note_away("open")
            return Grant(is_local=True)
        if self._slices is None or self._mode is not FailMode.LOCAL:
            return self._refuse()
        accounts = tuple(
            replace(account, limits=self._divided(account.limits)) for account in prepared(reservation.accounts)
        )
        lines = budget_lines(accounts, self._redis.calendar, moment(reservation.at))
        if known is None:
            amount, tokens = whole_amount(reservation.amount_picousd), whole_tokens(reservation.tokens)
            if not self._slices.fits(lines, amount):
                return self._refuse()
            refusal = self._rates.refusal(accounts, tokens, now_ms)
            if refusal is not None:
                return refusal
            self._rates.take(accounts, tokens, now_ms)
            self._rates.begin(accounts)
            self._slices.use(lines, amount)
            self._local[reservation.id] = _Local(reservation, accounts, lines, amount, tokens)
            self._metrics.note_away("slice")
        return grant_of(self._slices.states(lines), self._rates.states(accounts, now_ms), is_local=True)

    def _top_up_without(self, reservation_id: str, amount_picousd: int, tokens: int) -> Refusal | None:
        """Answer a top-up of a request that Redis had granted, or that was let pass in an open mode."""
        if self._mode is FailMode.OPEN:
            self._metrics.note_away("open")
            return None
        held = self._redis.find(reservation_id)
        if held is None or self._slices is None:
            return self._refuse()
        local = self._local.get(reservation_id)
        if local is None:
            reservation = Reservation(held.id, held.accounts, 0, 0, held.at)
            local = _Local(reservation, (), held.lines, 0, 0, is_extra=True)
        if not self._grow(local, amount_picousd, tokens):
            return self._refuse()
        self._local[reservation_id] = local
        self._metrics.note_away("slice")
        return None

    def _grow(self, local: _Local, amount_picousd: int, tokens: int) -> bool:
        assert self._slices is not None
        more = whole_amount(amount_picousd)
        if not self._slices.fits(local.lines, more):
            return False
        self._slices.use(local.lines, more)
        local.amount += more
        local.tokens = whole_tokens(local.tokens + whole_tokens(tokens))
        self._rates.correct(local.accounts, whole_tokens(tokens), int(self._clock() * 1000.0))
        return True

    def _end_local_request(self, local: _Local, charge: Charge) -> None:
        """Note what a request came to that was granted here, before it is counted in Redis."""
        local.is_over = True
        self._rates.end(local.accounts)
        tokens = whole_tokens(charge.tokens)
        self._rates.correct(local.accounts, tokens - local.tokens, int(self._clock() * 1000.0))
        if self._slices is not None and not local.is_extra:
            actual = whole_amount(charge.amount_picousd)
            self._slices.use(local.lines, actual - local.amount)
            local.amount = actual

    def _end_local(self, reservation_id: str, local: _Local) -> None:
        """Forget a request that Redis holds now."""
        self._local.pop(reservation_id, None)
        self._rates.end(local.accounts)
        if self._slices is not None:
            self._slices.use(local.lines, -local.amount)

    def _refuse(self) -> Refusal:
        self._metrics.note_away("refused")
        return AWAY

    def _divided(self, limits: RateLimits) -> RateLimits:
        """Return this replica's part of some limits, at least one of each."""
        if self._replicas == 1 or limits.is_empty:
            return limits
        parts = (limits.requests_per_minute, limits.tokens_per_minute, limits.parallel_requests)
        return RateLimits(*(None if part is None else max(min(part, 1), part // self._replicas) for part in parts))


def _is_away(answer: Grant | Refusal | None) -> bool:
    return isinstance(answer, Refusal) and answer.reason is RefusalReason.UNAVAILABLE
