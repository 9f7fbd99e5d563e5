"""What the endpoints of the wire formats promise beside translation: who is asked, who goes on, what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from penstock_gateway.accounts.start import open_directory
from penstock_gateway.admission import Gatekeeper
from penstock_gateway.errors import UpstreamBroken, UpstreamUnreachable
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.settings_models import ClientKeySettings
from penstock_gateway.upstream.protocol import UpstreamRequest
from penstock_gateway.wire.server_sent import event_bytes, events_of
from support.fakes import FakeReply
from support.running_gateway import Running, running

CONFIG = """
version: 1
deployments:
  - {name: chat, model: gpt-4o, provider: openai, base_url: "http://127.0.0.1:9/v1", wire_formats: [chat], tier: small,
     price: {input: 1, output: 2}, abilities: [streaming, tools]}
  - {name: claude, provider: anthropic, model: claude-haiku-4-5, base_url: "http://127.0.0.1:9/v1",
     wire_formats: [messages], tier: frontier, price: {input: 1, output: 2}, abilities: [streaming, tools]}
  - {name: stored-a, model: m, group: stored, base_url: "http://127.0.0.1:9/v1", wire_formats: [responses],
     price: {input: 1, output: 2}, abilities: [streaming, tools], routable: false}
  - {name: stored-b, model: m, group: stored, base_url: "http://127.0.0.1:9/v1", wire_formats: [responses],
     price: {input: 1, output: 2}, abilities: [streaming, tools], routable: false}
  - {name: embed, model: e-1, group: vectors, base_url: "http://127.0.0.1:9/v1", wire_formats: [embeddings],
     price: {input: 1, output: 0}, fallbacks: [chat]}
  - {name: embed-2, model: e-2, group: vectors, base_url: "http://127.0.0.1:9/v1", wire_formats: [embeddings],
     price: {input: 1, output: 0}}
routing: {artifact: none, default_arm: chat}
attempts: {retries: 0}
"""
USAGE = Usage(input_tokens=3, output_tokens=2)
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5",
    "content": [{"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 2},
    "a_new_field": {"kept": True},
}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "m",
    "output": [],
    "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
}
ANSWERS: dict[str, dict[str, Any]] = {"chat": CHAT, "messages": MESSAGE, "responses": RESPONSE}
BEGINNINGS: dict[str, list[bytes]] = {
    "chat": [b'data: {"choices":[{"index":0,"delta":{"content":"A \\"sequence_number\\":9"}}]}\n\n'],
    "responses": [
        event_bytes({"type": "response.created", "sequence_number": 0, "response": RESPONSE}, "response.created"),
        event_bytes({"type": "response.in_progress", "sequence_number": 1}) + event_bytes(b'{"sequence_number": 2}'),
    ],
}
VECTORS = {"object": "list", "data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}


def answer(request: UpstreamRequest) -> FakeReply:
    """Answer in the format that was asked for."""
    if request.path is not None:
        return FakeReply(body=b'{"input_tokens":42}')
    body = ANSWERS.get(request.wire.value, VECTORS)
    return FakeReply(body=json.dumps(body).encode(), usage=USAGE)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Deployments of every format."""
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return load_settings(path, {})


async def post(gateway: Running, path: str, body: dict[str, Any], **headers: str) -> tuple[int, Any, Any]:
    """Return status, JSON and headers of an answer."""
    response = await gateway.http.post(f"{gateway.url}/v1/{path}", json=body, headers=headers)
    return response.status, await response.json(), response.headers


def asked_of(gateway: Running) -> list[str]:
    """Return the names of the deployments that were asked."""
    return [request.deployment.name for request in gateway.upstream.requests]


def sent(gateway: Running, index: int = -1) -> dict[str, Any]:
    """Return a body that went out."""
    return {name: json.loads(bytes(value)) for name, value in gateway.upstream.requests[index].body.items()}


async def test_embeddings_are_answered_by_the_model_named_and_by_no_other(settings: Settings) -> None:
    """A failing embedding model has neither its fallback nor another model of its group stand in for it."""

    def fail(_: UpstreamRequest) -> FakeReply:
        raise UpstreamUnreachable("The provider could not be reached.")

    async with running(settings, fail) as gateway:
        for name in ("embed", "vectors"):
            status, body, _ = await post(gateway, "embeddings", {"model": name, "input": "x"})
            assert (status, body["error"]["code"]) == (502, "upstream_unreachable")
        assert set(asked_of(gateway)) == {"embed"}


async def test_embeddings_reach_their_server_as_they_came_and_are_never_routed(settings: Settings) -> None:
    """Unknown fields pass, the answer is the provider's, and an alias is refused."""
    async with running(settings, answer) as gateway:
        asked = {"model": "embed", "input": ["a", "b"], "a_new_field": 1}
        status, body, headers = await post(gateway, "embeddings", asked)
        assert (status, body) == (200, VECTORS)
        assert "x-penstock-estimated-saving-usd" not in headers  # no chat model would have made vectors
        assert sent(gateway) == {"model": "e-1", "input": ["a", "b"], "a_new_field": 1}
        status, body, _ = await post(gateway, "embeddings", {"model": "auto", "input": "x"})
        assert (status, body["error"]["code"]) == (400, "embeddings_not_routed")
        status, body, _ = await post(gateway, "embeddings", {"model": "chat", "input": "x"})
        assert (status, body["error"]["code"]) == (400, "not_translatable")


async def test_response_that_a_provider_keeps_goes_on_where_it_was_given(settings: Settings) -> None:
    """Of a group the member that gave the answer is asked; who gave an unknown one, `auto` cannot say."""
    async with running(settings, answer) as gateway:
        await post(gateway, "responses", {"model": "stored-b", "input": "x"})
        asked = {"model": "stored", "input": "y", "previous_response_id": "resp_1"}
        for _ in range(3):
            status, _, _ = await post(gateway, "responses", asked)
            assert status == 200
        assert asked_of(gateway) == ["stored-b"] * 4
        assert sent(gateway)["previous_response_id"] == "resp_1"
        status, body, _ = await post(gateway, "responses", {**asked, "model": "auto", "previous_response_id": "resp_9"})
        assert (status, body["error"]["code"]) == (400, "previous_response_unknown")
        status, body, _ = await post(gateway, "responses", {**asked, "model": "chat"})
        assert (status, body["error"]["code"]) == (400, "not_translatable")


async def test_agents_step_goes_to_who_asked_for_the_tool(settings: Settings) -> None:
    """The result of a tool does not go back to the default arm: the conversation goes on where it was."""
    user = {"role": "user", "content": "Look"}
    async with running(settings, answer) as gateway:
        _, first, headers = await post(gateway, "messages", {"model": "claude", "max_tokens": 9, "messages": [user]})
        assert headers["x-penstock-reason"] == "physical_model"
        result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "seen"}]}
        turns = [user, {"role": "assistant", "content": first["content"]}, result]
        _, _, headers = await post(gateway, "messages", {"model": "auto", "max_tokens": 9, "messages": turns})
        assert (headers["x-penstock-model"], headers["x-penstock-reason"]) == ("claude", "continued")


async def test_memory_of_who_answered_is_bounded_by_its_setting(settings: Settings) -> None:
    """However many conversations there are, so many are remembered as the configuration says."""
    routing = settings.routing.model_copy(update={"warm_conversations": 3})
    async with running(settings.model_copy(update={"routing": routing}), answer) as gateway:
        for number in range(8):
            await gateway.chat(model="chat", messages=[{"role": "user", "content": f"Question {number}"}])
        assert len(gateway.app.pipeline.keepers) == 3


@pytest.mark.parametrize("conversation", ["conv_1", {"id": "conv_1"}])
async def test_conversation_that_a_provider_keeps_goes_on_where_it_was_answered(
    settings: Settings, conversation: object
) -> None:
    """Only the deployment that has answered in it is known to have it: neither its group nor `auto` leaves that one."""
    async with running(settings, answer) as gateway:
        asked = {"input": "x", "conversation": conversation}
        await post(gateway, "responses", {"model": "stored-b", **asked})
        for _ in range(3):
            assert (await post(gateway, "responses", {"model": "stored", **asked}))[0] == 200
        assert asked_of(gateway) == ["stored-b"] * 4


@pytest.mark.parametrize("given", [{}, {"input": None}, {"input": []}])
@pytest.mark.parametrize("state", [{"prompt": {"id": "pmpt_1"}}, {"previous_response_id": "resp_1"}])
async def test_response_of_what_a_provider_keeps_needs_no_input(
    settings: Settings, state: dict[str, Any], given: dict[str, Any]
) -> None:
    """A stored prompt or conversation says what is asked, so the request passes as its client wrote it."""
    async with running(settings, answer) as gateway:
        status, _, _ = await post(gateway, "responses", {"model": "stored-a", **state, **given})
        assert status == 200
        assert sent(gateway) == {"model": "m", **state, **given}
        status, body, _ = await post(gateway, "responses", {"model": "chat", **state, **given})
        assert (status, body["error"]["code"]) == (400, "not_translatable")
        assert (await post(gateway, "responses", {"model": "stored-a", **given}))[0] == 400


async def test_native_message_passes_with_its_headers_and_what_nobody_knows(settings: Settings) -> None:
    """A body's unknown fields, the format's own headers and an answer's unknown fields all pass."""
    asked = {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}], "a_new_field": [1.0]}
    async with running(settings, answer) as gateway:
        _, body, headers = await post(
            gateway, "messages", asked, **{"anthropic-version": "2026-10-21", "anthropic-beta": "new-2026-01-01"}
        )
        assert body == MESSAGE
        assert sent(gateway) == {**asked, "model": "claude-haiku-4-5"}
        assert dict(gateway.upstream.requests[0].headers) == {
            "anthropic-version": "2026-10-21",
            "anthropic-beta": "new-2026-01-01",
        }
        assert "x-penstock-dropped" not in headers


async def test_what_a_chat_model_does_not_take_is_left_out_and_named_safely(settings: Settings) -> None:
    """Thinking asked of a model that does not reason is left out, and a field's name cannot end the header."""
    asked = {
        "model": "chat",
        "max_tokens": 9000,
        "messages": [{"role": "user", "content": "Hi"}],
        "thinking": {"type": "enabled", "budget_tokens": 4096},
        "top_k": 5,
        "x\r\nset-cookie: a": 1,
    }
    async with running(settings, answer) as gateway:
        status, body, headers = await post(gateway, "messages", asked)
        assert (status, body["content"]) == (200, [{"type": "text", "text": "Yes."}])
        assert "reasoning_effort" not in sent(gateway)
        named = headers["x-penstock-dropped"].split(",")
        assert {"top_k", "reasoning_effort", "x??set-cookie??a"} == set(named)
        assert "set-cookie" not in headers


async def test_count_of_tokens_is_the_providers_own_or_marked_as_estimated(settings: Settings) -> None:
    """A server of the format counts; for others and for aliases the estimate says that it is one."""
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    turns = [{"role": "user", "content": "word " * 40}, {"role": "assistant", "content": [thought]}]
    asked = {"messages": turns}
    async with running(settings, answer) as gateway:
        _, body, headers = await post(gateway, "messages/count_tokens", {"model": "claude", **asked})
        assert (body, "x-penstock-estimated" in headers) == ({"input_tokens": 42}, False)
        assert sent(gateway)["messages"] == turns[:1]  # what would be left out of the request is not counted
        assert gateway.upstream.requests[0].request_id == headers["x-request-id"]
        for model in ("chat", "auto"):
            status, body, headers = await post(gateway, "messages/count_tokens", {"model": model, **asked})
            assert (status, headers["x-penstock-estimated"]) == (200, "true")
            assert 40 < body["input_tokens"] < 100
        status, body, _ = await post(gateway, "messages/count_tokens", {"model": "nope", **asked})
        assert (status, body["type"], body["error"]["code"]) == (404, "error", "model_not_found")


async def test_response_that_a_provider_keeps_for_one_tenant_is_not_there_for_another(settings: Settings) -> None:
    """Tenants that share a provider's account are kept apart: a foreign id is answered as one that is nobody's."""
    async with running(settings, answer) as gateway:
        keys = tuple(ClientKeySettings(name=name, key=SecretStr(f"sk-0123456789abc-{name}")) for name in ("ann", "bob"))
        directory = open_directory(settings.model_copy(update={"client_keys": keys}))
        gateway.app._gatekeeper = Gatekeeper(directory, bound_host="127.0.0.1", allowed_hosts=())
        url = f"{gateway.url}/v1/responses"
        asked = {"model": "stored-b", "input": "x"}
        headers = {name: {"authorization": f"Bearer sk-0123456789abc-{name}"} for name in ("ann", "bob")}
        assert (await gateway.http.post(url, json=asked, headers=headers["ann"])).status == 200
        asked["previous_response_id"] = "resp_1"
        for model in ("stored-b", "stored", "auto"):
            refused = await gateway.http.post(url, json={**asked, "model": model}, headers=headers["bob"])
            error = (await refused.json())["error"]
            assert (refused.status, error["code"]) == (400, "previous_response_not_found")
            assert error["message"] == "Previous response with id 'resp_1' not found."
        assert (await gateway.http.post(url, json=asked, headers=headers["ann"])).status == 200
        assert asked_of(gateway) == ["stored-b"] * 2


async def test_more_stops_than_openai_takes_go_where_they_are_taken_or_are_refused(settings: Settings) -> None:
    """An answer ends where its client wants it to: `auto` passes by who takes four, and who names it is told."""
    user = {"role": "user", "content": "Count"}
    many, four = [f"stop-{number}" for number in range(6)], [f"stop-{number}" for number in range(4)]
    asked = {"max_tokens": 9, "messages": [user]}
    async with running(settings, answer) as gateway:
        status, body, _ = await post(gateway, "messages", {**asked, "model": "chat", "stop_sequences": many})
        assert (status, body["error"]["code"]) == (400, "not_translatable")
        assert body["error"]["message"] == ("'chat': the model takes 4 stop sequences, and this request has 6.")
        status, body, _ = await post(gateway, "completions", {"model": "chat", "prompt": "x", "stop": many})
        assert (status, body["error"]["code"], body["error"]["param"]) == (400, "not_translatable", "stop")
        assert gateway.upstream.requests == []
        for path, fields in (("messages", {"stop_sequences": many}), ("chat/completions", {"stop": many})):
            _, _, headers = await post(gateway, path, {**asked, "model": "auto", **fields})
            assert (headers["x-penstock-model"], sent(gateway)["stop_sequences"]) == ("claude", many)
        status, _, headers = await post(gateway, "messages", {**asked, "model": "chat", "stop_sequences": four})
        assert (status, sent(gateway)["stop"], "x-penstock-dropped" in headers) == (200, four, False)
        await post(gateway, "chat/completions", {**asked, "model": "chat", "stop": many})
        assert sent(gateway)["stop"] == many  # its own format: OpenAI says what it takes


async def test_limit_of_no_token_is_refused_where_only_anthropic_knows_it(settings: Settings) -> None:
    """``max_tokens: 0`` fills Anthropic's cache: it reaches a server of the format and nobody else."""
    asked = {"max_tokens": 0, "messages": [{"role": "user", "content": "x"}]}
    async with running(settings, answer) as gateway:
        assert (await post(gateway, "messages", {**asked, "model": "claude"}))[0] == 200
        assert sent(gateway)["max_tokens"] == 0
        status, body, _ = await post(gateway, "messages", {**asked, "model": "chat"})
        assert (status, body["error"]["code"]) == (400, "not_translatable")
        assert asked_of(gateway) == ["claude"]


@pytest.mark.parametrize(("limit", "goes_out", "dropped"), [(1, 16, "max_tokens"), (16, 16, None), (17, 17, None)])
async def test_limit_below_what_responses_take_is_raised_and_named(
    settings: Settings, limit: int, goes_out: int, dropped: str | None
) -> None:
    """OpenAI refuses less than 16 there; a chat client gets its answer, and reads that its limit was not kept."""
    asked = {"model": "stored-a", "max_tokens": limit, "messages": [{"role": "user", "content": "x"}]}
    async with running(settings, answer) as gateway:
        status, _, headers = await post(gateway, "chat/completions", asked)
        assert (status, sent(gateway)["max_output_tokens"]) == (200, goes_out)
        assert headers.get("x-penstock-dropped") == dropped
        asked = {"model": "stored-a", "max_output_tokens": limit, "input": "x"}
        assert (await post(gateway, "responses", asked))[0] == 200
        assert sent(gateway)["max_output_tokens"] == limit  # its own format: OpenAI says what it takes


async def test_models_are_listed_with_their_groups_in_the_clients_shape(settings: Settings) -> None:
    """A client that lists models before it asks finds the group's name too, and Anthropic's finds its own shape."""
    async with running(settings, answer) as gateway:
        listed = await (await gateway.http.get(f"{gateway.url}/v1/models")).json()
        names = [model["id"] for model in listed["data"]]
        assert {"auto", "stored", "stored-a", "vectors"} <= set(names)
        assert len(names) == len(set(names))
        version = {"anthropic-version": "2023-06-01"}
        page = await (await gateway.http.get(f"{gateway.url}/v1/models", headers=version)).json()
        assert [model["id"] for model in page["data"]] == names
        assert (page["has_more"], page["data"][0]["type"]) == (False, "model")


@pytest.mark.parametrize("model", ["chat", "stored-a"])
@pytest.mark.parametrize("failure", [UpstreamBroken("The provider broke off."), ZeroDivisionError("a bug")])
async def test_error_in_a_response_under_way_is_numbered_after_the_last_event(
    settings: Settings, model: str, failure: Exception
) -> None:
    """Clients order events by their numbers, whoever has made the ones before: the provider or a translator."""

    def break_off(request: UpstreamRequest) -> FakeReply:
        return FakeReply(blocks=[*BEGINNINGS[request.wire.value], failure], content_type="text/event-stream")

    async with running(settings, break_off) as gateway:
        body = {"model": model, "input": "x", "stream": True}
        response = await gateway.http.post(f"{gateway.url}/v1/responses", json=body)
        events = [json.loads(data) for _, data in events_of(await response.read())]
    assert (events[-1]["type"], events[-1]["code"] in ("upstream_broken", "internal_error")) == ("error", True)
    assert len(events) > 2
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
