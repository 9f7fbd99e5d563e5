"""Keys, teams, tags, their store and the admin API in the configuration: what is refused, and where."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from penstock_gateway.ledger.contract import Period
from penstock_gateway.settings import ConfigurationError, Settings, load_settings

DEPLOYMENTS = """
deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 1, output: 1}}
  - {name: large, base_url: "http://127.0.0.1:9/v1", tier: large, price: {input: 9, output: 9}}
routing: {artifact: none}
"""
ENVIRON = {"KEY": "client-key-0123456789", "OTHER": "another-key-0123456789", "PEPPER": "pepper-0123456789abcdef"}
TEAM = "teams: [{name: search, allowed_models: [large]}]\ntags: [{name: batch}]\n"


def load(folder: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    """Read a configuration with two deployments and the given text."""
    path = folder / "penstock.yaml"
    path.write_text(DEPLOYMENTS + text)
    return load_settings(path, ENVIRON if environ is None else environ)


def problems(folder: Path, text: str) -> list[str]:
    """Return what is wrong with a configuration, a line each."""
    with pytest.raises(ConfigurationError) as caught:
        load(folder, text)
    return [str(problem).partition("penstock.yaml:")[2] for problem in caught.value.problems]


def test_key_with_team_tags_and_budgets_is_read_exactly(tmp_path: Path) -> None:
    """Everything that a key may have can be written in the configuration; money stays exact."""
    settings = load(
        tmp_path,
        TEAM
        + """
client_keys:
  - name: acme
    key: ${KEY}
    team: search
    tags: [batch]
    allowed_models: [auto, large]
    priority: high
    expires_at: 2030-01-31T12:00:00+01:00
    budgets: [{period: day, limit_usd: 0.1}, {period: total, limit_usd: 100, soft_share: 0.5}]
    limits: {requests_per_minute: 60}
    budget_rules: [{used_share: 0.8, tradeoff: cost}]
""".replace("allowed_models: [auto, large]", "allowed_models: [large]"),
    )
    (key,) = settings.client_keys
    assert [(budget.period, budget.limit_usd) for budget in key.budgets] == [
        (Period.DAY, Decimal("0.1")),
        (Period.TOTAL, Decimal(100)),
    ]
    assert key.expires_at == datetime(2030, 1, 31, 11, tzinfo=UTC).timestamp()
    assert (key.limits.requests_per_minute, key.budget_rules[0].used_share) == (60, 0.8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "client_keys: [{name: a, key: '${KEY}', team: serch}]",
            "team: there is no team 'serch' (did you mean 'search'?)",
        ),
        (
            "client_keys: [{name: a, key: '${KEY}', tags: [bach]}]",
            "tags[0]: there is no tag 'bach' (did you mean 'batch'?)",
        ),
        ("client_keys: [{name: a, key: '${KEY}', tags: [batch, batch]}]", "tags[1]: 'batch' is named twice"),
        (
            "client_keys: [{name: a, key: '${KEY}', allowed_models: [smal]}]",
            "allowed_models[0]: there is no deployment 'smal' (did you mean 'small'?)",
        ),
        ("client_keys: [{name: a, key: '${KEY}', allowed_models: ['auto:best']}]", "there is no alias 'auto:best'"),
        ("client_keys: [{name: a, key: '${KEY}', allowed_models: []}]", "allowed_models: is empty"),
        (
            "client_keys: [{name: a, key: '${KEY}', team: search, allowed_models: [small]}]",
            "has nothing in common with what the team 'search' allows (allowed there: large)",
        ),
        (
            "client_keys: [{name: a, key: '${KEY}', budgets: [&b {period: day, limit_usd: 1}, *b]}]",
            "budgets[1].period: there are two budgets for one day",
        ),
        (
            "client_keys: [{name: a, key: '${KEY}', budgets: [{period: day, limit_usd: 0}]}]",
            "budgets[0].limit_usd: should be more than 0",
        ),
        (
            "client_keys: [{name: a, key: '${KEY}', limits: {parallel_requests: 0}}]",
            "limits.parallel_requests: should be at least 1",
        ),
        ("client_keys: [{name: a, key: '${KEY}', expires_at: '2030-01-01T00:00:00'}]", "should name its time zone"),
        (
            "client_keys: [{name: a, key: '${KEY}', expires_at: soon}]",
            "should be a moment such as 2026-12-31T18:00:00Z",
        ),
        ("client_keys: [{name: a, key: '${KEY}', priority: hihg}]", "did you mean 'high'?"),
        (
            "client_keys: [{name: a, key: '${KEY}', tags: [batch]}, {name: a, key: '${OTHER}'}]",
            "client_keys[1].name: 'a' has two keys with different rights",
        ),
        ("client_keys: [{name: search, key: '${KEY}'}]", "teams[0].name: 'search' is also a client key's name"),
    ],
)
def test_client_key_that_does_not_fit_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    """Unknown names have a nearest match, limits a range, and contradictions are told."""
    found = problems(tmp_path, TEAM + text)
    assert len(found) == 1
    assert expected in found[0]
    assert found[0].partition(":")[0] in ("6", "8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("teams: [{name: a}, {name: a}]", "teams[1].name: 'a' is the name of another one"),
        ("tags: [{name: a}, {name: a}]", "tags[1].name: 'a' is the name of another one"),
        ("teams: [{name: 'key:a'}]", "names that begin with key: stand for keys"),
        ("teams: [{name: a, tradeoff: cost, min_quality: 0.5}]", "teams[0].min_quality: is given with a tradeoff"),
        ("teams: [{name: a, category_floors: {law: frontier}}]", "teams[0].category_floors.law: is above"),
        ("teams: [{name: a, budget: []}]", "teams[0].budget: there is no such setting (did you mean 'budgets'?)"),
        ("tags: [{name: a, team: b}]", "tags[0].team: there is no such setting"),
        ("tags: [{name: a, budgets: [{period: dya, limit_usd: 1}]}]", "did you mean 'day'?"),
        ("tags: [{name: a, budgets: [{period: day, limit_usd: 10000000}]}]", "should be at most 9000000"),
        ("accounts: {store: file}", "accounts.folder: is needed by the file store"),
        ("accounts: {store: file, folder: penstock.yaml/x}", "penstock.yaml/x is not a folder, or lies in a file"),
        ("accounts: {store: redis, pepper: '${PEPPER}'}", "accounts.redis_url: is needed by the redis store"),
        ("accounts: {store: redis, redis_url: 'redis://h'}", "accounts.pepper: is needed by the redis store"),
        (
            "accounts: {store: redis, redis_url: 'http://h', pepper: '${PEPPER}'}",
            "accounts.redis_url: is not a Redis URL",
        ),
        ("accounts: {store: file, folder: ., pepper: plain-pepper-0123456}", "pepper_file"),
        ("accounts: {store: file, folder: ., pepper_file: none-there}", "accounts.pepper_file:"),
        ("accounts: {store: file, folder: ., poll_seconds: 2}", "accounts.poll_seconds: should be at most 1"),
        ("admin: {port: 4000}", "admin.port: 4000 is the server's own port"),
        ("admin: {port: 4001, host: 0.0.0.0}", "admin.host: 0.0.0.0 can be reached from other machines"),
        ("admin: {port: 4001, key: plain-text-0123456789}", "a secret should not stand in the file"),
        ("admin: {port: 4001, key: '${KEY}', key_file: x}", "admin.key_file: is given together with key"),
        (
            "admin: {port: 4001, key: '${KEY}'}\nclient_keys: [{name: a, key: '${KEY}'}]",
            "admin.key: is a client key too",
        ),
    ],
)
def test_section_of_accounts_that_does_not_fit_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    """Teams, tags, the store and the admin API are checked with the line and what to write."""
    found = problems(tmp_path, text)
    assert any(expected in problem for problem in found), found
    assert all(problem.partition(":")[0].isdecimal() for problem in found)


def test_several_problems_of_accounts_are_shown_at_once(tmp_path: Path) -> None:
    """One run shows everything that is wrong, and nothing twice."""
    text = (
        "teams: [{name: a, allowed_models: [smal]}, {name: a}]\n"
        "client_keys: [{name: c, key: '${KEY}', team: b, tradeoff: cost, min_quality: 0.5}]\n"
        "admin: {port: 4000}\n"
    )
    assert len(problems(tmp_path, text)) == 5


def test_deployment_with_a_wrong_name_is_not_offered_for_allowed_models(tmp_path: Path) -> None:
    """What stands in for a wrong name is never suggested, and the rest is still checked."""
    text = TEAM.replace("large", "entry-0") + "client_keys: [{name: a, key: '${KEY}'}]\n"
    path = tmp_path / "penstock.yaml"
    path.write_text((DEPLOYMENTS + text).replace("name: small", "name: 'not a name'"))
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, ENVIRON)
    assert "there is no deployment 'entry-0'" in str(caught.value)
    assert "did you mean 'entry-0'" not in str(caught.value)


def test_secrets_of_accounts_are_read_by_reference_and_masked(tmp_path: Path) -> None:
    """Pepper, admin key and Redis password are in no repr, and paths start at the configuration's folder."""
    settings = load(
        tmp_path,
        "accounts: {store: redis, redis_url: '${URL}', pepper: '${PEPPER}', folder: state}\n"
        "admin: {port: 4001, key: '${KEY}'}\n",
        {**ENVIRON, "URL": "redis://:password-0123@h:1/0"},
    )
    shown = repr(settings)
    assert not [secret for secret in (*ENVIRON.values(), "password-0123") if secret in shown]
    assert settings.accounts.folder == str(tmp_path / "state")
    assert settings.asks_for_keys


def test_gateway_with_a_store_of_keys_may_listen_to_other_machines(tmp_path: Path) -> None:
    """A store asks for keys as client_keys do; without either a network address is refused."""
    assert load(tmp_path, "server: {host: 0.0.0.0}\naccounts: {store: file, folder: state}\n").server.host == "0.0.0.0"
    (found,) = problems(tmp_path, "server: {host: 0.0.0.0}\n")
    assert "add client_keys or an accounts.store" in found


def test_pepper_file_and_admin_key_file_are_found_beside_the_configuration(tmp_path: Path) -> None:
    """Key files are read from the configuration's folder, and one that is too short is refused."""
    (tmp_path / "admin").write_text("admin-key-0123456789\n")
    (tmp_path / "pepper").write_text("short\n")
    found = problems(
        tmp_path,
        "accounts: {store: file, folder: s, pepper_file: pepper}\n"
        "admin: {port: 4001, key_file: admin, host: 0.0.0.0}\n",
    )
    assert len(found) == 1
    assert "accounts.pepper_file: holds less than 16 characters" in found[0]
