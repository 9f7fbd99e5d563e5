"""Making, changing and ending keys, teams and tags."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from penstock_gateway.accounts.records import AccountSnapshot, Changes
from penstock_gateway.accounts.registrar import MAX_SECRETS, Registrar
from penstock_gateway.accounts.store import AccountsConflict, AccountsLost
from penstock_gateway.errors import Conflict, GatewayError, InvalidRequest, NotFound
from penstock_gateway.ledger.contract import Period
from penstock_gateway.settings_accounts import BudgetSettings, TagSettings, TeamSettings
from penstock_gateway.settings_models import ClientKeySettings
from support.account_parts import NOW, MemoryAccountStore, open_parts, settings_of


@pytest.mark.parametrize(
    ("fields", "param", "hint"),
    [
        ({"team": "serch"}, "team", "did you mean 'search'?"),
        ({"tags": ["batch", "demo", "batch"]}, "tags[2]", "twice"),
        ({"tags": ["bach"]}, "tags[0]", "did you mean 'batch'?"),
        ({"allowed_models": ["smal"]}, "allowed_models[0]", "did you mean 'small'?"),
        ({"allowed_models": ["auto:best"]}, "allowed_models[0]", "no alias"),
        ({"allowed_models": []}, "allowed_models", "is empty"),
        ({"team": "search", "allowed_models": ["small"]}, "allowed_models", "nothing in common"),
        ({"tradeoff": "cost", "min_quality": 0.5}, "min_quality", "keep one"),
        ({"category_floors": {"law": "frontier"}}, "category_floors.law", "routing.default_arm"),
        ({"cache_category": "fax"}, "cache_category", "did you mean 'faq'?"),
        ({"budgets": [{"period": "day", "limit_usd": "1"}] * 2}, "budgets[1].period", "two budgets"),
        ({"budgets": [{"period": "day", "limit_usd": 0}]}, "budgets[0].limit_usd", "greater than 0"),
        ({"budgets": [{"period": "dya", "limit_usd": 1}]}, "budgets[0].period", "'day'"),
        ({"limits": {"requests_per_minute": 0}}, "limits.requests_per_minute", "greater than or equal to 1"),
        ({"expires_at": "2020-01-01"}, "expires_at", "past"),
        ({"expires_at": "2030-01-01T00:00:00"}, "expires_at", "time zone"),
        ({"is_revoked": False}, "is_revoked", "no field"),
        ({"secrets": []}, "secrets", "no field"),
        ({"teem": "search"}, "teem", "did you mean 'team'?"),
    ],
)
async def test_key_with_a_field_that_does_not_fit_is_refused(fields: dict[str, Any], param: str, hint: str) -> None:
    """Each wrong field is named, with the nearest match, and nothing is stored."""
    settings = settings_of(
        teams=(TeamSettings(name="search", allowed_models=("large",)),),
        tags=(TagSettings(name="batch"), TagSettings(name="demo")),
    )
    parts = open_parts(settings)
    with pytest.raises(InvalidRequest) as caught:
        await parts.registrar.create_key("ci", fields)
    assert caught.value.param == param
    assert hint in caught.value.message
    assert parts.store.commits == 0


async def test_name_of_any_key_is_given_once() -> None:
    """Neither another key's name, a configured one's, nor another key's id may be taken."""
    parts = open_parts(settings_of(client_keys=(ClientKeySettings(name="acme", key=SecretStr("k" * 20)),)))
    first, _ = await parts.registrar.create_key("ci", {})
    await parts.registrar.create_key("cd", {})
    for name in ("ci", "acme", first.id):
        with pytest.raises(Conflict, match="already"):
            await parts.registrar.create_key(name, {})
        with pytest.raises(Conflict, match="already"):
            await parts.registrar.update_key("cd", {"name": name})
    assert (await parts.registrar.update_key("cd", {"name": "deploy"})).name == "deploy"


async def test_name_that_is_a_key_is_refused() -> None:
    """A key in the place of a name would be shown and logged, so it is taken for a slip."""
    parts = open_parts()
    _, secret = await parts.registrar.create_key("ci", {})
    for attempt in (
        parts.registrar.create_key(secret, {}),
        parts.registrar.update_key("ci", {"name": secret}),
        parts.registrar.create_team(f"x-{secret}", {}),
        parts.registrar.create_tag(secret, {}),
    ):
        with pytest.raises(InvalidRequest, match="is a key") as caught:
            await attempt
        assert secret not in caught.value.message


async def test_update_of_a_key_changes_what_is_given_alone() -> None:
    """Fields that are not given stay, null sets the default, mappings are merged, lists replaced."""
    parts = open_parts(settings_of(tags=(TagSettings(name="batch"),)))
    created, secret = await parts.registrar.create_key(
        "ci",
        {
            "tags": ["batch"],
            "max_cost_usd": 0.5,
            "limits": {"requests_per_minute": 5, "tokens_per_minute": 100},
            "category_floors": {"law": "small"},
        },
    )
    changed = await parts.registrar.update_key(
        created.id,
        {"max_cost_usd": None, "limits": {"requests_per_minute": None, "parallel_requests": 2}, "tags": []},
    )
    assert (changed.max_cost_usd, changed.tags, changed.category_floors) == (None, (), {"law": "small"})
    assert changed.limits.model_dump(exclude_none=True) == {"tokens_per_minute": 100, "parallel_requests": 2}
    assert (changed.secrets, changed.created_at) == (created.secrets, NOW)
    assert parts.directory.authenticate(secret).policy.max_cost_usd is None


@pytest.mark.parametrize("field", ["id", "secrets", "created_at", "rotated_at", "revoked_at", "is_revoked", "key"])
async def test_update_of_what_is_not_the_callers_is_refused(field: str) -> None:
    """Nobody sets a secret, an id or a state by way of an update."""
    parts = open_parts()
    key, _ = await parts.registrar.create_key("ci", {})
    with pytest.raises(InvalidRequest, match="no field"):
        await parts.registrar.update_key(key.id, {field: None})


async def test_rotation_again_and_again_keeps_few_secrets() -> None:
    """Secrets whose overlap is over are dropped; more than eight valid ones are refused."""
    parts = open_parts()
    await parts.registrar.create_key("ci", {})
    for _ in range(MAX_SECRETS - 1):
        await parts.registrar.rotate_key("ci", 10.0)
    parts.clock.now += 10.0
    key, _ = await parts.registrar.rotate_key("ci", 10.0)
    assert len(key.secrets) == 2
    for _ in range(MAX_SECRETS - 2):
        await parts.registrar.rotate_key("ci", 1000.0)
    with pytest.raises(Conflict) as caught:
        await parts.registrar.rotate_key("ci", 1000.0)
    assert caught.value.code == "too_many_secrets"


async def test_overlap_of_a_second_rotation_does_not_lengthen_the_first() -> None:
    """A secret that is about to end is not kept alive by a later rotation."""
    parts = open_parts()
    _, first = await parts.registrar.create_key("ci", {})
    await parts.registrar.rotate_key("ci", 10.0)
    await parts.registrar.rotate_key("ci", 1000.0)
    parts.clock.now += 10.0
    assert parts.directory.principal_of(first) is None


async def test_revoked_key_stays_revoked() -> None:
    """Revoking twice changes nothing, and a revoked key gets no new secret."""
    parts = open_parts()
    await parts.registrar.create_key("ci", {})
    first = await parts.registrar.revoke_key("ci")
    commits = parts.store.commits
    assert await parts.registrar.revoke_key("ci") == first
    assert parts.store.commits == commits
    with pytest.raises(Conflict, match="revoked"):
        await parts.registrar.rotate_key("ci")


async def test_team_or_tag_in_use_is_not_deleted() -> None:
    """What a live key belongs to stays; a revoked key does not keep it."""
    parts = open_parts()
    await parts.registrar.create_team("search", {})
    await parts.registrar.create_tag("batch", {})
    await parts.registrar.create_key("ci", {"team": "search", "tags": ["batch"]})
    for delete, name in ((parts.registrar.delete_team, "search"), (parts.registrar.delete_tag, "batch")):
        with pytest.raises(Conflict, match="in use by 1 keys: ci"):
            await delete(name)
    await parts.registrar.revoke_key("ci")
    await parts.registrar.delete_team("search")
    await parts.registrar.delete_tag("batch")
    assert not parts.directory.table.teams
    assert not parts.directory.table.tags


async def test_team_that_would_leave_a_key_without_models_is_refused() -> None:
    """A team's restriction may not end a key by the way."""
    parts = open_parts()
    await parts.registrar.create_team("search", {})
    await parts.registrar.create_key("ci", {"team": "search", "allowed_models": ["small"]})
    with pytest.raises(Conflict, match="nothing in common"):
        await parts.registrar.update_team("search", {"allowed_models": ["large"]})
    changed = await parts.registrar.update_team("search", {"allowed_models": ["small", "auto"], "max_cost_usd": 1})
    assert changed.max_cost_usd == 1.0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda r: r.create_team("search", {}), "name_taken"),
        (lambda r: r.create_team("acme", {}), "name_taken"),
        (lambda r: r.create_team("key:abc", {}), "name_taken"),
        (lambda r: r.create_tag("batch", {}), "name_taken"),
        (lambda r: r.update_team("search", {}), "read_only"),
        (lambda r: r.delete_tag("batch"), "read_only"),
        (lambda r: r.revoke_key("acme"), "read_only"),
        (lambda r: r.set_budget("key", "acme", BudgetSettings(period=Period.DAY, limit_usd=Decimal(1))), "read_only"),
        (lambda r: r.delete_team("nobody"), "team_not_found"),
        (lambda r: r.update_tag("nobody", {}), "tag_not_found"),
        (lambda r: r.rotate_key("nobody"), "key_not_found"),
        (lambda r: r.remove_budget("key", "nobody", Period.DAY), "key_not_found"),
    ],
)
async def test_record_that_is_configured_or_missing_is_not_changed(
    change: Callable[[Registrar], Any], error: str
) -> None:
    """What the configuration has is read-only here, and what is not there is not found."""
    settings = settings_of(
        client_keys=(ClientKeySettings(name="acme", key=SecretStr("k" * 20)),),
        teams=(TeamSettings(name="search"),),
        tags=(TagSettings(name="batch"),),
    )
    parts = open_parts(settings)
    with pytest.raises(GatewayError) as caught:
        await change(parts.registrar)
    assert caught.value.code == error
    assert parts.store.commits == 0


async def test_budget_of_a_period_is_set_replaced_and_removed() -> None:
    """A scope has one budget for each period."""
    parts = open_parts()
    await parts.registrar.create_team("search", {"budgets": [{"period": "day", "limit_usd": "1.5"}]})
    month = BudgetSettings(period=Period.MONTH, limit_usd=Decimal(20))
    await parts.registrar.set_budget("team", "search", month)
    team = await parts.registrar.set_budget(
        "team", "search", BudgetSettings(period=Period.DAY, limit_usd=Decimal(2), soft_share=0.5)
    )
    assert [(budget.period, budget.limit_usd) for budget in team.budgets] == [("month", 20), ("day", 2)]
    await parts.registrar.remove_budget("team", "search", Period.DAY)
    account = parts.directory.table.teams["search"].account
    assert [budget.limit_picousd for budget in account.budgets] == [20 * 10**12]
    with pytest.raises(NotFound):
        await parts.registrar.remove_budget("team", "search", Period.DAY)


async def test_changes_of_two_gateways_at_once_are_both_made() -> None:
    """Whoever is slower works its change out again from what is there by then."""

    class Overtaken(MemoryAccountStore):
        by: Registrar | None = None

        async def commit(self, expected_version: str, changes: Changes) -> str:
            other, self.by = self.by, None
            if other is not None:
                await other.create_key("cd", {})
            return await super().commit(expected_version, changes)

    store = Overtaken()
    here, there = open_parts(store=store), open_parts(store=store)
    store.by = there.registrar
    await here.registrar.create_key("ci", {})
    assert {key.name for key in store.snapshot.keys.values()} == {"ci", "cd"}
    store.by = there.registrar
    with pytest.raises(Conflict, match="already"):
        await there.registrar.create_key("ci", {})


async def test_change_that_always_comes_too_late_gives_up() -> None:
    """A store that changes under every attempt ends in a conflict, not in an endless loop."""

    class Busy(MemoryAccountStore):
        async def commit(self, expected_version: str, changes: Changes) -> str:
            raise AccountsConflict

    with pytest.raises(AccountsConflict):
        await open_parts(store=Busy()).registrar.create_key("ci", {})


async def test_change_of_a_store_that_lost_its_records_is_refused() -> None:
    """Nothing is written over a loss by accident."""
    parts = open_parts()
    await parts.registrar.create_key("ci", {})
    parts.store.flush()
    with pytest.raises(AccountsLost):
        await parts.registrar.create_key("cd", {})
    assert parts.store.snapshot == AccountSnapshot()


async def test_restore_into_a_store_that_holds_records_is_refused() -> None:
    """What is there is never replaced by what a gateway remembers."""
    parts = open_parts()
    with pytest.raises(AccountsConflict):
        await parts.directory.restore()
    await parts.registrar.create_key("ci", {})
    with pytest.raises(AccountsConflict):
        await parts.directory.restore()


async def test_id_that_is_taken_is_drawn_again() -> None:
    """Two keys never share an id, even when the random source repeats itself."""
    parts = open_parts()
    drawn = iter([b"\x00" * 8, b"\x01" * 32, b"\x00" * 8, b"\x02" * 8, b"\x03" * 32])
    registrar = Registrar(parts.directory, parts.registrar._known, random_bytes=lambda _: next(drawn))
    first, _ = await registrar.create_key("a", {})
    second, _ = await registrar.create_key("b", {})
    assert (first.id, second.id) == ("aaaaaaaa", "cccccccc")
