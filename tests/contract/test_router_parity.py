"""Every exported router graph computes what its Python estimator computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from penstock_routers.features import FEATURE_NAMES
from penstock_routers.manifest import decode_manifest
from penstock_training.errors import TrainingError
from penstock_training.export import PARITY_TOLERANCE, ParityReport, build_graph, check_parity, run_graph
from penstock_training.fit import FittedRouter, fit_router
from penstock_training.knn import KnnEstimator
from support.small_router import DIMENSION, OPTIONS, fitted_small_router, made_up_corpus


def _random_inputs(rows: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    vectors = random.standard_normal((rows, DIMENSION))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[0] = 0.0  # what the encoder gives for an empty text
    features = random.standard_normal((rows, len(FEATURE_NAMES))) * 10
    return vectors.astype(np.float32), features.astype(np.float32)


def _fitted(missing: float) -> FittedRouter:
    corpus = made_up_corpus(600, missing=missing)
    return fit_router(corpus, reference_arm="middle", options=OPTIONS, progress=lambda *_: None)


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.6])
def test_graph_on_held_out_rows_agrees_with_estimator(missing: float) -> None:
    """On prompts not fitted on, every output agrees to 1e-5 and token counts to 1e-4, with and without empty cells."""
    fitted = _fitted(missing)
    corpus = made_up_corpus(600, missing=missing).rows(fitted.split["test"])
    report = check_parity(fitted.estimator, fitted.graph, corpus.vectors, corpus.features)
    assert report.passes
    assert report.agreeing == report.rows == len(fitted.split["test"])


def test_graph_far_from_every_prototype_agrees_with_estimator() -> None:
    """Random vectors, a zero vector and absurd features change nothing about the agreement."""
    _, fitted = fitted_small_router()
    report = check_parity(fitted.estimator, fitted.graph, *_random_inputs(500))
    assert report.agreeing == report.rows


def test_graph_is_the_same_for_the_same_estimator() -> None:
    """Exporting twice gives the same bytes, on which the artifact's id rests."""
    _, fitted = fitted_small_router()
    assert build_graph(fitted.estimator) == fitted.graph


def test_graph_rows_do_not_depend_on_their_neighbours() -> None:
    """A batch gives each prompt what it gets alone."""
    _, fitted = fitted_small_router()
    vectors, features = _random_inputs(20)
    together = run_graph(fitted.graph, vectors, features, 0)
    alone = run_graph(fitted.graph, vectors[7:8], features[7:8], 0)
    for name in ("quality", "quality_se", "gain", "gain_se", "category"):
        assert np.allclose(getattr(together, name)[7], getattr(alone, name)[0], atol=1e-6), name


def test_check_parity_refuses_a_graph_of_another_estimator() -> None:
    """A graph that differs in one calibration number by a thousandth is refused."""
    _, fitted = fitted_small_router()
    calibration = fitted.estimator.calibration
    shifted = replace(calibration, anchor_intercept=calibration.anchor_intercept + 1e-3)
    with pytest.raises(TrainingError) as caught:
        check_parity(replace(fitted.estimator, calibration=shifted), fitted.graph, *_random_inputs(50))
    assert caught.value.code == "parity_failed"


def test_parity_report_passes_only_with_ties_for_the_rest() -> None:
    """One row in a thousand may differ, and only when it is a tie."""
    assert ParityReport(1000, 999, 1, 0.0, 0.0).passes
    assert not ParityReport(1000, 999, 0, 0.0, 0.0).passes
    assert not ParityReport(1000, 998, 2, 0.0, 0.0).passes


def test_tied_prototypes_split_their_weight() -> None:
    """A prompt exactly between two prototypes weighs both alike, so a tie cannot flip an estimate."""
    _, fitted = fitted_small_router()
    places = fitted.estimator.prototypes
    twins = replace(
        places,
        centroids=np.repeat(places.centroids[:1], len(places.centroids), axis=0),
        feature_centroids=np.repeat(places.feature_centroids[:1], len(places.centroids), axis=0),
    )
    estimator: KnnEstimator = replace(fitted.estimator, prototypes=twins)
    vectors, features = _random_inputs(10)
    weights, _ = estimator.weights(vectors.astype(float), features.astype(float))
    assert np.allclose(weights, 1.0)
    found = run_graph(build_graph(estimator), vectors, features, 1)
    wanted = estimator.predict(vectors.astype(float), features.astype(float), 1)
    assert np.abs(found.quality - wanted.quality).max() <= PARITY_TOLERANCE


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
