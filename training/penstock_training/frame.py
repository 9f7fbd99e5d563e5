"""What every router needs besides quality: novelty, how much evidence there is, answer lengths, category.

Owns these four and their arithmetic in NumPy and as ONNX operators. Must not know any family. Read `Frame.observe` and
`fit_frame`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.token_counts import ASSUMED_OUTPUT_TOKENS
from penstock_training.category_head import CategoryHead
from penstock_training.engines.protocol import LOCAL, Engine
from penstock_training.families.head import FloatArray, GraphNames, PromptInputs
from penstock_training.graph import GraphBuilder
from penstock_training.places import FormScaler, Prototypes, sums_per_prototype

# Form separates unfamiliar prompts better than it predicts gains; of 0, 0.02, 0.05, 0.1 and 0.2 this caught most of the
# foreign prompts of docs/routing.md.
NOVELTY_WEIGHT: Final = 0.05
EVIDENCE_BANDWIDTH: Final = 0.05
EVIDENCE_STRENGTH: Final = 5.0  # prompts' worth of belief in the mean; keeps the evidence of an empty region finite
_LENGTH_RIDGE: Final = 10.0
_LENGTH_FORM_WEIGHT: Final = 0.1
_MIN_LENGTHS: Final = 30  # answers below which a length does not depend on the prompt
# Predicted lengths stay inside these quantiles of the observed ones: a log-linear model must not extrapolate.
_LENGTH_QUANTILES: Final = (0.02, 0.98)


@dataclass(frozen=True, slots=True)
class LengthHead:
    """``exp(clip([v, z] @ weight + bias, low, high)) · smear − 1`` tokens.

    Attributes
    ----------
    weight : ndarray of float64, shape (d + f, m)
    bias, low, high, smear : ndarray of float64, shape (m,)
    """

    weight: FloatArray
    bias: FloatArray
    low: FloatArray
    high: FloatArray
    smear: FloatArray

    def predict(self, inputs: PromptInputs) -> FloatArray:
        """Expected completion tokens, (n, m), >= 0."""
        logs = np.clip(inputs.design(1.0) @ self.weight + self.bias, self.low, self.high)
        return np.asarray(np.maximum(np.exp(logs) * self.smear - 1.0, 0.0))

    def add_nodes(self, b: GraphBuilder, names: GraphNames) -> str:
        """Write `predict` into a graph."""
        joined = b.op("Concat", names.vector, names.form, axis=1)
        logs = b.affine(joined, self.weight, self.bias)
        bounded = b.op("Min", b.op("Max", logs, b.constant(self.low)), b.constant(self.high))
        tokens = b.op("Sub", b.op("Mul", b.op("Exp", bounded), b.constant(self.smear)), b.constant(1.0))
        return b.op("Max", tokens, b.constant(0.0))


@dataclass(frozen=True, slots=True)
class Observation:
    """What the frame says of n prompts: novelty (n,), variance factor per arm (n, m) or (n, 1), tokens, category."""

    novelty: FloatArray
    variance_factor: FloatArray
    output_tokens: FloatArray
    category: FloatArray


@dataclass(frozen=True, slots=True)
class Frame:
    """The parts that all families share.

    Attributes
    ----------
    scaler : FormScaler
    prototypes : Prototypes
    counts : ndarray of float64, shape (p, m) or (p, 1)
        Observed outcomes per prototype and arm; one column when all arms have the same.
    lengths : LengthHead
    categories : CategoryHead
    """

    scaler: FormScaler
    prototypes: Prototypes
    counts: FloatArray
    lengths: LengthHead
    categories: CategoryHead

    def inputs(self, vectors: NDArray[np.floating], features: NDArray[np.floating]) -> PromptInputs:
        """Prompts as families see them."""
        return PromptInputs(vectors.astype(np.float64), self.scaler.apply(features))

    def observe(self, inputs: PromptInputs) -> Observation:
        """Compute everything but quality.

        Notes
        -----
        Novelty is ``1 − max_p (v·c_p − γ/2 · |z − z_p|²)``. The variance factor says how much of one outcome's variance
        is left in a local mean: with weights w = exp((nearness − largest) / τ) and counts n,
        ``h = (Σ w² n + κ) / (Σ w n + κ)²``; about 1 over the number of prompts nearby.
        """
        near = self.prototypes.similarity(inputs.vectors, inputs.forms, NOVELTY_WEIGHT)
        best = near.max(axis=1)
        own = 0.5 * NOVELTY_WEIGHT * np.square(inputs.forms).sum(axis=1)
        weight = np.exp((near - best[:, None]) / EVIDENCE_BANDWIDTH)
        mass = weight @ self.counts + EVIDENCE_STRENGTH
        spread = np.square(weight) @ self.counts + EVIDENCE_STRENGTH
        return Observation(
            novelty=1.0 - best + own,
            variance_factor=spread / np.square(mass),
            output_tokens=self.lengths.predict(inputs),
            category=self.categories.predict(inputs),
        )

    def add_nodes(self, b: GraphBuilder, names: GraphNames) -> tuple[str, str, str, str]:
        """Write `observe` into a graph; returns the names of its four results."""
        near = self.prototypes.add_similarity(b, names.vector, names.form, NOVELTY_WEIGHT)
        best = b.op("ReduceMax", near, axes=[1], keepdims=1)
        norm = b.op("ReduceSumSquare", names.form, axes=[1], keepdims=1)
        own = b.op("Mul", norm, b.constant(0.5 * NOVELTY_WEIGHT))
        column = b.op("Add", b.op("Sub", own, best), b.constant(1.0))
        novelty = b.op("Squeeze", column, b.constant([1], np.int64))
        behind = b.op("Mul", b.op("Sub", near, best), b.constant(1.0 / EVIDENCE_BANDWIDTH))
        weight = b.op("Exp", behind)
        strength = np.full(self.counts.shape[1], EVIDENCE_STRENGTH)
        mass = b.affine(weight, self.counts, strength)
        spread = b.affine(b.op("Mul", weight, weight), self.counts, strength)
        factor = b.op("Div", spread, b.op("Mul", mass, mass))
        return novelty, factor, self.lengths.add_nodes(b, names), self.categories.add_nodes(b, names)


def fit_frame(
    scaler: FormScaler,
    prototypes: Prototypes,
    inputs: PromptInputs,
    observed: NDArray[np.bool_],
    output_tokens: NDArray[np.floating],
    categories: CategoryHead,
    engine: Engine = LOCAL,
) -> Frame:
    """Count the evidence and learn answer lengths.

    Parameters
    ----------
    scaler : FormScaler
    prototypes : Prototypes
        Of the training prompts.
    inputs : PromptInputs
        n training prompts.
    observed : ndarray of bool, shape (n, m)
    output_tokens : ndarray, shape (n, m)
        NaN where missing or not free-form.
    categories : CategoryHead
    engine : Engine
        Where the lengths of each arm are learned.

    Returns
    -------
    Frame
    """
    counts = sums_per_prototype(observed.astype(np.float64), prototypes.members, len(prototypes))
    if bool((counts == counts[:, :1]).all()):
        counts = counts[:, :1]
    return Frame(scaler, prototypes, counts, fit_lengths(inputs, output_tokens, engine), categories)


def fit_lengths(inputs: PromptInputs, output_tokens: NDArray[np.floating], engine: Engine = LOCAL) -> LengthHead:
    """Regress the logarithm of 1 + tokens on the prompt, one arm at a time.

    Parameters
    ----------
    inputs : PromptInputs
    output_tokens : ndarray, shape (n, m)
        NaN where missing.
    engine : Engine
        Each arm is one part of its work.

    Returns
    -------
    LengthHead
        An arm with fewer than 30 lengths has a constant one, its mean or, without any, that of all arms.

    Notes
    -----
    ``smear`` corrects the mean of an exponential: the ratio of the observed mean of 1 + tokens to the fitted one.

    References
    ----------
    Duan, "Smearing estimate: a nonparametric retransformation method" (JASA 78, 1983), in ratio form.
    """
    scale = np.concatenate([np.ones(inputs.vectors.shape[1]), np.full(inputs.forms.shape[1], _LENGTH_FORM_WEIGHT)])
    known = output_tokens[np.isfinite(output_tokens)]
    overall = float(known.mean(dtype=np.float64)) if known.size else ASSUMED_OUTPUT_TOKENS
    shared = engine.share((inputs.design(_LENGTH_FORM_WEIGHT), output_tokens, overall))
    arms = engine.map(_arm_lengths, shared, range(output_tokens.shape[1]))
    return LengthHead(
        np.stack([arm.beta for arm in arms], axis=1) * scale[:, None],
        *(np.array([getattr(arm, name) for arm in arms]) for name in ("bias", "low", "high", "smear")),
    )


@dataclass(frozen=True, slots=True)
class _ArmLengths:
    """One arm's column of a `LengthHead`, its weight not scaled yet."""

    beta: FloatArray
    bias: float
    low: float
    high: float
    smear: float


def _arm_lengths(everything: tuple[FloatArray, NDArray[np.floating], float], arm: int) -> _ArmLengths:
    design, output_tokens, overall = everything
    rows = np.isfinite(output_tokens[:, arm])
    tokens = output_tokens[rows, arm].astype(np.float64)
    if tokens.size < _MIN_LENGTHS:
        level = float(np.log1p(tokens.mean() if tokens.size else overall))
        return _ArmLengths(np.zeros(design.shape[1]), level, level, level, 1.0)
    logs = np.log1p(tokens)
    center = design[rows].mean(axis=0)
    x = design[rows] - center
    beta = np.linalg.solve(x.T @ x + _LENGTH_RIDGE * np.eye(design.shape[1]), x.T @ (logs - logs.mean()))
    bias = float(logs.mean() - center @ beta)
    low, high = (float(bound) for bound in np.quantile(logs, _LENGTH_QUANTILES))
    fitted = np.exp(np.clip(design[rows] @ beta + bias, low, high))
    return _ArmLengths(beta, bias, low, high, float((1.0 + tokens).mean() / fitted.mean()))
