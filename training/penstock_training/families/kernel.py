"""The ``kernel`` head: quality as a smooth function of the similarities to prototypes.

A Gaussian-kernel ridge regression whose landmarks are cluster means, so that no prompt's vector is stored. Read
`KernelFamily.fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from penstock_training.families.head import FloatArray, GraphNames, PromptInputs, Settings, TrainingSet
from penstock_training.families.ridge import fit_low_rank
from penstock_training.graph import GraphBuilder
from penstock_training.places import Prototypes

# Directions of the landmark kernel below this share of its largest eigenvalue are dropped: float32 could not hold the
# coefficients that they would need.
_EIGENVALUE_MIN: Final = 1e-4


@dataclass(frozen=True, slots=True)
class KernelHead:
    """``exp((similarity − 1 + own) / τ) @ weight + bias`` over landmarks.

    Attributes
    ----------
    landmarks : Prototypes
    bandwidth : float
        τ, in cosine similarity.
    form_weight : float
        β of the similarity.
    weight : ndarray of float64, shape (p, m)
    bias : ndarray of float64, shape (m,)
    """

    landmarks: Prototypes
    bandwidth: float
    form_weight: float
    weight: FloatArray
    bias: FloatArray

    def predict(self, inputs: PromptInputs) -> FloatArray:
        """Raw quality, (n, m)."""
        return np.asarray(kernel(self.landmarks, inputs, self.bandwidth, self.form_weight) @ self.weight + self.bias)

    def add_nodes(self, builder: GraphBuilder, names: GraphNames) -> str:
        """Write `predict` into a graph."""
        b = builder
        found = self.landmarks.add_similarity(b, names.vector, names.form, self.form_weight)
        if self.form_weight > 0.0:
            norm = b.op("ReduceSumSquare", names.form, axes=[1], keepdims=1)
            found = b.op("Sub", found, b.op("Mul", norm, b.constant(0.5 * self.form_weight)))
        distance = b.op("Sub", found, b.constant(1.0))
        values = b.op("Exp", b.op("Mul", distance, b.constant(1.0 / self.bandwidth)))
        return b.affine(values, self.weight, self.bias)


def kernel(landmarks: Prototypes, inputs: PromptInputs, bandwidth: float, form_weight: float) -> FloatArray:
    """Gaussian kernel of n prompts to p landmarks, (n, p): ``exp(−(|v − c|² + β |z − z_p|²) / 2τ)``."""
    similarity = landmarks.similarity(inputs.vectors, inputs.forms, form_weight)
    own = 0.5 * form_weight * np.square(inputs.forms).sum(axis=1, keepdims=True)
    return np.asarray(np.exp((similarity - own - 1.0) / bandwidth))


class KernelFamily:
    """Fits a `KernelHead`."""

    defaults: ClassVar[Settings] = {"landmarks": 1000.0, "bandwidth": 0.4, "form_weight": 0.03}

    def fit(self, training: TrainingSet, settings: Settings, seed: int) -> KernelHead:
        """Fit by `fit_low_rank` on Nyström features; see `penstock_training.families.head.Family`.

        Notes
        -----
        With K the kernel among landmarks, ``K = Q Λ Qᵀ``, the features ``k(x) Q Λ^(−1/2)`` make ridge regression on
        them kernel ridge regression in the span of the landmarks. Small eigenvalues are cut.

        References
        ----------
        Williams, Seeger, "Using the Nyström method to speed up kernel machines" (NIPS 2000), with k-means centres as
        landmarks (Zhang, Tsang, Kwok, ICML 2008).
        """
        landmarks = training.prototypes(round(settings["landmarks"]))
        bandwidth, form_weight = settings["bandwidth"], settings["form_weight"]
        among = kernel(landmarks, PromptInputs(landmarks.centroids, landmarks.forms), bandwidth, form_weight)
        values, basis = np.linalg.eigh(among)
        kept = values > _EIGENVALUE_MIN * values[-1]
        whitening = basis[:, kept] / np.sqrt(values[kept])
        features = kernel(landmarks, training.inputs, bandwidth, form_weight) @ whitening
        found = fit_low_rank(features, training.target)
        return KernelHead(landmarks, bandwidth, form_weight, whitening @ found.weight, found.bias)
