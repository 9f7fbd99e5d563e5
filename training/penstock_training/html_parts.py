"""Pieces of an HTML page: tables, interval cells, stacked bars, verdicts.

Owns escaping: names of arms, categories and files come from other people's files and may hold anything. Every text that
reaches the page goes through `escape` here; what is already HTML has the type `Markup`. Read `table`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Final, NewType

from penstock_training.evaluation_text import number_text, printable
from penstock_training.intervals import Interval
from penstock_training.verdicts import Verdict

Markup = NewType("Markup", str)
"""Text that is HTML already and safe to insert."""

SHADES: Final = 8
_SENTENCE: Final = 28  # characters
_TONES: Final = {"good": "shown", "open": "not decided", "bad": "against it"}


class Cell(str):
    """HTML for one table cell, as opposed to plain text that is still to be escaped."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """Make any text safe as content and as an attribute's value; control characters become a visible mark."""
    return Markup(html.escape(printable(text), quote=True))


def interval_cell(interval: Interval, *, signed: bool = False, percent: bool = False) -> Cell:
    """A value with its 95 % interval, the interval paler."""
    if percent:
        value, low, high = (number_text(100 * v, digits=1) for v in (interval.value, interval.low, interval.high))
        unit = "" if math.isnan(interval.value) or math.isinf(interval.value) else " %"
    else:
        value, low, high = (number_text(v, signed=signed) for v in (interval.value, interval.low, interval.high))
        unit = ""
    if signed and percent and interval.value > 0:
        value = f"+{value}"
    return Cell(f'{value}{unit} <span class="i">[{low}, {high}]</span>')


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Markup:
    """Lay out a table, the first column as row headings.

    Parameters
    ----------
    header : sequence of str
    rows : sequence of sequences of str
        A `Cell` is inserted as it is, any other text is escaped.
    caption : str
        What the numbers are, with their units; escaped.

    Returns
    -------
    Markup
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{_content(row[0])}</th>'
        + "".join(f'<td class="{_kind(cell)}">{_content(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Markup(
        f'<figure class="t"><div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{below}</figure>"
    )


def figure(svg: str, caption: str) -> Markup:
    """Set a picture with its caption."""
    return Markup(f'<figure><div class="scroll">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>')


def stacked_bars(rows: Sequence[tuple[str, str, Mapping[str, float]]], shades: Mapping[str, int]) -> Markup:
    """Draw shares per row as one bar each.

    Parameters
    ----------
    rows : sequence of (str, str, mapping of str to float)
        Name, a remark such as the number of prompts, and shares by arm, summing to 1.
    shades : mapping of str to int
        Colour class of each arm, from `arm_shades`.

    Returns
    -------
    Markup
    """
    found = []
    for name, remark, shares in rows:
        parts = []
        for arm, share in shares.items():
            if share < 0.001:
                continue
            percent = f"{100 * share:.0f} %"
            shown = percent if share >= 0.12 else ""
            parts.append(
                f'<i class="c{shades[arm]}" style="width:{100 * share:.2f}%" title="{escape(arm)}: {percent}">'
                f"{shown}</i>"
            )
        found.append(
            f'<div class="name">{escape(name)} <span>{escape(remark)}</span></div>'
            f'<div class="parts">{"".join(parts)}</div>'
        )
    return Markup(f'<div class="stack">{"".join(found)}</div>')


def arm_key(shades: Mapping[str, int]) -> Markup:
    """The legend of `stacked_bars`."""
    items = "".join(f'<li><i class="c{shade}"></i>{escape(arm)}</li>' for arm, shade in shades.items())
    return Markup(f'<ul class="key">{items}</ul>')


def arm_shades(arms: Sequence[str]) -> dict[str, int]:
    """Give each arm a colour class, in the order given; beyond eight arms colours repeat."""
    if len(arms) <= SHADES // 2:  # spread over the scale, so that neighbours differ
        return {arm: index * 2 for index, arm in enumerate(arms)}
    return {arm: index % SHADES for index, arm in enumerate(arms)}


def verdict_list(verdicts: Sequence[Verdict]) -> Markup:
    """Questions with answers, coloured and marked in words."""
    items = "".join(
        f'<li class="{v.tone}"><span class="mark">{_TONES[v.tone]}</span><b>{escape(v.question)}</b>'
        f"{escape(v.answer)}</li>"
        for v in verdicts
    )
    return Markup(f'<ul class="verdicts">{items}</ul>')


def _content(cell: str) -> str:
    return str(cell) if isinstance(cell, Cell) else escape(cell)


def _kind(cell: str) -> str:
    """Numbers do not wrap, sentences do and need room."""
    if isinstance(cell, Cell) or len(cell) < _SENTENCE:
        return "n"
    return "w"
