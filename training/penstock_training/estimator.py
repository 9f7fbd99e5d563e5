"""A fitted router: frame, head, calibration and uncertainty put together.

Owns the estimator that an exported graph must agree with (`penstock_training.export` writes the same arithmetic). Must
not read files, split data or choose settings. Read `RouterEstimator.predict`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock_training.calibration import Calibration
from penstock_training.families.head import Head, PromptInputs
from penstock_training.frame import Frame
from penstock_training.uncertainty import Uncertainty

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ArmEstimates:
    """Estimates for n prompts; the arrays are those of the artifact's graph.

    Attributes
    ----------
    quality, quality_se, gain, gain_se, output_tokens : ndarray, shape (n, m)
    novelty : ndarray, shape (n,)
    category : ndarray, shape (n, c)
    """

    quality: FloatArray
    quality_se: FloatArray
    gain: FloatArray
    gain_se: FloatArray
    output_tokens: FloatArray
    novelty: FloatArray
    category: FloatArray


@dataclass(frozen=True, slots=True)
class RouterEstimator:
    """A fitted router of any family.

    Attributes
    ----------
    frame : Frame
    head : Head
    calibration : Calibration
    uncertainty : Uncertainty
    """

    frame: Frame
    head: Head
    calibration: Calibration
    uncertainty: Uncertainty

    @property
    def arms(self) -> int:
        """Number m of arms."""
        return int(self.calibration.values.shape[0])

    @property
    def dimension(self) -> int:
        """Length d of a prompt vector."""
        return int(self.frame.prototypes.centroids.shape[1])

    def quality(self, inputs: PromptInputs) -> FloatArray:
        """Calibrated quality, (n, m)."""
        return self.calibration.apply(self.head.predict(inputs))

    def predict(self, vectors: NDArray[np.floating], features: NDArray[np.floating], reference: int) -> ArmEstimates:
        """Estimate everything for n prompts.

        Parameters
        ----------
        vectors : ndarray, shape (n, d)
            Unit length.
        features : ndarray, shape (n, f)
            From `penstock_routers.features.prompt_features`.
        reference : int
            Arm that gains are measured against.

        Returns
        -------
        ArmEstimates

        Notes
        -----
        ``gain = quality − quality of the reference arm`` holds exactly, so utility and guard use one scale; its
        standard error is the difference's own (`penstock_training.uncertainty`).
        """
        inputs = self.frame.inputs(vectors, features)
        seen = self.frame.observe(inputs)
        quality = self.quality(inputs)
        return ArmEstimates(
            quality=quality,
            quality_se=self.uncertainty.quality_se(seen.variance_factor) + np.zeros_like(quality),
            gain=quality - quality[:, [reference]],
            gain_se=self.uncertainty.gain_se(seen.variance_factor, reference),
            output_tokens=seen.output_tokens,
            novelty=seen.novelty,
            category=seen.category,
        )
