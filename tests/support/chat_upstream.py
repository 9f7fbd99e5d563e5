"""A chat-completions server on loopback for collecting outcomes: answers the prompt's last word, or misbehaves.

What a model does is a list of actions, one per request; the last one repeats. See `ACTIONS`. It runs in a thread of its
own, so that subprocesses can call it too. Read `running_chat_upstream`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

ACTIONS = {
    "ok": "answers with the last word of the prompt, and usage",
    "say:TEXT": "answers TEXT",
    "cut": "answers, with finish_reason length",
    "cost:USD": "answers with usage.cost_usd",
    "no-usage": "answers without usage",
    "slow:SECONDS": "answers after that time",
    "hang": "never answers",
    "status:N": "answers with an error object that repeats the prompt",
    "retry-after:SECONDS": "answers 429 with that header",
    "max-tokens": "refuses max_tokens as OpenAI's reasoning models do; answers max_completion_tokens",
    "half-json": "answers 200 with a JSON document cut in the middle",
    "truncate": "closes the connection inside the body",
    "redirect": "answers 307",
}
INPUT_TOKENS, OUTPUT_TOKENS = 10, 5


@dataclass
class ChatUpstream:
    """The server's address, what it was asked, and what its models do."""

    actions: Mapping[str, list[str]]
    models: list[dict[str, Any]]
    base_url: str = ""
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def calls(self, model: str | None = None) -> list[str]:
        """Prompts in the order in which they came, of one model or of all."""
        return [prompt for name, prompt, _ in self.seen if model in (None, name)]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer one request as its model does."""
        body = await request.json()
        model, prompt = body["model"], body["messages"][-1]["content"]
        number = len(self.calls(model))
        self.seen.append((model, prompt, dict(request.headers)))
        script = self.actions.get(model, ["ok"])
        action, _, value = script[min(number, len(script) - 1)].partition(":")
        if action == "hang":
            await self.closing.wait()
        if action == "slow":
            await asyncio.sleep(float(value))
        if action == "status":
            return web.json_response({"error": {"message": f"no: {prompt}"}}, status=int(value))
        if action == "retry-after":
            return web.json_response({"error": {}}, status=429, headers={"retry-after": value})
        if action == "redirect":
            return web.Response(status=307, headers={"location": f"{self.base_url}/elsewhere"})
        if action == "max-tokens" and "max_tokens" in body:
            error = {"message": "Use max_completion_tokens", "param": "max_tokens", "code": "unsupported_parameter"}
            return web.json_response({"error": error}, status=400)
        text = json.dumps(_completion(action, value, prompt))
        if action == "half-json":
            return web.Response(text=text[: len(text) // 2], content_type="application/json")
        if action == "truncate":
            response = web.StreamResponse(headers={"content-length": str(len(text))})
            await response.prepare(request)
            await response.write(text[:20].encode())
            assert request.transport is not None
            request.transport.abort()
            return response
        return web.Response(text=text, content_type="application/json")

    async def list_models(self, request: web.Request) -> web.Response:
        """List the models that the test gave."""
        return web.json_response({"object": "list", "data": self.models})


def _completion(action: str, value: str, prompt: str) -> dict[str, Any]:
    words = prompt.split()
    answer = value if action == "say" else (words[-1] if words else "")
    usage: dict[str, Any] = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS}
    if action == "cost":
        usage["cost_usd"] = value
    choice = {
        "message": {"role": "assistant", "content": answer},
        "finish_reason": "length" if action == "cut" else "stop",
    }
    return {"choices": [choice]} | ({} if action == "no-usage" else {"usage": usage})


@contextmanager
def running_chat_upstream(
    actions: Mapping[str, list[str]] | None = None, models: list[dict[str, Any]] | None = None
) -> Iterator[ChatUpstream]:
    """Run the server on a free loopback port until the block ends."""
    upstream = ChatUpstream(actions or {}, models or [])
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", upstream.chat)
        application.router.add_get("/v1/models", upstream.list_models)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        upstream.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield upstream
    finally:
        loop.call_soon_threadsafe(upstream.closing.set)
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
