"""The litellm adapter with a provider of another schema: Anthropic's messages, plain, streamed and cut short."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from penstock_gateway.errors import UpstreamBroken
from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.litellm_adapter import LitellmReply, LitellmUpstream
from penstock_routers.installation import install_command
from support.attempts import UPSTREAM_KEY, make_deployment, make_request

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        importlib.util.find_spec("litellm") is None,
        reason=f"the litellm extra is not installed: {install_command('litellm')}",
    ),
]
# 20 fresh and 80 cached prompt tokens: Anthropic counts them apart, OpenAI together.
COUNTS = {"input_tokens": 20, "cache_read_input_tokens": 80, "cache_creation_input_tokens": 0}
MESSAGE: dict[str, Any] = {
    "id": "msg_recorded",
    "type": "message",
    "role": "assistant",
    "model": "claude-recorded",
    "stop_sequence": None,
}
PLAIN = {
    **MESSAGE,
    "content": [{"type": "text", "text": "Down the pipe."}],
    "stop_reason": "end_turn",
    "usage": {**COUNTS, "output_tokens": 5},
}
START = {**MESSAGE, "content": [], "stop_reason": None, "usage": {**COUNTS, "output_tokens": 1}}
EVENTS: tuple[dict[str, Any], ...] = (
    {"type": "message_start", "message": START},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Down"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " the pipe."}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
)


class MessagesServer:
    """Answers Anthropic's messages endpoint; a model named ``cut`` stops in the middle of the stream."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.base_url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        body = await request.json()
        self.requests.append(({name.lower(): value for name, value in request.headers.items()}, body))
        if not body.get("stream"):
            return web.json_response(PLAIN)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in EVENTS[:5] if body["model"] == "cut" else EVENTS:
            await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        return response


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[LitellmUpstream]:
    transport = LitellmUpstream()
    yield transport
    await transport.aclose()


@pytest_asyncio.fixture(loop_scope="module")
async def provider() -> AsyncIterator[MessagesServer]:
    server = MessagesServer()
    application = web.Application()
    application.router.add_post("/v1/messages", server.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


async def ask(
    upstream: LitellmUpstream, provider: MessagesServer, model: str = "claude-recorded", *, is_stream: bool = False
) -> LitellmReply:
    deployment = make_deployment(provider.base_url, model=f"anthropic/{model}", adapter="litellm")
    return await upstream.send(make_request(deployment, is_stream=is_stream, max_tokens=64, top_k=3, min_p=0.5))


async def test_litellm_foreign_plain_reply_becomes_openais(upstream: LitellmUpstream, provider: MessagesServer) -> None:
    """Text, finish reason and usage arrive in OpenAI's form; cached tokens are a part of the prompt's."""
    reply = await ask(upstream, provider)
    choice = json.loads(await reply.read())["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Down the pipe.", "stop")
    assert reply.usage == Usage(100, 5, 80, 0)


async def test_litellm_foreign_request_carries_the_deployments_key(
    upstream: LitellmUpstream, provider: MessagesServer
) -> None:
    """The credential goes into the provider's own header, top_k into its body; what it cannot know stays out."""
    await ask(upstream, provider)
    headers, body = provider.requests[0]
    assert headers["x-api-key"] == UPSTREAM_KEY
    assert body.keys() == {"model", "messages", "max_tokens", "top_k"}
    assert (body["model"], body["max_tokens"], body["top_k"]) == ("claude-recorded", 64, 3)


async def test_litellm_foreign_stream_becomes_openais(upstream: LitellmUpstream, provider: MessagesServer) -> None:
    """A stream of another schema becomes OpenAI's chunks, with its usage and [DONE]."""
    reply = await ask(upstream, provider, is_stream=True)
    received = [block async for block in reply.events()]
    chunks = [json.loads(event[len(b"data: ") :]) for event in received[:-1]]
    deltas = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(deltas) == "Down the pipe."
    assert received[-1] == b"data: [DONE]\n\n"
    assert chunks[-1]["usage"]["prompt_tokens"] == 100
    assert reply.usage == Usage(100, 5, 80, 0)
    assert reply.output_bytes == len("Down the pipe.")


async def test_litellm_foreign_stream_cut_short_is_broken(upstream: LitellmUpstream, provider: MessagesServer) -> None:
    """A stream without its stop reason fails, although litellm would end it with one of its own."""
    reply = await ask(upstream, provider, "cut", is_stream=True)
    received: list[bytes] = []

    async def collect() -> None:
        async for block in reply.events():
            received.append(block)

    with pytest.raises(UpstreamBroken):
        await collect()
    assert b"Down" in b"".join(received)
    assert b'"stop"' not in b"".join(received)
