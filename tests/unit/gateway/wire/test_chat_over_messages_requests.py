"""What chat requests become for Messages providers where a snapshot says too little: refusals and generations."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.wire.chat_over_messages import ChatOverMessages
from penstock_gateway.wire.claude_generations import Thinking, generation_of, thinking_for
from penstock_gateway.wire.translation import TranslatedRequest

USER = {"role": "user", "content": "Hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def translate(*messages: Any, model: str = "claude-sonnet-4-5", **fields: Any) -> TranslatedRequest:
    """Translate a chat request of these messages and fields."""
    request = {"model": model, "messages": list(messages) or [USER], **fields}
    return ChatOverMessages().request(msgspec.json.decode(json.dumps(request).encode(), type=dict[str, msgspec.Raw]))


def sent(translated: TranslatedRequest) -> dict[str, Any]:
    """Return the fields of a translated request, decoded."""
    return {name: json.loads(bytes(value)) for name, value in translated.fields.items()}


def part(**fields: Any) -> dict[str, Any]:
    """Return a user message of one part."""
    return {"role": "user", "content": [fields]}


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("{", {"_arguments": "{"}),
        ('{"x": "cut of', {"_arguments": '{"x": "cut of'}),
        ("3", {"_arguments": "3"}),
        ("[" * 100_000, {"_arguments": "[" * 100_000}),
        (" null ", {}),
    ],
)
def test_arguments_that_are_no_object_are_kept_in_one(arguments: str, given: dict[str, str]) -> None:
    """OpenAI takes any text back, so that a client can tell a model that its call was cut; nothing of it is lost."""
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    found = translate(USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c"})
    assert sent(found)["messages"][1]["content"][0]["input"] == given


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.type"),
        ({"tools": [{"type": "mcp"}]}, "tools.type"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"messages": [part(type="input_audio", input_audio={})]}, "messages.content.type"),
        ({"messages": [part(type="video_url", video_url={})]}, "messages.content.type"),
        ({"messages": [part(type="file", file={"file_id": "file-abc"})]}, "messages.content.file.file_id"),
    ],
)
def test_request_with_something_that_changes_the_answer_is_not_translatable(fields: dict[str, Any], param: str) -> None:
    """What Anthropic has no such thing as, and cannot be left out, is refused with its own code."""
    with pytest.raises(InvalidRequest) as caught:
        translate(**{"messages": [USER], **fields})
    assert (caught.value.code, caught.value.param) == ("not_translatable", param)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"messages": []}, "empty_messages", "messages"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "empty_messages", "messages"),
        ({"messages": "x"}, "invalid_type", "messages"),
        ({"messages": [{"content": "x"}]}, "missing_field", "messages.role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "invalid_value", "messages.role"),
        ({"messages": [{"role": "user", "content": 7}]}, "invalid_type", "messages.content"),
        ({"messages": [part(type="text", text=7)]}, "invalid_type", "messages.content.text"),
        ({"messages": [part(type="image_url")]}, "missing_field", "messages.content.image_url"),
        (
            {"messages": [part(type="image_url", image_url={"url": "file:///etc/passwd"})]},
            "invalid_value",
            "messages.content.image_url.url",
        ),
        (
            {"messages": [part(type="image_url", image_url={"url": "data:image/png,raw"})]},
            "invalid_value",
            "messages.content.image_url.url",
        ),
        (
            {"messages": [part(type="file", file={"file_data": "data:text/plain;base64,!!"})]},
            "invalid_value",
            "messages.content.file.file_data",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "missing_field", "messages.tool_call_id"),
        ({"tools": [{"type": "function", "function": {}}]}, "missing_field", "tools.function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "some"},
            "invalid_value",
            "tool_choice",
        ),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": "9"}, "invalid_type", "max_tokens"),
        ({"temperature": "hot"}, "invalid_type", "temperature"),
        ({"reasoning_effort": "enormous"}, "invalid_value", "reasoning_effort"),
        ({"stop": 3}, "invalid_type", "stop"),
        ({"response_format": {"type": "json_schema"}}, "missing_field", "response_format.json_schema"),
    ],
)
def test_request_with_a_wrong_value_names_the_field(fields: dict[str, Any], code: str, param: str) -> None:
    """A field of a wrong type or value is the client's mistake, named by its path in the chat format."""
    with pytest.raises(InvalidRequest) as caught:
        translate(**{"messages": [USER], **fields})
    assert (caught.value.code, caught.value.param) == (code, param)


def test_request_values_that_stay_are_the_clients_own_bytes() -> None:
    """A schema and an argument object keep their spaces, number forms and key order."""
    schema = b'{ "type":"object",  "x":1.50, "x-a":[1e2] }'
    body = (
        b'{"model":"claude-opus-4-6","messages":[{"role":"user","content":"caf\\u00e9"},'
        b'{"role":"assistant","tool_calls":[{"id":"c","function":{"name":"f","arguments":"{ \\"n\\": 1.50 }"}}]},'
        b'{"role":"tool","tool_call_id":"c","content":"ok"}],'
        b'"tools":[{"type":"function","function":{"name":"f","parameters":' + schema + b"}}]}"
    )
    fields = ChatOverMessages().request(msgspec.json.decode(body, type=dict[str, msgspec.Raw])).fields
    assert schema in bytes(fields["tools"])
    assert b'{ "n": 1.50 }' in bytes(fields["messages"])
    assert b'"caf\\u00e9"' in bytes(fields["messages"])


def test_request_data_url_with_escaped_slashes_is_read() -> None:
    """Encoders that escape slashes write the same image."""
    body = (
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url",'
        b'"image_url":{"url":"data:image\\/png;base64,AA\\/B"}}]}]}'
    )
    fields = ChatOverMessages().request(msgspec.json.decode(body, type=dict[str, msgspec.Raw])).fields
    block = json.loads(bytes(fields["messages"]))[0]["content"][0]
    assert block["source"] == {"type": "base64", "media_type": "image/png", "data": "AA/B"}


def test_request_blocks_in_anthropics_own_form_pass_unchanged() -> None:
    """Image and document blocks that some chat clients send for Claude are passed on as they are."""
    block = {
        "type": "document",
        "source": {"type": "url", "url": "https://x.test/a.pdf"},
        "citations": {"enabled": True},
    }
    assert sent(translate(part(**block)))["messages"][0]["content"] == [block]


def test_request_tool_results_stand_before_text_of_the_same_turn() -> None:
    """A user's word between a call and its result follows the result, where Anthropic wants it."""
    out = sent(
        translate(
            USER,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "user", "content": "Wait."},
            {"role": "tool", "tool_call_id": "c", "content": "4"},
        )
    )
    assert [block["type"] for block in out["messages"][2]["content"]] == ["tool_result", "text"]


def test_request_thinking_block_without_signature_is_left_out_and_named() -> None:
    """A thinking block that its maker did not sign would be refused."""
    blocks = [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "thinking", "thinking": "hm"}]
    translated = translate(USER, {"role": "assistant", "content": "A", "thinking_blocks": blocks}, USER)
    assert sent(translated)["messages"][1] == {"role": "assistant", "content": "A"}
    assert translated.dropped == ("messages.thinking_blocks",)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("claude-3-5-haiku-latest", (3, 5)),
        ("claude-3-7-sonnet@20250219", (3, 7)),
        ("claude-sonnet-4-20250514", (4, 0)),
        ("eu.anthropic.claude-haiku-4-5-20251001-v1:0", (4, 5)),
        ("anthropic/claude-4.7-opus", (4, 7)),
        ("claude-sonnet-5", (5, 0)),
        ("claude-mythos-preview", (99, 0)),
        ("claude-fable-20990101", (99, 0)),
        ("kimi-k2", None),
    ],
)
def test_generation_of_a_model_name_is_read(model: str, expected: tuple[int, int] | None) -> None:
    """The number stands before or behind the family, dates are none, and a Claude without one is the newest."""
    assert generation_of(model) == expected


@pytest.mark.parametrize(
    ("effort", "generation", "limit", "expected"),
    [
        ("high", (3, 5), None, Thinking(is_met=False)),
        ("high", (4, 5), None, Thinking({"type": "enabled", "budget_tokens": 16_384})),
        ("high", (4, 5), 8000, Thinking({"type": "enabled", "budget_tokens": 4000})),
        ("low", (4, 5), 2000, Thinking(is_met=False)),
        ("none", (4, 5), 2000, Thinking()),
        ("none", (4, 7), None, Thinking()),
        ("none", (5, 0), None, Thinking(effort="low", is_met=False)),
        ("max", (5, 0), 10, Thinking({"type": "adaptive", "display": "summarized"}, "max")),
        ("xhigh", (4, 7), None, Thinking({"type": "adaptive", "display": "summarized"}, "xhigh")),
        ("xhigh", (4, 6), None, Thinking({"type": "adaptive", "display": "summarized"}, "high")),
        ("medium", None, None, Thinking({"type": "enabled", "budget_tokens": 8192})),
    ],
)
def test_reasoning_effort_for_a_generation_asks_as_it_understands(
    effort: str, generation: tuple[int, int] | None, limit: int | None, expected: Thinking
) -> None:
    """Older generations get a budget that leaves room to answer, newer ones an effort."""
    assert thinking_for(effort, generation, limit) == expected


def test_request_forcing_a_tool_is_sent_without_thinking() -> None:
    """Anthropic refuses thinking beside a forced tool: the tool stays."""
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}
    newer = sent(translate(model="claude-opus-4-6", reasoning_effort="high", **tools))
    assert "thinking" not in newer
    assert newer["output_config"] == {"effort": "high"}
    older = translate(reasoning_effort="high", **tools)
    assert "thinking" not in older.fields
    assert older.dropped == ("reasoning_effort",)


def test_request_of_both_temperature_and_top_p_keeps_what_the_generation_takes() -> None:
    """From 4.1 on Claude takes one of them; before, both."""
    newer = translate(temperature=0.5, top_p=0.9)
    assert "top_p" not in newer.fields
    assert newer.dropped == ("top_p",)
    assert {"temperature", "top_p"} <= translate(model="claude-sonnet-4-0", temperature=0.5, top_p=0.9).fields.keys()


def test_request_with_its_own_thinking_passes_it_on_where_it_is_taken() -> None:
    """A budget reaches generations that take one, and becomes adaptive where it is refused."""
    own = {"type": "enabled", "budget_tokens": 2000}
    assert sent(translate(thinking=own, max_tokens=4000))["thinking"] == own
    newer = translate(model="claude-sonnet-5", thinking=own, max_tokens=4000)
    assert sent(newer)["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert newer.dropped == ("thinking.budget_tokens",)


def test_request_without_a_limit_is_sent_without_one() -> None:
    """Which limit a model has is not known here: nothing is made up."""
    assert "max_tokens" not in translate().fields
