"""pydantic-ai: its OpenAI model with another base URL, an agent with a tool.

    pip install 'pydantic-ai-slim[openai]'
    python examples/pydantic_ai_example.py

PENSTOCK_BASE_URL (http://127.0.0.1:4000), PENSTOCK_API_KEY and PENSTOCK_MODEL (auto) change where it asks;
PENSTOCK_TOOL_MODEL names another model for the tool.
"""

import asyncio
import os

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

provider = OpenAIProvider(
    base_url=os.environ.get("PENSTOCK_BASE_URL", "http://127.0.0.1:4000") + "/v1",
    api_key=os.environ.get("PENSTOCK_API_KEY", "unused"),
)
model_name = os.environ.get("PENSTOCK_MODEL", "auto")
agent = Agent(OpenAIChatModel(model_name, provider=provider))
weather_agent = Agent(OpenAIChatModel(os.environ.get("PENSTOCK_TOOL_MODEL", model_name), provider=provider))


@weather_agent.tool_plain
def get_weather(city: str, unit: str) -> str:
    """Weather of a city, in celsius or fahrenheit."""
    print("tool called:", city, unit)
    return f"18 degrees {unit} and sunny in {city}"


async def main() -> None:
    """Ask, stream, and let the agent call its tool."""
    print("answer:", (await agent.run("What is a penstock?")).output)

    print("stream: ", end="")
    async with agent.run_stream("What is a penstock?") as answer:
        async for piece in answer.stream_text(delta=True):
            print(piece, end="", flush=True)
    print()

    print("with tools:", (await weather_agent.run("How is the weather in Zürich?")).output)


asyncio.run(main())
