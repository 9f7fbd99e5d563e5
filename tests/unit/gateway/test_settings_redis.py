"""One Redis URL for all features, a feature's own before it, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_gateway.redis_servers import fail_mode_of
from penstock_gateway.redis_url import RedisNotUsable, read_url
from penstock_gateway.settings import ConfigurationError, load_settings
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_redis_checks import OWN_URLS, RedisFeature, redis_url_of

CONFIG = """
version: 1
deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 0.1, output: 0.4}}
"""


def load(folder: Path, text: str, **environ: str) -> Settings:
    """Load a configuration with these lines added."""
    file = folder / "penstock.yaml"
    file.write_text(CONFIG + text)
    return load_settings(file, environ)


def url_of(settings: Settings, feature: RedisFeature) -> str | None:
    """Return the URL in clear."""
    found = redis_url_of(settings, feature)
    return None if found is None else found.get_secret_value()


def test_redis_url_of_a_feature_is_its_own_else_the_shared_one_else_none() -> None:
    """``redis.url`` is for every feature that names none."""
    assert {url_of(Settings(), feature) for feature in OWN_URLS} == {None}
    settings = Settings.model_validate(
        {"redis": {"url": "redis://shared"}, "cache": {"store": {"redis_url": "redis://cache"}}}
    )
    assert {feature: url_of(settings, feature) for feature in OWN_URLS} == {
        "accounts": "redis://shared",
        "cache": "redis://cache",
        "events": "redis://shared",
        "ledger": "redis://shared",
    }


def test_redis_url_by_reference_is_read_and_never_shown(tmp_path: Path) -> None:
    """The URL may hold a password, so it is a secret."""
    settings = load(tmp_path, "redis: {url: '${REDIS_URL}'}\n", REDIS_URL="redis://:hunter2@host/1")
    assert url_of(settings, "ledger") == "redis://:hunter2@host/1"
    assert "hunter2" not in repr(settings)


def test_redis_url_with_a_password_in_the_file_is_refused_and_an_address_is_not(tmp_path: Path) -> None:
    """A password does not stand in the file; a mere address may."""
    assert url_of(load(tmp_path, "redis: {url: redis://host:6379/0}\n"), "ledger") == "redis://host:6379/0"
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, "redis: {url: 'redis://:hunter2@host'}\n")
    [problem] = caught.value.problems
    assert (problem.setting, problem.where.rpartition(":")[2]) == ("redis.url", "5")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://host", "redis://host/0?db=x", "redis://host?timeout=1", "host:6379"])
def test_redis_url_that_is_none_is_a_problem_of_the_setting(tmp_path: Path, url: str) -> None:
    """What cannot be connected to is told before the gateway starts."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, "redis: {url: '${REDIS_URL}'}\n", REDIS_URL=url)
    assert [problem.setting for problem in caught.value.problems] == ["redis.url"]


def test_fail_mode_of_a_feature_is_the_ledgers_own_setting_or_the_only_sensible_one() -> None:
    """Unknown keys never pass because Redis is away, and a cache never refuses a request: nothing there to choose."""
    settings = Settings.model_validate({"ledger": {"when_redis_is_away": "closed"}})
    assert {feature: fail_mode_of(settings, feature).value for feature in OWN_URLS} == {
        "accounts": "local",
        "cache": "open",
        "events": "local",
        "ledger": "closed",
    }


@pytest.mark.parametrize(
    ("url", "shown", "database", "user", "password"),
    [
        ("redis://", "localhost:6379", 0, None, None),
        ("redis://ann:p%2Fw%40@h:7000/3", "h:7000", 3, "ann", "p/w@"),
        ("redis://:only@[::1]?db=2", "::1:6379", 2, None, "only"),
        ("unix:///run/my%20redis.sock?db=4", "/run/my redis.sock", 4, None, None),
        ("rediss+cluster://h", "h:6379", 0, None, None),
    ],
)
def test_read_url_of_every_form_says_where_it_leads(
    url: str, shown: str, database: int, user: str | None, password: str | None
) -> None:
    """Escapes are undone, and what is shown has no credential in it."""
    place = read_url(url)
    assert (place.shown, place.database, place.user, place.password) == (shown, database, user, password)
    assert place.is_cluster is ("cluster" in url)
    assert (place.tls is not None) is url.startswith("rediss")
    assert password is None or password not in repr(place)


@pytest.mark.parametrize("url", ["rediss://h?ssl_check_hostname=perhaps", "redis://h/one", "redis://h?db=-1"])
def test_read_url_with_an_impossible_value_is_refused_without_repeating_it(url: str) -> None:
    """A mistyped option is told as what it is."""
    with pytest.raises(RedisNotUsable) as caught:
        read_url(url)
    assert caught.value.code == "invalid_redis_url"
    assert url not in str(caught.value)
