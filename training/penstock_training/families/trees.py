"""Boosted trees as flat arrays: their arithmetic in NumPy and as the standard ONNX tree operator.

Owns the copying of scikit-learn's trees. Read `Trees`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock_training.families.head import FloatArray
from penstock_training.graph import GraphBuilder

IndexArray = NDArray[np.int64]


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

    def add_nodes(self, builder: GraphBuilder, columns: str, components: int) -> str:
        """Write `sums` into a graph as the standard ONNX tree operator; returns the tensor (n, components)."""
        start = self.roots[self.tree]
        numbers = np.arange(self.tree.size) - start
        leaves = np.flatnonzero(self.is_leaf)
        attributes: dict[str, Any] = {
            "n_targets": components,
            "nodes_treeids": self.tree.tolist(),
            "nodes_nodeids": numbers.tolist(),
            "nodes_featureids": self.feature.tolist(),
            "nodes_values": self.threshold.astype(np.float32).tolist(),
            "nodes_modes": ["LEAF" if leaf else "BRANCH_LEQ" for leaf in self.is_leaf],
            "nodes_truenodeids": np.where(self.is_leaf, 0, self.left - start).tolist(),
            "nodes_falsenodeids": np.where(self.is_leaf, 0, self.right - start).tolist(),
            "target_treeids": self.tree[leaves].tolist(),
            "target_nodeids": numbers[leaves].tolist(),
            "target_ids": self.component[leaves].tolist(),
            "target_weights": self.value[leaves].astype(np.float32).tolist(),
        }
        return builder.op("TreeEnsembleRegressor", columns, domain="ai.onnx.ml", **attributes)


def collect_trees(models: Sequence[Any]) -> Trees:
    """Copy the nodes of fitted models into flat arrays.

    Parameters
    ----------
    models : sequence of fitted scikit-learn histogram boosters, length q
        Of one output each; the k-th model's trees add up to component k, without its baseline.
    """
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
