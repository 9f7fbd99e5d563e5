"""Generations that answer without a gateway behind them, and say what became of them.

Read `FakeGeneration`.
"""

from __future__ import annotations

import asyncio

from penstock_gateway.asgi import Receive, Scope, Send

CHUNKS = 40
CHUNK_SECONDS = 0.02


class FakeGeneration:
    """Answers with its name: ``/plain`` at once, ``/stream`` in chunks over most of a second.

    Attributes
    ----------
    name : str
    started, taken_over, closed : int
        How often each was called.
    in_flight, served : int
    wrongs : list of str
        What should not have happened to it.
    """

    def __init__(self, name: str, *, start_failure: Exception | None = None) -> None:
        self.name = name
        self.started = self.taken_over = self.closed = 0
        self.in_flight = self.served = 0
        self.wrongs: list[str] = []
        self.start_failure = start_failure
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.may_finish = asyncio.Event()
        self.may_finish.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and note a request that comes when it should not."""
        if not self.taken_over or self.closed:
            self.wrongs.append(f"a request while taken over {self.taken_over} times, closed {self.closed} times")
        self.in_flight += 1
        try:
            headers = [(b"content-type", b"text/plain"), (b"x-generation", self.name.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if scope["path"] == "/stream":
                for _ in range(CHUNKS):
                    await send({"type": "http.response.body", "body": f"{self.name}\n".encode(), "more_body": True})
                    await asyncio.sleep(CHUNK_SECONDS)
                    if self.closed:
                        self.wrongs.append("closed under a stream")
            elif scope["path"] == "/held":
                await self.may_finish.wait()
            await send({"type": "http.response.body", "body": f"{self.name}\n".encode()})
            self.served += 1
        finally:
            self.in_flight -= 1

    async def start(self) -> None:
        """Start, when the test allows it."""
        self.started += 1
        await self.may_start.wait()
        if self.start_failure is not None:
            raise self.start_failure

    def take_over(self) -> None:
        """Note it."""
        self.taken_over += 1

    async def aclose(self) -> None:
        """Note it, and that nothing is under way."""
        self.closed += 1
        if self.in_flight:
            self.wrongs.append(f"closed with {self.in_flight} requests under way")
