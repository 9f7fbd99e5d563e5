"""The OpenAPI document describes what the gateway takes, and nothing that fits it makes the gateway fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.upstream.protocol import UpstreamRequest
from penstock_gateway.wire.formats import PATHS
from support.fakes import FakeReply, FakeUpstream
from support.gateway_thread import GatewayThread

schemathesis = pytest.importorskip("schemathesis", reason="needs the dev extra: run make test")

EXAMPLES = 25
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "upstream",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
    "usage": USAGE,
}
CHUNK = {
    **COMPLETION,
    "object": "chat.completion.chunk",
    "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
}


def answer(request: UpstreamRequest) -> FakeReply:
    """Answer as a chat provider does."""
    if request.is_stream:
        return FakeReply(blocks=[b"data: " + json.dumps(CHUNK).encode() + b"\n\n", b"data: [DONE]\n\n"])
    return FakeReply(body=json.dumps(COMPLETION).encode())


def one_deployment(folder: Path) -> Settings:
    """Return settings with one deployment that chats and embeds."""
    path = folder / "penstock.yaml"
    path.write_text(
        "version: 1\n"
        "deployments:\n"
        "  - {name: small, base_url: 'http://127.0.0.1:9/v1', wire_formats: [chat, embeddings], tier: small,\n"
        "     abilities: [streaming, tools, vision, documents, json], price: {input: 1, output: 2}}\n"
        "routing: {artifact: none}\n",
        encoding="utf-8",
    )
    return load_settings(path, {})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayThread]:
    """A gateway in a thread."""
    running = GatewayThread(one_deployment(tmp_path_factory.mktemp("openapi")), {"direct": FakeUpstream(answer)})
    asyncio.run(running.start())
    yield running
    asyncio.run(running.stop())


def operations(gateway: GatewayThread) -> dict[str, Any]:
    """Return the operations of the document by method and path."""
    schema = schemathesis.openapi.from_dict(gateway.app.inspection.openapi())
    found = [result.ok() for result in schema.get_all_operations()]
    return {f"{operation.method.upper()} {operation.path}": operation for operation in found}


def test_document_holds_every_endpoint_that_calls_a_model(gateway: GatewayThread) -> None:
    """Each wire format's path is described, with its required fields."""
    described = operations(gateway)
    for path in PATHS.values():
        assert f"POST /v1{path}" in described
    assert "POST /v1/messages/count_tokens" in described


def test_requests_that_fit_the_document_never_end_in_a_server_error(gateway: GatewayThread) -> None:
    """Whatever the schemas allow is answered, or refused with a code in the shape of the client's format."""
    for name, operation in operations(gateway).items():
        checked(name, operation, gateway.url)()


def checked(name: str, operation: Any, url: str) -> Callable[[], None]:
    """Return a property test of one operation."""

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        response = case.call(base_url=url, timeout=20)
        assert response.status_code < 500, (name, case.body, response.text)
        if response.status_code >= 400 and response.content:
            assert response.json()["error"]["code"], (name, case.body, response.text)

    return check
