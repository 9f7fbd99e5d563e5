"""The typed form of a router artifact's ``manifest.json``, its canonical bytes and its id.

Owns the schema and the hash; reads no folder and runs no graph (`penstock_routers.artifact` does). Everything
here is immutable. Read `Manifest` first, then `artifact_id`.
"""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise
from typing import Any, Final, Literal

import msgspec

from penstock_routers.errors import ArtifactError
from penstock_routers.neighbour_files import NeighbourFiles, neighbour_problems

SCHEMA_VERSION: Final = 1
GRAPH_FILE: Final = "router.onnx"
MANIFEST_FILE: Final = "manifest.json"
INPUT_NAMES: Final = ("prompt_vector", "features", "reference_arm")
NEIGHBOUR_INPUT_NAMES: Final = ("neighbour_similarity", "neighbour_score")  # of a graph with an index beside it
OUTPUT_NAMES: Final = ("quality", "quality_se", "gain", "gain_se", "output_tokens", "novelty", "category")
# Ten times what another processor's rounding makes of the golden batch; a manifest cannot switch its own check off.
MAX_GOLDEN_TOLERANCE: Final = 1e-2

RouterFamily = Literal[
    "knn", "cluster", "linear", "kernel", "mlp", "boosting", "factorisation", "irt", "constant", "ensemble"
]


class EncoderReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The encoder whose vectors the graph understands.

    Attributes
    ----------
    id : str
        Content fingerprint; must equal that of the serving encoder.
    name : str
        Its name without the fingerprint.
    dimension : int
        Length d of a prompt vector.
    window : dict
        How a text was cut before it was tokenised, as the encoder's own manifest states it.
    """

    id: str
    name: str
    dimension: int
    window: dict[str, Any]


class ArmEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One arm that the artifact estimates.

    Attributes
    ----------
    name : str
        Unique; a tier or a deployment's name.
    tier : str or None
        ``small``, ``medium``, ``large``, ``frontier``, or none.
    price_usd_per_million_input_tokens, price_usd_per_million_output_tokens : float
        Price reference under which the operating points were measured.
    members : tuple of str
        Models whose outcomes the arm's numbers come from.
    prompts : int
        Training prompts with an outcome of this arm.
    mean_score : float
        Mean over those prompts.
    mean_output_tokens : float
        Mean completion length over free-form outcomes, tokens.
    """

    name: str
    tier: str | None
    price_usd_per_million_input_tokens: float
    price_usd_per_million_output_tokens: float
    members: tuple[str, ...]
    prompts: int
    mean_score: float
    mean_output_tokens: float


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, element type and shape of a graph input or output; letters stand for free dimensions."""

    name: str
    type: Literal["float32", "int64", "uint8"]
    shape: tuple[str | int, ...]


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How raw scores became probabilities.

    Attributes
    ----------
    id : str
        Fingerprint of the parameters, quoted with every quality estimate.
    method : str
        In words.
    rows : int
        Held-out prompts that the parameters were fitted on.
    parameters : dict of str to list of float
        Per arm, as used inside the graph.
    """

    id: str
    method: str
    rows: int
    parameters: dict[str, list[float]]


class Guard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the router keeps the default arm.

    Attributes
    ----------
    z : float
        Standard errors by which a switch must pay.
    novelty_max : float
        A prompt with a larger novelty is not routed.
    novelty_quantile : float
        Share of held-out in-domain prompts at or below `novelty_max`.
    definition : str
        What novelty measures.
    """

    z: float
    novelty_max: float
    novelty_quantile: float
    definition: str


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Quality and cost of a setting on one split.

    Attributes
    ----------
    quality : float
        Mean score of the chosen arms, in [0, 1].
    quality_low, quality_high : float
        95 % interval, bootstrap over question groups.
    relative_cost : float
        Mean cost divided by that of always using the reference arm.
    share_of_best : float
        `quality` divided by the best single arm's on the same prompts.
    prompts : int
    """

    quality: float
    quality_low: float
    quality_high: float
    relative_cost: float
    share_of_best: float
    prompts: int


class OperatingPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named setting of the knob with what it yields.

    Attributes
    ----------
    name : str
        ``cost``, ``balanced`` or ``quality``.
    cost_weight : float or None
        λ of the utility; none stands for infinity (always the cheapest).
    guard_z : float
    validation, test : Measured
        Chosen on the first, reported on the second.
    """

    name: str
    cost_weight: float | None
    guard_z: float
    validation: Measured
    test: Measured


class FrontierPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One point of the measured cost-quality frontier on validation data.

    Attributes
    ----------
    position : float
        Number on the knob, 0 = cheapest, 1 = best; strictly increasing along the frontier.
    cost_weight : float or None
        λ; none stands for infinity.
    quality, relative_cost : float
        As in `Measured`.
    """

    position: float
    cost_weight: float | None
    quality: float
    relative_cost: float


class SourceEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One outcome set that was used, with its licence as its publisher states it."""

    name: str
    licence: str
    prompts: int
    outcomes: int


class TrainingData(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was fitted on; `digest` is the SHA-256 of the outcome table's content."""

    digest: str
    prompts: int
    outcomes: int
    sources: tuple[SourceEntry, ...]
    notes: tuple[str, ...]


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How prompts were divided; groups of one normalised question never cross.

    Attributes
    ----------
    method : str
    seed : int
    fractions : dict of str to float
        Shares asked for, per part; with the seed and the same prompts they give the same parts again.
    prompts : dict of str to int
        Prompts that each part got.
    """

    method: str
    seed: int
    fractions: dict[str, float]
    prompts: dict[str, int]


class GoldenBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A few inputs with the outputs the graph must give, so that a broken runtime is noticed at load.

    Attributes
    ----------
    reference_arm : int
    prompt_vectors : tuple of tuple of float, shape (n, d)
    features : tuple of tuple of float, shape (n, f)
    outputs : dict of str to nested tuple of float
    tolerance : float
        Largest absolute difference allowed; for token counts relative to 1 + the expected count.
    """

    reference_arm: int
    prompt_vectors: tuple[tuple[float, ...], ...]
    features: tuple[tuple[float, ...], ...]
    outputs: dict[str, tuple[tuple[float, ...], ...]]
    tolerance: float


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything about an artifact except the numbers inside its graph.

    Attributes
    ----------
    id : str
        ``sha256:`` and 64 hexadecimal digits, see `artifact_id`.
    schema_version : int
    family : str
        How quality is estimated; the graph's inputs and outputs are the same for all.
    encoder : EncoderReference
    feature_names : tuple of str, length f
    arms : tuple of str, length m
        Names, in the order of the graph's columns.
    arm_entries : tuple of ArmEntry, length m
        In the same order.
    reference_arm : str
        The default arm that the operating points were measured with.
    reference_input_tokens, reference_output_tokens : float
        A typical request; its cost on the dearest arm in the user's prices is the cost scale.
    inputs, outputs : tuple of TensorSpec
    categories : tuple of str, length c
        The last one is ``general``.
    category_probability_min : float
        Below this the category is ``general``.
    calibration : Calibration
    guard : Guard
    operating_points : tuple of OperatingPoint
    frontier : tuple of FrontierPoint
        Ordered by position, from 0 to 1.
    hyperparameters : dict of str to float
    training : TrainingData
    split : Split
    metrics : dict of str to list of float
        Name to value, or to value, low and high end of its 95 % interval; without what is undefined (a share of a
        quality of 0).
    versions : dict of str to str
        Libraries that made the artifact.
    parent : str or None
        Id of the artifact this one was grown from.
    graph_sha256 : str
    graph_bytes : int
    golden : GoldenBatch
    neighbours : NeighbourFiles or None
        The index beside the graph. An artifact without one has no such field, so its bytes and its id are those of
        releases that did not know of it.
    """

    id: str
    schema_version: int
    family: RouterFamily
    encoder: EncoderReference
    feature_names: tuple[str, ...]
    arms: tuple[str, ...]
    arm_entries: tuple[ArmEntry, ...]
    reference_arm: str
    reference_input_tokens: float
    reference_output_tokens: float
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    categories: tuple[str, ...]
    category_probability_min: float
    calibration: Calibration
    guard: Guard
    operating_points: tuple[OperatingPoint, ...]
    frontier: tuple[FrontierPoint, ...]
    hyperparameters: dict[str, float]
    training: TrainingData
    split: Split
    metrics: dict[str, list[float]]
    versions: dict[str, str]
    parent: str | None
    graph_sha256: str
    graph_bytes: int
    golden: GoldenBatch
    neighbours: NeighbourFiles | None = None


def input_names(manifest: Manifest) -> tuple[str, ...]:
    """Inputs of the graph, in order: three, and two more with an index beside it."""
    return INPUT_NAMES if manifest.neighbours is None else INPUT_NAMES + NEIGHBOUR_INPUT_NAMES


def canonical_bytes(manifest: Manifest) -> bytes:
    """Return the bytes that the id is computed over: sorted keys, no spaces, without ``id`` itself."""
    fields: dict[str, Any] = msgspec.to_builtins(manifest)
    del fields["id"]
    return msgspec.json.encode(fields, order="sorted")


def artifact_id(manifest: Manifest, graph: bytes) -> str:
    """Compute the content id.

    Parameters
    ----------
    manifest : Manifest
        Its own ``id`` is ignored.
    graph : bytes
        Content of ``router.onnx``.

    Returns
    -------
    str
        ``sha256:`` and the hexadecimal SHA-256 over the canonical manifest followed by the SHA-256 of the
        graph. An index beside the graph enters by its hashes in the manifest. Card, plots and dates are not part of it.
    """
    digest = hashlib.sha256(canonical_bytes(manifest))
    digest.update(hashlib.sha256(graph).digest())
    return f"sha256:{digest.hexdigest()}"


def encode_manifest(manifest: Manifest) -> bytes:
    """Return ``manifest.json`` as people can read it: sorted, indented, ending in a line feed."""
    compact = msgspec.json.encode(msgspec.to_builtins(manifest), order="sorted")
    return msgspec.json.format(compact, indent=1) + b"\n"


def decode_manifest(raw: bytes) -> Manifest:
    """Read ``manifest.json``.

    Parameters
    ----------
    raw : bytes

    Returns
    -------
    Manifest

    Raises
    ------
    ArtifactError
        ``artifact_schema``: not JSON, of another schema version, with missing, unknown or ill-typed fields,
        or with parts that contradict each other.
    """
    try:
        version = msgspec.json.decode(raw, type=_VersionOnly).schema_version
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"manifest has schema version {version}; this release reads {SCHEMA_VERSION}", code="artifact_schema"
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"manifest.json is not valid: {error}", code="artifact_schema") from error
    _check_consistency(manifest)
    return manifest


class _VersionOnly(msgspec.Struct):
    """Enough of a manifest to tell an old one from a broken one."""

    schema_version: int


def _check_consistency(manifest: Manifest) -> None:
    """Refuse a manifest whose parts contradict each other."""
    names, golden, guard = list(manifest.arms), manifest.golden, manifest.guard
    prices = [
        price
        for entry in manifest.arm_entries
        for price in (entry.price_usd_per_million_input_tokens, entry.price_usd_per_million_output_tokens)
    ]
    checks = {
        "arm names must be unique and at least one": bool(names) and len(set(names)) == len(names),
        "arm_entries do not follow arms": [entry.name for entry in manifest.arm_entries] == names,
        "prices must not be negative": min(prices, default=0.0) >= 0.0,
        "reference_arm is not an arm": manifest.reference_arm in names,
        "categories must end in general": manifest.categories[-1:] == ("general",),
        "reference token counts must be positive": manifest.reference_input_tokens > 0
        and manifest.reference_output_tokens > 0,
        "operating points must be cost, balanced and quality, with weights and guards >= 0": sorted(
            point.name for point in manifest.operating_points if (point.cost_weight or 0.0) >= 0 and point.guard_z >= 0
        )
        == ["balanced", "cost", "quality"],
        "guard settings must lie between 0 and 100": 0.0 <= guard.z < 100.0 and 0.0 <= guard.novelty_max < 100.0,
        "the golden batch needs an arm and a tolerance up to 0.01": 0 <= golden.reference_arm < len(names)
        and 0.0 < golden.tolerance <= MAX_GOLDEN_TOLERANCE,
        "tensors must be those of a router, each with a shape": _has_names(manifest.inputs, input_names(manifest))
        and _has_names(manifest.outputs, OUTPUT_NAMES),
    } | _frontier_checks(manifest.frontier)
    problems = [sentence for sentence, is_good in checks.items() if not is_good]
    if manifest.neighbours is not None:
        problems += neighbour_problems(manifest.neighbours, manifest.encoder.dimension, len(names))
    if problems:
        raise ArtifactError(f"manifest.json: {problems[0]}", code="artifact_schema")


def _frontier_checks(frontier: tuple[FrontierPoint, ...]) -> dict[str, bool]:
    positions = [point.position for point in frontier]
    weights = [math.inf if point.cost_weight is None else point.cost_weight for point in frontier]
    return {
        "frontier must run from 0 to 1 in rising order": len(positions) >= 2
        and (positions[0], positions[-1]) == (0.0, 1.0)
        and all(a < b for a, b in pairwise(positions)),
        "cost weights must not rise along the frontier": min(weights, default=0.0) >= 0
        and all(a >= b for a, b in pairwise(weights)),
    }


def _has_names(specs: tuple[TensorSpec, ...], names: tuple[str, ...]) -> bool:
    return tuple(spec.name for spec in specs) == names and all(spec.shape for spec in specs)
