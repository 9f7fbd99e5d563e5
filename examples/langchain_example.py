"""LangChain: its OpenAI model with another base URL (`langchain_anthropic.ChatAnthropic` works too, without ``/v1``).

    pip install langchain-openai
    python examples/langchain_example.py

PENSTOCK_BASE_URL (http://127.0.0.1:4000), PENSTOCK_API_KEY and PENSTOCK_MODEL (auto) change where it asks;
PENSTOCK_TOOL_MODEL names another model for the tool.
"""

import os

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

penstock = {
    "base_url": os.environ.get("PENSTOCK_BASE_URL", "http://127.0.0.1:4000") + "/v1",
    "api_key": os.environ.get("PENSTOCK_API_KEY", "unused"),
}
model_name = os.environ.get("PENSTOCK_MODEL", "auto")
model = ChatOpenAI(model=model_name, **penstock)


@tool
def get_weather(city: str, unit: str) -> str:
    """Weather of a city, in celsius or fahrenheit."""
    return f"18 degrees {unit} and sunny in {city}"


print("answer:", model.invoke("What is a penstock?").text)

print("stream: ", end="")
for chunk in model.stream("What is a penstock?"):
    print(chunk.text, end="", flush=True)
print()

agent = ChatOpenAI(model=os.environ.get("PENSTOCK_TOOL_MODEL", model_name), **penstock).bind_tools([get_weather])
turns = ["How is the weather in Zürich?"]
asked = agent.invoke(turns)
if asked.tool_calls:
    results = [get_weather.invoke(call) for call in asked.tool_calls]
    print("tool called:", *(f"{call['name']} {call['args']}" for call in asked.tool_calls))
    print("with its result:", agent.invoke([*turns, asked, *results]).text)
