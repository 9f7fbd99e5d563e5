"""The ``constant`` head: every arm's mean, whatever the prompt.

What is left when nothing can be told from the prompt; `auto` falls back on it. Read `ConstantHead`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from penstock_training.families.head import FloatArray, GraphNames, PromptInputs, Settings, TrainingSet
from penstock_training.graph import GraphBuilder


@dataclass(frozen=True, slots=True)
class ConstantHead:
    """The same quality for every prompt.

    Attributes
    ----------
    mean : ndarray of float64, shape (m,)
    """

    mean: FloatArray

    def predict(self, inputs: PromptInputs) -> FloatArray:
        """Raw quality, (n, m)."""
        return np.tile(self.mean, (inputs.vectors.shape[0], 1))

    def add_nodes(self, builder: GraphBuilder, names: GraphNames) -> str:
        """Write `predict` into a graph."""
        nothing = builder.op("Mul", builder.total(names.form), builder.constant(0.0))
        return builder.op("Add", nothing, builder.constant(self.mean))


class ConstantFamily:
    """Fits a `ConstantHead`."""

    defaults: ClassVar[Settings] = {}

    def fit(self, training: TrainingSet, settings: Settings, seed: int) -> ConstantHead:
        """Average; see `penstock_training.families.head.Family`."""
        return ConstantHead(training.target.mean(axis=0))
