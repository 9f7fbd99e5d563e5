"""Speaking to servers of any of the wire formats over pooled HTTP connections.

Owns what goes out and what comes back: the request's line and headers, which answers are answers, and how their bodies
are read; `connections` owns the pool. It must not interpret requests, choose deployments or retry a request that may
have been processed. Read `DirectUpstream.send` first, then `DirectReply.events`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from typing import NamedTuple

import msgspec
from yarl import URL

from penstock_gateway.errors import UpstreamBroken, UpstreamError, UpstreamRejectedKey, UpstreamUnreachable
from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.connections import ConnectionPool
from penstock_gateway.upstream.http_connection import Deadlines, HttpResponse, Origin
from penstock_gateway.upstream.protocol import Shortcut, UpstreamRequest
from penstock_gateway.upstream.readings import READINGS
from penstock_gateway.upstream.sse import EventScanner
from penstock_gateway.wire.formats import PATHS, WireFormat

MAX_REPLY_BYTES = 64 * 1024 * 1024
"""Largest plain reply. Several base64 images or minutes of audio fit; it bounds memory per request."""

DRAIN_SECONDS = 0.1
"""How long a finished stream may take to close its body, so that the connection can be reused."""

ANTHROPIC_VERSION = "2023-06-01"
"""Of the Messages API (platform.claude.com/docs/en/api/versioning); a deployment's own header wins."""

_STREAM_TYPES = frozenset({b"text/event-stream", b"text/plain", b"application/octet-stream", b""})
_RETURNED_HEADERS = {
    b"retry-after": b"retry-after",
    b"retry-after-ms": b"retry-after-ms",
    b"x-should-retry": b"x-should-retry",
    b"openai-processing-ms": b"openai-processing-ms",
    # Under another name, because the gateway answers with an x-request-id of its own.
    b"x-request-id": b"x-upstream-request-id",
    b"request-id": b"x-upstream-request-id",  # Anthropic's
}
_RETURNED_PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-")
# Set by us; a configured value would corrupt the request or hide what we relay.
_RESERVED_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding"}
)
_REDIRECTS = range(300, 400)
_WITHOUT_CONTENT = frozenset({*range(100, 200), 204, 205})  # a final 101 is a switch to a protocol nobody asked for
_KEY_REFUSED = frozenset({401, 403})
_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.1
_FIELD_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")  # section 5.5
_MAX_HEADS = 1_000
_encode = msgspec.json.Encoder().encode


class _Head(NamedTuple):
    """What every request to an endpoint begins with.

    Attributes
    ----------
    origin : Origin
    start : bytes
        Request line and headers, without those of one request.
    headers : mapping of str to str
        The deployment's, held so that its identity is not given to another.
    """

    origin: Origin
    start: bytes
    headers: Mapping[str, str]


class DirectUpstream:
    """Sends requests to servers that speak one of the wire formats.

    Parameters
    ----------
    max_reply_bytes : int
        Largest plain reply that is read, bytes.
    user_agent : str
        Sent with every request.

    Notes
    -----
    What goes out is made here alone: method, path, the body, the deployment's credential and configured headers,
    and ``x-request-id``. No header of the client is passed on, redirects are not followed, cookies are not kept,
    and neither proxy variables nor ``.netrc`` are read. Identity encoding is asked for, so that streams are
    relayed as they come; a server that compresses anyway is decoded.
    """

    def __init__(self, *, max_reply_bytes: int = MAX_REPLY_BYTES, user_agent: str = "penstock") -> None:
        self._max_reply_bytes = max_reply_bytes
        self._user_agent = user_agent
        self._pool = ConnectionPool()
        self._heads: dict[tuple[str, str, str, WireFormat, bool, int], _Head] = {}

    async def send(self, request: UpstreamRequest) -> DirectReply:
        """Send one request and return when the status line is known.

        Parameters
        ----------
        request : UpstreamRequest

        Returns
        -------
        DirectReply
            Of a success status that carries content, or of any error status but 401 and 403.

        Raises
        ------
        UpstreamUnreachable
            Refused, name not resolved, TLS failed, or the configured address or headers cannot be used; nothing was
            sent.
        UpstreamTimeout
            Not connected or no complete head in time.
        UpstreamBroken
            The connection broke before the head was complete, or the answer is not HTTP, a redirect, of a status
            without content, or not a stream although one was asked for.
        UpstreamRejectedKey
            Status 401 or 403.
        """
        head = self._head(request)
        body = _encode(request.body)
        deployment = request.deployment
        deadlines = Deadlines(
            deployment.connect_timeout_seconds,
            deployment.first_byte_timeout_seconds,
            deployment.idle_timeout_seconds,
            deployment.total_timeout_seconds,
        )
        message = b"%bX-Request-Id: %b\r\nContent-Length: %d\r\n\r\n%b" % (
            head.start,
            request.request_id.encode("ascii", "replace"),
            len(body),
            body,
        )
        response = await self._pool.request(head.origin, message, deadlines)
        try:
            media_type = response.header(b"content-type")
            _check_status(response.status, media_type, is_stream=request.is_stream)
        except UpstreamError:
            response.close()
            raise
        return DirectReply(response, request, media_type.decode("latin-1"), max_reply_bytes=self._max_reply_bytes)

    async def aclose(self) -> None:
        """Close the connections; safe to call twice."""
        await self._pool.aclose()

    def _head(self, request: UpstreamRequest) -> _Head:
        """Return the origin and the unchanging start of a request; made once per endpoint.

        Raises
        ------
        UpstreamUnreachable
        """
        deployment = request.deployment
        path = request.path or PATHS[request.wire]
        if request.headers:
            return self._new_head(request, path)
        key = (
            deployment.base_url,
            path,
            deployment.api_key,
            request.wire,
            request.is_stream,
            id(deployment.headers),
        )
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            head = self._heads[key] = self._new_head(request, path)
        return head

    def _new_head(self, request: UpstreamRequest, path: str) -> _Head:
        deployment = request.deployment
        try:
            url = _endpoint(deployment.base_url, path)
            origin = Origin(url.raw_host or "", url.port or 0, url.scheme == "https")
            headers = {"Host": url.host_port_subcomponent or "", **self._headers(request)}
            fields = [_field(name, value) for name, value in headers.items()]
        except ValueError as error:
            raise UpstreamUnreachable("The provider's configured address or headers cannot be used.") from error
        start = b"POST %b HTTP/1.1\r\n%b" % (url.raw_path_qs.encode("ascii"), b"".join(fields))
        return _Head(origin, start, deployment.headers)

    def _headers(self, request: UpstreamRequest) -> dict[str, str]:
        deployment = request.deployment
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if request.is_stream else "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": self._user_agent,
        }
        if request.wire is WireFormat.MESSAGES:
            headers["Anthropic-Version"] = ANTHROPIC_VERSION
            if deployment.api_key:
                headers["X-Api-Key"] = deployment.api_key
        elif deployment.api_key:
            headers["Authorization"] = f"Bearer {deployment.api_key}"
        headers |= {name.title(): value for name, value in request.headers}
        if deployment.headers:
            configured = {name.title(): value for name, value in deployment.headers.items()}
            headers |= {name: value for name, value in configured.items() if name.lower() not in _RESERVED_HEADERS}
        return headers


class _ReplyTooLarge(UpstreamBroken):
    """Whose length says nothing about how much text there is: pictures and sound are large."""


class DirectReply:
    """An answer whose status is known; see `protocol.UpstreamReply`."""

    def __init__(
        self, response: HttpResponse, request: UpstreamRequest, content_type: str, *, max_reply_bytes: int
    ) -> None:
        self.status = response.status
        self.content_type = content_type
        self.headers = _returned_headers(response)
        self.usage: Usage | None = None
        self.output_bytes = 0
        self.stream_error: str | None = None
        self._response = response
        self._hides_usage = request.hides_usage
        self._choices = _choices_wanted(request)
        self._reading = READINGS[request.wire]
        self._max_reply_bytes = max_reply_bytes
        self._scanner: EventScanner | None = None
        self._way: Shortcut | None = None

    async def read(self) -> bytes:
        """Return the whole body as sent; usage is known afterwards.

        Raises
        ------
        UpstreamTimeout
            No next byte within the idle deadline, or the total deadline passed.
        UpstreamBroken
            Reset, cut short, longer than allowed, or (status below 300) not a JSON object or an error object.
        """
        parts: list[bytes] = []
        size = 0
        try:
            while packet := await self._response.packet():
                size += len(packet)
                if size > self._max_reply_bytes:
                    raise _ReplyTooLarge("The provider sent a reply that is too large.")
                parts.append(packet)
        except BaseException as error:
            self._close()
            if not isinstance(error, _ReplyTooLarge):
                self._note_part(b"".join(parts))
            raise
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if self.status < 300:
            try:
                self.usage, self.output_bytes = self._reading.read_reply(body)
            except ValueError as error:
                self._note_part(body)
                raise UpstreamBroken(f"The provider sent {error}.") from error
        return body

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield blocks of one or more complete events, byte for byte as sent, one block per packet read.

        Raises
        ------
        UpstreamTimeout
            No next byte within the idle deadline, or the total deadline passed.
        UpstreamBroken
            Reset; cut short, which means ended without ``[DONE]``, without an error event and without a finish
            reason for every choice seen; an event that is not JSON or too large.
        UpstreamRejectedKey
            The provider refused the credential inside the stream.

        Notes
        -----
        A stream that stalls or is reset after the finish reasons of all choices asked for ends in good order, as one
        that merely lacks ``[DONE]`` does: the client has the whole answer, and only the usage may be missing.
        """
        scanner = self._scanner = self._reading.new_scanner(self._hides_usage)
        try:
            while True:
                try:
                    packet = await self._response.packet()
                except UpstreamError:  # after a complete answer it is the end of the stream
                    if scanner.is_over:  # as `_pass_on` has found
                        break
                    if scanner.finished_choices < self._choices or not scanner.is_complete:
                        raise
                    break
                if not packet:
                    break
                block = scanner.feed(packet)
                self._copy(scanner)
                if block:
                    yield block
                if scanner.failure is not None:
                    raise scanner.failure
                if scanner.is_done:
                    await self._drain()
                    return
            block = scanner.finish()
            self._copy(scanner)
            if block:
                yield block
            if scanner.failure is not None:
                raise scanner.failure
        finally:
            self._close()

    def shorten(self, way: Shortcut) -> None:
        """Pass ordinary events on this way, while the reader of `events` waits."""
        self._way = way
        self._response.on_part = self._pass_on

    def _pass_on(self, packet: bytes) -> bool:
        """Pass a packet on; false when the reader has to take it."""
        scanner, way = self._scanner, self._way
        if scanner is None or way is None or not scanner.is_ordinary(packet):
            return False
        if not way.may_take(self.output_bytes + len(packet)):
            return False
        block = scanner.feed(packet)
        self._copy(scanner)
        if block:
            way.take(block)
        if scanner.is_over:  # which its reader has to be told
            self._response.break_off(scanner.failure or UpstreamBroken("The provider's stream has ended."))
        return True

    async def aclose(self) -> None:
        """Release the connection: back to the pool when the body was read to its end, else closed."""
        self._close()

    def _note_part(self, part: bytes) -> None:
        """Learn from a broken body what the bill needs: its usage when that has arrived, else how much text has."""
        try:
            self.usage, self.output_bytes = self._reading.read_reply(part)
        except ValueError:
            self.output_bytes = _answer_bytes(part, self._reading.answer_begins)

    def _close(self) -> None:
        self._way = self._response.on_part = None  # they refer to this object: no cycle for the garbage collector
        self._response.close()  # no effect on a connection that has gone back to the pool

    def _copy(self, scanner: EventScanner) -> None:
        self.usage = scanner.usage
        self.output_bytes = scanner.output_bytes
        self.stream_error = scanner.stream_error

    async def _drain(self) -> None:
        """Wait briefly for the body's end after ``[DONE]``, so that the connection can be reused."""
        if self._response.is_complete:
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while await self._response.packet():
                    pass
        except (UpstreamError, TimeoutError):
            return  # the answer is complete; only the connection is lost


def _endpoint(base_url: str, path: str) -> URL:
    """Return an endpoint under a base URL, whose query (Azure's api-version) is kept.

    Raises
    ------
    ValueError
        No request can be sent there.
    """
    base = URL(base_url)
    if base.scheme not in ("http", "https") or not base.raw_host or base.raw_user is not None:
        raise ValueError("not an address of a server")
    return base.with_path(base.path.rstrip("/") + path).with_query(base.query)


def _field(name: str, value: str) -> bytes:
    """Return a header as it is sent.

    Raises
    ------
    ValueError
        It cannot be sent.
    """
    raw_name, raw_value = name.encode("ascii"), value.strip().encode("latin-1")
    if not _FIELD_NAME.fullmatch(raw_name) or not _FIELD_VALUE.fullmatch(raw_value):
        raise ValueError("not a header")
    return b"%b: %b\r\n" % (raw_name, raw_value)


def _check_status(status: int, media_type: bytes, *, is_stream: bool) -> None:
    """Refuse answers that no client may see."""
    if status == 200 and not is_stream:
        return
    if status in _KEY_REFUSED:
        raise UpstreamRejectedKey("The provider refused this gateway's credential.")
    if status in _REDIRECTS:
        raise UpstreamBroken("The provider answered with a redirect, which is not followed.")
    if status in _WITHOUT_CONTENT:
        raise UpstreamBroken("The provider answered with a status that carries no answer.")
    if is_stream and status < 300 and media_type.partition(b";")[0].strip().lower() not in _STREAM_TYPES:
        raise UpstreamBroken("The provider answered a stream request with something else.")


def _answer_bytes(part: bytes, begins: bytes) -> int:
    """Return how many bytes of an answer there are in a broken body, an upper bound of its text; 0 in anything else."""
    begin = part.find(begins)
    return 0 if begin < 0 else len(part) - begin - len(begins)


def _choices_wanted(request: UpstreamRequest) -> int:
    """Return how many choices a request asks for; 1 when it does not say."""
    wanted = bytes(request.body.get("n", b"1"))
    return int(wanted) if wanted.isdigit() else 1


def _returned_headers(response: HttpResponse) -> tuple[tuple[bytes, bytes], ...]:
    """Return the provider's headers that are worth passing on, in lower case."""
    returned = []
    for name, value in response.headers:
        if name.startswith(_RETURNED_PREFIXES):
            returned.append((name, value))
        elif (renamed := _RETURNED_HEADERS.get(name)) is not None:
            returned.append((renamed, value))
    return tuple(returned)
