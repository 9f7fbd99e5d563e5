"""Prices of one deployment, and the cost of one request: exact decimal USD.

A *price* is USD per million tokens, *usage* is token counts, a *cost* is USD of one request. Read `cost_usd`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from penstock_gateway.money.usage import Usage

_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Price:
    """Prices of one deployment, USD per million tokens, with where they come from.

    Attributes
    ----------
    input, cached_input, output, reasoning : Decimal
        USD per million tokens. `cached_input` prices the part of the prompt read from the provider's
        cache, `reasoning` the hidden part of the completion; makers that bill them like the rest repeat
        `input` and `output` here.
    source : str
        Where the numbers come from (``"configuration"`` or the snapshot's name).
    as_of : str
        ISO date of the source.
    """

    input: Decimal
    cached_input: Decimal
    output: Decimal
    reasoning: Decimal
    source: str = "configuration"
    as_of: str = ""


def cost_usd(usage: Usage, price: Price) -> Decimal:
    """Return the exact cost of one request.

    Parameters
    ----------
    usage : Usage
    price : Price

    Returns
    -------
    Decimal
        USD, not rounded.

    Examples
    --------
    >>> p = Price(Decimal("3"), Decimal("0.3"), Decimal("15"), Decimal("15"))
    >>> cost_usd(Usage(input_tokens=1000, cached_input_tokens=400, output_tokens=100), p)
    Decimal('0.00342')
    """
    fresh_input = usage.input_tokens - usage.cached_input_tokens
    visible_output = usage.output_tokens - usage.reasoning_tokens
    total = (
        fresh_input * price.input
        + usage.cached_input_tokens * price.cached_input
        + visible_output * price.output
        + usage.reasoning_tokens * price.reasoning
    )
    return total / _MILLION


def format_usd(cost: Decimal) -> str:
    """Return a cost as plain decimal text without an exponent, for headers and JSON."""
    return format(cost.normalize(), "f")
