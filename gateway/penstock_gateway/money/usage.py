"""Token counts of one request, as the provider reported them or as we estimated them."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts of one request.

    Attributes
    ----------
    input_tokens : int
        All prompt tokens, cached, written and audio ones included (OpenAI's convention).
    cached_input_tokens : int
        The part of `input_tokens` that the provider read from its prompt cache.
    output_tokens : int
        All completion tokens, reasoning and audio ones included.
    reasoning_tokens : int
        The part of `output_tokens` spent on hidden reasoning.
    is_estimated : bool
        True when the provider did not report these counts.
    cache_write_tokens : int
        The part of `input_tokens` that the provider wrote to its prompt cache at a price of its own.
    cache_write_1h_tokens : int
        The part of `cache_write_tokens` written for an hour instead of five minutes (Anthropic).
    audio_input_tokens, image_input_tokens : int
        The parts of `input_tokens` that stand for sound and for pictures.
    audio_output_tokens : int
        The part of `output_tokens` that stands for sound.
    service_tier : str
        What the provider says it served the request as (``priority``, ``flex``, ``batch``); empty for its standard.
    web_searches : int
        Searches of the web that the provider did for the answer, billed beside the tokens.
    other_tool_calls : int
        Calls of other tools that it ran and bills beside the tokens, by time or by call (code, files, pictures).
    """

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    is_estimated: bool = False
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    audio_input_tokens: int = 0
    image_input_tokens: int = 0
    audio_output_tokens: int = 0
    service_tier: str = ""
    web_searches: int = 0
    other_tool_calls: int = 0
