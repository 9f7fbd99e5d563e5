"""A way of fitting, measured from start to end on outcomes of one's own: splits, control, tables, learning curve.

Owns the order of the steps and the forecast of how long they take. Must not word or draw anything, and must not know
commands. Read `plan_run`, then `run_fitting`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.policy import Tradeoff
from penstock_training.comparison import Contender, RouterComparison, compare_routers
from penstock_training.cross_validation import CrossValidation, CrossValidationOptions, IndexArray, cross_validate
from penstock_training.engines.protocol import LOCAL
from penstock_training.errors import OutcomeError, TrainingError
from penstock_training.evaluation_run import BASELINE_MINIMUM, BaselineSection, EvaluationOptions, EvaluationRun
from penstock_training.fit import NOVELTY_QUANTILE, Corpus, FitOptions, cost_scale_usd, mean_output_tokens
from penstock_training.fitting_evaluation import evaluate_fitting, plan_fitting
from penstock_training.fold_fits import fold_fits, size_fit, time_fit
from penstock_training.learning_curve import SIZES, LearningCurve, LearningOptions, measure_learning_curve
from penstock_training.progress import Progress, silent
from penstock_training.prompt_baselines import PromptBaseline, measure_prompt_baselines
from penstock_training.splits import grouped_split

# For the forecast of how long it takes: tables that are measured, and what measuring one draw of the learning curve
# takes compared with one fold: a fifth of the bootstrap samples, one and a half times the prompts, no knob to choose.
TABLES: Final = 4
_DRAW_SHARE: Final = 0.3
TEST_SHARE: Final = 0.3  # of the questions, for the learning curve; own outcomes are drawn from the rest


@dataclass(frozen=True, slots=True)
class FittingRunOptions:
    """What is measured.

    Attributes
    ----------
    fit : FitOptions
        Router, seed, bootstrap samples and prior.
    folds : int
        At least 2.
    sizes : sequence of int
        Of the learning curve, rising; none leaves it out.
    draws : int
        Random choices of own outcomes per size.
    """

    fit: FitOptions = field(default_factory=FitOptions)
    folds: int = 5
    sizes: Sequence[int] = SIZES
    draws: int = 5


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run will take.

    Attributes
    ----------
    fits : int
    seconds : float
        Of fits and measurements, from three small fits and one fold on this machine.
    """

    fits: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FittingRun:
    """What a run found.

    Attributes
    ----------
    evaluation : EvaluationRun
        Without artifacts.
    skipped : dict of str to str
        What could not be left out, and why.
    """

    evaluation: EvaluationRun
    skipped: dict[str, str]


def plan_run(corpus: Corpus, reference_arm: str, options: FittingRunOptions) -> RunPlan:
    """Check that the outcomes suffice, count the fits, and time a few of them and one fold.

    Parameters
    ----------
    corpus : Corpus
    reference_arm : str
    options : FittingRunOptions

    Returns
    -------
    RunPlan

    Raises
    ------
    TrainingError
        ``unknown_arm``; ``too_few_prompts``: fewer questions than folds, too few for the learning curve, or what the
        family raises.
    OutcomeError
        ``outcome_no_complete_row``: too few prompts were scored on every arm, as in a log of chosen arms.
    """
    matrix = corpus.matrix
    if reference_arm not in matrix.arms:
        message = f"no outcome names the arm {reference_arm!r}; there are {', '.join(matrix.arms)}"
        raise TrainingError(message, code="unknown_arm")
    complete = int(_is_complete(corpus).sum())
    if complete < 10 * options.folds:  # 10 test prompts a fold, and 8 of the rest to choose settings on
        raise OutcomeError(
            f"{complete} of {len(matrix.prompts)} prompts were scored on every arm; {options.folds} folds need "
            f"{10 * options.folds}. A log of chosen arms is measured by penstock-train evaluate-logged",
            code="outcome_no_complete_row",
        )
    plan = plan_fitting(matrix, folds=options.folds, seed=options.fit.seed)
    sizes, measured = plan.fit_sizes, plan.fit_sizes.size / 2 + TABLES * options.folds
    if options.sizes:
        own, _ = _learning_parts(corpus, options)
        drawn = [size for size in options.sizes if size <= own.size]
        if len(drawn) < 2:
            raise TrainingError(
                f"{own.size} prompts to draw from are too few for a learning curve of sizes "
                f"{', '.join(map(str, options.sizes))}; name smaller --sizes, or leave it out",
                code="too_few_prompts",
            )
        learning = np.tile(drawn, options.draws * len(_priors(options)))
        sizes, measured = np.append(sizes, learning), measured + _DRAW_SHARE * learning.size
    each = time_fit(corpus, reference_arm, options.fit)
    start = time.perf_counter()
    fit = fold_fits(corpus, reference_arm, options.fit)(matrix)
    cross_validate(matrix, fit, plan.folds[:1], _setting(corpus, reference_arm, options))
    fold_seconds = time.perf_counter() - start
    measuring = max(0.0, fold_seconds - each.seconds(plan.fit_sizes[[0, plan.fit_sizes.size // 2]]))
    return RunPlan(sizes.size, each.seconds(sizes) + measuring * measured)


def run_fitting(
    corpus: Corpus,
    reference_arm: str,
    options: FittingRunOptions,
    *,
    files: Sequence[str] = (),
    progress: Progress = silent,
) -> FittingRun:
    """Measure a way of fitting.

    Parameters
    ----------
    corpus : Corpus
    reference_arm : str
    options : FittingRunOptions
    files : sequence of str
        Names of the outcome files, for people.
    progress : callable

    Returns
    -------
    FittingRun

    Raises
    ------
    TrainingError
        What fitting raises, and ``too_few_prompts``.
    OutcomeError
        No prompt of some fold was scored on every arm.

    Notes
    -----
    Call it inside `penstock_training.fit.single_threaded` for a repeatable result.
    """
    name: str = options.fit.router.family
    seed = options.fit.seed
    setting = _setting(corpus, reference_arm, options)
    make_fit = fold_fits(corpus, reference_arm, replace(options.fit, engine=LOCAL))
    found = evaluate_fitting(name, corpus.matrix, make_fit, setting, folds=options.folds, progress=progress)
    main_name, main = next(iter(found.cross_validation.items()))
    tables = _tables(main, reference_arm, replace(setting, engine=LOCAL), progress)
    curves = (
        {name: _learning_curve(corpus, reference_arm, options, setting.cost_scale_usd, progress)}
        if options.sizes
        else {}
    )
    evaluation = EvaluationRun(
        files=tuple(files),
        routers=(),
        baselines=tuple(BaselineSection.of(table) for table in tables),
        comparison=_compare(main_name, main, tables),
        options=EvaluationOptions(options.fit.resamples, seed, robustness_prompts=0, has_baselines=bool(tables)),
        cross_validation=found.cross_validation,
        control=found.control,
        learning_curves=curves,
    )
    return FittingRun(evaluation, dict(found.skipped))


def _is_complete(corpus: Corpus) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(corpus.matrix.score).all(axis=1))


def _priors(options: FittingRunOptions) -> tuple[bool, ...]:
    return (False,) if options.fit.prior is None else (False, True)


def _setting(corpus: Corpus, reference_arm: str, options: FittingRunOptions) -> CrossValidationOptions:
    """Cost of a typical request on the dearest arm and share of novel prompts, as in `penstock_training.fit`."""
    written = mean_output_tokens(corpus)[corpus.matrix.arms.index(reference_arm)]
    scale = cost_scale_usd(corpus.prices, float(corpus.matrix.prompt_tokens.mean()), float(written))
    return CrossValidationOptions(scale, NOVELTY_QUANTILE, options.fit.resamples, options.fit.seed, options.fit.engine)


def _learning_parts(corpus: Corpus, options: FittingRunOptions) -> tuple[IndexArray, IndexArray]:
    """Rows to draw own outcomes from, each scored on every arm, and rows to test on."""
    shares = {"own": 1.0 - TEST_SHARE, "test": TEST_SHARE}
    parts = grouped_split(corpus.matrix.groups, fractions=shares, seed=options.fit.seed + 2)
    complete = _is_complete(corpus)
    return parts["own"][complete[parts["own"]]], parts["test"]


def _learning_curve(
    corpus: Corpus, reference_arm: str, options: FittingRunOptions, scale: float, progress: Progress
) -> LearningCurve:
    own, test = _learning_parts(corpus, options)
    setting = LearningOptions(
        scale, options.sizes, options.draws, min(options.fit.resamples, 200), options.fit.seed, _priors(options)
    )
    fit = size_fit(corpus, test, reference_arm, options.fit)
    return measure_learning_curve(fit, own, corpus.matrix.rows(test), setting, progress=progress)


def _tables(
    main: CrossValidation, reference_arm: str, setting: CrossValidationOptions, progress: Progress
) -> tuple[PromptBaseline, ...]:
    """The simple tables on the very prompts, arms and costs of the folds; none where they are too few."""
    trial = main.trial
    if np.unique(trial.matrix.groups).size < BASELINE_MINIMUM:
        return ()
    columns = [trial.matrix.arms.index(arm) for arm in trial.estimates.arms]
    matrix = replace(
        trial.matrix,
        arms=trial.estimates.arms,
        score=trial.score.astype(np.float32),
        input_tokens=trial.matrix.input_tokens[:, columns],
        output_tokens=trial.matrix.output_tokens[:, columns],
        cost_usd=trial.cost_usd.astype(np.float32),
        propensity=None,
    )
    return measure_prompt_baselines(matrix, reference_arm, replace(setting, novelty_quantile=None), progress=progress)


def _compare(name: str, main: CrossValidation, tables: Sequence[PromptBaseline]) -> RouterComparison | None:
    """The folds against every table, on the same prompts."""
    if not tables:
        return None
    contenders = [Contender(name, main.trial, _tradeoffs(main))]
    for table in tables:
        trial = table.result.trial.take(np.argsort(table.result.rows))
        contenders.append(Contender(table.name, trial, _tradeoffs(table.result)))
    return compare_routers(contenders, pairs=[(0, i) for i in range(1, len(contenders))])


def _tradeoffs(result: CrossValidation) -> tuple[Tradeoff, ...]:
    return tuple(Tradeoff(p.name, p.cost_weight, p.guard_z) for p in result.report.points)
