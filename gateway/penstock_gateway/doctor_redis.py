"""Whether each configured Redis answers in time, and is set up for what the gateway keeps in it.

Owns the Redis part of ``penstock doctor``. It sends PING, TIME and INFO, and changes nothing. Read `look_at_redis`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.doctor_clock import Clocks
from penstock_gateway.findings import Finding
from penstock_gateway.redis_client import RedisClient
from penstock_gateway.redis_errors import REFUSED_CODE, TIMEOUT_CODE, RedisRefused
from penstock_gateway.redis_url import RedisNotUsable, RedisPlace, read_url
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_redis_checks import RedisFeature, redis_url_of

LEAST_VERSION: Final = (5, 0)
"""Streams and the replication of a script's effects came with Redis 5."""
COMMAND_SECONDS: Final = 3.0
_PINGS: Final = 5
_MAY_BE_LOST: Final = frozenset({"answers", "cache"})


@dataclass(frozen=True, slots=True)
class RedisUse:
    """One Redis and what is kept there.

    Attributes
    ----------
    url : str
    features : tuple of str
    deadline_seconds : float
        The shortest that a command of these features has.
    """

    url: str = field(repr=False)
    features: tuple[RedisFeature, ...]
    deadline_seconds: float

    @property
    def subject(self) -> str:
        """What findings are called."""
        return f"redis ({', '.join(self.features)})"


def uses_of(settings: Settings) -> tuple[RedisUse, ...]:
    """Return each Redis that a feature uses, once."""
    ship = settings.events.ship
    wanted: dict[RedisFeature, tuple[bool, float]] = {
        "ledger": (settings.ledger.kind == "redis", settings.ledger.redis_timeout_seconds),
        "accounts": (settings.accounts.store == "redis", settings.accounts.timeout_seconds),
        "answers": (settings.redis.url is not None, settings.redis.timeout_seconds),
        "cache": (
            settings.cache.mode != "off" and settings.cache.store.kind == "redis",
            settings.redis.timeout_seconds,
        ),
        "events": (ship is not None and ship.redis_stream is not None, COMMAND_SECONDS),
    }
    found: dict[str, list[RedisFeature]] = {}
    for feature, (is_used, _) in wanted.items():
        url = redis_url_of(settings, feature)
        if is_used and url is not None:
            found.setdefault(url.get_secret_value(), []).append(feature)
    return tuple(
        RedisUse(url, tuple(features), min(wanted[feature][1] for feature in features))
        for url, features in found.items()
    )


def look_at_redis(use: RedisUse, clocks: Clocks, *, seconds: float = COMMAND_SECONDS) -> tuple[Finding, ...]:
    """Ask a Redis how it is.

    Parameters
    ----------
    use : RedisUse
    clocks : Clocks
        Told what time it has.
    seconds : float
        Deadline of a command.

    Returns
    -------
    tuple of Finding
    """
    try:
        place = read_url(use.url)
        return asyncio.run(_look(use, place, clocks, seconds))
    except RedisNotUsable as error:
        return (Finding("fail", use.subject, error.message, "correct redis.url"),)
    except RedisRefused as error:
        return (_refused(use, place, error),)
    except StoreUnavailable as error:
        return (_away(use, place, error),)


async def _look(use: RedisUse, place: RedisPlace, clocks: Clocks, seconds: float) -> tuple[Finding, ...]:
    client = RedisClient(use.url)
    try:
        await client.execute(b"PING", deadline_seconds=seconds)  # connects
        times = []
        for _ in range(_PINGS):
            began = time.perf_counter()
            await client.execute(b"PING", deadline_seconds=seconds)
            times.append(time.perf_counter() - began)
        latency = statistics.median(times)
        facts: dict[str, str] = {}
        obstacles: list[str] = []
        for section in (b"server", b"memory", b"persistence"):
            try:
                facts |= info_of(await client.execute(b"INFO", section, deadline_seconds=seconds))
            except RedisRefused as error:
                obstacles.append(error.reason)
        try:
            clocks.note(f"redis {place.shown}", _time_of(await client.execute(b"TIME", deadline_seconds=seconds)))
        except RedisRefused as error:
            obstacles.append(error.reason)
    finally:
        await client.aclose()
    findings = [_latency(use, place, facts, latency), *_encryption(use, place), *settings_findings(use, facts)]
    if obstacles:
        detail = f"{place.shown} does not let this user ask how it is set up ({', '.join(dict.fromkeys(obstacles))})"
        findings.append(Finding("ok", use.subject, detail, "to have it looked at: ACL SETUSER … +info +time"))
    return tuple(findings)


def info_of(reply: object) -> dict[str, str]:
    """Return the fields of an INFO reply, whatever form the transport gives it; of a cluster, one node's."""
    if isinstance(reply, Mapping):
        values = list(reply.values())
        if values and all(isinstance(value, (Mapping, bytes)) for value in values):
            return info_of(values[0])
        return {_text(name): _text(value) for name, value in reply.items()}
    lines = _text(reply).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def settings_findings(use: RedisUse, facts: Mapping[str, str]) -> list[Finding]:
    """Return what of a Redis's own configuration does not fit what is kept in it.

    Parameters
    ----------
    use : RedisUse
    facts : mapping of str to str
        Fields of INFO; those that are missing are not judged.
    """
    findings = []
    version = facts.get("redis_version", "")
    if version and _version(version) < LEAST_VERSION:
        detail = f"is version {version}; {LEAST_VERSION[0]}.{LEAST_VERSION[1]} is the oldest that does"
        findings.append(Finding("fail", use.subject, detail, "use a newer Redis or Valkey"))
    policy, limit = facts.get("maxmemory_policy", ""), facts.get("maxmemory", "")
    keeps = [feature for feature in use.features if feature not in _MAY_BE_LOST]
    if keeps and policy.startswith("allkeys"):
        detail = f"maxmemory-policy is {policy}: when memory is short it deletes what {', '.join(keeps)} keep there"
        fix = "CONFIG SET maxmemory-policy noeviction; give the cache a Redis of its own (cache.store.redis_url)"
        findings.append(Finding("fail", use.subject, detail, fix))
    if "cache" in use.features and limit == "0" and keeps:
        detail = "has no maxmemory, and the cache shares it with what must not be lost"
        findings.append(Finding("warn", use.subject, detail, "set maxmemory, or cache.store.redis_url to another one"))
    if facts.get("loading") == "1":
        findings.append(Finding("warn", use.subject, "is loading its data from disk", "wait until it has"))
    is_saved = facts.get("aof_enabled") == "1" or facts.get("rdb_last_save_time", "") not in ("", "0")
    if "accounts" in keeps and facts.get("aof_enabled") == "0":
        detail = "has no append-only file: a restart loses keys that were made since its last snapshot"
        findings.append(Finding("warn", use.subject, detail, "CONFIG SET appendonly yes, and keep it in redis.conf"))
    elif "ledger" in keeps and "aof_enabled" in facts and not is_saved:
        detail = "keeps nothing on disk: after its restart spend is put back from the event log"
        findings.append(Finding("ok", use.subject, detail, "set events.folder, or appendonly yes"))
    if facts.get("rdb_last_bgsave_status", "ok") != "ok" or facts.get("aof_last_write_status", "ok") != "ok":
        findings.append(
            Finding("fail", use.subject, "could not write to its disk last time", "look at its log and disk")
        )
    return findings


def _latency(use: RedisUse, place: RedisPlace, facts: Mapping[str, str], latency: float) -> Finding:
    kind = f", {facts['redis_mode']}" if facts.get("redis_mode") else ""
    version = f"version {facts['redis_version']}{kind}, " if facts.get("redis_version") else ""
    detail = f"{place.shown}: {version}{latency * 1000:.1f} ms a command"
    limit = use.deadline_seconds
    if latency > limit:
        detail += f", and it is given up after {limit * 1000:g} ms"
        return Finding("fail", use.subject, detail, "bring it nearer, or raise the features' timeout settings")
    if latency > limit / 2:
        detail += f", which is near the deadline of {limit * 1000:g} ms"
        return Finding("warn", use.subject, detail, "bring it nearer, or raise the features' timeout settings")
    return Finding("ok", use.subject, detail)


def _encryption(use: RedisUse, place: RedisPlace) -> list[Finding]:
    if place.tls is not None:
        if place.tls.checks_host_name:
            return []
        detail = "its certificate is not compared with its name (ssl_check_hostname)"
        return [Finding("warn", use.subject, detail, "give it a certificate of its name, and leave the option out")]
    if place.socket_path or _is_loopback(place.host):
        return []
    what = "password and keys" if place.password else "what is kept there"
    return [Finding("warn", use.subject, f"{what} cross the network in clear", "use rediss:// with TLS")]


def _refused(use: RedisUse, place: RedisPlace, error: RedisRefused) -> Finding:
    if error.reason == "credential":
        has = "refuses user or password" if place.password else "asks for a password"
        return Finding("fail", use.subject, f"{place.shown} {has}", "correct the variable that redis.url refers to")
    return Finding("fail", use.subject, f"{place.shown} refuses commands ({error.reason})", "look at its log")


def _away(use: RedisUse, place: RedisPlace, error: StoreUnavailable) -> Finding:
    if error.code == TIMEOUT_CODE:
        detail, fix = f"{place.shown} does not answer in time", "check network policy and firewall"
    elif error.code == REFUSED_CODE:
        detail, fix = f"{place.shown} refuses commands", "look at its log"
    else:
        detail = f"{place.shown} cannot be reached, or what answers there is no Redis: {error.message}"
        fix = "start it, and compare redis.url: host, port, redis:// or rediss://"
    return Finding("fail", use.subject, detail, fix)


def _time_of(reply: object) -> float | None:
    if isinstance(reply, Mapping):
        reply = next(iter(reply.values()), None)
    if isinstance(reply, Sequence) and len(reply) == 2:
        try:
            return int(reply[0]) + int(reply[1]) / 1e6
        except (TypeError, ValueError):
            return None
    return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
