"""LlamaIndex gets through the gateway what it gets from the provider itself, with its two OpenAI models."""

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
    cancel_after_first,
    outcome_of,
)
from support.wire_gateway import FT, Way, Ways

pytestmark = pytest.mark.slow
pytest.importorskip("llama_index.llms.openai", reason="needs the clients extra: pip install 'penstock[clients]'")

Build = Callable[[Way, str], Any]


class City(pydantic.BaseModel):
    """A city and how many people live there."""

    city: str
    population: int


def chat(way: Way, scenario: str) -> Any:
    from llama_index.llms.openai import OpenAI

    return OpenAI(model=f"{FT}:{scenario}", api_base=way.v1, api_key=way.key, max_retries=0)


def responses(way: Way, scenario: str) -> Any:
    from llama_index.llms.openai import OpenAIResponses

    return OpenAIResponses(model=f"{FT}:{scenario}", api_base=way.v1, api_key=way.key, max_retries=0)


CASES = [pytest.param(chat, id="chat"), pytest.param(responses, id="responses")]
# The client refuses names that it has no context length of, so all models here are tuned ones of one known name.


def tool() -> Any:
    from llama_index.core.tools import FunctionTool

    def get_weather(city: str, unit: str) -> str:
        """Weather of a city."""
        return f"{RESULT} in {city}, {unit}"

    return FunctionTool.from_defaults(get_weather)


def question(scenario: str) -> Any:
    from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock

    if scenario == "image":
        return ChatMessage(
            role="user", blocks=[TextBlock(text="What is this?"), ImageBlock(image=PIXEL, image_mimetype=PIXEL_TYPE)]
        )
    return ChatMessage(role="user", content=LONG_QUESTION if scenario == "long" else QUESTION)


def plain(response: Any) -> dict[str, Any]:
    """Return an answer with every field, the provider's own object included."""
    raw = response.raw
    message = response.message.model_dump(mode="json")
    return {"message": message, "raw": raw.model_dump(mode="json") if hasattr(raw, "model_dump") else raw}


@pytest.mark.parametrize("scenario", ["text", "image", "long"])
@pytest.mark.parametrize("build", CASES)
def test_llamaindex_answer_through_the_gateway_is_the_providers(ways: Ways, build: Build, scenario: str) -> None:
    """An answer is the same object, plain and streamed."""
    answers, streams = [], []
    for way in (ways.direct, ways.gateway):
        llm = build(way, scenario)
        answers.append(plain(llm.chat([question(scenario)])))
        streams.append([(piece.delta, plain(piece)) for piece in llm.stream_chat([question(scenario)])])
    assert answers[1] == answers[0]
    assert streams[1] == streams[0]
    assert "".join(delta or "" for delta, _ in streams[0]) == "".join(
        block["text"] for block in answers[0]["message"]["blocks"] if "text" in block
    )


@pytest.mark.parametrize("scenario", ["tools", "parallel-tools"])
@pytest.mark.parametrize("build", CASES)
def test_llamaindex_calls_of_tools_are_the_providers(ways: Ways, build: Build, scenario: str) -> None:
    """The calls are the same, ids included, plain and streamed."""
    found = []
    for way in (ways.direct, ways.gateway):
        llm = build(way, scenario)
        options = {"tools": [tool()], "user_msg": QUESTION, "allow_parallel_tool_calls": True}
        whole = llm.chat_with_tools(**options)
        last = list(llm.stream_chat_with_tools(**options))[-1]
        calls = [llm.get_tool_calls_from_response(answer, error_on_no_tool_call=True) for answer in (whole, last)]
        found.append([[(call.tool_id, call.tool_name, call.tool_kwargs) for call in each] for each in calls])
    assert found[1] == found[0]
    assert found[0][0] == found[0][1]
    assert {call[1] for call in found[0][0]} == {WEATHER}
    assert len(found[0][0]) == (2 if scenario == "parallel-tools" else 1)


@pytest.mark.parametrize("build", CASES)
def test_llamaindex_tool_that_is_called_gets_its_answer_to_the_model(ways: Ways, build: Build) -> None:
    """The client's own loop, which calls the tool and returns its result, works."""
    for way in (ways.direct, ways.gateway):
        answer = build(way, "tools").predict_and_call([tool()], user_msg=QUESTION)
        assert str(answer) == f"{RESULT} in Zürich, celsius"


@pytest.mark.parametrize("build", CASES)
def test_llamaindex_structured_output_is_of_its_type(ways: Ways, build: Build) -> None:
    """Structured output is parsed; the client asks for it with a tool in chat completions, else with a schema."""
    from llama_index.core.base.llms.types import ChatMessage

    for way in (ways.direct, ways.gateway):
        llm = build(way, "city-call" if build is chat else "structured").as_structured_llm(City)
        answer = llm.chat([ChatMessage(role="user", content="How big is Zürich?")])
        assert answer.raw == City(city="Zürich", population=443037)


@pytest.mark.parametrize("scenario", ["error-400", "error-429"])
@pytest.mark.parametrize("build", CASES)
def test_llamaindex_error_is_the_exception_that_the_provider_causes(ways: Ways, build: Build, scenario: str) -> None:
    """A refusal is the same exception with the same words."""
    errors = [
        outcome_of(Exception, lambda way=way: build(way, scenario).chat([question(scenario)]))
        for way in (ways.direct, ways.gateway)
    ]
    assert type(errors[1]) is type(errors[0])
    assert str(errors[1]) == str(errors[0])


@pytest.mark.parametrize("build", CASES)
async def test_llamaindex_stream_that_is_left_stops_the_provider(ways: Ways, build: Build) -> None:
    """Cancelling the task that reads a stream reaches the provider."""
    stream = await build(ways.gateway, "slow").astream_chat([question("text")])
    await cancel_after_first(stream)
    await asyncio.to_thread(ways.upstream.wait_until_left)
