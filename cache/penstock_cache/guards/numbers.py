"""Numbers as values: digits in any grouping, number words, ordinals, Roman numerals, simple fractions, multipliers.

Owns the reading of numbers and their comparison. Units and dates take the numbers that belong to them first; what is
left is compared here. Read `read_numbers`, then `compare_numbers`.

A number is *soft* when its word has another use ("one", "second", "a couple"): it may match a number of the other
text, but its absence there means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from types import MappingProxyType
from typing import NamedTuple

from penstock_cache.guards.tokens import NUMBER, Token, listed
from penstock_cache.guards.verdicts import ABSENT, AGREE, DIFFER, Verdict

NumberValue = float | str


class ReadNumber(NamedTuple):
    """One number of a text.

    Attributes
    ----------
    start, end : int
        Its tokens are ``tokens[start:end]``.
    value : float or str
        Text where it is no quantity: a version, an address, or more digits than a float keeps.
    is_soft : bool
    is_ordinal : bool
    """

    start: int
    end: int
    value: NumberValue
    is_soft: bool
    is_ordinal: bool


class Numbers(NamedTuple):
    """Numbers of a text that no unit or date has taken.

    Attributes
    ----------
    hard : frozenset
        Values that an equal request must hold too.
    soft : frozenset
        Values that may stand for one.
    soft_ordinals : frozenset
        Those of `soft` that name a place in an order ("first", "second"), and decades ("80s").
    """

    hard: frozenset[NumberValue]
    soft: frozenset[NumberValue]
    soft_ordinals: frozenset[NumberValue]


NO_NUMBERS = Numbers(frozenset(), frozenset(), frozenset())

_ONES = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
_TENS = listed("twenty thirty forty fifty sixty seventy eighty ninety")
_ORDINALS = listed(
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth"
    " fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)
_CARDINAL: Mapping[str, float] = MappingProxyType(
    {word: float(value) for value, word in enumerate(_ONES)}
    | {word: 10.0 * value for value, word in enumerate(_TENS, start=2)}
    | {"fourty": 40.0, "dozen": 12.0, "dozens": 12.0}
)
_ORDINAL: Mapping[str, float] = MappingProxyType(
    {word: float(value) for value, word in enumerate(_ORDINALS)}
    | {word[:-1] + "ieth": 10.0 * value for value, word in enumerate(_TENS, start=2)}
    | {"hundredth": 100.0, "thousandth": 1000.0}
)
_SOFT: Mapping[str, float] = MappingProxyType(
    {"a": 1.0, "an": 1.0, "single": 1.0, "once": 1.0, "per": 1.0, "each": 1.0, "every": 1.0}
    | {"couple": 2.0, "both": 2.0, "pair": 2.0, "twice": 2.0, "double": 2.0, "thrice": 3.0, "triple": 3.0}
    | {
        "half": 0.5,
        "quarter": 0.25,
        "quarters": 0.25,
        "squared": 2.0,
        "cubed": 3.0,
        "one": 1.0,
        "zero": 0.0,
        "first": 1.0,
        "second": 2.0,
        "third": 3.0,
    }
)
_SCALE: Mapping[str, float] = MappingProxyType(
    {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
    | {"hundreds": 1e2, "thousands": 1e3, "millions": 1e6, "billions": 1e9, "lakh": 1e5, "lakhs": 1e5, "crore": 1e7}
    | {"crores": 1e7, "mln": 1e6, "bn": 1e9}
)
_SHORT_SCALE: Mapping[str, float] = MappingProxyType({"k": 1e3, "grand": 1e3, "mio": 1e6})
_DECADES: Mapping[str, str] = MappingProxyType(
    {word[:-1] + "ies": f"{10 * value}s" for value, word in enumerate(_TENS, start=2)}
)
_FRACTION_MARKS = frozenset({"/", "\N{FRACTION SLASH}"})
_SMALLEST_YEAR_PART = 10.0  # "24/7" and "120/80" are no fractions
_SUFFIXES = frozenset({"st", "nd", "rd", "th"})
# Without single letters and without those that are words or abbreviations of their own.
_ROMAN: Mapping[str, float] = MappingProxyType(
    {"ii": 2.0, "iii": 3.0, "vii": 7.0, "viii": 8.0, "ix": 9.0, "xii": 12.0, "xiii": 13.0, "xiv": 14.0, "xvi": 16.0}
)
_SOFT_ROMAN: Mapping[str, float] = MappingProxyType({"iv": 4.0, "vi": 6.0, "xi": 11.0, "xv": 15.0, "xx": 20.0})
_WRITTEN = _DECADES.keys() | _CARDINAL.keys() | _ORDINAL.keys() | _SCALE.keys() | _ROMAN.keys()
TRIGGERS = frozenset(_WRITTEN | _SOFT_ROMAN.keys() | (_SOFT.keys() - {"a", "an", "per", "each", "every"}))

_COUNTED_IN_PASSING = frozenset({"two", "three"})
_LONG_TEXT_TOKENS = 40

_GROUPED = re.compile(r"\d{1,3}(?:,\d{2,3})*,\d{3}(?:\.\d+)?|\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?")
_DECIMAL = re.compile(r"\d+[.,]\d+")
_THIS_CENTURY, _LAST_CENTURY = 2000, 1900
_FIRST_YEAR_OF_LAST_CENTURY = 40  # "'40" and above is read as 1940
_MAX_DIGITS = 15  # what a float keeps exactly


def number_value(written: str) -> NumberValue:
    """Return the value of a token of digits: "1,000" is 1000, "3,5" is 3.5, "1.2.3" stays text.

    Notes
    -----
    English first: a single point is a decimal point, a comma before exactly three digits groups thousands.
    """
    if len(written) > _MAX_DIGITS:
        return written
    if written.isdecimal():
        return float(written)
    if ":" in written:
        return written
    if _GROUPED.fullmatch(written):
        separator = "," if "," in written and (written.find(",") < written.find(".") or "." not in written) else "."
        return float(written.replace(separator, "").replace(",", "."))
    return float(written.replace(",", ".")) if _DECIMAL.fullmatch(written) else written


def read_numbers(tokens: Sequence[Token]) -> list[ReadNumber]:
    """Read every number of a text, left to right, each token used once."""
    found: list[ReadNumber] = []
    end = 0
    for index, (_, low, _, flags) in enumerate(tokens):
        if flags & NUMBER and index >= end:
            number = _digits_at(tokens, index) if low[0].isdecimal() else _words_at(tokens, index)
            found.append(number)
            end = number.end
    return found


def _low(tokens: Sequence[Token], index: int) -> str:
    return tokens[index].low if index < len(tokens) else ""


def _digits_at(tokens: Sequence[Token], start: int) -> ReadNumber:
    """Digits with what belongs to them: a fraction, an ordinal's ending, a multiplier."""
    value = number_value(tokens[start].low)
    after = _low(tokens, start + 1)
    if isinstance(value, str):
        return ReadNumber(start, start + 1, value, False, False)
    before = tokens[start - 1].low if start else ""
    if after == "s" and value % 10 == 0 and (value < 100 or 1000 < value < 3000):
        return ReadNumber(start, start + 2, _decade(value), value < 100, True)
    if before == "'" and len(tokens[start].low) == 2:
        value += _THIS_CENTURY if value < _FIRST_YEAR_OF_LAST_CENTURY else _LAST_CENTURY
    if before == "^":
        return ReadNumber(start, start + 1, value, True, False)
    if after in _SUFFIXES:
        return ReadNumber(start, start + 2, value, False, True)
    if after in _SCALE or after in _SHORT_SCALE:
        scaled = value * (_SCALE.get(after) or _SHORT_SCALE[after])
        return ReadNumber(start, start + 2, scaled, False, False)
    if after in _FRACTION_MARKS and value < _SMALLEST_YEAR_PART and _is_small_denominator(_low(tokens, start + 2)):
        if _low(tokens, start + 3) in _FRACTION_MARKS:
            return ReadNumber(start, start + 1, value, False, False)  # the day of a date
        return ReadNumber(start, start + 3, round(value / float(_low(tokens, start + 2)), 6), False, False)
    return ReadNumber(start, start + 1, value, False, False)


def _decade(value: float) -> str:
    """Decades of the twentieth century by their tens ("80s" for "1980s" and "eighties"), others in full."""
    return f"{int(value) % 100}s" if value < 100 or value // 100 == 19 else f"{int(value)}s"


def _is_small_denominator(written: str) -> bool:
    return written.isdecimal() and len(written) <= 2 and 1 < float(written) <= 16


def _words_at(tokens: Sequence[Token], start: int) -> ReadNumber:
    """Number words as one value: "two hundred and fifty", "twenty-first"; a lone soft word stays soft."""
    if tokens[start].low in _DECADES:
        return ReadNumber(start, start + 1, _DECADES[tokens[start].low], True, True)
    total = current = 0.0
    index, seen, is_ordinal = start, 0, False
    while index < len(tokens):
        word = tokens[index].low
        if word in _CARDINAL:
            step = _CARDINAL[word]
            if seen and not _may_follow(current, step):
                break
            current += step
        elif word in _SCALE or (seen and word == "grand"):
            scale = _SCALE.get(word, 1e3)
            current = (current or 1.0) * scale
            if scale >= 1e3:
                total, current = total + current, 0.0
        elif word in _ORDINAL and (not seen or _may_follow(current, _ORDINAL[word])):
            current, is_ordinal = current + _ORDINAL[word], True
            index, seen = index + 1, seen + 1
            break
        elif seen == 0 and word == "half" and _low(tokens, index + 1) == "a" and _low(tokens, index + 2) in _SCALE:
            current, index, seen = 0.5, index + 2, 1
            continue
        elif not (seen and _joins(tokens, index, current)):
            break
        else:
            index += 1
            continue
        index, seen = index + 1, seen + 1
    if not seen:
        word = tokens[start].low
        value = _ROMAN.get(word, _SOFT_ROMAN.get(word, _SOFT.get(word, 0.0)))
        return ReadNumber(start, start + 1, value, word not in _ROMAN, False)
    is_soft = seen == 1 and tokens[start].low in _SOFT
    return ReadNumber(start, index, total + current, is_soft, is_ordinal)


def _may_follow(current: float, step: float) -> bool:
    """Whether a smaller number word continues the one before: "twenty five", "hundred five", not "five six"."""
    return (current % 100 == 0 and step < 100) or (current % 100 >= 20 and current % 10 == 0 and 0 < step < 10)


def _joins(tokens: Sequence[Token], index: int, current: float) -> bool:
    """Whether "and" or a hyphen between number words is part of the number."""
    word, after = tokens[index].low, _low(tokens, index + 1)
    is_next_smaller = after in _CARDINAL or after in _ORDINAL
    if word == "-":
        return is_next_smaller and current % 100 >= 20 and current % 10 == 0
    return word == "and" and is_next_smaller and current % 100 == 0


def collect_numbers(tokens: Sequence[Token], numbers: Sequence[ReadNumber], taken: Set[int]) -> Numbers:
    """Return the numbers whose first token nobody has taken.

    Notes
    -----
    In a long text a spelled-out two or three counts things in passing ("both questions", "two things"): soft there,
    and so is "the two" anywhere.
    """
    left = [number for number in numbers if number.start not in taken]
    if not left:
        return NO_NUMBERS
    is_long = len(tokens) > _LONG_TEXT_TOKENS
    left = [
        number._replace(is_soft=True)
        if tokens[number.start].low in _COUNTED_IN_PASSING
        and (is_long or (number.start and tokens[number.start - 1].low in {"the", "these", "those", "between"}))
        else number
        for number in left
    ]
    return Numbers(
        frozenset(number.value for number in left if not number.is_soft),
        frozenset(number.value for number in left if number.is_soft),
        frozenset(number.value for number in left if number.is_soft and number.is_ordinal),
    )


def compare_numbers(
    left: Numbers, right: Numbers, left_elsewhere: Set[NumberValue], right_elsewhere: Set[NumberValue]
) -> Verdict:
    """Compare what is left of the numbers of two texts.

    Parameters
    ----------
    left, right : Numbers
    left_elsewhere, right_elsewhere : set
        Raw values that units, times and dates have taken: "at 7" and "at 7 am" hold the same number.
    """
    missing_right = left.hard - right.hard - right.soft - right_elsewhere
    missing_left = right.hard - left.hard - left.soft - left_elsewhere
    if missing_left or missing_right:
        return DIFFER
    if left.soft_ordinals and right.soft_ordinals and not left.soft_ordinals & right.soft_ordinals:
        return DIFFER
    return AGREE if left.hard or right.hard else ABSENT
