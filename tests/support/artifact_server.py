"""A web server on loopback for a folder of artifacts, which misbehaves on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web


@dataclass
class ArtifactServer:
    """Serves files below a folder.

    Attributes
    ----------
    folder : Path
    url : str
    fault : str
        ``""``, or what is wrong with ``router.onnx``: ``stall`` (headers, then nothing), ``truncate`` (half of it, then
        the connection ends), ``status`` (500), ``redirect``, ``endless`` (more than announced anywhere).
    requests : list of str
        Paths that were asked for.
    """

    folder: Path
    url: str = ""
    fault: str = ""
    requests: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Send one file, or do something wrong."""
        self.requests.append(request.path)
        path = self.folder / request.path.lstrip("/")
        if not path.is_file():
            return web.Response(status=404)
        content = path.read_bytes()
        if not self.fault or path.name != "router.onnx":
            return web.Response(body=content)
        if self.fault == "status":
            return web.Response(status=500)
        if self.fault == "redirect":
            return web.Response(status=302, headers={"Location": f"{self.url}/elsewhere"})
        response = web.StreamResponse()
        if self.fault == "truncate":
            response.content_length = len(content)
        await response.prepare(request)
        if self.fault == "endless":
            for _ in range(1100):
                await response.write(b"\0" * 65_536)
            return response
        await response.write(content[: len(content) // 2])
        if self.fault == "stall":
            await asyncio.sleep(30)
        assert request.transport is not None
        request.transport.close()
        return response


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[ArtifactServer]:
    """Run the server on a free port."""
    server = ArtifactServer(folder)
    application = web.Application()
    application.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    server.url = f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()
