"""What a replica does for the books in Redis beside its requests: leases, slices, and putting back what was lost.

Owns the background task and the state of the books as this replica sees it. Read `Upkeep.run_once`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Final

from penstock_gateway.ledger.contract import Charge, LedgerUnavailable
from penstock_gateway.ledger.leases import RENEWALS_PER_LEASE
from penstock_gateway.ledger.redis_layout import BooksMark, ReplicaIdentity
from penstock_gateway.ledger.redis_ledger import RedisLedger
from penstock_gateway.ledger.slices import SliceAsk, SliceBook
from penstock_gateway.metrics_ledger import LedgerMetrics

_log = logging.getLogger("penstock.ledger")

Rebuild = Callable[[float | None], AsyncIterable[Sequence[Charge]]]
"""Gives the charges of the event log in batches: all of them, or those of outcomes since a time (UNIX seconds)."""

FAILURES: Final = 3
"""In a row, until Redis is said to be away; a single late reply is no change of state."""
_TAIL_SECONDS: Final = 5.0
_SLICES_AT_ONCE: Final = 200
_REST_SECONDS: Final = 0.2  # between two looks, however often somebody asks for one


class BooksState(StrEnum):
    """What this replica can do with the books in Redis."""

    PRESENT = "present"
    AWAY = "away"  # Redis does not answer, or refuses
    LOST = "lost"  # Redis was flushed, or has never been used; charges are being put back


async def no_charges(since: float | None) -> AsyncIterable[Sequence[Charge]]:
    """Give nothing: there is no event log."""
    nothing: tuple[Sequence[Charge], ...] = ()
    for batch in nothing:
        yield batch


class Upkeep:
    """Prolongs what is held, keeps slices filled, and puts charges back into lost books.

    Parameters
    ----------
    redis : RedisLedger
    slices : SliceBook or None
        None unless the fail mode is ``local``.
    identity : ReplicaIdentity
    metrics : LedgerMetrics
    rebuild : callable
        See `Rebuild`.
    counted_until : callable
        UNIX seconds before which every outcome in the log is counted, or None while nobody can say.
    lease_seconds, settled_seconds : float
        Of the Redis ledger.
    retry_seconds : float
        Between two attempts while Redis is away or the books are lost.
    clock, wall_clock : callable
        Monotonic seconds; UNIX seconds.

    Notes
    -----
    Books are lost when they have no epoch: nobody has used this Redis, or somebody has flushed it. Every replica that
    notices holds again what it has under way and its slices, puts the charges of its own log back (each counts once),
    and says that it is done. The one that is done last gives the books a new epoch; until then nothing is granted from
    them. Replicas have a moment, `grace_seconds`, to notice. A replica that was not there puts its charges back when it
    comes: the books know which logs they hold.
    """

    def __init__(
        self,
        redis: RedisLedger,
        slices: SliceBook | None,
        identity: ReplicaIdentity,
        metrics: LedgerMetrics,
        *,
        rebuild: Rebuild = no_charges,
        counted_until: Callable[[], float | None] = lambda: None,
        lease_seconds: float,
        settled_seconds: float,
        retry_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.state = BooksState.LOST
        self.counted_until = counted_until
        self._redis = redis
        self._slices = slices
        self._identity = identity
        self._metrics = metrics
        self._rebuild = rebuild
        self._pause_seconds = lease_seconds / RENEWALS_PER_LEASE
        self._settled_seconds = settled_seconds
        self._retry_seconds = min(retry_seconds, self._pause_seconds)
        self._clock = clock
        self._wall_clock = wall_clock
        self._failures = 0
        self._has_seen_books = False
        metrics.show_state(self.state.value)
        self._is_wanted = asyncio.Event()
        self._has_run = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def grace_seconds(self) -> float:
        """How long the books stay closed after a loss, so that every replica notices; none at the first use."""
        return self._pause_seconds + self._retry_seconds if self._has_seen_books else 0.0

    async def start(self, deadline_seconds: float) -> None:
        """Begin, and return when the books have been looked at once, or at the deadline."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="penstock-ledger-upkeep")
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline_seconds):
                await self._has_run.wait()

    async def aclose(self) -> None:
        """Stop, and give the slices back."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if not self._redis.has_books():
            return
        until = self.counted_until()
        with suppress(LedgerUnavailable):
            if self._slices is not None:
                await self._hold([SliceAsk(a.line, a.least_picousd, a.least_picousd) for a in self._slices.asks(0.0)])
            if until is not None:
                await self._say("close", until)

    def want(self) -> None:
        """Ask for a look at the books soon."""
        self._is_wanted.set()

    def note_success(self) -> None:
        """Note that Redis has answered."""
        self._failures = 0
        if self.state is BooksState.AWAY:
            self._turn(BooksState.LOST if self._redis.is_lost else BooksState.PRESENT)
            self.want()

    def note_failure(self) -> None:
        """Note that Redis has not answered, or that the books are lost."""
        if self._redis.is_lost:
            self._turn(BooksState.LOST)
            self.want()
            return
        self._failures += 1
        if self._failures >= FAILURES and self.state is not BooksState.AWAY:
            self._turn(BooksState.AWAY)
            self.want()

    async def run_once(self) -> None:
        """Look at the books once: put back what was lost, prolong leases, fill slices.

        Raises
        ------
        LedgerUnavailable
        """
        if self._redis.has_books():
            await self._redis.renew(self._identity, self.counted_until())
        if not self._redis.has_books():
            if self._has_seen_books:
                self._turn(BooksState.LOST)
            await self._put_back()
        if not self._redis.has_books():
            return
        self._failures = 0
        self._turn(BooksState.PRESENT)
        if self._slices is not None:
            await self._hold(self._slices.asks(self._wall_clock()))

    async def give_way(self, field: str) -> bool:
        """Give this replica's slice of a budget back, because a request has no room beside it.

        Returns
        -------
        bool
            Whether anything was given back.
        """
        asks = [] if self._slices is None else self._slices.ask_nothing(field)
        if not asks:
            return False
        try:
            await self._hold(asks)
        except LedgerUnavailable:
            return False
        return True

    async def _run(self) -> None:
        while True:
            try:
                await self.run_once()
            except LedgerUnavailable:
                self.note_failure()
            except Exception:  # the task must go on: leases end without it
                self._metrics.note_problem("upkeep_failed")
                _log.exception("ledger_upkeep_failed")
            self._has_run.set()
            pause = self._pause_seconds if self.state is BooksState.PRESENT else self._retry_seconds
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._is_wanted.wait()
                    await asyncio.sleep(min(_REST_SECONDS, pause))
            self._is_wanted.clear()

    async def _put_back(self) -> None:
        """Find out whether the books hold what this replica's log has, and see to it that they do."""
        mark, began = await self._say("look"), self._wall_clock()
        known_until = mark.counted_until
        if known_until is None:
            self._turn(BooksState.LOST)
            await self._say("busy")
            await self._redis.hold_again()
            if self._slices is not None:
                await self._hold(self._slices.asks_as_they_are(), is_forced=True)
            count = await self._settle_all(None)
            _log.info("ledger_rebuilt", extra={"charges": count})
            mark = await self._say("done", began)
        elif not mark.epoch:  # our charges are back; others may still be busy
            mark = await self._say("done", known_until)
        elif not self._has_seen_books:
            await self._settle_tail(known_until)
            mark = await self._say("done", began)
        if mark.epoch:
            self._redis.use(mark.epoch)
            self._has_seen_books = True

    async def _say(self, state: str, counted_until: float = 0.0) -> BooksMark:
        return await self._redis.mark(
            state,
            self._identity,
            counted_until=counted_until,
            new_epoch=secrets.token_hex(8),
            grace_seconds=self.grace_seconds,
        )

    async def _settle_tail(self, counted_until: float) -> None:
        """Settle again what the log has got since the books last heard of it: the process may have been killed."""
        if self._wall_clock() - counted_until > self._settled_seconds:
            self._metrics.note_problem("tail_too_old")
            _log.warning("ledger_tail_too_old", extra={"counted_until": counted_until})
            return
        await self._settle_all(counted_until - _TAIL_SECONDS)

    async def _settle_all(self, since: float | None) -> int:
        count, said = 0, self._clock()
        async for batch in self._rebuild(since):
            await self._redis.settle(batch)
            count += len(batch)
            if self._clock() - said > self._pause_seconds:
                said = self._clock()
                await self._say("busy" if since is None else "look")
        self._metrics.note_rebuilt(count)
        return count

    async def _hold(self, asks: Sequence[SliceAsk], *, is_forced: bool = False) -> None:
        assert self._slices is not None
        rules = self._slices.rules
        for start in range(0, len(asks), _SLICES_AT_ONCE):
            batch: Sequence[SliceAsk] = asks[start : start + _SLICES_AT_ONCE]
            batch, receipt = self._slices.begin(batch)
            sent = self._clock()
            held = await self._redis.hold_slices(
                self._identity.replica,
                batch,
                lease_seconds=rules.seconds,
                share=rules.free_parts,
                is_forced=is_forced,
            )
            self._slices.note_held(batch, receipt, held, sent)

    def _turn(self, state: BooksState) -> None:
        if state is self.state:
            return
        before, self.state = self.state, state
        self._metrics.note_change(state.value)
        level = logging.INFO if state is BooksState.PRESENT else logging.WARNING
        _log.log(level, "ledger_state_changed", extra={"state": state.value, "before": before.value})
