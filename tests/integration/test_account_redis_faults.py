"""Keys in a real Redis that is stopped, paused, flushed or tampered with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from penstock_gateway.accounts.agreement import Known
from penstock_gateway.accounts.directory import DAMAGED, LOST, UNAVAILABLE, Directory
from penstock_gateway.accounts.redis_store import RedisAccountStore
from penstock_gateway.accounts.registrar import Registrar
from penstock_gateway.accounts.table import KeyRefusal
from penstock_gateway.errors import Overloaded
from penstock_gateway.redis_client import RedisClient
from support.account_parts import PEPPER, settings_of
from support.cache_documents import eventually
from support.redis_server import NOT_INSTALLED, redis_binary
from support.redis_variants import ControlledRedis, controlled_redis

pytestmark = pytest.mark.redis

KEY = "penstock:accounts:{o:default}"


@pytest.fixture
def server() -> Iterator[ControlledRedis]:
    """A server that the test may kill and pause."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with controlled_redis(binary) as controlled:
        yield controlled


@asynccontextmanager
async def _gateway(url: str, seconds: float = 0.25) -> AsyncIterator[tuple[Directory, Registrar, list[str]]]:
    problems: list[str] = []
    store = RedisAccountStore(RedisClient(url), organisation="default", timeout_seconds=seconds)
    directory = Directory(settings_of(), store, PEPPER, poll_seconds=0.02, on_problem=problems.append)
    registrar = Registrar(directory, lambda: Known.from_settings(settings_of()))
    await directory.start()
    try:
        yield directory, registrar, problems
    finally:
        await directory.aclose()


async def test_key_revoked_on_one_gateway_is_refused_on_the_other(server: ControlledRedis) -> None:
    """Two gateways on one Redis know each other's keys and revocations without being told."""
    async with _gateway(server.url) as (_, here, _), _gateway(server.url) as (there, _, _):
        key, secret = await here.create_key("ci", {})
        await eventually(lambda: there.principal_of(secret) is not None, "the key on the other gateway")
        await here.revoke_key(key.id)
        await eventually(lambda: there.is_revoked_now(key.id), "its end on the other gateway")
        assert there.look_up(secret) is KeyRefusal.REVOKED


async def test_redis_that_is_paused_leaves_known_keys_valid(server: ControlledRedis) -> None:
    """While Redis does not answer, known keys are valid and the problem is noted once; then it goes on."""
    async with _gateway(server.url, seconds=0.05) as (directory, registrar, problems):
        _, secret = await registrar.create_key("ci", {})
        server.pause()
        await eventually(lambda: directory.problem == UNAVAILABLE, "the problem")
        assert directory.principal_of(secret) is not None
        server.resume()
        await eventually(lambda: directory.problem is None, "its end")
        assert problems == [UNAVAILABLE]


async def test_redis_that_is_flushed_leaves_known_keys_valid_until_they_are_restored(server: ControlledRedis) -> None:
    """A flush ends no key; the admin writes back what is known, and a new gateway finds it."""
    async with _gateway(server.url) as (directory, registrar, problems):
        _, secret = await registrar.create_key("ci", {})
        with server.client() as client:
            client.flushall()
        await eventually(lambda: directory.problem == LOST, "the loss")
        assert directory.principal_of(secret) is not None
        assert await directory.restore() == 1
        assert problems == [LOST]
    async with _gateway(server.url) as (directory, _, _):
        assert directory.principal_of(secret) is not None


async def test_redis_that_is_away_at_the_start_is_waited_for(server: ControlledRedis) -> None:
    """A gateway starts without its store, tells unknown keys to wait, and learns them when the store comes."""
    server.kill()
    async with _gateway(server.url) as (directory, registrar, _):
        with pytest.raises(Overloaded):
            directory.authenticate("psk_unknown")
        server.start()
        await eventually(lambda: directory.problem is None, "the store")
        _, secret = await registrar.create_key("ci", {})
        assert directory.authenticate(secret).key_name == "ci"


@pytest.mark.parametrize(
    ("field", "content"),
    [("key:abcdefgh", b"{"), ("key:abcdefgh", b"{}"), ("surprise", b"{}"), ("tag:a", b'{"name":"b","created_at":0}')],
)
async def test_record_in_redis_that_is_damaged_keeps_what_was_known(
    server: ControlledRedis, field: str, content: bytes
) -> None:
    """A record that cannot be read stops no key, and nothing is written over it."""
    async with _gateway(server.url) as (directory, registrar, _):
        _, secret = await registrar.create_key("ci", {})
        with server.client() as client:
            client.hset(KEY, mapping={field: content, "version": "9-other"})
        await eventually(lambda: directory.problem == DAMAGED, "the damage")
        assert directory.principal_of(secret) is not None
