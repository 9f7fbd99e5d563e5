"""Every router family's exported graph computes what its Python estimator computes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from penstock_routers.features import FEATURE_NAMES
from penstock_routers.manifest import OUTPUT_NAMES, TensorSpec, decode_manifest
from penstock_routers.onnx_guard import refuse_unsafe_graph
from penstock_routers.onnx_session import create_session
from penstock_training.calibration import Calibration
from penstock_training.errors import TrainingError
from penstock_training.estimator import RouterEstimator
from penstock_training.export import PARITY_TOLERANCE, ParityReport, build_graph, check_parity, run_graph
from penstock_training.families.head import GraphNames, PromptInputs
from penstock_training.families.knn import PrototypeHead, SupportHead
from penstock_training.families.registry import FAMILIES, RouterSpec, router_spec
from penstock_training.fit import Corpus, FitOptions, fit_estimator, single_threaded
from penstock_training.graph import GraphBuilder
from support.small_router import DIMENSION, made_up_corpus

# Settings that keep a fit under a second; they change nothing about the arithmetic.
QUICK = {
    "mlp": {"hidden": 16.0, "starts": 2.0, "epochs": 5.0},
    "boosting": {"iterations": 20.0, "dimensions": 8.0},
}
SPECS: dict[str, RouterSpec] = {
    **{name: router_spec(name, QUICK.get(name)) for name in FAMILIES},
    "ensemble": router_spec("ensemble"),
    "knn of support points": router_spec("knn", {"support_points": 1.0, "neighbours": 20.0}),
    "cluster with a learned map": router_spec("cluster", {"is_learned": 1.0, "clusters": 12.0}),
}
every_router = pytest.mark.parametrize("name", SPECS)


@cache
def _fitted(name: str, missing: float = 0.3) -> tuple[RouterEstimator, bytes, Corpus]:
    """An estimator fitted on 400 prompts, its graph, and 200 prompts that it did not see."""
    corpus = made_up_corpus(600, missing=missing)
    with single_threaded():
        estimator, _, _ = fit_estimator(corpus.rows(np.arange(400)), FitOptions(SPECS[name]), lambda *_: None)
    return estimator, build_graph(estimator), corpus.rows(np.arange(400, 600))


def _random_inputs(rows: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    vectors = random.standard_normal((rows, DIMENSION))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[0] = 0.0  # what the encoder gives for an empty text
    features = random.standard_normal((rows, len(FEATURE_NAMES))) * 10
    features[1:2], features[2:3] = 1e9, -1e9
    return vectors.astype(np.float32), features.astype(np.float32)


@every_router
@pytest.mark.parametrize("missing", [0.0, 0.3, 0.6])
def test_graph_on_held_out_rows_agrees_with_estimator(name: str, missing: float) -> None:
    """On prompts not fitted on, every output agrees within tolerance, with and without empty cells."""
    estimator, graph, unseen = _fitted(name, missing)
    report = check_parity(estimator, graph, unseen.vectors, unseen.features)
    assert report.rows == 200
    assert report.agreeing + report.tied == report.rows


@every_router
def test_graph_far_from_every_prototype_agrees_with_estimator(name: str) -> None:
    """Random vectors, a zero vector and absurd features change nothing about the agreement."""
    estimator, graph, _ = _fitted(name)
    report = check_parity(estimator, graph, *_random_inputs(300))
    assert report.agreeing + report.tied == report.rows


@every_router
def test_graph_of_a_zero_vector_agrees_exactly_and_is_no_tie(name: str) -> None:
    """An empty text is common: of support points that are all equally far the same ones are taken on both sides."""
    estimator, graph, _ = _fitted(name)
    vectors, features = _random_inputs(1)
    found = run_graph(graph, vectors, features, 0)
    assert np.abs(found.quality - estimator.predict(vectors, features, 0).quality).max() <= PARITY_TOLERANCE


@every_router
def test_fitting_and_exporting_twice_gives_the_same_bytes(name: str) -> None:
    """An artifact's id rests on it."""
    corpus = made_up_corpus(600, missing=0.3).rows(np.arange(400))
    with single_threaded():
        again, _, _ = fit_estimator(corpus, FitOptions(SPECS[name]), lambda *_: None)
    assert build_graph(again) == _fitted(name)[1]


@every_router
def test_graph_rows_do_not_depend_on_their_neighbours(name: str) -> None:
    """A batch gives each prompt what it gets alone."""
    _, graph, _ = _fitted(name)
    vectors, features = _random_inputs(20)
    together = run_graph(graph, vectors, features, 0)
    alone = run_graph(graph, vectors[7:8], features[7:8], 0)
    for output in OUTPUT_NAMES:
        # A matrix product of another height may add in another order: float32 rounding, relative for token counts.
        assert np.allclose(getattr(together, output)[7], getattr(alone, output)[0], rtol=1e-5, atol=1e-6), output


@every_router
def test_graph_uses_standard_operators_only_and_passes_the_guard(name: str) -> None:
    """Serving refuses anything else, so no family may need it."""
    _, graph, _ = _fitted(name)
    model = onnx.load_model_from_string(graph)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx.ml"}
    assert {opset.domain for opset in model.opset_import} <= {"", "ai.onnx.ml"}
    refuse_unsafe_graph(graph, allow_contrib_operators=False)


@every_router
def test_check_parity_refuses_a_graph_of_another_estimator(name: str) -> None:
    """A graph whose calibration differs by a thousandth is refused, whatever the family."""
    estimator, graph, unseen = _fitted(name)
    known = estimator.calibration
    shifted = Calibration(known.method, np.clip(known.values + 1e-3, 0.0, 1.0), known.rows)
    with pytest.raises(TrainingError) as caught:
        check_parity(replace(estimator, calibration=shifted), graph, unseen.vectors, unseen.features)
    assert caught.value.code == "parity_failed"


@every_router
def test_estimator_gains_are_differences_of_quality_and_zero_for_the_reference(name: str) -> None:
    """Whatever the family, utility and guard use one scale, and nothing is gained over oneself."""
    estimator, graph, unseen = _fitted(name)
    for reference in range(estimator.arms):
        found = run_graph(graph, unseen.vectors, unseen.features, reference)
        np.testing.assert_allclose(found.gain, found.quality - found.quality[:, [reference]], atol=1e-6)
        assert not found.gain_se[:, reference].any()
        assert (np.delete(found.gain_se, reference, axis=1) > 0.0).all()


def test_parity_report_passes_only_with_ties_for_the_rest() -> None:
    """One row in a thousand may differ, and only when it is a tie."""
    assert ParityReport(1000, 999, 1, 0.0, 0.0).passes
    assert not ParityReport(1000, 999, 0, 0.0, 0.0).passes
    assert not ParityReport(1000, 998, 2, 0.0, 0.0).passes


def test_tied_prototypes_split_their_weight() -> None:
    """A prompt exactly between two prototypes weighs both alike, so a tie cannot flip an estimate."""
    estimator, _, unseen = _fitted("knn", 0.0)
    head = estimator.head
    assert isinstance(head, PrototypeHead)
    places = head.prototypes
    twins = replace(
        places,
        centroids=np.repeat(places.centroids[:1], len(places), axis=0),
        forms=np.repeat(places.forms[:1], len(places), axis=0),
    )
    tied = replace(head, prototypes=twins)
    inputs = estimator.frame.inputs(unseen.vectors, unseen.features)
    mean = (head.total.sum(axis=0) + head.strength * head.prior) / (head.count.sum() + head.strength)
    np.testing.assert_allclose(tied.predict(inputs), np.tile(mean, (200, 1)), atol=1e-12)  # float64 rounding
    router = replace(estimator, head=tied)
    check_parity(router, build_graph(router), unseen.vectors, unseen.features)


def test_bundled_default_router_manifest_fits_its_graph(repository_root: Path) -> None:
    """The committed default artifact's golden batch comes from its own graph, row by row."""
    folder = repository_root / "onnx_models" / "default-router"
    manifest = decode_manifest((folder / "manifest.json").read_bytes())
    golden = manifest.golden
    found = run_graph(
        (folder / "router.onnx").read_bytes(),
        np.asarray(golden.prompt_vectors, dtype=np.float32),
        np.asarray(golden.features, dtype=np.float32),
        golden.reference_arm,
    )
    assert np.allclose(found.quality, golden.outputs["quality"], atol=1e-5)
    assert np.allclose(found.gain_se, golden.outputs["gain_se"], atol=1e-5)


def test_graph_with_many_support_points_finds_the_neighbours_of_the_estimator() -> None:
    """From 2,000 support points on a graph looks in two stages, and still weighs the same 100 nearest prompts."""
    random = np.random.default_rng(5)
    vectors = random.standard_normal((2_500, DIMENSION))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scale = (np.abs(vectors).max(axis=1) / 127.0).astype(np.float32)
    codes = np.rint(vectors / scale[:, None]).astype(np.int8)
    scores = random.integers(0, 256, (2_500, 3)).astype(np.uint8)
    head = SupportHead(codes, scale, scores, 100, 0.1, 10.0, np.full(3, 0.5))
    builder = GraphBuilder()
    builder.output("raw", head.add_nodes(builder, GraphNames("prompt_vector", "form")))
    specs = [TensorSpec("prompt_vector", "float32", ("n", DIMENSION))], [TensorSpec("raw", "float32", ("n", 3))]
    session = create_session(builder.model("support", *specs), device="cpu", threads=1, allow_contrib_operators=False)
    asked, _ = _random_inputs(200)
    found = np.concatenate([session.run({"prompt_vector": row[None]})[0] for row in asked])
    wanted = head.predict(PromptInputs(asked.astype(np.float64), np.zeros((200, 1))))
    # another order of additions may swap the 100th and the 101st of two nearly equal neighbours
    assert (np.abs(found - wanted).max(axis=1) <= PARITY_TOLERANCE).mean() >= 0.99
