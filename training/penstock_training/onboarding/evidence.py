"""The scored prompts of a new arm as an artifact sees them, or a refusal.

Owns what may be used of an outcome file. Must not fit. Read `gather_evidence`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.encoder import PromptEncoder
from penstock_routers.features import context_features
from penstock_routers.manifest import OUTPUT_NAMES, Manifest
from penstock_training.errors import TrainingError
from penstock_training.estimator import ArmEstimates
from penstock_training.export import run_graph
from penstock_training.fit import feature_matrix
from penstock_training.onboarding.column import ScoredPrompts, fit_length_ratio
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.own_router import arm_prices
from penstock_training.vectors import encode_prompts

MIN_PROMPTS: Final = 10


@dataclass(frozen=True, slots=True)
class NewArm:
    """What the caller says about the arm.

    Attributes
    ----------
    name : str
    price : (float, float) or None
        USD per million input and output tokens; None takes what the outcomes' costs imply.
    tier : str or None
    output_tokens : float or None
        Mean completion length; None takes it from the outcomes.
    """

    name: str
    price: tuple[float, float] | None = None
    tier: str | None = None
    output_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Scored prompts with everything that the artifact says about them, n prompts and m known arms.

    Attributes
    ----------
    prompts : OutcomeMatrix
        Outcomes of the new arm only.
    vectors : ndarray of float32, shape (n, d)
    features : ndarray of float32, shape (n, f)
    scored : ScoredPrompts
        Known arms in the artifact's order.
    estimates : ArmEstimates
        Measured against the artifact's reference arm.
    """

    prompts: OutcomeMatrix
    vectors: NDArray[np.float32]
    features: NDArray[np.float32]
    scored: ScoredPrompts
    estimates: ArmEstimates


def usable_rows(matrix: OutcomeMatrix, arm: str, manifest: Manifest) -> NDArray[np.int64]:
    """Find the rows on which the new arm was scored.

    Raises
    ------
    TrainingError
        ``arm_known``, ``unknown_arm``, ``too_few_prompts``.
    """
    if arm in manifest.arms:
        raise TrainingError(f"the artifact has the arm {arm!r} already", code="arm_known")
    if arm not in matrix.arms:
        raise TrainingError(f"no outcome names the arm {arm!r}; there are {', '.join(matrix.arms)}", code="unknown_arm")
    place = matrix.arms.index(arm)
    usable = np.isfinite(matrix.score[:, place])
    if matrix.propensity is not None:  # another arm than the one drawn answered: not a sample of anything
        usable &= matrix.propensity[:, place] != 0.0
    rows = np.flatnonzero(usable)
    different = np.unique(matrix.groups[rows]).size
    if different < MIN_PROMPTS:
        raise TrainingError(
            f"{arm!r} was scored on {different} different prompts; at least {MIN_PROMPTS} are needed, 50 are better: "
            "penstock-train collect gets more",
            code="too_few_prompts",
        )
    return rows


def gather_evidence(
    manifest: Manifest,
    graph: bytes,
    prompts: OutcomeMatrix,
    arm: str,
    *,
    encoder: PromptEncoder,
    progress: Callable[[int, int], None],
) -> Evidence:
    """Encode scored prompts and ask the artifact about them.

    Parameters
    ----------
    manifest : Manifest
    graph : bytes
        The artifact's.
    prompts : OutcomeMatrix
        From `usable_rows`.
    arm : str
    encoder : PromptEncoder
        The artifact's own.
    progress : callable
        Called with prompts done and their number.

    Returns
    -------
    Evidence
    """
    vectors = encode_prompts(encoder, prompts.prompts, progress)
    features = feature_matrix(prompts.prompts)
    if len(manifest.feature_names) > features.shape[1]:
        features = np.hstack((features, np.stack([context_features(context) for context in prompts.contexts])))
    estimates = graph_estimates(graph, vectors, features, manifest.arms.index(manifest.reference_arm))
    known = np.full((len(prompts.prompts), len(manifest.arms)), np.nan)
    for place, name in enumerate(manifest.arms):
        if name in prompts.arms:
            known[:, place] = prompts.score[:, prompts.arms.index(name)]
    single = _only(prompts, arm)
    score = single.score[:, 0].astype(np.float64)
    return Evidence(single, vectors, features, ScoredPrompts(estimates.quality, score, known), estimates)


def graph_estimates(
    graph: bytes, vectors: NDArray[np.float32], features: NDArray[np.float32], reference: int
) -> ArmEstimates:
    """Run a graph and widen its numbers to float64."""
    found = run_graph(graph, vectors, features, reference)
    return ArmEstimates(**{name: getattr(found, name).astype(np.float64) for name in OUTPUT_NAMES})


def _only(matrix: OutcomeMatrix, arm: str) -> OutcomeMatrix:
    """The outcomes of one arm."""
    place = [matrix.arms.index(arm)]
    return replace(
        matrix,
        arms=(arm,),
        score=matrix.score[:, place],
        input_tokens=matrix.input_tokens[:, place],
        output_tokens=matrix.output_tokens[:, place],
        cost_usd=matrix.cost_usd[:, place],
        propensity=None,
    )


def price_of(evidence: Evidence, new: NewArm) -> tuple[float, float]:
    """Price of the new arm, as given or as its costs imply, USD per million input and output tokens.

    Raises
    ------
    TrainingError
        ``no_prices``.
    """
    given = {} if new.price is None else {new.name: new.price}
    return arm_prices(evidence.prompts, given)[new.name]


def length_ratio(evidence: Evidence, new: NewArm) -> float:
    """Completion tokens of the new arm over the known arms' mean estimate, as given or as observed."""
    estimated = evidence.estimates.output_tokens
    if new.output_tokens is not None:
        return new.output_tokens / max(float(estimated.mean()), 1.0)
    return fit_length_ratio(estimated, evidence.prompts.output_tokens[:, 0].astype(np.float64))
