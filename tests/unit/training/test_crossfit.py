"""Out-of-fold predictions: no question on both sides, and never from a head that saw the prompt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from penstock_training.crossfit import FOLDS, fit_head, fold_rows, member_settings, out_of_fold, squared_error
from penstock_training.errors import TrainingError
from penstock_training.families.knn import KnnFamily
from penstock_training.families.registry import RouterSpec, router_spec
from support.generated_training import generated

NEAREST = {**KnnFamily.defaults, "support_points": 1.0, "neighbours": 1.0, "strength": 0.01}


def test_fold_rows_no_group_is_divided_and_all_rows_are_there() -> None:
    """Prompts that ask the same question are in one fold."""
    groups = np.random.default_rng(0).integers(0, 60, 500)
    folds = fold_rows(groups, seed=1)
    assert len(folds) == FOLDS
    assert sorted(np.concatenate(folds).tolist()) == list(range(500))
    names = [set(groups[rows].tolist()) for rows in folds]
    assert sum(len(part) for part in names) == len(set().union(*names))


def test_out_of_fold_differs_from_in_sample_where_a_head_remembers() -> None:
    """A head that repeats its nearest prompt is perfect on what it saw and no better than chance on what it did not."""
    training = generated(400, seed=2).shuffled().training()
    unseen = out_of_fold("knn", NEAREST, training, np.arange(400), seed=0)
    seen = KnnFamily().fit(training, NEAREST, 0).predict(training.inputs)
    assert squared_error(seen, training) < 0.01
    assert squared_error(unseen, training) > 0.35  # two independent coins differ half of the time


def test_out_of_fold_repeated_prompts_of_one_group_do_not_help() -> None:
    """The same prompt asked twice is no evidence about itself, as long as its group is known."""
    sample = generated(200, seed=2).shuffled()
    rows = np.repeat(np.arange(200), 2)
    twice = type(sample)(sample.vectors[rows], sample.features[rows], sample.truth[rows], sample.score[rows]).training()
    assert squared_error(out_of_fold("knn", NEAREST, twice, rows, seed=0), twice) > 0.35
    assert squared_error(out_of_fold("knn", NEAREST, twice, np.arange(400), seed=0), twice) < 0.2


def test_out_of_fold_ignores_the_outcomes_of_the_fold_it_predicts() -> None:
    """Turning a fold's outcomes round changes nothing about its own predictions, missing cells or not."""
    sample = generated(300, seed=3, missing=0.4)
    groups = np.arange(300)
    fold = fold_rows(groups, seed=0)[0]
    turned = sample.score.copy()
    turned[fold] = 1.0 - turned[fold]
    for name in ("linear", "knn", "kernel"):
        settings = dict(router_spec(name).settings)
        spec = replace(RouterSpec("linear"), family=router_spec(name).family, settings=settings)
        one = fit_head(sample.training(), groups, spec, seed=0).out_of_fold
        two = fit_head(replace(sample, score=turned).training(), groups, spec, seed=0).out_of_fold
        np.testing.assert_array_equal(one[fold], two[fold])
        rest = np.setdiff1d(groups, fold)
        assert np.abs(one[rest] - two[rest]).max() > 1e-6


def test_out_of_fold_of_a_single_question_is_refused_with_a_code() -> None:
    """Where nothing can be held out, fitting stops and says why."""
    with pytest.raises(TrainingError, match="same question") as caught:
        out_of_fold("constant", {}, generated(50).training(), np.zeros(50, dtype=np.int64), seed=0)
    assert caught.value.code == "too_few_prompts"


def test_fit_head_of_an_ensemble_blends_the_members_out_of_fold_predictions() -> None:
    """What calibration sees is what the ensemble would have said of prompts that it did not see."""
    training = generated(400, seed=5).training()
    groups = np.arange(400)
    found = fit_head(training, groups, RouterSpec("ensemble"), seed=0)
    weights = {name.partition(".")[2]: w for name, w in found.settings.items() if name.startswith("weight.")}
    spec = RouterSpec("ensemble")
    wanted = sum(
        weight * out_of_fold(name, member_settings(spec, name), training, groups, seed=0)
        for name, weight in weights.items()
    )
    np.testing.assert_allclose(found.out_of_fold, wanted, atol=1e-12)
    assert found.error["ensemble"] == pytest.approx(squared_error(found.out_of_fold, training))


def test_member_settings_override_defaults_of_that_member_only() -> None:
    """``knn.bandwidth`` is the neighbours' and not the kernel's."""
    spec = router_spec("ensemble", {"knn.bandwidth": 0.2})
    assert member_settings(spec, "knn")["bandwidth"] == 0.2
    assert member_settings(spec, "kernel")["bandwidth"] == 0.4
