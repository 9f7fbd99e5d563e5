"""How many tokens a text is taken for before any provider has counted them.

Owns the constants that serving, prediction and training must share, or their cost estimates would differ. No tokenizer:
models disagree by more than this rule is wrong.
"""

from __future__ import annotations

import math
from typing import Final

BYTES_PER_TOKEN: Final = 4.0
"""OpenAI's published rule of thumb for English; counted in UTF-8 bytes, so that scripts with fewer characters per token
are not undercounted."""

TOKENS_PER_MESSAGE: Final = 4
"""Role and separators around each message."""

ASSUMED_OUTPUT_TOKENS: Final = 256.0
"""Completion length where nothing gives one: the mean of the chat part of the Azure LLM inference trace 2023 (211),
rounded up."""


def estimate_tokens(utf8_bytes: int) -> int:
    """Estimate the tokens of a text.

    Parameters
    ----------
    utf8_bytes : int
        Its length in UTF-8; >= 0.

    Returns
    -------
    int
        Rounded up.

    Examples
    --------
    >>> estimate_tokens(9)
    3
    """
    return math.ceil(utf8_bytes / BYTES_PER_TOKEN)


def message_tokens(text: str) -> int:
    """Estimate the input tokens of a request with `text` as its only message.

    Examples
    --------
    >>> message_tokens("Hi there!")
    7
    """
    return estimate_tokens(len(text.encode("utf-8", "surrogatepass"))) + TOKENS_PER_MESSAGE
