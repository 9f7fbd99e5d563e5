"""One suite over every document store: memory, file, one Redis server, a cluster of two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from penstock_cache.stores import (
    Cleared,
    DocumentStore,
    FileDocumentStore,
    IndexEvent,
    Inserted,
    InStep,
    MemoryDocumentStore,
    RedisDocumentStore,
    Removed,
    Reset,
)
from penstock_gateway.redis_client import RedisClient
from support.cache_documents import NOW, RememberedIndex, document, eventually, follower, random_documents
from support.redis_server import NOT_INSTALLED, redis_binary
from support.redis_variants import redis_cluster

# Deadlines are not what is tested here, and the machine may be busy.
PATIENT = {"look_up_seconds": 10.0, "write_seconds": 10.0}


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    """URL of a cluster of two servers."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with redis_cluster(binary) as url:
        yield url


async def _empty(url: str) -> None:
    import redis.asyncio

    client = redis.asyncio.RedisCluster.from_url(url.replace("+cluster", ""))
    await client.flushall(target_nodes=redis.asyncio.RedisCluster.PRIMARIES)
    await client.aclose()


@pytest.fixture(
    params=[
        "memory",
        "file",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("cluster", marks=pytest.mark.redis),
    ]
)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DocumentStore]:
    """An empty store of each kind."""
    made: DocumentStore
    if request.param == "memory":
        made = MemoryDocumentStore()
    elif request.param == "file":
        made = await FileDocumentStore.open(tmp_path / "cache", now=NOW)
    else:
        url = request.getfixturevalue("redis_url" if request.param == "redis" else "cluster_url")
        if request.param == "cluster":
            await _empty(url)
        made = RedisDocumentStore(RedisClient(url), **PATIENT, block_seconds=0.05)
    yield made
    await made.aclose()


async def test_get_of_stored_documents_returns_them_in_the_order_asked_for(store: DocumentStore) -> None:
    """Documents come back equal in every field, in the order of the ids, with None where there is none."""
    first, second = document(1, tier=None, is_shared=True), document(2, vector=b"", encoder_id="", body=b"\x00\xff")
    await store.put(first, now=NOW)
    await store.put(second, now=NOW)
    found = await store.get("acme", [second.entry_id, "0" * 32, first.entry_id], now=NOW)
    assert found == [second, None, first]
    assert await store.get("acme", [], now=NOW) == []


async def test_get_by_another_tenant_finds_nothing(store: DocumentStore) -> None:
    """Neither the id nor the fingerprint of a tenant's entry leads another tenant to it."""
    mine, theirs = document(1), document(1, tenant="rival", body=b"theirs")
    await store.put(mine, now=NOW)
    assert await store.get("rival", [mine.entry_id], now=NOW) == [None]
    assert await store.find_exact("rival", mine.fingerprint, now=NOW) is None
    assert await store.delete("rival", [mine.entry_id]) == 0
    await store.put(theirs, now=NOW)
    assert await store.get("acme", [mine.entry_id], now=NOW) == [mine]
    assert await store.find_exact("rival", mine.fingerprint, now=NOW) == theirs


@pytest.mark.parametrize("tenant", ["", "a}b{c", "a:d:0", "ünïcode ✓", "*", "x" * 5000])
async def test_put_for_a_tenant_with_an_odd_name_stays_apart(store: DocumentStore, tenant: str) -> None:
    """A tenant's name may hold anything, also what means something in keys."""
    kept = document(1, tenant=tenant)
    await store.put(kept, now=NOW)
    await store.put(document(2), now=NOW)
    assert await store.get(tenant, [kept.entry_id, document(2).entry_id], now=NOW) == [kept, None]
    assert await store.delete_tenant(tenant, now=NOW) == 1
    assert await store.get("acme", [document(2).entry_id], now=NOW) == [document(2)]


async def test_find_exact_after_two_answers_returns_the_newer(store: DocumentStore) -> None:
    """The exact tier finds the newest answer to a request; the older one is still there under its id."""
    older, newer = document(1), document(2, fingerprint=document(1).fingerprint)
    await store.put(older, now=NOW)
    await store.put(newer, now=NOW)
    assert await store.find_exact("acme", older.fingerprint, now=NOW) == newer
    assert await store.get("acme", [older.entry_id], now=NOW) == [older]


async def test_delete_of_an_older_answer_keeps_the_newer_one_exact(store: DocumentStore) -> None:
    """Deleting an entry takes the exact pointer along only if it leads to that entry."""
    older, newer = document(1), document(2, fingerprint=document(1).fingerprint)
    await store.put(older, now=NOW)
    await store.put(newer, now=NOW)
    assert await store.delete("acme", [older.entry_id, "f" * 32]) == 1
    assert await store.find_exact("acme", older.fingerprint, now=NOW) == newer
    assert await store.evict("acme", [newer.entry_id]) == 1
    assert await store.find_exact("acme", older.fingerprint, now=NOW) is None
    assert await store.delete("acme", [newer.entry_id]) == 0


async def test_get_at_and_after_expiry_finds_nothing(store: DocumentStore) -> None:
    """An entry is served until its fixed expiry and not at it, and reading it does not move that."""
    kept = document(1, expires_at=NOW + 60.0)
    await store.put(kept, now=NOW)
    for _ in range(3):
        assert await store.find_exact("acme", kept.fingerprint, now=NOW + 59.9) == kept
    assert await store.get("acme", [kept.entry_id], now=NOW + 60.0) == [None]
    assert await store.find_exact("acme", kept.fingerprint, now=NOW + 60.0) is None


async def test_put_of_an_expired_document_stores_nothing(store: DocumentStore) -> None:
    """What has expired when it is to be stored is not stored, whatever the clock says later."""
    await store.put(document(1), now=NOW + 3600.0)
    assert await store.get("acme", [document(1).entry_id], now=NOW) == [None]


async def test_get_with_the_clock_gone_back_finds_nothing_until_it_is_right_again(store: DocumentStore) -> None:
    """An entry from the future is not served, and not lost either: its age is unknown while the clock is wrong."""
    kept = document(1)
    await store.put(kept, now=NOW)
    assert await store.get("acme", [kept.entry_id], now=NOW - 3600.0) == [None]
    assert await store.get("acme", [kept.entry_id], now=NOW + 1.0) == [kept]


async def test_put_with_the_clock_gone_back_is_served_when_it_is_right(store: DocumentStore) -> None:
    """A clock that went back between answering and storing loses nothing and prolongs nothing."""
    kept = document(1)
    await store.put(kept, now=NOW - 7200.0)
    assert await store.get("acme", [kept.entry_id], now=NOW) == [kept]
    assert await store.get("acme", [kept.entry_id], now=kept.expires_at) == [None]


async def test_delete_tenant_with_many_entries_deletes_all_of_them_and_no_other(store: DocumentStore) -> None:
    """Every entry of the tenant is gone, more than one batch of them, and the neighbour's stay."""
    documents = random_documents(230)
    for each in documents:
        await store.put(each, now=NOW)
    neighbour = document(1, tenant="rival")
    await store.put(neighbour, now=NOW)
    assert await store.delete_tenant("acme", now=NOW) == 230
    assert await store.get("acme", [each.entry_id for each in documents], now=NOW) == [None] * 230
    assert await store.find_exact("acme", documents[0].fingerprint, now=NOW) is None
    assert await store.get("rival", [neighbour.entry_id], now=NOW) == [neighbour]
    assert await store.delete_tenant("acme", now=NOW) == 0


async def test_delete_category_of_a_tenant_keeps_its_other_categories(store: DocumentStore) -> None:
    """Only the category named is deleted, of only the tenant named."""
    medical, faq, rival = document(1, category="medical"), document(2), document(3, category="medical", tenant="rival")
    for each in (medical, faq, rival):
        await store.put(each, now=NOW)
    assert await store.delete_category("acme", "medical", now=NOW) == 1
    assert await store.get("acme", [medical.entry_id, faq.entry_id], now=NOW) == [None, faq]
    assert await store.get("rival", [rival.entry_id], now=NOW) == [rival]
    again = document(4, category="medical", stored_at=NOW + 1.0)
    await store.put(again, now=NOW + 1.0)
    assert await store.get("acme", [again.entry_id], now=NOW + 1.0) == [again]


async def test_sweep_expired_of_a_mixture_frees_only_what_has_expired(store: DocumentStore) -> None:
    """Sweeping counts what has expired, leaves the rest, and finds nothing the second time."""
    short = [document(number, expires_at=NOW + 10.0) for number in range(5)]
    kept = document(9)
    for each in (*short, kept):
        await store.put(each, now=NOW)
    assert await store.sweep_expired(now=NOW + 10.0) == 5
    assert await store.sweep_expired(now=NOW + 10.0) == 0
    assert await store.get("acme", [kept.entry_id], now=NOW + 10.0) == [kept]


async def _events(store: DocumentStore, count: int) -> list[IndexEvent]:
    found: list[IndexEvent] = []
    async with aclosing(store.follow()) as events:
        while len(found) < count:
            found.append(await asyncio.wait_for(anext(events), 20.0))
    return found


async def test_follow_of_a_filled_store_begins_with_a_snapshot(store: DocumentStore) -> None:
    """A new follower is told to forget, then of every entry there is, vectors included, then that it is in step."""
    documents = {each.entry_id: each for each in random_documents(150)}
    for each in documents.values():
        await store.put(each, now=NOW)
    gone = documents.popitem()[1]
    await store.delete("acme", [gone.entry_id])
    reset, *inserted, in_step = await _events(store, 151)
    assert reset == Reset("start")
    assert isinstance(in_step, InStep)
    told = {event.record.entry_id: event.record for event in inserted if isinstance(event, Inserted)}
    assert set(told) == set(documents)
    for entry_id, record in told.items():
        original = documents[entry_id]
        assert (record.vector, record.fingerprint) == (original.vector, original.fingerprint)
        assert record.size_bytes == original.size_bytes()


async def test_follow_of_later_changes_tells_each_in_order(store: DocumentStore) -> None:
    """What is stored, deleted, evicted and cleared after the snapshot is told in that order, once."""
    index = RememberedIndex()
    told: list[IndexEvent] = []

    async def listen() -> None:
        async with aclosing(store.follow()) as events:
            async for event in events:
                told.append(event)

    listening = asyncio.create_task(listen())
    await eventually(lambda: len(told) == 2, "the snapshot of an empty store")
    await store.put(document(1), now=NOW)
    await eventually(lambda: len(told) == 3, "the insertion")
    await store.delete("acme", [document(1).entry_id])
    await store.evict("acme", ["e" * 32])
    await store.delete_category("acme", "faq", now=NOW)
    await store.delete_tenant("acme", now=NOW)
    await eventually(lambda: len(told) == 7, "the removals")
    listening.cancel()
    kinds = [type(event) for event in told]
    assert kinds == [Reset, InStep, Inserted, Removed, Removed, Cleared, Cleared]
    assert told[3] == Removed("acme", (document(1).entry_id,))
    assert told[5:] == [Cleared("acme", "faq", NOW), Cleared("acme", None, NOW)]
    for event in told:
        follower(index).apply(event, NOW)
    assert index.records == {}


async def test_get_under_a_load_of_concurrent_callers_returns_to_each_its_own(store: DocumentStore) -> None:
    """Hundreds of look-ups at once, some of them given up half way, never return another one's document."""
    documents = random_documents(60)
    for each in documents:
        await store.put(each, now=NOW)
    wrong = []

    async def look_up(number: int) -> None:
        wanted = documents[number % 60]
        found = await store.find_exact("acme", wanted.fingerprint, now=NOW)
        [also_found] = await store.get("acme", [wanted.entry_id], now=NOW)
        if found != wanted or also_found != wanted:
            wrong.append(number)

    callers = [asyncio.create_task(look_up(number)) for number in range(600)]
    for turn in range(20):
        await asyncio.sleep(0)
        for caller in callers[turn::40]:
            caller.cancel()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert wrong == []
    assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []


@pytest.mark.redis
async def test_counter_of_two_gateways_never_rises_above_its_most(redis_url: str) -> None:
    """Many at once, from two connections, add while there is room, and what is given back is free."""
    stores = [RedisDocumentStore(RedisClient(redis_url), **PATIENT) for _ in range(2)]
    try:
        added = await asyncio.gather(
            *(stores[n % 2].add_within("audits:7", 3, most=100, ttl_seconds=60.0) for n in range(50))
        )
        assert sum(added) == 33
        assert not await stores[0].add_within("audits:7", 2, most=100, ttl_seconds=60.0)
        assert await stores[1].add_within("audits:7", -3, most=None, ttl_seconds=60.0)
        assert await stores[0].add_within("audits:7", 4, most=100, ttl_seconds=60.0)
        assert await stores[0].add_within("audits:8", 100, most=100, ttl_seconds=60.0)
    finally:
        for store in stores:
            await store.aclose()
