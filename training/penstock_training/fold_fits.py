"""From outcomes with vectors to the functions that evaluation calls: fit on some prompts, estimate others.

Owns that step, for folds and for learning curves, and how long one fit takes. Must not choose operating points, measure
or know a router family. Read `fold_fits`, then `size_fit`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from penstock_training.cross_validation import FitFold, IndexArray
from penstock_training.decisions import EstimateArrays
from penstock_training.errors import TrainingError
from penstock_training.fit import Corpus, FitOptions, estimate_arrays, fit_estimator
from penstock_training.learning_curve import FitSize
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.progress import silent
from penstock_training.shuffled_control import MakeFit

# A fit at the first number of prompts also loads what fitting needs, so it is made twice and the first is not counted.
PROBE_PROMPTS = (100, 400)


@dataclass(frozen=True, slots=True)
class FitTime:
    """How long one fit takes on this machine.

    Attributes
    ----------
    fixed_seconds : float
        >= 0.
    seconds_per_prompt : float
        >= 0.
    """

    fixed_seconds: float
    seconds_per_prompt: float

    def seconds(self, prompts: IndexArray) -> float:
        """Sum over fits on these numbers of prompts, shape (k,), seconds."""
        return float(prompts.size * self.fixed_seconds + self.seconds_per_prompt * prompts.sum())


def fold_fits(corpus: Corpus, reference_arm: str, options: FitOptions) -> MakeFit:
    """Make what makes fitting functions, for these outcomes or for shuffled ones of the same prompts.

    Parameters
    ----------
    corpus : Corpus
        Prompts with vectors, features and prices.
    reference_arm : str
        The default arm.
    options : FitOptions
        Its seed is replaced by the one that each call names.

    Returns
    -------
    MakeFit
        Its functions fit as `penstock_training.fit.fit_router` fits on its train part, calibration included, and never
        look at outcomes of the prompts that they estimate.

    Notes
    -----
    Call the functions inside `penstock_training.fit.single_threaded` for repeatable results.
    """

    def make(matrix: OutcomeMatrix) -> FitFold:
        own = replace(corpus, matrix=matrix)

        def fit(train: IndexArray, test: IndexArray, seed: int) -> EstimateArrays:
            return _fit_and_estimate(own, train, test, reference_arm, replace(options, seed=seed))

        return fit

    return make


def size_fit(corpus: Corpus, test: IndexArray, reference_arm: str, options: FitOptions) -> FitSize:
    """Make the fitting function of a learning curve.

    Parameters
    ----------
    corpus : Corpus
    test : ndarray of int64, shape (t,)
        Rows of the fixed test prompts.
    reference_arm : str
    options : FitOptions
        The prior in it is used where a call asks for one.

    Returns
    -------
    FitSize
    """

    def fit(own: IndexArray, seed: int, has_prior: bool) -> EstimateArrays:
        prior = options.prior if has_prior else None
        return _fit_and_estimate(corpus, own, test, reference_arm, replace(options, seed=seed, prior=prior))

    return fit


def time_fit(corpus: Corpus, reference_arm: str, options: FitOptions) -> FitTime:
    """Fit on two small samples and draw a line through the times.

    Parameters
    ----------
    corpus : Corpus
    reference_arm : str
    options : FitOptions

    Returns
    -------
    FitTime
        Families that take more than proportionally longer on many prompts are underestimated.

    Raises
    ------
    TrainingError
        What the family raises on so little.
    """
    everything = np.random.default_rng(options.seed).permutation(len(corpus.matrix.prompts))
    few, many = (min(size, everything.size) for size in PROBE_PROMPTS)
    spent = []
    for size in (few, few, many):
        start = time.perf_counter()
        _fit_and_estimate(corpus, everything[:size], everything[:1], reference_arm, options)
        spent.append(time.perf_counter() - start)
    slope = max(0.0, spent[2] - spent[1]) / max(1, many - few)
    return FitTime(max(0.0, spent[1] - slope * few), slope)


def _fit_and_estimate(
    corpus: Corpus, train: IndexArray, test: IndexArray, reference_arm: str, options: FitOptions
) -> EstimateArrays:
    own = corpus.rows(train)
    answered = np.isfinite(own.matrix.score).any(axis=0)
    if not answered.all():
        raise TrainingError(
            f"none of {train.size} prompts to fit on was scored on {corpus.matrix.arms[int(answered.argmin())]!r}",
            code="too_few_prompts",
        )
    estimator, _, _ = fit_estimator(own, options, silent)
    return estimate_arrays(estimator, corpus.rows(test), reference_arm)
