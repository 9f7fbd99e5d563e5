"""Token counts out of what providers send: tolerant, and never too low without saying so."""

from __future__ import annotations

import json

import pytest

from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.usage import MAX_PLAUSIBLE_TOKENS, read_reply, read_usage


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ('{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}', Usage(10, 5)),
        ('{"prompt_tokens":10,"completion_tokens":5}', Usage(10, 5)),
        ('{"prompt_tokens":"10","completion_tokens":5.0}', Usage(10, 5)),
        ('{"prompt_tokens":10,"total_tokens":15}', Usage(10, 5)),
        ('{"prompt_tokens":0,"completion_tokens":3}', Usage(0, 3)),
        ('{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":6}}', Usage(9, 4, 6)),
        ('{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":null}', Usage(9, 4)),
        ('{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":null}}', Usage(9, 4)),
        ('{"prompt_tokens":9,"completion_tokens":4,"prompt_cache_hit_tokens":8}', Usage(9, 4, 8)),
        ('{"prompt_tokens":9,"completion_tokens":4,"cached_tokens":7}', Usage(9, 4, 7)),
        (
            '{"prompt_tokens":9,"completion_tokens":4,"completion_tokens_details":{"reasoning_tokens":3}}',
            Usage(9, 4, 0, 3),
        ),
    ],
)
def test_usage_known_variant_is_read(usage: str, expected: Usage) -> None:
    """Each way in which a provider writes its counts is understood."""
    assert read_usage(json.loads(usage)) == expected


@pytest.mark.parametrize(
    "usage",
    [
        "null",
        "[]",
        '"many"',
        "{}",
        '{"prompt_tokens":10}',
        '{"completion_tokens":5}',
        '{"prompt_tokens":-1,"completion_tokens":5}',
        '{"prompt_tokens":10,"completion_tokens":-5}',
        '{"prompt_tokens":true,"completion_tokens":5}',
        '{"prompt_tokens":10.5,"completion_tokens":5}',
        '{"prompt_tokens":"ten","completion_tokens":5}',
        '{"prompt_tokens":10,"total_tokens":4}',
        '{"prompt_tokens":0,"completion_tokens":0}',
        '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}',
        f'{{"prompt_tokens":{MAX_PLAUSIBLE_TOKENS + 1},"completion_tokens":5}}',
        '{"prompt_tokens":"' + "9" * 5000 + '","completion_tokens":5}',
        '{"prompt_tokens":1e400,"completion_tokens":5}',
    ],
)
def test_usage_senseless_counts_are_missing(usage: str) -> None:
    """Counts that cannot be true are no counts: the caller estimates and says so."""
    assert read_usage(json.loads(usage)) is None


def test_usage_reasoning_outside_the_completion_count_is_added() -> None:
    """xAI and Gemini leave reasoning out of completion_tokens but not out of the total: the output is billed whole."""
    details = b'"completion_tokens_details":{"reasoning_tokens":94}'
    usage = b'{"prompt_tokens":32,"completion_tokens":9,"total_tokens":135,' + details + b"}"
    assert read_usage(json.loads(usage)) == Usage(32, 103, 0, 94)


def test_usage_total_beyond_the_parts_without_details_is_reasoning() -> None:
    """What the total has beyond prompt and completion was generated, and hidden."""
    usage = b'{"prompt_tokens":20,"completion_tokens":424,"total_tokens":1016}'
    assert read_usage(json.loads(usage)) == Usage(20, 996, 0, 572)


def test_usage_more_cached_than_prompt_is_priced_in_full() -> None:
    """An impossible discount is not given."""
    usage = b'{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":6}}'
    assert read_usage(json.loads(usage)) == Usage(5, 1)


def test_usage_more_reasoning_than_output_is_ignored() -> None:
    """Visible output can never become negative."""
    usage = b'{"prompt_tokens":5,"completion_tokens":1,"completion_tokens_details":{"reasoning_tokens":2}}'
    assert read_usage(json.loads(usage)) == Usage(5, 1)


def test_reply_without_usage_counts_its_text() -> None:
    """When nothing was reported, the length of the text is there for an estimate."""
    body = b'{"choices":[{"message":{"content":"abcd","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}]}'
    assert read_reply(body) == (None, 7)


def test_reply_with_usage_skips_the_text() -> None:
    """Reported usage makes an estimate needless."""
    body = b'{"choices":[{"message":{"content":"abcd"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    assert read_reply(body) == (Usage(1, 2), 0)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"<html>", b'{"choices":[', b'{"error":{"message":"no"}}', b"[" * 100_000]
)
def test_reply_that_is_no_answer_is_refused(body: bytes) -> None:
    """A success status with something else than an answer is a broken provider."""
    with pytest.raises(ValueError, match=r"JSON|error"):
        read_reply(body)


def test_reply_with_null_error_and_choices_is_an_answer() -> None:
    """Some servers always send an error field; null in it means none."""
    assert read_reply(b'{"error":null,"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}')[0] == Usage(
        1, 2
    )
