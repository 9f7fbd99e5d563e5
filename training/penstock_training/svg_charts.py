"""Pictures of an evaluation as inline SVG, for a page that fetches nothing and follows the reader's colours.

Owns drawing: scales, axes, labels that keep out of each other's way. Colours are classes of ``report.css``. Must not
compute results. Every text that goes in is escaped here. Read `Frame`, then `draw_curve`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from penstock_training.evaluation_report import ArmResult, CurvePoint, EvaluationReport
from penstock_training.evaluation_text import number_text
from penstock_training.html_parts import escape
from penstock_training.intervals import Interval
from penstock_training.learning_curve import LearningCurve

Points = Sequence[tuple[float, float]]
_COST_TICKS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_LABEL: Final = 40  # characters
_SAME_DOT: Final = 4.0  # pixels
_CHARACTER: Final = 6.4  # width of a label's character, pixels


@dataclass(slots=True)
class Frame:
    """A drawing area with a horizontal and a vertical scale.

    Attributes
    ----------
    width, height : float
        Of the whole picture, pixels.
    x_range, y_range : (float, float)
        Values at the ends of the axes.
    has_log_x : bool
    left, right, top, bottom : float
        Margins, pixels.
    parts : list of str
        SVG drawn so far.
    """

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    has_log_x: bool = False
    left: float = 58.0
    right: float = 16.0
    top: float = 14.0
    bottom: float = 50.0
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        """Horizontal place of a value, pixels, kept inside the frame."""
        low, high = self.x_range
        if self.has_log_x:
            low, high, value = math.log(low), math.log(high), math.log(max(value, self.x_range[0]))
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return self.left + share * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Vertical place of a value, pixels, kept inside the frame."""
        low, high = self.y_range
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def axes(self, x_ticks: Points | Sequence[tuple[float, str]], x_title: str, y_title: str, digits: int = 2) -> None:
        """Draw grid, tick labels and titles; `x_ticks` are values with their texts."""
        for value in nice_ticks(*self.y_range):
            y = self.y(value)
            self.line((self.left, y), (self.width - self.right, y), "grid")
            self.text(self.left - 8, y + 4, number_text(value, digits=digits), anchor="end", kind="soft")
        for value, text in x_ticks:
            x = self.x(float(value))
            self.line((x, self.top), (x, self.height - self.bottom), "grid")
            self.text(x, self.height - self.bottom + 17, str(text), anchor="middle", kind="soft")
        middle = (self.left + self.width - self.right) / 2
        self.text(middle, self.height - 10, x_title, anchor="middle")
        y = (self.top + self.height - self.bottom) / 2
        self.parts.append(
            f'<text transform="translate(14 {y:.1f}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>'
        )

    def line(self, start: tuple[float, float], end: tuple[float, float], kind: str) -> None:
        """Draw a line between two places in pixels."""
        self.parts.append(
            f'<line class="{kind}" x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'
        )

    def path(self, points: Points, kind: str, *, closes: bool = False) -> None:
        """Draw a line through values."""
        places = [f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points]
        if places:
            self.parts.append(f'<path class="{kind}" d="M{" L".join(places)}{"Z" if closes else ""}"/>')

    def band(self, points: Sequence[tuple[float, Interval]], kind: str = "band") -> None:
        """Fill between the ends of intervals."""
        upper = [(x, interval.high) for x, interval in points]
        lower = [(x, interval.low) for x, interval in reversed(points)]
        self.path([*upper, *lower], kind, closes=True)

    def dot(self, x: float, y: float, kind: str, title: str, radius: float = 4.0) -> None:
        """Draw a dot at a value, with a text that shows on hovering."""
        self.parts.append(
            f'<circle class="{kind}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius:g}">'
            f"<title>{escape(title)}</title></circle>"
        )

    def whisker(self, x: float, interval: Interval, kind: str = "bar") -> None:
        """Draw a vertical interval at a value."""
        if math.isfinite(interval.low) and math.isfinite(interval.high):
            self.line((self.x(x), self.y(interval.low)), (self.x(x), self.y(interval.high)), kind)

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> None:
        """Write at a place in pixels."""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>')

    def render(self, label: str) -> str:
        """Close the picture; `label` says what it shows to those who cannot see it."""
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{escape(label)}">'
            f"{''.join(self.parts)}</svg>"
        )


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values within a range, about as many as wanted.

    Examples
    --------
    >>> [round(tick, 2) for tick in nice_ticks(0.37, 0.91)]
    [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    """
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.9)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def draw_curve(report: EvaluationReport) -> str:
    """Draw quality over cost: the router with its band and operating points, fixed arms, their hull, prices only."""
    best = report.best_cost_usd
    curve = sorted(((p.cost_usd / best, p.quality) for p in report.curve), key=lambda pair: pair[0])
    bare = _plain(report.unguarded_curve, best)
    blind = _plain(report.price_only_curve, best)
    hull = _dense([(p.cost_usd / best, p.quality.value) for p in report.constant_hull])
    arms = [(arm.cost_usd.value / best, arm.quality, arm.arm) for arm in report.arms]
    costs = [c for c, _ in curve] + [c for c, _ in bare] + [c for c, _, _ in arms]
    qualities = [q for _, i in curve for q in (i.low, i.high)] + [q for _, i, _ in arms for q in (i.low, i.high)]
    low, high = max(min(costs) / 1.3, 1e-4), max(costs) * 1.35
    frame = Frame(760, 430, (low, high), _padded(min(qualities), max(qualities)), has_log_x=True)
    ticks = [(tick, f"{100 * tick:g} %") for tick in _COST_TICKS if low <= tick <= high]
    frame.axes(ticks, f"mean cost per request ({report.best_arm} = 100 %), logarithmic", "mean quality (score, 0 to 1)")
    frame.band(curve)
    frame.path(hull, "hull")
    frame.path(blind, "blind")
    frame.path(bare, "bare")
    frame.path([(c, i.value) for c, i in curve], "router")
    for c, i in curve:
        frame.dot(c, i.value, "step", f"{_worded(i)} at {100 * c:.1f} % of the cost", radius=2.4)
    labels = []
    for cost, quality, name in arms:
        frame.whisker(cost, quality, "barplain")
        frame.dot(cost, quality.value, "arm", f"{name} for everything: {_worded(quality)}")
        labels.append((cost, quality.value, name))
    for point in report.points:
        frame.whisker(point.relative_cost.value, point.quality)
        title = f"{point.name}: quality {_worded(point.quality)} at {100 * point.relative_cost.value:.0f} % of the cost"
        frame.dot(point.relative_cost.value, point.quality.value, "point", title, radius=6.5)
        labels.append((point.relative_cost.value, point.quality.value, f"“{point.name}”"))
    _place_labels(frame, labels)
    return frame.render(f"Quality over cost of the router and of {len(arms)} fixed arms")


def draw_calibration(arm: ArmResult) -> str:
    """Draw predicted against observed quality of one arm, bars of two standard errors."""
    frame = Frame(230, 230, (0.0, 1.0), (0.0, 1.0), left=52, right=10, top=10, bottom=44)
    frame.axes([(0.0, "0"), (0.5, "0.5"), (1.0, "1")], "predicted quality", "observed score", digits=1)
    frame.path([(0.0, 0.0), (1.0, 1.0)], "hull")
    for predicted, observed, count in zip(arm.bins.predicted, arm.bins.observed, arm.bins.count, strict=True):
        spread = 2.0 * math.sqrt(max(observed * (1.0 - observed), 1e-4) / count)
        frame.whisker(predicted, Interval(observed, max(0.0, observed - spread), min(1.0, observed + spread)))
        frame.dot(
            predicted, observed, "s0", f"predicted {predicted:.2f}, observed {observed:.2f}, {count} prompts", 3.5
        )
    return frame.render(f"Calibration of {arm.arm}")


def draw_learning(curve: LearningCurve) -> str:
    """Draw the quality above fixed arms over the number of own outcomes, with and without prior."""
    sizes = sorted({point.size for point in curve.points})
    bounds = [b for p in curve.points for b in (p.gain.low, p.gain.high)] + [0.0]
    x_range, y_range = (sizes[0] / 1.2, sizes[-1] * 1.2), _padded(min(bounds), max(bounds))
    frame = Frame(760, 330, x_range, y_range, has_log_x=True, left=70)
    ticks = [(float(size), f"{size:,}") for size in sizes]
    frame.axes(ticks, "own prompts, each scored on every arm (logarithmic)", "quality above fixed arms", digits=3)
    frame.line((frame.left, frame.y(0.0)), (frame.width - frame.right, frame.y(0.0)), "zero")
    for kind, has_prior in (("s0", True), ("s1", False)):
        own = [point for point in curve.points if point.has_prior == has_prior]
        frame.path([(p.size, p.gain.value) for p in own], f"{kind} line")
        for p in own:
            # The two forms are drawn beside each other, so that their intervals stay apart.
            place = p.size * (1.02 if has_prior else 0.98)
            frame.whisker(place, p.gain, kind)
            frame.dot(place, p.gain.value, kind, f"{p.size:,} prompts: {_worded(p.gain)}")
    return frame.render("Learning curve")


def draw_interval(interval: Interval, bound: float) -> str:
    """Draw one interval around 0 as a small horizontal picture, for a table's cell; the scale is ±`bound`."""
    frame = Frame(180, 18, (-bound, bound), (0.0, 1.0), left=4, right=4, top=0, bottom=0)
    frame.line((frame.x(0.0), 0), (frame.x(0.0), 18), "zero")
    frame.line((frame.x(interval.low), 9), (frame.x(interval.high), 9), "bar")
    frame.dot(interval.value, 0.5, "s0", _worded(interval), 3.5)
    return frame.render(_worded(interval)).replace("<svg ", '<svg width="180" height="18" ', 1)


def _plain(points: Sequence[CurvePoint], best: float) -> list[tuple[float, float]]:
    return sorted((point.cost_usd / best, point.quality.value) for point in points)


def _dense(points: Points) -> list[tuple[float, float]]:
    """Sample straight lines, since they bend on a logarithmic axis."""
    found = []
    for (x0, y0), (x1, y1) in pairwise(points):
        found += [(x0 + (x1 - x0) * i / 40, y0 + (y1 - y0) * i / 40) for i in range(40)]
    return [*found, points[-1]]


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = max(0.06 * (high - low), 1e-3)
    return low - margin, high + margin


def _worded(interval: Interval) -> str:
    return f"{number_text(interval.value)} [{number_text(interval.low)}, {number_text(interval.high)}]"


def _place_labels(frame: Frame, labels: Sequence[tuple[float, float, str]]) -> None:
    """Write labels beside their dots, each at the first of eight places where it covers no other label and no dot."""
    labels = _merged(frame, labels)
    dots = [(frame.x(x) - 6, frame.y(y) - 6, frame.x(x) + 6, frame.y(y) + 6) for x, y, _ in labels]
    places = [(frame.x(x), frame.y(y)) for x, y, _ in labels]
    taken: list[tuple[float, float, float, float]] = []
    for x, y, text in labels:
        width = len(text) * _CHARACTER
        found = None
        for dx, dy in (
            (10, 16),
            (10, -8),
            (-width - 10, -8),
            (-width - 10, 16),
            (10, 32),
            (10, -24),
            (-width - 10, 32),
            (-width - 10, -24),
        ):
            left, base = frame.x(x) + dx, frame.y(y) + dy
            box = (left, base - 11, left + width, base + 3)
            is_inside = (
                box[0] >= frame.left and box[2] <= frame.width - 2 and box[1] >= 0 and box[3] <= frame.height - 40
            )
            is_own = all(_gap(box, (frame.x(x), frame.y(y))) <= _gap(box, other) for other in places)
            if is_inside and is_own and not any(_overlap(box, other) for other in (*taken, *dots)):
                found = box
                break
        if found is not None:
            taken.append(found)
            frame.text(found[0], found[3] - 3, text, kind="halo")


def _merged(frame: Frame, labels: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Give dots that lie on each other one label with all names."""
    found: list[tuple[float, float, str]] = []
    for x, y, text in labels:
        for index, (other_x, other_y, names) in enumerate(found):
            if math.hypot(frame.x(x) - frame.x(other_x), frame.y(y) - frame.y(other_y)) < _SAME_DOT:
                found[index] = (other_x, other_y, f"{names}, {text}")
                break
        else:
            found.append((x, y, text))
    found = [(x, y, text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…") for x, y, text in found]
    return found


def _gap(box: tuple[float, float, float, float], place: tuple[float, float]) -> float:
    """Distance from a box to a place; 0 inside."""
    across = max(box[0] - place[0], 0.0, place[0] - box[2])
    return math.hypot(across, max(box[1] - place[1], 0.0, place[1] - box[3]))


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
