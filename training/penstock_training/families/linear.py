"""The ``linear`` head: quality as an affine function of the prompt's vector and form.

CARROT's linear head, with the arms shrunk together (`penstock_training.families.ridge`) and an earlier router as prior.
Read `LinearFamily.fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from penstock_training.families.head import FloatArray, GraphNames, PromptInputs, Settings, TrainingSet
from penstock_training.families.ridge import fit_low_rank
from penstock_training.graph import GraphBuilder

LINEAR_WEIGHT: Final = "linear_weight"  # name of the weight inside a graph; a later fit reads its prior from there


@dataclass(frozen=True, slots=True)
class LinearHead:
    """``[v, z] @ weight + bias``.

    Attributes
    ----------
    weight : ndarray of float64, shape (d + f, m)
    bias : ndarray of float64, shape (m,)
    explained : ndarray of float64, shape (r,)
        Out-of-sample share of variance explained, per component of the arms.
    """

    weight: FloatArray
    bias: FloatArray
    explained: FloatArray

    def predict(self, inputs: PromptInputs) -> FloatArray:
        """Raw quality, (n, m)."""
        return np.asarray(inputs.design(1.0) @ self.weight + self.bias)

    def add_nodes(self, builder: GraphBuilder, names: GraphNames) -> str:
        """Write `predict` into a graph."""
        joined = builder.op("Concat", names.vector, names.form, axis=1)
        weight = builder.constant(self.weight, name=LINEAR_WEIGHT)
        return builder.op("Gemm", joined, weight, builder.constant(self.bias))


class LinearFamily:
    """Fits a `LinearHead`."""

    defaults: ClassVar[Settings] = {"form_weight": 0.1, "prior_weight": 1.0}

    def fit(self, training: TrainingSet, settings: Settings, seed: int) -> LinearHead:
        """Fit by `fit_low_rank`; see `penstock_training.families.head.Family`.

        Notes
        -----
        ``form_weight`` scales the standardised form against the unit vector, so a smaller one shrinks its coefficients
        more. The prior enters as further columns, the prompts' projections on its directions scaled to the standard
        deviation ``prior_weight``: ridge regression then pays less for coefficients along these directions, which is a
        Gaussian prior whose covariance is the identity plus ``prior_weight²`` along each direction. The columns are
        linear in the inputs and are folded back into one weight.
        """
        form_weight, prior_weight = settings["form_weight"], settings["prior_weight"]
        design = training.inputs.design(form_weight)
        scales = np.concatenate(
            [np.ones(training.inputs.vectors.shape[1]), np.full(training.inputs.forms.shape[1], form_weight)]
        )
        directions = training.directions
        if directions.shape[1] and prior_weight > 0.0:
            projected = training.inputs.design(1.0) @ directions
            scale = prior_weight / np.maximum(projected.std(axis=0), 1e-9)
            design = np.hstack([design, projected * scale])
            found = fit_low_rank(design, training.target)
            own = found.weight[: scales.size] * scales[:, None]
            weight = own + directions @ (scale[:, None] * found.weight[scales.size :])
        else:
            found = fit_low_rank(design, training.target)
            weight = found.weight * scales[:, None]
        return LinearHead(weight, found.bias, found.explained)
