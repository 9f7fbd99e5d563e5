"""Money as whole numbers, for counters that are added to by many: one picodollar is 10⁻¹² USD.

A price has at most six decimals of a dollar per million tokens, so every token costs a whole number of picodollars, and
sums of 64-bit whole numbers are exact up to nine million dollars a counter. Read `to_picousd`.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

PICOUSD_PER_USD = 10**12
MAX_PICOUSD = 2**63 - 1
"""What a counter of Redis holds; about 9.2 million USD."""

_ONE = Decimal(1)


def to_picousd(cost_usd: Decimal) -> int:
    """Return a cost in whole picodollars.

    Parameters
    ----------
    cost_usd : Decimal
        USD.

    Returns
    -------
    int
        10⁻¹² USD, the last one rounded half to even.

    Examples
    --------
    >>> to_picousd(Decimal("0.000075"))
    75000000
    """
    return int((cost_usd * PICOUSD_PER_USD).quantize(_ONE, ROUND_HALF_EVEN))


def to_usd(picousd: int) -> Decimal:
    """Return picodollars as exact USD.

    Examples
    --------
    >>> to_usd(75_000_000)
    Decimal('0.000075')
    """
    return Decimal(picousd).scaleb(-12).normalize() if picousd else Decimal(0)
