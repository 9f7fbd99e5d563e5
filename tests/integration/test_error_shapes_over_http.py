"""Errors of every part of the gateway in the shape that the path's clients read, and LiteLLM's headers on request."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, load_settings
from support.fakes import FakeReply
from support.running_gateway import running

KEY = "k" * 32
CONFIG = """
version: 1
deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 1, output: 2},
     abilities: [streaming]}
routing: {artifact: none}
"""
PLAIN = FakeReply(body=b'{"id":"c","choices":[]}', usage=Usage(input_tokens=10, output_tokens=5))
STREAM = FakeReply(
    blocks=(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',),
    usage=Usage(input_tokens=10, output_tokens=5),
)


def configured(folder: Path, text: str = "") -> Settings:
    """Return settings with one deployment, no artifact, and what the test adds."""
    path = folder / "penstock.yaml"
    path.write_text(CONFIG + text)
    return load_settings(path, {"KEY": KEY})


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "kind", "code"),
    [
        ("POST", "/v1/messages", {}, b"{}", 401, "authentication_error", "missing_api_key"),
        ("POST", "/v1/messages", {"x-api-key": "wrong"}, b"{}", 401, "authentication_error", "invalid_api_key"),
        ("POST", "/v1/messages", {"x-api-key": KEY}, b"{", 400, "invalid_request_error", "invalid_json"),
        ("POST", "/v1/messages", {"x-api-key": KEY}, b"x" * 2000, 413, "request_too_large", "request_too_large"),
        ("GET", "/v1/messages", {"x-api-key": KEY}, b"", 405, "invalid_request_error", "method_not_allowed"),
        ("POST", "/v1/messages/batches", {"x-api-key": KEY}, b"{}", 404, "not_found_error", "unknown_path"),
        ("POST", "/v1/messages/count_tokens", {"x-api-key": KEY}, b"{", 400, "invalid_request_error", "invalid_json"),
        ("POST", "/v1/messages", {"x-penstock-x": "1"}, b"{}", 400, "invalid_request_error", "unknown_control"),
    ],
)
async def test_error_of_a_messages_path_has_anthropics_shape(
    tmp_path, method, path, headers, body, status, kind, code
) -> None:
    """Whoever refuses it: the door, the endpoint or the framework; the id is in the body and in both headers."""
    text = 'client_keys: [{name: ann, key: "${KEY}"}]\nserver: {max_body_bytes: 1024}\n'
    async with running(configured(tmp_path, text), lambda _: PLAIN) as gateway:
        sent = {"content-type": "application/json", "x-request-id": "mine-1", **headers}
        response = await gateway.http.request(method, gateway.url + path, data=body or None, headers=sent)
        shown = await response.json()
        assert (response.status, shown["type"]) == (status, "error")
        assert (shown["error"]["type"], shown["error"]["code"]) == (kind, code)
        assert {shown["request_id"], response.headers["request-id"], response.headers["x-request-id"]} == {"mine-1"}


async def test_bug_at_a_messages_path_has_anthropics_shape(tmp_path, monkeypatch) -> None:
    """Also what nobody has foreseen; its id is a new one when the client sends none."""
    async with running(configured(tmp_path), lambda _: PLAIN) as gateway:

        async def bug(*_: object) -> None:
            raise ZeroDivisionError("secret detail")

        monkeypatch.setattr(gateway.app.pipeline, "answer", bug)
        body = {"model": "small", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
        response = await gateway.http.post(f"{gateway.url}/v1/messages", json=body)
        shown = await response.json()
        assert (response.status, shown["error"]["type"], shown["error"]["code"]) == (500, "api_error", "internal_error")
        assert shown["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("text", "headers", "is_shown"),
    [
        ("", {}, False),
        ("", {"x-penstock-litellm-headers": "true"}, True),
        ("server: {litellm_headers: true}\n", {}, True),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_litellm_headers_are_sent_on_request(tmp_path, text, headers, is_shown, is_stream) -> None:
    """By setting or by request; the cost of a stream is not known when its head is sent."""
    async with running(configured(tmp_path, text), lambda _: STREAM if is_stream else PLAIN) as gateway:
        response = await gateway.chat(headers={"x-request-id": "mine-1", **headers}, stream=is_stream)
        await response.read()
        found = {name.lower(): value for name, value in response.headers.items() if "litellm" in name.lower()}
        assert bool(found) is is_shown
        if is_shown:
            assert (found["x-litellm-call-id"], found["x-litellm-model-id"]) == ("mine-1", "small")
            assert found.get("x-litellm-response-cost") == (None if is_stream else "0.00002")


async def test_litellm_control_that_is_neither_true_nor_false_is_refused(tmp_path) -> None:
    """A header that is misspelt is not ignored."""
    async with running(configured(tmp_path), lambda _: PLAIN) as gateway:
        response = await gateway.chat(headers={"x-penstock-litellm-headers": "please"})
        assert (response.status, (await response.json())["error"]["code"]) == (400, "unknown_control")
