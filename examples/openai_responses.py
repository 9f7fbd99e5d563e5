"""The Responses API of the official OpenAI client, in front of any provider.

    pip install openai
    python examples/openai_responses.py

PENSTOCK_BASE_URL (http://127.0.0.1:4000), PENSTOCK_API_KEY and PENSTOCK_MODEL (auto) change where it asks;
PENSTOCK_TOOL_MODEL names another model for the tool.
"""

import json
import os

from openai import OpenAI

base_url = os.environ.get("PENSTOCK_BASE_URL", "http://127.0.0.1:4000") + "/v1"
model = os.environ.get("PENSTOCK_MODEL", "auto")
tool_model = os.environ.get("PENSTOCK_TOOL_MODEL", model)
weather = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "strict": True,
}

with OpenAI(base_url=base_url, api_key=os.environ.get("PENSTOCK_API_KEY", "unused")) as client:
    # store=False: the conversation stays with us, so that any provider can go on with it.
    answer = client.responses.create(model=model, input="What is a penstock?", store=False)
    print("answer:", answer.output_text)

    print("stream: ", end="")
    with client.responses.create(model=model, input="What is a penstock?", store=False, stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
    print()

    turns = [{"role": "user", "content": "How is the weather in Zürich?"}]
    asked = client.responses.create(model=tool_model, input=turns, tools=[weather], store=False)
    turns += [item.model_dump(exclude_none=True) for item in asked.output]
    for item in asked.output:
        if item.type == "function_call":
            arguments = json.loads(item.arguments)
            print("tool called:", item.name, arguments)
            result = f"18 degrees and sunny in {arguments['city']}"
            turns.append({"type": "function_call_output", "call_id": item.call_id, "output": result})
    if turns[-1].get("type") == "function_call_output":
        answer = client.responses.create(model=tool_model, input=turns, tools=[weather], store=False)
        print("with its result:", answer.output_text)
