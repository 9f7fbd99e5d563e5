"""The doctor among servers that answer, refuse, lie, hang and drip."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from ipaddress import ip_address
from pathlib import Path

import pytest

from penstock_gateway.doctor_clock import Clocks
from penstock_gateway.doctor_providers import ProviderPlace, look_at_provider
from penstock_gateway.doctor_redis import RedisUse, look_at_redis
from penstock_gateway.findings import Finding
from support.redis_server import NOT_INSTALLED, redis_binary
from support.redis_variants import controlled_redis, redis_cluster

KEY = "sk-a-provider-key-0123456789"
Talk = Callable[[socket.socket], None]


class Server:
    """A server on loopback that does one thing to every connection, and keeps what it was sent."""

    def __init__(self, talk: Talk, context: ssl.SSLContext | None = None) -> None:
        self.heard: list[bytes] = []
        self._talk, self._context = talk, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                self._talk(_Heard(connection, self.heard))  # type: ignore[arg-type]

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


class _Heard:
    """A connection whose incoming bytes are kept."""

    def __init__(self, connection: socket.socket, heard: list[bytes]) -> None:
        self._connection, self._heard = connection, heard

    def recv(self, size: int) -> bytes:
        """Receive and keep."""
        read = self._connection.recv(size)
        self._heard.append(read)
        return read

    def sendall(self, sent: bytes) -> None:
        """Send."""
        self._connection.sendall(sent)


def says(status: str, *headers: str) -> Talk:
    """Answer every request with a status."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65_536)
        lines = "".join(f"{header}\r\n" for header in headers)
        connection.sendall(f"HTTP/1.1 {status}\r\n{lines}content-length: 2\r\n\r\n{{}}".encode())

    return talk


def hangs(connection: socket.socket) -> None:
    """Take the connection and say nothing until the other side leaves."""
    while connection.recv(65_536):
        pass


@contextlib.contextmanager
def serving(talk: Talk, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server for the duration of a block."""
    server = Server(talk, context)
    try:
        yield server
    finally:
        server.close()


def looked(
    port: int,
    *,
    key: str = KEY,
    scheme: str = "http",
    host: str = "127.0.0.1",
    trusts: Path | None = None,
    is_messages: bool = False,
) -> tuple[tuple[Finding, ...], Clocks]:
    """Look at a provider on a port."""
    place = ProviderPlace("openai_compatible", f"{scheme}://{host}:{port}/v1", ("small",), is_messages, key)
    clocks = Clocks()
    found = look_at_provider(place, clocks, context=lambda: ssl.create_default_context(cafile=trusts), step_seconds=0.5)
    assert KEY not in str(found)
    return found, clocks


@pytest.mark.parametrize(
    ("status", "key", "level", "word"),
    [
        ("200 OK", KEY, "ok", "the key is taken"),
        ("200 OK", "", "ok", "no key is asked for"),
        ("401 Unauthorized", KEY, "fail", "refuses the key"),
        ("403 Forbidden", KEY, "fail", "refuses the key"),
        ("401 Unauthorized", "", "fail", "asks for a key"),
        ("404 Not Found", KEY, "ok", "was not tried"),
        ("405 Method Not Allowed", KEY, "ok", "was not tried"),
        ("429 Too Many Requests", KEY, "warn", "too many requests"),
        ("308 Permanent Redirect", KEY, "warn", "redirection"),
        ("503 Service Unavailable", KEY, "warn", "failure"),
        ("418 I'm a teapot", KEY, "warn", "status 418"),
    ],
)
def test_doctor_reads_what_a_provider_answers_to_a_list_of_models(status: str, key: str, level: str, word: str) -> None:
    """A refused key is a failure; a server without a list is well, and the key was not tried."""
    with serving(says(status)) as server:
        (finding,), _ = looked(server.port, key=key)
    assert (finding.level, word in finding.detail) == (level, True)
    assert bool(finding.fix) is (level != "ok")


@pytest.mark.parametrize(
    ("is_messages", "header"), [(False, f"authorization: bearer {KEY}"), (True, f"x-api-key: {KEY}")]
)
def test_doctor_asks_a_provider_for_its_models_and_nothing_that_costs(is_messages: bool, header: str) -> None:
    """One GET without a body, with the key where that provider wants it."""
    with serving(says("200 OK")) as server:
        looked(server.port, is_messages=is_messages)
    (request,) = server.heard
    assert request.startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert request.endswith(b"\r\n\r\n")
    assert header in request.decode().lower()


def test_doctor_tells_a_provider_that_is_not_there_from_one_that_is_silent() -> None:
    """Nothing listens, no such name, no answer, no HTTP, cut off: each with its own words."""
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    assert "nothing listens" in looked(port)[0][0].detail
    assert "cannot be resolved" in looked(port, host="no-such-host.invalid")[0][0].detail
    for talk in (hangs, lambda c: c.sendall(b"SSH-2.0-OpenSSH\r\n" * 9), lambda c: c.recv(10) and None):
        with serving(talk) as server:
            (finding,), _ = looked(server.port)
        assert (finding.level, "gives no HTTP answer" in finding.detail) == ("fail", True)
    with serving(hangs) as server:
        assert "no TLS handshake" in looked(server.port, scheme="https")[0][0].detail
    with serving(says("200 OK")) as server:
        assert "does not speak TLS" in looked(server.port, scheme="https")[0][0].detail


@pytest.mark.parametrize(("date", "level"), [(0, "ok"), (-7_200, "fail"), (None, "ok")])
def test_doctor_compares_the_clock_with_a_providers(date: float | None, level: str) -> None:
    """By its Date header; without one, or with one that is none, nothing is said."""
    headers = ["date: yesterday"] if date is None else [f"date: {formatdate(time.time() + date, usegmt=True)}"]
    with serving(says("200 OK", *headers)) as server:
        (finding,), clocks = looked(server.port)
    assert (finding.level, clocks.finding().level) == ("ok", level)


@contextlib.contextmanager
def certified(folder: Path, days: float) -> Iterator[tuple[ssl.SSLContext, Path]]:
    """Yield a server's context, and the file of the certificate, which ends in so many days."""
    x509 = pytest.importorskip("cryptography.x509", reason="the extra 'signing' is not installed")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path, private = folder / "certificate.pem", folder / "key.pem"
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, private)
    yield context, path


@pytest.mark.parametrize(
    ("days", "is_trusted", "host", "levels", "word"),
    [
        (90, True, "127.0.0.1", ["ok"], "the key is taken"),
        (3.5, True, "127.0.0.1", ["ok", "warn"], "ends in 3 days"),
        (90, False, "127.0.0.1", ["fail"], "self-signed"),
        (-1, True, "127.0.0.1", ["fail"], "expired"),
        (90, True, "localhost", ["fail"], "mismatch"),
    ],
)
def test_doctor_looks_at_a_providers_certificate(
    tmp_path: Path, days: float, is_trusted: bool, host: str, levels: list[str], word: str
) -> None:
    """Valid, about to end, of an unknown authority, expired, of another name."""
    with certified(tmp_path, days) as (context, path), serving(says("200 OK"), context) as server:
        found, _ = looked(server.port, scheme="https", host=host, trusts=path if is_trusted else None)
    assert [finding.level for finding in found] == levels
    assert word in " ".join(finding.detail for finding in found)


def redis_of(port: int, password: str = "hunter2hunter2") -> RedisUse:
    """Return a Redis on a port, with a password."""
    return RedisUse(f"redis://:{password}@127.0.0.1:{port}/0", ("ledger",), 0.5)


@pytest.mark.parametrize(
    ("talk", "word"),
    [
        (hangs, "does not answer in time"),
        (says("200 OK"), "no Redis"),
        (lambda connection: None, "cannot be reached"),
    ],
)
def test_doctor_tells_a_redis_that_hangs_from_what_is_none(talk: Talk, word: str) -> None:
    """Each is a failure with something to do, and shows no password."""
    with serving(talk) as server:
        (finding,) = look_at_redis(redis_of(server.port), Clocks(), seconds=0.5)
    assert (finding.level, word in finding.detail) == ("fail", True), finding
    assert "hunter2" not in str(finding)
    assert finding.fix


@pytest.mark.redis
def test_doctor_asks_a_real_redis_how_it_is_set_up() -> None:
    """Version, latency, clock and eviction; a wrong password, and one that is missing."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with controlled_redis(binary, **{"maxmemory-policy": "allkeys-lru"}) as server:
        clocks = Clocks()
        found = look_at_redis(RedisUse(server.url, ("ledger",), 0.5), clocks)
        assert (found[0].level, "a command" in found[0].detail) == ("ok", True)
        assert [each.level for each in found if "allkeys-lru" in each.detail] == ["fail"]
        assert (clocks.finding().level, "redis 127.0.0.1" in clocks.finding().detail) == ("ok", True)
        slow = look_at_redis(RedisUse(server.url, ("cache",), 1e-9), Clocks())
        assert (slow[0].level, "given up" in slow[0].detail) == ("fail", True)
        with server.client() as client:
            client.config_set("requirepass", "right")
        (wrong,) = look_at_redis(redis_of(server.port), Clocks())
        assert (wrong.level, "refuses user or password" in wrong.detail) == ("fail", True)
        (missing,) = look_at_redis(RedisUse(server.url, ("ledger",), 0.5), Clocks())
        assert (missing.level, "asks for a password" in missing.detail) == ("fail", True)
        assert "hunter2" not in str(wrong)


@pytest.mark.redis
def test_doctor_asks_a_cluster_of_redis() -> None:
    """One node speaks for all."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with redis_cluster(binary) as url:
        clocks = Clocks()
        found = look_at_redis(RedisUse(url, ("cache",), 0.5), clocks)
    assert (found[0].level, "cluster" in found[0].detail) == ("ok", True), found
    assert "redis 127.0.0.1" in clocks.finding().detail


CONFIG = """
version: 1
routing: {{artifact: none}}
server: {{port: 0}}
deployments:
  - {{name: one, base_url: "http://127.0.0.1:{one}/v1", api_key: "${{KEY}}", price: {{input: 1, output: 2}}}}
  - {{name: two, base_url: "http://127.0.0.1:{two}/v1", api_key: "${{KEY}}", price: {{input: 1, output: 2}}}}
"""


def test_doctor_ends_in_time_when_a_provider_drips_and_reports_the_rest(tmp_path: Path) -> None:
    """A byte each moment passes every time-out of a socket; the process still ends, with an exit code."""
    never = threading.Event()

    def drips(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
        while not never.wait(0.05):
            connection.sendall(b"y")

    with serving(drips) as dripping, serving(says("200 OK")) as well:
        (tmp_path / "penstock.yaml").write_text(CONFIG.format(one=dripping.port, two=well.port))
        command = [sys.executable, "-m", "penstock_gateway", "doctor", "--json", "--deadline", "3"]
        environ = {**os.environ, "KEY": KEY}
        done = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
        )
    never.set()
    found = {each["subject"]: each for each in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1, done.stderr
    assert "no answer within" in found["provider openai_compatible (one)"]["detail"]
    assert found["provider openai_compatible (two)"]["level"] == "ok"
    assert KEY not in done.stdout + done.stderr


def test_doctor_offline_asks_nobody(tmp_path: Path) -> None:
    """For a machine without a network."""
    with serving(says("200 OK")) as server:
        (tmp_path / "penstock.yaml").write_text(CONFIG.format(one=server.port, two=server.port))
        command = [sys.executable, "-m", "penstock_gateway", "doctor", "--json", "--offline"]
        environ = {**os.environ, "KEY": KEY}
        done = subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
        )
    subjects = [each["subject"] for each in json.loads(done.stdout)["findings"]]
    assert not [subject for subject in subjects if subject.startswith(("provider", "clock"))]
    assert "open files" in subjects
    assert server.heard == []
