"""Starts what counts money: the ledger with its Redis, from the charges of the event log.

Owns the order and the identities; the parts are the ledger's. Read `start_spending`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from penstock_gateway.events.reading import read_events
from penstock_gateway.ledger.assembly import NO_LOG, OpenLedger, log_identity, open_ledger
from penstock_gateway.ledger.contract import Charge
from penstock_gateway.ledger.fleet import FleetLedger
from penstock_gateway.ledger.rebuild import charges_of
from penstock_gateway.ledger.upkeep import BooksState, Rebuild, no_charges
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.redis_guard import FailMode, GuardedRedis
from penstock_gateway.redis_servers import RedisServers
from penstock_gateway.settings import Settings
from penstock_gateway.settings_ledger import LedgerSettings
from penstock_gateway.spending import SpendDesk, SpendRules

_log = logging.getLogger("penstock.ledger")

FLUSH_SECONDS: Final = 5.0
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class RunningSpending:
    """The desk in force and what stands behind it.

    Attributes
    ----------
    desk : SpendDesk
    books : OpenLedger
    redis : GuardedRedis or None
    """

    desk: SpendDesk
    books: OpenLedger
    redis: GuardedRedis | None

    @property
    def has_store(self) -> bool:
        """Whether the books can be reached; False while Redis is away, or what it has lost is put back."""
        ledger = self.books.ledger
        return not isinstance(ledger, FleetLedger) or ledger.upkeep.state is BooksState.PRESENT

    def follow(self, settings: LedgerSettings) -> None:
        """Put in force what of another configuration the running ledger can take."""
        self.desk.rules = rules_of(settings)
        self.books.queue.max_pending = settings.max_pending_charges
        mode = FailMode(settings.when_redis_is_away)
        if isinstance(self.books.ledger, FleetLedger):
            self.books.ledger.follow(mode)
        if self.redis is not None:
            self.redis.fail_mode = mode

    async def aclose(self) -> None:
        """Settle what waits and close; what is left is in the event log and counted at the next start."""
        await self.books.aclose(FLUSH_SECONDS)
        if self.redis is not None:
            await self.redis.aclose()


async def start_spending(settings: Settings, metrics: GatewayMetrics, servers: RedisServers) -> RunningSpending:
    """Open the ledger of a configuration.

    Parameters
    ----------
    settings : Settings
    metrics : GatewayMetrics
    servers : RedisServers

    Returns
    -------
    RunningSpending
        With everything counted that the event log holds, as far as the store can be reached.

    Raises
    ------
    RedisNotUsable
        The URL or its client.
    """
    redis = servers.guard(settings, "ledger") if settings.ledger.kind == "redis" else None
    folder = None if settings.events.folder is None else Path(settings.events.folder)
    log = NO_LOG if folder is None else await asyncio.to_thread(_identity_of, folder)
    books = await open_ledger(
        settings.ledger,
        metrics.ledger,
        commands=redis,
        rebuild=no_charges if folder is None else _rebuild_from(folder, log),
        log=log,
    )
    desk = SpendDesk(
        books.ledger,
        books.queue.put,
        rules_of(settings.ledger),
        put_from_any_thread=books.queue.put_from_any_thread,
        is_full=lambda: books.queue.is_full,
        settled_until=_Settled(books).until,
        on_refusal=lambda reason: metrics.ledger.note_refusal(reason.value),
        on_soft_limit=lambda state: metrics.ledger.note_soft_limit(state.period.value),
    )
    return RunningSpending(desk, books, redis)


def rules_of(settings: LedgerSettings) -> SpendRules:
    """Return how much is held where a request does not say."""
    return SpendRules(settings.reserve_output_tokens, settings.top_up_output_tokens)


class _Settled:
    """Remembers until when everything was charged: while charges wait nobody can say anything newer."""

    def __init__(self, books: OpenLedger) -> None:
        self._books = books
        self._until = 0.0

    def until(self) -> float:
        """Return UNIX seconds."""
        self._until = max(self._until, self._books.queue.counted_until() or 0.0)
        return self._until


def _identity_of(folder: Path) -> str:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return log_identity(folder)
    except OSError as error:
        _log.warning("ledger_log_unknown", extra={"folder": str(folder), "problem": error.strerror})
        return NO_LOG


def _rebuild_from(folder: Path, log: str) -> Rebuild:
    async def rebuild(since: float | None) -> AsyncIterator[Sequence[Charge]]:
        # of a tail the outcomes alone: a checkpoint's row there would stand for some that were charged already
        types = ("outcome", "checkpoint") if since is None else ("outcome",)
        charges = charges_of(read_events(folder, types=types, since=since), log=log)
        while batch := await asyncio.to_thread(_next_batch, charges):
            yield batch

    return rebuild


def _next_batch(charges: Iterator[Charge]) -> list[Charge]:
    return list(itertools.islice(charges, _BATCH))
