"""Prices of one deployment, and the cost of one request: exact decimal USD.

A *price* is USD per million tokens, *usage* is token counts, a *cost* is USD of one request. Read `cost_usd`, then
`upper_bound_usd`. `price_forms` makes prices with tiers out of what a file or the snapshot says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from penstock_gateway.money.usage import Usage

MAX_DECIMALS = 6
"""Decimals of a price: 10⁻⁶ USD per million tokens is one picodollar per token, the unit of `amounts`."""

_MILLION = Decimal(1_000_000)
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Rates:
    """What each kind of token costs in one band of a price, USD per million tokens; nothing is left open.

    Attributes
    ----------
    input, cached_input, cache_write, cache_write_1h, audio_input, image_input : Decimal
        Of the prompt: its plain part, what was read from the provider's cache, what was written to it for minutes and
        for an hour, sound, pictures.
    output, reasoning, audio_output : Decimal
        Of the completion: its plain part, hidden reasoning, sound.
    """

    input: Decimal
    cached_input: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    audio_input: Decimal
    image_input: Decimal
    output: Decimal
    reasoning: Decimal
    audio_output: Decimal


def resolved_rates(
    *,
    input: Decimal,
    output: Decimal,
    cached_input: Decimal | None = None,
    cache_write: Decimal | None = None,
    cache_write_1h: Decimal | None = None,
    audio_input: Decimal | None = None,
    image_input: Decimal | None = None,
    reasoning: Decimal | None = None,
    audio_output: Decimal | None = None,
) -> Rates:
    """Return rates with every one that is left out filled in.

    Cached input, cache writes, sound and pictures cost like `input`, an hour's cache write like `cache_write`,
    reasoning and sound of the completion like `output`.
    """
    cache_write = input if cache_write is None else cache_write
    return Rates(
        input=input,
        cached_input=input if cached_input is None else cached_input,
        cache_write=cache_write,
        cache_write_1h=cache_write if cache_write_1h is None else cache_write_1h,
        audio_input=input if audio_input is None else audio_input,
        image_input=input if image_input is None else image_input,
        output=output,
        reasoning=output if reasoning is None else reasoning,
        audio_output=output if audio_output is None else audio_output,
    )


@dataclass(frozen=True, slots=True)
class ContextTier:
    """The rates of requests with long prompts; they apply to the whole request, as providers bill it.

    Attributes
    ----------
    above_tokens : int
        The tier applies to prompts of more tokens than this, cached and written ones included.
    rates : Rates
    """

    above_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class ServiceTier:
    """The rates of requests that the provider served with another priority than its standard.

    Attributes
    ----------
    name : str
        As in `Usage.service_tier`: ``priority``, ``flex``, ``batch``, ….
    rates : Rates
    above : tuple of ContextTier
        In ascending order; they replace those of the price.
    """

    name: str
    rates: Rates
    above: tuple[ContextTier, ...] = ()


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
        ISO date of the source; empty for the configuration.
    cache_write, cache_write_1h, audio_input, image_input, audio_output : Decimal or None
        None: like `input`, like `cache_write`, like `input`, like `input`, like `output`. Read them resolved from
        `standard`.
    per_request : Decimal
        USD for each request, beside its tokens.
    web_search : Decimal or None
        USD for each search of the web that the provider does; None when it is not known.
    above : tuple of ContextTier
        In ascending order.
    service_tiers : tuple of ServiceTier
    is_estimate : bool
        The price of this model is not known; these are the dearest of models like it (``money.unknown_price:
        estimate``). A cost worked out with it is marked as estimated.
    is_unknown : bool
        The price is not known and the operator allows that (``money.unknown_price: allow``). The numbers are those of
        an estimate, so that choosing by cost does not take the model for a free one; the cost of a request is *None*,
        never a number: see `cost_of`.
    standard : Rates
        The rates of a standard request with a short prompt, every default filled in. Made from the rest.
    """

    input: Decimal
    cached_input: Decimal
    output: Decimal
    reasoning: Decimal
    source: str = "configuration"
    as_of: str = ""
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    audio_input: Decimal | None = None
    image_input: Decimal | None = None
    audio_output: Decimal | None = None
    per_request: Decimal = _ZERO
    web_search: Decimal | None = None
    above: tuple[ContextTier, ...] = ()
    service_tiers: tuple[ServiceTier, ...] = ()
    is_estimate: bool = False
    is_unknown: bool = False
    standard: Rates = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Fill in what is billed like something else."""
        rates = resolved_rates(
            input=self.input,
            output=self.output,
            cached_input=self.cached_input,
            cache_write=self.cache_write,
            cache_write_1h=self.cache_write_1h,
            audio_input=self.audio_input,
            image_input=self.image_input,
            reasoning=self.reasoning,
            audio_output=self.audio_output,
        )
        object.__setattr__(self, "standard", rates)

    @property
    def is_known(self) -> bool:
        """Whether a cost worked out with it is this model's own."""
        return not self.is_estimate and not self.is_unknown

    def rates_for(self, input_tokens: int, service_tier: str = "") -> Rates:
        """Return the rates of a request.

        Parameters
        ----------
        input_tokens : int
            The whole prompt.
        service_tier : str
            What the provider says it served the request as; one without prices of its own is billed as standard.

        Returns
        -------
        Rates
        """
        rates, above = self.standard, self.above
        if not above and not service_tier:  # as of most
            return rates
        if service_tier:
            for tier in self.service_tiers:
                if tier.name == service_tier:
                    rates, above = tier.rates, tier.above
        for step in above:
            if input_tokens > step.above_tokens:
                rates = step.rates
        return rates


def cost_usd(usage: Usage, price: Price) -> Decimal:
    """Return the exact cost of one request.

    Parameters
    ----------
    usage : Usage
    price : Price
        For one whose price is unknown this is arithmetic with an estimate, and no cost; `cost_of` says None there.

    Returns
    -------
    Decimal
        USD, >= 0, not rounded: prices have at most `MAX_DECIMALS` decimals, so every token costs whole picodollars.

    Notes
    -----
    Σ tokens × rate / 10⁶ over the kinds of tokens, plus `Price.per_request` and `Price.web_search` for every search;
    tools that have no price are left out, and `cost_of.is_cost_estimated` says so. All rates are those of the context
    tier and service tier of the request.

    The parts of the prompt (cached, written, sound, pictures) are taken as disjoint, and what they leave of it is
    plain; likewise in the completion. Providers are not consistent here: some count cached sound both as cached and as
    sound. Where the parts come to more than the whole, the whole is what is billed, and it is filled with the dearest
    parts first: no token is billed twice, nothing becomes negative, and the bill is not below the true one as long as
    sound and pictures are no cheaper than text and cost no less when cached. Counts below 0 are 0.

    Examples
    --------
    >>> p = Price(Decimal("3"), Decimal("0.3"), Decimal("15"), Decimal("15"))
    >>> cost_usd(Usage(input_tokens=1000, cached_input_tokens=400, output_tokens=100), p)
    Decimal('0.00342')
    """
    rates = price.rates_for(usage.input_tokens, usage.service_tier)
    if not _has_parts(usage) and usage.input_tokens >= 0 <= usage.output_tokens:
        cost = (usage.input_tokens * rates.input + usage.output_tokens * rates.output) / _MILLION
        return cost + _beside_tokens(usage, price)
    written_1h = max(0, usage.cache_write_1h_tokens)
    prompt = _fill(
        usage.input_tokens,
        rates.input,
        (usage.cached_input_tokens, rates.cached_input),
        (usage.cache_write_tokens - written_1h, rates.cache_write),
        (written_1h, rates.cache_write_1h),
        (usage.audio_input_tokens, rates.audio_input),
        (usage.image_input_tokens, rates.image_input),
    )
    completion = _fill(
        usage.output_tokens,
        rates.output,
        (usage.reasoning_tokens, rates.reasoning),
        (usage.audio_output_tokens, rates.audio_output),
    )
    return (prompt + completion) / _MILLION + _beside_tokens(usage, price)


def upper_bound_usd(
    price: Price,
    input_tokens: int,
    max_output_tokens: int,
    *,
    service_tier: str | None = None,
    has_audio: bool = True,
    has_images: bool = True,
    web_searches: int = 0,
) -> Decimal:
    """Return a cost that no request within these token counts exceeds: what is reserved before it is sent.

    Parameters
    ----------
    price : Price
    input_tokens, max_output_tokens : int
        Most tokens of prompt and completion; >= 0.
    service_tier : str, optional
        What the request asks for; the provider may serve it as that or as standard. None: as whatever it likes, which
        for makers that sell speed can be six times the standard price.
    has_audio, has_images : bool
        Whether prompt or completion may hold sound, and the prompt pictures.
    web_searches : int
        Most searches that the provider may do; >= 0. Nothing is reserved for them where their price is not known.

    Returns
    -------
    Decimal
        USD. Every prompt token at the dearest rate that may apply (mostly that of a cache write), every completion
        token likewise, in the dearest band that the prompt can reach.

    Examples
    --------
    >>> p = Price(Decimal("3"), Decimal("0.3"), Decimal("15"), Decimal("15"), cache_write=Decimal("3.75"))
    >>> upper_bound_usd(p, 1000, 100)
    Decimal('0.00525')
    """
    bands = _reachable(price, input_tokens, service_tier) if price.above or price.service_tiers else (price.standard,)
    dearest = max(
        [
            max(0, input_tokens) * _dearest_input(rates, has_audio=has_audio, has_images=has_images)
            + max(0, max_output_tokens) * _dearest_output(rates, has_audio=has_audio)
            for rates in bands
        ]
    )
    return dearest / _MILLION + price.per_request + web_searches * (price.web_search or _ZERO)


def format_usd(cost: Decimal) -> str:
    """Return a cost as plain decimal text without an exponent, for headers and JSON."""
    return format(cost.normalize(), "f")


def _has_parts(usage: Usage) -> bool:
    """Whether a part of the prompt or of the completion may have a price of its own."""
    return bool(
        usage.cached_input_tokens
        or usage.cache_write_tokens
        or usage.cache_write_1h_tokens
        or usage.audio_input_tokens
        or usage.image_input_tokens
        or usage.reasoning_tokens
        or usage.audio_output_tokens
    )


def _beside_tokens(usage: Usage, price: Price) -> Decimal:
    """Return what is billed by request and by search."""
    if usage.web_searches <= 0 or price.web_search is None:
        return price.per_request
    return price.per_request + usage.web_searches * price.web_search


def _fill(whole: int, plain: Decimal, *parts: tuple[int, Decimal]) -> Decimal:
    """Return Σ tokens × rate of a whole and its parts; see the notes of `cost_usd`."""
    left = max(0, whole)
    given = [(tokens, rate) for tokens, rate in parts if tokens > 0]
    if not given:
        return left * plain
    if sum(tokens for tokens, _ in given) > left:
        given.sort(key=lambda part: part[1], reverse=True)
    total = _ZERO
    for tokens, rate in given:
        taken = min(tokens, left)
        total += taken * rate
        left -= taken
    return total + left * plain


def _reachable(price: Price, input_tokens: int, service_tier: str | None) -> Iterator[Rates]:
    """Yield the rates of every band in which a request of so many prompt tokens may be billed."""
    bands = [(price.standard, price.above)]
    bands += [
        (tier.rates, tier.above) for tier in price.service_tiers if service_tier is None or tier.name == service_tier
    ]
    for rates, above in bands:
        yield rates
        yield from (step.rates for step in above if input_tokens > step.above_tokens)


def _dearest_input(rates: Rates, *, has_audio: bool, has_images: bool) -> Decimal:
    plain = max(rates.input, rates.cached_input, rates.cache_write, rates.cache_write_1h)
    sound = rates.audio_input if has_audio else _ZERO
    return max(plain, sound, rates.image_input if has_images else _ZERO)


def _dearest_output(rates: Rates, *, has_audio: bool) -> Decimal:
    plain = max(rates.output, rates.reasoning)
    return max(plain, rates.audio_output) if has_audio else plain
