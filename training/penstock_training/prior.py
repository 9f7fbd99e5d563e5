"""An earlier router as prior for a new one.

Owns what can be read out of an artifact's graph: the directions along which it saw arms differ, and its category head.
Prompts are never in there. Read `Prior.load`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock_routers.artifact import RouterArtifact
from penstock_routers.manifest import GRAPH_FILE
from penstock_training.categories import CATEGORIES
from penstock_training.category_head import CATEGORY_BIAS, CATEGORY_WEIGHT, CategoryHead
from penstock_training.families.head import FloatArray
from penstock_training.families.linear import LINEAR_WEIGHT
from penstock_training.places import FORM_FACTOR, FORM_MEAN, FormScaler


@dataclass(frozen=True, slots=True)
class Prior:
    """What an earlier router knows, in its own units.

    Attributes
    ----------
    artifact_id : str
    scaler : FormScaler
    directions : ndarray of float64, shape (d + f, k)
        Weights of its linear head, the mean over arms first; k is 0 when it has none.
    categories : CategoryHead
    """

    artifact_id: str
    scaler: FormScaler
    directions: FloatArray
    categories: CategoryHead

    @classmethod
    def load(cls, folder: Path, *, encoder_id: str) -> Prior | None:
        """Read an artifact, after verifying it as serving does.

        Parameters
        ----------
        folder : Path
        encoder_id : str
            Encoder of the new router.

        Returns
        -------
        Prior or None
            None when the artifact was made by a release whose graph does not name its parts, or that knew other
            categories.

        Raises
        ------
        RouterError
            The artifact is refused, or belongs to another encoder (``artifact_encoder_mismatch``).
        """
        import onnx
        from onnx import numpy_helper

        artifact = RouterArtifact.load(folder, encoder_id=encoder_id)
        model = onnx.load_model_from_string((folder / GRAPH_FILE).read_bytes())
        wanted = {FORM_MEAN, FORM_FACTOR, CATEGORY_WEIGHT, CATEGORY_BIAS, LINEAR_WEIGHT}
        found = {
            tensor.name: numpy_helper.to_array(tensor).astype(np.float64)
            for tensor in model.graph.initializer
            if tensor.name in wanted
        }
        is_named = {FORM_MEAN, FORM_FACTOR, CATEGORY_WEIGHT, CATEGORY_BIAS} <= set(found)
        if not is_named or artifact.manifest.categories != CATEGORIES:
            return None
        return cls(
            artifact.id,
            FormScaler(found[FORM_MEAN], 1.0 / found[FORM_FACTOR]),
            principal_directions(found.get(LINEAR_WEIGHT, np.zeros((found[CATEGORY_WEIGHT].shape[0], 0)))),
            CategoryHead(found[CATEGORY_WEIGHT], found[CATEGORY_BIAS]),
        )

    def directions_for(self, scaler: FormScaler) -> FloatArray:
        """Directions for inputs standardised by another scaler, (d + f, k)."""
        return self._converted(self.directions, scaler)

    def categories_for(self, scaler: FormScaler) -> CategoryHead:
        """The category head for inputs standardised by another scaler."""
        forms = self.scaler.mean.size  # what it knows nothing of is 0 for it, and so is what the new router leaves out
        mean = np.zeros(forms)
        mean[: scaler.mean.size] = scaler.mean[:forms]
        shift = (mean - self.scaler.mean) / self.scaler.scale
        bias = self.categories.bias + shift @ self.categories.weight[-forms:]
        return CategoryHead(self._converted(self.categories.weight, scaler), bias)

    def _converted(self, weight: FloatArray, scaler: FormScaler) -> FloatArray:
        known, wanted = self.scaler.mean.size, scaler.mean.size
        shared = min(known, wanted)
        converted = np.zeros((weight.shape[0] - known + wanted, weight.shape[1]))
        converted[:-wanted] = weight[:-known]
        factor = scaler.scale[:shared] / self.scaler.scale[:shared]
        converted[converted.shape[0] - wanted :][:shared] = weight[-known:][:shared] * factor[:, None]
        return converted


def principal_directions(weight: FloatArray) -> FloatArray:
    """Mean weight over arms, and the principal directions of the deviations from it, at most six, (k, r)."""
    if weight.shape[1] == 0:
        return weight
    mean = weight.mean(axis=1, keepdims=True)
    left, size, _ = np.linalg.svd(weight - mean, full_matrices=False)
    kept = size > 1e-3 * np.linalg.norm(mean)
    return np.hstack([mean, (left * size)[:, kept][:, :5]])
