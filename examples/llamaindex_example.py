"""LlamaIndex: its OpenAI model with another base URL.

    pip install llama-index-llms-openai
    python examples/llamaindex_example.py

The client knows the context length of OpenAI's models only, so it wants one of their names: give a deployment such a
name. PENSTOCK_BASE_URL (http://127.0.0.1:4000), PENSTOCK_API_KEY and PENSTOCK_MODEL (gpt-4o-mini) change where it asks.
"""

import os

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI

llm = OpenAI(
    model=os.environ.get("PENSTOCK_MODEL", "gpt-4o-mini"),
    api_base=os.environ.get("PENSTOCK_BASE_URL", "http://127.0.0.1:4000") + "/v1",
    api_key=os.environ.get("PENSTOCK_API_KEY", "unused"),
)
question = [ChatMessage(role="user", content="What is a penstock?")]

print("answer:", llm.chat(question).message.content)

print("stream: ", end="")
for piece in llm.stream_chat(question):
    print(piece.delta or "", end="", flush=True)
print()
