"""Inheritance between a price, its context tiers and its service tiers."""

from __future__ import annotations

from decimal import Decimal

import pytest

from penstock_gateway.money.price_forms import PriceForm, ServiceForm, build_price, dearest_price, too_fine
from penstock_gateway.money.price_text import long_prompt_text, price_fields, service_text
from penstock_gateway.money.prices import Price

D = Decimal
BASE = {"input": D(10), "output": D(100), "cached_input": D(1)}


def _d(*numbers: int | str) -> tuple[Decimal, ...]:
    return tuple(D(number) for number in numbers)


def _price(**parts: object) -> Price:
    return build_price(PriceForm(BASE, **parts))  # type: ignore[arg-type]


def test_context_tier_keeps_what_it_does_not_change() -> None:
    """A given price stays, one that follows another follows the tier's."""
    rates = _price(above=((500, {"input": D(20)}),)).rates_for(501)
    assert (rates.input, rates.cached_input, rates.cache_write, rates.output) == _d(20, 1, 20, 100)


def test_context_tiers_each_start_from_the_price() -> None:
    """A later tier does not inherit from an earlier one."""
    price = _price(above=((500, {"input": D(20), "output": D(120)}), (900, {"input": D(40)})))
    assert (price.rates_for(901).input, price.rates_for(901).output) == _d(40, 100)


def test_service_tier_multiplies_what_it_does_not_price() -> None:
    """A multiplier holds for every rate, in long prompts too; own prices stand beside it."""
    form = ServiceForm(D("0.5"), {"cached_input": D("0.8")})
    price = _price(above=((500, {"input": D(20)}),), service_tiers={"flex": form})
    short, long = price.rates_for(1, "flex"), price.rates_for(501, "flex")
    assert (short.input, short.output, short.cached_input) == _d(5, 50, "0.8")
    assert (long.input, long.output, long.cached_input) == _d(10, 50, "0.8")


def test_service_tier_price_of_its_own_is_not_cheaper_in_long_prompts_than_the_standard() -> None:
    """A discount above a prompt length that nobody wrote down is not assumed; a surcharge of the tier stays."""
    tiers = {"flex": ServiceForm(given={"input": D(5)}), "priority": ServiceForm(given={"input": D(30)})}
    price = _price(above=((500, {"input": D(20)}),), service_tiers=tiers)
    assert (price.rates_for(1, "flex").input, price.rates_for(501, "flex").input) == _d(5, 20)
    assert (price.rates_for(1, "priority").input, price.rates_for(501, "priority").input) == _d(30, 30)


def test_service_tier_with_context_tiers_of_its_own_uses_them() -> None:
    """Own tiers win at their length, and still hold where a standard one begins later."""
    tiers = {"flex": ServiceForm(given={"input": D(5)}, above=((300, {"input": D(8)}),))}
    price = _price(above=((500, {"input": D(20)}),), service_tiers=tiers)
    assert [price.rates_for(tokens, "flex").input for tokens in (300, 301, 501)] == list(_d(5, 8, 20))


@pytest.mark.parametrize(("rate", "expected"), [("0.000001", None), ("1.0000000", None), ("0.0000001", D("1e-7"))])
def test_price_finer_than_a_picodollar_per_token_is_found(rate: str, expected: Decimal | None) -> None:
    """Zeros at the end are no decimals."""
    assert too_fine([D(1), D(rate)]) == expected


def test_dearest_price_takes_each_kind_where_it_is_dearest() -> None:
    """An estimate is not below any of the prices it stands for, at any length of a standard request."""
    other = build_price(PriceForm({"input": D(3), "output": D(300)}, D("0.01"), above=((9, {"input": D(50)}),)))
    price = dearest_price([_price(), other], source="s", as_of="2026-01-01")
    assert (price.input, price.output, price.cached_input, price.per_request) == _d(50, 300, 50, "0.01")
    assert price.is_estimate
    assert not price.is_known


def test_fields_of_a_price_hold_every_rate_as_decimal_text() -> None:
    """Machines get all of it, tiers included, without binary floats."""
    fields = price_fields(_price(above=((500, {"input": D("20.5")}),), service_tiers={"flex": ServiceForm(D("0.5"))}))
    assert (fields["input"], fields["cached_input"], fields["audio_output"]) == ("10", "1", "100")
    assert (fields["above"][0]["tokens"], fields["above"][0]["input"]) == (500, "20.5")
    assert fields["service_tiers"]["flex"]["input"] == "5"
    assert fields["service_tiers"]["flex"]["above"][0]["input"] == "10.25"
    assert (fields["is_estimate"], fields["is_unknown"]) == (False, False)


def test_short_texts_of_a_price_name_its_tiers() -> None:
    """A table has room for where long prompts begin and how many times the standard a service costs."""
    price = _price(above=((200_000, {"input": D(20)}),), service_tiers={"flex": ServiceForm(D("0.5"))})
    assert long_prompt_text(price.above) == ">200k 20/100"
    assert service_text(price) == "flex ×0.5"
    free = build_price(PriceForm({"input": D(0), "output": D(0)}, service_tiers={"flex": ServiceForm()}))
    assert service_text(free) == "flex 0"
