"""From a fitted router to ``router.onnx``: the same arithmetic as standard ONNX operators.

Owns the whole graph and the parity check against `penstock_training.estimator.RouterEstimator`. Uses the standard
domains only. Read `build_graph`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.features import FEATURE_NAMES
from penstock_routers.manifest import INPUT_NAMES, NEIGHBOUR_INPUT_NAMES, OUTPUT_NAMES, TensorSpec
from penstock_routers.onnx_session import create_session
from penstock_training.errors import TrainingError
from penstock_training.estimator import ArmEstimates, RouterEstimator
from penstock_training.families.beside import BesideHead, beside_head
from penstock_training.families.head import GraphNames, Head, PromptInputs
from penstock_training.graph import GraphBuilder
from penstock_training.uncertainty import Uncertainty

PARITY_TOLERANCE: Final = 2e-5
TOKEN_TOLERANCE: Final = 2e-4  # relative: counts of hundreds of tokens have that many digits in float32
PARITY_SHARE: Final = 0.999
# A row counts as a tie when the estimator itself jumps under a change of its inputs that float32 cannot hold.
_NUDGE: Final = 1e-6
_NUDGES: Final = 32
_TIMED_RUNS: Final = 200


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Agreement of a graph with the Python estimator.

    Attributes
    ----------
    rows, agreeing : int
        Prompts compared, and those within tolerance in every output.
    tied : int
        Of the rest, those at a jump of the estimator (between two tree leaves, say) within float32 rounding.
    largest_difference : float
        Over everything but token counts, absolute.
    largest_token_difference : float
        Relative to 1 + tokens.
    """

    rows: int
    agreeing: int
    tied: int
    largest_difference: float
    largest_token_difference: float

    @property
    def passes(self) -> bool:
        """Whether enough rows agree and all others are ties."""
        return self.agreeing >= PARITY_SHARE * self.rows and self.agreeing + self.tied == self.rows


def input_specs(
    dimension: int, beside: BesideHead | None = None, *, feature_count: int = len(FEATURE_NAMES)
) -> tuple[TensorSpec, ...]:
    """Inputs of the graph, in order; two more with an index beside it."""
    vector, features, reference = INPUT_NAMES
    specs = (
        TensorSpec(vector, "float32", ("n", dimension)),
        TensorSpec(features, "float32", ("n", feature_count)),
        TensorSpec(reference, "int64", (1,)),
    )
    if beside is None:
        return specs
    similarity, score = NEIGHBOUR_INPUT_NAMES
    count = beside.built.neighbours
    return (
        *specs,
        TensorSpec(similarity, "float32", ("n", count)),
        TensorSpec(score, "uint8", ("n", count, beside.prior.size)),
    )


def output_specs(arms: int, categories: int) -> tuple[TensorSpec, ...]:
    """Outputs of the graph, in order."""
    wide = [TensorSpec(name, "float32", ("n", arms)) for name in OUTPUT_NAMES[:5]]
    return (*wide, TensorSpec("novelty", "float32", ("n",)), TensorSpec("category", "float32", ("n", categories)))


def build_graph(estimator: RouterEstimator) -> bytes:
    """Write an estimator as an ONNX graph.

    Parameters
    ----------
    estimator : RouterEstimator

    Returns
    -------
    bytes
        A serialised model, the same for the same estimator.
    """
    b = GraphBuilder()
    vector, features, reference = INPUT_NAMES
    names = GraphNames(vector, estimator.frame.scaler.add_nodes(b, features))
    novelty, factor, tokens, category = estimator.frame.add_nodes(b, names)
    quality = estimator.calibration.add_nodes(b, estimator.head.add_nodes(b, names))
    own = b.constant(estimator.uncertainty.own)
    b.output("quality", quality)
    b.output("quality_se", b.op("Sqrt", b.op("Mul", factor, own)))
    b.output("gain", b.op("Sub", quality, b.op("Gather", quality, reference, axis=1)))
    b.output("gain_se", _gain_se(b, estimator.uncertainty, factor, estimator.frame.counts.shape[1] > 1))
    b.output("output_tokens", tokens)
    b.output("novelty", novelty)
    b.output("category", category)
    categories = estimator.frame.categories.bias.size
    count = estimator.frame.scaler.mean.size
    inputs = input_specs(estimator.dimension, beside_head(estimator.head), feature_count=count)
    outputs = output_specs(estimator.arms, categories)
    return b.model("penstock_router", inputs, outputs)


def _gain_se(b: GraphBuilder, uncertainty: Uncertainty, factor: str, is_per_arm: bool) -> str:
    """``sqrt(max(h_a, h_r) · paired + (h_a + h_r) · unpaired)``."""
    reference = INPUT_NAMES[2]
    against = b.op("Gather", factor, reference, axis=1) if is_per_arm else factor
    paired = b.op("Gather", b.constant(uncertainty.paired), reference, axis=0)
    variance = b.op("Mul", b.op("Max", factor, against), paired)
    if bool((uncertainty.unpaired > 0.0).any()):
        unpaired = b.op("Gather", b.constant(uncertainty.unpaired), reference, axis=0)
        variance = b.op("Add", variance, b.op("Mul", b.op("Add", factor, against), unpaired))
    return b.op("Sqrt", variance)


def run_graph(
    graph: bytes,
    vectors: NDArray[np.floating],
    features: NDArray[np.floating],
    reference: int,
    beside: BesideHead | None = None,
) -> ArmEstimates:
    """Run a router graph on n prompts, as serving does, after a search of the index beside it where there is one.

    Returns
    -------
    ArmEstimates
        In float32.
    """
    session = create_session(graph, device="cpu", threads=1, allow_contrib_operators=False)
    feeds: dict[str, NDArray[Any]] = {
        "prompt_vector": np.ascontiguousarray(vectors, dtype=np.float32),
        "features": np.ascontiguousarray(features, dtype=np.float32),
        "reference_arm": np.array([reference], dtype=np.int64),
    }
    feeds |= _beside_feeds(beside, feeds["prompt_vector"])
    found = dict(zip(session.output_names, session.run(feeds), strict=True))
    return ArmEstimates(**{name: found[name] for name in OUTPUT_NAMES})


def time_head(head: Head, inputs: PromptInputs) -> float:
    """Measure how long a head takes for one prompt, when serving.

    Parameters
    ----------
    head : Head
    inputs : PromptInputs
        At least one prompt; the first is used.

    Returns
    -------
    float
        Microseconds, the median of `_TIMED_RUNS` runs on one thread, with the search of an index beside the graph;
        without the frame that all routers share.
    """
    b = GraphBuilder()
    names = GraphNames("prompt_vector", "form")
    b.output("quality", head.add_nodes(b, names))
    one = inputs.rows(np.zeros(1, dtype=np.int64))
    values = {names.vector: one.vectors.astype(np.float32), names.form: one.forms.astype(np.float32)}
    specs = [TensorSpec(name, "float32", ("n", value.shape[1])) for name, value in values.items()]
    beside = beside_head(head)
    specs += () if beside is None else input_specs(one.vectors.shape[1], beside)[len(INPUT_NAMES) :]
    arms = head.predict(one).shape[1]
    graph = b.model("penstock_head", specs, [TensorSpec("quality", "float32", ("n", arms))])
    session = create_session(graph, device="cpu", threads=1, allow_contrib_operators=False)
    seconds = []
    for _ in range(_TIMED_RUNS):
        started = time.perf_counter()
        session.run(values | _beside_feeds(beside, values[names.vector]))
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)) * 1e6


def _beside_feeds(beside: BesideHead | None, vectors: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """What the index beside a graph finds, as the graph's inputs name it; nothing without one."""
    return {} if beside is None else dict(zip(NEIGHBOUR_INPUT_NAMES, beside.look_up(vectors), strict=True))


def check_parity(
    estimator: RouterEstimator, graph: bytes, vectors: NDArray[np.float32], features: NDArray[np.float32]
) -> ParityReport:
    """Compare a graph with its estimator on held-out prompts, against several reference arms in turn.

    Parameters
    ----------
    estimator : RouterEstimator
    graph : bytes
    vectors : ndarray of float32, shape (n, d)
    features : ndarray of float32, shape (n, f)

    Returns
    -------
    ParityReport

    Raises
    ------
    TrainingError
        ``parity_failed``: fewer than `PARITY_SHARE` of the rows agree, or a row differs without being a tie.
    """
    agrees = np.ones(vectors.shape[0], dtype=bool)
    largest = largest_tokens = 0.0
    beside = beside_head(estimator.head)
    for reference in sorted({0, estimator.arms // 2, estimator.arms - 1}):
        expected = estimator.predict(vectors, features, reference)
        found = run_graph(graph, vectors, features, reference, beside)
        close, difference, token_difference = _compare(expected, found)
        agrees &= close
        largest, largest_tokens = max(largest, difference), max(largest_tokens, token_difference)
    odd = np.flatnonzero(~agrees)
    tied = int(_is_tied(estimator, vectors[odd], features[odd]).sum()) if odd.size else 0
    report = ParityReport(vectors.shape[0], int(agrees.sum()), tied, largest, largest_tokens)
    if not report.passes:
        raise TrainingError(f"the exported graph disagrees with the estimator: {report}", code="parity_failed")
    return report


def _compare(expected: ArmEstimates, found: ArmEstimates) -> tuple[NDArray[np.bool_], float, float]:
    """Which rows agree, and the largest differences of everything else and of tokens."""
    agrees = np.ones(expected.novelty.shape[0], dtype=bool)
    largest = largest_tokens = 0.0
    for name in OUTPUT_NAMES:
        wanted = getattr(expected, name).reshape(agrees.size, -1)
        difference = np.abs(getattr(found, name).reshape(wanted.shape) - wanted)
        if name == "output_tokens":
            difference = difference / (1.0 + wanted)
            largest_tokens = float(difference.max(initial=0.0))
        else:
            largest = max(largest, float(difference.max(initial=0.0)))
        tolerance = TOKEN_TOLERANCE if name == "output_tokens" else PARITY_TOLERANCE
        agrees &= (difference <= tolerance).all(axis=1)
    return agrees, largest, largest_tokens


def _is_tied(
    estimator: RouterEstimator, vectors: NDArray[np.float32], features: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Whether the estimator's quality jumps when its inputs move by less than float32 can tell."""
    random = np.random.default_rng(0)
    still = estimator.predict(vectors, features, 0).quality
    moved = np.zeros(vectors.shape[0])
    for _ in range(_NUDGES):
        nudged = vectors + _NUDGE * random.standard_normal(vectors.shape)
        found = estimator.predict(nudged, features * (1.0 + _NUDGE), 0).quality
        moved = np.maximum(moved, np.abs(found - still).max(axis=1))
    return np.asarray(moved > PARITY_TOLERANCE)
