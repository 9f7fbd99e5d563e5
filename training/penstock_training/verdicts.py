"""The questions a person asks of an evaluation, each with a short answer and how good it is.

Owns the wording of the summary at the top of the page and at the end of the terminal text. It says what the intervals
allow and nothing more. Must not compute statistics. Read `router_verdicts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock_training.comparison import AREA, PairedDifference
from penstock_training.evaluation import KNOWLEDGE_MINIMUM
from penstock_training.evaluation_report import EvaluationReport, OperatingPointResult
from penstock_training.evaluation_run import EvaluationRun, RouterSection
from penstock_training.evaluation_text import interval_text, number_text
from penstock_training.intervals import Interval

Tone = Literal["good", "open", "bad"]
SURE: float = 0.05  # Holm-corrected


@dataclass(frozen=True, slots=True)
class Verdict:
    """One question with its answer.

    Attributes
    ----------
    tone : str
        ``good``, ``bad``, or ``open`` where the prompts do not decide it.
    question, answer : str
    """

    tone: Tone
    question: str
    answer: str


def router_verdicts(run: EvaluationRun, section: RouterSection) -> list[Verdict]:
    """Answer the questions about one artifact.

    Parameters
    ----------
    run : EvaluationRun
    section : RouterSection
        One of its routers.

    Returns
    -------
    list of Verdict
        Does it order prompts, does it save without loss, does it beat blind and simple policies, is it robust.
    """
    report = section.report
    found = _seen(section)
    found.append(_ordering(report))
    found += [_point(report, point) for point in report.points]
    found += [_knob(report), _prices(report)]
    found += _simple_tables(run, section.name)
    if section.robustness:
        found.append(_robustness(section))
    return found


def run_verdicts(run: EvaluationRun) -> list[Verdict]:
    """Answer the questions about all artifacts and ways of fitting: which is better, does it pay, is it sound."""
    found = []
    routers = {section.name for section in run.routers}
    for d in run.comparison.differences if run.comparison else ():
        if d.measure == AREA and d.first in routers and d.second in routers:
            found.append(_pair(d))
    found += [_fitting(name, result.report) for name, result in run.cross_validation.items()]
    for name, result in list(run.cross_validation.items())[:1]:
        found += [_point(result.report, point) for point in result.report.points]
        found += [_knob(result.report), _prices(result.report), *_simple_tables(run, name)]
    if run.control is not None:
        tone: Tone = "good" if run.control.is_passed else "bad"
        found.append(Verdict(tone, "Is the measurement itself sound?", run.control.sentence))
    for name, curve in run.learning_curves.items():
        found.append(Verdict("open", f"Would more outcomes pay ({name})?", curve.sentence))
    return found


def _fitting(name: str, report: EvaluationReport) -> Verdict:
    """Say whether a way of fitting is worth its cost on this traffic, judged by what it does out of fold."""
    question = f"Does routing by prompt pay ({name})?"
    path, gap = report.unguarded_summary.path_over_constants, report.gap_recovered
    evidence = (
        f"{interval_text(path, signed=True)} of quality above mixing fixed arms, averaged over budgets; APGR "
        f"{interval_text(gap)}, 0.5 is chance; n = {report.prompts:,}"
    )
    if report.prompts < KNOWLEDGE_MINIMUM:
        return Verdict("open", question, f"Too few prompts to tell ({evidence}).")
    if path.low > 0.0 and gap.low > 0.5:
        return Verdict("good", question, f"Yes ({evidence}).")
    if path.high < 0.0 or gap.high < 0.5:
        return Verdict("bad", question, f"No: mixing fixed arms at random is better ({evidence}).")
    return Verdict("open", question, f"Not shown: it is not surely better than mixing fixed arms ({evidence}).")


def _seen(section: RouterSection) -> list[Verdict]:
    if not section.seen_sources:
        return []
    answer = (
        f"No: the artifact was fitted on a set named {', '.join(section.seen_sources)}, so it may have seen these very "
        "prompts, and everything below flatters it. Measure it on other outcomes."
    )
    return [Verdict("bad", "Are these prompts new to it?", answer)]


def _ordering(report: EvaluationReport) -> Verdict:
    question = "Does it know which prompts need the best arm?"
    gap = report.gap_recovered
    evidence = f"APGR {interval_text(gap)}, 0.5 is chance"
    if report.prompts < KNOWLEDGE_MINIMUM:
        return Verdict("open", question, f"Too few prompts to tell ({evidence}, n = {report.prompts}).")
    if gap.low > 0.5:
        return Verdict("good", question, f"Better than chance ({evidence}).")
    if gap.high < 0.5:
        return Verdict("bad", question, f"Worse than chance: do not route these prompts with it ({evidence}).")
    return Verdict("open", question, f"No evidence of it on these prompts ({evidence}).")


def _point(report: EvaluationReport, point: OperatingPointResult) -> Verdict:
    question = f"Does “{point.name}” pay?"
    test = point.non_inferiority
    if test.rerouted == 0:
        return Verdict("open", question, f"It saves nothing: the default arm answered all {test.prompts:,} prompts.")
    loses = test.difference + test.margin < 0.0 and point.over_hull.low <= 0.0
    tone: Tone = "good" if test.is_shown and point.over_hull.low > 0.0 else "open"
    if point.over_hull.high < 0.0 or loses:
        tone = "bad"
    cost = f"{interval_text(point.relative_cost, percent=True)} of the cost of {report.best_arm}"
    quality = f"quality {interval_text(point.over_best, signed=True)} against it"
    mixing = f"{_compared(point.over_hull)} mixing fixed arms at that cost"
    return Verdict(
        tone,
        question,
        f"{cost[0].upper()}{cost[1:]}, {quality}: {mixing} ({interval_text(point.over_hull, signed=True)}). "
        f"No worse than {report.default_arm}: {test.sentence}.",
    )


def _knob(report: EvaluationReport) -> Verdict:
    question = "Does the whole knob pay, from cheapest to best?"
    difference = report.summary.path_over_constants
    evidence = f"{interval_text(difference, signed=True)} averaged over budgets, with guard"
    if difference.low > 0.0:
        return Verdict("good", question, f"Surely above mixing fixed arms ({evidence}).")
    if difference.high < 0.0:
        answer = (
            f"Surely below mixing fixed arms ({evidence}): guard and abstentions keep paying for {report.default_arm}. "
            "Keep to the settings that pay, or set a cheaper default arm."
        )
        return Verdict("bad", question, answer)
    return Verdict("open", question, f"Not distinguishable from mixing fixed arms ({evidence}).")


def _prices(report: EvaluationReport) -> Verdict:
    question = "Does it know more than prices and lengths?"
    difference = report.unguarded_summary.path_over_price_only
    evidence = f"curve {interval_text(difference, signed=True)}, without guard"
    if difference.low > 0.0 and report.gap_recovered.low > 0.5:
        return Verdict("good", question, f"Yes ({evidence}).")
    if difference.low > 0.0:
        return Verdict(
            "open", question, f"Its curve is higher ({evidence}), but prompts are not ordered better than chance."
        )
    tone: Tone = "bad" if difference.high < 0.0 else "open"
    return Verdict(tone, question, f"Not surely: which arm suits a prompt adds nothing sure ({evidence}).")


def _simple_tables(run: EvaluationRun, name: str) -> list[Verdict]:
    if run.comparison is None:
        return []
    tables = {baseline.name for baseline in run.baselines}
    areas = [d for d in run.comparison.differences if (d.first, d.measure) == (name, AREA) and d.second in tables]
    if not areas:
        return []
    question = "Does it beat simple tables fitted on these very outcomes?"
    worse = [d for d in areas if d.adjusted_p_value < SURE and d.difference.value < 0.0]
    better = [d for d in areas if d.adjusted_p_value < SURE and d.difference.value > 0.0]
    if worse:
        named = ", ".join(f"{d.second} ({interval_text(d.difference, signed=True)})" for d in worse)
        is_fitted_elsewhere = name in {section.name for section in run.routers}
        advice = "Own outcomes are worth more." if is_fitted_elsewhere else "Try another family, or route by the table."
        return [Verdict("bad", question, f"No: over all budgets surely worse than the {named}. {advice}")]
    if len(better) == len(areas):
        return [Verdict("good", question, f"Yes, over all budgets, all {len(areas)} of them.")]
    named = ", ".join(d.second for d in areas if d not in better)
    return [Verdict("open", question, f"Not told apart from the {named} over all budgets.")]


def _robustness(section: RouterSection) -> Verdict:
    question = "Do decisions survive other wording of the same question?"
    rerouting = {p.name for p in section.report.points if p.non_inferiority.rerouted}
    considered = [r for r in section.robustness if r.point in rerouting]
    if not considered:
        return Verdict("open", question, "Nothing is routed on these prompts, so nothing could change.")
    worst = min(considered, key=lambda result: result.unchanged_decisions.value)
    share = interval_text(worst.unchanged_decisions, percent=True)
    tone: Tone = "good" if worst.unchanged_decisions.low >= 0.9 else "open"
    if worst.unchanged_decisions.high < 0.8:
        tone = "bad"
    change = number_text(worst.quality_change.value, signed=True)
    return Verdict(
        tone,
        question,
        f"At worst ({worst.perturbation}, “{worst.point}”) {share} of decisions stay the same, and quality changes by "
        f"{change}.",
    )


def _pair(d: PairedDifference) -> Verdict:
    question = f"Which is better, {d.first} or {d.second}?"
    evidence = f"area difference {interval_text(d.difference, signed=True)}, p = {d.adjusted_p_value:.2g} after Holm"
    if d.adjusted_p_value >= SURE:
        return Verdict("open", question, f"They cannot be told apart over all budgets ({evidence}).")
    return Verdict(
        "good", question, f"{d.first if d.difference.value > 0 else d.second}, over all budgets ({evidence})."
    )


def _compared(difference: Interval) -> str:
    if difference.low > 0.0:
        return "surely better than"
    return "surely worse than" if difference.high < 0.0 else "not distinguishable from"
