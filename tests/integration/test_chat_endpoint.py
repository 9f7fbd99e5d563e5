"""The application over real HTTP with a fake upstream: what a client sees, for good and bad requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from pydantic import SecretStr

from penstock_gateway.accounts.start import open_directory
from penstock_gateway.admission import Gatekeeper
from penstock_gateway.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.settings_models import ClientKeySettings
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply
from support.running_gateway import running

CONFIG = """
version: 1
deployments:
  - {name: small, model: up-small, base_url: "http://127.0.0.1:9/v1", tier: small,
     price: {input: 0.1, output: 0.4}, context_tokens: 8000, max_output_tokens: 4000,
     abilities: [streaming, tools, vision, json]}
  - {name: frontier, model: up-frontier, base_url: "http://127.0.0.1:9/v1", tier: frontier,
     price: {input: 10, output: 30}, context_tokens: 8000, max_output_tokens: 4000,
     abilities: [streaming, tools, vision, json]}
routing: {artifact: none}
"""
USAGE = Usage(input_tokens=1000, output_tokens=200)
COMPLETION = {
    "id": "c1",
    "object": "chat.completion",
    "model": "up-small",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200},
}
EVENTS = (
    b'data: {"id":"chatcmpl-7","choices":[{"delta":{"content":"o"}}]}\n\n',
    b'data: {"choices":[]}\n\ndata: [DONE]\n\n',
)


Reply = Callable[[UpstreamRequest], FakeReply]


def completion(_: UpstreamRequest) -> FakeReply:
    """Answer with a plain completion."""
    return FakeReply(body=json.dumps(COMPLETION).encode(), usage=USAGE)


def stream(_: UpstreamRequest) -> FakeReply:
    """Answer with a short stream."""
    return FakeReply(blocks=EVENTS, usage=USAGE, content_type="text/event-stream")


@pytest.fixture
def settings(tmp_path) -> Settings:
    """Two deployments, no artifact."""
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG)
    return load_settings(path, {})


async def test_chat_physical_model_is_relayed_untouched(settings) -> None:
    """A named model is never rerouted, and its answer arrives byte for byte."""
    async with running(settings, completion) as gateway:
        response = await gateway.chat(seed=7, vendor={"a": [1.0]})
        assert (response.status, await response.read()) == (200, json.dumps(COMPLETION).encode())
        sent = gateway.upstream.requests[0].body
        assert bytes(sent["model"]) == b'"up-small"'
        assert bytes(sent["vendor"]) == b'{"a": [1.0]}'
        assert response.headers["x-penstock-model"] == "small"
        assert response.headers["x-penstock-reason"] == "physical_model"
        assert response.headers["x-ratelimit-remaining-requests"] == "7"


async def test_chat_decision_holds_exact_cost_afterwards(settings) -> None:
    """The decision shows the exact cost from the provider's usage: 1000 x 0.1 + 200 x 0.4 per million."""
    async with running(settings, completion) as gateway:
        response = await gateway.chat()
        await response.read()
        found = await gateway.http.get(f"{gateway.url}/v1/decisions/{response.headers['x-penstock-decision-id']}")
        outcome = (await found.json())["outcome"]
        assert (outcome["cost_usd"], outcome["is_cost_estimated"]) == ("0.00018", False)


async def test_chat_cost_in_body_only_on_request(settings) -> None:
    """The body's usage carries the cost when asked for by header or by body field."""
    async with running(settings, completion) as gateway:
        by_header = await (await gateway.chat(headers={"x-penstock-include-cost": "true"})).json()
        by_body = await (await gateway.chat(penstock={"include_cost": True})).json()
        with_cost = {**COMPLETION["usage"], "cost_usd": "0.00018", "is_cost_estimated": False}
        assert by_header["usage"] == by_body["usage"] == with_cost
        assert "penstock" not in gateway.upstream.requests[1].body


async def test_chat_stream_is_relayed_and_usage_is_asked_for(settings) -> None:
    """A stream arrives byte for byte; its usage is asked for and hidden when the client did not want it."""
    async with running(settings, stream) as gateway:
        response = await gateway.chat(stream=True)
        assert response.headers["content-type"].startswith("text/event-stream")
        assert await response.read() == b"".join(EVENTS)
        asked = gateway.upstream.requests[0]
        assert asked.hides_usage
        assert json.loads(bytes(asked.body["stream_options"])) == {"include_usage": True}


async def test_chat_stream_cost_chunk_comes_before_done(settings) -> None:
    """The opt-in cost chunk is the last one before ``[DONE]``."""
    async with running(settings, stream) as gateway:
        response = await gateway.chat(stream=True, penstock={"include_cost": True})
        events = [e for e in (await response.text()).split("\n\n") if e]
        assert events[-1] == "data: [DONE]"
        chunk = json.loads(events[-2].removeprefix("data: "))
        assert (chunk["choices"], chunk["id"]) == ([], "chatcmpl-7")
        assert chunk["usage"]["cost_usd"] == "0.00018"


async def test_chat_stream_cost_chunk_has_what_was_read_from_a_cache_and_thought(settings) -> None:
    """Whoever is shown a cost sees the parts that explain it, in the stream and in the decision afterwards."""

    def thoughtful(_: UpstreamRequest) -> FakeReply:
        usage = Usage(1000, 200, cached_input_tokens=300, reasoning_tokens=150)
        return FakeReply(blocks=EVENTS, usage=usage, content_type="text/event-stream")

    async with running(settings, thoughtful) as gateway:
        response = await gateway.chat(stream=True, penstock={"include_cost": True})
        usage = json.loads((await response.text()).split("\n\n")[-3].removeprefix("data: "))["usage"]
        assert usage["prompt_tokens_details"] == {"cached_tokens": 300}
        assert usage["completion_tokens_details"] == {"reasoning_tokens": 150}
        decision = response.headers["x-penstock-decision-id"]
        shown = await (await gateway.http.get(f"{gateway.url}/v1/decisions/{decision}")).json()
        assert (shown["outcome"]["reasoning_tokens"], shown["outcome"]["cached_input_tokens"]) == (150, 300)
        assert 'penstock_tokens_total{kind="reasoning",model="small"} 150.0' in await gateway.metrics()


async def test_chat_broken_stream_ends_with_error_and_without_done(settings) -> None:
    """A stream that breaks after its first byte ends in an error event, never in a false ``[DONE]``."""

    def broken(_: UpstreamRequest) -> FakeReply:
        return FakeReply(blocks=(EVENTS[0], UpstreamBroken("The provider's stream was cut off.")))

    async with running(settings, broken) as gateway:
        response = await gateway.chat(stream=True, penstock={"include_cost": True})
        text = await response.text()
        assert "[DONE]" not in text
        assert json.loads(text.split("\n\n")[1].removeprefix("data: "))["error"]["code"] == "upstream_broken"
        found = await gateway.http.get(f"{gateway.url}/v1/decisions/{response.headers['x-penstock-decision-id']}")
        outcome = (await found.json())["outcome"]
        assert (outcome["error_code"], outcome["is_cost_estimated"]) == ("upstream_broken", True)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UpstreamUnreachable("The provider cannot be reached."), 502, "upstream_unreachable"),
        (UpstreamTimeout("The provider did not answer in time."), 504, "upstream_timeout"),
    ],
)
async def test_chat_upstream_failure_is_a_clear_error(settings, error, status, code) -> None:
    """A provider that fails before the first byte gives OpenAI's error shape with the decision's headers."""

    def failing(_: UpstreamRequest) -> FakeReply:
        raise error

    async with running(settings, failing) as gateway:
        for is_stream in (False, True):
            response = await gateway.chat(stream=is_stream)
            shown = (await response.json())["error"]
            assert (response.status, shown["code"], shown["type"]) == (status, code, "upstream_error")
            assert response.headers["x-penstock-decision-id"].startswith("dec_")


async def test_chat_provider_error_is_passed_on(settings) -> None:
    """A provider's own JSON error reaches the client with its status; it costs nothing."""
    refusal = b'{"error":{"message":"bad image","type":"invalid_request_error","param":null,"code":null}}'
    async with running(settings, lambda _: FakeReply(status=400, body=refusal)) as gateway:
        response = await gateway.chat(stream=True)
        assert (response.status, await response.read()) == (400, refusal)
        found = await gateway.http.get(f"{gateway.url}/v1/decisions/{response.headers['x-penstock-decision-id']}")
        assert (await found.json())["outcome"]["cost_usd"] is None


async def test_chat_provider_html_error_is_hidden(settings) -> None:
    """An HTML page of some proxy in between is replaced by a clear error."""
    page = FakeReply(status=503, body=b"<html>secret</html>", content_type="text/html")
    async with running(settings, lambda _: page) as gateway:
        response = await gateway.chat()
        assert (response.status, (await response.json())["error"]["code"]) == (502, "upstream_broken")
        assert b"secret" not in await response.read()


async def test_chat_client_that_leaves_closes_the_upstream(settings) -> None:
    """When the client leaves a stream, the provider's connection is closed and the request is settled as estimated."""

    class Endless(FakeReply):
        async def events(self):
            while True:
                self.output_bytes += len(EVENTS[0])
                yield EVENTS[0]
                await asyncio.sleep(0.01)

    async with running(settings, lambda _: Endless()) as gateway:
        response = await gateway.chat(stream=True)
        await response.content.readany()
        response.close()
        reply = gateway.upstream.replies[0]
        async with asyncio.timeout(5):
            while not reply.is_closed:
                await asyncio.sleep(0.01)
        found = await gateway.http.get(f"{gateway.url}/v1/decisions/{response.headers['x-penstock-decision-id']}")
        outcome = (await found.json())["outcome"]
        assert (outcome["error_code"], outcome["is_cost_estimated"]) == ("client_disconnected", True)


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/v1/nothing", "GET", 404, "unknown_path"),
        ("/v1/chat/completions", "GET", 405, "method_not_allowed"),
        ("/v1/models/unknown", "GET", 404, "model_not_found"),
        ("/v1/decisions/dec_unknown", "GET", 404, "decision_not_found"),
        ("/docs", "GET", 404, "unknown_path"),
    ],
)
async def test_any_unknown_path_has_openais_error_shape(settings, path, method, status, code) -> None:
    """Paths, methods, models and decisions that do not exist give the same error shape."""
    async with running(settings, completion) as gateway:
        response = await gateway.http.request(method, gateway.url + path)
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (status, code)
        assert set(error) == {"message", "type", "param", "code"}


async def test_chat_unknown_model_lists_known_ones(settings) -> None:
    """An unknown model is a 404 that names what exists."""
    async with running(settings, completion) as gateway:
        response = await gateway.chat(model="gpt-99")
        error = (await response.json())["error"]
        assert (response.status, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "small" in error["message"]


@pytest.mark.parametrize(
    ("headers", "content", "status", "code"),
    [
        ({"content-type": "text/plain"}, b"{}", 415, "unsupported_media_type"),
        ({"content-type": "application/json", "content-encoding": "br"}, b"{}", 415, "unsupported_content_encoding"),
        ({"content-type": "application/json"}, b"{", 400, "invalid_json"),
        ({"content-type": "application/json"}, b'{"a":' + b"[" * 50_000, 400, "json_too_deep"),
        ({"content-type": "application/json"}, b"x" * 2_000_000, 413, "request_too_large"),
        ({"content-type": "application/json", "x-penstock-tradeof": "1"}, b"{}", 400, "unknown_control"),
        ({"content-type": "application/json", "x-penstock-include-cost": "maybe"}, b"{}", 400, "unknown_control"),
    ],
)
async def test_chat_bad_transport_is_refused(settings, headers, content, status, code) -> None:
    """Wrong media, malformed, deep or oversized bodies and unknown controls have a status and a code each."""
    small = settings.model_copy(update={"server": settings.server.model_copy(update={"max_body_bytes": 1_000_000})})
    async with running(small, completion) as gateway:
        url = f"{gateway.url}/v1/chat/completions"
        response = await gateway.http.post(url, data=content, headers=headers)
        assert (response.status, (await response.json())["error"]["code"]) == (status, code)
        assert gateway.upstream.requests == []


async def test_chat_oversized_chunked_body_is_refused(settings) -> None:
    """A body without a declared length is cut off at the limit too."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 65_536

    small = settings.model_copy(update={"server": settings.server.model_copy(update={"max_body_bytes": 1_000_000})})
    async with running(small, completion) as gateway:
        url = f"{gateway.url}/v1/chat/completions"
        try:
            response = await gateway.http.post(url, data=endless(), headers={"content-type": "application/json"})
            assert response.status == 413
        except aiohttp.ClientConnectionError:
            pass  # the server may close while the client is still sending
        assert gateway.upstream.requests == []


async def test_chat_contradicting_tradeoffs_are_refused(settings) -> None:
    """Alias, header and body may agree; when they do not, nothing is guessed."""
    async with running(settings, completion) as gateway:
        agreed = await gateway.chat(model="auto@0.5", headers={"x-penstock-tradeoff": "0.5"})
        assert agreed.status == 200
        clash = await gateway.chat(model="auto:cost", headers={"x-penstock-tradeoff": "quality"})
        assert (clash.status, (await clash.json())["error"]["code"]) == (400, "conflicting_tradeoff")


async def test_route_shows_candidates_without_calling_a_model(settings) -> None:
    """A dry run lists every deployment with cost and rejection and calls nobody."""
    async with running(settings, completion) as gateway:
        body = {"messages": [{"role": "user", "content": "a" * 100}], "max_tokens": 100}
        response = await gateway.http.post(f"{gateway.url}/v1/route", json=body)
        decision = await response.json()
        assert (decision["model"], decision["reason"]) == ("frontier", "abstained_no_estimate")
        assert {c["model"] for c in decision["candidates"]} == {"small", "frontier"}
        assert gateway.upstream.requests == []


async def test_models_lists_aliases_and_deployments(settings) -> None:
    """Clients find the aliases and the physical models, with prices, and can show one."""
    async with running(settings, completion) as gateway:
        listed = await (await gateway.http.get(f"{gateway.url}/v1/models")).json()
        names = [model["id"] for model in listed["data"]]
        assert names == ["auto", "auto:cost", "auto:balanced", "auto:quality", "small", "frontier"]
        one = await (await gateway.http.get(f"{gateway.url}/v1/models/auto:cost")).json()
        assert one["owned_by"] == "penstock"


async def test_metrics_count_requests_by_model_and_reason(settings) -> None:
    """A request appears in the metrics under its deployment and reason, with its cost."""
    async with running(settings, completion) as gateway:
        await (await gateway.chat()).read()
        text = await (await gateway.http.get(f"{gateway.url}/metrics")).text()
        assert 'penstock_requests_total{model="small",reason="physical_model",status="200"} 1.0' in text
        assert 'penstock_cost_usd_total{is_estimated="false",model="small"} 0.00018' in text


async def test_every_route_but_probes_needs_the_key(settings) -> None:
    """With client keys configured nothing but the probes answers without one, in either header form."""
    async with running(settings, completion) as gateway:
        keys = tuple(ClientKeySettings(name=name, key=SecretStr(f"sk-0123456789abc-{name}")) for name in ("a", "b"))
        directory = open_directory(settings.model_copy(update={"client_keys": keys}))
        gateway.app._gatekeeper = Gatekeeper(directory, bound_host="127.0.0.1", allowed_hosts=())
        for path in ("/v1/models", "/v1/decisions/x", "/metrics", "/openapi.json", "/v1/route", "/v1/nothing"):
            assert (await gateway.http.get(gateway.url + path)).status == 401, path
        assert (await gateway.chat()).status == 401
        assert (await gateway.http.get(f"{gateway.url}/livez")).status == 200
        assert (await gateway.http.get(f"{gateway.url}/readyz")).status == 200
        answer = await gateway.chat(headers={"authorization": "Bearer sk-0123456789abc-a"})
        url = f"{gateway.url}/v1/decisions/{answer.headers['x-penstock-decision-id']}"
        assert (await gateway.http.get(url, headers={"x-api-key": "sk-0123456789abc-a"})).status == 200
        assert (await gateway.http.get(url, headers={"x-api-key": "sk-0123456789abc-b"})).status == 404


async def test_models_lists_what_the_key_may_use_and_nothing_else(settings) -> None:
    """A key learns nothing of models that it may not ask for; to it they are not there."""
    async with running(settings, completion) as gateway:
        key = ClientKeySettings(name="a", key=SecretStr("sk-0123456789abc-a"), allowed_models=("auto", "small"))
        directory = open_directory(settings.model_copy(update={"client_keys": (key,)}))
        gateway.app._gatekeeper = Gatekeeper(directory, bound_host="127.0.0.1", allowed_hosts=())
        headers = {"x-api-key": "sk-0123456789abc-a"}
        listed = await (await gateway.http.get(f"{gateway.url}/v1/models", headers=headers)).json()
        names = [model["id"] for model in listed["data"]]
        assert names == ["auto", "auto:cost", "auto:balanced", "auto:quality", "small"]
        for version in ({}, {"anthropic-version": "2023-06-01"}):
            one = await gateway.http.get(f"{gateway.url}/v1/models/small", headers={**headers, **version})
            other = await gateway.http.get(f"{gateway.url}/v1/models/frontier", headers={**headers, **version})
            unknown = await gateway.http.get(f"{gateway.url}/v1/models/nope", headers={**headers, **version})
            assert (one.status, other.status, unknown.status) == (200, 404, 404)
            assert (await other.text()).replace("frontier", "nope") == await unknown.text()


async def test_foreign_host_header_is_refused_everywhere(settings) -> None:
    """A request under a name that is not ours is refused before anything is read."""
    async with running(settings, completion) as gateway:
        for path in ("/v1/models", "/metrics"):
            response = await gateway.http.get(gateway.url + path, headers={"host": "evil.example"})
            assert (response.status, (await response.json())["error"]["code"]) == (403, "host_not_allowed")


async def test_no_answer_carries_cors_headers(settings) -> None:
    """Cross-origin pages get nothing: no CORS header on any answer, preflight refused."""
    async with running(settings, completion) as gateway:
        response = await gateway.http.options(
            f"{gateway.url}/v1/chat/completions",
            headers={"origin": "https://evil.example", "access-control-request-method": "POST"},
        )
        assert response.status == 405
        assert not [name for name in response.headers if name.lower().startswith("access-control")]


async def test_chat_slow_path_gives_the_same_answer_as_the_hot_one(settings) -> None:
    """The route declared in FastAPI answers exactly like the dispatcher in front of it."""
    async with running(settings, completion) as gateway:
        hot = await gateway.chat()
        chat = gateway.app._inference

        async def through_fastapi(scope, receive, send, head, principal):
            scope["penstock.principal"] = principal
            await gateway.app.inspection(scope, receive, send)

        gateway.app._inference = through_fastapi
        slow = await gateway.chat()
        gateway.app._inference = chat
        assert (hot.status, await hot.read()) == (slow.status, await slow.read())
        varying = {"x-penstock-decision-id", "x-penstock-overhead-ms", "x-request-id", "date"}
        shown = [{k.lower(): v for k, v in r.headers.items() if k.lower() not in varying} for r in (hot, slow)]
        assert shown[0] == shown[1]


async def test_too_many_in_flight_is_503_with_retry_after(settings) -> None:
    """Beyond the limit new requests are refused at once instead of queueing."""
    release = asyncio.Event()

    class Slow(FakeReply):
        async def read(self) -> bytes:
            await release.wait()
            return await super().read()

    one = settings.model_copy(update={"server": settings.server.model_copy(update={"max_in_flight": 1})})
    async with running(one, lambda _: Slow()) as gateway:
        first = asyncio.create_task(gateway.chat())
        async with asyncio.timeout(5):
            while not gateway.upstream.requests:
                await asyncio.sleep(0.005)
        second = await gateway.chat()
        assert (second.status, second.headers["retry-after"]) == (503, "1")
        release.set()
        assert (await first).status == 200


async def test_unexpected_failure_hides_details(settings) -> None:
    """A bug shows a clean 500 to the client and nothing of its text."""

    def bug(_: UpstreamRequest) -> FakeReply:
        raise ZeroDivisionError("secret detail")

    async with running(settings, bug) as gateway:
        response = await gateway.chat()
        assert (response.status, (await response.json())["error"]["code"]) == (500, "internal_error")
        assert "secret" not in await response.text()


async def test_inbound_request_id_is_echoed_when_harmless(settings) -> None:
    """A short printable id comes back; anything else is replaced by our own."""
    async with running(settings, completion) as gateway:
        assert (await gateway.chat(headers={"x-request-id": "abc-1"})).headers["x-request-id"] == "abc-1"
        forged = await gateway.chat(headers={"x-request-id": "x" * 500})
        assert forged.headers["x-request-id"].startswith("req_")
