"""The ``factorisation`` and ``irt`` heads: arms and prompts as vectors of a few traits.

Matrix factorisation in the manner of RouteLLM, and a multidimensional item-response model; both logistic, both fitted
on observed cells only. Read `FactorFamily.fit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from penstock_training.families.head import FloatArray, GraphNames, PromptInputs, Settings, TrainingSet
from penstock_training.graph import GraphBuilder

_STEPS: Final = 150  # of L-BFGS
_LOGIT_BOUND: Final = 15.0


@dataclass(frozen=True, slots=True)
class FactorHead:
    """``σ(g(x A) @ Pᵀ + c − x b)``, with x = [v, w z, 1] and g the identity or softplus.

    Attributes
    ----------
    traits : ndarray of float64, shape (d + f + 1, r)
        A: what a prompt asks for.
    abilities : ndarray of float64, shape (m, r)
        P: what an arm can do.
    level : ndarray of float64, shape (m,)
        c: what an arm can do whatever is asked.
    difficulty : ndarray of float64, shape (d + f + 1,)
        b; zero for the factorisation.
    is_positive : bool
        Whether g is softplus, as discriminations of an item-response model are positive.
    form_weight : float
    """

    traits: FloatArray
    abilities: FloatArray
    level: FloatArray
    difficulty: FloatArray
    is_positive: bool
    form_weight: float

    def predict(self, inputs: PromptInputs) -> FloatArray:
        """Raw quality, (n, m)."""
        design = np.column_stack([inputs.design(self.form_weight), np.ones(inputs.vectors.shape[0])])
        asked = design @ self.traits
        asked = np.logaddexp(0.0, asked) if self.is_positive else asked
        logit = asked @ self.abilities.T + self.level - (design @ self.difficulty)[:, None]
        return _sigmoid(np.clip(logit, -_LOGIT_BOUND, _LOGIT_BOUND))

    def add_nodes(self, builder: GraphBuilder, names: GraphNames) -> str:
        """Write `predict` into a graph."""
        b = builder
        scaled = b.op("Mul", names.form, b.constant(self.form_weight))
        joined = b.op("Concat", names.vector, scaled, axis=1)
        rank = self.abilities.shape[1]
        both = np.column_stack([self.traits, -self.difficulty])
        asked, easiness = b.split(b.affine(joined, both[:-1], both[-1]), (rank, 1))
        asked = b.op("Softplus", asked) if self.is_positive else asked
        logit = b.op("Add", b.affine(asked, self.abilities.T, self.level), easiness)
        bounded = b.op("Clip", logit, b.constant(-_LOGIT_BOUND), b.constant(_LOGIT_BOUND))
        return b.op("Sigmoid", bounded)


class FactorFamily:
    """Fits a `FactorHead`.

    Parameters
    ----------
    is_item_response : bool
        Whether to fit the item-response model.
    """

    defaults: ClassVar[Settings] = {"rank": 4.0, "penalty": 3.0, "form_weight": 0.03}

    def __init__(self, *, is_item_response: bool) -> None:
        self._is_item_response = is_item_response

    def fit(self, training: TrainingSet, settings: Settings, seed: int) -> FactorHead:
        """Minimise the penalised Bernoulli loss by L-BFGS; see `penstock_training.families.head.Family`.

        Notes
        -----
        Loss: ``Σ_observed −y log σ − (1 − y) log(1 − σ) + penalty (|A|² + |b|² + |P|²) `` with intercept rows and
        levels free. O(n (d + f) r + n m r) a step.

        References
        ----------
        RouteLLM (arXiv 2406.18665), section 4.2, without its embedding noise and on scores instead of votes; Reckase,
        "Multidimensional Item Response Theory" (2009), with traits linear in the prompt as in IRT-Router (arXiv
        2506.01048).
        """
        from scipy.optimize import minimize

        form_weight = settings["form_weight"]
        design = np.column_stack([training.inputs.design(form_weight), np.ones(training.target.shape[0])])
        mean = np.clip(training.target.mean(axis=0), 0.02, 0.98)
        rank = max(1, min(round(settings["rank"]), mean.size))
        shapes = ((design.shape[1], rank), (mean.size, rank), (mean.size,), (design.shape[1],))
        random = np.random.default_rng(seed)
        start = [0.3 * random.standard_normal(shapes[0]), 0.3 * random.standard_normal(shapes[1])]
        start += [np.log(mean / (1.0 - mean)), np.zeros(shapes[3])]
        problem = _Problem(training, design, shapes, settings["penalty"], self._is_item_response)
        packed = np.concatenate([part.ravel() for part in start])
        found = minimize(problem.loss, packed, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS})
        traits, abilities, level, difficulty = problem.unpack(np.asarray(found.x, dtype=np.float64))
        if not self._is_item_response:
            difficulty = np.zeros_like(difficulty)
        return FactorHead(traits, abilities, level, difficulty, self._is_item_response, form_weight)


class _Problem:
    """The penalised loss and its gradient over one packed parameter vector."""

    def __init__(
        self,
        training: TrainingSet,
        design: FloatArray,
        shapes: tuple[tuple[int, ...], ...],
        penalty: float,
        is_item_response: bool,
    ) -> None:
        self._design = design
        self._score, self._seen = training.target, training.observed.astype(np.float64)
        self._shapes, self._penalty, self._is_item_response = shapes, penalty, is_item_response

    def unpack(self, flat: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Cut the packed vector into A, P, c and b."""
        parts, start = [], 0
        for shape in self._shapes:
            size = int(np.prod(shape))
            parts.append(flat[start : start + size].reshape(shape))
            start += size
        traits, abilities, level, difficulty = parts
        return traits, abilities, level, difficulty

    def loss(self, flat: FloatArray) -> tuple[float, FloatArray]:
        """Value and gradient."""
        traits, abilities, level, difficulty = self.unpack(flat)
        linear = self._design @ traits
        asked = np.logaddexp(0.0, linear) if self._is_item_response else linear
        logit = asked @ abilities.T + level
        if self._is_item_response:
            logit = logit - (self._design @ difficulty)[:, None]
        value = float((self._seen * (np.logaddexp(0.0, logit) - self._score * logit)).sum())
        error = self._seen * (_sigmoid(logit) - self._score)
        through = error @ abilities
        if self._is_item_response:
            through = through * _sigmoid(linear)
        slopes = [self._design.T @ through, error.T @ asked, error.sum(axis=0), np.zeros_like(difficulty)]
        if self._is_item_response:
            slopes[3] = -self._design.T @ error.sum(axis=1)
        for part, slope in ((traits[:-1], slopes[0][:-1]), (abilities, slopes[1]), (difficulty[:-1], slopes[3][:-1])):
            value += self._penalty * float(np.square(part).sum())
            slope += 2.0 * self._penalty * part
        return value, np.concatenate([slope.ravel() for slope in slopes])


def _sigmoid(logit: FloatArray) -> FloatArray:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logit, -60.0, 60.0))))
