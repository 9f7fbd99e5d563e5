"""The application under its real server on a free loopback port, over an upstream made by the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import uvicorn

from penstock_gateway.app import PenstockApp, create_app
from penstock_gateway.server import server_for
from penstock_gateway.settings import Settings
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply, FakeUpstream

READ_SECONDS = 10.0


@dataclass
class Running:
    """A gateway under test and the upstream behind it."""

    url: str
    upstream: FakeUpstream
    http: aiohttp.ClientSession
    app: PenstockApp
    server: uvicorn.Server

    async def chat(self, *, headers: dict[str, str] | None = None, **fields: Any) -> aiohttp.ClientResponse:
        """Send a chat request; the model is `small` unless given."""
        body = {"model": "small", "messages": [{"role": "user", "content": "hello"}], **fields}
        return await self.http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a bare connection, for what no HTTP client would send."""
        return await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))

    async def exchange(self, sent: bytes) -> bytes:
        """Send bytes on a connection of their own and return everything until the server closes it."""
        reader, writer = await self.connect()
        writer.write(sent)
        async with asyncio.timeout(READ_SECONDS):
            received = await reader.read()
        writer.close()
        return received

    async def metrics(self) -> str:
        """Return the metrics page."""
        return await (await self.http.get(f"{self.url}/metrics")).text()


def chat_request(*, head: str = "", **fields: Any) -> bytes:
    """Return the bytes of a chat request; `head` holds further header lines."""
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hello"}], **fields}).encode()
    lines = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{head}\r\n"
    return f"POST /v1/chat/completions HTTP/1.1\r\n{lines}".encode() + body


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(READ_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    settings: Settings, reply: Callable[[UpstreamRequest], FakeReply], *, upstream: FakeUpstream | None = None
) -> AsyncIterator[Running]:
    """Run the application on a free port."""
    upstream = upstream or FakeUpstream(reply)
    app = create_app(settings, upstreams={"direct": upstream})
    server = server_for(app, host="127.0.0.1", port=0)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with aiohttp.ClientSession() as http:
            yield Running(f"http://127.0.0.1:{port}", upstream, http, app, server)
    finally:
        server.should_exit = True
        await task
