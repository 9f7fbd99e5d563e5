"""An evaluation report for a person at a terminal or in a pipe.

Owns the wording of numbers (the card uses it too) and the tables. Must not compute results. Read `report_sections`
first.
"""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import Final

from penstock_training.evaluation_report import EvaluationReport
from penstock_training.intervals import Interval

WIDTH: Final = 80  # characters; the smallest usual terminal
_LONG_NOTE: Final = 30  # characters; longer notes stand below their table


@dataclass(frozen=True, slots=True)
class Section:
    """A titled table, the first column text, with remarks below it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()


def count_text(count: int, noun: str) -> str:
    """Word a count with its noun: ``1 prompt``, ``1,200 prompts``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


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
        Policies, differences at equal cost, arms, calls and their reasons.
    """
    points = report.points
    used = [a.arm for a in report.arms if any(p.arm_shares[a.arm] >= 0.005 for p in points)]
    calls = [(arm, *(_share(p.arm_shares[arm]) for p in points)) for arm in used]
    reasons = [
        (reason.replace("_", " "), *(_share(p.reason_shares[reason]) for p in points))
        for reason in points[0].reason_shares
    ]
    names = tuple(p.name for p in points)
    return [
        _policies(report),
        _differences(report),
        _arms(report),
        Section("Calls per arm", ("arm", *names), tuple(calls)),
        Section("Reasons of the choices", ("reason", *names), tuple(reasons)),
    ]


def _policies(report: EvaluationReport) -> Section:
    best_cost = next(arm.cost_usd.value for arm in report.arms if arm.arm == report.best_arm)
    rows = [(p.name, interval_text(p.quality), interval_text(p.relative_cost, percent=True)) for p in report.points]
    remarks = []
    for baseline in report.baselines:
        is_long = len(baseline.note) > _LONG_NOTE
        name = baseline.name if is_long else f"{baseline.name} ({baseline.note})"
        cost = f"{number_text(100 * baseline.cost_usd.value / best_cost, digits=0)} %"
        rows.append((name, interval_text(baseline.quality), cost))
        remarks += [f"{baseline.name}: {baseline.note}"] if is_long else []
    header = ("policy", "quality", f"cost ({report.best_arm} = 100 %)")
    return Section("Quality and cost", header, tuple(rows), tuple(remarks))


def _differences(report: EvaluationReport) -> Section:
    """One comparison per row: four intervals side by side are wider than a terminal."""
    rows = []
    for p in report.points:
        compared = (
            ("always-best (at any cost)", p.over_best),
            ("fixed-arm mixtures", p.over_hull),
            ("cheapest-best mixing", p.over_mixing),
            ("prices only", p.over_price_only),
        )
        for i, (name, difference) in enumerate(compared):
            rows.append((p.name if i == 0 else "", name, interval_text(difference, signed=True)))
    title = "Quality above other policies at the same mean cost"
    return Section(title, ("point", "compared with", "difference in quality"), tuple(rows))


def _arms(report: EvaluationReport) -> Section:
    rows = [
        (
            arm.arm,
            interval_text(arm.quality),
            f"{arm.cost_usd.value:.3g}",
            number_text(arm.calibration_error),
            f"{number_text(arm.brier)} ({number_text(arm.brier_constant)})",
        )
        for arm in report.arms
    ]
    return Section("Arms", ("arm", "quality", "USD/request", "ECE", "Brier (of mean)"), tuple(rows))


def render_plain(report: EvaluationReport) -> str:
    """Lay the report out in aligned columns without any control characters, for a terminal and a pipe alike.

    Parameters
    ----------
    report : EvaluationReport

    Returns
    -------
    str
        Lines of at most `WIDTH` characters unless names of arms are long; ends without a line feed.
    """
    blocks = [f"{_wrapped(_headline(report))}\nbrackets hold 95 % intervals"]
    blocks += [render_section(section) for section in report_sections(report)]
    blocks.append("\n".join(_wrapped(sentence) for sentence in _sentences(report)))
    return printable("\n\n".join(blocks))


def printable(text: str) -> str:
    """Replace control characters, which names in other people's files may hold, by a visible mark; lines stay."""
    return "".join(c if c.isprintable() or c in "\n\t\u00a0" else "\ufffd" for c in text)


def render_section(section: Section) -> str:
    """Lay one table out in aligned columns, title above and remarks below."""
    rows = [section.header, *section.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(section.header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([section.title, *(f"  {line}" for line in (*lines, *section.remarks))])


def _wrapped(sentence: str) -> str:
    """Break a sentence into lines; only whole words move."""
    return textwrap.fill(sentence, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _headline(report: EvaluationReport) -> str:
    questions = count_text(report.groups, "question")
    return f"{report.name}: {count_text(report.prompts, 'prompt')}, {questions}, default arm {report.default_arm}"


def _sentences(report: EvaluationReport) -> list[str]:
    sentences = [f"- {verdict}" for verdict in report.verdicts]
    if report.arms_left_out:
        sentences.append(f"- Without any outcome and left out: {', '.join(report.arms_left_out)}.")
    if report.prompts_left_out:
        lack = (
            "lacks a score for some arm and is" if report.prompts_left_out == 1 else "lack a score for some arm and are"
        )
        sentences.append(f"- {count_text(report.prompts_left_out, 'prompt')} {lack} left out.")
    if report.cells_with_expected_cost:
        cells = count_text(report.cells_with_expected_cost, "cell")
        sentences.append(f"- In {cells} the expected cost stands in for an unknown one.")
    return sentences


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"
