"""The card's pictures, drawn from evaluation reports.

Owns matplotlib. Must not compute results: whatever is drawn is in the report already. Each function writes one PNG; the
same report gives the same bytes. Read `draw_cost_quality` first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from penstock_training.evaluation_report import ArmResult, CurvePoint, EvaluationReport, OperatingPointResult
from penstock_training.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOTS_PER_INCH: Final = 110
ROUTER_COLOUR: Final = "#1f5fa8"
BASELINE_COLOUR: Final = "#6b6b6b"
POINT_COLOURS: Final = {"cost": "#2a9d8f", "balanced": "#e07a1f", "quality": "#9b2d5e"}
_MARKERS: Final = {"cost": "o", "balanced": "s", "quality": "D"}
# From cheap to dear: light to dark, distinguishable in grey and for colour-blind readers.
_ARM_COLOURS: Final = ("#fde6a8", "#f5b266", "#c9694f", "#6d2f5b", "#2b1a45")
MAX_PANELS: Final = 6
MAX_CATEGORIES: Final = 14


def draw_cost_quality(report: EvaluationReport, path: Path) -> None:
    """Draw quality over cost: the router's curve and operating points against policies that do not read the prompt.

    Parameters
    ----------
    report : EvaluationReport
    path : Path
        PNG file to write.
    """
    figure, (axes,) = _figure(1, 7.6, 4.9)
    best_cost = next(arm.cost_usd.value for arm in report.arms if arm.arm == report.best_arm)
    _draw_curve(axes, report.curve, best_cost)
    hull = [(point.cost_usd / best_cost, point.quality.value) for point in report.constant_hull]
    costs, mixed = _interpolated(hull)
    axes.plot(costs, mixed, "--", color=BASELINE_COLOUR, linewidth=1.4, label="mixing fixed arms (constant hull)")
    costs, mixed = _interpolated([hull[0], hull[-1]])
    axes.plot(costs, mixed, ":", color=BASELINE_COLOUR, linewidth=1.4, label="mixing cheapest and best only")
    bare = sorted((point.cost_usd / best_cost, point.quality.value) for point in report.unguarded_curve)
    axes.plot(*zip(*bare, strict=True), color=ROUTER_COLOUR, linewidth=1, alpha=0.55, label="router without guard")
    blind = sorted((point.cost_usd / best_cost, point.quality.value) for point in report.price_only_curve)
    axes.plot(*zip(*blind, strict=True), color="#9a7b4f", linewidth=1.2, label="same rule, prices and lengths only")
    for arm in report.arms:
        _draw_arm(axes, arm, best_cost)
    _label_arms(axes, report.arms, best_cost)
    for point in report.points:
        _draw_point(axes, point)
    visible = [arm.cost_usd.value / best_cost for arm in report.arms]
    visible += [p.cost_usd / best_cost for p in (*report.curve, *report.unguarded_curve)]
    _cost_axis(axes, min(visible), max(visible))
    axes.set_xlabel("mean cost per request, relative to always using the best arm (logarithmic)")
    axes.set_ylabel("mean quality (score, 0 to 1; bars: 95 % intervals)")
    axes.set_title(f"Quality over cost, {report.name} (n = {report.prompts:,})", loc="left", fontsize=11)
    axes.legend(loc="lower right", fontsize=8.5, frameon=False)
    _save(figure, path)


def draw_calibration(report: EvaluationReport, path: Path) -> None:
    """Draw predicted against observed quality, a panel per arm.

    Parameters
    ----------
    report : EvaluationReport
        At most `MAX_PANELS` arms are drawn, those with the highest quality.
    path : Path
    """
    arms = sorted(report.arms, key=lambda arm: arm.quality.value)[-MAX_PANELS:]
    figure, panels = _figure(len(arms), 2.55 * len(arms) + 0.6, 3.2)
    for axes, arm in zip(panels, arms, strict=True):
        predicted, observed = np.asarray(arm.bins.predicted), np.asarray(arm.bins.observed)
        # Two standard errors of a bin's mean score, at most sqrt(p (1 - p) / n) for scores within [0, 1].
        spread = 2.0 * np.sqrt(np.maximum(observed * (1 - observed), 1e-4) / np.asarray(arm.bins.count))
        axes.plot([0, 1], [0, 1], color=BASELINE_COLOUR, linewidth=1, linestyle="--")
        axes.errorbar(predicted, observed, yerr=spread, fmt="o", color=ROUTER_COLOUR, markersize=4, capsize=2)
        ece = arm.calibration_interval
        axes.set_title(f"{arm.arm}\nECE {ece.value:.3f} [{ece.low:.3f}, {ece.high:.3f}]", fontsize=10)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    panels[0].set_ylabel("observed mean score, 0 to 1")
    label = f"predicted quality, 0 to 1 (bins of equal counts, n = {report.prompts:,}; bars: two standard errors)"
    figure.supxlabel(label, fontsize=9.5)
    _save(figure, path)


def draw_decisions(report: EvaluationReport, path: Path) -> None:
    """Draw which arms answer which categories, a panel per operating point.

    Parameters
    ----------
    report : EvaluationReport
        Its largest `MAX_CATEGORIES` categories are drawn; the points' order is kept.
    path : Path
    """
    by_cost = [arm.arm for arm in sorted(report.arms, key=lambda arm: arm.cost_usd.value)]
    used = [arm for arm in by_cost if any(point.arm_shares[arm] >= 0.005 for point in report.points)]
    colours = dict(zip(used, _shades(len(used)), strict=True))
    names = [part.name for part in report.points[0].by_category[:MAX_CATEGORIES]]
    counts = {part.name: part.prompts for part in report.points[0].by_category}
    figure, panels = _figure(len(report.points), 3.1 * len(report.points) + 1.9, 0.32 * len(names) + 1.6, share_y=True)
    for axes, point in zip(panels, report.points, strict=True):
        shares = {part.name: part.arm_shares for part in point.by_category}
        left = np.zeros(len(names))
        for arm in used:
            width = np.array([shares[name][arm] for name in names])
            axes.barh(names, width, left=left, color=colours[arm], edgecolor="white", linewidth=0.5, label=arm)
            left += width
        axes.set_title(point.name, fontsize=10)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "50", "", "100 %"])
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(names)), [f"{name} ({counts[name]:,})" for name in names])
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(used)), frameon=False, fontsize=9)
    figure.suptitle("Share of requests per arm, by category (number of prompts)", x=0.01, ha="left", fontsize=11)
    _save(figure, path)


def draw_left_out(reports: Mapping[str, EvaluationReport], path: Path) -> None:
    """Draw, for every set that was left out of fitting, what each operating point gains and costs.

    Parameters
    ----------
    reports : mapping of str to EvaluationReport
        At least one; the first entry may be the evaluation on held-out prompts of the fitted sets.
    path : Path
    """
    names = list(reports)
    figure, panels = _figure(2, 9.0, 0.62 * len(names) + 1.9, share_y=True)
    kinds = [point.name for point in next(iter(reports.values())).points]
    offsets = np.linspace(-0.22, 0.22, len(kinds)) if len(kinds) > 1 else np.zeros(1)
    for kind, offset in zip(kinds, offsets, strict=True):
        points = [report.point(kind) for report in reports.values()]
        rows = np.arange(len(names)) + offset
        _draw_intervals(panels[0], rows, [point.over_hull for point in points], kind)
        _draw_intervals(panels[1], rows, [point.relative_cost for point in points], kind)
    for axes, reference in zip(panels, (0.0, 1.0), strict=True):
        axes.axvline(reference, color=BASELINE_COLOUR, linewidth=1, linestyle="--")
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        for row in range(0, len(names), 2):
            axes.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", zorder=0)
    panels[0].set_yticks(range(len(names)), [f"{name}\n({report.prompts:,})" for name, report in reports.items()])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    panels[0].set_title("quality (score) above mixing fixed arms at equal cost", fontsize=10)
    panels[1].set_title("cost relative to the best arm", fontsize=10)
    figure.suptitle(
        "Sets left out of fitting (number of prompts); bars: 95 % intervals", x=0.01, ha="left", fontsize=11
    )
    panels[1].set_xlim(left=0)
    panels[1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(kinds), frameon=False, fontsize=9)
    _save(figure, path)


def _figure(panels: int, width: float, height: float, *, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(np.atleast_1d(figure.subplots(1, panels, sharey=share_y)))
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="#e6e6e6", linewidth=0.7)
        one.set_axisbelow(True)
        one.tick_params(labelsize=9)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", metadata={"Software": None})


def _draw_curve(axes: Axes, curve: Sequence[CurvePoint], best_cost: float) -> None:
    ordered = sorted(curve, key=lambda point: point.cost_usd)
    cost = [point.cost_usd / best_cost for point in ordered]
    axes.fill_between(
        cost,
        [point.quality.low for point in ordered],
        [point.quality.high for point in ordered],
        color=ROUTER_COLOUR,
        alpha=0.15,
        linewidth=0,
    )
    values = [point.quality.value for point in ordered]
    axes.plot(cost, values, color=ROUTER_COLOUR, linewidth=2, label="router (band: 95 % interval)")


def _draw_arm(axes: Axes, arm: ArmResult, best_cost: float) -> None:
    below, above = arm.quality.value - arm.quality.low, arm.quality.high - arm.quality.value
    axes.errorbar(
        arm.cost_usd.value / best_cost,
        arm.quality.value,
        yerr=[[max(0.0, below)], [max(0.0, above)]],
        fmt="o",
        color="black",
        markersize=4,
        elinewidth=1,
    )


def _draw_point(axes: Axes, point: OperatingPointResult) -> None:
    quality, cost = point.quality, point.relative_cost
    axes.errorbar(
        cost.value,
        quality.value,
        yerr=[[max(0.0, quality.value - quality.low)], [max(0.0, quality.high - quality.value)]],
        fmt=_MARKERS.get(point.name, "o"),
        color=POINT_COLOURS.get(point.name, ROUTER_COLOUR),
        markersize=8,
        markeredgecolor="white",
        capsize=3,
        zorder=5,
        label=f"operating point “{point.name}”",
    )


def _draw_intervals(axes: Axes, rows: np.ndarray, intervals: Sequence[Interval], kind: str) -> None:
    values = np.array([interval.value for interval in intervals])
    errors = np.array([(max(0.0, i.value - i.low), max(0.0, i.high - i.value)) for i in intervals]).T
    axes.errorbar(
        values,
        rows,
        xerr=errors,
        fmt=_MARKERS.get(kind, "o"),
        color=POINT_COLOURS.get(kind, ROUTER_COLOUR),
        markersize=6,
        capsize=3,
        label=kind,
    )


def _interpolated(points: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Sample straight lines densely, since they bend on a logarithmic axis."""
    x, y = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    dense = np.geomspace(max(x[0], 1e-6), x[-1], 200) if x[-1] > x[0] else x
    return dense, np.interp(dense, x, y)


def _cost_axis(axes: Axes, low: float, high: float) -> None:
    """Use a logarithmic axis with plain percentages."""
    axes.set_xscale("log")
    ticks = [
        tick for tick in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if low / 1.6 <= tick <= high * 1.6
    ]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.set_xlim(low / 1.35, high * 1.35)


def _label_arms(axes: Axes, arms: Sequence[ArmResult], best_cost: float) -> None:
    """Name at most eight arms, those that no cheaper arm beats first, so that labels do not pile up."""
    ordered = sorted(arms, key=lambda arm: arm.cost_usd.value)
    frontier, top = [], -1.0
    for arm in ordered:
        if arm.quality.value > top:
            frontier.append(arm)
            top = arm.quality.value
    shown = ordered if len(ordered) <= 8 else frontier[-8:]
    for arm in shown:
        axes.annotate(
            arm.arm,
            (arm.cost_usd.value / best_cost, arm.quality.value),
            xytext=(4, -11),
            textcoords="offset points",
            fontsize=8.5,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6},
        )


def _shades(count: int) -> list[str]:
    if count <= len(_ARM_COLOURS):
        picks = np.linspace(0, len(_ARM_COLOURS) - 1, max(count, 1)).round().astype(int)
        return [_ARM_COLOURS[i] for i in picks[:count]]
    return [_ARM_COLOURS[i % len(_ARM_COLOURS)] for i in range(count)]
