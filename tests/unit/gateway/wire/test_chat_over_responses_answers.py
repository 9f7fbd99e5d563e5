"""Answers of Responses providers on their way to chat clients: whole or streamed the same, and in good order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.wire.chat_over_responses import ChatOverResponses
from penstock_gateway.wire.server_sent import events_of
from support.wire_snapshots import asked_of, streamed

TRANSLATOR = ChatOverResponses()
FOLDER = Path(__file__).parents[3] / "support" / "recordings" / "wire" / "responses"
WHOLE = ("text", "long", "thinking", "tools", "city-call", "parallel-tools", "structured", "image")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"[]", "a body that is not a JSON object"),
        (b"{", "a body that is not a JSON object"),
        (b"{}", "a body without output"),
        (b'{"output":"x"}', "a body without output"),
        (b'{"output":[],"status":"failed"}', "a response that is failed"),
        (b'{"output":[],"status":"queued"}', "a response that is queued"),
    ],
)
def test_reply_that_is_no_answer_is_named(body: bytes, problem: str) -> None:
    """Anything but a response that has ended is a ValueError that says what it is instead."""
    with pytest.raises(ValueError, match=problem):
        TRANSLATOR.reply(body, asked_of({"request": {"model": "m"}}))


@pytest.mark.parametrize("name", WHOLE)
def test_recorded_response_says_the_same_in_one_piece_and_streamed(name: str) -> None:
    """Text, reasoning, calls and finish reason do not depend on how the answer came."""
    recording = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    case = {"request": {"model": "m"}, "events": recording["stream"]}
    chunks = streamed(TRANSLATOR, case)
    whole = json.loads(TRANSLATOR.reply(json.dumps(recording["plain"]).encode(), asked_of(case)))["choices"][0]
    assert chunks[-1] == "[DONE]"
    said: dict[str, Any] = {}
    calls: dict[int, dict[str, str]] = {}
    for chunk in chunks[:-1]:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            for field in ("content", "refusal", "reasoning_content"):
                said[field] = said.get(field, "") + (delta.get(field) or "")
            for call in delta.get("tool_calls", ()):
                found = calls.setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
                found["id"] += call.get("id", "")
                for field, text in call["function"].items():
                    found[field] += text
            said["reason"] = choice["finish_reason"]
    message = whole["message"]
    assert said["reason"] == whole["finish_reason"]
    for field in ("content", "refusal", "reasoning_content"):
        assert said[field] == (message.get(field) or "")
    assert [(c["id"], c["name"], c["arguments"]) for c in calls.values()] == [
        (c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls", ())
    ]


def test_item_in_several_lines_stays_one_event() -> None:
    """A server may write its JSON in several data lines; a chunk must not end in the middle of it."""
    item = '{"type":"reasoning",\n"id":"rs_1","summary":[],"encrypted_content":"e"}'
    stream = TRANSLATOR.stream(asked_of({"request": {"model": "m"}}))
    block = stream.feed("", f'{{"type":"response.output_item.done","item":{item}}}'.encode())
    chunks = [json.loads(data) for _, data in events_of(block)]
    assert chunks[-1]["choices"][0]["delta"]["reasoning_items"][0]["encrypted_content"] == "e"


def test_name_of_an_event_stands_in_for_a_missing_type() -> None:
    """Some servers tell the kind of an event in its name only."""
    stream = TRANSLATOR.stream(asked_of({"request": {"model": "m"}, "wants_usage": False}))
    stream.feed("response.output_text.delta", b'{"delta":"Hi"}')
    stream.feed("response.completed", b"{}")
    assert stream.finish() == b"data: [DONE]\n\n"


def test_events_after_the_end_are_left_out() -> None:
    """Nothing is said after the finish reason."""
    stream = TRANSLATOR.stream(asked_of({"request": {"model": "m"}}))
    stream.feed("", b'{"type":"response.completed","response":{}}')
    assert stream.feed("", b'{"type":"response.output_text.delta","delta":"late"}') == b""
    assert stream.finish().endswith(b"[DONE]\n\n")
    assert stream.finish() == b""
