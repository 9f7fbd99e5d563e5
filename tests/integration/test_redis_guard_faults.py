"""Whatever happens to a real Redis, a guarded command is answered or fails with a code, and things mend themselves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.redis_breaker import BreakerRules
from penstock_gateway.redis_client import RedisClient
from penstock_gateway.redis_guard import GuardedRedis, WatchedServer
from support.cache_documents import eventually
from support.redis_server import NOT_INSTALLED, redis_binary
from support.redis_variants import ControlledRedis, controlled_redis, slow_proxy

pytestmark = pytest.mark.redis

RULES = BreakerRules(failures=5, first_wait_seconds=0.05, longest_wait_seconds=0.2)
_BUSY_SCRIPT = """
local function now() local t = redis.call('TIME'); return t[1] + t[2] / 1000000 end
local stop = now() + tonumber(ARGV[1])
while now() < stop do end
"""


@pytest.fixture
def server() -> Iterator[ControlledRedis]:
    """A server that the test may do anything to."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with controlled_redis(binary) as running:
        yield running


class CountingClient(RedisClient):
    """A client that counts what it is asked to send."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.sent: Counter[bytes | int] = Counter()

    async def execute(self, *command: bytes | int, deadline_seconds: float) -> object:
        """Count a command and send it."""
        self.sent[command[0]] += 1
        return await super().execute(*command, deadline_seconds=deadline_seconds)


@asynccontextmanager
async def guarded(url: str) -> AsyncIterator[tuple[GuardedRedis, CountingClient]]:
    """A guard with production's deadline, and probes that come soon."""
    client = CountingClient(url)
    guard = GuardedRedis(WatchedServer(client, rules=RULES), "ledger")
    try:
        yield guard, client
    finally:
        await guard.aclose()


async def outcome(guard: GuardedRedis) -> str:
    """Send a command; return ``ok`` or the code of its failure."""
    try:
        assert await guard.execute(b"INCR", b"counter") is not None
    except StoreUnavailable as error:
        return error.code
    return "ok"


async def load(guard: GuardedRedis, rounds: int = 5, at_once: int = 20) -> Counter[str]:
    """Send commands from many tasks at once, several times over."""
    outcomes: Counter[str] = Counter()
    for _ in range(rounds):
        outcomes.update(await asyncio.gather(*(outcome(guard) for _ in range(at_once))))
    return outcomes


async def until_answered(guard: GuardedRedis) -> None:
    """Wait until commands pass, which nothing but the probes can bring about."""
    await eventually(lambda: guard.is_available, "the breaker closes")
    for _ in range(400):
        if await outcome(guard) == "ok":
            return
        await asyncio.sleep(0.05)
    raise AssertionError("commands do not pass")


async def test_paused_redis_costs_a_few_commands_and_then_none(server: ControlledRedis) -> None:
    """Time-outs open the breaker; from then on Redis gets probes only, until it goes on."""
    async with guarded(server.url) as (guard, client):
        await until_answered(guard)
        server.pause()
        assert "ok" not in await load(guard)
        assert not guard.is_available
        sent = client.sent[b"INCR"]
        assert await load(guard, rounds=50) == {"redis_open": 1000}
        assert client.sent[b"INCR"] == sent
        server.resume()
        await until_answered(guard)


async def test_killed_redis_is_noticed_at_once_and_its_successor_is_used(server: ControlledRedis) -> None:
    """A Redis that is gone, and an empty one in its place, need no restart of the gateway."""
    async with guarded(server.url) as (guard, _):
        await until_answered(guard)
        server.kill()
        assert set(await load(guard)) <= {"cache_store_unreachable", "redis_open"}
        assert not guard.is_available
        server.start()
        await until_answered(guard)


async def test_redis_that_answers_too_late_is_left_alone_until_it_is_quick_again(server: ControlledRedis) -> None:
    """A line of 200 ms is as good as none for commands with 50 ms, and a PING that takes as long does not close."""
    async with slow_proxy(server.port) as (proxy, url), guarded(url) as (guard, client):
        await until_answered(guard)
        proxy.delay_seconds = 0.2
        assert "ok" not in await load(guard)
        assert not guard.is_available
        pings = client.sent[b"PING"]
        await eventually(lambda: client.sent[b"PING"] >= pings + 4, "it is probed")
        assert set(await load(guard)) == {"redis_open"}
        proxy.delay_seconds = 0.0
        await until_answered(guard)


async def test_redis_busy_with_somebody_elses_script_is_used_again_afterwards(server: ControlledRedis) -> None:
    """A script that keeps Redis busy for a second is an outage of a second."""
    async with guarded(server.url) as (guard, _):
        await until_answered(guard)
        with server.client() as other:
            blocking = asyncio.create_task(asyncio.to_thread(other.eval, _BUSY_SCRIPT, 0, 1.0))
            outcomes: set[str] = set()
            while guard.is_available and not blocking.done():
                outcomes |= set(await load(guard, rounds=1))
            assert not guard.is_available
            assert "cache_store_timeout" in outcomes
            assert outcomes <= {"ok", "cache_store_timeout", "redis_open"}
            await blocking
        await until_answered(guard)


async def test_redis_that_refuses_writes_stays_in_use_for_what_it_does_answer(server: ControlledRedis) -> None:
    """Out of memory or read-only, Redis still reads: commands are refused one by one, the breaker stays closed."""
    async with guarded(server.url) as (guard, _):
        await until_answered(guard)
        with server.client() as other:
            other.config_set("maxmemory-policy", "noeviction")
            other.config_set("maxmemory", 1)
            assert await load(guard) == {"cache_store_refused": 100}
            assert guard.is_available
            assert await guard.execute(b"GET", b"counter", deadline_seconds=10.0) is not None
            other.config_set("maxmemory", "64mb")
            other.replicaof("127.0.0.1", 1)
            assert set(await load(guard)) == {"cache_store_refused"}
            assert guard.is_available
            other.replicaof("NO", "ONE")
        await until_answered(guard)


async def test_redis_that_is_flushed_forgets_scripts_and_says_so(server: ControlledRedis) -> None:
    """A script that Redis does not know any more is a refusal with its reason, so that it can be sent again."""
    from penstock_gateway.redis_errors import RedisRefused

    async with guarded(server.url) as (guard, _):
        digest = await guard.execute(b"SCRIPT", b"LOAD", b"return 7", deadline_seconds=10.0)
        assert isinstance(digest, bytes)
        assert await guard.execute(b"EVALSHA", digest, 0, deadline_seconds=10.0) == 7
        with server.client() as other:
            other.script_flush()
        with pytest.raises(RedisRefused) as caught:
            await guard.execute(b"EVALSHA", digest, 0, deadline_seconds=10.0)
        assert caught.value.reason == "NOSCRIPT"
        assert guard.is_available
