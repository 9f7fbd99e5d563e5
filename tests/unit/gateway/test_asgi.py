"""Rules of reading a request's head and body."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock_gateway import asgi
from penstock_gateway.asgi import ClientGoneError, RequestHead, read_body, read_head
from penstock_gateway.errors import InvalidRequest, RequestTimeout, RequestTooLarge, UnsupportedMedia

JSON = b"application/json"


def head_of(*headers: tuple[bytes, bytes]) -> RequestHead:
    """Read a head from raw headers."""
    return read_head({"headers": headers})


def receiver(*messages: dict[str, Any]) -> Any:
    """Return a receive callable that hands out messages, then waits for ever."""
    pending = list(messages)

    async def receive() -> dict[str, Any]:
        if not pending:
            await asyncio.Event().wait()
        return pending.pop(0)

    return receive


def chunk(body: bytes, *, more: bool = False) -> dict[str, Any]:
    """Return one body message."""
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize(
    ("headers", "credential"),
    [
        ([(b"authorization", b"Bearer sk-1")], "sk-1"),
        ([(b"authorization", b"bearer  sk-1 ")], "sk-1"),
        ([(b"authorization", b"Basic abc")], None),
        ([(b"authorization", b"Bearer ")], None),
        ([(b"x-api-key", b"sk-2")], "sk-2"),
        ([(b"x-api-key", b"sk-2"), (b"authorization", b"Bearer sk-1")], "sk-1"),
        ([], None),
    ],
)
def test_read_head_credential_from_either_header(headers: list[tuple[bytes, bytes]], credential: str | None) -> None:
    """OpenAI's and Anthropic's way of sending a key both work; the bearer token wins."""
    assert head_of(*headers).credential == credential


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"a\tb", b"caf\xe9"])
def test_read_head_strange_request_id_is_ignored(value: bytes) -> None:
    """An id that could forge a log line or a header is not echoed."""
    assert head_of((b"x-request-id", value)).request_id is None


def test_read_head_malformed_length_is_refused() -> None:
    """A content length that is no number is a clear 400."""
    with pytest.raises(InvalidRequest) as caught:
        head_of((b"content-length", b"-1"))
    assert caught.value.code == "invalid_header"


async def test_read_body_joins_chunks() -> None:
    """A body in several messages is joined."""
    head = RequestHead(content_type=JSON)
    assert await read_body(head, receiver(chunk(b"ab", more=True), chunk(b"c")), max_bytes=3) == b"abc"


@pytest.mark.parametrize("messages", [[chunk(b"abcd")], [chunk(b"ab", more=True), chunk(b"cd", more=True), chunk(b"")]])
async def test_read_body_beyond_limit_is_refused(messages: list[dict[str, Any]]) -> None:
    """The limit holds whether or not the length was declared."""
    with pytest.raises(RequestTooLarge):
        await read_body(RequestHead(content_type=JSON), receiver(*messages), max_bytes=3)


async def test_read_body_declared_too_long_is_refused_unread() -> None:
    """A declared length beyond the limit is refused before anything is received."""
    with pytest.raises(RequestTooLarge):
        await read_body(RequestHead(content_type=JSON, content_length=4), receiver(), max_bytes=3)


async def test_read_body_that_stalls_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that stops sending gets an error instead of holding the request for ever."""
    monkeypatch.setattr(asgi, "BODY_TIMEOUT_SECONDS", 0.01)
    with pytest.raises(RequestTimeout):
        await read_body(RequestHead(content_type=JSON), receiver(chunk(b"a", more=True)), max_bytes=3)


async def test_read_body_of_a_client_that_leaves_raises_client_gone() -> None:
    """A disconnect before the body is complete ends the request quietly."""
    with pytest.raises(ClientGoneError):
        await read_body(RequestHead(content_type=JSON), receiver({"type": "http.disconnect"}), max_bytes=3)


@pytest.mark.parametrize(
    "head",
    [RequestHead(content_type=b"text/plain"), RequestHead(), RequestHead(content_type=JSON, content_encoding=b"br")],
)
async def test_read_body_of_other_media_is_refused(head: RequestHead) -> None:
    """Only uncompressed JSON is read."""
    with pytest.raises(UnsupportedMedia):
        await read_body(head, receiver(chunk(b"{}")), max_bytes=3)
