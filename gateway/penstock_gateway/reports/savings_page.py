"""The page of savings: every figure with its interval, and what it rests on.

Owns the order and the words; numbers are those of the report. Read `savings_page`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from penstock_gateway.reports.bootstrap import Interval
from penstock_gateway.reports.calibration import ArmCorrection, Ground
from penstock_gateway.reports.pages import ChartRow, Markup, facts, interval_chart, notes, page, section, table
from penstock_gateway.reports.savings import SavingsFigure, SavingsReport, SavingsSection
from penstock_gateway.reports.savings_rows import Kind
from penstock_gateway.reports.savings_text import TITLES, left_out_lines, summary_lines
from penstock_gateway.reports.wording import amount, amount_interval, counted, percent, percent_interval

_INTRO: Final = (
    "Costs in fact are exact where providers reported usage. What did not happen is estimated; every estimate stands "
    "with its 95 % interval, for traffic like that of the log."
)
_GROUNDS: Final = {
    Ground.EXPLORED: "answers drawn by chance",
    Ground.CHOSEN: "answers where the router chose it, too",
    Ground.OWN: "its answers to other requests",
    Ground.ASSUMED: "assumed: too few answers",
}
_FOOTER: Final = "docs/observe.md says how these figures are estimated and what they cannot tell."


def savings_page(report: SavingsReport) -> str:
    """Return a report as one HTML document that fetches nothing.

    Parameters
    ----------
    report : SavingsReport
    """
    body = [_section(found) for found in report.sections]
    if not body:
        body.append(notes(["There is no request in this log that can be compared."]))
    if rows := left_out_lines(report):
        body.append(
            section("Not compared", [table(("why", "requests", "cost"), rows, "Left out of all figures above.")])
        )
    return page("Savings by routing", _INTRO, body, _FOOTER)


def _section(found: SavingsSection) -> Markup:
    is_projected = found.kind is Kind.PROJECTED
    parts = [facts(summary_lines(found)), notes(found.notes)]
    total = found.total
    if total.other_usd is not None:
        other = ChartRow("estimated", "", total.other_usd, f"{amount_interval(total.other_usd)} USD")
        fact = ChartRow("in fact", "", _exact(total.cost_usd), f"{amount(total.cost_usd)} USD")
        before, after = (fact, other) if is_projected else (other, fact)
        rows = [replace(before, remark="without routing"), replace(after, remark="with routing")]
        parts.append(interval_chart("Cost without and with routing", "USD", rows, amount, starts_at_zero=True))
    for name, figures in found.by.items():
        if figures:
            axis = "saving, % of the cost without routing; dot: estimate, line: 95 % interval"
            parts.append(interval_chart(f"Saving by {name}", axis, [_row(f) for f in figures], percent))
            parts.append(_figures_table(name, figures))
    if found.corrections:
        parts.append(_corrections_table(found.corrections))
    return section(TITLES[found.kind], parts)


def _exact(cost: Decimal) -> Interval:
    return Interval(float(cost), float(cost), float(cost))


def _row(figure: SavingsFigure) -> ChartRow:
    share = figure.saving_share
    text = f"too few ({counted(figure.conversations, 'conversation')})" if share is None else percent_interval(share)
    return ChartRow(figure.label, counted(figure.requests, "request"), share, text)


def _figures_table(name: str, figures: Sequence[SavingsFigure]) -> Markup:
    rows = [
        (
            figure.label,
            f"{figure.requests:,}",
            f"{figure.conversations:,}",
            amount(figure.cost_usd),
            "-" if figure.saving_usd is None else amount_interval(figure.saving_usd),
            percent(figure.moved_share),
            percent(figure.abstained_share),
        )
        for figure in figures
    ]
    head = (name, "requests", "conversations", "cost in fact, USD", "saving, USD", "other model", "abstentions")
    return table(head, rows, "Savings with 95 % intervals; no saving is stated for too few conversations.")


def _corrections_table(arms: Sequence[ArmCorrection]) -> Markup:
    rows = [
        (
            arm.model.arm,
            _GROUNDS[arm.ground],
            f"{arm.answers:,}",
            "-" if arm.output_tokens is None else _ratio(arm.output_tokens),
            "-" if arm.cost is None else _ratio(arm.cost),
        )
        for arm in arms
    ]
    head = ("arm", "corrected by", "answers", "tokens answered / expected", "cost in fact / expected")
    return table(head, rows, "How expected costs were corrected by costs in fact. 1 means that the estimate was right.")


def _ratio(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
