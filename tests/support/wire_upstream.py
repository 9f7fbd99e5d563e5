"""Providers on loopback, one per wire format: recorded shapes of OpenAI's and Anthropic's APIs.

The model's name selects everything, so that a test reads well::

    gpt-4o:tools             the recording ``tools`` (recordings/wire/FORMAT/tools.json), in OpenAI's formats
    claude-sonnet-4-5:text   in Anthropic's
    chat-only:text           in chat completions; `SERVERS` lists all and what they speak, the rest is a 404 as theirs
    gpt-4o:slow              ``text``, whose stream stops after the first words until the client leaves

What follows the result of a tool is the recording ``text``, whatever was asked for, so that an agent's loop ends. The
server runs in a thread of its own: blocking clients may call it from the test. Read `WireUpstream`.

Sources of the shapes: platform.openai.com/docs/api-reference (chat, responses, completions, embeddings, and their
streaming pages), api-docs.deepseek.com/guides/reasoning_model, platform.claude.com/docs/en/api/messages and
/docs/en/build-with-claude/streaming, both makers' pages about errors, and the types of their Python clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiohttp import web

RECORDINGS = Path(__file__).parent / "recordings" / "wire"
FORMATS = MappingProxyType(
    {
        "/v1/chat/completions": "chat",
        "/v1/messages": "messages",
        "/v1/messages/count_tokens": "count_tokens",
        "/v1/responses": "responses",
        "/v1/completions": "completions",
        "/v1/embeddings": "embeddings",
    }
)
SERVERS = MappingProxyType(
    {
        "gpt-4o": ("chat", "responses", "completions", "embeddings"),
        "claude-sonnet-4-5": ("messages", "count_tokens"),
        "chat-only": ("chat",),
        "responses-only": ("responses",),
        "ft:gpt-4o-mini-2024-07-18:penstock:": ("chat", "responses"),  # a name that clients with lists of models know
    }
)
"""What stands before the last colon of a model's name, and the formats that are spoken under it."""

WAIT_SECONDS = 10.0
# How many events of `text` come before a slow stream stops: up to the first word or two.
_SLOW_EVENTS = {"chat": 3, "messages": 5, "responses": 6, "completions": 2}
_MAX_BODY_BYTES = 64 * 1024 * 1024
# Parameters that an answer of the Responses API repeats.
_REPEATED = (
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "store",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
    "user",
)


@dataclass(frozen=True)
class SeenRequest:
    """One request as it arrived; names of headers in lower case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """One recorded shape.

    Attributes
    ----------
    status : int
    headers : dict of str to str
    plain : dict
        The plain reply, or the error.
    stream : tuple of dict
        What the events carry; empty for an error.
    """

    status: int
    headers: dict[str, str]
    plain: dict[str, Any]
    stream: tuple[dict[str, Any], ...]


@functools.cache
def load_recording(wire: str, name: str) -> Recording:
    """Return a recording of a format."""
    document = json.loads((RECORDINGS / wire / f"{name}.json").read_text(encoding="utf-8"))
    return Recording(
        document.get("status", 200), document.get("headers", {}), document["plain"], tuple(document.get("stream", ()))
    )


@dataclass
class WireUpstream:
    """The server. Use `running_wire_upstream`.

    Attributes
    ----------
    requests : list of SeenRequest
        Everything that arrived, in order.
    """

    requests: list[SeenRequest] = field(default_factory=list)
    port: int = 0
    _abandoned: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    @property
    def url(self) -> str:
        """Without the version: what Anthropic's clients call the base URL. OpenAI's want ``/v1`` behind it."""
        return f"http://127.0.0.1:{self.port}"

    def wait_until_left(self) -> None:
        """Return when a client has left a slow stream, once for each."""
        assert self._abandoned.acquire(timeout=WAIT_SECONDS), "nobody left the slow stream"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        wire = FORMATS[request.path]
        body = await request.json()
        self.requests.append(SeenRequest(request.path, {k.lower(): v for k, v in request.headers.items()}, body))
        server, _, name = str(body.get("model")).rpartition(":")
        is_slow, name = name == "slow", "text" if name == "slow" or _follows_a_tool(wire, body) else name
        if wire not in SERVERS.get(server, ()) or not (RECORDINGS / wire / f"{name}.json").exists():
            return _json(wire, 404, _unknown_model(wire, body))
        recording = load_recording(wire, name)
        if recording.status != 200 or not body.get("stream"):
            return _json(wire, recording.status, _repeating(wire, recording.plain, body), recording.headers)
        return await self._stream(request, wire, _events(wire, recording, body), is_slow)

    async def _stream(self, request: web.Request, wire: str, events: list[bytes], is_slow: bool) -> web.StreamResponse:
        kind = "text/event-stream" if wire == "messages" else "text/event-stream; charset=utf-8"
        response = web.StreamResponse(headers={"content-type": kind, "cache-control": "no-cache", **_ids(wire)})
        await response.prepare(request)
        try:
            for event in events[: _SLOW_EVENTS[wire]] if is_slow else events:
                await response.write(event)
            if is_slow:
                await asyncio.Event().wait()
        except (asyncio.CancelledError, ConnectionError):
            self._abandoned.release()
            raise
        await response.write_eof()
        return response


@contextlib.contextmanager
def running_wire_upstream(port: int = 0) -> Iterator[WireUpstream]:
    """Yield a started server on a loopback port, and stop it afterwards."""
    upstream = WireUpstream()
    loop = asyncio.new_event_loop()
    started, stopping = threading.Event(), asyncio.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        for path in FORMATS:
            app.router.add_post(path, upstream.answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        upstream.port = runner.addresses[0][1]
        started.set()
        await stopping.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="wire-upstream", daemon=True)
    thread.start()
    assert started.wait(WAIT_SECONDS), "the upstream did not start"
    try:
        yield upstream
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(WAIT_SECONDS)
        loop.close()


def _follows_a_tool(wire: str, body: dict[str, Any]) -> bool:
    """Whether the request ends with the result of a tool."""
    turns = body.get("input" if wire == "responses" else "messages")
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict):
        return False
    last = turns[-1]
    if last.get("role") == "tool" or last.get("type") == "function_call_output":
        return True
    content = last.get("content")
    return isinstance(content, list) and any(part.get("type") == "tool_result" for part in content)


def _repeating(wire: str, reply: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """Return a reply with what the real server repeats of the request."""
    if wire != "responses" or "error" not in reply or "output" not in reply:
        return reply
    repeated = {name: body[name] for name in _REPEATED if body.get(name) is not None}
    if "text" in repeated:
        repeated["text"] = {**reply["text"], **repeated["text"]}
    return {**reply, **repeated}


def _events(wire: str, recording: Recording, body: dict[str, Any]) -> list[bytes]:
    """Return the events of a stream, encoded as providers do."""
    wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    encoded = []
    for event in recording.stream:
        if wire in ("chat", "completions"):
            if event.get("choices") == [] and not wants_usage:
                continue
            if "usage" in event and event["usage"] is None and not wants_usage:
                event = {name: value for name, value in event.items() if name != "usage"}
            encoded.append(b"data: " + _dump(event) + b"\n\n")
            continue
        if "response" in event:
            event = {**event, "response": _repeating(wire, event["response"], body)}
        encoded.append(b"event: " + event["type"].encode() + b"\ndata: " + _dump(event) + b"\n\n")
    if wire in ("chat", "completions"):
        encoded.append(b"data: [DONE]\n\n")
    return encoded


def _json(wire: str, status: int, reply: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, body=_dump(reply), content_type="application/json", headers={**_ids(wire), **(headers or {})}
    )


def _ids(wire: str) -> dict[str, str]:
    if wire in ("messages", "count_tokens"):
        return {"request-id": "req_011CWireReplayed"}
    return {"x-request-id": "req_wire_replayed", "openai-processing-ms": "12"}


def _unknown_model(wire: str, body: dict[str, Any]) -> dict[str, Any]:
    if wire in ("messages", "count_tokens"):
        return {"type": "error", "error": {"type": "not_found_error", "message": f"model: {body.get('model')}"}}
    message = f"The model `{body.get('model')}` does not exist or you do not have access to it."
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": "model_not_found"}}


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
