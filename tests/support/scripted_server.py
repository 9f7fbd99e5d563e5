"""A small chat-completions server on loopback whose models do what a list says, one action a request.

For tests of retries, fallbacks and hedges over real connections. See `ACTIONS`; the last action repeats.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

ACTIONS = {
    "ok": "answers at once, plain or as a stream of three events, with usage",
    "status:N": "answers with that status and an error object",
    "status:N:SECONDS": "the same, with Retry-After",
    "hang": "takes the request and never answers",
    "hang-body": "sends the headers of a stream and then nothing",
    "reset": "cuts the connection instead of answering",
    "cut": "cuts the connection in the middle of the answer, after one event of a stream",
    "cut-early": "sends the headers and cuts the connection",
    "error-first": "streams an error event and nothing else",
    "empty": "ends a stream without any event",
    "comments": "streams comments before the answer",
}
_USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}


@dataclass
class ScriptedServer:
    """The server's address, its script, and what it was asked."""

    script: Mapping[str, list[str]]
    base_url: str = ""
    asked: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Do the model's next action."""
        body = await request.json()
        model, is_stream = body["model"], bool(body.get("stream"))
        actions = self.script[model]
        action, _, value = actions[min(self.asked.count(model), len(actions) - 1)].partition(":")
        self.asked.append(model)
        if action == "status":
            code, _, wait = value.partition(":")
            headers = {"retry-after": wait} if wait else {}
            return web.json_response({"error": {"message": "no", "code": "x"}}, status=int(code), headers=headers)
        if action == "hang":
            await self._hang(model)
        if action == "reset":
            return _cut(request)
        if is_stream:
            return await self._stream(request, model, action)
        text = json.dumps({"model": model, "choices": [{"message": {"content": "yes"}}], "usage": _USAGE})
        if action in ("cut", "cut-early"):
            response = web.StreamResponse(headers={"content-length": str(len(text))})
            await response.prepare(request)
            await response.write(text[:20].encode())
            return _cut(request, response)
        return web.Response(text=text, content_type="application/json")

    async def _stream(self, request: web.Request, model: str, action: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        if action == "hang-body":
            await self._hang(model)
        if action == "cut-early":
            return _cut(request, response)
        if action == "error-first":
            await response.write(b'data: {"error": {"message": "busy", "code": "overloaded_error"}}\n\n')
            return response
        if action == "empty":
            return response
        if action == "comments":
            await response.write(b": one\n\n")
            await response.write(b": two\n\n")
        await response.write(_event({"delta": {"content": "yes"}}, model))
        if action == "cut":
            await asyncio.sleep(0.01)
            return _cut(request, response)
        await response.write(_event({"delta": {}, "finish_reason": "stop"}, model, _USAGE))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _hang(self, model: str) -> None:
        try:
            await self.closing.wait()
        except asyncio.CancelledError:
            self.gone.append(model)
            raise


def _event(choice: object, model: str, usage: object = None) -> bytes:
    chunk = {"model": model, "choices": [choice], "usage": usage}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _cut(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return response or web.Response()


@asynccontextmanager
async def running_scripted_server(script: Mapping[str, list[str]]) -> AsyncIterator[ScriptedServer]:
    """Run the server on a free loopback port."""
    server = ScriptedServer(script)
    application = web.Application()
    application.router.add_post("/v1/chat/completions", server.chat)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        server.closing.set()
        await runner.cleanup()
