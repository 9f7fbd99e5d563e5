"""From prices as they are written, with most of them left out, to a `Price` with every rate filled in.

Owns the rules of inheritance between a price, its context tiers and its service tiers; the configuration and the
snapshot both go through here. Read `PriceForm`, then `build_price`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Protocol

from penstock_gateway.money.prices import MAX_DECIMALS, ContextTier, Price, Rates, ServiceTier, resolved_rates

RATE_NAMES = tuple(rate.name for rate in fields(Rates))
"""``input``, ``cached_input``, … in the order of `Rates`."""

_ONE = Decimal(1)
_ZERO = Decimal(0)
_Given = Mapping[str, Decimal]


class PricedStep(Protocol):
    """A context tier as it is written: rates under their names (`RATE_NAMES`), None where it says nothing."""

    @property
    def tokens(self) -> int:
        """The tier applies to prompts of more tokens than this."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceForm:
    """Prices of a service tier as they are written.

    Attributes
    ----------
    multiplier : Decimal
        Times the standard rate, for every rate that `given` leaves out.
    given : mapping of str to Decimal
        Rates by name.
    above : tuple of (int, mapping of str to Decimal)
        Context tiers of its own.
    """

    multiplier: Decimal = _ONE
    given: _Given = field(default_factory=dict)
    above: tuple[tuple[int, _Given], ...] = ()


@dataclass(frozen=True, slots=True)
class PriceForm:
    """A price as it is written.

    Attributes
    ----------
    given : mapping of str to Decimal
        Rates by name; ``input`` and ``output`` must be there.
    per_request : Decimal
        USD.
    above : tuple of (int, mapping of str to Decimal)
        Context tiers in ascending order: tokens, and the rates that change.
    service_tiers : mapping of str to ServiceForm
    web_search : Decimal or None
        USD, None when it is not known.
    """

    given: _Given
    per_request: Decimal = _ZERO
    above: tuple[tuple[int, _Given], ...] = ()
    service_tiers: Mapping[str, ServiceForm] = field(default_factory=dict)
    web_search: Decimal | None = None


def given_rates(written: object) -> dict[str, Decimal]:
    """Return the rates that an object has under their names, without those that are None or missing."""
    found = ((name, getattr(written, name, None)) for name in RATE_NAMES)
    return {name: rate for name, rate in found if rate is not None}


def given_steps(written: Iterable[PricedStep]) -> tuple[tuple[int, dict[str, Decimal]], ...]:
    """Return context tiers as `PriceForm.above` holds them."""
    return tuple((step.tokens, given_rates(step)) for step in written)


def build_price(form: PriceForm, *, source: str = "configuration", as_of: str = "") -> Price:
    """Return a price with every rate filled in.

    Parameters
    ----------
    form : PriceForm
    source, as_of : str
        See `Price`.

    Returns
    -------
    Price

    Notes
    -----
    - What a price leaves out costs the same as something else: cached input, cache writes, sound and pictures the same
      as input, an hour's cache write the same as a cache write, reasoning and sound the same as output.
    - What a context tier leaves out stays as in the price; what the price leaves out too follows the tier's own rates.
    - What a service tier leaves out is the standard rate times its multiplier. In a long prompt, a rate of its own
      holds unless the standard one of that length, times the multiplier, is dearer: a discount whose size above a
      prompt length nobody wrote down is not assumed.
    """
    base = resolved_rates(**form.given)
    return Price(
        **{name: getattr(base, name) for name in RATE_NAMES},
        source=source,
        as_of=as_of,
        per_request=form.per_request,
        web_search=form.web_search,
        above=tuple(ContextTier(tokens, resolved_rates(**{**form.given, **step})) for tokens, step in form.above),
        service_tiers=tuple(_service_tier(name, form, tier) for name, tier in form.service_tiers.items()),
    )


def too_fine(given: Iterable[Decimal]) -> Decimal | None:
    """Return the first price with more decimals than a picodollar per token allows; None when all are exact."""
    return next((rate for rate in given if -_exponent(rate) > MAX_DECIMALS), None)


def rates_of(price: Price) -> Iterable[Rates]:
    """Yield the rates of every band of a price."""
    yield price.standard
    yield from (step.rates for step in price.above)
    for tier in price.service_tiers:
        yield tier.rates
        yield from (step.rates for step in tier.above)


def dearest_price(prices: Sequence[Price], *, source: str, as_of: str) -> Price:
    """Return a price whose every rate is the dearest of its kind in some prices, at any prompt length.

    Parameters
    ----------
    prices : sequence of Price
        At least one. Service tiers are left aside: they are asked for, or chosen by the provider.
    source, as_of : str
        See `Price`.

    Returns
    -------
    Price
        Marked as an estimate; one band.
    """
    bands = [rates for price in prices for rates in (price.standard, *(step.rates for step in price.above))]
    top = {name: max(getattr(rates, name) for rates in bands) for name in RATE_NAMES}
    return Price(
        **top, source=source, as_of=as_of, per_request=max(price.per_request for price in prices), is_estimate=True
    )


def _service_tier(name: str, form: PriceForm, tier: ServiceForm) -> ServiceTier:
    above = []
    for tokens in sorted({start for start, _ in (*form.above, *tier.above)}):
        standard = _times({**form.given, **_last_step(form.above, tokens)}, tier.multiplier)
        own = {**tier.given, **_last_step(tier.above, tokens - 1)}
        kept = {rate_name: max(rate, standard.get(rate_name, rate)) for rate_name, rate in own.items()}
        above.append(ContextTier(tokens, resolved_rates(**{**standard, **kept, **dict(tier.above).get(tokens, {})})))
    return ServiceTier(name, resolved_rates(**{**_times(form.given, tier.multiplier), **tier.given}), tuple(above))


def _last_step(above: Sequence[tuple[int, _Given]], tokens: int) -> _Given:
    """Return what changes in the highest context tier that begins at or below a length."""
    return next((step for start, step in reversed(above) if start <= tokens), {})


def _times(given: _Given, multiplier: Decimal) -> dict[str, Decimal]:
    return {name: rate * multiplier for name, rate in given.items()}


def _exponent(rate: Decimal) -> int:
    exponent = rate.normalize().as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0
