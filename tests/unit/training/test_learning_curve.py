"""Learning curves: what they measure, what they forecast, and the advice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from penstock_training.decisions import EstimateArrays
from penstock_training.errors import TrainingError
from penstock_training.intervals import Interval
from penstock_training.learning_curve import (
    LearningOptions,
    LearningPoint,
    advice,
    forecast_doubling,
    measure_learning_curve,
)
from support.fold_fits import COST_SCALE_USD, as_estimates, ridge_fit, topic_corpus

OPTIONS = LearningOptions(COST_SCALE_USD, sizes=(20, 40, 80, 160, 5000), draws=3, resamples=30)


def _point(size: int, low: float, value: float, high: float) -> LearningPoint:
    nothing = Interval(0.5, 0.4, 0.6)
    return LearningPoint(size, True, nothing, Interval(value, low, high), nothing, 20)


def test_learning_curve_more_outcomes_and_a_prior_help_where_they_should() -> None:
    """Ridge improves with outcomes, a prior that knows the truth needs none, sizes beyond the pool are left out."""
    corpus = topic_corpus(700)
    fit = ridge_fit(corpus.matrix, corpus.vectors, penalty=5.0)
    pool, test = np.arange(300), np.arange(300, 700)
    truth = fit(test, test, 0)

    def fit_size(rows: np.ndarray, seed: int, with_prior: bool) -> EstimateArrays:
        return truth if with_prior else fit(rows, test, seed)

    found = measure_learning_curve(fit_size, pool, corpus.matrix.rows(test), OPTIONS)
    by_key = {(p.has_prior, p.size): p for p in found.points}
    assert sorted({p.size for p in found.points}) == [20, 40, 80, 160]
    assert by_key[False, 160].gain.value > by_key[False, 20].gain.value
    assert by_key[True, 20].gain == by_key[True, 160].gain  # the same estimates at each size
    assert by_key[True, 20].gain.low > 0
    assert found.test_prompts == 400
    assert found.last_doubling.value == pytest.approx(
        by_key[True, 160].gain.value - by_key[True, 80].gain.value, abs=0.05
    )


def test_learning_curve_estimates_without_knowledge_are_said_not_to_pay() -> None:
    """Where fits are noise whatever their size, the report says that routing by prompt does not pay."""
    corpus = topic_corpus(600)
    test = np.arange(200, 600)

    def fit_size(rows: np.ndarray, seed: int, with_prior: bool) -> EstimateArrays:
        noise = np.random.default_rng([seed, rows.size]).uniform(0.2, 0.8, (400, 3))
        return as_estimates(noise)

    found = measure_learning_curve(fit_size, np.arange(200), corpus.matrix.rows(test), OPTIONS)
    assert "does not pay on this traffic" in found.sentence
    assert all(p.gain.low <= 0 for p in found.points)


def test_learning_curve_pool_smaller_than_two_sizes_is_refused() -> None:
    """One point is no curve."""
    corpus = topic_corpus(60)
    with pytest.raises(TrainingError) as refused:
        measure_learning_curve(lambda *_: as_estimates(np.zeros((20, 3))), np.arange(30), corpus.matrix, OPTIONS)
    assert refused.value.code == "too_few_prompts"


def test_forecast_doubling_recovers_a_power_law() -> None:
    """On exact values of .05 - .3 / sqrt(n) the forecast is the law's own next step."""
    sizes = [50, 100, 200, 400, 800]
    gains = [0.05 - 0.3 / math.sqrt(n) for n in sizes]
    expected = 0.3 / math.sqrt(800) - 0.3 / math.sqrt(1600)
    assert forecast_doubling(sizes, gains) == pytest.approx(expected, rel=1e-6)
    assert forecast_doubling(sizes, gains[::-1]) == 0.0  # a falling curve promises nothing
    assert math.isnan(forecast_doubling(sizes[:3], gains[:3]))


@pytest.mark.parametrize(
    ("last", "doubling", "forecast", "words"),
    [
        ((0.02, 0.03, 0.04), (0.004, 0.008, 0.012), 0.006, "More outcomes are likely to pay"),
        ((0.02, 0.03, 0.04), (-0.001, 0.004, 0.009), 0.004, "may pay, but it is not sure"),
        ((0.02, 0.03, 0.04), (-0.001, 0.0005, 0.0015), math.nan, "are enough"),
        ((-0.01, 0.0, 0.01), (-0.004, 0.001, 0.006), 0.001, "does not pay on this traffic"),
    ],
)
def test_advice_follows_the_last_step_and_its_interval(
    last: tuple[float, float, float], doubling: tuple[float, float, float], forecast: float, words: str
) -> None:
    """Sure growth, unsure growth, saturation and no gain at all are four different sentences."""
    points = [_point(800, 0.0, 0.01, 0.02), _point(1600, *last)]
    low, value, high = doubling
    assert words in advice(points, Interval(value, low, high), forecast)
