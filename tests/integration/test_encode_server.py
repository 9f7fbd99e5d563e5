"""An encode server with its clients: the same vectors, and every way in which one of the two can be at fault."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from penstock_gateway.chooser import ArmChooser, RoutingParts
from penstock_gateway.redis_breaker import BreakerState
from penstock_gateway.remote_encoder import server as server_module
from penstock_gateway.remote_encoder import service as service_module
from penstock_gateway.remote_encoder import wire
from penstock_gateway.remote_encoder.address import EncoderAddress
from penstock_gateway.remote_encoder.service import RemoteEncoderService
from penstock_gateway.remote_encoder.wire import Kind, Precision
from penstock_gateway.request_body import parse_chat_request
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_manifest import read_manifest
from penstock_routers.errors import EncoderError
from support.encode_parts import (
    DIMENSION,
    FakeEncoder,
    encode_server,
    remote_service,
    small_manifest,
    talking_server,
)
from support.fakes import FakeArtifact, deployment

SECRET = b"a secret of the fleet"
LOCAL = 7.0
TEXTS = ["What is the capital of Peru?", "", "naïve \ud800", "x" * 10_000_000]


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    """Nothing here may hang."""
    async with asyncio.timeout(60):
        yield


def _local() -> FakeEncoder:
    return FakeEncoder(value=LOCAL)


async def _is_local(service: RemoteEncoderService, text: str = "a text") -> bool:
    return bool((await service.encode(text) == LOCAL).all())


def _fallbacks(service: RemoteEncoderService) -> dict[str, float]:
    return {kind: count.value for kind, count in service._metrics.fallbacks.items() if count.value}


@pytest.mark.parametrize("precision", list(Precision))
async def test_encode_server_gives_the_vectors_of_the_encoder(tmp_path: Path, precision: Precision) -> None:
    """Over the wire a text has the vector that it has here, a text of 10 MB and one that is not Unicode too."""
    folder = bundled_folder(DEFAULT_ENCODER)
    encoder = PromptEncoder.load(folder)
    async with encode_server(encoder, tmp_path, secret=SECRET) as (server, address):
        service = remote_service(address, manifest=read_manifest(folder), secret=SECRET, precision=precision)
        found = await asyncio.gather(*(service.encode(text) for text in TEXTS))
        np.testing.assert_allclose(np.stack(found), encoder.encode(TEXTS), atol=3e-4 if precision else 0)
        assert _fallbacks(service) == {}
        assert len(server.connections) == 1
        await service.aclose()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_encode_server_is_reached_from_the_loop_that_a_gateway_runs_on(tmp_path: Path, kind: str) -> None:
    """uvloop's transports are no subclasses of asyncio's, and a gateway runs on uvloop."""

    async def fallbacks() -> dict[str, float]:
        async with encode_server(FakeEncoder(), tmp_path) as (server, address):
            if kind == "tcp":
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    address = EncoderAddress("tcp", host="127.0.0.1", port=probe.getsockname()[1])
                await server.start(address)
            service = remote_service(address, local=FakeEncoder(value=LOCAL))
            assert not await _is_local(service)
            found = _fallbacks(service)
            await service.aclose()
            return found

    assert uvloop.run(fallbacks()) == {}


async def test_encode_server_texts_that_queue_share_a_batch(tmp_path: Path) -> None:
    """What arrives while a transformer's batch runs is the next batch; each caller gets its own vector."""
    encoder = FakeEncoder("transformer")
    async with encode_server(encoder, tmp_path) as (_, address):
        service = remote_service(address)
        tasks = [asyncio.create_task(service.encode("x" * size)) for size in (1, 2, 3, 4, 5)]
        while not encoder.batches:
            await asyncio.sleep(0.001)
        encoder.gate.set()
        assert [vector[0] for vector in await asyncio.gather(*tasks)] == [1, 2, 3, 4, 5]
        assert max(len(batch) for batch in encoder.batches) == 2
        await service.aclose()


async def test_encode_server_with_a_full_queue_refuses_and_the_client_encodes_here(tmp_path: Path) -> None:
    """A bound on waiting texts holds, and whoever is turned away is answered by the encoder of its own process."""
    encoder = FakeEncoder("transformer")
    async with encode_server(encoder, tmp_path, queue_limit=1) as (_, address):
        service = remote_service(address, local=_local())
        tasks = [asyncio.create_task(service.encode("text")) for _ in range(8)]
        done: set[asyncio.Task[Any]] = set()
        while len(done) < 5:
            done |= (await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))[0]
        assert all((task.result() == LOCAL).all() for task in done)
        encoder.gate.set()
        await asyncio.gather(*tasks)
        assert set(_fallbacks(service)) <= {"overloaded", "open"}
        await service.aclose()


async def test_encode_server_whose_encoder_fails_is_made_up_for(tmp_path: Path) -> None:
    """An encoder that fails there is no failure here, static or not."""
    for kind in ("static", "transformer"):
        encoder = FakeEncoder(kind)  # type: ignore[arg-type]
        encoder.gate.set()
        encoder.failure = EncoderError("bad", code="onnx_run_failed")
        async with encode_server(encoder, tmp_path) as (_, address):
            service = remote_service(address, local=_local())
            assert await _is_local(service)
            assert _fallbacks(service) == {"failed": 1}
            await service.aclose()


@pytest.mark.parametrize(
    ("server_secret", "client_secret", "kind"),
    [(SECRET, b"", "refused"), (SECRET, b"another secret, long", "refused"), (b"", SECRET, "broken")],
)
async def test_encode_server_with_another_secret_is_not_used(
    tmp_path: Path, server_secret: bytes, client_secret: bytes, kind: str
) -> None:
    """A client without the secret is refused, and a server that does not know it is not believed."""
    encoder = FakeEncoder()
    async with encode_server(encoder, tmp_path, secret=server_secret) as (_, address):
        service = remote_service(address, local=_local(), secret=client_secret)
        assert await _is_local(service)
        assert _fallbacks(service) == {kind: 1}
        assert encoder.batches == []
        await service.aclose()


async def test_encode_server_with_another_encoder_is_refused_and_the_client_abstains(tmp_path: Path) -> None:
    """Vectors of another encoder are worse than none; without a local one, that is said by a code."""
    async with encode_server(FakeEncoder(), tmp_path) as (_, address):
        service = remote_service(address, manifest=read_manifest(bundled_folder(DEFAULT_ENCODER)))
        with pytest.raises(EncoderError) as caught:
            await service.encode("text")
        assert caught.value.code == "encoder_remote_unavailable"
        assert _fallbacks(service) == {"refused": 1}
        await service.aclose()


def _frames_of_a_client(*frames: bytes) -> bytes:
    proof = bytes(wire.PROOF_BYTES)
    return wire.hello(Precision.FLOAT32, bytes(32), proof, small_manifest().encoder_id) + b"".join(frames)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        random.Random(1).randbytes(64),
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        wire.text_request(1, 1000, b"before any hello"),
        _frames_of_a_client(wire.frame(Kind.VECTOR, b"xx")),
        _frames_of_a_client(wire.frame(Kind.TEXT, b"short")),
        _frames_of_a_client(wire.text_request(1, 1000, b"\xff\xfe")),
        _frames_of_a_client(b"\x00\x00\x90\x00" + b"x" * 1000),
        _frames_of_a_client()[:20],
    ],
    ids=["http", "noise", "huge", "empty", "no hello", "kind", "short", "utf-8", "10 MB frame", "half"],
)
async def test_encode_server_drops_what_is_not_of_the_protocol_and_serves_the_others(
    tmp_path: Path, sent: bytes
) -> None:
    """Whatever one client sends, and if it stops in the middle and closes its half, others are answered."""
    async with encode_server(FakeEncoder(), tmp_path) as (server, address):
        service = remote_service(address)
        assert (await service.encode("text"))[0] == 4
        reader, writer = await asyncio.open_unix_connection(address.path)
        writer.write(sent)
        writer.write_eof()
        answered = await reader.read()  # until the server ends it
        assert b"x" * 100 not in answered
        assert (await service.encode("text"))[0] == 4
        writer.close()
        while len(server.connections) > 1:
            await asyncio.sleep(0.001)
        await service.aclose()


async def test_encode_server_drops_a_client_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a hello is not kept."""
    monkeypatch.setattr(server_module, "HANDSHAKE_SECONDS", 0.01)
    async with encode_server(FakeEncoder(), tmp_path) as (_, address):
        reader, writer = await asyncio.open_unix_connection(address.path)
        assert (await reader.read()).startswith(wire.challenge(bytes(32))[:8])
        writer.close()


async def test_encode_server_drops_a_client_that_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that nobody reads are not gathered: reading stops, then the connection ends."""
    monkeypatch.setattr(server_module, "UNREAD_SECONDS", 0.01)
    async with encode_server(FakeEncoder(), tmp_path) as (server, address):
        _, writer = await asyncio.open_unix_connection(address.path, limit=1024)
        writer.transport.set_write_buffer_limits(high=1 << 30)
        writer.write(_frames_of_a_client())
        while not server.connections:
            await asyncio.sleep(0.001)
        (connection,) = server.connections
        for _ in range(400):
            writer.write(wire.text_request(1, 1000, b"x") * 1000)
            await asyncio.sleep(0)
        while server.connections:
            await asyncio.sleep(0.001)
        assert connection._transport is None
        writer.transport.abort()


async def test_encode_server_takes_no_more_than_so_many_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One connection too many is ended at once; those that are there go on."""
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 1)
    async with encode_server(FakeEncoder(), tmp_path) as (_, address):
        first = remote_service(address)
        assert (await first.encode("text"))[0] == 4
        second = remote_service(address, local=_local())
        assert await _is_local(second)
        assert (await first.encode("text"))[0] == 4
        await first.aclose()
        await second.aclose()


def _said(*frames: bytes) -> bytes:
    return wire.challenge(bytes(32)) + wire.welcome(DIMENSION, bytes(32)) + b"".join(frames)


_VECTOR = wire.vector_answer(1, np.ones(DIMENSION, dtype=np.float32), Precision.FLOAT32)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"", "late"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "broken"),
        (b"abc\xff" + random.Random(2).randbytes(60), "broken"),
        (wire.challenge(bytes(32)), "late"),
        (wire.welcome(DIMENSION, bytes(32)), "broken"),
        (wire.challenge(bytes(32)) + wire.welcome(DIMENSION + 1, bytes(32)), "broken"),
        (wire.challenge(bytes(32)) + wire.frame(Kind.REFUSED, b"\x63"), "refused"),
        (_said(), "late"),
        (_said(_VECTOR[:9]), "late"),
        (_said(wire.frame(Kind.VECTOR, b"\x01\x00\x00\x00" + b"x")), "broken"),
        (_said(wire.frame(Kind.FAILED, b"\x01\x00\x00\x00\x63")), "broken"),
        (_said(wire.frame(Kind.CHALLENGE, b"again")), "broken"),
    ],
)
async def test_remote_encoder_of_a_strange_server_is_answered_here(tmp_path: Path, said: bytes, kind: str) -> None:
    """Silence, garbage, halves and lies of the other process all end in a vector of this one."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await reader.read()  # until the client has gone
        writer.close()

    async with talking_server(tmp_path, talk) as address:
        service = remote_service(address, local=_local(), timeout_seconds=0.05)
        assert await _is_local(service)
        assert _fallbacks(service) == {kind: 1}
        await service.aclose()


async def test_remote_encoder_numbers_that_are_not_finite_are_not_used(tmp_path: Path) -> None:
    """A vector with NaN or infinity ends the connection; the text is encoded here."""
    for value in (np.nan, np.inf):
        answer = wire.vector_answer(1, np.full(DIMENSION, value, dtype=np.float32), Precision.FLOAT32)

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = answer) -> None:
            writer.write(_said())
            await reader.read(200)
            await reader.read(200)
            writer.write(answer)
            await reader.read()
            writer.close()

        async with talking_server(tmp_path, talk) as address:
            service = remote_service(address, local=_local(), timeout_seconds=0.5)
            assert await _is_local(service)
            assert _fallbacks(service) == {"broken": 1}
            await service.aclose()


async def test_remote_encoder_half_closed_server_is_connected_anew(tmp_path: Path) -> None:
    """A server that ends its half after each answer costs a connection a text, and no text."""
    seen: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(1)
        writer.write(_said())
        while not (await reader.read(4096)).endswith(b"text"):
            pass
        writer.write(_VECTOR)
        writer.write_eof()
        await reader.read()
        writer.close()

    async with talking_server(tmp_path, talk) as address:
        service = remote_service(address, local=_local())
        for _ in range(3):
            assert (await service.encode("text"))[0] in (1.0, LOCAL)
            await asyncio.sleep(0.01)
        assert len(seen) >= 2
        await service.aclose()


async def test_remote_encoder_after_failures_sends_nothing_until_a_probe_is_answered(tmp_path: Path) -> None:
    """While the server is away texts are answered here at once; once it is back, by it."""
    address = EncoderAddress("unix", path=str(tmp_path / "encoder.sock"))
    service = remote_service(address, local=_local())
    while service.state is BreakerState.CLOSED:
        assert await _is_local(service)
    assert _fallbacks(service)["unreachable"] == 5
    assert await _is_local(service)
    assert _fallbacks(service)["open"] == 1
    async with encode_server(FakeEncoder(), tmp_path):
        while service.state is not BreakerState.CLOSED:
            assert await _is_local(service)
            await asyncio.sleep(0.01)
        assert (await service.encode("text"))[0] == 4
        await service.aclose()


async def test_remote_encoder_connection_is_replaced_in_time_without_losing_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers that were added behind an address are found; what is under way is answered over the old connection."""
    monkeypatch.setattr(service_module, "RENEWAL_SECONDS", 0.0)
    async with encode_server(FakeEncoder(), tmp_path) as (server, address):
        service = remote_service(address)
        assert (await service.encode("text"))[0] == 4
        (first,) = server.connections
        while first in server.connections:
            found = await asyncio.gather(*(service.encode("x" * size) for size in range(1, 20)))
            assert [vector[0] for vector in found] == list(range(1, 20))
        assert _fallbacks(service) == {}
        await service.aclose()


async def test_remote_encoder_that_is_away_costs_the_estimate_and_not_the_request(tmp_path: Path) -> None:
    """Without a local encoder the router abstains: the default arm answers."""
    service = remote_service(EncoderAddress("unix", path=str(tmp_path / "nobody.sock")))
    failures: list[int] = []
    chooser = ArmChooser(
        [deployment("small"), deployment("large")],
        default_arm="large",
        baseline="large",
        tradeoff="balanced",
        parts=RoutingParts(FakeArtifact({"small": 0.9, "large": 0.9}), service),  # type: ignore[arg-type]
        on_failure=lambda: failures.append(1),
    )
    body = {"model": "auto", "messages": [{"role": "user", "content": "Why?"}]}
    for _ in range(8):
        decision = await chooser.choose(parse_chat_request(json.dumps(body).encode()), None)
        assert decision.chosen == "large"
    assert len(failures) == 8
    await service.aclose()


async def test_remote_encoder_that_is_closed_refuses_and_ends_what_waits(tmp_path: Path) -> None:
    """A stop of the gateway waits for no server; safe to call twice."""
    encoder = FakeEncoder("transformer")
    async with encode_server(encoder, tmp_path) as (_, address):
        service = remote_service(address)
        task = asyncio.create_task(service.encode("text"))
        while not encoder.batches:
            await asyncio.sleep(0.001)
        await service.aclose()
        await service.aclose()
        with pytest.raises(EncoderError):
            await task
        with pytest.raises(EncoderError, match="shutting down"):
            await service.encode("text")
        encoder.gate.set()


async def test_encode_server_socket_is_for_user_and_group_and_is_not_taken_from_a_living_server(
    tmp_path: Path,
) -> None:
    """Others may not open it; a left-over file is replaced, one that is answered is not."""
    path = tmp_path / "encoder.sock"
    async with encode_server(FakeEncoder(), tmp_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with pytest.raises(OSError, match="in use"):
            async with encode_server(FakeEncoder(), tmp_path):
                pass
    assert not path.exists()
    left_over = asyncio.get_running_loop()
    server = await left_over.create_unix_server(asyncio.Protocol, str(path))
    server.close()
    assert path.exists()
    async with encode_server(FakeEncoder(), tmp_path) as (_, address):
        service = remote_service(address)
        assert (await service.encode("text"))[0] == 4
        await service.aclose()
