"""The official Anthropic client, in front of any provider: Penstock speaks its format and translates where needed.

    pip install anthropic
    python examples/anthropic_python.py

PENSTOCK_BASE_URL (http://127.0.0.1:4000), PENSTOCK_API_KEY and PENSTOCK_MODEL (auto) change where it asks;
PENSTOCK_TOOL_MODEL names another model for the tool.
"""

import os

import anthropic

base_url = os.environ.get("PENSTOCK_BASE_URL", "http://127.0.0.1:4000")  # without /v1: the client adds it
model = os.environ.get("PENSTOCK_MODEL", "auto")
tool_model = os.environ.get("PENSTOCK_TOOL_MODEL", model)
question = {"role": "user", "content": "What is a penstock?"}
weather = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
    },
}

with anthropic.Anthropic(base_url=base_url, api_key=os.environ.get("PENSTOCK_API_KEY", "unused")) as client:
    counted = client.messages.count_tokens(model=model, messages=[question])
    print("tokens:", counted.input_tokens)

    message = client.messages.create(model=model, max_tokens=1024, messages=[question])
    print("answer:", "".join(block.text for block in message.content if block.type == "text"))

    print("stream: ", end="")
    with client.messages.stream(model=model, max_tokens=1024, messages=[question]) as stream:
        for text in stream.text_stream:
            print(text, end="", flush=True)
    print()

    turns = [{"role": "user", "content": "How is the weather in Zürich?"}]
    asked = client.messages.create(model=tool_model, max_tokens=1024, messages=turns, tools=[weather])
    results = []
    for block in asked.content:
        if block.type == "tool_use":
            print("tool called:", block.name, block.input)
            result = f"18 degrees and sunny in {block.input['city']}"
            results.append({"type": "tool_result", "tool_use_id": block.id, "content": result})
    if results:
        turns += [
            {"role": "assistant", "content": [block.to_dict() for block in asked.content]},
            {"role": "user", "content": results},
        ]
        answer = client.messages.create(model=tool_model, max_tokens=1024, messages=turns, tools=[weather])
        print("with its result:", "".join(block.text for block in answer.content if block.type == "text"))
