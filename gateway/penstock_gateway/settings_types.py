"""What the sections of the configuration are made of: numbers with ranges, names, secrets, and the strict base model.

Owns the types that more than one section uses. Read `Section`.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, StringConstraints

Tier = Literal["small", "medium", "large", "frontier"]
Adapter = Literal["direct", "litellm"]

TRADEOFFS = ("cost", "balanced", "quality")

MAX_PRICE_USD_PER_MILLION = Decimal(100_000)
"""Above this a price is taken for a typing error; the dearest model of the bundled snapshot costs 600."""

MAX_LIMIT_USD = Decimal(9_000_000)
"""Largest budget: spend is counted in picodollars, of which a 64-bit counter holds 9.2 million dollars."""


def _exact_decimal(value: object) -> object:
    """Turn text and integers into Decimal; a binary float is refused, because 0.1 is not 0.1 in it."""
    if isinstance(value, bool | float):
        raise ValueError("should be a decimal number (in Python, pass Decimal or text, not a float)")
    if isinstance(value, int):
        return Decimal(value)
    if isinstance(value, str):
        try:
            return Decimal(value)
        except InvalidOperation:
            raise ValueError("should be a decimal number") from None
    return value


def _six_decimals(price: Decimal) -> Decimal:
    """Refuse a price that a picodollar per token cannot hold: sums of it would have to be rounded."""
    if _decimals(price) > 6:
        raise ValueError("should have at most six decimals (USD per million tokens; a token costs whole picodollars)")
    return price


def _whole_picousd(cost: Decimal) -> Decimal:
    if _decimals(cost) > 12:
        raise ValueError("should have at most twelve decimals (USD; a cost is a whole number of picodollars)")
    return cost


def _decimals(number: Decimal) -> int:
    exponent = number.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def plain_float(value: object) -> object:
    """Numbers with a point arrive from the file as Decimal; deadlines and the knob need no exactness."""
    if isinstance(value, Decimal) and value.is_finite():
        return float(value)
    return value


def _plain_tradeoff(value: object) -> object:
    number = plain_float(value)
    if isinstance(number, int) and not isinstance(number, bool):
        number = float(number)
    if isinstance(number, float):
        if not 0.0 <= number <= 1.0:
            raise ValueError("a number should lie between 0 (cheapest) and 1 (best)")
    elif number not in TRADEOFFS:
        raise ValueError("should be cost, balanced, quality or a number between 0 and 1")
    return number


UsdPerMillion = Annotated[
    Decimal,
    Field(ge=0, le=MAX_PRICE_USD_PER_MILLION, allow_inf_nan=False, max_digits=24),
    BeforeValidator(_exact_decimal),
    AfterValidator(_six_decimals),
]
UsdPerRequest = Annotated[
    Decimal,
    Field(ge=0, le=1000, allow_inf_nan=False, max_digits=24),
    BeforeValidator(_exact_decimal),
    AfterValidator(_whole_picousd),
]
Multiplier = Annotated[
    Decimal, Field(gt=0, le=100, allow_inf_nan=False, max_digits=12), BeforeValidator(_exact_decimal)
]
LimitUsd = Annotated[
    Decimal,
    Field(gt=0, le=MAX_LIMIT_USD, allow_inf_nan=False, max_digits=24, decimal_places=12),
    BeforeValidator(_exact_decimal),
]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(plain_float)]
CostUsd = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False), BeforeValidator(plain_float)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False), BeforeValidator(plain_float)]
PollSeconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False), BeforeValidator(plain_float)]
ArtifactDigest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
PublicKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{43}=$")]
Tradeoff = Annotated[float | str, BeforeValidator(_plain_tradeoff)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Key = Annotated[SecretStr, Field(strict=False, min_length=1, max_length=8192)]
LongKey = Annotated[SecretStr, Field(strict=False, min_length=16, max_length=1024)]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")]
HostName = Annotated[str, StringConstraints(pattern=r"^(\*\.)?[A-Za-z0-9_.:\[\]-]{1,253}$")]


class Section(BaseModel):
    """A part of the configuration: frozen, strict, unknown keys refused, values kept out of error messages."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)
