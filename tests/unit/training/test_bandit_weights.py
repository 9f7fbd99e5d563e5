"""Weights for fitting on logs: mean one per arm, clipped, and nothing for cells that cannot be weighted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from penstock_training.bandit.weights import cap_shares, sample_weights
from penstock_training.commands.fit import fit_options
from penstock_training.errors import TrainingError
from penstock_training.fit import make_training_set
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.places import FormScaler
from support.generated_training import generated
from support.logged_samples import logged_sample


def _matrix(propensity: list[list[float]] | None, score: list[list[float]] | None = None) -> OutcomeMatrix:
    cells = np.array(score if score is not None else propensity, dtype=np.float32)
    n = cells.shape[0]
    values = np.where(np.isnan(cells), np.nan, 0.5).astype(np.float32)
    arms = tuple(f"arm{i}" for i in range(cells.shape[1]))
    prompts, blank = [f"p{i}" for i in range(n)], [""] * n
    matrix = OutcomeMatrix(prompts, np.arange(n), blank, blank, blank, arms, *(values,) * 4)
    return replace(matrix, propensity=None if propensity is None else np.array(propensity, dtype=np.float32))


NAN = math.nan


def test_sample_weights_undo_exploration_within_an_arm() -> None:
    """A cell drawn with a tenth of another's probability counts ten times as much, and an arm's mean is one."""
    found = sample_weights(_matrix([[0.9, NAN], [0.9, NAN], [0.09, NAN], [NAN, 0.5]]))
    assert found[2, 0] == pytest.approx(10 * found[0, 0])
    assert found[:3, 0].mean() == pytest.approx(1.0)
    assert found[3].tolist() == [0.0, 1.0]


def test_sample_weights_beyond_the_clip_ratio_are_cut() -> None:
    """No cell counts more than the ratio times the arm's median cell."""
    propensity = [[0.9, NAN]] * 9 + [[0.001, NAN], [NAN, 0.5]]
    found = sample_weights(_matrix(propensity), clip_ratio=4.0)
    assert found[9, 0] == pytest.approx(4.0 * found[0, 0])
    unclipped = sample_weights(_matrix(propensity), clip_ratio=math.inf)
    assert unclipped[9, 0] == pytest.approx(900.0 * unclipped[0, 0], rel=1e-5)


def test_sample_weights_of_rerouted_cells_are_zero() -> None:
    """Where another arm answered than the intended one, the cell has no valid propensity and counts for nothing."""
    found = sample_weights(_matrix([[0.5, NAN], [0.0, NAN], [NAN, 0.5]]))
    assert found[:, 0].tolist() == [2.0, 0.0, 0.0]


def test_sample_weights_of_complete_outcomes_are_one() -> None:
    """Without propensities every scored cell counts alike; cells asked for certain have propensity one."""
    assert sample_weights(_matrix(None, [[1, NAN], [1, 1]])).tolist() == [[1.0, 0.0], [1.0, 1.0]]
    mixed = sample_weights(_matrix([[NAN, NAN], [0.5, 0.5]], [[1, 1], [1, 1]]))
    assert mixed[1, 0] == pytest.approx(2 * mixed[0, 0])


def test_sample_weights_of_a_one_arm_log_are_refused() -> None:
    """A log of one arm is named with its count and the arm."""
    with pytest.raises(TrainingError, match="one-arm logs: all 2 rows show the arm 'arm1'") as refused:
        sample_weights(_matrix([[NAN, 0.5], [NAN, 0.5]]))
    assert refused.value.code == "one_arm_log"


def test_sample_weights_recover_an_arms_mean_over_all_prompts() -> None:
    """A router that avoids hard prompts on an arm flatters it; weighted, the arm's mean is that over all prompts."""
    sample = logged_sample(rows=20_000)
    logging = np.where(sample.is_hard == 1, 0.1, 0.8)
    taken = np.random.default_rng(5).random(20_000) < logging
    arm = np.where(taken, 0, 1)
    score = (np.random.default_rng(6).random(20_000) < sample.mean[np.arange(20_000), arm]).astype(np.float64)
    propensity = np.where(taken, logging, 1.0 - logging)
    matrix = replace(sample.logged, arm=arm, score=score, propensity=propensity).matrix()
    weights = sample_weights(matrix)[:, 0]
    weighted = float((weights * np.nan_to_num(matrix.score[:, 0])).sum() / weights.sum())
    assert np.nanmean(matrix.score[:, 0]) > 0.8
    assert weighted == pytest.approx(0.55, abs=0.03)  # .9 and .2 in equal parts; three standard errors


def _shares(weights: np.ndarray, tenants: list[str]) -> dict[str, float]:
    """Each tenant's share of the sum."""
    total = weights.sum()
    return {name: float(weights[[t == name for t in tenants]].sum() / total) for name in set(tenants)}


@pytest.mark.parametrize(
    ("counts", "max_share", "expected"),
    [
        ({"a": 90, "b": 5, "c": 5}, 0.4, {"a": 0.4, "b": 0.3, "c": 0.3}),
        ({"a": 60, "b": 30, "c": 10}, 0.4, {"a": 0.4, "b": 0.4, "c": 0.2}),
        ({"a": 40, "b": 30, "c": 30}, 0.5, {"a": 0.4, "b": 0.3, "c": 0.3}),
        ({"a": 80, "b": 20}, 0.3, {"a": 0.5, "b": 0.5}),
        ({"a": 80}, 0.3, {"a": 1.0}),
        ({"a": 80, "b": 20}, 1.0, {"a": 0.8, "b": 0.2}),
        ({"a": 80, "": 20}, 0.25, {"a": 0.25, "": 0.75}),
        ({"a": 30, "b": 30, "": 20}, 0.25, {"a": 0.25, "b": 0.25, "": 0.5}),
    ],
)
def test_tenant_share_beyond_its_cap_is_cut_and_the_others_keep_theirs(
    counts: dict[str, int], max_share: float, expected: dict[str, float]
) -> None:
    """No tenant has more than its share; too few of them count alike; rows that are nobody's are never scaled."""
    tenants = [name for name, count in counts.items() for _ in range(count)]
    codes = np.array([-1 if not name else ord(name) for name in tenants])
    found = cap_shares(np.ones(len(tenants)), codes, max_share)
    assert _shares(found, tenants) == pytest.approx(expected)
    assert (found > 0.0).all()


def test_sample_weights_with_a_tenant_share_hold_it_on_every_arm() -> None:
    """A tenant that sends most of the feedback cannot outvote the others on any arm; an arm's mean stays one."""
    tenants = ["loud"] * 18 + ["a", "b", "loud", "c"]
    propensity = [[0.5, NAN]] * 20 + [[NAN, 0.5]] * 2
    matrix = replace(_matrix(propensity), tenants=tenants)
    found = sample_weights(matrix, max_tenant_share=0.5)
    assert _shares(found[:20, 0], tenants[:20]) == pytest.approx({"loud": 0.5, "a": 0.25, "b": 0.25})
    assert found[:20, 0].mean() == pytest.approx(1.0)
    assert found[20:, 1].tolist() == pytest.approx([1.0, 1.0])
    assert sample_weights(matrix)[0, 0] == pytest.approx(1.0)


def test_sample_weights_with_a_tenant_share_of_rows_without_tenants_are_refused() -> None:
    """A limit that could not hold is not passed over in silence."""
    with pytest.raises(TrainingError) as caught:
        sample_weights(_matrix([[0.5, NAN], [NAN, 0.5]]), max_tenant_share=0.5)
    assert caught.value.code == "no_tenants"


def test_tenant_share_of_the_command_line_reaches_the_fit() -> None:
    """``--max-tenant-share`` sets the weights of the training set, also of outcomes without propensities."""
    corpus = generated(40).corpus()
    tenants = ["loud"] * 30 + ["a"] * 5 + ["b"] * 5
    corpus = replace(corpus, matrix=replace(corpus.matrix, tenants=tenants))
    options = fit_options("linear", (), 0, 0.5)
    weight = make_training_set(corpus, FormScaler.fit(corpus.features), options).weight
    assert weight is not None
    assert _shares(weight[:, 0], tenants) == pytest.approx({"loud": 0.5, "a": 0.25, "b": 0.25})
    assert make_training_set(corpus, FormScaler.fit(corpus.features), fit_options("linear", (), 0)).weight is None
