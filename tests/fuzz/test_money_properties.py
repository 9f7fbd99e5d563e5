"""Properties of costs and of their upper bound, for any usage and any price."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from penstock_gateway.money.amounts import PICOUSD_PER_USD, to_picousd, to_usd
from penstock_gateway.money.price_forms import RATE_NAMES, PriceForm, ServiceForm, build_price
from penstock_gateway.money.prices import Price, Rates, cost_usd, upper_bound_usd
from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.usage import read_anthropic_usage, read_usage

rate = st.integers(0, 10**11).map(lambda units: Decimal(units).scaleb(-6))
dear = st.integers(10**9, 10**11).map(lambda units: Decimal(units).scaleb(-6))
written = st.fixed_dictionaries({"input": rate, "output": rate}, optional=dict.fromkeys(RATE_NAMES[1:6], rate))
change = st.fixed_dictionaries({}, optional=dict.fromkeys(RATE_NAMES, rate))
multiplier = st.sampled_from([Decimal("0.25"), Decimal("0.5"), Decimal(1), Decimal("1.75"), Decimal(6)])
SERVICES = ("", "flex", "priority", "unheard_of")


@st.composite
def steps(draw: st.DrawFn) -> tuple[tuple[int, dict[str, Decimal]], ...]:
    """Context tiers in ascending order."""
    starts = sorted(draw(st.sets(st.integers(1, 120), max_size=3)))
    return tuple((start, draw(change)) for start in starts)


@st.composite
def prices(draw: st.DrawFn, *, services: bool = True) -> Price:
    """Any price with at most six decimals."""
    tiers = {
        name: ServiceForm(draw(multiplier), draw(change), draw(steps()))
        for name in (draw(st.sets(st.sampled_from(["flex", "priority"]))) if services else ())
    }
    per_request = draw(st.integers(0, 10**9)) * Decimal("1e-12")
    return build_price(PriceForm(draw(written), per_request, draw(steps()), tiers))


def usages(limit: int = 100, services: tuple[str, ...] = SERVICES) -> st.SearchStrategy[Usage]:
    """Any usage, parts that are larger than their whole included."""
    count = st.integers(0, limit)
    return st.builds(
        Usage,
        input_tokens=count,
        output_tokens=count,
        cached_input_tokens=count,
        reasoning_tokens=count,
        cache_write_tokens=count,
        cache_write_1h_tokens=count,
        audio_input_tokens=count,
        image_input_tokens=count,
        audio_output_tokens=count,
        service_tier=st.sampled_from(services),
    )


@st.composite
def consistent_usages(draw: st.DrawFn, limit: int = 10**7) -> Usage:
    """A usage whose parts fit into their wholes."""
    cached, write, audio, image, plain, out, reasoning, sound = (draw(st.integers(0, limit)) for _ in range(8))
    return Usage(
        input_tokens=cached + write + audio + image + plain,
        output_tokens=out + reasoning + sound,
        cached_input_tokens=cached,
        reasoning_tokens=reasoning,
        cache_write_tokens=write,
        cache_write_1h_tokens=draw(st.integers(0, write)),
        audio_input_tokens=audio,
        image_input_tokens=image,
        audio_output_tokens=sound,
    )


def token_by_token(usage: Usage, price: Price) -> Fraction:
    """Return the cost as a sum over single tokens, without any decimal arithmetic."""
    rates = price.rates_for(usage.input_tokens, usage.service_tier)
    minutes = max(0, usage.cache_write_tokens - usage.cache_write_1h_tokens)
    prompt = [rates.cached_input] * usage.cached_input_tokens + [rates.cache_write] * minutes
    prompt += [rates.cache_write_1h] * usage.cache_write_1h_tokens + [rates.audio_input] * usage.audio_input_tokens
    prompt += [rates.image_input] * usage.image_input_tokens
    completion = [rates.reasoning] * usage.reasoning_tokens + [rates.audio_output] * usage.audio_output_tokens
    total = Fraction(0)
    for tokens, whole, plain in (
        (prompt, usage.input_tokens, rates.input),
        (completion, usage.output_tokens, rates.output),
    ):
        billed = sorted(tokens, reverse=True)[:whole] if len(tokens) > whole else tokens
        total += sum((Fraction(each) for each in billed), Fraction(0)) + (whole - len(billed)) * Fraction(plain)
    return total / 10**6 + Fraction(price.per_request)


@given(usages(), prices())
def test_cost_of_any_usage_equals_the_sum_over_its_tokens(usage: Usage, price: Price) -> None:
    """Nothing is rounded, nothing is billed twice, and no parts make a bill negative."""
    assert Fraction(cost_usd(usage, price)) == token_by_token(usage, price)


@given(consistent_usages(), prices())
def test_cost_of_large_counts_is_exact(usage: Usage, price: Price) -> None:
    """Ten million tokens of each kind still fit into the decimal context."""
    rates = price.rates_for(usage.input_tokens)
    exact = sum(
        (tokens * Fraction(each) for tokens, each in _disjoint(usage, rates)),
        Fraction(price.per_request) * 10**6,
    )
    assert Fraction(cost_usd(usage, price)) == exact / 10**6


def _disjoint(usage: Usage, rates: Rates) -> list[tuple[int, Decimal]]:
    parts = usage.cached_input_tokens + usage.cache_write_tokens + usage.audio_input_tokens + usage.image_input_tokens
    return [
        (usage.input_tokens - parts, rates.input),
        (usage.cached_input_tokens, rates.cached_input),
        (usage.cache_write_tokens - usage.cache_write_1h_tokens, rates.cache_write),
        (usage.cache_write_1h_tokens, rates.cache_write_1h),
        (usage.audio_input_tokens, rates.audio_input),
        (usage.image_input_tokens, rates.image_input),
        (usage.output_tokens - usage.reasoning_tokens - usage.audio_output_tokens, rates.output),
        (usage.reasoning_tokens, rates.reasoning),
        (usage.audio_output_tokens, rates.audio_output),
    ]


@given(consistent_usages(), consistent_usages(), written)
def test_cost_of_two_requests_adds_up_in_one_band(first: Usage, second: Usage, given_rates: dict[str, Decimal]) -> None:
    """Without tiers, a usage cut in two costs what the whole costs."""
    price = build_price(PriceForm(given_rates))
    names = [name for name in Usage.__struct_fields__ if name.endswith("_tokens")]
    both = Usage(**{name: getattr(first, name) + getattr(second, name) for name in names})
    assert cost_usd(both, price) == cost_usd(first, price) + cost_usd(second, price)


@given(usages(), prices(services=False), st.integers(0, 20), st.integers(0, 20))
def test_cost_of_more_tokens_is_never_lower(usage: Usage, price: Price, more_in: int, more_out: int) -> None:
    """A longer prompt or completion never costs less, however contradictory its parts, in one band."""
    flat = replace(price, above=())
    longer = structs.replace(
        usage, input_tokens=usage.input_tokens + more_in, output_tokens=usage.output_tokens + more_out
    )
    assert cost_usd(longer, flat) >= cost_usd(usage, flat)


@given(
    usages(),
    written,
    dear,
    st.sampled_from(["cache_write_tokens", "cache_write_1h_tokens", "audio_input_tokens", "image_input_tokens"]),
    st.integers(0, 20),
)
def test_cost_of_more_dear_tokens_is_never_lower(
    usage: Usage, given_rates: dict[str, Decimal], top: Decimal, kind: str, more: int
) -> None:
    """Turning plain prompt tokens into a kind that costs at least as much never lowers the bill."""
    names = ("cache_write", "cache_write_1h", "audio_input", "image_input")
    base = {name: value for name, value in given_rates.items() if name not in names}
    at_least = max(top, *base.values())
    price = build_price(PriceForm({**base, **dict.fromkeys(names, at_least)}))
    dearer = structs.replace(usage, **{kind: getattr(usage, kind) + more})
    assert cost_usd(dearer, price) >= cost_usd(usage, price)


@given(usages(), prices(), st.integers(0, 50), st.integers(0, 50))
def test_upper_bound_is_never_below_a_cost(usage: Usage, price: Price, spare_in: int, spare_out: int) -> None:
    """Whatever the provider reports within the reserved counts, the reservation reaches."""
    bound = upper_bound_usd(price, usage.input_tokens + spare_in, usage.output_tokens + spare_out)
    assert bound >= cost_usd(usage, price)


@given(usages(services=("", "flex")), prices())
def test_upper_bound_for_a_service_tier_covers_it_and_the_standard(usage: Usage, price: Price) -> None:
    """A request for a tier may be served as that tier or as standard, and is covered in both."""
    bound = upper_bound_usd(price, usage.input_tokens, usage.output_tokens, service_tier="flex")
    assert bound >= cost_usd(usage, price)


@given(usages(), prices())
def test_upper_bound_without_media_covers_usage_without_media(usage: Usage, price: Price) -> None:
    """Leaving sound and pictures out of the bound is safe where there are none."""
    plain = structs.replace(usage, audio_input_tokens=0, image_input_tokens=0, audio_output_tokens=0)
    bound = upper_bound_usd(price, plain.input_tokens, plain.output_tokens, has_audio=False, has_images=False)
    assert bound >= cost_usd(plain, price)


@given(usages(services=("",)), prices(services=False))
def test_cost_at_prices_of_six_decimals_is_whole_picodollars(usage: Usage, price: Price) -> None:
    """The counters of the ledger lose nothing."""
    cost = cost_usd(usage, price)
    assert Fraction(cost) * PICOUSD_PER_USD == to_picousd(cost)
    assert to_usd(to_picousd(cost)) == cost


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=True)
    | st.sampled_from(["", "7", "-1", "x", "priority"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
_FIELDS = (
    *("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "cached_tokens"),
    *("cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation", "service_tier", "iterations"),
    *("prompt_tokens_details", "completion_tokens_details"),
)
_DETAILS = (
    *("cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens", "reasoning_tokens", "tool_use_tokens"),
    "ephemeral_1h_input_tokens",
)
details = st.dictionaries(st.sampled_from(_DETAILS), st.integers(-5, 300) | json_values, max_size=5)
usage_objects = st.dictionaries(
    st.sampled_from(_FIELDS), st.integers(-5, 300) | details | st.lists(details, max_size=2) | json_values, max_size=9
)


@given(usage_objects | json_values, prices())
def test_usage_of_any_json_is_none_or_can_be_billed(fields: Any, price: Price) -> None:
    """Whatever a provider sends, each part fits its whole, and the cost lies between 0 and the upper bound."""
    for usage in (read_usage(fields), read_anthropic_usage(fields)):
        if usage is None:
            continue
        assert usage.input_tokens + usage.output_tokens > 0
        parts = (usage.cached_input_tokens, usage.cache_write_tokens, usage.audio_input_tokens)
        assert all(0 <= part <= usage.input_tokens for part in (*parts, usage.cache_write_1h_tokens))
        assert 0 <= usage.reasoning_tokens <= usage.output_tokens
        assert 0 <= cost_usd(usage, price) <= upper_bound_usd(price, usage.input_tokens, usage.output_tokens)
