"""What odd replies and streams of Messages providers become for chat clients."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from penstock_gateway.wire.chat_over_messages import ChatOverMessages
from penstock_gateway.wire.server_sent import events_of
from penstock_gateway.wire.translation import Asked, StreamTranslator

ASKED = Asked({"model": msgspec.Raw(b'"claude-asked"')}, "req-1", 1_700_000_000)
DELTA = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}
STOPPED = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn"},
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


def feed(stream: StreamTranslator, *events: dict[str, Any]) -> list[Any]:
    """Feed events and return the chunks they become."""
    return chunks_of(b"".join(stream.feed("", json.dumps(event).encode()) for event in events))


def chunks_of(block: bytes) -> list[Any]:
    """Return the chunks of a block, ``[DONE]`` as text."""
    return [data.decode() if data == b"[DONE]" else json.loads(data) for _, data in events_of(block)]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"[]", "a body that is not a message"),
        (b"<html>", "a body that is not a JSON object"),
        (b'{"type":"error","error":{"type":"api_error"}}', "a body without content"),
        (b'{"content":"text"}', "a body that is not a message"),
    ],
)
def test_reply_that_is_no_message_says_what_it_is(body: bytes, problem: str) -> None:
    """A success that is not a Message is an error that names what came."""
    with pytest.raises(ValueError, match=problem):
        ChatOverMessages().reply(body, ASKED)


def test_reply_with_fields_of_odd_types_is_read_as_far_as_it_goes() -> None:
    """Blocks and fields that make no sense are passed over; the rest is an answer."""
    body = {
        "id": 7,
        "model": None,
        "stop_reason": 3,
        "usage": "many",
        "content": [
            1,
            None,
            {"type": "text", "text": 5},
            {"type": "new"},
            {"type": "text", "text": "Hi", "citations": 4},
        ],
    }
    completion = json.loads(ChatOverMessages().reply(json.dumps(body).encode(), ASKED))
    assert (completion["id"], completion["model"]) == ("req-1", "claude-asked")
    assert completion["choices"][0]["message"] == {"role": "assistant", "content": "Hi", "refusal": None}
    assert completion["choices"][0]["finish_reason"] == "stop"
    assert "usage" not in completion


def test_stream_without_message_start_begins_with_a_role_all_the_same() -> None:
    """Clients wait for the role; a server that leaves the first event out does not take it away."""
    chunks = feed(ChatOverMessages().stream(ASKED), DELTA)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert (chunks[0]["id"], chunks[0]["model"]) == ("req-1", "claude-asked")
    assert chunks[1]["choices"][0]["delta"] == {"content": "Hi"}


def test_stream_cut_before_its_stop_reason_has_no_end_mark() -> None:
    """An unfinished answer never ends with [DONE]."""
    stream = ChatOverMessages().stream(ASKED)
    feed(stream, DELTA)
    assert stream.finish() == b""


def test_stream_without_message_stop_after_its_stop_reason_ends_in_good_order() -> None:
    """The stop reason is the end of the answer, whether or not the last event came."""
    stream = ChatOverMessages().stream(ASKED)
    assert feed(stream, DELTA, STOPPED)[-1]["choices"][0]["finish_reason"] == "stop"
    usage, done = chunks_of(stream.finish())
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 5
    assert done == "[DONE]"
    assert stream.finish() == b""


def test_stream_with_message_stop_alone_gets_a_finish_reason() -> None:
    """Clients need a finish reason; a message that stopped without one has ``stop``."""
    stream = ChatOverMessages().stream(ASKED)
    chunks = feed(stream, DELTA, {"type": "message_stop"}, STOPPED)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]


def test_stream_input_given_whole_at_the_start_becomes_arguments() -> None:
    """Servers that send a call's input with its first event are understood."""
    start = {
        "type": "content_block_start",
        "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    }
    chunks = feed(ChatOverMessages().stream(ASKED), start, {"type": "content_block_stop"})
    pieces = [chunk["choices"][0]["delta"].get("tool_calls", [{}])[0].get("function", {}) for chunk in chunks[1:]]
    assert json.loads("".join(piece["arguments"] for piece in pieces)) == {"a": 1}


def test_stream_events_that_make_no_sense_become_nothing() -> None:
    """Unknown kinds, wrong types and the chat format's end mark are passed over."""
    stream = ChatOverMessages().stream(ASKED)
    for data in (
        b"[DONE]",
        b"[]",
        b"1",
        b'{"type":7}',
        b'{"type":"new_event"}',
        b'{"type":"content_block_delta","delta":3}',
    ):
        assert stream.feed("", data) == b""


def test_stream_kind_missing_in_the_data_is_read_from_the_events_name() -> None:
    """The event's name says the same as the data's type."""
    stream = ChatOverMessages().stream(ASKED)
    block = stream.feed("content_block_delta", b'{"delta":{"type":"text_delta","text":"Hi"}}')
    assert chunks_of(block)[-1]["choices"][0]["delta"] == {"content": "Hi"}


def test_stream_error_without_details_is_still_an_error_and_the_end() -> None:
    """Any error event ends the client's stream with an error, never with [DONE]."""
    stream = ChatOverMessages().stream(ASKED)
    feed(stream, DELTA, STOPPED)
    chunks = chunks_of(stream.feed("error", b"{}"))
    assert chunks[0]["error"]["code"] == "api_error"
    assert feed(stream, DELTA) == []
    assert stream.finish() == b""
