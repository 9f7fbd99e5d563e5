"""The manifest of an artifact that got one more arm.

Owns what a new arm changes in a manifest; everything else stays the parent's. Read `grow_manifest`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Final

import msgspec
import numpy as np

from penstock_routers.artifact import RouterArtifact
from penstock_routers.manifest import (
    OUTPUT_NAMES,
    ArmEntry,
    Calibration,
    GoldenBatch,
    Manifest,
    SourceEntry,
    TrainingData,
    artifact_id,
)
from penstock_training.estimator import ArmEstimates
from penstock_training.export import output_specs, run_graph
from penstock_training.onboarding.column import OnboardedColumn
from penstock_training.onboarding.evidence import Evidence, NewArm
from penstock_training.predict import artifact_prices

_UNSTATED: Final = "not stated"


def grow_manifest(
    artifact: RouterArtifact,
    graph: bytes,
    column: OnboardedColumn,
    evidence: Evidence,
    new: NewArm,
    price: tuple[float, float],
    after: ArmEstimates,
    remarks: tuple[str, ...],
) -> Manifest:
    """Write down what was added.

    Parameters
    ----------
    artifact : RouterArtifact
        The parent.
    graph : bytes
        The new one.
    column : OnboardedColumn
    evidence : Evidence
    new : NewArm
    price : (float, float)
        USD per million input and output tokens.
    after : ArmEstimates
        The new graph's, of the scored prompts.
    remarks : tuple of str

    Returns
    -------
    Manifest
        Complete, with its id. Split, metrics, guard, training digest and measured points are the parent's.
    """
    parent = artifact.manifest
    arms = (*parent.arms, new.name)
    entry = ArmEntry(
        name=new.name,
        tier=new.tier,
        price_usd_per_million_input_tokens=price[0],
        price_usd_per_million_output_tokens=price[1],
        members=(new.name,),
        prompts=int(evidence.scored.score.size),
        mean_score=round(float(evidence.scored.score.mean()), 4),
        mean_output_tokens=round(float(after.output_tokens[:, -1].mean()), 1),
    )
    scale = _scale_change(artifact, price)
    draft = msgspec.structs.replace(
        parent,
        arms=arms,
        arm_entries=(*parent.arm_entries, entry),
        outputs=output_specs(len(arms), len(parent.categories)),
        calibration=_calibration(parent.calibration, new.name, column),
        operating_points=tuple(
            msgspec.structs.replace(point, cost_weight=_rescaled(point.cost_weight, scale))
            for point in parent.operating_points
        ),
        frontier=tuple(
            msgspec.structs.replace(point, cost_weight=_rescaled(point.cost_weight, scale)) for point in parent.frontier
        ),
        training=_training(parent, evidence, new.name, column, scale, remarks),
        parent=parent.id,
        graph_sha256=hashlib.sha256(graph).hexdigest(),
        graph_bytes=len(graph),
        golden=_golden(parent.golden, graph),
    )
    return msgspec.structs.replace(draft, id=artifact_id(draft, graph))


def _scale_change(artifact: RouterArtifact, price: tuple[float, float]) -> float:
    """By how much the new arm raises the unit of λ, the dearest arm's typical request; >= 1."""
    before = max(artifact.cost_scale_usd(*pair) for pair in artifact_prices(artifact.manifest).values())
    return max(1.0, artifact.cost_scale_usd(*price) / before) if before > 0.0 else 1.0


def _rescaled(weight: float | None, scale: float) -> float | None:
    """Keep what λ means in USD when the unit of cost grows."""
    return None if weight is None else weight * scale


def _calibration(parent: Calibration, arm: str, column: OnboardedColumn) -> Calibration:
    parameters = {**parent.parameters, arm: [round(float(value), 6) for value in (column.bias, *column.weight)]}
    fingerprint = hashlib.sha256(msgspec.json.encode([parent.id, parameters], order="sorted")).hexdigest()
    words = "; an onboarded arm: bias and weights of the qualities of the arms before it"
    method = parent.method if parent.method.endswith(words) else parent.method + words
    return Calibration(f"{parent.id.rpartition('-')[0]}-{fingerprint[:12]}", method, parent.rows, parameters)


def _training(
    parent: Manifest,
    evidence: Evidence,
    arm: str,
    column: OnboardedColumn,
    scale: float,
    remarks: tuple[str, ...],
) -> TrainingData:
    """The parent's data, which the split and the known arms still come from, and a note about the new prompts."""
    prompts = evidence.prompts
    quality, error = column.mean_quality(evidence.scored.quality)
    notes = [
        f"arm {arm!r} was added from {len(prompts.prompts)} scored prompts ({evidence.scored.paired} of them scored on "
        f"known arms too), mean quality {quality:.3f} with standard error {error:.3f}; outcomes "
        f"{prompts.digest[:16]}",
        f"operating points and frontier were measured without {arm!r}",
        *remarks,
    ]
    if scale > 1.0:
        notes.append(
            f"{arm!r} is the dearest arm, so cost weights were multiplied by {scale:.6g} to mean the same in USD"
        )
    sources = tuple(
        SourceEntry(f"{name} ({arm})", _UNSTATED, count, count)
        for name, count in sorted(Counter(prompts.sources).items())
    )
    return msgspec.structs.replace(
        parent.training,
        outcomes=parent.training.outcomes + len(prompts.prompts),
        sources=(*parent.training.sources, *sources),
        notes=(*parent.training.notes, *notes),
    )


def _golden(parent: GoldenBatch, graph: bytes) -> GoldenBatch:
    """The parent's inputs with what the new graph makes of them."""
    vectors, features = (np.asarray(rows, dtype=np.float32) for rows in (parent.prompt_vectors, parent.features))
    found = run_graph(graph, vectors, features, parent.reference_arm)
    outputs = {
        name: np.round(getattr(found, name).reshape(len(vectors), -1).astype(np.float64), 6) for name in OUTPUT_NAMES
    }
    return msgspec.structs.replace(
        parent, outputs={name: tuple(tuple(row) for row in values.tolist()) for name, values in outputs.items()}
    )
