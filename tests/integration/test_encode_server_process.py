"""`penstock encode-server` as a process: killed under load, probed, stopped, and started wrongly."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from penstock_gateway.redis_breaker import BreakerState
from penstock_gateway.remote_encoder.address import EncoderAddress
from penstock_gateway.remote_encoder.metrics import EncodeServerMetrics
from penstock_gateway.remote_encoder.process import server_context
from penstock_gateway.remote_encoder.server import EncodeServer
from penstock_gateway.remote_encoder.service import RemoteEncoderService
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_manifest import read_manifest
from support.encode_parts import FakeEncoder, remote_service

SECRET = b"a secret of the fleet"


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    """Nothing here may hang."""
    async with asyncio.timeout(90):
        yield


@contextmanager
def _process(path: Path, *more: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A real encode server; killed at the end if it still runs."""
    command = [sys.executable, "-m", "penstock_gateway", "encode-server", "--listen", f"unix:{path}", *more]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
    try:
        assert process.stderr is not None
        process.first_line = next(line for line in process.stderr if "encode-server:" in line)  # type: ignore[attr-defined]
        yield process
    finally:
        process.kill()
        process.communicate()


@asynccontextmanager
async def _load(service: RemoteEncoderService, tasks: int) -> AsyncIterator[list[np.ndarray[Any, Any]]]:
    """Encode all the time; every call must return a vector."""
    vectors: list[np.ndarray[Any, Any]] = []
    is_over = asyncio.Event()

    async def go_on(number: int) -> None:
        while not is_over.is_set():
            vectors.append(await service.encode(f"What is the capital of Peru, take {number}?"))
            await asyncio.sleep(0)  # an encoder of this process answers without letting go

    running = [asyncio.create_task(go_on(number)) for number in range(tasks)]
    yield vectors
    is_over.set()
    await asyncio.gather(*running)


async def test_encode_server_killed_under_load_fails_no_text_and_is_used_again(tmp_path: Path) -> None:
    """`kill -9` in the middle: every text gets a vector, from here while it is away and from there once it is back."""
    folder, path = bundled_folder(DEFAULT_ENCODER), tmp_path / "encoder.sock"
    encoder = PromptEncoder.load(folder)
    service = remote_service(
        EncoderAddress("unix", path=str(path)),
        manifest=read_manifest(folder),
        local=encoder,  # type: ignore[arg-type]
        timeout_seconds=1.0,
    )
    async with _load(service, 16) as vectors:
        with await asyncio.to_thread(lambda: _process(path)) as process:
            while service.state is not BreakerState.CLOSED or len(vectors) < 500:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            while service.state is BreakerState.CLOSED:
                await asyncio.sleep(0.01)
        before = len(vectors)
        with await asyncio.to_thread(lambda: _process(path)):
            while service.state is not BreakerState.CLOSED:
                await asyncio.sleep(0.01)
    assert len(vectors) > before
    wanted = {number: encoder.encode([f"What is the capital of Peru, take {number}?"])[0] for number in range(16)}
    lengths = np.linalg.norm(np.stack(vectors), axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-5)
    assert all(min(np.abs(vector - other).max() for other in wanted.values()) < 1e-6 for vector in vectors[-50:])
    await service.aclose()


async def test_encode_server_command_says_how_it_is_and_ends_when_asked(tmp_path: Path) -> None:
    """Probes and a scrape are answered over HTTP; SIGTERM ends it with 0 and takes the socket away."""
    path = tmp_path / "encoder.sock"
    secret = {"PENSTOCK_ENCODER_SECRET": SECRET.decode()}
    with await asyncio.to_thread(lambda: _process(path, "--health", "127.0.0.1:0", environment=secret)) as process:
        manifest = read_manifest(bundled_folder(DEFAULT_ENCODER))
        line: str = process.first_line  # type: ignore[attr-defined]
        assert manifest.encoder_id in line
        port = int(line.rstrip().rsplit(" ", 1)[1])
        service = remote_service(EncoderAddress("unix", path=str(path)), manifest=manifest, secret=SECRET)
        await service.encode("What is the capital of Peru?")

        def get(name: str) -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{name}", timeout=10) as answer:
                return str(answer.read().decode())

        assert [await asyncio.to_thread(get, name) for name in ("/livez", "/readyz")] == ["ok\n", "ok\n"]
        scrape = await asyncio.to_thread(get, "/metrics")
        assert f'penstock_encode_server_texts_total{{encoder="{manifest.encoder_id}",outcome="encoded"}} 1.0' in scrape
        assert SECRET.decode() not in scrape + line
        await service.aclose()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 30) == 0
        assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", "tcp://0.0.0.0:0"], "give a secret"),
        (["--listen", "nonsense"], "should be unix:/path"),
        (["--listen", "tls://127.0.0.1:0"], "needs a certificate"),
        (["--listen", "unix:/nowhere/at/all.sock"], "No such file"),
        (["--listen", "tcp://127.0.0.1:0", "--encoder", "nobody"], "nobody"),
        (["--listen", "tcp://127.0.0.1:0", "--health", "8080"], "host:port"),
    ],
)
def test_encode_server_command_that_cannot_serve_says_why(arguments: list[str], said: str) -> None:
    """A mistake is one line and no traceback."""
    command = [sys.executable, "-m", "penstock_gateway", "encode-server", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PENSTOCK_ENCODER_SECRET"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 that vouches for itself, and its key."""
    x509 = pytest.importorskip("cryptography.x509", reason="making a certificate needs cryptography (extra train)")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    alternatives = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = builder.add_extension(alternatives, critical=False).sign(key, hashes.SHA256())
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    return paths


async def test_encode_server_over_tls_is_used_only_when_its_certificate_is_vouched_for(tmp_path: Path) -> None:
    """With the right certificates a text is encoded there; with others, and in clear, it is encoded here."""
    certificate, key = _certificate(tmp_path, "encoder")
    stranger, _ = _certificate(tmp_path, "stranger")
    server = EncodeServer(
        [cast(PromptEncoder, FakeEncoder())], secret=b"", metrics=EncodeServerMetrics(CollectorRegistry())
    )
    await server.start(EncoderAddress("tls", host="127.0.0.1"), server_context(certificate, key))
    assert server.address is not None
    in_clear = EncoderAddress("tcp", host="127.0.0.1", port=server.address.port)
    for address, file, is_there in (
        (server.address, certificate, True),
        (server.address, stranger, False),
        (in_clear, certificate, False),
    ):
        tls = ssl.create_default_context(cafile=str(file))
        service = remote_service(address, local=FakeEncoder(value=7.0), tls=tls, timeout_seconds=2.0)
        assert (await service.encode("text"))[0] == (4 if is_there else 7)
        await service.aclose()
    await server.aclose()


def test_encode_server_certificate_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """A file that is missing or no certificate is said at the start."""
    (tmp_path / "no.pem").write_text("nothing")
    for path in (tmp_path / "no.pem", tmp_path / "nowhere.pem"):
        with pytest.raises(ValueError, match="cannot be used"):
            server_context(path, None)
