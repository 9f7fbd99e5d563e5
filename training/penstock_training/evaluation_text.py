"""An evaluation report for a person at a terminal or in a pipe.

Owns the wording of numbers (the card uses it too) and the tables. Must not compute results. Read `report_sections`
first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from penstock_training.evaluation_report import EvaluationReport
from penstock_training.intervals import Interval


@dataclass(frozen=True, slots=True)
class Section:
    """A titled table; the first column is text, the others are numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number_text(value: float, *, signed: bool = False, digits: int = 3) -> str:
    """Word a number.

    Parameters
    ----------
    value : float
    signed : bool
        Whether to write a plus sign.
    digits : int
        Decimal places.

    Returns
    -------
    str
        With a real minus sign; "–" for NaN and "never" for an infinite cost.
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "never"
    rounded = 0.0 if abs(value) < 0.5 * 10**-digits else value
    text = f"{rounded:+.{digits}f}" if signed else f"{rounded:.{digits}f}"
    return text.replace("-", "−")


def interval_text(interval: Interval, *, signed: bool = False, percent: bool = False) -> str:
    """Word an interval as ``value [low, high]``, as a share or in percent."""
    if percent:
        value, low, high = (number_text(100 * v, digits=0) for v in (interval.value, interval.low, interval.high))
        return f"{value} % [{low}, {high}]"
    value, low, high = (number_text(v, signed=signed) for v in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"


def report_sections(report: EvaluationReport) -> list[Section]:
    """Arrange the report's main results as tables.

    Parameters
    ----------
    report : EvaluationReport

    Returns
    -------
    list of Section
        Policies, differences at equal cost, arms, and calls.
    """
    best_cost = next(arm.cost_usd.value for arm in report.arms if arm.arm == report.best_arm)
    policies = [(p.name, interval_text(p.quality), interval_text(p.relative_cost, percent=True)) for p in report.points]
    for baseline in report.baselines:
        cost = f"{number_text(100 * baseline.cost_usd.value / best_cost, digits=0)} %"
        policies.append((f"{baseline.name} ({baseline.note})", interval_text(baseline.quality), cost))
    differences = [
        (p.name, *(interval_text(d, signed=True) for d in (p.over_best, p.over_hull, p.over_mixing, p.over_price_only)))
        for p in report.points
    ]
    arms = [
        (
            arm.arm,
            interval_text(arm.quality),
            f"{arm.cost_usd.value:.3g}",
            number_text(arm.calibration_error),
            f"{number_text(arm.brier)} ({number_text(arm.brier_constant)})",
        )
        for arm in report.arms
    ]
    used = [a.arm for a in report.arms if any(p.arm_shares[a.arm] >= 0.005 for p in report.points)]
    calls = [
        (p.name, *(_share(p.arm_shares[arm]) for arm in used), *(_share(s) for s in p.reason_shares.values()))
        for p in report.points
    ]
    reasons = tuple(reason.replace("_", " ") for reason in report.points[0].reason_shares)
    return [
        Section("Quality and cost", ("policy", "quality", f"cost ({report.best_arm} = 100 %)"), tuple(policies)),
        Section(
            "Quality above other policies at the same mean cost",
            ("point", "always-best (any cost)", "fixed-arm mixtures", "cheapest-best mixing", "prices only"),
            tuple(differences),
        ),
        Section("Arms", ("arm", "quality", "USD per request", "ECE", "Brier (of the mean)"), tuple(arms)),
        Section("Calls", ("point", *used, *reasons), tuple(calls)),
    ]


def render_plain(report: EvaluationReport) -> str:
    """Lay the report out in aligned columns without any control characters.

    Parameters
    ----------
    report : EvaluationReport

    Returns
    -------
    str
        Ends without a line feed.
    """
    blocks = [_headline(report)]
    for section in report_sections(report):
        rows = [section.header, *section.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(section.header))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        blocks.append("\n".join([section.title, *(f"  {line}" for line in lines)]))
    blocks.append("\n".join(_sentences(report)))
    return "\n\n".join(blocks)


def print_tables(report: EvaluationReport, console: Console) -> None:
    """Show the report as tables in a terminal."""
    console.print(_headline(report), style="bold")
    for section in report_sections(report):
        table = Table(title=section.title, title_justify="left", header_style="bold")
        for i, name in enumerate(section.header):
            table.add_column(name, justify="left" if i == 0 else "right")
        for row in section.rows:
            table.add_row(*row)
        console.print(table)
    for sentence in _sentences(report):
        console.print(sentence, markup=False)


def _headline(report: EvaluationReport) -> str:
    return (
        f"{report.name}: {report.prompts:,} prompts, {report.groups:,} questions, default arm {report.default_arm}; "
        f"brackets are 95 % intervals"
    )


def _sentences(report: EvaluationReport) -> list[str]:
    sentences = [f"- {verdict}" for verdict in report.verdicts]
    if report.arms_left_out:
        sentences.append(f"- Without any outcome and left out: {', '.join(report.arms_left_out)}.")
    if report.prompts_left_out:
        sentences.append(f"- {report.prompts_left_out:,} prompts lack a score for some arm and are left out.")
    if report.cells_with_expected_cost:
        count = report.cells_with_expected_cost
        sentences.append(f"- In {count:,} cells the expected cost stands in for an unknown one.")
    return sentences


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"
