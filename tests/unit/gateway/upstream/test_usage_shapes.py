"""Cache writes, sound, pictures and service tiers in the shapes in which providers and gateways send them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.sse import EventScanner
from penstock_gateway.upstream.usage import read_anthropic_usage, read_reply, read_service_tier, read_usage

COUNTS: dict[str, Any] = {"prompt_tokens": 100, "completion_tokens": 10}


def _usage(**fields: Any) -> Usage | None:
    return read_usage({**COUNTS, **fields})


@pytest.mark.parametrize(
    ("fields", "written", "hour"),
    [
        ({"prompt_tokens_details": {"cache_write_tokens": 40}}, 40, 0),  # OpenAI, OpenRouter
        ({"prompt_tokens_details": {"cache_creation_tokens": 40}}, 40, 0),  # litellm
        ({"prompt_tokens_details": {"cache_creation_input_tokens": 40, "cache_type": "ephemeral"}}, 40, 0),  # DashScope
        ({"cache_creation_input_tokens": 40}, 40, 0),  # gateways in front of Anthropic and Bedrock
        ({"cache_creation_input_tokens": 40, "cache_creation": {"ephemeral_1h_input_tokens": 30}}, 40, 30),
        (
            {
                "prompt_tokens_details": {
                    "cache_write_tokens": 40,
                    "cache_creation_token_details": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 30},
                }
            },
            40,
            30,
        ),
        ({"prompt_tokens_details": {"cache_creation": {"ephemeral_5m_input_tokens": 40}}}, 0, 0),
        ({"cache_creation": {"ephemeral_1h_input_tokens": 30}}, 30, 30),
        ({"cache_creation": None, "prompt_tokens_details": {"cache_write_tokens": None}}, 0, 0),
        ({"prompt_tokens_details": {"cache_write_tokens": -3}}, 0, 0),
        ({"prompt_tokens_details": {"cache_write_tokens": 300}}, 100, 0),
    ],
)
def test_usage_tokens_written_to_the_cache_are_read(fields: dict[str, Any], written: int, hour: int) -> None:
    """Each way of writing them is understood; more than the prompt is the whole prompt, since they are dear."""
    usage = _usage(**fields)
    assert usage is not None
    assert (usage.input_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens) == (100, written, hour)


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"cache_read_input_tokens": 60, "cache_creation_input_tokens": 30, "total_tokens": 110}, 100),  # litellm
        ({"cache_read_input_tokens": 60, "cache_creation_input_tokens": 30}, 100),
        ({"cache_read_input_tokens": 60, "cache_creation_input_tokens": 30, "total_tokens": 200}, 190),
        ({"cache_read_input_tokens": 900, "cache_creation_input_tokens": 30, "total_tokens": 110}, 1030),
        ({"cache_read_input_tokens": 900, "cache_creation_input_tokens": 30}, 1030),
    ],
)
def test_usage_anthropics_cache_counts_beside_the_prompt_are_added_when_they_are_not_in_it(
    fields: dict[str, Any], prompt: int
) -> None:
    """Some gateways leave them out of the prompt; the bill is then of all of it, and none of it is taken for output."""
    usage = _usage(**fields)
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (prompt, 10, 0)
    assert usage.cached_input_tokens == fields["cache_read_input_tokens"]
    assert usage.cache_write_tokens == 30


def test_usage_sound_and_pictures_are_read() -> None:
    """Media counts are parts of prompt and completion; more than the whole is the whole, since they are dear."""
    usage = _usage(
        prompt_tokens_details={"audio_tokens": 60, "image_tokens": 300, "text_tokens": 40},
        completion_tokens_details={"audio_tokens": 8, "text_tokens": 2},
    )
    assert usage == Usage(100, 10, audio_input_tokens=60, image_input_tokens=100, audio_output_tokens=8)


def test_usage_prediction_tokens_are_part_of_the_completion() -> None:
    """Rejected predictions are billed like what was kept: the completion's count holds them already."""
    details = {"accepted_prediction_tokens": 3, "rejected_prediction_tokens": 6, "reasoning_tokens": 0}
    assert _usage(completion_tokens_details=details, total_tokens=110) == Usage(100, 10)


def test_usage_of_a_search_is_not_taken_for_hidden_reasoning() -> None:
    """litellm counts a search's own prompt in Gemini's total only; that is no output."""
    assert _usage(prompt_tokens_details={"tool_use_tokens": 55}, total_tokens=165) == Usage(100, 10)
    assert _usage(prompt_tokens_details={"tool_use_tokens": 55}, total_tokens=170) == Usage(100, 15, reasoning_tokens=5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("priority", "priority"),
        ("Flex", "flex"),
        ("fast", "priority"),
        ("ultrafast", "ultrafast"),
        ("default", ""),
        ("standard", ""),
        ("auto", ""),
        ("scale", ""),
        ("", ""),
        (None, ""),
        (3, ""),
        (["flex"], ""),
        ("x" * 33, ""),
    ],
)
def test_service_tier_of_each_spelling_is_known(name: object, expected: str) -> None:
    """The standard service has many names and no surcharge; anything that is no name says nothing."""
    assert read_service_tier(name) == expected


def test_service_tier_of_the_reply_comes_before_the_one_in_its_usage() -> None:
    """OpenAI says it beside the usage, Anthropic inside it."""
    assert read_usage({**COUNTS, "service_tier": "batch"}) == Usage(100, 10, service_tier="batch")
    assert read_usage({**COUNTS, "service_tier": "batch"}, "flex") == Usage(100, 10, service_tier="flex")
    body = json.dumps({"service_tier": "priority", "choices": [], "usage": COUNTS}).encode()
    assert read_reply(body) == (Usage(100, 10, service_tier="priority"), 0)


def _event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def _scanned(*events: bytes) -> EventScanner:
    scanner = EventScanner(hides_usage=True)
    for event in events:
        scanner.feed(event)
    return scanner


def test_usage_sent_with_every_chunk_of_a_stream_is_the_last_and_never_a_sum() -> None:
    """Running totals, and the same total twice, are billed once."""
    events = [_event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": n}) for n in (1, 2, 3, 3)]
    assert _scanned(*events).usage == Usage(7, 3)


def test_usage_that_makes_no_sense_does_not_replace_one_that_did() -> None:
    """Zeros or negative counts at the end of a stream do not make it free."""
    real = _event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3})
    zeros = _event(choices=[], usage={"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})
    negative = _event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": -3})
    assert _scanned(real, zeros, negative).usage == Usage(7, 3)


@pytest.mark.parametrize("choices", [[], [{"index": "no", "delta": 5}]])
def test_service_tier_of_an_earlier_chunk_holds_for_the_usage(choices: list[Any]) -> None:
    """The tier stands in the chunks, the usage in the last one; chunks of an unknown shape say it too."""
    scanner = _scanned(
        _event(choices=choices, service_tier="flex"),
        _event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3}),
    )
    assert scanner.usage == Usage(7, 3, service_tier="flex")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"input_tokens": 5, "output_tokens": 3}, Usage(5, 3)),
        (
            {
                "input_tokens": 5,
                "output_tokens": 3,
                "cache_read_input_tokens": 900,
                "cache_creation_input_tokens": 40,
                "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 30},
                "service_tier": "standard",
            },
            Usage(945, 3, cached_input_tokens=900, cache_write_tokens=40, cache_write_1h_tokens=30),
        ),
        (
            {
                "input_tokens": 5,
                "output_tokens": 3,
                "iterations": [
                    {"input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 8},
                    {"input_tokens": 5, "output_tokens": 3},
                ],
            },
            Usage(113, 23, cached_input_tokens=8),
        ),
        ({"input_tokens": 5, "output_tokens": 3, "service_tier": "priority"}, Usage(5, 3, service_tier="priority")),
        (
            {"input_tokens": 5, "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 6}},
            Usage(5, 9, reasoning_tokens=6),
        ),
        ({"input_tokens": 5, "output_tokens": 3, "output_tokens_details": {"thinking_tokens": 6}}, Usage(5, 3)),
        ({"input_tokens": 5}, None),
        ({"input_tokens": -5, "output_tokens": 3}, None),
        ({"input_tokens": 0, "output_tokens": 0}, None),
        ({"input_tokens": 5, "output_tokens": 3, "iterations": [3]}, None),
        ([], None),
    ],
)
def test_usage_of_anthropics_own_api_adds_the_cache_to_the_prompt(fields: object, expected: Usage | None) -> None:
    """There the three counts are disjoint, and compaction is billed by its iterations."""
    assert read_anthropic_usage(fields) == expected
