"""The chapter of the HTML report about one artifact.

Owns what is shown about an artifact, in which order and under which caption. Must not compute statistics; escaping is
`penstock_training.html_parts`. Read `router_chapter`.
"""

from __future__ import annotations

from typing import Final

from penstock_training.evaluation_report import CurveSummary, EvaluationReport, OperatingPointResult, SliceResult
from penstock_training.evaluation_run import EvaluationRun, RouterSection
from penstock_training.evaluation_text import count_text, number_text
from penstock_training.html_parts import (
    Cell,
    Markup,
    arm_key,
    arm_shades,
    escape,
    figure,
    interval_cell,
    stacked_bars,
    table,
    verdict_list,
)
from penstock_training.intervals import Interval
from penstock_training.svg_charts import draw_calibration, draw_curve, draw_interval
from penstock_training.verdicts import router_verdicts

SLICES_SHOWN: Final = 14
_CURVE_KEY: Final = (
    ("router", "router with guard (band: 95 %)"),
    ("bare", "router without guard"),
    ("hull", "mixing fixed arms at random"),
    ("blind", "same rule, prices and lengths only"),
)


def router_chapter(run: EvaluationRun, section: RouterSection) -> Markup:
    """Everything about one artifact, from the verdicts to its latency."""
    report = section.report
    parts = [
        f'<h2 id="{anchor(run, section)}">{escape(section.name)}</h2>',
        f'<p class="soft">{escape(_facts(section))}</p>',
        verdict_list(router_verdicts(run, section)),
        _curve(report),
        _points(report),
        _whole_curve(report),
        _no_loss(report),
        _calibration(report),
        _decisions(section),
        _wins(report),
        _robustness(section),
        _probes(section),
        _confusion(section),
        _choices(report),
        _latency(report),
    ]
    return Markup("".join(parts))


def anchor(run: EvaluationRun, section: RouterSection) -> str:
    """Name of an artifact's chapter within the page."""
    return f"artifact-{run.routers.index(section) + 1}"


# ----------------------------------------------------------------------------------------------------------- chapters


def _facts(section: RouterSection) -> str:
    report = section.report
    facts = [
        f"{report.name}: {count_text(report.prompts, 'prompt')}, {count_text(report.groups, 'question')}",
        f"default arm {report.default_arm}, cheapest {report.cheapest_arm}, best {report.best_arm}",
        f"family {section.family}, artifact {section.artifact_id[:19]}…",
    ]
    if report.arms_left_out:
        facts.append(f"without any outcome and left out: {', '.join(report.arms_left_out)}")
    if report.prompts_left_out:
        facts.append(f"{count_text(report.prompts_left_out, 'prompt')} left out for lack of a score on some arm")
    if report.cells_with_expected_cost:
        facts.append(f"in {count_text(report.cells_with_expected_cost, 'cell')} the expected cost stands in")
    return "; ".join(facts) + "."


def _curve(report: EvaluationReport) -> str:
    key = "".join(
        f'<li><svg viewBox="0 0 30 12"><line class="{kind}" x1="0" y1="6" x2="30" y2="6"/></svg>{escape(text)}</li>'
        for kind, text in _CURVE_KEY
    )
    caption = (
        "Each point of the blue line is one setting of the knob; large dots are the operating points, small ones a "
        f"single arm for everything; vertical bars and the band are 95 % intervals, n = {report.prompts:,} prompts. "
        "Up and left is better."
    )
    return f'<h3>Quality over cost</h3><ul class="key">{key}</ul>{figure(draw_curve(report), caption)}'


def _points(report: EvaluationReport) -> str:
    rows: list[list[str]] = [
        [
            p.name,
            interval_cell(p.quality),
            interval_cell(p.relative_cost, percent=True),
            interval_cell(p.over_best, signed=True),
            interval_cell(p.over_hull, signed=True),
            interval_cell(p.over_price_only, signed=True),
        ]
        for p in report.points
    ]
    best = report.best_cost_usd
    for baseline in report.baselines:
        cost = Cell(f"{number_text(100 * baseline.cost_usd.value / best, digits=1)} %")
        name = f"{baseline.name} ({'inflated by luck' if baseline.name == 'oracle' else baseline.note})"
        rows.append([name, interval_cell(baseline.quality), cost, "", "", ""])
    header = (
        "policy",
        "quality",
        "cost",
        f"minus always {report.best_arm}",
        "minus mixing fixed arms",
        "minus prices only",
    )
    caption = (
        f"Quality: mean score, 0 to 1. Cost: mean per request, {report.best_arm} = 100 % = {best:.3g} USD. "
        "Differences are in quality, the last two at the same mean cost. Brackets: 95 % intervals of the paired "
        "bootstrap."
    )
    return table(header, rows, caption)


def _whole_curve(report: EvaluationReport) -> str:
    def column(summary: CurveSummary) -> list[Cell]:
        unselected = [
            interval_cell(v, signed=True) for v in (summary.path_over_constants, summary.path_over_price_only)
        ]
        if summary is report.constants_summary:  # single arms are no curve
            unselected = [Cell(""), Cell("")]
        return [
            interval_cell(summary.area),
            interval_cell(summary.hull_area),
            *unselected,
            *(interval_cell(v, percent=True) for v in (summary.cost_at_95, summary.cost_at_99, summary.cost_at_100)),
            *(interval_cell(v) for v in (summary.quality_at_10, summary.quality_at_25, summary.quality_at_50)),
        ]

    names = (
        "area: mean quality over budgets",
        "AIQ: area under the hull (RouterBench)",
        "curve minus mixing fixed arms, no point selected",
        "curve minus prices only, no point selected",
        "cost at 95 % of the best quality",
        "cost at 99 % of the best quality",
        "cost at 100 % (QNC)",
        "quality at 10 % of the best cost",
        "quality at 25 % of the best cost",
        "quality at 50 % of the best cost",
    )
    columns = [column(s) for s in (report.summary, report.unguarded_summary, report.constants_summary)]
    rows = [[name, *cells] for name, *cells in zip(names, *columns, strict=True)]
    caption = (
        "Areas are averaged between the costs of the cheapest and the best arm. Costs in percent of the best arm's; "
        "“never” where the curve does not reach the quality. Brackets: 95 % intervals."
    )
    return "<h3>The whole curve</h3>" + table(("measure", "router", "without guard", "fixed arms"), rows, caption)


def _no_loss(report: EvaluationReport) -> str:
    rows = []
    for point in report.points:
        test = point.non_inferiority
        rows.append(
            [
                point.name,
                Cell(f"{number_text(100 * test.difference, signed=True, digits=2)}"),
                Cell(f"{number_text(100 * test.lower_bound, signed=True, digits=2)}"),
                f"{test.rerouted:,} of {test.prompts:,}",
                test.sentence,
            ]
        )
    margin = report.points[0].non_inferiority.margin
    header = (
        "point",
        "difference, points",
        "lower bound, points",
        "rerouted prompts",
        f"no worse than {100 * margin:g} point",
    )
    caption = (
        f"Quality minus that of always {report.default_arm}, in points (hundredths of the scale); one-sided 95 % "
        f"lower bound of the paired bootstrap over {report.groups:,} questions."
    )
    return "<h3>Is it no worse than the default arm?</h3>" + table(header, rows, caption)


def _calibration(report: EvaluationReport) -> str:
    arms = sorted(report.arms, key=lambda arm: arm.cost_usd.value)
    rows = [
        [
            arm.arm,
            interval_cell(arm.quality),
            _thousand_requests(arm.cost_usd),
            interval_cell(arm.calibration_interval),
            interval_cell(arm.brier_interval),
            Cell(number_text(arm.brier_constant)),
            Cell(number_text(arm.predicted_cost_ratio, digits=2)),
        ]
        for arm in arms
    ]
    panels = "".join(f"<figure>{draw_calibration(a)}<figcaption>{escape(a.arm)}</figcaption></figure>" for a in arms)
    caption = (
        "ECE: mean distance of predicted from observed quality over ten bins. Brier score: mean squared error, beside "
        "it that of always predicting the arm's mean; only what lies below it is knowledge about prompts. Brackets: "
        "95 % intervals."
    )
    header = ("arm", "quality", "USD per 1,000 requests", "ECE", "Brier score", "of the mean", "expected / actual cost")
    note = "Dots: prompts binned by predicted quality; bars: two standard errors; dashed: perfect calibration."
    return (
        "<h3>Arms and calibration</h3>"
        + table(header, rows, caption)
        + f'<div class="panels">{panels}</div><p class="soft">{note}</p>'
    )


def _decisions(section: RouterSection) -> str:
    report = section.report
    arms = [arm for arm in section.probes.arms_by_cost if arm in {result.arm for result in report.arms}]
    shades = arm_shades(section.probes.arms_by_cost)
    found = ["<h3>Who answers what</h3>", arm_key({arm: shades[arm] for arm in arms})]
    for point in report.points:
        if point.non_inferiority.rerouted == 0:
            found.append(f"<p><b>{escape(point.name)}</b>: {escape(report.default_arm)} answers everything.</p>")
            continue
        rows = [("all prompts", f"({report.prompts:,})", {arm: point.arm_shares[arm] for arm in arms})]
        rows += [(p.name, f"({p.prompts:,})", {arm: p.arm_shares[arm] for arm in arms}) for p in _slices(point)]
        found.append(f"<p><b>{escape(point.name)}</b>, share of prompts per arm</p>{stacked_bars(rows, shades)}")
    return "".join(found)


def _wins(report: EvaluationReport) -> str:
    found = ["<h3>Where it wins and loses</h3>"]
    for point in report.points:
        parts = _slices(point)
        moved = sorted(
            (p for p in parts if p.over_default.low != p.over_default.high), key=lambda p: p.over_default.value
        )
        if not moved:
            found.append(
                f"<p><b>{escape(point.name)}</b>: the same scores as {escape(report.default_arm)} everywhere.</p>"
            )
            continue
        bound = max(max(abs(p.over_default.low), abs(p.over_default.high)) for p in moved)
        rows = [
            [
                f"{part.name} ({part.prompts:,})",
                Cell(draw_interval(part.over_default, bound)),
                interval_cell(part.over_default, signed=True),
                Cell(f"{number_text(100 * part.relative_cost, digits=0)} %"),
                _sure(part),
            ]
            for part in moved
        ]
        caption = (
            f"{point.name}: quality minus that of always {report.default_arm}, per category and source (prompts), "
            f"worst first; scale ±{bound:.2f}. 95 % intervals, not corrected: of forty categories one looks better "
            "and one worse by chance."
        )
        found.append(table(("category", "", "difference in quality", "cost", "sure?"), rows, caption))
    return "".join(found)


def _robustness(section: RouterSection) -> str:
    if not section.robustness:
        return ""
    rows = [
        [
            result.perturbation,
            result.point,
            interval_cell(result.unchanged_decisions, percent=True),
            interval_cell(result.quality_change, signed=True),
            interval_cell(result.cost_change, signed=True, percent=True),
            interval_cell(result.abstained_change, signed=True, percent=True),
        ]
        for result in sorted(section.robustness, key=lambda r: r.unchanged_decisions.value)
    ]
    header = ("change of the prompt", "point", "same decision", "quality", "cost", "abstained")
    caption = (
        f"{section.robustness[0].prompts} prompts asked about again in other wording; scores stay those of the "
        "original prompt. Changes in quality, in cost (share of the best arm's) and in abstentions. Brackets: 95 % "
        "intervals."
    )
    shown = table(header, rows[:8], f"The least stable ones. {caption}")
    whole = f"<details><summary>All {len(rows)} rows</summary>{table(header, rows, caption)}</details>"
    return f"<h3>Does other wording change its mind?</h3>{shown}{whole}"


def _probes(section: RouterSection) -> str:
    probes, report = section.probes, section.report
    arms = probes.arms_by_cost
    shades = arm_shades(arms)
    count = sum(result.prompts for result in probes.results if result.point == report.points[0].name)
    found = [
        "<h3>Kinds of prompts</h3>",
        f'<p class="soft">{count} probe prompts written for this purpose, in the manner of the DSC benchmark: is it '
        "the topic or the difficulty that decides?</p>",
        arm_key(shades),
    ]
    for point in report.points:
        rows = [
            (
                f"{r.kind} {r.difficulty}".strip(),
                f"({r.prompts}; {100 * r.abstained_share:.0f} % novel)",
                {arm: r.arm_shares[arm] for arm in arms},
            )
            for r in probes.results
            if r.point == point.name
        ]
        verdicts = [
            [
                v.kind,
                interval_cell(v.hard_minus_easy, signed=True, percent=True) if v.hard_minus_easy else "",
                v.sentence,
            ]
            for v in probes.verdicts
            if v.point == point.name
        ]
        header = ("kind", f"hard minus easy to {probes.top_arm}", f"verdict at “{point.name}”")
        words = table(header, verdicts, "Shares of probes; 95 % intervals of Newcombe.")
        is_open = " open" if point is report.points[0] else ""
        found.append(
            f"<details{is_open}><summary>at "
            f"“{escape(point.name)}”</summary>{stacked_bars(rows, shades)}{words}</details>"
        )
    return "".join(found)


def _confusion(section: RouterSection) -> str:
    if not section.confusion:
        return ""
    found = ["<h3>Category head against the files' own categories</h3>"]
    for source in section.confusion:
        rows = [
            [label, *(f"{count:,}" if count else "" for count in counts)]
            for label, counts in zip(source.labels, source.counts, strict=True)
            if any(counts)
        ]
        caption = (
            f"{source.source}: rows are the files' categories through the label map, columns the head's; prompts. Of "
            f"{source.listed:,} prompts with a listed category {_percent(source.accuracy.value)} are named rightly, "
            f"of those that the head names at all {_percent(source.named_accuracy.value)} "
            f"[{_percent(source.named_accuracy.low)}, {_percent(source.named_accuracy.high)}]; it calls "
            f"{_percent(source.general_share)} of all prompts general."
        )
        found.append(table(("category", *source.labels), rows, caption))
    return "".join(found)


def _choices(report: EvaluationReport) -> str:
    calls = report.call_shares
    rows: list[list[str]] = [
        ["APGR: gap recovered on average over call shares (0.5 is chance)", interval_cell(calls.gap_recovered)],
        ["APGR with a running maximum", interval_cell(calls.gap_recovered_running_maximum)],
        ["calls to the best arm for 50 % of the gap: CPT(50 %)", interval_cell(calls.calls_for_50, percent=True)],
        ["calls to the best arm for 80 % of the gap: CPT(80 %)", interval_cell(calls.calls_for_80, percent=True)],
    ]
    for p in report.points:
        rows.append(
            [
                f"cheapest right arm chosen at “{p.name}” (inflated by luck)",
                interval_cell(p.optimal_selection, percent=True),
            ]
        )
        rows.append(
            [
                f"quality missing to the oracle at “{p.name}” (inflated by luck)",
                interval_cell(p.oracle_gap, percent=True),
            ]
        )
    caption = (
        f"The gap is that between {report.cheapest_arm} and {report.best_arm}. The oracle reads the scores: with "
        "single draws of answers it collects lucky ones, so no router can reach it. Brackets: 95 % intervals."
    )
    return "<h3>Choices</h3>" + table(("measure", "value"), rows, caption)


def _latency(report: EvaluationReport) -> str:
    latency = report.latency
    if latency is None:
        return ""
    rows = [
        ["median", Cell(f"{latency.p50_microseconds:,.0f} µs")],
        ["99th percentile", Cell(f"{latency.p99_microseconds:,.0f} µs")],
        ["share spent on encoding", Cell(f"{100 * latency.encode_share:.0f} %")],
        ["cost of the router itself", Cell(f"{latency.usd_per_million_requests:.3f} USD per million requests")],
    ]
    caption = (
        f"Encoding and estimating one prompt at a time on one thread of this machine ({latency.machine}), "
        f"{latency.prompts} prompts; money at {latency.core_usd_per_hour:g} USD per core and hour, an assumption."
    )
    return "<h3>Latency</h3>" + table(("per prompt", "value"), rows, caption)


# -------------------------------------------------------------------------------------------------------------- small


def _slices(point: OperatingPointResult) -> list[SliceResult]:
    """The largest categories, tasks and sources; a kind with one label only says what all prompts say."""
    found: dict[tuple[str, int], SliceResult] = {}
    for parts in (point.by_category, point.by_task, point.by_source):
        for part in parts[:SLICES_SHOWN] if len(parts) > 1 else ():
            found.setdefault((part.name, part.prompts), part)  # files often name a task as its category
    return list(found.values())


def _sure(part: SliceResult) -> str:
    if part.over_default.low > 0.0:
        return "surely better"
    return "surely worse" if part.over_default.high < 0.0 else "not sure"


def _thousand_requests(cost_usd: Interval) -> Cell:
    value, low, high = (f"{1000 * v:.3g}" for v in (cost_usd.value, cost_usd.low, cost_usd.high))
    return Cell(f'{value} <span class="i">[{low}, {high}]</span>')


def _percent(share: float) -> str:
    return f"{number_text(100 * share, digits=0)} %"
