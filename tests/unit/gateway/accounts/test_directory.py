"""Who is behind a presented key, and what happens when the store changes or goes away."""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from penstock_gateway.accounts.directory import (
    BLOCKED,
    DAMAGED,
    LOST,
    MAX_REQUEST_TAGS,
    PEPPER_CHANGED,
    UNAVAILABLE,
    Directory,
    revoked_midway,
)
from penstock_gateway.accounts.pepper import PepperError
from penstock_gateway.accounts.principal import OPEN_PRINCIPAL
from penstock_gateway.accounts.records import AccountsDamaged, AccountSnapshot
from penstock_gateway.accounts.table import KeyRefusal
from penstock_gateway.errors import InvalidRequest, Overloaded, Unauthenticated
from penstock_gateway.ledger.contract import Period
from penstock_gateway.settings import Settings
from penstock_gateway.settings_accounts import AccountsSettings, BudgetSettings, TagSettings, TeamSettings
from penstock_gateway.settings_models import ClientKeySettings
from support.account_parts import NOW, PEPPER, MemoryAccountStore, open_parts, settings_of
from support.cache_documents import eventually

CONFIGURED = "configured-key-0123456789"


def _code_of(directory: Directory, presented: str | None) -> str:
    with pytest.raises((Unauthenticated, Overloaded)) as caught:
        directory.authenticate(presented)
    return caught.value.code


def _configured(**fields: Any) -> Settings:
    return settings_of(
        client_keys=(ClientKeySettings(name="acme", key=SecretStr(CONFIGURED), **fields),),
        teams=(TeamSettings(name="search", budgets=(BudgetSettings(period=Period.DAY, limit_usd=Decimal(5)),)),),
        tags=(TagSettings(name="batch"), TagSettings(name="demo")),
    )


async def test_created_key_stands_for_itself_until_it_is_revoked() -> None:
    """A key is valid at once, an unknown one is not, and a revoked one is told apart from an unknown one."""
    parts = open_parts()
    await parts.directory.start()
    key, secret = await parts.registrar.create_key("ci", {})
    principal = parts.directory.authenticate(secret)
    assert (principal.tenant, principal.key_id, principal.key_name) == (f"key:{key.id}", key.id, "ci")
    assert parts.directory.principal(key.id) == principal
    assert _code_of(parts.directory, secret[:-1]) == "invalid_api_key"
    assert _code_of(parts.directory, None) == "missing_api_key"
    assert not parts.directory.is_revoked_now(key.id)
    await parts.registrar.revoke_key("ci")
    assert _code_of(parts.directory, secret) == "api_key_revoked"
    assert parts.directory.is_revoked_now(key.id)
    assert parts.directory.principal(key.id) is None
    await parts.directory.aclose()


async def test_deleted_key_is_unknown_and_counts_as_revoked_for_streams() -> None:
    """A stream whose key was deleted meanwhile ends as one whose key was revoked."""
    parts = open_parts()
    key, secret = await parts.registrar.create_key("ci", {})
    await parts.registrar.delete_key(key.id)
    assert _code_of(parts.directory, secret) == "invalid_api_key"
    assert parts.directory.is_revoked_now(key.id)
    assert b"api_key_revoked" in revoked_midway().sse_event()


async def test_expired_key_is_refused_and_may_finish_its_streams() -> None:
    """From its last moment on a key is refused as expired; what it has begun may end."""
    parts = open_parts()
    key, secret = await parts.registrar.create_key("ci", {"expires_at": NOW + 10})
    parts.clock.now = NOW + 9.9
    assert parts.directory.authenticate(secret).expires_at == NOW + 10
    parts.clock.now = NOW + 10
    assert _code_of(parts.directory, secret) == "api_key_expired"
    assert not parts.directory.is_revoked_now(key.id)


async def test_rotated_key_has_two_secrets_during_the_overlap() -> None:
    """The old secret is valid for the overlap and no longer, the new one from then on; both are one key."""
    parts = open_parts()
    _, old = await parts.registrar.create_key("ci", {})
    _, new = await parts.registrar.rotate_key("ci", 100.0)
    assert parts.directory.authenticate(old) == parts.directory.authenticate(new)
    parts.clock.now = NOW + 100
    assert _code_of(parts.directory, old) == "api_key_expired"
    assert parts.directory.principal_of(new) is not None
    _, newest = await parts.registrar.rotate_key("ci", 0)
    assert _code_of(parts.directory, new) == "invalid_api_key"
    assert parts.directory.principal_of(newest) is not None


async def test_digest_presented_as_a_key_is_refused() -> None:
    """Who steals the records can present nothing of them."""
    parts = open_parts()
    key, secret = await parts.registrar.create_key("ci", {})
    digest = key.secrets[0].digest
    for presented in (digest, bytes.fromhex(digest).decode("latin-1"), f"psk_{key.id}_{digest}", key.id):
        assert parts.directory.look_up(presented) is KeyRefusal.UNKNOWN
    assert digest == parts.directory.digest(secret)


@pytest.mark.parametrize("presented", ["", " ", "psk_", "ключ", "\ud800", "x" * 1_000_000, "psk_" + "a" * 52])
async def test_unknown_credential_of_any_kind_is_nobodys(presented: str) -> None:
    """Nothing presented can raise, and nothing but a whole key is accepted."""
    parts = open_parts()
    await parts.registrar.create_key("ci", {})
    assert parts.directory.look_up(presented) is KeyRefusal.UNKNOWN
    assert parts.directory.principal_of(presented) is None


async def test_look_up_of_any_credential_compares_no_key_bytes() -> None:
    """One digest and one look-up in a table of digests, for known and unknown keys alike: nothing to time."""
    parts = open_parts()
    _, secret = await parts.registrar.create_key("ci", {})
    table = parts.directory.table.secrets
    assert all(isinstance(digest, bytes) and len(digest) == 32 for digest in table)
    asked: list[bytes] = []

    class Watched(dict[bytes, Any]):
        def get(self, digest: bytes, default: Any = None) -> Any:
            asked.append(digest)
            return super().get(digest, default)

    watched = Watched(table)
    object.__setattr__(parts.directory.table, "secrets", watched)
    for presented in (secret, secret[:-1] + "x", "psk_"):
        parts.directory.look_up(presented)
    assert [digest.hex() for digest in asked] == [
        parts.directory.digest(text) for text in (secret, secret[:-1] + "x", "psk_")
    ]


async def test_configured_key_keeps_its_name_as_tenant_in_a_team() -> None:
    """A configured key is a tenant of its own name; its team's budget holds all the same."""
    directory = open_parts(_configured(team="search", tags=("batch",))).directory
    principal = directory.authenticate(CONFIGURED)
    assert (principal.tenant, principal.key_id, principal.team) == ("acme", "acme", "search")
    assert [account.scope for account in principal.accounts] == ["key:acme", "team:search", "tag:batch"]
    assert not principal.is_free


def test_configured_key_of_a_file_is_read_and_not_kept(tmp_path: Path) -> None:
    """A key may stand in a file; neither text nor attributes of the directory hold it."""
    path = tmp_path / "key"
    path.write_text(CONFIGURED + "\n")
    directory = Directory(settings_of(client_keys=(ClientKeySettings(name="acme", key_file=str(path)),)), None, PEPPER)
    assert directory.authenticate(CONFIGURED).tenant == "acme"
    assert CONFIGURED not in repr(vars(directory)) + repr(directory)


async def test_stored_key_of_a_team_has_the_team_as_tenant() -> None:
    """Keys of one team share cache, decisions and feedback."""
    parts = open_parts(_configured())
    await parts.registrar.create_key("ci", {"team": "search"})
    _, secret = await parts.registrar.create_key("cd", {"team": "search"})
    assert parts.directory.authenticate(secret).tenant == "search"


def test_open_gateway_asks_for_no_key() -> None:
    """Without any key and without a store everybody is the one open tenant, whatever is presented."""
    directory = Directory(Settings(), None, PEPPER)
    assert directory.authenticate(None).tenant == OPEN_PRINCIPAL.tenant
    assert directory.authenticate("anything").accounts == OPEN_PRINCIPAL.accounts
    assert not directory.is_revoked_now(OPEN_PRINCIPAL.key_id)


async def test_empty_store_does_not_open_the_gateway() -> None:
    """Where keys are stored one is asked for, even before the first is made and after the last is deleted."""
    parts = open_parts()
    await parts.directory.start()
    assert parts.directory.asks_for_keys
    assert _code_of(parts.directory, None) == "missing_api_key"
    await parts.directory.aclose()


async def test_request_tags_that_are_registered_are_charged_too() -> None:
    """A request's tags come behind its key's, each once."""
    directory = open_parts(_configured(tags=("batch",))).directory
    principal = directory.authenticate(CONFIGURED)
    tagged = directory.with_tags(principal, " demo, batch ,demo,")
    assert tagged.tags == ("batch", "demo")
    assert [account.scope for account in tagged.accounts] == ["key:acme", "tag:batch", "tag:demo"]
    assert directory.with_tags(principal, None) is principal
    assert directory.with_tags(principal, ["batch"]) is principal


@pytest.mark.parametrize(
    ("tags", "code"),
    [("dem", "unknown_tag"), ("demo,\ud800", "unknown_tag"), (",".join(f"t{i}" for i in range(9)), "too_many_tags")],
)
async def test_request_tag_that_is_not_registered_is_refused(tags: str, code: str) -> None:
    """A tag without a budget that anybody knows is refused, never ignored."""
    directory = open_parts(_configured()).directory
    with pytest.raises(InvalidRequest) as caught:
        directory.with_tags(directory.authenticate(CONFIGURED), tags)
    assert caught.value.code == code
    assert MAX_REQUEST_TAGS == 8


async def test_store_that_is_away_leaves_known_keys_valid(caplog: pytest.LogCaptureFixture) -> None:
    """Known keys stay valid, which is logged and counted once, and changes are taken over when it is back."""
    caplog.set_level(logging.INFO, "penstock.accounts")
    store = MemoryAccountStore()
    here, there = open_parts(store=store), open_parts(store=store)
    key, secret = await there.registrar.create_key("ci", {})
    await here.directory.refresh()
    store.is_away = True
    for _ in range(3):
        await here.directory.refresh()
    assert here.directory.authenticate(secret).key_id == key.id
    assert here.directory.problem == UNAVAILABLE
    assert here.problems == [UNAVAILABLE]
    store.is_away = False
    await there.registrar.revoke_key("ci")
    await here.directory.refresh()
    assert _code_of(here.directory, secret) == "api_key_revoked"
    assert here.directory.problem is None
    assert [record.message for record in caplog.records] == [UNAVAILABLE, "accounts_store_back"]


async def test_store_that_is_away_at_the_start_makes_unknown_keys_wait() -> None:
    """Until the store has answered once, an unknown key may be valid: it is told to come back, not that it is wrong."""
    settings = _configured()
    store = MemoryAccountStore()
    _, secret = await open_parts(settings, store=store).registrar.create_key("ci", {})
    parts = open_parts(settings, store=store)
    store.is_away = True
    await parts.directory.start()
    assert parts.directory.authenticate(CONFIGURED).tenant == "acme"
    assert _code_of(parts.directory, secret) == "accounts_unavailable"
    store.is_away = False
    await parts.directory.refresh()
    assert parts.directory.authenticate(secret).key_name == "ci"
    assert _code_of(parts.directory, "psk_other") == "invalid_api_key"
    await parts.directory.aclose()


async def test_change_by_another_gateway_is_found_by_the_poll() -> None:
    """The background task takes over what others change, without being told."""
    store = MemoryAccountStore()
    here, there = open_parts(store=store), open_parts(store=store)
    here.directory._poll_seconds = 0.001
    await here.directory.start()
    _, secret = await there.registrar.create_key("ci", {})
    await eventually(lambda: here.directory.principal_of(secret) is not None, "the new key")
    await there.registrar.revoke_key("ci")
    await eventually(lambda: here.directory.look_up(secret) is KeyRefusal.REVOKED, "its end")
    await here.directory.aclose()


async def test_look_at_an_unchanged_store_reads_its_version_only() -> None:
    """Records are read when the version has changed, and not otherwise."""
    parts = open_parts()
    await parts.registrar.create_key("ci", {})
    loads = parts.store.loads
    for _ in range(5):
        await parts.directory.refresh()
    assert parts.store.loads == loads


async def test_change_of_a_team_reaches_the_keys_in_it() -> None:
    """A key that has not changed itself is composed anew when its team or a tag has, and only then."""
    parts = open_parts()
    await parts.registrar.create_team("search", {})
    await parts.registrar.create_tag("batch", {})
    key, secret = await parts.registrar.create_key("ci", {"team": "search", "tags": ["batch"]})
    before = parts.directory.authenticate(secret)
    await parts.registrar.create_key("cd", {})
    assert parts.directory.authenticate(secret) is before
    await parts.registrar.update_team("search", {"max_cost_usd": 0.5, "limits": {"parallel_requests": 3}})
    await parts.registrar.update_tag("batch", {"limits": {"parallel_requests": 2}})
    after = parts.directory.authenticate(secret)
    assert after.policy.max_cost_usd == 0.5
    assert [account.limits.parallel_requests for account in after.accounts] == [None, 3, 2]
    assert parts.directory.table.keys[key.id].fields is parts.store.snapshot.keys[key.id]


async def test_store_that_was_flushed_leaves_known_keys_valid_and_can_be_restored() -> None:
    """A store that lost its records ends no key, takes no change, and gets back what is known when told to."""
    parts = open_parts()
    _, secret = await parts.registrar.create_key("ci", {})
    parts.store.flush()
    await parts.directory.refresh()
    assert parts.problems == [LOST]
    assert parts.directory.principal_of(secret) is not None
    assert await parts.directory.restore() == 1
    assert parts.directory.problem is None
    fresh = open_parts(store=parts.store)
    await fresh.directory.refresh()
    assert fresh.directory.principal_of(secret) is not None


async def test_pepper_that_has_changed_is_refused_at_the_start() -> None:
    """Keys that were made under another pepper stop the start with what to do; without keys any pepper will do."""
    store = MemoryAccountStore()
    await open_parts(store=store).registrar.create_team("search", {})
    other = open_parts(store=store, pepper=b"another-pepper-0123456789")
    await other.directory.start()
    await other.directory.aclose()
    await open_parts(store=store).registrar.create_key("ci", {})
    with pytest.raises(PepperError, match="give back the old pepper"):
        await open_parts(store=store, pepper=b"another-pepper-0123456789").directory.start()
    late = open_parts(store=store, pepper=b"another-pepper-0123456789")
    await late.directory.refresh()
    assert late.problems == [PEPPER_CHANGED]


async def test_damaged_store_stops_the_start_and_not_a_running_gateway() -> None:
    """Records that cannot be read are refused at the start; later the known keys stay in force."""

    class Damaged(MemoryAccountStore):
        is_damaged = False

        async def load(self) -> AccountSnapshot:
            if self.is_damaged:
                raise AccountsDamaged("line 3 is not valid")
            return await super().load()

    store = Damaged()
    here, there = open_parts(store=store), open_parts(store=store)
    _, secret = await here.registrar.create_key("ci", {})
    await there.registrar.create_team("search", {})
    store.is_damaged = True
    await here.directory.refresh()
    assert here.problems == [DAMAGED]
    assert here.directory.principal_of(secret) is not None
    with pytest.raises(AccountsDamaged):
        await open_parts(store=store).directory.start()


async def test_key_whose_team_is_gone_is_blocked() -> None:
    """When a configuration loses a team, keys of that team are refused rather than unlimited."""
    parts = open_parts(_configured())
    key, secret = await parts.registrar.create_key("ci", {"team": "search", "tags": ["batch"]})
    await parts.directory.use_settings(settings_of(client_keys=_configured().client_keys))
    assert _code_of(parts.directory, secret) == "api_key_blocked"
    assert parts.directory.is_revoked_now(key.id)
    assert parts.problems == [BLOCKED]
    await parts.directory.use_settings(_configured())
    assert parts.directory.principal_of(secret) is not None


async def test_reloaded_configuration_replaces_keys_and_keeps_stored_ones() -> None:
    """A reload takes configured keys away and adds others; stored keys are not touched."""
    parts = open_parts(_configured())
    _, secret = await parts.registrar.create_key("ci", {})
    other = ClientKeySettings(name="zeta", key=SecretStr("another-configured-key"))
    await parts.directory.use_settings(settings_of(client_keys=(other,)))
    assert parts.directory.principal_of(CONFIGURED) is None
    assert parts.directory.is_revoked_now("acme")
    assert parts.directory.authenticate("another-configured-key").tenant == "zeta"
    assert parts.directory.principal_of(secret) is not None


async def test_prepared_configuration_is_in_force_only_from_its_use_and_merged_with_what_was_stored_meanwhile() -> None:
    """Nothing of a configuration holds before its turn; a key that is made between the two steps is not lost."""
    parts = open_parts(_configured())
    await parts.directory.start()
    other = ClientKeySettings(name="zeta", key=SecretStr("another-configured-key"))
    prepared = await parts.directory.prepare(settings_of(client_keys=(other,)))
    assert parts.directory.principal_of(CONFIGURED) is not None
    assert parts.directory.principal_of("another-configured-key") is None
    _, secret = await parts.registrar.create_key("ci", {})
    parts.directory.use(prepared)
    assert parts.directory.principal_of(CONFIGURED) is None
    assert parts.directory.principal_of("another-configured-key") is not None
    assert parts.directory.principal_of(secret) is not None
    await parts.directory.aclose()


async def test_configuration_that_changes_while_the_store_is_away_keeps_stored_keys_and_claims_no_knowledge() -> None:
    """What was read stays valid; a gateway that has read nothing yet still says that an unknown key may be valid."""
    store = MemoryAccountStore()
    here, there = open_parts(_configured(), store=store), open_parts(_configured(), store=store)
    await here.directory.start()
    _, secret = await here.registrar.create_key("ci", {})
    store.is_away = True
    await there.directory.start()
    for parts in (here, there):
        await parts.directory.use_settings(_configured(tradeoff="cost"))
    assert here.directory.authenticate(secret).key_name == "ci"
    assert _code_of(there.directory, secret) == "accounts_unavailable"
    store.is_away = False
    await there.directory.refresh()
    assert there.directory.authenticate(secret).key_name == "ci"
    await here.directory.aclose()
    await there.directory.aclose()


async def test_store_that_is_read_while_the_configuration_changes_is_merged_with_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table that was begun with the old configuration never takes the place of the new one's."""
    store = MemoryAccountStore()
    here, there = open_parts(_configured(), store=store), open_parts(_configured(), store=store)
    await here.directory.start()
    _, secret = await there.registrar.create_key("ci", {})
    other = ClientKeySettings(name="zeta", key=SecretStr("another-configured-key"))
    prepared = await here.directory.prepare(settings_of(client_keys=(other,)))
    built = here.directory._built

    async def build(*given: Any) -> Any:
        table = await built(*given)
        if here.directory.configured is not prepared.configured:
            here.directory.use(prepared)
        return table

    monkeypatch.setattr(here.directory, "_built", build)
    await here.directory.refresh()
    assert here.directory.principal_of(CONFIGURED) is None
    assert here.directory.principal_of("another-configured-key") is not None
    assert here.directory.principal_of(secret) is not None
    await here.directory.aclose()


async def test_configured_keys_of_one_name_may_end_one_after_the_other() -> None:
    """Two keys of one name are one account; the one that lasts longer stands for it."""
    keys = (
        ClientKeySettings(name="acme", key=SecretStr("a" * 20)),
        ClientKeySettings(name="acme", key=SecretStr("b" * 20), expires_at=NOW + 1),
    )
    directory = open_parts(settings_of(client_keys=keys)).directory
    assert directory.authenticate("a" * 20).accounts == directory.authenticate("b" * 20).accounts
    known = directory.principal("acme")
    assert known is not None
    assert known.expires_at is None


async def test_table_of_many_keys_is_built_beside_the_loop() -> None:
    """More than a handful of keys are composed in a thread, and all are known then."""
    store = MemoryAccountStore()
    parts = open_parts(store=store)
    made = [await parts.registrar.create_key(f"k{i}", {}) for i in range(120)]
    other = open_parts(store=store)
    await asyncio.gather(*(other.directory.refresh() for _ in range(3)))
    assert all(other.directory.principal_of(secret) is not None for _, secret in made)
    assert repr(other.directory) == "Directory(120 keys)"


def test_asking_for_keys_follows_from_keys_or_a_store() -> None:
    """Keys are asked for when there are some or when there is a place for them."""
    assert not Settings().asks_for_keys
    assert Settings(accounts=AccountsSettings(store="file", folder="x")).asks_for_keys
    assert _configured().asks_for_keys
