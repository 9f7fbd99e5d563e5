"""The `cache` section: what is refused, and that a Redis password stays out of sight."""

from __future__ import annotations

import pytest

from penstock_cache.categories import CacheMode
from penstock_gateway.caching.start import policies_of, quotas_of
from penstock_gateway.settings import ConfigurationError, Settings, load_settings

DEPLOYMENTS = """
deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 1, output: 1}}
routing: {artifact: none}
"""


def load(tmp_path, text: str, environ: dict[str, str] | None = None) -> Settings:
    """Read a configuration with one deployment and the given text."""
    path = tmp_path / "penstock.yaml"
    path.write_text(DEPLOYMENTS + text)
    return load_settings(path, environ or {})


def problems(tmp_path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    """Return what is wrong with a configuration, a line each."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text, environ)
    return [f"{problem.setting}: {problem.message} ({problem.hint})" for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cache: {mode: exact, store: {kind: file}}", "cache.store.folder: is needed by the file store"),
        ("cache: {mode: exact, store: {kind: redis}}", "cache.store.redis_url: is needed by the redis store"),
        (
            "cache: {mode: exact, store: {kind: redis, redis_url: 'http://x'}}",
            "cache.store.redis_url: is not a Redis URL",
        ),
        ("cache: {mode: semantic, rule: ./none-here}", "none-here holds no decision rule"),
        ("cache: {mode: sometimes}", "cache.mode"),
        ("cache: {categories: {knowlege: {ttl_seconds: 5}}}", "did you mean 'knowledge'?"),
        ("cache: {categories: {faq: {ttl_seconds: 0}}}", "cache.categories.faq.ttl_seconds: 0 would store nothing"),
        ("cache: {categories: {faq: {reserve_share: 0.9}}}", "cache.categories: the reserves add up to"),
        ("cache: {categories: {faq: {reserve_share: 0.5, cap_share: 0.1}}}", "below the category's reserve"),
        ("cache: {max_bytes: 1048576, max_answer_bytes: 2097152}", "cache.max_answer_bytes: is larger than max_bytes"),
        ("cache: {moode: exact}", "moode"),
        (
            "client_keys: [{name: a, key: '${K}', cache_category: fak}]",
            "client_keys[0].cache_category: no cache category is called 'fak' (did you mean 'faq'?)",
        ),
        ("cache: {audit: {judge: smal}}", "cache.audit.judge: no deployment is called 'smal'"),
        ("cache: {grey_zone: {model: smal}}", "cache.grey_zone.model: no deployment is called 'smal'"),
        (
            "cache: {header_categories: [fak]}",
            "cache.header_categories: no cache category is called 'fak' (did you mean 'faq'?)",
        ),
        (
            "client_keys: [{name: a, key: '${K}'}]\ncache: {header_categories: [faq]}",
            "cache.header_categories: has no effect where there are client keys",
        ),
    ],
)
def test_cache_settings_that_do_not_fit_are_refused_with_what_to_do(tmp_path, text, expected) -> None:
    """Each mistake is named with its setting and the nearest match or the missing line."""
    assert any(expected in line for line in problems(tmp_path, text, {"K": "k" * 32}))


def test_cache_redis_password_in_the_file_is_refused_and_never_shown(tmp_path) -> None:
    """A URL with a password comes by reference, and no message repeats it."""
    text = "cache: {mode: exact, store: {kind: redis, redis_url: 'redis://:hunter22@host:6379/0'}}"
    lines = problems(tmp_path, text)
    assert any("a secret should not stand in the file" in line for line in lines)
    assert not any("hunter22" in line for line in lines)
    settings = load(
        tmp_path, "cache: {store: {kind: redis, redis_url: '${R}'}}", {"R": "redis://:hunter22@host:6379/0"}
    )
    assert "hunter22" not in repr(settings)


def test_cache_redis_url_without_a_password_may_stand_in_the_file(tmp_path) -> None:
    """An address alone is no secret."""
    settings = load(tmp_path, "cache: {store: {kind: redis, redis_url: 'redis://127.0.0.1:6379/0'}}")
    assert settings.cache.store.redis_url is not None


def test_cache_folder_and_rule_start_at_the_configurations_folder(tmp_path) -> None:
    """Relative paths mean the same wherever the gateway is started."""
    (tmp_path / "my-rule").mkdir()
    (tmp_path / "my-rule" / "manifest.json").write_text("{}")
    settings = load(tmp_path, "cache: {rule: ./my-rule, store: {kind: file, folder: kept}}")
    assert settings.cache.rule == str(tmp_path / "my-rule")
    assert settings.cache.store.folder == str(tmp_path / "kept")


def test_cache_mode_is_the_most_that_any_category_may_do(tmp_path) -> None:
    """A category's own mode holds below `cache.mode`, never above it."""
    settings = load(tmp_path, "cache: {mode: exact, categories: {faq: {mode: faq-intent}, medical: {mode: 'off'}}}")
    policies = policies_of(settings.cache)
    assert policies["faq"].mode is CacheMode.EXACT
    assert policies["medical"].mode is CacheMode.OFF


def test_cache_quotas_hold_every_categorys_reserve(tmp_path) -> None:
    """Shares of `max_bytes` become bytes."""
    settings = load(tmp_path, "cache: {mode: exact, max_bytes: 10000000}")
    quotas = quotas_of(settings.cache, policies_of(settings.cache))
    assert quotas.quota("faq").reserve_bytes == 2_000_000
    assert quotas.cap_bytes("volatile") == 1_000_000
