"""One suite over every store of accounts: a file, one Redis server, a cluster of two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.accounts.file_store import FileAccountStore
from penstock_gateway.accounts.records import AccountSnapshot, Changes, StoredKey, StoredSecret, StoredTag, StoredTeam
from penstock_gateway.accounts.redis_store import RedisAccountStore
from penstock_gateway.accounts.store import AccountsConflict, AccountsLost, AccountStore
from penstock_gateway.ledger.contract import Period
from penstock_gateway.redis_client import RedisClient
from penstock_gateway.settings_accounts import BudgetRuleSettings, BudgetSettings, RateLimitSettings
from support.redis_server import NOT_INSTALLED, redis_binary
from support.redis_variants import redis_cluster

PATIENT_SECONDS = 10.0  # deadlines are not what is tested here, and the machine may be busy

KEY = StoredKey(
    id="abcdefgh",
    name="ci/nightly build@eu".replace(" ", "-"),
    secrets=(StoredSecret(digest="0" * 64), StoredSecret(digest="1" * 64, ends_at=17.25)),
    created_at=1.5,
    rotated_at=2.5,
    team="search",
    tags=("batch",),
    allowed_models=("auto", "small"),
    tradeoff=0.25,
    max_cost_usd=0.125,
    category_floors={"law": "large"},
    budgets=(BudgetSettings(period=Period.DAY, limit_usd=Decimal("0.000000000001"), soft_share=0.5),),
    limits=RateLimitSettings(tokens_per_minute=5),
    budget_rules=(BudgetRuleSettings(used_share=0.8, tradeoff="cost"),),
    expires_at=1_800_000_000.5,
    cache_categories=("faq",),
    may_share_answers=True,
)
TEAM = StoredTeam(name="search", created_at=3.0, priority="low")
TAG = StoredTag(name="batch", created_at=4.0)

Opener = Callable[[], AccountStore]


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    """URL of a cluster of two servers."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with redis_cluster(binary) as url:
        yield url


@pytest.fixture(
    params=["file", pytest.param("redis", marks=pytest.mark.redis), pytest.param("cluster", marks=pytest.mark.redis)]
)
async def opener(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens one place of each kind again and again, empty at first."""
    opened: list[AccountStore] = []

    def open_store() -> AccountStore:
        made: AccountStore
        if request.param == "file":
            made = FileAccountStore(tmp_path / "accounts", timeout_seconds=PATIENT_SECONDS)
        else:
            url = request.getfixturevalue("redis_url" if request.param == "redis" else "cluster_url")
            organisation = tmp_path.name.replace("_", "-") if request.param == "cluster" else "default"
            made = RedisAccountStore(RedisClient(url), organisation=organisation, timeout_seconds=PATIENT_SECONDS)
        opened.append(made)
        return made

    yield open_store
    for store in opened:
        await store.aclose()


async def test_store_without_records_has_no_version(opener: Opener) -> None:
    """Nothing stored is no error."""
    store = opener()
    assert await store.version() == ""
    assert await store.load() == AccountSnapshot()


async def test_committed_records_come_back_equal_in_every_field(opener: Opener) -> None:
    """Another reader finds the same records, exact money and moments included, under the same version."""
    version = await opener().commit("", Changes((KEY, TEAM, TAG), pepper_check="c" * 64))
    other = opener()
    assert await other.version() == version != ""
    assert await other.load() == AccountSnapshot.of(version, "c" * 64, (KEY, TEAM, TAG))


async def test_change_of_some_records_leaves_the_others(opener: Opener) -> None:
    """A commit replaces, adds and deletes what it names, and keeps the pepper's check when it gives none."""
    store = opener()
    first = await store.commit("", Changes((KEY, TEAM, TAG), pepper_check="c" * 64))
    renamed = KEY.model_copy(update={"name": "deploy"})
    second = await store.commit(first, Changes((renamed,), deletes=(("tag", "batch"), ("team", "unknown"))))
    assert second != first
    assert await store.load() == AccountSnapshot.of(second, "c" * 64, (renamed, TEAM))


async def test_commit_from_an_old_version_writes_nothing(opener: Opener) -> None:
    """Whoever worked a change out from what is gone has to work it out again."""
    store, other = opener(), opener()
    first = await store.commit("", Changes((KEY,)))
    second = await other.commit(first, Changes((TEAM,)))
    for expected in (first, "", "1-abc"):
        with pytest.raises(AccountsConflict):
            await store.commit(expected, Changes((TAG,), deletes=(("key", KEY.id),)))
    assert await store.load() == AccountSnapshot.of(second, "", (KEY, TEAM))
    assert await store.version() == await other.version() == second


async def test_commit_into_a_store_that_was_emptied_is_told_apart(opener: Opener) -> None:
    """A version that is expected where there is none means a loss, not a race."""
    with pytest.raises(AccountsLost):
        await opener().commit("7-0123456789abcdef", Changes((KEY,)))
    assert await opener().version() == ""


async def test_record_that_has_not_changed_is_the_same_object_when_read_again(opener: Opener) -> None:
    """A reader checks what has changed and keeps the rest, so that a change among thousands is taken over quickly."""
    writer, reader = opener(), opener()
    first = await writer.commit("", Changes((KEY, TEAM, TAG)))
    before = await reader.load()
    await writer.commit(first, Changes((TEAM.model_copy(update={"priority": "high"}),)))
    after = await reader.load()
    assert after.keys[KEY.id] is before.keys[KEY.id]
    assert after.tags["batch"] is before.tags["batch"]
    assert (before.teams["search"].priority, after.teams["search"].priority) == ("low", "high")


async def test_commits_of_many_at_once_are_all_made_in_some_order(opener: Opener) -> None:
    """Of those who expect one version exactly one succeeds, however many there are."""

    async def add(store: AccountStore, index: int) -> int:
        team = StoredTeam(name=f"team-{index}", created_at=0.0)
        for attempt in range(100):
            try:
                await store.commit(await store.version(), Changes((team,)))
            except AccountsConflict:
                continue
            return attempt
        raise AssertionError("never succeeded")

    stores = [opener() for _ in range(3)]
    await asyncio.gather(*(add(stores[index % 3], index) for index in range(12)))
    assert set((await opener().load()).teams) == {f"team-{index}" for index in range(12)}


async def test_version_of_a_store_never_comes_again(opener: Opener) -> None:
    """A state that came back by a restore or a failover has another version than the one before."""
    store = opener()
    versions: list[Any] = [""]
    for index in range(5):
        change = Changes((TEAM,)) if index % 2 == 0 else Changes(deletes=(("team", "search"),))
        versions.append(await store.commit(versions[-1], change))
    assert len(set(versions)) == 6
