"""The direct upstream against a provider that misbehaves: each failure has its error, and none leaks or hangs."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from penstock_gateway.deployments import Deployment
from penstock_gateway.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamRejectedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from penstock_gateway.upstream.direct import DirectReply, DirectUpstream
from support.attempts import UPSTREAM_KEY, make_deployment, make_request
from support.replay_upstream import ReplayUpstream, load_recording, running_replay_upstream

# Short deadlines where one must pass, long ones where it must not.
STALLS = {"first_byte_timeout_seconds": 0.2, "idle_timeout_seconds": 0.2}


@pytest.fixture
async def upstream() -> AsyncIterator[DirectUpstream]:
    transport = DirectUpstream(max_reply_bytes=1_000_000)
    yield transport
    await transport.aclose()


def misbehaving(provider: ReplayUpstream, behaviour: str, **changes: float) -> Deployment:
    return make_deployment(provider.base_url, model=f"openai-text!{behaviour}", **changes)


def self_signed_context(folder: Path) -> ssl.SSLContext:
    """Return a server's TLS context with a fresh certificate for 127.0.0.1 that no authority signed."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command, which makes the certificate, is not installed")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [openssl, "req", "-x509", *curve, *names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def collect(reply: DirectReply, received: list[bytes]) -> None:
    """Append the blocks as they come, so that those before an error are kept."""
    async for block in reply.events():
        received.append(block)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("stall", UpstreamTimeout),
        ("reset", UpstreamBroken),
        ("close", UpstreamBroken),
        ("garbage", UpstreamBroken),
        ("status-401", UpstreamRejectedKey),
        ("status-403", UpstreamRejectedKey),
    ],
)
async def test_direct_failure_before_the_answer_is_raised_by_send(
    provider: ReplayUpstream, upstream: DirectUpstream, behaviour: str, error: type[UpstreamError], is_stream: bool
) -> None:
    """What fails before the answer fails in send, where another deployment can still be tried."""
    with pytest.raises(error) as raised:
        await upstream.send(make_request(misbehaving(provider, behaviour, **STALLS), is_stream=is_stream))
    assert UPSTREAM_KEY not in raised.value.message
    assert "127.0.0.1" not in raised.value.message
    assert "sk-secret" not in raised.value.message
    assert len(provider.requests) == 1
    await upstream.aclose()
    await provider.until_open_connections(0)


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("stall-after-headers", UpstreamTimeout),
        ("cut-after-1", UpstreamBroken),
        ("reset-after-1", UpstreamBroken),
        ("garbage-body", UpstreamBroken),
        ("error-200", UpstreamBroken),
        ("huge", UpstreamBroken),
    ],
)
async def test_direct_failure_in_a_plain_body_is_raised_by_read(
    provider: ReplayUpstream, upstream: DirectUpstream, behaviour: str, error: type[UpstreamError]
) -> None:
    """A body that stalls, is cut, is not an answer or is too large is not returned."""
    reply = await upstream.send(make_request(misbehaving(provider, behaviour, **STALLS)))
    with pytest.raises(error):
        await reply.read()
    await reply.aclose()
    assert reply.usage is None


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("stall-after-3", UpstreamTimeout),
        ("reset-after-3", UpstreamBroken),
        ("truncate-after-3", UpstreamBroken),
        ("cut-after-3", UpstreamBroken),
    ],
)
async def test_direct_stream_that_breaks_yields_its_whole_events_first(
    provider: ReplayUpstream, upstream: DirectUpstream, behaviour: str, error: type[UpstreamError]
) -> None:
    """Three whole events arrive, no half one, no [DONE], and then the error."""
    reply = await upstream.send(make_request(misbehaving(provider, behaviour, **STALLS), is_stream=True))
    received: list[bytes] = []
    with pytest.raises(error):
        await collect(reply, received)
    assert b"".join(received) == b"".join(load_recording("openai-text", includes_usage=True).events[:3])
    assert reply.output_bytes == len("The" + " reservoir")
    await provider.until_open_connections(0)


async def test_direct_stream_that_stalls_after_headers_is_a_timeout(
    provider: ReplayUpstream, upstream: DirectUpstream
) -> None:
    """Headers alone are no answer: the first-byte deadline also covers the first event."""
    reply = await upstream.send(make_request(misbehaving(provider, "stall-after-headers", **STALLS), is_stream=True))
    with pytest.raises(UpstreamTimeout):
        await anext(aiter(reply.events()))


async def test_direct_idle_deadline_follows_the_first_event(provider: ReplayUpstream, upstream: DirectUpstream) -> None:
    """After the first event a short idle deadline holds, however long the first byte was allowed to take."""
    deployment = misbehaving(provider, "stall-after-1", first_byte_timeout_seconds=60.0, idle_timeout_seconds=0.2)
    reply = await upstream.send(make_request(deployment, is_stream=True))
    async with asyncio.timeout(5):  # long before any other deadline of this deployment
        with pytest.raises(UpstreamTimeout):
            await collect(reply, [])


async def test_direct_total_deadline_ends_a_stream(provider: ReplayUpstream, upstream: DirectUpstream) -> None:
    """The total deadline holds over the whole answer."""
    deployment = misbehaving(provider, "stall-after-1", total_timeout_seconds=0.3)
    reply = await upstream.send(make_request(deployment, is_stream=True))
    async with asyncio.timeout(5):
        with pytest.raises(UpstreamTimeout):
            await collect(reply, [])


async def test_direct_garbage_event_ends_the_stream(provider: ReplayUpstream, upstream: DirectUpstream) -> None:
    """An event that is not JSON never reaches the client, the events before it do."""
    reply = await upstream.send(make_request(misbehaving(provider, "garbage-body"), is_stream=True))
    received: list[bytes] = []
    with pytest.raises(UpstreamBroken):
        await collect(reply, received)
    assert b"".join(received) == b"".join(load_recording("openai-text", includes_usage=True).events[:2])


@pytest.mark.parametrize("behaviour", ["json", "error-200"])
async def test_direct_stream_request_answered_with_json_is_broken(
    provider: ReplayUpstream, upstream: DirectUpstream, behaviour: str
) -> None:
    """A stream request answered with one document fails before the first byte, so that a fallback is possible."""
    with pytest.raises(UpstreamBroken):
        await upstream.send(make_request(misbehaving(provider, behaviour), is_stream=True))


@pytest.mark.parametrize("is_stream", [False, True])
async def test_direct_redirect_is_not_followed(
    provider: ReplayUpstream, upstream: DirectUpstream, is_stream: bool
) -> None:
    """A redirect is an error: the request, its credential and its text go nowhere else."""
    async with running_replay_upstream() as elsewhere:
        deployment = misbehaving(provider, f"redirect-{elsewhere.port}")
        with pytest.raises(UpstreamBroken):
            await upstream.send(make_request(deployment, is_stream=is_stream))
        assert elsewhere.accepted_connections == 0


async def test_direct_refused_connection_is_unreachable(upstream: DirectUpstream) -> None:
    """Nobody listening means unreachable."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UpstreamUnreachable):
        await upstream.send(make_request(make_deployment(f"http://127.0.0.1:{port}/v1")))


async def test_direct_connection_that_is_never_accepted_is_a_timeout(upstream: DirectUpstream) -> None:
    """A full backlog leaves the connection pending: the connect deadline ends the wait."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(address)
        deployment = make_deployment(f"http://127.0.0.1:{address[1]}/v1", connect_timeout_seconds=0.2)
        try:
            with pytest.raises(UpstreamTimeout) as raised:
                await upstream.send(make_request(deployment))
        finally:
            for client in waiting:
                client.close()
    assert raised.value.code == "upstream_connect_timeout"


async def test_direct_server_without_tls_is_unreachable(upstream: DirectUpstream) -> None:
    """An https address behind which nobody speaks TLS fails before anything is sent."""

    async def answer_in_the_clear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer_in_the_clear, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UpstreamUnreachable):
            await upstream.send(make_request(make_deployment(f"https://127.0.0.1:{port}/v1")))


async def test_direct_certificate_that_nobody_signed_is_unreachable(upstream: DirectUpstream, tmp_path: Path) -> None:
    """Certificates are verified: one that no known authority signed ends the request before anything is sent."""
    context = self_signed_context(tmp_path)
    received: list[bytes] = []

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(record, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UpstreamUnreachable):
            await upstream.send(make_request(make_deployment(f"https://127.0.0.1:{port}/v1")))
    assert b"".join(received) == b""


@pytest.mark.parametrize(
    "base_url", ["", "not a url", "ftp://127.0.0.1/v1", "http://", "http://name:pass@127.0.0.1:9/v1"]
)
async def test_direct_unusable_address_is_unreachable(upstream: DirectUpstream, base_url: str) -> None:
    """An address that no request can be sent to is an upstream error, not a crash."""
    with pytest.raises(UpstreamUnreachable):
        await upstream.send(make_request(make_deployment(base_url)))
