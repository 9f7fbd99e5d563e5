"""What the search judges routers by: each metric, the constant router at its best, hopeless first folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from penstock_training.fit import FitOptions, make_training_set
from penstock_training.places import FormScaler
from penstock_training.search_metric import METRICS, RoutingJudge
from support.small_router import made_up_corpus


@pytest.mark.parametrize("metric", METRICS)
def test_routing_judge_prefers_the_truth_to_the_mean_by_every_metric(metric: str) -> None:
    """Predictions that know the topic beat each arm's mean, whatever they are judged by, and by several errors."""
    corpus = made_up_corpus(1500, missing=0.0)
    inputs = make_training_set(corpus, FormScaler.fit(corpus.features), FitOptions()).inputs
    judge = RoutingJudge(corpus, inputs, reference_arm="dear", metric=metric, resamples=100, seed=0)
    topic = np.array([int(prompt.split()[1]) for prompt in corpus.matrix.prompts])
    means = np.stack([corpus.matrix.score[topic == t].mean(axis=0) for t in range(4)])
    knows = judge.measure(means[topic].astype(np.float64))
    mean = np.tile(corpus.matrix.score.mean(axis=0).astype(np.float64), (1500, 1))
    constant = judge.measure(mean, is_constant=True)
    difference = knows.draws - constant.draws
    assert knows.gain - constant.gain > 2.0 * difference.std()


def test_routing_judge_noise_is_not_better_than_a_mixture_of_arms() -> None:
    """Routing by dice fills the gaps between fixed arms; that earns nothing over mixing them on purpose."""
    corpus = made_up_corpus(1500, missing=0.0)
    inputs = make_training_set(corpus, FormScaler.fit(corpus.features), FitOptions()).inputs
    judge = RoutingJudge(corpus, inputs, reference_arm="dear", metric="area", resamples=100, seed=0)
    mean = np.tile(corpus.matrix.score.mean(axis=0).astype(np.float64), (1500, 1))
    noise = np.clip(mean + 0.2 * np.random.default_rng(0).standard_normal(mean.shape), 0.0, 1.0)
    constant, dice = judge.measure(mean, is_constant=True), judge.measure(noise)
    assert dice.gain < constant.gain + 2.0 * (dice.draws - constant.draws).std()


def test_routing_judge_predictions_of_the_means_are_worth_what_constant_is() -> None:
    """A router that learned nothing is not held to be worse for offering a few fixed arms only."""
    corpus = made_up_corpus(1500, missing=0.0)
    same = np.full_like(corpus.matrix.output_tokens, 100.0)  # or long prompts alone would say what is hard
    corpus = replace(corpus, matrix=replace(corpus.matrix, output_tokens=same))
    inputs = make_training_set(corpus, FormScaler.fit(corpus.features), FitOptions()).inputs
    judge = RoutingJudge(corpus, inputs, reference_arm="dear", metric="area", resamples=50, seed=0)
    mean = np.tile(corpus.matrix.score.mean(axis=0).astype(np.float64), (1500, 1))
    constant, nothing = judge.measure(mean, is_constant=True), judge.measure(mean)
    assert nothing.value == pytest.approx(constant.value, abs=constant.standard_error)
    assert nothing.value <= constant.value + 1e-12


def test_routing_judge_far_worse_first_fold_is_hopeless_and_an_equal_one_is_not() -> None:
    """Three standard errors of the paired difference decide, on the first fold alone."""
    corpus = made_up_corpus(1500, missing=0.0)
    inputs = make_training_set(corpus, FormScaler.fit(corpus.features), FitOptions()).inputs
    judge = RoutingJudge(corpus, inputs, reference_arm="dear", metric="area", resamples=100, seed=0)
    topic = np.array([int(prompt.split()[1]) for prompt in corpus.matrix.prompts])
    good = np.stack([corpus.matrix.score[topic == t].mean(axis=0) for t in range(4)])[topic].astype(np.float64)
    rows = np.arange(300)
    assert judge.is_hopeless(1.0 - good, good, rows)
    assert not judge.is_hopeless(good + 1e-3, good, rows)
    assert not judge.is_hopeless(1.0 - good, good, np.arange(10)), "ten prompts prove nothing"


def test_routing_judge_logs_of_one_arm_a_prompt_are_measured() -> None:
    """Pseudo-outcomes stand in for cells that were not logged, so a log can be searched on, too."""
    corpus = made_up_corpus(1500, missing=0.0)
    arm = np.random.default_rng(1).integers(0, 3, 1500)
    shown = np.eye(3, dtype=bool)[arm]
    matrix = corpus.matrix
    logged = replace(
        matrix,
        score=np.where(shown, matrix.score, np.nan).astype(np.float32),
        propensity=np.full(matrix.score.shape, 1.0 / 3.0, dtype=np.float32),
    )
    corpus = replace(corpus, matrix=logged)
    inputs = make_training_set(corpus, FormScaler.fit(corpus.features), FitOptions()).inputs
    judge = RoutingJudge(corpus, inputs, reference_arm="dear", metric="area", resamples=50, seed=0)
    mean = np.tile(np.nanmean(logged.score, axis=0).astype(np.float64), (1500, 1))
    full = RoutingJudge(made_up_corpus(1500, missing=0.0), inputs, reference_arm="dear", metric="area", resamples=50,
                        seed=0)  # fmt: skip
    found, wanted = judge.measure(mean, is_constant=True), full.measure(mean, is_constant=True)
    assert found.value == pytest.approx(wanted.value, abs=4.0 * found.standard_error)
