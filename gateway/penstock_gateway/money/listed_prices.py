"""The price fields of one entry of litellm's model map, as a price in its shortest form. Development time only.

Owns the names of those fields and what is made of the gaps between them. Read `read_prices` first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, Decimal

from penstock_gateway.money.price_forms import PriceForm, ServiceForm, build_price, too_fine
from penstock_gateway.money.prices import MAX_DECIMALS

_NAMES = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "reasoning": "output_cost_per_reasoning_token",
    "audio_input": "input_cost_per_audio_token",
    "audio_output": "output_cost_per_audio_token",
    "image_input": "input_cost_per_image_token",
}
# Our name of a service tier, as in `Usage.service_tier`, and litellm's suffix.
_SERVICES = {
    "batch": "_batches",
    "flex": "_flex",
    "priority": "_priority",
    "balanced": "_balanced",
    "ultrafast": "_ultrafast",
}
_STEP = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")
_MAX_MULTIPLIER_DECIMALS = 4
_INCLUSIVE = frozenset({"xai"})
"""Providers that bill a prompt of exactly the stated length as a long one (docs.x.ai, "Long context pricing")."""

_BILLED_BY_SEARCH = frozenset({"openai", "azure", "anthropic", "bedrock"})
"""Providers that bill each search of the web and say how many there were; others bill a prompt, or each source."""

_Rates = dict[str, Decimal]
_Steps = tuple[tuple[int, _Rates], ...]


def read_search_price(entry: Mapping[str, object], provider: str) -> Decimal | None:
    """Return what each search of the web costs, USD; None when that is not known or depends on what is asked for.

    Parameters
    ----------
    entry : mapping of str to object
        Of the map, numbers as Decimal.
    provider : str
        Our name.
    """
    sizes = entry.get("search_context_cost_per_query")
    if provider not in _BILLED_BY_SEARCH or not isinstance(sizes, dict):
        return None
    prices = {Decimal(str(price)) for price in sizes.values()}
    return prices.pop().normalize() if len(prices) == 1 and min(prices) > 0 else None


def read_prices(entry: Mapping[str, object], provider: str) -> PriceForm | None:
    """Return the prices of an entry of the map.

    Parameters
    ----------
    entry : mapping of str to object
        Numbers as Decimal.
    provider : str
        Our name of it.

    Returns
    -------
    PriceForm or None
        The shortest form that gives the same price. None without prices of prompt and completion: the map writes 0
        for "not known" too, which would make a model look free.

    Raises
    ------
    ValueError
        A price has more decimals than a picodollar per token allows.

    Notes
    -----
    A price of 0 counts as not given everywhere. A cache write below the price of the prompt is taken for a mistake: all
    providers that price it charge the prompt or more. A discount that the map does not state for a cheaper service
    tier (on cached tokens, on sound, in long prompts) is not assumed. Discounts by time of day are left out, so bills
    of DeepSeek's models at night come out too high.
    """
    base = _without_repeats(_rates(entry, ""))
    if "input" not in base or "output" not in base:
        return None
    base = _without_cheap_writes(base, base["input"])
    lengths = sorted(int(found[1]) for name in entry if (found := _STEP.fullmatch(name)) and entry[name])
    services = {name: _service(entry, base, suffix, lengths, provider) for name, suffix in _SERVICES.items()}
    form = PriceForm(
        base,
        per_request=per_million(entry, "input_cost_per_request") / 1_000_000,
        above=_steps(entry, base, "", lengths, provider),
        service_tiers={name: service for name, service in services.items() if service is not None},
    )
    fine = too_fine([*base.values(), *(rate for _, step in form.above for rate in step.values())])
    if fine is not None:
        raise ValueError(f"a price of {fine} USD per million tokens is finer than a picodollar per token")
    return _shortest(form)


def per_million(entry: Mapping[str, object], name: str) -> Decimal:
    """Return a price per token as one per million tokens, every digit kept; 0 when there is none."""
    price = entry.get(name)
    if not isinstance(price, Decimal | int) or isinstance(price, bool):
        return Decimal(0)
    scaled = (Decimal(price) * 1_000_000).normalize()
    return scaled.quantize(Decimal(1)) if scaled == scaled.to_integral() else scaled


def _rates(entry: Mapping[str, object], suffix: str) -> _Rates:
    found = {name: per_million(entry, field + suffix) for name, field in _NAMES.items()}
    return {name: rate for name, rate in found.items() if rate > 0}


def _without_cheap_writes(rates: _Rates, price_in: Decimal) -> _Rates:
    return {name: rate for name, rate in rates.items() if not name.startswith("cache_write") or rate >= price_in}


def _steps(entry: Mapping[str, object], base: _Rates, suffix: str, lengths: list[int], provider: str) -> _Steps:
    found = []
    for length in lengths:
        rates = _rates(entry, f"_above_{length}k_tokens{suffix}")
        kept = _without_cheap_writes(rates, rates.get("input", base["input"]))
        if kept:
            found.append((length * 1000 - (1 if provider in _INCLUSIVE else 0), kept))
    return tuple(found)


def _without_repeats(rates: _Rates) -> _Rates:
    """Leave out what repeats the price of the plain prompt or completion, so that it follows that in every tier."""
    price_in, price_out = rates.get("input"), rates.get("output")
    return {
        name: rate
        for name, rate in rates.items()
        if name in ("input", "output") or rate != (price_out if name in ("reasoning", "audio_output") else price_in)
    }


def _service(
    entry: Mapping[str, object], base: _Rates, suffix: str, lengths: list[int], provider: str
) -> ServiceForm | None:
    own = _rates(entry, suffix)
    if "input" not in own:
        return None
    own = _without_cheap_writes(own, own["input"])
    steps = _steps(entry, own, suffix, lengths, provider)
    ratio = own["input"] / base["input"]
    is_plain = "output" in own and -_exponent(ratio) <= _MAX_MULTIPLIER_DECIMALS
    if ratio < 1:
        standard = dict(_steps(entry, base, "", lengths, provider))
        own = _undiscounted(base, own)
        steps = tuple((tokens, _undiscounted(rates, dict(steps).get(tokens, {}))) for tokens, rates in standard.items())
    elif is_plain and too_fine(rate * ratio for rate in base.values()) is not None:
        own = {**{name: _rounded_up(rate * ratio) for name, rate in base.items()}, **own}
    return ServiceForm(ratio.normalize() if is_plain else Decimal(1), own, steps)


def _rounded_up(rate: Decimal) -> Decimal:
    return rate.quantize(Decimal(1).scaleb(-MAX_DECIMALS), ROUND_CEILING).normalize()


def _undiscounted(standard: _Rates, own: _Rates) -> _Rates:
    """Fill the gaps of a cheaper service tier with the standard rates; cached input is never dearer than input."""
    filled = {**standard, **own}
    if "cached_input" in filled and "input" in filled:
        filled["cached_input"] = min(filled["cached_input"], filled["input"])
    return filled


def _exponent(number: Decimal) -> int:
    exponent = number.normalize().as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def _shortest(form: PriceForm) -> PriceForm:
    """Leave out every rate without which the price is the same."""
    price = build_price(form)
    is_shorter = True
    while is_shorter:
        is_shorter = False
        for shorter in _shorter(form):
            if build_price(shorter) == price:
                form, is_shorter = shorter, True
                break
    return form


def _shorter(form: PriceForm) -> Iterator[PriceForm]:
    """Yield every form with one rate, one empty step or one idle multiplier less."""
    for given in _one_less(form.given):
        if "input" in given and "output" in given:
            yield PriceForm(given, form.per_request, form.above, form.service_tiers)
    for above in _step_less(form.above):
        yield PriceForm(form.given, form.per_request, above, form.service_tiers)
    for name, service in form.service_tiers.items():
        shorter = [ServiceForm(service.multiplier, given, service.above) for given in _one_less(service.given)]
        shorter += [ServiceForm(service.multiplier, service.given, above) for above in _step_less(service.above)]
        if service.multiplier != 1:
            shorter.append(ServiceForm(Decimal(1), service.given, service.above))
        for tier in shorter:
            yield PriceForm(form.given, form.per_request, form.above, {**form.service_tiers, name: tier})


def _one_less(rates: Mapping[str, Decimal]) -> Iterator[_Rates]:
    for left_out in rates:
        yield {name: rate for name, rate in rates.items() if name != left_out}


def _step_less(above: tuple[tuple[int, Mapping[str, Decimal]], ...]) -> Iterator[_Steps]:
    steps = tuple((tokens, dict(rates)) for tokens, rates in above)
    for index, (tokens, rates) in enumerate(steps):
        if not rates:
            yield steps[:index] + steps[index + 1 :]
        for fewer in _one_less(rates):
            yield (*steps[:index], (tokens, fewer), *steps[index + 1 :])
