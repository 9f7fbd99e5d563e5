"""The ``knn`` head: similarity-weighted neighbours, shrunk to the mean.

Neighbours are prototypes (means of at least five prompts with the sums of their outcomes) or, where the outcomes may be
stored, the training prompts themselves: inside the graph, or beside it when they are many
(`penstock_training.families.beside`). Read `KnnFamily.fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.families.beside import BesideHead, fit_beside
from penstock_training.families.head import FloatArray, GraphNames, PromptInputs, Settings, TrainingSet
from penstock_training.graph import GraphBuilder
from penstock_training.places import Prototypes, sums_per_prototype

# Support points for which a graph looks in two stages: with fewer there is nothing to gain, and more would not fit into
# an artifact, which holds the codes twice then.
_TWO_STAGES: Final = (2_000, 100_000)
_BLOCK: Final = 1024  # prompts compared with all support points at once


@dataclass(frozen=True, slots=True)
class PrototypeHead:
    """``(Σ w S + κ μ) / (Σ w n + κ)`` over prototypes, w = exp((similarity − largest) / τ).

    Attributes
    ----------
    prototypes : Prototypes
    bandwidth, form_weight, strength : float
        τ, β of the similarity, κ in prompts.
    count : ndarray of float64, shape (p,)
        n: prompts per prototype.
    total : ndarray of float64, shape (p, m)
        S: their scores summed.
    prior : ndarray of float64, shape (m,)
        μ.
    """

    prototypes: Prototypes
    bandwidth: float
    form_weight: float
    strength: float
    count: FloatArray
    total: FloatArray
    prior: FloatArray

    def predict(self, inputs: PromptInputs) -> FloatArray:
        """Raw quality, (n, m)."""
        similarity = self.prototypes.similarity(inputs.vectors, inputs.forms, self.form_weight)
        weight = np.exp((similarity - similarity.max(axis=1, keepdims=True)) / self.bandwidth)
        mass = weight @ self.count + self.strength
        return np.asarray((weight @ self.total + self.strength * self.prior) / mass[:, None])

    def add_nodes(self, builder: GraphBuilder, names: GraphNames) -> str:
        """Write `predict` into a graph."""
        b = builder
        similarity = self.prototypes.add_similarity(b, names.vector, names.form, self.form_weight)
        best = b.op("ReduceMax", similarity, axes=[1], keepdims=1)
        behind = b.op("Mul", b.op("Sub", similarity, best), b.constant(1.0 / self.bandwidth))
        table = np.column_stack([self.count, self.total])
        offset = self.strength * np.concatenate([[1.0], self.prior])
        sums = b.affine(b.op("Exp", behind), table, offset)
        mass, total = b.split(sums, (1, self.prior.size))
        return b.op("Div", total, mass)


@dataclass(frozen=True, slots=True)
class SupportHead:
    """``(Σ w y + κ μ) / (Σ w + κ)`` over the k nearest training prompts, w = exp((cosine − largest) / τ).

    Vectors are stored as int8 with one scale per prompt, scores as uint8 in steps of 1/255.

    Attributes
    ----------
    codes : ndarray of int8, shape (N, d)
    scale : ndarray of float32, shape (N,)
    scores : ndarray of uint8, shape (N, m)
    neighbours : int
        k.
    bandwidth, strength : float
        τ and κ.
    prior : ndarray of float64, shape (m,)
        μ.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    scores: NDArray[np.uint8]
    neighbours: int
    bandwidth: float
    strength: float
    prior: FloatArray

    def predict(self, inputs: PromptInputs) -> FloatArray:
        """Raw quality, (n, m)."""
        support = self.codes.astype(np.float32) * self.scale[:, None]
        found = np.empty((inputs.vectors.shape[0], self.prior.size))
        for start in range(0, found.shape[0], _BLOCK):
            cosine = inputs.vectors[start : start + _BLOCK].astype(np.float32) @ support.T
            nearest = _nearest(cosine, self.neighbours)
            near = np.take_along_axis(cosine, nearest, axis=1).astype(np.float64)
            weight = np.exp((near - near.max(axis=1, keepdims=True)) / self.bandwidth)
            score = self.scores[nearest].astype(np.float64) / 255.0
            mass = weight.sum(axis=1, keepdims=True) + self.strength
            found[start : start + _BLOCK] = (np.einsum("nk,nkm->nm", weight, score) + self.strength * self.prior) / mass
        return found

    def add_nodes(self, builder: GraphBuilder, names: GraphNames) -> str:
        """Write `predict` into a graph: the k largest cosines and their scores.

        Notes
        -----
        With many support points whole-number products pick twice k candidates, whose cosines are then computed as in
        `predict`: 0.3 ms with 20,000 points, against 2 ms for floating-point products.
        """
        b = builder
        if _TWO_STAGES[0] <= self.codes.shape[0] <= _TWO_STAGES[1]:
            best, nearest = self._add_two_stages(b, names.vector)
        else:
            support = b.op("Cast", b.constant(self.codes.T, np.int8), to=1)
            cosine = b.op("Mul", b.op("MatMul", names.vector, support), b.constant(self.scale))
            best, nearest = b.top(cosine, self.neighbours)
        largest = b.op("ReduceMax", best, axes=[1], keepdims=1)
        weight = b.op("Exp", b.op("Mul", b.op("Sub", best, largest), b.constant(1.0 / self.bandwidth)))
        score = b.op("Cast", b.op("Gather", b.constant(self.scores, np.uint8), nearest, axis=0), to=1)
        row = b.op("Unsqueeze", weight, b.constant([1], np.int64))
        total = b.op("Squeeze", b.op("MatMul", row, score), b.constant([1], np.int64))
        shrunken = b.op("Add", b.op("Mul", total, b.constant(1.0 / 255.0)), b.constant(self.strength * self.prior))
        return b.op("Div", shrunken, b.op("Add", b.total(weight), b.constant(self.strength)))

    def _add_two_stages(self, b: GraphBuilder, vector: str) -> tuple[str, str]:
        """Cosines and positions of the k nearest, each (n, k)."""
        query, _, zero = b.quantized(vector)
        product = b.op("MatMulInteger", query, b.constant(self.codes.T, np.int8), zero)
        rough = b.op("Mul", b.op("Cast", product, to=1), b.constant(self.scale))
        _, candidates = b.top(rough, min(2 * self.neighbours, self.codes.shape[0]))
        rows = b.op("Cast", b.op("Gather", b.constant(self.codes, np.int8), candidates, axis=0), to=1)
        column = b.op("Unsqueeze", vector, b.constant([2], np.int64))
        exact = b.op("Squeeze", b.op("MatMul", rows, column), b.constant([2], np.int64))
        scaled = b.op("Mul", exact, b.op("Gather", b.constant(self.scale), candidates, axis=0))
        best, places = b.top(scaled, self.neighbours)
        return best, b.op("GatherElements", candidates, places, axis=1)


def _nearest(cosine: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Positions of the `count` largest entries of each row, in their own order; of equal ones the first, as in ONNX.

    Equal ones are common: a prompt asked twice, and every support point for a zero vector.
    """
    least = np.partition(cosine, cosine.shape[1] - count, axis=1)[:, [cosine.shape[1] - count]]
    above, equal = cosine > least, cosine == least
    wanted = count - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (equal.cumsum(axis=1, dtype=np.int32) <= wanted))
    return np.nonzero(chosen)[1].reshape(cosine.shape[0], count)


class KnnFamily:
    """Fits a `PrototypeHead`; when ``support_points`` is 1 a `SupportHead`, beyond ``index_from`` a `BesideHead`."""

    defaults: ClassVar[Settings] = {
        "prototypes": 500.0,
        "bandwidth": 0.1,
        "form_weight": 0.03,
        "strength": 10.0,
        "support_points": 0.0,
        "neighbours": 100.0,
        "prototype_loss": 0.005,
        "index_from": 200_000.0,
        "index_kind": 0.0,
        "index_recall": 0.9,
    }

    def fit(self, training: TrainingSet, settings: Settings, seed: int) -> PrototypeHead | SupportHead | BesideHead:
        """Sum outcomes per prototype, or keep them all; see `penstock_training.families.head.Family`.

        A number of prototypes of 0 is chosen by `penstock_training.prototype_choice` before it comes here.

        References
        ----------
        "When Simple kNN Beats Complex Learned Routers" (arXiv 2505.12601): ours weighs neighbours by similarity and
        shrinks to the mean, both of which measured better (docs/routing.md).
        """
        prior = training.target.mean(axis=0)
        if settings["support_points"] > 0.0:
            if training.places.vectors.shape[0] > settings["index_from"]:
                return fit_beside(training, settings, prior, seed)
            return _support_head(training, settings, prior)
        places = training.prototypes(round(settings["prototypes"]))
        size = len(places)
        return PrototypeHead(
            places,
            settings["bandwidth"],
            settings["form_weight"],
            settings["strength"],
            np.bincount(places.members, minlength=size).astype(np.float64),
            sums_per_prototype(training.target, places.members, size),
            prior,
        )


def _support_head(training: TrainingSet, settings: Settings, prior: FloatArray) -> SupportHead:
    vectors = training.inputs.vectors
    scale = np.maximum(np.abs(vectors).max(axis=1), 1e-9) / 127.0
    return SupportHead(
        codes=np.rint(vectors / scale[:, None]).astype(np.int8),
        scale=scale.astype(np.float32),
        scores=np.rint(255.0 * training.target).astype(np.uint8),
        neighbours=min(round(settings["neighbours"]), vectors.shape[0]),
        bandwidth=settings["bandwidth"],
        strength=settings["strength"],
        prior=prior,
    )
