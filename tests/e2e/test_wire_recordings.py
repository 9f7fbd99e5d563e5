"""The recorded answers have the shapes that the makers' own clients declare, and plain and streamed say the same."""

from __future__ import annotations

from typing import Any

import anthropic.types
import openai.types
import openai.types.chat
import openai.types.responses
import pytest

from support.client_script import SCENARIOS
from support.declared_shapes import problems_of
from support.wire_upstream import RECORDINGS, load_recording

PLAIN: dict[str, Any] = {
    "chat": openai.types.chat.ChatCompletion,
    "messages": anthropic.types.Message,
    "responses": openai.types.responses.Response,
    "completions": openai.types.Completion,
    "embeddings": openai.types.CreateEmbeddingResponse,
    "count_tokens": anthropic.types.MessageTokensCount,
}
EVENT: dict[str, Any] = {
    "chat": openai.types.chat.ChatCompletionChunk,
    "messages": anthropic.types.RawMessageStreamEvent,
    "responses": openai.types.responses.ResponseStreamEvent,
    "completions": openai.types.Completion,
}
ALL = sorted((path.parent.name, path.stem) for path in RECORDINGS.glob("*/*.json"))
ANSWERS = [(wire, name) for wire, name in ALL if not name.startswith("error-")]


@pytest.mark.parametrize(("wire", "name"), ANSWERS)
def test_wire_recording_of_an_answer_has_the_declared_shape(wire: str, name: str) -> None:
    """A plain answer validates against the client's type and has no field that the type does not know."""
    assert problems_of(load_recording(wire, name).plain, PLAIN[wire]) == []


@pytest.mark.parametrize(("wire", "name"), [(wire, name) for wire, name in ANSWERS if wire in EVENT])
def test_wire_recording_of_a_stream_has_the_declared_shape(wire: str, name: str) -> None:
    """Every event but the last of a broken stream and Anthropic's ping validates against the client's type."""
    for event in load_recording(wire, name).stream:
        if event.get("type") == "ping" or "error" in event:
            continue
        if wire == "completions" and event["choices"] and event["choices"][0]["finish_reason"] is None:
            event = {**event, "choices": [{**event["choices"][0], "finish_reason": "stop"}]}
        assert problems_of(event, EVENT[wire]) == []


def _text(wire: str, name: str) -> tuple[str, str]:
    """Return the text of the plain answer and of the stream."""
    recording = load_recording(wire, name)
    plain, events = recording.plain, recording.stream
    if wire == "chat":
        deltas = [choice["delta"].get("content") or "" for event in events for choice in event["choices"]]
        return plain["choices"][0]["message"]["content"] or "", "".join(deltas)
    if wire == "messages":
        deltas = [event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta"]
        return "".join(block.get("text", "") for block in plain["content"]), "".join(deltas)
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    parts = [part for item in plain["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts), "".join(deltas)


@pytest.mark.parametrize("scenario", [*SCENARIOS, "city-call"])
def test_wire_recordings_of_one_scenario_say_the_same_in_every_format(scenario: str) -> None:
    """What is compared across formats is the same answer: its text is equal in all of them, plain and streamed."""
    assert len({text for wire in ("chat", "messages", "responses") for text in _text(wire, scenario)}) == 1
