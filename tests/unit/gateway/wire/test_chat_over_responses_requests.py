"""Chat requests on their way to Responses providers: what is refused, and what passes untouched."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.wire.chat_over_responses import ChatOverResponses
from penstock_gateway.wire.translation import NOT_TRANSLATABLE
from support.wire_snapshots import raw_fields

TRANSLATOR = ChatOverResponses()
USER = {"role": "user", "content": "Hello"}


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"n": 2}, NOT_TRANSLATABLE, "n"),
        ({"stop": "END"}, NOT_TRANSLATABLE, "stop"),
        ({"modalities": ["text", "audio"]}, NOT_TRANSLATABLE, "modalities"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            NOT_TRANSLATABLE,
            "messages.content.type",
        ),
        ({"messages": [{"role": "bot", "content": "x"}]}, "invalid_value", "messages.role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "missing_field", "messages.tool_call_id"),
        ({"tools": [{"type": "function"}]}, "missing_field", "tools.function"),
        ({"tools": 3}, "invalid_type", "tools"),
        ({"tools": [{"type": "code_interpreter"}]}, NOT_TRANSLATABLE, "tools.type"),
        ({"functions": [{"description": "x"}]}, "missing_field", "functions.name"),
        ({"tool_choice": {"type": "mcp"}}, NOT_TRANSLATABLE, "tool_choice.type"),
        ({"tool_choice": {"type": "function"}}, "missing_field", "tool_choice.function"),
        ({"response_format": {"type": "grammar"}}, NOT_TRANSLATABLE, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "missing_field", "response_format.json_schema"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_completion_tokens": "many"}, "invalid_type", "max_completion_tokens"),
        ({"messages": [{"role": "user"}]}, "missing_field", "messages.content"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]},
            "missing_field",
            "messages.tool_calls.id",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": 1}}]}]},
            "invalid_type",
            "messages.tool_calls.function.name",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "image_url"}]}]},
            "invalid_value",
            "messages.content.type",
        ),
    ],
)
def test_request_that_cannot_be_sent_names_the_field_at_fault(changes: dict[str, Any], code: str, param: str) -> None:
    """What is missing, wrong or has no counterpart is refused with a code and the path in the client's format."""
    with pytest.raises(InvalidRequest) as caught:
        TRANSLATOR.request(raw_fields({"model": "m", "messages": [USER], **changes}))
    assert (caught.value.code, caught.value.param) == (code, param)


def test_control_field_is_neither_sent_nor_named() -> None:
    """What steers the gateway is nobody else's business."""
    translated = TRANSLATOR.request(raw_fields({"model": "m", "messages": [USER], "penstock": {"tradeoff": "cost"}}))
    assert "penstock" not in translated.fields
    assert translated.dropped == ()


def test_large_schema_passes_as_the_clients_own_bytes() -> None:
    """A tool's schema is not decoded: its spaces and the order of its fields survive."""
    schema = '{ "type":  "object", "properties": {"b": {"type": "string"}, "a":{}} }'
    tool = '{"type":"function","function":{"name":"f","parameters":%s}}' % schema  # noqa: UP031
    fields = msgspec.json.decode(
        f'{{"model":"m","messages":[{{"role":"user","content":"x"}}],"tools":[{tool}]}}', type=dict[str, msgspec.Raw]
    )
    assert schema.encode() in bytes(TRANSLATOR.request(fields).fields["tools"])
