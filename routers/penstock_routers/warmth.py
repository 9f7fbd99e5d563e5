"""What a warm conversation is worth: providers read a prompt they have just seen from a cache, at a lower price.

Pure arithmetic of prices and prefix lengths. Owns the two numbers that the choice needs: the expected cost of a prompt
whose beginning is cached, and what leaving the arm that holds the cache costs later. Who answered last is the
gateway's to know. Read `input_cost_usd`, then `switch_cost_usd`.
"""

from __future__ import annotations

from typing import Final

MIN_CACHED_TOKENS: Final = 1024
"""Shortest prefix that is read from a cache.

References
----------
OpenAI, "Prompt caching": available for prompts of 1,024 tokens or more; Anthropic's limit is 1,024 for most models.
"""


def cached_tokens(previous_input_tokens: int, input_tokens: int) -> int:
    """Return how many tokens of a prompt the arm that answered last is expected to have cached.

    Parameters
    ----------
    previous_input_tokens : int
        Prompt tokens of the conversation's last request; >= 0.
    input_tokens : int
        Prompt tokens of this one; >= 0.

    Returns
    -------
    int
        The shorter of the two: a follow-up repeats the earlier prompt and adds to it. 0 below `MIN_CACHED_TOKENS`.

    Examples
    --------
    >>> cached_tokens(5000, 5600), cached_tokens(500, 600)
    (5000, 0)
    """
    shared = min(previous_input_tokens, input_tokens)
    return shared if shared >= MIN_CACHED_TOKENS else 0


def input_cost_usd(input_tokens: int, cached: int, price: float, cached_price: float) -> float:
    """Return the expected cost of a prompt, USD.

    Parameters
    ----------
    input_tokens, cached : int
        Prompt tokens, and those of them that are read from the cache.
    price, cached_price : float
        USD per million tokens.

    Examples
    --------
    >>> input_cost_usd(10_000, 8_000, 3.0, 0.3)
    0.0084
    """
    return ((input_tokens - cached) * price + cached * cached_price) / 1e6


def switch_cost_usd(cached: int, price: float, cached_price: float, share: float, forgone: float = 0.0) -> float:
    """Return what leaving the warm arm costs a conversation, USD.

    Parameters
    ----------
    cached : int
        Tokens that the warm arm has cached.
    price, cached_price : float
        Its prices for prompt tokens, USD per million.
    share : float, in [0, 1]
        Share of the lost discount that is charged.
    forgone : float
        What staying there has cost the conversation so far, USD; see `forgone_usd`.

    Returns
    -------
    float
        ``share · cached · (price - cached_price) - forgone``, at least 0: what reading the prefix anew will cost when
        the conversation comes back, less what it has paid for not leaving. That this request's own prompt is dearer
        elsewhere is no part of it; `input_cost_usd` has that.

    Notes
    -----
    Whether the conversation will come back is not known. To charge the whole discount every time would keep it at a
    dear arm for good once it has been there; not to charge it would move it to and fro. So it stays until staying has
    cost as much as the switch. With a share of 1 that is the rule of the ski rental problem, which never pays more
    than twice what the best choice in hindsight would; a smaller share leaves earlier.

    References
    ----------
    Karlin, Manasse, Rudolph and Sleator, "Competitive snoopy caching", Algorithmica 3 (1988), section 2.

    Examples
    --------
    >>> switch_cost_usd(8_000, 3.0, 0.3, 0.5), switch_cost_usd(8_000, 3.0, 0.3, 0.5, forgone=0.02)
    (0.0108, 0.0)
    """
    return max(0.0, share * cached * (price - cached_price) / 1e6 - forgone)
