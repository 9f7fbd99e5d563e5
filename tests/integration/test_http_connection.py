"""HTTP/1.1 to providers, byte by byte: framing, bounds, back-pressure, compression, and which connections are kept."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from penstock_gateway.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from penstock_gateway.upstream import connections
from penstock_gateway.upstream.connections import ConnectionPool
from penstock_gateway.upstream.http_connection import PAUSE_BYTES, Deadlines, HttpResponse, Origin

PATIENT = Deadlines(5.0, 5.0, 5.0, 20.0)
ASKED = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
HANG_SECONDS = 10.0

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server whose every connection follows a script."""

    def __init__(self, script: Script) -> None:
        self.origin = Origin("127.0.0.1", 0, False)
        self.connections = 0
        self.ended = asyncio.Event()
        self._script = script

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Follow the script, then close."""
        self.connections += 1
        try:
            await self._script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.ended.set()


@asynccontextmanager
async def peer(script: Script) -> AsyncIterator[Peer]:
    """Listen on a free port."""
    served = Peer(script)
    async with await asyncio.start_server(served.serve, "127.0.0.1", 0) as server:
        served.origin = Origin("127.0.0.1", server.sockets[0].getsockname()[1], False)
        async with asyncio.timeout(HANG_SECONDS):
            yield served


@pytest.fixture
async def pool() -> AsyncIterator[ConnectionPool]:
    """Return a pool that is closed afterwards."""
    made = ConnectionPool()
    yield made
    await made.aclose()


def answering(*answers: bytes, then_waits: bool = True) -> Script:
    """Return a script that sends one answer to each request."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        if then_waits:
            await reader.read()

    return script


def sized(body: bytes, *headers: bytes) -> bytes:
    """Return a whole answer."""
    fields = b"".join(header + b"\r\n" for header in headers)
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (fields, len(body), body)


async def whole(response: HttpResponse) -> bytes:
    """Return the body."""
    parts = []
    while part := await response.packet():
        parts.append(part)
    return b"".join(parts)


async def test_connection_interim_answer_is_passed_over(pool: ConnectionPool) -> None:
    """An interim status is not the answer, and its headers are not the answer's."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    async with peer(answering(interim + sized(b"yes", b"X-A: 1"))) as served:
        response = await pool.request(served.origin, ASKED, PATIENT)
        assert (response.status, await whole(response)) == (200, b"yes")
        assert response.header(b"link") == b""
        assert response.header(b"x-a") == b"1"


async def test_connection_body_without_a_length_ends_with_the_connection(pool: ConnectionPool) -> None:
    """HTTP/1.0 and ``Connection: close`` bodies end where the server closes."""
    async with peer(answering(b"HTTP/1.1 200 OK\r\n\r\nall of it", then_waits=False)) as served:
        response = await pool.request(served.origin, ASKED, PATIENT)
        assert await whole(response) == b"all of it"


async def test_connection_body_with_a_length_is_broken_when_the_connection_ends_first(pool: ConnectionPool) -> None:
    """What came of a body that was cut is returned, and then the failure."""
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
    async with peer(answering(cut, then_waits=False)) as served:
        response = await pool.request(served.origin, ASKED, PATIENT)
        assert await response.packet() == b"half"
        with pytest.raises(UpstreamBroken):
            await response.packet()


@pytest.mark.parametrize("where", ["head", "trailers", "extension"])
async def test_connection_endless_fields_are_refused(pool: ConnectionPool, where: str) -> None:
    """What is not body is bounded wherever it stands, so that a provider cannot fill our memory with it."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        start = {
            "head": b"HTTP/1.1 200 OK\r\n",
            "trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
            "extension": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        }[where]
        writer.write(start)
        while True:
            writer.write(b"a" * 1000 if where == "extension" else b"x-field: " + b"v" * 1000 + b"\r\n")
            await writer.drain()

    async with peer(flood) as served:
        with pytest.raises(UpstreamBroken):
            await whole(await pool.request(served.origin, ASKED, PATIENT))
        await served.ended.wait()


async def test_connection_slow_reader_stops_the_provider(pool: ConnectionPool) -> None:
    """A body that nobody reads is not read from the connection either; it goes on, whole, when it is."""
    written = 0
    size = 40 * PAUSE_BYTES

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while written < size:
            writer.write(b"x" * PAUSE_BYTES)
            await writer.drain()
            written += PAUSE_BYTES
        await reader.read()

    async with peer(pour) as served:
        response = await pool.request(served.origin, ASKED, PATIENT)
        before = -1
        while before != written:  # until the sockets' own buffers are full too
            before = written
            await asyncio.sleep(0.05)
        assert written < size
        assert response.buffered_bytes < 4 * PAUSE_BYTES
        assert len(await whole(response)) == size
        again = pool.request(served.origin, ASKED, Deadlines(5.0, 0.2, 0.2, 0.2))
        with pytest.raises(UpstreamTimeout):  # the same connection, which answers nothing more
            await again
        assert served.connections == 1


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
async def test_connection_compressed_bomb_comes_in_pieces(pool: ConnectionPool, coding: bytes) -> None:
    """However much a packet unpacks to, one piece of it is bounded, and together they are the body."""
    body = b"\0" * 20_000_000
    packed = gzip.compress(body) if coding == b"gzip" else zlib.compress(body)
    async with peer(answering(sized(packed, b"Content-Encoding: " + coding))) as served:
        response = await pool.request(served.origin, ASKED, PATIENT)
        sizes = []
        while piece := await response.packet():
            sizes.append(len(piece))
        assert sum(sizes) == len(body)
        assert max(sizes) <= 1024 * 1024


@pytest.mark.parametrize(
    "packed", [gzip.compress(b"text" * 500, mtime=0)[:-9], b"this is not compressed"], ids=["cut", "not packed"]
)
async def test_connection_compressed_body_that_is_damaged_is_broken(pool: ConnectionPool, packed: bytes) -> None:
    """A compressed body that ends early, or is none, is not taken for an answer."""
    async with peer(answering(sized(packed, b"Content-Encoding: gzip"))) as served:
        response = await pool.request(served.origin, ASKED, PATIENT)
        with pytest.raises(UpstreamBroken):
            await whole(response)


async def test_connection_unknown_compression_is_broken_before_the_body(pool: ConnectionPool) -> None:
    """Bytes that nobody here can read never reach a client."""
    async with peer(answering(sized(b"...", b"Content-Encoding: br"))) as served:
        with pytest.raises(UpstreamBroken):
            await pool.request(served.origin, ASKED, PATIENT)


async def test_connection_answer_to_nobody_closes_an_idle_connection(pool: ConnectionPool) -> None:
    """What comes on an idle connection would pass for the next answer: the connection is closed."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sized(b"one"))
        await asyncio.sleep(0.01)  # the first answer has gone to its reader by then, or it is caught in the same read
        writer.write(sized(b"to nobody"))
        await reader.read()

    async with peer(script) as served:
        assert await whole(await pool.request(served.origin, ASKED, PATIENT)) == b"one"
        await served.ended.wait()
        assert await whole(await pool.request(served.origin, ASKED, PATIENT)) == b"one"
        assert served.connections == 2


async def test_connection_that_says_close_is_not_kept(pool: ConnectionPool) -> None:
    """``Connection: close`` is believed before the server has acted on it."""
    async with peer(answering(sized(b"a", b"Connection: close"))) as served:
        for _ in range(2):
            assert await whole(await pool.request(served.origin, ASKED, PATIENT)) == b"a"
        assert served.connections == 2


async def test_connection_that_was_idle_too_long_is_closed(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle connections are closed before load balancers close them, without any further request."""
    monkeypatch.setattr(connections, "KEEP_ALIVE_SECONDS", 0.05)
    async with peer(answering(sized(b"a"))) as served:
        await whole(await pool.request(served.origin, ASKED, PATIENT))
        await served.ended.wait()


async def test_connection_reader_that_left_a_complete_answer_does_not_disturb_the_next(pool: ConnectionPool) -> None:
    """An answer may be closed late, when its connection has long been serving another request."""
    async with peer(answering(sized(b"one"), sized(b"two"))) as served:
        first = await pool.request(served.origin, ASKED, PATIENT)
        second = await pool.request(served.origin, ASKED, PATIENT)
        first.close()
        assert await whole(second) == b"two"
        assert await first.packet() == b"one"
        assert served.connections == 1


async def test_connection_names_are_resolved_once_for_a_burst(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred new connections ask the resolver once, and each still gets its own connection."""
    asked = 0
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def counted(*arguments: object, **options: object) -> object:
        nonlocal asked
        asked += 1
        return await resolve(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "getaddrinfo", counted)
    async with peer(answering(sized(b"a"))) as served:
        origin = Origin("localhost", served.origin.port, False)
        responses = await asyncio.gather(*(pool.request(origin, ASKED, PATIENT) for _ in range(100)))
        assert [await whole(response) for response in responses] == [b"a"] * 100
        assert asked == 1
        assert served.connections == 100


async def test_connection_name_that_did_not_resolve_is_asked_again(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver's failure is not remembered."""
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo
    failures = [OSError("no resolver")]

    async def flaky(*arguments: object, **options: object) -> object:
        if failures:
            raise failures.pop()
        return await resolve(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "getaddrinfo", flaky)
    async with peer(answering(sized(b"a"))) as served:
        origin = Origin("localhost", served.origin.port, False)
        with pytest.raises(UpstreamUnreachable):
            await pool.request(origin, ASKED, PATIENT)
        assert await whole(await pool.request(origin, ASKED, PATIENT)) == b"a"


async def test_connection_deadline_moves_with_every_packet(pool: ConnectionPool) -> None:
    """A stream may last longer than its idle deadline, and a pause beyond it ends the stream."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(8):
            writer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.1)
        await reader.read()

    async with peer(drip) as served:
        response = await pool.request(served.origin, ASKED, Deadlines(5.0, 5.0, 0.4, 20.0))
        received: list[bytes] = []

        async def read_on() -> None:
            while part := await response.packet():
                received.append(part)

        with pytest.raises(UpstreamTimeout):
            await read_on()
        assert b"".join(received) == b"x" * 8
        await served.ended.wait()


async def test_connection_cancelled_while_it_connects_leaves_nothing(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is given up during the handshake takes its socket with it."""

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # a TLS hello, to which nothing is said

    async with peer(mute) as served:
        asking = asyncio.ensure_future(pool.request(served.origin._replace(is_tls=True), ASKED, PATIENT))
        while not served.connections:
            await asyncio.sleep(0.005)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await served.ended.wait()


async def test_connection_pool_that_closes_tells_who_waits(pool: ConnectionPool) -> None:
    """A gateway that stops must not wait for an answer that cannot come any more, neither its head nor its rest."""

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        if asked.startswith(b"POST /begun"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await reader.read()

    async with peer(begin) as served:
        begun = await pool.request(served.origin, ASKED.replace(b"POST /", b"POST /begun"), PATIENT)
        assert await begun.packet() == b"half"
        waiting = [
            asyncio.ensure_future(begun.packet()),
            asyncio.ensure_future(pool.request(served.origin, ASKED, PATIENT)),
        ]
        while served.connections < 2:
            await asyncio.sleep(0.005)
        await pool.aclose()
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, UpstreamBroken)
