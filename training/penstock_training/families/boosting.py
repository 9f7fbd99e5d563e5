"""The ``boosting`` head: gradient-boosted trees on the principal components of the arms' scores.

Owns what is boosted and how it is put together; the trees themselves are in `trees`. Read `BoostingFamily.fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from penstock_training.families.head import FloatArray, GraphNames, PromptInputs, Settings, TrainingSet
from penstock_training.families.ridge import fit_low_rank
from penstock_training.families.trees import Trees, collect_trees
from penstock_training.graph import GraphBuilder

# A component of which a linear model explains less than this out of sample is left at its mean.
_EXPLAINED_MIN: Final = 0.005
_MAX_COMPONENTS: Final = 6


@dataclass(frozen=True, slots=True)
class BoostingHead:
    """``trees([v, z] @ projection) @ rotation + mean``.

    Attributes
    ----------
    projection : ndarray of float64, shape (d + f, q)
        What the trees look at: principal components of the vectors, and the form as it is.
    trees : Trees
    rotation : ndarray of float64, shape (r, m)
    mean : ndarray of float64, shape (m,)
    """

    projection: FloatArray
    trees: Trees
    rotation: FloatArray
    mean: FloatArray

    def predict(self, inputs: PromptInputs) -> FloatArray:
        """Raw quality, (n, m)."""
        columns = (inputs.design(1.0) @ self.projection).astype(np.float32)
        return np.asarray(self.trees.sums(columns, self.rotation.shape[0]) @ self.rotation + self.mean)

    def add_nodes(self, builder: GraphBuilder, names: GraphNames) -> str:
        """Write `predict` into a graph."""
        b = builder
        joined = b.op("Concat", names.vector, names.form, axis=1)
        columns = b.op("MatMul", joined, b.constant(self.projection))
        sums = self.trees.add_nodes(b, columns, self.rotation.shape[0])
        return b.affine(sums, self.rotation, self.mean)


class BoostingFamily:
    """Fits a `BoostingHead`."""

    defaults: ClassVar[Settings] = {
        "iterations": 150.0,
        "learning_rate": 0.05,
        "leaves": 12.0,
        "min_leaf": 30.0,
        "penalty": 5.0,
        "dimensions": 48.0,
    }

    def fit(self, training: TrainingSet, settings: Settings, seed: int) -> BoostingHead:
        """Boost each component by itself; see `penstock_training.families.head.Family`.

        Notes
        -----
        Components that even a linear model cannot explain are left at their mean (`fit_low_rank` tells), so fitting 30
        arms costs at most six boosted models. Thresholds are float32, as the graph compares in it.

        References
        ----------
        Ke et al., "LightGBM" (NIPS 2017), as implemented by scikit-learn's histogram gradient boosting.
        """
        from sklearn.ensemble import HistGradientBoostingRegressor

        inputs, target = training.inputs, training.target
        projection = _projection(inputs, round(settings["dimensions"]))
        columns = (inputs.design(1.0) @ projection).astype(np.float32)
        mean = target.mean(axis=0)
        rotation = np.linalg.svd(target - mean, full_matrices=False)[2]
        explained = fit_low_rank(inputs.design(0.03), target).explained
        chosen = np.flatnonzero(explained[:_MAX_COMPONENTS] > _EXPLAINED_MIN)
        chosen = chosen if chosen.size else np.array([0])
        rotation = rotation[chosen]
        models = []
        for component in rotation @ (target - mean).T:
            model = HistGradientBoostingRegressor(
                max_iter=round(settings["iterations"]),
                learning_rate=settings["learning_rate"],
                max_leaf_nodes=max(2, round(settings["leaves"])),
                min_samples_leaf=max(1, round(settings["min_leaf"])),
                l2_regularization=settings["penalty"],
                early_stopping=columns.shape[0] >= 200,
                n_iter_no_change=10,
                random_state=seed,
            )
            models.append(model.fit(columns, component))
        base = np.array([float(np.ravel(model._baseline_prediction)[0]) for model in models])
        return BoostingHead(projection, collect_trees(models), rotation, mean + base @ rotation)


def _projection(inputs: PromptInputs, dimensions: int) -> FloatArray:
    """Principal directions of the vectors, scaled to variance 1, beside the form, (d + f, q)."""
    centered = inputs.vectors - inputs.vectors.mean(axis=0)
    values, basis = np.linalg.eigh(centered.T @ centered / max(len(centered), 1))
    kept = basis[:, ::-1][:, :dimensions] / np.sqrt(np.maximum(values[::-1][:dimensions], 1e-9))
    forms = inputs.forms.shape[1]
    top = np.hstack([kept, np.zeros((kept.shape[0], forms))])
    bottom = np.hstack([np.zeros((forms, kept.shape[1])), np.eye(forms)])
    return np.vstack([top, bottom])
