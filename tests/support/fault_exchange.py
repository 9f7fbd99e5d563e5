"""One request to the misbehaving upstream, and the bytes of its answer.

Owns what every fault is made of: heads, chunks, events, resets, and the fixed answer that a healthy provider gives.
Nothing here checks what it writes. Read `Exchange`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

WORDS = ("The", " penstock", " brings", " the", " water", " down", " to", " the", " turbine", ".")
"""The answer, a stream's event each; the provider counts a token a word."""

BEFORE_FAULT = 3
"""Words that arrive before a stream breaks."""

INPUT_TOKENS = 17
OUTPUT_TOKENS = len(WORDS)
USAGE = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}
DONE = b"data: [DONE]\n\n"
LAST_CHUNK = b"0\r\n\r\n"

_BASE = {"id": "chatcmpl-fault", "created": 1_760_000_000, "model": "fault"}
_REASONS = {200: "OK", 307: "Temporary Redirect", 429: "Too Many Requests", 500: "Internal Server Error"}
_SETTLE_SECONDS = 0.1


@dataclass
class Bill:
    """What the provider charges for one request, tokens."""

    input_tokens: int = 0
    output_tokens: int = 0


@dataclass
class Exchange:
    """One request and the connection that its answer goes out on.

    Attributes
    ----------
    request : dict
        The decoded body.
    writer : StreamWriter
    bill : Bill
        What the provider charges in the end, whatever it reports; faults set it as they go.
    sent_words : int
        Words of the answer that were written out.
    """

    request: dict[str, Any]
    writer: asyncio.StreamWriter
    bill: Bill = field(default_factory=Bill)
    sent_words: int = 0

    @property
    def is_stream(self) -> bool:
        """Whether a stream was asked for."""
        return self.request.get("stream") is True

    @property
    def wants_usage(self) -> bool:
        """Whether the stream's usage was asked for."""
        return bool((self.request.get("stream_options") or {}).get("include_usage"))

    async def write(self, content: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(content)
        await self.writer.drain()

    async def head(self, *lines: str, status: int = 200, version: str = "HTTP/1.1", kind: str | None = None) -> None:
        """Write status line and headers; `lines` are further ones, `kind` the content type (empty: none)."""
        if kind is None:
            kind = "text/event-stream; charset=utf-8" if self.is_stream and status < 300 else "application/json"
        shown = [f"Content-Type: {kind}"] if kind else []
        reason = _REASONS.get(status, "On Demand")
        await self.write("\r\n".join([f"{version} {status} {reason}", *shown, *lines, "", ""]).encode("latin-1"))

    async def stream_head(self, *lines: str) -> None:
        """Write the head of a chunked stream."""
        await self.head("Transfer-Encoding: chunked", *lines)

    async def chunk(self, content: bytes) -> None:
        """Write one HTTP chunk, and let the peer read it before the next."""
        await self.write(b"%x\r\n%b\r\n" % (len(content), content))
        await asyncio.sleep(0)

    async def words(self, count: int = OUTPUT_TOKENS) -> None:
        """Write the next words of the answer as chunked events; the provider charges them."""
        for event in self.word_events(count):
            await self.chunk(event)

    def word_events(self, count: int = OUTPUT_TOKENS) -> list[bytes]:
        """Return the next words as events, and charge them."""
        events = [event({"content": word}) for word in WORDS[self.sent_words : self.sent_words + count]]
        self.sent_words += len(events)
        self.bill = Bill(INPUT_TOKENS, self.sent_words)
        return events

    def ending(self, usage: Any = USAGE) -> list[bytes]:
        """Return the events after the last word: finish, usage when asked for, ``[DONE]``."""
        return [event({}, finish_reason="stop"), *self.usage_events(usage), DONE]

    def usage_events(self, usage: Any) -> list[bytes]:
        """Return the chunk that carries nothing but usage, when usage was asked for."""
        return [event(None, usage=usage)] if self.wants_usage else []

    async def stream(self, events: Sequence[bytes]) -> bool:
        """Send a whole chunked stream; the connection can be used again."""
        await self.stream_head()
        for content in events:
            await self.chunk(content)
        await self.write(LAST_CHUNK)
        return True

    async def reply(self, body: bytes, *lines: str, status: int = 200, kind: str | None = None) -> bool:
        """Send a whole plain reply; the connection can be used again."""
        await self.head(f"Content-Length: {len(body)}", *lines, status=status, kind=kind)
        await self.write(body)
        return True

    async def answer(self, usage: Any = USAGE) -> bool:
        """Answer as a healthy provider does, with whatever usage; the whole answer is charged."""
        if self.is_stream:
            return await self.stream([*self.word_events(), *self.ending(usage)])
        self.charge()
        return await self.reply(completion(usage))

    def charge(self, input_tokens: int = INPUT_TOKENS, output_tokens: int = OUTPUT_TOKENS) -> None:
        """Set what the provider charges."""
        self.bill = Bill(input_tokens, output_tokens)

    async def forever(self) -> bool:
        """Send nothing more until the peer leaves."""
        await asyncio.Event().wait()
        return False

    async def settle(self) -> None:
        """Give what was sent the time to arrive and be passed on: what comes with it in one read would hide it."""
        await asyncio.sleep(_SETTLE_SECONDS)

    async def reset(self) -> bool:
        """Close with a TCP reset, once what was sent has been read: a reset discards what has not."""
        await self.settle()
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        return False


def event(delta: dict[str, Any] | None, *, finish_reason: str | None = None, **fields: Any) -> bytes:
    """Return one event of a stream; without a delta it has no choice."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    return b"data: " + dump({**_BASE, "object": "chat.completion.chunk", "choices": choices, **fields}) + b"\n\n"


def completion(usage: Any = USAGE, *, text: str = "".join(WORDS), **fields: Any) -> bytes:
    """Return the body of a plain reply."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return dump({**_BASE, "object": "chat.completion", "choices": [choice], "usage": usage, **fields})


def error_body(status: int) -> bytes:
    """Return a provider's error object."""
    message = f"Status {status} on demand."
    return dump({"error": {"message": message, "type": "on_demand", "param": None, "code": f"on_demand_{status}"}})


def dump(value: object) -> bytes:
    """Encode as JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
