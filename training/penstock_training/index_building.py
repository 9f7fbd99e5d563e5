"""Building a faiss index over prompt vectors, and choosing how hard a search must look.

Owns, in this package, the ``faiss`` library; opening and searching are `penstock_routers.neighbour_index`'s, so that
what is measured here is what serves. Must not see a score. Read `build_index`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.neighbour_files import MAX_EFFORT, IndexKind
from penstock_routers.neighbour_index import NeighbourIndex, import_faiss
from penstock_training.errors import TrainingError

FloatArray = NDArray[np.float32]
IndexArray = NDArray[np.int64]

HNSW_LINKS: Final = 16
HNSW_BUILD_EFFORT: Final = 80
RECALL_QUERIES: Final = 500
_RECALL_SHARE: Final = 20  # at most one prompt in so many is taken out to measure recall
_TRAINING_PER_LIST: Final = 64  # prompts per inverted list that k-means looks at; faiss asks for 39 at least
_MEMBERS_PER_LIST: Final = 39
_BLOCK: Final = 32_768
_SAME: Final = 1e-5  # cosines closer than this are those of equal prompts, rounded differently


@dataclass(frozen=True, slots=True)
class BuiltIndex:
    """An index over N prompts with what was measured on prompts taken out of it.

    Attributes
    ----------
    content : ndarray of uint8
        As it goes into ``neighbours.faiss``.
    index : NeighbourIndex
        The same, opened.
    neighbours, effort : int
        k, and what `NeighbourIndex.search` is called with.
    recall : float
    queries : ndarray of int64, shape (q,)
        Rows that recall was measured on; taken out of the index for that.
    exact : ndarray of int64, shape (q, k)
        Their exact nearest rows among the others.
    """

    content: NDArray[np.uint8]
    index: NeighbourIndex
    neighbours: int
    effort: int
    recall: float
    queries: IndexArray
    exact: IndexArray

    def without_queries(self) -> NDArray[np.bool_]:
        """Which rows are searched when recall is measured, (N,)."""
        kept = np.ones(self.index.points, dtype=bool)
        kept[self.queries] = False
        return kept


def build_index(vectors: FloatArray, kind: IndexKind, *, neighbours: int, recall: float, seed: int) -> BuiltIndex:
    """Build an index and choose the least effort with which it finds enough of the exact neighbours.

    Parameters
    ----------
    vectors : ndarray of float32, shape (N, d)
        Unit length.
    kind : {"flat", "ivf", "ivf_sq8", "hnsw"}
    neighbours : int
        k < N.
    recall : float, in (0, 1]
        Asked for, as the mean over queries.
    seed : int

    Returns
    -------
    BuiltIndex

    Raises
    ------
    TrainingError
        ``index_recall``: no effort within bounds reaches it.
    MissingExtraError
        faiss is not installed.

    Notes
    -----
    Inverted lists: ``4 √N``, as the faiss guidelines advise up to a million vectors, by spherical k-means on 64 prompts
    per list. Memory: N · (d + 8) bytes for ``ivf_sq8``, N · (4 d + 8) for ``ivf``, 4 N d for ``flat``,
    N · (4 d + 8 · 16 + …) for ``hnsw``; never N × N. One thread, so that the same vectors give the same bytes.

    References
    ----------
    Douze et al., "The Faiss library" (arXiv 2401.08281); the wiki's "Guidelines to choose an index". HNSW: Malkov and
    Yashunin (arXiv 1603.09320), 16 links.
    """
    faiss = import_faiss()
    unit = np.ascontiguousarray(vectors, dtype=np.float32)
    points, dimension = unit.shape
    threads = int(faiss.omp_get_max_threads())
    faiss.omp_set_num_threads(1)
    try:
        content = faiss.serialize_index(_filled(faiss, unit, kind, seed))
    finally:
        faiss.omp_set_num_threads(threads)
    index = NeighbourIndex(content, kind=kind, dimension=dimension, points=points)
    random = np.random.default_rng(seed)
    count = max(1, min(RECALL_QUERIES, points // _RECALL_SHARE))
    queries = np.sort(random.choice(points, count, replace=False)).astype(np.int64)
    exact = exact_neighbours(unit, queries, min(neighbours, points - count))
    effort, found = _least_effort(index, unit, queries, exact, recall)
    return BuiltIndex(content, index, neighbours, effort, found, queries, exact)


def exact_neighbours(vectors: FloatArray, queries: IndexArray, neighbours: int) -> IndexArray:
    """Find the exact nearest rows of some rows among all others but these, (q, k), nearest first.

    Notes
    -----
    O(q · N · d) in blocks: 66 MB for 500 queries, whatever N is.
    """
    is_query = np.zeros(vectors.shape[0], dtype=bool)
    is_query[queries] = True
    asked = vectors[queries]
    best = np.full((queries.size, neighbours), -np.inf, dtype=np.float32)
    rows = np.zeros((queries.size, neighbours), dtype=np.int64)
    for start in range(0, vectors.shape[0], _BLOCK):
        stop = min(start + _BLOCK, vectors.shape[0])
        similarity = asked @ vectors[start:stop].T
        similarity[:, is_query[start:stop]] = -np.inf
        numbers = np.broadcast_to(np.arange(start, stop), similarity.shape)
        similarity, numbers = _largest(similarity, numbers, neighbours)
        joined = np.hstack([best, similarity]), np.hstack([rows, numbers])
        best, rows = _largest(*joined, neighbours)
    order = np.argsort(-best, axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1)


def measure_recall(vectors: FloatArray, queries: IndexArray, exact: IndexArray, found: IndexArray) -> float:
    """Share of found rows that are as near as the furthest exact neighbour.

    Parameters
    ----------
    vectors : ndarray of float32, shape (N, d)
    queries : ndarray of int64, shape (q,)
    exact, found : ndarray of int64, shape (q, k)

    Returns
    -------
    float, in [0, 1]

    Notes
    -----
    By distance and not by number, so that of prompts asked twice either will do (as ann-benchmarks counts,
    arXiv 1807.05614). A row named twice by the search counts once.
    """
    asked = vectors[queries]
    furthest = np.einsum("qd,qd->q", asked, vectors[exact[:, -1]]) - _SAME
    hits = 0
    for row in range(queries.size):
        names = np.unique(found[row])
        hits += int((vectors[names] @ asked[row] >= furthest[row]).sum())
    return min(1.0, hits / exact.size)


def memory_bytes(kind: IndexKind, points: int, dimension: int) -> int:
    """State about how much memory an index takes, for messages and documentation."""
    lists = 4 * math.isqrt(points) * dimension * 4
    per_point = {
        "flat": 4 * dimension,
        "ivf": 4 * dimension + 8,
        "ivf_sq8": dimension + 8,
        "hnsw": 4 * dimension + 8 * HNSW_LINKS + 16,
    }[kind]
    return points * per_point + (lists if kind.startswith("ivf") else 0)


def list_count(points: int) -> int:
    """Number of inverted lists: 4 √N, with 39 prompts in a list at least."""
    return max(1, min(4 * math.isqrt(points), points // _MEMBERS_PER_LIST))


def _filled(faiss: object, unit: FloatArray, kind: IndexKind, seed: int) -> object:
    """Make, train and fill a faiss index."""
    from typing import Any

    library: Any = faiss
    dimension, metric = unit.shape[1], library.METRIC_INNER_PRODUCT
    index: Any
    if kind == "flat":
        index = library.IndexFlatIP(dimension)
    elif kind == "hnsw":
        index = library.IndexHNSWFlat(dimension, HNSW_LINKS, metric)
        index.hnsw.efConstruction = HNSW_BUILD_EFFORT
    else:
        quantiser = library.IndexFlatIP(dimension)
        lists = list_count(unit.shape[0])
        if kind == "ivf":
            index = library.IndexIVFFlat(quantiser, dimension, lists, metric)
        else:
            byte = library.ScalarQuantizer.QT_8bit
            index = library.IndexIVFScalarQuantizer(quantiser, dimension, lists, byte, metric)
        index.cp.spherical, index.cp.seed, index.cp.min_points_per_centroid = True, 1 + seed, 1
        index.cp.max_points_per_centroid = _TRAINING_PER_LIST
        sample = np.random.default_rng(seed).permutation(unit.shape[0])[: lists * _TRAINING_PER_LIST]
        index.train(unit[np.sort(sample)])
    index.add(unit)
    return index


def _least_effort(
    index: NeighbourIndex, unit: FloatArray, queries: IndexArray, exact: IndexArray, wanted: float
) -> tuple[int, float]:
    """Double the effort until recall suffices, then halve the last step: (effort, recall)."""
    kept = np.ones(index.points, dtype=bool)
    kept[queries] = False

    def recall_at(effort: int) -> float:
        _, rows = index.search(unit[queries], exact.shape[1], effort, among=kept, threads=search_threads())
        return measure_recall(unit, queries, exact, rows)

    if index.kind == "flat":
        return 0, recall_at(0)
    low, effort = 0, 1 if index.kind != "hnsw" else exact.shape[1]
    highest = MAX_EFFORT if index.kind == "hnsw" else min(MAX_EFFORT, list_count(index.points))
    while (found := recall_at(effort)) < wanted:
        if effort >= highest:
            message = f"the {index.kind} index finds {found:.3f} of the exact neighbours at most, not {wanted:g}"
            raise TrainingError(f"{message}; ask for less recall, or for another kind", code="index_recall")
        low, effort = effort, min(2 * effort, highest)
    while effort - low > max(1, low // 8):
        middle = (low + effort) // 2
        if (at_middle := recall_at(middle)) >= wanted:
            effort, found = middle, at_middle
        else:
            low = middle
    return effort, found


def search_threads() -> int:
    """Threads of a search for many prompts: all cores; what is found does not depend on it."""
    return os.cpu_count() or 1


def _largest(similarity: FloatArray, rows: IndexArray, count: int) -> tuple[FloatArray, IndexArray]:
    if similarity.shape[1] <= count:
        return similarity, rows
    chosen = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    return np.take_along_axis(similarity, chosen, axis=1), np.take_along_axis(rows, chosen, axis=1)
