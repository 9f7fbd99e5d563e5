"""Tables over a label: the label rules, the shrinkage, and what they find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from penstock_training.cross_validation import CrossValidationOptions
from penstock_training.prompt_baselines import (
    STRENGTH,
    keyword_class,
    label_fit,
    length_labels,
    measure_prompt_baselines,
)
from support.fold_fits import COST_SCALE_USD, topic_corpus


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("Fix this:\n```\nx = 1\n```", "code"),
        ("Write a Python script", "code"),
        ("What is 3 + 4?", "maths"),
        ("Evaluate $x^2$ at two", "maths"),
        ("Explain the French revolution", "hard words"),
        ("Tell me a story. " * 100, "long"),
        ("Hello there", "short"),
        ("Tell me a story about a small boat. " * 4, "other"),
    ],
)
def test_keyword_class_takes_the_first_sign_that_fits(prompt: str, kind: str) -> None:
    """Code before maths before words of reasoning before length."""
    assert keyword_class(prompt) == kind


def test_length_labels_make_bins_of_about_equal_counts() -> None:
    """Eight bins, ordered by length, and equal lengths never divided."""
    labels = length_labels(["x" * n for n in range(1, 81)])
    assert [labels.count(f"length {i}") for i in range(8)] == [10] * 8
    assert len(set(length_labels(["same"] * 50))) == 1


def test_label_fit_mean_is_drawn_towards_the_overall_mean() -> None:
    """A label's quality is (sum + κ · overall) / (n + κ) over train rows only, a missing cell left out."""
    matrix = topic_corpus(60).matrix
    score = matrix.score.copy()
    score[0, 0] = np.nan
    matrix = replace(matrix, score=score)
    train, test = np.arange(40), np.arange(40, 60)
    found = label_fit(matrix, matrix.categories, "dear")(train, test, 0)
    column = score[train, 0].astype(float)
    overall = np.nanmean(column)
    same = np.array([matrix.categories[i] == matrix.categories[40] for i in train]) & np.isfinite(column)
    expected = (column[same].sum() + STRENGTH * overall) / (same.sum() + STRENGTH)
    assert found.quality[0, 0] == pytest.approx(expected)
    assert (found.gain[:, 2] == 0.0).all()


def test_measure_prompt_baselines_category_that_decides_is_found() -> None:
    """Where the category decides which arm suffices, its table is surely above mixtures; a useless label is not."""
    matrix = topic_corpus(600).matrix
    options = CrossValidationOptions(COST_SCALE_USD, resamples=100)
    found = {b.name: b for b in measure_prompt_baselines(matrix, "dear", options)}
    assert list(found) == ["length table", "keyword table", "category table", "task table"]
    knows = found["category table"].result.report.unguarded_summary.path_over_constants
    assert knows.low > 0.02
    without = replace(matrix, prompts=["prompt"] * 600, categories=[""] * 600, tasks=[""] * 600)
    blind = measure_prompt_baselines(without, "dear", options)
    assert [b.name for b in blind] == ["length table", "keyword table"]
    assert all(b.result.report.unguarded_summary.path_over_constants.low <= 0.0 for b in blind)
