"""The Redis servers of one process: one client and one breaker for each URL, whoever uses it.

Lives as long as the process, so that a reload of the configuration finds what is known of a server. Read
`RedisServers.guard`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

from penstock_gateway.metrics_redis import RedisMetrics
from penstock_gateway.redis_breaker import BreakerRules
from penstock_gateway.redis_client import RedisClient
from penstock_gateway.redis_guard import FailMode, GuardedRedis, SendsCommands, WatchedServer
from penstock_gateway.redis_url import RedisNotUsable
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_redis_checks import RedisFeature, redis_url_of

_LONGEST_PROBE_FACTOR = 10.0
_FAIL_MODES: Mapping[RedisFeature, FailMode] = {
    "accounts": FailMode.LOCAL,  # keys that are known go on
    "answers": FailMode.LOCAL,  # each gateway knows its own
    "cache": FailMode.OPEN,  # look-ups are misses
    "events": FailMode.LOCAL,  # segments stay on disk
}
# The cache's store has a breaker for look-ups and one for writes, and always tries to delete.
_WITH_OWN_BREAKER = frozenset({"cache"})


def fail_mode_of(settings: Settings, feature: RedisFeature) -> FailMode:
    """Return what a feature does while its Redis is away; only the ledger's can be chosen."""
    if feature == "ledger":
        return FailMode(settings.ledger.when_redis_is_away)
    return _FAIL_MODES[feature]


class RedisServers:
    """Makes the guards of features, and shares clients among them.

    Parameters
    ----------
    metrics : RedisMetrics or None
    connect : callable
        Makes a client of a URL.
    clock : callable
        Monotonic seconds.
    jitter : callable
        Returns numbers in [0, 1).

    Notes
    -----
    All features of one URL share its connection, its breaker and its probes: what one of them finds out, the others
    need not. Each keeps its own deadline and fail mode. One event loop only.
    """

    def __init__(
        self,
        metrics: RedisMetrics | None = None,
        *,
        connect: Callable[[str], SendsCommands] = RedisClient,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._metrics = metrics
        self._connect = connect
        self._clock = clock
        self._jitter = jitter
        self._servers: dict[str, WatchedServer] = {}

    def guard(self, settings: Settings, feature: RedisFeature) -> GuardedRedis:
        """Return the Redis of a feature; whoever gets it closes it.

        Parameters
        ----------
        settings : Settings
        feature : str

        Returns
        -------
        GuardedRedis

        Raises
        ------
        RedisNotUsable
            No URL, one that is none of Redis, or the client is not installed.
        """
        url = redis_url_of(settings, feature)
        if url is None:
            raise RedisNotUsable(f"There is no Redis URL for {feature}; set redis.url.")
        redis = settings.redis
        server = self._servers.get(url.get_secret_value())
        if server is None or not server.features:  # what nobody used any more has been closed
            rules = BreakerRules(
                failures=redis.failures,
                first_wait_seconds=redis.probe_seconds,
                longest_wait_seconds=redis.probe_seconds * _LONGEST_PROBE_FACTOR,
            )
            client = self._connect(url.get_secret_value())
            server = WatchedServer(
                client,
                rules=rules,
                deadline_seconds=redis.timeout_seconds,
                clock=self._clock,
                jitter=self._jitter,
            )
            self._servers[url.get_secret_value()] = server
        return GuardedRedis(
            server,
            feature,
            fail_mode=fail_mode_of(settings, feature),
            deadline_seconds=redis.timeout_seconds,
            metrics=self._metrics,
            fails_fast=feature not in _WITH_OWN_BREAKER,
        )
