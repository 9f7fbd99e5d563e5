"""The order of asking: a permutation, repeatable, covering, with honest uniform draws, and decision values."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_training.collect.selection import CLUSTERS, choose_prompts, decision_value
from penstock_training.errors import TrainingError

Order = Literal["informative", "random"]


def _vectors(total: int, seed: int = 0, distinct: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(distinct or total, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[rng.integers(len(vectors), size=total)] if distinct else vectors


@settings(max_examples=25)
@given(
    total=st.integers(1, 60),
    count=st.integers(1, 70),
    order=st.sampled_from(["informative", "random"]),
    share=st.floats(0, 1),
    seed=st.integers(0, 5),
    distinct=st.one_of(st.none(), st.integers(1, 4)),
)
def test_order_of_any_kind_is_a_repeatable_choice_without_repetition(
    total: int, count: int, order: Order, share: float, seed: int, distinct: int | None
) -> None:
    """Every order gives min(count, n) different prompts, the same ones each time, prompts of equal vectors included."""
    vectors = _vectors(total, seed, distinct)
    information = np.random.default_rng(seed).random(total)
    found = [
        choose_prompts(vectors, total, count=count, order=order, seed=seed, information=information, random_share=share)
        for _ in range(2)
    ]
    assert found[0] == found[1]
    rows = [draw.row for draw in found[0]]
    assert len(rows) == len(set(rows)) == min(count, total)
    assert set(rows) <= set(range(total))


def test_order_informative_in_every_prefix_holds_the_kinds_in_their_shares() -> None:
    """Kinds of prompts take turns by their size: no prefix is off its fair share of any kind by more than one pick."""
    centres = np.eye(CLUSTERS, 24, dtype=np.float32)
    kinds = np.repeat(np.arange(CLUSTERS), np.arange(CLUSTERS) * 2 + 10)
    vectors = centres[kinds] + np.random.default_rng(1).normal(scale=0.01, size=(kinds.size, 24)).astype(np.float32)
    information = np.where(kinds == 0, 100.0, np.arange(kinds.size))  # one kind alone looks most informative
    draws = choose_prompts(
        vectors, kinds.size, count=150, order="informative", seed=0, information=information, random_share=0.0
    )
    chosen = kinds[[draw.row for draw in draws]]
    share = np.bincount(kinds) / kinds.size
    for prefix in range(1, 151):
        assert np.abs(np.bincount(chosen[:prefix], minlength=CLUSTERS) - prefix * share).max() <= 1.0


def test_order_informative_takes_the_most_informative_prompts_of_a_kind_first() -> None:
    """Within a kind of prompts expected information decides."""
    vectors = np.repeat(np.eye(2, 8, dtype=np.float32), 20, axis=0)
    information = np.zeros(40)
    information[[7, 31]] = 1.0
    draws = choose_prompts(vectors, 40, count=2, order="informative", seed=0, information=information, random_share=0.0)
    assert {draw.row for draw in draws} == {7, 31}


def test_order_uniform_draws_do_not_depend_on_what_is_picked_beside_them() -> None:
    """Uniform draws are fixed by the seed alone, so means over them estimate means over all prompts."""
    drawn = [
        [
            draw.row
            for draw in choose_prompts(
                _vectors(200, abs(seed) + seed),
                200,
                count=50,
                order="informative",
                seed=3,
                information=np.arange(200.0) * seed,
            )
            if draw.sampling == "random"
        ]
        for seed in (1, -1)
    ]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 10


def test_order_uniform_draws_over_many_seeds_favour_no_prompt() -> None:
    """Each prompt is drawn at random about equally often, within five standard errors over 2,000 seeds."""
    counts = np.zeros(50)
    for seed in range(2_000):
        for draw in choose_prompts(None, 50, count=10, order="random", seed=seed):
            counts[draw.row] += 1
    assert np.abs(counts - 400).max() < 5 * math.sqrt(2_000 * 0.2 * 0.8)


def test_order_every_prefix_holds_its_share_of_uniform_draws() -> None:
    """A run that the budget ends early still holds every fifth prompt at random."""
    draws = choose_prompts(
        _vectors(100), 100, count=60, order="informative", seed=0, information=np.ones(100), random_share=0.2
    )
    is_random = np.array([draw.sampling == "random" for draw in draws])
    for prefix in range(1, 61):
        assert is_random[:prefix].sum() == prefix // 5


def test_order_informative_without_estimates_is_refused() -> None:
    """An order that needs estimates does not silently become another one."""
    with pytest.raises(TrainingError, match="needs vectors and estimates"):
        choose_prompts(_vectors(5), 5, count=2, order="informative", seed=0)


def test_decision_value_agrees_with_simulated_regret() -> None:
    """The closed form is the mean regret of deciding by the sign of the estimate; 200 000 draws give three digits."""
    truth = np.random.default_rng(0).normal(0.05, 0.1, size=200_000)
    regret = np.maximum(-truth, 0.0).mean()  # the estimate is positive, so a negative truth is the loss
    found = decision_value(np.array([[0.05]]), np.array([[0.1]]), np.zeros(1), 1.0)
    assert found[0] == pytest.approx(regret, abs=5e-4)  # standard error of the mean: 0.0001


def test_decision_value_grows_with_doubt_closeness_and_novelty() -> None:
    """A certain decision is worth nothing; doubt, a close call and a novel prompt each make asking worth more."""
    gain = np.array([[0.3, 0.0], [0.3, 0.0], [0.05, 0.0], [0.05, 0.0]])
    error = np.array([[0.0, 0.0], [0.2, 0.0], [0.2, 0.0], [0.2, 0.0]])
    found = decision_value(gain, error, np.array([0.0, 0.0, 0.0, 0.5]), 0.5)
    assert found[0] < 1e-8
    assert found[0] < found[1] < found[2] < found[3]
    assert found[3] == pytest.approx(2 * found[2])
