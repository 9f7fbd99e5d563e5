"""Messages clients in front of chat providers: written-down cases, refusals, the official client's reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.wire.chat_over_messages import ChatOverMessages
from penstock_gateway.wire.messages_over_chat import MessagesOverChat
from penstock_gateway.wire.server_sent import events_of
from penstock_gateway.wire.translation import NOT_TRANSLATABLE, Asked
from support.wire_snapshots import asked_of, cases, check, raw_fields, streamed

TRANSLATOR = MessagesOverChat()
USER = {"role": "user", "content": "Hello"}


def image_turn(**source: Any) -> list[Any]:
    """Return a conversation of one picture."""
    image = {"type": "image", "source": {"type": "base64", "data": "iVBORw0K", **source}}
    return [{"role": "user", "content": [image]}]


@pytest.mark.parametrize("path", cases("messages_over_chat"))
def test_snapshot_becomes_what_is_written_down(path: Path) -> None:
    """Each request, reply and stream becomes the expected one, and what is lost is named."""
    check(TRANSLATOR, path)


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"max_tokens": None}, "missing_field", "max_tokens"),
        ({"max_tokens": -1}, "invalid_value", "max_tokens"),
        ({"max_tokens": 0}, NOT_TRANSLATABLE, "max_tokens"),
        ({"max_tokens": "many"}, "invalid_type", "max_tokens"),
        ({"messages": None}, "missing_field", "messages"),
        ({"messages": []}, "empty_messages", "messages"),
        ({"messages": [{"role": "bot", "content": "x"}]}, NOT_TRANSLATABLE, "messages.role"),
        ({"messages": [{"role": "user"}]}, "missing_field", "messages.content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "missing_field", "messages.content.type"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, NOT_TRANSLATABLE, "messages.content.type"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}
                ]
            },
            NOT_TRANSLATABLE,
            "messages.content.source.type",
        ),
        ({"system": [{"type": "image"}]}, "invalid_value", "system.type"),
        ({"tools": [{"name": "f"}]}, "missing_field", "tools.input_schema"),
        (
            {"tools": [{"type": "bash_20250124", "name": "bash"}], "tool_choice": {"type": "any"}},
            NOT_TRANSLATABLE,
            "tool_choice",
        ),
        (
            {
                "tools": [{"name": "f", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}],
                "tool_choice": {"type": "tool", "name": "bash"},
            },
            NOT_TRANSLATABLE,
            "tool_choice",
        ),
        ({"tool_choice": {"type": "most"}}, NOT_TRANSLATABLE, "tool_choice.type"),
        ({"messages": image_turn(media_type="image/\\")}, "invalid_value", "messages.content.source.media_type"),
        ({"messages": image_turn(media_type='a"/b')}, "invalid_value", "messages.content.source.media_type"),
        ({"messages": image_turn(media_type="image/png", data=1)}, "invalid_type", "messages.content.source.data"),
        ({"thinking": {"type": "enabled"}}, "missing_field", "thinking.budget_tokens"),
    ],
)
def test_request_that_cannot_be_sent_names_the_field_at_fault(changes: dict[str, Any], code: str, param: str) -> None:
    """What is missing, wrong or kept by another provider is refused with a code and the path in the client's format."""
    given = {"model": "m", "max_tokens": 5, "messages": [USER], **changes}
    with pytest.raises(InvalidRequest) as caught:
        TRANSLATOR.request(raw_fields(given))
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"choices":[]}', b'{"choices":"x"}', b"\xff"])
def test_reply_that_is_no_completion_is_named(body: bytes) -> None:
    """Anything but a completion is a ValueError that says what it is."""
    with pytest.raises(ValueError, match="a body"):
        TRANSLATOR.reply(body, asked_of({"request": {"model": "m"}}))


def test_there_and_back_keeps_what_a_conversation_is_made_of() -> None:
    """Text, calls, results, signed thinking and cache marks survive the way through the chat format."""
    mark = {"type": "ephemeral"}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?", "cache_control": mark}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "cmVk"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"city": "Bern"}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "12"}]},
    ]
    tools = [{"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}]
    asked = {"model": "claude-sonnet-4-5", "max_tokens": 5, "messages": turns, "tools": tools}
    chat = TRANSLATOR.request(raw_fields(asked))
    again = ChatOverMessages().request(chat.fields)
    sent = {name: json.loads(bytes(value)) for name, value in again.fields.items()}
    assert sent["messages"][0] == turns[0]
    assert sent["messages"][1] == turns[1]
    assert sent["messages"][2]["content"][0]["tool_use_id"] == "toolu_1"
    assert sent["tools"] == tools
    assert (chat.dropped, again.dropped) == ((), ())


CITED = {
    "type": "char_location",
    "cited_text": "x",
    "document_index": 0,
    "document_title": "D",
    "start_char_index": 0,
    "end_char_index": 1,
    "file_id": None,
}
BLOCKS = [
    {"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "cmVk"},
    {"type": "text", "text": "I look.", "citations": [CITED]},
    {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"city": "Bern", "days": [1, 2]}},
    {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
]
COUNTS = {
    "input_tokens": 3,
    "cache_creation_input_tokens": 12,
    "cache_read_input_tokens": 100,
    "output_tokens": 8,
    "output_tokens_details": {"thinking_tokens": 5},
    "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 8},
    "service_tier": "standard",
}
HEAD = {"id": "msg_01", "type": "message", "role": "assistant", "model": "claude-x"}
ASKED = {"model": "claude-x"}


def test_message_through_chat_and_back_is_the_same() -> None:
    """A Message that was stored as a chat completion is replayed as it was: blocks, signatures, citations, counts."""
    message = {**HEAD, "content": BLOCKS, "stop_reason": "tool_use", "stop_sequence": None, "usage": COUNTS}
    asked = asked_of({"request": ASKED})
    chat = ChatOverMessages().reply(json.dumps(message).encode(), asked)
    assert json.loads(TRANSLATOR.reply(chat, asked)) == message


def test_stream_through_chat_and_back_is_the_same_but_for_pieces() -> None:
    """Blocks keep their order, signatures and citations; counts come at the end."""
    events = [{"type": "message_start", "message": {**HEAD, "content": [], "usage": COUNTS}}]
    for index, block in enumerate(BLOCKS):
        begun, pieces = _as_pieces(block)
        events.append({"type": "content_block_start", "index": index, "content_block": begun})
        events += [{"type": "content_block_delta", "index": index, "delta": piece} for piece in pieces]
        events.append({"type": "content_block_stop", "index": index})
    ending = {"stop_reason": "tool_use", "stop_sequence": None}
    events += [{"type": "message_delta", "delta": ending, "usage": COUNTS}, {"type": "message_stop"}]
    chunks = streamed(ChatOverMessages(), {"request": ASKED, "events": events})
    found = streamed(TRANSLATOR, {"request": ASKED, "events": chunks})
    assert found[0]["message"] == {
        **HEAD,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
    assert found[1:] == events[1:]


def _as_pieces(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what a block begins with and its deltas, as Anthropic streams it."""
    kind = block["type"]
    if kind == "thinking":
        begun = {"type": "thinking", "thinking": "", "signature": ""}
        thought = {"type": "thinking_delta", "thinking": block["thinking"]}
        return begun, [thought, {"type": "signature_delta", "signature": block["signature"]}]
    if kind == "text":
        cited = [{"type": "citations_delta", "citation": one} for one in block["citations"]]
        return {"type": "text", "text": ""}, [{"type": "text_delta", "text": block["text"]}, *cited]
    if kind == "tool_use":
        text = json.dumps(block["input"])
        pieces = [text[:5], text[5:]] if len(text) > 5 else [text]
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block, []


@pytest.mark.parametrize("odd", [{"delta": []}, {"delta": ""}, {"delta": {}, "message": ""}])
def test_stream_whose_last_delta_is_no_object_keeps_its_end(odd: dict[str, Any]) -> None:
    """Some servers write an empty delta as a list: the finish reason and the usage beside it are read all the same."""
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    chunks: list[Any] = [
        {"id": "c", "choices": [{"index": 0, "delta": {"content": "A"}}]},
        {"id": "c", "choices": [None, {"index": 0, **odd, "finish_reason": "length"}], "usage": usage},
    ]
    stream = TRANSLATOR.stream(Asked(raw_fields({"model": "m"}), "dec_1", 1))
    sent = b"".join(stream.feed("", json.dumps(chunk).encode()) for chunk in chunks) + stream.finish()
    events = [json.loads(data) for _, data in events_of(sent)]
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"
    assert (events[-2]["usage"]["input_tokens"], events[-2]["usage"]["output_tokens"]) == (9, 3)


def test_fields_of_the_gateway_stay_and_are_not_named() -> None:
    """The control field reaches the chat parser as it came, and is never among what was dropped."""
    control = {"tradeoff": 0.3}
    found = TRANSLATOR.request(
        raw_fields({"model": "auto", "max_tokens": 5, "messages": [USER], "penstock": control, "stream": True})
    )
    assert json.loads(bytes(found.fields["penstock"])) == control
    assert json.loads(bytes(found.fields["stream"])) is True
    assert found.dropped == ()


def test_schema_of_a_tool_stays_the_bytes_of_the_client() -> None:
    """A schema is passed on as it was written, spaces and order included."""
    schema = b'{ "type":"object",  "properties": {"b":{}, "a": {"type" : "number", "maximum": 1e400}} }'
    body = b'{"model":"m","max_tokens":5,"messages":[],"tools":[{"name":"f","input_schema":' + schema + b"}]}"
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw]) | raw_fields({"messages": [USER]})
    assert schema in bytes(TRANSLATOR.request(fields).fields["tools"])


def test_streams_and_replies_are_what_the_official_client_reads() -> None:
    """Every expected event and message is valid for Anthropic's own library, and its accumulator joins the events."""
    anthropic = pytest.importorskip("anthropic", reason="needs the dev extra: run make test")
    from anthropic.lib.streaming._messages import accumulate_event
    from anthropic.types import Message, RawMessageStreamEvent
    from pydantic import TypeAdapter

    event_type = TypeAdapter(RawMessageStreamEvent)
    seen = 0
    for parameter in cases("messages_over_chat"):
        path = parameter.values[0]
        case = json.loads(path.read_text(encoding="utf-8"))
        if path.stem.startswith("reply_"):
            Message.model_validate(case["expected"])
        if not path.stem.startswith("stream_") or path.stem.startswith("stream_error"):
            continue
        snapshot, buffers = None, {}
        for event in streamed(TRANSLATOR, case):
            read = event_type.validate_python(event)
            snapshot = accumulate_event(event=read, current_snapshot=snapshot, json_bufs=buffers)
        assert snapshot is not None
        assert snapshot.stop_reason
        seen += 1
    assert seen >= 18
    assert anthropic.__version__
