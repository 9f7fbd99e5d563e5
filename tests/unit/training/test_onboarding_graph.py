"""Appending an arm to a router's graph: known arms keep their numbers, the new one gets its column's."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from penstock_routers.manifest import OUTPUT_NAMES
from penstock_training.categories import CATEGORIES
from penstock_training.errors import TrainingError
from penstock_training.estimator import ArmEstimates
from penstock_training.export import PARITY_TOLERANCE, TOKEN_TOLERANCE, run_graph
from penstock_training.graph import GraphBuilder
from penstock_training.onboarding.column import OnboardedColumn, ScoredPrompts, fit_column
from penstock_training.onboarding.graph import append_arm
from support.small_router import ARMS, fitted_small_router

NEW = len(ARMS)


def _estimates(graph: bytes, reference: int) -> ArmEstimates:
    corpus = fitted_small_router()[0]
    found = run_graph(graph, corpus.vectors[:200], corpus.features[:200], reference)
    return ArmEstimates(**{name: getattr(found, name).astype(np.float64) for name in OUTPUT_NAMES})


@lru_cache(maxsize=1)
def _column() -> OnboardedColumn:
    corpus, fitted = fitted_small_router()
    quality = _estimates(fitted.graph, 0).quality[:60]
    scored = ScoredPrompts(quality, np.nan_to_num(corpus.matrix.score[:60, 1].astype(np.float64)), quality * np.nan)
    return replace(fit_column(scored), length_ratio=1.5)


@lru_cache(maxsize=1)
def _extended() -> bytes:
    return append_arm(fitted_small_router()[1].graph, _column(), len(CATEGORIES))


@pytest.mark.parametrize("reference", range(NEW))
def test_known_arms_keep_every_bit_of_their_outputs(reference: int) -> None:
    """Against a known reference arm, old columns, novelty and category are what they were."""
    before, after = _estimates(fitted_small_router()[1].graph, reference), _estimates(_extended(), reference)
    for name in OUTPUT_NAMES[:5]:
        np.testing.assert_array_equal(getattr(after, name)[:, :NEW], getattr(before, name), err_msg=name)
    np.testing.assert_array_equal(after.novelty, before.novelty)
    np.testing.assert_array_equal(after.category, before.category)


@pytest.mark.parametrize("reference", range(NEW + 1))
def test_extended_graph_equals_the_python_column(reference: int) -> None:
    """Whatever the reference arm, the new one included, graph and NumPy agree within float32 rounding."""
    graph = fitted_small_router()[1].graph
    known = _estimates(graph, min(reference, NEW - 1))
    expected = _column().predict(known, _estimates(graph, _column().nearest), reference)
    found = _estimates(_extended(), reference)
    for name in OUTPUT_NAMES:
        relative = TOKEN_TOLERANCE if name == "output_tokens" else 0.0
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=relative, atol=PARITY_TOLERANCE, err_msg=name
        )


def test_gain_against_the_new_arm_is_the_difference_and_its_error_symmetric() -> None:
    """With the new arm as the default, gains are differences of quality, and the nearest arm's error is the same."""
    found = _estimates(_extended(), NEW)
    np.testing.assert_allclose(found.gain, found.quality - found.quality[:, [NEW]], atol=1e-6)  # one float32 step
    assert (found.gain_se[:, NEW] == 0.0).all()
    nearest = _column().nearest
    other = _estimates(_extended(), nearest)
    np.testing.assert_allclose(found.gain_se[:, nearest], other.gain_se[:, NEW], atol=1e-6)
    assert (found.gain_se[:, :NEW] > 0.0).all()


def test_second_arm_can_be_appended_to_an_extended_graph() -> None:
    """Surgery repeats: the first new arm becomes a known one, and nothing of it changes."""
    first = _estimates(_extended(), NEW)
    scored = ScoredPrompts(first.quality[:50], (np.arange(50) % 2).astype(float), np.full((50, NEW + 1), np.nan))
    twice = _estimates(append_arm(_extended(), fit_column(scored), len(CATEGORIES)), NEW)
    assert twice.quality.shape[1] == NEW + 2
    for name in OUTPUT_NAMES[:5]:
        np.testing.assert_array_equal(getattr(twice, name)[:, : NEW + 1], getattr(first, name), err_msg=name)


def test_append_arm_keeps_the_constants_that_later_fits_look_up() -> None:
    """An onboarded artifact can still be a prior: named tensors of the parent's graph are all there, unchanged."""
    from onnx import load_model_from_string

    before, after = (
        {tensor.name: tensor.SerializeToString() for tensor in load_model_from_string(graph).graph.initializer}
        for graph in (fitted_small_router()[1].graph, _extended())
    )
    assert before.items() <= after.items()


def test_useless_arm_is_never_estimated_above_a_known_one() -> None:
    """Forty wrong answers put the arm below every known arm on nearly every prompt."""
    graph = fitted_small_router()[1].graph
    quality = _estimates(graph, 0).quality[:40]
    column = fit_column(ScoredPrompts(quality, np.zeros(40), np.full_like(quality, np.nan)))
    found = _estimates(append_arm(graph, column, len(CATEGORIES)), ARMS.index("dear"))
    assert (found.gain[:, NEW] + 2.0 * found.gain_se[:, NEW]).mean() < 0.0
    assert (found.quality.argmax(axis=1) != NEW).all()


def test_append_arm_foreign_graph_is_refused() -> None:
    """A model that has not the outputs of a router cannot get an arm."""
    from penstock_routers.manifest import TensorSpec

    builder = GraphBuilder()
    builder.output("quality", builder.op("Identity", "prompt_vector"))
    spec = TensorSpec("prompt_vector", "float32", ("n", 3))
    graph = builder.model("other", [spec], [TensorSpec("quality", "float32", ("n", 3))])
    with pytest.raises(TrainingError) as caught:
        append_arm(graph, _column(), len(CATEGORIES))
    assert caught.value.code == "artifact_graph_unknown"
