"""From a fitted router to an artifact folder.

Owns the manifest's content and the writing. Nothing that goes into the hash depends on the date, the machine's name or
the card. Read `make_manifest`, then `write_artifact`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_routers.artifact import RouterArtifact
from penstock_routers.features import CONTEXT_FEATURE_NAMES, FEATURE_NAMES
from penstock_routers.manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    OUTPUT_NAMES,
    SCHEMA_VERSION,
    ArmEntry,
    Calibration,
    EncoderReference,
    GoldenBatch,
    Guard,
    Manifest,
    OperatingPoint,
    SourceEntry,
    Split,
    TrainingData,
    artifact_id,
    encode_manifest,
)
from penstock_routers.neighbour_files import INDEX_FILE, NEIGHBOUR_FILES, SCORES_FILE
from penstock_training.card import PLOT_FILES, CardReport, write_card
from penstock_training.categories import CATEGORIES
from penstock_training.errors import TrainingError
from penstock_training.estimator import RouterEstimator
from penstock_training.evaluation_report import EvaluationReport
from penstock_training.export import input_specs, output_specs, run_graph
from penstock_training.families.beside import BesideHead, beside_head
from penstock_training.fit import Corpus, FittedRouter, mean_output_tokens, split_fractions

CATEGORY_PROBABILITY_MIN: Final = 0.5
GOLDEN_ROWS: Final = 4
GOLDEN_TOLERANCE: Final = 1e-3  # other processors add in another order; a wrong graph is off by far more
_VERSIONED: Final = ("penstock", "numpy", "onnx", "onnxruntime", "scikit-learn")
_NOVELTY: Final = (
    "1 - max over prototypes of (cosine similarity of prompt vector and centroid - half the novelty weight times the "
    "squared distance of the standardised, clipped features)"
)
_CALIBRATION: Final = {
    "temperature": "slope and intercept on the logit of raw quality, per arm",
    "isotonic": "isotonic regression of outcomes on raw quality, linear between block centres, per arm",
    "identity": "none",
}
_CALIBRATED_ON: Final = "; fitted on out-of-fold predictions, stored as 41 equidistant points"
_STAGED: Final = ".new-"
_SPLIT: Final = "by question group (normalised text), seeded shuffle of groups"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a router comes from, for its manifest.

    Attributes
    ----------
    encoder : EncoderReference
    digest : str
        SHA-256 of the outcome table's content.
    sources : sequence of SourceEntry
    notes : sequence of str
        What was done to the outcomes before fitting.
    tiers : mapping of str to str
        Tier of an arm, where it has one.
    members : mapping of str to tuple of str
        Models behind an arm; an arm that is missing stands for itself.
    seed : int
    """

    encoder: EncoderReference
    digest: str
    sources: Sequence[SourceEntry]
    notes: Sequence[str]
    tiers: Mapping[str, str]
    members: Mapping[str, tuple[str, ...]]
    seed: int


def make_manifest(
    fitted: FittedRouter,
    corpus: Corpus,
    provenance: Provenance,
    *,
    held_out: EvaluationReport,
    left_out: Mapping[str, EvaluationReport],
) -> Manifest:
    """Write down everything about a router.

    Parameters
    ----------
    fitted : FittedRouter
    corpus : Corpus
        What it was fitted on, all parts of the split.
    provenance : Provenance
    held_out : EvaluationReport
        On the test part.
    left_out : mapping of str to EvaluationReport
        Per source, on a router fitted without it.

    Returns
    -------
    Manifest
        Complete, with its id.
    """
    estimator = fitted.estimator
    beside = beside_head(estimator.head)
    draft = Manifest(
        id="",
        schema_version=SCHEMA_VERSION,
        family=fitted.spec.family,
        encoder=provenance.encoder,
        feature_names=(FEATURE_NAMES + CONTEXT_FEATURE_NAMES)[: estimator.frame.scaler.mean.size],
        arms=corpus.matrix.arms,
        arm_entries=_arm_entries(fitted, corpus, provenance),
        reference_arm=fitted.reference_arm,
        reference_input_tokens=fitted.reference_input_tokens,
        reference_output_tokens=fitted.reference_output_tokens,
        inputs=input_specs(estimator.dimension, beside, feature_count=estimator.frame.scaler.mean.size),
        outputs=output_specs(len(corpus.matrix.arms), len(CATEGORIES)),
        categories=CATEGORIES,
        category_probability_min=CATEGORY_PROBABILITY_MIN,
        calibration=_calibration(estimator, corpus.matrix.arms),
        guard=Guard(fitted.knob.guard_z, fitted.novelty_max, fitted.novelty_quantile, _NOVELTY),
        operating_points=_operating_points(fitted),
        frontier=fitted.knob.frontier,
        hyperparameters={name: round(float(value), 6) for name, value in fitted.settings.items()},
        training=TrainingData(
            digest=provenance.digest,
            prompts=len(corpus.matrix.prompts),
            outcomes=int(np.isfinite(corpus.matrix.score).sum()),
            sources=tuple(provenance.sources),
            notes=(*provenance.notes, *fitted.notes),
        ),
        split=Split(
            _SPLIT,
            provenance.seed,
            dict(split_fractions(len(corpus.matrix.prompts))),
            {name: int(rows.size) for name, rows in fitted.split.items()},
        ),
        metrics=_metrics(fitted, held_out, left_out),
        versions={name: importlib.metadata.version(name) for name in _VERSIONED},
        parent=fitted.prior_id,
        graph_sha256=hashlib.sha256(fitted.graph).hexdigest(),
        graph_bytes=len(fitted.graph),
        golden=make_golden(estimator, fitted.graph, corpus.matrix.arms.index(fitted.reference_arm), provenance.seed),
        neighbours=None if beside is None else beside.files(),
    )
    return msgspec.structs.replace(draft, id=artifact_id(draft, fitted.graph))


def _operating_points(fitted: FittedRouter) -> tuple[OperatingPoint, ...]:
    return tuple(
        OperatingPoint(
            t.name,
            t.cost_weight if np.isfinite(t.cost_weight) else None,
            t.guard_z,
            fitted.validation[t.name],
            fitted.test[t.name],
        )
        for t in fitted.knob.tradeoffs
    )


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot become an artifact, before the long work begins; nothing is made or changed.

    Raises
    ------
    TrainingError
        ``out_not_writable``, or ``out_not_empty``: it holds other files and no router.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise TrainingError(f"{folder} cannot be written", code="out_not_writable")
    names = {path.name for path in folder.glob("[!.]*")}
    if names and GRAPH_FILE not in names:
        raise TrainingError(
            f"{folder} holds files and is no router's folder; name a new one, or empty it", code="out_not_empty"
        )


def write_artifact(
    folder: Path,
    manifest: Manifest,
    graph: bytes,
    card: CardReport | None = None,
    *,
    estimator: RouterEstimator | None = None,
) -> RouterArtifact:
    """Write an artifact, and open it as serving does before it takes the place of an earlier one.

    Parameters
    ----------
    folder : Path
        Made when missing. All files are written below a hidden name first and then moved, the manifest last: whoever
        reads the folder in between is refused by the hashes and never gets half of each.
    manifest : Manifest
    graph : bytes
    card : CardReport, optional
    estimator : RouterEstimator, optional
        Needed when the manifest names neighbours beside the graph: it holds them.

    Returns
    -------
    RouterArtifact

    Raises
    ------
    ArtifactError
        Serving would refuse it; the folder is as it was.
    TrainingError
        ``out_not_writable``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_behind in folder.glob(f"{_STAGED}*"):  # by a run that was killed here
            shutil.rmtree(left_behind)
        with tempfile.TemporaryDirectory(prefix=_STAGED, dir=folder) as name:
            staged = Path(name)
            (staged / GRAPH_FILE).write_bytes(graph)
            (staged / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
            beside = None if estimator is None else beside_head(estimator.head)
            neighbours = [] if beside is None else _write_neighbours(staged, beside)
            artifact = RouterArtifact.load(staged, encoder_id=manifest.encoder.id)
            extras = [path.name for path in write_card(staged, card)] if card is not None else []
            for file in (*extras, *neighbours, GRAPH_FILE, MANIFEST_FILE):
                (staged / file).replace(folder / file)
        for file in {*PLOT_FILES, *NEIGHBOUR_FILES} - {*extras, *neighbours}:
            (folder / file).unlink(missing_ok=True)
    except OSError as error:
        raise TrainingError(f"{folder} cannot be written: {error.strerror}", code="out_not_writable") from error
    return artifact


def make_golden(estimator: RouterEstimator, graph: bytes, reference: int, seed: int) -> GoldenBatch:
    """Make a golden batch from blends of centroids, so that no prompt's vector is published.

    Notes
    -----
    Each row is the unit vector between three random centroids, with the mean of their features; the expected outputs
    are those of the graph where it was made.
    """
    random = np.random.default_rng(seed)
    places, scaler = estimator.frame.prototypes, estimator.frame.scaler
    chosen = random.integers(0, places.centroids.shape[0], size=(GOLDEN_ROWS, 3))
    vectors = places.centroids[chosen].mean(axis=1)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    features = places.forms[chosen].mean(axis=1) * scaler.scale + scaler.mean
    features = features.astype(np.float32)
    found = run_graph(graph, vectors, features, reference, beside_head(estimator.head))
    outputs = {name: getattr(found, name).reshape(GOLDEN_ROWS, -1) for name in OUTPUT_NAMES}
    return GoldenBatch(
        reference_arm=reference,
        prompt_vectors=_rows(vectors),
        features=_rows(features),
        outputs={name: _rows(np.round(values.astype(np.float64), 6)) for name, values in outputs.items()},
        tolerance=GOLDEN_TOLERANCE,
    )


def _write_neighbours(folder: Path, beside: BesideHead) -> list[str]:
    """Write index and score table; returns their names."""
    beside.built.content.tofile(folder / INDEX_FILE)
    beside.scores.tofile(folder / SCORES_FILE)
    return [INDEX_FILE, SCORES_FILE]


def _rows(values: NDArray[np.floating]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in values)


def _arm_entries(fitted: FittedRouter, corpus: Corpus, provenance: Provenance) -> tuple[ArmEntry, ...]:
    part = corpus.rows(fitted.split["train"])
    train, lengths = part.matrix, mean_output_tokens(part)
    entries = []
    for index, arm in enumerate(train.arms):
        scores = train.score[:, index][np.isfinite(train.score[:, index])]
        entries.append(
            ArmEntry(
                name=arm,
                tier=provenance.tiers.get(arm),
                price_usd_per_million_input_tokens=float(corpus.prices[arm][0]),
                price_usd_per_million_output_tokens=float(corpus.prices[arm][1]),
                members=provenance.members.get(arm, (arm,)),
                prompts=int(scores.size),
                mean_score=round(float(scores.mean(dtype=np.float64)), 4) if scores.size else 0.0,
                mean_output_tokens=round(float(lengths[index]), 1),
            )
        )
    return tuple(entries)


def _calibration(estimator: RouterEstimator, arms: Sequence[str]) -> Calibration:
    found = estimator.calibration
    parameters = {
        arm: [round(float(value), 6) for value in values] for arm, values in zip(arms, found.values, strict=True)
    }
    fingerprint = hashlib.sha256(msgspec.json.encode([found.method, parameters], order="sorted")).hexdigest()
    method = _CALIBRATION[found.method] + _CALIBRATED_ON
    return Calibration(f"{found.method}-{fingerprint[:12]}", method, found.rows, parameters)


def _metrics(
    fitted: FittedRouter, held_out: EvaluationReport, left_out: Mapping[str, EvaluationReport]
) -> dict[str, list[float]]:
    """The numbers that a reader of a manifest looks for, as value, low, high; JSON has no word for undefined ones."""
    metrics: dict[str, list[float]] = {}
    found = fitted.out_of_fold
    for name, value in found.error.items():
        metrics[f"out_of_fold.{name}.squared_error"] = [value]
    for name, value in found.brier.items():
        metrics[f"out_of_fold.{name}.calibration_error"] = [found.calibration_error[name]]
        metrics[f"out_of_fold.{name}.brier"] = [value]
        metrics[f"out_of_fold.{name}.brier_constant"] = [found.brier_constant[name]]
    for name, report in {"held_out": held_out, **{f"without_{k}": v for k, v in left_out.items()}}.items():
        for point in report.points:
            for key in ("quality", "relative_cost", "share_of_best", "over_hull", "over_mixing"):
                measured = getattr(point, key)
                metrics[f"{name}.{point.name}.{key}"] = [measured.value, measured.low, measured.high]
            metrics[f"{name}.{point.name}.abstained_share"] = [point.abstained_share]
        gap = report.gap_recovered
        metrics[f"{name}.gap_recovered"] = [gap.value, gap.low, gap.high]
        for arm in report.arms:
            metrics[f"{name}.{arm.arm}.calibration_error"] = [arm.calibration_error]
    defined = {key: values for key, values in metrics.items() if np.isfinite(values).all()}
    return {key: [round(float(value), 6) for value in values] for key, values in defined.items()}
