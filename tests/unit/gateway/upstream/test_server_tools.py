"""Tools that a provider runs itself are counted, in every format, streamed or not; others are not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.messages_scanner import MessagesScanner, read_messages_reply
from penstock_gateway.upstream.responses_scanner import ResponsesScanner, read_responses_reply
from penstock_gateway.upstream.sse import EventScanner
from penstock_gateway.upstream.usage import read_reply, read_usage
from penstock_gateway.wire.server_sent import event_bytes

COUNTS = {"input_tokens": 9, "output_tokens": 2}


def counted(usage: Usage | None) -> tuple[int, int]:
    """Return searches and other calls."""
    assert usage is not None
    return usage.web_searches, usage.other_tool_calls


def used(name: str) -> dict[str, Any]:
    """Return a block of a server's tool."""
    return {"type": "server_tool_use", "id": "srvtoolu_1", "name": name, "input": {"query": "x"}}


MESSAGES = [
    pytest.param([], {"server_tool_use": {"web_search_requests": 3}}, (3, 0), id="by-usage"),
    pytest.param([used("web_search")] * 2, {}, (2, 0), id="by-blocks"),
    pytest.param([used("web_search")], {"server_tool_use": {"web_search_requests": 1}}, (1, 0), id="by-both"),
    pytest.param([], {"server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 2}}, (0, 0), id="fetched"),
    pytest.param([used("web_fetch"), used("tool_search_tool_bm25")], {}, (0, 0), id="by-tokens-only"),
    pytest.param([used("code_execution"), used("bash_code_execution")], {}, (0, 2), id="code"),
    pytest.param([], {"server_tool_use": {"code_execution_requests": 4}}, (0, 4), id="code-by-usage"),
    pytest.param([{**used("web_search"), "type": "tool_use"}], {"server_tool_use": None}, (0, 0), id="the-clients"),
    pytest.param([{"type": "text", "text": '"server_tool_use"'}], {"server_tool_use": [1]}, (0, 0), id="quoted"),
    pytest.param([used("a_new_tool")], {"server_tool_use": {"web_search_requests": -1}}, (0, 1), id="unknown"),
]


@pytest.mark.parametrize(("content", "more", "wanted"), MESSAGES)
def test_tools_of_anthropic_are_counted_from_usage_and_blocks(
    content: list[Any], more: dict[str, Any], wanted: tuple[int, int]
) -> None:
    """What the counts leave out is seen in the content, and nothing is counted twice."""
    usage = {**COUNTS, **more}
    body = {"type": "message", "content": content, "usage": usage}
    assert counted(read_messages_reply(json.dumps(body).encode())[0]) == wanted
    scanner = MessagesScanner()
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {"usage": {"input_tokens": 9}}}]
    events += [
        {"type": "content_block_start", "index": number, "content_block": block} for number, block in enumerate(content)
    ]
    events += [
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]
    for event in events:
        scanner.feed(event_bytes(event, event["type"]))
    assert counted(scanner.usage) == wanted


RESPONSES = [
    pytest.param([{"type": "web_search_call", "action": {"type": "search"}}] * 2, (2, 0), id="searches"),
    pytest.param([{"type": "web_search_call"}], (1, 0), id="without-action"),
    pytest.param([{"type": "web_search_call", "action": {"type": "open_page"}}], (0, 0), id="pages"),
    pytest.param([{"type": name} for name in ("file_search_call", "code_interpreter_call")], (0, 2), id="others"),
    pytest.param([{"type": "image_generation_call"}, {"type": "shell_call_output"}], (0, 2), id="pictures-and-shell"),
    pytest.param([{"type": "function_call", "name": "f"}, {"type": "computer_call"}], (0, 0), id="the-clients"),
    pytest.param([{"type": ["web_search_call"]}, {"type": "mcp_call"}], (0, 0), id="free-or-odd"),
]


@pytest.mark.parametrize(("output", "wanted"), RESPONSES)
def test_tools_of_openai_are_counted_from_the_items_of_the_response(output: list[Any], wanted: tuple[int, int]) -> None:
    """The usage of a response says nothing of them, so its items do."""
    response = {"status": "completed", "output": output, "usage": COUNTS}
    assert counted(read_responses_reply(json.dumps(response).encode())[0]) == wanted
    scanner = ResponsesScanner()
    for item in output:
        for kind in ("response.output_item.added", "response.output_item.done"):
            scanner.feed(event_bytes({"type": kind, "item": item}, kind))
    scanner.feed(event_bytes({"type": "response.completed", "response": response}, "response.completed"))
    assert counted(scanner.usage) == wanted


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"server_tool_use": {"web_search_requests": 2}}, (2, 0)),
        ({"prompt_tokens_details": {"web_search_requests": 2}}, (2, 0)),
        ({"num_search_queries": 3}, (3, 0)),
        ({"num_sources_used": 7}, (0, 7)),
        ({"server_tool_use": "2", "num_sources_used": None, "num_search_queries": "x"}, (0, 0)),
    ],
)
def test_tools_in_the_usage_of_chat_completions_are_counted(more: dict[str, Any], wanted: tuple[int, int]) -> None:
    """Under each name that providers and gateways give them."""
    assert counted(read_usage({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11, **more})) == wanted


CITED = [{"type": "url_citation", "url_citation": {"url": "https://a.example", "start_index": 0, "end_index": 1}}]
CHAT_COUNTS = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


@pytest.mark.parametrize(
    ("message", "more", "wanted"),
    [
        pytest.param({"content": "x", "annotations": CITED * 2}, {}, (1, 0), id="cited"),
        pytest.param({"content": "x", "annotations": CITED}, {"num_search_queries": 3}, (3, 0), id="counted"),
        pytest.param({"content": "x", "annotations": []}, {}, (0, 0), id="none"),
        pytest.param({"content": 'say "url_citation"'}, {}, (0, 0), id="quoted"),
        pytest.param({"content": "x", "annotations": [{"type": "file_citation"}]}, {}, (0, 0), id="a-file"),
    ],
)
def test_search_of_a_chat_model_that_does_not_count_it_is_seen_by_what_it_cites(
    message: dict[str, Any], more: dict[str, Any], wanted: tuple[int, int]
) -> None:
    """OpenAI's search models tell of their search in annotations alone; one is the least that was done."""
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {**CHAT_COUNTS, **more}}
    assert counted(read_reply(json.dumps(body).encode())[0]) == wanted
    scanner = EventScanner(hides_usage=False)
    for chunk in (
        {"choices": [{"index": 0, "delta": message, "finish_reason": "stop"}]},
        {"choices": [], "usage": {**CHAT_COUNTS, **more}},
    ):
        scanner.feed(f"data: {json.dumps(chunk)}\n\n".encode())
    assert counted(scanner.usage) == wanted
