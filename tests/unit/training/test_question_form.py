"""Taking the options from multiple-choice questions."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_training.categories import CATEGORIES, standard_categories, standard_category
from penstock_training.question_form import drop_options_in_half
from penstock_training.splits import without_options

QUESTION = "Which planet is largest?"


@pytest.mark.parametrize(
    "options", ["\nA. Mars\nB. Jupiter", "\nA) Mars\nB) Jupiter\nAnswer:", "\n (A) Mars\n (B) Jupiter"]
)
def test_without_options_lettered_options_are_cut(options: str) -> None:
    """The question stays, everything from option A on goes."""
    assert without_options(QUESTION + options) == QUESTION


@pytest.mark.parametrize("prompt", ["", QUESTION, "A. lone point\nand more", "List:\nA. one\nC. three", "\nA. x\nB. y"])
def test_without_options_anything_else_is_kept(prompt: str) -> None:
    """A prompt without an option list, or with nothing before it, is not touched."""
    assert without_options(prompt) == prompt


def test_drop_options_in_half_spares_kept_rows_and_chooses_by_question() -> None:
    """About half lose their options, one question in two forms always together, kept rows never."""
    prompts = [f"Question number {i} about fish?\nA. yes\nB. no" for i in range(400)]
    shown = drop_options_in_half(prompts, np.array([0, 1, 2]))
    changed = [new != old for new, old in zip(shown, prompts, strict=True)]
    assert not any(changed[:3])
    assert 150 < sum(changed) < 250
    other_form = [prompt.replace("A. yes\nB. no", "A) no\nB) yes\nAnswer:") for prompt in prompts]
    again = drop_options_in_half(other_form, np.array([0, 1, 2]))
    assert [new != old for new, old in zip(again, other_form, strict=True)] == changed


@pytest.mark.parametrize(
    ("category", "task", "name"),
    [
        ("professional_law", "mmlu", "legal"),
        (" Math ", "", "maths"),
        ("zebra-3*5", "zebra-grid", "reasoning"),
        ("", "crux", "coding"),
        ("psychology", "", "general"),
        ("", "", "general"),
    ],
)
def test_standard_category_known_names_map_and_others_are_general(category: str, task: str, name: str) -> None:
    """The category decides, then the task; what is not listed is general."""
    assert CATEGORIES[standard_category(category, task)] == name
    assert standard_categories([category], [task]).tolist() == [CATEGORIES.index(name)]
