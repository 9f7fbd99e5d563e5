"""From an artifact and scored prompts to an artifact with one more arm.

Owns the order of the steps; `onboard` reads from top to bottom. Must not fit (`penstock_training.onboarding.column`) or
word anything (`penstock_training.onboarding.text`).

Codes: ``arm_known``, ``unknown_arm``, ``too_few_prompts``, ``no_prices``, ``out_is_artifact``, ``parity_failed``,
``artifact_graph_unknown``, those of `penstock_training.pack.check_folder`, and those of `penstock_routers.artifact` for
an artifact of another encoder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from penstock_routers.manifest import GRAPH_FILE, OUTPUT_NAMES, Manifest
from penstock_training.errors import TrainingError
from penstock_training.estimator import ArmEstimates
from penstock_training.export import PARITY_TOLERANCE, TOKEN_TOLERANCE
from penstock_training.onboarding.column import OnboardedColumn, fit_column
from penstock_training.onboarding.evidence import (
    Evidence,
    NewArm,
    gather_evidence,
    graph_estimates,
    length_ratio,
    price_of,
    usable_rows,
)
from penstock_training.onboarding.graph import append_arm
from penstock_training.onboarding.growing import grow_manifest
from penstock_training.onboarding.report import OnboardingReport, make_remarks, make_report
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.pack import check_folder, write_artifact
from penstock_training.predict import open_router
from penstock_training.progress import Progress


def onboard(
    folder: Path,
    matrix: OutcomeMatrix,
    out: Path,
    new: NewArm,
    *,
    encoder_folder: Path | None,
    progress: Progress,
) -> OnboardingReport:
    """Add an arm to an artifact.

    Parameters
    ----------
    folder : Path
        The artifact; it is only read.
    matrix : OutcomeMatrix
        Scored prompts of the new arm. Scores of known arms on the same prompts sharpen the fit; other arms and prompts
        are left aside.
    out : Path
        Folder of the new artifact.
    new : NewArm
    encoder_folder : Path or None
        The bundled encoder of the manifest's name when None.
    progress : callable

    Returns
    -------
    OnboardingReport

    Raises
    ------
    TrainingError
        With one of the codes in the module's docstring, or ``parity_failed``.
    RouterError
        The artifact or the encoder is refused.
    """
    check_folder(out)
    if out.resolve() == folder.resolve():
        raise TrainingError(f"{out} is the artifact itself; name another folder", code="out_is_artifact")
    artifact, encoder = open_router(folder, encoder_folder)
    if artifact.manifest.neighbours is not None:
        message = "the artifact keeps its neighbours beside the graph, where no arm can be added; fit it again"
        raise TrainingError(message, code="artifact_graph_unknown")
    graph = (folder / GRAPH_FILE).read_bytes()
    rows = usable_rows(matrix, new.name, artifact.manifest)
    evidence = gather_evidence(
        artifact.manifest,
        graph,
        matrix.rows(rows),
        new.name,
        encoder=encoder,
        progress=lambda done, total: progress("encoding", done, total),
    )
    price = price_of(evidence, new)
    column = replace(fit_column(evidence.scored), length_ratio=length_ratio(evidence, new))
    extended = append_arm(graph, column, len(artifact.manifest.categories))
    after = _check_parity(column, extended, evidence, artifact.manifest)
    remarks = make_remarks(evidence, new, matrix.arms, artifact.manifest, column)
    manifest = grow_manifest(artifact, extended, column, evidence, new, price, after, remarks)
    report = make_report(manifest, column, evidence, price, after, remarks)
    write_artifact(out, manifest, extended)
    return report


def _check_parity(column: OnboardedColumn, graph: bytes, evidence: Evidence, manifest: Manifest) -> ArmEstimates:
    """Compare the new graph with the column, against a known arm and against the new one; returns the former's numbers.

    Raises
    ------
    TrainingError
        ``parity_failed``.
    """
    known, prompts = evidence.estimates, (evidence.vectors, evidence.features)
    arms, reference = len(manifest.arms), manifest.arms.index(manifest.reference_arm)
    after = graph_estimates(graph, *prompts, reference)
    for name in OUTPUT_NAMES[:5]:
        if not np.array_equal(getattr(after, name)[:, :arms], getattr(known, name)):
            raise TrainingError(f"the new graph gives known arms other {name}", code="parity_failed")
    against_nearest = graph_estimates(graph, *prompts, column.nearest)
    nearest = replace(known, gain_se=against_nearest.gain_se[:, :arms], quality_se=against_nearest.quality_se[:, :arms])
    for target, found in ((reference, after), (arms, graph_estimates(graph, *prompts, arms))):
        expected = column.predict(known, nearest, target)
        for name in OUTPUT_NAMES[:5]:
            wanted, difference = getattr(expected, name), np.abs(getattr(expected, name) - getattr(found, name))
            if name == "output_tokens":
                difference = difference / (1.0 + wanted)
            if float(difference.max()) > (TOKEN_TOLERANCE if name == "output_tokens" else PARITY_TOLERANCE):
                raise TrainingError(f"the new graph gives other {name} than the fit", code="parity_failed")
    return after
