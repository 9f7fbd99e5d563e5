"""Stacking: useful members get weights, others go, and one that breaks leaves the rest at work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from penstock_routers.features import FEATURE_NAMES
from penstock_training.crossfit import fit_head
from penstock_training.errors import TrainingError
from penstock_training.export import PARITY_TOLERANCE, build_graph, run_graph
from penstock_training.families import registry
from penstock_training.families.constant import ConstantHead
from penstock_training.families.ensemble import EnsembleHead, stack
from penstock_training.families.head import FloatArray, GraphNames, PromptInputs
from penstock_training.families.registry import RouterSpec
from penstock_training.graph import GraphBuilder
from support.generated_training import generated
from support.small_router import DIMENSION, fitted_small_router


@dataclass(frozen=True)
class _Broken:
    """0.9 for every prompt, but not a number (or infinite) where the first coordinate is positive."""

    arms: int
    value: float

    def predict(self, inputs: PromptInputs) -> FloatArray:
        found = np.full((inputs.vectors.shape[0], self.arms), 0.9)
        found[inputs.vectors[:, 0] > 0.0, 1] = self.value
        return found

    def add_nodes(self, builder: GraphBuilder, names: GraphNames) -> str:
        b = builder
        first, _ = b.split(names.vector, (1, DIMENSION - 1))
        broken = np.full((1, self.arms), 0.9)
        broken[0, 1] = self.value
        is_positive = b.op("Greater", first, b.constant(0.0))
        return b.op("Where", is_positive, b.constant(broken), b.constant(np.full((1, self.arms), 0.9)))


class _Failing:
    """A family that cannot be fitted."""

    defaults: ClassVar[dict[str, float]] = {}

    def fit(self, *arguments: Any) -> ConstantHead:
        raise TrainingError("not today", code="too_few_prompts")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_ensemble_member_without_a_finite_number_drops_out_of_that_row(value: float) -> None:
    """Rows where a member breaks are the others' alone, in Python and in the graph alike."""
    _, fitted = fitted_small_router()
    quiet = ConstantHead(np.array([0.2, 0.3, 0.4]))
    head = EnsembleHead(("a", "b"), (quiet, _Broken(3, value)), (0.5, 0.5))
    vectors = np.zeros((2, DIMENSION), np.float32)
    vectors[0, 0], vectors[1, 0] = 1.0, -1.0
    inputs = PromptInputs(vectors.astype(float), np.zeros((2, len(FEATURE_NAMES))))
    np.testing.assert_allclose(head.predict(inputs), [[0.2, 0.3, 0.4], [0.55, 0.6, 0.65]])
    estimator = replace(fitted.estimator, head=head)
    features = np.zeros((2, len(FEATURE_NAMES)), np.float32)
    found = run_graph(build_graph(estimator), vectors, features, 0)
    assert np.abs(found.quality - estimator.predict(vectors, features, 0).quality).max() <= PARITY_TOLERANCE


def _members(random: np.random.Generator, truth: FloatArray, noise: tuple[float, ...]) -> FloatArray:
    return np.stack([truth + scale * random.standard_normal(truth.shape) for scale in noise])


def test_stack_weights_are_positive_sum_to_one_and_favour_the_better() -> None:
    """Two members with independent errors both stay, the better one with more weight, and together they beat each."""
    random = np.random.default_rng(0)
    truth = random.random((4000, 3))
    found = stack(("good", "fair"), _members(random, truth, (0.1, 0.15)), truth, np.ones(truth.shape, bool))
    assert sum(found.weights.values()) == pytest.approx(1.0)
    assert found.weights["good"] > found.weights["fair"] > 0.0
    assert found.error["ensemble"] < min(found.error["good"], found.error["fair"])


def test_stack_useless_and_broken_members_are_dropped_with_a_reason() -> None:
    """Each member costs time on every request, so what does not help goes, and it is said why."""
    random = np.random.default_rng(1)
    truth = random.random((2000, 3))
    members = np.concatenate(
        [_members(random, truth, (0.1,)), random.random((1, 2000, 3)), np.full((1, 2000, 3), np.nan)]
    )
    found = stack(("good", "noise", "broken"), members, truth, np.ones(truth.shape, bool))
    assert "noise" not in found.weights
    assert found.weights["good"] > 0.85
    assert found.dropped == {"noise": "no weight", "broken": "numbers that are not finite"}


def test_stack_counts_observed_cells_only() -> None:
    """A member that is right where nothing was observed has earned nothing."""
    random = np.random.default_rng(2)
    truth, observed = random.random((2000, 2)), random.random((2000, 2)) < 0.5
    seen_right = np.where(observed, truth, random.random(truth.shape))
    unseen_right = np.where(observed, random.random(truth.shape), truth)
    found = stack(("seen", "unseen"), np.stack([seen_right, unseen_right]), truth, observed)
    assert list(found.weights) == ["seen"]


def test_stack_without_a_finite_member_is_an_error_with_a_code() -> None:
    """There is nothing to blend; no traceback of an array library."""
    with pytest.raises(TrainingError) as caught:
        stack(("broken",), np.full((1, 10, 2), np.nan), np.zeros((10, 2)), np.ones((10, 2), bool))
    assert caught.value.code == "no_member"


def test_stack_members_that_all_say_the_mean_share_the_weight() -> None:
    """Where nobody knows anything, weights are equal rather than undefined."""
    truth = np.random.default_rng(3).random((100, 2))
    found = stack(("a", "b"), np.tile(truth.mean(axis=0), (2, 100, 1)), truth, np.ones(truth.shape, bool))
    assert found.weights == {"a": 0.5, "b": 0.5}


def test_fit_head_member_that_cannot_be_fitted_is_noted_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ensemble goes on without a member, says so, and fails only without any."""
    monkeypatch.setattr(registry, "FAMILIES", {**registry.FAMILIES, "kernel": _Failing})
    training = generated(300, seed=1).training()
    found = fit_head(training, np.arange(300), RouterSpec("ensemble", members=("linear", "kernel")), seed=0)
    assert found.notes == ("kernel dropped out: not today",)
    assert isinstance(found.head, EnsembleHead)
    assert found.head.names == ("linear",)
    with pytest.raises(TrainingError, match="not today") as caught:
        fit_head(training, np.arange(300), RouterSpec("ensemble", members=("kernel",)), seed=0)
    assert caught.value.code == "no_member"
