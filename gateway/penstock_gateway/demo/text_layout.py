"""Aligned columns and wrapped sentences of the demonstration.

Owns the layout of plain text; what stands in it is `table`'s and `cache_table`'s. Read `headings`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Container, Sequence
from decimal import Decimal

TEXT_WIDTH = 100


def aligned(cells: Sequence[str], widths: Sequence[int], right: Container[int]) -> str:
    """Pad cells to their columns, those at the positions `right` on the left side."""
    padded = [
        cell.rjust(width) if position in right else cell.ljust(width)
        for position, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def headings(titles: Sequence[str], widths: Sequence[int], right: Container[int]) -> list[str]:
    """Return two lines of column titles, one-line titles on the lower, and a rule."""
    split = [("" if "\n" not in title else title.split("\n")[0], title.split("\n")[-1]) for title in titles]
    lines = [aligned([parts[level] for parts in split], widths, right) for level in (0, 1)]
    return [*lines, aligned(["-" * width for width in widths], widths, right)]


def wrapped(text: str, width: int = TEXT_WIDTH) -> list[str]:
    """Break a sentence between words, continued lines indented."""
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def usd(amount: Decimal) -> str:
    """Return an amount with six decimals, so that columns line up."""
    return f"{amount:.6f}"
