"""Responses clients in front of chat providers, under any request, any chunks and any bytes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.wire.responses_over_chat import ResponsesOverChat
from penstock_gateway.wire.server_sent import events_of
from penstock_gateway.wire.translation import NOT_TRANSLATABLE, Asked, TranslatedRequest

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
WORDS = st.sampled_from(
    [
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "reasoning",
        "item_reference",
        "input_text",
        "output_text",
        "input_image",
        "input_file",
        "input_audio",
        "refusal",
        "summary_text",
        "function",
        "custom",
        "web_search",
        "allowed_tools",
        "json_schema",
        "json_object",
        "text",
        "auto",
        "none",
        "required",
        "user",
        "assistant",
        "system",
        "developer",
        "high",
        "{}",
        "data:image/png;base64,AA==",
        "penstock.thinking_blocks:[{}]",
        "rs_chat_1",
        "message.output_text.logprobs",
    ]
)
REQUEST_NAMES = st.sampled_from(
    [
        "model",
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "max_output_tokens",
        "temperature",
        "top_p",
        "reasoning",
        "text",
        "include",
        "truncation",
        "background",
        "stream_options",
        "top_logprobs",
        "store",
        "metadata",
        "penstock",
        "role",
        "content",
        "type",
        "call_id",
        "name",
        "arguments",
        "output",
        "summary",
        "encrypted_content",
        "id",
        "image_url",
        "file_data",
        "file_id",
        "detail",
        "format",
        "schema",
        "effort",
        "mode",
        "strict",
        "parameters",
        "verbosity",
        "annotations",
        "unknown",
    ]
)
REQUEST_VALUE = st.recursive(
    SCALAR | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(REQUEST_NAMES, inner, max_size=5),
    max_leaves=20,
)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "refusal", "input_image", "input_file", "input_audio"])},
    optional=dict.fromkeys(("text", "refusal", "image_url", "file_data", "annotations"), REQUEST_VALUE | TEXT),
)
CALL_ID = st.sampled_from(["a", "b", "c"])
ITEM = st.one_of(
    st.builds(lambda role, content: {"role": role, "content": content}, WORDS, TEXT | st.lists(PART, max_size=3)),
    st.builds(lambda call: {"type": "function_call", "call_id": call, "name": "f", "arguments": "{}"}, CALL_ID),
    st.builds(
        lambda call, output: {"type": "function_call_output", "call_id": call, "output": output},
        CALL_ID,
        TEXT | st.lists(PART, max_size=2),
    ),
    st.builds(lambda text: {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}, TEXT),
    st.dictionaries(REQUEST_NAMES, REQUEST_VALUE, max_size=5),
)
REQUEST = st.dictionaries(REQUEST_NAMES, REQUEST_VALUE, max_size=5) | st.builds(
    lambda items, fields: {"model": "m", **fields, "input": items},
    st.lists(ITEM, max_size=6),
    st.dictionaries(REQUEST_NAMES, REQUEST_VALUE, max_size=2),
)
CHUNK_NAMES = st.sampled_from(
    [
        "choices",
        "index",
        "delta",
        "message",
        "finish_reason",
        "logprobs",
        "content",
        "refusal",
        "reasoning_content",
        "reasoning",
        "thinking_blocks",
        "reasoning_items",
        "annotations",
        "tool_calls",
        "function_call",
        "function",
        "name",
        "arguments",
        "id",
        "type",
        "usage",
        "model",
        "created",
        "token",
        "url_citation",
        "url",
        "service_tier",
        "summary",
        "prompt_tokens",
        "completion_tokens",
        "logprob",
        "top_logprobs",
    ]
)
CHUNK_VALUE = st.recursive(
    SCALAR
    | st.sampled_from(["stop", "length", "tool_calls", "content_filter", "text", "thinking", "reasoning", "rs_1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CHUNK_NAMES, inner, max_size=5),
    max_leaves=12,
)
TOOL_CALL = st.builds(
    lambda index, call, name, arguments: {
        "index": index,
        "id": call,
        "function": {"name": name, "arguments": arguments},
    },
    st.integers(0, 2) | st.none(),
    CALL_ID | st.none(),
    st.sampled_from(["f", "g", "", None]),
    TEXT | st.none(),
)
DELTA = st.fixed_dictionaries(
    {},
    optional={
        "content": TEXT | CHUNK_VALUE,
        "refusal": TEXT,
        "reasoning_content": TEXT,
        "thinking_blocks": st.just([{"type": "thinking", "thinking": "T", "signature": "S"}]) | CHUNK_VALUE,
        "reasoning_items": st.just([{"type": "reasoning", "id": "rs_1", "summary": []}]) | CHUNK_VALUE,
        "annotations": st.just([{"type": "url_citation", "url_citation": {"url": "u"}}]) | CHUNK_VALUE,
        "tool_calls": st.lists(TOOL_CALL, max_size=3) | CHUNK_VALUE,
        "function_call": CHUNK_VALUE,
    },
)
SHAPED = st.builds(
    lambda delta, reason, more: {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more},
    DELTA,
    st.sampled_from([None, None, None, "stop", "length"]),
    st.fixed_dictionaries({}, optional={"usage": CHUNK_VALUE, "model": CHUNK_VALUE}),
)
ERROR = st.builds(lambda error: {"error": error}, CHUNK_VALUE)
CHUNKS = st.lists(SHAPED | CHUNK_VALUE | ERROR, max_size=8) | st.lists(SHAPED, max_size=8)
REFUSALS = {NOT_TRANSLATABLE, "missing_field", "invalid_type", "invalid_value", "invalid_json", "empty_messages"}
LAST = {"response.completed", "response.incomplete", "response.failed"}


def as_fields(request: dict[str, Any]) -> dict[str, msgspec.Raw]:
    """Return a request as the gateway holds it."""
    return msgspec.json.decode(json.dumps(request).encode(), type=dict[str, msgspec.Raw])


@given(request=REQUEST)
def test_request_of_any_shape_has_a_chat_form_or_is_the_clients_mistake(request: dict[str, Any]) -> None:
    """Any JSON object becomes a chat request in which every result follows its call, or an error that says why not."""
    try:
        translated = ResponsesOverChat().request(as_fields(request))
    except InvalidRequest as error:
        mistake = error
    else:
        check_request(translated)
        return
    assert mistake.param
    assert mistake.code in REFUSALS


def check_request(translated: TranslatedRequest) -> None:
    """Check that messages are whole, results stand behind calls, and what is dropped is named once."""
    sent = {name: json.loads(bytes(value)) for name, value in translated.fields.items()}
    assert sent["messages"]
    assert all("content" in message for message in sent["messages"])
    assert len(set(translated.dropped)) == len(translated.dropped)
    assert "penstock" not in translated.dropped
    called: set[str] = set()
    before = ""
    for message in sent["messages"]:
        if message["role"] == "tool" and message["tool_call_id"] in called:
            assert before in ("assistant", "tool")
        called |= {call["id"] for call in message.get("tool_calls", ())}
        before = message["role"]


@given(request=REQUEST, chunks=CHUNKS)
def test_stream_of_any_chunks_is_a_well_formed_stream_of_a_response(request: dict[str, Any], chunks: list[Any]) -> None:
    """Whatever the chunks, events are numbered, items open and close, and there is one end, which says all of it."""
    stream = ResponsesOverChat().stream(Asked(as_fields(request), "dec_1", 1))
    block = b"".join(stream.feed("", json.dumps(chunk).encode()) for chunk in chunks) + stream.finish()
    named = [(name, json.loads(data)) for name, data in events_of(block)]
    events = [event for _, event in named]
    assert all(name == event["type"] for name, event in named)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert [event["type"] for event in events if event["type"] in LAST] == [events[-1]["type"]]
    has_failed = events[-1]["type"] == "response.failed"
    assert has_failed == any(event["type"] == "error" for event in events)
    check_items(events, has_failed=has_failed)


def check_items(events: list[dict[str, Any]], *, has_failed: bool) -> None:
    """Check that items are added in order, get their deltas while they are open, and end as the response says."""
    added: list[str] = []
    done: dict[int, dict[str, Any]] = {}
    texts: dict[tuple[int, int], str] = {}
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            assert event["output_index"] == len(added)
            added.append(event["item"]["id"])
        elif kind == "response.output_item.done":
            assert event["output_index"] not in done
            assert event["item"]["id"] == added[event["output_index"]]
            done[event["output_index"]] = event["item"]
        elif "item_id" in event:
            assert event["item_id"] == added[event["output_index"]]
            assert event["output_index"] not in done
            place = (event["output_index"], event.get("content_index", 0))
            if kind.endswith(".delta"):
                texts[place] = texts.get(place, "") + event["delta"]
            elif kind.endswith(("text.done", "refusal.done", "arguments.done")):
                assert texts[place] == event.get("text", event.get("refusal", event.get("arguments")))
    output = events[-1]["response"]["output"]
    assert [item["id"] for item in output] == added
    assert all(output[place] == item for place, item in done.items())
    assert has_failed or len(done) == len(added)


@given(
    request=REQUEST,
    body=st.binary(max_size=200)
    | st.dictionaries(CHUNK_NAMES, CHUNK_VALUE).map(lambda body: json.dumps(body).encode()),
)
def test_reply_of_any_bytes_is_a_response_or_a_value_error(request: dict[str, Any], body: bytes) -> None:
    """A plain reply either becomes a response object or is named as what it is not."""
    try:
        response = json.loads(ResponsesOverChat().reply(body, Asked(as_fields(request), "dec_1", 1)))
    except ValueError as error:
        problem = str(error)
    else:
        check_response(response)
        return
    assert problem.startswith("a body")


def check_response(response: dict[str, Any]) -> None:
    """Check that it is a response that has ended."""
    assert response["object"] == "response"
    assert response["status"] in ("completed", "incomplete")


@given(message=DELTA, reason=st.sampled_from(["stop", "length", None]))
def test_reply_of_any_message_is_a_response_with_distinct_items(message: dict[str, Any], reason: str | None) -> None:
    """Whatever a message holds, it becomes items of known kinds with ids of their own."""
    body = json.dumps({"choices": [{"message": message, "finish_reason": reason}]}).encode()
    output = json.loads(ResponsesOverChat().reply(body, Asked({}, "dec_1", 1)))["output"]
    assert {item["type"] for item in output} <= {"reasoning", "message", "function_call"}
    made = [item["id"] for item in output if item["id"].endswith(tuple("0123456789")) and "_chat_" in item["id"]]
    assert len(set(made)) == len(made)


@given(data=st.lists(st.binary(max_size=60), max_size=6))
def test_stream_of_any_bytes_as_events_never_raises(data: list[bytes]) -> None:
    """Data that is no chunk is skipped."""
    stream = ResponsesOverChat().stream(Asked({}, "dec_1", 1))
    events = list(events_of(b"".join(stream.feed("", piece) for piece in data) + stream.finish()))
    assert events[-1][0] == "response.completed"
