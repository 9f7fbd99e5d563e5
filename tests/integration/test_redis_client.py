"""The Redis client: URLs, secrets, deadlines, and replies that come too late."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import redis

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.redis_client import RedisClient, RedisNotUsable
from support.redis_server import NOT_INSTALLED, redis_binary
from support.redis_variants import ControlledRedis, controlled_redis, slow_proxy

SECRET = "pass/word+cluster@secret"
ESCAPED = "pass%2Fword%2Bcluster%40secret"


both_transports = pytest.mark.parametrize("is_multiplexed", [True, False], ids=["multiplexed", "pooled"])


@asynccontextmanager
async def opened(url: str, is_multiplexed: bool = True) -> AsyncIterator[RedisClient]:
    """A client that is closed afterwards."""
    client = RedisClient(url, is_multiplexed=is_multiplexed)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.fixture
def guarded_server() -> Iterator[ControlledRedis]:
    """A server that wants a password."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with controlled_redis(binary) as server:
        with server.client() as client:
            client.config_set("requirepass", SECRET)
        yield server


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:6379",
        "127.0.0.1:6379",
        "",
        "redis://user:hunter2@127.0.0.1:port",
        "redis://user:hunter2@127.0.0.1?decode_responses=true",
        "redis://user:hunter2@127.0.0.1?socket_timeout=hunter2",
    ],
)
def test_client_with_a_url_that_is_none_says_what_one_looks_like_and_no_secret(url: str) -> None:
    """A wrong URL is refused with a sentence in which neither the URL nor its password stands."""
    with pytest.raises(RedisNotUsable) as caught:
        RedisClient(url)
    assert caught.value.code == "invalid_redis_url"
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_client_without_the_package_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the redis extra is missing, the error ends in the command that installs it."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(RedisNotUsable) as caught:
        RedisClient("redis://127.0.0.1")
    assert caught.value.code == "missing_extra"
    assert "[redis]'" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown", "is_cluster"),
    [
        ("redis://user:hunter2@cache.internal:7000/3", "RedisClient(redis://cache.internal:7000)", False),
        ("rediss://:hunter2@cache.internal", "RedisClient(rediss://cache.internal:6379)", False),
        ("rediss+cluster://u:hunter2@h?ssl_check_hostname=false", "RedisClient(rediss+cluster://h:6379)", True),
    ],
)
async def test_client_shown_anywhere_hides_the_credential(url: str, shown: str, is_cluster: bool) -> None:
    """What is printed of a client says where it leads and nothing secret."""
    client = RedisClient(url)
    assert repr(client) == shown
    assert client.is_cluster is is_cluster


@pytest.mark.redis
@both_transports
async def test_execute_with_the_right_password_works_and_with_a_wrong_one_is_refused(
    guarded_server: ControlledRedis, is_multiplexed: bool
) -> None:
    """An escaped password is used; a wrong or missing one is a refused credential, without the credential."""
    place = f"127.0.0.1:{guarded_server.port}/2"
    async with opened(f"redis://:{ESCAPED}@{place}", is_multiplexed) as client:
        assert await client.execute(b"PING", deadline_seconds=10.0) in (b"PONG", "PONG")
    for url in (f"redis://:hunter2@{place}", f"redis://{place}"):
        async with opened(url, is_multiplexed) as client:
            with pytest.raises(StoreUnavailable) as caught:
                await client.execute(b"GET", b"key", deadline_seconds=10.0)
            assert caught.value.code == "cache_store_refused"
            assert "hunter2" not in str(caught.value)


@pytest.mark.redis
@both_transports
async def test_execute_of_commands_returns_replies_as_they_are(redis_url: str, is_multiplexed: bool) -> None:
    """Replies are bytes, numbers, None and lists of these, for redis-py's own favourites too."""
    async with opened(redis_url, is_multiplexed) as client:

        async def ask(*command: bytes | int) -> object:
            return await client.execute(*command, deadline_seconds=10.0)

        assert await ask(b"GET", b"nothing") is None
        await ask(b"HSET", b"hash", b"field", b"\xff\x00")
        assert await ask(b"HSCAN", b"hash", b"0") == [b"0", [b"field", b"\xff\x00"]]
        await ask(b"SADD", b"set", b"member")
        assert await ask(b"SMEMBERS", b"set") == [b"member"]
        await ask(b"XADD", b"stream", b"5-1", b"n", b"1")
        assert await ask(b"XREAD", b"STREAMS", b"stream", b"0") == [[b"stream", [[b"5-1", [b"n", b"1"]]]]]
        assert await ask(b"EVAL", b"return {1, false, 'x'}", 0) == [1, None, b"x"]


@pytest.mark.redis
@both_transports
async def test_execute_given_up_at_every_moment_leaves_no_reply_to_the_next(
    redis_url: str, is_multiplexed: bool
) -> None:
    """Whether a caller runs out of time or is cancelled, no later command gets its reply."""
    port = redis.connection.parse_url(redis_url)["port"]
    async with slow_proxy(port) as (proxy, url), opened(url, is_multiplexed) as client:
        answered = 0

        async def echo(number: int) -> None:
            nonlocal answered
            text = f"text {number}".encode()
            # A few are patient, so that some are answered however busy the machine is.
            deadline_seconds = 30.0 if number % 23 == 0 else 0.002 + number % 23 / 1000
            try:
                assert await client.execute(b"ECHO", text, deadline_seconds=deadline_seconds) == text
                answered += 1
            except StoreUnavailable:
                pass

        for round_number in range(30):
            proxy.delay_seconds = round_number % 5 * 0.005
            callers = [asyncio.create_task(echo(1000 * round_number + number)) for number in range(30)]
            await asyncio.sleep(0.004)
            for caller in callers[::7]:
                caller.cancel()
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
            assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []
        assert answered > 0
        proxy.delay_seconds = 0.0
        assert await client.execute(b"ECHO", b"in the end", deadline_seconds=20.0) == b"in the end"


@pytest.mark.redis
async def test_execute_after_its_deadline_has_passed_sends_nothing(redis_url: str) -> None:
    """A command without any time left is not sent."""
    async with opened(redis_url) as client:
        with pytest.raises(StoreUnavailable) as caught:
            await client.execute(b"SET", b"key", b"value", deadline_seconds=0.0)
        assert caught.value.code == "cache_store_timeout"
        await asyncio.sleep(0.05)
        assert await client.execute(b"GET", b"key", deadline_seconds=10.0) is None


async def test_execute_where_nothing_listens_is_unreachable() -> None:
    """A refused connection is an unreachable store."""
    async with opened("redis://127.0.0.1:1") as client:
        with pytest.raises(StoreUnavailable) as caught:
            await client.execute(b"PING", deadline_seconds=10.0)
        assert caught.value.code == "cache_store_unreachable"
    async with opened("redis+cluster://127.0.0.1:1") as client:
        with pytest.raises(StoreUnavailable) as caught:
            await client.execute(b"PING", deadline_seconds=10.0)
        assert caught.value.code == "cache_store_unreachable"


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for this machine, signed by itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    start = datetime.now(UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (folder / "private").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    return folder / "certificate", folder / "private"


@pytest.mark.redis
@both_transports
async def test_execute_over_tls_wants_a_certificate_that_it_trusts(tmp_path: Path, is_multiplexed: bool) -> None:
    """``rediss://`` speaks TLS, accepts a certificate that the URL's authority signed, and no other."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    certificate, private = _certificate(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        tls_port = probe.getsockname()[1]
    settings = {
        "tls-port": str(tls_port),
        "tls-cert-file": str(certificate),
        "tls-key-file": str(private),
        "tls-ca-cert-file": str(certificate),
        "tls-auth-clients": "no",
    }
    try:
        running = controlled_redis(binary, **settings)
        server = running.__enter__()
    except RuntimeError:
        pytest.skip("this redis-server was built without TLS")
    try:
        assert server.port != tls_port
        trusted = f"rediss://127.0.0.1:{tls_port}?ssl_ca_certs={certificate}"
        async with opened(trusted, is_multiplexed) as client:
            assert await client.execute(b"ECHO", b"in private", deadline_seconds=10.0) == b"in private"
        async with opened(f"rediss://127.0.0.1:{tls_port}", is_multiplexed) as client:
            with pytest.raises(StoreUnavailable) as caught:
                await client.execute(b"ECHO", b"in private", deadline_seconds=10.0)
            assert caught.value.code == "cache_store_unreachable"
    finally:
        running.__exit__(None, None, None)
