"""HTTP around the endpoints, over real connections: ids, codings, browsers, connections kept and closed, stopping."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway import bounded_http
from penstock_gateway.bounded_http import MAX_PIPELINED
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, load_settings
from support.fakes import FakeReply
from support.running_gateway import READ_SECONDS, Running, chat_request, eventually, running

KEY = "k" * 32
PAGE = "https://chat.example.org"
CONFIG = """
version: 1
deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 1, output: 2},
     abilities: [streaming]}
routing: {artifact: none}
"""
KEYS = 'client_keys: [{name: ann, key: "${KEY}"}]\n'
CONTENT = "word " * 2000
ANSWER = json.dumps({"id": "c", "choices": [{"message": {"role": "assistant", "content": CONTENT}}]}).encode()
PLAIN = FakeReply(body=ANSWER, usage=Usage(input_tokens=10, output_tokens=5))
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"o"}}]}\n\n'
DONE = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
LIVEZ = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"


def configured(folder: Path, text: str = "") -> Settings:
    """Return settings with one deployment, no artifact, and what the test adds."""
    path = folder / "penstock.yaml"
    path.write_text(CONFIG + text)
    return load_settings(path, {"KEY": KEY})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The defaults."""
    return configured(tmp_path)


class HeldReply(FakeReply):
    """A stream whose second half comes when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield one chunk, wait, and yield the end."""
        yield CHUNK
        await self.may_end.wait()
        yield DONE


async def packed_chat(gateway: Running, body: bytes, coding: str, **headers: str) -> Any:
    """Send a chat request whose body has been compressed."""
    sent = {"content-type": "application/json", "content-encoding": coding, **headers}
    return await gateway.http.post(f"{gateway.url}/v1/chat/completions", data=body, headers=sent)


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read head and body of one answer with a length."""
    async with asyncio.timeout(READ_SECONDS):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
        return head, await reader.readexactly(int(length.partition(b":")[2]))


# --- request ids


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/v1/models", 401),
        ("GET", "/v1/nothing", 401),
        ("POST", "/v1/chat/completions", 401),
        ("POST", "/v1/messages", 401),
        ("OPTIONS", "/v1/chat/completions", 401),
    ],
)
async def test_every_answer_without_a_key_has_the_clients_request_id(tmp_path, method, path, status) -> None:
    """Also those that are refused before anything is read."""
    async with running(configured(tmp_path, KEYS), lambda _: PLAIN) as gateway:
        response = await gateway.http.request(method, gateway.url + path, headers={"x-request-id": "mine-1"})
        assert (response.status, response.headers["x-request-id"]) == (status, "mine-1")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/models", b"", 200),
        ("GET", "/openapi.json", b"", 200),
        ("GET", "/metrics", b"", 200),
        ("GET", "/v1/nothing", b"", 404),
        ("DELETE", "/v1/models", b"", 405),
        ("GET", "/v1/chat/completions", b"", 405),
        ("OPTIONS", "/v1/chat/completions", b"", 405),
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"x" * 2000, 413),
        ("POST", "/v1/messages/count_tokens", b"{", 400),
        ("POST", "/v1/feedback", b"{", 400),
        ("POST", "/v1/route", b"x" * 2000, 413),
    ],
)
async def test_every_answer_has_a_request_id(tmp_path, method, path, body, status) -> None:
    """Good or bad, by whichever part of the gateway; one each, and new where the client sends none."""
    async with running(configured(tmp_path, "server: {max_body_bytes: 1024}\n"), lambda _: PLAIN) as gateway:
        seen = []
        for _ in range(2):
            response = await gateway.http.request(
                method, gateway.url + path, data=body or None, headers={"content-type": "application/json"}
            )
            assert response.status == status
            seen += response.headers.getall("x-request-id")
        assert len(set(seen)) == 2


async def test_what_is_not_http_gets_a_request_id_too(settings) -> None:
    """The parser's own refusals can be told to the operator as well."""
    async with running(settings, lambda _: PLAIN) as gateway:
        assert b"x-request-id: req_" in await gateway.exchange(b"\x16\x03\x01\r\n\r\n")


# --- unknown paths, HEAD, OPTIONS


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/", "/v1/chat/completions/", "/v1/audio/speech", "/"])
async def test_unknown_path_is_a_404_in_openais_shape(settings, path) -> None:
    """A wrong base URL is seen at once, by SDKs too."""
    async with running(settings, lambda _: PLAIN) as gateway:
        response = await gateway.http.post(gateway.url + path, json={})
        error = (await response.json())["error"]
        assert (response.status, error["type"], error["code"]) == (404, "not_found_error", "unknown_path")
        assert set(error) == {"message", "type", "param", "code"}


async def test_head_has_the_headers_of_get_and_no_body(settings) -> None:
    """Monitors ask with HEAD; what comes next on the connection is the next answer."""
    async with running(settings, lambda _: PLAIN) as gateway:
        reader, writer = await gateway.connect()
        writer.write(b"HEAD /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n" + LIVEZ)
        async with asyncio.timeout(READ_SECONDS):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200")
        assert b"content-length: 0\r\n" not in head
        assert json.loads((await read_answer(reader))[1]) == {"status": "alive"}
        writer.close()


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD", "GET"])
async def test_other_method_is_a_405_that_names_the_right_one(settings, method) -> None:
    """Without CORS, OPTIONS is no more than a method that is not allowed."""
    async with running(settings, lambda _: PLAIN) as gateway:
        response = await gateway.http.request(method, f"{gateway.url}/v1/chat/completions")
        assert (response.status, response.headers["allow"]) == (405, "POST")
        assert "access-control-allow-origin" not in response.headers


# --- compressed requests


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_request_is_read(settings, coding, pack) -> None:
    """What the model gets is what the client packed."""
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": CONTENT * 20}]}).encode()
    async with running(settings, lambda _: PLAIN) as gateway:
        assert (await packed_chat(gateway, pack(body), coding)).status == 200
        assert CONTENT.encode() in bytes(gateway.upstream.requests[0].body["messages"])


@pytest.mark.parametrize(
    ("body", "coding", "status", "code"),
    [
        (gzip.compress(b"{}", mtime=0)[:-1], "gzip", 400, "invalid_content_encoding"),
        (b"{}", "gzip", 400, "invalid_content_encoding"),
        (gzip.compress(b" " * 2_000_000, mtime=0), "gzip", 413, "request_too_large"),
        (b"{}", "br", 415, "unsupported_content_encoding"),
        (b"{}", "gzip, gzip", 415, "unsupported_content_encoding"),
    ],
)
async def test_compressed_request_that_cannot_be_read_is_refused(tmp_path, body, coding, status, code) -> None:
    """Broken, a bomb, or in a coding that is not read; the last says which are."""
    async with running(configured(tmp_path, "server: {max_body_bytes: 1000000}\n"), lambda _: PLAIN) as gateway:
        response = await packed_chat(gateway, body, coding)
        assert (response.status, (await response.json())["error"]["code"]) == (status, code)
        assert response.headers.get("accept-encoding") == ("gzip, deflate" if status == 415 else None)


# --- compressed answers


async def test_compressed_answer_is_the_same_answer(tmp_path) -> None:
    """Endpoints that call models and all others; a client that refuses it gets the plain one."""
    async with running(configured(tmp_path, "server: {compress_responses: true}\n"), lambda _: PLAIN) as gateway:
        response = await gateway.chat()
        assert response.headers["content-encoding"] == "gzip"
        assert int(response.headers["content-length"]) < len(ANSWER) / 10
        assert await response.read() == ANSWER
        document = await gateway.http.get(f"{gateway.url}/openapi.json")
        assert (document.headers["content-encoding"], (await document.json())["info"]["title"]) == ("gzip", "Penstock")
        plain = await gateway.chat(headers={"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.headers["vary"] == "accept-encoding"


async def test_stream_is_never_compressed(tmp_path) -> None:
    """A token that waits in a compressor is a token that comes late."""
    reply = FakeReply(blocks=(CHUNK * 100, DONE))
    async with running(configured(tmp_path, "server: {compress_responses: true}\n"), lambda _: reply) as gateway:
        response = await gateway.chat(stream=True)
        assert "content-encoding" not in response.headers
        assert (await response.read()) == CHUNK * 100 + DONE


# --- browsers


async def test_page_of_a_configured_origin_may_ask_without_a_key_and_read_the_answer(tmp_path) -> None:
    """The question carries no key, the request does; both answers name the page."""
    text = KEYS + f'server: {{cors: {{origins: ["{PAGE}"]}}}}\n'
    async with running(configured(tmp_path, text), lambda _: PLAIN) as gateway:
        url = f"{gateway.url}/v1/chat/completions"
        asked = {
            "origin": PAGE,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        question = await gateway.http.options(url, headers=asked)
        assert (question.status, question.headers["access-control-allow-origin"]) == (204, PAGE)
        assert question.headers["access-control-allow-headers"] == "authorization, content-type"
        answer = await gateway.chat(headers={"origin": PAGE, "authorization": f"Bearer {KEY}"})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, PAGE)
        assert "x-penstock-model" in answer.headers["access-control-expose-headers"]
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/nothing"])
async def test_page_can_read_errors_too(tmp_path, path) -> None:
    """A page that sees no error only learns that something failed."""
    text = KEYS + f'server: {{cors: {{origins: ["{PAGE}"]}}}}\n'
    async with running(configured(tmp_path, text), lambda _: PLAIN) as gateway:
        response = await gateway.http.post(gateway.url + path, json={}, headers={"origin": PAGE})
        assert (response.status, response.headers["access-control-allow-origin"]) == (401, PAGE)


async def test_page_of_another_origin_gets_no_permission(tmp_path) -> None:
    """Neither to ask nor to read, and without CORS in the configuration nobody does."""
    text = f'server: {{cors: {{origins: ["{PAGE}"]}}}}\n'
    for origins, origin in ((text, "https://evil.example"), ("", PAGE)):
        async with running(configured(tmp_path, origins), lambda _: PLAIN) as gateway:
            asked = {"origin": origin, "access-control-request-method": "POST"}
            question = await gateway.http.options(f"{gateway.url}/v1/chat/completions", headers=asked)
            answer = await gateway.chat(headers={"origin": origin})
            for response in (question, answer):
                assert not [name for name in response.headers if name.lower().startswith("access-control-")]


# --- connections


async def test_idle_connection_is_closed_after_its_time(tmp_path) -> None:
    """A connection that nobody uses is not kept for ever."""
    async with running(configured(tmp_path, "server: {keep_alive_seconds: 1}\n"), lambda _: PLAIN) as gateway:
        assert gateway.server.config.timeout_keep_alive == 1
        reader, writer = await gateway.connect()
        writer.write(LIVEZ)
        await read_answer(reader)
        async with asyncio.timeout(READ_SECONDS):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("trickle", [b"\r\n", b"\r\n\r\n"])
async def test_blank_lines_do_not_keep_a_connection_open(settings, trickle, monkeypatch) -> None:
    """They stop the clock of an idle connection, and start no request whose clock would run instead."""
    monkeypatch.setattr(bounded_http, "HEAD_TIMEOUT_SECONDS", 0.1)
    async with running(settings, lambda _: PLAIN) as gateway:
        reader, writer = await gateway.connect()
        writer.write(LIVEZ)
        await read_answer(reader)
        writer.write(trickle)
        async with asyncio.timeout(READ_SECONDS):
            assert await reader.read() == b""
        writer.close()


async def test_body_of_a_refused_request_that_never_ends_is_cut_off(settings, monkeypatch) -> None:
    """The refusal is sent early; the rest of the body has a deadline of its own."""
    monkeypatch.setattr(bounded_http, "HEAD_TIMEOUT_SECONDS", 0.1)
    async with running(settings, lambda _: PLAIN) as gateway:
        reader, writer = await gateway.connect()
        writer.write(b"POST /v1/nothing HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\n")
        assert (await read_answer(reader))[0].startswith(b"http/1.1 404")
        writer.write(b"x" * 10)
        async with asyncio.timeout(READ_SECONDS):
            assert await reader.read() == b""
        writer.close()


async def test_connection_goes_on_after_the_rest_of_a_refused_body(settings) -> None:
    """What comes late is skipped; then the connection is as idle as after any answer, and takes the next request."""
    async with running(settings, lambda _: PLAIN) as gateway:
        reader, writer = await gateway.connect()
        writer.write(b"POST /v1/nothing HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n")
        assert (await read_answer(reader))[0].startswith(b"http/1.1 404")
        (connection,) = gateway.server.server_state.connections
        writer.write(b"x" * 5)
        await eventually(lambda: connection._is_head_timed)
        writer.write(b"x" * 5)
        await eventually(lambda: not connection._is_head_timed)
        assert connection.closes_at is not None
        writer.write(LIVEZ)
        assert (await read_answer(reader))[0].startswith(b"http/1.1 200")
        writer.close()


async def test_pipelined_requests_are_answered_in_order(settings) -> None:
    """Requests that are sent ahead wait for their turn, and the connection stays open."""
    async with running(settings, lambda _: PLAIN) as gateway:
        reader, writer = await gateway.connect()
        paths = [b"/livez", b"/nothing", b"/readyz"] * 5
        writer.write(b"".join(LIVEZ.replace(b"/livez", path) for path in paths))
        heads = [(await read_answer(reader))[0] for _ in paths]
        assert [head[9:12] for head in heads] == [b"200", b"404", b"200"] * 5
        assert not any(b"connection: close" in head for head in heads)
        writer.close()


async def test_pipelined_requests_beyond_the_bound_end_the_connection_in_good_order(settings) -> None:
    """The first ones are answered, the last of these says that the connection ends; the rest never runs."""
    async with running(settings, lambda _: PLAIN) as gateway:
        received = await gateway.exchange(chat_request() + LIVEZ * 5000)
        assert received.count(b"HTTP/1.1 200") == 1 + MAX_PIPELINED
        assert received.count(b"connection: close") == 1
        assert received.rpartition(b"HTTP/1.1 ")[2].lower().count(b"connection: close") == 1
        assert received.endswith(b'{"status":"alive"}')


async def test_pipelined_bodies_wait_in_the_socket(settings) -> None:
    """While one request is being answered no more is read than what was under way."""
    held = HeldReply()
    async with running(settings, lambda _: held) as gateway:
        reader, writer = await gateway.connect()
        writer.write(chat_request(stream=True))
        await eventually(lambda: bool(gateway.upstream.replies))
        body = b" " * 10_000_000
        head = f"POST /v1/nothing HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        (connection,) = gateway.server.server_state.connections
        await eventually(lambda: len(connection._waiting) == 1 and connection._is_reading_paused)
        assert sum(map(len, connection._waiting[0]._body)) < 1_000_000
        held.may_end.set()
        async with asyncio.timeout(READ_SECONDS):
            await reader.readuntil(b"[DONE]")
            await reader.readuntil(b"unknown_path")
        writer.close()


# --- stopping


async def test_stop_lets_a_stream_end_in_its_own_time(settings) -> None:
    """The stream is complete, then its connection closes; idle connections go at once, new ones are not taken."""
    held = HeldReply()
    async with running(settings, lambda _: held) as gateway:
        idle_reader, idle_writer = await gateway.connect()
        idle_writer.write(LIVEZ)
        await read_answer(idle_reader)
        reader, writer = await gateway.connect()
        writer.write(chat_request(stream=True))
        async with asyncio.timeout(READ_SECONDS):
            await reader.readuntil(CHUNK)
            gateway.server.should_exit = True
            assert await idle_reader.read() == b""
            with pytest.raises(OSError, match=r"."):
                await gateway.connect()
            held.may_end.set()
            assert b"data: [DONE]" in await reader.read()
        writer.close()
        idle_writer.close()


async def test_stop_says_connection_close_to_requests_under_way(settings) -> None:
    """A client that would send its next request on this connection learns that it cannot."""
    held = asyncio.Event()

    class HeldBody(FakeReply):
        async def read(self) -> bytes:
            await held.wait()
            return await super().read()

    async with running(settings, lambda _: HeldBody(body=ANSWER)) as gateway:
        reader, writer = await gateway.connect()
        writer.write(chat_request())
        await eventually(lambda: bool(gateway.upstream.replies))
        gateway.server.should_exit = True
        await eventually(lambda: not gateway.server.servers[0].is_serving())
        held.set()
        async with asyncio.timeout(READ_SECONDS):
            received = await reader.read()
        assert received.startswith(b"HTTP/1.1 200")
        assert b"connection: close\r\n" in received
        assert received.endswith(ANSWER)
        writer.close()


async def test_stop_waits_as_long_as_configured(tmp_path) -> None:
    """Long answers need a longer wait than the default."""
    async with running(configured(tmp_path, "server: {drain_seconds: 900}\n"), lambda _: PLAIN) as gateway:
        assert gateway.server.config.timeout_graceful_shutdown == 900
