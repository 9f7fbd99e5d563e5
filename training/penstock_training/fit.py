"""From outcomes with vectors to a fitted router: split, fit, calibrate, choose the knob, export, check.

Owns the order of these steps; one training run can be read here from top to bottom in `fit_router`. Must not read
outcome files or write artifacts (`penstock_training.pack` does) and must not know tiers.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.features import prompt_features
from penstock_routers.manifest import Measured
from penstock_routers.token_counts import ASSUMED_OUTPUT_TOKENS
from penstock_training.bandit.pseudo import pseudo_outcomes
from penstock_training.bandit.weights import sample_weights
from penstock_training.calibration import fit_calibration
from penstock_training.categories import CATEGORIES, standard_categories
from penstock_training.category_head import fit_categories
from penstock_training.crossfit import FOLDS, HeadFit, fit_head, fold_rows, observed_residuals
from penstock_training.data_checks import are_scores_equal
from penstock_training.decisions import EstimateArrays
from penstock_training.engines.protocol import LOCAL, Engine
from penstock_training.errors import TrainingError
from penstock_training.estimator import RouterEstimator
from penstock_training.export import ParityReport, build_graph, check_parity
from penstock_training.families.head import PromptInputs, TrainingSet
from penstock_training.families.registry import ENSEMBLE, RouterSpec
from penstock_training.frame import Frame, fit_frame
from penstock_training.metrics import brier_score, expected_calibration_error
from penstock_training.operating_points import Knob, Trial, choose_knob, measure
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.places import FormScaler, Places
from penstock_training.prior import Prior
from penstock_training.progress import Progress
from penstock_training.splits import grouped_split
from penstock_training.uncertainty import fit_uncertainty

IndexArray = NDArray[np.int64]

# One in ten familiar prompts is given up so that more of the unfamiliar ones are caught: of 1,330 real chat prompts
# 47 % instead of 36 %, of 3,000 assistant commands 69 % instead of 45 % (docs/routing.md).
NOVELTY_QUANTILE: Final = 0.90
MIN_COMPLETE_PROMPTS: Final = 20  # scored on every arm, in validation and in test; fewer prove nothing
MIN_LOGGED_PROMPTS: Final = 50  # per arm, in logs that show one arm a prompt
SMALL_TABLE: Final = 2000
FRAME_PROTOTYPES: Final = 256  # for novelty and evidence, where the family has no prototypes of its own
_CELL_PROMPTS: Final = 20  # per cluster in which residuals are compared; fewer show more error, and more noise
# Each brings a thread pool of its own. A limit reaches only pools that are loaded already; scipy's, loaded inside it,
# made L-BFGS 20 times slower on a busy machine of two cores.
_THREADED: Final = ("scipy.linalg", "scipy.optimize", "sklearn.cluster")
_LARGE_FRACTIONS: Final = {"train": 0.75, "validation": 0.10, "test": 0.15}
_SMALL_FRACTIONS: Final = {"train": 0.65, "validation": 0.20, "test": 0.15}


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What a caller may change.

    Attributes
    ----------
    router : RouterSpec
        Family and hyper-parameters.
    seed : int
        Of split, clustering, folds and bootstrap.
    resamples : int
        Bootstrap samples behind every interval.
    prior : Prior or None
        An earlier router to start from.
    novelty_quantile : float, in (0, 1)
        Share of validation prompts that are not novel.
    guard_z_min : float, >= 0
        Standard errors that the guard asks for at least.
    max_tenant_share : float, in (0, 1], or None
        Most of the weight that one tenant's rows may have; None sets no limit.
    engine : Engine
        Where heads are fitted; it does not change what is found.
    """

    router: RouterSpec = field(default_factory=lambda: RouterSpec(ENSEMBLE))
    seed: int = 0
    resamples: int = 1000
    prior: Prior | None = None
    novelty_quantile: float = NOVELTY_QUANTILE
    guard_z_min: float = 0.0
    max_tenant_share: float | None = None
    engine: Engine = LOCAL


@dataclass(frozen=True, slots=True)
class Corpus:
    """Outcomes with everything that is computed from the prompts.

    Attributes
    ----------
    matrix : OutcomeMatrix
        n prompts, m arms.
    vectors : ndarray of float32, shape (n, d)
    features : ndarray of float32, shape (n, f)
    is_free_form : ndarray of bool, shape (n,)
        Prompts whose output lengths the length head may learn from.
    prices : dict of str to (float, float)
        Per arm, USD per million input and output tokens.
    """

    matrix: OutcomeMatrix
    vectors: NDArray[np.float32]
    features: NDArray[np.float32]
    is_free_form: NDArray[np.bool_]
    prices: Mapping[str, tuple[float, float]]

    def rows(self, index: IndexArray) -> Corpus:
        """Take some prompts."""
        return Corpus(
            self.matrix.rows(index),
            self.vectors[index],
            self.features[index],
            self.is_free_form[index],
            self.prices,
        )


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """How good the calibrated out-of-fold estimates of the training prompts are.

    Attributes
    ----------
    error : dict of str to float
        Mean squared error of raw quality per member and of the whole.
    calibration_error, brier, brier_constant : dict of str to float
        Per arm: ECE, Brier score, and the Brier score of the arm's mean.
    """

    error: dict[str, float]
    calibration_error: dict[str, float]
    brier: dict[str, float]
    brier_constant: dict[str, float]


@dataclass(frozen=True, slots=True)
class FittedRouter:
    """A router with its graph and everything measured on the way.

    Attributes
    ----------
    spec : RouterSpec
    settings : dict of str to float
        Hyper-parameters in force.
    notes : tuple of str
        What dropped out and why.
    estimator : RouterEstimator
    graph : bytes
    parity : ParityReport
    out_of_fold : OutOfFold
    knob : Knob
    novelty_max, novelty_quantile : float
    reference_arm : str
    reference_input_tokens, reference_output_tokens : float
    split : dict of str to ndarray of int64
        Row numbers of train, validation and test.
    validation, test : dict of str to Measured
        Per operating point.
    prior_id : str or None
        The earlier router that it started from.
    """

    spec: RouterSpec
    settings: dict[str, float]
    notes: tuple[str, ...]
    estimator: RouterEstimator
    graph: bytes
    parity: ParityReport
    out_of_fold: OutOfFold
    knob: Knob
    novelty_max: float
    novelty_quantile: float
    reference_arm: str
    reference_input_tokens: float
    reference_output_tokens: float
    split: dict[str, IndexArray]
    validation: dict[str, Measured]
    test: dict[str, Measured]
    prior_id: str | None


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keep linear algebra on one thread, so that the order of additions, and an artifact's id, do not change."""
    from threadpoolctl import threadpool_limits

    for name in _THREADED:
        importlib.import_module(name)
    with threadpool_limits(1):
        yield


def fit_router(corpus: Corpus, *, reference_arm: str, options: FitOptions, progress: Progress) -> FittedRouter:
    """Fit a router.

    Parameters
    ----------
    corpus : Corpus
    reference_arm : str
        The default arm of the operating points.
    options : FitOptions
    progress : callable
        Called with a stage's name, steps done and steps in total.

    Returns
    -------
    FittedRouter

    Raises
    ------
    TrainingError
        ``unknown_arm``, ``free_reference_arm``, ``constant_scores``, ``too_few_prompts``, or ``parity_failed`` when the
        graph disagrees with the estimator.

    Notes
    -----
    Call it inside `single_threaded` for a repeatable result. Prompts are split by question group. Everything is fitted
    on ``train``, calibration and standard errors on its out-of-fold predictions; guard and operating points are chosen
    on ``validation``; ``test`` is only measured.
    """
    split = split_prompts(corpus.matrix.groups, options.seed)
    check_corpus(corpus, split, reference_arm)
    train = corpus.rows(split["train"])
    estimator, fitted, quality = fit_estimator(train, options, progress)
    progress("export and parity", 0, 1)
    graph = build_graph(estimator)
    test, validation = (completed(corpus.rows(split[part]), estimator) for part in ("test", "validation"))
    parity = check_parity(estimator, graph, test.vectors, test.features)
    progress("export and parity", 1, 1)
    estimates = estimate_arrays(estimator, validation, reference_arm)
    novelty_max = round(float(np.quantile(estimates.novelty, options.novelty_quantile)), 4)
    written = mean_output_tokens(train)[corpus.matrix.arms.index(reference_arm)]
    request = (round(float(train.matrix.prompt_tokens.mean()), 1), round(float(written), 1))
    progress("operating points", 0, 1)
    trial = make_trial(validation, estimates, request, novelty_max)
    tested = make_trial(test, estimate_arrays(estimator, test, reference_arm), request, novelty_max)
    knob = choose_knob(trial, resamples=options.resamples, seed=options.seed, guard_z_min=options.guard_z_min)
    validated, measured = (
        {t.name: measure(part, t, resamples=options.resamples, seed=options.seed) for t in knob.tradeoffs}
        for part in (trial, tested)
    )
    progress("operating points", 1, 1)
    return FittedRouter(
        options.router,
        fitted.settings,
        fitted.notes,
        estimator,
        graph,
        parity,
        measure_out_of_fold(fitted, quality, train),
        knob,
        novelty_max,
        options.novelty_quantile,
        reference_arm,
        *request,
        split,
        validated,
        measured,
        None if options.prior is None else options.prior.artifact_id,
    )


def fit_estimator(
    train: Corpus, options: FitOptions, progress: Progress
) -> tuple[RouterEstimator, HeadFit, NDArray[np.float64]]:
    """Fit everything that the graph holds, on all prompts given.

    Parameters
    ----------
    train : Corpus
    options : FitOptions
    progress : callable

    Returns
    -------
    estimator : RouterEstimator
    fitted : HeadFit
    quality : ndarray of float64, shape (n, m)
        Calibrated out-of-fold quality of the prompts.

    Raises
    ------
    TrainingError
        What the family raises.
    """
    scaler = FormScaler.fit(train.features)
    training = make_training_set(train, scaler, options)
    price = np.array([train.prices[arm] for arm in train.matrix.arms])
    fitted = fit_head(
        training,
        train.matrix.groups,
        options.router,
        seed=options.seed,
        progress=progress,
        arm_cost=price @ np.array([0.75, 0.25]),  # three input tokens to one output token, as elsewhere
        engine=options.engine,
    )
    calibration = fit_calibration(fitted.out_of_fold, train.matrix.score, train.matrix.groups)
    quality = calibration.apply(fitted.out_of_fold)
    frame = _make_frame(train, scaler, training, fitted, options)
    residual = observed_residuals(quality, train.matrix.score, training.observed)
    factor = frame.observe(training.inputs).variance_factor
    # Two prompts are compared only where one head predicted both, so cells are parts of a cluster in one fold.
    cells = training.prototypes(residual.shape[0] // _CELL_PROMPTS).members * FOLDS
    for fold, rows in enumerate(fold_rows(train.matrix.groups, options.seed)):
        cells[rows] += fold
    uncertainty = fit_uncertainty(residual, training.observed, factor, cells)
    return RouterEstimator(frame, fitted.head, calibration, uncertainty), fitted, quality


def make_training_set(train: Corpus, scaler: FormScaler, options: FitOptions) -> TrainingSet:
    """Fill in missing cells and bring prompts and prior into the form that families take."""
    inputs = PromptInputs(train.vectors.astype(np.float64), scaler.apply(train.features))
    is_weighted = train.matrix.propensity is not None or options.max_tenant_share is not None
    weight = sample_weights(train.matrix, max_tenant_share=options.max_tenant_share) if is_weighted else None
    size = inputs.vectors.shape[1] + inputs.forms.shape[1]
    directions = np.zeros((size, 0)) if options.prior is None else options.prior.directions_for(scaler)
    places = Places(inputs.vectors, inputs.forms, options.seed, np.arange(len(train.matrix.prompts)))
    return TrainingSet.make(inputs, train.matrix.score, weight, places, directions)


def _make_frame(
    train: Corpus, scaler: FormScaler, training: TrainingSet, fitted: HeadFit, options: FitOptions
) -> Frame:
    matrix = train.matrix
    own = [value for key, value in fitted.settings.items() if key.rpartition(".")[2] in ("prototypes", "landmarks")]
    prototypes = training.prototypes(round(min(own, default=FRAME_PROTOTYPES)))
    labels = standard_categories(matrix.categories, matrix.tasks)
    fallback = None if options.prior is None else options.prior.categories_for(scaler)
    categories = fit_categories(training.inputs, labels, len(CATEGORIES), fallback)
    lengths = np.where(train.is_free_form[:, None], matrix.output_tokens, np.nan)
    return fit_frame(scaler, prototypes, training.inputs, training.observed, lengths, categories, options.engine)


def measure_out_of_fold(fitted: HeadFit, quality: NDArray[np.float64], train: Corpus) -> OutOfFold:
    """Measure calibrated out-of-fold estimates (n, m) of the training prompts, per arm."""
    score = train.matrix.score.astype(np.float64)
    arms = train.matrix.arms
    return OutOfFold(
        fitted.error,
        {arm: expected_calibration_error(quality[:, i], score[:, i]) for i, arm in enumerate(arms)},
        {arm: brier_score(quality[:, i], score[:, i]) for i, arm in enumerate(arms)},
        {arm: float(np.nanvar(score[:, i])) for i, arm in enumerate(arms)},
    )


def mean_output_tokens(train: Corpus) -> NDArray[np.float64]:
    """Mean completion tokens of each arm over free-form prompts, (m,); that of all arms where one has none."""
    lengths = np.where(train.is_free_form[:, None], train.matrix.output_tokens, np.nan).astype(np.float64)
    known = np.isfinite(lengths)
    overall = float(lengths[known].mean()) if known.any() else ASSUMED_OUTPUT_TOKENS
    totals = np.where(known, lengths, 0.0).sum(axis=0)
    return np.asarray(np.where(known.any(axis=0), totals / np.maximum(known.sum(axis=0), 1), overall))


def split_fractions(prompts: int) -> Mapping[str, float]:
    """Shares of train, validation and test.

    Notes
    -----
    75, 10 and 15 %; below 2,000 prompts 65, 20 and 15 %, because a knob chosen on a few dozen prompts is noise.
    """
    return _SMALL_FRACTIONS if prompts < SMALL_TABLE else _LARGE_FRACTIONS


def split_prompts(groups: IndexArray, seed: int) -> dict[str, IndexArray]:
    """Divide prompts into train, validation and test by question group."""
    return grouped_split(groups, fractions=split_fractions(groups.size), seed=seed)


def check_corpus(corpus: Corpus, split: Mapping[str, IndexArray], reference_arm: str) -> None:
    """Refuse what nothing can be learned from, before anything is computed.

    Raises
    ------
    TrainingError
        ``unknown_arm``, ``free_reference_arm``, ``constant_scores``, ``too_few_prompts``.
    """
    matrix = corpus.matrix
    if reference_arm not in matrix.arms:
        raise TrainingError(
            f"no outcome names the arm {reference_arm!r}; there are {', '.join(matrix.arms)}", code="unknown_arm"
        )
    if max(corpus.prices[reference_arm]) <= 0.0:
        raise TrainingError(
            f"the default arm {reference_arm!r} costs nothing, so costs cannot be measured against it; name another "
            "one, or give it a price",
            code="free_reference_arm",
        )
    _check_counts(matrix, split)
    if are_scores_equal(matrix):
        raise TrainingError("all scores are equal: there is nothing to learn", code="constant_scores")


def _check_counts(matrix: OutcomeMatrix, split: Mapping[str, IndexArray]) -> None:
    """Refuse too few prompts: answered by every arm, or, in logs that show one arm a prompt, by each arm."""
    if matrix.propensity is not None:
        answered = np.isfinite(matrix.score[split["train"]]).sum(axis=0)
        if (fewest := int(answered.min())) < MIN_LOGGED_PROMPTS:
            raise TrainingError(
                f"the log shows the arm {matrix.arms[int(answered.argmin())]!r} on {fewest} training prompts; "
                f"{MIN_LOGGED_PROMPTS} are needed of every arm: let the gateway explore, or leave the arm out",
                code="too_few_prompts",
            )
        return
    for part in ("validation", "test"):
        complete = int(np.isfinite(matrix.score[split[part]]).all(axis=1).sum())
        if complete < MIN_COMPLETE_PROMPTS:
            raise TrainingError(
                f"only {complete} of {split[part].size} {part} prompts were scored on every arm; "
                f"{MIN_COMPLETE_PROMPTS} are needed, so about 150 in all that ask different questions",
                code="too_few_prompts",
            )


def completed(corpus: Corpus, estimator: RouterEstimator) -> Corpus:
    """Give prompts that were logged with one arm each pseudo-outcomes of the others; leave complete outcomes alone.

    Parameters
    ----------
    corpus : Corpus
        Prompts that the estimator was not fitted on.
    estimator : RouterEstimator

    Returns
    -------
    Corpus
    """
    matrix = corpus.matrix
    if matrix.propensity is None:
        return corpus
    quality = estimator.quality(estimator.frame.inputs(corpus.vectors, corpus.features))
    score = pseudo_outcomes(matrix.score, matrix.propensity, quality)
    return replace(corpus, matrix=replace(matrix, score=score.astype(np.float32)))


def estimate_arrays(estimator: RouterEstimator, corpus: Corpus, reference_arm: str) -> EstimateArrays:
    """Estimates and expected costs of all prompts, as `penstock_training.evaluation.evaluate` takes them."""
    arms = corpus.matrix.arms
    predicted = estimator.predict(corpus.vectors, corpus.features, arms.index(reference_arm))
    prices = np.array([corpus.prices[arm] for arm in arms])
    cost = (corpus.matrix.prompt_tokens[:, None] * prices[:, 0] + predicted.output_tokens * prices[:, 1]) / 1e6
    return EstimateArrays(
        arms=arms,
        reference_arm=reference_arm,
        quality=predicted.quality,
        gain=predicted.gain,
        gain_se=predicted.gain_se,
        novelty=predicted.novelty,
        cost_usd=cost,
    )


def cost_scale_usd(prices: Mapping[str, tuple[float, float]], input_tokens: float, output_tokens: float) -> float:
    """Cost of a request on the dearest arm, USD: the unit of λ, as in the gateway and in a prediction."""
    return max((input_tokens * sent + output_tokens * written) / 1e6 for sent, written in prices.values())


def make_trial(
    corpus: Corpus, estimates: EstimateArrays, typical_request: tuple[float, float], novelty_max: float
) -> Trial:
    """Keep the prompts that were scored on every arm, with estimates, outcomes and costs."""
    score = corpus.matrix.score.astype(np.float64)
    complete = np.flatnonzero(np.isfinite(score).all(axis=1))
    kept = estimates.take(complete, estimates.arms)
    cost = corpus.matrix.cost_usd[complete].astype(np.float64)
    return Trial(
        estimates=kept,
        score=score[complete],
        cost_usd=np.where(np.isfinite(cost), cost, kept.cost_usd),
        groups=corpus.matrix.groups[complete],
        cost_scale_usd=cost_scale_usd(corpus.prices, *typical_request),
        novelty_max=novelty_max,
    )


def feature_matrix(prompts: list[str]) -> NDArray[np.float32]:
    """Prompt features of n prompts, (n, f)."""
    return np.stack([prompt_features(prompt) for prompt in prompts])
