"""How reports write numbers and names: amounts, shares, intervals, and text that comes from elsewhere.

Pure. Read `amount`.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Final

from penstock_gateway.reports.bootstrap import Interval

MINUS: Final = "\N{MINUS SIGN}"
_DIGITS: Final = 4


def amount(usd: Decimal | float) -> str:
    """Return an amount of USD: cents from a dollar on, four significant digits below, never an exponent.

    Examples
    --------
    >>> amount(Decimal("1234.567")), amount(0.00012345678), amount(-0.5)
    ('1,234.57', '0.0001235', '−0.5000')
    """
    value = float(usd)
    if abs(value) >= 1.0 or value == 0.0:
        text = f"{abs(value):,.2f}"
    else:
        places = min(_DIGITS - 1 - math.floor(math.log10(abs(value))), 12)
        text = f"{abs(value):.{places}f}"
    return f"{MINUS}{text}" if value < 0.0 and float(text.replace(",", "")) != 0.0 else text


def percent(share: float) -> str:
    """Return a share in percent, whole from 10 % on.

    Examples
    --------
    >>> percent(0.4567), percent(-0.0123), percent(0.0)
    ('46 %', '−1.2 %', '0 %')
    """
    return f"{_percent(share)} %"


def percent_interval(interval: Interval) -> str:
    """Return an interval of a share.

    Examples
    --------
    >>> percent_interval(Interval(0.42, 0.351, 0.5))
    '42 % [35, 50]'
    """
    return f"{percent(interval.value)} [{_percent(interval.low)}, {_percent(interval.high)}]"


def amount_interval(interval: Interval) -> str:
    """Return an interval of an amount."""
    return f"{amount(interval.value)} [{amount(interval.low)}, {amount(interval.high)}]"


def signed_interval(interval: Interval) -> str:
    """Return an interval of a difference in quality, all signs written.

    Examples
    --------
    >>> signed_interval(Interval(-0.01234, -0.02, 0.001))
    '−0.012 [−0.020, +0.001]'
    """
    return f"{_signed(interval.value)} [{_signed(interval.low)}, {_signed(interval.high)}]"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> counted(1, "day"), counted(1200, "request")
    ('1 day', '1,200 requests')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """Return a name without what could move a cursor or turn the direction of writing."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def shortened(text: str, width: int) -> str:
    """Return a printable text of at most `width` characters."""
    text = printable(text)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _percent(share: float) -> str:
    value = 100.0 * share
    text = f"{abs(value):.0f}" if abs(value) >= 9.95 or value == 0.0 else f"{abs(value):.1f}"
    return f"{MINUS}{text}" if value < 0.0 and float(text) != 0.0 else text


def _signed(value: float) -> str:
    text = f"{abs(value):.3f}"
    if float(text) == 0.0:
        return text
    return f"{MINUS if value < 0.0 else '+'}{text}"
