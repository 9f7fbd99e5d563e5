"""How many prototypes: the fewest that lose no more than was allowed, with the loss against exact neighbours stated.

Owns the comparison on held-out prompts; both heads are `penstock_training.families.knn`'s. Must not fit what is served.
Read `choose_prototypes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.errors import TrainingError
from penstock_training.families.head import FloatArray, IndexArray, TrainingSet
from penstock_training.families.knn import KnnFamily
from penstock_training.metrics import envelope_area, upper_envelope
from penstock_training.places import MIN_MEMBERS
from penstock_training.splits import grouped_split

COUNTS: Final = (50, 100, 200, 500, 1000, 2000)
MAX_ROWS: Final = 40_000  # of them a fifth is held out; more would not change the choice
MAX_HELD_OUT: Final = 4000
_FRACTIONS: Final = {"fitted": 0.8, "held_out": 0.2}
_MIN_HELD_OUT: Final = 20
_COST_WEIGHTS: Final = np.concatenate([[0.0], np.logspace(-3.5, 1.5, 60)])


@dataclass(frozen=True, slots=True)
class HeadLoss:
    """How good a head is on held-out prompts.

    Attributes
    ----------
    prototypes : int
        0 stands for exact neighbours.
    squared_error : float
        Mean over observed cells.
    area : float or None
        Mean quality along the cost-quality curve; none without costs, or where all arms cost the same.
    """

    prototypes: int
    squared_error: float
    area: float | None


@dataclass(frozen=True, slots=True)
class PrototypeChoice:
    """What was compared, and what was chosen.

    Attributes
    ----------
    exact : HeadLoss
    compared : tuple of HeadLoss
        By rising number of prototypes.
    chosen : HeadLoss
    allowed : float
        Rise in squared error over the best of all compared, exact neighbours included, that was allowed, relative.
    held_out : int
        Prompts compared on.
    """

    exact: HeadLoss
    compared: tuple[HeadLoss, ...]
    chosen: HeadLoss
    allowed: float
    held_out: int

    @property
    def rise(self) -> float:
        """Rise in squared error of the chosen number over exact neighbours, relative; negative when it is better."""
        return self.chosen.squared_error / self.exact.squared_error - 1.0

    @property
    def _over_best(self) -> float:
        best = min(loss.squared_error for loss in (self.exact, *self.compared))
        return self.chosen.squared_error / best - 1.0

    def errors(self) -> dict[str, float]:
        """Squared errors by a name that says what was measured, for the manifest's metrics."""
        named = {f"knn_{loss.prototypes}_prototypes": loss.squared_error for loss in self.compared}
        return {"knn_exact_neighbours": self.exact.squared_error} | named

    def describe(self) -> str:
        """Say in one sentence what was chosen and what it loses."""
        area = ""
        if self.chosen.area is not None and self.exact.area is not None:
            area = f", area under cost and quality {self.chosen.area - self.exact.area:+.4f}"
        allowed = f"{100 * self.allowed:g} % allowed"
        if self._over_best > self.allowed:
            allowed += "; no number has as little"
        return (
            f"{self.chosen.prototypes} prototypes: squared error {100 * self.rise:+.2f} % against exact neighbours on "
            f"{self.held_out:,} held-out prompts, {100 * self._over_best:+.2f} % against the best number "
            f"({allowed}){area}"
        )


def choose_prototypes(
    training: TrainingSet,
    groups: IndexArray,
    settings: Mapping[str, float],
    *,
    seed: int,
    arm_cost: FloatArray | None = None,
) -> PrototypeChoice:
    """Choose the smallest number of prototypes whose held-out error is within the allowed rise over the best.

    Parameters
    ----------
    training : TrainingSet
        n prompts, m arms.
    groups : ndarray of int64, shape (n,)
        Question group of each; never divided.
    settings : mapping of str to float
        Those of `KnnFamily`; ``prototype_loss`` is the relative rise allowed.
    seed : int
    arm_cost : ndarray of float64, shape (m,), optional
        Cost per request of each arm, any one unit; gives the areas.

    Returns
    -------
    PrototypeChoice
        When no number is good enough (exact neighbours are better than all), that with the least error is chosen.

    Raises
    ------
    TrainingError
        ``too_few_prompts``.

    Notes
    -----
    One split, four to one. Clusterings are those of all prompts; they know no scores. Prototypes hold sums of many
    outcomes and may well beat exact neighbours, whose k outcomes are noisy; so a loss is measured against the best of
    all, and that against exact neighbours is stated beside it.
    """
    sample = np.arange(groups.size)
    if sample.size > MAX_ROWS:
        sample = np.sort(np.random.default_rng(seed).choice(sample, MAX_ROWS, replace=False))
    split = grouped_split(groups[sample], fractions=_FRACTIONS, seed=seed)
    fitted, held_out = sample[split["fitted"]], sample[split["held_out"]][:MAX_HELD_OUT]
    if held_out.size < _MIN_HELD_OUT or fitted.size < _MIN_HELD_OUT * MIN_MEMBERS:
        raise TrainingError("too few prompts to choose a number of prototypes; name one", code="too_few_prompts")
    rows, tested = training.rows(fitted), training.rows(held_out)

    def loss_of(prototypes: int) -> HeadLoss:
        own = {"prototypes": float(prototypes)}
        if prototypes == 0:
            own = {"support_points": 1.0, "index_from": np.inf}
        found = KnnFamily().fit(rows, {**settings, **own}, seed).predict(tested.inputs)
        error = float(np.square(found - tested.target)[tested.observed].mean())
        return HeadLoss(prototypes, error, None if arm_cost is None else _area(found, tested, arm_cost))

    exact = loss_of(0)
    highest = training.places.vectors.shape[0] // MIN_MEMBERS
    compared = tuple(loss_of(count) for count in COUNTS if count <= highest) or (loss_of(highest),)
    limit = min(loss.squared_error for loss in (exact, *compared)) * (1.0 + settings["prototype_loss"])
    good = [loss for loss in compared if loss.squared_error <= limit]
    chosen = good[0] if good else min(compared, key=lambda loss: loss.squared_error)
    return PrototypeChoice(exact, compared, chosen, settings["prototype_loss"], int(held_out.size))


def _area(found: FloatArray, tested: TrainingSet, arm_cost: FloatArray) -> float | None:
    """Area between the cheapest and the dearest arm, over prompts that every arm answered."""
    rows = np.flatnonzero(tested.observed.all(axis=1))
    low, high = float(arm_cost.min()), float(arm_cost.max())
    if rows.size < _MIN_HELD_OUT or high <= low:
        return None
    target: NDArray[np.float64] = tested.target[rows]
    cost, quality = list(arm_cost), list(target.mean(axis=0))
    for weight in _COST_WEIGHTS:
        chosen = np.argmax(found[rows] - weight * arm_cost / high, axis=1)
        cost.append(arm_cost[chosen].mean())
        quality.append(target[np.arange(rows.size), chosen].mean())
    return float(envelope_area(upper_envelope(cost, quality), low, high))
