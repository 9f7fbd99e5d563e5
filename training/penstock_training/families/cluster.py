"""The ``cluster`` head: an arm is its mean score per cluster of prompts, so that a new arm is one new column.

UniRoute's two cluster maps: k-means, and a map learned from the arms at hand with the error vectors held fixed. Read
`ClusterFamily.fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from penstock_training.families.head import FloatArray, GraphNames, PromptInputs, Settings, TrainingSet
from penstock_training.graph import GraphBuilder
from penstock_training.places import Prototypes, sums_per_prototype

_STEPS: Final = 60  # of L-BFGS; the validation error is flat from about 40 on


@dataclass(frozen=True, slots=True)
class ClusterHead:
    """``softmax([v, z] @ map + offset) @ scores``.

    Attributes
    ----------
    map : ndarray of float64, shape (d + f, K)
    offset : ndarray of float64, shape (K,)
    scores : ndarray of float64, shape (K, m)
        Shrunken mean score of every arm in every cluster: one minus UniRoute's error vectors.
    """

    map: FloatArray
    offset: FloatArray
    scores: FloatArray

    def shares(self, inputs: PromptInputs) -> FloatArray:
        """How much of each prompt belongs to each cluster, (n, K), rows summing to 1."""
        return softmax(inputs.design(1.0) @ self.map + self.offset)

    def predict(self, inputs: PromptInputs) -> FloatArray:
        """Raw quality, (n, m)."""
        return self.shares(inputs) @ self.scores

    def add_nodes(self, builder: GraphBuilder, names: GraphNames) -> str:
        """Write `predict` into a graph."""
        joined = builder.op("Concat", names.vector, names.form, axis=1)
        shares = builder.op("Softmax", builder.affine(joined, self.map, self.offset), axis=1)
        return builder.op("MatMul", shares, builder.constant(self.scores))


class ClusterFamily:
    """Fits a `ClusterHead`."""

    defaults: ClassVar[Settings] = {
        "clusters": 60.0,
        "bandwidth": 0.05,
        "form_weight": 0.02,
        "strength": 20.0,
        "is_learned": 0.0,
        "map_penalty": 30.0,
    }

    def fit(self, training: TrainingSet, settings: Settings, seed: int) -> ClusterHead:
        """Cluster, average, and learn the map if asked to; see `penstock_training.families.head.Family`.

        Notes
        -----
        Scores are shrunk twice: a cluster's deviation common to all arms towards 0, and each arm's own deviation from
        it, both by ``strength`` prompts. With ``is_learned`` the map minimises the squared error of the scores, error
        vectors fixed, drawn to the k-means map by ``map_penalty``.

        References
        ----------
        UniRoute (arXiv 2502.08773), sections 5.1 and 5.2; ours softens the k-means assignment by a bandwidth, shrinks
        the error vectors, and starts the learned map from k-means.
        """
        places = training.prototypes(round(settings["clusters"]))
        scores = shrunken_scores(training.target, places, settings["strength"])
        bandwidth, form_weight = settings["bandwidth"], settings["form_weight"]
        mapped = np.vstack([places.centroids.T, form_weight * places.forms.T]) / bandwidth
        offset = -0.5 * form_weight * np.square(places.forms).sum(axis=1) / bandwidth
        if settings["is_learned"] > 0.0:
            mapped, offset = _learn_map(training, scores, mapped, offset, settings["map_penalty"])
        return ClusterHead(mapped, offset, scores)


def shrunken_scores(target: FloatArray, places: Prototypes, strength: float) -> FloatArray:
    """Mean score per cluster and arm, shrunk in two steps, (K, m)."""
    size = len(places)
    count = np.bincount(places.members, minlength=size).astype(np.float64)[:, None]
    overall = target.mean(axis=0)
    deviation = sums_per_prototype(target - overall, places.members, size)
    shared = deviation.mean(axis=1, keepdims=True) / (count + strength)
    own = (deviation - count * shared) / (count + strength)
    return np.asarray(overall + shared + own)


def softmax(logits: FloatArray) -> FloatArray:
    """Softmax over the last axis."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def _learn_map(
    training: TrainingSet, scores: FloatArray, mapped: FloatArray, offset: FloatArray, penalty: float
) -> tuple[FloatArray, FloatArray]:
    from scipy.optimize import minimize

    design = np.column_stack([training.inputs.design(1.0), np.ones(training.target.shape[0])])
    start = np.vstack([mapped, offset])
    target, n = training.target, float(training.target.size)
    scale = penalty / start.size

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        weights = flat.reshape(start.shape)
        shares = softmax(design @ weights)
        residual = shares @ scores - target
        through = residual @ scores.T
        gradient = shares * (through - (shares * through).sum(axis=1, keepdims=True))
        moved = weights - start
        value = float(np.square(residual).sum()) / n + scale * float(np.square(moved).sum()) / 100.0
        return value, (2.0 / n * (design.T @ gradient) + 2.0 * scale / 100.0 * moved).ravel()

    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": _STEPS})
    weights = np.asarray(found.x, dtype=np.float64).reshape(start.shape)
    return weights[:-1], weights[-1]
