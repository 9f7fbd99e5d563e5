"""The ``ensemble`` head: a weighted mean of other heads, with weights from out-of-fold predictions.

Owns stacking and redundancy: a member that cannot be fitted, that does not help, or that gives a number that is not
finite drops out. Read `EnsembleHead.predict`, then `stack`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.errors import TrainingError
from penstock_training.families.head import FloatArray, GraphNames, Head, PromptInputs
from penstock_training.graph import GraphBuilder

CONSTANT: Final = "constant"
_SHRINKAGE: Final = 0.1
_WEIGHT_MIN: Final = 0.05  # a member costs time on every request


@dataclass(frozen=True, slots=True)
class EnsembleHead:
    """``Σ_k w_k q_k / Σ_k w_k`` over the members k whose numbers are finite.

    Attributes
    ----------
    names : tuple of str, length k
    members : tuple of Head, length k
    weights : tuple of float, length k
        Positive, summing to 1.
    """

    names: tuple[str, ...]
    members: tuple[Head, ...]
    weights: tuple[float, ...]

    def predict(self, inputs: PromptInputs) -> FloatArray:
        """Raw quality, (n, m)."""
        found = np.stack([member.predict(inputs) for member in self.members])
        weight = np.asarray(self.weights)[:, None, None] * np.isfinite(found).all(axis=2, keepdims=True)
        total = np.where(weight > 0.0, weight * np.nan_to_num(found), 0.0).sum(axis=0)
        return np.asarray(total / np.maximum(weight.sum(axis=0), 1e-9))

    def add_nodes(self, builder: GraphBuilder, names: GraphNames) -> str:
        """Write `predict` into a graph: a member with a row that is not finite has no weight in that row."""
        b = builder
        totals, masses = [], []
        for member, weight in zip(self.members, self.weights, strict=True):
            found = member.add_nodes(b, names)
            spread = b.op("Sub", found, found)  # 0 where finite, not a number elsewhere
            is_bad = b.op("IsNaN", b.total(spread))
            mass = b.op("Where", is_bad, b.constant([[0.0]]), b.constant([[weight]]))
            totals.append(b.op("Where", is_bad, b.constant([[0.0]]), b.op("Mul", found, b.constant(weight))))
            masses.append(mass)
        total = totals[0] if len(totals) == 1 else b.op("Sum", *totals)
        mass = masses[0] if len(masses) == 1 else b.op("Sum", *masses)
        return b.op("Div", total, b.op("Max", mass, b.constant(1e-9)))


@dataclass(frozen=True, slots=True)
class Stacking:
    """What stacking found.

    Attributes
    ----------
    weights : dict of str to float
        Of the members that stay, and of ``constant`` where some is left over; summing to 1.
    error : dict of str to float
        Out-of-fold mean squared error of each member by itself, and of the ``ensemble``.
    dropped : dict of str to str
        Member and why it went.
    """

    weights: dict[str, float]
    error: dict[str, float]
    dropped: dict[str, str]


def stack(
    names: Sequence[str], predictions: NDArray[np.floating], target: FloatArray, observed: NDArray[np.bool_]
) -> Stacking:
    """Choose the weights of an ensemble.

    Parameters
    ----------
    names : sequence of str, length k
    predictions : ndarray, shape (k, n, m)
        Out-of-fold raw quality of each member.
    target : ndarray, shape (n, m)
    observed : ndarray of bool, shape (n, m)
        Only these cells count.

    Returns
    -------
    Stacking

    Raises
    ------
    TrainingError
        ``no_member``: no member's numbers are finite.

    Notes
    -----
    Non-negative least squares on the deviations from each arm's mean, drawn to equal weights and
    scaled down to sum to 1 where they sum to more:
    ``min |y − A w|² + s |w − 1/k|²`` with s = 0.1 of the mean square of a column. Members are so alike that plain least
    squares picks among them by chance; drawn together, they were at or near the best on all of four outcome sets
    (docs/routing.md). What matters for a decision is the difference between arms, so each row enters as its mean
    over arms and the deviations from it. Where members predict too boldly, their weights sum to less than 1 and the
    rest goes to the arms' means (the ``constant`` member), which is what keeps a router of a few dozen prompts from
    doing worse than none.

    References
    ----------
    Breiman, "Stacked regressions" (Machine Learning 24, 1996): non-negative weights on out-of-fold predictions.
    """
    usable = [i for i, found in enumerate(predictions) if np.isfinite(found).all()]
    dropped = {names[i]: "numbers that are not finite" for i in range(len(names)) if i not in usable}
    if not usable:
        raise TrainingError("no member of the ensemble gives finite numbers", code="no_member")
    seen = observed.astype(np.float64)
    mean = (target * seen).sum(axis=0) / np.maximum(seen.sum(axis=0), 1.0)
    columns = np.stack([_contrasts(predictions[i] - mean, seen) for i in usable], axis=1)
    wanted = _contrasts(target - mean, seen)
    weights = _shrunken_least_squares(columns, wanted)
    while (small := (weights > 0.0) & (weights < _WEIGHT_MIN)).any() and (weights > 0.0).sum() > 1:
        lost = np.flatnonzero(small)[weights[small].argmin()]
        rest = weights.sum() - weights[lost]
        weights = np.where(np.arange(weights.size) == lost, 0.0, weights * weights.sum() / rest)
    dropped |= {names[i]: "no weight" for i, weight in zip(usable, weights, strict=True) if weight == 0.0}
    error = {names[i]: _error(predictions[i], target, seen) for i in usable}
    blend = mean + np.tensordot(weights, np.stack([predictions[i] - mean for i in usable]), axes=1)
    error["ensemble"] = _error(blend, target, seen)
    kept = {names[i]: float(weight) for i, weight in zip(usable, weights, strict=True) if weight > 0.0}
    if (rest := 1.0 - sum(kept.values())) > _WEIGHT_MIN or not kept:
        kept[CONSTANT] = rest
    return Stacking({name: weight / sum(kept.values()) for name, weight in kept.items()}, error, dropped)


def _shrunken_least_squares(columns: FloatArray, wanted: FloatArray) -> FloatArray:
    """Non-negative weights summing to 1 at most, drawn to equal ones, (k,)."""
    from scipy.optimize import nnls

    size = columns.shape[1]
    gram = columns.T @ columns
    pull = _SHRINKAGE * float(np.trace(gram)) / size + 1e-12
    root = np.linalg.cholesky(gram + pull * np.eye(size))
    raw, _ = nnls(root.T, np.linalg.solve(root, columns.T @ wanted + pull / size))
    return np.asarray(raw / max(float(raw.sum()), 1.0))


def _contrasts(values: FloatArray, seen: FloatArray) -> FloatArray:
    """Row means and deviations from them, as one vector; cells not seen are 0."""
    count = np.maximum(seen.sum(axis=1, keepdims=True), 1.0)
    level = (values * seen).sum(axis=1, keepdims=True) / count
    return np.concatenate([level.ravel(), ((values - level) * seen).ravel()])


def _error(found: FloatArray, target: FloatArray, seen: FloatArray) -> float:
    return float((np.square(found - target) * seen).sum() / max(seen.sum(), 1.0))
