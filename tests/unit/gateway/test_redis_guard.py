"""Commands through a guard are answered or fail at once; the server is watched in the background."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.metrics_redis import RedisMetrics
from penstock_gateway.redis_breaker import BreakerRules, BreakerState
from penstock_gateway.redis_errors import RedisRefused, late, unreachable
from penstock_gateway.redis_guard import FailMode, GuardedRedis, WatchedServer
from penstock_gateway.redis_servers import RedisServers
from penstock_gateway.redis_url import RedisNotUsable
from penstock_gateway.settings_models import Settings

RULES = BreakerRules(failures=3, first_wait_seconds=1.0, longest_wait_seconds=4.0)


class FakeRedis:
    """A client whose server is there, away, or refuses, as the test says."""

    def __init__(self, url: str = "") -> None:
        self.url = url
        self.failure: StoreUnavailable | None = None
        self.ping_failure: StoreUnavailable | None = None
        self.sent: Counter[bytes | int] = Counter()
        self.deadlines: list[float] = []
        self.closed = 0

    async def execute(self, *command: bytes | int, deadline_seconds: float) -> object:
        """Answer, or fail."""
        self.sent[command[0]] += 1
        self.deadlines.append(deadline_seconds)
        failure = self.ping_failure if command[0] == b"PING" else self.failure
        if failure is not None:
            raise failure
        return b"reply"

    async def aclose(self) -> None:
        """Count."""
        self.closed += 1

    def __repr__(self) -> str:
        return "FakeRedis"


class FakeTime:
    """A clock that moves when somebody sleeps, one sleep at a time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def clock(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Wait until `pass_time` has passed so much."""
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, future))
        await future

    async def pass_time(self, seconds: float) -> None:
        """Move on, waking whoever is due, and let them act."""
        self.now += seconds
        for due, future in list(self._sleepers):
            if due <= self.now and not future.done():
                future.set_result(None)
        for _ in range(10):
            await asyncio.sleep(0)


class Watched:
    """A guard, its client, its clock and its metrics."""

    def __init__(self) -> None:
        self.redis, self.time = FakeRedis(), FakeTime()
        self.registry = CollectorRegistry()
        self.metrics = RedisMetrics(self.registry)
        self.server = WatchedServer(
            self.redis, rules=RULES, clock=self.time.clock, sleep=self.time.sleep, jitter=lambda: 0.0
        )
        self.guard = GuardedRedis(self.server, "ledger", metrics=self.metrics)

    async def send(self, guard: GuardedRedis | None = None) -> str:
        """Send a command and return its reply or the code of its failure."""
        try:
            return str(await (guard or self.guard).execute(b"GET", b"key"))
        except StoreUnavailable as error:
            return error.code

    async def open(self) -> None:
        """Let the breaker open."""
        self.redis.failure = self.redis.ping_failure = late()
        for _ in range(RULES.failures):
            await self.send()
        assert self.server.is_open
        await asyncio.sleep(0)

    def errors(self, kind: str, feature: str = "ledger") -> float | None:
        """Return a counter."""
        return self.registry.get_sample_value("penstock_redis_errors_total", {"feature": feature, "kind": kind})

    def shown_state(self, feature: str = "ledger") -> float | None:
        """Return the gauge."""
        return self.registry.get_sample_value("penstock_redis_breaker_state", {"feature": feature})


@pytest.fixture
async def watched() -> Iterator[Watched]:
    """A guard whose probe ends with the test."""
    made = Watched()
    yield made
    await made.guard.aclose()


async def test_execute_without_a_deadline_has_the_guards_own(watched: Watched) -> None:
    """A command that names no deadline has 50 ms; one that does keeps its own."""
    await watched.send()
    await watched.guard.execute(b"GET", b"key", deadline_seconds=0.25)
    assert watched.redis.deadlines == [0.05, 0.25]


async def test_execute_after_time_outs_in_a_row_fails_at_once_and_sends_nothing(watched: Watched) -> None:
    """Time-outs count: after three, commands fail with ``redis_open`` and the client is left alone."""
    await watched.open()
    sent = watched.redis.sent.copy()
    assert [await watched.send() for _ in range(100)] == ["redis_open"] * 100
    assert watched.redis.sent == sent
    assert (watched.errors("timeout"), watched.errors("open")) == (3.0, 100.0)
    assert watched.shown_state() == 2.0


async def test_server_that_is_away_is_asked_by_probes_only_and_used_again_when_one_is_answered(
    watched: Watched,
) -> None:
    """PINGs go out on the breaker's schedule, whoever else asks; the first good one lets commands pass."""
    await watched.open()
    for seconds in (0.9, 0.2):
        await watched.send()
        await watched.time.pass_time(seconds)
    assert watched.redis.sent[b"PING"] == 1
    watched.redis.failure = watched.redis.ping_failure = None
    await watched.time.pass_time(1.8)  # the second probe is due two seconds after the first
    assert watched.server.is_open
    await watched.time.pass_time(0.3)
    assert not watched.server.is_open
    assert await watched.send() == "b'reply'"
    assert watched.shown_state() == 0.0


async def test_probe_of_a_server_that_is_too_slow_keeps_the_breaker_open(watched: Watched) -> None:
    """A server that needs a second for a PING is of no use to commands with 50 ms."""
    await watched.open()

    async def slow(*command: bytes | int, deadline_seconds: float) -> object:
        watched.redis.sent[command[0]] += 1
        if deadline_seconds < 1.0:
            raise late()
        return b"PONG"

    watched.redis.execute = slow  # type: ignore[method-assign]
    await watched.time.pass_time(1.1)
    assert watched.redis.sent[b"PING"] == 2
    assert watched.server.state is BreakerState.OPEN


async def test_probe_that_fails_unexpectedly_does_not_end_the_probing(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in the client costs one probe, not all of them."""
    await watched.open()
    watched.redis.ping_failure = ValueError("a bug")  # type: ignore[assignment]
    await watched.time.pass_time(1.1)
    assert watched.server.is_open
    assert "redis_probe_failed" in caplog.text
    watched.redis.ping_failure = None
    await watched.time.pass_time(2.1)
    assert not watched.server.is_open


async def test_changes_of_state_are_logged_once_each(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """One warning when it opens, one line when it closes, however many commands and probes fail in between."""
    caplog.set_level(logging.INFO, logger="penstock.redis")
    await watched.open()
    for _ in range(50):
        await watched.send()
    for _ in range(5):
        await watched.time.pass_time(4.0)
    watched.redis.failure = watched.redis.ping_failure = None
    await watched.time.pass_time(4.0)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "redis_unavailable"),
        ("INFO", "redis_available"),
    ]
    assert caplog.records[0].__dict__["features"] == {"ledger": "local"}


async def test_error_replies_do_not_open_the_breaker_unless_they_say_that_nothing_works(watched: Watched) -> None:
    """A refused command is the command's fault; a refused credential is everybody's."""
    watched.redis.failure = RedisRefused("WRONGTYPE")
    assert {await watched.send() for _ in range(20)} == {"cache_store_refused"}
    assert not watched.server.is_open
    watched.redis.failure = RedisRefused("credential")
    await watched.send()
    await watched.send()
    await watched.send()
    assert watched.server.is_open
    assert watched.errors("refused") == 23.0


async def test_listeners_hear_of_every_change_of_state(watched: Watched) -> None:
    """A feature is told when its Redis goes and when it comes back."""
    heard: list[BreakerState] = []
    watched.guard.on_change(heard.append)
    await watched.open()
    watched.redis.failure = watched.redis.ping_failure = None
    await watched.time.pass_time(1.1)
    assert heard == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]


async def test_features_of_one_server_share_its_state_and_keep_their_modes(watched: Watched) -> None:
    """What one feature finds out, the others need not; each has its own fail mode and its own counters."""
    accounts = GuardedRedis(watched.server, "accounts", fail_mode=FailMode.CLOSED, metrics=watched.metrics)
    await watched.open()
    assert await watched.send(accounts) == "redis_open"
    assert (watched.errors("open", "accounts"), watched.errors("timeout", "accounts")) == (1.0, None)
    assert watched.shown_state("accounts") == 2.0
    assert (watched.guard.fail_mode, accounts.fail_mode) == (FailMode.LOCAL, FailMode.CLOSED)
    await accounts.aclose()


async def test_feature_with_a_breaker_of_its_own_is_never_refused_but_tells_the_others(watched: Watched) -> None:
    """The cache decides for itself when to ask, and still its failures open the breaker for the ledger."""
    cache = GuardedRedis(watched.server, "cache", metrics=watched.metrics, fails_fast=False)
    watched.redis.failure = unreachable("ConnectionError")
    assert {await watched.send(cache) for _ in range(10)} == {"cache_store_unreachable"}
    assert watched.redis.sent[b"GET"] == 10
    assert await watched.send() == "redis_open"
    assert watched.errors("unreachable", "cache") == 10.0
    await cache.aclose()


async def test_ping_of_a_feature_is_sent_while_the_breaker_is_open(watched: Watched) -> None:
    """A feature that looks for itself whether the server is back gets an answer from the server."""
    await watched.open()
    watched.redis.ping_failure = None
    assert await watched.guard.execute(b"PING") == b"reply"


async def test_guard_closed_last_closes_the_client_once_and_ends_the_probes() -> None:
    """The connection lives as long as somebody uses it."""
    made = Watched()
    other = GuardedRedis(made.server, "accounts")
    await made.open()
    await other.aclose()
    assert made.redis.closed == 0
    await made.guard.aclose()
    await made.guard.aclose()
    assert made.redis.closed == 1
    await made.time.pass_time(100.0)
    assert made.redis.sent[b"PING"] == 0


async def test_servers_with_one_url_share_a_client_and_others_do_not() -> None:
    """Features of the shared URL have one connection; a feature with its own URL has its own."""
    made: list[FakeRedis] = []

    def connect(url: str) -> FakeRedis:
        made.append(FakeRedis(url))
        return made[-1]

    settings = Settings.model_validate(
        {"redis": {"url": "redis://shared"}, "cache": {"store": {"redis_url": "redis://apart"}}}
    )
    servers = RedisServers(connect=connect)
    ledger, accounts = servers.guard(settings, "ledger"), servers.guard(settings, "accounts")
    cache = servers.guard(settings, "cache")
    assert [client.url for client in made] == ["redis://shared", "redis://apart"]
    assert (ledger.fail_mode, accounts.fail_mode, cache.fail_mode) == (FailMode.LOCAL, FailMode.LOCAL, FailMode.OPEN)
    await ledger.aclose()
    await accounts.aclose()
    again = servers.guard(settings, "ledger")
    assert [client.closed for client in made] == [1, 0, 0]
    assert made[-1].url == "redis://shared"
    for guard in (again, cache):
        await guard.aclose()


async def test_servers_asked_without_any_url_refuse() -> None:
    """A feature that wants Redis without a URL is a mistake in the configuration."""
    with pytest.raises(RedisNotUsable, match=r"redis\.url"):
        RedisServers(connect=FakeRedis).guard(Settings(), "ledger")
