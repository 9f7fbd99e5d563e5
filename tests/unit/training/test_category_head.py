"""The category head: learned from enough examples, an earlier router's otherwise, probabilities always."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_training.category_head import MIN_EXAMPLES, CategoryHead, fit_categories
from penstock_training.families.head import PromptInputs

CATEGORIES = 5
GENERAL = CATEGORIES - 1


def _labelled(counts: dict[int, int]) -> tuple[PromptInputs, np.ndarray]:
    """Prompts of each category around an axis of their own."""
    random = np.random.default_rng(0)
    label = np.concatenate([np.full(count, name) for name, count in counts.items()])
    vectors = np.eye(CATEGORIES, 8)[label] + 0.2 * random.standard_normal((label.size, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return PromptInputs(vectors, random.standard_normal((label.size, 3))), label.astype(np.int64)


def _fallback() -> CategoryHead:
    return CategoryHead(np.ones((11, CATEGORIES)), np.arange(CATEGORIES, dtype=np.float64))


@pytest.mark.parametrize("names", [(0, 1, 2), (0, GENERAL), (0, 1), (3,)])
def test_fit_categories_learns_what_has_examples(names: tuple[int, ...]) -> None:
    """Whether two, three or one category occur: the right one is named, and probabilities sum to 1."""
    inputs, label = _labelled(dict.fromkeys(names, 60))
    found = fit_categories(inputs, label, CATEGORIES, None).predict(inputs)
    assert found.shape == (label.size, CATEGORIES)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-12)
    assert (found.argmax(axis=1) == label).mean() > 0.95
    unseen = [name for name in range(CATEGORIES) if name not in names]
    assert found[:, unseen].max() < 1e-6


def test_fit_categories_too_few_examples_count_as_general() -> None:
    """A category of a few examples is not learned; its prompts are ``general``."""
    inputs, label = _labelled({0: 60, 1: MIN_EXAMPLES - 1})
    found = fit_categories(inputs, label, CATEGORIES, None).predict(inputs)
    assert found[:, 1].max() < 1e-6
    assert (found[label == 1].argmax(axis=1) == GENERAL).mean() > 0.8


def test_fit_categories_outcomes_without_categories_take_the_earlier_head() -> None:
    """Outcomes that name no category leave an earlier router's head in force, or say ``general``."""
    inputs, label = _labelled({GENERAL: 100})
    earlier = _fallback()
    assert fit_categories(inputs, label, CATEGORIES, earlier) is earlier
    found = fit_categories(inputs, label, CATEGORIES, None).predict(inputs)
    assert found[:, GENERAL].min() > 0.999


def test_fit_categories_with_enough_examples_ignores_the_earlier_head() -> None:
    """What the outcomes say themselves comes first."""
    inputs, label = _labelled({0: 60, 1: 60})
    found = fit_categories(inputs, label, CATEGORIES, _fallback()).predict(inputs)
    assert (found.argmax(axis=1) == label).mean() > 0.95
