"""Records and changes as bytes, keys in Redis, and followers that are too slow."""

from __future__ import annotations

import pytest

from penstock_cache.errors import DocumentDamaged
from penstock_cache.stores import Cleared, IndexRecord, Inserted, InStep, Removed, Reset
from penstock_cache.stores.changes import Stored, decode_change, decode_record, encode_change, encode_record
from penstock_cache.stores.feed import ChangeFeed
from penstock_cache.stores.redis_layout import CLUSTER_SHARDS, TenantKeys, pseudonym, shard_of
from support.cache_documents import document


def test_record_of_a_document_comes_back_equal() -> None:
    """Every field of a record survives its encoding, and none of the document's texts is in it."""
    record = IndexRecord.of(document(1, tier=None, is_shared=True))
    stored = encode_record(record)
    assert decode_record(stored) == record
    assert document(1).prompt.encode() not in stored
    assert document(1).body not in stored


def test_record_with_any_byte_changed_or_cut_is_damaged() -> None:
    """No changed or missing byte goes unnoticed."""
    stored = encode_record(IndexRecord.of(document(1)))
    for place in range(len(stored)):
        changed = stored[:place] + bytes([stored[place] ^ 1]) + stored[place + 1 :]
        for broken in (changed, stored[:place]):
            with pytest.raises(DocumentDamaged):
                decode_record(broken)


@pytest.mark.parametrize(
    "change",
    [Stored("acme", "1"), Removed("acme", ("1", "2")), Cleared("acme", None, 1.5), Cleared("acme", "faq", 2.0)],
)
def test_change_of_each_kind_comes_back_equal(change: Stored | Removed | Cleared) -> None:
    """Every kind of change survives its encoding."""
    assert decode_change(encode_change(change)) == change


@pytest.mark.parametrize("stored", [b"", b"noise", b"\x93\xa6stored", encode_change(Stored("a", "b"))[:-1]])
def test_change_that_cannot_be_read_is_damaged(stored: bytes) -> None:
    """Bytes that are no change raise the error that followers count."""
    with pytest.raises(DocumentDamaged):
        decode_change(stored)


def test_keys_of_a_tenant_share_one_hash_tag_and_hide_its_name() -> None:
    """A tenant's keys lie in one slot of a cluster, and its name is in none of them."""
    keys = TenantKeys(pseudonym("secret-customer"))
    names = [keys.records, keys.expiries, keys.document("1"), keys.pointer(b"\x01" * 16)]
    tags = {name[name.index(b"{") : name.index(b"}") + 1] for name in names}
    assert tags == {b"{t:" + pseudonym("secret-customer") + b"}"}
    assert len(set(names)) == 4
    assert all(b"secret" not in name for name in names)


def test_shard_of_many_tenants_uses_all_shards() -> None:
    """Tenants spread over the shards of the log, and each stays in its own."""
    shards = [shard_of(pseudonym(f"tenant {number}"), CLUSTER_SHARDS) for number in range(200)]
    assert set(shards) == set(range(CLUSTER_SHARDS))
    assert shards == [shard_of(pseudonym(f"tenant {number}"), CLUSTER_SHARDS) for number in range(200)]


async def test_feed_whose_follower_is_too_slow_starts_it_again() -> None:
    """A follower with too many changes waiting gets a new snapshot instead of unbounded memory or a gap."""
    documents = [document(1)]
    feed = ChangeFeed(lambda: iter(list(documents)), capacity=2)
    events = feed.follow()
    told = [await anext(events) for _ in range(3)]
    assert [type(event) for event in told] == [Reset, Inserted, InStep]
    for number in range(2, 7):
        documents.append(document(number))
        feed.publish(Inserted(IndexRecord.of(document(number))))
    told = [await anext(events) for _ in range(10)]
    assert [type(event) for event in told] == [Inserted, Inserted, Reset, *([Inserted] * 6), InStep]
    assert told[2] == Reset("overflow")
    await events.aclose()
