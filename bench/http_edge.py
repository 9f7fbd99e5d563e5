"""What stands around every answer costs: request ids, permissions for browsers, compression.

An application that answers at once is called with and without the edge around it, in one run, interleaved; processor
time, the least of several rounds. Compression is measured apart, by size, on answers in the shape of completions.
Run ``python bench/http_edge.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from machine import describe_machine, machine_lines

from penstock_gateway.content_coding import gzip_body
from penstock_gateway.http_edge import HttpEdge
from penstock_gateway.settings_models import ServerSettings
from penstock_gateway.settings_server import CrossOriginSettings

SIZES = (2_000, 16_000, 1_000_000)
STREAM_EVENTS = 50
ORIGIN = "https://example.org"
HEADERS = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"origin", ORIGIN.encode())]
_WORDS = ("river", "rises", "hills", "water", "through", "gate", "to", "the", "mill", "below", "led", "a", "and")

App = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Packed:
    """One size of answers.

    Attributes
    ----------
    size_bytes : int
    share : float
        Of it that is left.
    us : float
        Processor time, microseconds.
    """

    size_bytes: int
    share: float
    us: float


def answer_of(size: int) -> bytes:
    """Return a chat completion of about so many bytes, its words in no simple order."""
    words, length, state = [], 0, 1
    while length < size - 200:
        state = (state * 1_103_515_245 + 12_345) % 2**31
        words.append(f"{_WORDS[state % len(_WORDS)]}{state % 97}")
        length += len(words[-1]) + 1
    message = {"role": "assistant", "content": " ".join(words)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice]}).encode()


async def measure_packing(rounds: int) -> list[Packed]:
    """Return what compressing answers costs and saves."""
    found = []
    for size in SIZES:
        body = answer_of(size)
        packed = await gzip_body(body)
        assert zlib.decompress(packed, 31) == body
        repeats = max(3, 200_000 // size)
        least = min([await _packing_us(body, repeats) for _ in range(rounds)])
        found.append(Packed(len(body), len(packed) / len(body), least))
    return found


async def _packing_us(body: bytes, repeats: int) -> float:
    started = time.process_time_ns()
    for _ in range(repeats):
        await gzip_body(body)
    return (time.process_time_ns() - started) / 1e3 / repeats


async def _plain(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def _stream(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for _ in range(STREAM_EVENTS):
        await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def measure_edges(rounds: int, calls: int) -> dict[str, float]:
    """Return microseconds: a plain answer and an event of a stream, by what stands around the application."""
    off, crossed = ServerSettings(), ServerSettings(cors=CrossOriginSettings(origins=(ORIGIN,)))
    kinds: dict[str, tuple[App, App]] = {
        "nothing": (_plain, _stream),
        "edge": (HttpEdge(_plain, lambda: off), HttpEdge(_stream, lambda: off)),
        "edge with CORS": (HttpEdge(_plain, lambda: crossed), HttpEdge(_stream, lambda: crossed)),
    }
    least: dict[str, float] = {}
    for _ in range(rounds):
        for name, (plain, stream) in kinds.items():
            for what, app, count, parts in (("answer", plain, calls, 1), ("event", stream, calls // 10, STREAM_EVENTS)):
                took = await _calls_us(app, count) / parts
                key = f"{what}, {name}"
                least[key] = min(least.get(key, took), took)
    return least


async def _calls_us(app: App, count: int) -> float:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        return None

    started = time.process_time_ns()
    for _ in range(count):
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": HEADERS}
        await app(scope, receive, send)
    return (time.process_time_ns() - started) / 1e3 / count


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    rounds, calls = (3, 500) if options.quick else (15, 5_000)
    edges = asyncio.run(measure_edges(rounds, calls))
    packed = asyncio.run(measure_packing(rounds))
    if options.json:
        results = {"edges_us": edges, "gzip": [asdict(row) for row in packed]}
        print(json.dumps({"machine": describe_machine(), "results": results}, indent=1))
        return
    print("\n".join(machine_lines(describe_machine())), end="\n\n")
    print("| around the application | plain answer, µs | event of a stream, µs |\n| --- | --: | --: |")
    for name in ("nothing", "edge", "edge with CORS"):
        print(f"| {name} | {edges[f'answer, {name}']:.2f} | {edges[f'event, {name}']:.2f} |")
    print("\n| answer, bytes | left by gzip | µs |\n| --: | --: | --: |")
    for row in packed:
        print(f"| {row.size_bytes:,} | {row.share:.0%} | {row.us:,.0f} |")


if __name__ == "__main__":
    main()
