"""The endpoints that call models, one per wire format, without a framework.

Raw ASGI, so that a request costs microseconds and a stream is relayed as bytes. A body is read and handed to the
pipeline, and what comes back is sent. Read `InferenceEndpoint.__call__`.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import lru_cache
from types import MappingProxyType

from penstock_gateway.accounts.principal import Principal
from penstock_gateway.answer import Answer
from penstock_gateway.asgi import (
    ClientGoneError,
    Receive,
    RequestHead,
    Scope,
    Send,
    cancelled_on_disconnect,
    read_body,
    send_body,
)
from penstock_gateway.callers import caller_of
from penstock_gateway.errors import GatewayError, Overloaded, shutting_down, unexpected_failure
from penstock_gateway.http_exchange import HttpExchange
from penstock_gateway.identifiers import identifier_source
from penstock_gateway.litellm_headers import litellm_headers
from penstock_gateway.pipeline import Pipeline
from penstock_gateway.wire.formats import PATHS, WireFormat
from penstock_gateway.wire.requests import parse_request

_SSE_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


FRONTS = MappingProxyType({f"/v1{path}": front for front, path in PATHS.items()})
"""The format that is spoken at each path."""


class InferenceEndpoint:
    """Answers requests in every wire format.

    Parameters
    ----------
    pipeline : Pipeline
    max_body_bytes : int
    max_in_flight : int
        Requests under way at once; further ones are answered with 503 and ``Retry-After``.
    """

    def __init__(self, pipeline: Pipeline, *, max_body_bytes: int, max_in_flight: int) -> None:
        self._pipeline = pipeline
        self.max_body_bytes = max_body_bytes
        self.max_in_flight = max_in_flight
        self._in_flight = 0
        self._new_id = identifier_source("req")
        pipeline.metrics.in_flight.set_function(lambda: self._in_flight)

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, head: RequestHead, principal: Principal
    ) -> None:
        """Answer one request; errors raised before the first byte are shown in its format's shape by the caller."""
        front = FRONTS[scope["path"]]
        if self._in_flight >= self.max_in_flight:
            raise Overloaded("Too many requests are in flight; try again shortly.", headers={"retry-after": "1"})
        self._in_flight += 1
        try:
            body = await read_body(head, receive, max_bytes=self.max_body_bytes)
            with cancelled_on_disconnect(head, receive):
                await self._answer(front, body, send, head, principal)
        except ClientGoneError:
            return
        finally:
            self._in_flight -= 1

    async def _answer(
        self, front: WireFormat, body: bytes, send: Send, head: RequestHead, principal: Principal
    ) -> None:
        request_id = head.request_id or self._new_id()
        caller = caller_of(head, principal, request_id)
        try:
            answer = await self._pipeline.answer(caller, parse_request(front, body, headers=head.format_headers))
            async with aclosing(answer):
                headers = _headers(answer, request_id)
                shows_litellm = head.litellm_headers or self._pipeline.settings.server.litellm_headers
                if answer.is_stream:
                    if shows_litellm:
                        headers += _litellm(answer)
                    await _send_stream(answer, send, headers, head.exchange)
                else:
                    content = await answer.body()
                    if shows_litellm:
                        headers += _litellm(answer)
                    await send_body(send, answer.reply.status, content, "application/json", headers)
        except GatewayError as error:
            error.headers["x-request-id"] = request_id
            raise


async def _send_stream(
    answer: Answer, send: Send, headers: list[tuple[bytes, bytes]], exchange: HttpExchange | None
) -> None:
    """Relay a stream; when the server stops or fails meanwhile, say so instead of just ending."""
    await send({"type": "http.response.start", "status": 200, "headers": [*_SSE_HEADERS, *headers]})
    last = b""
    if exchange is not None:
        answer.shorten(exchange.may_relay_now, exchange.relay_now)
    try:
        async with aclosing(answer.events()) as blocks:
            async for block in blocks:
                if exchange is not None:  # past those who only look at heads
                    await exchange.relay(block)
                else:
                    await send({"type": "http.response.body", "body": block, "more_body": True})
    except asyncio.CancelledError:
        last = answer.error_event(shutting_down())
        raise
    except Exception:
        last = answer.error_event(unexpected_failure())
        raise
    finally:
        await send({"type": "http.response.body", "body": last})


def _headers(answer: Answer, request_id: str) -> list[tuple[bytes, bytes]]:
    own = answer.headers()
    headers = [(_name(name), value.encode()) for name, value in own.items()]
    headers.append((b"x-request-id", request_id.encode()))
    if not answer.reply.headers:
        return headers
    has_limits = "x-ratelimit-limit-requests" in own or "x-ratelimit-limit-tokens" in own
    for name, value in answer.reply.headers:  # the caller's own limits take the place of the provider's
        if name != b"x-request-id" and not (has_limits and name.startswith((b"x-ratelimit-", b"anthropic-ratelimit-"))):
            headers.append((name, value))
    return headers


_name = lru_cache(maxsize=256)(str.encode)  # names of our own headers, a few dozen


def _litellm(answer: Answer) -> list[tuple[bytes, bytes]]:
    headers = litellm_headers(answer.passage, answer.settlement)
    return [(name.encode(), value.encode()) for name, value in headers.items()]
