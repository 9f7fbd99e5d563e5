"""An earlier router as prior: what is read from its artifact, and what is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from penstock_routers.errors import ArtifactError
from penstock_routers.manifest import OUTPUT_NAMES, Manifest, artifact_id, encode_manifest
from penstock_training.category_head import CATEGORY_WEIGHT
from penstock_training.export import run_graph
from penstock_training.families.ensemble import EnsembleHead
from penstock_training.families.linear import LINEAR_WEIGHT, LinearHead
from penstock_training.families.registry import RouterSpec
from penstock_training.fit import FitOptions, fit_router
from penstock_training.pack import write_artifact
from penstock_training.places import FORM_FACTOR, FORM_MEAN, FormScaler
from penstock_training.prior import Prior, principal_directions
from support.small_router import ENCODER, OPTIONS, fitted_small_router, made_up_corpus, small_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The small router's artifact."""
    write_artifact(tmp_path, small_manifest(), fitted_small_router()[1].graph)
    return tmp_path


def _loaded(folder: Path) -> Prior:
    found = Prior.load(folder, encoder_id=ENCODER.id)
    assert found is not None
    return found


def _rewrite(folder: Path, manifest: Manifest, graph: bytes) -> None:
    """Write an artifact with a right id and right hashes."""
    manifest = msgspec.structs.replace(manifest, graph_sha256=hashlib.sha256(graph).hexdigest(), graph_bytes=len(graph))
    manifest = msgspec.structs.replace(manifest, id=artifact_id(manifest, graph))
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    (folder / "router.onnx").write_bytes(graph)


def _with_golden_of(graph: bytes) -> Manifest:
    """The small router's manifest with the golden outputs of another graph."""
    golden = small_manifest().golden
    found = run_graph(
        graph,
        np.asarray(golden.prompt_vectors, np.float32),
        np.asarray(golden.features, np.float32),
        golden.reference_arm,
    )
    rows = len(golden.prompt_vectors)
    outputs = {
        name: tuple(tuple(float(value) for value in row) for row in getattr(found, name).reshape(rows, -1))
        for name in OUTPUT_NAMES
    }
    return msgspec.structs.replace(small_manifest(), golden=msgspec.structs.replace(golden, outputs=outputs))


def test_prior_load_gives_back_scaler_directions_and_category_head(folder: Path) -> None:
    """What pack wrote is what a later fit reads, to float32."""
    estimator = fitted_small_router()[1].estimator
    prior = _loaded(folder)
    assert prior.artifact_id == small_manifest().id
    np.testing.assert_allclose(prior.scaler.mean, estimator.frame.scaler.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(prior.scaler.scale, estimator.frame.scaler.scale, rtol=1e-6)
    np.testing.assert_allclose(prior.categories.weight, estimator.frame.categories.weight, rtol=1e-5, atol=1e-6)
    assert isinstance(estimator.head, EnsembleHead)
    linear = dict(zip(estimator.head.names, estimator.head.members, strict=True))["linear"]
    assert isinstance(linear, LinearHead)
    np.testing.assert_allclose(prior.directions[:, 0], linear.weight.mean(axis=1), rtol=1e-4, atol=1e-6)
    # Mean and deviations together span every arm's weight.
    fitted, *_ = np.linalg.lstsq(prior.directions, linear.weight, rcond=None)
    np.testing.assert_allclose(prior.directions @ fitted, linear.weight, atol=1e-3 * np.abs(linear.weight).max())


def test_prior_for_another_scaler_gives_the_same_logits(folder: Path) -> None:
    """A new router standardises by its own prompts; inside the clip the earlier head says what it said."""
    prior = _loaded(folder)
    random = np.random.default_rng(0)
    forms = prior.scaler.mean.size
    other = FormScaler(
        prior.scaler.mean + random.standard_normal(forms), prior.scaler.scale * random.uniform(1, 2, forms)
    )
    features = other.mean + 0.3 * random.standard_normal((50, forms)) * prior.scaler.scale
    vectors = random.standard_normal((50, prior.directions.shape[0] - forms))
    before = np.hstack([vectors, (features - prior.scaler.mean) / prior.scaler.scale])
    after = np.hstack([vectors, (features - other.mean) / other.scale])
    converted = prior.categories_for(other)
    np.testing.assert_allclose(
        after @ converted.weight + converted.bias, before @ prior.categories.weight + prior.categories.bias, atol=1e-9
    )
    moved = after @ prior.directions_for(other) - before @ prior.directions
    np.testing.assert_allclose(moved, np.tile(moved[:1], (50, 1)), atol=1e-9)  # directions have no offset


def test_prior_of_another_encoder_is_refused(folder: Path) -> None:
    """Directions in another space mean nothing."""
    with pytest.raises(ArtifactError) as caught:
        Prior.load(folder, encoder_id="another@111111111111")
    assert caught.value.code == "artifact_encoder_mismatch"


@pytest.mark.parametrize("name", [FORM_MEAN, FORM_FACTOR, CATEGORY_WEIGHT])
def test_prior_of_an_earlier_release_is_none(folder: Path, name: str) -> None:
    """A graph that does not name its parts is a good router and no prior."""
    model = onnx.load_model_from_string(fitted_small_router()[1].graph)
    for tensor in model.graph.initializer:
        tensor.name = "renamed" if tensor.name == name else tensor.name
    for node in model.graph.node:
        node.input[:] = ["renamed" if source == name else source for source in node.input]
    _rewrite(folder, small_manifest(), bytes(model.SerializeToString()))
    assert Prior.load(folder, encoder_id=ENCODER.id) is None


def test_prior_that_knows_other_categories_is_none(folder: Path) -> None:
    """Its head would put names to the wrong columns."""
    names = (*reversed(small_manifest().categories[:-1]), small_manifest().categories[-1])
    _rewrite(folder, msgspec.structs.replace(small_manifest(), categories=names), fitted_small_router()[1].graph)
    assert Prior.load(folder, encoder_id=ENCODER.id) is None


def test_prior_without_a_linear_head_has_no_directions_but_categories(tmp_path: Path) -> None:
    """A router of neighbours still knows categories."""
    corpus = made_up_corpus(600)
    options = replace(OPTIONS, router=RouterSpec("knn"))
    fitted = fit_router(corpus, reference_arm="dear", options=options, progress=lambda *_: None)
    golden = _with_golden_of(fitted.graph)
    _rewrite(tmp_path, golden, fitted.graph)
    prior = _loaded(tmp_path)
    assert prior.directions.shape[1] == 0
    assert LINEAR_WEIGHT.encode() not in fitted.graph
    again = fit_router(corpus, reference_arm="dear", options=replace(OPTIONS, prior=prior), progress=lambda *_: None)
    assert again.prior_id == prior.artifact_id


def test_fit_router_with_a_prior_takes_its_categories_when_outcomes_name_none(folder: Path) -> None:
    """Prompts of one's own that name no category still get one."""
    prior = _loaded(folder)
    corpus = made_up_corpus(600, seed=9)
    corpus = replace(corpus, matrix=replace(corpus.matrix, categories=[""] * 600))
    options = FitOptions(RouterSpec("linear"), resamples=50, prior=prior)
    fitted = fit_router(corpus, reference_arm="dear", options=options, progress=lambda *_: None)
    wanted = prior.categories_for(fitted.estimator.frame.scaler)
    np.testing.assert_array_equal(fitted.estimator.frame.categories.weight, wanted.weight)


def test_principal_directions_are_the_mean_and_five_deviations_at_most() -> None:
    """Thirty arms do not make thirty free directions."""
    random = np.random.default_rng(0)
    assert principal_directions(random.standard_normal((40, 30))).shape == (40, 6)
    assert principal_directions(np.ones((40, 3))).shape == (40, 1)
    assert principal_directions(np.zeros((40, 0))).shape == (40, 0)
