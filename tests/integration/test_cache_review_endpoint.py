"""Over real HTTP: what a second look at the cache's request path found."""

from __future__ import annotations

import asyncio
import json

import pytest

from penstock_gateway.errors import UpstreamUnreachable
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.cache_lookups import completion
from support.fakes import FakeReply
from support.running_gateway import Running, eventually, running

CONFIG = """
version: 1
deployments:
  - {name: small, model: up-small, base_url: "http://127.0.0.1:9/v1", tier: small,
     price: {input: 0.1, output: 0.4}, context_tokens: 8000, max_output_tokens: 4000, abilities: [streaming]}
  - {name: frontier, model: up-frontier, base_url: "http://127.0.0.1:9/v1", tier: frontier,
     price: {input: 10, output: 30}, context_tokens: 8000, max_output_tokens: 4000, abilities: [streaming]}
routing: {artifact: none, default_arm: frontier}
cache: {mode: exact}
"""
USAGE = Usage(input_tokens=1000, output_tokens=200)


@pytest.fixture
def settings(tmp_path) -> Settings:
    """Two deployments, no artifact: `auto` is answered by the frontier one; exact repeats are cached."""
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG)
    return load_settings(path, {})


def reply(request: UpstreamRequest) -> FakeReply:
    """Answer with the deployment's name, as a body or as a stream without usage."""
    name = request.deployment.name
    if not request.is_stream:
        return FakeReply(body=completion(name), usage=USAGE)
    chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": name}, "finish_reason": "stop"}]}
    blocks = (b"data: " + json.dumps(chunk).encode() + b"\n\n", b"data: [DONE]\n\n")
    return FakeReply(blocks=blocks, usage=USAGE, content_type="text/event-stream")


async def stored(gateway: Running) -> None:
    """Wait until an answer is in the cache."""
    desk = gateway.app.pipeline.cache
    assert desk is not None
    await eventually(lambda: len(desk.services.cache.parts.mirror) > 0)


async def test_review_answer_under_a_cost_cap_is_not_served_to_a_request_without_one(settings: Settings) -> None:
    """What the cap forced onto the small model does not stand in for what the caller without it would get."""
    async with running(settings, reply) as gateway:
        capped = await gateway.chat(model="auto", headers={"x-penstock-max-cost-usd": "0.001"})
        assert capped.headers["x-penstock-model"] == "small"
        await stored(gateway)
        free = await gateway.chat(model="auto")
        assert (free.headers["x-penstock-cache"], free.headers["x-penstock-model"]) == ("miss", "frontier")


@pytest.mark.parametrize("include_usage", [False, True])
async def test_review_body_from_a_stored_stream_has_its_usage(settings: Settings, include_usage: bool) -> None:
    """Who gets the answer as a body finds `usage` there, whatever the first client's stream was told."""
    async with running(settings, reply) as gateway:
        await (await gateway.chat(stream=True, stream_options={"include_usage": include_usage})).read()
        await stored(gateway)
        hit = await gateway.chat()
        assert hit.headers["x-penstock-cache"] == "hit-exact"
        assert (await hit.json())["usage"] == {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200}


@pytest.mark.parametrize("raises", [True, False], ids=["unreachable", "status 500"])
async def test_review_provider_that_fails_fails_all_who_wait_at_once(settings: Settings, raises: bool) -> None:
    """Identical requests do not queue up one behind the other at a provider that is down."""
    gate, under_way, most = asyncio.Event(), 0, 0

    async with running(settings, reply) as gateway:

        async def failing(request: UpstreamRequest) -> FakeReply:
            nonlocal under_way, most
            gateway.upstream.requests.append(request)
            if len(gateway.upstream.requests) == 1:
                await gate.wait()
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.05)
            under_way -= 1
            if raises:
                raise UpstreamUnreachable("The provider cannot be reached.")
            return FakeReply(status=500, body=b'{"error": {"message": "broken"}}')

        gateway.upstream.send = failing  # type: ignore[method-assign]
        asked = [asyncio.create_task(gateway.chat()) for _ in range(5)]
        services = gateway.app.pipeline.cache
        assert services is not None
        flights = services.services._flights._flights
        await eventually(lambda: [len(flight.followers) for flight in flights.values()] == [4])
        gate.set()
        statuses = {response.status for response in await asyncio.gather(*asked)}
        assert statuses == {502 if raises else 500}
        assert most > 1
