"""The direct upstream against the misbehaving one, where the HTTP client alone would hang, or give up a good answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from penstock_gateway.errors import UpstreamBroken, UpstreamError, UpstreamTimeout
from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.direct import DirectReply, DirectUpstream
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.attempts import make_deployment, make_request
from support.fault_exchange import INPUT_TOKENS, OUTPUT_TOKENS, WORDS
from support.faults import fault_named
from support.misbehaving_upstream import MisbehavingUpstream, running_misbehaving_upstream

HANG_SECONDS = 8.0  # every deadline that should end a request here is far shorter, every other one longer


@pytest.fixture
async def faulty() -> AsyncIterator[MisbehavingUpstream]:
    """A provider that does what the model's name says."""
    async with running_misbehaving_upstream() as server:
        yield server


def asking(faulty: MisbehavingUpstream, name: str, *, is_stream: bool = False, **changes: float) -> UpstreamRequest:
    """Return a request that meets a fault, with long deadlines but for the changes."""
    fault = fault_named(name)
    deployment = make_deployment(faulty.address_of(fault), model=fault.model, **changes)
    return make_request(deployment, is_stream=is_stream)


async def read_all(reply: DirectReply, received: list[bytes]) -> None:
    """Append the blocks as they come, so that those before an error are kept."""
    async for block in reply.events():
        received.append(block)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("name", ["slow-headers", "informational-forever"])
async def test_direct_head_that_trickles_in_is_a_timeout(
    faulty: MisbehavingUpstream, upstream: DirectUpstream, name: str, is_stream: bool
) -> None:
    """The first-byte deadline is one for the whole head: a byte now and then does not prolong it."""
    request = asking(faulty, name, is_stream=is_stream, first_byte_timeout_seconds=0.2, connect_timeout_seconds=0.2)
    async with asyncio.timeout(HANG_SECONDS):
        with pytest.raises(UpstreamTimeout):
            await upstream.send(request)
        await faulty.until_idle()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_direct_chunk_that_is_no_chunk_breaks_the_answer_at_once(
    faulty: MisbehavingUpstream, upstream: DirectUpstream, is_stream: bool
) -> None:
    """A body that stops being HTTP fails soon, not when the total deadline passes."""
    received: list[bytes] = []

    async def ask() -> None:
        reply = await upstream.send(asking(faulty, "bad-chunk", is_stream=is_stream))
        try:
            if is_stream:
                await read_all(reply, received)
            else:
                received.append(await reply.read())
        finally:
            await reply.aclose()

    async with asyncio.timeout(HANG_SECONDS):
        with pytest.raises(UpstreamBroken):
            await ask()
        await faulty.until_idle()


@pytest.mark.parametrize("name", ["stall-after-finish", "reset-after-finish"])
async def test_direct_stream_that_breaks_after_its_finish_is_complete(
    faulty: MisbehavingUpstream, upstream: DirectUpstream, name: str
) -> None:
    """An answer with its finish reason is whole: what breaks later costs the usage, not the answer."""
    reply = await upstream.send(asking(faulty, name, is_stream=True, idle_timeout_seconds=0.2))
    received: list[bytes] = []
    async with asyncio.timeout(HANG_SECONDS):
        await read_all(reply, received)
        await faulty.until_idle()
    assert b"".join(received).count(b'"content"') == len(WORDS)
    assert b"[DONE]" not in b"".join(received)
    assert reply.usage is None
    assert reply.output_bytes == len("".join(WORDS))


async def test_direct_stream_that_breaks_before_its_second_choice_is_broken(
    faulty: MisbehavingUpstream, upstream: DirectUpstream
) -> None:
    """One finish reason is not enough when two choices were asked for."""
    request = asking(faulty, "reset-after-finish", is_stream=True)
    request.body["n"] = type(request.body["model"])(b"2")
    reply = await upstream.send(request)
    with pytest.raises(UpstreamBroken):
        await read_all(reply, [])


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("name", ["switching-protocols", "no-content", "redirect"])
async def test_direct_success_without_an_answer_fails_before_the_first_byte(
    faulty: MisbehavingUpstream, upstream: DirectUpstream, name: str, is_stream: bool
) -> None:
    """A status that can carry no answer fails in send, where another deployment can still be tried."""
    with pytest.raises(UpstreamBroken):
        await upstream.send(asking(faulty, name, is_stream=is_stream))


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("name", ["second-answer", "late-second-answer"])
async def test_direct_second_answer_on_a_connection_reaches_nobody(
    faulty: MisbehavingUpstream, upstream: DirectUpstream, name: str, is_stream: bool
) -> None:
    """Bytes that nobody asked for are never taken for the answer to the next request, which may be another tenant's."""
    for _ in range(3):
        reply = await upstream.send(asking(faulty, name, is_stream=is_stream))
        if is_stream:
            await read_all(reply, [])
        else:
            await reply.read()
        await reply.aclose()
        await faulty.until_idle()
        await asyncio.sleep(0.02)  # the second answer was written; nothing tells when an idle connection has read it
        after = await upstream.send(asking(faulty, "healthy"))
        assert b"An answer to nobody" not in await after.read()
        assert after.usage == Usage(INPUT_TOKENS, OUTPUT_TOKENS)


async def test_direct_request_that_is_never_read_is_a_timeout(upstream: DirectUpstream) -> None:
    """A provider that takes the connection and not the body, which fills every buffer on the way, is given up."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        request = make_request(make_deployment(url, first_byte_timeout_seconds=0.3), padding="x" * 20_000_000)
        async with asyncio.timeout(HANG_SECONDS):
            with pytest.raises(UpstreamError) as raised:
                await upstream.send(request)
    assert raised.value.status in (502, 504)


@pytest.mark.parametrize("name", ["stall-mid-body", "reset-mid-answer", "bad-body", "old-http-cut"])
async def test_direct_plain_answer_that_breaks_off_has_its_text_counted(
    faulty: MisbehavingUpstream, upstream: DirectUpstream, name: str
) -> None:
    """What arrived of a broken answer was generated and is billed, so its length is there for an estimate."""
    reply = await upstream.send(asking(faulty, name, idle_timeout_seconds=0.2))
    with pytest.raises(UpstreamError):
        await reply.read()
    await reply.aclose()
    assert len(WORDS[0]) < reply.output_bytes < 300


async def test_direct_plain_answer_that_lacks_only_its_end_has_its_usage(
    faulty: MisbehavingUpstream, upstream: DirectUpstream
) -> None:
    """Usage that arrived before the connection broke is what the provider bills."""
    reply = await upstream.send(asking(faulty, "length-too-long"))
    with pytest.raises(UpstreamBroken):
        await reply.read()
    await reply.aclose()
    assert reply.usage == Usage(INPUT_TOKENS, OUTPUT_TOKENS)


@pytest.mark.parametrize("name", ["empty-body", "error-with-200", "html-with-200"])
async def test_direct_plain_body_that_is_no_answer_has_no_text(
    faulty: MisbehavingUpstream, upstream: DirectUpstream, name: str
) -> None:
    """A page or an error object was not generated by a model, and nothing is billed for its length."""
    reply = await upstream.send(asking(faulty, name))
    with pytest.raises(UpstreamBroken):
        await reply.read()
    await reply.aclose()
    assert reply.output_bytes == 0
