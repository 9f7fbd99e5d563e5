"""A provider whose models are slow, fail or break off, from a bare asyncio protocol: for `streams` and `soak` only.

The model of a request says what it gets (`MODELS`); ``slow`` streams carry the time at which each chunk was sent, so
that whoever reads them can tell the gateway's delay from the provider's. It checks nothing. Run it with
``python bench/uneven_upstream.py --port N``.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import time
from typing import Any, cast

import click
import uvloop

LOOPBACK = "127.0.0.1"
MODELS = {
    "steady": "answers at once, plain or as a stream of ten chunks",
    "slow": "streams a chunk every so often, each stamped with its number and the time",
    "error-503": "answers 503",
    "error-429": "answers 429 and asks to wait for 20 ms",
    "cut": "ends in the middle of its answer",
    "reset": "drops the connection in the middle of its answer",
}
INPUT_TOKENS = 60
STEADY_WORDS = 10
_MODEL = re.compile(rb'"model": ?"([a-z0-9-]+)"')
_STREAM = re.compile(rb'"stream": ?true')
_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_BASE = {"id": "chatcmpl-bench", "created": 1_700_000_000, "model": "bench"}


def raise_file_limit() -> None:
    """Allow this process, and those it starts, as many open files as the system lets it have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def stamp(number: int) -> str:
    """Return the text of a slow stream's chunk: its number and the monotonic time, nanoseconds."""
    return f"{number}:{time.monotonic_ns()}"


class UnevenProvider(asyncio.Protocol):
    """One connection; answers one request after the other.

    Parameters
    ----------
    chunks : int
        Of a slow stream.
    gap_seconds : float
        Between two of them.
    """

    def __init__(self, chunks: int, gap_seconds: float) -> None:
        self._chunks = chunks
        self._gap_seconds = gap_seconds
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, not asyncio's

    def connection_lost(self, error: Exception | None) -> None:
        """Stop a stream that nobody reads any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answer every complete request in the buffer."""
        self._buffer += data
        while (end := _request_end(self._buffer)) is not None:
            request, self._buffer = self._buffer[:end], self._buffer[end:]
            found = _MODEL.search(request)
            self._answer("steady" if found is None else found[1].decode(), is_stream=bool(_STREAM.search(request)))

    def _answer(self, model: str, *, is_stream: bool) -> None:
        if model.startswith("error-"):
            status = int(model.partition("-")[2])
            body = {"error": {"message": "on demand", "type": "bench", "param": None, "code": f"bench_{status}"}}
            self._write(_plain(body, status, "retry-after-ms: 20\r\n" if status == 429 else ""))
        elif model == "slow":
            self._write(_CHUNKED_HEAD)
            self._began = self._loop.time()
            self._send_chunk(0)
        elif model in ("cut", "reset"):
            self._break_off(is_stream=is_stream, is_reset=model == "reset")
        elif is_stream:
            events = [_event({"content": f" word{number}"}) for number in range(STEADY_WORDS)]
            self._write(_CHUNKED_HEAD + b"".join(_framed(event) for event in events) + _ending(STEADY_WORDS))
        else:
            self._write(_plain(_completion("Words that stand for an answer."), 200))

    def _send_chunk(self, number: int) -> None:
        """Send one stamped chunk and come back for the next at its own time, late or not."""
        self._write(_framed(_event({"content": stamp(number)})))
        if number + 1 < self._chunks:
            due = self._began + (number + 1) * self._gap_seconds
            self._timer = self._loop.call_at(due, self._send_chunk, number + 1)
        else:
            self._write(_ending(self._chunks))

    def _break_off(self, *, is_stream: bool, is_reset: bool) -> None:
        if is_stream:
            self._write(_CHUNKED_HEAD + _framed(_event({"content": " half"})))
        else:
            whole = _plain(_completion("An answer that does not arrive."), 200)
            self._write(whole[: len(whole) // 2 + 60])
        if self._transport is not None:
            if is_reset:
                self._loop.call_later(0.01, self._transport.abort)
            else:
                self._transport.close()

    def _write(self, content: bytes) -> None:
        if self._transport is not None:
            self._transport.write(content)


def _completion(text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": 8, "total_tokens": INPUT_TOKENS + 8}
    return {**_BASE, "object": "chat.completion", "choices": [choice], "usage": usage}


def _plain(body: dict[str, Any], status: int, headers: str = "") -> bytes:
    encoded = json.dumps(body).encode()
    fixed = f"content-type: application/json\r\ncontent-length: {len(encoded)}\r\n"
    return f"HTTP/1.1 {status} Bench\r\n{fixed}{headers}\r\n".encode() + encoded


def _event(delta: dict[str, str], finish_reason: str | None = None, **fields: object) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    chunk = {**_BASE, "object": "chat.completion.chunk", "choices": choices, **fields}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def _ending(words: int) -> bytes:
    """Return what closes a stream, framed: finish reason with usage, ``[DONE]``, last chunk."""
    usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": words, "total_tokens": INPUT_TOKENS + words}
    return _framed(_event({}, "stop", usage=usage)) + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _framed(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def _request_end(buffer: bytes) -> int | None:
    """Where the first request ends, or None while it is incomplete."""
    head_end = buffer.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head = buffer[:head_end].lower()
    start = head.find(b"content-length:")
    stop = head.find(b"\r\n", start)
    end = head_end + 4 + int(head[start + 15 : stop if stop >= 0 else None])
    return end if len(buffer) >= end else None


async def serve(port: int, chunks: int, gap_seconds: float) -> None:
    """Serve until cancelled."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: UnevenProvider(chunks, gap_seconds), LOOPBACK, port, backlog=2048)
    async with server:
        await server.serve_forever()


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), required=True)
@click.option("--chunks", type=click.IntRange(1, 100_000), default=20, show_default=True)
@click.option("--gap-ms", type=click.FloatRange(1.0, 60_000.0), default=100.0, show_default=True)
def main(port: int, chunks: int, gap_ms: float) -> None:
    """Serve on the loopback address until interrupted."""
    raise_file_limit()
    try:
        uvloop.run(serve(port, chunks, gap_ms / 1000.0))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
