"""A router with an index beside its graph estimates what its Python form estimates, and what exact neighbours give."""

from __future__ import annotations

import builtins
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import msgspec
import numpy as np
import pytest

from penstock_routers.artifact import RouterArtifact
from penstock_routers.errors import ArtifactError, MissingExtraError
from penstock_routers.manifest import INPUT_NAMES, artifact_id, canonical_bytes, decode_manifest, encode_manifest
from penstock_routers.neighbour_files import INDEX_FILE, SCORES_FILE
from penstock_routers.neighbour_index import NeighbourIndex
from penstock_routers.prompt_content import holds_prompt_vectors
from penstock_training.errors import TrainingError
from penstock_training.export import check_parity, run_graph, time_head
from penstock_training.families.beside import BesideHead, beside_head
from penstock_training.families.ensemble import EnsembleHead
from penstock_training.families.head import TrainingSet
from penstock_training.families.knn import KnnFamily, SupportHead
from penstock_training.fit import fit_router, make_training_set
from penstock_training.index_building import BuiltIndex
from penstock_training.onboarding.evidence import NewArm
from penstock_training.onboarding.session import onboard
from penstock_training.pack import write_artifact
from penstock_training.places import FormScaler
from penstock_training.publishing.description import describe_text
from support.beside_router import KINDS, NEIGHBOURS, beside_options, beside_router
from support.small_router import ARMS, ENCODER, OPTIONS, fitted_small_router, made_up_corpus, small_manifest


def _training_set() -> TrainingSet:
    corpus = made_up_corpus(400, missing=0.0)
    return make_training_set(corpus, FormScaler.fit(corpus.features), OPTIONS)


def _refused(folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        RouterArtifact.load(folder, encoder_id=ENCODER.id)
    assert str(folder.parent) not in caught.value.message
    return caught.value.code


@pytest.mark.parametrize("kind", KINDS)
def test_artifact_with_an_index_estimates_what_its_estimator_predicts(tmp_path: Path, kind: str) -> None:
    """From the files on the disk, every output of every held-out prompt agrees to 2e-5, as for any other router."""
    router = beside_router(kind)
    artifact = router.write(tmp_path)
    test = router.corpus.rows(router.fitted.split["test"])
    wanted = router.fitted.estimator.predict(test.vectors, test.features, ARMS.index("middle"))
    for row in range(test.vectors.shape[0]):
        found = artifact.estimate(test.vectors[row], test.features[row], reference_arm="middle")
        for name in ("quality", "quality_se", "gain", "gain_se"):
            assert np.abs(getattr(found, name) - getattr(wanted, name)[row]).max() <= 2e-5, name
        assert abs(found.novelty - wanted.novelty[row]) <= 2e-5
    assert router.fitted.parity.agreeing == router.fitted.parity.rows


def test_flat_index_gives_exactly_what_neighbours_inside_the_graph_give() -> None:
    """Over the same vectors, search beside and search inside differ by float rounding only."""
    training = _training_set()
    settings = {**KnnFamily.defaults, "support_points": 1.0, "neighbours": float(NEIGHBOURS)}
    inside = KnnFamily().fit(training, settings, 0)
    assert isinstance(inside, SupportHead)
    stored = np.ascontiguousarray(inside.codes.astype(np.float32) * inside.scale[:, None])
    index = faiss.IndexFlatIP(stored.shape[1])
    index.add(stored)
    content = faiss.serialize_index(index)
    opened = NeighbourIndex(content, kind="flat", dimension=stored.shape[1], points=len(stored))
    none = np.zeros(0, dtype=np.int64)
    built = BuiltIndex(content, opened, inside.neighbours, 0, 1.0, none, none)
    beside = BesideHead(built, None, inside.scores, inside.bandwidth, inside.strength, inside.prior)
    inputs = training.inputs.rows(np.arange(0, 400, 3))
    assert np.abs(beside.predict(inputs) - inside.predict(inputs)).max() <= 1e-5


@pytest.mark.parametrize("kind", ["ivf_sq8", "ivf", "hnsw"])
def test_approximate_index_reaches_its_recall_and_states_its_loss(kind: str) -> None:
    """The manifest's recall is at least the one asked for, and the stated loss in quality is small and finite."""
    files = beside_router(kind).manifest.neighbours
    assert files is not None
    assert files.recall >= KnnFamily.defaults["index_recall"]
    assert 0.0 <= files.quality_difference < 0.03  # a tenth of 40 neighbours, exchanged for others nearly as near
    assert abs(files.squared_error_rise) < 0.01
    assert files.recall_queries > 0


def test_index_of_a_fold_never_shows_the_fold_that_is_left_out() -> None:
    """Heads of cross-validation share one index over all prompts, and search only their own rows of it."""
    training = _training_set()
    settings = {**KnnFamily.defaults, **beside_options("flat").router.settings}
    rest = np.arange(100, 400)
    head = KnnFamily().fit(training.rows(rest), settings, 0)
    assert isinstance(head, BesideHead)
    assert head.among is not None
    vectors = training.inputs.vectors[:50].astype(np.float32)
    _, rows = head.built.index.search(vectors, NEIGHBOURS, 0, among=head.among)
    assert rows.min() >= 100
    whole = KnnFamily().fit(training, settings, 0)
    assert isinstance(whole, BesideHead)
    assert whole.built is head.built
    own, _ = whole.built.index.search(vectors, 1, 0)
    assert np.allclose(own, 1.0, atol=1e-5)  # all rows: every prompt finds itself


def test_graph_with_no_neighbour_found_gives_the_prior() -> None:
    """Where the search finds nothing, weights vanish in NumPy and in the graph alike, and the prior remains."""
    router = beside_router("flat")
    head = beside_head(router.fitted.estimator.head)
    assert head is not None
    nothing = np.zeros((1, NEIGHBOURS), dtype=np.uint8)
    found = head.blend(np.full((1, NEIGHBOURS), -2.0, np.float32), nothing[:, :, None].repeat(len(ARMS), axis=2))
    assert np.allclose(found, head.prior)

    class Empty(NeighbourIndex):
        def search(self, vectors: Any, count: int, *_: Any, **__: Any) -> Any:
            return np.full((len(vectors), count), -2.0, np.float32), np.zeros((len(vectors), count), np.int64)

    index = head.built.index
    empty = Empty(head.built.content, kind="flat", dimension=index.dimension, points=index.points)
    estimator = router.fitted.estimator
    bare = replace(head, built=replace(head.built, index=empty))
    test = router.corpus.rows(router.fitted.split["test"][:5])
    wanted = replace(estimator, head=bare).predict(test.vectors, test.features, 0)
    found_quality = run_graph(router.fitted.graph, test.vectors, test.features, 0, bare).quality
    assert np.abs(found_quality - wanted.quality).max() <= 2e-5
    assert np.allclose(wanted.quality, wanted.quality[:1])


def test_ensemble_with_an_indexed_member_agrees_with_its_estimator() -> None:
    """A member may keep its neighbours beside the graph; two may not."""
    router = beside_router("flat")
    head = router.fitted.estimator.head
    blend = EnsembleHead(("knn",), (head,), (1.0,))
    assert beside_head(blend) is head
    with pytest.raises(TrainingError) as caught:
        beside_head(EnsembleHead(("knn", "knn"), (head, head), (0.5, 0.5)))
    assert caught.value.code == "several_indexes"
    test = router.corpus.rows(router.fitted.split["test"])
    estimator = replace(router.fitted.estimator, head=blend)
    from penstock_training.export import build_graph

    assert check_parity(estimator, build_graph(estimator), test.vectors, test.features).passes


def test_manifest_without_an_index_keeps_the_bytes_and_id_of_earlier_releases(repository_root: Path) -> None:
    """The section is absent from artifacts that have none: committed ids stay valid, and earlier releases read them."""
    folder = repository_root / "onnx_models" / "default-router"
    raw = (folder / "manifest.json").read_bytes()
    manifest = decode_manifest(raw)
    assert manifest.neighbours is None
    assert encode_manifest(manifest) == raw
    assert "neighbours" not in json.loads(canonical_bytes(small_manifest()))
    assert artifact_id(manifest, (folder / "router.onnx").read_bytes()) == manifest.id
    assert not holds_prompt_vectors(manifest)


def test_artifact_shown_to_people_names_its_index() -> None:
    """How many prompts lie beside the graph, in how many megabytes, and how well they are found."""
    text = describe_text(beside_router("flat").manifest)
    assert "of single prompts beside the graph (flat" in " ".join(text.split())
    assert "recall 1.000" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_manifest_with_an_index_counts_as_holding_prompt_vectors() -> None:
    """Whatever the settings say: vectors of single prompts beside the graph are content."""
    manifest = beside_router("flat").manifest
    assert holds_prompt_vectors(manifest)
    assert holds_prompt_vectors(msgspec.structs.replace(manifest, hyperparameters={}))


@pytest.mark.parametrize("file", [INDEX_FILE, SCORES_FILE])
@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (lambda raw: raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :], "corrupt"),
        (lambda raw: raw[:-1], "corrupt"),
        (lambda raw: raw + b"\0", "oversize"),
        (lambda raw: None, "missing"),
    ],
)
def test_damaged_neighbour_file_is_refused_before_faiss_reads_it(
    tmp_path: Path, file: str, harm: Callable[[bytes], bytes | None], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed, cut, longer or missing file is named by its code; the parser never sees it."""
    beside_router("ivf_sq8").write(tmp_path)
    harmed = harm((tmp_path / file).read_bytes())
    (tmp_path / file).unlink()
    if harmed is not None:
        (tmp_path / file).write_bytes(harmed)

    def refuse(*_: Any) -> None:
        raise AssertionError("faiss was asked to read a file that was not verified")

    monkeypatch.setattr(faiss, "read_index", refuse)
    assert _refused(tmp_path) == f"artifact_{code}"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dimension": 13}, "another dimension"),
        ({"arms": 2}, "scores of other arms"),
        ({"neighbours": 0}, "fewer points than neighbours"),
        ({"neighbours": 1001}, "fewer points than neighbours"),
        ({"effort": 5000}, "effort"),
        ({"points": 7}, "fewer points"),
        ({"index_bytes": (4 << 30) + 1}, "too large"),
    ],
)
def test_manifest_whose_neighbours_contradict_it_is_refused(change: dict[str, Any], sentence: str) -> None:
    """What the section says is checked before any file of that size is opened."""
    manifest = beside_router("flat").manifest
    assert manifest.neighbours is not None
    changed = msgspec.structs.replace(manifest, neighbours=msgspec.structs.replace(manifest.neighbours, **change))
    with pytest.raises(ArtifactError, match=sentence) as caught:
        decode_manifest(encode_manifest(changed))
    assert caught.value.code == "artifact_schema"


def test_manifest_that_hides_its_index_is_refused(tmp_path: Path) -> None:
    """A graph that wants neighbours needs a manifest that names them."""
    router = beside_router("flat")
    router.write(tmp_path)
    bare = msgspec.structs.replace(router.manifest, neighbours=None, inputs=router.manifest.inputs[: len(INPUT_NAMES)])
    bare = msgspec.structs.replace(bare, id=artifact_id(bare, router.fitted.graph))
    (tmp_path / "manifest.json").write_bytes(encode_manifest(bare))
    assert _refused(tmp_path) == "artifact_graph_mismatch"


def test_index_over_other_vectors_is_noticed_by_the_golden_batch(tmp_path: Path) -> None:
    """Scores of other prompts with right hashes and a right id still give other numbers than where it was made."""
    router = beside_router("flat")
    router.write(tmp_path)
    manifest = router.manifest
    assert manifest.neighbours is not None
    turned = np.fromfile(tmp_path / SCORES_FILE, np.uint8)[::-1]
    turned.tofile(tmp_path / SCORES_FILE)
    files = msgspec.structs.replace(manifest.neighbours, scores_sha256=hashlib.sha256(turned.tobytes()).hexdigest())
    changed = msgspec.structs.replace(manifest, neighbours=files)
    changed = msgspec.structs.replace(changed, id=artifact_id(changed, router.fitted.graph))
    assert changed.id != manifest.id
    (tmp_path / "manifest.json").write_bytes(encode_manifest(changed))
    assert _refused(tmp_path) == "artifact_golden_mismatch"


def test_vector_of_another_encoder_is_refused_by_the_index(tmp_path: Path) -> None:
    """A vector of another length never reaches faiss, and an artifact for another encoder is not opened."""
    artifact = beside_router("ivf_sq8").write(tmp_path)
    with pytest.raises(ArtifactError, match="vectors of 12 numbers, not of 384") as caught:
        artifact.estimate(np.zeros(384, np.float32), np.zeros(10, np.float32), reference_arm="dear")
    assert caught.value.code == "neighbour_search_failed"
    with pytest.raises(ArtifactError) as other:
        RouterArtifact.load(tmp_path, encoder_id="other@000000000000")
    assert other.value.code == "artifact_encoder_mismatch"


def test_artifact_with_an_index_without_faiss_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the library the error names the extra; a router without an index needs none."""
    beside_router("flat").write(tmp_path / "beside")
    small = small_manifest()
    write_artifact(tmp_path / "small", small, fitted_small_router()[1].graph)
    real_import = builtins.__import__

    def without_faiss(name: str, *rest: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return real_import(name, *rest)

    monkeypatch.delitem(sys.modules, "faiss")
    monkeypatch.setattr(builtins, "__import__", without_faiss)
    with pytest.raises(MissingExtraError, match=r"faiss is not installed; run: .*cpu") as caught:
        RouterArtifact.load(tmp_path / "beside", encoder_id=ENCODER.id)
    assert caught.value.code == "missing_extra"
    assert RouterArtifact.load(tmp_path / "small", encoder_id=ENCODER.id).neighbours is None


def test_refitted_folder_without_an_index_leaves_none_behind(tmp_path: Path) -> None:
    """A router in a folder is replaced as a whole: no vectors of the earlier one stay beside it."""
    beside_router("flat").write(tmp_path)
    assert {INDEX_FILE, SCORES_FILE} <= {path.name for path in tmp_path.iterdir()}
    write_artifact(tmp_path, small_manifest(), fitted_small_router()[1].graph)
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "router.onnx"}


def test_time_of_an_indexed_head_includes_the_search() -> None:
    """The search over families weighs what a prompt takes when serving, the index beside the graph included."""
    router = beside_router("flat")
    head = beside_head(router.fitted.estimator.head)
    assert head is not None
    test = router.corpus.rows(router.fitted.split["test"])
    inputs = router.fitted.estimator.frame.inputs(test.vectors, test.features)
    searches = 0

    class Counting(NeighbourIndex):
        def search(self, *arguments: Any, **more: Any) -> Any:
            nonlocal searches
            searches += 1
            return super().search(*arguments, **more)

    index = head.built.index
    counting = Counting(head.built.content, kind="flat", dimension=index.dimension, points=index.points)
    assert time_head(replace(head, built=replace(head.built, index=counting)), inputs) > 0.0
    assert searches > 1


def test_onboarding_onto_an_indexed_router_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score table has one column per arm; a further arm needs a fit, and nothing is written."""
    artifact = beside_router("flat").write(tmp_path / "beside")
    monkeypatch.setattr("penstock_training.onboarding.session.open_router", lambda *_: (artifact, None))
    new = NewArm("newest", None, None, None)
    with pytest.raises(TrainingError, match="beside the graph") as caught:
        onboard(
            tmp_path / "beside",
            made_up_corpus(60).matrix,
            tmp_path / "out",
            new,
            encoder_folder=None,
            progress=lambda *_: None,
        )
    assert caught.value.code == "artifact_graph_unknown"
    assert not (tmp_path / "out").exists()


def test_fit_below_the_limit_keeps_neighbours_inside_the_graph() -> None:
    """Up to 200,000 prompts nothing lies beside the graph, and no faiss is needed."""
    assert KnnFamily.defaults["index_from"] == 200_000
    head = KnnFamily().fit(_training_set(), {**KnnFamily.defaults, "support_points": 1.0}, 0)
    assert isinstance(head, SupportHead)


@pytest.mark.parametrize(
    "settings", [{"index_kind": 5.0}, {"index_recall": 0.0}, {"index_recall": 1.5}, {"neighbours": 1001.0}]
)
def test_fit_with_an_impossible_index_is_refused(settings: dict[str, float]) -> None:
    """A wrong number is named before anything is built."""
    own = {**KnnFamily.defaults, **beside_options("flat").router.settings, **settings}
    with pytest.raises(TrainingError) as caught:
        KnnFamily().fit(_training_set(), own, 0)
    assert caught.value.code == "bad_setting"


def test_fit_takes_four_bytes_a_number_where_one_confuses_prompts() -> None:
    """When one byte a number cannot reach the recall asked for, the default kind keeps vectors whole instead."""
    training = _training_set()
    own = {**KnnFamily.defaults, **beside_options("ivf_sq8").router.settings, "index_recall": 1.0}
    with pytest.raises(TrainingError, match="ask for less recall"):
        KnnFamily().fit(training, own, 0)
    head = KnnFamily().fit(training, own | {"index_kind": 0.0}, 0)
    assert isinstance(head, BesideHead)
    assert (head.built.index.kind, head.built.recall) == ("ivf", 1.0)


def test_fit_twice_gives_the_same_index_and_id() -> None:
    """The files beside the graph are as repeatable as the graph: one id for the same outcomes."""
    router = beside_router("ivf_sq8")
    options = beside_options("ivf_sq8")
    again = fit_router(router.corpus, reference_arm="dear", options=options, progress=lambda *_: None)
    head = beside_head(again.estimator.head)
    assert head is not None
    assert head.files() == router.manifest.neighbours
    assert json.loads(msgspec.json.encode(head.files()))["kind"] == "ivf_sq8"
