"""Whatever happens to Redis, a look-up is a right answer, a miss or `StoreUnavailable`, and things mend themselves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from penstock_cache.entries import CachedDocument, encode_document
from penstock_cache.errors import StoreUnavailable
from penstock_cache.stores import RedisDocumentStore
from penstock_cache.stores.changes import IndexRecord, encode_record
from penstock_cache.stores.redis_layout import TenantKeys, pseudonym
from penstock_gateway.redis_client import RedisClient
from support.cache_documents import NOW, RememberedIndex, document, eventually, follower, random_documents
from support.redis_server import NOT_INSTALLED, redis_binary
from support.redis_variants import ControlledRedis, controlled_redis, slow_proxy

pytestmark = pytest.mark.redis

HANG_SECONDS = 30.0  # a call that is still running then hangs; its own deadline is 0.05 or 0.25 s
DOCUMENTS = random_documents(40)
UNAVAILABLE = {"cache_store_timeout", "cache_store_unreachable", "cache_store_paused", "cache_store_refused"}
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
    """A client that counts the commands it is asked to send."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.sent: Counter[bytes | int] = Counter()

    async def execute(self, *command: bytes | int, deadline_seconds: float) -> object:
        """Count a command and send it."""
        self.sent[command[0]] += 1
        return await super().execute(*command, deadline_seconds=deadline_seconds)


@asynccontextmanager
async def opened(url: str, problems: list[str] | None = None) -> AsyncIterator[RedisDocumentStore]:
    """A store with the deadlines of production."""
    noted = [] if problems is None else problems
    store = RedisDocumentStore(CountingClient(url), on_problem=noted.append, block_seconds=0.05)
    try:
        yield store
    finally:
        await asyncio.wait_for(store.aclose(), HANG_SECONDS)


async def fill(store: RedisDocumentStore, documents: list[CachedDocument] = DOCUMENTS) -> None:
    """Store documents, however busy the machine is."""
    for each in documents:
        await until_done(lambda each=each: store.put(each, now=NOW))


async def until_done(attempt: Callable[[], object]) -> object:
    """Repeat a call until it is answered."""
    for _ in range(200):
        try:
            return await asyncio.wait_for(attempt(), HANG_SECONDS)  # type: ignore[arg-type]
        except StoreUnavailable:
            await asyncio.sleep(0.1)
    raise AssertionError("the store did not recover")


async def look_up(store: RedisDocumentStore, wanted: CachedDocument) -> str:
    """Look a document up both ways, and say how that ended; a wrong answer fails the test."""
    try:
        found = await asyncio.wait_for(store.find_exact("acme", wanted.fingerprint, now=NOW), HANG_SECONDS)
        assert found in (wanted, None)
        [found] = await asyncio.wait_for(store.get("acme", [wanted.entry_id], now=NOW), HANG_SECONDS)
        assert found in (wanted, None)
    except StoreUnavailable as error:
        return error.code
    return "miss" if found is None else "hit"


async def load(store: RedisDocumentStore, rounds: int = 4, at_once: int = 40) -> Counter[str]:
    """Look up everything from many callers at once, several times over."""
    outcomes: Counter[str] = Counter()
    for _ in range(rounds):
        wanted = (DOCUMENTS * (1 + at_once // len(DOCUMENTS)))[:at_once]
        outcomes.update(await asyncio.gather(*(look_up(store, each) for each in wanted)))
    return outcomes


async def until_all_hit(store: RedisDocumentStore) -> None:
    """Wait until every document is found again."""
    for _ in range(200):
        outcomes = [await look_up(store, each) for each in DOCUMENTS]
        if set(outcomes) == {"hit"}:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"the store did not recover: {outcomes}")


async def test_look_ups_while_redis_is_killed_and_started_again_recover(server: ControlledRedis) -> None:
    """Killing Redis under load gives misses and errors at once; an empty new one is used as soon as it is there."""
    async with opened(server.url) as store:
        await fill(store)
        await until_all_hit(store)
        under_load = asyncio.create_task(load(store, rounds=20))
        await asyncio.sleep(0.05)
        server.kill()
        assert set(await under_load) <= {"hit", "miss", *UNAVAILABLE}
        assert set(await load(store)) <= UNAVAILABLE
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(store.put(DOCUMENTS[0], now=NOW), HANG_SECONDS)
        server.start()
        await fill(store)
        await until_all_hit(store)


async def test_look_ups_while_redis_is_paused_cost_nothing_once_that_is_known(server: ControlledRedis) -> None:
    """A paused Redis is asked a few times, then only by probes in the background; it is used again when it goes on."""
    async with opened(server.url) as store:
        await fill(store)
        await until_all_hit(store)
        server.pause()
        assert set(await load(store)) <= UNAVAILABLE
        await eventually(lambda: not store.is_answering, "the breaker opens")
        client = store._commands
        assert isinstance(client, CountingClient)
        sent = client.sent.copy()
        assert await load(store, rounds=10) == {"cache_store_paused": 400}
        assert set(client.sent - sent) <= {b"PING"}
        server.resume()
        await until_all_hit(store)
        await fill(store)


async def test_look_ups_while_another_client_blocks_redis_recover(server: ControlledRedis) -> None:
    """A script of somebody else that keeps Redis busy for two seconds costs hits, not answers."""
    async with opened(server.url) as store:
        await fill(store)
        await until_all_hit(store)
        with server.client() as other:
            blocking = asyncio.create_task(asyncio.to_thread(other.eval, _BUSY_SCRIPT, 0, 2.0))
            await asyncio.sleep(0.1)
            assert set(await load(store, rounds=10)) <= {"hit", *UNAVAILABLE}
            await blocking
        await until_all_hit(store)


@pytest.mark.parametrize("delay_seconds", [0.2, 0.024])
async def test_look_ups_through_a_slow_line_never_get_another_answer(
    server: ControlledRedis, delay_seconds: float
) -> None:
    """Replies that come after their deadline, or about then, never reach the look-up that comes next."""
    async with slow_proxy(server.port) as (proxy, url), opened(url) as store:
        await fill(store)
        await until_all_hit(store)
        proxy.delay_seconds = delay_seconds
        for _ in range(3):
            outcomes = await load(store)
            assert set(outcomes) <= {"hit", *UNAVAILABLE}
            await asyncio.sleep(0.3)
        if delay_seconds > 0.1:
            assert "hit" not in outcomes
        proxy.delay_seconds = 0.0
        await until_all_hit(store)


async def test_look_ups_at_a_server_that_is_no_redis_are_unavailable(server: ControlledRedis) -> None:
    """Bytes that are no Redis protocol are an unavailable store, and leave nothing behind."""
    async with slow_proxy(server.port) as (proxy, url), opened(url) as store:
        await fill(store)
        proxy.garbage = b"HTTP/1.1 400 Bad Request\r\n\r\n"
        assert set(await load(store)) <= UNAVAILABLE
        proxy.garbage = None
        await until_all_hit(store)


async def test_look_ups_after_a_flush_are_misses_and_the_index_is_emptied(server: ControlledRedis) -> None:
    """When somebody flushes Redis, answers are gone, the index forgets them, and new ones are followed again."""
    async with opened(server.url) as store:
        await fill(store)
        index, problems = RememberedIndex(), list[str]()
        following = asyncio.create_task(follower(index, problems).run(store))
        await eventually(lambda: len(index.records) == len(DOCUMENTS), "the snapshot")
        with server.client() as other:
            other.flushall()
        assert set(await load(store)) <= {"miss", *UNAVAILABLE}
        await eventually(lambda: not index.records, "the index is emptied")
        await fill(store, DOCUMENTS[:3])
        await eventually(lambda: len(index.records) == 3, "the new entries")
        following.cancel()


async def test_put_while_redis_is_out_of_memory_fails_and_look_ups_go_on(server: ControlledRedis) -> None:
    """A Redis without memory refuses documents, serves those it has, deletes what it is told, and takes more later."""
    async with opened(server.url) as store:
        await fill(store)
        with server.client() as other:
            other.config_set("maxmemory-policy", "noeviction")
            other.config_set("maxmemory", 1)
            for each in random_documents(6, seed=1):
                with pytest.raises(StoreUnavailable):
                    await asyncio.wait_for(store.put(each, now=NOW), HANG_SECONDS)
            await until_all_hit(store)
            assert store.is_answering
            with pytest.raises(StoreUnavailable, match="refused"):  # the log cannot be told, so it is to be asked again
                await store.delete("acme", [DOCUMENTS[0].entry_id])
            assert await store.get("acme", [DOCUMENTS[0].entry_id], now=NOW) == [None]
            other.config_set("maxmemory", "64mb")
        await fill(store)
        await until_all_hit(store)


async def test_index_after_a_failover_to_an_empty_server_starts_again(server: ControlledRedis) -> None:
    """Another server on the same address with other data is noticed by its log's epoch, and its data are taken."""
    problems: list[str] = []
    async with opened(server.url, problems) as store:
        await fill(store)
        index = RememberedIndex()
        following = asyncio.create_task(follower(index).run(store))
        await eventually(lambda: len(index.records) == len(DOCUMENTS), "the snapshot")
        server.kill()
        server.start()
        newcomers = random_documents(len(DOCUMENTS), seed=2)  # as many as before: the change's number is the same
        async with opened(server.url) as other:
            await fill(other, newcomers)
        expected = {each.entry_id for each in newcomers}
        await eventually(lambda: set(index.records) == expected, "the new server's entries")
        assert "cache_log_replaced" in problems
        assert set(await load(store)) <= {"miss", *UNAVAILABLE}
        following.cancel()


async def test_store_before_redis_is_there_works_once_it_comes(server: ControlledRedis) -> None:
    """A gateway that starts before Redis serves misses, and store and follower work when Redis has come."""
    server.kill()
    async with opened(server.url) as store:
        index = RememberedIndex()
        following = asyncio.create_task(follower(index).run(store))
        assert set(await load(store)) <= UNAVAILABLE
        server.start()
        await fill(store)
        await until_all_hit(store)
        await eventually(lambda: len(index.records) == len(DOCUMENTS), "the follower")
        following.cancel()


@pytest.mark.parametrize(
    ("code", "stored"),
    [
        ("cache_document_damaged", b""),
        ("cache_document_damaged", b"not a document at all, but long enough"),
        ("cache_document_damaged", encode_document(document(1))[:-1]),
        ("cache_document_damaged", encode_document(document(1)).replace(b"answer", b"ANSWER")),
        ("cache_document_misplaced", encode_document(document(2))),
        ("cache_document_misplaced", encode_document(document(1, tenant="rival"))),
    ],
    ids=["empty", "noise", "cut", "changed", "another entry", "another tenant"],
)
async def test_get_of_a_corrupt_document_is_a_miss_and_drops_it(redis_url: str, code: str, stored: bytes) -> None:
    """Bytes that are not the document asked for are counted, never served, and removed with all that leads to them."""
    import redis

    problems: list[str] = []
    async with opened(redis_url, problems) as store:
        await fill(store, [document(1)])
        keys = TenantKeys(pseudonym("acme"))
        with redis.Redis.from_url(redis_url) as other:
            other.set(keys.document(document(1).entry_id), stored, px=60_000)
            assert await until_done(lambda: store.get("acme", [document(1).entry_id], now=NOW)) == [None]
            assert code in problems
            await eventually(
                lambda: not other.exists(keys.document(document(1).entry_id), keys.records), "it is dropped"
            )
            assert not other.exists(keys.pointer(document(1).fingerprint))
        assert await until_done(lambda: store.find_exact("acme", document(1).fingerprint, now=NOW)) is None


async def test_find_exact_through_a_pointer_to_another_request_is_a_miss(redis_url: str) -> None:
    """A pointer that leads to the answer of another request is not followed."""
    import redis

    problems: list[str] = []
    async with opened(redis_url, problems) as store:
        await fill(store, [document(1), document(2)])
        with redis.Redis.from_url(redis_url) as other:
            other.set(TenantKeys(pseudonym("acme")).pointer(document(1).fingerprint), document(2).entry_id)
        assert await until_done(lambda: store.find_exact("acme", document(1).fingerprint, now=NOW)) is None
        assert "cache_document_misplaced" in problems


async def test_get_of_a_document_without_its_record_is_a_miss(redis_url: str) -> None:
    """Where Redis evicted a tenant's records, its documents are not served: a deletion could not find them any more."""
    import redis

    async with opened(redis_url) as store:
        await fill(store, [document(1)])
        keys = TenantKeys(pseudonym("acme"))
        with redis.Redis.from_url(redis_url) as other:
            other.delete(keys.records)
            assert other.exists(keys.document(document(1).entry_id))
        assert await until_done(lambda: store.get("acme", [document(1).entry_id], now=NOW)) == [None]
        assert await until_done(lambda: store.find_exact("acme", document(1).fingerprint, now=NOW)) is None


async def test_keys_of_another_type_are_refused_and_harm_nothing(redis_url: str) -> None:
    """A key that somebody filled with something else makes calls fail, not the process, until it is gone."""
    import redis

    async with opened(redis_url) as store:
        await fill(store, [document(1)])
        keys = TenantKeys(pseudonym("acme"))
        with redis.Redis.from_url(redis_url) as other:
            other.delete(keys.document(document(1).entry_id))
            other.rpush(keys.document(document(1).entry_id), "a list")
            with pytest.raises(StoreUnavailable):
                await store.get("acme", [document(1).entry_id], now=NOW)
        assert await until_done(lambda: store.delete("acme", [document(1).entry_id])) == 1
        await fill(store, [document(1)])
        assert await until_done(lambda: store.get("acme", [document(1).entry_id], now=NOW)) == [document(1)]


async def test_follower_with_damaged_records_in_redis_leaves_them_out(redis_url: str) -> None:
    """A record that cannot be read, in the snapshot or later, is counted and left out; the others arrive."""
    import redis

    problems: list[str] = []
    async with opened(redis_url, problems) as store:
        await fill(store, DOCUMENTS[:5])
        keys = TenantKeys(pseudonym("acme"))
        with redis.Redis.from_url(redis_url) as other:
            other.hset(keys.records, DOCUMENTS[0].entry_id, b"noise")
            other.hset(keys.records, DOCUMENTS[1].entry_id, encode_record(IndexRecord.of(DOCUMENTS[1]))[:-3])
            index = RememberedIndex()
            following = asyncio.create_task(follower(index).run(store))
            await eventually(lambda: len(index.records) == 3, "the readable records")
            other.xadd("penstock:1:{s0}:log", {"e": other.hget("penstock:1:{s0}:head", "epoch"), "n": 6, "c": b"noise"})
            other.hset("penstock:1:{s0}:head", "number", 6)
            await fill(store, DOCUMENTS[5:6])
            await eventually(lambda: len(index.records) == 4, "what came after the damaged change")
        assert problems.count("cache_record_damaged") == 2
        assert problems.count("cache_change_damaged") == 1
        assert index.clearings == 1
        following.cancel()
