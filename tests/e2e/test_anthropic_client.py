"""The official Anthropic client gets through the gateway what it gets from the provider itself.

In front of Anthropic's own API the answers are equal to the last field; in front of OpenAI's formats they have the same
content, calls, end and usage.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import pytest

from support.client_script import RESULT, SCENARIOS, cancel_after_first, messages_request, outcome_of
from support.declared_shapes import problems_of
from support.wire_gateway import UPSTREAM_KEY, Way, Ways

OTHER_SERVERS = ("chat-only", "responses-only")


@dataclass
class Clients:
    """One client per way."""

    direct: anthropic.Anthropic
    gateway: anthropic.Anthropic


def client_of(way: Way) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=way.url, api_key=way.key, max_retries=0)


@pytest.fixture(scope="module")
def clients(ways: Ways) -> Iterator[Clients]:
    with client_of(ways.direct) as direct, client_of(ways.gateway) as gateway:
        yield Clients(direct, gateway)


def plain(value: Any) -> Any:
    """Return an object of the client as a dict, every field of it."""
    return value.model_dump(mode="json")


def gist(message: Any) -> dict[str, Any]:
    """Return what a message says, without what another provider cannot know: ids and signatures."""
    blocks = []
    for block in message.content:
        match block.type:
            case "text":
                blocks.append(("text", block.text))
            case "thinking":
                blocks.append(("thinking", block.thinking))
            case "tool_use":
                blocks.append(("tool_use", block.name, block.input))
    usage = message.usage
    counts = (usage.input_tokens, usage.cache_read_input_tokens or 0, usage.output_tokens)
    return {"role": message.role, "blocks": blocks, "stop_reason": message.stop_reason, "counts": counts}


def events_of(client: anthropic.Anthropic, request: dict[str, Any]) -> list[Any]:
    with client.messages.create(**request, stream=True) as stream:
        return [plain(event) for event in stream]


def final_of(client: anthropic.Anthropic, request: dict[str, Any]) -> tuple[list[str], Any]:
    """Return the pieces of text, and the message that the client puts together."""
    with client.messages.stream(**request) as stream:
        pieces = list(stream.text_stream)
        return pieces, stream.get_final_message()


def broken_stream(client: anthropic.Anthropic, server: str) -> tuple[list[Any], Any]:
    """Return the events of a stream that breaks, and the error at its end."""
    received: list[Any] = []
    with client.messages.create(**messages_request("broken", server), stream=True) as stream:
        return received, outcome_of(anthropic.APIError, lambda: received.extend(stream))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_anthropic_client_message_of_its_own_provider_is_the_same(clients: Clients, scenario: str) -> None:
    """A message of Anthropic's is the same object through the gateway, ids, signatures and usage details included."""
    request = messages_request(scenario)
    assert plain(clients.gateway.messages.create(**request)) == plain(clients.direct.messages.create(**request))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_anthropic_client_stream_of_its_own_provider_is_the_same(clients: Clients, scenario: str) -> None:
    """A stream of Anthropic's is the same sequence of events through the gateway."""
    request = messages_request(scenario)
    direct = events_of(clients.direct, request)
    assert events_of(clients.gateway, request) == direct
    assert direct[-1]["type"] == "message_stop"


@pytest.mark.parametrize("server", OTHER_SERVERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_anthropic_client_message_of_another_format_says_the_same(clients: Clients, scenario: str, server: str) -> None:
    """A message made of OpenAI's answer has the content, calls, stop reason and usage that Anthropic's would have."""
    through = clients.gateway.messages.create(**messages_request(scenario, server))
    assert gist(through) == gist(clients.direct.messages.create(**messages_request(scenario)))


@pytest.mark.parametrize("server", OTHER_SERVERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_anthropic_client_stream_of_another_format_says_the_same(clients: Clients, scenario: str, server: str) -> None:
    """The client puts the same message together from a translated stream, with as many pieces of text."""
    through_pieces, through = final_of(clients.gateway, messages_request(scenario, server))
    direct_pieces, direct = final_of(clients.direct, messages_request(scenario))
    assert gist(through) == gist(direct)
    assert through_pieces == direct_pieces


@pytest.mark.parametrize("server", OTHER_SERVERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_anthropic_client_translated_answer_has_the_declared_shape(
    clients: Clients, scenario: str, server: str
) -> None:
    """The client reads leniently, so each message and event is also held against its types."""
    request = messages_request(scenario, server)
    message = clients.gateway.messages.with_raw_response.create(**request)
    assert problems_of(json.loads(message.text()), anthropic.types.Message) == []
    for event in events_of(clients.gateway, request):
        assert problems_of(event, anthropic.types.RawMessageStreamEvent) == []


@pytest.mark.parametrize("server", ["claude-sonnet-4-5", *OTHER_SERVERS])
def test_anthropic_client_results_of_tools_reach_the_model(ways: Ways, clients: Clients, server: str) -> None:
    """The second step of an agent's loop, with the results of parallel calls, is answered in every format."""
    request = messages_request("parallel-tools", server)
    first = clients.gateway.messages.create(**request)
    calls = [block for block in first.content if block.type == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": RESULT} for call in calls]
    messages = [
        *request["messages"],
        {"role": "assistant", "content": [block.to_dict() for block in first.content]},
        {"role": "user", "content": results},
    ]
    second = clients.gateway.messages.create(**{**request, "messages": messages, "tool_choice": {"type": "auto"}})
    sent = json.dumps(ways.upstream.requests[-1].body, ensure_ascii=False)
    assert (second.stop_reason, second.content[0].type) == ("end_turn", "text")
    assert len(calls) == 2
    assert sent.count(RESULT) == 2
    assert all(sent.count(call.id) == 2 for call in calls)


def test_anthropic_client_thinking_with_its_signature_goes_back_unchanged(ways: Ways, clients: Clients) -> None:
    """A conversation that holds signed thinking reaches Anthropic with every byte of it."""
    request = messages_request("thinking")
    first = clients.gateway.messages.create(**request)
    kept = [block.to_dict() for block in first.content]
    follow_up = [{"role": "assistant", "content": kept}, {"role": "user", "content": "And then?"}]
    clients.gateway.messages.create(**{**request, "messages": [*request["messages"], *follow_up]})
    assert ways.upstream.requests[-1].body["messages"][1]["content"] == kept
    assert kept[0]["signature"]


def test_anthropic_client_request_reaches_its_own_provider_as_sent(ways: Ways, clients: Clients) -> None:
    """Anthropic sees the same body and beta headers from the gateway as from the client, and its own key."""
    request = messages_request("text") | {
        "metadata": {"user_id": "u-1"},
        "stop_sequences": ["\n\nHuman:"],
        "extra_body": {"top_k": 5, "vendor_field": {"deep": [1.5, None, "ü"]}},
        "extra_headers": {"anthropic-beta": "context-1m-2025-08-07"},
    }
    clients.direct.messages.create(**request)
    clients.gateway.messages.create(**request)
    direct, through = ways.upstream.requests[-2:]
    assert through.body == direct.body
    for name in ("anthropic-version", "anthropic-beta"):
        assert through.headers[name] == direct.headers[name]
    assert through.headers["x-api-key"] == UPSTREAM_KEY
    assert ways.gateway.key not in json.dumps(through.headers)


def test_anthropic_client_is_told_which_fields_another_format_has_no_place_for(clients: Clients) -> None:
    """What chat completions cannot carry is left out and named in a header."""
    unknown = {"extra_body": {"top_k": 5}}
    request = messages_request("text", "chat-only") | unknown
    reply = clients.gateway.messages.with_raw_response.create(**request)
    assert "top_k" in reply.headers["x-penstock-dropped"].split(",")
    native = clients.gateway.messages.with_raw_response.create(**(messages_request("text") | unknown))
    assert "x-penstock-dropped" not in native.headers


def test_anthropic_client_structured_output_parses_into_its_type(clients: Clients) -> None:
    """The client's own parsing of structured output works in front of every format."""
    import pydantic

    class City(pydantic.BaseModel):
        city: str
        population: int

    for server in ("claude-sonnet-4-5", *OTHER_SERVERS):
        request = {**messages_request("structured", server), "output_format": City}
        del request["output_config"]
        parsed = clients.gateway.messages.parse(**request)
        assert parsed.parsed_output == City(city="Zürich", population=443037)


def test_anthropic_client_count_of_tokens_is_the_providers(clients: Clients) -> None:
    """Anthropic's own count is passed on; for other formats there is an estimate, marked as such."""
    request = {name: messages_request("text")[name] for name in ("model", "system", "messages")}
    direct = clients.direct.messages.count_tokens(**request)
    through = clients.gateway.messages.count_tokens(**request)
    assert plain(through) == plain(direct)
    reply = clients.gateway.messages.with_raw_response.count_tokens(**{**request, "model": "chat-only:text"})
    assert reply.headers["x-penstock-estimated"] == "true"
    assert 5 <= reply.parse().input_tokens <= 60


@pytest.mark.parametrize(
    ("scenario", "is_stream"), [("error-400", False), ("error-400", True), ("error-429", False), ("error-529", True)]
)
def test_anthropic_client_error_of_its_own_provider_is_the_same(
    clients: Clients, scenario: str, is_stream: bool
) -> None:
    """A refusal of Anthropic's is the same exception with the same body and the same advice when to retry."""
    request = messages_request(scenario) | ({"stream": True} if is_stream else {})
    direct = outcome_of(anthropic.APIStatusError, lambda: clients.direct.messages.create(**request))
    through = outcome_of(anthropic.APIStatusError, lambda: clients.gateway.messages.create(**request))
    assert type(through) is type(direct)
    assert (through.status_code, through.body) == (direct.status_code, direct.body)
    for name in ("retry-after", "x-should-retry", "anthropic-ratelimit-requests-limit"):
        assert through.response.headers.get(name) == direct.response.headers.get(name)


@pytest.mark.parametrize("server", OTHER_SERVERS)
@pytest.mark.parametrize(
    ("scenario", "kind"), [("error-400", "invalid_request_error"), ("error-429", "rate_limit_error")]
)
def test_anthropic_client_error_of_another_format_has_anthropics_shape(
    clients: Clients, scenario: str, kind: str, server: str
) -> None:
    """A refusal of another provider is the exception that Anthropic's would be, with the provider's words."""
    request = messages_request(scenario, server)
    through = outcome_of(anthropic.APIStatusError, lambda: clients.gateway.messages.create(**request))
    native = outcome_of(anthropic.APIStatusError, lambda: clients.direct.messages.create(**messages_request(scenario)))
    assert type(through) is type(native)
    assert (through.body["type"], through.body["error"]["type"]) == ("error", kind)
    assert "eplayed" in through.body["error"]["message"]


def test_anthropic_client_stream_that_breaks_ends_with_the_providers_error(clients: Clients) -> None:
    """An error event of Anthropic's reaches the client as it was written, after the good events."""
    direct = broken_stream(clients.direct, "claude-sonnet-4-5")
    through = broken_stream(clients.gateway, "claude-sonnet-4-5")
    assert [plain(event) for event in through[0]] == [plain(event) for event in direct[0]]
    assert (type(through[1]), through[1].body) == (type(direct[1]), direct[1].body)
    assert len(direct[0]) > 2


@pytest.mark.parametrize("server", OTHER_SERVERS)
def test_anthropic_client_stream_of_another_format_that_breaks_raises(clients: Clients, server: str) -> None:
    """A broken stream of another provider never ends in good order."""
    received, error = broken_stream(clients.gateway, server)
    assert error.body["type"] == "error"
    assert [event.type for event in received][:2] == ["message_start", "content_block_start"]
    assert "message_stop" not in {event.type for event in received}


def test_anthropic_client_with_a_wrong_key_or_model_gets_anthropics_errors(ways: Ways, clients: Clients) -> None:
    """The gateway's own refusals are the exceptions that the client knows."""
    request = messages_request("text")
    with anthropic.Anthropic(base_url=ways.gateway.url, api_key="wrong-key-of-some-length", max_retries=0) as stranger:
        refused = outcome_of(anthropic.APIStatusError, lambda: stranger.messages.create(**request))
    unknown = outcome_of(
        anthropic.APIStatusError, lambda: clients.gateway.messages.create(**{**request, "model": "claude-nobody"})
    )
    assert isinstance(refused, anthropic.AuthenticationError)
    assert isinstance(unknown, anthropic.NotFoundError)
    assert refused.body["error"]["type"] == "authentication_error"
    assert unknown.body["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("server", ["claude-sonnet-4-5", *OTHER_SERVERS])
def test_anthropic_client_that_leaves_a_stream_stops_the_provider(ways: Ways, clients: Clients, server: str) -> None:
    """Closing a stream early closes the gateway's connection to the provider."""
    with clients.gateway.messages.create(**messages_request("slow", server), stream=True) as stream:
        first = next(iter(stream))
    assert first.type == "message_start"
    ways.upstream.wait_until_left()


def test_anthropic_client_lists_models_as_its_provider_does(clients: Clients) -> None:
    """The list of models has the shape that the client reads."""
    listed = {model.id for model in clients.gateway.models.list()}
    assert {"claude-sonnet-4-5:text", "gpt-4o:text"} <= listed


async def _pieces(client: anthropic.AsyncAnthropic, request: dict[str, Any]) -> AsyncIterator[Any]:
    async with client.messages.stream(**request) as stream:
        async for event in stream:
            yield plain(event)


@pytest.mark.parametrize("scenario", ["text", "parallel-tools", "thinking"])
async def test_anthropic_client_asynchronous_answers_are_the_same(ways: Ways, scenario: str) -> None:
    """The asynchronous client gets the same too, plain and as a stream with its own summary events."""
    request = messages_request(scenario)
    async with (
        anthropic.AsyncAnthropic(base_url=ways.direct.url, api_key=ways.direct.key, max_retries=0) as direct,
        anthropic.AsyncAnthropic(base_url=ways.gateway.url, api_key=ways.gateway.key, max_retries=0) as gateway,
    ):
        assert plain(await gateway.messages.create(**request)) == plain(await direct.messages.create(**request))
        streams = [[event async for event in _pieces(client, request)] for client in (direct, gateway)]
    assert streams[0] == streams[1]


async def test_anthropic_client_cancelled_while_it_reads_stops_the_provider(ways: Ways) -> None:
    """Cancelling the task that reads a stream reaches the provider."""
    gateway = anthropic.AsyncAnthropic(base_url=ways.gateway.url, api_key=ways.gateway.key, max_retries=0)
    async with gateway:
        await cancel_after_first(await gateway.messages.create(**messages_request("slow"), stream=True))
        await asyncio.to_thread(ways.upstream.wait_until_left)
