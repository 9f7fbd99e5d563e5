"""Whatever a Responses provider sends, a chat client gets chunks or an error, and no end that did not come."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.upstream.responses_scanner import ResponsesScanner, read_responses_reply
from penstock_gateway.wire.chat_over_responses import ChatOverResponses
from penstock_gateway.wire.server_sent import events_of
from support.wire_snapshots import asked_of, raw_fields, streamed

TRANSLATOR = ChatOverResponses()
ENDS = ("response.completed", "response.incomplete")
ERRORS = ("error", "response.failed")
KINDS = (
    *ENDS,
    *ERRORS,
    "response.created",
    "response.output_item.added",
    "response.output_item.done",
    "response.output_text.delta",
    "response.refusal.delta",
    "response.reasoning_text.delta",
    "response.reasoning_summary_text.delta",
    "response.function_call_arguments.delta",
    "response.custom_tool_call_input.delta",
    "response.output_text.annotation.added",
    "response.something_new",
)
NAMES = ("type", "id", "call_id", "name", "arguments", "input", "content", "text", "summary", "annotations", "logprobs")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
SCALAR = st.none() | st.booleans() | st.integers(-2, 5) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
ANYTHING = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["output_text", "refusal", "summary_text", "reasoning_text"])},
    optional={"text": TEXT | ANYTHING, "refusal": TEXT, "annotations": ANYTHING, "logprobs": ANYTHING},
)
ITEMS = st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "function_call", "custom_tool_call", "reasoning", "web_search_call"])},
    optional={
        **dict.fromkeys(("id", "call_id", "name", "arguments", "input", "encrypted_content"), TEXT | ANYTHING),
        **dict.fromkeys(("content", "summary"), st.lists(PARTS, max_size=2) | ANYTHING),
    },
)
RESPONSES = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["completed", "incomplete", "failed", "queued"]) | ANYTHING,
        **dict.fromkeys(("usage", "incomplete_details", "error", "created_at", "model", "id"), ANYTHING),
        "output": st.lists(ITEMS, max_size=3) | ANYTHING,
    },
)
EVENTS = ANYTHING | st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS)},
    optional={
        **dict.fromkeys(("output_index", "content_index", "summary_index"), st.integers(0, 2) | ANYTHING),
        "delta": st.just("x") | ANYTHING,
        "item": ITEMS | ANYTHING,
        "annotation": ANYTHING,
        "logprobs": ANYTHING,
        "response": RESPONSES | ANYTHING,
        "error": ANYTHING,
        "code": ANYTHING,
        "message": ANYTHING,
    },
)
NAMES_OF_REQUESTS = """
model messages role content type text image_url url detail file file_id tools functions function name description
parameters strict tool_choice function_call allowed_tools mode custom format grammar response_format json_schema schema
reasoning_effort reasoning_items encrypted_content tool_calls tool_call_id id arguments input refusal n stop logprobs
top_logprobs max_tokens stream_options include_obfuscation web_search_options user_location approximate modalities store
metadata unknown penstock
"""
WORDS_OF_REQUESTS = """
user assistant system tool function developer text image_url file input_audio refusal custom json_schema allowed_tools
grammar reasoning auto none
"""
REQUEST_NAMES = st.sampled_from(NAMES_OF_REQUESTS.split())
WORDS = st.sampled_from(WORDS_OF_REQUESTS.split())
ANY_REQUEST = st.recursive(
    SCALAR | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(REQUEST_NAMES, inner, max_size=5),
    max_leaves=20,
)
MESSAGES = st.fixed_dictionaries(
    {"role": WORDS},
    optional={
        "content": TEXT | st.lists(st.dictionaries(REQUEST_NAMES, TEXT | WORDS | ANY_REQUEST, max_size=4), max_size=2),
        "tool_calls": ANY_REQUEST,
        "function_call": ANY_REQUEST,
        "tool_call_id": TEXT,
        "reasoning_items": ANY_REQUEST,
    },
)
REQUESTS = st.builds(
    lambda fields, messages: {"model": "m", **fields, "messages": messages},
    st.dictionaries(REQUEST_NAMES, ANY_REQUEST, max_size=6),
    st.lists(MESSAGES, max_size=3) | ANY_REQUEST,
)


def kinds_of(sent: list[Any]) -> list[Any]:
    """Return the kinds of all events that are objects."""
    return [event.get("type") for event in sent if isinstance(event, dict)]


@given(st.lists(EVENTS, max_size=8), st.booleans(), st.booleans())
def test_any_events_end_only_when_the_response_has_ended(sent: list[Any], wants_usage: bool, is_old: bool) -> None:
    """There is an end mark exactly when a response ended before any error, and nothing after an error."""
    request = {"model": "m", **({"functions": []} if is_old else {})}
    found = streamed(TRANSLATOR, {"request": request, "events": sent, "wants_usage": wants_usage})
    first = next((kind for kind in kinds_of(sent) if kind in ENDS or kind in ERRORS), None)
    assert found.count("[DONE]") == (first in ENDS)
    if first in ENDS:
        assert found[-1] == "[DONE]"
    errors = [place for place, event in enumerate(found) if isinstance(event, dict) and "error" in event]
    assert errors == ([len(found) - 1] if first in ERRORS else [])


@given(st.lists(EVENTS, max_size=8))
def test_any_events_become_chunks_of_one_completion(sent: list[Any]) -> None:
    """All chunks have one id, the first one the role, and at most one a finish reason, which is the last choice."""
    found = streamed(TRANSLATOR, {"request": {"model": "m"}, "events": sent})
    chunks = [chunk for chunk in found if isinstance(chunk, dict) and "error" not in chunk]
    assert len({chunk["id"] for chunk in chunks}) <= 1
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["index"] for choice in choices] == [0] * len(choices)
    assert ["role" in choice["delta"] for choice in choices] == [place == 0 for place in range(len(choices))]
    assert all(choice["finish_reason"] is None for choice in choices[:-1])


@given(st.lists(ITEMS | ANYTHING, max_size=6), RESPONSES)
def test_any_output_becomes_a_completion_or_is_named(output: list[Any], response: dict[str, Any]) -> None:
    """Output items of any shape are read as far as they go; what is no answer is a ValueError."""
    body = json.dumps({**response, "output": output}).encode()
    with contextlib.suppress(ValueError):
        read_responses_reply(body)
    try:
        completion = json.loads(TRANSLATOR.reply(body, asked_of({"request": {}})))
    except ValueError:
        assert response["status"] in ("failed", "cancelled", "queued", "in_progress")
        return
    assert completion["choices"][0]["message"]["role"] == "assistant"


@given(st.binary(max_size=200) | st.lists(EVENTS, max_size=5), st.lists(st.integers(0, 400), max_size=4))
def test_any_bytes_are_relayed_as_they_are_up_to_where_they_break(sent: bytes | list[Any], cuts: list[int]) -> None:
    """However a stream is cut, what the scanner relays are its own bytes, and an end is never invented."""
    stream = sent if isinstance(sent, bytes) else b"".join(b"data: %b\n\n" % json.dumps(e).encode() for e in sent)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    scanner = ResponsesScanner()
    relayed = b"".join(scanner.feed(stream[a:b]) for a, b in itertools.pairwise(places))
    assert stream.startswith(relayed)
    scanner.finish()
    assert scanner.is_complete or scanner.failure is not None
    if not isinstance(sent, bytes):
        assert scanner.is_done <= any(kind in (*ENDS, "response.failed") for kind in kinds_of(sent))


@given(st.binary(max_size=200))
def test_any_bytes_never_become_an_end_of_a_chat_stream(noise: bytes) -> None:
    """What is no response has no end mark, whatever it says."""
    stream = TRANSLATOR.stream(asked_of({"request": {"model": "m"}}))
    for name, data in events_of(noise + b"data: [DONE]\n\n"):
        assert b"[DONE]" not in stream.feed(name, data)
    assert stream.finish() == b""


@given(REQUESTS)
def test_any_request_is_translated_or_refused(request: dict[str, Any]) -> None:
    """Nothing that a client sends is more than an InvalidRequest; what is translated is JSON and keeps nothing."""
    try:
        translated = TRANSLATOR.request(raw_fields(request))
    except InvalidRequest:
        return
    sent = {name: json.loads(bytes(value)) for name, value in translated.fields.items()}
    assert sent["store"] is False
    assert isinstance(sent["input"], list)
    assert "penstock" not in sent
    assert len(set(translated.dropped)) == len(translated.dropped)
