"""Rules of reading a request's head and body."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from penstock_gateway import asgi
from penstock_gateway.asgi import ClientGoneError, RequestHead, read_body, read_head, request_id_of, send_error
from penstock_gateway.errors import InvalidRequest, RequestTimeout, RequestTooLarge, Unauthenticated, UnsupportedMedia
from penstock_gateway.wire.formats import WireFormat

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
    """Only JSON is read, plain or in a coding that is known."""
    with pytest.raises(UnsupportedMedia):
        await read_body(head, receiver(chunk(b"{}")), max_bytes=3)


async def test_read_body_that_is_compressed_is_bounded_on_both_sides() -> None:
    """The limit holds for what is sent and for what it holds."""
    head, packed = RequestHead(content_type=JSON, content_encoding=b"gzip"), gzip.compress(b"a" * 100, mtime=0)
    assert await read_body(head, receiver(chunk(packed)), max_bytes=100) == b"a" * 100
    for limit in (99, len(packed) - 1):
        with pytest.raises(RequestTooLarge):
            await read_body(head, receiver(chunk(packed)), max_bytes=limit)


async def test_read_body_of_two_codings_is_refused() -> None:
    """Two header lines are one list; what is compressed twice is not half read."""
    head = head_of((b"content-type", JSON), (b"content-encoding", b"identity"), (b"content-encoding", b"GZIP"))
    assert head.content_encoding == b"identity, gzip"
    with pytest.raises(UnsupportedMedia) as caught:
        await read_body(head, receiver(chunk(gzip.compress(b"{}"))), max_bytes=100)
    assert caught.value.headers == {"accept-encoding": "gzip, deflate"}


def test_read_head_betas_in_two_lines_are_one_list() -> None:
    """Clients add a line for each beta (RFC 9110 section 5.3); upstream a second header would replace the first."""
    lines = [(b"anthropic-beta", b"a-1"), (b"anthropic-version", b"2023-06-01"), (b"anthropic-beta", b"b-2,c-3")]
    found = head_of(*lines).format_headers
    assert dict(found) == {"anthropic-beta": "a-1,b-2,c-3", "anthropic-version": "2023-06-01"}
    assert len(found) == 2


@pytest.mark.parametrize(("value", "expected"), [(b"true", True), (b"1", True), (b"FALSE", False)])
def test_read_head_switches_are_true_or_false(value: bytes, expected: bool) -> None:
    """Each of the two is read by itself."""
    head = head_of((b"x-penstock-litellm-headers", value))
    assert (head.litellm_headers, head.include_cost) == (expected, False)
    with pytest.raises(InvalidRequest) as caught:
        head_of((b"x-penstock-litellm-headers", b"please"))
    assert caught.value.param == "x-penstock-litellm-headers"


def test_request_id_of_a_request_is_always_the_same() -> None:
    """The client's own where it can be echoed, else a new one that is kept."""
    assert request_id_of({"headers": [(b"x-request-id", b"mine")]}) == "mine"
    scope = {"headers": [(b"x-request-id", b"caf\xe9")]}
    made = request_id_of(scope)
    assert made.startswith("req_")
    assert request_id_of(scope) == made != request_id_of({"headers": []})


@pytest.mark.parametrize(
    ("front", "expected"), [(WireFormat.MESSAGES, b'{"type":"error"'), (WireFormat.CHAT, b'{"error"')]
)
async def test_send_error_has_the_shape_of_the_format(front: WireFormat, expected: bytes) -> None:
    """Anthropic's clients read another object than OpenAI's; status and headers are the same."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await send_error(send, Unauthenticated("No.", headers={"x-a": "1"}), front)
    assert sent[0]["status"] == 401
    assert dict(sent[0]["headers"])[b"x-a"] == b"1"
    assert sent[1]["body"].startswith(expected)
