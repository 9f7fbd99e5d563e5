"""Answers for Responses clients: odd chat completions and chunks, line breaks, and the official SDK as a judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock_gateway.wire.responses_over_chat import ResponsesOverChat
from penstock_gateway.wire.server_sent import events_of
from penstock_gateway.wire.translation import Asked

FOLDER = Path(__file__).parent / "snapshots" / "responses_over_chat"
TRANSLATOR = ResponsesOverChat()


def asked(body: bytes = b'{"model":"m","input":"go"}') -> Asked:
    """Return what an answer may depend on, given a request as the client wrote it."""
    return Asked(msgspec.json.decode(body, type=dict[str, msgspec.Raw]), "dec_1", 1_700_000_000)


def streamed(chunks: list[Any], request: Asked | None = None) -> bytes:
    """Return the stream that chunks become."""
    stream = TRANSLATOR.stream(request or asked())
    return b"".join(stream.feed("", json.dumps(chunk).encode()) for chunk in chunks) + stream.finish()


def read_events(stream: bytes) -> list[dict[str, Any]]:
    """Return the data of a stream's events."""
    return [json.loads(data) for _, data in events_of(stream)]


def delta(**members: Any) -> dict[str, Any]:
    """Return a chunk that adds something."""
    return {"choices": [{"index": 0, "delta": members}]}


def snapshots(kind: str) -> list[Any]:
    """Return the snapshots of a kind, each named by its file."""
    return [
        pytest.param(json.loads(path.read_text(encoding="utf-8")), id=path.stem)
        for path in sorted(FOLDER.glob(f"{kind}_*.json"))
    ]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"<html>", "a body that is not JSON"),
        (b"[]", "a body that is not a JSON object"),
        (b'{"choices":[]}', "a body without choices"),
        (b'{"choices":[{"message":"x"}]}', "a body with a choice that has no message"),
        (b"[" * 100_000, "a body that is not JSON"),
    ],
)
def test_reply_that_is_no_completion_is_named_as_what_it_is(body: bytes, problem: str) -> None:
    """A body that is no chat completion is a value error that says what it is instead."""
    with pytest.raises(ValueError, match=f"^{problem}$"):
        TRANSLATOR.reply(body, asked())


def test_reply_with_odd_members_gives_what_can_be_read() -> None:
    """Members of a wrong type are passed over, and objects in the place of texts are read."""
    message = {
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "T"}]},
            {"type": "text", "text": "A"},
            3,
        ],
        "refusal": 3,
        "annotations": "x",
        "tool_calls": [3, {"function": None}, {"function": {"name": "f", "arguments": {"x": 1}}}],
    }
    body = {
        "model": 3,
        "created": "x",
        "usage": [],
        "choices": [{"message": message, "finish_reason": "eos", "logprobs": 1}],
    }
    response = json.loads(TRANSLATOR.reply(json.dumps(body).encode(), asked()))
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call"]
    assert response["output"][1]["content"][0]["text"] == "A"
    assert response["output"][2]["arguments"] == '{"x":1}'
    assert (response["model"], response["created_at"], response["usage"]) == ("m", 1_700_000_000, None)


def test_stream_for_a_request_on_several_lines_has_whole_events() -> None:
    """Line breaks between the tokens of a repeated request do not cut an event in two."""
    body = {"model": "m", "input": "go", "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]}
    more = {
        "metadata": {"a": "x\ny"},
        "text": {"format": {"type": "text"}},
        "tool_choice": {"type": "function", "name": "f"},
    }
    request = json.dumps({**body, **more}, indent=2).replace("\n", "\r\n").encode()
    events = read_events(streamed([delta(content="A")], asked(request)))
    assert events[0]["response"]["tools"][0]["parameters"] == {"type": "object"}
    assert events[-1]["response"]["metadata"] == {"a": "x\ny"}
    assert events[-1]["response"]["tool_choice"] == {"type": "function", "name": "f"}


def test_stream_whose_call_names_its_function_late_holds_the_arguments_back() -> None:
    """A call is announced when its name is known; what came before it follows."""
    first = delta(tool_calls=[{"index": 0, "id": "a", "function": {"arguments": "{"}}])
    second = delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "}"}}])
    events = read_events(streamed([first, second]))
    assert [event["type"] for event in events[2:5]] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.delta",
    ]
    assert events[-1]["response"]["output"][0]["arguments"] == "{}"


@pytest.mark.parametrize("place", [{}, {"index": 0}, {"index": 0, "id": ""}])
def test_stream_of_whole_calls_without_ids_keeps_them_apart(place: dict[str, Any]) -> None:
    """Some servers number all calls 0 and give them no id: one that is whole does not go on with another's name."""
    calls = [{**place, "function": {"name": name, "arguments": '{"x":1}'}} for name in ("f", "g")]
    whole = read_events(streamed([delta(tool_calls=[call]) for call in calls]))[-1]["response"]
    assert [(item["name"], item["arguments"]) for item in whole["output"]] == [("f", '{"x":1}'), ("g", '{"x":1}')]
    assert len({item["call_id"] for item in whole["output"]}) == 2


def test_stream_of_a_call_whose_pieces_repeat_its_name_is_one_call() -> None:
    """A name says that a call begins only where the one before it is whole."""
    pieces = [{"function": {"name": "f", "arguments": piece}} for piece in ('{"x":{}', "}", "")]
    whole = read_events(streamed([delta(tool_calls=[piece]) for piece in pieces]))[-1]["response"]
    assert [(item["name"], item["arguments"]) for item in whole["output"]] == [("f", '{"x":{}}')]


def test_stream_with_text_between_calls_keeps_the_order_of_places() -> None:
    """Each item that begins takes the next place, whatever is still open."""
    call = [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]
    events = read_events(streamed([delta(content="A"), delta(tool_calls=call), delta(content="B")]))
    added = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    assert added == [0, 1, 2]
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message", "function_call", "message"]


def test_stream_after_an_error_says_nothing_more() -> None:
    """After a provider's error come one error event and one failure, then nothing, at the end either."""
    stream = TRANSLATOR.stream(asked())
    events = read_events(stream.feed("", b'{"error":"too busy"}'))
    assert [event["type"] for event in events[2:]] == ["error", "response.failed"]
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "too busy"}
    assert stream.feed("", b'{"choices":[{"delta":{"content":"A"}}]}') + stream.finish() == b""


def test_stream_with_an_error_after_the_finish_reason_fails_with_whole_items() -> None:
    """An error after the finish reason is a failure; items that were ended stay as they were told."""
    call = [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]
    finished = {"choices": [{"index": 0, "delta": {"tool_calls": call}, "finish_reason": "tool_calls"}]}
    events = read_events(streamed([finished, {"error": {"message": "Gone"}}]))
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["output"][0]["status"] == "completed"


def test_stream_without_any_content_is_a_whole_response() -> None:
    """An empty answer has a beginning and an end."""
    assert [event["type"] for event in read_events(streamed([]))] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]


def test_stream_of_a_server_that_repeats_the_plain_reply_is_read_once() -> None:
    """A message in the place of a delta is read when nothing came before it, and passed over otherwise."""
    whole = {"choices": [{"index": 0, "message": {"content": "A"}, "finish_reason": "stop"}]}
    for chunks in ([whole], [delta(content="A"), whole]):
        response = read_events(streamed(chunks))[-1]["response"]
        assert [item["content"][0]["text"] for item in response["output"]] == ["A"]


def test_stream_in_many_pieces_is_joined_without_decoding_it_again() -> None:
    """The whole text of ten thousand pieces is their concatenation, escapes included."""
    pieces = ['a"\\\n\N{SNOWMAN}' for _ in range(10_000)]
    events = read_events(streamed([delta(content=piece) for piece in pieces]))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "".join(pieces)


def test_stream_with_thousands_of_open_calls_ends_each_of_them_in_order() -> None:
    """A provider that opens calls without end costs no more than what it sent; each is closed at its place."""
    calls = [
        {"index": number, "id": f"c{number}", "function": {"name": "f", "arguments": "{}"}} for number in range(3_000)
    ]
    events = read_events(streamed([delta(tool_calls=calls), delta(finish_reason="tool_calls")]))
    ended = [event["output_index"] for event in events if event["type"] == "response.output_item.done"]
    assert ended == list(range(3_000))
    assert [item["call_id"] for item in events[-1]["response"]["output"]] == [f"c{number}" for number in range(3_000)]


@pytest.mark.parametrize("case", snapshots("reply"))
def test_reply_of_a_snapshot_is_valid_for_the_official_sdk(case: dict[str, Any]) -> None:
    """The SDK's own model accepts every response object strictly."""
    responses = pytest.importorskip("openai.types.responses")
    body = TRANSLATOR.reply(json.dumps(case["reply"]).encode(), asked(json.dumps(case["request"]).encode()))
    response = responses.Response.model_validate_json(body)
    assert response.status in ("completed", "incomplete")


@pytest.mark.parametrize("case", snapshots("stream"))
def test_event_of_a_snapshot_is_valid_for_the_official_sdk(case: dict[str, Any]) -> None:
    """The SDK's own union of events accepts every event strictly, and knows it by its type."""
    responses = pytest.importorskip("openai.types.responses")
    adapter = pytest.importorskip("pydantic").TypeAdapter(responses.ResponseStreamEvent)
    events = read_events(streamed(case["chunks"], asked(json.dumps(case["request"]).encode())))
    assert [adapter.validate_python(event).type for event in events] == [event["type"] for event in events]


def sdk_client(stream: bytes) -> Any:
    """Return the official client in front of a server that answers with a stream."""
    openai, httpx = pytest.importorskip("openai"), pytest.importorskip("httpx")

    def answer(request: Any) -> Any:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    transport = httpx.MockTransport(answer)
    return openai.OpenAI(api_key="k", base_url="http://x.test/v1", http_client=httpx.Client(transport=transport))


def accumulated(events: Iterator[Any]) -> dict[int, str]:
    """Return what the SDK has put together of texts and arguments, by place, event by event."""
    kinds = ("response.output_text.delta", "response.function_call_arguments.delta")
    return {event.output_index: event.snapshot for event in events if event.type in kinds}


@pytest.mark.parametrize(
    "case", [case for case in snapshots("stream") if case.id not in ("stream_error", "stream_cut_by_limit")]
)
def test_stream_of_a_snapshot_accumulates_in_the_official_sdk(case: dict[str, Any]) -> None:
    """What the SDK puts together from the events is what the last event says."""
    stream = streamed(case["chunks"], asked(json.dumps(case["request"]).encode()))
    with sdk_client(stream).responses.stream(model="m", input="go") as events:
        texts = accumulated(events)
        final = events.get_final_response()
    last = read_events(stream)[-1]["response"]
    said = {
        place: item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        for place, item in enumerate(last["output"])
        if item["type"] == "function_call" or (item["type"] == "message" and "text" in item["content"][0])
    }
    assert texts == said
    output = [item.to_dict() for item in final.output]
    for item in output:
        item.pop("parsed_arguments", None)
        for part in item.get("content") or ():
            part.pop("parsed", None)
    assert output == last["output"]


def test_stream_with_an_error_raises_in_the_official_sdk() -> None:
    """A provider's error in the middle of a stream is an exception in the SDK, with its message."""
    openai = pytest.importorskip("openai")
    stream = streamed([delta(content="A"), {"error": {"message": "Overloaded", "type": "overloaded_error"}}])
    with pytest.raises(openai.APIError, match="Overloaded"):
        list(sdk_client(stream).responses.create(model="m", input="go", stream=True))
