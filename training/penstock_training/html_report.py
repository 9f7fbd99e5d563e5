"""An evaluation as one HTML file that a person reads in a browser.

Owns the page: head, summary, order of chapters, glossary, and writing it whole or not at all. It fetches nothing, runs
no script, and follows the reader's light or dark setting. Read `render_page`.
"""

from __future__ import annotations

import os
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Final

from penstock_training.errors import TrainingError
from penstock_training.evaluation_report import EvaluationReport
from penstock_training.evaluation_run import EvaluationRun
from penstock_training.evaluation_text import count_text
from penstock_training.html_parts import Markup, escape, interval_cell, table, verdict_list
from penstock_training.html_sections import anchor, router_chapter
from penstock_training.html_shared import SHARED_TITLES, shared_chapter
from penstock_training.verdicts import run_verdicts

STYLE_FILE: Final = "report.css"
# No script, no address but inline styles: even a text that escaped escaping could fetch and run nothing.
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_SETTINGS_OF_ARTIFACTS: Final = "Settings come from the artifact and never saw these prompts."
_SETTINGS_OF_FOLDS: Final = "Settings were chosen inside the other folds and never saw the prompts of their own."

_GLOSSARY: Final = (
    ("quality", "Mean score of the answers, 0 to 1, as the outcome files have it."),
    ("cost", "Mean cost of a request, relative to always using the arm with the highest quality on these prompts."),
    (
        "mixing fixed arms (constant hull)",
        "The best that a coin can do: a random mixture of single arms with the same mean cost. A router that is not "
        "above it has learned nothing that pays.",
    ),
    (
        "prices only",
        "The router's rule with each arm's mean quality in place of its estimates: it knows which requests are short, "
        "not which arm suits them.",
    ),
    (
        "guard, default arm",
        "The default arm answers unless another one is surely better or cheaper by enough, and whenever a prompt is "
        "novel.",
    ),
    ("surely, 95 % interval", "The interval of the difference excludes 0. Intervals resample questions, not answers."),
    (
        "APGR",
        "Share of the quality gap between cheapest and best arm that is recovered, averaged over shares of calls.",
    ),
    ("AIQ, QNC, CPT", "Measures of RouterBench, UniRoute and RouteLLM, so that published numbers can be compared."),
)


def render_page(run: EvaluationRun) -> str:
    """Make the page.

    Parameters
    ----------
    run : EvaluationRun

    Returns
    -------
    str
        A whole HTML document. The same run gives the same text.
    """
    style = files("penstock_training").joinpath(STYLE_FILE).read_text(encoding="utf-8")
    names = ", ".join(section.name for section in run.routers) or next(iter(run.cross_validation))
    title = escape(f"Router evaluation: {names}" if run.routers else f"Cross-validation: {names}")
    links = "".join(f'<a href="#{anchor(run, s)}">{escape(s.name)}</a>' for s in run.routers)
    shared = shared_chapter(run)
    links += f'<a href="#all">{SHARED_TITLES[bool(run.routers)]}</a>' if shared else ""
    links += '<a href="#method">How the numbers were made</a>'
    chapters = "".join(router_chapter(run, section) for section in run.routers)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>\n{style}</style></head>\n<body><header><h1>{title}</h1>"
        f'<p class="soft">{escape(_subtitle(run))}</p><nav>{links}</nav></header>\n<main>{_summary(run)}'
        f"{chapters}{shared}{_method(run)}</main>\n<footer><p>Made by penstock-train. Nothing on this page "
        "is fetched from anywhere.</p></footer></body></html>\n"
    )


def write_page(run: EvaluationRun, path: Path) -> None:
    """Write the page, whole or not at all.

    Parameters
    ----------
    run : EvaluationRun
    path : Path
        Replaced when it exists.

    Raises
    ------
    TrainingError
        ``page_not_writable``.
    """
    text = render_page(run)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        message = f"the page cannot be written to {str(path)!r}: {error.strerror}"
        raise TrainingError(message, code="page_not_writable") from error


def _first_report(run: EvaluationRun) -> EvaluationReport:
    """Of the first artifact, or of the first way of fitting where no artifact was measured."""
    return run.routers[0].report if run.routers else next(iter(run.cross_validation.values())).report


def _subtitle(run: EvaluationRun) -> str:
    report = _first_report(run)
    source = f" of {', '.join(run.files)}" if run.files else ""
    return f"{count_text(report.prompts, 'prompt')}{source} ({report.name}); {report.resamples:,} bootstrap samples."


def _summary(run: EvaluationRun) -> Markup:
    """With several artifacts, their main numbers side by side and what decides between them."""
    verdicts = run_verdicts(run)
    parts = [verdict_list(verdicts)] if verdicts else []
    if len(run.routers) > 1:
        rows: list[list[str]] = []
        for section in run.routers:
            for p in section.report.points:
                cost = interval_cell(p.relative_cost, percent=True)
                shown = "yes" if p.non_inferiority.is_shown else "no"
                rows.append(
                    [
                        section.name,
                        p.name,
                        interval_cell(p.quality),
                        cost,
                        interval_cell(p.over_hull, signed=True),
                        shown,
                    ]
                )
        header = ("artifact", "point", "quality", "cost", "minus mixing fixed arms", "no worse than default")
        caption = "Quality: mean score; cost: percent of the best arm's. Brackets: 95 % intervals."
        parts.append(table(header, rows, caption))
    return Markup("".join(parts))


def _method(run: EvaluationRun) -> Markup:
    report = _first_report(run)
    words = "".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in _GLOSSARY)
    text = (
        f"Every policy is scored on the same prompts. Intervals are 95 % percentile intervals of {report.resamples:,} "
        f"paired bootstrap samples (seed {report.seed}) over groups of prompts that ask the same question. Best and "
        "cheapest arm and the hull are chosen on these very prompts, which favours them over the router. "
        f"{_SETTINGS_OF_ARTIFACTS if run.routers else _SETTINGS_OF_FOLDS}"
    )
    return Markup(f'<h2 id="method">How the numbers were made</h2><p>{escape(text)}</p><dl>{words}</dl>')
