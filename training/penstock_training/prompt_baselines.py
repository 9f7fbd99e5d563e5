"""What a router has to beat among policies that do look at the prompt, but only a little: tables over a label.

Owns the labels (length, keywords, the file's own category and task) and the table that turns a label into estimates.
They are fitted on part of the outcomes and measured on the rest, by `penstock_training.cross_validation`. Read
`label_fit`, then `measure_prompt_baselines`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.cross_validation import (
    CrossValidation,
    CrossValidationOptions,
    FitFold,
    cross_validate,
    grouped_folds,
)
from penstock_training.decisions import EstimateArrays
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.progress import Progress, silent

IndexArray = NDArray[np.int64]

FOLDS: Final = 5
STRENGTH: Final = 10.0  # prompts that an arm's overall mean counts for in a label's mean
LENGTH_BINS: Final = 8
LONG_CHARACTERS: Final = 1200
SHORT_CHARACTERS: Final = 120
KEYWORD_CLASSES: Final = ("code", "maths", "hard words", "long", "short", "other")

_CODE = re.compile(
    r"```|\bdef \w+\(|\bclass \w+[:({]|#include|\bSELECT\b.+\bFROM\b|\b(?:python|javascript|java|c\+\+|sql|function|"
    r"regex|traceback|compile|debug|unit test)\b",
    re.IGNORECASE | re.DOTALL,
)
_MATHS = re.compile(
    r"\\(?:frac|sum|int|sqrt|begin)|\$[^$\n]{1,200}\$|\d\s*[-+*/^=]\s*\d|[∑∫√≤≥≠π]|\b(?:equation|integral|derivative|"
    r"probability|theorem|triangle|polynomial|how many|percent)\b",
    re.IGNORECASE,
)
_HARD = re.compile(
    r"\b(?:explain|prove|derive|analy[sz]e|compare|evaluate|design|why|step[ -]by[ -]step|reason|justify|critique)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class PromptBaseline:
    """One labelled table, measured.

    Attributes
    ----------
    name : str
    note : str
        What it needs.
    labels : int
        Distinct labels.
    result : CrossValidation
    """

    name: str
    note: str
    labels: int
    result: CrossValidation


def keyword_class(prompt: str) -> str:
    """Sort a prompt by surface signs, in the manner of hand-written routing rules.

    Parameters
    ----------
    prompt : str

    Returns
    -------
    str
        One of `KEYWORD_CLASSES`: the first of code signs, maths signs, words that ask for reasoning, more than 1,200
        characters, fewer than 120 characters, and nothing of these.
    """
    if _CODE.search(prompt):
        return "code"
    if _MATHS.search(prompt):
        return "maths"
    if _HARD.search(prompt):
        return "hard words"
    if len(prompt) > LONG_CHARACTERS:
        return "long"
    return "short" if len(prompt) < SHORT_CHARACTERS else "other"


def length_labels(prompts: Sequence[str]) -> list[str]:
    """Bin prompts by their number of characters, `LENGTH_BINS` bins of about equal counts (no outcome is looked at)."""
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.float64)
    if not lengths.size:
        return []
    edges = np.quantile(lengths, np.linspace(0.0, 1.0, LENGTH_BINS + 1)[1:-1])
    return [f"length {index}" for index in np.searchsorted(edges, lengths, side="left")]


def label_fit(matrix: OutcomeMatrix, labels: Sequence[str], reference_arm: str) -> FitFold:
    """Make a router that knows only a label of the prompt.

    Parameters
    ----------
    matrix : OutcomeMatrix
    labels : sequence of str, length n
    reference_arm : str

    Returns
    -------
    FitFold
        Quality of an arm under a label is its mean score there on the train rows, drawn towards its overall mean; cost
        likewise; novelty is 0.

    Notes
    -----
    ``(Σ score + κ · overall mean) / (n + κ)`` with κ = `STRENGTH`. The gain's standard error is
    ``sqrt(variance of the difference / (n + κ))``. Missing cells are left out of sums and counts.
    """
    _, label = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
    count = int(label.max()) + 1 if label.size else 0
    reference = matrix.arms.index(reference_arm)
    score, cost = matrix.score.astype(np.float64), matrix.cost_usd.astype(np.float64)

    def fit(train: IndexArray, test: IndexArray, seed: int) -> EstimateArrays:
        del seed
        gain = score[train] - score[train][:, [reference]]
        quality, _ = _table(score[train], label[train], count)
        expected_gain, gain_se = _table(gain, label[train], count)
        expected_cost, _ = _table(cost[train], label[train], count)
        return EstimateArrays(
            arms=matrix.arms,
            reference_arm=reference_arm,
            quality=np.clip(quality[label[test]], 0.0, 1.0),
            gain=expected_gain[label[test]],
            gain_se=gain_se[label[test]],
            novelty=np.zeros(test.size),
            cost_usd=expected_cost[label[test]],
        )

    return fit


def measure_prompt_baselines(
    matrix: OutcomeMatrix,
    reference_arm: str,
    options: CrossValidationOptions,
    *,
    progress: Progress = silent,
) -> tuple[PromptBaseline, ...]:
    """Measure the length, keyword, category and task tables by grouped folds.

    Parameters
    ----------
    matrix : OutcomeMatrix
    reference_arm : str
    options : CrossValidationOptions
    progress : callable

    Returns
    -------
    tuple of PromptBaseline
        The category and task tables only where the files name at least two.

    Raises
    ------
    OutcomeError
        No prompt was scored on every arm with outcomes.

    Notes
    -----
    These tables are fitted on outcomes of the same files (other folds), while an artifact was fitted elsewhere: a
    category table that beats it says that a few own outcomes are worth more than the artifact.
    """
    keywords = [keyword_class(prompt) for prompt in matrix.prompts]
    kinds = [
        ("length table", "mean scores per bin of prompt length", length_labels(matrix.prompts)),
        ("keyword table", "mean scores per class of surface signs", keywords),
    ]
    for name, labels in (("category", matrix.categories), ("task", matrix.tasks)):
        if len(set(labels)) > 1:
            kinds.append((f"{name} table", f"mean scores per {name}; needs the label", list(labels)))
    splits = grouped_folds(matrix.groups, FOLDS, options.seed)
    found = []
    for step, (name, note, labels) in enumerate(kinds):
        progress("simple baselines", step, len(kinds))
        fit = label_fit(matrix, labels, reference_arm)
        result = cross_validate(matrix, fit, splits, options, name=name)
        found.append(PromptBaseline(name, note, len(set(labels)), result))
    progress("simple baselines", len(kinds), len(kinds))
    return tuple(found)


def _table(
    values: NDArray[np.float64], label: IndexArray, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shrunken mean per label and column, and its standard error, both (labels, m)."""
    is_known = np.isfinite(values)
    filled = np.where(is_known, values, 0.0)
    overall = filled.sum(axis=0) / np.maximum(is_known.sum(axis=0), 1)
    variance = np.where(is_known, (values - overall) ** 2, 0.0).sum(axis=0) / np.maximum(is_known.sum(axis=0), 1)
    sums = np.zeros((count, values.shape[1]))
    counts = np.zeros((count, values.shape[1]))
    np.add.at(sums, label, filled)
    np.add.at(counts, label, is_known.astype(np.float64))
    mean = (sums + STRENGTH * overall) / (counts + STRENGTH)
    return mean, np.sqrt(variance / (counts + STRENGTH))
