"""The direct upstream's connections: kept, reused, given up, and repeated on only when that is safe."""

from __future__ import annotations

import asyncio

import pytest

from penstock_gateway.errors import UpstreamBroken
from penstock_gateway.upstream.direct import DirectUpstream
from support.attempts import make_deployment, make_request
from support.replay_upstream import ReplayUpstream


async def test_direct_connection_is_reused_across_plain_and_streamed(
    provider: ReplayUpstream, upstream: DirectUpstream
) -> None:
    """One connection serves one request after the other."""
    deployment = make_deployment(provider.base_url)
    for is_stream in (False, True, False, True):
        reply = await upstream.send(make_request(deployment, is_stream=is_stream))
        if is_stream:
            _ = [block async for block in reply.events()]
        else:
            await reply.read()
        await reply.aclose()
    assert provider.accepted_connections == 1


async def test_direct_connection_left_open_after_done_is_given_up(
    provider: ReplayUpstream, upstream: DirectUpstream
) -> None:
    """A provider that never closes its body after [DONE] costs a connection, not the request."""
    deployment = make_deployment(provider.base_url, model="openai-text!open-after-done")
    reply = await upstream.send(make_request(deployment, is_stream=True))
    relayed = b"".join([block async for block in reply.events()])
    assert relayed.endswith(b"data: [DONE]\n\n")
    await provider.until_open_connections(0)


async def test_direct_reply_closed_mid_stream_closes_its_connection(
    provider: ReplayUpstream, upstream: DirectUpstream
) -> None:
    """A client that goes away stops the generation: the provider sees its connection close."""
    deployment = make_deployment(provider.base_url, model="openai-text!stall-after-2")
    reply = await upstream.send(make_request(deployment, is_stream=True))
    await anext(aiter(reply.events()))
    assert provider.open_connections == 1
    await reply.aclose()
    await reply.aclose()
    await provider.until_open_connections(0)


async def test_direct_event_generator_closed_early_closes_its_connection(
    provider: ReplayUpstream, upstream: DirectUpstream
) -> None:
    """Closing the generator is enough to release the connection."""
    deployment = make_deployment(provider.base_url, model="openai-text!stall-after-2")
    events = (await upstream.send(make_request(deployment, is_stream=True))).events()
    await anext(events)
    await events.aclose()
    await provider.until_open_connections(0)


@pytest.mark.parametrize("behaviour", ["stall", "stall-after-headers", "stall-after-2"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_direct_cancelled_request_leaves_no_connection(
    provider: ReplayUpstream, upstream: DirectUpstream, behaviour: str, is_stream: bool
) -> None:
    """Cancellation at any stage closes the connection; twenty of them leave none behind."""
    deployment = make_deployment(provider.base_url, model=f"openai-text!{behaviour}")

    async def consume() -> None:
        reply = await upstream.send(make_request(deployment, is_stream=is_stream))
        if is_stream:
            _ = [block async for block in reply.events()]
        else:
            await reply.read()

    tasks = [asyncio.create_task(consume()) for _ in range(20)]
    async with asyncio.timeout(10):
        while len(provider.requests) < len(tasks):
            await asyncio.sleep(0.005)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    await provider.until_open_connections(0)


async def test_direct_stale_connection_is_repeated_once(provider: ReplayUpstream, upstream: DirectUpstream) -> None:
    """A pooled connection that dies on the next request, unanswered and at once, was stale: a new one is tried."""
    deployment = make_deployment(provider.base_url)
    await (await upstream.send(make_request(deployment))).read()
    provider.drops_next_on_reuse = True
    reply = await upstream.send(make_request(deployment))
    assert (await reply.read()).startswith(b"{")
    assert provider.accepted_connections == 2


async def test_direct_connection_closed_while_idle_is_replaced(
    provider: ReplayUpstream, upstream: DirectUpstream
) -> None:
    """A connection that the provider closed between two requests is noticed and not used."""
    deployment = make_deployment(provider.base_url)
    provider.idle_seconds = 0.0
    for _ in range(5):
        await (await upstream.send(make_request(deployment))).read()
    assert len(provider.requests) == 5


@pytest.mark.parametrize("behaviour", ["reset", "close"])
async def test_direct_fresh_connection_that_dies_is_not_repeated(
    provider: ReplayUpstream, upstream: DirectUpstream, behaviour: str
) -> None:
    """On a fresh connection the provider may have read the request: it is sent once."""
    deployment = make_deployment(provider.base_url, model=f"openai-text!{behaviour}")
    with pytest.raises(UpstreamBroken):
        await upstream.send(make_request(deployment))
    assert len(provider.requests) == 1


async def test_direct_reused_connection_that_dies_later_is_not_repeated(
    provider: ReplayUpstream, upstream: DirectUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reused connection that held longer than a stale one could was worked on: the request is sent once."""
    monkeypatch.setattr("penstock_gateway.upstream.connections.STALE_RETRY_SECONDS", 0.0)
    await (await upstream.send(make_request(make_deployment(provider.base_url)))).read()
    with pytest.raises(UpstreamBroken):
        await upstream.send(make_request(make_deployment(provider.base_url, model="openai-text!close")))
    assert len(provider.requests) == 2


async def test_direct_repeat_happens_at_most_once(provider: ReplayUpstream, upstream: DirectUpstream) -> None:
    """Of a request that always dies on a reused connection, two attempts are seen, not more."""
    await (await upstream.send(make_request(make_deployment(provider.base_url)))).read()
    with pytest.raises(UpstreamBroken):
        await upstream.send(make_request(make_deployment(provider.base_url, model="openai-text!close")))
    assert len(provider.requests) == 3


async def test_direct_closed_upstream_leaves_no_connection(provider: ReplayUpstream) -> None:
    """Closing the upstream closes the pool; closing it twice is fine."""
    upstream = DirectUpstream()
    await (await upstream.send(make_request(make_deployment(provider.base_url)))).read()
    await upstream.aclose()
    await upstream.aclose()
    await provider.until_open_connections(0)


async def test_direct_concurrent_requests_do_not_mix(provider: ReplayUpstream, upstream: DirectUpstream) -> None:
    """Fifty requests at once each get the answer to their own."""

    async def ask(number: int) -> str:
        reply = await upstream.send(make_request(make_deployment(provider.base_url, model="echo"), user=f"u{number}"))
        return (await reply.read()).decode()

    answers = await asyncio.gather(*(ask(number) for number in range(50)))
    assert all(f'\\"user\\":\\"u{number}\\"' in answer for number, answer in enumerate(answers))
