"""The few ASGI pieces of the hot path: read the head and the body of a request, send an answer.

No framework here; the types are those of the ASGI specification. Read `read_head` and `read_body`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import msgspec

from penstock_gateway.content_coding import ACCEPTED, CODINGS, inflate_body
from penstock_gateway.errors import (
    GatewayError,
    InvalidRequest,
    RequestTimeout,
    RequestTooLarge,
    UnsupportedMedia,
)
from penstock_gateway.http_exchange import EXCHANGE, HttpExchange
from penstock_gateway.identifiers import identifier_source
from penstock_gateway.wire.error_shapes import shaped_error
from penstock_gateway.wire.formats import WireFormat

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
RawHeaders = Iterable[tuple[bytes, bytes]]

BODY_TIMEOUT_SECONDS = 30.0
# Say how a Messages body is to be read, so they go with it to a server of that format.
_FORMAT_HEADERS = frozenset({b"anthropic-version", b"anthropic-beta"})
_LIST_HEADER = "anthropic-beta"
_FORMAT_VALUE = re.compile(rb"[A-Za-z0-9._, :/-]{1,2048}")
_CONTROL_PREFIX = b"x-penstock-"
_MAX_REQUEST_ID_BYTES = 128
_REQUEST_ID_KEY = "penstock.request_id"

_new_request_id = identifier_source("req")


class ClientGoneError(Exception):
    """The client closed its connection before its answer was complete."""


class RequestHead(msgspec.Struct):
    """The request headers that the gateway reads; everything else is ignored and never passed on.

    Attributes
    ----------
    exchange : HttpExchange or None
        The request at the gateway's own server; None at another one.
    """

    host: str = ""
    credential: str | None = None
    content_type: bytes = b""
    content_encoding: bytes = b""
    content_length: int | None = None
    request_id: str | None = None
    tradeoff: str | None = None
    max_cost_usd: str | None = None
    min_quality: str | None = None
    include_cost: bool = False
    cache: str | None = None
    cache_category: str | None = None
    cache_marks: str | None = None
    tags: str | None = None
    timeout: str | None = None
    litellm_headers: bool = False
    format_headers: tuple[tuple[str, str], ...] = ()
    asks_upgrade: bool = False
    traceparent: str | None = None
    exchange: HttpExchange | None = None


ONLY_REMEMBERED = "penstock.only_remembered"
"""Name in a scope: answer from what this process remembers, as others may remember what it does not."""


def read_head(scope: Scope) -> RequestHead:
    """Read the headers of a request.

    Raises
    ------
    InvalidRequest
        An ``x-penstock-`` header is unknown or has an unknown value, the content length is malformed, or there is
        more than one ``Host`` (RFC 9112 section 3.2: two readers could take different ones).
    """
    head = RequestHead(exchange=scope.get(EXCHANGE))
    has_host = False
    for name, value in scope["headers"]:
        if name == b"host":
            if has_host:
                raise InvalidRequest("There is more than one host header.", code="invalid_header")
            has_host, head.host = True, value.decode("latin-1")
        elif name == b"authorization":
            head.credential = _bearer(value) or head.credential
        elif name == b"x-api-key":
            head.credential = head.credential or value.decode("latin-1").strip()
        elif name == b"content-type":
            head.content_type = value.split(b";", 1)[0].strip().lower()
        elif name == b"content-encoding":
            coding = value.strip().lower()
            head.content_encoding = head.content_encoding + b", " + coding if head.content_encoding else coding
        elif name == b"content-length":
            head.content_length = _length(value)
        elif name == b"x-request-id":
            head.request_id = _request_id(value)
        elif name == b"upgrade":
            head.asks_upgrade = True
        elif name == b"traceparent":
            head.traceparent = value.decode("latin-1")
        elif name in _FORMAT_HEADERS and _FORMAT_VALUE.fullmatch(value):
            head.format_headers = _with_format_header(head.format_headers, name.decode(), value.decode())
        elif name.startswith(_CONTROL_PREFIX):
            _read_control(head, name, value.decode("latin-1").strip())
    return head


async def read_body(head: RequestHead, receive: Receive, *, max_bytes: int) -> bytes:
    """Return the whole body of a JSON request, decompressed.

    Parameters
    ----------
    head : RequestHead
    receive : callable
    max_bytes : int
        Of the body as it is sent, and of what it holds.

    Returns
    -------
    bytes

    Raises
    ------
    UnsupportedMedia
        Another content type than JSON, or a coding that is not among `content_coding.CODINGS`.
    RequestTooLarge
        More than `max_bytes`, by its declared length or in fact.
    InvalidRequest
        Code ``upgrade_not_supported``: the server drops the body of a request that asks for another protocol;
        ``invalid_content_encoding``: the body cannot be decompressed.
    RequestTimeout
        Not complete within `BODY_TIMEOUT_SECONDS`.
    ClientGoneError
        The client left.
    """
    if head.content_type != b"application/json":
        shown = head.content_type.decode("latin-1")[:60] or "none"
        raise UnsupportedMedia(f"Send 'content-type: application/json' (received: {shown}).")
    coding = head.content_encoding
    if coding and coding != b"identity" and coding not in CODINGS:
        raise UnsupportedMedia(
            f"Compress request bodies with one of: {ACCEPTED}; or not at all.",
            code="unsupported_content_encoding",
            headers={"accept-encoding": ACCEPTED},
        )
    if head.content_length is not None and head.content_length > max_bytes:
        raise _too_large(max_bytes)
    whole = None if head.exchange is None else head.exchange.take_whole_body()
    if whole is not None and len(whole) > max_bytes:
        raise _too_large(max_bytes)
    body = await receive_whole(receive, max_bytes) if whole is None else whole
    if not body and head.asks_upgrade:
        raise InvalidRequest(
            "Send the request without an Upgrade header: only HTTP/1.1 is spoken here.", code="upgrade_not_supported"
        )
    return await inflate_body(body, coding, max_bytes=max_bytes) if coding in CODINGS else body


def request_id_of(scope: Scope) -> str:
    """Return the id of a request: the client's own where it can be echoed, else a new one, always the same.

    Parameters
    ----------
    scope : Scope
        The id is noted in it.
    """
    known: str | None = scope.get(_REQUEST_ID_KEY)
    if known is None:
        sent = (_request_id(value) for name, value in scope["headers"] if name == b"x-request-id")
        known = scope[_REQUEST_ID_KEY] = next(filter(None, sent), None) or _new_request_id()
    return known


@contextmanager
def cancelled_on_disconnect(head: RequestHead, receive: Receive) -> Iterator[None]:
    """Cancel the enclosed part of the current task when the client leaves.

    Parameters
    ----------
    head : RequestHead
    receive : callable
        Of a request whose body has been read; asked when the server is not the gateway's own.

    Raises
    ------
    ClientGoneError
        In place of the cancellation.
    """
    work = asyncio.current_task()
    assert work is not None
    has_left = False

    def leave() -> None:
        nonlocal has_left
        has_left = True
        work.cancel()

    exchange = head.exchange
    watcher = None
    if exchange is None:
        watcher = asyncio.ensure_future(_watch(receive, leave))
    elif exchange.is_client_gone:
        raise ClientGoneError
    else:
        exchange.on_client_gone = leave
    try:
        yield
    except asyncio.CancelledError:
        if not has_left:
            raise
        work.uncancel()
        raise ClientGoneError from None
    finally:
        if exchange is not None:
            exchange.on_client_gone = None
        if watcher is not None:
            watcher.cancel()


async def _watch(receive: Receive, leave: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    leave()


async def send_body(send: Send, status: int, body: bytes, content_type: str, headers: RawHeaders = ()) -> None:
    """Send a complete answer."""
    fixed = [(b"content-type", content_type.encode("latin-1")), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: GatewayError, front: WireFormat = WireFormat.CHAT) -> None:
    """Send an error in the shape of the client's format."""
    headers = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
    await send_body(send, error.status, shaped_error(front, error), "application/json", headers)


def _with_format_header(headers: tuple[tuple[str, str], ...], name: str, value: str) -> tuple[tuple[str, str], ...]:
    """Return the headers with one more; a list that comes in several lines is one (RFC 9110 section 5.3)."""
    found = dict(headers)
    found[name] = f"{found[name]},{value}" if name == _LIST_HEADER and name in found else value
    return tuple(found.items())


def _bearer(value: bytes) -> str | None:
    scheme, _, token = value.decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def _length(value: bytes) -> int:
    if not value.isdigit():
        raise InvalidRequest("The content-length header is not a number.", code="invalid_header")
    return int(value)


def _request_id(value: bytes) -> str | None:
    """Echo an inbound id only when it is short and printable, so that it cannot forge log lines or headers."""
    text = value.decode("latin-1")
    return text if 0 < len(value) <= _MAX_REQUEST_ID_BYTES and text.isascii() and text.isprintable() else None


_TEXT_CONTROLS = {
    b"x-penstock-tradeoff": "tradeoff",
    b"x-penstock-max-cost-usd": "max_cost_usd",
    b"x-penstock-min-quality": "min_quality",
    b"x-penstock-cache-category": "cache_category",
    b"x-penstock-timeout": "timeout",
}
_LIST_CONTROLS = {
    b"x-penstock-cache": "cache",
    b"x-penstock-cache-marks": "cache_marks",
    b"x-penstock-tags": "tags",
}
_SWITCH_CONTROLS = {
    b"x-penstock-include-cost": "include_cost",
    b"x-penstock-litellm-headers": "litellm_headers",
}
_KNOWN_CONTROLS = ", ".join(name.decode() for name in (*_TEXT_CONTROLS, *_SWITCH_CONTROLS, *_LIST_CONTROLS))


def _read_control(head: RequestHead, name: bytes, value: str) -> None:
    if name in _TEXT_CONTROLS:
        setattr(head, _TEXT_CONTROLS[name], value)
    elif name in _LIST_CONTROLS:  # a header that comes twice is one list (RFC 9110 section 5.3): both hold
        earlier = getattr(head, _LIST_CONTROLS[name])
        setattr(head, _LIST_CONTROLS[name], value if earlier is None else f"{earlier},{value}")
    elif name in _SWITCH_CONTROLS:
        if value.lower() not in ("true", "false", "1", "0"):
            header = name.decode()
            raise InvalidRequest(f"{header} must be true or false.", code="unknown_control", param=header)
        setattr(head, _SWITCH_CONTROLS[name], value.lower() in ("true", "1"))
    else:
        shown = name.decode("latin-1")[:60]
        raise InvalidRequest(
            f"Unknown header '{shown}'. Known: {_KNOWN_CONTROLS}.", code="unknown_control", param=shown
        )


async def receive_whole(receive: Receive, max_bytes: int) -> bytes:
    """Return a body as it was sent; raises what `read_body` raises for one that is large, late or left alone."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            return await _receive_all(receive, max_bytes)
    except TimeoutError:
        raise RequestTimeout(f"The body did not arrive within {BODY_TIMEOUT_SECONDS:g} s.") from None


async def _receive_all(receive: Receive, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The body is larger than the limit of {max_bytes} bytes.")
