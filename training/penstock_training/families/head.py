"""What a family sees and what it returns.

Owns the types that families and the rest of the trainer exchange. Must not fit anything. Read `Head`, then
`TrainingSet`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock_training.completion import complete
from penstock_training.engines.protocol import LOCAL, Engine
from penstock_training.graph import GraphBuilder
from penstock_training.places import Places, Prototypes

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
Settings = Mapping[str, float]

_COMPLETION_FORM_WEIGHT: Final = 0.03


@dataclass(frozen=True, slots=True)
class PromptInputs:
    """Prompts as numbers.

    Attributes
    ----------
    vectors : ndarray of float64, shape (n, d)
        Unit length.
    forms : ndarray of float64, shape (n, f)
        Prompt features, standardised and clipped (`penstock_training.places.FormScaler`).
    """

    vectors: FloatArray
    forms: FloatArray

    def rows(self, index: IndexArray) -> PromptInputs:
        """Take some prompts."""
        return PromptInputs(self.vectors[index], self.forms[index])

    def design(self, form_weight: float) -> FloatArray:
        """Vector and weighted form side by side, (n, d + f)."""
        return np.hstack([self.vectors, form_weight * self.forms])


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What a family is fitted on: n prompts, m arms; made by `TrainingSet.make`.

    Attributes
    ----------
    inputs : PromptInputs
    score : ndarray of float64, shape (n, m), in [0, 1]
        Outcomes, NaN where missing.
    weight : ndarray of float64, shape (n, m), or None
        Inverse propensities of the outcomes, mean 1 per arm; None for equal weights.
    target : ndarray of float64, shape (n, m), in [0, 1]
        Scores, with missing cells filled in from these n prompts (`penstock_training.completion.complete`).
    observed : ndarray of bool, shape (n, m)
        Which of them were really observed.
    places : Places
        Clusterings of the prompts, made when asked for and shared by all families; they know no scores.
    directions : ndarray of float64, shape (d + f, k)
        Directions in the space of `PromptInputs.design` (with weight 1) along which an earlier router saw models
        differ: the prior. k may be 0.
    """

    inputs: PromptInputs
    score: FloatArray
    weight: FloatArray | None
    target: FloatArray
    observed: NDArray[np.bool_]
    places: Places
    directions: FloatArray
    _targets: dict[bytes, FloatArray] = field(default_factory=dict, repr=False)

    @classmethod
    def make(
        cls,
        inputs: PromptInputs,
        score: NDArray[np.floating],
        weight: FloatArray | None,
        places: Places,
        directions: FloatArray,
    ) -> TrainingSet:
        """Fill in the missing cells."""
        outcomes = score.astype(np.float64)
        target, observed = complete(outcomes, inputs.design(_COMPLETION_FORM_WEIGHT), weight)
        return cls(inputs, outcomes, weight, target, observed, places, directions)

    def rows(self, index: IndexArray) -> TrainingSet:
        """Take some prompts; clusterings stay those of all prompts.

        Missing cells are filled in anew, from the prompts taken alone: filled from all of them, they would tell a head
        the outcomes of the prompts that it is tested on.
        """
        inputs, score = self.inputs.rows(index), self.score[index]
        weight = None if self.weight is None else self.weight[index]
        self.fill([index], LOCAL)
        key = index.tobytes()
        places = self.places.rows(index)
        return TrainingSet(inputs, score, weight, self._targets[key], self.observed[index], places, self.directions)

    def fill(self, indexes: Iterable[IndexArray], engine: Engine) -> None:
        """Fill in the missing cells of these selections of rows, each once and where the engine does it."""
        wanted = {index.tobytes(): index for index in indexes if index.tobytes() not in self._targets}
        shared = engine.share((self.inputs, self.score, self.weight))
        self._targets.update(zip(wanted, engine.map(_filled, shared, list(wanted.values())), strict=True))

    def prototypes(self, count: int) -> Prototypes:
        """About `count` prototypes with the members among these rows."""
        return self.places.get(count)


def _filled(cells: tuple[PromptInputs, FloatArray, FloatArray | None], index: IndexArray) -> FloatArray:
    inputs, score, weight = cells
    design = inputs.rows(index).design(_COMPLETION_FORM_WEIGHT)
    return complete(score[index], design, None if weight is None else weight[index])[0]


@dataclass(frozen=True, slots=True)
class GraphNames:
    """Names of the tensors that a head may start from: the prompt vector (n, d) and the standardised form (n, f)."""

    vector: str
    form: str


class Head(Protocol):
    """Raw quality of every arm: fitted, immutable, written in NumPy and as ONNX operators alike."""

    def predict(self, inputs: PromptInputs) -> FloatArray:
        """Raw quality of n prompts on m arms, (n, m); around [0, 1], not calibrated, finite."""

    def add_nodes(self, builder: GraphBuilder, names: GraphNames) -> str:
        """Write `predict` into a graph and return the name of its (n, m) result."""


class Family(Protocol):
    """A way of fitting a head."""

    @property
    def defaults(self) -> Settings:
        """Hyper-parameters with the values used when nothing is tuned."""

    def fit(self, training: TrainingSet, settings: Settings, seed: int) -> Head:
        """Fit a head.

        Parameters
        ----------
        training : TrainingSet
        settings : mapping of str to float
            The names of `defaults`.
        seed : int

        Returns
        -------
        Head

        Raises
        ------
        TrainingError
            ``too_few_prompts``: this family cannot be fitted on so little.
        """
