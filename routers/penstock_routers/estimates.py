"""What a router says about one prompt: an immutable record of numbers per arm.

Owns the `Estimate` type that the artifact fills and the policy reads, and what makes it from a text. No I/O, no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock_routers.features import PromptContext

FloatArray = NDArray[np.float32]

ROW_ORDER: Final = ("quality", "gain", "gain_se", "output_tokens", "quality_se", "novelty", "category")
"""In which a router's outputs stand side by side."""


Scores = tuple[float, float, float, float, float]
"""Of one arm: quality, its standard error, gain, its standard error, output tokens."""


class Columns(msgspec.Struct, frozen=True, gc=False):
    """Where the estimates of a prompt stand in a row of numbers; the same for all prompts of an artifact.

    Those come first that nothing can be decided without.

    Attributes
    ----------
    arms : tuple of str, length m
        Arm names in the artifact's order; all that is said per arm follows it.
    categories : tuple of str, length c
        Every category that the artifact knows; empty when it gives no shares.
    """

    arms: tuple[str, ...]
    categories: tuple[str, ...]

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return 5 * len(self.arms) + 1 + len(self.categories)

    @property
    def needed(self) -> int:
        """How many of the first numbers must be finite: quality, gain, its standard error, tokens."""
        return 4 * len(self.arms)

    def span(self, name: str) -> slice:
        """Return the columns of one of `ROW_ORDER`."""
        place, arms = ROW_ORDER.index(name), len(self.arms)
        if name == "category":
            return slice(5 * arms + 1, self.width)
        return slice(place * arms, 5 * arms + 1 if name == "novelty" else (place + 1) * arms)


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """Per-arm estimates for one prompt.

    Attributes
    ----------
    columns : Columns
    reference_arm : str
        The arm that `gain` is measured against.
    row : ndarray of float32, shape (`Columns.width`,)
        All numbers, which the properties name.
    novelty : float
        How far the prompt lies from everything the artifact was fitted on; compared with the
        manifest's ``guard.novelty_max``.
    category : str
        Most probable category, or ``"general"`` when the head abstains.
    """

    columns: Columns
    reference_arm: str
    row: FloatArray
    novelty: float
    category: str

    @classmethod
    def of(
        cls,
        arms: tuple[str, ...],
        reference_arm: str,
        *,
        quality: ArrayLike,
        quality_se: ArrayLike,
        gain: ArrayLike,
        gain_se: ArrayLike,
        output_tokens: ArrayLike,
        novelty: float = 0.0,
        category: str = "general",
        shares: Mapping[str, float] | None = None,
    ) -> Estimate:
        """Put an estimate together from its parts, in the order of `arms`; `shares` are the categories'."""
        shares = shares or {}
        parts = (quality, gain, gain_se, output_tokens, quality_se, [novelty], list(shares.values()))
        row = np.concatenate([np.asarray(part, dtype=np.float32) for part in parts])
        return cls(Columns(arms, tuple(shares)), reference_arm, row, novelty, category)

    @property
    def arms(self) -> tuple[str, ...]:
        """Arm names in the artifact's order, length m; every array below follows it."""
        return self.columns.arms

    @property
    def quality(self) -> FloatArray:
        """Calibrated probability that the arm's answer is acceptable, shape (m,), in [0, 1]."""
        return self.row[self.columns.span("quality")]

    @property
    def quality_se(self) -> FloatArray:
        """Standard error of `quality`, shape (m,), >= 0."""
        return self.row[self.columns.span("quality_se")]

    @property
    def gain(self) -> FloatArray:
        """Expected quality of the arm minus that of `reference_arm` on this prompt, shape (m,), in [-1, 1]."""
        return self.row[self.columns.span("gain")]

    @property
    def gain_se(self) -> FloatArray:
        """Standard error of `gain`, shape (m,), >= 0.

        From paired differences: arms share their neighbours, so it is not the root of the summed variances.
        """
        return self.row[self.columns.span("gain_se")]

    @property
    def output_tokens(self) -> FloatArray:
        """Expected completion length in tokens, shape (m,), >= 0."""
        return self.row[self.columns.span("output_tokens")]

    @property
    def category_probabilities(self) -> FloatArray:
        """Share of each category, shape (c,), in [0, 1]."""
        return self.row[self.columns.span("category")]

    def category_shares(self) -> dict[str, float]:
        """Return the probability of every category by name; empty when the artifact gives none."""
        return dict(zip(self.columns.categories, self.category_probabilities.tolist(), strict=True))

    def numbers(self) -> list[Scores]:
        """List what is said of every arm, as plain numbers, length m.

        Notes
        -----
        Taking numbers out of arrays one by one costs 12 µs for 30 arms, taking all at once 2.
        """
        m = len(self.columns.arms)
        values: list[float] = self.row[: 5 * m].tolist()
        columns = values[:m], values[4 * m :], values[m : 2 * m], values[2 * m : 3 * m], values[3 * m : 4 * m]
        return list(zip(*columns, strict=True))


Reading = tuple[FloatArray, Estimate]
"""Prompt vector, shape (d,), and estimate of one prompt."""


class PromptGraph(Protocol):
    """A graph from text to vector and estimates; `penstock_routers.fused.FusedGraph` is one."""

    def read(self, texts: Sequence[str], reference_arm: str, contexts: Sequence[PromptContext] = ()) -> list[Reading]:
        """Return vector and estimate of each text, with what stands around it; blocks."""
