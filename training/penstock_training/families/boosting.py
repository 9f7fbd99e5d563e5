"""The ``boosting`` head: gradient-boosted trees on the principal components of the arms' scores.

Owns the trees' arithmetic in NumPy and as the standard ONNX tree operator. Read `BoostingFamily.fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.families.head import FloatArray, GraphNames, PromptInputs, Settings, TrainingSet
from penstock_training.families.ridge import fit_low_rank
from penstock_training.graph import GraphBuilder

IndexArray = NDArray[np.int64]

# A component of which a linear model explains less than this out of sample is left at its mean.
_EXPLAINED_MIN: Final = 0.005
_MAX_COMPONENTS: Final = 6


@dataclass(frozen=True, slots=True)
class Trees:
    """Regression trees as flat arrays over all nodes, q of them.

    Attributes
    ----------
    tree, feature, left, right : ndarray of int64, shape (q,)
        Tree of the node, column it looks at, and the nodes (counted over all trees) for "at most" and "above".
    threshold, value : ndarray of float64, shape (q,)
        Where it splits; what a leaf adds.
    is_leaf : ndarray of bool, shape (q,)
    component : ndarray of int64, shape (q,)
        Which component the tree belongs to.
    roots : ndarray of int64, shape (t,)
    """

    tree: IndexArray
    feature: IndexArray
    left: IndexArray
    right: IndexArray
    threshold: FloatArray
    value: FloatArray
    is_leaf: NDArray[np.bool_]
    component: IndexArray
    roots: IndexArray

    def sums(self, columns: NDArray[np.float32], components: int) -> FloatArray:
        """Add up the leaves that n rows fall into, (n, components)."""
        found = np.zeros((columns.shape[0], components))
        rows = np.arange(columns.shape[0])
        for root in self.roots:
            node = np.full(columns.shape[0], root)
            while not self.is_leaf[node].all():
                goes_left = columns[rows, self.feature[node]] <= self.threshold[node]
                following = np.where(goes_left, self.left[node], self.right[node])
                node = np.where(self.is_leaf[node], node, following)
            found[:, self.component[root]] += self.value[node]
        return found


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
        trees, b = self.trees, builder
        joined = b.op("Concat", names.vector, names.form, axis=1)
        columns = b.op("MatMul", joined, b.constant(self.projection))
        start = trees.roots[trees.tree]
        numbers = np.arange(trees.tree.size) - start
        leaves = np.flatnonzero(trees.is_leaf)
        attributes: dict[str, Any] = {
            "n_targets": int(self.rotation.shape[0]),
            "nodes_treeids": trees.tree.tolist(),
            "nodes_nodeids": numbers.tolist(),
            "nodes_featureids": trees.feature.tolist(),
            "nodes_values": trees.threshold.astype(np.float32).tolist(),
            "nodes_modes": ["LEAF" if leaf else "BRANCH_LEQ" for leaf in trees.is_leaf],
            "nodes_truenodeids": np.where(trees.is_leaf, 0, trees.left - start).tolist(),
            "nodes_falsenodeids": np.where(trees.is_leaf, 0, trees.right - start).tolist(),
            "target_treeids": trees.tree[leaves].tolist(),
            "target_nodeids": numbers[leaves].tolist(),
            "target_ids": trees.component[leaves].tolist(),
            "target_weights": trees.value[leaves].astype(np.float32).tolist(),
        }
        sums = b.op("TreeEnsembleRegressor", columns, domain="ai.onnx.ml", **attributes)
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
        return BoostingHead(projection, _collect(models), rotation, mean + base @ rotation)


def _projection(inputs: PromptInputs, dimensions: int) -> FloatArray:
    """Principal directions of the vectors, scaled to variance 1, beside the form, (d + f, q)."""
    centered = inputs.vectors - inputs.vectors.mean(axis=0)
    values, basis = np.linalg.eigh(centered.T @ centered / max(len(centered), 1))
    kept = basis[:, ::-1][:, :dimensions] / np.sqrt(np.maximum(values[::-1][:dimensions], 1e-9))
    forms = inputs.forms.shape[1]
    top = np.hstack([kept, np.zeros((kept.shape[0], forms))])
    bottom = np.hstack([np.zeros((forms, kept.shape[1])), np.eye(forms)])
    return np.vstack([top, bottom])


def _collect(models: list[Any]) -> Trees:
    """Copy the nodes of fitted models into flat arrays."""
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in ("tree", "feature", "left", "right", "threshold",
                                                                  "value", "is_leaf", "component")}  # fmt: skip
    roots, start, number = [], 0, 0
    for component, model in enumerate(models):
        for (predictor,) in model._predictors:
            nodes = predictor.nodes
            roots.append(start)
            parts["tree"].append(np.full(nodes.size, number))
            parts["feature"].append(nodes["feature_idx"].astype(np.int64))
            parts["left"].append(nodes["left"].astype(np.int64) + start)
            parts["right"].append(nodes["right"].astype(np.int64) + start)
            parts["threshold"].append(_clear_of_values(nodes["num_threshold"]))
            parts["value"].append(nodes["value"])
            parts["is_leaf"].append(nodes["is_leaf"].astype(bool))
            parts["component"].append(np.full(nodes.size, component))
            start, number = start + nodes.size, number + 1
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    return Trees(**joined, roots=np.array(roots, dtype=np.int64))


def _clear_of_values(threshold: FloatArray) -> FloatArray:
    """Move thresholds up by 1e-5, to float32: they may be data values, which another order of additions would cross."""
    moved = threshold + 1e-5 * np.maximum(1.0, np.abs(threshold))
    return moved.astype(np.float32).astype(np.float64)
