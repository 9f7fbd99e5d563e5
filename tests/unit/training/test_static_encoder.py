"""The arithmetic of the static encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock_routers.onnx_session import create_session
from penstock_training.static_encoder import distil, quantise, static_graph, zipf_weights

TOKENS = np.random.default_rng(7).normal(size=(60, 12)) * np.linspace(3.0, 0.2, 12)
USED = list(range(4, 60))


def test_weights_grow_with_rank_and_follow_the_formula() -> None:
    """Rarer tokens weigh more: a / (a + p), with p proportional to 1 / (rank + 1)."""
    weights = zipf_weights(3)
    frequencies = np.array([1 / 2, 1 / 3, 1 / 4]) / (1 / 2 + 1 / 3 + 1 / 4)
    np.testing.assert_allclose(weights, 1e-4 / (1e-4 + frequencies))
    assert (np.diff(weights) > 0).all()


def test_distil_with_all_components_keeps_distances_between_tokens() -> None:
    """Principal components only rotate: undoing the weights gives back every distance."""
    rotated = distil(TOKENS, USED, 12)[USED] / zipf_weights(len(USED))[:, None]
    expected = np.linalg.norm(TOKENS[USED][:, None] - TOKENS[USED][None], axis=2)
    np.testing.assert_allclose(np.linalg.norm(rotated[:, None] - rotated[None], axis=2), expected, atol=1e-9)


def test_distil_with_fewer_components_keeps_the_largest_variances() -> None:
    """Before weighting, the columns vary as the leading eigenvalues of the covariance say, in that order."""
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(TOKENS[USED].T)))[::-1]
    projected = distil(TOKENS, USED, 4)[USED] / zipf_weights(len(USED))[:, None]
    np.testing.assert_allclose(projected.var(axis=0, ddof=1), eigenvalues[:4], rtol=1e-9)


def test_distil_gives_unused_tokens_no_vector() -> None:
    """Special and reserved tokens are rows of zeros and so count for nothing in a sum."""
    assert not distil(TOKENS, USED, 4)[:4].any()


def test_distil_axis_sign_makes_the_largest_projection_positive() -> None:
    """The sign of an axis is free in theory and fixed here, so that two exports agree."""
    projected = distil(TOKENS, USED, 4)[USED] / zipf_weights(len(USED))[:, None]
    assert (projected[np.abs(projected).argmax(axis=0), np.arange(4)] > 0).all()
    np.testing.assert_allclose(np.abs(distil(-TOKENS, USED, 4)), np.abs(distil(TOKENS, USED, 4)))


@pytest.mark.parametrize("dimension", [0, 13, 56])
def test_distil_with_a_dimension_that_does_not_fit_is_refused(dimension: int) -> None:
    """There are no more components than numbers, nor than tokens."""
    with pytest.raises(ValueError, match="dimension"):
        distil(TOKENS, USED, dimension)


def test_quantise_rows_and_columns_stay_within_one_step() -> None:
    """A code is off by half a step of its row and column at most."""
    vectors = distil(TOKENS, USED, 6)
    codes, rows, columns = quantise(vectors)
    error = np.abs(rows[:, None] * codes * columns - vectors)
    assert codes.dtype == np.int8
    assert (error <= 0.5001 * rows[:, None] * columns + 1e-7).all()
    assert not codes[:4].any()


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-2), ("int8", 0.1)])
def test_static_graph_sums_the_rows_of_its_tokens(precision: Any, tolerance: float) -> None:
    """The graph returns the sum over tokens, padding at no weight; the tolerance is a few steps of the precision."""
    vectors = distil(TOKENS, USED, 6)
    session = create_session(static_graph(vectors, precision))
    (sums,) = session.run({"token_ids": np.array([[5, 9, 9], [30, 0, 0]])})
    np.testing.assert_allclose(sums, [vectors[5] + 2 * vectors[9], vectors[30]], atol=tolerance)


def test_static_graph_of_the_same_table_has_the_same_bytes() -> None:
    """Writing a table twice gives one file, so the encoder id does not move."""
    vectors = distil(TOKENS, USED, 6)
    assert static_graph(vectors, "int8") == static_graph(vectors, "int8")
