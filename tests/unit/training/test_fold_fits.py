"""Fitting functions for evaluation: what they may look at, how little they take, and when they use a prior."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from penstock_training.errors import TrainingError
from penstock_training.families.registry import ENSEMBLE, FAMILIES, RouterSpec
from penstock_training.fit import Corpus, FitOptions, single_threaded
from penstock_training.fold_fits import FitTime, fold_fits, size_fit, time_fit
from penstock_training.prior import Prior
from support.small_router import ENCODER, made_up_corpus, write_small_router

LINEAR = FitOptions(router=RouterSpec("linear"), resamples=50)
CORPUS = made_up_corpus(300, missing=0.0)


def _with_scores(corpus: Corpus, rows: np.ndarray, value: float) -> Corpus:
    score = corpus.matrix.score.copy()
    score[rows] = value
    return replace(corpus, matrix=replace(corpus.matrix, score=score))


@pytest.mark.parametrize("family", [*FAMILIES, ENSEMBLE])
def test_fold_fit_of_every_family_takes_fifty_prompts(family: str) -> None:
    """Fifty prompts of one's own are where learning curves begin, so no family may need more to be fitted."""
    options = replace(LINEAR, router=RouterSpec(family))
    train, test = np.arange(50), np.arange(50, 80)
    found = fold_fits(CORPUS, "dear", options)(CORPUS.matrix)(train, test, 0)
    assert found.quality.shape == (30, 3)
    assert all(np.isfinite(a).all() for a in (found.quality, found.gain, found.gain_se, found.cost_usd, found.novelty))


def test_fold_fit_outcomes_of_test_prompts_do_not_matter() -> None:
    """What is estimated about a prompt must not depend on its own outcome, or cross-validation flatters."""
    train, test = np.arange(200), np.arange(200, 300)
    changed = _with_scores(CORPUS, test, 0.0)
    with single_threaded():
        first = fold_fits(CORPUS, "dear", LINEAR)(CORPUS.matrix)(train, test, 0)
        second = fold_fits(CORPUS, "dear", LINEAR)(changed.matrix)(train, test, 0)
    assert np.array_equal(first.quality, second.quality)


def test_fold_fit_uses_the_outcomes_that_it_was_made_for() -> None:
    """The shuffled control hands over other outcomes of the same prompts; they are the ones to fit on."""
    train, test = np.arange(200), np.arange(200, 300)
    make = fold_fits(CORPUS, "dear", LINEAR)
    flipped = replace(CORPUS.matrix, score=1.0 - CORPUS.matrix.score)
    assert make(flipped)(train, test, 0).quality.mean() < make(CORPUS.matrix)(train, test, 0).quality.mean()


def test_fold_fit_without_an_outcome_of_an_arm_is_refused() -> None:
    """Where a source that is left out was the only one to ask an arm, there is nothing to learn about that arm."""
    score = CORPUS.matrix.score.copy()
    score[:200, 1] = np.nan
    matrix = replace(CORPUS.matrix, score=score)
    with pytest.raises(TrainingError, match="'middle'") as caught:
        fold_fits(CORPUS, "dear", LINEAR)(matrix)(np.arange(200), np.arange(200, 300), 0)
    assert caught.value.code == "too_few_prompts"


def test_size_fit_takes_the_prior_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """The two forms of a learning curve differ by the prior and by nothing else."""
    write_small_router(tmp_path)
    prior = Prior.load(tmp_path, encoder_id=ENCODER.id)
    assert prior is not None
    own, test = np.arange(50), np.arange(200, 300)
    with single_threaded():
        fit = size_fit(CORPUS, test, "dear", replace(LINEAR, prior=prior))
        bare = size_fit(CORPUS, test, "dear", LINEAR)(own, 0, False)
        assert np.array_equal(fit(own, 0, False).quality, bare.quality)
        assert not np.array_equal(fit(own, 0, True).quality, bare.quality)


def test_fit_time_adds_up_over_fits_of_different_sizes() -> None:
    """Two fits on 100 and 300 prompts cost two starts and 400 prompts."""
    assert FitTime(2.0, 0.01).seconds(np.array([100, 300])) == pytest.approx(8.0)
    found = time_fit(CORPUS, "dear", LINEAR)
    assert found.fixed_seconds >= 0.0
    assert found.seconds_per_prompt >= 0.0
