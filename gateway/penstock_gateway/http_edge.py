"""What every answer of the gateway has, whoever made it: a request id, permissions for browsers, compression.

Stands between the server and the application; what that costs is measured by `bench/http_edge.py`. Streams pass as they
are: nothing of them is held back or compressed. Read `HttpEdge.__call__`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from penstock_gateway.asgi import Receive, Scope, Send, request_id_of
from penstock_gateway.content_coding import MIN_GZIP_BYTES, accepts_gzip, gzip_body
from penstock_gateway.cross_origin import CrossOrigin
from penstock_gateway.settings_models import ServerSettings
from penstock_gateway.wire.error_shapes import format_of_path
from penstock_gateway.wire.formats import WireFormat

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_COMPRESSIBLE: Final = (b"application/json", b"text/", b"application/openapi", b"application/openmetrics")
_EVENT_STREAM: Final = b"text/event-stream"
_VARY_ENCODING: Final = (b"vary", b"accept-encoding")


class HttpEdge:
    """An ASGI callable around the gateway's.

    Parameters
    ----------
    app : callable
    settings : callable
        Returns the server's settings in force; a reload may change them.
    """

    def __init__(self, app: AsgiApp, settings: Callable[[], ServerSettings]) -> None:
        self._app = app
        self._read_settings = settings
        self._settings: ServerSettings | None = None
        self.cross_origin: CrossOrigin | None = None
        self.compresses = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a browser's question, or hand the request on and complete its answer.

        HEAD is answered as GET, and the server leaves the body out (RFC 9110 section 9.3.2).
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (settings := self._read_settings()) is not self._settings:
            self._follow(settings)
        answer = _Answer(self, scope, send)
        if self.cross_origin is not None:
            permissions = self.cross_origin.preflight(scope["method"], scope["headers"])
            if permissions is not None:
                await send({"type": "http.response.start", "status": 204, "headers": answer.named(permissions)})
                await send({"type": "http.response.body", "body": b""})
                return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, answer.send)

    def _follow(self, settings: ServerSettings) -> None:
        self._settings = settings
        self.cross_origin = CrossOrigin(settings.cors) if settings.cors.origins else None
        self.compresses = settings.compress_responses


def _header_of(headers: list[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    for name, value in headers:
        if name == wanted:
            return value
    return None


class _Answer:
    """One answer on its way to the server."""

    __slots__ = ("_edge", "_held", "_scope", "_send")

    def __init__(self, edge: HttpEdge, scope: Scope, send: Send) -> None:
        self._edge = edge
        self._scope = scope
        self._send = send
        self._held: MutableMapping[str, Any] | None = None

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Pass a message on; the head of what may be compressed waits for the body."""
        if message["type"] == "http.response.start":
            message, self._held = self._completed(message), None
            if self._edge.compresses and self._may_compress(message["headers"]):
                self._held = message
                return
        elif self._held is not None:
            start, self._held = self._held, None
            if not message.get("more_body"):
                start, message = await _compressed(start, message)
            await self._send(start)
        await self._send(message)

    def named(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the headers with the request's id, under Anthropic's name, too, where its clients look for it."""
        found = _header_of(headers, b"x-request-id")
        if found is None:
            found = request_id_of(self._scope).encode("latin-1")
            headers.append((b"x-request-id", found))
        if format_of_path(self._scope["path"]) is WireFormat.MESSAGES:
            headers.append((b"request-id", found))
        return headers

    def _completed(self, start: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        headers = self.named(list(start.get("headers", ())))
        cross_origin = self._edge.cross_origin
        if cross_origin is not None:
            headers += cross_origin.permissions(_header(self._scope, b"origin"), headers)
        start["headers"] = headers
        return start

    def _may_compress(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Note that the answer depends on what is accepted, and say whether to compress it."""
        answer = dict(headers)
        kind = answer.get(b"content-type", b"")
        if not kind.startswith(_COMPRESSIBLE) or kind.startswith(_EVENT_STREAM) or b"content-encoding" in answer:
            return False
        length = answer.get(b"content-length", b"")
        if not length.isdigit() or int(length) < MIN_GZIP_BYTES or b"no-transform" in answer.get(b"cache-control", b""):
            return False
        headers.append(_VARY_ENCODING)
        if self._scope["method"] == "HEAD":
            return False
        return accepts_gzip(_header(self._scope, b"accept-encoding") or b"")


async def _compressed(
    start: MutableMapping[str, Any], message: MutableMapping[str, Any]
) -> tuple[MutableMapping[str, Any], MutableMapping[str, Any]]:
    """Return head and body of a complete answer compressed, or as they are when that saves nothing."""
    body: bytes = message.get("body", b"")
    packed = await gzip_body(body)
    if len(packed) >= len(body):
        return start, message
    headers = [header for header in start["headers"] if header[0] != b"content-length"]
    headers += [(b"content-encoding", b"gzip"), (b"content-length", b"%d" % len(packed))]
    return {**start, "headers": headers}, {**message, "body": packed}


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    """Return a header of the request, its lines joined as one list (RFC 9110 section 5.3)."""
    values = [value for name, value in scope["headers"] if name == wanted]
    return b", ".join(values) if values else None
