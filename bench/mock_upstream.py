"""A provider that costs almost nothing: canned replies from a bare asyncio protocol, for benches only.

Owns the two canned replies. It looks at a request only as far as it must: where it ends and whether it asks for a
stream. It checks nothing and must never serve as an example of a provider. Run it with
``python bench/mock_upstream.py --port N``.
"""

from __future__ import annotations

import asyncio
import json
from typing import cast

import click
import uvloop

LOOPBACK = "127.0.0.1"
REPLY_BYTES = 618
DEFAULT_CHUNKS = 50
DEFAULT_GAP_MS = 5.0


def canned_reply() -> bytes:
    """Return one HTTP response whose JSON body has exactly `REPLY_BYTES` bytes."""
    body = {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "mock",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 60, "completion_tokens": 60, "total_tokens": 120},
        "system_fingerprint": "fp_mock",
    }
    filler = "Canned words that stand for an answer. "
    missing = REPLY_BYTES - len(_encode(body))
    body["choices"][0]["message"]["content"] = (filler * (missing // len(filler) + 1))[:missing]  # type: ignore[index]
    encoded = _encode(body)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(encoded)}\r\n\r\n"
    return head.encode() + encoded


def canned_events(chunks: int) -> tuple[bytes, list[bytes]]:
    """Return the head of a streamed response and its HTTP chunks: role, words, finish with usage, ``[DONE]``."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    events = [_event({"role": "assistant", "content": ""})]
    events += [_event({"content": f" word{number}"}) for number in range(chunks - 2)]
    events.append(_event({}, finish_reason="stop"))
    framed = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
    usage = {"prompt_tokens": 60, "completion_tokens": chunks, "total_tokens": 60 + chunks}
    last = b"data: " + _encode({**_CHUNK, "choices": [], "usage": usage}) + b"\n\ndata: [DONE]\n\n"
    framed.append(b"%x\r\n%s\r\n0\r\n\r\n" % (len(last), last))
    return head, framed


_CHUNK = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "mock"}


def _event(delta: dict[str, object], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return b"data: " + _encode({**_CHUNK, "choices": [choice]}) + b"\n\n"


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class MockProvider(asyncio.Protocol):
    """One connection; answers each complete request with a canned reply."""

    def __init__(self, reply: bytes, events: tuple[bytes, list[bytes]], gap_seconds: float) -> None:
        self._reply = reply
        self._head, self._events = events
        self._gap_seconds = gap_seconds
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

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
            if b'"stream":true' in request or b'"stream": true' in request:
                self._write(self._head)
                self._send_event(0)
            else:
                self._write(self._reply)

    def _send_event(self, position: int) -> None:
        self._write(self._events[position])
        if position + 1 < len(self._events):
            self._timer = self._loop.call_later(self._gap_seconds, self._send_event, position + 1)

    def _write(self, content: bytes) -> None:
        if self._transport is not None:
            self._transport.write(content)


def _request_end(buffer: bytes) -> int | None:
    """Where the first request ends, or None while it is incomplete; bodies by content-length or chunked."""
    head_end = buffer.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head = buffer[:head_end].lower()
    start = head.find(b"content-length:")
    if start >= 0:
        stop = head.find(b"\r\n", start)
        length = int(head[start + 15 : stop if stop >= 0 else None])
        end = head_end + 4 + length
        return end if len(buffer) >= end else None
    if b"transfer-encoding: chunked" in head:
        last = buffer.find(b"0\r\n\r\n", head_end)
        return None if last < 0 else last + 5
    return head_end + 4


async def serve(port: int, chunks: int, gap_seconds: float) -> None:
    """Serve until cancelled."""
    reply, events = canned_reply(), canned_events(chunks)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: MockProvider(reply, events, gap_seconds), LOOPBACK, port, backlog=512)
    async with server:
        await server.serve_forever()


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), required=True)
@click.option("--chunks", type=click.IntRange(3, 10_000), default=DEFAULT_CHUNKS, show_default=True)
@click.option("--gap-ms", type=click.FloatRange(0.0, 1000.0), default=DEFAULT_GAP_MS, show_default=True)
def main(port: int, chunks: int, gap_ms: float) -> None:
    """Serve canned replies on the loopback address until interrupted."""
    try:
        uvloop.run(serve(port, chunks, gap_ms / 1000.0))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
