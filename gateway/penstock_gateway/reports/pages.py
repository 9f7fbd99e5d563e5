"""Pages that fetch nothing: the frame, tables and charts of intervals as inline SVG, in the reader's colours.

Owns escaping: names of teams, models and keys come from configurations and clients and may hold anything. Every text
that reaches a page goes through `escape`; what is HTML already has the type `Markup`. Read `page` and
`interval_chart`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final, NewType

from penstock_gateway.reports.bootstrap import Interval
from penstock_gateway.reports.wording import printable

Markup = NewType("Markup", str)
"""Text that is HTML already and safe to insert."""

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_ROW_HEIGHT: Final = 24
_MIDDLE: Final = _ROW_HEIGHT / 2


@dataclass(frozen=True, slots=True)
class ChartRow:
    """One line of a chart.

    Attributes
    ----------
    label, remark : str
        At the left; the remark is paler.
    interval : Interval or None
        None leaves the line empty.
    text : str
        At the right.
    """

    label: str
    remark: str
    interval: Interval | None
    text: str


def escape(text: str) -> Markup:
    """Make any text safe as content and as an attribute's value."""
    return Markup(html.escape(printable(text), quote=True).replace(" %", "&nbsp;%"))


def page(title: str, intro: str, body: Sequence[Markup], footer: str) -> str:
    """Return a whole document.

    Parameters
    ----------
    title, intro, footer : str
        Escaped here.
    body : sequence of Markup

    Returns
    -------
    str
        HTML without scripts; its policy forbids browsers to load anything.
    """
    style = resources.files("penstock_gateway.reports").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n<body>"
        f'<header><h1>{escape(title)}</h1><p class="soft">{escape(intro)}</p></header>\n'
        f"<main>{''.join(body)}</main>\n<footer><p>{escape(footer)}</p></footer></body></html>\n"
    )


def section(title: str, parts: Sequence[Markup]) -> Markup:
    """Return a part of the page with its heading."""
    return Markup(f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>\n")


def facts(pairs: Sequence[tuple[str, str]]) -> Markup:
    """Return headings with what they say."""
    return Markup(f"<dl>{''.join(f'<div><dt>{escape(a)}</dt><dd>{escape(b)}</dd></div>' for a, b in pairs)}</dl>")


def notes(texts: Sequence[str]) -> Markup:
    """Return what the reader must know before believing a figure."""
    return Markup(f'<ul class="notes">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>' if texts else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Markup:
    """Return a table, the first column as row headings; everything is escaped."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return Markup(
        f'<figure><div class="scroll" tabindex="0"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
        f"</div><figcaption>{escape(caption)}</figcaption></figure>"
    )


def interval_chart(
    title: str, axis: str, rows: Sequence[ChartRow], tick_text: Callable[[float], str], *, starts_at_zero: bool = False
) -> Markup:
    """Draw intervals below each other over one axis.

    Parameters
    ----------
    title, axis : str
        Of the chart, and what the axis shows with its unit.
    rows : sequence of ChartRow
    tick_text : callable
        Writes a value of the axis.
    starts_at_zero : bool
        Draw a bar from 0 to each value.

    Returns
    -------
    Markup
        One small SVG per row, placed in shares of its width, so that texts keep their size on any screen.
    """
    ends = [end for row in rows if row.interval is not None for end in (row.interval.low, row.interval.high)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    if high <= low:
        high = low + 1.0
    margin = 0.02 * (high - low)
    scale = _Axis(low - margin if low < 0.0 else low, high + margin)
    drawn = "".join(_row(row, scale, starts_at_zero=starts_at_zero) for row in rows)
    ticks = "".join(
        f'<text x="{scale.place(value)}" y="14" text-anchor="{scale.anchor(value)}">{escape(tick_text(value))}</text>'
        for value in scale.ticks
    )
    return Markup(
        f'<figure class="chart" role="group" aria-label="{escape(title)}"><h3>{escape(title)}</h3>{drawn}'
        f'<span></span><svg class="axis" height="20" aria-hidden="true">{ticks}</svg><span></span>'
        f"<figcaption>{escape(axis)}</figcaption></figure>"
    )


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Return round values within a range, about as many as wanted.

    Examples
    --------
    >>> [round(tick, 2) for tick in nice_ticks(-0.12, 0.61)]
    [0.0, 0.2, 0.4, 0.6]
    """
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.9)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


class _Axis:
    """Places of values in percent of a width."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high
        self.ticks = nice_ticks(low, high)

    @property
    def zero(self) -> str:
        return self.place(0.0)

    def share(self, value: float) -> float:
        return 100.0 * min(max((value - self._low) / (self._high - self._low), 0.0), 1.0)

    def place(self, value: float) -> str:
        return f"{self.share(value):.2f}%"

    def anchor(self, value: float) -> str:
        share = self.share(value)
        return "start" if share < 4.0 else "end" if share > 96.0 else "middle"


def _row(row: ChartRow, axis: _Axis, *, starts_at_zero: bool) -> str:
    parts = [_line("grid", axis.place(value), axis.place(value), 0, _ROW_HEIGHT) for value in axis.ticks]
    parts.append(_line("zero", axis.zero, axis.zero, 0, _ROW_HEIGHT))
    interval = row.interval
    if interval is not None:
        tone = "good" if interval.low > 0.0 else "bad" if interval.high < 0.0 else "open"
        if starts_at_zero:
            left = min(axis.share(0.0), axis.share(interval.value))
            width = abs(axis.share(interval.value) - axis.share(0.0))
            parts.append(f'<rect class="fill" x="{left:.2f}%" width="{width:.2f}%" y="5" height="{_ROW_HEIGHT - 10}"/>')
            tone = "plain"
        parts.append(_line(f"whisker {tone}", axis.place(interval.low), axis.place(interval.high), _MIDDLE, _MIDDLE))
        if not starts_at_zero:
            parts.append(f'<circle class="{tone}" cx="{axis.place(interval.value)}" cy="{_MIDDLE:g}" r="4.5"/>')
    label = escape(f"{row.label}: {row.text}")
    return (
        f'<div class="label">{escape(row.label)} <span>{escape(row.remark)}</span></div>'
        f'<svg class="row" height="{_ROW_HEIGHT}" role="img" aria-label="{label}"><title>{label}</title>'
        f'{"".join(parts)}</svg><div class="value">{escape(row.text)}</div>'
    )


def _line(kind: str, x1: str, x2: str, y1: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1}" x2="{x2}" y1="{y1:g}" y2="{y2:g}"/>'
