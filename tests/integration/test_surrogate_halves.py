r"""Half of a surrogate pair (``\ud83d`` alone), in what clients send and providers answer, at each front."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.upstream.direct import DirectUpstream
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply
from support.running_gateway import running

CONFIG = """
deployments:
  - {name: chat, model: m, base_url: "URL", wire_formats: [chat], price: {input: 1, output: 2}}
  - {name: messages, model: m, base_url: "URL", wire_formats: [messages], price: {input: 1, output: 2}}
  - {name: responses, model: m, base_url: "URL", wire_formats: [responses], price: {input: 1, output: 2}}
routing: {artifact: none, default_arm: chat}
cache: {mode: exact}
attempts: {retries: 0}
"""
TEXT = r"one\ud83dtwo"
"""As JSON has it; `json.dumps` writes the same of a half in a string."""
CUT = "one\ud83dtwo"
COUNTS = {"input_tokens": 3, "output_tokens": 2}
CHAT_COUNTS = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
CHUNK = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": COUNTS}
ITEM = {"type": "message", "id": "i", "role": "assistant", "status": "completed", "content": []}
PLACE = {"output_index": 0, "content_index": 0, "item_id": "i"}


def part(text: str) -> dict[str, Any]:
    """Return a text of a response."""
    return {"type": "output_text", "text": text, "annotations": []}


RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "m",
    "output": [{**ITEM, "content": [part(CUT)]}],
    "usage": {**COUNTS, "total_tokens": 5},
}
SAID = {"index": 0, "message": {"role": "assistant", "content": CUT}, "finish_reason": "stop"}
ANSWERS = {
    "chat": {**CHUNK, "object": "chat.completion", "choices": [SAID], "usage": CHAT_COUNTS},
    "messages": {**MESSAGE, "content": [{"type": "text", "text": CUT}], "stop_reason": "end_turn"},
    "responses": RESPONSE,
}
EVENTS: dict[str, list[dict[str, Any]]] = {
    "chat": [
        {**CHUNK, "choices": [{"index": 0, "delta": {"role": "assistant", "content": CUT}, "finish_reason": None}]},
        {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": CHAT_COUNTS},
    ],
    "messages": [
        {"type": "message_start", "message": MESSAGE},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": CUT}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ],
    "responses": [
        {"type": "response.created", "response": {**RESPONSE, "status": "in_progress", "output": [], "usage": None}},
        {"type": "response.output_item.added", "output_index": 0, "item": ITEM},
        {"type": "response.content_part.added", **PLACE, "part": part("")},
        {"type": "response.output_text.delta", **PLACE, "delta": CUT},
        {"type": "response.output_text.done", **PLACE, "text": CUT},
        {"type": "response.output_item.done", "output_index": 0, "item": RESPONSE["output"][0]},  # type: ignore[index]
        {"type": "response.completed", "response": RESPONSE},
    ],
}
FRONTS = {
    "chat": ("/v1/chat/completions", '"messages":[{"role":"user","content":"%s"}]', b"data: [DONE]"),
    "messages": ("/v1/messages", '"max_tokens":50,"messages":[{"role":"user","content":"%s"}]', b'"message_stop"'),
    "responses": ("/v1/responses", '"input":"%s"', b'"response.completed"'),
    "completions": ("/v1/completions", '"prompt":"%s"', b"data: [DONE]"),
}
JSON = {"content-type": "application/json"}
PATHS = {"/v1/chat/completions": "chat", "/v1/messages": "messages", "/v1/responses": "responses"}


def unused(_: UpstreamRequest) -> FakeReply:
    """Stand where nothing is faked."""
    raise AssertionError


@pytest.fixture
async def settings(tmp_path: Path) -> AsyncIterator[Settings]:
    """Three deployments of a provider that answers in the format of the path, with half a pair in the text."""

    async def answer(request: web.Request) -> web.StreamResponse:
        wire = PATHS[request.path]
        if not (await request.json()).get("stream"):
            return web.Response(text=json.dumps(ANSWERS[wire]), content_type="application/json")
        named = [f"event: {event['type']}\n" if "type" in event else "" for event in EVENTS[wire]]
        blocks = [f"{name}data: {json.dumps(event)}\n\n" for name, event in zip(named, EVENTS[wire], strict=True)]
        end = "data: [DONE]\n\n" if wire == "chat" else ""
        return web.Response(text="".join(blocks) + end, content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/{path:.*}", answer)
    async with TestServer(app) as server:
        path = tmp_path / "penstock.yaml"
        path.write_text(CONFIG.replace("URL", str(server.make_url("/v1"))), encoding="utf-8")
        yield load_settings(path, {})


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("model", ["chat", "messages", "responses"])
@pytest.mark.parametrize("front", FRONTS)
async def test_answer_with_half_a_pair_reaches_every_client_whole_otherwise(
    settings: Settings, front: str, model: str, is_stream: bool
) -> None:
    """Untouched where both speak one format; translated with U+FFFD in its place. Nothing breaks and all is billed."""
    path, prompt, end = FRONTS[front]
    body = f'{{"model":"{model}","stream":{str(is_stream).lower()},{prompt % "x"}}}'
    async with running(settings, unused, upstream=DirectUpstream()) as gateway:  # type: ignore[arg-type]
        for _ in range(2):  # the second one may find what the first has stored
            response = await gateway.http.post(f"{gateway.url}{path}", data=body, headers=JSON)
            received = await response.read()
            assert (response.status, b'"code":"upstream' in received) == (200, False), received
            wanted = TEXT.encode() if front == model else "one\N{REPLACEMENT CHARACTER}two".encode()
            assert wanted in received
            assert not is_stream or end in received
        found = await gateway.http.get(f"{gateway.url}/v1/decisions/{response.headers['x-penstock-decision-id']}")
        outcome = (await found.json())["outcome"]
        assert (outcome["status"], outcome["error_code"], outcome["output_tokens"]) == (200, None, 2)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("front", FRONTS)
async def test_request_with_half_a_pair_is_refused_before_anybody_is_asked(
    settings: Settings, front: str, is_stream: bool
) -> None:
    """As by OpenAI and Anthropic themselves, in words that say what it is; a whole pair, and a quoted half, pass."""
    path, prompt, _ = FRONTS[front]
    async with running(settings, lambda _: FakeReply(body=b"{}")) as gateway:
        for text, status in ((TEXT, 400), (r"\udc00", 400), (r"\ud83d\ude00", 200), (r"\\ud83d", 200)):
            body = f'{{"model":"chat","stream":{str(is_stream).lower()},{prompt % text}}}'
            response = await gateway.http.post(f"{gateway.url}{path}", data=body, headers=JSON)
            received = await response.read()
            if status == 400:
                assert response.status == 400
                error = msgspec.json.decode(received)["error"]
                assert "half of a surrogate pair" in error["message"]
                assert gateway.upstream.requests == []
            else:
                assert len(gateway.upstream.requests) > 0
                gateway.upstream.requests.clear()
