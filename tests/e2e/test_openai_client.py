"""The official OpenAI client gets through the gateway what it gets from the provider itself.

The gateway is a real ``penstock serve`` process; the provider replays recorded shapes of real ones on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from support.replay_upstream import CHUNKINGS, ReplayUpstream, recording_names, running_replay_upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANSWERS = tuple(name for name in recording_names() if name != "error-in-stream")
MISBEHAVIOURS = {
    "cut-stream": "openai-text!cut-after-3",
    "reset-stream": "openai-text!reset-after-3",
    "stalled-stream": "openai-text!stall-after-3",
    "endless-stream": "openai-text!stall-after-3",
    "closed": "openai-text!close",
    "refused-key": "openai-text!status-401",
    "rate-limited": "openai-text!status-429",
    "bad-request": "openai-text!status-400",
    "broken-gateway": "openai-text!status-502",
}
CLIENT_KEY = "a-client-key-of-sixteen-or-more"
UPSTREAM_KEY = "sk-upstream-key"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
IMAGE_MESSAGE = {
    "role": "user",
    "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
    ],
}
PLAIN_MESSAGE = {"role": "user", "content": "Grüezi 🌊"}
REQUESTS: dict[str, dict[str, Any]] = {
    "openai-tools": {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True},
    "openai-vision": {"messages": [{"role": "system", "content": "Be brief."}, IMAGE_MESSAGE]},
    "openai-json": {"response_format": {"type": "json_object"}},
    "openai-logprobs": {"logprobs": True, "top_logprobs": 2},
    "openai-two-choices": {"n": 2},
    "openai-text": {"extra_body": {"vendor_field": {"a": [1.0, None]}}, "metadata": {"k": "v"}, "seed": 7},
}
"""What is asked of a recording besides one message."""


@dataclass
class Clients:
    """One client per way to the provider, and the provider."""

    direct: openai.AsyncOpenAI
    gateway: openai.AsyncOpenAI
    provider: ReplayUpstream


def configuration(provider: ReplayUpstream) -> dict[str, Any]:
    """Return a configuration with one deployment per recording and cut, and one per misbehaviour."""
    models = {f"{name}@{chunking}": f"{name}@{chunking}" for name in ANSWERS for chunking in CHUNKINGS}
    models |= MISBEHAVIOURS | {"error-in-stream": "error-in-stream", "echo": "echo"}
    shared = {
        "provider": "openai_compatible",
        "base_url": provider.base_url,
        "api_key": "${E2E_UPSTREAM_KEY}",
        "price": {"input": 1, "output": 2},
        "context_tokens": 100_000,
        "max_output_tokens": 10_000,
        "abilities": ["streaming", "tools", "vision", "json"],
    }
    short = {"first_byte_seconds": 10, "idle_seconds": 0.5}
    patient = {"first_byte_seconds": 10, "idle_seconds": 300}
    return {
        "version": 1,
        "client_keys": [{"name": "e2e", "key": "${E2E_CLIENT_KEY}"}],
        "deployments": [
            {"name": name, "model": model, "timeouts": patient if name == "endless-stream" else short, **shared}
            for name, model in models.items()
        ],
        "routing": {"artifact": "none"},
        "attempts": {"max_wait_seconds": 1},  # not the seconds that a rate-limited provider asks for
    }


async def until_ready(port: int, process: asyncio.subprocess.Process) -> None:
    """Wait until the gateway answers on its port."""
    async with asyncio.timeout(60):
        while process.returncode is None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)
    pytest.fail(f"penstock serve ended with status {process.returncode}")


@contextlib.asynccontextmanager
async def running_gateway(folder: Path, provider: ReplayUpstream) -> AsyncIterator[str]:
    """Run ``penstock serve`` and yield its base URL."""
    config = folder / "penstock.yaml"
    config.write_text(json.dumps(configuration(provider)), encoding="utf-8")  # JSON is YAML
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, "E2E_UPSTREAM_KEY": UPSTREAM_KEY, "E2E_CLIENT_KEY": CLIENT_KEY}
    arguments = ["-m", "penstock_gateway", "serve", "--config", str(config), "--port", str(port)]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment, cwd=folder)
    try:
        await until_ready(port, process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Clients]:
    folder = tmp_path_factory.mktemp("gateway")
    async with (
        running_replay_upstream() as provider,
        running_gateway(folder, provider) as url,
        openai.AsyncOpenAI(base_url=provider.base_url, api_key=UPSTREAM_KEY, max_retries=0) as direct,
        openai.AsyncOpenAI(base_url=url, api_key=CLIENT_KEY, max_retries=0) as gateway,
    ):
        yield Clients(direct, gateway, provider)


def plain(answer: Any) -> dict[str, Any]:
    """Return an object of the client as a dict, without the fields that may differ."""
    fields: dict[str, Any] = answer.model_dump(mode="json")
    return {name: value for name, value in fields.items() if name not in ("id", "model")}


async def complete(client: openai.AsyncOpenAI, model: str, **fields: Any) -> Any:
    return await client.chat.completions.create(**{"model": model, "messages": [PLAIN_MESSAGE], **fields})


async def stream(client: openai.AsyncOpenAI, model: str, **fields: Any) -> list[dict[str, Any]]:
    """Return every chunk of a stream."""
    return [plain(chunk) async for chunk in await complete(client, model, stream=True, **fields)]


async def failure_of(client: openai.AsyncOpenAI, model: str, received: list[dict[str, Any]]) -> openai.APIError:
    """Return the error that a stream ends with; the chunks before it go into `received`."""
    try:
        async for chunk in await complete(client, model, stream=True):
            received.append(plain(chunk))
    except openai.APIError as error:
        return error
    return pytest.fail("the stream ended in good order")


@pytest.mark.parametrize("name", ANSWERS)
async def test_client_plain_reply_equals_the_providers(clients: Clients, name: str) -> None:
    """A plain reply is the same object through the gateway as without it: tools, images, JSON mode and all."""
    fields = REQUESTS.get(name, {})
    direct = await complete(clients.direct, f"{name}@event", **fields)
    through = await complete(clients.gateway, f"{name}@event", **fields)
    assert plain(through) == plain(direct)


@pytest.mark.parametrize("chunking", CHUNKINGS)
@pytest.mark.parametrize("name", ANSWERS)
async def test_client_stream_equals_the_providers(clients: Clients, name: str, chunking: str) -> None:
    """A stream is the same sequence of chunks, with and without usage, however the provider's packets are cut."""
    fields = REQUESTS.get(name, {})
    model = f"{name}@{chunking}"
    for options in ({}, {"stream_options": {"include_usage": True}}):
        direct = await stream(clients.direct, model, **fields, **options)
        through = await stream(clients.gateway, model, **fields, **options)
        assert through == direct
        assert len(direct) > 1


async def test_client_request_reaches_the_provider_as_sent(clients: Clients) -> None:
    """The provider sees the same body from the gateway as from the client, unknown fields too, and its own key."""
    fields = {
        "messages": [{"role": "system", "content": "Be brief."}, IMAGE_MESSAGE],
        "tools": [TOOL],
        "response_format": {"type": "json_object"},
        "temperature": 0.0,
        "stop": ["\n"],
        "extra_body": {"vendor_field": {"deep": [1.5, None, "ü"]}, "chat_template_kwargs": {"thinking": False}},
    }
    await complete(clients.direct, "echo", **fields)
    await complete(clients.gateway, "echo", **fields)
    direct, through = clients.provider.requests[-2:]
    assert through.json == direct.json
    assert through.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert CLIENT_KEY not in json.dumps(through.headers)


@pytest.mark.parametrize("model", ["rate-limited", "bad-request"])
async def test_client_error_status_equals_the_providers(clients: Clients, model: str) -> None:
    """A provider's refusal is the same exception with the same body."""
    with pytest.raises(openai.APIStatusError) as direct:
        await complete(clients.direct, MISBEHAVIOURS[model])
    with pytest.raises(openai.APIStatusError) as through:
        await complete(clients.gateway, model)
    assert type(through.value) is type(direct.value)
    assert through.value.body == direct.value.body
    assert through.value.response.headers.get("retry-after") == direct.value.response.headers.get("retry-after")


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("refused-key", "upstream_rejected_credential"),
        ("closed", "upstream_broken"),
        ("broken-gateway", "upstream_broken"),
    ],
)
async def test_client_is_told_what_failed_without_internals(clients: Clients, model: str, code: str) -> None:
    """What no client may see becomes an error of the gateway's own with a stable code."""
    with pytest.raises(openai.InternalServerError) as raised:
        await complete(clients.gateway, model)
    assert raised.value.status_code == 502
    assert raised.value.code == code
    assert "sk-" not in raised.value.message
    assert "127.0.0.1" not in raised.value.message


@pytest.mark.parametrize(
    ("model", "code"),
    [("cut-stream", "upstream_broken"), ("reset-stream", "upstream_broken"), ("stalled-stream", "upstream_timeout")],
)
async def test_client_broken_stream_ends_with_an_error_after_the_good_chunks(
    clients: Clients, model: str, code: str
) -> None:
    """A stream that breaks gives its whole chunks and then an error, never a silent end."""
    received: list[dict[str, Any]] = []
    error = await failure_of(clients.gateway, model, received)
    assert error.code == code
    assert [chunk["choices"][0]["delta"]["content"] for chunk in received] == ["", "The", " reservoir"]


async def test_client_error_event_of_the_provider_is_the_same(clients: Clients) -> None:
    """An error event inside a stream reaches the client as the provider wrote it."""
    direct_chunks: list[dict[str, Any]] = []
    through_chunks: list[dict[str, Any]] = []
    direct = await failure_of(clients.direct, "error-in-stream", direct_chunks)
    through = await failure_of(clients.gateway, "error-in-stream", through_chunks)
    assert (through.code, through.message, through_chunks) == (direct.code, direct.message, direct_chunks)


async def test_client_that_leaves_a_stream_stops_the_provider(clients: Clients) -> None:
    """Closing a stream early closes the gateway's connection to the provider."""
    answer = await complete(clients.gateway, "endless-stream", stream=True)
    await anext(aiter(answer))
    connection = clients.provider.requests[-1].connection
    assert connection in clients.provider.live_connections
    await answer.close()
    async with asyncio.timeout(5):  # every deadline of this deployment is longer
        while connection in clients.provider.live_connections:
            await asyncio.sleep(0.005)
