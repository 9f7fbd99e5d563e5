"""Whether a router's decisions survive harmless changes to the prompt.

Owns the measurement; the changes are `penstock_training.perturbations`. Labels stay those of the original prompt,
because what is asked does not change; answers may still differ a little, so the change in quality is that of the
*choice* only. Read `measure_robustness`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.policy import Tradeoff
from penstock_training.decisions import REASONS, EstimateArrays, decide_rows
from penstock_training.evaluation import prepare_trial
from penstock_training.intervals import Interval
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.perturbations import PERTURBATIONS, perturb
from penstock_training.progress import Progress, silent

AskPrompts = Callable[[Sequence[str]], EstimateArrays]
"""Estimates for changed prompts, in their order."""

SAMPLE: Final = 300  # prompts; a share of unchanged decisions is then known to ±0.06 at worst
_NOVEL: Final = next(i for i, reason in enumerate(REASONS) if reason.value == "abstained_novel")


@dataclass(frozen=True, slots=True)
class PerturbationResult:
    """One way of changing prompts, at one operating point.

    Attributes
    ----------
    perturbation, point : str
    prompts : int
    changed_text : float, in [0, 1]
        Share of prompts whose text differs after the change.
    unchanged_decisions : Interval
        Share of prompts that keep their arm.
    quality_change : Interval
        Mean score of the arms chosen for the changed prompts minus that for the original ones.
    cost_change : Interval
        The same for cost, in shares of the best arm's mean cost; the original prompt's cost is used for both.
    abstained_change : Interval
        Share of prompts that abstain as novel, changed minus original.
    """

    perturbation: str
    point: str
    prompts: int
    changed_text: float
    unchanged_decisions: Interval
    quality_change: Interval
    cost_change: Interval
    abstained_change: Interval


def sample_rows(prompts: int, size: int, seed: int) -> NDArray[np.int64]:
    """Choose at most `size` of `prompts` rows at random, sorted."""
    chosen = np.random.default_rng(seed).permutation(prompts)[:size]
    return np.sort(chosen).astype(np.int64)


def measure_robustness(
    original: EstimateArrays,
    matrix: OutcomeMatrix,
    ask: AskPrompts,
    *,
    tradeoffs: Sequence[Tradeoff],
    cost_scale_usd: float,
    novelty_max: float,
    names: Sequence[str] = tuple(PERTURBATIONS),
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[PerturbationResult, ...]:
    """Change the prompts in every way and see what becomes of the decisions.

    Parameters
    ----------
    original : EstimateArrays
        For the prompts of `matrix`.
    matrix : OutcomeMatrix
        A sample; see `sample_rows`.
    ask : callable
    tradeoffs, cost_scale_usd, novelty_max
        As for `penstock_training.evaluation.evaluate`.
    names : sequence of str
        Keys of `PERTURBATIONS`.
    resamples, seed : int
    progress : callable

    Returns
    -------
    tuple of PerturbationResult
        One per perturbation and operating point.

    Raises
    ------
    OutcomeError
        No prompt was scored on every arm.

    References
    ----------
    "Robustness" of RouterArena (arXiv 2510.00202): share of perturbed variants with unchanged selection. The wrappers,
    the change in quality and cost, and the intervals are ours.
    """
    trial, _, _ = prepare_trial(original, matrix, (cost_scale_usd, novelty_max), resamples=resamples, seed=seed)
    prompts, arms = trial.matrix.prompts, trial.estimates.arms
    best_cost = float(trial.cost_usd.mean(axis=0)[trial.score.mean(axis=0).argmax()])
    everything = np.arange(len(prompts))
    results = []
    for step, name in enumerate(names):
        progress("robustness", step, len(names))
        texts = [perturb(name, prompt, seed) for prompt in prompts]
        changed = ask(texts).take(everything, arms)
        differs = float(np.mean([text != prompt for text, prompt in zip(texts, prompts, strict=True)]))
        for tradeoff in tradeoffs:
            before = trial.decide(tradeoff)
            after = decide_rows(changed, tradeoff, cost_scale_usd=cost_scale_usd, novelty_max=novelty_max)
            difference = trial.columns(after.chosen) - trial.columns(before.chosen)
            is_same = (before.chosen == after.chosen).astype(np.float64)
            scaled = difference[:, 1] / best_cost if best_cost > 0.0 else np.zeros(len(prompts))
            novel = (after.reason == _NOVEL).astype(np.float64) - (before.reason == _NOVEL)
            bootstrap = trial.bootstrap(np.column_stack([is_same, difference[:, 0], scaled, novel]))
            found = bootstrap.intervals(lambda means: [float(value) for value in means])
            results.append(PerturbationResult(name, tradeoff.name, len(prompts), differs, *found))
    progress("robustness", len(names), len(names))
    return tuple(results)
