"""Extensions of a chat request reach the servers that take them, and are named where they are left out."""

from __future__ import annotations

import json
from typing import Any

from penstock_gateway.request_body import raw
from penstock_gateway.wire.extensions import without_extensions, without_unsigned_thinking

BODY = {
    "model": raw("m"),
    "messages": raw(
        [
            {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
            {"role": "assistant", "content": "x", "reasoning_content": "hm", "thinking_blocks": [{"signature": "s"}]},
        ]
    ),
    "tools": raw([{"type": "function", "function": {"name": "f"}, "cache_control": {"type": "ephemeral"}}]),
}


def sent_to(provider: str, adapter: str = "direct") -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what a provider gets, and what is left out."""
    body, dropped = without_extensions(BODY, provider, adapter)
    return {name: json.loads(bytes(value)) for name, value in body.items()}, dropped


def test_extensions_are_left_out_and_named_for_a_strict_server() -> None:
    """OpenAI answers 400 to fields that it does not know, so none of them reaches it."""
    sent, dropped = sent_to("openai")
    assert sent["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "x"},
    ]
    assert sent["tools"] == [{"type": "function", "function": {"name": "f"}}]
    assert set(dropped) == {"cache_control", "reasoning_content", "thinking_blocks"}


def test_extension_of_a_call_is_left_out_for_a_strict_server() -> None:
    """A client of Anthropic's may mark a call for its cache, and OpenAI answers 400 to that place too."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    marked = {"role": "assistant", "content": None, "tool_calls": [{**call, "cache_control": {"type": "ephemeral"}}]}
    sent, dropped = without_extensions({"messages": raw([marked])}, "openai", "direct")
    assert json.loads(bytes(sent["messages"])) == [{**marked, "tool_calls": [call]}]
    assert dropped == ("cache_control",)


def test_reasoning_goes_back_to_servers_that_want_it() -> None:
    """DeepSeek refuses a loop whose reasoning is missing."""
    sent, dropped = sent_to("deepseek")
    assert sent["messages"][1] == {"role": "assistant", "content": "x", "reasoning_content": "hm"}
    assert set(dropped) == {"cache_control", "thinking_blocks"}


def test_extensions_stay_for_litellm_and_for_bodies_without_any() -> None:
    """litellm hands cache marks and thinking on, and a body without extensions is not touched."""
    assert without_extensions(BODY, "bedrock", "litellm") == (BODY, ())
    plain = {"messages": raw([{"role": "user", "content": "Hi"}])}
    assert without_extensions(plain, "openai", "direct") == (plain, ())


THINKING = {"type": "thinking", "thinking": "hm"}
SIGNED = {**THINKING, "signature": "c2ln"}
UNSIGNED = {**THINKING, "signature": ""}


def test_unsigned_thinking_is_left_out_of_a_messages_body_and_the_rest_stays() -> None:
    """Anthropic refuses a signature that is not its own; a turn of nothing else goes with it."""
    turns = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": [UNSIGNED, SIGNED, {"type": "text", "text": "So."}]},
        {"role": "assistant", "content": [UNSIGNED]},
    ]
    body, dropped = without_unsigned_thinking({"model": raw("m"), "messages": raw(turns)})
    assert json.loads(bytes(body["messages"])) == [
        turns[0],
        {"role": "assistant", "content": [SIGNED, {"type": "text", "text": "So."}]},
    ]
    assert dropped == ("messages.content.thinking",)


def test_messages_body_without_unsigned_thinking_is_the_same_object() -> None:
    """A body is not written anew for nothing, whatever its shape; text may speak of signatures."""
    quoting = [{"role": "user", "content": '{"signature":""}'}]
    for messages in (raw([{"role": "assistant", "content": [SIGNED]}]), raw("no list"), raw(quoting)):
        body = {"messages": messages}
        assert without_unsigned_thinking(body)[0] is body
