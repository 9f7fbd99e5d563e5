"""Which Redis a feature uses, and whether its URL is one.

Owns the order of a feature's own URL before the shared one. Read `redis_url_of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Final, Literal

from pydantic import SecretStr

from penstock_gateway.redis_url import RedisNotUsable, read_url
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_source import SettingKey, SettingsSource
from penstock_routers.installation import install_command

RedisFeature = Literal["accounts", "answers", "cache", "events", "ledger"]

OWN_URLS: Final[Mapping[RedisFeature, SettingKey]] = {
    "accounts": ("accounts", "redis_url"),
    "cache": ("cache", "store", "redis_url"),
    "events": ("events", "ship", "redis_url"),
    "ledger": ("ledger", "redis_url"),
}
"""Where each feature's own URL stands in the configuration; ``answers`` has none."""


def redis_url_of(settings: Settings, feature: RedisFeature) -> SecretStr | None:
    """Return the URL of the Redis that a feature uses: its own, else ``redis.url``, else None.

    Parameters
    ----------
    settings : Settings
    feature : str

    Returns
    -------
    SecretStr or None
        Whether the feature wants Redis at all is said by its own section.
    """
    found: object = settings
    for name in OWN_URLS.get(feature, ()):
        found = getattr(found, str(name), None)  # `events.ship` may be None
    return found if isinstance(found, SecretStr) else settings.redis.url


def check_redis_url(settings: Settings, source: SettingsSource, feature: RedisFeature) -> None:
    """Add a problem to `source` when a feature that wants Redis has no usable URL, or Redis's client is missing.

    Parameters
    ----------
    settings : Settings
    source : SettingsSource
    feature : str
        One of `OWN_URLS`, which its section says is to use Redis.
    """
    key = OWN_URLS[feature]
    url = redis_url_of(settings, feature)
    if url is None:
        if not source.unresolved & {key, ("redis", "url")}:
            source.report(key, "is needed by the redis store", "write redis: {url: '${REDIS_URL}'}")
    elif url is not settings.redis.url:  # that one is looked at once, by `check_redis`
        _check_url(url, key, source)
    if not is_client_installed() and (url is None or url is not settings.redis.url):
        source.report(key[:-1], "redis is not installed", install_command("redis"))


def check_redis(settings: Settings, source: SettingsSource) -> None:
    """Add a problem to `source` when ``redis.url`` is not a Redis URL, or nothing here can speak to one."""
    if settings.redis.url is None:
        return
    _check_url(settings.redis.url, ("redis", "url"), source)
    if not is_client_installed():
        source.report(("redis",), "redis is not installed", install_command("redis"))


def is_client_installed() -> bool:
    """Whether Redis can be spoken to."""
    return find_spec("redis") is not None and find_spec("hiredis") is not None


def _check_url(url: SecretStr, key: SettingKey, source: SettingsSource) -> None:
    try:
        read_url(url.get_secret_value())
    except RedisNotUsable as error:
        source.report(key, "is not a Redis URL", error.message)
