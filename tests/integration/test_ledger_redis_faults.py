"""Whatever happens to Redis: no request hangs, nobody is charged twice, no charge is lost, and all mends itself."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
import redis
from prometheus_client import CollectorRegistry

from penstock_gateway.ledger.assembly import OpenLedger, open_ledger
from penstock_gateway.ledger.contract import (
    Account,
    Budget,
    Charge,
    Grant,
    LedgerUnavailable,
    Period,
    Refusal,
    RefusalReason,
    Reservation,
)
from penstock_gateway.ledger.fleet import FleetLedger
from penstock_gateway.ledger.redis_scripts import RedisCommands
from penstock_gateway.ledger.upkeep import BooksState
from penstock_gateway.metrics_ledger import LedgerMetrics
from penstock_gateway.redis_client import RedisClient
from penstock_gateway.redis_guard import GuardedRedis, WatchedServer
from penstock_gateway.settings_ledger import LedgerSettings
from support.redis_server import NOT_INSTALLED, redis_binary
from support.redis_variants import ControlledRedis, controlled_redis, slow_proxy

pytestmark = pytest.mark.redis

HANG_SECONDS = 30.0  # a call that is still running then hangs; its own deadline is 0.05 s
MEND_SECONDS = 60.0
LIMIT = 10**15
ACCOUNTS = (
    Account("key:a", (Budget(Period.DAY, LIMIT), Budget(Period.TOTAL, LIMIT))),
    Account("team:red", (Budget(Period.MONTH, LIMIT),)),
    Account("tag:x"),
)
SCOPES = [account.scope for account in ACCOUNTS]


@pytest.fixture
def server() -> Iterator[ControlledRedis]:
    """A server that the test may do anything to."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with controlled_redis(binary) as running:
        yield running


class Gateway:
    """A gateway's money: requests that reserve, cost something, are logged, and charged."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.logged: list[Charge] = []
        self.outcomes: Counter[str] = Counter()
        self.registry = CollectorRegistry()
        self.opened: OpenLedger | None = None
        self._count = 0

    async def open(self, commands: RedisCommands, **settings: object) -> None:
        """Start the ledger."""
        given = LedgerSettings.model_validate({"kind": "redis", "lease_seconds": 5.0, **settings})
        self.opened = await open_ledger(
            given, LedgerMetrics(self.registry), commands=commands, rebuild=self._rebuild, log=f"log-{self.name}"
        )

    async def _rebuild(self, since: float | None) -> AsyncIterator[Sequence[Charge]]:
        yield [each for each in self.logged if since is None or each.at >= since]

    @property
    def ledger(self) -> FleetLedger:
        """The ledger, which is open."""
        assert self.opened is not None
        assert isinstance(self.opened.ledger, FleetLedger)
        return self.opened.ledger

    async def request(self, amount: int = 10) -> str:
        """Let one request pass, or not; it costs up to what was reserved for it."""
        self._count += 1
        name, at = f"{self.name}_{self._count}", time.time()
        async with asyncio.timeout(HANG_SECONDS):
            answer = await self.ledger.reserve(Reservation(name, ACCOUNTS, amount, 100, at))
            if isinstance(answer, Grant):
                await asyncio.sleep(0)
                await self.ledger.top_up(name, amount, 10)
                made = Charge(name, ACCOUNTS, self._count % (2 * amount), 10, at)
                self.logged.append(made)
                assert self.opened is not None
                self.opened.queue.put(made)
        outcome = ("local" if answer.is_local else "redis") if isinstance(answer, Grant) else answer.reason.value
        self.outcomes[outcome] += 1
        return outcome

    async def load(self, rounds: int = 3, at_once: int = 40) -> Counter[str]:
        """Let many requests pass at once, several times over."""
        found: Counter[str] = Counter()
        for _ in range(rounds):
            found.update(await asyncio.gather(*(self.request() for _ in range(at_once))))
        return found

    async def until_slices(self, scope: str = "key:a") -> None:
        """Wait until something could be granted without Redis."""
        slices = self.ledger._slices
        assert slices is not None
        async with asyncio.timeout(MEND_SECONDS):
            while not slices.available_picousd(f"total|{scope}"):
                await asyncio.sleep(0.02)

    async def until_mended(self) -> None:
        """Wait until requests are granted by Redis again and everything is counted."""
        async with asyncio.timeout(MEND_SECONDS):
            while await self.request() != "redis":
                await asyncio.sleep(0.05)
            assert self.opened is not None
            while await self.opened.queue.flush(5.0):
                pass

    async def spent(self) -> tuple[int, ...]:
        """Return what each scope has spent in all."""
        async with asyncio.timeout(MEND_SECONDS):
            while True:
                try:
                    return await self.ledger.spent_picousd(SCOPES, Period.TOTAL, time.time())
                except LedgerUnavailable:
                    await asyncio.sleep(0.05)


@asynccontextmanager
async def running(url: str, *, is_guarded: bool = True, **settings: object) -> AsyncIterator[Gateway]:
    """A gateway whose ledger is on a server."""
    client = RedisClient(url)
    commands: RedisCommands = GuardedRedis(WatchedServer(client), "ledger") if is_guarded else client
    gateway = Gateway("a")
    await gateway.open(commands, **settings)
    try:
        yield gateway
    finally:
        assert gateway.opened is not None
        await asyncio.wait_for(gateway.opened.aclose(1.0), HANG_SECONDS)
        await client.aclose()


async def check(gateway: Gateway) -> None:
    """Σ of all charges is what every scope has spent: none was lost, none counted twice."""
    assert await gateway.spent() == (sum(each.amount_picousd for each in gateway.logged),) * 3


async def nothing_is_held(gateway: Gateway) -> None:
    """Wait until no more is held than slices."""
    async with asyncio.timeout(MEND_SECONDS):
        while gateway.ledger._redis.open_requests or gateway.ledger.local_requests:
            await asyncio.sleep(0.05)


def stop_scripts(server: ControlledRedis) -> None:
    """Make Redis forget all scripts."""
    with server.client() as other:
        other.script_flush()


def make_read_only(server: ControlledRedis) -> None:
    """Make the server a replica of one that does not exist."""
    with server.client() as other:
        other.execute_command("REPLICAOF", "127.0.0.1", "1")


def make_writable(server: ControlledRedis) -> None:
    """Make it a primary again."""
    with server.client() as other:
        other.execute_command("REPLICAOF", "NO", "ONE")


def fill_memory(server: ControlledRedis) -> None:
    """Leave Redis no memory for anything new."""
    with server.client() as other:
        other.config_set("maxmemory", "1mb")


def free_memory(server: ControlledRedis) -> None:
    """Give it memory again."""
    with server.client() as other:
        other.config_set("maxmemory", "64mb")


def want_password(server: ControlledRedis) -> None:
    """Ask everybody for a password, those who are connected too."""
    with server.client() as other:
        other.config_set("requirepass", "hunter2")
        other.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def want_no_password(server: ControlledRedis) -> None:
    """Let everybody in again."""
    with redis.Redis(port=server.port, password="hunter2") as other:
        other.config_set("requirepass", "")


FAULTS: dict[str, tuple[Callable[[ControlledRedis], None], Callable[[ControlledRedis], None]]] = {
    "stopped and started empty": (ControlledRedis.kill, ControlledRedis.start),
    "paused": (ControlledRedis.pause, ControlledRedis.resume),
    "read-only": (make_read_only, make_writable),
    "out of memory": (fill_memory, free_memory),
    "password": (want_password, want_no_password),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("is_guarded", [True, False])
async def test_ledger_while_redis_is_of_no_use_goes_on_and_counts_everything_afterwards(
    server: ControlledRedis, fault: str, is_guarded: bool
) -> None:
    """Requests go on from slices, none hangs, and when Redis is back every charge is counted once."""
    break_it, mend_it = FAULTS[fault]
    async with running(server.url, is_guarded=is_guarded, slice_minimum_usd="0.00001") as gateway:
        await gateway.load()
        await gateway.until_slices()
        under_load = asyncio.create_task(gateway.load(rounds=6))
        await asyncio.sleep(0.01)
        break_it(server)
        await asyncio.wait_for(under_load, HANG_SECONDS)
        away = await gateway.load(rounds=2)
        assert away["redis"] == 0
        assert away["local"] > 0
        assert gateway.ledger.upkeep.state is not BooksState.PRESENT
        mend_it(server)
        await gateway.until_mended()
        await gateway.load(rounds=1)
        await gateway.until_mended()
        await check(gateway)
        await nothing_is_held(gateway)
    assert gateway.outcomes["budget"] == 0


async def test_ledger_whose_scripts_were_flushed_goes_on_without_a_failure(server: ControlledRedis) -> None:
    """A script that Redis has forgotten is sent again with the same request."""
    async with running(server.url, redis_timeout_seconds=5.0) as gateway:
        for _ in range(4):
            stop_scripts(server)
            assert set(await gateway.load(rounds=1)) == {"redis"}
        await gateway.until_mended()
        await check(gateway)


async def test_ledger_after_a_flush_of_all_data_puts_its_spend_back(server: ControlledRedis) -> None:
    """Nobody gets a second budget because somebody emptied Redis."""
    async with running(server.url) as gateway:
        await gateway.load()
        await gateway.until_mended()
        with server.client() as other:
            other.flushall()
        await gateway.load()
        await gateway.until_mended()
        await check(gateway)
        assert gateway.registry.get_sample_value("penstock_ledger_state_changes_total", {"state": "lost"}) == 1.0


@pytest.mark.parametrize("delay_seconds", [0.2, 0.045])
async def test_ledger_whose_replies_come_after_their_deadline_charges_once(
    server: ControlledRedis, delay_seconds: float
) -> None:
    """Reservations and charges that Redis made and did not confirm in time are neither lost nor made twice."""
    async with slow_proxy(server.port) as (proxy, url), running(url) as gateway:
        await gateway.load()
        await gateway.until_slices()
        proxy.delay_seconds = delay_seconds
        for _ in range(3):
            await gateway.load(rounds=1)
            await asyncio.sleep(0.2)
        proxy.delay_seconds = 0.0
        await gateway.until_mended()
        await check(gateway)
        await nothing_is_held(gateway)


async def test_ledger_at_a_server_that_is_no_redis_goes_on_without(server: ControlledRedis) -> None:
    """Bytes that are no Redis protocol are an absent Redis."""
    async with slow_proxy(server.port) as (proxy, url), running(url) as gateway:
        await gateway.load()
        proxy.garbage = b"HTTP/1.1 400 Bad Request\r\n\r\n"
        assert (await gateway.load())["redis"] == 0
        proxy.garbage = None
        await gateway.until_mended()
        await check(gateway)


async def test_ledger_of_two_gateways_under_a_pause_keeps_to_the_limit(server: ControlledRedis) -> None:
    """Both spend what they can before, during and after a pause of Redis; together they never pass the limit."""
    limit = 20_000
    account = Account("key:small", (Budget(Period.TOTAL, limit),))
    clients = [RedisClient(server.url) for _ in range(2)]
    gateways = [Gateway(name) for name in "ab"]
    for gateway, client in zip(gateways, clients, strict=True):
        await gateway.open(client, slice_share=0.1, slice_minimum_usd="0.000000001", expected_replicas=2)
    granted: Counter[str] = Counter()

    async def spend(gateway: Gateway, name: str, phase: str) -> RefusalReason | None:
        async with asyncio.timeout(HANG_SECONDS):
            answer = await gateway.ledger.reserve(Reservation(name, (account,), 10, 1, time.time()))
        if isinstance(answer, Refusal):
            return answer.reason
        granted[phase] += 10
        made = Charge(name, (account,), 10, 1, time.time())
        gateway.logged.append(made)
        assert gateway.opened is not None
        gateway.opened.queue.put(made)
        return None

    async def some(phase: str) -> None:
        for start in range(0, 400, 40):
            names = [(gateway, f"{gateway.name}_{phase}_{start + n}") for gateway in gateways for n in range(40)]
            await asyncio.gather(*(spend(gateway, name, phase) for gateway, name in names))

    async def until_used_up(gateway: Gateway, worker: int) -> None:
        number = refusals = 0
        while refusals < 20:  # what the other one has reserved without knowing it comes back within a moment
            number += 1
            reason = await spend(gateway, f"{gateway.name}_after_{worker}_{number}", "after")
            refusals = refusals + 1 if reason is RefusalReason.BUDGET else 0
            await asyncio.sleep(0.1 if reason else 0.0)

    await some("before")
    for gateway in gateways:
        await gateway.until_slices("key:small")
    server.pause()
    await some("paused")
    server.resume()
    async with asyncio.timeout(MEND_SECONDS):
        await asyncio.gather(*(until_used_up(gateway, worker) for gateway in gateways for worker in range(10)))
    for gateway, client in zip(gateways, clients, strict=True):
        assert gateway.opened is not None
        assert await gateway.opened.aclose(MEND_SECONDS) == 0
        await client.aclose()
    assert granted["before"] > 0
    assert 0 < granted["paused"] <= 2 * 0.1 * limit
    total = sum(granted.values())
    assert limit * 0.9 <= total <= limit
    with server.client() as other:
        assert int(other.hget("{penstock:default}:spent:total", "key:small")) == total
        assert other.hgetall("{penstock:default}:held") == {}


async def test_ledger_of_a_gateway_that_is_killed_is_charged_by_the_next_one(server: ControlledRedis) -> None:
    """What was logged and not charged is charged at the next start; what was reserved comes back with its lease."""
    client = RedisClient(server.url)
    killed = Gateway("a")
    await killed.open(client, lease_seconds=3.0)
    await killed.load(rounds=1)
    assert killed.opened is not None
    await killed.opened.queue.flush(HANG_SECONDS)
    late = Charge("a_late", ACCOUNTS, 777, 1, time.time())
    killed.logged.append(late)
    await killed.ledger.reserve(Reservation("a_open", ACCOUNTS, 5000, 1, time.time()))
    await killed.opened.queue.aclose()
    killed.ledger.upkeep._slices = None  # a process that is killed gives nothing back
    killed.ledger.upkeep.counted_until = lambda: None
    await killed.ledger.upkeep.aclose()
    again = Gateway("a")
    again.logged = killed.logged
    await again.open(client, lease_seconds=3.0, slice_share=0.0, slice_minimum_usd="0.000000000001")
    await check(again)
    async with asyncio.timeout(MEND_SECONDS):
        while True:
            states = await again.ledger.states(ACCOUNTS, time.time())
            if all(state.held_picousd < 5000 for state in states):
                break
            await asyncio.sleep(0.1)
    assert again.opened is not None
    await again.opened.aclose(HANG_SECONDS)
    await client.aclose()
