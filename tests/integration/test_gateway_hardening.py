"""Hostile and unlucky clients, odd providers, and stopping under load, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from penstock_gateway import bounded_http as server_module
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply, FakeUpstream
from support.running_gateway import Running, chat_request, eventually, running

CONFIG = """
version: 1
deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 1, output: 2},
     abilities: [streaming], parameters: {droppable: {temperature: 1}}}
routing: {artifact: none}
"""
USAGE = Usage(input_tokens=10, output_tokens=5)
COST = {"cost_usd": "0.00002", "is_cost_estimated": False}
PLAIN = FakeReply(body=b'{"choices":[],"usage":{"prompt_tokens":10}}', usage=USAGE)
FINISHED = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"o"}}]}\n\n'


class StuckUpstream(FakeUpstream):
    """Takes requests and never answers."""

    def __init__(self) -> None:
        super().__init__(lambda _: PLAIN)
        self.given_up = 0

    async def send(self, request: UpstreamRequest) -> FakeReply:
        """Wait for ever, and count the requests that are taken back."""
        self.requests.append(request)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        raise AssertionError("unreachable")


class StuckReply(FakeReply):
    """Answers with a status and one chunk, then nothing."""

    async def read(self) -> bytes:
        """Wait for ever."""
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield one chunk, then wait for ever."""
        yield CHUNK
        await asyncio.Event().wait()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """One deployment that takes only ``temperature: 1``, no artifact."""
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG)
    return load_settings(path, {})


async def in_flight(gateway: Running) -> bool:
    """Return whether a request is counted as under way."""
    return "penstock_in_flight_requests 0.0" not in await gateway.metrics()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_client_that_leaves_before_the_answer_takes_the_request_back(settings, is_stream) -> None:
    """Nobody pays for an answer that nobody waits for: the provider's request ends, and is settled as left."""
    upstream = StuckUpstream()
    async with running(settings, lambda _: PLAIN, upstream=upstream) as gateway:
        _, writer = await gateway.connect()
        writer.write(chat_request(stream=is_stream))
        await eventually(lambda: bool(upstream.requests))
        assert await in_flight(gateway)
        writer.close()
        await eventually(lambda: upstream.given_up == 1)
        assert not await in_flight(gateway)
        metrics = await gateway.metrics()
        assert 'penstock_requests_total{model="small",reason="physical_model",status="499"} 1.0' in metrics
        assert 'penstock_errors_total{code="client_disconnected"} 1.0' in metrics


async def test_client_that_leaves_during_a_plain_answer_closes_the_provider(settings) -> None:
    """A plain answer that is still on its way is given up like a stream."""
    async with running(settings, lambda _: StuckReply()) as gateway:
        _, writer = await gateway.connect()
        writer.write(chat_request())
        await eventually(lambda: bool(gateway.upstream.replies))
        writer.close()
        await eventually(lambda: gateway.upstream.replies[0].is_closed)
        assert not await in_flight(gateway)


async def test_many_streams_that_are_left_leave_nothing_behind(settings) -> None:
    """After fifty abandoned streams no request is counted, no connection is open and no task is left."""
    async with running(settings, lambda _: StuckReply()) as gateway:
        before = len(asyncio.all_tasks())
        writers = []
        for _ in range(50):
            reader, writer = await gateway.connect()
            writer.write(chat_request(stream=True))
            await reader.readuntil(b"\r\n\r\n")
            writers.append(writer)
        for writer in writers:
            writer.close()
        await eventually(lambda: all(reply.is_closed for reply in gateway.upstream.replies))
        assert not await in_flight(gateway)
        await eventually(lambda: len(asyncio.all_tasks()) <= before + 2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ('"max_tokens":1' + "0" * 400, "max_tokens"),
        ('"max_completion_tokens":9007199254740993', "max_completion_tokens"),
        ('"temperature":1e999', "temperature"),
        ('"temperature":' + "1" * 5000, "temperature"),
    ],
)
async def test_number_out_of_range_is_refused(settings, fields, param) -> None:
    """A number that cannot be worked with is the client's mistake, not ours."""
    async with running(settings, lambda _: PLAIN) as gateway:
        body = '{"model":"auto","messages":[{"role":"user","content":"x"}],' + fields + "}"
        response = await gateway.http.post(
            f"{gateway.url}/v1/chat/completions", data=body, headers={"content-type": "application/json"}
        )
        error = (await response.json())["error"]
        assert (response.status, error["param"]) == (400, param)


async def test_long_alias_is_refused(settings) -> None:
    """An alias is kept with its decision, so it cannot be used to fill the memory."""
    async with running(settings, lambda _: PLAIN) as gateway:
        response = await gateway.chat(model="auto@0." + "5" * 1_000_000)
        assert (response.status, (await response.json())["error"]["code"]) == (400, "unknown_tradeoff")


async def test_second_host_header_is_refused(settings) -> None:
    """Two Host headers could mean one thing to a proxy and another to us."""
    async with running(settings, lambda _: PLAIN) as gateway:
        answer = await gateway.exchange(chat_request(head="host: localhost\r\nconnection: close\r\n"))
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"invalid_header" in answer


async def test_trailing_slash_is_not_redirected(settings) -> None:
    """A redirect would name http:// behind a TLS proxy and carry the client's key there in the clear."""
    async with running(settings, lambda _: PLAIN) as gateway:
        response = await gateway.http.post(f"{gateway.url}/v1/route/", json={}, allow_redirects=False)
        assert (response.status, (await response.json())["error"]["code"]) == (404, "unknown_path")


async def test_body_behind_an_upgrade_is_refused_and_never_run_as_a_request(settings) -> None:
    """The parser stops at an upgrade; what follows is neither read as the body nor taken for the next request."""
    async with running(settings, lambda _: PLAIN) as gateway:
        reader, writer = await gateway.connect()
        inner = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
        lines = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(inner)}\r\n"
        upgrade = "connection: upgrade\r\nupgrade: h2c\r\n\r\n"
        writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{lines}{upgrade}".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(inner)
        async with asyncio.timeout(10):
            rest = await reader.read()
        assert head.startswith(b"HTTP/1.1 400")
        assert b"upgrade_not_supported" in rest
        assert b"HTTP/1.1 200" not in rest
        writer.close()


@pytest.mark.parametrize("part", [b"x-big: " + b"a" * 50_000, b"".join(b"x-%d: a\r\n" % i for i in range(5_000))])
async def test_oversized_head_is_refused(settings, part) -> None:
    """Headers are held in memory before any key is asked for, so their size is bounded."""
    async with running(settings, lambda _: PLAIN) as gateway:
        reader, writer = await gateway.connect()
        writer.write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n")
        for _ in range(20):
            writer.write(part)
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 431")
        writer.close()


async def test_endless_trailers_close_the_connection(settings) -> None:
    """What follows a chunked body is bounded like the head."""
    async with running(settings, lambda _: PLAIN) as gateway:
        reader, writer = await gateway.connect()
        head = "host: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(f"POST /v1/chat/completions HTTP/1.1\r\n{head}2\r\n{{}}\r\n0\r\n".encode())
        for _ in range(20):
            writer.write(b"x: " + b"a" * 50_000)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):  # the answer to what was still on its way
                await reader.read()
        assert not await in_flight(gateway)
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nhost: loc"])
async def test_slow_head_is_cut_off(settings, sent, monkeypatch) -> None:
    """A connection that never finishes its head does not stay open."""
    monkeypatch.setattr(server_module, "HEAD_TIMEOUT_SECONDS", 0.1)
    async with running(settings, lambda _: PLAIN) as gateway:
        assert await gateway.exchange(sent) == b""


async def test_what_is_not_http_gets_openais_error_shape(settings) -> None:
    """Also the parser's own refusals are JSON with a stable code."""
    async with running(settings, lambda _: PLAIN) as gateway:
        answer = await gateway.exchange(b"\x16\x03\x01\r\n\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


async def test_bug_in_a_route_has_openais_error_shape(settings, monkeypatch) -> None:
    """Behind FastAPI, too, a bug is a clean 500 without its text."""
    async with running(settings, lambda _: PLAIN) as gateway:

        async def bug(*_: object) -> None:
            raise ZeroDivisionError("secret detail")

        monkeypatch.setattr(gateway.app.pipeline, "decide", bug)
        response = await gateway.http.post(
            f"{gateway.url}/v1/route", json={"messages": [{"role": "user", "content": "x"}]}
        )
        assert (response.status, (await response.json())["error"]["code"]) == (500, "internal_error")
        assert "penstock_unexpected_errors_total 1.0" in await gateway.metrics()


async def test_refusals_are_counted_once(settings) -> None:
    """Errors before and after a decision appear in one counter, each once."""
    async with running(settings, lambda _: FakeReply(status=700)) as gateway:
        await (await gateway.http.get(f"{gateway.url}/v1/nothing")).read()
        await (await gateway.chat(model="nobody")).read()
        await (await gateway.chat()).read()
        metrics = await gateway.metrics()
        for code in ("unknown_path", "model_not_found", "upstream_broken"):
            assert f'penstock_errors_total{{code="{code}"}} 1.0' in metrics


@pytest.mark.parametrize("status", [600, 999])
async def test_status_that_does_not_exist_is_a_clear_error(settings, status) -> None:
    """A provider's impossible status becomes a 502 with the decision's headers."""
    async with running(settings, lambda _: FakeReply(status=status)) as gateway:
        response = await gateway.chat()
        assert (response.status, (await response.json())["error"]["code"]) == (502, "upstream_broken")
        assert response.headers["x-penstock-model"] == "small"
        assert gateway.upstream.replies[0].is_closed


async def test_error_that_only_claims_to_be_json_is_hidden(settings) -> None:
    """A provider's error is passed on only when it is the JSON object it says it is."""
    async with running(settings, lambda _: FakeReply(status=503, body=b"<html>internal host</html>")) as gateway:
        response = await gateway.chat()
        assert (response.status, (await response.json())["error"]["code"]) == (502, "upstream_broken")
        assert response.headers["x-penstock-model"] == "small"


@pytest.mark.parametrize("usage", ["null", "[]", "5", '"x"', "{}"])
async def test_cost_is_shown_whatever_the_provider_calls_usage(settings, usage) -> None:
    """The cost was asked for, so it is there even when ``usage`` is no object."""
    reply = FakeReply(body=b'{"choices":[],"usage":%s}' % usage.encode(), usage=USAGE)
    async with running(settings, lambda _: reply) as gateway:
        response = await gateway.chat(penstock={"include_cost": True})
        assert (await response.json())["usage"] == COST


async def test_cost_is_not_written_into_a_providers_error(settings) -> None:
    """An error is passed on as it came: nothing was bought."""
    error = b'{"error": {"message": "no"}}'
    async with running(settings, lambda _: FakeReply(status=400, body=error)) as gateway:
        response = await gateway.chat(penstock={"include_cost": True})
        assert (response.status, await response.read()) == (400, error)


@pytest.mark.parametrize(
    "blocks",
    [
        (b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n', FINISHED + b"data: [DONE]\n\n"),
        (CHUNK, b"data:[DONE]\n\n"),
        (CHUNK.replace(b"\n", b"\r"), b"data: [DONE]\r\r"),
        (CHUNK, b": data: [DONE]\n\ndata: [DONE]\r\n\r\n"),
    ],
)
async def test_cost_chunk_stands_before_the_real_end(settings, blocks) -> None:
    """The cost comes between two events, just before ``[DONE]``, however that is written and whoever quotes it."""
    async with running(settings, lambda _: FakeReply(blocks=blocks, usage=USAGE)) as gateway:
        response = await gateway.chat(stream=True, penstock={"include_cost": True})
        received = await response.read()
        begin = received.index(b'data: {"id":"dec_')
        end = received.index(b"\n\n", begin) + 2
        assert received[:begin] + received[end:] == b"".join(blocks)
        assert received[end:].rstrip() in (b"data: [DONE]", b"data:[DONE]")
        assert b'"cost_usd":"0.00002"' in received[begin:end]


async def test_error_event_of_the_provider_is_settled_as_one_with_cost_too(settings) -> None:
    """Asking for the cost does not turn a failed stream into a good one."""
    reply = FakeReply(blocks=(b'data: {"error":{"code":"overloaded"}}\n\n',))
    reply.stream_error = "overloaded"
    async with running(settings, lambda _: reply) as gateway:
        response = await gateway.chat(stream=True, penstock={"include_cost": True})
        assert b"cost_usd" not in await response.read()
        assert 'penstock_errors_total{code="upstream_stream_error"} 1.0' in await gateway.metrics()


async def test_bug_during_a_stream_ends_it_with_an_error(settings) -> None:
    """A bug after the first byte is an error event without details, no ``[DONE]``, and is settled as what it is."""
    async with running(settings, lambda _: FakeReply(blocks=(CHUNK, ZeroDivisionError("secret")))) as gateway:
        received = await (await gateway.chat(stream=True)).read()
        assert received.startswith(CHUNK)
        assert b"internal_error" in received
        assert b"secret" not in received
        assert 'penstock_errors_total{code="internal_error"} 1.0' in await gateway.metrics()


@pytest.mark.parametrize("is_stream", [False, True])
async def test_stop_with_open_requests_ends_them_after_the_grace(settings, is_stream) -> None:
    """When the grace is over, waiting clients are told so and the server is gone."""
    async with running(settings, lambda _: StuckReply()) as gateway:
        gateway.server.config.timeout_graceful_shutdown = 0.2
        reader, writer = await gateway.connect()
        writer.write(chat_request(stream=is_stream))
        await eventually(lambda: bool(gateway.upstream.replies))
        gateway.server.should_exit = True
        async with asyncio.timeout(10):
            received = await reader.read()
        assert received.startswith(b"HTTP/1.1 200" if is_stream else b"HTTP/1.1 503")
        assert b"shutting_down" in received
        assert b"[DONE]" not in received
        await eventually(lambda: gateway.upstream.is_closed)
        assert gateway.upstream.replies[0].is_closed
        writer.close()


async def test_router_failure_shows_in_the_metrics(tmp_path, monkeypatch) -> None:
    """A router that fails answers with the default arm, and the counter that operators watch rises."""

    async def broken(*_: object) -> None:
        raise ValueError("broken")

    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG.replace("routing: {artifact: none}", ""))
    async with running(load_settings(path, {}), lambda _: PLAIN) as gateway:
        parts = gateway.app.pipeline.chooser.parts
        assert parts is not None
        for way in ("encode", "read"):  # with the joined graph, and without
            monkeypatch.setattr(parts.encoder, way, broken)
        assert (await gateway.chat(model="auto")).status == 200
        assert "penstock_router_failures_total 1.0" in await gateway.metrics()


async def test_default_arm_without_estimates_is_said_in_readyz(tmp_path) -> None:
    """Routing that can only abstain is shown as off, with the reason."""
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG.replace("name: small", "name: small, arm: own").replace("routing: {artifact: none}", ""))
    async with running(load_settings(path, {}), lambda _: PLAIN) as gateway:
        ready = await (await gateway.http.get(f"{gateway.url}/readyz")).json()
        assert (ready["routing"], ready["problem"]) == ("off", "default_arm_unscored")
        assert (await gateway.chat(model="auto")).status == 200
