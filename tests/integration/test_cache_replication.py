"""Gateways that share a Redis see each other's entries, and lose them together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import redis

from penstock_cache.stores import IndexFollower, RedisDocumentStore
from penstock_cache.stores.redis_layout import pseudonym
from penstock_gateway.redis_client import RedisClient
from support.cache_documents import (
    NOW,
    RememberedIndex,
    document,
    eventually,
    follower,
    random_documents,
    unit_vector,
)
from support.redis_server import NOT_INSTALLED, redis_binary
from support.redis_variants import redis_cluster, slow_proxy

pytestmark = pytest.mark.redis

# Deadlines are not what is tested here, and the machine may be busy.
PATIENT = {"look_up_seconds": 10.0, "write_seconds": 10.0, "block_seconds": 0.05}


@dataclass
class Replica:
    """One gateway's share: its store, its index and what follows."""

    store: RedisDocumentStore
    index: RememberedIndex
    follower: IndexFollower
    problems: list[str]

    def knows(self, *entry_ids: str) -> Callable[[], bool]:
        """Whether the index holds exactly these entries."""
        return lambda: set(self.index.records) == set(entry_ids)


@asynccontextmanager
async def replica(url: str) -> AsyncIterator[Replica]:
    """A gateway that has read its snapshot."""
    problems: list[str] = []
    index = RememberedIndex()
    store = RedisDocumentStore(RedisClient(url), on_problem=problems.append, **PATIENT)
    made = Replica(store, index, follower(index, problems), problems)
    following = asyncio.create_task(made.follower.run(store))
    try:
        await eventually(lambda: made.follower.is_in_step, "the snapshot")
        yield made
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await store.aclose()


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    """URL of a cluster of two servers."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with redis_cluster(binary) as url:
        yield url


@pytest.fixture(params=["redis", "cluster"])
def shared_url(request: pytest.FixtureRequest) -> str:
    """URL of one server, and of a cluster, whose log has several shards."""
    return request.getfixturevalue("redis_url" if request.param == "redis" else "cluster_url")


async def test_replicas_of_one_redis_see_each_others_inserts_and_deletes(shared_url: str) -> None:
    """What one gateway stores or deletes is soon in, or out of, every other one's index."""
    tenants = [f"tenant {number}" for number in range(20)]  # on a cluster they are spread over the shards
    documents = [document(number, tenant=tenant) for number, tenant in enumerate(tenants)]
    entry_ids = [each.entry_id for each in documents]
    async with replica(shared_url) as one, replica(shared_url) as other:
        for number, each in enumerate(documents):
            await (one if number % 2 else other).store.put(each, now=NOW)
        for side in (one, other):
            await eventually(side.knows(*entry_ids), "everything that either stored")
            assert side.index.added == len(documents)
        # float16 keeps 11 bits: a part of a unit vector is off by at most 2 ** -12.
        assert np.allclose(other.index.vectors[entry_ids[3]], unit_vector(3), atol=2**-11)
        await one.store.delete(tenants[0], [entry_ids[0]])
        await other.store.evict(tenants[1], [entry_ids[1]])
        for side in (one, other):
            await eventually(side.knows(*entry_ids[2:]), "what neither removed")
        assert await other.store.get(tenants[2], [entry_ids[2]], now=NOW) == [documents[2]]
        for tenant in tenants:
            await one.store.delete_tenant(tenant, now=NOW)
        for side in (one, other):
            await eventually(side.knows(), "nothing")
        assert one.index.clearings == other.index.clearings == 1


async def test_new_replica_while_others_write_has_snapshot_and_tail(redis_url: str) -> None:
    """A gateway that starts in the middle of inserts and deletes ends with exactly what is there."""
    documents = random_documents(600)
    kept = {each.entry_id for number, each in enumerate(documents) if number % 3}
    async with replica(redis_url) as old:

        async def write() -> None:
            for number, each in enumerate(documents):
                await old.store.put(each, now=NOW)
                if number % 3 == 0:
                    await old.store.delete("acme", [each.entry_id])

        writing = asyncio.create_task(write())
        await eventually(lambda: len(old.index.records) > 100, "some entries")
        async with replica(redis_url) as new:
            assert not writing.done()
            assert len(new.index.records) >= 100
            await writing
            await eventually(new.knows(*kept), "what is left")
            await eventually(old.knows(*kept), "what is left")
            assert new.index.clearings == 1


async def test_delete_tenant_at_one_replica_reaches_all_and_leaves_nothing(redis_url: str) -> None:
    """Deleting a tenant takes its entries out of every index, and its texts and vectors out of Redis."""
    documents = random_documents(150)
    neighbour = document(1, tenant="rival")
    async with replica(redis_url) as one, replica(redis_url) as other:
        for each in (*documents, neighbour):
            await one.store.put(each, now=NOW)
        await eventually(lambda: len(other.index.records) == 151, "all entries")
        assert await other.store.delete_tenant("acme", now=NOW) == 150
        await eventually(one.knows(neighbour.entry_id), "the neighbour's entry alone")
        await eventually(other.knows(neighbour.entry_id), "the neighbour's entry alone")
        with redis.Redis.from_url(redis_url) as client:
            assert [key for key in client.scan_iter() if pseudonym("acme") in key] == []
            log = str(client.xrange("penstock:1:{s0}:log"))
        assert documents[0].entry_id in log
        assert str(documents[0].vector)[2:-1] not in log
        assert documents[0].prompt not in log
        async with replica(redis_url) as new:
            assert set(new.index.records) == {neighbour.entry_id}


async def test_delete_category_at_one_replica_reaches_all(redis_url: str) -> None:
    """Deleting a category takes its entries out of every index and spares what is stored later."""
    medical, faq = document(1, category="medical"), document(2)
    later = document(3, category="medical", stored_at=NOW + 1.0)
    async with replica(redis_url) as one, replica(redis_url) as other:
        for each in (medical, faq):
            await one.store.put(each, now=NOW)
        assert await one.store.delete_category("acme", "medical", now=NOW) == 1
        await one.store.put(later, now=NOW + 1.0)
        for side in (one, other):
            await eventually(side.knows(faq.entry_id, later.entry_id), "the rest")


async def test_follower_cut_off_for_a_while_goes_on_where_it_was(redis_url: str) -> None:
    """A line that is down for a moment costs no snapshot: reading goes on after the last change that was seen."""
    port = redis.connection.parse_url(redis_url)["port"]
    async with replica(redis_url) as writer, slow_proxy(port) as (proxy, slow_url), replica(slow_url) as reader:
        await writer.store.put(document(1), now=NOW)
        await eventually(reader.knows(document(1).entry_id), "the first entry")
        proxy.delay_seconds = 60.0
        await eventually(lambda: "cache_store_timeout" in reader.problems, "the reader notices")
        await writer.store.put(document(2), now=NOW)
        await writer.store.delete("acme", [document(1).entry_id])
        proxy.delay_seconds = 0.0
        await eventually(reader.knows(document(2).entry_id), "what happened meanwhile")
        assert reader.index.clearings == 1


@pytest.mark.parametrize("is_followed_by_another", [True, False])
async def test_follower_whose_changes_were_trimmed_starts_again(redis_url: str, is_followed_by_another: bool) -> None:
    """Changes that were trimmed before they were read are noticed, with or without a later one, and made up for."""
    port = redis.connection.parse_url(redis_url)["port"]
    async with replica(redis_url) as writer, slow_proxy(port) as (proxy, slow_url), replica(slow_url) as reader:
        await writer.store.put(document(1), now=NOW)
        await eventually(reader.knows(document(1).entry_id), "the first entry")
        proxy.delay_seconds = 60.0
        await eventually(lambda: "cache_store_timeout" in reader.problems, "the reader notices")
        await writer.store.put(document(2), now=NOW)
        await writer.store.delete("acme", [document(1).entry_id])
        expected = [document(2).entry_id]
        await eventually(writer.knows(*expected), "the writer's own follower")  # else it would miss the same changes
        with redis.Redis.from_url(redis_url) as client:
            client.xtrim("penstock:1:{s0}:log", maxlen=0, approximate=False)
        if is_followed_by_another:
            await writer.store.put(document(3), now=NOW)
            expected.append(document(3).entry_id)
        proxy.delay_seconds = 0.0
        await eventually(reader.knows(*expected), "what is there now")
        assert reader.problems.count("cache_log_gap") == 1
        assert writer.index.clearings == 1


@pytest.mark.parametrize("is_trimmed", [True, False])
async def test_follower_whose_redis_was_exchanged_meanwhile_starts_again(redis_url: str, is_trimmed: bool) -> None:
    """Another server's log is told apart by its epoch even when it has come as far, whether or not it can be read."""
    port = redis.connection.parse_url(redis_url)["port"]
    async with replica(redis_url) as writer, slow_proxy(port) as (proxy, slow_url), replica(slow_url) as reader:
        await writer.store.put(document(1), now=NOW)
        await eventually(reader.knows(document(1).entry_id), "the first entry")
        proxy.delay_seconds = 60.0
        await eventually(lambda: "cache_store_timeout" in reader.problems, "the reader notices")
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
            await writer.store.put(document(2), now=NOW)
            if is_trimmed:
                client.xtrim("penstock:1:{s0}:log", maxlen=0, approximate=False)
        proxy.delay_seconds = 0.0
        await eventually(reader.knows(document(2).entry_id), "the other server's entry")
        assert reader.problems.count("cache_log_replaced") == 1


async def test_log_of_many_changes_is_bounded_by_age(redis_url: str) -> None:
    """Changes older than an hour by the server's clock are dropped from the log when new ones come."""
    async with replica(redis_url) as one:
        await one.store.put(document(1), now=NOW)
        with redis.Redis.from_url(redis_url) as client:
            [(_, fields)] = client.xrange("penstock:1:{s0}:log")
            client.delete("penstock:1:{s0}:log")
            for number in range(3):
                client.xadd("penstock:1:{s0}:log", fields, id=f"{number + 1}-0")
            await one.store.put(document(2), now=NOW)
            assert client.xlen("penstock:1:{s0}:log") == 1


async def test_keys_of_the_cache_in_redis_all_expire(redis_url: str) -> None:
    """Nothing stays in Redis for ever: every key has a time to live, no shorter than what it is needed for."""
    async with replica(redis_url) as one:
        await one.store.put(document(1, expires_at=NOW + 600.0), now=NOW)
        await one.store.put(document(2, expires_at=NOW + 60.0), now=NOW)
        with redis.Redis.from_url(redis_url) as client:
            lives = {key: client.pttl(key) for key in client.scan_iter()}
    assert len(lives) == 9
    assert min(lives.values()) > 0
    records = next(life for key, life in lives.items() if key.endswith(b":e"))
    # The shorter entry that came later has not shortened the life of the longer one's record; a minute for the test.
    assert 540_000 < records <= 600_000


async def test_follower_of_another_encoder_takes_no_vector(redis_url: str) -> None:
    """A gateway with another encoder refuses the vectors, counts them, and still learns of exact entries."""
    async with replica(redis_url) as one:
        await one.store.put(document(1), now=NOW)
        await one.store.put(document(2, vector=b"", encoder_id=""), now=NOW)
        index, problems = RememberedIndex(), list[str]()
        other = IndexFollower(index, encoder_id="another", dimension=8, clock=lambda: NOW, on_problem=problems.append)
        following = asyncio.create_task(other.run(one.store))
        await eventually(lambda: other.is_in_step, "the snapshot")
        assert set(index.records) == {document(2).entry_id}
        assert problems == ["cache_vector_refused"]
        following.cancel()
