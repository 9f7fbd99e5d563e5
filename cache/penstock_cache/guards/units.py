"""Quantities with units, brought to one unit per dimension, and units that are named without a number.

Owns the table of units. "5 km" equals "5,000 metres"; "5 km" differs from "5 miles"; currencies are never converted.
Read `read_units`, then `compare_units`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from penstock_cache.guards.numbers import NumberValue, ReadNumber
from penstock_cache.guards.tokens import UNIT, Token, listed
from penstock_cache.guards.verdicts import ABSENT, AGREE, DIFFER, Verdict

# dimension, then unit = factor of the dimension's first unit: names. A name with a trailing underscore counts only
# after a number; one with a trailing asterisk counts after a number, and means something else without one.
# Factors: NIST Special Publication 811 (2008), appendix B.
_UNITS = """
length 0.001: mm millimeter millimetre | 0.01: cm centimeter centimetre | 1: m_ meter metre
length 1000: km kms kilometer kilometre k.m.
length 0.0254: inch inches " | 0.3048: ft foot* feet* | 0.9144: yd yds yard* | 1609.344: mi_ mile | 1852: nmi
mass 0.001: mg milligram | 1: g_ gr_ gram gramme gm_ gms_ | 1000: kg kgs kilo kilogram | 28.349523: oz ounce
mass 453.59237: lb lbs
mass 6350.29318: stone* | 1000000: tonne | 0.000001: mcg microgram
pound 1: pound
volume 0.001: ml milliliter millilitre | 0.01: cl | 0.1: dl | 1: l_ liter litre ltr | 3.785412: gallon gal_
volume 0.473176: pint | 0.236588: cup*
volume 0.0147868: tablespoon tbsp | 0.00492892: teaspoon tsp
time 0.001: ms_ millisecond | 1: s_ sec_ secs second* | 60: min_ mins minute* | 3600: h_ hr hrs hour | 86400: day
time 604800: week wk_ wks_ | 1209600: fortnight
months 1: month mo_ mos_ | 3: trimester* | 12: year yr yrs y_ | 120: decade | 1200: century centuries
temperature 1: celsius centigrade c_ ℃ | 1: °c
fahrenheit 1: fahrenheit f_ °f
kelvin 1: kelvin
degree 1: degree* ° deg_
speed 1: kmh kph kmph | 1.609344: mph | 3.6: mps
bytes 1: byte | 1e3: kb kilobyte | 1e6: mb megabyte | 1e9: gb gig gigabyte gigs | 1e12: tb terabyte
bytes 1e15: pb petabyte | 1024: kib | 1048576: mib | 1073741824: gib
bits 1: bit* | 1e3: kbps | 1e6: mbps megabit | 1e9: gbps gigabit
area 1: sqm m2 | 4046.8564: acre | 10000: hectare ha_ | 0.092903: sqft
energy 1: kcal calorie cal_ cals_ | 0.239006: kj kilojoule | 860.42065: kwh
power 1: watt w_ | 1000: kw_ kilowatt | 745.69987: hp_ horsepower*
electric 1: volt v_ | 0.001: mah* | 1: ah_
frequency 1: hz hertz | 1e3: khz | 1e6: mhz | 1e9: ghz
pixels 1: px pixel | dpi 1: dpi
percent 1: % percent pct percentage* percents
usd 1: $ usd dollar buck | 0.01: cent ¢
eur 1: € eur euro
gbp 1: £ gbp quid sterling | 0.01: pence
inr 1: ₹ inr rupee rs_ | jpy 1: ¥ jpy yen | cny 1: cny rmb yuan | aud 1: aud | cad 1: cad | chf 1: chf franc
inr btc 1: btc bitcoin | eth 1: eth
krw 1: krw won_ | brl 1: brl | mxn 1: mxn peso | rub 1: rub_ ruble rouble
"""
# Dimensions that a name may stand for; such quantities are equal when their numbers are.
_AMBIGUOUS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"pound": ("mass", "gbp"), "mass": ("pound",), "gbp": ("pound",)}
    | {"degree": ("temperature", "fahrenheit"), "temperature": ("degree",), "fahrenheit": ("degree",)}
)
# Dimensions that are not converted into each other here, yet one stands where the other might.
_SAME_KIND = (
    frozenset(listed("usd eur gbp inr jpy cny aud cad chf btc eth krw brl mxn rub")),
    frozenset({"temperature", "fahrenheit", "kelvin"}),
)
_CURRENCY_BEFORE = frozenset("$€£₹¥")
# Words that make a span of time as often as they name a moment: a bare mention of them says nothing.
_VAGUE_DIMENSIONS = frozenset({"time", "months", "percent", "degree", "pound", "bits"})
_FREQUENCIES: Mapping[str, str] = MappingProxyType(
    {"daily": "day", "weekly": "week", "monthly": "month", "yearly": "year", "annually": "year", "annual": "year"}
    | {"hourly": "hour"}
)
_EACH = frozenset({"a", "an", "per", "each", "every", "/"})
_FRACTIONS = frozenset({0.25, 0.5, 0.75})
_MILLION_AFTER_CURRENCY = 1e6


class Unit(NamedTuple):
    """A unit: its dimension, its factor, and where its name may stand."""

    dimension: str
    factor: float
    needs_number: bool
    is_ambiguous: bool


class Quantity(NamedTuple):
    """A number with its unit; `value` in the dimension's first unit, `raw` as written."""

    dimension: str
    value: NumberValue
    raw: NumberValue
    is_soft: bool


class Units(NamedTuple):
    """All quantities of a text, and (dimension, factor) of units named without a number."""

    quantities: frozenset[Quantity]
    bare: frozenset[tuple[str, float]]
    raw_values: frozenset[NumberValue]


NO_UNITS = Units(frozenset(), frozenset(), frozenset())


def _unit_table() -> Mapping[str, Unit]:
    table: dict[str, Unit] = {}
    for line in _UNITS.strip().splitlines():
        dimension = ""
        for group in line.split("|"):
            head, _, names = group.strip().partition(":")
            dimension, factor = (head.split()[0], head.split()[-1]) if " " in head else (dimension, head)
            for name in names.split():
                unit = Unit(dimension, float(factor), name.endswith("_"), name.endswith("*"))
                word = name.rstrip("_*")
                table.setdefault(word, unit)
                if len(word) >= 3 and word.isalpha() and not word.endswith(("s", "ch")):
                    table.setdefault(word + "s", unit)
    for word, unit_name in _FREQUENCIES.items():
        table[word] = table[unit_name]
    return MappingProxyType(table)


_UNIT = _unit_table()
TRIGGERS = frozenset(_UNIT)


def read_units(tokens: Sequence[Token], numbers: Sequence[ReadNumber], taken: set[int]) -> Units:
    """Read quantities and bare units; the first token of each number used is added to `taken`."""
    free = [number for number in numbers if number.start not in taken]
    starts = {number.start: number for number in free}
    ends = {number.end: number for number in free}
    quantities: list[Quantity] = []
    bare: set[tuple[str, float]] = set()
    for index, token in enumerate(tokens):
        if not token.flags & UNIT:
            continue
        unit = _UNIT[token.low]
        if unit.dimension == "length" and _is_per_hour(tokens, index):
            unit = Unit("speed", unit.factor / 1000.0, False, False)
        before = tokens[index - 1].low if index else ""
        number = _number_of(token.low, before, unit, index, starts, ends)
        if number is not None and number.start not in taken:
            taken.add(number.start)
            quantities.append(_quantity(number, unit, tokens))
        elif index in starts:
            continue  # the word is a number itself: "second"
        elif token.low in _FREQUENCIES or (before in _EACH and not unit.needs_number):
            quantities.append(Quantity(unit.dimension, unit.factor, 1.0, True))
        elif _is_bare(unit, token.low, before):
            bare.add((unit.dimension, unit.factor))
    if not quantities and not bare:
        return NO_UNITS
    return Units(frozenset(quantities), frozenset(bare), frozenset(quantity.raw for quantity in quantities))


def _number_of(
    word: str,
    before: str,
    unit: Unit,
    index: int,
    starts: Mapping[int, ReadNumber],
    ends: Mapping[int, ReadNumber],
) -> ReadNumber | None:
    """The number that a unit belongs to: "$5", "5 km", "5-km", "half an hour"."""
    if word in _CURRENCY_BEFORE and index + 1 in starts:
        return starts[index + 1]
    number = ends.get(index) or (ends.get(index - 1) if before == "-" else None)
    if number is not None:
        return None if number.is_soft and unit.is_ambiguous else number
    if before in {"a", "an"}:
        number = ends.get(index - 1) or ends.get(index - 2)  # "half an hour", "quarter of an hour"
        return number if number is not None and number.value in _FRACTIONS else None
    return None


def _is_bare(unit: Unit, word: str, before: str) -> bool:
    """Whether a unit without a number is one asked for; a vague one is only in "in seconds" and the like."""
    if unit.needs_number:
        return False
    if unit.is_ambiguous or unit.dimension in _VAGUE_DIMENSIONS:
        return before == "in" and len(word) > 2 and word.endswith("s")
    return True


def _is_per_hour(tokens: Sequence[Token], index: int) -> bool:
    """Whether a length is followed by "per hour", "an hour" or "/h"."""
    after = [token.low for token in tokens[index + 1 : index + 3]]
    return len(after) == 2 and after[0] in {"per", "an", "a", "/"} and after[1] in {"hour", "h", "hr"}


def _quantity(number: ReadNumber, unit: Unit, tokens: Sequence[Token]) -> Quantity:
    if isinstance(number.value, str):
        return Quantity(unit.dimension, number.value, number.value, False)
    value = number.value * unit.factor
    if number.start and tokens[number.start - 1].low in _CURRENCY_BEFORE:
        after = tokens[number.end].low if number.end < len(tokens) else ""
        value *= _MILLION_AFTER_CURRENCY if after == "m" else 1.0
    return Quantity(unit.dimension, float(f"{value:.6g}"), number.value, number.is_soft)


def compare_units(
    left: Units, right: Units, left_numbers: frozenset[NumberValue], right_numbers: frozenset[NumberValue]
) -> Verdict:
    """Compare the quantities of two texts.

    Parameters
    ----------
    left, right : Units
    left_numbers, right_numbers : frozenset
        Values without a unit: "run 5" may mean "run 5 km", so such a number stands for the quantity.
    """
    if left is NO_UNITS and right is NO_UNITS:
        return ABSENT
    only_left = _without_match(left.quantities, right.quantities)
    only_right = _without_match(right.quantities, left.quantities)
    if _is_required(only_left, right_numbers) or _is_required(only_right, left_numbers):
        return DIFFER
    if _bare_swap(left, right):
        return DIFFER
    if left.quantities and right.quantities:
        return AGREE
    return AGREE if left.bare & right.bare else ABSENT


def _without_match(quantities: frozenset[Quantity], others: frozenset[Quantity]) -> list[Quantity]:
    """Quantities that no other one equals, in value or, where the unit is ambiguous, as written."""
    values = {(other.dimension, other.value) for other in others}
    written = {(other.dimension, other.raw) for other in others}
    return [
        quantity
        for quantity in quantities
        if (quantity.dimension, quantity.value) not in values
        and not any((other, quantity.raw) in written for other in _AMBIGUOUS.get(quantity.dimension, ()))
    ]


def _is_required(only: list[Quantity], numbers: frozenset[NumberValue]) -> bool:
    return any(not quantity.is_soft and quantity.raw not in numbers for quantity in only)


def _bare_swap(left: Units, right: Units) -> bool:
    """Whether each text names a unit of one dimension that the other lacks: "in km" against "in miles"."""
    named_left = left.bare | {(quantity.dimension, -1.0) for quantity in left.quantities}
    named_right = right.bare | {(quantity.dimension, -1.0) for quantity in right.quantities}
    only_left = {dimension for dimension, factor in left.bare if (dimension, factor) not in named_right}
    only_right = {dimension for dimension, factor in right.bare if (dimension, factor) not in named_left}
    if only_left & only_right:
        return True
    return any(only_left & kind and only_right & kind for kind in _SAME_KIND)
