"""Router artifacts: a folder with a manifest and a graph, verified before it may decide anything.

Owns loading, verification, estimation and the meaning of the trade-off knob for one artifact. It must not know HTTP,
prices of deployments or policies. A refused artifact raises `ArtifactError` with a stable code and leaves
nothing behind. Read `RouterArtifact.load`, then `RouterArtifact.estimate`.

Codes: ``artifact_missing``, ``artifact_oversize``, ``artifact_schema``, ``artifact_corrupt``,
``artifact_encoder_mismatch``, ``artifact_feature_mismatch``, ``artifact_graph_mismatch``, ``artifact_golden_mismatch``,
``artifact_unknown_arm``, ``artifact_not_finite``, those of `penstock_routers.onnx_session.create_session` for an
unsafe graph, and those of `penstock_routers.neighbour_index` for an index beside the graph.
"""

from __future__ import annotations

import hashlib
import math
from copy import copy
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.errors import ArtifactError
from penstock_routers.estimates import Columns, Estimate, PromptGraph
from penstock_routers.features import (
    CONTEXT_FEATURE_NAMES,
    FEATURE_NAMES,
    NO_CONTEXT,
    PromptContext,
    context_features,
)
from penstock_routers.manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    NEIGHBOUR_INPUT_NAMES,
    OUTPUT_NAMES,
    FrontierPoint,
    Manifest,
    artifact_id,
    decode_manifest,
    input_names,
)
from penstock_routers.model_files import read_model_file
from penstock_routers.neighbour_index import IndexDevice, Neighbours
from penstock_routers.onnx_session import OnnxSession, create_session
from penstock_routers.onnx_wire import Damaged
from penstock_routers.policy import Tradeoff
from penstock_routers.serving_graph import ROWS_OUTPUT, serving_graph

FloatArray = NDArray[np.float32]

MAX_ARTIFACT_BYTES: Final = 64 << 20  # 30 times the default artifact; a larger one is a mistake or an attack
MAX_MANIFEST_BYTES: Final = 4 << 20
_GENERAL: Final = "general"


class RouterArtifact:
    """A verified router; immutable after loading and safe to use from several threads.

    Attributes
    ----------
    id : str
        ``sha256:`` and 64 hexadecimal digits.
    short_id : str
        The first 12 of them, for people.
    manifest : Manifest
    neighbours : Neighbours or None
        The index beside the graph, where it has one.
    graph : bytes
        Content of ``router.onnx``; empty once it has been joined.
    reads_context : bool
        Whether it was fitted on what stands around prompts, too.
    fused : PromptGraph or None
        The graph joined with that of an encoder, see `penstock_routers.fused.fused_with`.
    """

    def __init__(
        self, manifest: Manifest, session: OnnxSession, neighbours: Neighbours | None = None, graph: bytes = b""
    ) -> None:
        self.id = manifest.id
        self.short_id = manifest.id.removeprefix("sha256:")[:12]
        self.manifest = manifest
        self.neighbours = neighbours
        self.graph = graph
        self.reads_context = len(manifest.feature_names) > len(FEATURE_NAMES)
        self.fused: PromptGraph | None = None
        self._session = session
        self._reference = {name: np.array([index], dtype=np.int64) for index, name in enumerate(manifest.arms)}
        self._columns = Columns(manifest.arms, manifest.categories)
        self._needed = self._columns.needed
        self._points = {
            point.name: Tradeoff(point.name, _weight(point.cost_weight), point.guard_z)
            for point in manifest.operating_points
        }

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        encoder_id: str | None,
        threads: int = 1,
        index_device: IndexDevice = "cpu",
        expected_id: str | None = None,
    ) -> RouterArtifact:
        """Open an artifact folder after checking everything that can be checked.

        Parameters
        ----------
        folder : Path
            Holds ``manifest.json`` and ``router.onnx``, and the files of `penstock_routers.neighbour_files` when the
            manifest names them; other files are ignored.
        encoder_id : str or None
            Fingerprint of the encoder that will make the prompt vectors; None skips that check (for reading a
            manifest without serving).
        threads : int
            CPU threads of one run; >= 1.
        index_device : {"cpu", "auto"}
            Where an index beside the graph is searched; ``auto`` takes a GPU when there is one and it finds what the
            CPU finds.
        expected_id : str, optional
            Id that the content must have before anything of the graph is parsed.

        Returns
        -------
        RouterArtifact

        Raises
        ------
        ArtifactError
            With one of the codes in the module's docstring.
        MissingExtraError
            ONNX Runtime is not installed, or the artifact has an index and faiss is not.
        """
        manifest = decode_manifest(_read(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES))
        graph = _read(folder / GRAPH_FILE, MAX_ARTIFACT_BYTES)
        _check_hashes(manifest, graph)
        if expected_id is not None and manifest.id != expected_id:
            raise ArtifactError("the artifact is another one than was looked at", code="artifact_corrupt")
        _check_compatibility(manifest, encoder_id)
        session = create_session(
            _served(graph), device="cpu", threads=threads, allow_contrib_operators=False, max_bytes=MAX_ARTIFACT_BYTES
        )
        if set(session.input_names) != set(input_names(manifest)) or session.output_names != (ROWS_OUTPUT,):
            raise ArtifactError(
                "the graph's inputs or outputs are not those of a router", code="artifact_graph_mismatch"
            )
        neighbours = None if manifest.neighbours is None else Neighbours.open(folder, manifest.neighbours)
        _check_golden(manifest, session, neighbours)
        if neighbours is not None and index_device == "auto":
            neighbours.index.move_to_gpu()
        return cls(manifest, session, neighbours, graph)

    def with_fused(self, fused: PromptGraph) -> RouterArtifact:
        """Return the same artifact with a joined graph beside its own."""
        other = copy(self)
        other.fused, other.graph = fused, b""  # up to 64 MB that nothing asks for any more
        return other

    def reference(self, arm: str) -> NDArray[np.int64]:
        """Return the graph's input for the arm that gains are measured against.

        Raises
        ------
        ArtifactError
            ``artifact_unknown_arm``.
        """
        found = self._reference.get(arm)
        if found is None:
            raise ArtifactError(f"the artifact has no arm {arm[:80]!r}", code="artifact_unknown_arm")
        return found

    def full_features(self, features: FloatArray, context: PromptContext = NO_CONTEXT) -> FloatArray:
        """Return a prompt's features with those of its context, where this artifact knows them and they are missing."""
        is_short = self.reads_context and features.size == len(FEATURE_NAMES)
        return np.concatenate((features, context_features(context))) if is_short else features

    def estimate(
        self,
        prompt_vector: FloatArray,
        features: FloatArray,
        *,
        reference_arm: str,
        context: PromptContext = NO_CONTEXT,
    ) -> Estimate:
        """Score one prompt on every arm; blocks for well under a millisecond.

        Parameters
        ----------
        prompt_vector : ndarray of float32, shape (d,)
            From the artifact's encoder.
        features : ndarray of float32, shape (f,)
            From `penstock_routers.features.prompt_features`.
        reference_arm : str
            The arm that gains are measured against: the default arm of the deployment.
        context : PromptContext
            What stands around the prompt.

        Returns
        -------
        Estimate

        Raises
        ------
        ArtifactError
            ``artifact_unknown_arm``: the artifact has no such arm; ``onnx_run_failed``: the graph failed, for example
            on a vector of another length; ``neighbour_search_failed``: the index beside it did;
            ``artifact_not_finite``: it gave numbers that nothing can be decided by.

        Notes
        -----
        One run of the graph, O(p · (d + 12 m)) for p prototypes; no loop over arms. With an index beside the graph, one
        search of it before.
        """
        feeds: dict[str, NDArray[Any]] = {
            "prompt_vector": prompt_vector.reshape(1, -1),
            "features": self.full_features(features, context).reshape(1, -1),
            "reference_arm": self.reference(reference_arm),
        }
        if self.neighbours is not None:
            feeds |= neighbour_feeds(self.neighbours, feeds["prompt_vector"])
        return self.estimate_of(self._session.run(feeds)[0][0], reference_arm)

    def estimate_of(self, row: FloatArray, reference_arm: str) -> Estimate:
        """Read what the graph gave for a prompt.

        Parameters
        ----------
        row : ndarray of float32, shape (w,)
            See `penstock_routers.estimates.Columns`. More columns may follow, which must be finite. It is kept.
        reference_arm : str

        Returns
        -------
        Estimate

        Raises
        ------
        ArtifactError
            ``artifact_not_finite``.
        """
        numbers: list[float] = row.tolist()
        width = self._columns.width
        if not math.isfinite(sum(numbers[: self._needed]) + sum(numbers[width:])):
            raise ArtifactError("the graph gave numbers that are not finite", code="artifact_not_finite")
        manifest, columns = self.manifest, self._columns
        place = 5 * len(columns.arms)
        shares = numbers[place + 1 : width]
        largest = max(shares)
        is_sure = largest >= manifest.category_probability_min
        category = columns.categories[shares.index(largest)] if is_sure else _GENERAL
        return Estimate(columns, reference_arm, row[:width], numbers[place], category)

    def is_novel(self, estimate: Estimate) -> bool:
        """Whether the prompt lies beyond what the artifact may decide about."""
        return not estimate.novelty <= self.manifest.guard.novelty_max  # NaN counts as novel

    def cost_scale_usd(
        self, price_usd_per_million_input_tokens: float, price_usd_per_million_output_tokens: float
    ) -> float:
        """Cost in USD of the artifact's typical request at given prices, the unit of the utility's λ.

        Parameters
        ----------
        price_usd_per_million_input_tokens, price_usd_per_million_output_tokens : float
            Prices of the dearest routable deployment.

        Returns
        -------
        float
            > 0 unless both prices are 0.
        """
        return (
            self.manifest.reference_input_tokens * price_usd_per_million_input_tokens
            + self.manifest.reference_output_tokens * price_usd_per_million_output_tokens
        ) / 1e6

    def tradeoff(self, value: str | float) -> Tradeoff:
        """Translate a knob setting into the policy's terms.

        Parameters
        ----------
        value : str or float
            ``"cost"``, ``"balanced"``, ``"quality"``, or a number in [0, 1], 0 = cheapest, 1 = best; the number may be
            given as text.

        Returns
        -------
        Tradeoff
            Its name is `value` as text.

        Raises
        ------
        ValueError
            Anything else.

        Notes
        -----
        A number is a position on the measured frontier: 0.7 asks for 70 % of the way from the cheapest arm's quality
        to the best that routing reached on validation data. λ is interpolated between the measured points,
        geometrically inside, as λ₁·x₁/x before the first and linearly to 0 after the last; so it never rises with the
        number, λ(0) = ∞ and λ(1) = 0.
        """
        if isinstance(value, str) and value in self._points:
            return self._points[value]
        try:
            position = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            position = math.nan
        if not 0.0 <= position <= 1.0:
            raise ValueError("a trade-off is 'cost', 'balanced', 'quality' or a number from 0 to 1")
        weight = interpolate_cost_weight(self.manifest.frontier, position)
        return Tradeoff(str(value), weight, self.manifest.guard.z)


def neighbour_feeds(neighbours: Neighbours, vectors: FloatArray) -> dict[str, NDArray[Any]]:
    """Search the index for n prompt vectors (n, d) and name what was found as the graph's inputs do."""
    return dict(zip(NEIGHBOUR_INPUT_NAMES, neighbours.look_up(vectors), strict=True))


def interpolate_cost_weight(frontier: tuple[FrontierPoint, ...], position: float) -> float:
    """Find λ at a position of the knob; see `RouterArtifact.tradeoff`.

    Parameters
    ----------
    frontier : tuple of FrontierPoint
        From position 0 to position 1, λ not rising.
    position : float, in [0, 1]

    Returns
    -------
    float
        λ >= 0, ``inf`` at position 0.
    """
    if position <= 0.0:
        return math.inf
    if position >= 1.0:
        return 0.0
    upper = next(i for i, point in enumerate(frontier) if point.position >= position)
    left, right = frontier[upper - 1], frontier[upper]
    low, high = _weight(right.cost_weight), _weight(left.cost_weight)
    share = (position - left.position) / (right.position - left.position)
    if math.isinf(high):  # then left is the cheapest point, at position 0
        return low / share if low > 0.0 else 0.0
    if low <= 0.0:
        return high * (1.0 - share)
    return float(high ** (1.0 - share) * low**share)


def _weight(cost_weight: float | None) -> float:
    return math.inf if cost_weight is None else cost_weight


def _read(path: Path, max_bytes: int) -> bytes:
    return read_model_file(
        path, max_bytes, error=ArtifactError, missing_code="artifact_missing", too_large_code="artifact_oversize"
    )


def _check_hashes(manifest: Manifest, graph: bytes) -> None:
    if len(graph) != manifest.graph_bytes or hashlib.sha256(graph).hexdigest() != manifest.graph_sha256:
        raise ArtifactError("router.onnx is not the file that the manifest names", code="artifact_corrupt")
    if artifact_id(manifest, graph) != manifest.id:
        raise ArtifactError("the artifact's content does not match its id", code="artifact_corrupt")


def _served(graph: bytes) -> bytes:
    """The graph as it is run; what is no ONNX file is left for the runtime's check to refuse."""
    try:
        return serving_graph(graph)
    except Damaged:
        return graph


def _check_compatibility(manifest: Manifest, encoder_id: str | None) -> None:
    if encoder_id is not None and manifest.encoder.id != encoder_id:
        raise ArtifactError(
            f"the artifact was fitted with encoder {manifest.encoder.id}, this process uses {encoder_id}",
            code="artifact_encoder_mismatch",
        )
    if manifest.feature_names not in (FEATURE_NAMES, FEATURE_NAMES + CONTEXT_FEATURE_NAMES):
        raise ArtifactError(
            "the artifact was fitted with other prompt features than this release computes",
            code="artifact_feature_mismatch",
        )
    arms, categories = len(manifest.arms), len(manifest.categories)
    widths = {"quality": arms, "gain": arms, "category": categories, "prompt_vector": manifest.encoder.dimension}
    if manifest.neighbours is not None:
        widths |= {"neighbour_similarity": manifest.neighbours.neighbours, "neighbour_score": arms}
    for spec in manifest.inputs + manifest.outputs:
        if spec.shape[-1] != widths.get(spec.name, spec.shape[-1]):
            raise ArtifactError("the manifest's tensors do not fit its arms or categories", code="artifact_schema")


def _check_golden(manifest: Manifest, session: OnnxSession, neighbours: Neighbours | None) -> None:
    """Run the golden batch and compare; a broken runtime or processor shows here and not in decisions."""
    golden = manifest.golden
    try:
        expected = {name: np.asarray(golden.outputs[name], dtype=np.float64) for name in OUTPUT_NAMES}
        vectors, features = (np.asarray(rows, dtype=np.float32) for rows in (golden.prompt_vectors, golden.features))
    except (KeyError, ValueError) as error:  # an output is missing, or rows differ in length
        raise ArtifactError("the golden batch is incomplete", code="artifact_schema") from error
    if vectors.ndim != 2 or not vectors.any(axis=1).all() or not vectors.size:
        raise ArtifactError("the golden batch has no prompt, or an empty one", code="artifact_schema")
    feeds: dict[str, NDArray[Any]] = {
        "prompt_vector": vectors,
        "features": features,
        "reference_arm": np.array([golden.reference_arm], dtype=np.int64),
    }
    if neighbours is not None:
        feeds |= neighbour_feeds(neighbours, vectors)
    columns = Columns(manifest.arms, manifest.categories)
    rows = session.run(feeds)[0]
    if rows.shape != (vectors.shape[0], columns.width):
        raise ArtifactError("the graph gives estimates in another shape", code="artifact_graph_mismatch")
    for name, wanted in expected.items():
        span = columns.span(name)
        if wanted.shape != (vectors.shape[0], span.stop - span.start):
            raise ArtifactError(f"the golden batch has ill-shaped {name}", code="artifact_schema")
        difference = np.abs(rows[:, span].astype(np.float64) - wanted)
        scale = 1.0 + np.abs(wanted) if name == "output_tokens" else 1.0
        if not bool((difference <= golden.tolerance * scale).all()):
            raise ArtifactError(
                f"the golden batch gives other {name} here than where the artifact was made",
                code="artifact_golden_mismatch",
            )
