"""Non-inferiority: the bound, the margin, and what few differences may claim."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_training.noninferiority import non_inferiority


def _scores(prompts: int, losses: int, gains: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Routed and default scores that differ on `losses` and `gains` prompts, and a mark on every second prompt."""
    default = np.ones(prompts)
    default[losses : losses + gains] = 0.0
    routed = np.ones(prompts)
    routed[:losses] = 0.0
    return routed, default, np.arange(prompts) % 2 == 0


def test_non_inferiority_bound_agrees_with_the_normal_approximation() -> None:
    """With many differences the bound is the mean minus 1.645 standard errors."""
    routed, default, mark = _scores(10_000, 150, 100)
    found = non_inferiority(routed, default, mark, np.arange(10_000), resamples=4000)
    difference = routed - default
    expected = difference.mean() - 1.645 * difference.std() / 100.0
    assert found.difference == pytest.approx(-0.005)
    assert found.lower_bound == pytest.approx(expected, abs=2e-4)  # a twentieth of the standard error of 0.0016
    assert found.is_shown
    assert found.prompts_needed is None
    assert "n = 10,000" in found.sentence


def test_non_inferiority_same_rates_on_few_prompts_are_not_shown_and_prompts_are_named() -> None:
    """What 10,000 prompts show, 400 do not; the number asked for would show it with 80 % power."""
    routed, default, mark = _scores(400, 6, 4)
    found = non_inferiority(routed, default, mark, np.arange(400), resamples=4000)
    assert found.difference == pytest.approx(-0.005)
    assert not found.is_shown
    error = (found.difference - found.lower_bound) / 1.6449
    expected = 400 * (error * (1.6449 + 0.8416) / 0.005) ** 2
    assert found.prompts_needed == pytest.approx(expected, rel=1e-3)
    assert found.sentence.startswith("not shown (95 % bound −")
    assert "prompts would be needed" in found.sentence


def test_non_inferiority_difference_just_inside_the_margin_asks_for_no_absurd_number() -> None:
    """Where tens of millions of prompts would be needed, the sentence does not pretend to a number."""
    routed, default, mark = _scores(10_000, 299, 200)
    sentence = non_inferiority(routed, default, mark, np.arange(10_000)).sentence
    assert "more than a million prompts would be needed" in sentence


def test_non_inferiority_true_loss_beyond_the_margin_names_no_number_of_prompts() -> None:
    """Where the measured difference itself is below the margin, more prompts are no answer."""
    routed, default, mark = _scores(1000, 30)
    found = non_inferiority(routed, default, mark, np.arange(1000))
    assert not found.is_shown
    assert found.prompts_needed is None
    assert "the difference itself is −3.0 points" in found.sentence


@pytest.mark.parametrize(("prompts", "is_shown"), [(200, False), (320, True)])
def test_non_inferiority_without_any_loss_needs_three_hundred_prompts(prompts: int, is_shown: bool) -> None:
    """No loss among a few rerouted prompts proves little: the rule of three bounds what a bootstrap cannot see."""
    routed, default, mark = _scores(prompts, 0)
    found = non_inferiority(routed, default, mark, np.arange(prompts), resamples=200)
    assert found.is_shown is is_shown
    assert found.lower_bound == pytest.approx(-3.0 / prompts, rel=0.01)


def test_non_inferiority_router_that_never_leaves_the_default_is_trivial() -> None:
    """A router that reroutes nothing is no worse on any number of prompts, and the sentence says why."""
    routed, default, _ = _scores(20, 0)
    found = non_inferiority(routed, default, np.zeros(20, dtype=bool), np.arange(20))
    assert found.is_shown
    assert found.lower_bound == 0.0
    assert "trivially" in found.sentence


def test_non_inferiority_prompts_of_one_question_count_as_one() -> None:
    """Copies of a question add no certainty."""
    routed, default, mark = _scores(4000, 60, 20)
    single = non_inferiority(routed, default, mark, np.arange(4000), resamples=2000)
    copied = non_inferiority(routed, default, mark, np.arange(4000) // 20, resamples=2000)
    assert copied.lower_bound < single.lower_bound - 0.003
