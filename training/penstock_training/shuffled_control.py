"""A control that can fail: with shuffled labels no router may look good.

Owns the shuffle and the verdict. If a router fitted and measured on shuffled outcomes beats mixtures of fixed arms, the
measurement leaks or flatters, and none of its other numbers can be trusted. Read `run_shuffled_control`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from penstock_training.cross_validation import CrossValidationOptions, FitFold, Split, cross_validate, grouped_folds
from penstock_training.evaluation_text import interval_text
from penstock_training.intervals import Interval
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.progress import Progress, silent

MakeFit = Callable[[OutcomeMatrix], FitFold]
"""Makes a fitting function for other outcomes of the same prompts."""


@dataclass(frozen=True, slots=True)
class ShuffledControl:
    """What a router fitted and measured on shuffled outcomes shows.

    Attributes
    ----------
    path_over_constants : Interval
        Without guard; its lower end must not be above 0.
    gap_recovered : Interval
        APGR; its lower end must not be above 0.5.
    prompts : int
    is_passed : bool
    """

    path_over_constants: Interval
    gap_recovered: Interval
    prompts: int
    is_passed: bool

    @property
    def sentence(self) -> str:
        """The result in words."""
        numbers = (
            f"curve above fixed arms {interval_text(self.path_over_constants, signed=True)}, APGR "
            f"{interval_text(self.gap_recovered)}, n = {self.prompts:,}"
        )
        if self.is_passed:
            return f"Passed: on shuffled outcomes the router is no better than mixing fixed arms ({numbers})."
        return (
            f"FAILED: on shuffled outcomes the router seems better than mixing fixed arms ({numbers}). The measurement "
            "leaks; do not trust the other numbers."
        )


def shuffle_outcomes(matrix: OutcomeMatrix, seed: int) -> OutcomeMatrix:
    """Give every prompt the outcomes of another one.

    Parameters
    ----------
    matrix : OutcomeMatrix
    seed : int

    Returns
    -------
    OutcomeMatrix
        Scores, costs and output tokens permuted across prompts, all arms of a prompt together: each arm's mean and the
        dependence between arms stay, every link to the prompt is cut.
    """
    order = np.random.default_rng(seed).permutation(len(matrix.prompts))
    return replace(
        matrix,
        score=matrix.score[order],
        cost_usd=matrix.cost_usd[order],
        output_tokens=matrix.output_tokens[order],
    )


def run_shuffled_control(
    matrix: OutcomeMatrix,
    make_fit: MakeFit,
    options: CrossValidationOptions,
    *,
    folds: int = 5,
    splits: list[Split] | None = None,
    progress: Progress = silent,
) -> ShuffledControl:
    """Cross-validate on shuffled outcomes.

    Parameters
    ----------
    matrix : OutcomeMatrix
    make_fit : callable
        Called once, with the shuffled outcomes.
    options : CrossValidationOptions
    folds : int
    splits : list of Split, optional
        Instead of grouped folds.
    progress : callable

    Returns
    -------
    ShuffledControl

    Notes
    -----
    The control passes when neither the curve without guard is surely above the constant hull nor APGR surely above
    one half. A sound measurement fails it by chance in less than 5 % of runs: two one-sided 2.5 % tests, the first of
    them against a hull that was chosen on the very prompts.

    References
    ----------
    Ojala, Garriga, "Permutation tests for studying classifier performance" (JMLR 11, 2010), test 1, with one
    permutation and the paired bootstrap instead of many permutations.
    """
    shuffled = shuffle_outcomes(matrix, options.seed)
    found = cross_validate(
        shuffled,
        make_fit(shuffled),
        splits or grouped_folds(matrix.groups, folds, options.seed),
        options,
        name="shuffled outcomes",
        progress=progress,
    ).report
    path, gap = found.unguarded_summary.path_over_constants, found.gap_recovered
    return ShuffledControl(path, gap, found.prompts, not (path.low > 0.0 or gap.low > 0.5))
