"""The report of a log for a person at a terminal.

Owns the wording and the tables. Must not compute results. Read `render_logged`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Final

from penstock_training.bandit.estimators import TITLES, Estimate
from penstock_training.bandit.evaluation import LoggedReport, PolicyResult
from penstock_training.evaluation_text import WIDTH, count_text, number_text

_NO_BREAK: Final = "\u00a0"  # keeps a number and its percent sign on one line
_RULES: Final = {
    "zero": "counted with score 0 (no answer came)",
    "ipcw": "left out, answered rows like them stand for them",
    "bounds": "counted as 0 and as 1: values are bounds",
}


def render_logged(report: LoggedReport) -> str:
    """Lay the report out in aligned columns without control characters.

    Parameters
    ----------
    report : LoggedReport

    Returns
    -------
    str
        Ends without a line feed.
    """
    blocks = [_headline(report), _policies(report), *_costs(report)]
    routed = [policy for policy in report.policies if policy.support.arms and not policy.name.startswith("always ")]
    blocks += [block for policy in routed for block in (_estimators(policy), _support(policy))]
    remarks = _remarks(report)
    if remarks:
        blocks.append("\n".join(textwrap.fill(f"- {r}.", WIDTH, subsequent_indent="  ") for r in remarks))
    return "\n\n".join(blocks)


def _headline(report: LoggedReport) -> str:
    lines = [
        f"log: {count_text(report.rows, 'decision')}, {count_text(report.groups, 'question')}, "
        f"{count_text(len(report.arms), 'arm')}",
        f"reward model: {report.reward_model or 'none'}",
    ]
    if total := sum(report.censored_per_arm):
        shares = ", ".join(
            f"{arm} {100 * censored / rows:.1f}{_NO_BREAK}%"
            for arm, rows, censored in zip(report.arms, report.rows_per_arm, report.censored_per_arm, strict=True)
            if rows
        )
        lines.append(f"time-outs: {total:,}, {_RULES[report.censored_rule]}; {shares}")
    lines.append("brackets hold 95 % intervals; eff. rows: rows that weigh as much without weights")
    wrapped = (line for whole in lines for line in textwrap.wrap(whole, WIDTH, subsequent_indent="  "))
    return "\n".join(wrapped).replace(_NO_BREAK, " ")


def _policies(report: LoggedReport) -> str:
    rows = [("policy", "score", "minus log", "eff. rows")]
    for policy in report.policies:
        over = list(policy.over_log.values())
        rows.append(
            (
                policy.name,
                _span(*policy.score),
                _span(over[0], over[-1], signed=True) if over else "",
                f"{policy.support.effective_rows:,.0f}",
            )
        )
    rows += [(s.policy, "no support", f"{100 * s.unsupported:.0f} % unseen", "") for s in report.unsupported]
    return _table("What each policy would have scored", rows)


def _costs(report: LoggedReport) -> list[str]:
    rows = [("policy", "USD per 1,000 requests", "minus log")]
    rows += [(p.name, _cost(p.cost_usd), _cost(p.cost_over_log, signed=True)) for p in report.policies if p.cost_usd]
    return [_table("What it would have cost", rows)] if len(rows) > 1 else []


def _estimators(policy: PolicyResult) -> str:
    rows = [("estimator", "score", "std. error", "")]
    for treatment, estimates in policy.scores.items():
        suffix = f" ({treatment})" if len(policy.scores) > 1 else ""
        for name, found in estimates.items():
            note = "recommended" if name == policy.recommended else ""
            interval = _span(found, found)
            if name == "dm":  # its interval says nothing about the model's own error
                interval, note = number_text(found.value), "no interval"
            rows.append((TITLES[name] + suffix, interval, number_text(found.standard_error), note))
    return _table(f"Estimators, {policy.name}", rows)


def _support(policy: PolicyResult) -> str:
    rows = [("arm", "share", "rows", "matched", "smallest propensity", "eff. rows")]
    for entry in policy.support.arms:
        smallest = "–" if math.isnan(entry.smallest_propensity) else f"{entry.smallest_propensity:.4g}"
        rows.append(
            (
                entry.arm,
                f"{100 * entry.share:.1f} %",
                f"{entry.rows:,}",
                f"{entry.matched_rows:,}",
                smallest,
                f"{entry.effective_rows:,.0f}",
            )
        )
    title = f"Support of {policy.name}: mean weight {policy.support.mean_weight:.3f} (1 when complete)"
    return _table(title, rows)


def _remarks(report: LoggedReport) -> list[str]:
    remarks = list(report.warnings)
    for policy in report.policies:
        remarks += [f"{policy.name}: {warning}" for warning in policy.support.warnings]
    if clipped := [f"{policy.name} {100 * policy.clipped:.0f} %" for policy in report.policies if policy.clipped > 0.0]:
        remarks.append(
            "clipping cut off weight, and intervals do not contain the bias, which is up to that share: "
            + ", ".join(clipped)
        )
    if report.unsupported:
        names = ", ".join(support.policy for support in report.unsupported)
        remarks.append(f"the log cannot tell about {names}: explore these arms or collect outcomes of them")
    return remarks


def _span(low: Estimate, high: Estimate, *, signed: bool = False) -> str:
    """Value with its interval; two values when they are bounds."""
    value = number_text(low.value, signed=signed)
    if high is not low:
        value = f"{value} to {number_text(high.value, signed=signed)}"
    return f"{value} [{number_text(low.low, signed=signed)}, {number_text(high.high, signed=signed)}]"


def _cost(found: Estimate | None, *, signed: bool = False) -> str:
    if found is None:
        return ""
    sign = "+" if signed else ""
    value, low, high = (
        f"{1000 * number:{sign}.3g}".replace("-", "−") for number in (found.value, found.low, found.high)
    )
    return f"{value} [{low}, {high}]"


def _table(title: str, rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([title, *(f"  {line}" for line in lines)])
