"""One evaluation from start to end: several artifacts, the same prompts, everything that is measured about them.

Owns the order of the steps and the record that text, JSON and HTML are made from. Must not word or draw anything. Read
`run_evaluation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.policy import Tradeoff
from penstock_routers.token_counts import message_tokens
from penstock_training.category_report import (
    ProbeReport,
    SourceConfusion,
    confusion_by_source,
    load_probes,
    measure_probes,
)
from penstock_training.comparison import Contender, RouterComparison, compare_routers
from penstock_training.cross_validation import CrossValidation, CrossValidationOptions
from penstock_training.decisions import EstimateArrays
from penstock_training.evaluation import prepare_trial
from penstock_training.evaluation_report import CurveSummary, EvaluationReport, OperatingPointResult, plain_json
from penstock_training.learning_curve import LearningCurve
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.progress import Progress, silent
from penstock_training.prompt_baselines import PromptBaseline, measure_prompt_baselines
from penstock_training.robustness import SAMPLE, PerturbationResult, measure_robustness, sample_rows
from penstock_training.router_under_test import (
    ALL_PROMPTS,
    OWN_TEST_PART,
    PromptAnswers,
    RouterUnderTest,
    evaluate_router,
)
from penstock_training.shuffled_control import ShuffledControl

JSON_FORMAT: Final = 1
# Five folds of fewer questions leave fewer than 16 inner validation prompts: a knob chosen on them is noise.
BASELINE_MINIMUM: Final = 100


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What is measured beside the main report.

    Attributes
    ----------
    resamples, seed : int
        Of every bootstrap.
    robustness_prompts : int
        Prompts to change and ask about again; 0 leaves robustness out.
    has_baselines : bool
        Whether the simple tables are fitted and compared.
    """

    resamples: int = 1000
    seed: int = 0
    robustness_prompts: int = SAMPLE
    has_baselines: bool = True


@dataclass(frozen=True, slots=True)
class RouterSection:
    """Everything about one artifact.

    Attributes
    ----------
    name, artifact_id, family : str
    seen_sources : tuple of str
        Sources of these prompts that the artifact names as fitted on, although these are not the very files: it may
        have seen them.
    report : EvaluationReport
    robustness : tuple of PerturbationResult
    probes : ProbeReport
    confusion : tuple of SourceConfusion
    """

    name: str
    artifact_id: str
    family: str
    seen_sources: tuple[str, ...]
    report: EvaluationReport
    robustness: tuple[PerturbationResult, ...]
    probes: ProbeReport
    confusion: tuple[SourceConfusion, ...]


@dataclass(frozen=True, slots=True)
class BaselineSection:
    """A simple table, as much of it as is reported."""

    name: str
    note: str
    labels: int
    summary: CurveSummary
    points: tuple[OperatingPointResult, ...]

    @classmethod
    def of(cls, baseline: PromptBaseline) -> BaselineSection:
        """Take what is reported of a measured table."""
        report = baseline.result.report
        return cls(baseline.name, baseline.note, baseline.labels, report.summary, report.points)


@dataclass(frozen=True, slots=True)
class EvaluationRun:
    """Everything that one evaluation found.

    Attributes
    ----------
    files : tuple of str
        Names of the outcome files.
    routers : tuple of RouterSection
        Empty when a way of fitting was measured, and no artifact.
    baselines : tuple of BaselineSection
        Tables over a label, fitted on the other folds of these prompts; empty with few prompts.
    comparison : RouterComparison or None
        Every pair of routers, and every router with every table, on the same prompts.
    cross_validation : dict of str to CrossValidation
        Way of fitting and how it was split, as ``knn, 5 folds``; empty when only artifacts were measured.
    control : ShuffledControl or None
    learning_curves : dict of str to LearningCurve
        Per way of fitting.
    options : EvaluationOptions
    """

    files: tuple[str, ...]
    routers: tuple[RouterSection, ...]
    baselines: tuple[BaselineSection, ...]
    comparison: RouterComparison | None
    options: EvaluationOptions
    cross_validation: Mapping[str, CrossValidation] = field(default_factory=dict)
    control: ShuffledControl | None = None
    learning_curves: Mapping[str, LearningCurve] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types, documented in ``docs/evaluation.md``."""
        parts = {
            "format": JSON_FORMAT,
            "files": self.files,
            "options": asdict(self.options),
            "artifacts": [_router_json(section) for section in self.routers],
            "baselines": [asdict(section) for section in self.baselines],
            "comparison": asdict(self.comparison) if self.comparison else None,
            "cross_validation": {
                name: {"report": asdict(found.report), "folds": [asdict(fold) for fold in found.folds]}
                for name, found in self.cross_validation.items()
            },
            "control": asdict(self.control) | {"sentence": self.control.sentence} if self.control else None,
            "learning_curves": {name: asdict(curve) for name, curve in self.learning_curves.items()},
        }
        converted: dict[str, Any] = plain_json(parts)
        return converted


def run_evaluation(
    routers: Sequence[RouterUnderTest],
    matrix: OutcomeMatrix,
    *,
    files: Sequence[str] = (),
    files_digest: str | None = None,
    options: EvaluationOptions | None = None,
    progress: Progress = silent,
) -> EvaluationRun:
    """Measure artifacts on outcome files.

    Parameters
    ----------
    routers : sequence of RouterUnderTest
        At least one, with different names.
    matrix : OutcomeMatrix
    files : sequence of str
        Names of the files, for people.
    files_digest : str, optional
        As for `RouterUnderTest.held_out_rows`. With several artifacts fitted on these files, only prompts that each of
        them kept from fitting are used.
    options : EvaluationOptions, optional
    progress : callable

    Returns
    -------
    EvaluationRun

    Raises
    ------
    OutcomeError
        The outcomes do not fit an artifact's arms.
    """
    options = options or EvaluationOptions()
    matrix, name = _unseen(routers, matrix, files_digest)
    answers = [router.ask(matrix.prompts, matrix.prompt_tokens, progress, matrix.contexts) for router in routers]
    sections = []
    for step, (router, found) in enumerate(zip(routers, answers, strict=True)):
        progress("measuring artifacts", step, len(routers))
        report = evaluate_router(router, found, matrix, name=name, resamples=options.resamples, seed=options.seed)
        sections.append(_section(router, found, matrix, report, options, progress))
    progress("measuring artifacts", len(routers), len(routers))
    baselines = _baselines(routers, answers, matrix, options, progress)
    return EvaluationRun(
        files=tuple(files),
        routers=tuple(sections),
        baselines=tuple(BaselineSection.of(baseline) for baseline, _ in baselines),
        comparison=_compare(routers, answers, matrix, baselines, options),
        options=options,
    )


def _router_json(section: RouterSection) -> dict[str, Any]:
    found = asdict(section)
    for point, result in zip(found["report"]["points"], section.report.points, strict=True):
        point["non_inferiority"]["sentence"] = result.non_inferiority.sentence
    return found


def _unseen(
    routers: Sequence[RouterUnderTest], matrix: OutcomeMatrix, files_digest: str | None
) -> tuple[OutcomeMatrix, str]:
    """Keep the prompts that no artifact was fitted on, as far as the artifacts can tell."""
    kept: NDArray[np.int64] | None = None
    for router in routers:
        rows = router.held_out_rows(matrix, files_digest)
        if rows is not None:
            kept = rows if kept is None else np.intersect1d(kept, rows)
    return (matrix, ALL_PROMPTS) if kept is None else (matrix.rows(kept), OWN_TEST_PART)


def _section(
    router: RouterUnderTest,
    answers: PromptAnswers,
    matrix: OutcomeMatrix,
    report: EvaluationReport,
    options: EvaluationOptions,
    progress: Progress,
) -> RouterSection:
    tradeoffs = sorted(router.tradeoffs, key=lambda tradeoff: -tradeoff.cost_weight)
    probes = load_probes()
    texts = [probe.prompt for probe in probes]
    tokens = np.array([message_tokens(text) for text in texts], dtype=np.float64)
    probed = router.ask(texts, tokens, silent).estimates
    manifest = router.artifact.manifest
    return RouterSection(
        name=router.name,
        artifact_id=manifest.id,
        family=manifest.family,
        seen_sources=() if report.name == OWN_TEST_PART else seen_sources(router, matrix),
        report=report,
        robustness=_robustness(router, answers.estimates, matrix, tradeoffs, options, progress),
        probes=measure_probes(
            probes,
            probed,
            top_arm=report.best_arm,
            tradeoffs=tradeoffs,
            cost_scale_usd=router.cost_scale_usd,
            novelty_max=router.novelty_max,
        ),
        confusion=confusion_by_source(answers.categories, matrix.categories, matrix.tasks, matrix.sources),
    )


def seen_sources(router: RouterUnderTest, matrix: OutcomeMatrix) -> tuple[str, ...]:
    """Name the sources of a matrix that an artifact's manifest lists as fitted on, sorted."""
    fitted = {source.name for source in router.artifact.manifest.training.sources}
    return tuple(sorted(fitted & set(matrix.sources)))


def _robustness(
    router: RouterUnderTest,
    estimates: EstimateArrays,
    matrix: OutcomeMatrix,
    tradeoffs: Sequence[Tradeoff],
    options: EvaluationOptions,
    progress: Progress,
) -> tuple[PerturbationResult, ...]:
    if options.robustness_prompts == 0:
        return ()
    columns = [matrix.arms.index(arm) for arm in estimates.arms if arm in matrix.arms]
    has_arm = np.isfinite(matrix.score[:, columns]).any(axis=0)
    complete = np.flatnonzero(np.isfinite(matrix.score[:, np.array(columns)[has_arm]]).all(axis=1))
    rows = complete[sample_rows(complete.size, options.robustness_prompts, options.seed)]
    part = matrix.rows(rows)
    contexts = part.contexts
    tokens = part.prompt_tokens  # of the original prompt: a changed wording must not change what is compared
    return measure_robustness(
        estimates.take(rows, estimates.arms),
        part,
        lambda texts: router.ask(texts, tokens, silent, contexts).estimates,
        resamples=options.resamples,
        seed=options.seed,
        progress=progress,
        tradeoffs=tradeoffs,
        cost_scale_usd=router.cost_scale_usd,
        novelty_max=router.novelty_max,
    )


def _baselines(
    routers: Sequence[RouterUnderTest],
    answers: Sequence[PromptAnswers],
    matrix: OutcomeMatrix,
    options: EvaluationOptions,
    progress: Progress,
) -> tuple[tuple[PromptBaseline, NDArray[np.int64]], ...]:
    """The simple tables over the first router's arms, each with the rows of `matrix` that it was measured on."""
    arms = [arm for arm in answers[0].estimates.arms if arm in matrix.arms]
    columns = np.array([matrix.arms.index(arm) for arm in arms])
    observed = np.atleast_1d(np.isfinite(matrix.score[:, columns]).any(axis=0))
    arms, columns = (
        [arm for arm, is_observed in zip(arms, observed.tolist(), strict=True) if is_observed],
        columns[observed],
    )
    rows = np.flatnonzero(np.isfinite(matrix.score[:, columns]).all(axis=1))
    part = matrix.rows(rows)
    if not options.has_baselines or np.unique(part.groups).size < BASELINE_MINIMUM:
        return ()
    expected = answers[0].estimates.take(rows, tuple(arms)).cost_usd
    cost = part.cost_usd[:, columns]
    table = replace(
        part,
        arms=tuple(arms),
        score=part.score[:, columns],
        input_tokens=part.input_tokens[:, columns],
        output_tokens=part.output_tokens[:, columns],
        cost_usd=np.where(np.isfinite(cost), cost, expected).astype(np.float32),
    )
    setting = CrossValidationOptions(
        routers[0].cost_scale_usd, resamples=min(options.resamples, 500), seed=options.seed
    )
    found = measure_prompt_baselines(table, routers[0].default_arm, setting, progress=progress)
    return tuple((baseline, rows[baseline.result.rows]) for baseline in found)


def _compare(
    routers: Sequence[RouterUnderTest],
    answers: Sequence[PromptAnswers],
    matrix: OutcomeMatrix,
    baselines: Sequence[tuple[PromptBaseline, NDArray[np.int64]]],
    options: EvaluationOptions,
) -> RouterComparison | None:
    """Compare on the prompts that were scored on every arm of any router, without tables or with."""
    if len(routers) + len(baselines) < 2:
        return None
    arms = {arm for found in answers for arm in found.estimates.arms}
    columns = [i for i, arm in enumerate(matrix.arms) if arm in arms and np.isfinite(matrix.score[:, i]).any()]
    rows = np.flatnonzero(np.isfinite(matrix.score[:, columns]).all(axis=1))
    if rows.size == 0:
        return None
    part = matrix.rows(rows)
    contenders = []
    for router, found in zip(routers, answers, strict=True):
        trial, _, _ = prepare_trial(
            found.estimates.take(rows, found.estimates.arms),
            part,
            (router.cost_scale_usd, router.novelty_max),
            resamples=options.resamples,
            seed=options.seed,
        )
        contenders.append(Contender(router.name, trial, router.tradeoffs))
    for baseline, measured in baselines:
        order = np.argsort(measured)
        trial = baseline.result.trial.take(order[np.isin(measured[order], rows)])
        report = baseline.result.report
        tradeoffs = tuple(Tradeoff(p.name, p.cost_weight, p.guard_z) for p in report.points)
        contenders.append(Contender(baseline.name, trial, tradeoffs))
    pairs = [(i, j) for i in range(len(routers)) for j in range(i + 1, len(contenders))]
    return compare_routers(contenders, pairs=pairs)
