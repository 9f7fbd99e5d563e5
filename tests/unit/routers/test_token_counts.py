"""Estimates and upper bounds of token counts."""

from __future__ import annotations

import pytest

from penstock_routers.token_counts import estimate_tokens, message_tokens, tokens_at_most


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 1), (4, 1), (5, 2), (400, 100)])
def test_estimate_of_bytes_is_a_quarter_rounded_up(size: int, expected: int) -> None:
    """Four bytes are a token, and a started one counts."""
    assert estimate_tokens(size) == expected


def test_upper_bound_is_above_the_estimate_and_never_falls_as_text_arrives() -> None:
    """A budget that holds for a stream never has to give back while it grows."""
    bounds = [tokens_at_most(size) for size in range(500)]
    assert bounds == sorted(bounds)
    assert all(bound >= estimate_tokens(size) for size, bound in enumerate(bounds))


@pytest.mark.parametrize("text", ["a", "é", "字", "🙂", "ก"])
def test_upper_bound_of_one_character_covers_a_token_per_byte(text: str) -> None:
    """A stream that begins inside a character may have spent a token on each of its bytes."""
    assert tokens_at_most(len(text.encode())) >= len(text.encode())


def test_message_counts_its_bytes_and_its_frame() -> None:
    """Characters outside ASCII count by their UTF-8 length, lone surrogates too."""
    assert message_tokens("字字字字") == 3 + 4
    assert message_tokens("\ud800") == 1 + 4
