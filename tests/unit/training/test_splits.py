"""Splits: which prompts ask the same question, and that such prompts are never divided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from penstock_training.outcomes import load_outcomes
from penstock_training.splits import (
    grouped_split,
    leave_source_out,
    normalise_question,
    question_groups,
    source_overlaps,
)

QUESTION = "Which gas do plants take in by day?"

SAME_QUESTION = [
    QUESTION,
    f"  {QUESTION.upper()}\n",
    f"Question: {QUESTION}\nAnswer:",
    f"{QUESTION}\nA. Oxygen\nB. Carbon dioxide\nAnswer:",
    f"{QUESTION}\nA) Helium\nB) Oxygen\nC) Carbon dioxide\nD) Neon",
    f"{QUESTION}\n(A) Helium\n(B) Carbon dioxide",
    "Which gas do plants take-in, by day",
    f"What is two and two?\nA) 3\nB) 4\nAnswer:\nB\n\n{QUESTION}\nA) Oxygen\nB) Neon\nAnswer:",
]


@pytest.mark.parametrize("prompt", SAME_QUESTION)
def test_normalise_question_same_question_in_other_dress_compares_equal(prompt: str) -> None:
    """Case, punctuation, labels, answer options and worked examples do not make another question."""
    assert normalise_question(prompt) == normalise_question(QUESTION)


def test_normalise_question_text_decoded_as_latin_1_compares_equal() -> None:
    """A set that was saved in the wrong encoding still holds the same questions."""
    text = "What did Schrödinger’s cat die of, 10 µg of β-poison?"
    assert normalise_question(text.encode("utf-8").decode("latin-1")) == normalise_question(text)


def test_normalise_question_latin_1_lookalike_is_left_alone() -> None:
    """Accented words that are no broken UTF-8 stay as they are."""
    assert normalise_question("A naïve façade, São Tomé") == "anaïvefaçadesãotomé"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Add 12 and 30.", "Add 12 and 31."),
        ("Name a river in Spain.", "Name a river in France."),
        ("用中文写一首诗", "用中文写两首诗"),
        ("?!", "!?!"),
    ],
)
def test_normalise_question_different_questions_compare_different(one: str, two: str) -> None:
    """Numbers, names and scripts of any kind count; a text of signs only is compared as it is."""
    assert normalise_question(one) != normalise_question(two)


def test_normalise_question_list_without_option_b_is_kept() -> None:
    """One line that looks like option A is part of the question."""
    assert normalise_question("Continue:\nA. Smith wrote") == "continueasmithwrote"


def test_normalise_question_prompt_of_options_only_is_kept() -> None:
    """A prompt that begins with its options keeps them, rather than becoming empty."""
    assert normalise_question("\nA) red\nB) blue") == "aredbblue"


def test_question_groups_follow_content_not_order() -> None:
    """Reversing the prompts reverses the numbers."""
    prompts = ["Q one?", "q two", "Q ONE", "three"]
    forward = question_groups(prompts)
    assert forward[0] == forward[2]
    assert len(set(forward.tolist())) == 3
    np.testing.assert_array_equal(question_groups(prompts[::-1]), forward[::-1])
    assert question_groups([]).shape == (0,)


def _groups() -> np.ndarray:
    return np.repeat(np.arange(200), np.random.default_rng(1).integers(1, 6, 200))


def test_grouped_split_never_divides_a_group_and_meets_its_shares() -> None:
    """Parts are disjoint, complete, undivided, and of the asked size up to one group."""
    groups = _groups()
    parts = grouped_split(groups, fractions={"train": 0.6, "validation": 0.1, "test": 0.3}, seed=3)
    assert list(parts) == ["train", "validation", "test"]
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(groups.size))
    seen = [set(groups[rows].tolist()) for rows in parts.values()]
    assert len(set.union(*seen)) == sum(len(part) for part in seen)
    for name, share in {"train": 0.6, "validation": 0.1, "test": 0.3}.items():
        assert abs(parts[name].size - share * groups.size) <= 5


def test_grouped_split_same_seed_repeats_whatever_the_order_of_names() -> None:
    """A split can be made again from a manifest, whose keys are sorted."""
    groups = _groups()
    one = grouped_split(groups, fractions={"train": 0.7, "test": 0.3}, seed=5)
    two = grouped_split(groups, fractions={"test": 0.3, "train": 0.7}, seed=5)
    np.testing.assert_array_equal(one["test"], two["test"])
    other = grouped_split(groups, fractions={"train": 0.7, "test": 0.3}, seed=6)
    assert not np.array_equal(one["test"], other["test"])


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5}, {"a": 1.2, "b": -0.2}, {"a": 0.0, "b": 1.0}])
def test_grouped_split_impossible_shares_are_refused(fractions: dict[str, float]) -> None:
    """Shares are positive and sum to one."""
    with pytest.raises(ValueError, match="fractions"):
        grouped_split(_groups(), fractions=fractions, seed=0)


@dataclass
class FewPrompts:
    """The part of a matrix that a split reads."""

    sources: list[str]
    groups: np.ndarray


SHARED = FewPrompts(["a", "a", "b", "b", "c"], np.array([0, 1, 1, 2, 2], dtype=np.int64))


def test_leave_source_out_removes_shared_questions_from_the_rest() -> None:
    """A question of the left-out set is not fitted on in another set's form."""
    train, test = leave_source_out(SHARED, "b")
    assert test.tolist() == [2, 3]
    assert train.tolist() == [0]
    with pytest.raises(ValueError, match="'d'"):
        leave_source_out(SHARED, "d")


def test_source_overlaps_count_questions_and_prompts_of_each_pair() -> None:
    """Every pair is listed, with the prompts that each side would lose."""
    found = {(o.first, o.second): (o.questions, o.first_prompts, o.second_prompts) for o in source_overlaps(*_pair())}
    assert found == {("a", "b"): (1, 1, 1), ("a", "c"): (0, 0, 0), ("b", "c"): (1, 1, 1)}


def _pair() -> tuple[list[str], np.ndarray]:
    return SHARED.sources, SHARED.groups


def test_question_groups_find_the_known_overlaps_of_the_public_sets(penstock_data: Path) -> None:
    """All 1,319 GSM8K questions and about 6,000 MMLU questions are recognised across three sets in different form."""
    files = ("mmlu_pro", "zeroeval_core", "routellm_mmlu_gsm8k_mtbench")
    matrix = load_outcomes([penstock_data / "routing" / f"{name}.parquet" for name in files]).matrix()
    questions = {
        task: {group for group, name in zip(matrix.groups.tolist(), matrix.tasks, strict=True) if name == task}
        for task in ("gsm", "gsm8k", "mmlu")
    }
    assert len(questions["gsm"] & questions["gsm8k"]) == 1319
    originals = [g for g, task in zip(matrix.groups.tolist(), matrix.tasks, strict=True) if task.startswith("ori_mmlu")]
    assert len(originals) == 6810
    assert set(originals) <= questions["mmlu"]
    overlaps = {(o.first, o.second): o.questions for o in source_overlaps(matrix.sources, matrix.groups)}
    assert overlaps == {("mmlu_pro", "routellm"): 6505, ("mmlu_pro", "zeroeval"): 580, ("routellm", "zeroeval"): 2271}
