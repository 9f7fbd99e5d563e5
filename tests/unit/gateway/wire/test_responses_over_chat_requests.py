"""Responses requests that have no chat form or are wrong, and what must reach the provider byte for byte."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.wire.responses_over_chat import ResponsesOverChat
from penstock_gateway.wire.translation import NOT_TRANSLATABLE

TRANSLATOR = ResponsesOverChat()


def raw_fields(request: dict[str, Any]) -> dict[str, msgspec.Raw]:
    """Return a request as the gateway holds it."""
    return msgspec.json.decode(json.dumps(request).encode(), type=dict[str, msgspec.Raw])


def with_part(part: dict[str, Any]) -> dict[str, Any]:
    """Return a request whose user says one part."""
    return {"input": [{"role": "user", "content": [part]}]}


def refused(request: dict[str, Any]) -> InvalidRequest:
    """Return the error of a request; one without input gets a short one."""
    with pytest.raises(InvalidRequest) as caught:
        TRANSLATOR.request(raw_fields({"model": "m", "input": "go", **request}))
    return caught.value


@pytest.mark.parametrize(
    ("request_part", "param"),
    [
        pytest.param({"previous_response_id": "resp_1"}, "previous_response_id", id="previous-response"),
        pytest.param({"conversation": {"id": "conv_1"}}, "conversation", id="conversation"),
        pytest.param({"prompt": {"id": "pmpt_1"}}, "prompt", id="stored-prompt"),
        pytest.param({"background": True}, "background", id="background"),
        pytest.param({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.type", id="item-reference"),
        pytest.param({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input.type", id="compaction"),
        pytest.param({"input": [{"type": "computer_call_output"}]}, "input.type", id="computer-result"),
        pytest.param(with_part({"type": "input_image", "file_id": "file-1"}), "input.content.file_id", id="kept-image"),
        pytest.param(with_part({"type": "input_file", "file_id": "file-1"}), "input.content.file_id", id="kept-file"),
        pytest.param(
            with_part({"type": "input_file", "file_url": "https://x.test/a.pdf"}),
            "input.content.file_url",
            id="file-url",
        ),
        pytest.param(with_part({"type": "input_video"}), "input.content.type", id="unknown-part"),
        pytest.param({"text": {"format": {"type": "grammar"}}}, "text.format.type", id="unknown-format"),
        pytest.param(
            {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
            "tool_choice.type",
            id="forced-search",
        ),
        pytest.param({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice", id="only-dropped"),
        pytest.param(
            {
                "tools": [{"type": "custom", "name": "patch"}],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "custom", "name": "p"}],
                },
            },
            "tool_choice",
            id="only-dropped-allowed",
        ),
    ],
)
def test_request_that_only_its_own_api_can_take_is_not_translatable(request_part: dict[str, Any], param: str) -> None:
    """What cannot be left out without another answer is refused, and its place is named."""
    error = refused(request_part)
    assert (error.code, error.param) == (NOT_TRANSLATABLE, param)


@pytest.mark.parametrize("name", ["previous_response_id", "conversation", "prompt"])
def test_request_that_refers_to_stored_state_is_told_what_to_send(name: str) -> None:
    """A client that relies on stored state learns that this provider keeps none, and what to do."""
    assert "provider keeps no state: send the whole conversation in 'input'" in refused({name: "x"}).message


@pytest.mark.parametrize(
    ("request_part", "code", "param"),
    [
        ({"input": None}, "missing_field", "input"),
        ({"input": []}, "empty_messages", "input"),
        ({"input": 3}, "invalid_type", "input"),
        ({"input": [{"content": "x"}]}, "missing_field", "input.type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "invalid_value", "input.role"),
        ({"input": [{"role": "user"}]}, "missing_field", "input.content"),
        ({"input": [{"role": "user", "content": 3}]}, "invalid_type", "input.content"),
        ({"input": [{"role": "user", "content": [{"text": "x"}]}]}, "missing_field", "input.content.type"),
        (
            {"input": [{"role": "assistant", "content": [{"type": "input_image"}]}]},
            "invalid_value",
            "input.content.type",
        ),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "missing_field", "input.call_id"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": {}}]}, "invalid_type", "input.arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "a"}]}, "missing_field", "input.output"),
        ({"instructions": ["x"]}, "invalid_type", "instructions"),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ({"max_output_tokens": "5"}, "invalid_type", "max_output_tokens"),
        ({"reasoning": {"effort": 3}}, "invalid_type", "reasoning.effort"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "missing_field", "text.format.schema"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "missing_field", "tools.name"),
        ({"tool_choice": "sometimes"}, "invalid_value", "tool_choice"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"include": "reasoning.encrypted_content"}, "invalid_type", "include"),
    ],
)
def test_request_with_a_mistake_names_the_field_of_the_client(
    request_part: dict[str, Any], code: str, param: str
) -> None:
    """A mistake is blamed on the field that the client wrote, not on its chat form."""
    error = refused(request_part)
    assert (error.code, error.param) == (code, param)


def test_allowed_tools_that_are_all_dropped_leave_no_tool_to_call() -> None:
    """A choice among left-out tools, none of them forced, means that no tool is called."""
    tools = [{"type": "function", "name": "f"}, {"type": "web_search"}]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}
    translated = TRANSLATOR.request(raw_fields({"model": "m", "input": "go", "tools": tools, "tool_choice": choice}))
    assert bytes(translated.fields["tool_choice"]) == b'"none"'


def test_texts_and_schemas_of_a_request_stay_the_clients_bytes() -> None:
    """Escapes, white space and number forms inside texts, schemas and arguments are not rewritten."""
    schema = b'{ "type" : "object", "maximum": 1.0e2, "x": "\\u00e9" }'
    body = (
        b'{"model":"m","tools":[{"type":"function","name":"f","parameters":' + schema + b"}],"
        b'"text":{"format":{"type":"json_schema","name":"n","schema":' + schema + b"}},"
        b'"input":[{"role":"user","content":[{"type":"input_text","text":"caf\\u00e9"}]},'
        b'{"role":"assistant","content":[{"type":"output_text","text":"\\ud83d\\ude00"},{"type":"output_text","text":"\\n"}]},'
        b'{"type":"function_call","call_id":"a","name":"f","arguments":"{\\"x\\": 1.0}"}]}'
    )
    sent = TRANSLATOR.request(msgspec.json.decode(body, type=dict[str, msgspec.Raw])).fields
    assert schema in bytes(sent["tools"])
    assert schema in bytes(sent["response_format"])
    assert b'"caf\\u00e9"' in bytes(sent["messages"])
    assert b'"\\ud83d\\ude00\\n"' in bytes(sent["messages"])
    assert b'"{\\"x\\": 1.0}"' in bytes(sent["messages"])


def test_calls_whose_ids_come_again_get_the_results_that_follow_them() -> None:
    """A client that numbers the calls of every turn from 0 gets each result behind its own call."""
    turn = [
        {"type": "function_call", "call_id": "call_0", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_0", "output": "x"},
    ]
    sent = TRANSLATOR.request(raw_fields({"model": "m", "input": [*turn, *turn]})).fields
    assert [message["role"] for message in json.loads(bytes(sent["messages"]))] == ["assistant", "tool"] * 2


def test_result_whose_call_is_missing_stays_where_it_was() -> None:
    """A result without its call is the provider's to judge."""
    items = [{"role": "user", "content": "a"}, {"type": "function_call_output", "call_id": "x", "output": "1"}]
    sent = TRANSLATOR.request(raw_fields({"model": "m", "input": items})).fields
    assert json.loads(bytes(sent["messages"]))[1] == {"role": "tool", "tool_call_id": "x", "content": "1"}
