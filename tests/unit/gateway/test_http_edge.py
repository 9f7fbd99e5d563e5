"""What every answer has: ids, compression where it is wanted, and streams left alone."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from penstock_gateway.content_coding import MIN_GZIP_BYTES
from penstock_gateway.http_edge import HttpEdge
from penstock_gateway.settings_models import ServerSettings

JSON = (b"content-type", b"application/json")
LARGE = b'{"text": "' + b"word " * 1000 + b'"}'
ACCEPTS = [(b"accept-encoding", b"gzip, deflate")]


class Sent(list[dict[str, Any]]):
    """Collects what reaches the server."""

    async def __call__(self, message: Any) -> None:
        """Note a message."""
        self.append(dict(message))

    @property
    def headers(self) -> dict[bytes, bytes]:
        """Of the answer."""
        return dict(self[0]["headers"])


def answering(body: bytes, *headers: tuple[bytes, bytes]) -> Any:
    """Return an application that answers everything with one body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [length, *(headers or (JSON,))]})
        await send({"type": "http.response.body", "body": body})

    return app


async def ask(
    app: Any, headers: Any = (), *, path: str = "/v1/models", method: str = "GET", **settings: object
) -> Sent:
    """Send one request through an edge with these settings."""
    sent, server = Sent(), ServerSettings(**settings)
    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    await HttpEdge(app, lambda: server)(scope, None, sent)  # type: ignore[arg-type]
    return sent


async def test_answer_without_an_id_gets_the_clients_own_or_a_new_one() -> None:
    """Every answer can be found again in a log."""
    assert (await ask(answering(b"{}"), [(b"x-request-id", b"abc")])).headers[b"x-request-id"] == b"abc"
    made = (await ask(answering(b"{}"), [(b"x-request-id", b"a\tb")])).headers[b"x-request-id"]
    assert made.startswith(b"req_")


async def test_answer_keeps_the_id_that_it_has() -> None:
    """The endpoint's own id stands, once."""
    sent = await ask(answering(b"{}", JSON, (b"x-request-id", b"mine")), [(b"x-request-id", b"theirs")])
    assert [value for name, value in sent[0]["headers"] if name == b"x-request-id"] == [b"mine"]


@pytest.mark.parametrize(("path", "has_it"), [("/v1/messages/count_tokens", True), ("/v1/chat/completions", False)])
async def test_answer_to_anthropics_clients_has_the_id_under_their_name(path: str, has_it: bool) -> None:
    """Their SDK shows ``request-id`` with every error."""
    headers = (await ask(answering(b"{}"), [(b"x-request-id", b"abc")], path=path)).headers
    assert headers.get(b"request-id") == (b"abc" if has_it else None)


async def test_large_answer_is_compressed_for_who_accepts_it() -> None:
    """The head says so, with the new length, and caches learn what it depends on."""
    sent = await ask(answering(LARGE), ACCEPTS, compress_responses=True)
    assert gzip.decompress(sent[1]["body"]) == LARGE
    assert sent.headers[b"content-encoding"] == b"gzip"
    assert int(sent.headers[b"content-length"]) == len(sent[1]["body"]) < len(LARGE) / 10
    assert sent.headers[b"vary"] == b"accept-encoding"


@pytest.mark.parametrize(
    ("accept", "settings"),
    [
        ([], {"compress_responses": True}),
        ([(b"accept-encoding", b"gzip;q=0")], {"compress_responses": True}),
        (ACCEPTS, {}),
    ],
)
async def test_answer_stays_plain_for_everyone_else(accept: Any, settings: dict[str, object]) -> None:
    """Not accepted, refused by its weight, or not configured."""
    sent = await ask(answering(LARGE), accept, **settings)
    assert sent[1]["body"] == LARGE
    assert int(sent.headers[b"content-length"]) == len(LARGE)
    assert b"content-encoding" not in sent.headers
    assert (b"vary" in sent.headers) is bool(settings)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"a" * (MIN_GZIP_BYTES - 1), [JSON]),
        (LARGE, [(b"content-type", b"text/event-stream; charset=utf-8")]),
        (LARGE, [(b"content-type", b"image/png")]),
        (LARGE, [JSON, (b"content-encoding", b"br")]),
        (LARGE, [JSON, (b"cache-control", b"no-transform")]),
    ],
)
async def test_answer_that_gains_nothing_or_must_not_change_stays_plain(body: bytes, headers: Any) -> None:
    """Small ones, streams, pictures, and what is compressed or sealed already."""
    assert (await ask(answering(body, *headers), ACCEPTS, compress_responses=True))[1]["body"] == body


async def test_stream_passes_message_by_message() -> None:
    """Head and events of a stream are never held back, even where it declares nothing of its kind."""
    seen: list[int] = []
    sent = Sent()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        seen.append(len(sent))
        await send({"type": "http.response.body", "body": LARGE, "more_body": True})
        seen.append(len(sent))
        await send({"type": "http.response.body", "body": b""})

    server = ServerSettings(compress_responses=True)
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": ACCEPTS}
    await HttpEdge(app, lambda: server)(scope, None, sent)  # type: ignore[arg-type]
    assert seen == [1, 2]
    assert [message.get("body") for message in sent] == [None, LARGE, b""]


async def test_answer_in_parts_stays_plain() -> None:
    """A body that comes in parts is not collected to be compressed."""
    sent = Sent()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [JSON, (b"content-length", b"%d" % len(LARGE))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": LARGE[:1000], "more_body": True})
        await send({"type": "http.response.body", "body": LARGE[1000:]})

    server = ServerSettings(compress_responses=True)
    scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": ACCEPTS}
    await HttpEdge(app, lambda: server)(scope, None, sent)  # type: ignore[arg-type]
    assert b"".join(message["body"] for message in sent[1:]) == LARGE
    assert int(sent.headers[b"content-length"]) == len(LARGE)


async def test_error_takes_the_place_of_a_head_that_waits() -> None:
    """An application that fails between head and body can still say so."""
    sent = Sent()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [JSON, (b"content-length", b"9999")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.start", "status": 500, "headers": [JSON, (b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    server = ServerSettings(compress_responses=True)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": ACCEPTS}
    await HttpEdge(app, lambda: server)(scope, None, sent)  # type: ignore[arg-type]
    assert [message.get("status") for message in sent] == [500, None]


async def test_head_is_answered_like_get_and_not_compressed() -> None:
    """The application sees GET; the length is that of the plain body, which the server leaves out."""
    methods = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        methods.append(scope["method"])
        await answering(LARGE)(scope, receive, send)

    sent = await ask(app, ACCEPTS, method="HEAD", compress_responses=True)
    assert methods == ["GET"]
    assert int(sent.headers[b"content-length"]) == len(LARGE)


async def test_changed_settings_hold_from_the_next_request_on() -> None:
    """A reload needs no new server."""
    current = [ServerSettings()]
    edge = HttpEdge(answering(LARGE), lambda: current[0])
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [*ACCEPTS, (b"origin", b"https://a.example")]}
    before, after = Sent(), Sent()
    await edge(scope, None, before)  # type: ignore[arg-type]
    current[0] = ServerSettings(compress_responses=True, cors={"origins": ["https://a.example"]})
    await edge(scope, None, after)  # type: ignore[arg-type]
    assert not {b"content-encoding", b"access-control-allow-origin"} & set(before.headers)
    assert {b"content-encoding", b"access-control-allow-origin"} <= set(after.headers)
