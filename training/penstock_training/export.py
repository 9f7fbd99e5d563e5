"""From a fitted estimator to ``router.onnx``: the same arithmetic as standard ONNX operators.

Owns the graph and the parity check against `penstock_training.knn.KnnEstimator`. Uses the ``ai.onnx`` domain only. Read
`build_graph` first; its steps carry the names used in `KnnEstimator.predict`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.features import FEATURE_NAMES
from penstock_routers.manifest import INPUT_NAMES, OUTPUT_NAMES, TensorSpec
from penstock_routers.onnx_session import create_session
from penstock_training.errors import TrainingError
from penstock_training.knn import FEATURE_CLIP, QUALITY_BOUND, KnnEstimates, KnnEstimator, gain_slopes

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

OPSET: Final = 17  # 2022; every ONNX Runtime since 1.12 reads it
IR_VERSION: Final = 8
PARITY_TOLERANCE: Final = 1e-5
TOKEN_TOLERANCE: Final = 1e-4  # relative: counts of hundreds of tokens have that many digits in float32
PARITY_SHARE: Final = 0.999


@dataclass(frozen=True, slots=True)
class ParityReport:
    """Agreement of a graph with the Python estimator.

    Attributes
    ----------
    rows, agreeing : int
        Prompts compared, and those within tolerance in every output.
    tied : int
        Of the rest, those whose two best prototypes are equally near within float32 rounding.
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


def input_specs(dimension: int) -> tuple[TensorSpec, ...]:
    """Inputs of the graph, in order."""
    vector, features, reference = INPUT_NAMES
    return (
        TensorSpec(vector, "float32", ("n", dimension)),
        TensorSpec(features, "float32", ("n", len(FEATURE_NAMES))),
        TensorSpec(reference, "int64", (1,)),
    )


def output_specs(arms: int, categories: int) -> tuple[TensorSpec, ...]:
    """Outputs of the graph, in order."""
    wide = [TensorSpec(name, "float32", ("n", arms)) for name in OUTPUT_NAMES[:5]]
    return (*wide, TensorSpec("novelty", "float32", ("n",)), TensorSpec("category", "float32", ("n", categories)))


class _GraphBuilder:
    """Collects nodes and constants, naming results by the caller."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        array = np.ascontiguousarray(np.asarray(value, dtype=dtype))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def columns(self, source: str, names: list[tuple[str, int]]) -> list[str]:
        """Split the second axis into named parts of given widths."""
        from onnx import helper

        sizes = self.constant(f"{source}_widths", [width for _, width in names], np.int64)
        outputs = [name for name, _ in names]
        self.nodes.append(helper.make_node("Split", [source, sizes], outputs, name=f"{source}_split", axis=1))
        return outputs


def build_graph(estimator: KnnEstimator) -> bytes:
    """Write an estimator as an ONNX graph.

    Parameters
    ----------
    estimator : KnnEstimator

    Returns
    -------
    bytes
        A serialised model, the same for the same estimator.
    """
    from onnx import TensorProto, checker, helper

    builder = _GraphBuilder()
    arms, size = estimator.table.score.count.shape
    categories = estimator.table.category.shape[0]
    _add_kernel(builder, estimator)
    _add_first_order(builder, estimator)
    _add_quality(builder, estimator)
    _add_tokens_and_category(builder, estimator)
    _add_quality_se(builder, estimator)
    _add_gain(builder, estimator, size)
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    dimension = estimator.prototypes.centroids.shape[1]
    declared = [
        [helper.make_tensor_value_info(spec.name, types[spec.type], list(spec.shape)) for spec in specs]
        for specs in (input_specs(dimension), output_specs(arms, categories))
    ]
    graph = helper.make_graph(builder.nodes, "penstock_knn_router", *declared, initializer=builder.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="penstock")
    model.ir_version = IR_VERSION
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _add_kernel(b: _GraphBuilder, estimator: KnnEstimator) -> None:
    """Similarity to every prototype, kernel weights and their squares, novelty."""
    places, settings = estimator.prototypes, estimator.settings
    b.constant("feature_mean", places.feature_mean)
    b.constant("feature_factor", 1.0 / places.feature_scale)
    b.constant("clip_low", -FEATURE_CLIP)
    b.constant("clip_high", FEATURE_CLIP)
    b.add("Sub", ["features", "feature_mean"], "centered")
    b.add("Mul", ["centered", "feature_factor"], "unclipped")
    b.add("Clip", ["unclipped", "clip_low", "clip_high"], "scaled")
    b.constant("centroids", places.centroids.T)
    b.constant("feature_centroids", places.feature_centroids.T)
    b.constant("feature_offset", -0.5 * np.square(places.feature_centroids).sum(axis=1))
    b.add("MatMul", ["prompt_vector", "centroids"], "cosine")
    b.add("Gemm", ["scaled", "feature_centroids", "feature_offset"], "form")
    b.constant("feature_weight", settings.feature_weight)
    b.add("Mul", ["form", "feature_weight"], "form_in_kernel")
    b.add("Add", ["cosine", "form_in_kernel"], "similarity")
    b.add("ReduceMax", ["similarity"], "best", axes=[1], keepdims=1)
    b.add("Sub", ["similarity", "best"], "behind_best")
    b.constant("inverse_bandwidth", 1.0 / settings.bandwidth)
    b.add("Mul", ["behind_best", "inverse_bandwidth"], "log_weight")
    b.add("Exp", ["log_weight"], "weight")
    b.add("Mul", ["weight", "weight"], "weight_squared")
    b.constant("one", 1.0)
    _add_novelty(b, settings.novelty_weight)


def _add_novelty(b: _GraphBuilder, weight: float) -> None:
    """1 - max over prototypes of (cosine + γ·form) + γ/2·|z|²."""
    b.constant("novelty_weight", weight)
    b.constant("half_novelty_weight", 0.5 * weight)
    b.add("Mul", ["form", "novelty_weight"], "form_in_novelty")
    b.add("Add", ["cosine", "form_in_novelty"], "nearness_all")
    b.add("ReduceMax", ["nearness_all"], "nearness", axes=[1], keepdims=1)
    b.add("ReduceSumSquare", ["scaled"], "feature_norm", axes=[1], keepdims=1)
    b.add("Mul", ["feature_norm", "half_novelty_weight"], "feature_penalty")
    b.add("Sub", ["feature_penalty", "nearness"], "negative_nearness")
    b.add("Add", ["negative_nearness", "one"], "novelty_column")
    b.constant("second_axis", [1], np.int64)
    b.add("Squeeze", ["novelty_column", "second_axis"], "novelty")


def _add_first_order(b: _GraphBuilder, estimator: KnnEstimator) -> None:
    """All sums of w·n and w·n·x̄ that do not depend on the reference arm, in one product."""
    table, anchor = estimator.table, estimator.calibration.anchor
    parts = [
        ("anchor_mass", table.score.count[[anchor]]),
        ("anchor_total", table.score.total[[anchor]]),
        ("anchored_mass", table.pair.count[:, anchor]),
        ("anchored_total", table.pair.total[:, anchor]),
        ("token_mass", table.token_count),
        ("token_total", table.token_total),
        ("score_mass", table.score.count),
        ("score_total", table.score.total),
        ("category_mass", table.category),
    ]
    b.constant("first_order_table", np.concatenate([rows for _, rows in parts]).T)
    b.add("MatMul", ["weight", "first_order_table"], "first_order")
    b.columns("first_order", [(name, rows.shape[0]) for name, rows in parts])


def _add_shrunken(b: _GraphBuilder, name: str, mass: str, total: str, strength: float, prior: Any) -> str:
    """(total + κ·prior) / (mass + κ); leaves ``{name}_mass`` behind."""
    b.constant(f"{name}_strength", strength)
    b.constant(f"{name}_prior", strength * np.asarray(prior))
    b.add("Add", [mass, f"{name}_strength"], f"{name}_mass")
    b.add("Add", [total, f"{name}_prior"], f"{name}_total")
    return b.add("Div", [f"{name}_total", f"{name}_mass"], f"{name}_mean")


def _add_quality(b: _GraphBuilder, estimator: KnnEstimator) -> None:
    """Calibrated quality: σ(α + β·logit of the anchor's mean) + c + b·gain over the anchor."""
    calibration, settings, priors = estimator.calibration, estimator.settings, estimator.priors
    anchor = calibration.anchor
    strength = settings.quality_strength
    _add_shrunken(b, "anchor_raw", "anchor_mass", "anchor_total", strength, priors.quality[[anchor]])
    gain = _add_shrunken(
        b, "anchored_raw", "anchored_mass", "anchored_total", settings.gain_strength, priors.gain[:, anchor]
    )
    b.constant("quality_low", QUALITY_BOUND)
    b.constant("quality_high", 1.0 - QUALITY_BOUND)
    b.add("Clip", ["anchor_raw_mean", "quality_low", "quality_high"], "anchor_bounded")
    b.add("Sub", ["one", "anchor_bounded"], "anchor_failure")
    b.add("Div", ["anchor_bounded", "anchor_failure"], "anchor_odds")
    b.add("Log", ["anchor_odds"], "anchor_logit")
    b.constant("anchor_slope", calibration.anchor_slope)
    b.constant("anchor_intercept", calibration.anchor_intercept)
    b.add("Mul", ["anchor_logit", "anchor_slope"], "anchor_sloped")
    b.add("Add", ["anchor_sloped", "anchor_intercept"], "anchor_calibrated_logit")
    b.add("Sigmoid", ["anchor_calibrated_logit"], "anchor_quality")
    b.constant("gain_slope", calibration.gain_slope)
    b.constant("gain_intercept", calibration.gain_intercept)
    b.add("Mul", [gain, "gain_slope"], "gain_sloped")
    b.add("Add", ["gain_sloped", "gain_intercept"], "anchored_gain")
    b.add("Add", ["anchor_quality", "anchored_gain"], "quality_unbounded")
    b.add("Clip", ["quality_unbounded", "quality_low", "quality_high"], "quality")


def _add_tokens_and_category(b: _GraphBuilder, estimator: KnnEstimator) -> None:
    settings = estimator.settings
    mean = _add_shrunken(
        b, "tokens", "token_mass", "token_total", settings.token_strength, estimator.priors.output_tokens
    )
    b.add("Identity", [mean], "output_tokens")
    b.constant("category_strength", settings.category_strength)
    categories = estimator.table.category.shape[0]
    b.add("ReduceSum", ["category_mass", "second_axis"], "category_total", keepdims=1)
    b.add("Add", ["category_total", "category_strength"], "category_denominator")
    b.add("Div", ["category_mass", "category_denominator"], "category_share")
    b.columns("category_share", [("category_known", categories - 1), ("category_unused", 1)])
    b.add("ReduceSum", ["category_known", "second_axis"], "category_known_sum", keepdims=1)
    b.add("Sub", ["one", "category_known_sum"], "category_general")
    b.add("Concat", ["category_known", "category_general"], "category", axis=1)


def _add_se(b: _GraphBuilder, name: str, mass: str, mean: str, sums: list[str], shrinkage: str) -> str:
    """sqrt(Σ w² n E[(x - mean)²] + κσ²) / mass; `sums` are the w²-weighted squares, totals and counts."""
    b.constant(f"{name}_two", 2.0)
    b.constant(f"{name}_zero", 0.0)
    b.add("Mul", [mean, sums[1]], f"{name}_cross")
    b.add("Mul", [f"{name}_cross", f"{name}_two"], f"{name}_cross_twice")
    b.add("Mul", [mean, mean], f"{name}_mean_squared")
    b.add("Mul", [f"{name}_mean_squared", sums[2]], f"{name}_constant")
    b.add("Sub", [sums[0], f"{name}_cross_twice"], f"{name}_partial")
    b.add("Add", [f"{name}_partial", f"{name}_constant"], f"{name}_spread")
    b.add("Max", [f"{name}_spread", f"{name}_zero"], f"{name}_spread_bounded")
    b.add("Add", [f"{name}_spread_bounded", shrinkage], f"{name}_variance")
    b.add("Sqrt", [f"{name}_variance"], f"{name}_root")
    return b.add("Div", [f"{name}_root", mass], f"{name}_se")


def _add_quality_se(b: _GraphBuilder, estimator: KnnEstimator) -> None:
    table, priors, settings = estimator.table, estimator.priors, estimator.settings
    arms = table.score.count.shape[0]
    rows = np.concatenate([table.score.square, table.score.total, table.score.count])
    b.constant("second_order_table", rows.T)
    b.add("MatMul", ["weight_squared", "second_order_table"], "second_order")
    sums = b.columns("second_order", [(f"score_{part}_2", arms) for part in ("square", "total", "count")])
    strength = settings.quality_strength
    mean = _add_shrunken(b, "score_raw", "score_mass", "score_total", strength, priors.quality)
    b.constant("score_shrinkage", strength * priors.quality_variance)
    b.add("Identity", [_add_se(b, "score", "score_raw_mass", mean, sums, "score_shrinkage")], "quality_se")


def _add_gain(b: _GraphBuilder, estimator: KnnEstimator, size: int) -> None:
    """Gain over the reference arm, and its standard error from the reference's own pair table."""
    pair, priors, settings = estimator.table.pair, estimator.priors, estimator.settings
    arms = pair.count.shape[0]
    strength = settings.gain_strength
    b.add("Gather", ["quality", "reference_arm"], "reference_quality", axis=1)
    b.add("Sub", ["quality", "reference_quality"], "gain")
    first = np.concatenate([pair.count, pair.total], axis=0).reshape(2, arms, arms, size)
    b.constant("pair_first", first.transpose(2, 3, 0, 1).reshape(arms, size, 2 * arms))
    second = np.stack([pair.square, pair.total, pair.count])
    b.constant("pair_second", second.transpose(2, 3, 0, 1).reshape(arms, size, 3 * arms))
    b.constant("first_axis", [0], np.int64)
    for order, weight, parts in (
        ("pair_first", "weight", ("count_1", "total_1")),
        ("pair_second", "weight_squared", ("square_2", "total_2", "count_2")),
    ):
        b.add("Gather", [order, "reference_arm"], f"{order}_gathered", axis=0)
        b.add("Squeeze", [f"{order}_gathered", "first_axis"], f"{order}_own")
        b.add("MatMul", [weight, f"{order}_own"], f"{order}_sums")
        b.columns(f"{order}_sums", [(f"pair_{part}", arms) for part in parts])
    for name, value in (
        ("pair_prior", strength * priors.gain.T),
        ("pair_shrinkage", strength * priors.gain_variance.T),
        ("pair_slope", gain_slopes(estimator.calibration).T),
    ):
        b.constant(f"{name}_all", value)
        b.add("Gather", [f"{name}_all", "reference_arm"], f"{name}_own", axis=0)
    b.constant("pair_strength", strength)
    b.add("Add", ["pair_count_1", "pair_strength"], "pair_mass")
    b.add("Add", ["pair_total_1", "pair_prior_own"], "pair_total")
    b.add("Div", ["pair_total", "pair_mass"], "pair_mean")
    sums = ["pair_square_2", "pair_total_2", "pair_count_2"]
    se = _add_se(b, "pair", "pair_mass", "pair_mean", sums, "pair_shrinkage_own")
    b.add("Mul", [se, "pair_slope_own"], "gain_se")


def run_graph(
    graph: bytes, vectors: NDArray[np.float32], features: NDArray[np.float32], reference: int
) -> KnnEstimates:
    """Run a router graph on n prompts, as serving does; returns its outputs in float32."""
    session = create_session(graph, device="cpu", threads=1, allow_contrib_operators=False)
    feeds: dict[str, NDArray[Any]] = {
        "prompt_vector": np.ascontiguousarray(vectors, dtype=np.float32),
        "features": np.ascontiguousarray(features, dtype=np.float32),
        "reference_arm": np.array([reference], dtype=np.int64),
    }
    found = dict(zip(session.output_names, session.run(feeds), strict=True))
    return KnnEstimates(**{name: found[name] for name in OUTPUT_NAMES})


def check_parity(
    estimator: KnnEstimator, graph: bytes, vectors: NDArray[np.float32], features: NDArray[np.float32]
) -> ParityReport:
    """Compare a graph with its estimator on held-out prompts, against every reference arm in turn.

    Parameters
    ----------
    estimator : KnnEstimator
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
    for reference in range(estimator.table.score.count.shape[0]):
        expected = estimator.predict(vectors.astype(np.float64), features.astype(np.float64), reference)
        found = run_graph(graph, vectors, features, reference)
        for name in OUTPUT_NAMES:
            wanted = getattr(expected, name).reshape(vectors.shape[0], -1)
            difference = np.abs(getattr(found, name).reshape(wanted.shape) - wanted)
            if name == "output_tokens":
                difference = difference / (1.0 + wanted)
                largest_tokens = max(largest_tokens, float(difference.max(initial=0.0)))
            else:
                largest = max(largest, float(difference.max(initial=0.0)))
            tolerance = TOKEN_TOLERANCE if name == "output_tokens" else PARITY_TOLERANCE
            agrees &= (difference <= tolerance).all(axis=1)
    odd = np.flatnonzero(~agrees)
    tied = int(_is_tied(estimator, vectors[odd], features[odd]).sum()) if odd.size else 0
    report = ParityReport(vectors.shape[0], int(agrees.sum()), tied, largest, largest_tokens)
    if not report.passes:
        raise TrainingError(f"the exported graph disagrees with the estimator: {report}", code="parity_failed")
    return report


def _is_tied(estimator: KnnEstimator, vectors: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether the two nearest prototypes differ by less than float32 can tell (weights above 1 - 1e-5)."""
    weights, _ = estimator.weights(vectors.astype(np.float64), features.astype(np.float64))
    return np.asarray((weights > 1.0 - 1e-5).sum(axis=1) > 1)
