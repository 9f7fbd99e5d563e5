"""A fused graph decides as the encoder, the search and the router do one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from penstock_routers.bundled import DEFAULT_ENCODER, PARAPHRASE_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder, _padded
from penstock_routers.features import FEATURE_NAMES
from penstock_routers.manifest import OUTPUT_NAMES, TensorSpec
from penstock_routers.onnx_session import create_session
from penstock_training.errors import TrainingError
from penstock_training.export import build_graph, run_graph
from penstock_training.families.beside import beside_head
from penstock_training.families.registry import router_spec
from penstock_training.fit import FitOptions, fit_router
from penstock_training.fused_graph import FUSED_TOLERANCE, fuse, with_fixed_shape
from penstock_training.fused_search import Points, add_search, group_size
from penstock_training.graph import GraphBuilder
from support.beside_router import beside_router
from support.small_router import DIMENSION, OPTIONS, made_up_corpus

Arrays = Mapping[str, NDArray[Any]]
TOKENS = 40


def _run(graph: bytes, feeds: Arrays) -> dict[str, NDArray[Any]]:
    session = create_session(graph, device="cpu", threads=1, max_bytes=1 << 30)
    return dict(zip(session.output_names, session.run(feeds), strict=True))


def _token_table(size: int = 500, seed: int = 0) -> NDArray[np.float32]:
    """Vectors of made-up tokens around the corpus's four topics."""
    random = np.random.default_rng(seed)
    table = np.eye(4, DIMENSION)[np.arange(size) % 4] + 0.3 * random.standard_normal((size, DIMENSION))
    return table.astype(np.float32)


def _summing_encoder(table: NDArray[np.float32]) -> bytes:
    """``token_ids (n, t) → vectors (n, d)``: the sum of the tokens' vectors, token 0 being nothing."""
    b = GraphBuilder()
    rows = b.op("Gather", b.constant(np.vstack([np.zeros((1, DIMENSION)), table])), "token_ids", axis=0)
    b.output("vectors", b.op("ReduceSum", rows, b.constant([1], np.int64), keepdims=0))
    inputs = [TensorSpec("token_ids", "int64", ("n", "t"))]
    return b.model("encoder", inputs, [TensorSpec("vectors", "float32", ("n", DIMENSION))])


def _prompts(rows: int) -> dict[str, NDArray[Any]]:
    """Token ids of prompts that lean to a topic, with features; the last prompt has no token at all."""
    random = np.random.default_rng(4)
    topic = np.arange(rows)[:, None] % 4
    ids = 1 + topic + 4 * random.integers(0, 125, (rows, TOKENS))
    ids[-1] = 0
    features = random.standard_normal((rows, len(FEATURE_NAMES))).astype(np.float32)
    return {"token_ids": ids, "features": features, "reference_arm": np.array([1], dtype=np.int64)}


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length == 0.0, 1.0, length), dtype=np.float32)


def _assert_alike(found: Arrays, wanted: Any, tolerance: float) -> None:
    for name in OUTPUT_NAMES:
        expected = getattr(wanted, name)
        scale = 1.0 + np.abs(expected) if name == "output_tokens" else 1.0
        difference = float((np.abs(found[name].reshape(expected.shape) - expected) / scale).max())
        assert difference <= tolerance, (name, difference)


@pytest.mark.parametrize("stages", [1, 2])
def test_fused_graph_over_a_flat_index_gives_the_unfused_estimates(stages: Any) -> None:
    """Every output of every prompt, an empty one too, agrees to 2e-5 with encoder, faiss and router in turn."""
    router, table = beside_router("flat"), _token_table()
    beside = beside_head(router.fitted.estimator.head)
    assert beside is not None
    encoder = _summing_encoder(table)
    feeds = _prompts(65)
    vectors = _unit(_run(encoder, {"token_ids": feeds["token_ids"]})["vectors"])
    wanted = run_graph(router.fitted.graph, vectors, feeds["features"], 1, beside)
    points = Points(beside.built.index.vectors(0, beside.built.index.points), beside.scores, beside.built.neighbours)
    fused = fuse(encoder, router.fitted.graph, neighbours=points, stages=stages)
    _assert_alike(_run(fused, feeds), wanted, FUSED_TOLERANCE)


def _inside_options(neighbours: float) -> FitOptions:
    settings = {"support_points": 1.0, "neighbours": neighbours}
    return FitOptions(resamples=OPTIONS.resamples, router=router_spec("knn", settings))


@pytest.mark.parametrize("prompts", [900, 3_600])
def test_fused_graph_over_points_inside_the_router_gives_the_unfused_estimates(prompts: int) -> None:
    """Stored in the router's own graph, searched in one stage or by whole numbers first, points are found and moved."""
    fitted = fit_router(
        made_up_corpus(prompts), reference_arm="dear", options=_inside_options(50.0), progress=lambda *_: None
    )
    encoder = _summing_encoder(_token_table())
    feeds = _prompts(65)
    vectors = _unit(_run(encoder, {"token_ids": feeds["token_ids"]})["vectors"])
    wanted = run_graph(fitted.graph, vectors, feeds["features"], 1)
    fused = fuse(encoder, fitted.graph)
    operators = {node.op_type for node in onnx.load_from_string(fused).graph.node}
    assert "MatMulInteger" not in operators
    assert "DynamicQuantizeLinear" not in operators
    _assert_alike(_run(fused, feeds), wanted, FUSED_TOLERANCE)


def test_fused_graph_in_half_precision_decides_alike() -> None:
    """In fp16 the k-th neighbour may be another one, which moves a quality by at most 1/k, and the best arm stays."""
    router, encoder = beside_router("flat"), _summing_encoder(_token_table())
    beside = beside_head(router.fitted.estimator.head)
    assert beside is not None
    points = Points(beside.built.index.vectors(0, beside.built.index.points), beside.scores, beside.built.neighbours)
    feeds = {name: value[:-1] if name != "reference_arm" else value for name, value in _prompts(201).items()}
    exact, half = (
        _run(fuse(encoder, router.fitted.graph, neighbours=points, precision=precision), feeds)
        for precision in ("fp32", "fp16")
    )
    moved = np.abs(exact["quality"] - half["quality"])
    assert 0.0 < moved.max() <= 1.0 / points.neighbours
    assert moved.mean() < 0.001
    assert (exact["quality"].argmax(axis=1) == half["quality"].argmax(axis=1)).mean() >= 0.99


@pytest.mark.parametrize("folder", [DEFAULT_ENCODER, PARAPHRASE_ENCODER])
def test_fused_graph_of_a_bundled_encoder_gives_its_estimates(folder: str) -> None:
    """Both kinds of encoder go in as they serve: token ids in, and the estimates of the artifact's own path out."""
    encoder = PromptEncoder.load(bundled_folder(folder), device="cpu")
    random = np.random.default_rng(1)
    corpus = made_up_corpus(400)
    turn = np.linalg.qr(random.standard_normal((encoder.dimension, encoder.dimension)))[0][:DIMENSION]
    wide = type(corpus)(
        corpus.matrix, (corpus.vectors @ turn).astype(np.float32), corpus.features, corpus.is_free_form, corpus.prices
    )
    fitted = fit_router(wide, reference_arm="dear", options=_inside_options(30.0), progress=lambda *_: None)
    text = "How late was the train from Paris, and why does every question about it remain open?"
    ids, mask = _padded([encoder.model_tokens(text)], encoder.manifest.padding_token_id)
    names = {"token_ids": ids} if encoder.kind == "static" else {"input_ids": ids, "attention_mask": mask}
    features = random.standard_normal((1, len(FEATURE_NAMES))).astype(np.float32)
    wanted = run_graph(fitted.graph, encoder.encode([text]), features, 2)
    graph = fuse((bundled_folder(folder) / "encoder.onnx").read_bytes(), fitted.graph)
    feeds = {**names, "features": features, "reference_arm": np.array([2], dtype=np.int64)}
    _assert_alike(_run(graph, feeds), wanted, FUSED_TOLERANCE)
    if encoder.manifest.precision != "int8" or encoder.kind == "static":  # rounding of activations follows the fusions
        _assert_alike(_run(with_fixed_shape(graph, 1, ids.shape[1]), feeds), wanted, FUSED_TOLERANCE)


def test_fused_graph_without_points_carries_the_default_router(repository_root: Path) -> None:
    """The bundled router, which searches no points, is joined as it is."""
    folder = repository_root / "onnx_models"
    encoder = PromptEncoder.load(folder / DEFAULT_ENCODER, device="cpu")
    router = (folder / "default-router" / "router.onnx").read_bytes()
    text = "What is the derivative of x squared?"
    features = np.zeros((1, len(FEATURE_NAMES)), dtype=np.float32)
    wanted = run_graph(router, encoder.encode([text]), features, 0)
    ids = np.array([encoder.model_tokens(text)], dtype=np.int64)
    feeds = {"token_ids": ids, "features": features, "reference_arm": np.array([0], dtype=np.int64)}
    fused = fuse((folder / DEFAULT_ENCODER / "encoder.onnx").read_bytes(), router)
    _assert_alike(_run(fused, feeds), wanted, FUSED_TOLERANCE)


@pytest.mark.parametrize(("count", "neighbours"), [(2_000, 1), (2_003, 100), (5_121, 40), (20_000, 300)])
def test_search_in_two_stages_finds_the_same_points_in_the_same_order(count: int, neighbours: int) -> None:
    """Groups lose nothing, whether they divide the points or not, and equal cosines keep their order."""
    random = np.random.default_rng(count)
    vectors = random.standard_normal((count, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[7::5] = vectors[6::5][: len(vectors[7::5])]  # prompts asked twice
    points = Points(vectors, np.zeros((count, 1), dtype=np.uint8), neighbours)
    asked = np.concatenate([vectors[:40], -vectors[:20], np.zeros((1, 8), dtype=np.float32)])
    one, two = (_search(points, asked, stages) for stages in (1, 2))
    assert np.array_equal(one[1], two[1])
    assert np.array_equal(one[0], two[0])
    assert group_size(count, neighbours) >= 8


def test_search_where_every_cosine_is_negative_never_finds_padding() -> None:
    """Padding, whose product with any vector is 0, is above all cosines here and still no neighbour."""
    count = 2_001
    vectors = np.tile(np.array([[-1.0, 0.0]], dtype=np.float32), (count, 1))
    vectors += np.linspace(0.0, 0.1, count, dtype=np.float32)[:, None]
    asked = np.array([[1.0, 0.0]], dtype=np.float32)
    points = Points(vectors, np.zeros((count, 1), dtype=np.uint8), 20)
    similarity, rows = _search(points, asked, 2)
    assert rows[0].tolist() == list(range(count - 1, count - 21, -1))
    assert (similarity < 0.0).all()


def test_search_with_padding_in_the_greatest_group_still_finds_a_neighbour_in_every_other() -> None:
    """Padding may take one group's place among those looked at; the k nearest, each in a group of its own, remain."""
    count, neighbours = 2_001, 20
    vectors = np.tile(np.array([[-1.0, 0.0]], dtype=np.float32), (count, 1))
    near = 90 * np.arange(neighbours)  # further apart than a group is wide
    assert group_size(count, neighbours) < 90
    vectors[near, 0] = -0.5
    points = Points(vectors, np.zeros((count, 1), dtype=np.uint8), neighbours)
    _, rows = _search(points, np.array([[1.0, 0.0]], dtype=np.float32), 2)
    assert rows[0].tolist() == near.tolist()


def _search(points: Points, asked: NDArray[np.float32], stages: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    b = GraphBuilder()
    similarity, rows = add_search(b, "asked", points, precision="fp32", stages=stages)
    b.output("similarity", similarity)
    b.output("rows", rows)
    shape = ("n", points.neighbours)
    outputs = [TensorSpec("similarity", "float32", shape), TensorSpec("rows", "int64", shape)]
    graph = b.model("search", [TensorSpec("asked", "float32", ("n", asked.shape[1]))], outputs)
    found = _run(graph, {"asked": asked})
    return found["similarity"], found["rows"]


def test_search_with_more_neighbours_than_points_is_refused() -> None:
    """A graph that could not run is not written."""
    points = Points(np.eye(3, dtype=np.float32), np.zeros((3, 1), dtype=np.uint8), 4)
    with pytest.raises(TrainingError) as caught:
        add_search(GraphBuilder(), "asked", points, precision="fp32")
    assert caught.value.code == "bad_setting"


def test_fuse_with_an_encoder_of_another_width_is_refused() -> None:
    """An encoder and a router that do not fit each other are told apart before anything runs."""
    other = (bundled_folder(DEFAULT_ENCODER) / "encoder.onnx").read_bytes()
    graph = build_graph(beside_router("flat").fitted.estimator)
    with pytest.raises(TrainingError) as caught:
        fuse(other, graph, neighbours=Points(np.eye(40, 12, dtype=np.float32), np.zeros((40, 3), np.uint8), 40))
    assert caught.value.code == "graphs_do_not_fit"
    with pytest.raises(TrainingError, match="has an index beside it"):
        fuse(_summing_encoder(_token_table()), graph)


def test_fused_graph_with_other_points_decides_by_them() -> None:
    """Points given for a router that holds its own take their place: scores of 1 everywhere raise every quality."""
    fitted = fit_router(
        made_up_corpus(900), reference_arm="dear", options=_inside_options(50.0), progress=lambda *_: None
    )
    encoder, feeds = _summing_encoder(_token_table()), _prompts(9)
    vectors = np.eye(4, DIMENSION, dtype=np.float32).repeat(100, axis=0)
    praised = Points(vectors, np.full((400, 3), 255, dtype=np.uint8), 50)
    own, other = (_run(fuse(encoder, fitted.graph, neighbours=points), feeds)["quality"] for points in (None, praised))
    assert (other >= own).all()
    assert (other > own + 0.05).any()
    default = (Path(bundled_folder("default-router")) / "router.onnx").read_bytes()
    static = (bundled_folder(DEFAULT_ENCODER) / "encoder.onnx").read_bytes()
    with pytest.raises(TrainingError, match="searches no neighbours"):
        fuse(static, default, neighbours=praised)
