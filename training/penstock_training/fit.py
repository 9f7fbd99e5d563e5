"""From outcomes with vectors to a fitted router: split, choose settings, calibrate, choose the knob, export, check.

Owns the order of these steps; one training run can be read here from top to bottom in `fit_router`. Must not read
outcome files or write artifacts (`penstock_training.pack` does) and must not know tiers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.features import prompt_features
from penstock_routers.manifest import Measured
from penstock_training.calibration import fit_calibration, identity_calibration
from penstock_training.categories import CATEGORIES, standard_categories
from penstock_training.decisions import EstimateArrays
from penstock_training.errors import TrainingError
from penstock_training.export import ParityReport, build_graph, check_parity
from penstock_training.knn import (
    IndexArray,
    KnnEstimator,
    KnnSettings,
    Prototypes,
    make_priors,
    make_prototypes,
    tabulate,
)
from penstock_training.operating_points import Knob, Trial, choose_knob, measure
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.progress import Progress
from penstock_training.splits import grouped_split

# One in ten familiar prompts is given up so that more of the unfamiliar ones are caught: of 1,330 real chat prompts
# 47 % instead of 36 %, of 3,000 assistant commands 69 % instead of 45 % (docs/routing.md).
NOVELTY_QUANTILE: Final = 0.90
# Form separates unfamiliar prompts better than it predicts gains; of 0, 0.02, 0.05, 0.1 and 0.2 this caught most there.
NOVELTY_WEIGHT: Final = 0.05
MIN_COMPLETE_PROMPTS: Final = 20  # scored on every arm, in validation and in test; fewer prove nothing
SMALL_TABLE: Final = 2000
_LARGE_FRACTIONS: Final = {"train": 0.65, "calibration": 0.10, "validation": 0.10, "test": 0.15}
_SMALL_FRACTIONS: Final = {"train": 0.50, "calibration": 0.15, "validation": 0.20, "test": 0.15}


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What a caller may change.

    Attributes
    ----------
    seed : int
        Of split, clustering and bootstrap.
    resamples : int
        Bootstrap samples behind every interval.
    prototypes : tuple of int
        Numbers of prototypes to try. 1,000 of 256 dimensions keep the graph under 2 MB and a run under 100 µs.
    bandwidths, feature_weights, quality_strengths, gain_strengths : tuple of float
        Values to try for the fields of `KnnSettings`.
    """

    seed: int = 0
    resamples: int = 1000
    prototypes: tuple[int, ...] = (250, 500, 1000)
    bandwidths: tuple[float, ...] = (0.03, 0.05, 0.08)
    feature_weights: tuple[float, ...] = (0.0, 0.02, 0.05)
    quality_strengths: tuple[float, ...] = (2.0, 5.0, 20.0)
    gain_strengths: tuple[float, ...] = (5.0, 10.0, 40.0)


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
class FittedRouter:
    """A router with its graph and everything measured on the way.

    Attributes
    ----------
    estimator : KnnEstimator
    graph : bytes
    parity : ParityReport
    knob : Knob
    novelty_max : float
    reference_arm : str
    reference_input_tokens, reference_output_tokens : float
    split : dict of str to ndarray of int64
        Row numbers of train, calibration, validation and test.
    validation, test : dict of str to Measured
        Per operating point.
    """

    estimator: KnnEstimator
    graph: bytes
    parity: ParityReport
    knob: Knob
    novelty_max: float
    reference_arm: str
    reference_input_tokens: float
    reference_output_tokens: float
    split: dict[str, IndexArray]
    validation: dict[str, Measured]
    test: dict[str, Measured]


@contextmanager
def single_threaded() -> Iterator[None]:
    """Keep linear algebra on one thread, so that the order of additions, and an artifact's id, do not change."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def fit_router(corpus: Corpus, *, reference_arm: str, options: FitOptions, progress: Progress) -> FittedRouter:
    """Fit a ``knn`` router.

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
    Call it inside `single_threaded` for a repeatable result. Prompts are split by question group. Prototypes come
    from ``train``; settings, guard and operating points are chosen on ``validation``; the calibration is fitted on
    ``calibration``; ``test`` is only measured.
    """
    split = split_prompts(corpus.matrix.groups, options.seed)
    _check_corpus(corpus, split, reference_arm)
    estimator = _choose_estimator(corpus, split, reference_arm, options, progress)
    held_out = corpus.rows(split["calibration"])
    raw = estimator.raw(estimator.weights(_double(held_out.vectors), _double(held_out.features))[0])
    anchor = estimator.calibration.anchor
    estimator = replace(estimator, calibration=fit_calibration(raw, held_out.matrix.score, anchor))
    progress("export and parity", 0, 1)
    graph = build_graph(estimator)
    test = corpus.rows(split["test"])
    parity = check_parity(estimator, graph, test.vectors, test.features)
    progress("export and parity", 1, 1)
    validation = corpus.rows(split["validation"])
    estimates = estimate_arrays(estimator, validation, reference_arm)
    novelty_max = round(float(np.quantile(estimates.novelty, NOVELTY_QUANTILE)), 4)
    written = estimator.priors.output_tokens[corpus.matrix.arms.index(reference_arm)]
    request = (round(float(corpus.rows(split["train"]).matrix.prompt_tokens.mean()), 1), round(float(written), 1))
    progress("operating points", 0, 1)
    trial = _make_trial(validation, estimates, request, novelty_max)
    tested = _make_trial(test, estimate_arrays(estimator, test, reference_arm), request, novelty_max)
    knob = choose_knob(trial, resamples=options.resamples, seed=options.seed)
    measured = [
        {t.name: measure(part, t, resamples=options.resamples, seed=options.seed) for t in knob.tradeoffs}
        for part in (trial, tested)
    ]
    progress("operating points", 1, 1)
    return FittedRouter(estimator, graph, parity, knob, novelty_max, reference_arm, *request, split, *measured)


def split_fractions(prompts: int) -> Mapping[str, float]:
    """Shares of train, calibration, validation and test.

    Notes
    -----
    65, 10, 10 and 15 %; below 2,000 prompts 50, 15, 20 and 15 %, because a knob chosen on a few dozen prompts is noise.
    """
    return _SMALL_FRACTIONS if prompts < SMALL_TABLE else _LARGE_FRACTIONS


def split_prompts(groups: IndexArray, seed: int) -> dict[str, IndexArray]:
    """Divide prompts into train, calibration, validation and test by question group."""
    return grouped_split(groups, fractions=split_fractions(groups.size), seed=seed)


def _check_corpus(corpus: Corpus, split: Mapping[str, IndexArray], reference_arm: str) -> None:
    """Refuse what nothing can be learned from, before anything is computed."""
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
    for part in ("validation", "test"):
        complete = int(np.isfinite(matrix.score[split[part]]).all(axis=1).sum())
        if complete < MIN_COMPLETE_PROMPTS:
            raise TrainingError(
                f"only {complete} of {split[part].size} {part} prompts were scored on every arm; "
                f"{MIN_COMPLETE_PROMPTS} are needed, so about 150 in all that ask different questions",
                code="too_few_prompts",
            )
    observed = matrix.score[np.isfinite(matrix.score)]
    if observed.min() == observed.max():
        raise TrainingError(f"every score is {observed[0]:g}: there is nothing to learn", code="constant_scores")


def estimate_arrays(estimator: KnnEstimator, corpus: Corpus, reference_arm: str) -> EstimateArrays:
    """Estimates and expected costs of all prompts, as `penstock_training.evaluation.evaluate` takes them."""
    arms = corpus.matrix.arms
    predicted = estimator.predict(_double(corpus.vectors), _double(corpus.features), arms.index(reference_arm))
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


def _make_trial(
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


def choose_anchor(score: NDArray[np.float32], reference: int) -> int:
    """Choose the arm that is estimated directly: the reference, unless it lacks many of the fullest arm's prompts."""
    counts = np.isfinite(score).sum(axis=0)
    return reference if counts[reference] >= 0.95 * counts.max() else int(counts.argmax())


def feature_matrix(prompts: list[str]) -> NDArray[np.float32]:
    """Prompt features of n prompts, (n, f)."""
    return np.stack([prompt_features(prompt) for prompt in prompts])


def _choose_estimator(
    corpus: Corpus, split: dict[str, IndexArray], reference_arm: str, options: FitOptions, progress: Progress
) -> KnnEstimator:
    """Try all settings on validation prompts and keep the ones with the smallest squared error."""
    train, validation = corpus.rows(split["train"]), corpus.rows(split["validation"])
    anchor = choose_anchor(train.matrix.score, corpus.matrix.arms.index(reference_arm))
    wanted = sorted({min(p, max(1, len(train.matrix.prompts) // 10)) for p in options.prototypes})
    best: tuple[float, KnnEstimator] | None = None
    for step, prototypes in enumerate(wanted):
        progress("prototypes", step, len(wanted))
        places = make_prototypes(
            _double(train.vectors), _double(train.features), prototypes=prototypes, seed=options.seed
        )
        found = _tune(train, validation, places, anchor, options)
        if best is None or found[0] < best[0]:
            best = found
    progress("prototypes", len(wanted), len(wanted))
    if best is None:
        raise TrainingError("no number of prototypes to try", code="no_settings")
    return best[1]


def _tune(
    train: Corpus, validation: Corpus, places: Prototypes, anchor: int, options: FitOptions
) -> tuple[float, KnnEstimator]:
    """Choose kernel and shrinkage for given prototypes; returns the validation error and the estimator."""
    matrix = train.matrix
    lengths = np.where(train.is_free_form[:, None], matrix.output_tokens, np.nan)
    labels = standard_categories(matrix.categories, matrix.tasks)
    table = tabulate(places, matrix.score, lengths, labels, len(CATEGORIES))
    priors = make_priors(table)
    calibration = identity_calibration(len(matrix.arms), anchor)
    score = validation.matrix.score.astype(np.float64)
    best: tuple[float, KnnEstimator] | None = None
    for weight, bandwidth in product(options.feature_weights, options.bandwidths):
        settings = KnnSettings(
            places.centroids.shape[0],
            bandwidth,
            weight,
            NOVELTY_WEIGHT,
            1.0,
            1.0,
            token_strength=20.0,
            category_strength=5.0,
        )
        estimator = KnnEstimator(settings, places, table, priors, calibration)
        weights, _ = estimator.weights(_double(validation.vectors), _double(validation.features))
        for strengths in zip(options.quality_strengths, options.gain_strengths, strict=True):
            settings = replace(settings, quality_strength=strengths[0], gain_strength=strengths[1])
            estimator = replace(estimator, settings=settings)
            error = _squared_error(estimator, weights, score)
            if best is None or error < best[0]:
                best = error, estimator
    if best is None:
        raise TrainingError("no kernel settings to try", code="no_settings")
    return best


def _squared_error(estimator: KnnEstimator, weights: NDArray[np.float64], score: NDArray[np.float64]) -> float:
    """Mean squared error of the anchor's quality plus that of the gains over it, averaged over arms."""
    raw, anchor = estimator.raw(weights), estimator.calibration.anchor
    against = score[:, anchor]
    errors = [_finite_mean(np.square(against - raw.anchor_quality))]
    gains = np.square(score - against[:, None] - raw.anchor_gain)
    errors += [_finite_mean(gains[:, arm]) for arm in range(score.shape[1]) if arm != anchor]
    return errors[0] + sum(errors[1:]) / max(len(errors) - 1, 1)


def _finite_mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else 0.0


def _double(values: NDArray[np.float32]) -> NDArray[np.float64]:
    return values.astype(np.float64)
