"""A bounded load generator for loopback servers: closed loop at saturation, or a fixed rate.

Owns sending, reading and timing. Read `run_load`. It refuses any address but loopback, and every run is bounded in
requests and in seconds. As a program it reads a JSON `LoadPlan` on standard input and writes a JSON `LoadResult`, so
that a bench can run it in a process of its own, pinned to another core.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import json
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import cast

import uvloop

MAX_CONNECTIONS = 256
MAX_SECONDS = 120.0
MAX_RATE_PER_SECOND = 20_000.0
MAX_REQUESTS = 5_000_000
NUMBER = "@@@@@@@@@@"
_DRAIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to send.

    Attributes
    ----------
    port : int
    bodies : list of str
        JSON bodies, sent in turn.
    connections : int
        Kept open; at most `MAX_CONNECTIONS`.
    seconds : float
        No request starts later; at most `MAX_SECONDS`.
    rate_per_second : float or None
        None: each connection sends its next request when the last is answered. Otherwise requests start at this rate,
        whether or not earlier ones are answered, and wait for a free connection if they must.
    max_requests : int
    host, path : str
    headers : dict of str to str
        Sent with every request.

    Notes
    -----
    `NUMBER` in a body is replaced by the request's own number, of the same length: no two requests are the same then.
    """

    port: int
    bodies: list[str]
    connections: int
    seconds: float
    rate_per_second: float | None = None
    max_requests: int = MAX_REQUESTS
    host: str = "127.0.0.1"
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse unbounded load and any address but loopback."""
        if not ipaddress.ip_address(self.host).is_loopback:
            raise ValueError("load goes to loopback addresses only")
        if not 0 < self.connections <= MAX_CONNECTIONS or not 0 < self.seconds <= MAX_SECONDS:
            raise ValueError(f"at most {MAX_CONNECTIONS} connections and {MAX_SECONDS:g} seconds")
        if self.rate_per_second is not None and not 0 < self.rate_per_second <= MAX_RATE_PER_SECOND:
            raise ValueError(f"at most {MAX_RATE_PER_SECOND:g} requests per second")
        if not self.bodies or not 0 < self.max_requests <= MAX_REQUESTS:
            raise ValueError(f"at least one body and at most {MAX_REQUESTS} requests")


@dataclass(slots=True)
class LoadResult:
    """What came back.

    Attributes
    ----------
    finished, failed : int
        Answers with status 200, and all others (lost connections included).
    wall_seconds, cpu_seconds : float
        From the first request to the last answer; the second is the load generator's own processor time.
    latency_ms, first_event_ms : list of float
        Per finished request, sorted; the second for streams only, until the first ``data:``.
    gap_ms : list of float
        Between one part of a stream and the next, sorted.
    events : int
        ``data:`` lines in all streams.
    first_failure : str
        The start of the first answer that was not 200.
    """

    finished: int = 0
    failed: int = 0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    events: int = 0
    first_failure: str = ""
    latency_ms: list[float] = field(default_factory=list)
    first_event_ms: list[float] = field(default_factory=list)
    gap_ms: list[float] = field(default_factory=list)


def quantile(ordered: list[float], share: float) -> float:
    """Return the nearest-rank quantile of sorted values; NaN when there are none."""
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run_load(plan: LoadPlan) -> LoadResult:
    """Run a plan to its end on a fresh event loop.

    Parameters
    ----------
    plan : LoadPlan

    Returns
    -------
    LoadResult

    Notes
    -----
    Latency counts from the moment a request is due (at a fixed rate: when its timer fires), so waiting for a free
    connection is part of it. Timers have a resolution of 1 ms, which moves the start of a request, not its latency.
    """
    gc.collect()
    gc.disable()  # the run is short and bounded; a collection would look like latency
    try:
        return uvloop.run(_Run(plan).execute())
    finally:
        gc.enable()


class _Run:
    """State of one plan under way."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._result = LoadResult()
        self._requests = [_request(plan, body.encode()) for body in plan.bodies]
        self._started = 0
        self._is_numbered = any(NUMBER in body for body in plan.bodies)
        self._first_number = time.time_ns() // 1_000_000 % 1_000_000 * 10_000  # not those of the run before
        self._idle: deque[_Connection] = deque()
        self._due: deque[float] = deque()
        self._in_flight = 0
        self._is_over = False
        self._drained = asyncio.Event()
        self._stop_at = 0.0

    async def execute(self) -> LoadResult:
        loop = asyncio.get_running_loop()
        connections = [
            (
                await loop.create_connection(
                    lambda: _Connection(self._on_answer, self._on_lost), self._plan.host, self._plan.port
                )
            )[1]
            for _ in range(self._plan.connections)
        ]
        self._idle.extend(connections)
        cpu, began = time.process_time(), time.perf_counter()
        self._stop_at = began + self._plan.seconds
        if self._plan.rate_per_second is None:
            while self._idle and self._may_start():
                self._start(self._idle.popleft(), time.perf_counter())
        else:
            await self._pace(self._plan.rate_per_second, began)
        self._is_over = self._is_over or self._plan.rate_per_second is not None
        if self._in_flight or self._due:
            try:
                async with asyncio.timeout(self._plan.seconds + _DRAIN_SECONDS):
                    await self._drained.wait()
            except TimeoutError:
                self._fail(self._in_flight + len(self._due), "no answer before the end of the run")
        self._result.wall_seconds = time.perf_counter() - began
        self._result.cpu_seconds = time.process_time() - cpu
        for connection in connections:
            connection.close()
        self._result.latency_ms.sort()
        self._result.first_event_ms.sort()
        self._result.gap_ms.sort()
        return self._result

    async def _pace(self, rate: float, began: float) -> None:
        while self._may_start():
            await asyncio.sleep(max(0.0, began + (self._started + len(self._due)) / rate - time.perf_counter()))
            if self._idle:
                self._start(self._idle.popleft(), time.perf_counter())
            else:
                self._due.append(time.perf_counter())

    def _may_start(self) -> bool:
        self._is_over = (
            self._is_over
            or self._started + len(self._due) >= self._plan.max_requests
            or time.perf_counter() >= self._stop_at
        )
        return not self._is_over

    def _start(self, connection: _Connection, due: float) -> None:
        request = self._requests[self._started % len(self._requests)]
        if self._is_numbered:
            request = request.replace(_NUMBER, b"%010d" % (self._first_number + self._started))
        self._started += 1
        self._in_flight += 1
        connection.send(request, due)

    def _on_answer(self, connection: _Connection) -> None:
        now = time.perf_counter()
        result = self._result
        self._in_flight -= 1
        if connection.is_ok:
            result.finished += 1
            result.latency_ms.append((now - connection.due) * 1000.0)
            if connection.first_event_at:
                result.first_event_ms.append((connection.first_event_at - connection.due) * 1000.0)
                result.events += connection.events
                result.gap_ms += connection.gaps_ms
        else:
            self._fail(1, connection.answer_start)
        if self._due:
            self._start(connection, self._due.popleft())
        elif self._plan.rate_per_second is None and self._may_start():
            self._start(connection, now)
        else:
            self._idle.append(connection)
            if self._is_over and not self._in_flight:
                self._drained.set()

    def _on_lost(self, connection: _Connection, was_busy: bool) -> None:
        if was_busy:
            self._in_flight -= 1
            self._fail(1, "the server closed the connection")
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._in_flight and not self._idle:
            self._is_over = True
            self._drained.set()

    def _fail(self, count: int, what: str) -> None:
        self._result.failed += count
        self._result.first_failure = self._result.first_failure or what


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, on_answer: Callable[[_Connection], None], on_lost: Callable[[_Connection, bool], None]) -> None:
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._body_end = -1
        self._is_busy = False
        self._is_closing = False
        self.due = 0.0
        self.first_event_at = 0.0
        self.last_part_at = 0.0
        self.gaps_ms: list[float] = []
        self.events = 0
        self.is_ok = False
        self.answer_start = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, not asyncio's

    def connection_lost(self, error: Exception | None) -> None:
        if not self._is_closing:
            self._on_lost(self, self._is_busy)

    def close(self) -> None:
        self._is_closing = True
        if self._transport is not None:
            self._transport.close()

    def send(self, request: bytes, due: float) -> None:
        self.due, self.first_event_at, self.events = due, 0.0, 0
        self.gaps_ms = []
        self._is_busy = True
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data if self._buffer else data
        if self._body_end < 0:
            head_end = buffer.find(b"\r\n\r\n")
            if head_end < 0:
                return
            self._body_end = _body_end(buffer, head_end)
        if self._body_end == 0:  # chunked
            now = time.perf_counter()
            if self.first_event_at:
                self.gaps_ms.append((now - self.last_part_at) * 1000.0)
            elif b"data:" in buffer:
                self.first_event_at = now
            self.last_part_at = now
            if not buffer.endswith(b"0\r\n\r\n"):
                return
            self.events = buffer.count(b"data:")
        elif len(buffer) < self._body_end:
            return
        self.is_ok = buffer.startswith(b"HTTP/1.1 200")
        if not self.is_ok:
            self.answer_start = buffer[:400].decode("latin-1")
        self._buffer, self._body_end, self._is_busy = b"", -1, False
        self._on_answer(self)


def _body_end(buffer: bytes, head_end: int) -> int:
    """Length of the whole answer, or 0 when it is chunked."""
    head = buffer[:head_end].lower()
    start = head.find(b"content-length:")
    if start < 0:
        return 0
    stop = head.find(b"\r\n", start)
    return head_end + 4 + int(head[start + 15 : stop if stop >= 0 else None])


_NUMBER = NUMBER.encode()


def _request(plan: LoadPlan, body: bytes) -> bytes:
    headers = {"authorization": "Bearer bench", **plan.headers}
    head = (
        f"POST {plan.path} HTTP/1.1\r\nhost: {plan.host}:{plan.port}\r\ncontent-type: application/json\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        + f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def main() -> None:
    """Read a plan, run it, write the result."""
    plan = LoadPlan(**json.load(sys.stdin))
    json.dump(asdict(run_load(plan)), sys.stdout)


if __name__ == "__main__":
    main()
