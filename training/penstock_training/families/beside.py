"""The ``knn`` head for more prompts than a graph should hold: a faiss index beside it finds the neighbours.

Owns the arithmetic on the neighbours that were found, in NumPy and as ONNX operators; it is that of
`penstock_training.families.knn.SupportHead`. Must not know faiss (`penstock_training.index_building` does). Read
`BesideHead.predict`, then `fit_beside`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.manifest import NEIGHBOUR_INPUT_NAMES
from penstock_routers.neighbour_files import MAX_NEIGHBOURS, IndexKind, NeighbourFiles
from penstock_routers.neighbour_index import MISSING_BELOW
from penstock_training.errors import TrainingError
from penstock_training.families.head import FloatArray, GraphNames, Head, PromptInputs, Settings, TrainingSet
from penstock_training.graph import GraphBuilder
from penstock_training.index_building import BuiltIndex, build_index, search_threads

INDEX_KINDS: Final[tuple[tuple[IndexKind, ...], ...]] = (
    ("ivf_sq8", "ivf"),
    ("ivf_sq8",),
    ("ivf",),
    ("hnsw",),
    ("flat",),
)
"""What the setting ``index_kind`` counts through, each with what is tried in turn; the first is the default.

Where prompts are so alike that one byte a number confuses them, four bytes do not.
"""
_BLOCK: Final = 1024


@dataclass(frozen=True, slots=True)
class IndexLoss:
    """What the index costs against exact neighbours, on prompts taken out of it; see `NeighbourFiles`."""

    quality_difference: float
    squared_error_rise: float


@dataclass(frozen=True, slots=True)
class BesideHead:
    """``(Σ w y + κ μ) / (Σ w + κ)`` over the neighbours that the index finds, w = exp((cosine − largest) / τ).

    Attributes
    ----------
    built : BuiltIndex
        Over all N prompts.
    among : ndarray of bool, shape (N,), or None
        The prompts that this head may use; None for all.
    scores : ndarray of uint8, shape (N, m)
    bandwidth, strength : float
        τ and κ.
    prior : ndarray of float64, shape (m,)
        μ.
    loss : IndexLoss
    """

    built: BuiltIndex
    among: NDArray[np.bool_] | None
    scores: NDArray[np.uint8]
    bandwidth: float
    strength: float
    prior: FloatArray
    loss: IndexLoss = IndexLoss(0.0, 0.0)

    def predict(self, inputs: PromptInputs) -> FloatArray:
        """Raw quality, (n, m)."""
        found = np.empty((inputs.vectors.shape[0], self.prior.size))
        for start in range(0, found.shape[0], _BLOCK):
            vectors = inputs.vectors[start : start + _BLOCK].astype(np.float32)
            found[start : start + _BLOCK] = self.blend(*self.look_up(vectors))
        return found

    def look_up(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Neighbours of n prompts as the graph takes them: cosines (n, k) and scores (n, k, m)."""
        built = self.built
        similarity, rows = built.index.search(
            vectors, built.neighbours, built.effort, among=self.among, threads=search_threads()
        )
        return similarity, self.scores[rows]

    def blend(self, similarity: NDArray[np.float32], scores: NDArray[np.uint8]) -> FloatArray:
        """Raw quality from neighbours, (n, m); the prior where none was found."""
        near = similarity.astype(np.float64)
        weight = np.exp((near - near.max(axis=1, keepdims=True)) / self.bandwidth) * (near > MISSING_BELOW)
        total = np.einsum("nk,nkm->nm", weight, scores.astype(np.float64)) / 255.0
        mass = weight.sum(axis=1, keepdims=True) + self.strength
        return np.asarray((total + self.strength * self.prior) / mass)

    def add_nodes(self, builder: GraphBuilder, names: GraphNames) -> str:
        """Write `blend` into a graph, over the two inputs that the index beside it fills."""
        b = builder
        similarity, scores = NEIGHBOUR_INPUT_NAMES
        largest = b.op("ReduceMax", similarity, axes=[1], keepdims=1)
        nearness = b.op("Exp", b.op("Mul", b.op("Sub", similarity, largest), b.constant(1.0 / self.bandwidth)))
        is_found = b.op("Cast", b.op("Greater", similarity, b.constant(MISSING_BELOW)), to=1)
        weight = b.op("Mul", nearness, is_found)
        row = b.op("Unsqueeze", weight, b.constant([1], np.int64))
        total = b.op("Squeeze", b.op("MatMul", row, b.op("Cast", scores, to=1)), b.constant([1], np.int64))
        shrunken = b.op("Add", b.op("Mul", total, b.constant(1.0 / 255.0)), b.constant(self.strength * self.prior))
        return b.op("Div", shrunken, b.op("Add", b.total(weight), b.constant(self.strength)))

    def files(self) -> NeighbourFiles:
        """Describe what goes beside the graph, for the manifest."""
        built = self.built
        return NeighbourFiles(
            kind=built.index.kind,
            metric="inner_product",
            dimension=built.index.dimension,
            points=built.index.points,
            arms=self.prior.size,
            neighbours=built.neighbours,
            effort=built.effort,
            index_sha256=hashlib.sha256(built.content.data).hexdigest(),
            index_bytes=built.content.nbytes,
            scores_sha256=hashlib.sha256(np.ascontiguousarray(self.scores).data).hexdigest(),
            scores_bytes=self.scores.nbytes,
            recall=round(built.recall, 4),
            recall_queries=int(built.queries.size),
            quality_difference=round(self.loss.quality_difference, 6),
            squared_error_rise=round(self.loss.squared_error_rise, 6),
        )


def fit_beside(training: TrainingSet, settings: Settings, prior: FloatArray, seed: int) -> BesideHead:
    """Index all prompts once, and keep the scores of those given.

    Parameters
    ----------
    training : TrainingSet
        All prompts, or a fold's; the index, which knows no scores, is shared by them.
    settings : mapping of str to float
        Those of `penstock_training.families.knn.KnnFamily`.
    prior : ndarray of float64, shape (m,)
    seed : int

    Returns
    -------
    BesideHead

    Raises
    ------
    TrainingError
        ``index_recall``; ``bad_setting``.
    MissingExtraError
        faiss is not installed.
    """
    built = _shared_index(training, settings, seed)
    rows, points = training.places.index, built.index.points
    scores = np.zeros((points, prior.size), dtype=np.uint8)
    scores[rows] = np.rint(255.0 * training.target).astype(np.uint8)
    among = None
    if rows.size < points:
        among = np.zeros(points, dtype=bool)
        among[rows] = True
    head = BesideHead(built, among, scores, settings["bandwidth"], settings["strength"], prior)
    if among is not None:
        return head
    return BesideHead(built, None, scores, head.bandwidth, head.strength, prior, _measure_loss(head, training))


def beside_head(head: Head) -> BesideHead | None:
    """Find the head with an index beside the graph: the head itself, or a member of an ensemble.

    Raises
    ------
    TrainingError
        ``several_indexes``: a graph has inputs for one.
    """
    members: Sequence[Head] = getattr(head, "members", (head,))
    found = [member for member in members if isinstance(member, BesideHead)]
    if len(found) > 1:
        raise TrainingError("a router can have one index beside its graph", code="several_indexes")
    return found[0] if found else None


def _shared_index(training: TrainingSet, settings: Settings, seed: int) -> BuiltIndex:
    number = round(settings["index_kind"])
    if not 0 <= number < len(INDEX_KINDS):
        known = ", ".join(f"{i} {' or '.join(kinds)}" for i, kinds in enumerate(INDEX_KINDS))
        raise TrainingError(f"index_kind is one of {known}", code="bad_setting")
    if not 0.0 < settings["index_recall"] <= 1.0 or settings["neighbours"] > MAX_NEIGHBOURS:
        message = f"index_recall must be above 0 and at most 1, and neighbours at most {MAX_NEIGHBOURS}"
        raise TrainingError(message, code="bad_setting")
    places = training.places
    key = (float(number), settings["neighbours"], settings["index_recall"], float(seed))
    known_index = places.indexes.get(key)
    if isinstance(known_index, BuiltIndex):
        return known_index
    vectors = places.vectors.astype(np.float32)
    neighbours = min(round(settings["neighbours"]), vectors.shape[0])
    *tried, last = INDEX_KINDS[number]
    for kind in (*tried, last):
        try:
            built = build_index(vectors, kind, neighbours=neighbours, recall=settings["index_recall"], seed=seed)
            break
        except TrainingError as error:
            if kind == last or error.code != "index_recall":
                raise
    places.indexes[key] = built
    return built


def _measure_loss(head: BesideHead, training: TrainingSet) -> IndexLoss:
    """Compare with exact neighbours on the prompts that recall was measured on, out of the index."""
    built, queries = head.built, head.built.queries
    vectors = training.inputs.vectors[queries].astype(np.float32)
    count = built.exact.shape[1]
    kept = built.without_queries()
    similarity, rows = built.index.search(vectors, count, built.effort, among=kept, threads=search_threads())
    found = head.blend(similarity, head.scores[rows])
    neighbours = training.inputs.vectors[built.exact]
    cosine = np.einsum("qd,qkd->qk", training.inputs.vectors[queries], neighbours).astype(np.float32)
    exact = head.blend(cosine, head.scores[built.exact])
    seen, target = training.observed[queries], training.target[queries]
    rise = np.square(found - target) - np.square(exact - target)
    return IndexLoss(float(np.abs(found - exact).mean()), float(rise[seen].mean()) if seen.any() else 0.0)
