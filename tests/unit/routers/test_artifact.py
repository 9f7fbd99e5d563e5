"""Router artifacts: what is verified at load, what is estimated, and what the knob means."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from penstock_routers.artifact import MAX_ARTIFACT_BYTES, RouterArtifact, interpolate_cost_weight
from penstock_routers.errors import ArtifactError
from penstock_routers.features import FEATURE_NAMES
from penstock_routers.manifest import FrontierPoint, Manifest, artifact_id, encode_manifest
from penstock_training.families.linear import LINEAR_WEIGHT
from support.small_router import ARMS, DIMENSION, ENCODER, fitted_small_router, small_manifest, write_small_router


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> RouterArtifact:
    """The small router, loaded."""
    folder = tmp_path_factory.mktemp("artifact")
    write_small_router(folder)
    return RouterArtifact.load(folder, encoder_id=ENCODER.id)


def _write(folder: Path, manifest: Manifest, graph: bytes) -> None:
    """Write an artifact with a right id and right hashes, so that later checks are reached."""
    import hashlib

    manifest = msgspec.structs.replace(manifest, graph_sha256=hashlib.sha256(graph).hexdigest(), graph_bytes=len(graph))
    manifest = msgspec.structs.replace(manifest, id=artifact_id(manifest, graph))
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))
    (folder / "router.onnx").write_bytes(graph)


def _graph() -> bytes:
    return fitted_small_router()[1].graph


def _edited(edit: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_model_from_string(_graph())
    edit(model)
    return bytes(model.SerializeToString())


def _refused(folder: Path, encoder_id: str | None = ENCODER.id) -> str:
    with pytest.raises(ArtifactError) as caught:
        RouterArtifact.load(folder, encoder_id=encoder_id)
    assert str(folder) not in caught.value.message
    return caught.value.code


def test_load_good_artifact_has_id_arms_and_short_id(artifact: RouterArtifact) -> None:
    """A loaded artifact names itself by its content."""
    assert artifact.id == small_manifest().id
    assert artifact.id.startswith("sha256:")
    assert artifact.short_id == artifact.id[7:19]
    assert artifact.manifest.arms == ARMS


def test_load_missing_folder_or_file_is_refused(tmp_path: Path) -> None:
    """A folder without the two files is artifact_missing, whichever is absent."""
    assert _refused(tmp_path / "nothing") == "artifact_missing"
    write_small_router(tmp_path)
    (tmp_path / "router.onnx").unlink()
    assert _refused(tmp_path) == "artifact_missing"


@pytest.mark.parametrize("name", ["manifest.json", "router.onnx"])
def test_load_oversize_file_is_refused_before_it_is_parsed(tmp_path: Path, name: str) -> None:
    """A file beyond its limit is artifact_oversize; no more than the limit is read."""
    write_small_router(tmp_path)
    with (tmp_path / name).open("r+b") as file:
        file.truncate(MAX_ARTIFACT_BYTES + 1)
    assert _refused(tmp_path) == "artifact_oversize"


@pytest.mark.parametrize("name", ["manifest.json", "router.onnx"])
def test_load_pipe_in_place_of_a_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    """Opening a pipe would wait for a writer for ever; only regular files are read."""
    write_small_router(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    assert _refused(tmp_path) == "artifact_missing"


def test_load_flipped_bit_in_graph_is_refused(tmp_path: Path) -> None:
    """One changed bit of the graph is artifact_corrupt."""
    write_small_router(tmp_path)
    damaged = bytearray(_graph())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "router.onnx").write_bytes(damaged)
    assert _refused(tmp_path) == "artifact_corrupt"


def test_load_edited_manifest_is_refused(tmp_path: Path) -> None:
    """A manifest that was edited after fitting no longer matches its id."""
    manifest = write_small_router(tmp_path)
    content = json.loads(encode_manifest(manifest))
    content["guard"]["z"] += 1.0
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert _refused(tmp_path) == "artifact_corrupt"


def test_load_other_encoder_is_refused_and_none_skips_the_check(tmp_path: Path) -> None:
    """An artifact serves only the encoder it was fitted with."""
    write_small_router(tmp_path)
    assert _refused(tmp_path, "another@111111111111") == "artifact_encoder_mismatch"
    assert RouterArtifact.load(tmp_path, encoder_id=None).id == small_manifest().id


def test_load_other_features_are_refused(tmp_path: Path) -> None:
    """An artifact for another list of prompt features is refused."""
    names = (*small_manifest().feature_names[:-1], "moon_phase")
    _write(tmp_path, msgspec.structs.replace(small_manifest(), feature_names=names), _graph())
    assert _refused(tmp_path) == "artifact_feature_mismatch"


def test_load_external_data_is_refused(tmp_path: Path) -> None:
    """A graph that names another file is refused, with whatever id it comes."""

    def point_outside(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "../../etc/passwd"

    _write(tmp_path, small_manifest(), _edited(point_outside))
    assert _refused(tmp_path) == "graph_external_data"


@pytest.mark.parametrize("domain", ["com.microsoft", "evil.example"])
def test_load_custom_operator_is_refused(tmp_path: Path, domain: str) -> None:
    """Routers use standard operators only; the runtime's own extensions are refused too."""

    def add_custom(model: onnx.ModelProto) -> None:
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
        model.graph.node.append(onnx.helper.make_node("Gelu", ["features"], ["unused"], domain=domain))

    _write(tmp_path, small_manifest(), _edited(add_custom))
    assert _refused(tmp_path) == "graph_unknown_operator"


def test_load_graph_with_other_outputs_is_refused(tmp_path: Path) -> None:
    """A valid graph that is no router is refused."""

    def drop_output(model: onnx.ModelProto) -> None:
        del model.graph.output[0]

    _write(tmp_path, small_manifest(), _edited(drop_output))
    assert _refused(tmp_path) == "artifact_graph_mismatch"


def test_load_graph_with_other_numbers_fails_its_golden_batch(tmp_path: Path) -> None:
    """A graph that computes something else than where it was made is refused, even when all hashes are right."""

    def shift(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == LINEAR_WEIGHT)
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 0.5, tensor.name))

    _write(tmp_path, small_manifest(), _edited(shift))
    assert _refused(tmp_path) == "artifact_golden_mismatch"


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": {}},
        {"prompt_vectors": ()},
        {"prompt_vectors": ((),)},
        {"prompt_vectors": ((1.0,) * DIMENSION, (1.0,))},
        {"prompt_vectors": ((0.0,) * DIMENSION,) * 4},
        {"features": ((1.0,), ())},
    ],
)
def test_load_incomplete_golden_batch_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """An artifact cannot skip its own check by leaving a part of it out, empty or ragged."""
    golden = msgspec.structs.replace(small_manifest().golden, **changes)
    _write(tmp_path, msgspec.structs.replace(small_manifest(), golden=golden), _graph())
    assert _refused(tmp_path) == "artifact_schema"


def test_estimate_known_prompt_equals_python_estimator(artifact: RouterArtifact) -> None:
    """Serving gives the numbers of the estimator that was fitted."""
    corpus, fitted = fitted_small_router()
    row = int(fitted.split["test"][0])
    vector, features = corpus.vectors[row], corpus.features[row]
    found = artifact.estimate(vector, features, reference_arm="middle")
    wanted = fitted.estimator.predict(vector[None].astype(float), features[None].astype(float), ARMS.index("middle"))
    for name in ("quality", "quality_se", "gain", "gain_se"):
        assert np.allclose(getattr(found, name), getattr(wanted, name)[0], atol=1e-5), name
    assert np.allclose(found.output_tokens, wanted.output_tokens[0], rtol=1e-4)
    assert found.novelty == pytest.approx(wanted.novelty[0], abs=1e-5)
    assert found.arms == ARMS
    assert found.reference_arm == "middle"


def test_estimate_gain_is_difference_of_qualities_and_zero_for_the_reference(artifact: RouterArtifact) -> None:
    """Gain and quality use one scale: gain = quality - quality of the reference arm."""
    corpus, _ = fitted_small_router()
    for reference in ARMS:
        found = artifact.estimate(corpus.vectors[3], corpus.features[3], reference_arm=reference)
        index = ARMS.index(reference)
        assert np.allclose(found.gain, found.quality - found.quality[index], atol=1e-6)
        assert found.gain[index] == 0.0
        assert found.gain_se[index] == 0.0


def test_estimate_prompt_from_elsewhere_is_novel(artifact: RouterArtifact) -> None:
    """A prompt that resembles nothing fitted on lies beyond the novelty bound, a familiar one within."""
    corpus, fitted = fitted_small_router()
    row = int(fitted.split["train"][0])
    familiar = artifact.estimate(corpus.vectors[row], corpus.features[row], reference_arm="dear")
    stranger = np.zeros(DIMENSION, dtype=np.float32)
    stranger[-1] = -1.0
    strange = artifact.estimate(stranger, corpus.features[row], reference_arm="dear")
    nothing = artifact.estimate(np.zeros(DIMENSION, dtype=np.float32), corpus.features[row], reference_arm="dear")
    assert not artifact.is_novel(familiar)
    assert artifact.is_novel(strange)
    assert artifact.is_novel(nothing)


def test_estimate_category_follows_the_topic_or_is_general(artifact: RouterArtifact) -> None:
    """The category head names the topic where it is clear and says general far from everything."""
    topics = np.eye(4, DIMENSION, dtype=np.float32)
    features = np.zeros(len(FEATURE_NAMES), dtype=np.float32)
    assert artifact.estimate(topics[0], features, reference_arm="dear").category == "maths"
    assert artifact.estimate(topics[3], features + 3, reference_arm="dear").category == "legal"


def test_estimate_unknown_reference_arm_is_an_artifact_error(artifact: RouterArtifact) -> None:
    """Gains cannot be measured against an arm that the artifact does not have."""
    corpus, _ = fitted_small_router()
    with pytest.raises(ArtifactError) as caught:
        artifact.estimate(corpus.vectors[0], corpus.features[0], reference_arm="unheard-of")
    assert caught.value.code == "artifact_unknown_arm"


def test_estimate_vector_of_wrong_length_is_an_artifact_error(artifact: RouterArtifact) -> None:
    """A vector of another encoder fails cleanly."""
    with pytest.raises(ArtifactError) as caught:
        artifact.estimate(np.ones(5, np.float32), np.zeros(len(FEATURE_NAMES), np.float32), reference_arm="dear")
    assert caught.value.code == "onnx_run_failed"


def test_estimate_numbers_that_are_not_finite_are_an_artifact_error(artifact: RouterArtifact) -> None:
    """A graph that gives NaN for a prompt decides nothing."""
    corpus, _ = fitted_small_router()
    with pytest.raises(ArtifactError) as caught:
        artifact.estimate(np.full(DIMENSION, np.nan, np.float32), corpus.features[0], reference_arm="dear")
    assert caught.value.code == "artifact_not_finite"


def test_tradeoff_names_are_the_measured_operating_points(artifact: RouterArtifact) -> None:
    """cost, balanced and quality mean what the manifest says."""
    for point in artifact.manifest.operating_points:
        found = artifact.tradeoff(point.name)
        assert found.name == point.name
        assert found.cost_weight == (math.inf if point.cost_weight is None else point.cost_weight)
        assert found.guard_z == point.guard_z


def test_tradeoff_number_never_raises_cost_weight_and_has_exact_ends(artifact: RouterArtifact) -> None:
    """0 is the cheapest, 1 the best, and between them a higher number never weighs cost more."""
    weights = [artifact.tradeoff(step / 200).cost_weight for step in range(201)]
    assert weights[0] == math.inf
    assert weights[-1] == 0.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(weights))
    assert artifact.tradeoff("0.7").cost_weight == artifact.tradeoff(0.7).cost_weight


@pytest.mark.parametrize("value", ["cheap", "", "1.01", -0.1, 2, float("nan"), "inf", True, "0,5"])
def test_tradeoff_unknown_value_is_refused(artifact: RouterArtifact, value: str | float) -> None:
    """Nothing but the three names and numbers from 0 to 1 is a trade-off."""
    with pytest.raises(ValueError, match="trade-off"):
        artifact.tradeoff(value)


def test_cost_scale_is_the_typical_request_at_given_prices(artifact: RouterArtifact) -> None:
    """The cost scale is linear in the user's prices."""
    manifest = artifact.manifest
    wanted = (manifest.reference_input_tokens * 2.0 + manifest.reference_output_tokens * 8.0) / 1e6
    assert artifact.cost_scale_usd(2.0, 8.0) == pytest.approx(wanted, rel=1e-12)


def test_interpolate_cost_weight_between_points_is_geometric() -> None:
    """Half way between λ = 4 and λ = 1 lies λ = 2; before the first finite point λ grows as 1/x."""
    frontier = (
        FrontierPoint(0.0, None, 0.1, 0.1),
        FrontierPoint(0.2, 4.0, 0.2, 0.2),
        FrontierPoint(0.6, 1.0, 0.3, 0.3),
        FrontierPoint(1.0, 0.0, 0.4, 1.0),
    )
    assert interpolate_cost_weight(frontier, 0.4) == pytest.approx(2.0)
    assert interpolate_cost_weight(frontier, 0.2) == pytest.approx(4.0)
    assert interpolate_cost_weight(frontier, 0.1) == pytest.approx(8.0)
    assert interpolate_cost_weight(frontier, 0.8) == pytest.approx(0.5)
