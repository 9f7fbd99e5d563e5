"""From settings to a running ledger with its queue.

Owns which class stands behind `Ledger`, and the order of starting and stopping. Read `open_ledger`.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

from penstock_gateway.ledger.fleet import FleetLedger
from penstock_gateway.ledger.memory import MemoryLedger
from penstock_gateway.ledger.periods import Calendar
from penstock_gateway.ledger.redis_layout import ReplicaIdentity
from penstock_gateway.ledger.redis_ledger import RedisLedger
from penstock_gateway.ledger.redis_scripts import RedisCommands
from penstock_gateway.ledger.settling import SettleQueue
from penstock_gateway.ledger.slices import SliceBook, SliceRules
from penstock_gateway.ledger.upkeep import Rebuild, Upkeep, no_charges
from penstock_gateway.metrics_ledger import LedgerMetrics
from penstock_gateway.money.amounts import to_picousd
from penstock_gateway.redis_guard import FailMode
from penstock_gateway.settings_ledger import LedgerSettings

_log = logging.getLogger("penstock.ledger")

NO_LOG: Final = "none"
"""Identity of a gateway without an event log."""
IDENTITY_FILE: Final = "ledger-log-id"


@dataclass(frozen=True, slots=True)
class OpenLedger:
    """A ledger and the queue of its charges.

    Attributes
    ----------
    ledger : MemoryLedger or FleetLedger
    queue : SettleQueue
    calendar : Calendar
    """

    ledger: MemoryLedger | FleetLedger
    queue: SettleQueue
    calendar: Calendar

    async def aclose(self, deadline_seconds: float) -> int:
        """Settle what waits, give slices back, and return how many charges are left to the event log.

        Parameters
        ----------
        deadline_seconds : float
        """
        left = await self.queue.flush(deadline_seconds)
        await self.ledger.aclose()
        await self.queue.aclose()
        return left


async def open_ledger(
    settings: LedgerSettings,
    metrics: LedgerMetrics,
    *,
    commands: RedisCommands | None = None,
    rebuild: Rebuild = no_charges,
    log: str = NO_LOG,
    start_seconds: float = 10.0,
) -> OpenLedger:
    """Build and start a ledger.

    Parameters
    ----------
    settings : LedgerSettings
    metrics : LedgerMetrics
    commands : RedisCommands or None
        Needed for ``kind: redis``; who made it closes it, after the ledger.
    rebuild : callable
        Gives the charges of the event log, see `upkeep.Rebuild`; must not block the event loop.
    log : str
        The log's identity, see `log_identity`.
    start_seconds : float
        How long to wait for Redis before going on without it.

    Returns
    -------
    OpenLedger
        Started.
    """
    calendar = Calendar(settings.timezone)
    if settings.kind == "memory":
        return await _open_memory(settings, metrics, calendar, rebuild)
    assert commands is not None
    redis = RedisLedger(
        commands,
        calendar,
        organisation=settings.organisation,
        lease_seconds=settings.lease_seconds,
        timeout_seconds=settings.redis_timeout_seconds,
        settled_seconds=settings.settled_seconds,
        on_problem=metrics.note_problem,
    )
    mode = FailMode(settings.when_redis_is_away)
    slices = SliceBook(calendar, slice_rules(settings))
    upkeep = Upkeep(
        redis,
        slices,
        ReplicaIdentity(secrets.token_hex(8), log),
        metrics,
        rebuild=rebuild,
        lease_seconds=settings.lease_seconds,
        settled_seconds=settings.settled_seconds,
    )
    ledger = FleetLedger(redis, upkeep, mode, slices, metrics, replicas=settings.expected_replicas)
    queue = _queue(ledger, settings, metrics)
    ledger.is_full = lambda: queue.is_full
    upkeep.counted_until = queue.counted_until
    on_change = getattr(commands, "on_change", None)  # of a guard with a breaker, which probes in the background
    if on_change is not None:
        on_change(lambda _: upkeep.want())
    queue.start()
    await ledger.start(start_seconds)
    return OpenLedger(ledger, queue, calendar)


def slice_rules(settings: LedgerSettings) -> SliceRules:
    """Return how large slices are."""
    return SliceRules(
        share=settings.slice_share,
        minimum_picousd=to_picousd(Decimal(settings.slice_minimum_usd)),
        seconds=settings.slice_seconds,
        replicas=settings.expected_replicas,
    )


def log_identity(folder: Path) -> str:
    """Return the identity of an event log, which stays with its folder.

    Parameters
    ----------
    folder : Path
        Exists; a file in it holds the identity, and is made when it is missing.

    Raises
    ------
    OSError
    """
    path = folder / IDENTITY_FILE
    for _ in range(2):
        with suppress(FileNotFoundError):
            known = path.read_text(encoding="ascii", errors="replace").strip()
            if len(known) == 32 and known.isalnum():
                return known
            path.unlink(missing_ok=True)
        made = folder / f"{IDENTITY_FILE}.{secrets.token_hex(4)}"
        made.write_text(secrets.token_hex(16), encoding="ascii")
        with suppress(FileExistsError):  # another process of this folder was quicker
            path.hardlink_to(made)
        made.unlink()
    return path.read_text(encoding="ascii").strip()


async def _open_memory(
    settings: LedgerSettings, metrics: LedgerMetrics, calendar: Calendar, rebuild: Rebuild
) -> OpenLedger:
    ledger = MemoryLedger(calendar, lease_seconds=settings.lease_seconds)
    count = 0
    async for batch in rebuild(None):
        count += ledger.restore(batch)
    metrics.note_rebuilt(count)
    _log.info("ledger_rebuilt", extra={"charges": count})
    queue = _queue(ledger, settings, metrics)
    queue.start()
    ledger.start()
    return OpenLedger(ledger, queue, calendar)


def _queue(ledger: MemoryLedger | FleetLedger, settings: LedgerSettings, metrics: LedgerMetrics) -> SettleQueue:
    queue = SettleQueue(
        ledger,
        max_pending=settings.max_pending_charges,
        on_settled=metrics.note_settled,
        on_failure=metrics.note_settle_failure,
    )
    metrics.watch_pending(lambda: queue.pending)
    return queue
