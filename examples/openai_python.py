"""The official OpenAI client: only the base URL and the key are Penstock's.

    pip install openai
    python examples/openai_python.py

PENSTOCK_BASE_URL (http://127.0.0.1:4000), PENSTOCK_API_KEY and PENSTOCK_MODEL (auto) change where it asks.
"""

import os

from openai import OpenAI

base_url = os.environ.get("PENSTOCK_BASE_URL", "http://127.0.0.1:4000") + "/v1"
model = os.environ.get("PENSTOCK_MODEL", "auto")
messages = [{"role": "user", "content": "What is a penstock?"}]

with OpenAI(base_url=base_url, api_key=os.environ.get("PENSTOCK_API_KEY", "unused")) as client:
    reply = client.chat.completions.with_raw_response.create(model=model, messages=messages)
    print("answer:", reply.parse().choices[0].message.content)
    print("from:", reply.headers["x-penstock-model"], "because:", reply.headers["x-penstock-reason"])

    print("stream: ", end="")
    for chunk in client.chat.completions.create(model=model, messages=messages, stream=True):
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
