"""What every client is asked to do, in every wire format: the script of the tests with official clients.

A scenario is also the name of a recording, so the model ``SERVER:SCENARIO`` answers it. Read `SCENARIOS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from types import MappingProxyType
from typing import Any

SCENARIOS = ("text", "tools", "parallel-tools", "structured", "image", "long", "cut", "thinking")
QUESTION = "Grüezi 🌊, what feeds the penstock?"
SYSTEM = "Be brief."
WEATHER = "get_weather"
WEATHER_ABOUT = "Weather of a city"
WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
CITY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "population": {"type": "integer"}},
    "required": ["city", "population"],
    "additionalProperties": False,
}
PIXEL = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
PIXEL_TYPE = "image/gif"
PIXEL_URL = f"data:{PIXEL_TYPE};base64,{PIXEL}"
LONG_QUESTION = "penstock " * 100_000
"""About 100,000 tokens."""
RESULT = "18 degrees and sunny"

_CHAT_TOOL = {
    "type": "function",
    "function": {"name": WEATHER, "description": WEATHER_ABOUT, "parameters": WEATHER_SCHEMA, "strict": True},
}
_CHAT_IMAGE = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": PIXEL_URL, "detail": "low"}},
]
_CITY_FORMAT = {"name": "city", "schema": CITY_SCHEMA, "strict": True}
CHAT = MappingProxyType(
    {
        "tools": {"tools": [_CHAT_TOOL], "parallel_tool_calls": False},
        "parallel-tools": {"tools": [_CHAT_TOOL], "tool_choice": "auto"},
        "structured": {"response_format": {"type": "json_schema", "json_schema": _CITY_FORMAT}},
        "image": {"messages": [{"role": "user", "content": _CHAT_IMAGE}]},
        "long": {"messages": [{"role": "user", "content": LONG_QUESTION}]},
        "cut": {"max_completion_tokens": 3},
        "thinking": {"reasoning_effort": "medium"},
    }
)
MESSAGES = MappingProxyType(
    {
        "tools": {
            "tools": [{"name": WEATHER, "description": WEATHER_ABOUT, "input_schema": WEATHER_SCHEMA}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        },
        "parallel-tools": {
            "tools": [{"name": WEATHER, "description": WEATHER_ABOUT, "input_schema": WEATHER_SCHEMA}],
            "tool_choice": {"type": "any"},
        },
        "structured": {"output_config": {"format": {"type": "json_schema", "schema": CITY_SCHEMA}}},
        "image": {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": {"type": "base64", "media_type": PIXEL_TYPE, "data": PIXEL}},
                        {"type": "text", "text": "What is this?"},
                    ],
                }
            ]
        },
        "long": {
            "system": [{"type": "text", "text": LONG_QUESTION, "cache_control": {"type": "ephemeral"}}],
        },
        "cut": {"max_tokens": 3},
        "thinking": {"max_tokens": 4096, "thinking": {"type": "enabled", "budget_tokens": 2048}},
    }
)
RESPONSES = MappingProxyType(
    {
        "tools": {
            "tools": [{"type": "function", "name": WEATHER, "parameters": WEATHER_SCHEMA, "strict": True}],
            "parallel_tool_calls": False,
        },
        "parallel-tools": {
            "tools": [{"type": "function", "name": WEATHER, "parameters": WEATHER_SCHEMA, "strict": True}],
            "tool_choice": "required",
        },
        "structured": {"text": {"format": {"type": "json_schema", **_CITY_FORMAT}}},
        "image": {
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What is this?"},
                        {"type": "input_image", "image_url": PIXEL_URL, "detail": "low"},
                    ],
                }
            ]
        },
        "long": {"input": LONG_QUESTION},
        "cut": {"max_output_tokens": 16},
        "thinking": {
            "reasoning": {"effort": "medium", "summary": "detailed"},
            "include": ["reasoning.encrypted_content"],
            "store": False,
        },
    }
)


def chat_request(scenario: str, server: str = "gpt-4o") -> dict[str, Any]:
    """Return the parameters of a chat completion."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
    return {"model": f"{server}:{scenario}", "messages": messages, **CHAT.get(scenario, {})}


def messages_request(scenario: str, server: str = "claude-sonnet-4-5") -> dict[str, Any]:
    """Return the parameters of a message."""
    asked = {"max_tokens": 1024, "system": SYSTEM, "messages": [{"role": "user", "content": QUESTION}]}
    return {"model": f"{server}:{scenario}", **asked, **MESSAGES.get(scenario, {})}


def responses_request(scenario: str, server: str = "gpt-4o") -> dict[str, Any]:
    """Return the parameters of a response."""
    asked = {"instructions": SYSTEM, "input": QUESTION, "store": False}
    return {"model": f"{server}:{scenario}", **asked, **RESPONSES.get(scenario, {})}


def outcome_of(error_type: type[Exception], call: Callable[[], Any]) -> Any:
    """Return what a call that fails raises."""
    try:
        call()
    except error_type as error:
        return error
    raise AssertionError(f"no {error_type.__name__} was raised")


async def cancel_after_first(stream: AsyncIterable[Any]) -> None:
    """Read a stream in a task, and cancel the task when the first piece has come."""
    has_begun = asyncio.Event()

    async def read() -> None:
        async for _ in stream:
            has_begun.set()

    task, beginning = asyncio.create_task(read()), asyncio.create_task(has_begun.wait())
    await asyncio.wait({task, beginning}, return_when=asyncio.FIRST_COMPLETED)
    assert has_begun.is_set(), task.exception()
    while not task.done():  # Python 3.11's `wait_for` loses a cancellation that meets a result (cpython issue 86296)
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
