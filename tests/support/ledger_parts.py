"""Parts of ledger tests: a clock, accounts, ledgers of every kind, and commands to Redis that fail on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.ledger.contract import Account, Budget, Charge, Period, RateLimits, Reservation
from penstock_gateway.ledger.fleet import FleetLedger
from penstock_gateway.ledger.periods import Calendar
from penstock_gateway.ledger.redis_layout import ReplicaIdentity
from penstock_gateway.ledger.redis_ledger import RedisLedger
from penstock_gateway.ledger.redis_scripts import RedisCommands
from penstock_gateway.ledger.slices import SliceBook, SliceRules
from penstock_gateway.ledger.upkeep import Upkeep
from penstock_gateway.metrics_ledger import LedgerMetrics
from penstock_gateway.redis_guard import FailMode

NOON = 4_000_017_600.0
"""UNIX seconds, 2096-10-02T12:00:00Z: later than any real clock, so that no key of Redis expires in a test."""
PATIENT_SECONDS = 10.0
"""Deadline where deadlines are not what is tested: the machine may be busy."""
LEASE_SECONDS = 60.0


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def key(
    *budgets: tuple[Period, int], name: str = "key:a", limits: RateLimits | None = None, soft: float = 0.8
) -> Account:
    """Return an account with budgets in picodollars."""
    return Account(name, tuple(Budget(period, limit, soft) for period, limit in budgets), limits or RateLimits())


def ask(number: int | str, *accounts: Account, amount: int = 0, tokens: int = 0, at: float = NOON) -> Reservation:
    """Return a reservation."""
    return Reservation(f"dec_{number}", accounts, amount, tokens, at)


def charge(number: int | str, *accounts: Account, amount: int = 0, tokens: int = 0, at: float = NOON) -> Charge:
    """Return a charge."""
    return Charge(f"dec_{number}", accounts, amount, tokens, at)


class FailingCommands:
    """Passes commands on, unless told to fail.

    Attributes
    ----------
    is_away : bool
        Fail at once, without a command.
    loses_replies : bool
        Send the command, then say that no reply came.
    """

    def __init__(self, commands: RedisCommands) -> None:
        self.commands = commands
        self.is_away = False
        self.loses_replies = False
        self.sent: list[bytes] = []

    async def execute(self, *command: bytes | int, deadline_seconds: float) -> object:
        """Send a command, or not."""
        if self.is_away:
            raise StoreUnavailable("Redis cannot be reached (Test).")
        self.sent.append(bytes(command[0]))  # type: ignore[arg-type]
        reply = await self.commands.execute(*command, deadline_seconds=PATIENT_SECONDS)
        if self.loses_replies:
            raise StoreUnavailable("Redis did not answer in time.")
        return reply


async def open_books(ledger: RedisLedger, epoch: str = "epoch-1") -> None:
    """Let a ledger use empty books, or the ones that another has opened."""
    mark = await ledger.mark("done", ReplicaIdentity("test", "test"), new_epoch=epoch)
    ledger.use(mark.epoch)


def redis_ledger(commands: RedisCommands, clock: Clock, calendar: Calendar | None = None) -> RedisLedger:
    """Return a ledger whose time is the test's."""
    return RedisLedger(
        commands,
        calendar,
        lease_seconds=LEASE_SECONDS,
        timeout_seconds=PATIENT_SECONDS,
        clock=clock,
        server_clock=clock,
    )


class Replica:
    """A gateway's part of a fleet, driven by hand: its upkeep runs when a test says so."""

    def __init__(
        self,
        name: str,
        commands: RedisCommands,
        clock: Clock,
        *,
        mode: FailMode = FailMode.LOCAL,
        rules: SliceRules | None = None,
        logged: Iterable[Charge] = (),
        replicas: int = 1,
    ) -> None:
        self.name = name
        self.commands = FailingCommands(commands)
        self.registry = CollectorRegistry()
        self.metrics = LedgerMetrics(self.registry)
        self.logged = list(logged)
        self.rebuilds: list[float | None] = []
        self.redis = redis_ledger(self.commands, clock)
        self.slices = SliceBook(Calendar(), rules, clock=clock)
        self.upkeep = Upkeep(
            self.redis,
            self.slices,
            ReplicaIdentity(name, f"log-{name}"),
            self.metrics,
            rebuild=self._rebuild,
            counted_until=lambda: clock.now,
            lease_seconds=LEASE_SECONDS,
            settled_seconds=86_400.0,
            clock=clock,
            wall_clock=clock,
        )
        self.ledger = FleetLedger(
            self.redis, self.upkeep, mode, self.slices, self.metrics, replicas=replicas, clock=clock
        )

    async def _rebuild(self, since: float | None) -> AsyncIterator[Sequence[Charge]]:
        self.rebuilds.append(since)
        for each in self.logged:
            if since is None or each.at >= since:
                yield [each]

    def counted(self, name: str, **labels: str) -> float:
        """Return a metric's value."""
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def running(replica: Replica) -> AsyncIterator[Replica]:
    """A replica whose books have been looked at once."""
    await replica.upkeep.run_once()
    try:
        yield replica
    finally:
        await replica.ledger.aclose()
