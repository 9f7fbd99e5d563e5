"""The gateway under its real server, loop and upstreams, in a thread of its own beside the test.

Owns starting, stopping and looking inside. Unlike `running_gateway` nothing of it is a fake: requests leave over
sockets, on the event loop that ``penstock serve`` uses. Read `GatewayThread`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import uvloop

from penstock_gateway.app import PenstockApp, create_app
from penstock_gateway.server import server_for
from penstock_gateway.settings import Settings
from penstock_gateway.upstream.protocol import Upstream

START_SECONDS = 30.0
_Result = TypeVar("_Result")


class HermeticLoop(uvloop.Loop):
    """uvloop that resolves no name: it asks the system in C, where the tests' isolation does not reach."""

    async def getaddrinfo(self, host: Any, port: Any, **hints: Any) -> Any:
        """Resolve addresses, and fail for names as a resolver does that knows none."""
        try:
            return await super().getaddrinfo(host, port, **{**hints, "flags": socket.AI_NUMERICHOST})
        except socket.gaierror:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None


class GatewayThread:
    """One running gateway.

    Parameters
    ----------
    settings : Settings
    upstreams : mapping of str to Upstream, optional
        In the place of those that speak to providers.

    Attributes
    ----------
    app : PenstockApp
    url : str
    """

    def __init__(self, settings: Settings, upstreams: Mapping[str, Upstream] | None = None) -> None:
        self.app: PenstockApp = create_app(settings, upstreams=upstreams)
        self.url = ""
        self._server = server_for(self.app, host="127.0.0.1", port=0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="gateway-under-test", daemon=True)

    async def start(self) -> None:
        """Return when requests are accepted."""
        self._thread.start()
        async with asyncio.timeout(START_SECONDS):
            while not self._server.started:
                if not self._thread.is_alive():
                    raise RuntimeError("the gateway did not start")
                await asyncio.sleep(0.005)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Return when the server is gone."""
        self._server.should_exit = True
        await asyncio.to_thread(self._thread.join, START_SECONDS)
        assert not self._thread.is_alive(), "the gateway did not stop"

    async def on_loop(self, function: Callable[[], Awaitable[_Result]]) -> _Result:
        """Run a coroutine function on the gateway's own loop and return its result."""
        assert self._loop is not None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_awaited(function), self._loop))

    async def tasks(self) -> set[str]:
        """Return what the loop's tasks are running, without the one that asks."""

        async def look() -> set[str]:
            own = asyncio.current_task()
            return {f"{task.get_name()} {task.get_coro()!r}" for task in asyncio.all_tasks() if task is not own}

        return await self.on_loop(look)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=HermeticLoop) as runner:
            self._loop = runner.get_loop()
            runner.run(self._server.serve())


async def _awaited(function: Callable[[], Awaitable[_Result]]) -> _Result:
    return await function()


@contextlib.asynccontextmanager
async def running_gateway_thread(settings: Settings) -> AsyncIterator[GatewayThread]:
    """Yield a started gateway, and stop it afterwards."""
    gateway = GatewayThread(settings)
    await gateway.start()
    try:
        yield gateway
    finally:
        await gateway.stop()
