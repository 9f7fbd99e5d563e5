"""Fitting a router from a log that shows one arm per prompt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from penstock_training.errors import TrainingError
from penstock_training.families.registry import RouterSpec
from penstock_training.fit import MIN_LOGGED_PROMPTS, Corpus, FitOptions, completed, fit_estimator, fit_router
from support.small_router import ARMS, SKILL, made_up_corpus

OPTIONS = FitOptions(RouterSpec("linear"), resamples=50)


def _logged(prompts: int, chances: tuple[float, float, float], seed: int = 0) -> Corpus:
    """The made-up corpus as a log: on hard topics the dear arm is asked twice as often as the chances say."""
    corpus = made_up_corpus(prompts, seed=seed, missing=0.0)
    random = np.random.default_rng(seed)
    topic = np.array([int(prompt.split()[1]) for prompt in corpus.matrix.prompts])
    propensity = np.tile(np.asarray(chances), (prompts, 1))
    propensity[topic >= 2, 2] *= 2.0
    propensity /= propensity.sum(axis=1, keepdims=True)
    arm = (random.random(prompts)[:, None] > propensity.cumsum(axis=1)).sum(axis=1)
    unseen = np.arange(3) != arm[:, None]
    matrix = replace(
        corpus.matrix,
        **{
            name: np.where(unseen, np.nan, getattr(corpus.matrix, name)).astype(np.float32)
            for name in ("score", "output_tokens", "cost_usd")
        },
        propensity=np.where(unseen, np.nan, propensity).astype(np.float32),
    )
    return replace(corpus, matrix=matrix)


def test_fit_router_from_a_log_routes_by_topic_and_measures_its_points() -> None:
    """A log is enough for a whole router: gains by topic, points in order, and a test quality near the truth."""
    corpus = _logged(6000, (0.4, 0.3, 0.3))
    fitted = fit_router(corpus, reference_arm="dear", options=OPTIONS, progress=lambda *_: None)
    unseen = corpus.rows(fitted.split["test"])
    found = fitted.estimator.predict(unseen.vectors, unseen.features, ARMS.index("dear"))
    topic = np.array([int(prompt.split()[1]) for prompt in unseen.matrix.prompts])
    for name in range(4):
        wanted = SKILL[name] - SKILL[name, 2]
        np.testing.assert_allclose(found.gain[topic == name].mean(axis=0), wanted, atol=0.12)
    assert fitted.parity.passes
    points = fitted.test
    assert points["cost"].relative_cost <= points["balanced"].relative_cost + 1e-9
    truth = SKILL[topic, 2].mean()
    assert points["quality"].quality == pytest.approx(truth, abs=0.08)  # 900 weighted outcomes: 0.025 of standard error


def test_fit_router_from_too_short_a_log_names_the_arm() -> None:
    """An arm that was hardly explored stops the fit with its name and what to do."""
    corpus = _logged(900, (0.6, 0.01, 0.39))
    with pytest.raises(TrainingError, match=f"'middle' on .* {MIN_LOGGED_PROMPTS} are needed") as caught:
        fit_router(corpus, reference_arm="dear", options=OPTIONS, progress=lambda *_: None)
    assert caught.value.code == "too_few_prompts"


def test_completed_fills_a_log_and_leaves_complete_outcomes_alone() -> None:
    """Pseudo-outcomes are for logs only."""
    log = _logged(900, (0.4, 0.3, 0.3))
    estimator, _, _ = fit_estimator(log, OPTIONS, lambda *_: None)
    assert np.isfinite(completed(log, estimator).matrix.score).all()
    whole = made_up_corpus(100)
    assert completed(whole, estimator) is whole
