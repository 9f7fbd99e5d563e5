"""Prices as plain values and as short text, for ``penstock prices``, ``check-config`` and the API.

Owns how a price is shown; decides nothing. Read `price_fields`.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from penstock_gateway.money.price_forms import RATE_NAMES
from penstock_gateway.money.prices import ContextTier, Price, Rates, ServiceTier, format_usd

_CENT = Decimal("0.01")


def price_fields(price: Price) -> dict[str, Any]:
    """Return everything in a price as plain values.

    Parameters
    ----------
    price : Price

    Returns
    -------
    dict
        Every rate as decimal text, USD per million tokens, by the names of `prices.Rates`; ``per_request`` (USD),
        ``above`` (list of tiers with ``tokens``), ``service_tiers`` (by name), ``source``, ``as_of``, ``is_estimate``
        and ``is_unknown``.

    Notes
    -----
    Where the price is not known, the rates serve the choice of a deployment only; ``is_unknown`` says so.
    """
    return {
        **_rate_fields(price.standard),
        "per_request": format_usd(price.per_request),
        "above": [_step_fields(step) for step in price.above],
        "service_tiers": {
            tier.name: {**_rate_fields(tier.rates), "above": [_step_fields(step) for step in tier.above]}
            for tier in price.service_tiers
        },
        "source": price.source,
        "as_of": price.as_of,
        "is_estimate": price.is_estimate,
        "is_unknown": price.is_unknown,
    }


def long_prompt_text(above: Sequence[ContextTier]) -> str:
    """Return the prices of long prompts in short: from how many tokens, and the prices of prompt and completion.

    Examples
    --------
    >>> from decimal import Decimal
    >>> from penstock_gateway.money.prices import resolved_rates
    >>> long_prompt_text([ContextTier(272_000, resolved_rates(input=Decimal(20), output=Decimal(75)))])
    '>272k 20/75'
    """
    return ", ".join(
        f">{_tokens(step.above_tokens)} {format_usd(step.rates.input)}/{format_usd(step.rates.output)}"
        for step in above
    )


def service_text(price: Price) -> str:
    """Return what other service tiers cost in short: how many times the standard price of the prompt, or its price."""
    return ", ".join(_service(price, tier) for tier in price.service_tiers)


def _service(price: Price, tier: ServiceTier) -> str:
    standard = price.standard.input
    if not standard:
        return f"{tier.name} {format_usd(tier.rates.input)}"
    times = tier.rates.input / standard
    return f"{tier.name} ×{times.quantize(_CENT).normalize():f}"


def _tokens(count: int) -> str:
    return f"{round(count / 1000)}k" if count >= 1000 else str(count)


def _rate_fields(rates: Rates) -> dict[str, str]:
    return {name: format_usd(getattr(rates, name)) for name in RATE_NAMES}


def _step_fields(step: ContextTier) -> dict[str, Any]:
    return {"tokens": step.above_tokens, **_rate_fields(step.rates)}
