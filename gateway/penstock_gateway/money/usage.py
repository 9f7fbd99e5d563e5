"""Token counts of one request, as the provider reported them or as we estimated them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request.

    Attributes
    ----------
    input_tokens : int
        All prompt tokens, cached ones included (OpenAI's convention).
    cached_input_tokens : int
        The part of `input_tokens` that the provider read from its prompt cache.
    output_tokens : int
        All completion tokens, reasoning ones included.
    reasoning_tokens : int
        The part of `output_tokens` spent on hidden reasoning.
    is_estimated : bool
        True when the provider did not report these counts.
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    is_estimated: bool = False
