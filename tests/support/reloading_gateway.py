"""A real gateway whose configuration file a test rewrites while it serves, over an upstream made by the test.

Read `reloading_gateway`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp

from penstock_gateway.app import PenstockApp, create_app
from penstock_gateway.configurations import reloading_app
from penstock_gateway.ledger.contract import LedgerUnavailable, Period
from penstock_gateway.money.amounts import to_usd
from penstock_gateway.money.usage import Usage
from penstock_gateway.reloading import ReloadingApp, ReloadOutcome, ReloadResult
from penstock_gateway.server import server_for
from penstock_gateway.settings import load_settings
from penstock_gateway.settings_restart import ConfigurationReader
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply, FakeUpstream
from support.running_gateway import READ_SECONDS, eventually

INPUT_TOKENS, OUTPUT_TOKENS = 12, 30
BLOCKS = 20
ADMIN_KEY = "admin-0123456789abcdef"


class SlowStream(FakeReply):
    """A stream of `BLOCKS` blocks that outlives a reload; with a gate, its end waits for that."""

    def __init__(self, gate: asyncio.Event | None = None) -> None:
        super().__init__(content_type="text/event-stream")
        self._gate = gate

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the blocks, and the usage with the last one."""
        for number in range(BLOCKS):
            chunk = {"id": "c1", "choices": [{"index": 0, "delta": {"content": f"word{number} "}}]}
            self.output_bytes += 6
            yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
            await asyncio.sleep(0.01)
        if self._gate is not None:
            await self._gate.wait()
        self.usage = Usage(INPUT_TOKENS, OUTPUT_TOKENS)
        yield b"data: [DONE]\n\n"


class Upstream(FakeUpstream):
    """Answers plain requests at once, and streams slowly; `gate` holds the end of streams back."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.gate: asyncio.Event | None = None

    def _answer(self, request: UpstreamRequest) -> FakeReply:
        if request.is_stream:
            return SlowStream(self.gate)
        message = {"role": "assistant", "content": "yes"}
        body = {"id": "c1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        return FakeReply(body=json.dumps(body).encode(), usage=Usage(INPUT_TOKENS, OUTPUT_TOKENS))


@dataclass
class ReloadingGateway:
    """The gateway, its file, and clients of both of its ports."""

    path: Path
    app: PenstockApp
    reloading: ReloadingApp
    upstream: Upstream
    http: aiohttp.ClientSession
    url: str = ""

    @property
    def admin_url(self) -> str:
        """Where the admin API answers."""
        return f"http://127.0.0.1:{self.app.running.admin_port}"

    async def reload(self, text: str) -> ReloadOutcome:
        """Rewrite the file and have it read, successfully."""
        self.path.write_text(text, encoding="utf-8")
        outcome = await self.reloading.reload()
        assert outcome.result is ReloadResult.RELOADED, outcome.problems
        return outcome

    async def ask_admin(
        self, method: str, path: str, *, key: str = ADMIN_KEY, **fields: Any
    ) -> tuple[int, dict[str, Any]]:
        """Send an admin request and return status and JSON."""
        headers = {"authorization": f"Bearer {key}"}
        body = None if method == "GET" else fields
        async with self.http.request(method, self.admin_url + path, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def ask(
        self, model: str = "small", *, key: str = "", text: str = "hello", **fields: Any
    ) -> tuple[int, dict[str, str], str]:
        """Send a chat request and return status, headers and the whole answer."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with self.http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as response:
            return response.status, dict(response.headers), await response.text()

    async def spent_usd(self, scope: str) -> Decimal:
        """Return what a scope has spent today, as far as it has been charged."""
        desk = self.app.pipeline.spending
        (spent,) = await desk.ledger.spent_picousd([scope], Period.DAY, desk.clock())
        return to_usd(spent)

    async def until_spent(self, scope: str, usd: Decimal) -> None:
        """Wait until just so much has been charged to a scope; a request is charged when its outcome is on disk."""
        async with asyncio.timeout(READ_SECONDS):
            while (spent := await self.spent_usd(scope)) < usd:
                await asyncio.sleep(0.01)
        assert spent == usd

    async def until_spent_at_last(self, scope: str, usd: Decimal) -> None:
        """Do as `until_spent` while the ledger may be away."""
        async with asyncio.timeout(READ_SECONDS):
            while True:
                with suppress(LedgerUnavailable):
                    return await self.until_spent(scope, usd)
                await asyncio.sleep(0.05)

    def gauge(self, name: str) -> float | None:
        """Return a metric without labels."""
        return self.app.pipeline.metrics.registry.get_sample_value(name)


def made(path: Path, text: str, environ: Mapping[str, str]) -> tuple[PenstockApp, ReloadingApp, Upstream]:
    """Return a gateway of a configuration as ``penstock serve`` makes it, not started, and what is behind it."""
    path.write_text(text, encoding="utf-8")
    reader = ConfigurationReader(path, environ)
    settings = load_settings(path, environ)
    upstream = Upstream()
    app = create_app(settings, upstreams={"direct": upstream})
    return app, reloading_app(app, settings, reader), upstream


@asynccontextmanager
async def reloading_gateway(path: Path, text: str, environ: Mapping[str, str]) -> AsyncIterator[ReloadingGateway]:
    """Run a gateway of a configuration on a free port.

    Parameters
    ----------
    path : Path
        Of its file.
    text : str
        What is written there.
    environ : mapping of str to str
    """
    app, reloading, upstream = made(path, text, environ)
    server = server_for(reloading, host="127.0.0.1", port=0)
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            gateway = ReloadingGateway(path, app, reloading, upstream, http)
            gateway.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            yield gateway
    finally:
        server.should_exit = True
        await task
