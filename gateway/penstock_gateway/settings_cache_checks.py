"""Whether the `cache` section fits together: stores with what they need, categories that are known, shares that add up.

Owns the checks of that section alone. Read `check_cache`.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from penstock_cache.categories import DEFAULT_POLICIES
from penstock_cache.rule import MANIFEST_FILE
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_redis_checks import check_redis_url
from penstock_gateway.settings_source import SettingKey, SettingsSource


def check_cache(settings: Settings, source: SettingsSource) -> None:
    """Add a problem to `source` for everything in the cache's settings that cannot work."""
    _check_store(settings, source)
    cache = settings.cache
    if cache.rule not in ("default", "none") and not (Path(cache.rule) / MANIFEST_FILE).is_file():
        hint = "make one with penstock-train cache-calibrate, or write rule: default"
        source.report(("cache", "rule"), f"{cache.rule} holds no decision rule", hint)
    _check_models(settings, source)
    known = sorted({*DEFAULT_POLICIES, *cache.categories})
    for index, entry in enumerate(settings.client_keys):
        named = [("cache_category", entry.cache_category), *(("cache_categories", n) for n in entry.cache_categories)]
        for field, name in named:
            if name is not None and name not in known:
                source.report(
                    ("client_keys", index, field), f"no cache category is called {name!r}", _hint(name, known)
                )
    for name in cache.header_categories:
        if name not in known:
            source.report(("cache", "header_categories"), f"no cache category is called {name!r}", _hint(name, known))
    if cache.header_categories and settings.client_keys:
        hint = "write cache_categories into the keys that may name them"
        source.report(("cache", "header_categories"), "has no effect where there are client keys", hint)
    reserves = {name: policy.reserve_share for name, policy in DEFAULT_POLICIES.items()}
    for name, given in cache.categories.items():
        key: SettingKey = ("cache", "categories", name)
        if given.reserve_share is not None:
            reserves[name] = given.reserve_share
        cap = given.cap_share if given.cap_share is not None else getattr(DEFAULT_POLICIES.get(name), "cap_share", 1.0)
        if reserves.get(name, 0.0) > cap:
            source.report((*key, "cap_share"), f"is below the category's reserve of {reserves[name]:g}", "raise it")
        if given.ttl_seconds == 0:
            source.report((*key, "ttl_seconds"), "0 would store nothing", "write mode: off, or a longer time")
        if name not in DEFAULT_POLICIES and given.mode is None:
            near = difflib.get_close_matches(name, DEFAULT_POLICIES, n=1)
            if near:
                source.report(
                    key, f"no category is called {name!r}", f"did you mean {near[0]!r}? A new one needs a mode"
                )
    if (total := sum(reserves.values())) > 1.0 + 1e-9:
        source.report(("cache", "categories"), f"the reserves add up to {total:.2f} of max_bytes", "lower some of them")
    if cache.max_answer_bytes > cache.max_bytes:
        source.report(("cache", "max_answer_bytes"), "is larger than max_bytes", "lower it, or raise max_bytes")


def _check_models(settings: Settings, source: SettingsSource) -> None:
    """Report models that are to give opinions and are no deployment."""
    names = sorted(deployment.name for deployment in settings.deployments)
    for section, field, name in (
        ("audit", "judge", settings.cache.audit.judge),
        ("grey_zone", "model", settings.cache.grey_zone.model),
    ):
        if name is not None and name not in names:
            source.report(("cache", section, field), f"no deployment is called {name!r}", _hint(name, names))


def _check_store(settings: Settings, source: SettingsSource) -> None:
    store = settings.cache.store
    key: SettingKey = ("cache", "store")
    if store.kind == "file" and store.folder is None:
        source.report((*key, "folder"), "is needed by the file store", "write folder: ./cache")
    if store.kind != "redis":
        return
    check_redis_url(settings, source, "cache")


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
