r"""Numbers as people write them: ``1,234.5``, ``12 %``, ``3/4``, ``\frac{3}{4}``, ``1 1/2``, ``6.02×10^23``, ``$5``.

Owns how they are read and when two are equal. Pure, and linear in the text. Read `numbers_in` and `are_equal`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, DecimalException, localcontext
from typing import Final, Literal

DecimalMark = Literal["point", "comma"]

_MINUS: Final = "−–\u2010\u2011-"  # hyphens of Unicode too; the plain one last, as it stands in a character class
_MAX_EXPONENT: Final = 10_000  # beyond it a text is no number that anybody means, and arithmetic would never end
_DIGITS: Final = 50
_MAX_LENGTH: Final = 400


def _pattern(point: str, separators: str) -> re.Pattern[str]:
    whole = rf"(?:\d{{1,3}}(?:(?:[{separators}]|\\,|\{{,\}})\d{{3}})+(?!\d)|\d+)"
    number = rf"(?:{whole}(?:{point}\d+)?|{point}\d+)"
    power = (
        r"(?:[eE](?P<e>[+\-−]?\d{1,6})|\s*(?:×|x|\*|·|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*\{?(?P<p>[+\-−]?\d{1,6})\}?)"
    )
    fraction = rf"\\[dt]?frac\s*\{{\s*(?P<fs>[+{_MINUS}]?)(?P<fa>{number})\s*\}}\s*\{{\s*(?P<fb>{number})\s*\}}"
    plain = rf"(?P<a>{number})(?:{power}|[ ](?P<ma>\d+)/(?P<mb>\d+)|\s*/\s*(?P<b>{number}))?"
    percent = r"(?P<percent>\s*(?:\\?%|per\s?cent\b))?"
    return re.compile(rf"(?<![\w{point}])(?P<s>[+{_MINUS}]?)\s?[$€£¥]?\s?(?:{fraction}|{plain}){percent}")


_PATTERNS: Final[dict[DecimalMark, re.Pattern[str]]] = {
    "point": _pattern(r"\.", ",'’_\u00a0\u2009\u202f"),
    "comma": _pattern(",", ".'’_\u00a0\u2009\u202f"),
}


@dataclass(frozen=True, slots=True)
class WrittenNumber:
    """A number as it was written.

    Attributes
    ----------
    value : Decimal
        Finite; the 12 of ``12 %``.
    is_percent : bool
        Whether a percent sign or the word followed.
    """

    value: Decimal
    is_percent: bool


def numbers_in(text: str, decimal_mark: DecimalMark = "point") -> list[WrittenNumber]:
    """Read every number in a text, from left to right.

    Parameters
    ----------
    text : str
    decimal_mark : {"point", "comma"}
        What separates the fraction; the other one groups thousands.

    Returns
    -------
    list of WrittenNumber
        Units and currencies are left out. A hyphen after a digit or a letter is no sign. Fractions without a value and
        exponents beyond ±10,000 are left out.
    """
    found = []
    for match in _PATTERNS[decimal_mark].finditer(text):
        value = _value(match, decimal_mark) if len(match[0]) <= _MAX_LENGTH else None
        if value is not None:
            found.append(WrittenNumber(value, match["percent"] is not None))
    return found


def are_equal(given: WrittenNumber, wanted: WrittenNumber, *, relative: float, absolute: float) -> bool:
    """Compare two numbers.

    Parameters
    ----------
    given, wanted : WrittenNumber
    relative, absolute : float
        Tolerances, >= 0.

    Returns
    -------
    bool
        ``|given − wanted| <= max(absolute, relative · |wanted|)``. When exactly one of them is a percentage, it may
        stand for the number itself or for a hundredth of it: 50 % equals both 50 and 0.5.
    """
    with localcontext() as context:
        context.prec = _DIGITS
        pairs = [(given.value, wanted.value)]
        if given.is_percent and not wanted.is_percent:
            pairs.append((given.value / 100, wanted.value))
        elif wanted.is_percent and not given.is_percent:
            pairs.append((given.value, wanted.value / 100))
        return any(abs(one - other) <= max(Decimal(absolute), Decimal(relative) * abs(other)) for one, other in pairs)


def _value(match: re.Match[str], decimal_mark: DecimalMark) -> Decimal | None:
    def read(text: str) -> Decimal:
        digits = re.sub(r"[^\d.,]", "", text)
        drop, point = (",", ".") if decimal_mark == "point" else (".", ",")
        return Decimal(digits.replace(drop, "").replace(point, "."))

    try:
        with localcontext() as context:
            context.prec = _DIGITS
            if match["fa"]:
                value = read(match["fa"]) / read(match["fb"])
                negative = (match["fs"] in _MINUS and match["fs"] != "") != _is_minus(match["s"])
                return -value if negative else value
            value = read(match["a"])
            if match["ma"]:
                value += Decimal(match["ma"]) / Decimal(match["mb"])
            elif match["b"]:
                value /= read(match["b"])
            elif exponent := match["e"] or match["p"]:
                power = int(exponent.replace("−", "-"))
                if abs(power) > _MAX_EXPONENT:
                    return None
                value = value.scaleb(power)
            return -value if _is_minus(match["s"]) else value
    except DecimalException:
        return None


def _is_minus(sign: str) -> bool:
    return sign != "" and sign in _MINUS
