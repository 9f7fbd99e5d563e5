"""An evaluation of several artifacts for a person at a terminal.

Owns the tables beyond a single report's (`penstock_training.evaluation_text` has those). Must not compute results. Read
`render_run`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from penstock_training.comparison import AREA
from penstock_training.cross_validation import CrossValidation
from penstock_training.evaluation_run import EvaluationRun, RouterSection
from penstock_training.evaluation_text import (
    WIDTH,
    Section,
    count_text,
    interval_text,
    number_text,
    printable,
    render_plain,
    render_section,
)
from penstock_training.learning_curve import LearningCurve
from penstock_training.verdicts import Verdict, router_verdicts, run_verdicts

_MARKS: Final = {"good": "+", "open": "?", "bad": "!"}


def render_run(run: EvaluationRun) -> str:
    """Lay an evaluation out in aligned columns, without control characters.

    Parameters
    ----------
    run : EvaluationRun

    Returns
    -------
    str
        Lines of at most 80 characters unless names of arms or artifacts are long.
    """
    blocks = []
    for section in run.routers:
        if len(run.routers) > 1:
            blocks.append(f"{section.name}\n{'=' * len(section.name)}")
        blocks.append(render_plain(section.report))
        blocks += [render_section(table) for table in router_sections(section)]
        blocks.append(_verdict_block(f"In short ({section.name})", router_verdicts(run, section)))
    blocks += [render_section(table) for table in run_sections(run)]
    if shared := run_verdicts(run):
        blocks.append(_verdict_block("All in all", shared))
    return printable("\n\n".join(blocks))


def router_sections(section: RouterSection) -> list[Section]:
    """Tables about one artifact: budgets, no loss, calls, robustness, kinds of prompts, latency."""
    found = [_budgets(section), _no_loss(section), _calls(section)]
    if section.robustness:
        found.append(_robustness(section))
    found.append(_probes(section))
    if section.confusion:
        found.append(_confusion(section))
    return [*found, *_latency(section)]


def run_sections(run: EvaluationRun) -> list[Section]:
    """Tables about all artifacts: simple tables, pairs, cross-validation, learning curves."""
    found = [_tables(run)] if run.baselines else []
    found += _pairs(run)
    found += [_learning(name, curve) for name, curve in run.learning_curves.items()]
    return found + [_cross_validation(name, result) for name, result in run.cross_validation.items()]


def _tables(run: EvaluationRun) -> Section:
    rows = [
        (b.name, interval_text(b.summary.area), interval_text(b.summary.cost_at_99, percent=True))
        for b in run.baselines
    ]
    remarks = tuple(f"{b.name}: {b.note}" for b in run.baselines)
    header = ("table", "area", "cost at 99 % of best quality")
    return Section("Simple tables, fitted on the other folds", header, tuple(rows), remarks)


def _learning(name: str, curve: LearningCurve) -> Section:
    rows = [
        (
            f"{point.size:,}",
            "yes" if point.has_prior else "no",
            interval_text(point.gain, signed=True),
            interval_text(point.gap_recovered),
        )
        for point in curve.points
    ]
    return Section(f"Learning curve: {name}", ("own prompts", "prior", "above fixed arms", "APGR"), tuple(rows))


def _cross_validation(name: str, result: CrossValidation) -> Section:
    rows = [
        (
            p.name,
            interval_text(p.quality),
            interval_text(p.relative_cost, percent=True),
            interval_text(p.over_hull, signed=True),
        )
        for p in result.report.points
    ]
    title = f"{name}: {count_text(result.report.prompts, 'prompt')}"
    return Section(title, ("point", "quality", "cost", "above fixed arms"), tuple(rows))


def _budgets(section: RouterSection) -> Section:
    summary, fixed = section.report.summary, section.report.constants_summary
    rows = [
        ("area (mean over budgets)", interval_text(summary.area), interval_text(fixed.area)),
        ("AIQ (under the hull)", interval_text(summary.hull_area), interval_text(fixed.hull_area)),
        ("curve above fixed arms", interval_text(summary.path_over_constants, signed=True), ""),
        ("curve above prices only", interval_text(summary.path_over_price_only, signed=True), ""),
    ]
    for share, own, other in (
        (95, summary.cost_at_95, fixed.cost_at_95),
        (99, summary.cost_at_99, fixed.cost_at_99),
        (100, summary.cost_at_100, fixed.cost_at_100),
    ):
        name = f"cost at {share} % of best{' (QNC)' if share == 100 else ''}"
        rows.append((name, interval_text(own, percent=True), interval_text(other, percent=True)))
    for share, own, other in (
        (10, summary.quality_at_10, fixed.quality_at_10),
        (25, summary.quality_at_25, fixed.quality_at_25),
        (50, summary.quality_at_50, fixed.quality_at_50),
    ):
        rows.append((f"quality at {share} % of cost", interval_text(own), interval_text(other)))
    return Section("The whole curve", ("measure", "router", "fixed arms"), tuple(rows))


def _no_loss(section: RouterSection) -> Section:
    rows, remarks = [], []
    for point in section.report.points:
        test = point.non_inferiority
        rows.append(
            (
                point.name,
                number_text(test.difference, signed=True),
                number_text(test.lower_bound, signed=True),
                "yes" if test.is_shown else "no",
            )
        )
        remarks += textwrap.wrap(f"{point.name}: {test.sentence}", WIDTH - 2, subsequent_indent="  ")
    margin = number_text(-section.report.points[0].non_inferiority.margin, digits=2)
    header = ("point", "difference", "95 % lower bound", f"no worse than {margin}")
    return Section(f"Quality against {section.report.default_arm} alone", header, tuple(rows), tuple(remarks))


def _calls(section: RouterSection) -> Section:
    calls = section.report.call_shares
    rows = [
        ("APGR (0.5 is chance)", interval_text(calls.gap_recovered)),
        ("APGR, running maximum", interval_text(calls.gap_recovered_running_maximum)),
        ("calls for 50 % of the gap (CPT)", interval_text(calls.calls_for_50, percent=True)),
        ("calls for 80 % of the gap (CPT)", interval_text(calls.calls_for_80, percent=True)),
    ]
    rows += [
        (f"optimal choices at {p.name}", interval_text(p.optimal_selection, percent=True))
        for p in section.report.points
    ]
    rows += [
        (f"gap to the oracle at {p.name}", interval_text(p.oracle_gap, percent=True)) for p in section.report.points
    ]
    remark = "optimal choices and gap to the oracle are inflated by luck: no goal"
    return Section("Choices", ("measure", "value"), tuple(rows), (remark,))


def _robustness(section: RouterSection) -> Section:
    names = [point.name for point in section.report.points]
    changes = list(dict.fromkeys(result.perturbation for result in section.robustness))
    by_key = {(r.perturbation, r.point): r for r in section.robustness}
    rows = [
        (change, *(interval_text(by_key[change, name].unchanged_decisions, percent=True) for name in names))
        for change in changes
    ]
    title = f"Decisions unchanged after ({section.robustness[0].prompts} prompts)"
    return Section(title, ("change", *names), tuple(rows))


def _probes(section: RouterSection) -> Section:
    names = [point.name for point in section.report.points]
    keys = list(dict.fromkeys((r.kind, r.difficulty) for r in section.probes.results))
    by_key = {(r.point, r.kind, r.difficulty): r for r in section.probes.results}
    rows = [
        (
            " ".join(key).strip(),
            str(by_key[names[0], *key].prompts),
            *(interval_text(by_key[name, *key].top_share, percent=True) for name in names),
        )
        for key in keys
    ]
    title = f"Probe prompts sent to {section.probes.top_arm}"
    shown = names[0]
    remarks = [f"at {shown}:"]
    for verdict in section.probes.verdicts:
        if verdict.point == shown:
            remarks += textwrap.wrap(f"- {verdict.kind}: {verdict.sentence}", WIDTH - 2, subsequent_indent="  ")
    return Section(title, ("kind", "n", *names), tuple(rows), tuple(remarks))


def _confusion(section: RouterSection) -> Section:
    rows = [
        (
            found.source,
            f"{found.listed:,}",
            interval_text(found.accuracy, percent=True),
            interval_text(found.named_accuracy, percent=True),
            f"{100 * found.general_share:.0f} %",
        )
        for found in section.confusion
    ]
    header = ("source", "listed", "right", "right if named", "general of all")
    remark = "listed: prompts whose category the label map knows; the head may abstain"
    return Section("Category head against the files' categories", header, tuple(rows), (remark,))


def _latency(section: RouterSection) -> list[Section]:
    latency = section.report.latency
    if latency is None:
        return []
    rows = (
        ("µs per estimate, median", f"{latency.p50_microseconds:,.0f}"),
        ("µs per estimate, 99th percentile", f"{latency.p99_microseconds:,.0f}"),
        ("share of it spent on encoding", f"{100 * latency.encode_share:.0f} %"),
        ("USD per million requests", f"{latency.usd_per_million_requests:.3f}"),
    )
    remark = f"on this machine ({latency.machine}), at {latency.core_usd_per_hour:g} USD per core and hour"
    return [Section(f"Asking the router ({latency.prompts} prompts)", ("measure", "value"), rows, (remark,))]


def _pairs(run: EvaluationRun) -> list[Section]:
    comparison = run.comparison
    if comparison is None:
        return []
    found: list[Section] = []
    rows: list[tuple[str, ...]]
    tables = {baseline.name for baseline in run.baselines}
    against = [d for d in comparison.differences if d.second in tables and d.measure == AREA]
    if against:
        rows = [
            (d.first, d.second, interval_text(d.difference, signed=True), f"{d.adjusted_p_value:.3f}") for d in against
        ]
        header = ("router", "minus", "area", "p (Holm)")
        found.append(Section(f"Routers against simple tables, {comparison.prompts:,} prompts", header, tuple(rows)))
    pairs = dict.fromkeys((d.first, d.second) for d in comparison.differences if d.second not in tables)
    for first, second in pairs:
        rows = []
        for d in comparison.differences:
            if (d.first, d.second) == (first, second):
                is_share = d.measure.startswith("relative cost")
                difference = (
                    interval_text(d.difference, percent=True) if is_share else interval_text(d.difference, signed=True)
                )
                name = "area (over all budgets)" if d.measure == AREA else d.measure
                rows.append((name, difference, f"{d.adjusted_p_value:.3f}"))
        title = f"{first} minus {second}, the same {comparison.prompts:,} prompts"
        found.append(Section(title, ("measure", "difference", "p (Holm)"), tuple(rows)))
    return found


def _verdict_block(title: str, verdicts: Sequence[Verdict]) -> str:
    lines = [title]
    for verdict in verdicts:
        text = f"{_MARKS[verdict.tone]} {verdict.question} {verdict.answer}"
        lines.append(textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))
    return "\n".join([*lines, "  (+ shown, ? not decided by these prompts, ! against it)"])
