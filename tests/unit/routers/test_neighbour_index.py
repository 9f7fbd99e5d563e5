"""The index beside a graph: what is refused before faiss reads it, what a search gives, and when a GPU is given up."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from penstock_routers import neighbour_index
from penstock_routers.errors import ArtifactError
from penstock_routers.neighbour_files import IndexKind, read_verified
from penstock_routers.neighbour_index import MISSING, NeighbourIndex

DIMENSION, POINTS = 16, 800


def _vectors(count: int = POINTS, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _content(factory: str, metric: int = faiss.METRIC_INNER_PRODUCT) -> np.ndarray:
    index = faiss.index_factory(DIMENSION, factory, metric)
    index.train(_vectors())
    index.add(_vectors())
    return faiss.serialize_index(index)


def _opened(kind: IndexKind = "flat", factory: str = "Flat") -> NeighbourIndex:
    return NeighbourIndex(_content(factory), kind=kind, dimension=DIMENSION, points=POINTS)


def test_flat_search_finds_the_largest_cosines_in_order() -> None:
    """Rows and cosines are those of a full comparison."""
    queries = _vectors(20, seed=1)
    similarity, rows = _opened().search(queries, 10, 0)
    cosine = queries @ _vectors().T
    assert (rows == np.argsort(-cosine, axis=1)[:, :10]).all()
    assert np.allclose(similarity, -np.sort(-cosine, axis=1)[:, :10], atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "factory"), [("flat", "Flat"), ("ivf", "IVF8,Flat"), ("ivf_sq8", "IVF8,SQ8"), ("hnsw", "HNSW8,Flat")]
)
def test_search_among_some_prompts_finds_no_other(kind: IndexKind, factory: str) -> None:
    """Cross-validation hides a fold from every kind of index; what is not found is marked."""
    among = np.zeros(POINTS, dtype=bool)
    among[10:15] = True
    similarity, rows = _opened(kind, factory).search(_vectors(3, seed=1), 8, 800, among=among)
    found = similarity > MISSING
    assert set(rows[found]) <= set(range(10, 15))
    assert (rows[~found] == 0).all()
    assert (found.sum(axis=1) <= 5).all()
    assert found.any()


def test_search_with_more_threads_finds_the_same() -> None:
    """The number of threads is no part of the result."""
    index = _opened("ivf_sq8", "IVF8,SQ8")
    queries = _vectors(40, seed=2)
    one, two = (index.search(queries, 10, 2, threads=threads) for threads in (1, 2))
    assert (one[1] == two[1]).all()
    assert np.array_equal(one[0], two[0])


@pytest.mark.parametrize(
    ("factory", "kind", "sentence"),
    [
        ("IVF8,Flat", "flat", "is not of kind flat"),
        ("Flat", "ivf", "is not of kind ivf"),
        ("SQ8", "flat", "is not of kind flat"),
        ("PCA8,Flat", "flat", "is not of kind flat"),
        ("IVF8_HNSW8,Flat", "ivf", "finds its lists by another index"),
        ("IVF8,SQ4", "ivf", "is not of kind ivf"),
        ("HNSW8_SQ8", "hnsw", "is not of kind hnsw"),
    ],
)
def test_index_of_an_unexpected_class_never_reaches_faiss(
    factory: str, kind: IndexKind, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of faiss's many readers four are used; the rest are refused by the first bytes."""
    content = _content(factory)

    def refuse(*_: Any) -> None:
        raise AssertionError("faiss was asked")

    monkeypatch.setattr(faiss, "read_index", refuse)
    with pytest.raises(ArtifactError, match=sentence) as caught:
        NeighbourIndex(content, kind=kind, dimension=DIMENSION, points=POINTS)
    assert caught.value.code == "neighbour_index_refused"


@pytest.mark.parametrize(
    ("dimension", "points", "sentence"),
    [(DIMENSION + 1, POINTS, "vectors of 16 numbers, not of 17"), (DIMENSION, 801, "800 prompts, not 801")],
)
def test_index_of_another_size_is_refused(dimension: int, points: int, sentence: str) -> None:
    """Dimension and count must be those of the manifest."""
    with pytest.raises(ArtifactError, match=sentence):
        NeighbourIndex(_content("Flat"), kind="flat", dimension=dimension, points=points)


def test_index_by_distance_is_refused() -> None:
    """Rows ordered by Euclidean distance would be read as cosines."""
    content = _content("IVF8,Flat", faiss.METRIC_L2)
    with pytest.raises(ArtifactError, match="inner product"):
        NeighbourIndex(content, kind="ivf", dimension=DIMENSION, points=POINTS)


def test_index_of_half_a_byte_a_number_is_refused() -> None:
    """Another precision than the kind says would have another recall than the manifest says."""
    with pytest.raises(ArtifactError, match="one byte a number"):
        NeighbourIndex(_content("IVF8,SQ4"), kind="ivf_sq8", dimension=DIMENSION, points=POINTS)


@pytest.mark.parametrize("length", [0, 20, 60, 5000])
def test_index_that_is_cut_short_is_refused(length: int) -> None:
    """Also where its hash is right: an artifact may have been made wrong."""
    with pytest.raises(ArtifactError) as caught:
        NeighbourIndex(_content("IVF8,Flat")[:length].copy(), kind="ivf", dimension=DIMENSION, points=POINTS)
    assert caught.value.code == "neighbour_index_refused"


def test_index_that_names_prompts_beyond_its_own_is_refused_at_the_search() -> None:
    """Identifiers inside an index are not trusted: they address the score table."""
    index = faiss.index_factory(DIMENSION, "IVF8,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(_vectors())
    index.add_with_ids(_vectors(), np.arange(POINTS) + 5)
    opened = NeighbourIndex(faiss.serialize_index(index), kind="ivf", dimension=DIMENSION, points=POINTS)
    with pytest.raises(ArtifactError, match="names prompts that it has not") as caught:
        opened.search(_vectors(), 5, 8)
    assert caught.value.code == "neighbour_search_failed"


class _Gpu:
    """Faiss as a GPU build shows itself, over CPU indexes."""

    def __init__(self, *, devices: int = 1, makes: Any = faiss.IndexFlatIP, fails: str = "") -> None:
        self._devices = devices
        self._makes = makes
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        return getattr(faiss, name)

    def get_num_gpus(self) -> int:
        return self._devices

    def StandardGpuResources(self) -> object:  # noqa: N802  (faiss's name)
        if self._fails:
            raise RuntimeError(self._fails)
        return object()

    def GpuIndexFlatIP(self, _: object, dimension: int) -> Any:  # noqa: N802  (faiss's name)
        return self._makes(dimension)


class _Failing:
    """A GPU index that works until it is used in earnest."""

    def __init__(self, dimension: int) -> None:
        self._index = faiss.IndexFlatIP(dimension)
        self.searches = 0

    def add(self, vectors: np.ndarray) -> None:
        self._index.add(vectors)

    def search(self, vectors: np.ndarray, count: int) -> Any:
        self.searches += 1
        if self.searches > 1:
            raise RuntimeError("device lost")
        return self._index.search(vectors, count)


class _Wrong(_Failing):
    """A GPU index that finds other prompts."""

    def search(self, vectors: np.ndarray, count: int) -> Any:
        return self._index.search(-vectors, count)


def _with(gpu: _Gpu, monkeypatch: pytest.MonkeyPatch) -> NeighbourIndex:
    monkeypatch.setattr(neighbour_index, "import_faiss", lambda: gpu)
    return _opened("ivf_sq8", "IVF8,SQ8")


def test_gpu_search_is_exact_over_what_the_index_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every vector is compared, so even one visited list finds what a full search finds."""
    index = _with(_Gpu(), monkeypatch)
    assert index.move_to_gpu()
    assert index.device == "cuda"
    found, _ = index.search(_vectors(20, seed=1), 10, 1)
    assert np.allclose(found, -np.sort(-(_vectors(20, seed=1) @ _vectors().T), axis=1)[:, :10], atol=0.02)
    # Hiding rows is the CPU's business.
    among = np.arange(POINTS) < 5
    assert index.search(_vectors(2), 3, 8, among=among)[1].max() < 5


@pytest.mark.parametrize("gpu", [_Gpu(devices=0), faiss])
def test_gpu_that_is_not_there_is_no_warning(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A CPU build, or a machine without a device, searches on the CPU in silence."""
    if gpu is faiss and hasattr(faiss, "StandardGpuResources"):
        pytest.skip("this is a GPU build")
    index = _with(gpu, monkeypatch)
    with caplog.at_level(logging.WARNING, "penstock.router"):
        assert not index.move_to_gpu()
    assert not caplog.records
    assert index.device == "cpu"


@pytest.mark.parametrize("gpu", [_Gpu(fails="no kernel image is available"), _Gpu(fails="\n"), _Gpu(makes=_Wrong)])
def test_gpu_that_fails_or_finds_worse_is_given_up_with_a_warning(
    gpu: _Gpu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong on the way to the GPU, the CPU index serves, and the log says why."""
    index = _with(gpu, monkeypatch)
    logging.getLogger("penstock.router").addHandler(caplog.handler)
    try:
        assert not index.move_to_gpu()
    finally:
        logging.getLogger("penstock.router").removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records][:1] == ["neighbours_on_cpu"]
    assert index.device == "cpu"
    assert index.search(_vectors(2), 3, 8)[1][0, 0] == 0


def test_gpu_that_fails_while_serving_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request during which the device is lost is answered from the CPU, and so are all later ones."""
    index = _with(_Gpu(makes=_Failing), monkeypatch)
    assert index.move_to_gpu()
    assert index.search(_vectors(2), 3, 8)[1][:, 0].tolist() == [0, 1]
    assert index.device == "cpu"


def test_read_verified_gives_the_content_unwritable(tmp_path: Path) -> None:
    """What was verified is held in this process and cannot be changed."""
    raw = b"neighbours" * 1000
    (tmp_path / "file").write_bytes(raw)
    content = read_verified(tmp_path / "file", len(raw), hashlib.sha256(raw).hexdigest())
    (tmp_path / "file").write_bytes(b"")
    assert content.tobytes() == raw
    with pytest.raises(ValueError, match="read-only"):
        content[0] = 0


def test_read_verified_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    """Only regular files are opened; a pipe would block for ever."""
    with pytest.raises(ArtifactError) as caught:
        read_verified(tmp_path, 1, "")
    assert caught.value.code == "artifact_missing"
