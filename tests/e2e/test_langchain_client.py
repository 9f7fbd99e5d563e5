"""LangChain gets through the gateway what it gets from the provider itself, with its OpenAI and Anthropic models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pydantic
import pytest

from support.client_script import (
    LONG_QUESTION,
    PIXEL,
    PIXEL_TYPE,
    QUESTION,
    RESULT,
    WEATHER,
    WEATHER_SCHEMA,
    cancel_after_first,
    outcome_of,
)
from support.wire_gateway import Way, Ways

pytestmark = pytest.mark.slow
NOT_INSTALLED = "needs the clients extra: pip install 'penstock[clients]'"
pytest.importorskip("langchain_openai", reason=NOT_INSTALLED)
pytest.importorskip("langchain_anthropic", reason=NOT_INSTALLED)

Build = Callable[[Way, str], Any]
TOOL = {
    "type": "function",
    "function": {"name": WEATHER, "description": "Weather of a city", "parameters": WEATHER_SCHEMA},
}
IMAGE = [
    {"type": "text", "text": "What is this?"},
    {"type": "image", "source_type": "base64", "data": PIXEL, "mime_type": PIXEL_TYPE},
]


class City(pydantic.BaseModel):
    """A city and how many people live there."""

    city: str
    population: int


def chat(way: Way, model: str) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model=model, base_url=way.v1, api_key=way.key, max_retries=0, use_responses_api=False, stream_usage=True
    )


def responses(way: Way, model: str) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=model, base_url=way.v1, api_key=way.key, max_retries=0, use_responses_api=True)


def anthropic(way: Way, model: str) -> Any:
    from langchain_anthropic import ChatAnthropic

    return ChatAnthropic(model=model, base_url=way.url, api_key=way.key, max_retries=0, max_tokens=1024)


CASES = [
    pytest.param(chat, "gpt-4o", "gpt-4o", id="chat"),
    pytest.param(chat, "gpt-4o", "claude-sonnet-4-5", id="chat-over-messages"),
    pytest.param(responses, "gpt-4o", "gpt-4o", id="responses"),
    pytest.param(responses, "gpt-4o", "chat-only", id="responses-over-chat"),
    pytest.param(anthropic, "claude-sonnet-4-5", "claude-sonnet-4-5", id="messages"),
    pytest.param(anthropic, "claude-sonnet-4-5", "chat-only", id="messages-over-chat"),
]
"""How a model is built, the server that speaks its format, and the server behind the gateway."""


def gist(message: Any) -> dict[str, Any]:
    """Return what a message says, without ids."""
    usage = message.usage_metadata
    return {
        "text": message.text if isinstance(message.text, str) else message.text(),
        "calls": [(call["name"], call["args"]) for call in message.tool_calls],
        "counts": (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]),
    }


def summed(chunks: list[Any]) -> Any:
    """Return the chunks of a stream added up, as LangChain's users do."""
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


def ask(model: Any, scenario: str, **bound: Any) -> tuple[Any, Any, list[str]]:
    """Return a plain answer, a streamed one, and the pieces of text of the latter."""
    content = {"image": IMAGE, "long": LONG_QUESTION}.get(scenario, QUESTION)
    runnable = model.bind_tools([TOOL], **bound) if "tools" in scenario else model
    question = [("system", "Be brief."), {"role": "user", "content": content}]
    chunks = list(runnable.stream(question))
    texts = [text for chunk in chunks if (text := str(chunk.text if isinstance(chunk.text, str) else chunk.text()))]
    return runnable.invoke(question), summed(chunks), texts


@pytest.mark.parametrize("scenario", ["text", "tools", "parallel-tools", "image", "long", "thinking"])
@pytest.mark.parametrize(("build", "own", "server"), CASES)
def test_langchain_answer_through_the_gateway_says_what_the_providers_does(
    ways: Ways, build: Build, own: str, server: str, scenario: str
) -> None:
    """An answer, plain and streamed, has the text, calls and usage that the model's own provider gives."""
    direct, direct_sum, direct_texts = ask(build(ways.direct, f"{own}:{scenario}"), scenario)
    through, through_sum, through_texts = ask(build(ways.gateway, f"{server}:{scenario}"), scenario)
    assert gist(through) == gist(direct)
    assert gist(through_sum) == gist(direct_sum) == gist(direct)
    assert through_texts == direct_texts
    if own == server:
        assert through.response_metadata == direct.response_metadata
        assert through.content == direct.content


@pytest.mark.parametrize(("build", "own", "server"), CASES)
def test_langchain_loop_of_an_agent_ends_with_an_answer(ways: Ways, build: Build, own: str, server: str) -> None:
    """The results of parallel calls, sent back with the message that asked for them, are answered."""
    model = build(ways.gateway, f"{server}:parallel-tools").bind_tools([TOOL])
    first = model.invoke(QUESTION)
    results = [{"role": "tool", "content": RESULT, "tool_call_id": call["id"]} for call in first.tool_calls]
    second = model.invoke([{"role": "user", "content": QUESTION}, first, *results])
    assert (gist(second)["text"], gist(second)["calls"]) == ("The reservoir feeds the penstock.", [])
    assert str(ways.upstream.requests[-1].body).count(RESULT) == 2


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize(("build", "own", "server"), CASES)
def test_langchain_structured_output_is_of_its_type(
    ways: Ways, build: Build, own: str, server: str, method: str
) -> None:
    """Structured output works by a schema and by a call of a tool, in front of every format."""
    scenario = "structured" if method == "json_schema" else "city-call"
    model = build(ways.gateway, f"{server}:{scenario}").with_structured_output(City, method=method)
    assert model.invoke("How big is Zürich?") == City(city="Zürich", population=443037)


@pytest.mark.parametrize("scenario", ["error-400", "error-429"])
@pytest.mark.parametrize(("build", "own", "server"), CASES)
def test_langchain_error_is_the_exception_that_the_provider_causes(
    ways: Ways, build: Build, own: str, server: str, scenario: str
) -> None:
    """A refusal is the same exception, and for the same format the same words."""
    direct = outcome_of(Exception, lambda: build(ways.direct, f"{own}:{scenario}").invoke(QUESTION))
    through = outcome_of(Exception, lambda: build(ways.gateway, f"{server}:{scenario}").invoke(QUESTION))
    assert type(through) is type(direct)
    if own == server:
        assert str(through) == str(direct)


@pytest.mark.parametrize(("build", "own", "server"), CASES)
async def test_langchain_stream_that_is_left_stops_the_provider(
    ways: Ways, build: Build, own: str, server: str
) -> None:
    """Cancelling the task that reads a stream reaches the provider."""
    await cancel_after_first(build(ways.gateway, f"{server}:slow").astream(QUESTION))
    await asyncio.to_thread(ways.upstream.wait_until_left)


def test_langchain_vectors_are_the_providers(ways: Ways) -> None:
    """Embeddings are the provider's."""
    from langchain_openai import OpenAIEmbeddings

    vectors = [
        OpenAIEmbeddings(
            model="gpt-4o:text", base_url=way.v1, api_key=way.key, check_embedding_ctx_length=False
        ).embed_documents(["reservoir", "penstock"])
        for way in (ways.direct, ways.gateway)
    ]
    assert vectors[0] == vectors[1]
    assert len(vectors[0]) == 2
