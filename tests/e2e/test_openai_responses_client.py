"""The official OpenAI client's Responses, completions and embeddings get through the gateway what the provider sends.

In front of OpenAI's own API the answers are equal to the last field; in front of chat completions and Anthropic's
Messages they have the same content, calls, end and usage. Chat completions in front of another format are here too;
`test_openai_client` has them in front of their own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pydantic
import pytest

from support.client_script import RESULT, SCENARIOS, cancel_after_first, chat_request, outcome_of, responses_request
from support.declared_shapes import problems_of
from support.wire_gateway import UPSTREAM_KEY, Way, Ways

OTHER_SERVERS = ("chat-only", "claude-sonnet-4-5")
CHAT_SERVERS = ("claude-sonnet-4-5", "responses-only")


class City(pydantic.BaseModel):
    city: str
    population: int


@dataclass
class Clients:
    """One client per way."""

    direct: openai.OpenAI
    gateway: openai.OpenAI


def client_of(way: Way) -> openai.OpenAI:
    return openai.OpenAI(base_url=way.v1, api_key=way.key, max_retries=0)


@pytest.fixture(scope="module")
def clients(ways: Ways) -> Iterator[Clients]:
    with client_of(ways.direct) as direct, client_of(ways.gateway) as gateway:
        yield Clients(direct, gateway)


def plain(value: Any) -> Any:
    """Return an object of the client as a dict, every field of it."""
    return value.model_dump(mode="json")


def gist(response: Any) -> dict[str, Any]:
    """Return what a response says, without what another provider cannot know: ids and encrypted reasoning."""
    items: list[Any] = []
    for item in response.output:
        match item.type:
            case "message":
                items.append(("message", item.role, item.status, [(part.type, part.text) for part in item.content]))
            case "function_call":
                items.append(("function_call", item.name, json.loads(item.arguments), item.status))
            case "reasoning":
                items.append(("reasoning", [part.text for part in item.summary]))
    usage = response.usage
    counts = (usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens, usage.total_tokens)
    reason = response.incomplete_details.reason if response.incomplete_details else None
    return {"items": items, "status": response.status, "reason": reason, "counts": counts}


def chat_gist(completion: Any) -> dict[str, Any]:
    """Return what a chat completion says, without ids."""
    choice, usage = completion.choices[0], completion.usage
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls or []]
    cached = usage.prompt_tokens_details.cached_tokens
    counts = (usage.prompt_tokens, cached, usage.completion_tokens, usage.total_tokens)
    thought = getattr(choice.message, "reasoning_content", None)
    return {
        "content": choice.message.content,
        "thought": thought,
        "calls": calls,
        "finish": choice.finish_reason,
        "counts": counts,
    }


def events_of(client: openai.OpenAI, request: dict[str, Any]) -> list[Any]:
    with client.responses.create(**request, stream=True) as stream:
        return [plain(event) for event in stream]


def raw_events(resource: Any, request: dict[str, Any]) -> list[Any]:
    """Return what the events of a stream carry, as it came."""
    with resource.with_streaming_response.create(**request, stream=True) as reply:
        lines = [line for line in reply.iter_lines() if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def final_of(client: openai.OpenAI, request: dict[str, Any]) -> tuple[list[str], Any]:
    """Return the pieces of text, and the response that the client puts together."""
    with client.responses.stream(**request) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        return pieces, stream.get_final_response()


def kinds_by_item(events: list[Any]) -> dict[int | None, list[str]]:
    """Return the kinds of events of each item; the pieces of one text or one call count once."""
    kinds: dict[int | None, list[str]] = {}
    for event in events:
        found = kinds.setdefault(event.get("output_index"), [])
        if not (found and found[-1] == event["type"] and event["type"].endswith(".delta")):
            found.append(event["type"])
    return kinds


def broken_stream(client: openai.OpenAI, server: str) -> tuple[list[Any], Any]:
    """Return the events of a stream that breaks, the error event among them, and what the client raises if it does."""
    received: list[Any] = []
    error = None
    with client.responses.create(**responses_request("broken", server), stream=True) as stream:
        try:
            received.extend(plain(event) for event in stream)
        except openai.APIError as raised:
            error = raised
    return received, error


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_responses_client_response_of_its_own_provider_is_the_same(clients: Clients, scenario: str) -> None:
    """A response of OpenAI's is the same object through the gateway, ids and repeated parameters included."""
    request = responses_request(scenario)
    assert plain(clients.gateway.responses.create(**request)) == plain(clients.direct.responses.create(**request))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_responses_client_stream_of_its_own_provider_is_the_same(clients: Clients, scenario: str) -> None:
    """A stream of OpenAI's is the same sequence of events through the gateway."""
    request = responses_request(scenario)
    direct = events_of(clients.direct, request)
    assert events_of(clients.gateway, request) == direct
    assert direct[-1]["type"] in ("response.completed", "response.incomplete")


@pytest.mark.parametrize("server", OTHER_SERVERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_responses_client_response_of_another_format_says_the_same(
    clients: Clients, scenario: str, server: str
) -> None:
    """A response made of another provider's answer has the items, status and usage that OpenAI's would have."""
    through = clients.gateway.responses.create(**responses_request(scenario, server))
    assert gist(through) == gist(clients.direct.responses.create(**responses_request(scenario)))


@pytest.mark.parametrize("server", OTHER_SERVERS)
@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "cut"])  # which it has no final one of
def test_responses_client_stream_of_another_format_says_the_same(clients: Clients, scenario: str, server: str) -> None:
    """The client puts the same response together from a translated stream, with as many pieces of text."""
    through_pieces, through = final_of(clients.gateway, responses_request(scenario, server))
    direct_pieces, direct = final_of(clients.direct, responses_request(scenario))
    assert gist(through) == gist(direct)
    assert through_pieces == direct_pieces


@pytest.mark.parametrize("server", OTHER_SERVERS)
@pytest.mark.parametrize("scenario", ["text", "parallel-tools", "cut"])
def test_responses_client_translated_stream_numbers_its_events(clients: Clients, scenario: str, server: str) -> None:
    """A translated stream has OpenAI's kinds of events, those of each item in their order, numbered without a gap."""
    through = events_of(clients.gateway, responses_request(scenario, server))
    direct = events_of(clients.direct, responses_request(scenario))
    assert [event["sequence_number"] for event in through] == list(range(len(through)))
    assert kinds_by_item(through) == kinds_by_item(direct)


@pytest.mark.parametrize("server", OTHER_SERVERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_responses_client_translated_answer_has_the_declared_shape(
    clients: Clients, scenario: str, server: str
) -> None:
    """The client reads leniently, so each response and event is also held against its types."""
    request = responses_request(scenario, server)
    response = clients.gateway.responses.with_raw_response.create(**request)
    assert problems_of(json.loads(response.text), openai.types.responses.Response) == []
    for event in raw_events(clients.gateway.responses, request):
        assert problems_of(event, openai.types.responses.ResponseStreamEvent) == []


@pytest.mark.parametrize("server", ["gpt-4o", *OTHER_SERVERS])
def test_responses_client_outputs_of_tools_reach_the_model(ways: Ways, clients: Clients, server: str) -> None:
    """The second step of an agent's loop, with the outputs of parallel calls, is answered in every format."""
    request = responses_request("parallel-tools", server)
    first = clients.gateway.responses.create(**request)
    calls = [item for item in first.output if item.type == "function_call"]
    outputs = [{"type": "function_call_output", "call_id": call.call_id, "output": RESULT} for call in calls]
    items = [
        {"role": "user", "content": request["input"]},
        *(item.model_dump(exclude_none=True) for item in first.output),
        *outputs,
    ]
    second = clients.gateway.responses.create(**{**request, "input": items, "tool_choice": "auto"})
    sent = json.dumps(ways.upstream.requests[-1].body, ensure_ascii=False)
    assert (second.status, second.output_text) == ("completed", "The reservoir feeds the penstock.")
    assert len(calls) == 2
    assert sent.count(RESULT) == 2
    assert all(sent.count(call.call_id) == 2 for call in calls)


def test_responses_client_encrypted_reasoning_goes_back_unchanged(ways: Ways, clients: Clients) -> None:
    """A conversation that holds encrypted reasoning reaches OpenAI with every byte of it."""
    request = responses_request("thinking")
    first = clients.gateway.responses.create(**request)
    kept = [item.model_dump(exclude_none=True) for item in first.output]
    items = [{"role": "user", "content": request["input"]}, *kept, {"role": "user", "content": "And then?"}]
    clients.gateway.responses.create(**{**request, "input": items})
    assert ways.upstream.requests[-1].body["input"][1 : 1 + len(kept)] == kept
    assert kept[0]["encrypted_content"]


def test_responses_client_request_reaches_its_own_provider_as_sent(ways: Ways, clients: Clients) -> None:
    """OpenAI sees the same body from the gateway as from the client, unknown fields too, and its own key."""
    request = responses_request("tools") | {
        "metadata": {"k": "v"},
        "truncation": "auto",
        "extra_body": {"vendor_field": {"deep": [1.5, None, "ü"]}},
    }
    clients.direct.responses.create(**request)
    clients.gateway.responses.create(**request)
    direct, through = ways.upstream.requests[-2:]
    assert through.body == direct.body
    assert through.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert ways.gateway.key not in json.dumps(through.headers)


def test_responses_client_goes_on_with_what_its_provider_keeps(ways: Ways, clients: Clients) -> None:
    """A request that refers to an earlier response reaches the provider that gave it, id and all."""
    first = clients.gateway.responses.create(**{**responses_request("text"), "store": True})
    request = {"model": "gpt-4o:text", "previous_response_id": first.id, "input": "And then?"}
    clients.gateway.responses.create(**request)
    assert ways.upstream.requests[-1].body == request


@pytest.mark.parametrize("server", ["gpt-4o", *OTHER_SERVERS])
def test_responses_client_structured_output_parses_into_its_type(clients: Clients, server: str) -> None:
    """The client's own parsing of structured output works in front of every format."""
    request = {**responses_request("structured", server), "text_format": City}
    del request["text"]
    assert clients.gateway.responses.parse(**request).output_parsed == City(city="Zürich", population=443037)


@pytest.mark.parametrize(
    ("scenario", "is_stream"), [("error-400", False), ("error-400", True), ("error-429", False), ("error-503", True)]
)
def test_responses_client_error_of_its_own_provider_is_the_same(
    clients: Clients, scenario: str, is_stream: bool
) -> None:
    """A refusal of OpenAI's is the same exception with the same body and the same advice when to retry."""
    request = responses_request(scenario) | ({"stream": True} if is_stream else {})
    direct = outcome_of(openai.APIStatusError, lambda: clients.direct.responses.create(**request))
    through = outcome_of(openai.APIStatusError, lambda: clients.gateway.responses.create(**request))
    assert type(through) is type(direct)
    assert (through.status_code, through.body) == (direct.status_code, direct.body)
    assert through.response.headers.get("retry-after") == direct.response.headers.get("retry-after")


@pytest.mark.parametrize("server", OTHER_SERVERS)
@pytest.mark.parametrize("scenario", ["error-400", "error-429"])
def test_responses_client_error_of_another_format_has_openais_shape(
    clients: Clients, scenario: str, server: str
) -> None:
    """A refusal of another provider is the exception that OpenAI's would be, with the provider's words."""
    through = outcome_of(
        openai.APIStatusError, lambda: clients.gateway.responses.create(**responses_request(scenario, server))
    )
    native = outcome_of(openai.APIStatusError, lambda: clients.direct.responses.create(**responses_request(scenario)))
    assert type(through) is type(native)
    assert set(through.body) == {"message", "type", "param", "code"}
    assert through.body["message"]


def test_responses_client_stream_that_breaks_ends_as_the_providers(clients: Clients) -> None:
    """An error event of OpenAI's reaches the client as it was written, after the good events."""
    direct, direct_error = broken_stream(clients.direct, "gpt-4o")
    through, through_error = broken_stream(clients.gateway, "gpt-4o")
    assert through == direct
    assert (type(through_error), getattr(through_error, "body", None)) == (
        type(direct_error),
        getattr(direct_error, "body", None),
    )
    assert len(direct) > 4


@pytest.mark.parametrize("server", OTHER_SERVERS)
def test_responses_client_stream_of_another_format_that_breaks_is_not_completed(clients: Clients, server: str) -> None:
    """A broken stream of another provider ends with an error event, and never as completed."""
    received, error = broken_stream(clients.gateway, server)
    kinds = [event["type"] for event in received]
    assert error is not None or kinds[-1] in ("error", "response.failed")
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert "response.completed" not in kinds


@pytest.mark.parametrize("server", ["gpt-4o", *OTHER_SERVERS])
def test_responses_client_that_leaves_a_stream_stops_the_provider(ways: Ways, clients: Clients, server: str) -> None:
    """Closing a stream early closes the gateway's connection to the provider."""
    with clients.gateway.responses.create(**responses_request("slow", server), stream=True) as stream:
        first = next(iter(stream))
    assert first.type == "response.created"
    ways.upstream.wait_until_left()


@pytest.mark.parametrize("scenario", ["text", "cut", "long"])
def test_completions_client_answer_of_its_own_provider_is_the_same(clients: Clients, scenario: str) -> None:
    """A text completion of OpenAI's is the same through the gateway, plain and streamed, with and without usage."""
    request = {"model": f"gpt-4o:{scenario}", "prompt": "The reservoir", "max_tokens": 16}
    assert plain(clients.gateway.completions.create(**request)) == plain(clients.direct.completions.create(**request))
    for options in ({}, {"stream_options": {"include_usage": True}}):
        streams = [
            [plain(chunk) for chunk in client.completions.create(**request, **options, stream=True)]
            for client in (clients.direct, clients.gateway)
        ]
        assert streams[0] == streams[1]
        assert len(streams[0]) > 3


@pytest.mark.parametrize("server", ["chat-only", "claude-sonnet-4-5", "responses-only"])
@pytest.mark.parametrize("scenario", ["text", "cut"])
def test_completions_client_answer_of_another_format_says_the_same(
    clients: Clients, scenario: str, server: str
) -> None:
    """A text completion made of a chat answer has the text, end and usage that OpenAI's own would have."""

    def gist_of(client: openai.OpenAI, at: str) -> Any:
        request = {"model": f"{at}:{scenario}", "prompt": "The reservoir", "max_tokens": 16}
        whole = client.completions.create(**request)
        chunks = list(client.completions.create(**request, stream=True, stream_options={"include_usage": True}))
        streamed = "".join(choice.text for chunk in chunks for choice in chunk.choices)
        usages = [(chunk.usage.prompt_tokens, chunk.usage.completion_tokens) for chunk in chunks if chunk.usage]
        ends = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
        usage = (whole.usage.prompt_tokens, whole.usage.completion_tokens) if whole.usage else None
        return whole.choices[0].text, whole.choices[0].finish_reason, usage, streamed, usages, ends

    assert gist_of(clients.gateway, server) == gist_of(clients.direct, "gpt-4o")


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_client_vectors_are_the_providers(clients: Clients, encoding: str) -> None:
    """Vectors are the provider's, whatever encoding the client asks for."""
    request = {"model": "gpt-4o:text", "input": ["reservoir", "penstock"], "encoding_format": encoding}
    assert plain(clients.gateway.embeddings.create(**request)) == plain(clients.direct.embeddings.create(**request))


def test_embeddings_client_is_never_answered_by_a_model_that_makes_none(clients: Clients) -> None:
    """Vectors of two models do not mix: neither ``auto`` nor a chat model stands in."""
    for model in ("auto", "claude-sonnet-4-5:text", "chat-only:text"):
        error = outcome_of(
            openai.APIStatusError, lambda model=model: clients.gateway.embeddings.create(model=model, input="penstock")
        )
        assert 400 <= error.status_code < 500
        assert error.code


@pytest.mark.parametrize("server", CHAT_SERVERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_chat_client_completion_of_another_format_says_the_same(clients: Clients, scenario: str, server: str) -> None:
    """A chat completion made of another provider's answer says and counts what a chat provider's does."""
    through = clients.gateway.chat.completions.create(**chat_request(scenario, server))
    assert chat_gist(through) == chat_gist(clients.direct.chat.completions.create(**chat_request(scenario)))


@pytest.mark.parametrize("server", CHAT_SERVERS)
@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name not in ("cut", "thinking")])
def test_chat_client_stream_of_another_format_says_the_same(clients: Clients, scenario: str, server: str) -> None:
    """The client puts the same completion together from a translated stream."""

    def final(client: openai.OpenAI, at: str) -> Any:
        request = chat_request(scenario, at)
        with client.chat.completions.stream(**request, stream_options={"include_usage": True}) as stream:
            return chat_gist(stream.get_final_completion())

    assert final(clients.gateway, server) == final(clients.direct, "gpt-4o")


@pytest.mark.parametrize("server", CHAT_SERVERS)
@pytest.mark.parametrize("scenario", ["text", "thinking", "cut"])
def test_chat_client_chunks_of_another_format_are_well_formed(clients: Clients, scenario: str, server: str) -> None:
    """A translated stream has one role, pieces as the provider cut them, one end, and usage only when asked for."""

    def pieces(client: openai.OpenAI, at: str, **options: Any) -> Any:
        chunks = list(client.chat.completions.create(**chat_request(scenario, at), stream=True, **options))
        deltas = [choice for chunk in chunks for choice in chunk.choices]
        text = [choice.delta.content for choice in deltas if choice.delta.content]
        thought = [t for choice in deltas if (t := getattr(choice.delta, "reasoning_content", None))]
        ends = [choice.finish_reason for choice in deltas if choice.finish_reason]
        roles = [choice.delta.role for choice in deltas if choice.delta.role]
        usages = [(chunk.usage.prompt_tokens, chunk.usage.completion_tokens) for chunk in chunks if chunk.usage]
        assert len({chunk.id for chunk in chunks}) == 1
        return text, thought, ends, roles, usages

    asked = {"stream_options": {"include_usage": True}}
    assert pieces(clients.gateway, server, **asked) == pieces(clients.direct, "gpt-4o", **asked)
    assert pieces(clients.gateway, server)[4] == []


@pytest.mark.parametrize("server", CHAT_SERVERS)
@pytest.mark.parametrize("scenario", ["text", "parallel-tools", "cut"])
def test_chat_client_translated_answer_has_the_declared_shape(clients: Clients, scenario: str, server: str) -> None:
    """The client reads leniently, so each completion and chunk is also held against its types."""
    request = chat_request(scenario, server)
    completion = clients.gateway.chat.completions.with_raw_response.create(**request)
    assert problems_of(json.loads(completion.text), openai.types.chat.ChatCompletion) == []
    for chunk in raw_events(clients.gateway.chat.completions, request):
        assert problems_of(chunk, openai.types.chat.ChatCompletionChunk) == []


@pytest.mark.parametrize("server", CHAT_SERVERS)
@pytest.mark.parametrize("scenario", ["error-400", "error-429"])
def test_chat_client_error_of_another_format_has_openais_shape(clients: Clients, scenario: str, server: str) -> None:
    """A refusal of another provider is the exception that a chat provider's would be."""
    through = outcome_of(
        openai.APIStatusError, lambda: clients.gateway.chat.completions.create(**chat_request(scenario, server))
    )
    native = outcome_of(openai.APIStatusError, lambda: clients.direct.chat.completions.create(**chat_request(scenario)))
    assert type(through) is type(native)
    assert set(through.body) == {"message", "type", "param", "code"}


def test_chat_client_overloaded_anthropic_is_an_error_that_clients_retry(clients: Clients) -> None:
    """Anthropic's 529 reaches a chat client as a server error with the provider's words."""
    error = outcome_of(
        openai.APIStatusError,
        lambda: clients.gateway.chat.completions.create(**chat_request("error-529", "claude-sonnet-4-5")),
    )
    assert isinstance(error, openai.InternalServerError)
    assert "Overloaded" in error.message


async def test_responses_client_asynchronous_answers_are_the_same(ways: Ways) -> None:
    """The asynchronous client gets the same too, plain and as a stream."""
    async with (
        openai.AsyncOpenAI(base_url=ways.direct.v1, api_key=ways.direct.key, max_retries=0) as direct,
        openai.AsyncOpenAI(base_url=ways.gateway.v1, api_key=ways.gateway.key, max_retries=0) as gateway,
    ):
        for scenario in ("text", "parallel-tools", "thinking"):
            request = responses_request(scenario)
            assert plain(await gateway.responses.create(**request)) == plain(await direct.responses.create(**request))
            streams = [
                [plain(event) async for event in await client.responses.create(**request, stream=True)]
                for client in (direct, gateway)
            ]
            assert streams[0] == streams[1]


async def test_responses_client_cancelled_while_it_reads_stops_the_provider(ways: Ways) -> None:
    """Cancelling the task that reads a stream reaches the provider."""
    async with openai.AsyncOpenAI(base_url=ways.gateway.v1, api_key=ways.gateway.key, max_retries=0) as gateway:
        await cancel_after_first(await gateway.responses.create(**responses_request("slow"), stream=True))
        await asyncio.to_thread(ways.upstream.wait_until_left)
