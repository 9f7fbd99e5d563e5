"""The ``mlp`` head: a small ReLU network, averaged over several starts.

Read `NeuralFamily.fit`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from penstock_training.families.head import FloatArray, GraphNames, PromptInputs, Settings, TrainingSet
from penstock_training.graph import GraphBuilder


@dataclass(frozen=True, slots=True)
class NeuralHead:
    """``relu([v, z] @ hidden + offset) @ weight + bias``; averaged networks stand side by side in one hidden layer.

    Attributes
    ----------
    hidden : ndarray of float64, shape (d + f, h)
    offset : ndarray of float64, shape (h,)
    weight : ndarray of float64, shape (h, m)
    bias : ndarray of float64, shape (m,)
    """

    hidden: FloatArray
    offset: FloatArray
    weight: FloatArray
    bias: FloatArray

    def predict(self, inputs: PromptInputs) -> FloatArray:
        """Raw quality, (n, m)."""
        raised = np.maximum(inputs.design(1.0) @ self.hidden + self.offset, 0.0)
        return np.asarray(raised @ self.weight + self.bias)

    def add_nodes(self, builder: GraphBuilder, names: GraphNames) -> str:
        """Write `predict` into a graph."""
        joined = builder.op("Concat", names.vector, names.form, axis=1)
        raised = builder.op("Relu", builder.affine(joined, self.hidden, self.offset))
        return builder.affine(raised, self.weight, self.bias)


class NeuralFamily:
    """Fits a `NeuralHead`."""

    defaults: ClassVar[Settings] = {
        "hidden": 32.0,
        "starts": 3.0,
        "penalty": 30.0,
        "learning_rate": 0.002,
        "epochs": 40.0,
        "form_weight": 0.3,
    }

    def fit(self, training: TrainingSet, settings: Settings, seed: int) -> NeuralHead:
        """Train scikit-learn's network from several seeds; see `penstock_training.families.head.Family`.

        Notes
        -----
        Vectors are stretched by √d so that their entries have variance 1. Training stops early on a tenth of the
        prompts. The networks' mean is one network of their hidden layers side by side.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor

        dimension, forms = training.inputs.vectors.shape[1], training.inputs.forms.shape[1]
        stretch = np.concatenate([np.full(dimension, np.sqrt(dimension)), np.full(forms, settings["form_weight"])])
        design = training.inputs.design(1.0) * stretch
        center = training.target.mean(axis=0)
        starts, networks = max(1, round(settings["starts"])), []
        for start in range(starts):
            network = MLPRegressor(
                hidden_layer_sizes=(round(settings["hidden"]),),
                alpha=settings["penalty"],
                learning_rate_init=settings["learning_rate"],
                max_iter=round(settings["epochs"]),
                early_stopping=design.shape[0] >= 200,
                n_iter_no_change=5,
                random_state=seed + start,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # stopping by epochs is meant
                target = training.target - center
                network.fit(design, target[:, 0] if target.shape[1] == 1 else target)
            networks.append(network)
        return NeuralHead(
            np.hstack([network.coefs_[0] for network in networks]) * stretch[:, None],
            np.concatenate([network.intercepts_[0] for network in networks]),
            np.vstack([network.coefs_[1].reshape(-1, center.size) for network in networks]) / starts,
            center + np.mean([network.intercepts_[1] for network in networks], axis=0),
        )
