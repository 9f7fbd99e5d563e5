"""Charts as SVG, drawn on the server: no script, colours by class, so that both themes hold.

Owns scales, ticks and escaping. Every chart has a title for screen readers, and stands beside a table with the same
numbers. Read `cost_quality`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

_INTERVAL_Z: Final = 1.959964  # 95 % of a normal distribution
_LABEL_GAP: Final = 15.0  # pixels between two names, so that they can be read
_LETTER: Final = 6.5  # pixels of a letter of 12 pixels, roughly


@dataclass(frozen=True, slots=True)
class Mark:
    """A point with its interval.

    Attributes
    ----------
    name : str
    x, y : float
        `x` above 0 where the axis is logarithmic.
    low, high : float or None
        Of `y`.
    is_chosen : bool
    """

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    is_chosen: bool = False


@dataclass(slots=True)
class Chart:
    """SVG under construction; Jinja shows it as it is, since everything put in is escaped here."""

    width: float
    height: float
    title: str
    parts: list[str] = field(default_factory=list)

    def __html__(self) -> str:
        """Return the element."""
        head = f'<svg class="chart" viewBox="0 0 {self.width:g} {self.height:g}" role="img"'
        return f'{head} aria-label="{escape(self.title)}">{"".join(self.parts)}</svg>'

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Draw a line."""
        self.parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def dot(self, x: float, y: float, radius: float, kind: str) -> None:
        """Draw a point."""
        self.parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>')

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """Draw a bar."""
        self.parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"/>'
        )

    def text(self, x: float, y: float, text: str, kind: str = "tick", anchor: str = "start") -> None:
        """Write something."""
        self.parts.append(
            f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text[:60])}</text>'
        )

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """Draw a line through points."""
        if points:
            steps = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            self.parts.append(f'<path class="{kind}" d="M{steps}"/>')


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where values stand."""

    chart: Chart
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    is_log: bool = False
    left: float = 46.0
    right: float = 96.0
    top: float = 14.0
    bottom: float = 42.0

    def x(self, value: float) -> float:
        low, high = self.x_range
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        share = (value - low) / ((high - low) or 1.0)
        return self.left + share * (self.chart.width - self.left - self.right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        share = min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0)
        return self.chart.height - self.bottom - share * (self.chart.height - self.top - self.bottom)

    def axes(self, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[float], x_title: str, y_title: str) -> None:
        chart, floor = self.chart, self.chart.height - self.bottom
        for value in y_ticks:
            chart.line(self.left, self.y(value), chart.width - self.right, self.y(value), "grid")
            chart.text(self.left - 6, self.y(value) + 4, f"{value:.2g}", anchor="end")
        for value, label in x_ticks:
            chart.line(self.x(value), floor, self.x(value), floor + 4, "axis")
            chart.text(self.x(value), floor + 17, label, anchor="middle")
        chart.line(self.left, floor, chart.width - self.right, floor, "axis")
        chart.text((self.left + chart.width - self.right) / 2, chart.height - 6, x_title, "label", "middle")
        chart.text(self.left - 38, self.top - 3, y_title, "label")


def interval(value: float, standard_error: float | None) -> tuple[float, float] | None:
    """Return the 95 % interval of a share, kept in [0, 1]; None without a standard error."""
    if standard_error is None or not math.isfinite(standard_error):
        return None
    return max(0.0, value - _INTERVAL_Z * standard_error), min(1.0, value + _INTERVAL_Z * standard_error)


def cost_quality(marks: Sequence[Mark], *, title: str = "Predicted quality over expected cost") -> Chart | None:
    """Plot candidates: expected cost (logarithmic) against predicted quality with 95 % intervals.

    Parameters
    ----------
    marks : sequence of Mark

    Returns
    -------
    Chart or None
        None when there is nothing to show.
    """
    shown = [mark for mark in marks if mark.x > 0]
    if not shown:
        return None
    chart = Chart(640, 300, title)
    low, high = min(m.x for m in shown), max(m.x for m in shown)
    low, high = (low / 2, high * 2) if high / low < 2 else (low / 1.3, high * 1.3)
    frame = _Frame(chart, (low, high), _quality_range(shown), is_log=True)
    frame.axes(_usd_ticks(low, high), _steps(*frame.y_range), "expected cost of this request, USD (log)", "quality")
    _draw_marks(frame, shown)
    return chart


def frontier(line: Sequence[tuple[float, float]], marks: Sequence[Mark]) -> Chart | None:
    """Plot what a router reached in its evaluation: cost relative to the best arm against quality.

    Parameters
    ----------
    line : sequence of (float, float)
        Cost and quality over the whole range of the knob, on validation data.
    marks : sequence of Mark
        Operating points on test data with their intervals.
    """
    if not marks and not line:
        return None
    chart = Chart(640, 300, "Quality over relative cost, with the operating points and their intervals")
    xs = [x for x, _ in line] + [mark.x for mark in marks]
    bounds = [Mark("", x, y) for x, y in line] + list(marks)
    low, high = min(xs), max(xs)
    pad = (high - low or 0.1) * 0.08
    frame = _Frame(chart, (low - pad, high + pad), _quality_range(bounds))
    ticks = [(value, f"{value:.2g}") for value in _steps(*frame.x_range)]
    frame.axes(ticks, _steps(*frame.y_range), "cost relative to always using the best arm", "quality")
    chart.path([(frame.x(x), frame.y(y)) for x, y in sorted(line)], "curve")
    _draw_marks(frame, marks)
    return chart


def columns(
    counts: Sequence[tuple[int, int, int]], labels: tuple[str, str], *, title: str = "Requests over time"
) -> Chart | None:
    """Plot requests over time as columns of three stacked counts: answered by a model, from the cache, failed.

    Parameters
    ----------
    counts : sequence of (int, int, int)
        From the oldest to the newest.
    labels : (str, str)
        Time of the first and of the last column.
    """
    highest = max((sum(column) for column in counts), default=0)
    if not highest:
        return None
    chart = Chart(640, 150, title)
    frame = _Frame(chart, (0, len(counts)), (0, highest), right=8.0, bottom=24.0, left=34.0)
    for value in (highest, highest // 2) if highest > 1 else (highest,):
        chart.line(frame.left, frame.y(value), chart.width - frame.right, frame.y(value), "grid")
        chart.text(frame.left - 6, frame.y(value) + 4, f"{value:.3g}", anchor="end")
    step = (chart.width - frame.left - frame.right) / len(counts)
    for place, column in enumerate(counts):
        total = 0
        for count, kind in zip(column, ("bar", "bar cached", "bar failed"), strict=True):
            if count:
                top, foot = frame.y(total + count), frame.y(total)
                chart.box(frame.x(place) + step * 0.12, top, step * 0.76, foot - top, kind)
            total += count
    floor = chart.height - frame.bottom
    chart.line(frame.left, floor, chart.width - frame.right, floor, "axis")
    chart.text(frame.left, chart.height - 7, labels[0])
    chart.text(chart.width - frame.right, chart.height - 7, labels[1], anchor="end")
    return chart


def _draw_marks(frame: _Frame, marks: Sequence[Mark]) -> None:
    chart, lowest = frame.chart, math.inf
    for mark in sorted(marks, key=lambda mark: mark.y):
        x, y, kind = frame.x(mark.x), frame.y(mark.y), " chosen" if mark.is_chosen else ""
        if mark.low is not None and mark.high is not None:
            chart.line(x, frame.y(mark.low), x, frame.y(mark.high), f"whisker{kind}")
            for end in (mark.low, mark.high):
                chart.line(x - 4, frame.y(end), x + 4, frame.y(end), f"whisker{kind}")
        chart.dot(x, y, 6 if mark.is_chosen else 4.5, f"dot{kind}")
        label = mark.name if len(mark.name) <= 22 else f"{mark.name[:21]}…"
        reach = 14.0 + _LETTER * len(label)
        is_in_way = any(
            0.0 < frame.x(other.x) - x < reach and abs(frame.y(other.y) - y) < _LABEL_GAP for other in marks
        )
        if is_in_way and x - reach > frame.left:
            chart.text(x - 10, y + 4, label, f"name{kind}", "end")
            continue
        lowest = min(y + 4, lowest - _LABEL_GAP)
        chart.text(x + 10, lowest, label, f"name{kind}")


def _quality_range(marks: Sequence[Mark]) -> tuple[float, float]:
    lows = [mark.y if mark.low is None else mark.low for mark in marks]
    highs = [mark.y if mark.high is None else mark.high for mark in marks]
    low, high = min(lows), max(highs)
    pad = max((high - low) * 0.1, 0.02)
    return max(0.0, low - pad), min(1.0, high + pad)


def _steps(low: float, high: float) -> list[float]:
    """Return three to seven round values of a range."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _usd_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return 1, 2 and 5 of each power of ten in a range, thinned to at most six."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    found = [value for value in values if low <= value <= high]
    thinned = found if len(found) <= 6 else [value for value in found if f"{value:.0e}"[0] == "1"] or found[::3]
    return [(value, f"{value:.0e}".replace("e-0", "e-") if value < 1e-4 else f"{value:g}") for value in thinned]
