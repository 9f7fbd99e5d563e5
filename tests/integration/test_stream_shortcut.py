"""Ordinary events of a stream go from the provider's socket to the client's without waking whoever reads the stream."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from msgspec.structs import replace

from penstock_gateway.errors import UpstreamBroken
from penstock_gateway.http_exchange import HttpExchange
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings
from penstock_gateway.upstream.direct import DirectReply, DirectUpstream
from penstock_gateway.upstream.protocol import Shortcut, UpstreamRequest
from penstock_gateway.wire.formats import WireFormat
from support.attempts import make_deployment, make_request
from support.fakes import FakeReply
from support.replay_upstream import load_recording
from support.running_gateway import running

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PAUSE_SECONDS = 0.002  # long enough for what was sent to have gone through before the next is
HANG_SECONDS = 10.0
WORDS = 40


@asynccontextmanager
async def provider(packets: Sequence[bytes], *, ends: bool = True) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Yield the address of a server that sends packets one by one, and what is set when its client has gone."""
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        try:
            for packet in packets:
                writer.write(b"%x\r\n%b\r\n" % (len(packet), packet))
                await writer.drain()
                await asyncio.sleep(PAUSE_SECONDS)
            if ends:
                writer.write(b"0\r\n\r\n")
            while await reader.read(65_536):
                pass
        except ConnectionError:
            pass
        left.set()
        writer.close()

    async with (
        await asyncio.start_server(serve, "127.0.0.1", 0) as server,
        asyncio.timeout(HANG_SECONDS),
    ):
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", left


async def read(
    url: str, upstream: DirectUpstream, received: list[bytes], may_take: Callable[[int], bool], **changes: WireFormat
) -> tuple[DirectReply, list[bytes]]:
    """Read a stream, some of it past its reader; return the reply and what went that way. All of it is `received`."""
    request = make_request(make_deployment(url), is_stream=True)
    reply = await upstream.send(replace(request, **changes))
    short: list[bytes] = []

    def take(block: bytes) -> None:
        short.append(block)
        received.append(block)

    reply.shorten(Shortcut(may_take, take))
    async for block in reply.events():
        received.append(block)
    return reply, short


def _nobody(_: UpstreamRequest) -> FakeReply:
    raise AssertionError("asked of a provider that is not there")


def word(number: int) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":" word%d"}}]}\n\n' % number


def words() -> list[bytes]:
    """Return the events of an answer."""
    last = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":%d}}\n\n' % WORDS
    return [*map(word, range(WORDS)), last, usage, b"data: [DONE]\n\n"]


async def test_ordinary_events_go_past_the_reader_and_everything_is_counted(upstream: DirectUpstream) -> None:
    """All but the first and the end take the short way; order, usage and text are those of the stream."""
    received: list[bytes] = []
    async with provider(words()) as (url, left):
        reply, short = await read(url, upstream, received, lambda _: True)
        assert received == words()
        assert len(short) >= WORDS
        assert reply.usage == Usage(7, WORDS)
        assert reply.output_bytes == sum(len(f" word{number}") for number in range(WORDS))
        assert not left.is_set()  # the connection is kept for the next request


@pytest.mark.parametrize("seed", range(12))
async def test_stream_is_the_same_whichever_way_its_parts_take(upstream: DirectUpstream, seed: int) -> None:
    """However it is cut and whoever may take what, every byte comes once and in order."""
    draw = random.Random(seed)
    stream = b"".join(words())
    cuts = sorted({0, len(stream), *draw.sample(range(1, len(stream)), 30)})
    if seed % 3 == 0:  # whole events, several at once
        ends = [0]
        for event in words():
            ends.append(ends[-1] + len(event))
        cuts = sorted({0, len(stream), *draw.sample(ends, 20)})
    packets = [stream[begin:end] for begin, end in pairwise(cuts)]
    received: list[bytes] = []
    async with provider(packets) as (url, _):
        reply, _ = await read(url, upstream, received, lambda _: draw.random() < 0.7)
    assert b"".join(received) == stream
    assert reply.usage == Usage(7, WORDS)


async def test_bytes_of_text_are_never_understated_when_asked_whether_to_go_on(upstream: DirectUpstream) -> None:
    """What a budget is asked about covers the text that is about to be sent."""
    received: list[bytes] = []
    asked: list[int] = []

    def may_take(output_bytes: int) -> bool:
        asked.append(output_bytes)
        return True

    async with provider(words()) as (url, _):
        _, short = await read(url, upstream, received, may_take)
    text = 0
    texts = []
    for number in range(WORDS):
        text += len(f" word{number}")
        texts.append(text)
    assert len(asked) >= len(short)
    assert all(bound >= texts[min(index, WORDS - 1)] for index, bound in enumerate(asked))


@pytest.mark.parametrize("broken", [b"data: {nothing}\n\n", b'data: {"error":{"code":"invalid_api_key"}}\n\n'])
async def test_event_that_breaks_the_stream_is_raised_where_it_is_read(upstream: DirectUpstream, broken: bytes) -> None:
    """An event that takes the short way and cannot be passed on ends the stream, and its connection is not kept."""
    received: list[bytes] = []
    packets = [word(0), word(1), word(2), broken, word(3)]
    async with provider(packets, ends=False) as (url, left):
        with pytest.raises(Exception, match=r"not JSON|credential"):
            await read(url, upstream, received, lambda _: True)
        assert received == [word(0), word(1), word(2)]
        await left.wait()


async def test_end_that_does_not_look_like_one_ends_the_stream(upstream: DirectUpstream) -> None:
    """A last event that is spelled in an unusual way is seen when it is read, and nobody waits for more."""
    events = [
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3}}}\n\n',
        b'event: delta\ndata: {"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}\n\n',
        b'event: delta\ndata: {"type":"message_delta","delta":{"stop_reason":"x"},"usage":{"output_tokens":2}}\n\n',
        b'event: end\ndata: {"type":"message\\u005fstop"}\n\n',
    ]
    received: list[bytes] = []
    async with provider(events, ends=False) as (url, _):
        reply, _ = await read(url, upstream, received, lambda _: True, wire=WireFormat.MESSAGES)
    assert received == events
    assert reply.usage == Usage(3, 2)


async def test_connection_that_breaks_after_short_ways_is_an_error(upstream: DirectUpstream) -> None:
    """A provider that goes away in the middle is an error for the reader, whoever took the last events."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        for number in range(5):
            writer.write(b"%x\r\n%b\r\n" % (len(word(number)), word(number)))
            await asyncio.sleep(PAUSE_SECONDS)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, asyncio.timeout(HANG_SECONDS):
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        with pytest.raises(UpstreamBroken):
            await read(url, upstream, received, lambda _: True)
    assert received == [word(number) for number in range(5)]


@pytest.mark.parametrize("name", ["openai-text", "openai-tools"])
async def test_gateway_sends_most_events_the_short_way(
    monkeypatch: pytest.MonkeyPatch, upstream: DirectUpstream, name: str
) -> None:
    """A client gets what the provider sent, and hardly any of it wakes the request's task."""
    sent: dict[str, int] = {"short": 0, "long": 0}
    relay_now, relay = HttpExchange.relay_now, HttpExchange.relay

    def counted(self: HttpExchange, part: bytes) -> None:
        sent["short"] += 1
        relay_now(self, part)

    async def counted_too(self: HttpExchange, part: bytes) -> None:
        sent["long"] += 1
        await relay(self, part)

    monkeypatch.setattr(HttpExchange, "relay_now", counted)
    monkeypatch.setattr(HttpExchange, "relay", counted_too)
    events = list(load_recording(name, includes_usage=True).events)
    async with provider(events) as (url, _):
        deployment = {
            "name": "small",
            "base_url": url,
            "price": {"input": 1, "output": 1},
            "context_tokens": 128_000,
            "abilities": ["streaming", "tools"],
        }
        settings = Settings.model_validate(
            {"version": 1, "deployments": [deployment], "routing": {"artifact": "none"}, "cache": {"mode": "exact"}}
        )
        async with running(settings, _nobody, upstream=upstream) as gateway:  # type: ignore[arg-type]
            response = await gateway.chat(stream=True, stream_options={"include_usage": True})
            assert await response.read() == b"".join(events)
    assert sent["short"] >= len(events) - 4
    assert sent["long"] <= 4
