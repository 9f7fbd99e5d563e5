"""The price of a deployment as it is written in the configuration.

Owns the shape and what its numbers must fulfil together: tiers in order, every product exact. Read `PriceSettings`,
then `price_problems`.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Literal

from pydantic import Field

from penstock_gateway.money.price_forms import (
    PriceForm,
    ServiceForm,
    build_price,
    given_rates,
    given_steps,
    rates_of,
    too_fine,
)
from penstock_gateway.money.prices import Rates
from penstock_gateway.settings_types import Multiplier, Section, UsdPerMillion, UsdPerRequest

SettingPath = tuple[str | int, ...]
ServiceTierName = Literal["batch", "flex", "balanced", "priority", "ultrafast"]
"""As providers report them; OpenAI's ``fast`` is read as ``priority``."""


class RateSettings(Section):
    """Prices that may all be left out, USD per million tokens."""

    input: UsdPerMillion | None = Field(None, description="USD per million prompt tokens.")
    output: UsdPerMillion | None = Field(None, description="USD per million completion tokens.")
    cached_input: UsdPerMillion | None = Field(None, description="Read from the provider's cache.")
    cache_write: UsdPerMillion | None = Field(None, description="Written to the provider's cache.")
    cache_write_1h: UsdPerMillion | None = Field(None, description="Written to it for an hour.")
    reasoning: UsdPerMillion | None = Field(None, description="Hidden reasoning.")
    audio_input: UsdPerMillion | None = Field(None, description="Sound in the prompt.")
    audio_output: UsdPerMillion | None = Field(None, description="Sound in the completion.")
    image_input: UsdPerMillion | None = Field(None, description="Pictures in the prompt.")


class ContextTierSettings(RateSettings):
    """What changes for long prompts, for the whole request; what is left out stays as in the price."""

    tokens: int = Field(ge=1, le=100_000_000, description="For prompts of more tokens than this, cached ones included.")


class ServiceTierSettings(RateSettings):
    """Prices of requests that the provider reports under another service tier than its standard."""

    multiplier: Multiplier | None = Field(
        None, description="Times the standard price, for every price left out here; 0.5 is half; default: 1."
    )
    above: tuple[ContextTierSettings, ...] = Field(
        (), strict=False, max_length=8, description="Long prompts of this tier, where not `multiplier` times standard."
    )


class PriceSettings(Section):
    """Price of one deployment, USD per million tokens."""

    input: UsdPerMillion = Field(description="USD per million prompt tokens.")
    cached_input: UsdPerMillion | None = Field(
        None, description="USD per million prompt tokens read from the provider's cache; default: `input`."
    )
    cache_write: UsdPerMillion | None = Field(
        None, description="USD per million prompt tokens written to the provider's cache; default: `input`."
    )
    cache_write_1h: UsdPerMillion | None = Field(
        None, description="USD per million prompt tokens written to it for an hour; default: `cache_write`."
    )
    output: UsdPerMillion = Field(description="USD per million completion tokens.")
    reasoning: UsdPerMillion | None = Field(
        None, description="USD per million hidden reasoning tokens; default: `output`."
    )
    audio_input: UsdPerMillion | None = Field(
        None, description="USD per million prompt tokens of sound; default: `input`."
    )
    audio_output: UsdPerMillion | None = Field(
        None, description="USD per million completion tokens of sound; default: `output`."
    )
    image_input: UsdPerMillion | None = Field(
        None, description="USD per million prompt tokens of pictures; default: `input`."
    )
    per_request: UsdPerRequest | None = Field(None, description="USD for each request beside its tokens; default: 0.")
    web_search: UsdPerRequest | None = Field(
        None, description="USD for each web search that the provider does itself; default: not known."
    )
    above: tuple[ContextTierSettings, ...] = Field(
        (), strict=False, max_length=8, description="Prices of long prompts, in ascending order."
    )
    service_tiers: dict[ServiceTierName, ServiceTierSettings] = Field(
        default_factory=dict,
        description="Prices of requests served as `batch`, `flex`, `balanced`, `priority` or `ultrafast`: a "
        "`multiplier` of the standard prices, prices of its own, or both, and `above`. One that is not here is billed "
        "as standard.",
    )


def price_form(price: PriceSettings) -> PriceForm:
    """Return a configured price in the form of which `price_forms.build_price` makes a `Price`."""
    services: dict[str, ServiceForm] = {
        name: ServiceForm(tier.multiplier or Decimal(1), given_rates(tier), given_steps(tier.above))
        for name, tier in price.service_tiers.items()
    }
    per_request = price.per_request or Decimal(0)
    return PriceForm(given_rates(price), per_request, given_steps(price.above), services, price.web_search)


def price_problems(price: PriceSettings) -> Iterator[tuple[SettingPath, str, str]]:
    """Yield what does not fit together in a price.

    Parameters
    ----------
    price : PriceSettings
        Valid in shape.

    Yields
    ------
    path : tuple of str and int
        The setting, from the price down.
    message, hint : str
    """
    count = 0
    for problem in _order_problems(price.above, ("above",)):
        count += 1
        yield problem
    for name, tier in price.service_tiers.items():
        path: SettingPath = ("service_tiers", name)
        if tier.multiplier is None and not given_rates(tier) and not tier.above:
            count += 1
            yield path, "says no price", "add a multiplier, or prices of its own; or remove it"
        for problem in _order_problems(tier.above, (*path, "above")):
            count += 1
            yield problem
    if not count:
        yield from _product_problems(price)


def price_notes(price: PriceSettings) -> Iterator[str]:
    """Yield what may be right and looks like a mistake."""
    for rates in rates_of(build_price(price_form(price))):
        if note := _note(rates):
            yield note
            return


def _note(rates: Rates) -> str:
    if rates.cached_input > rates.input:
        return f"its cached_input of {rates.cached_input} is dearer than its input of {rates.input}"
    if rates.cache_write < rates.input:
        return f"its cache_write of {rates.cache_write} is cheaper than its input of {rates.input}"
    return ""


def _order_problems(
    above: tuple[ContextTierSettings, ...], path: SettingPath
) -> Iterator[tuple[SettingPath, str, str]]:
    for index, step in enumerate(above):
        if not given_rates(step):
            yield (*path, index), "changes no price", "add the prices that long prompts have, or remove it"
        if index and step.tokens <= above[index - 1].tokens:
            message = f"{step.tokens} does not come after {above[index - 1].tokens}"
            yield (*path, index, "tokens"), message, "write the tiers in ascending order"


def _product_problems(price: PriceSettings) -> Iterator[tuple[SettingPath, str, str]]:
    """A product with more decimals than a picodollar per token allows would have to be rounded."""
    for tier in build_price(price_form(price)).service_tiers:
        bands = (tier.rates, *(step.rates for step in tier.above))
        fine = too_fine(getattr(rates, name) for rates in bands for name in rates.__dataclass_fields__)
        if fine is not None:
            message = f"gives a price of {fine}, which has more than six decimals"
            yield ("service_tiers", tier.name, "multiplier"), message, "write the prices of this tier out"
