"""The cost of one request and its upper bound, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from penstock_gateway.money.prices import ContextTier, Price, ServiceTier, cost_usd, resolved_rates, upper_bound_usd
from penstock_gateway.money.usage import Usage

D = Decimal
FULL = Price(
    D(10),
    D(1),
    D(100),
    D(200),
    cache_write=D("12.5"),
    cache_write_1h=D(20),
    audio_input=D(40),
    image_input=D(11),
    audio_output=D(300),
)
LONG = replace(FULL, above=(ContextTier(1000, resolved_rates(input=D(20), output=D(150), cached_input=D(2))),))
FAST = ServiceTier("priority", resolved_rates(input=D(30), output=D(300)), (ContextTier(1000, LONG.standard),))


@pytest.mark.parametrize(
    ("usage", "per_million"),
    [
        (Usage(5, 3), 5 * 10 + 3 * 100),
        (Usage(5, 0, cached_input_tokens=2), 3 * 10 + 2),
        (Usage(5, 0, cache_write_tokens=2), 3 * 10 + 2 * D("12.5")),
        (Usage(5, 0, cache_write_tokens=2, cache_write_1h_tokens=1), 3 * 10 + D("12.5") + 20),
        (Usage(5, 0, cache_write_1h_tokens=1), 4 * 10 + 20),
        (Usage(5, 0, audio_input_tokens=2, image_input_tokens=1), 2 * 10 + 2 * 40 + 11),
        (Usage(0, 5, reasoning_tokens=2), 3 * 100 + 2 * 200),
        (Usage(0, 5, audio_output_tokens=2), 3 * 100 + 2 * 300),
        (Usage(0, 0), 0),
    ],
)
def test_cost_of_each_part_has_its_own_price(usage: Usage, per_million: Decimal | int) -> None:
    """A part is billed at its price, and once."""
    assert cost_usd(usage, FULL) == D(per_million) / 10**6


@pytest.mark.parametrize(
    ("usage", "per_million"),
    [
        (Usage(5, 0, cached_input_tokens=4, audio_input_tokens=4), 4 * 40 + 1),
        (Usage(5, 0, cached_input_tokens=9), 5 * 1),
        (Usage(5, 0, cache_write_tokens=4, cache_write_1h_tokens=9), 5 * 20),
        (Usage(0, 3, reasoning_tokens=2, audio_output_tokens=2), 2 * 300 + 200),
        (Usage(-5, -3, cached_input_tokens=-2, reasoning_tokens=-1), 0),
        (Usage(5, 0, cached_input_tokens=-2), 5 * 10),
    ],
)
def test_cost_of_contradictory_parts_fills_the_whole_with_the_dearest(usage: Usage, per_million: int) -> None:
    """Parts beyond the whole are not billed twice, never make a bill negative, and the dear ones count first."""
    assert cost_usd(usage, FULL) == D(per_million) / 10**6


def test_price_of_four_numbers_bills_the_rest_like_them() -> None:
    """Makers that do not price a part bill it like the prompt or the completion around it."""
    rates = Price(D(10), D(1), D(100), D(200)).standard
    assert {rates.cache_write, rates.cache_write_1h, rates.audio_input, rates.image_input} == {D(10)}
    assert rates.audio_output == 100
    assert Price(D(1), D(1), D(2), D(2), cache_write=D(3)).standard.cache_write_1h == 3


def test_cost_of_a_free_model_is_a_known_zero() -> None:
    """A price of 0 is a price: the model is free, not unknown."""
    free = Price(D(0), D(0), D(0), D(0))
    assert free.is_known
    assert cost_usd(Usage(10, 10), free) == 0


@pytest.mark.parametrize(("prompt", "per_million"), [(1000, 1000 * 10 + 100), (1001, 1001 * 20 + 150)])
def test_cost_of_a_long_prompt_is_at_its_tier_as_a_whole(prompt: int, per_million: int) -> None:
    """Beyond the bound every token costs more, those of the completion too; at the bound none does."""
    assert cost_usd(Usage(prompt, 1), LONG) == D(per_million) / 10**6


def test_cost_of_a_long_prompt_counts_cached_tokens_towards_its_length() -> None:
    """Providers choose the tier by the whole prompt."""
    assert cost_usd(Usage(1001, 0, cached_input_tokens=1000), LONG) == D(20 + 1000 * 2) / 10**6


@pytest.mark.parametrize(
    ("tier", "prompt", "per_million"),
    [("priority", 10, 300), ("priority", 1001, 10 * 1001), ("flex", 10, 100), ("", 10, 100)],
)
def test_cost_of_a_service_tier_has_its_prices(tier: str, prompt: int, per_million: int) -> None:
    """What the provider served decides; a tier without prices is billed as standard."""
    price = replace(FULL, service_tiers=(FAST,))
    assert cost_usd(Usage(prompt, 0, service_tier=tier), price) == D(per_million) / 10**6


def test_cost_with_a_price_per_request_adds_it_once() -> None:
    """The fee comes on top of the tokens."""
    assert cost_usd(Usage(1, 1), replace(FULL, per_request=D("0.005"))) == D("0.00511")


def test_upper_bound_takes_the_dearest_part_of_the_dearest_band_in_reach() -> None:
    """An hour's cache write, or sound where there may be some; the long tier only for prompts that reach it."""
    assert upper_bound_usd(FULL, 1000, 10) == D(1000 * 40 + 10 * 300) / 10**6
    assert upper_bound_usd(FULL, 1000, 10, has_audio=False) == D(1000 * 20 + 10 * 200) / 10**6
    flat = replace(LONG, cache_write=None, cache_write_1h=None, audio_input=None, image_input=None, audio_output=None)
    assert upper_bound_usd(flat, 1000, 10) == D(1000 * 10 + 10 * 200) / 10**6
    assert upper_bound_usd(flat, 1001, 10) == D(1001 * 20 + 10 * 150) / 10**6


def test_upper_bound_covers_the_searches_that_may_be_done() -> None:
    """Searches are held for beside the tokens; not where nobody knows what they cost."""
    plain = Price(D(1), D(1), D(2), D(2))
    priced = replace(plain, web_search=D("0.01"))
    assert upper_bound_usd(priced, 10, 0, web_searches=3) - upper_bound_usd(priced, 10, 0) == D("0.03")
    assert upper_bound_usd(plain, 10, 0, web_searches=3) == upper_bound_usd(plain, 10, 0)


def test_upper_bound_for_a_named_service_tier_leaves_the_others_out() -> None:
    """Who asks for standard does not have to hold what priority would cost."""
    price = replace(FULL, service_tiers=(FAST,))
    standard = upper_bound_usd(price, 10, 0, service_tier="", has_audio=False)
    assert standard == D(10 * 20) / 10**6
    assert upper_bound_usd(price, 10, 0, service_tier="priority", has_audio=False) == D(10 * 30) / 10**6
    assert upper_bound_usd(price, 10, 0, has_audio=False) == D(10 * 30) / 10**6


def test_cost_with_a_price_of_searches_adds_each_of_them_and_other_tools_nothing() -> None:
    """A search without a price, and a tool that is billed by time, are left out of the number."""
    usage = Usage(1, 1, web_searches=3, other_tool_calls=2)
    assert cost_usd(usage, FULL) == cost_usd(Usage(1, 1), FULL)
    assert cost_usd(usage, replace(FULL, web_search=D("0.01"))) == cost_usd(Usage(1, 1), FULL) + D("0.03")
    odd = Usage(1, 1, reasoning_tokens=1, web_searches=-1)
    assert cost_usd(odd, replace(FULL, web_search=D(1))) == cost_usd(Usage(1, 1, reasoning_tokens=1), FULL)


def test_upper_bound_of_nothing_is_the_price_per_request() -> None:
    """Negative counts hold nothing, and the fee is held."""
    assert upper_bound_usd(replace(FULL, per_request=D("0.01")), -1, -1) == D("0.01")
