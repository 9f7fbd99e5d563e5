"""pydantic-ai gets through the gateway what it gets from the provider itself, with its OpenAI and Anthropic models."""

from __future__ import annotations

import asyncio
import base64
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest

from support.client_script import LONG_QUESTION, PIXEL, PIXEL_TYPE, QUESTION, RESULT, cancel_after_first
from support.wire_gateway import Way, Ways

pytestmark = pytest.mark.slow
pytest.importorskip("pydantic_ai", reason="needs the clients extra: pip install 'penstock[clients]'")

Build = Callable[[Way, str], Any]


class City(pydantic.BaseModel):
    """A city and how many people live there."""

    city: str
    population: int


def _openai(way: Way) -> Any:
    import openai
    from pydantic_ai.providers.openai import OpenAIProvider

    return OpenAIProvider(openai_client=openai.AsyncOpenAI(base_url=way.v1, api_key=way.key, max_retries=0))


def chat(way: Way, model: str) -> Any:
    from pydantic_ai.models.openai import OpenAIChatModel

    return OpenAIChatModel(model, provider=_openai(way))


def responses(way: Way, model: str) -> Any:
    from pydantic_ai.models.openai import OpenAIResponsesModel

    return OpenAIResponsesModel(model, provider=_openai(way))


def messages(way: Way, model: str) -> Any:
    import anthropic
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.profiles import ModelProfile
    from pydantic_ai.providers.anthropic import AnthropicProvider

    client = anthropic.AsyncAnthropic(base_url=way.url, api_key=way.key, max_retries=0)
    profile = ModelProfile(supports_json_schema_output=True)  # which it cannot tell from the name of another's model
    return AnthropicModel(model, provider=AnthropicProvider(anthropic_client=client), profile=profile)


def _major(package: str) -> int:
    return int(importlib.metadata.version(package).partition(".")[0])


OLDER_SDK = Path(sys.prefix) / "anthropic-0"
# Newer releases are for openai 3, which litellm and llama-index do not allow beside them.
knows_anthropic = pytest.mark.skipif(
    _major("anthropic") > 0 and _major("openai") < 3,
    reason="pydantic-ai's releases for openai 2 know anthropic 0 only: run in a process of their own, below",
)
CASES = [
    pytest.param(chat, "gpt-4o", "gpt-4o", id="chat"),
    pytest.param(chat, "gpt-4o", "claude-sonnet-4-5", id="chat-over-messages"),
    pytest.param(responses, "gpt-4o", "gpt-4o", id="responses"),
    pytest.param(responses, "gpt-4o", "chat-only", id="responses-over-chat"),
    pytest.param(messages, "claude-sonnet-4-5", "claude-sonnet-4-5", id="messages", marks=knows_anthropic),
    pytest.param(messages, "claude-sonnet-4-5", "responses-only", id="messages-over-responses", marks=knows_anthropic),
]
"""How a model is built, the server that speaks its format, and the server behind the gateway."""


def agent_of(model: Any, **options: Any) -> tuple[Any, list[tuple[str, str]]]:
    """Return an agent with a tool, and what the tool was called with."""
    from pydantic_ai import Agent

    called: list[tuple[str, str]] = []
    agent = Agent(model, instructions="Be brief.", retries=0, **options)

    @agent.tool_plain
    def get_weather(city: str, unit: str) -> str:
        """Weather of a city."""
        called.append((city, unit))
        return RESULT

    return agent, called


def question_of(scenario: str) -> Any:
    from pydantic_ai import BinaryContent

    if scenario == "image":
        return ["What is this?", BinaryContent(base64.b64decode(PIXEL), media_type=PIXEL_TYPE)]
    return LONG_QUESTION if scenario == "long" else QUESTION


def gist(result: Any) -> dict[str, Any]:
    """Return what a run came to: its output, every part of every answer without ids, and what it used."""
    parts = [
        (part.part_kind, getattr(part, "content", None) or (part.tool_name, part.args_as_dict()))
        for message in result.all_messages()
        if message.kind == "response"
        for part in message.parts
    ]
    usage = result.usage if not callable(result.usage) else result.usage()
    counts = (usage.requests, usage.input_tokens, usage.cache_read_tokens, usage.output_tokens)
    return {"output": result.output, "parts": parts, "counts": counts}


async def streamed(agent: Any, question: Any) -> tuple[list[str], dict[str, Any]]:
    """Return the pieces of a streamed run, and what it came to."""
    async with agent.run_stream(question) as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
        output = await stream.get_output()
        usage = stream.usage if not callable(stream.usage) else stream.usage()
        return pieces, {"output": output, "counts": (usage.requests, usage.input_tokens, usage.output_tokens)}


@pytest.mark.parametrize("scenario", ["text", "tools", "parallel-tools", "image", "long", "thinking"])
@pytest.mark.parametrize(("build", "own", "server"), CASES)
async def test_pydantic_ai_run_through_the_gateway_comes_to_what_the_providers_does(
    ways: Ways, build: Build, own: str, server: str, scenario: str
) -> None:
    """A run, tools called and answered, has the same output, calls, thoughts and usage, plain and streamed."""
    direct, direct_called = agent_of(build(ways.direct, f"{own}:{scenario}"))
    through, through_called = agent_of(build(ways.gateway, f"{server}:{scenario}"))
    question = question_of(scenario)
    assert gist(await through.run(question)) == gist(await direct.run(question))
    if scenario != "parallel-tools":  # a stream of the client's ends with the first text, which stands before the calls
        assert await streamed(through, question) == await streamed(direct, question)
    assert sorted(through_called) == sorted(direct_called)
    assert bool(direct_called) == ("tools" in scenario)


@pytest.mark.parametrize("mode", ["native", "tool"])
@pytest.mark.parametrize(("build", "own", "server"), CASES)
async def test_pydantic_ai_structured_output_is_of_its_type(
    ways: Ways, build: Build, own: str, server: str, mode: str
) -> None:
    """Structured output works by a schema and by a call of a tool, in front of every format."""
    from pydantic_ai import Agent, NativeOutput, ToolOutput

    scenario, output = (
        ("structured", NativeOutput(City)) if mode == "native" else ("city-call", ToolOutput(City, name="City"))
    )
    result = await Agent(build(ways.gateway, f"{server}:{scenario}"), output_type=output).run("How big is Zürich?")
    assert result.output == City(city="Zürich", population=443037)


@pytest.mark.parametrize("scenario", ["error-400", "error-429"])
@pytest.mark.parametrize(("build", "own", "server"), CASES)
async def test_pydantic_ai_error_is_the_exception_that_the_provider_causes(
    ways: Ways, build: Build, own: str, server: str, scenario: str
) -> None:
    """A refusal is the same exception with the same status, and for the same format the same body."""
    from pydantic_ai.exceptions import ModelHTTPError

    errors = []
    for way, at in ((ways.direct, own), (ways.gateway, server)):
        with pytest.raises(ModelHTTPError) as raised:
            await agent_of(build(way, f"{at}:{scenario}"))[0].run(QUESTION)
        errors.append(raised.value)
    assert errors[1].status_code == errors[0].status_code
    if own == server:
        assert errors[1].body == errors[0].body


@pytest.mark.parametrize(("build", "own", "server"), CASES)
async def test_pydantic_ai_run_that_is_cancelled_stops_the_provider(
    ways: Ways, build: Build, own: str, server: str
) -> None:
    """Cancelling the task that reads a stream reaches the provider."""

    async def texts() -> AsyncIterator[str]:
        async with agent_of(build(ways.gateway, f"{server}:slow"))[0].run_stream(QUESTION) as stream:
            async for piece in stream.stream_text(delta=True, debounce_by=None):
                yield piece

    await cancel_after_first(texts())
    await asyncio.to_thread(ways.upstream.wait_until_left)


@pytest.mark.skipif(not OLDER_SDK.is_dir(), reason="needs an older SDK beside: scripts/bootstrap.sh training")
def test_claude_models_of_pydantic_ai_run_with_the_sdk_that_they_know() -> None:
    """What is skipped above passes in a process that finds the older SDK first; none of it is left out there."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-m", "slow", "-k", "messages"]
    run = subprocess.run(
        [*command, __file__],
        env={**os.environ, "PYTHONPATH": str(OLDER_SDK)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    last = run.stdout.rstrip().rpartition("\n")[2]
    assert run.returncode == 0, run.stdout[-4000:]
    assert "33 passed" in last
    assert "skipped" not in last
