"""A provider on loopback that does everything wrong on demand, and counts what it was asked and what it charges.

It speaks the chat completions API of OpenAI on bare asyncio streams, because no web framework would send such bytes.
The model in the body chooses the fault::

    {"model": "fault:stall-mid-stream", "stream": true, …}

What each fault does is one row of `faults.FAULTS`; some faults lie before the request (`Place`), so `address_of` gives
the base URL of each. `replay_upstream` is the other provider of the tests: it replays what real ones send.
Read `MisbehavingUpstream`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from support.fault_exchange import Bill, Exchange
from support.faults import FAULTS, MODEL_PREFIX, Fault, Mode, Place

MAX_HEAD_BYTES = 64 * 1024
HANDSHAKE = b"\x16"  # first byte of a TLS client's first record


@dataclass(frozen=True)
class Asked:
    """One request that arrived.

    Attributes
    ----------
    fault : str
        Name.
    mode : Mode
    connection : int
        Ordinal of the connection it came on.
    body : dict
    """

    fault: str
    mode: Mode
    connection: int
    body: dict[str, Any]


@dataclass
class MisbehavingUpstream:
    """The server. Use `running_misbehaving_upstream`.

    Attributes
    ----------
    asked : list of Asked
        Every request in the order in which it came.
    bills : list of (str, Bill)
        What was charged for each request whose answer is over, by fault.
    accepted_connections : int
    open_connections : int
    answers_under_way : int
    """

    asked: list[Asked] = field(default_factory=list)
    bills: list[tuple[str, Bill]] = field(default_factory=list)
    accepted_connections: int = 0
    open_connections: int = 0
    answers_under_way: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _sockets: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _full_port: int = 0
    _closed_port: int = 0

    async def start(self) -> None:
        """Listen on a free loopback port, and set up the places where no connection succeeds."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self._closed_port = taken.getsockname()[1]
        full = self._sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        self._full_port = full.getsockname()[1]
        for _ in range(4):  # fill the queue of a listener that accepts nothing
            waiting = self._sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())

    @property
    def port(self) -> int:
        """The port listened on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def address_of(self, fault: Fault) -> str:
        """Return the ``base_url`` of a deployment that shall meet a fault."""
        match fault.place:
            case Place.REFUSED:
                return f"http://127.0.0.1:{self._closed_port}/v1"
            case Place.NO_NAME:
                return "http://nobody.invalid/v1"  # RFC 2606 section 2: never resolves
            case Place.TLS_TO_PLAIN:
                return f"https://127.0.0.1:{self.port}/v1"
            case Place.FULL_BACKLOG:
                return f"http://127.0.0.1:{self._full_port}/v1"
        return f"http://127.0.0.1:{self.port}/v1"

    def billed(self, fault: str) -> Bill:
        """Return the sum of what was charged for a fault."""
        bills = [bill for name, bill in self.bills if name == fault]
        return Bill(sum(bill.input_tokens for bill in bills), sum(bill.output_tokens for bill in bills))

    async def until_idle(self, *, timeout_seconds: float = 5.0) -> None:
        """Wait until no answer is under way: the peer has taken it, or has closed its connection."""
        async with asyncio.timeout(timeout_seconds):
            while self.answers_under_way:
                await asyncio.sleep(0.002)

    async def aclose(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._sockets.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted_connections += 1
        self.open_connections += 1
        ordinal = self.accepted_connections
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while (body := await _read_request(reader, writer)) is not None:
                if not await self._answer(body, reader, writer, ordinal):
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open_connections -= 1
            self._tasks.discard(task)
            writer.close()

    async def _answer(
        self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> bool:
        """Answer one request, or stop when the peer leaves; return whether the connection can be used again."""
        fault = _FAULTS[str(body["model"]).removeprefix(MODEL_PREFIX)]
        exchange = Exchange(body, writer)
        mode = Mode.STREAM if exchange.is_stream else Mode.PLAIN
        self.asked.append(Asked(fault.name, mode, connection, body))
        self.answers_under_way += 1
        answer = asyncio.ensure_future(fault.answer(exchange))
        departure = asyncio.ensure_future(reader.read(1))  # clients here never pipeline
        try:
            await asyncio.wait({answer, departure}, return_when=asyncio.FIRST_COMPLETED)
            return answer.done() and answer.exception() is None and answer.result()
        finally:
            for pending in (answer, departure):
                pending.cancel()
            await asyncio.gather(answer, departure, return_exceptions=True)
            self.bills.append((fault.name, exchange.bill))
            self.answers_under_way -= 1


_FAULTS = {fault.name: fault for fault in FAULTS}


@contextlib.asynccontextmanager
async def running_misbehaving_upstream() -> AsyncIterator[MisbehavingUpstream]:
    """Yield a started server, and stop it afterwards."""
    server = MisbehavingUpstream()
    await server.start()
    try:
        yield server
    finally:
        await server.aclose()


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, Any] | None:
    """Read one request and return its body; None when the peer closed the connection or tries to speak TLS."""
    first = await reader.read(1)
    if not first:
        return None
    if first == HANDSHAKE:  # as nginx does
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        return None
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    body: dict[str, Any] = json.loads(await reader.readexactly(int(lengths[0].partition(b":")[2])))
    return body
