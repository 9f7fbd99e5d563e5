"""Folds that divide no question, settings that never see a test prompt, pooled measurement, and the control."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from penstock_routers.policy import Tradeoff
from penstock_training.cross_validation import (
    CrossValidationOptions,
    FitFold,
    IndexArray,
    cross_validate,
    grouped_folds,
    leave_sources_out,
    task_splits,
)
from penstock_training.decisions import EstimateArrays
from penstock_training.errors import TrainingError
from penstock_training.fitting_evaluation import evaluate_fitting
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.shuffled_control import run_shuffled_control, shuffle_outcomes
from support.fold_fits import COST_SCALE_USD, peeking_fit, ridge_fit, topic_corpus

OPTIONS = CrossValidationOptions(COST_SCALE_USD, resamples=100)


def test_grouped_folds_test_every_prompt_once_and_divide_no_question() -> None:
    """Test parts partition the prompts, and no question is on both sides of a fold."""
    groups = topic_corpus(200).matrix.groups
    splits = grouped_folds(groups, 5, seed=1)
    assert sorted(np.concatenate([s.test for s in splits]).tolist()) == list(range(200))
    for split in splits:
        assert not np.intersect1d(groups[split.train], groups[split.test]).size
        assert split.train.size + split.test.size == 200


def test_task_splits_leave_the_task_and_its_shared_questions_out() -> None:
    """A prompt of another task that asks a left-out question is not fitted on."""
    matrix = topic_corpus(200).matrix
    tasks = ["a" if i % 2 else "b" for i in range(200)]  # the two prompts of each question are of different tasks
    splits = task_splits(replace(matrix, tasks=tasks))
    assert [s.name for s in splits] == ["without a", "without b"]
    assert all(s.train.size == 0 for s in splits)
    with pytest.raises(TrainingError) as refused:
        task_splits(replace(matrix, tasks=["one"] * 200))
    assert refused.value.code == "too_few_tasks"


def test_cross_validate_fit_and_settings_never_see_the_test_prompts() -> None:
    """Both fits of a fold get rows outside its test part; the first also leaves the inner validation out."""
    corpus = topic_corpus(300)
    calls: list[tuple[IndexArray, IndexArray]] = []

    def fit(train: IndexArray, test: IndexArray, seed: int) -> EstimateArrays:
        calls.append((train, test))
        return ridge_fit(corpus.matrix, corpus.vectors)(train, test, seed)

    splits = grouped_folds(corpus.matrix.groups, 3, seed=0)
    cross_validate(corpus.matrix, fit, splits, OPTIONS)
    assert len(calls) == 6
    groups = corpus.matrix.groups
    for split, (inner, final) in zip(splits, zip(calls[::2], calls[1::2], strict=True), strict=True):
        assert not np.isin(groups[inner[0]], groups[inner[1]]).any()
        assert np.isin(np.concatenate(inner), split.train).all()
        assert np.array_equal(np.sort(np.concatenate(inner)), split.train)
        assert np.array_equal(final[0], split.train)
        assert np.array_equal(final[1], split.test)


def test_cross_validate_pooled_decisions_use_each_folds_own_setting() -> None:
    """The pooled quality is what every prompt scores under the λ and guard of its own fold."""
    corpus = topic_corpus(600)
    found = cross_validate(
        corpus.matrix, ridge_fit(corpus.matrix, corpus.vectors), grouped_folds(corpus.matrix.groups, 4, 0), OPTIONS
    )
    trial = found.trial
    chosen = trial.decide(Tradeoff("cost", 0.0, 0.0)).chosen  # looked up by its name
    mean = float(corpus.matrix.score[found.rows, chosen].mean())
    assert found.report.point("cost").quality.value == pytest.approx(mean)
    assert len(found.folds) == 4
    assert found.report.prompts == 600
    assert {fold.test_prompts + fold.train_prompts for fold in found.folds} == {600}


def test_cross_validate_topics_that_matter_are_found() -> None:
    """Where topics decide which arm suffices, ridge on topic vectors is surely above mixing fixed arms."""
    corpus = topic_corpus(600)
    found = cross_validate(
        corpus.matrix, ridge_fit(corpus.matrix, corpus.vectors), grouped_folds(corpus.matrix.groups, 5, 0), OPTIONS
    )
    assert found.report.unguarded_summary.path_over_constants.low > 0.02
    assert found.report.gap_recovered.low > 0.55


def test_cross_validate_novelty_bound_comes_from_inner_validation() -> None:
    """A quantile of the inner validation's novelty bounds what is routed; the rest keeps the default arm."""
    corpus = topic_corpus(300)
    options = replace(OPTIONS, novelty_quantile=0.5)
    fit = ridge_fit(corpus.matrix, corpus.vectors)
    found = cross_validate(corpus.matrix, fit, grouped_folds(corpus.matrix.groups, 3, 0), options)
    for fold in found.folds:
        assert fold.novelty_max == pytest.approx(0.5)
    # Novelty is uniform on [0, 1] in every call, so half of the prompts abstain, but for the two ends of each fold.
    assert found.report.point("cost").abstained_share == pytest.approx(0.5, abs=0.02)


def test_leave_sources_out_measures_each_source_by_itself() -> None:
    """Every source gets a report over exactly its prompts, fitted on the others."""
    corpus = topic_corpus(300, sources=3)
    found = leave_sources_out(corpus.matrix, ridge_fit(corpus.matrix, corpus.vectors), OPTIONS)
    assert list(found) == ["source0", "source1", "source2"]
    assert sum(result.report.prompts for result in found.values()) == 300
    assert all(result.folds[0].train_prompts == 200 for result in found.values())


def test_shuffle_outcomes_keeps_arm_means_and_ties_of_arms() -> None:
    """Rows move as a whole: means, costs per score and dependence between arms stay."""
    matrix = topic_corpus(200).matrix
    shuffled = shuffle_outcomes(matrix, 5)
    rows = {tuple(np.append(s, c)) for s, c in zip(matrix.score, matrix.cost_usd, strict=True)}
    assert {tuple(np.append(s, c)) for s, c in zip(shuffled.score, shuffled.cost_usd, strict=True)} == rows
    assert not np.array_equal(shuffled.score, matrix.score)
    assert shuffled.prompts == matrix.prompts


def test_shuffled_control_sound_fit_passes() -> None:
    """On shuffled outcomes a router falls to the hull, and the control says so."""
    corpus = topic_corpus(600)
    control = run_shuffled_control(corpus.matrix, lambda matrix: ridge_fit(matrix, corpus.vectors), OPTIONS)
    assert control.is_passed
    assert control.path_over_constants.low <= 0.0
    assert control.sentence.startswith("Passed")


def test_shuffled_control_leaking_fit_fails() -> None:
    """A fit that reads test outcomes looks good even on shuffled ones: the control can fail, and then says so."""
    control = run_shuffled_control(topic_corpus(300).matrix, peeking_fit, OPTIONS)
    assert not control.is_passed
    assert control.sentence.startswith("FAILED")


def test_evaluate_fitting_measures_every_split_that_the_outcomes_allow() -> None:
    """Folds always, tasks and sources where there are several, and the control; one source and task leave two parts."""
    corpus = topic_corpus(240)

    def make_fit(matrix: OutcomeMatrix) -> FitFold:
        return ridge_fit(matrix, corpus.vectors)

    found = evaluate_fitting("ridge", corpus.matrix, make_fit, OPTIONS, folds=3)
    assert list(found.cross_validation) == [
        "ridge, 3 folds",
        "ridge, each task left out",
        "ridge, without source0",
        "ridge, without source1",
    ]
    assert found.control.is_passed
    # A topic that was never seen cannot be known: the gain over fixed arms is that of the folds or less.
    folds, tasks = (found.cross_validation[f"ridge, {split}"].report for split in ("3 folds", "each task left out"))
    assert tasks.unguarded_summary.path_over_constants.value < folds.unguarded_summary.path_over_constants.value
    plain = replace(corpus.matrix, sources=["one"] * 240, tasks=["one"] * 240)
    assert list(evaluate_fitting("ridge", plain, make_fit, OPTIONS, folds=3).cross_validation) == ["ridge, 3 folds"]
