"""A provider on loopback: replays recorded shapes of chat completions, and misbehaves on demand.

The model name selects everything, so that a test reads well::

    openai-text                  a recording (tests/support/recordings/openai-text.json)
    openai-text@7                the same, its stream cut every 7 bytes
    openai-text!reset-after-3    the same, the connection reset after 3 events
    echo                         answers with the request it received, as JSON text in the content

See `CHUNKINGS` and `BEHAVIOURS`. The server speaks HTTP/1.1 itself, on asyncio streams: a web framework would not let
it break the protocol. Read `ReplayUpstream` first.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gzip
import json
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORDINGS = Path(__file__).parent / "recordings"

CHUNKINGS = ("event", "whole", "1", "7", "random")
"""How a stream is cut into packets: one event each, all in one, every so many bytes, or by a seeded generator."""

BEHAVIOURS = {
    "stall": "accepts the request and never answers",
    "stall-after-headers": "sends the status line and headers, then nothing",
    "stall-after-N": "sends N events, then nothing",
    "reset": "resets the connection instead of answering",
    "reset-after-N": "sends N events, then resets the connection",
    "close": "closes the connection in good order without answering",
    "truncate-after-N": "sends N events and a half, then ends the body in good order",
    "cut-after-N": "sends N events and a half, then closes the connection inside the body",
    "garbage": "answers with bytes that are not HTTP",
    "garbage-body": "answers 200 with a body, or an event, that is not JSON",
    "json": "answers a stream request with one JSON document",
    "error-200": "answers 200 with an error object",
    "status-NNN": "answers with that status and an error object (html for 502)",
    "redirect-PORT": "answers 307 with a Location on that loopback port",
    "gzip": "compresses although identity was asked for",
    "huge": "sends one event, or a body, of 3 MB",
    "open-after-done": "keeps the body open after [DONE]",
}


@dataclass(frozen=True)
class SeenRequest:
    """One request as it arrived.

    Attributes
    ----------
    method, path : str
        As in the request line.
    headers : dict of str to str
        Names in lower case.
    body : bytes
    connection : int
        Ordinal of the connection it came on.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> dict[str, Any]:
        """The body, decoded."""
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded


@dataclass(frozen=True)
class Recording:
    """One recorded shape: the plain reply and the events of the stream."""

    plain: dict[str, Any]
    events: tuple[bytes, ...]

    def body(self) -> bytes:
        """Return the plain reply, encoded as providers do."""
        return _dump(self.plain)


@functools.cache
def load_recording(name: str, *, includes_usage: bool) -> Recording:
    """Return a recording, with or without the events that a provider sends only on ``include_usage``."""
    document = json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))
    ending = document["line_ending"].encode()
    events = []
    for entry in document["stream"]:
        if entry.get("when") == "include_usage" and not includes_usage:
            continue
        text = entry["raw"].encode() if "raw" in entry else b"data: " + _dump(entry["data"])
        events.append(ending.join(text.split(b"\n")) + ending * 2)
    return Recording(document["plain"], tuple(events))


def recording_names() -> tuple[str, ...]:
    """Return the names of all recordings."""
    return tuple(sorted(path.stem for path in RECORDINGS.glob("*.json")))


def cut(stream: bytes, events: tuple[bytes, ...], chunking: str) -> Iterator[bytes]:
    """Cut a stream into packets.

    Parameters
    ----------
    stream : bytes
        The concatenated events.
    events : tuple of bytes
    chunking : str
        One of `CHUNKINGS`, or any number of bytes.
    """
    if chunking == "event":
        yield from events
    elif chunking == "whole":
        yield stream
    elif chunking == "random":
        source = random.Random(20261123)
        position = 0
        while position < len(stream):
            size = source.choice((1, 2, 3, 5, 17, 64, 300, 1500))
            yield stream[position : position + size]
            position += size
    else:
        size = int(chunking)
        for position in range(0, len(stream), size):
            yield stream[position : position + size]


@dataclass
class ReplayUpstream:
    """The server. Use `running_replay_upstream`, or `start` and `aclose`.

    Attributes
    ----------
    requests : list of SeenRequest
        Everything that arrived, in order.
    chunking : str
        The cut for models that name none.
    accepted_connections : int
    live_connections : set of int
        Ordinals of the connections that are open.
    idle_seconds : float or None
        Close a connection that has been idle this long after an answer (0 = at once, without saying so).
    drops_next_on_reuse : bool
        Reset the next connection that sends a second request, unanswered, as a server does whose idle time-out
        crossed the request on the wire.
    """

    requests: list[SeenRequest] = field(default_factory=list)
    chunking: str = "event"
    accepted_connections: int = 0
    live_connections: set[int] = field(default_factory=set)
    idle_seconds: float | None = None
    drops_next_on_reuse: bool = False
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one."""
        self._server = await asyncio.start_server(self._serve, host, port)

    @property
    def port(self) -> int:
        """The port listened on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self.live_connections)

    @property
    def base_url(self) -> str:
        """What a deployment's ``base_url`` has to be."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def aclose(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_open_connections(self, count: int, *, timeout_seconds: float = 5.0) -> None:
        """Wait until exactly `count` connections are open; raises TimeoutError."""
        async with asyncio.timeout(timeout_seconds):
            while self.open_connections != count:
                await asyncio.sleep(0.005)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted_connections += 1
        connection = self.accepted_connections
        self.live_connections.add(connection)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._converse(reader, writer, connection)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.live_connections.discard(connection)
            self._tasks.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> None:
        is_reused = False
        while (seen := await _read_request(reader, connection)) is not None:
            self.requests.append(seen)
            if is_reused and self.drops_next_on_reuse:
                self.drops_next_on_reuse = False
                writer.transport.abort()
                return
            is_reused = True
            if seen.method == "GET":
                await _respond(writer, 200, _dump({"object": "list", "data": []}))
            else:
                # A client that hangs up must end the answer, also one that stalls.
                answer = asyncio.ensure_future(_Answer(seen, writer, self.chunking).send())
                hangup = asyncio.ensure_future(_until_hangup(reader))
                try:
                    await asyncio.wait({answer, hangup}, return_when=asyncio.FIRST_COMPLETED)
                    is_reusable = answer.done() and answer.result()
                finally:
                    for pending in (answer, hangup):
                        pending.cancel()
                    await asyncio.gather(answer, hangup, return_exceptions=True)
                if not is_reusable:
                    return
            if self.idle_seconds is not None:
                await asyncio.sleep(self.idle_seconds)
                return


class _Answer:
    """One answer to one request."""

    def __init__(self, seen: SeenRequest, writer: asyncio.StreamWriter, chunking: str) -> None:
        self._writer = writer
        self._request = seen.json
        selector, _, behaviour = str(self._request.get("model", "openai-text")).partition("!")
        name, _, own_chunking = selector.partition("@")
        self._behaviour, self._argument = _parse_behaviour(behaviour)
        self._chunking = own_chunking or chunking
        self._is_stream = self._request.get("stream") is True
        options = self._request.get("stream_options") or {}
        self._recording = (
            _echo(seen) if name == "echo" else load_recording(name, includes_usage=bool(options.get("include_usage")))
        )

    async def send(self) -> bool:
        """Answer; return whether the connection can serve another request."""
        match self._behaviour:
            case "stall":
                await asyncio.Event().wait()
            case "reset":
                self._reset()
                return False
            case "close":
                return False
            case "garbage":
                self._writer.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
                await self._writer.drain()
                return False
            case "status":
                await self._send_status(self._argument)
                return True
            case "redirect":
                location = f"http://127.0.0.1:{self._argument}/v1/chat/completions"
                await _respond(self._writer, 307, b"", extra=f"Location: {location}\r\n")
                return True
            case "error-200":
                await _respond(self._writer, 200, _dump(_error("The engine is overloaded.", "overloaded")))
                return True
        if self._is_stream and self._behaviour != "json":
            return await self._send_stream()
        return await self._send_plain()

    async def _send_status(self, status: int) -> None:
        if status == 502:
            await _respond(self._writer, status, b"<html><body>Bad gateway</body></html>", kind="text/html")
            return
        extra = "Retry-After: 7\r\nX-RateLimit-Remaining-Requests: 0\r\n" if status == 429 else ""
        text = "Incorrect API key provided: sk-secret." if status in (401, 403) else f"Status {status} on demand."
        await _respond(self._writer, status, _dump(_error(text, f"on_demand_{status}")), extra=extra)

    async def _send_plain(self) -> bool:
        body = self._recording.body()
        match self._behaviour:
            case "huge":
                body = _dump({**self._recording.plain, "padding": "x" * 3_000_000})
            case "garbage-body":
                body = b'{"choices": [oops'
            case "gzip":
                extra = "Content-Encoding: gzip\r\n"
                await _respond(self._writer, 200, gzip.compress(body), extra=extra)
                return True
            case "stall-after-headers" | "stall-after":
                self._writer.write(_head(200, "application/json", f"Content-Length: {len(body)}\r\n"))
                await asyncio.Event().wait()
            case "cut-after" | "truncate-after" | "reset-after":
                self._writer.write(_head(200, "application/json", f"Content-Length: {len(body)}\r\n"))
                self._writer.write(body[: len(body) // 2])
                await self._writer.drain()
                if self._behaviour == "reset-after":
                    self._reset()
                return False
        await _respond(self._writer, 200, body)
        return True

    async def _send_stream(self) -> bool:
        events = self._recording.events
        if self._behaviour == "huge":
            events = (b'data: {"choices":[],"padding":"' + b"x" * 3_000_000 + b'"}\n\n', *events)
        if self._behaviour == "garbage-body":
            events = (*events[:2], b"data: {oops\n\n", *events[2:])
        encoding = "Content-Encoding: gzip\r\n" if self._behaviour == "gzip" else ""
        self._writer.write(_head(200, "text/event-stream; charset=utf-8", f"Transfer-Encoding: chunked\r\n{encoding}"))
        await self._writer.drain()
        if self._behaviour == "stall-after-headers":
            await asyncio.Event().wait()
        if self._behaviour in ("stall-after", "reset-after", "truncate-after", "cut-after"):
            return await self._send_part(events)
        stream = b"".join(events)
        packets = [gzip.compress(stream)] if self._behaviour == "gzip" else cut(stream, events, self._chunking)
        for packet in packets:
            await self._send_packet(packet)
        if self._behaviour == "open-after-done":
            await asyncio.Event().wait()
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        return True

    async def _send_part(self, events: tuple[bytes, ...]) -> bool:
        """Send the first events, and then what the behaviour says."""
        head, rest = events[: self._argument], events[self._argument :]
        for packet in cut(b"".join(head), head, self._chunking):
            await self._send_packet(packet)
        if self._behaviour == "stall-after":
            await asyncio.Event().wait()
        if self._behaviour == "reset-after":
            await asyncio.sleep(0.05)  # let the events arrive: a reset discards what the peer has not read
            self._reset()
            return False
        if rest:
            await self._send_packet(rest[0][: len(rest[0]) // 2])
        if self._behaviour == "truncate-after":
            self._writer.write(b"0\r\n\r\n")
            await self._writer.drain()
        return False

    async def _send_packet(self, packet: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(packet), packet))
        await self._writer.drain()
        await asyncio.sleep(0)

    def _reset(self) -> None:
        """Close with a TCP reset."""
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def running_replay_upstream() -> AsyncIterator[ReplayUpstream]:
    """Yield a started server on a free loopback port, and stop it afterwards."""
    server = ReplayUpstream()
    await server.start()
    try:
        yield server
    finally:
        await server.aclose()


def _parse_behaviour(text: str) -> tuple[str, int]:
    """Split ``reset-after-3`` into its name and its number."""
    name, _, number = text.rpartition("-")
    if number.isdigit() and text not in BEHAVIOURS:
        return name, int(number)
    if text and text not in BEHAVIOURS:
        raise ValueError(f"no behaviour is called {text!r}")
    return text, 0


def _echo(seen: SeenRequest) -> Recording:
    """Return a recording whose content is the request that arrived."""
    text = seen.body.decode()
    base = {"id": "chatcmpl-echo", "created": 1760000000, "model": "echo"}
    finish = {"index": 0, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    message = {"role": "assistant", "content": text}
    plain = {**base, "object": "chat.completion", "choices": [{**finish, "message": message}], "usage": usage}
    chunk = {**base, "object": "chat.completion.chunk", "choices": [{**finish, "delta": message}], "usage": usage}
    return Recording(plain, (b"data: " + _dump(chunk) + b"\n\n", b"data: [DONE]\n\n"))


async def _read_request(reader: asyncio.StreamReader, connection: int) -> SeenRequest | None:
    """Read one request; None when the client closed the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    headers = {}
    for line in lines[1:-2]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return SeenRequest(method, path, headers, body, connection)


async def _until_hangup(reader: asyncio.StreamReader) -> None:
    """Return when the client closed the connection (clients here never pipeline)."""
    while not reader.at_eof() and reader.exception() is None:
        await asyncio.sleep(0.005)


async def _respond(
    writer: asyncio.StreamWriter, status: int, body: bytes, *, kind: str = "application/json", extra: str = ""
) -> None:
    writer.write(_head(status, kind, f"Content-Length: {len(body)}\r\n{extra}") + body)
    await writer.drain()


def _head(status: int, kind: str, extra: str) -> bytes:
    lines = f"HTTP/1.1 {status} Replayed\r\nContent-Type: {kind}\r\nX-Request-Id: req_replayed\r\n"
    return (lines + "Set-Cookie: session=replay\r\nServer: replay\r\n" + extra + "\r\n").encode("latin-1")


def _error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "replayed_error", "param": None, "code": code}}


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
