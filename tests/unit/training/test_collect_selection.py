"""The order of asking: a permutation, repeatable, covering, with honest uniform draws, and decision values."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_training.collect.selection import choose_prompts, decision_value
from penstock_training.errors import TrainingError

Order = Literal["diverse", "informative", "random"]


def _vectors(total: int, seed: int = 0, distinct: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(distinct or total, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[rng.integers(len(vectors), size=total)] if distinct else vectors


@settings(max_examples=25)
@given(
    total=st.integers(1, 60),
    count=st.integers(1, 70),
    order=st.sampled_from(["diverse", "informative", "random"]),
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


def test_order_diverse_in_its_first_picks_covers_every_cluster() -> None:
    """With as many picks as there are separate kinds of prompts, each kind gives one, however unequal they are."""
    centres = np.eye(6, 8, dtype=np.float32)
    sizes = [60, 30, 20, 10, 8, 6]
    rng = np.random.default_rng(1)
    kinds = np.repeat(np.arange(6), sizes)
    vectors = centres[kinds] + rng.normal(scale=0.02, size=(kinds.size, 8)).astype(np.float32)
    draws = choose_prompts(vectors, kinds.size, count=6, order="diverse", seed=0, random_share=0.0)
    assert sorted(kinds[[draw.row for draw in draws]]) == list(range(6))
    assert kinds[draws[0].row] == 0  # the largest kind comes first


def test_order_informative_takes_the_most_informative_prompt_of_a_cluster() -> None:
    """Within a cluster expected information decides, not the distance to its centre."""
    vectors = np.repeat(np.eye(2, 8, dtype=np.float32), 20, axis=0)
    vectors += np.random.default_rng(0).normal(scale=0.01, size=vectors.shape).astype(np.float32)
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
                _vectors(200, seed), 200, count=50, order=order, seed=3, information=np.arange(200.0) * seed
            )
            if draw.sampling == "random"
        ]
        for order, seed in (("diverse", 1), ("informative", 2))
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
    draws = choose_prompts(_vectors(100), 100, count=60, order="diverse", seed=0, random_share=0.2)
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
