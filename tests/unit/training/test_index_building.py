"""Building an index: recall is measured on prompts that are out of it, and effort is as little as reaches it."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_routers.neighbour_files import IndexKind
from penstock_training.errors import TrainingError
from penstock_training.index_building import (
    build_index,
    exact_neighbours,
    list_count,
    measure_recall,
    memory_bytes,
)


def _vectors(count: int, dimension: int = 24, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centers = random.standard_normal((30, dimension))
    found = centers[random.integers(0, 30, count)] + 0.7 * random.standard_normal((count, dimension))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_exact_neighbours_over_several_blocks_are_those_of_a_full_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are merged without losing a neighbour, and no query finds itself or another query."""
    monkeypatch.setattr("penstock_training.index_building._BLOCK", 70)
    vectors, queries = _vectors(500), np.array([3, 77, 300], dtype=np.int64)
    cosine = vectors[queries] @ vectors.T
    cosine[:, queries] = -2.0
    assert (exact_neighbours(vectors, queries, 20) == np.argsort(-cosine, axis=1)[:, :20]).all()


def test_measure_recall_counts_an_equal_prompt_as_good_and_a_repeated_one_once() -> None:
    """Of two equal prompts either will do; naming one twice does not count twice."""
    vectors = np.eye(6, dtype=np.float32)[[0, 0, 0, 1, 2, 3]]
    queries, exact = np.array([0]), np.array([[1]])
    assert measure_recall(vectors, queries, exact, np.array([[2]])) == 1.0
    assert measure_recall(vectors, queries, exact, np.array([[4]])) == 0.0
    two = np.array([[1, 2]])
    assert measure_recall(vectors, queries, two, np.array([[1, 1]])) == 0.5


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf_sq8", "hnsw"])
def test_build_index_reaches_the_recall_with_the_least_effort(kind: IndexKind) -> None:
    """The recall asked for is reached; with half the effort it is not, or effort is at its least."""
    vectors = _vectors(3000)
    built = build_index(vectors, kind, neighbours=20, recall=0.9, seed=0)
    assert built.recall >= 0.9
    assert (built.effort == 0) == (kind == "flat")
    _, rows = built.index.search(vectors[built.queries], 20, built.effort, among=built.without_queries())
    assert measure_recall(vectors, built.queries, built.exact, rows) == pytest.approx(built.recall)
    if kind in ("ivf", "ivf_sq8"):
        assert 1 < built.effort < list_count(3000)
        _, rows = built.index.search(vectors[built.queries], 20, built.effort // 2, among=built.without_queries())
        assert measure_recall(vectors, built.queries, built.exact, rows) < 0.9


def test_build_index_beyond_reach_says_what_to_change() -> None:
    """One byte a number cannot give every exact neighbour; the user learns what it can."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((3000, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with pytest.raises(TrainingError, match="ask for less recall, or for another kind") as caught:
        build_index(vectors, "ivf_sq8", neighbours=50, recall=1.0, seed=0)
    assert caught.value.code == "index_recall"


def test_build_index_memory_is_about_what_is_stated() -> None:
    """The stated size is that of the file within a fifth, and one byte a number takes a quarter of four."""
    vectors = _vectors(4000, dimension=64)
    sizes = {}
    kinds: tuple[IndexKind, ...] = ("flat", "ivf", "ivf_sq8", "hnsw")
    for kind in kinds:
        built = build_index(vectors, kind, neighbours=10, recall=0.5, seed=0)
        sizes[kind] = built.content.nbytes
        assert sizes[kind] == pytest.approx(memory_bytes(kind, 4000, 64), rel=0.2)
    assert sizes["ivf_sq8"] < 0.4 * sizes["ivf"]


@pytest.mark.parametrize(("points", "lists"), [(10, 1), (1000, 25), (200_000, 1788), (1_000_000, 4000)])
def test_list_count_is_four_roots_with_39_prompts_each(points: int, lists: int) -> None:
    """As the faiss guidelines advise, and never lists of a handful."""
    assert list_count(points) == lists
