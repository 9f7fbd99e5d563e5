"""What an encoder is worth to routing: the area under cost and quality on real outcome sets.

Not run alone; ``bench/encoder.py`` prints it. Needs scikit-learn, pyarrow and the outcome sets. Read `area_of`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyarrow import parquet
from sklearn.linear_model import Ridge

FloatArray = NDArray[np.float64]

OUTCOME_SETS = ("zeroeval_core", "mmlu_pro", "routellm_mmlu_gsm8k_mtbench", "routerbench_3tasks")
NEIGHBOURS = 100
TEST_SHARE = 0.3
# Relative weight of cost, from "cost is nothing" to "quality is nothing".
COST_WEIGHTS = np.concatenate([[0.0], np.logspace(-3.5, 1.5, 60)])


@dataclass(frozen=True)
class OutcomeSet:
    """Every arm's score and cost on every prompt of one set.

    Attributes
    ----------
    name : str
    prompts : list of str, length n
    groups : ndarray of int, shape (n,)
        Equal for prompts with the same normalised text, which stay on one side of a split.
    scores, costs : ndarray of float64, shape (n, m)
    """

    name: str
    prompts: list[str]
    groups: NDArray[np.int64]
    scores: FloatArray
    costs: FloatArray


def load_outcome_set(folder: Path, name: str, max_prompts: int, seed: int = 0) -> OutcomeSet:
    """Read one set, keep the arms that answered nearly everything at a known cost, and draw prompts at random.

    Parameters
    ----------
    folder : Path
        The data folder; the set is ``routing/<name>.parquet`` in it.
    name : str
    max_prompts : int
        Upper bound of n.
    seed : int

    Returns
    -------
    OutcomeSet
    """
    table = parquet.read_table(folder / "routing" / f"{name}.parquet").to_pydict()
    queries = {query: row for row, query in enumerate(dict.fromkeys(table["query_id"]))}
    arms = {arm: column for column, arm in enumerate(sorted(set(table["model"])))}
    scores = np.full((len(queries), len(arms)), np.nan)
    costs = np.full_like(scores, np.nan)
    prompts = [""] * len(queries)
    for query, arm, prompt, score, cost in zip(
        table["query_id"], table["model"], table["prompt"], table["score"], table["cost_usd"], strict=True
    ):
        row, column = queries[query], arms[arm]
        prompts[row] = prompt
        scores[row, column] = np.nan if score is None else score
        costs[row, column] = np.nan if cost is None else cost
    is_known = np.isfinite(scores) & np.isfinite(costs)
    kept_arms = is_known.mean(axis=0) > 0.97
    rows = np.flatnonzero(is_known[:, kept_arms].all(axis=1))
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:max_prompts])
    texts = [prompts[row] for row in rows]
    normalised = {text: number for number, text in enumerate(dict.fromkeys(map(_normalised, texts)))}
    groups = np.array([normalised[_normalised(text)] for text in texts])
    return OutcomeSet(name, texts, groups, scores[np.ix_(rows, kept_arms)], costs[np.ix_(rows, kept_arms)])


def area_of(outcomes: OutcomeSet, vectors: NDArray[np.float32], seed: int) -> dict[str, float]:
    """Route one test split with neighbours, ridge regression and their mean.

    Parameters
    ----------
    outcomes : OutcomeSet
    vectors : ndarray of float32, shape (n, d)
        Unit vectors of its prompts.
    seed : int
        Of the split.

    Returns
    -------
    dict of str to float
        ``knn``, ``ridge``, ``mean`` of both, and ``constant`` (one arm for all prompts, mixed at random): mean quality
        under the upper envelope between the cheapest arm's cost and the best arm's, on the test prompts.
    """
    train, test = _split(outcomes.groups, seed)
    known = outcomes.scores[train]
    knn, ridge = estimated(vectors[train], known, vectors[test])
    costs = outcomes.costs[train].mean(axis=0)
    constant = np.broadcast_to(known.mean(axis=0), knn.shape)
    estimates = {"knn": knn, "ridge": ridge, "mean": (knn + np.clip(ridge, 0.0, 1.0)) / 2.0, "constant": constant}
    return {
        name: _area(estimate, costs, outcomes.scores[test], outcomes.costs[test])
        for name, estimate in estimates.items()
    }


def estimated(
    vectors: NDArray[np.float32], scores: FloatArray, asked: NDArray[np.float32]
) -> tuple[FloatArray, FloatArray]:
    """Estimate scores of asked prompts from known ones, (n, m) each: by neighbours, and by ridge regression."""
    similarities = asked @ vectors.T
    neighbours = np.argpartition(-similarities, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    return scores[neighbours].mean(axis=1), Ridge(alpha=10.0).fit(vectors, scores).predict(asked)


def _split(groups: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    shuffled = np.random.default_rng(seed).permutation(groups.max() + 1)
    is_test = np.isin(groups, shuffled[: int(TEST_SHARE * len(shuffled))])
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def _area(estimate: FloatArray, arm_costs: FloatArray, scores: FloatArray, costs: FloatArray) -> float:
    """Sweep the cost weight."""
    relative = arm_costs / arm_costs.max()
    return area_of_choices([np.argmax(estimate - weight * relative, axis=1) for weight in COST_WEIGHTS], scores, costs)


def area_of_choices(choices: Sequence[NDArray[np.int64]], scores: FloatArray, costs: FloatArray) -> float:
    """Integrate the running maximum of quality over realised cost.

    Parameters
    ----------
    choices : sequence of ndarray of int, each of shape (n,)
        Arms chosen for the prompts, one array a trade-off.
    scores, costs : ndarray of float64, shape (n, m)

    Returns
    -------
    float
        Mean quality between the cheapest arm's cost and the best arm's.
    """
    rows = np.arange(len(scores))
    points = [(float(costs[rows, chosen].mean()), float(scores[rows, chosen].mean())) for chosen in choices]
    cheapest, best = int(costs.mean(axis=0).argmin()), int(scores.mean(axis=0).argmax())
    points += [(float(costs[:, arm].mean()), float(scores[:, arm].mean())) for arm in (cheapest, best)]
    points.sort()
    at = np.array([cost for cost, _ in points])
    quality = np.maximum.accumulate([score for _, score in points])
    grid = np.linspace(costs[:, cheapest].mean(), costs[:, best].mean(), 500)
    return float(np.interp(grid, at, quality).mean())


def _normalised(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()
