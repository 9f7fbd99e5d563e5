"""Where prompts lie: standardised form, prototypes, and the clusterings that all families share.

Owns k-means and `Prototypes`. Must not see a score: whatever is made here can be used in cross-validation without
leaking an outcome. Read `Prototypes`, then `Places.get`.

Notation: prototype p has a unit centroid c_p and a mean form z_p; the similarity of a prompt (v, z) to it is
``v·c_p − β/2 · |z − z_p|²`` for a form weight β.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.engines.protocol import LOCAL, Engine
from penstock_training.graph import GraphBuilder

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

MIN_MEMBERS: Final = 5  # different prompts behind every published centroid, so that none can be traced to one prompt
FORM_CLIP: Final = 3.0  # standard deviations
FORM_MEAN: Final = "form_mean"  # names inside a graph, where a later fit looks for its prior
FORM_FACTOR: Final = "form_factor"
_KMEANS_STEPS: Final = 15


@dataclass(frozen=True, slots=True)
class FormScaler:
    """Standardises prompt features: ``clip((x − mean) / scale, ±3)``.

    Attributes
    ----------
    mean, scale : ndarray of float64, shape (f,)
    """

    mean: FloatArray
    scale: FloatArray

    @classmethod
    def fit(cls, features: NDArray[np.floating]) -> FormScaler:
        """Take mean and standard deviation of features (n, f); a constant one keeps a scale of 0.001."""
        mean = features.mean(axis=0, dtype=np.float64)
        return cls(mean, np.maximum(features.std(axis=0, dtype=np.float64), 1e-3))

    def apply(self, features: NDArray[np.floating]) -> FloatArray:
        """Standardise n prompts' features, (n, f)."""
        return np.clip((features - self.mean) / self.scale, -FORM_CLIP, FORM_CLIP)

    def add_nodes(self, b: GraphBuilder, features: str) -> str:
        """Write `apply` into a graph."""
        centered = b.op("Sub", features, b.constant(self.mean, name=FORM_MEAN))
        scaled = b.op("Mul", centered, b.constant(1.0 / self.scale, name=FORM_FACTOR))
        return b.op("Clip", scaled, b.constant(-FORM_CLIP), b.constant(FORM_CLIP))


@dataclass(frozen=True, slots=True)
class Prototypes:
    """Where training prompts cluster, without their outcomes.

    Attributes
    ----------
    centroids : ndarray of float64, shape (p, d)
        Unit length.
    forms : ndarray of float64, shape (p, f)
        Mean standardised form of the members.
    members : ndarray of int64, shape (n,)
        Prototype of every training row.
    """

    centroids: FloatArray
    forms: FloatArray
    members: IndexArray

    def __len__(self) -> int:
        """Count the prototypes."""
        return int(self.centroids.shape[0])

    def similarity(self, vectors: FloatArray, forms: FloatArray, form_weight: float) -> FloatArray:
        """Similarity of n prompts to every prototype up to a term of the prompt's own, (n, p).

        Notes
        -----
        ``v·c − β/2·|z − z_p|² + β/2·|z|²``: the last term does not depend on p and drops out of every comparison.
        """
        return np.asarray(vectors @ self.centroids.T + form_weight * self._form_part(forms))

    def add_similarity(self, b: GraphBuilder, vector: str, form: str, form_weight: float) -> str:
        """Write `similarity` into a graph."""
        cosine = b.op("MatMul", vector, b.constant(self.centroids.T))
        if form_weight == 0.0:
            return cosine
        offset = -0.5 * np.square(self.forms).sum(axis=1)
        part = b.affine(form, form_weight * self.forms.T, form_weight * offset)
        return b.op("Add", cosine, part)

    def _form_part(self, forms: FloatArray) -> FloatArray:
        return np.asarray(forms @ self.forms.T - 0.5 * np.square(self.forms).sum(axis=1))


@dataclass(slots=True)
class Places:
    """Clusterings of one set of prompts, each made once and only when asked for.

    Attributes
    ----------
    vectors : ndarray of float64, shape (N, d)
    forms : ndarray of float64, shape (N, f)
        Of all N prompts.
    seed : int
    index : ndarray of int64, shape (n,)
        The rows among them that this view stands for.
    indexes : dict
        Neighbour indexes of all N prompts by how they were asked for, made once and shared like the clusterings
        (`penstock_training.families.beside`).
    """

    vectors: FloatArray
    forms: FloatArray
    seed: int
    index: IndexArray
    indexes: dict[tuple[float, ...], object] = field(default_factory=dict)
    _made: dict[int, Prototypes] = field(default_factory=dict)

    def rows(self, index: IndexArray) -> Places:
        """Take some rows; the clusterings made so far and later are shared."""
        return Places(self.vectors, self.forms, self.seed, self.index[index], self.indexes, self._made)

    def make(self, counts: Iterable[int], engine: Engine) -> None:
        """Make the clusterings for these counts, each once and where the engine does it."""
        wanted = sorted({self._clusters(count) for count in counts} - self._made.keys())
        shared = engine.share((self.vectors, self.forms, self.seed))
        self._made.update(zip(wanted, engine.map(_clustered, shared, wanted), strict=True))

    def get(self, count: int) -> Prototypes:
        """About `count` prototypes of all prompts, with the members among the rows of this view."""
        wanted = self._clusters(count)
        self.make([wanted], LOCAL)
        made = self._made[wanted]
        return Prototypes(made.centroids, made.forms, made.members[self.index])

    def _clusters(self, count: int) -> int:
        return int(max(1, min(count, self.vectors.shape[0] // MIN_MEMBERS)))


def _clustered(prompts: tuple[FloatArray, FloatArray, int], count: int) -> Prototypes:
    vectors, forms, seed = prompts
    return make_prototypes(vectors, forms, count=count, seed=seed)


def make_prototypes(vectors: FloatArray, forms: FloatArray, *, count: int, seed: int) -> Prototypes:
    """Cluster prompts by k-means on unit vectors and merge clusters that are too small.

    Parameters
    ----------
    vectors : ndarray, shape (n, d)
        Unit length.
    forms : ndarray, shape (n, f)
        Standardised.
    count : int
        Clusters asked for; fewer come back when some would have less than `MIN_MEMBERS` different prompts.
    seed : int

    Returns
    -------
    Prototypes

    Notes
    -----
    One thread (the caller sets the limit) and a fixed seed make it repeatable. O(n · p · d) per iteration.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    unit = np.ascontiguousarray(vectors, dtype=np.float32)
    model = KMeans(count, init="random", n_init=1, max_iter=_KMEANS_STEPS, random_state=seed, algorithm="lloyd")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct prompts than clusters: they are merged
        model.fit(unit)
    members = _merge_small(unit, model.labels_.astype(np.int64), model.cluster_centers_)
    sizes = np.bincount(members).astype(np.float64)
    sums: FloatArray = np.stack([np.bincount(members, weights=column) for column in unit.T], axis=1).astype(np.float64)
    centroids = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    means: FloatArray = np.stack([np.bincount(members, weights=column) for column in forms.T], axis=1)
    return Prototypes(centroids, means / sizes[:, None], members)


def _merge_small(vectors: NDArray[np.float32], labels: IndexArray, centers: NDArray[np.float32]) -> IndexArray:
    """Move the members of clusters below `MIN_MEMBERS` to the nearest larger cluster; number from 0 without gaps.

    A prompt that occurs many times counts once: its cluster's centroid would be its vector.
    """
    _, different = np.unique(vectors, axis=0, return_index=True)
    counts = np.bincount(labels[different], minlength=centers.shape[0])
    large = np.flatnonzero(counts >= MIN_MEMBERS)
    if large.size == 0:
        return np.zeros_like(labels)
    moved = np.flatnonzero(counts[labels] < MIN_MEMBERS)
    labels = labels.copy()
    if moved.size:
        offset = 0.5 * np.square(centers[large]).sum(axis=1)
        labels[moved] = large[np.argmax(vectors[moved] @ centers[large].T - offset, axis=1)]
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def sums_per_prototype(values: FloatArray, members: IndexArray, size: int) -> FloatArray:
    """Sum the rows of values (n, k) per prototype, (p, k)."""
    return np.stack([np.bincount(members, weights=column, minlength=size) for column in values.T], axis=1)
