"""Many streams read at once, each chunk's delay measured: the client of `streams`, in a process of its own.

Reads a JSON `ReadPlan` on standard input and writes a JSON `ReadResult`. Loopback only, bounded in streams and seconds.
Read `_Reader.data_received` for what is measured.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import cast

import uvloop
from uneven_upstream import LOOPBACK, raise_file_limit

MAX_STREAMS = 20_000
MAX_SECONDS = 3_600.0
_STAMP = re.compile(rb'"content":"(\d+):(\d+)"')
_LONGEST_STAMP = 64
_DONE = b"data: [DONE]"
_GOOD_HEAD = b"HTTP/1.1 200"


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What to open.

    Attributes
    ----------
    port : int
    streams : int
    chunks : int
        That each stream has to bring, in order.
    ramp_seconds : float
        Over which the streams are opened.
    limit_seconds : float
        After which a stream that has not ended is given up.
    stall_seconds : float
        A stream is stalled when a chunk comes so much later than the provider's own pause would explain.
    model : str
    """

    port: int
    streams: int
    chunks: int
    ramp_seconds: float
    limit_seconds: float
    stall_seconds: float
    model: str = "slow"

    def __post_init__(self) -> None:
        """Refuse unbounded load."""
        if not 0 < self.streams <= MAX_STREAMS or not 0 < self.limit_seconds <= MAX_SECONDS:
            raise ValueError(f"at most {MAX_STREAMS} streams and {MAX_SECONDS:g} seconds")


@dataclass(slots=True)
class ReadResult:
    """What came.

    Attributes
    ----------
    complete, dropped, stalled : int
        Streams with every chunk and ``[DONE]``; those that ended without; those with a pause that was too long.
    most_open : int
        Streams open at the same time, at most.
    chunks : int
    largest_excess_gap_ms : float
        Largest pause between two chunks beyond the pause with which the provider sent them.
    p999_excess_gap_ms : float
        Of those pauses, the one that one in a thousand exceeds.
    largest_delay_ms, median_delay_ms, p99_delay_ms : float
        From the provider's write to the client's read.
    first_problem : str
    """

    complete: int = 0
    dropped: int = 0
    stalled: int = 0
    most_open: int = 0
    chunks: int = 0
    largest_excess_gap_ms: float = 0.0
    p999_excess_gap_ms: float = 0.0
    largest_delay_ms: float = 0.0
    median_delay_ms: float = 0.0
    p99_delay_ms: float = 0.0
    first_problem: str = ""
    delays_ms: list[float] = field(default_factory=list)
    excess_gaps_ms: list[float] = field(default_factory=list)


class _Reader(asyncio.Protocol):
    """One stream on one connection."""

    def __init__(self, plan: ReadPlan, request: bytes, result: ReadResult, counts: dict[str, int]) -> None:
        self._plan = plan
        self._request = request
        self._result = result
        self._counts = counts
        self._tail = b""
        self._expected = 0
        self._sent_before = 0
        self._read_before = 0
        self._is_stalled = False
        self._is_begun = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)
        self._counts["open"] += 1
        self._result.most_open = max(self._result.most_open, self._counts["open"])

    def data_received(self, data: bytes) -> None:
        """Take the stamps out of what came, and compare each with the clock and with the one before."""
        now = time.monotonic_ns()
        buffer = self._tail + data
        end = 0
        for found in _STAMP.finditer(buffer):
            end = found.end()
            self._note(int(found[1]), int(found[2]), now)
        if _DONE in buffer:
            self._end("" if self._expected == self._plan.chunks else f"[DONE] after {self._expected} chunks")
            return
        if not self._is_begun and not buffer.startswith(_GOOD_HEAD[: len(buffer)]):
            self._end(buffer[:300].decode("latin-1"))
            return
        self._is_begun = self._is_begun or len(buffer) >= len(_GOOD_HEAD)
        if b'"error"' in buffer:
            self._end(buffer[-300:].decode("latin-1"))
            return
        self._tail = buffer[max(end, len(buffer) - _LONGEST_STAMP) :]

    def connection_lost(self, error: Exception | None) -> None:
        self._end(f"connection lost after {self._expected} chunks")

    def give_up(self) -> None:
        """End a stream that has taken too long."""
        self._end(f"not over after {self._plan.limit_seconds:g} s, {self._expected} chunks")

    def _note(self, number: int, sent: int, now: int) -> None:
        if number != self._expected:
            self._end(f"chunk {number} where {self._expected} was due")
            return
        result = self._result
        result.chunks += 1
        result.delays_ms.append((now - sent) / 1e6)
        if number:
            excess_ms = ((now - self._read_before) - (sent - self._sent_before)) / 1e6
            result.excess_gaps_ms.append(excess_ms)
            self._is_stalled = self._is_stalled or excess_ms > self._plan.stall_seconds * 1000.0
        self._sent_before, self._read_before = sent, now
        self._expected += 1

    def _end(self, problem: str) -> None:
        if self.over.done():
            return
        self.over.set_result(None)
        self._counts["open"] -= 1
        self._transport.close()
        if problem:
            self._result.dropped += 1
            self._result.first_problem = self._result.first_problem or problem
        elif self._is_stalled:
            self._result.stalled += 1
        else:
            self._result.complete += 1


async def read_streams(plan: ReadPlan) -> ReadResult:
    """Open the streams and read them to their ends.

    Parameters
    ----------
    plan : ReadPlan

    Returns
    -------
    ReadResult
    """
    loop = asyncio.get_running_loop()
    result, counts = ReadResult(), {"open": 0}
    messages = [{"role": "user", "content": "Tell me slowly."}]
    body = json.dumps({"model": plan.model, "stream": True, "messages": messages}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {LOOPBACK}:{plan.port}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    readers: list[_Reader] = []
    began = loop.time()
    for number in range(plan.streams):
        await asyncio.sleep(max(0.0, began + number * plan.ramp_seconds / plan.streams - loop.time()))
        try:
            _, reader = await loop.create_connection(
                lambda: _Reader(plan, request, result, counts), LOOPBACK, plan.port
            )
        except OSError as error:
            result.dropped += 1
            result.first_problem = result.first_problem or str(error)
            continue
        readers.append(reader)
    waiting = [reader.over for reader in readers]
    if waiting:
        await asyncio.wait(waiting, timeout=max(0.1, began + plan.limit_seconds - loop.time()))
    for reader in readers:
        reader.give_up()
    ordered = sorted(result.delays_ms)
    if ordered:
        result.largest_delay_ms = ordered[-1]
        result.median_delay_ms = ordered[len(ordered) // 2]
        result.p99_delay_ms = ordered[int(0.99 * len(ordered))]
    gaps = sorted(result.excess_gaps_ms)
    if gaps:
        result.largest_excess_gap_ms = max(0.0, gaps[-1])
        result.p999_excess_gap_ms = max(0.0, gaps[int(0.999 * len(gaps))])
    result.delays_ms = result.excess_gaps_ms = []
    return result


def main() -> None:
    """Read a plan, run it, write the result."""
    raise_file_limit()
    plan = ReadPlan(**json.load(sys.stdin))
    json.dump(asdict(uvloop.run(read_streams(plan))), sys.stdout)


if __name__ == "__main__":
    main()
