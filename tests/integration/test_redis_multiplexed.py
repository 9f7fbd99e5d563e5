"""Many commands over one connection: replies find their callers, and nothing piles up behind a server that is stuck."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from penstock_cache.errors import StoreUnavailable
from penstock_gateway import redis_multiplexed
from penstock_gateway.redis_client import RedisClient
from penstock_gateway.redis_errors import RedisRefused
from penstock_gateway.redis_multiplexed import MultiplexedRedis
from penstock_gateway.redis_url import read_url
from support.cache_documents import eventually
from support.redis_server import NOT_INSTALLED, redis_binary
from support.redis_variants import ControlledRedis, controlled_redis, slow_proxy

pytestmark = pytest.mark.redis

PATIENCE_SECONDS = 30.0


@pytest.fixture
def server() -> Iterator[ControlledRedis]:
    """A server that the test may do anything to."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with controlled_redis(binary) as running:
        yield running


@asynccontextmanager
async def opened(url: str, max_waiting: int = redis_multiplexed.MAX_WAITING) -> AsyncIterator[MultiplexedRedis]:
    """A connection that is closed afterwards."""
    line = MultiplexedRedis(read_url(url), max_waiting=max_waiting)
    try:
        yield line
    finally:
        await line.aclose()


async def ask(line: MultiplexedRedis, *command: bytes | int, seconds: float = PATIENCE_SECONDS) -> object:
    """Return a reply, or the code of the failure."""
    try:
        return await line.execute(command, seconds)
    except StoreUnavailable as error:
        return error.code


def connections_of(server: ControlledRedis) -> int:
    """How many connections the server has, but for the one that asks."""
    with server.client() as other:
        return len(other.client_list()) - 1


async def test_replies_of_many_at_once_find_their_callers_over_one_connection(server: ControlledRedis) -> None:
    """A thousand callers get each their own reply, and the server sees one connection."""
    async with opened(server.url) as line:
        texts = [f"text {number}".encode() * (1 + number % 50) for number in range(1000)]
        assert await asyncio.gather(*(ask(line, b"ECHO", text) for text in texts)) == texts
        assert connections_of(server) == 1
        assert line.waiting == 0


async def test_commands_of_one_turn_of_the_loop_are_one_write(
    server: ControlledRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What many tasks ask in one turn leaves together, which is what makes a command cheap."""
    async with opened(server.url) as line:
        await ask(line, b"PING")
        assert line._link is not None
        transport = line._link._transport
        writes: list[int] = []

        class Counting:
            def write(self, content: bytes) -> None:
                writes.append(len(content))
                transport.write(content)

            def __getattr__(self, name: str) -> object:
                return getattr(transport, name)

        monkeypatch.setattr(line._link, "_transport", Counting())
        await asyncio.gather(*(ask(line, b"ECHO", b"text") for _ in range(100)))
        assert len(writes) == 1


async def test_error_reply_fails_its_own_command_only_and_names_its_reason(server: ControlledRedis) -> None:
    """A refused command stands between two that are answered; of the reply only the first word is told."""
    async with opened(server.url) as line:
        first, wrong, last = await asyncio.gather(
            line.execute((b"SET", b"key", b"value"), PATIENCE_SECONDS),
            line.execute((b"INCR", b"key"), PATIENCE_SECONDS),
            line.execute((b"GET", b"key"), PATIENCE_SECONDS),
            return_exceptions=True,
        )
        assert (first, last) == (b"OK", b"value")
        assert isinstance(wrong, RedisRefused)
        for command, reason in (((b"EVALSHA", b"f" * 40, 0), "NOSCRIPT"), ((b"LPUSH", b"key", b"x"), "WRONGTYPE")):
            with pytest.raises(RedisRefused) as caught:
                await line.execute(command, PATIENCE_SECONDS)
            assert caught.value.reason == reason


@pytest.mark.parametrize("is_multiplexed", [True, False])
async def test_refusals_have_the_same_reasons_through_both_clients(redis_url: str, is_multiplexed: bool) -> None:
    """Whoever looks at the reason need not know what carries the command."""
    client = RedisClient(redis_url, is_multiplexed=is_multiplexed)
    try:
        await client.execute(b"SET", b"text", b"x", deadline_seconds=PATIENCE_SECONDS)
        reasons = []
        for command in ((b"EVALSHA", b"f" * 40, 0), (b"HGET", b"text", b"x"), (b"EVAL", b"return nonsense(", 0)):
            with pytest.raises(RedisRefused) as caught:
                await client.execute(*command, deadline_seconds=PATIENCE_SECONDS)
            reasons.append(caught.value.reason)
        assert reasons == ["NOSCRIPT", "WRONGTYPE", "ERR"]
    finally:
        await client.aclose()


async def test_commands_to_a_paused_server_make_no_tasks_and_stay_within_their_bound(
    server: ControlledRedis,
) -> None:
    """A thousand requests in each tenth of a deadline fail in time, and what waits for them never passes the bound."""
    async with opened(server.url, max_waiting=500) as line:
        assert await ask(line, b"PING") == b"PONG"
        server.pause()
        before = len(asyncio.all_tasks())
        outcomes: Counter[object] = Counter()
        most_waiting = most_extra_tasks = 0
        for _ in range(20):
            callers = [asyncio.create_task(ask(line, b"GET", b"key", seconds=0.05)) for _ in range(1000)]
            await asyncio.sleep(0.005)
            most_waiting = max(most_waiting, line.waiting)
            outcomes.update(await asyncio.gather(*callers))
            most_extra_tasks = max(most_extra_tasks, len(asyncio.all_tasks()) - before)
        assert set(outcomes) <= {"cache_store_timeout", "cache_store_unreachable"}
        assert sum(outcomes.values()) == 20_000
        assert most_waiting <= 500
        assert most_extra_tasks <= 1  # the one that connects
        server.resume()
        await eventually_answered(line)


@pytest.mark.parametrize("is_multiplexed", [True, False])
async def test_client_of_a_paused_server_keeps_a_bounded_number_of_tasks(
    server: ControlledRedis, is_multiplexed: bool
) -> None:
    """Whichever way commands travel, callers that gave up leave no more than one task per connection behind."""
    client = RedisClient(server.url, connections=8, is_multiplexed=is_multiplexed)
    try:
        await client.execute(b"PING", deadline_seconds=PATIENCE_SECONDS)
        server.pause()
        before = len(asyncio.all_tasks())
        for _ in range(10):
            sending = (client.execute(b"GET", b"key", deadline_seconds=0.02) for _ in range(500))
            outcomes = await asyncio.gather(*sending, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
            assert len(asyncio.all_tasks()) - before <= 8
    finally:
        server.resume()
        await client.aclose()


async def test_large_commands_to_a_paused_server_are_held_within_bytes(
    server: ControlledRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents that the server does not take wait in bounded memory, those that were given up not at all."""
    monkeypatch.setattr(redis_multiplexed, "MAX_UNSENT_BYTES", 4_000_000)
    async with opened(server.url) as line:
        await ask(line, b"PING")
        server.pause()
        document = b"x" * 250_000
        for _ in range(5):
            outcomes = await asyncio.gather(
                *(ask(line, b"SET", b"key", document, seconds=0.05) for _ in range(100)),
            )
            assert set(outcomes) <= {"cache_store_timeout", "cache_store_unreachable"}
            assert line._unsent_bytes <= 4_000_000
        server.resume()
        await eventually_answered(line)


async def eventually_answered(line: MultiplexedRedis) -> None:
    """Wait until commands pass again."""
    for _ in range(200):
        if await ask(line, b"ECHO", b"again", seconds=1.0) == b"again":
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the connection did not recover")


async def test_command_given_up_before_there_was_a_connection_is_never_sent(server: ControlledRedis) -> None:
    """What waited for the connection longer than its deadline does not reach the server afterwards."""
    server.pause()
    async with opened(server.url) as line:
        assert await ask(line, b"SET", b"key", b"late", seconds=0.05) == "cache_store_timeout"
        server.resume()
        await eventually(lambda: line._link is not None, "the connection is there")
        assert await ask(line, b"GET", b"key") is None


async def test_connection_lost_with_commands_on_it_fails_them_and_is_opened_again(server: ControlledRedis) -> None:
    """Whoever waits on a connection that is cut hears so at once, and the next command opens another."""
    async with opened(server.url) as line:
        await ask(line, b"PING")
        blocked = [asyncio.create_task(ask(line, b"BLPOP", b"nothing", 0)) for _ in range(3)]
        await eventually(lambda: line.waiting == 3, "all are sent")
        with server.client() as other:
            await eventually(lambda: any(each["cmd"] == "blpop" for each in other.client_list()), "they block")
            other.client_kill_filter(_type="normal", skipme=True)
        assert await asyncio.gather(*blocked) == ["cache_store_unreachable"] * 3
        await eventually_answered(line)


async def test_reply_overdue_for_longer_than_the_grace_closes_the_connection(server: ControlledRedis) -> None:
    """A line that stays silent is given up with all that waits on it: no place in the order is kept for ever."""
    async with slow_proxy(server.port) as (proxy, url), opened(url) as line:
        await ask(line, b"PING")
        proxy.delay_seconds = 60.0
        assert await ask(line, b"GET", b"key", seconds=0.01) == "cache_store_timeout"
        patient = asyncio.create_task(ask(line, b"GET", b"key", seconds=PATIENCE_SECONDS))
        assert await patient == "cache_store_unreachable"
        assert line.waiting == 0
        proxy.delay_seconds = 0.0
        await eventually_answered(line)


async def test_server_that_became_a_replica_is_left_for_a_new_connection(server: ControlledRedis) -> None:
    """After READONLY the next commands go over another connection, which a name may lead to the new primary."""
    async with opened(server.url) as line:
        await ask(line, b"PING")
        first = line._link
        with server.client() as other:
            other.replicaof("127.0.0.1", 1)
        with pytest.raises(RedisRefused) as caught:
            await line.execute((b"SET", b"key", b"value"), PATIENCE_SECONDS)
        assert caught.value.reason == "READONLY"
        with server.client() as other:
            other.replicaof("NO", "ONE")
        assert await ask(line, b"SET", b"key", b"value") == b"OK"
        assert line._link is not first
        await eventually(lambda: connections_of(server) == 1, "the old one is closed")


async def test_closed_client_refuses_further_commands_and_fails_those_that_wait(server: ControlledRedis) -> None:
    """Closing ends what waits, and nothing is opened again."""
    async with opened(server.url) as line:
        await ask(line, b"PING")
        waiting = asyncio.create_task(ask(line, b"BLPOP", b"nothing", 0))
        await eventually(lambda: line.waiting == 1, "it is sent")
        await line.aclose()
        assert await waiting == "cache_store_unreachable"
        assert await ask(line, b"PING") == "cache_store_unreachable"


async def test_process_that_stood_still_past_the_deadline_still_gets_its_reply(
    server: ControlledRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause of this process alone is no failure of Redis: the reply that lies in the socket is taken."""
    deadline_seconds = 0.05

    async def stood_still() -> tuple[list[bool], object]:
        loop = asyncio.get_running_loop()
        woken, waker = socket.socketpair()
        with woken, waker:
            async with opened(server.url) as line:
                await ask(line, b"PING")
                link = line._link
                assert link is not None
                descriptor, send = link._transport.get_extra_info("socket").fileno(), link.send
                is_answered: list[bool] = []

                def stand_still() -> None:
                    loop.remove_reader(woken)
                    server.resume()
                    is_answered.append(bool(select.select([descriptor], [], [], PATIENCE_SECONDS)[0]))
                    time.sleep(2 * deadline_seconds)

                # Where uvloop handles a socket, so that its timers come before it looks at sockets again; and in the
                # turn in which the command leaves, while the server cannot answer yet.
                loop.add_reader(woken, stand_still)
                monkeypatch.setattr(link, "send", lambda batch: (send(batch), waker.send(b"!")))
                server.pause()
                return is_answered, await ask(line, b"ECHO", b"text", seconds=deadline_seconds)

    assert await asyncio.to_thread(uvloop.run, stood_still()) == ([True], b"text")
