"""Savings in a terminal: a table with bars that fits 80 columns, and as JSON for machines.

Owns the layout; computes nothing. Read `render_savings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from penstock_gateway.money.prices import format_usd
from penstock_gateway.reports.bootstrap import Interval
from penstock_gateway.reports.savings import SavingsFigure, SavingsReport, SavingsSection
from penstock_gateway.reports.savings_rows import Kind, LeftOut
from penstock_gateway.reports.wording import (
    amount,
    amount_interval,
    counted,
    percent,
    percent_interval,
    printable,
    shortened,
    signed_interval,
)

TITLES: Final = {
    Kind.PROJECTED: "Projected savings: the requested model answered, the router only watched",
    Kind.REALISED: "Realised savings: routed requests against the baseline",
}
LEFT_OUT: Final = {
    LeftOut.CACHED: "answered from the cache",
    LeftOut.NOT_ANSWERED: "not answered whole",
    LeftOut.COST_UNKNOWN: "cost unknown",
    LeftOut.NOT_OBSERVED: "model given, not observed",
    LeftOut.NO_ESTIMATE: "no estimate for the other arm",
}
BAR_CELLS: Final = 18
_LABEL_CELLS: Final = 20
_DIGITS: Final = 9


def render_savings(report: SavingsReport) -> RenderableType:
    """Return a report for a terminal of 80 columns or more.

    Parameters
    ----------
    report : SavingsReport

    Returns
    -------
    rich renderable
        Bars are solid as far as the saving is sure (95 %), shaded as far as it may reach.
    """
    parts: list[RenderableType] = []
    for section in report.sections:
        parts += _section(section)
    if not report.sections:
        parts.append(Text("There is no request in this log that can be compared."))
    if lines := list(_left_out(report)):
        parts += [Text("Not compared", style="bold"), Padding(Text("\n".join(lines)), (0, 0, 1, 2))]
    return Group(*parts)


def summary_lines(section: SavingsSection) -> list[tuple[str, str]]:
    """Return a section's figures in words, as pairs of a heading and a text."""
    total = section.total
    is_projected = section.kind is Kind.PROJECTED
    traffic = (
        f"{counted(total.requests, 'request')} in {counted(total.conversations, 'conversation')} "
        f"on {counted(section.days, 'day')}"
    )
    lines = [
        ("traffic", traffic),
        ("would go elsewhere" if is_projected else "off the baseline", percent(total.moved_share)),
        ("abstentions", percent(total.abstained_share)),
        ("cost in fact", f"{amount(total.cost_usd)} USD"),
    ]
    if total.other_usd is None or total.saving_usd is None:
        lines.append(("saving", "not stated: too few conversations for an interval"))
        return lines
    lines.append(("with routing" if is_projected else "on the baseline", f"{amount_interval(total.other_usd)} USD"))
    share = "" if total.saving_share is None else f"  =  {percent_interval(total.saving_share)}"
    doubt = " (may be none)" if total.saving_usd.low <= 0.0 <= total.saving_usd.high else ""
    lines.append(("saving", f"{amount_interval(total.saving_usd)} USD{share}{doubt}"))
    if total.gain is not None:
        lines.append(("quality change", f"{signed_interval(total.gain)} (predicted, not measured)"))
    return lines


def left_out_lines(report: SavingsReport) -> list[tuple[str, str, str]]:
    """Return why requests are not compared: reason, requests, what they cost."""
    lines = [(LEFT_OUT[why], f"{n:,}", f"{amount(cost)} USD") for why, (n, cost) in report.left_out.items()]
    if report.without_outcome:
        lines.append(("no outcome yet, or lost", f"{report.without_outcome:,}", ""))
    if report.duplicates:
        lines.append(("logged twice, counted once", f"{report.duplicates:,}", ""))
    return lines


def savings_json(report: SavingsReport) -> dict[str, Any]:
    """Return a report as plain values; costs in fact as decimal text, estimates as numbers.

    Parameters
    ----------
    report : SavingsReport
    """
    return {
        "object": "report.savings",
        "sections": [
            {
                "kind": section.kind.value,
                "days": section.days,
                "total": _figure_json(section.total),
                "by": {name: [_figure_json(f) for f in figures] for name, figures in section.by.items()},
                "corrections": [
                    {
                        "arm": arm.model.arm,
                        "is_predicted": arm.model.is_predicted,
                        "ground": arm.ground.value,
                        "answers": arm.answers,
                        "conversations": arm.conversations,
                        "output_tokens_ratio": _interval_json(arm.output_tokens),
                        "cost_ratio": _interval_json(arm.cost),
                    }
                    for arm in section.corrections
                ],
                "notes": list(section.notes),
            }
            for section in report.sections
        ],
        "left_out": [
            {"reason": why.value, "requests": n, "cost_usd": format_usd(cost)}
            for why, (n, cost) in report.left_out.items()
        ],
        "duplicates": report.duplicates,
        "without_outcome": report.without_outcome,
    }


def interval_bar(interval: Interval | None, scale: tuple[float, float], cells: int = BAR_CELLS) -> Text:
    """Draw an interval in a row of cells.

    Parameters
    ----------
    interval : Interval or None
        None draws nothing but the zero.
    scale : (float, float)
        Values at both ends; 0 lies between them.
    cells : int
    """
    low, high = scale
    step = (high - low) / cells
    drawn = Text()
    for cell in range(cells):
        middle = low + (cell + 0.5) * step
        is_zero = low + cell * step <= 0.0 < low + (cell + 1) * step and low < 0.0
        drawn.append(*_cell(interval, middle, is_zero=is_zero))
    return drawn


def common_scale(intervals: Sequence[Interval | None]) -> tuple[float, float]:
    """Return ends between which all intervals and 0 lie."""
    ends = [end for interval in intervals if interval is not None for end in (interval.low, interval.high)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    return (low, high) if high > low else (0.0, 1.0)


def _cell(interval: Interval | None, middle: float, *, is_zero: bool) -> tuple[str, str]:
    if interval is not None:
        style = "green" if interval.low > 0.0 else "red" if interval.high < 0.0 else "yellow"
        if 0.0 <= middle <= interval.low or interval.high <= middle <= 0.0:
            return "█", style
        if interval.low <= middle <= interval.high:
            return "▒", style
    return ("│", "dim") if is_zero else (" ", "")


def _section(section: SavingsSection) -> list[RenderableType]:
    summary = Table.grid(padding=(0, 2))
    summary.add_column(no_wrap=True)
    summary.add_column()
    for name, text in summary_lines(section):
        summary.add_row(Text(name, style="dim"), Text(text, style="bold" if name == "saving" else ""))
    parts: list[RenderableType] = [Text(TITLES[section.kind], style="bold"), Padding(summary, (0, 0, 1, 2))]
    shown = [figure.saving_share for figures in section.by.values() for figure in figures]
    scale = common_scale(shown)
    parts += [_table(name, figures, scale) for name, figures in section.by.items() if figures]
    for note in section.notes:
        parts.append(Padding(Text(f"note: {printable(note)}.", style="yellow"), (0, 0, 0, 2)))
    parts.append(Text(""))
    return parts


def _table(name: str, figures: Sequence[SavingsFigure], scale: tuple[float, float]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(name, no_wrap=True, max_width=_LABEL_CELLS)
    table.add_column("requests", justify="right", no_wrap=True)
    table.add_column("cost USD", justify="right", no_wrap=True)
    table.add_column("saving, 95 %", no_wrap=True, min_width=BAR_CELLS)
    table.add_column("", justify="right", no_wrap=True)
    for figure in figures:
        share = figure.saving_share
        table.add_row(
            Text(shortened(figure.label, _LABEL_CELLS)),
            f"{figure.requests:,}",
            amount(figure.cost_usd),
            interval_bar(share, scale),
            Text("too few", style="dim") if share is None else Text(percent_interval(share)),
        )
    return table


def _left_out(report: SavingsReport) -> list[str]:
    return [f"{reason:<30} {requests:>9}  {cost}".rstrip() for reason, requests, cost in left_out_lines(report)]


def _figure_json(figure: SavingsFigure) -> dict[str, Any]:
    return {
        "label": figure.label,
        "requests": figure.requests,
        "conversations": figure.conversations,
        "cost_usd": format_usd(figure.cost_usd),
        "other_cost_usd": _interval_json(figure.other_usd),
        "saving_usd": _interval_json(figure.saving_usd),
        "saving_share": _interval_json(figure.saving_share),
        "predicted_gain": _interval_json(figure.gain),
        "moved_share": round(figure.moved_share, _DIGITS),
        "abstained_share": round(figure.abstained_share, _DIGITS),
    }


def _interval_json(interval: Interval | None) -> dict[str, float] | None:
    if interval is None:
        return None
    return {
        "estimate": round(interval.value, _DIGITS),
        "low": round(interval.low, _DIGITS),
        "high": round(interval.high, _DIGITS),
    }
