"""The page a person reads about a router artifact: what it learned from, where it wins, where it loses.

Owns ``CARD.md`` and the pictures beside it, which are outside the artifact's hash. Must not compute results: it words
what evaluation reports hold. Read `write_card` first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from penstock_training.evaluation_measures import SLICE_MINIMUM
from penstock_training.evaluation_report import EvaluationReport, OperatingPointResult, SliceResult
from penstock_training.evaluation_text import count_text, interval_text, number_text
from penstock_training.splits import SourceOverlap

CARD_FILE: Final = "CARD.md"
PLOT_FILES: Final = ("cost_quality.png", "calibration.png", "decisions.png", "left_out.png")


@dataclass(frozen=True, slots=True)
class CardSource:
    """One outcome set.

    Attributes
    ----------
    name, licence : str
        The licence as its publisher states it.
    prompts, outcomes : int
    use : str
        ``fitted`` or ``left-out check``.
    """

    name: str
    licence: str
    prompts: int
    outcomes: int
    use: str = "fitted"


@dataclass(frozen=True, slots=True)
class CardArm:
    """One arm as the card lists it; prices in USD per million tokens."""

    name: str
    input_price: float
    output_price: float
    mean_score: float
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CardReport:
    """Everything the card tells.

    Attributes
    ----------
    title : str
    summary : str
        One paragraph: what the router is for and for whom.
    artifact_id, family, encoder : str
    size_bytes : int
        Of the graph.
    default_arm : str
    sources : sequence of CardSource
    arms : sequence of CardArm
    held_out : EvaluationReport
        On prompts of the fitted sets whose questions were not fitted on.
    left_out : mapping of str to EvaluationReport
        Per set, a router fitted without that set and without its questions; empty when there is only one set.
    overlaps : sequence of SourceOverlap
    grouping : sequence of str
        Paragraphs on how models became arms and prompts became groups.
    limitations : sequence of str
        One sentence or two each; what the evaluation itself shows is added.
    usage : str
        Markdown on how to use it.
    """

    title: str
    summary: str
    artifact_id: str
    family: str
    encoder: str
    size_bytes: int
    default_arm: str
    sources: Sequence[CardSource]
    arms: Sequence[CardArm]
    held_out: EvaluationReport
    left_out: Mapping[str, EvaluationReport] = field(default_factory=dict)
    overlaps: Sequence[SourceOverlap] = ()
    grouping: Sequence[str] = ()
    limitations: Sequence[str] = ()
    usage: str = ""


def write_card(folder: Path, report: CardReport) -> tuple[Path, ...]:
    """Write ``CARD.md`` and its pictures into an artifact folder.

    Parameters
    ----------
    folder : Path
        Must exist.
    report : CardReport

    Returns
    -------
    tuple of Path
        The files written. The same report gives the same bytes.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    from penstock_training.plots import draw_calibration, draw_cost_quality, draw_decisions, draw_left_out

    cost_quality, calibration, decisions, left_out = (folder / name for name in PLOT_FILES)
    draw_cost_quality(report.held_out, cost_quality)
    draw_calibration(report.held_out, calibration)
    draw_decisions(report.held_out, decisions)
    written = [folder / CARD_FILE, cost_quality, calibration, decisions]
    if report.left_out:
        draw_left_out({"held-out prompts": report.held_out, **report.left_out}, left_out)
        written.append(left_out)
    (folder / CARD_FILE).write_text(render_card(report), encoding="utf-8")
    return tuple(written)


def render_card(report: CardReport) -> str:
    """Word the card as Markdown.

    Parameters
    ----------
    report : CardReport

    Returns
    -------
    str
        Ends in one line feed.
    """
    parts = [
        f"# {report.title}\n\n{report.summary}",
        _at_a_glance(report),
        _held_out(report.held_out),
        _left_out(report),
        _wins_and_losses(report.held_out),
        _calibration(report.held_out),
        _training_data(report),
        _limitations(report),
        f"## How to use it\n\n{report.usage}" if report.usage else "",
        _method(report.held_out),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


# --------------------------------------------------------------------------------------------------------- sections


def _at_a_glance(report: CardReport) -> str:
    held_out = report.held_out
    rows = [
        ("Artifact", f"`{report.artifact_id}`"),
        ("Family", f"{report.family}, {report.size_bytes / 1e6:.2f} MB, derived numbers only"),
        ("Encoder", f"`{report.encoder}`"),
        ("Arms", ", ".join(f"`{arm.name}`" for arm in report.arms)),
        ("Default arm", f"`{report.default_arm}` (answers whenever the router is not sure)"),
        (
            "Fitted on",
            ", ".join(f"{s.name} ({count_text(s.prompts, 'prompt')})" for s in report.sources if s.use == "fitted"),
        ),
        ("Prompts for the numbers below", f"{held_out.prompts:,}, none of whose questions was fitted on"),
    ]
    table = _table(("", ""), [(f"**{name}**", value) for name, value in rows])
    verdicts = "\n".join(f"- {sentence}" for sentence in held_out.verdicts)
    return f"{table}\n\nWhat the held-out prompts allow one to say:\n\n{verdicts}"


def _held_out(held_out: EvaluationReport) -> str:
    lines = [
        "## Results on held-out prompts",
        f"Quality is the mean score, cost the mean per request relative to always using the best arm "
        f"(`{held_out.best_arm}`). Brackets hold 95 % intervals.",
        _policy_table(held_out),
        "The same, as differences in quality, each at the router's own mean cost. The constant hull is the best random "
        "mixture of fixed arms; “same calls” makes the router's calls per arm, on random prompts; “prices only” is the "
        "router's own rule with each arm's mean quality in place of its estimates: it calls dear arms where requests "
        "are short, but does not know which arm suits a prompt.",
        _difference_table(held_out),
        _no_loss(held_out),
        "![Quality over cost](cost_quality.png)",
        _curve_sentence(held_out),
        _left_out_cells(held_out),
    ]
    return "\n\n".join(line for line in lines if line)


def _policy_table(report: EvaluationReport) -> str:
    best_cost = next(arm.cost_usd.value for arm in report.arms if arm.arm == report.best_arm)
    rows = []
    for point in report.points:
        cost = interval_text(point.relative_cost, percent=True)
        rows.append((f"**{point.name}**", interval_text(point.quality), cost, _shares(point.arm_shares)))
    for baseline in report.baselines:
        cost = f"{100 * baseline.cost_usd.value / best_cost:.0f} %"
        rows.append((baseline.name, interval_text(baseline.quality), cost, baseline.note))
    return _table(("policy", "quality", "cost", "calls"), rows)


def _difference_table(report: EvaluationReport) -> str:
    header = (
        "point",
        "vs cheapest",
        "vs best",
        "vs constant hull",
        "vs cheapest–best mixing",
        "vs same calls",
        "vs prices only",
    )
    rows = []
    for p in report.points:
        differences = (p.over_cheapest, p.over_best, p.over_hull, p.over_mixing, p.over_same_shares, p.over_price_only)
        rows.append((f"**{p.name}**", *(interval_text(value, signed=True) for value in differences)))
    return _table(header, rows)


def _no_loss(report: EvaluationReport) -> str:
    lines = [f"- **{p.name}**: {p.non_inferiority.sentence}" for p in report.points]
    margin = 100 * report.points[0].non_inferiority.margin
    head = f"No worse than `{report.default_arm}` by more than {margin:g} point of quality (one-sided 95 % bound):"
    return "\n".join([head, "", *lines])


def _curve_sentence(report: EvaluationReport) -> str:
    with_guard, without = report.summary, report.unguarded_summary
    return (
        f"Averaged over all budgets between the cheapest and the best arm, the router's curve lies "
        f"{interval_text(with_guard.path_over_constants, signed=True)} above the constant hull with its guard, and "
        f"{interval_text(without.path_over_constants, signed=True)} without; above “prices only” it lies "
        f"{interval_text(with_guard.path_over_price_only, signed=True)} with and "
        f"{interval_text(without.path_over_price_only, signed=True)} without. Ordering prompts by predicted gain "
        f"recovers {interval_text(report.gap_recovered)} of the gap between `{report.cheapest_arm}` and "
        f"`{report.best_arm}` on average (0.5 is chance)."
    )


def _left_out_cells(report: EvaluationReport) -> str:
    notes = []
    if report.prompts_left_out:
        lack = (
            "lacks a score for some arm and is" if report.prompts_left_out == 1 else "lack a score for some arm and are"
        )
        notes.append(f"{count_text(report.prompts_left_out, 'prompt')} {lack} not counted.")
    if report.cells_with_expected_cost:
        notes.append(
            f"In {count_text(report.cells_with_expected_cost, 'cell')} the expected cost stands in for an unknown one."
        )
    return " ".join(notes)


def _left_out(report: CardReport) -> str:
    if not report.left_out:
        return ""
    header = (
        "set left out",
        "prompts",
        "point",
        "quality",
        "cost",
        "vs best",
        "vs constant hull",
        "vs prices only",
        "abstained",
    )
    rows = []
    for result in report.left_out.values():
        for i, p in enumerate(result.points):
            first = (result.name, f"{result.prompts:,}") if i == 0 else ("", "")
            cost = interval_text(p.relative_cost, percent=True)
            differences = [interval_text(d, signed=True) for d in (p.over_best, p.over_hull, p.over_price_only)]
            rows.append(
                (*first, p.name, interval_text(p.quality), cost, *differences, f"{100 * p.abstained_share:.0f} %")
            )
    text = (
        "Each of these sets was kept out of fitting as a whole, and with it every question that it shares with others; "
        "settings and operating points were chosen on the remaining sets. This is what to expect on traffic that "
        "resembles none of the fitted sets."
    )
    missing = [
        f"{name} has no outcomes for {', '.join(f'`{arm}`' for arm in result.arms_left_out)}; the router chooses among "
        f"the rest there."
        for name, result in report.left_out.items()
        if result.arms_left_out
    ]
    gaps = ", ".join(f"{name} {interval_text(result.gap_recovered)}" for name, result in report.left_out.items())
    beyond = ", ".join(
        f"{name} {interval_text(result.unguarded_summary.path_over_price_only, signed=True)}"
        for name, result in report.left_out.items()
    )
    ordering = (
        f"Share of the gap recovered by ordering prompts (0.5 is chance): {gaps}. Curve without guard above “prices "
        f"only”, averaged over all budgets: {beyond}."
    )
    parts = ["## Results on sets left out of fitting", text, _table(header, rows), *missing, ordering]
    return "\n\n".join([*parts, "![Sets left out](left_out.png)"])


def _wins_and_losses(report: EvaluationReport) -> str:
    blocks = []
    for point in report.points:
        wins = sorted(_sure(point, 1), key=lambda part: -part.over_default.value)[:4]
        losses = sorted(_sure(point, -1), key=lambda part: part.over_default.value)[:4]
        sure = [*_sure(point, 1), *_sure(point, -1)]
        even = [part for part in point.by_category if part not in sure]
        higher = count_text(point.against_default.first_better, "prompt")
        savers = sorted((p for p in even if p.relative_cost < 0.97), key=lambda part: part.relative_cost)[:4]
        blocks.append(
            f"**{point.name}**\n\n"
            f"- surely better than `{report.default_arm}`: {_named(wins)}\n"
            f"- surely worse than `{report.default_arm}`: {_named(losses)}\n"
            f"- cheaper without a sure difference: {_named(savers)}\n"
            f"- on {higher} it scored higher than `{report.default_arm}`, on "
            f"{point.against_default.second_better:,} lower, on {point.against_default.equal:,} the same"
        )
    text = (
        f"Per category, against always using the default arm `{report.default_arm}`: difference in quality, and cost "
        f"relative to it. “Surely” means that the 95 % interval does not contain 0; with this many categories, one in "
        f"forty is expected to look better, and one in forty worse, by chance."
    )
    return "\n\n".join(["## Where it wins and loses", text, *blocks, "![Decisions per category](decisions.png)"])


def _calibration(report: EvaluationReport) -> str:
    header = (
        "arm",
        "mean score",
        "calibration error",
        "Brier score",
        "… of the constant mean",
        "expected / actual cost",
    )
    rows = [
        (
            f"`{arm.arm}`",
            interval_text(arm.quality),
            interval_text(arm.calibration_interval),
            interval_text(arm.brier_interval),
            number_text(arm.brier_constant),
            number_text(arm.predicted_cost_ratio, digits=2),
        )
        for arm in report.arms
    ]
    text = (
        "Predicted quality is meant as a probability. The Brier score says how much of it depends on the prompt: only "
        "what lies below the constant mean's score is knowledge about single prompts."
    )
    return "\n\n".join(["## Calibration", text, _table(header, rows), "![Calibration](calibration.png)"])


def _training_data(report: CardReport) -> str:
    sources = _table(
        ("set", "prompts", "outcomes", "licence", "use"),
        [(s.name, f"{s.prompts:,}", f"{s.outcomes:,}", s.licence, s.use) for s in report.sources],
    )
    arms = _table(
        ("arm", "USD per million tokens in / out", "mean score", "made of"),
        [
            (
                f"`{a.name}`",
                f"{a.input_price:g} / {a.output_price:g}",
                f"{a.mean_score:.3f}",
                ", ".join(a.members) or "–",
            )
            for a in report.arms
        ],
    )
    shared = [o for o in report.overlaps if o.questions]
    overlap = ""
    if shared:
        pairs = "; ".join(f"{o.first} and {o.second} share {count_text(o.questions, 'question')}" for o in shared)
        overlap = f"Questions that occur in several sets in different form were recognised and kept together: {pairs}."
    return "\n\n".join(part for part in ("## What it was fitted on", sources, arms, *report.grouping, overlap) if part)


def _limitations(report: CardReport) -> str:
    found = list(report.limitations)
    for name, result in report.left_out.items():
        worse = [p.name for p in result.points if p.over_hull.high < 0.0]
        if worse:
            settings = " and ".join(f"`{w}`" for w in worse)
            found.append(f"With {name} left out, {settings} did worse than mixing fixed arms at the same cost.")
        if result.gap_recovered.low <= 0.5:
            found.append(f"With {name} left out, there is no evidence that it orders prompts better than chance.")
    found.append(
        "Scores are single draws of answers, so differences on one prompt are mostly luck; only means over many "
        "prompts mean something. The oracle's quality is inflated by the same luck."
    )
    return "## Limitations\n\n" + "\n".join(f"- {sentence}" for sentence in found)


def _method(report: EvaluationReport) -> str:
    return (
        "## How the numbers were made\n\n"
        f"Every policy is scored on the same prompts. Intervals are 95 % percentile intervals of {report.resamples:,} "
        f"paired bootstrap resamples (seed {report.seed}) over {report.groups:,} groups of prompts that ask the same "
        "question. The best and the cheapest arm and the corners of the constant hull are chosen on the very prompts "
        "they are measured on, which favours them over the router. Novel prompts (novelty above "
        f"{report.novelty_max:.3f}) keep the default arm and count as such."
    )


# ---------------------------------------------------------------------------------------------------------- wording


def _sure(point: OperatingPointResult, sign: int) -> list[SliceResult]:
    """Categories whose difference to the default arm surely has this sign; too small ones are sure of nothing."""
    large = [part for part in point.by_category if part.prompts >= SLICE_MINIMUM]
    if sign > 0:
        return [part for part in large if part.over_default.low > 0.0]
    return [part for part in large if part.over_default.high < 0.0]


def _named(parts: Sequence[SliceResult]) -> str:
    named = []
    for part in parts:
        difference = number_text(part.over_default.value, signed=True)
        named.append(f"{part.name} ({difference} at {100 * part.relative_cost:.0f} % of the cost)")
    return ", ".join(named) or "none"


def _shares(shares: Mapping[str, float]) -> str:
    named = [f"{name} {100 * share:.0f} %" for name, share in shares.items() if share >= 0.005]
    return ", ".join(named)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [_row(header), "|" + " --- |" * len(header), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
