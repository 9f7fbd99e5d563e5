"""The chapter of the HTML report about all artifacts: pairs, simple tables, cross-validation, control, learning curves.

Owns what is shown there, in which order and under which caption. Must not compute statistics; escaping is
`penstock_training.html_parts`. Read `shared_chapter`.
"""

from __future__ import annotations

from typing import Final

from penstock_training.comparison import AREA
from penstock_training.evaluation_run import EvaluationRun
from penstock_training.evaluation_text import count_text
from penstock_training.html_parts import Cell, Markup, escape, figure, interval_cell, table
from penstock_training.svg_charts import draw_learning

# With artifacts, and without.
SHARED_TITLES: Final = {True: "Against each other and against simple tables", False: "What was measured"}


def shared_chapter(run: EvaluationRun) -> Markup:
    """What concerns all artifacts: pairs, simple tables, cross-validation, control, learning curves."""
    parts = [_pairs(run), _tables(run), _cross_validation(run)]
    if run.control is not None:
        parts.append(
            f"<h3>Shuffled-label control</h3><p>{escape(run.control.sentence)}</p><p class='soft'>Outcomes were dealt "
            "out to other prompts, then everything was fitted and measured again. A router cannot be good there; a "
            "measurement that says so leaks.</p>"
        )
    for name, curve in run.learning_curves.items():
        forms = {point.has_prior for point in curve.points}
        colours = {
            (True, False): "Blue: with a prior; red: without. ",
            (True,): "Blue: with a prior. ",
            (False,): "Red: without a prior. ",
        }[tuple(sorted(forms, reverse=True))]
        caption = (
            f"Mean of {count_text(curve.points[0].draws, 'draw')} on {count_text(curve.test_prompts, 'test prompt')}; "
            f"bars: 95 % intervals over draws and test questions. {colours}0: mixing fixed arms."
        )
        parts.append(f"<h3>Learning curve: {escape(name)}</h3><p>{escape(curve.sentence)}</p>")
        parts.append(figure(draw_learning(curve), caption))
    found = "".join(part for part in parts if part)
    title = SHARED_TITLES[bool(run.routers)]
    return Markup(f'<h2 id="all">{title}</h2>{found}' if found else "")


def _pairs(run: EvaluationRun) -> str:
    if run.comparison is None:
        return ""
    tables = {baseline.name for baseline in run.baselines}
    rows = []
    for d in run.comparison.differences:
        if d.second in tables and d.measure != AREA:
            continue
        is_cost = d.measure.startswith("relative cost")
        rows.append(
            [
                f"{d.first} minus {d.second}",
                "area (over all budgets)" if d.measure == AREA else d.measure,
                interval_cell(d.difference, signed=True, percent=is_cost),
                Cell(f"{d.adjusted_p_value:.3f}"),
                "sure" if d.adjusted_p_value < 0.05 else "not sure",
            ]
        )
    caption = (
        f"Paired on the same {run.comparison.prompts:,} prompts ({run.comparison.groups:,} questions). Area and "
        "quality in units of the score, cost in percent of the best arm's. Brackets: 95 % intervals; p-values "
        "corrected by Holm within each kind of measure."
    )
    return table(("pair", "measure", "difference", "p (Holm)", ""), rows, caption)


def _tables(run: EvaluationRun) -> str:
    if not run.baselines:
        return ""
    rows: list[list[str]] = []
    for baseline in run.baselines:
        for point in baseline.points:
            rows.append(
                [
                    baseline.name,
                    point.name,
                    interval_cell(point.quality),
                    interval_cell(point.relative_cost, percent=True),
                    interval_cell(point.over_hull, signed=True),
                ]
            )
    notes = "; ".join(f"{b.name}: {b.note} ({b.labels} labels)" for b in run.baselines)
    caption = (
        f"{notes}. λ was chosen on inner validation prompts of each fold, as for a router. Quality: mean score; cost: "
        "percent of the best arm's. Brackets: 95 % intervals."
    )
    header = ("table", "point", "quality", "cost", "minus mixing fixed arms")
    return "<h3>Simple tables</h3>" + table(header, rows, caption)


def _cross_validation(run: EvaluationRun) -> str:
    if not run.cross_validation:
        return ""
    rows: list[list[str]] = []
    for name, result in run.cross_validation.items():
        for p in result.report.points:
            rows.append(
                [
                    f"{name} ({result.report.prompts:,} prompts)",
                    p.name,
                    interval_cell(p.quality),
                    interval_cell(p.relative_cost, percent=True),
                    interval_cell(p.over_hull, signed=True),
                    interval_cell(result.report.unguarded_summary.path_over_constants, signed=True),
                ]
            )
    caption = (
        "Out-of-fold predictions, pooled; λ and guard chosen on inner validation prompts of each fold. Quality: mean "
        "score; cost: percent of the best arm's. Brackets: 95 % intervals of the paired bootstrap."
    )
    header = (
        "way of fitting and split",
        "point",
        "quality",
        "cost",
        "minus mixing fixed arms",
        "whole curve above fixed arms",
    )
    return "<h3>Cross-validation</h3>" + table(header, rows, caption)
