"""Speaking to servers of any of the wire formats over pooled HTTP connections.

Owns the use of the HTTP client: deadlines, which headers go out and come back, and the translation of every client
error; `connections` owns the pool. It must not interpret requests, choose deployments or retry a request that may have
been processed. Read `DirectUpstream.send` first, then `DirectReply.events`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from types import SimpleNamespace

import aiohttp
import msgspec
from yarl import URL

from penstock_gateway.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamRejectedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.connections import new_session
from penstock_gateway.upstream.protocol import UpstreamRequest
from penstock_gateway.upstream.readings import READINGS
from penstock_gateway.upstream.sse import EventScanner
from penstock_gateway.wire.formats import PATHS, WireFormat

MAX_REPLY_BYTES = 64 * 1024 * 1024
"""Largest plain reply. Several base64 images or minutes of audio fit; it bounds memory per request."""

STALE_RETRY_SECONDS = 1.0
"""A reused connection that dies later than this after sending was not stale: the server worked on the request."""

DRAIN_SECONDS = 0.1
"""How long a finished stream may take to close its body, so that the connection can be reused."""

ANTHROPIC_VERSION = "2023-06-01"
"""Of the Messages API (platform.claude.com/docs/en/api/versioning); a deployment's own header wins."""

WATCH_SECONDS = 0.5
"""How often a reply under way is looked at for a connection that was given up without telling its reader."""

_STREAM_TYPES = frozenset({"text/event-stream", "text/plain", "application/octet-stream", ""})
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
# Set by the client library or by us; a configured value would corrupt the request or hide what we relay.
_RESERVED_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding"}
)
_REDIRECTS = range(300, 400)
_WITHOUT_CONTENT = frozenset({*range(100, 200), 204, 205})  # a final 101 is a switch to a protocol nobody asked for
_KEY_REFUSED = frozenset({401, 403})
_encode = msgspec.json.Encoder().encode


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
    relayed as they come; a server that compresses anyway is decoded. Certificates are verified against the
    system's store (``SSL_CERT_FILE`` is honoured). aiohttp sets ``TCP_NODELAY`` on every connection.
    """

    def __init__(self, *, max_reply_bytes: int = MAX_REPLY_BYTES, user_agent: str = "penstock") -> None:
        self._max_reply_bytes = max_reply_bytes
        self._user_agent = user_agent
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[tuple[str, str], URL] = {}

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
            Refused, name not resolved, TLS failed; nothing was sent.
        UpstreamTimeout
            Not connected or no complete head in time.
        UpstreamBroken
            The connection broke before the status line, or the answer is not HTTP, a redirect, of a status without
            content, or not a stream although one was asked for.
        UpstreamRejectedKey
            Status 401 or 403.

        Notes
        -----
        aiohttp repeats no POST. There is one case in which repeating is safe enough and needed: a pooled
        connection that the server closed while our request was on its way. `_open` repeats once when all of
        these hold: the connection had served before, it ended before any byte of an answer, and within
        `STALE_RETRY_SECONDS` of sending. A server that closes an idle connection has not read the request
        (RFC 9112 section 9.3.1 allows the repeat then); should it have read it after all, a chat completion
        changes nothing at the provider, and no provider bills an answer it did not begin to send.
        """
        response = await self._open(request)
        try:
            _check_status(response, is_stream=request.is_stream)
        except UpstreamError:
            response.close()
            raise
        return DirectReply(response, request, max_reply_bytes=self._max_reply_bytes)

    async def aclose(self) -> None:
        """Close pooled connections; safe to call twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _open(self, request: UpstreamRequest) -> aiohttp.ClientResponse:
        """Return the response to the request, repeating it once on a stale connection."""
        attempt = SimpleNamespace(is_reused=False)
        started = time.monotonic()
        try:
            return await self._post(request, attempt)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            is_connecting = isinstance(error, aiohttp.ClientConnectorError)
            is_quick = time.monotonic() - started < STALE_RETRY_SECONDS
            if is_connecting or not attempt.is_reused or not is_quick:
                raise translate_error(error) from error
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            raise translate_error(error) from error
        try:
            return await self._post(request, attempt)
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            raise translate_error(error) from error

    async def _post(self, request: UpstreamRequest, attempt: SimpleNamespace) -> aiohttp.ClientResponse:
        deployment = request.deployment
        session = self._session or self._start_session()
        # aiohttp's own deadline of a read begins when the body has been sent and anew with every packet: a provider
        # that does not take the body, or sends its head a byte at a time, would never pass it.
        async with asyncio.timeout(deployment.connect_timeout_seconds + deployment.first_byte_timeout_seconds):
            return await session.post(
                self._url(deployment.base_url, request.path or PATHS[request.wire]),
                data=_encode(request.body),
                headers=self._headers(request),
                allow_redirects=False,
                trace_request_ctx=attempt,
                timeout=aiohttp.ClientTimeout(
                    total=deployment.total_timeout_seconds,
                    connect=deployment.connect_timeout_seconds,
                    sock_read=deployment.first_byte_timeout_seconds,
                    ceil_threshold=60.0,  # sub-minute deadlines to the millisecond, not rounded up to seconds
                ),
            )

    def _start_session(self) -> aiohttp.ClientSession:
        """Make the session inside the running loop, on the first request."""
        self._session = new_session()
        return self._session

    def _url(self, base_url: str, path: str) -> URL:
        """Return an endpoint under a base URL, whose query (Azure's api-version) is kept."""
        url = self._urls.get((base_url, path))
        if url is None:
            base = URL(base_url)
            url = base.with_path(base.path.rstrip("/") + path).with_query(base.query)
            self._urls[base_url, path] = url
        return url

    def _headers(self, request: UpstreamRequest) -> dict[str, str]:
        deployment = request.deployment
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if request.is_stream else "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": self._user_agent,
            "X-Request-Id": request.request_id,
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

    def __init__(self, response: aiohttp.ClientResponse, request: UpstreamRequest, *, max_reply_bytes: int) -> None:
        self.status = response.status
        self.content_type = response.headers.get("Content-Type", "")
        self.headers = _returned_headers(response)
        self.usage: Usage | None = None
        self.output_bytes = 0
        self.stream_error: str | None = None
        self._response = response
        self._has_body_begun = False
        self._idle_timeout_seconds = request.deployment.idle_timeout_seconds
        self._hides_usage = request.hides_usage
        self._choices = _choices_wanted(request)
        self._reading = READINGS[request.wire]
        self._max_reply_bytes = max_reply_bytes
        self._loop = asyncio.get_running_loop()
        self._watcher = self._loop.call_later(WATCH_SECONDS, self._watch)

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
            while packet := await self._next_packet():
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
        scanner = self._reading.new_scanner(self._hides_usage)
        try:
            while packet := await self._next_packet_of(scanner):
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
        self._watcher.cancel()
        self._response.close()  # no effect on a connection that has gone back to the pool

    def _watch(self) -> None:
        """Wake a reader whose connection is gone.

        aiohttp closes a connection on which something came that is not HTTP, say a chunk without a size, and drops the
        deadline of the read with it. The reader of the body is not told, and would wait for the total deadline.
        """
        content, connection = self._response.content, self._response.connection
        if content.is_eof() or content.exception() is not None:
            return
        protocol = None if connection is None else connection.protocol
        if protocol is None or not protocol.is_connected():
            content.set_exception(aiohttp.ClientPayloadError("the connection was given up"))
            return
        self._watcher = self._loop.call_later(WATCH_SECONDS, self._watch)

    async def _next_packet_of(self, scanner: EventScanner) -> bytes:
        """Return the next bytes of a stream; a failure after a complete answer is its end."""
        try:
            return await self._next_packet()
        except UpstreamError:
            if scanner.finished_choices < self._choices or not scanner.is_complete:
                raise
            return b""

    async def _next_packet(self) -> bytes:
        """Return the next bytes of the body, empty at its end."""
        try:
            packet = await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise translate_error(error) from error
        if not self._has_body_begun:
            self._has_body_begun = True
            self._set_idle_deadline()
        return packet

    def _set_idle_deadline(self) -> None:
        """Until the first byte of the body the first-byte deadline held; from now on the idle one does."""
        connection = self._response.connection
        if connection is not None and connection.protocol is not None:
            connection.protocol.read_timeout = self._idle_timeout_seconds
            connection.protocol.start_timeout()

    def _copy(self, scanner: EventScanner) -> None:
        self.usage = scanner.usage
        self.output_bytes = scanner.output_bytes
        self.stream_error = scanner.stream_error

    async def _drain(self) -> None:
        """Wait briefly for the body's end after ``[DONE]``, so that the connection can be reused."""
        if self._response.content.at_eof():
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while await self._response.content.readany():
                    pass
        except (aiohttp.ClientError, TimeoutError, OSError):
            return  # the answer is complete; only the connection is lost


def translate_error(error: Exception) -> UpstreamError:
    """Return our error for one of aiohttp's.

    Parameters
    ----------
    error : Exception
        An `aiohttp.ClientError`, `TimeoutError`, `OSError` or `ValueError` from a request.

    Returns
    -------
    UpstreamError
        With a message that names neither host nor credential.
    """
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamTimeout("The provider could not be reached in time.", code="upstream_connect_timeout")
    if isinstance(error, TimeoutError):
        return UpstreamTimeout("The provider did not answer in time.")
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)):
        return UpstreamUnreachable("The provider could not be reached.")
    if isinstance(error, aiohttp.ClientResponseError):
        return UpstreamBroken("The provider's answer is not valid HTTP.")
    if isinstance(error, ValueError):
        return UpstreamUnreachable("The provider's configured address or headers cannot be used.")
    return UpstreamBroken("The connection to the provider broke before the answer was complete.")


def _check_status(response: aiohttp.ClientResponse, *, is_stream: bool) -> None:
    """Refuse answers that no client may see."""
    if response.status in _KEY_REFUSED:
        raise UpstreamRejectedKey("The provider refused this gateway's credential.")
    if response.status in _REDIRECTS:
        raise UpstreamBroken("The provider answered with a redirect, which is not followed.")
    if response.status in _WITHOUT_CONTENT:
        raise UpstreamBroken("The provider answered with a status that carries no answer.")
    if is_stream and response.status < 300 and _media_type(response) not in _STREAM_TYPES:
        raise UpstreamBroken("The provider answered a stream request with something else.")


def _answer_bytes(part: bytes, begins: bytes) -> int:
    """Return how many bytes of an answer there are in a broken body, an upper bound of its text; 0 in anything else."""
    begin = part.find(begins)
    return 0 if begin < 0 else len(part) - begin - len(begins)


def _choices_wanted(request: UpstreamRequest) -> int:
    """Return how many choices a request asks for; 1 when it does not say."""
    wanted = bytes(request.body.get("n", b"1"))
    return int(wanted) if wanted.isdigit() else 1


def _media_type(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _returned_headers(response: aiohttp.ClientResponse) -> tuple[tuple[bytes, bytes], ...]:
    """Return the provider's headers that are worth passing on, in lower case."""
    returned = []
    for name, value in response.raw_headers:
        lower = name.lower()
        if lower.startswith(_RETURNED_PREFIXES):
            returned.append((lower, value))
        elif (renamed := _RETURNED_HEADERS.get(lower)) is not None:
            returned.append((renamed, value))
    return tuple(returned)
