"""Neighbours beside a router's graph: a faiss index over prompt vectors, and the scores of the prompts in it.

Owns, in this package, the ``faiss`` library, which is imported only when an artifact has an index. Must not know what
the graph makes of the neighbours. Read `Neighbours.open`, then `NeighbourIndex.search`.

Codes: ``neighbour_index_refused`` (another kind, metric, dimension or count than the manifest says, or faiss cannot
read it), ``neighbour_search_failed``, and those of `penstock_routers.neighbour_files.read_verified`.
"""

from __future__ import annotations

import logging
import struct
import threading
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from penstock_routers.cuda_capture import DEVICE_GATE
from penstock_routers.errors import ArtifactError, MissingExtraError
from penstock_routers.installation import install_command
from penstock_routers.neighbour_files import INDEX_FILE, SCORES_FILE, IndexKind, NeighbourFiles, read_verified
from penstock_routers.onnx_session import first_line

FloatArray = NDArray[np.float32]
IndexArray = NDArray[np.int64]
IndexDevice = Literal["cpu", "auto"]

MISSING: Final = np.float32(-2.0)
"""Similarity of a neighbour that the search did not find; no cosine is as low."""
MISSING_BELOW: Final = -1.5
GPU_FLAT_POINTS: Final = 2_000_000  # up to here one pass over all vectors takes a GPU well under a millisecond

_log = logging.getLogger("penstock.router")
# What faiss writes first: the class of the index. Nothing else is handed to its reader.
_FIRST_BYTES: Final[dict[IndexKind, bytes]] = {"flat": b"IxFI", "ivf": b"IwFl", "ivf_sq8": b"IwSq", "hnsw": b"IHNf"}
_CLASSES: Final[dict[IndexKind, str]] = {
    "flat": "IndexFlatIP",
    "ivf": "IndexIVFFlat",
    "ivf_sq8": "IndexIVFScalarQuantizer",
    "hnsw": "IndexHNSWFlat",
}
_HEADER: Final = struct.Struct("<4siqqq?i")  # class, dimension, points, two unused, trained, metric
_INNER_PRODUCT: Final = 0
_QUANTISER_AT: Final = _HEADER.size + 16  # behind the number of lists and of lists to visit
_BLOCK: Final = 65_536
_GPU_PROBES: Final = 16
_GPU_SLACK: Final = 0.01  # cosine; more than half-precision rounding makes of the mean over k neighbours


class NeighbourIndex:
    """An opened index: k nearest prompts of a vector, by cosine. Safe to use from several threads.

    Parameters
    ----------
    content : ndarray of uint8
        What faiss wrote; verified by whoever calls. It is kept and, where faiss can, used in place.
    kind : {"flat", "ivf", "ivf_sq8", "hnsw"}
    dimension, points : int

    Attributes
    ----------
    kind : str
    dimension, points : int
    device : {"cpu", "cuda"}

    Raises
    ------
    ArtifactError
        ``neighbour_index_refused``.
    MissingExtraError
        faiss is not installed.
    """

    def __init__(self, content: NDArray[np.uint8], *, kind: IndexKind, dimension: int, points: int) -> None:
        self._faiss = import_faiss()
        self.kind: IndexKind = kind
        self.dimension = dimension
        self.points = points
        self.device: Literal["cpu", "cuda"] = "cpu"
        _check_header(content, kind, dimension, points)
        self._content = content
        self._index, self._held = _read(self._faiss, content)
        _check_class(self._faiss, self._index, kind, dimension, points)
        self._on_gpu: Any = None
        self._resources: Any = None
        self._gpu_lock = threading.Lock()
        self._parameters: dict[int, Any] = {}

    def search(
        self, vectors: FloatArray, count: int, effort: int, *, among: NDArray[np.bool_] | None = None, threads: int = 1
    ) -> tuple[FloatArray, IndexArray]:
        """Find the nearest prompts of n vectors; blocks.

        Parameters
        ----------
        vectors : ndarray of float32, shape (n, d)
        count : int
            k.
        effort : int
            Lists visited (IVF) or candidates kept (HNSW).
        among : ndarray of bool, shape (N,), optional
            Search only these prompts; on the CPU.
        threads : int
            For many vectors at once; which neighbours are found does not depend on it.

        Returns
        -------
        similarity : ndarray of float32, shape (n, k)
            Cosines, falling; `MISSING` where nothing more was found.
        rows : ndarray of int64, shape (n, k)
            Prompts; 0 where nothing more was found.

        Raises
        ------
        ArtifactError
            ``neighbour_search_failed``: vectors of another length, or the index names prompts that it has not.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            message = f"the index holds vectors of {self.dimension} numbers, not of {vectors.shape[-1]}"
            raise ArtifactError(message, code="neighbour_search_failed")
        if self._on_gpu is not None and among is None:
            found = self._search_gpu(vectors, count)
            if found is not None:
                return self._checked(*found)
        if vectors.shape[0] > 1:
            self._faiss.omp_set_num_threads(threads)  # of this thread; one vector is searched on one thread anyway
        parameters = self._parameters_for(effort, among)
        return self._checked(*self._index.search(np.ascontiguousarray(vectors), count, params=parameters))

    def move_to_gpu(self) -> bool:
        """Search on a GPU from now on, if faiss was built for one and a device is there.

        Returns
        -------
        bool
            False without a GPU build or a device, in silence, and after any failure, with a warning; the CPU index
            then goes on serving.

        Notes
        -----
        Up to two million prompts every vector is compared (`GpuIndexFlat`: exact); beyond, CAGRA where the build has
        it.
        """
        faiss = self._faiss
        if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() < 1:
            return False
        try:
            with DEVICE_GATE.other_work():
                resources = faiss.StandardGpuResources()
                moved = self._built_on_gpu(resources)
                problem = self._gpu_problem(moved)
        except Exception as failure:  # the library raises RuntimeError, MemoryError and classes of its own
            problem = f"{type(failure).__name__}: {first_line(failure)}"
        if problem is not None:
            _log.warning("neighbours_on_cpu", extra={"problem": problem})
            return False
        self._on_gpu, self._resources = moved, resources
        self.device = "cuda"
        return True

    def vectors(self, start: int, stop: int) -> FloatArray:
        """Vectors of the prompts from `start` up to `stop`, as far as the index keeps their digits."""
        if self.kind in ("ivf", "ivf_sq8"):
            self._index.make_direct_map()
        found: FloatArray = self._index.reconstruct_n(start, stop - start)
        return found

    def _built_on_gpu(self, resources: Any) -> Any:
        faiss = self._faiss
        if self.points <= GPU_FLAT_POINTS or not hasattr(faiss, "GpuIndexCagra"):
            index = faiss.GpuIndexFlatIP(resources, self.dimension)
            for start in range(0, self.points, _BLOCK):
                index.add(self.vectors(start, min(start + _BLOCK, self.points)))
            return index
        index = faiss.GpuIndexCagra(resources, self.dimension, faiss.METRIC_INNER_PRODUCT)
        index.train(self.vectors(0, self.points))
        return index

    def _gpu_problem(self, moved: Any) -> str | None:
        """Compare the GPU's neighbours of a few prompts with the CPU's; None when they are as near."""
        probes = self.vectors(0, min(_GPU_PROBES, self.points))
        count = min(10, self.points)
        found, rows = moved.search(probes, count)
        wanted, _ = self._index.search(probes, count)
        if float(found.mean()) < float(wanted.mean()) - _GPU_SLACK:
            return "the GPU finds neighbours that are further away"
        nearest = np.stack([self._index.reconstruct(int(row)) for row in rows[:, 0]])
        if float(np.abs(np.einsum("nd,nd->n", probes, nearest) - found[:, 0]).max()) > _GPU_SLACK:
            return "the GPU gives other cosines"
        return None

    def _search_gpu(self, vectors: FloatArray, count: int) -> tuple[FloatArray, IndexArray] | None:
        """Search on the GPU, one search at a time; None after a failure, which ends its use."""
        with self._gpu_lock:
            if self._on_gpu is None:
                return None
            try:
                with DEVICE_GATE.other_work():
                    similarity, rows = self._on_gpu.search(np.ascontiguousarray(vectors), count)
            except Exception as failure:  # as in `move_to_gpu`
                _log.warning("neighbours_on_cpu", extra={"problem": type(failure).__name__})
                self._on_gpu, self.device = None, "cpu"
                return None
        return similarity, rows

    def _parameters_for(self, effort: int, among: NDArray[np.bool_] | None) -> Any:
        if among is None and effort in self._parameters:
            return self._parameters[effort]
        faiss = self._faiss
        extra = {}
        if among is not None:
            extra["sel"] = faiss.IDSelectorBitmap(np.packbits(among, bitorder="little"))
        if self.kind == "hnsw":
            made = faiss.SearchParametersHNSW(efSearch=effort, **extra)
        elif self.kind == "flat":
            made = faiss.SearchParameters(**extra)
        else:
            made = faiss.SearchParametersIVF(nprobe=min(effort, self._index.nlist), **extra)
        if among is None:
            self._parameters[effort] = made
        return made

    def _checked(self, similarity: FloatArray, rows: IndexArray) -> tuple[FloatArray, IndexArray]:
        if int(rows.max(initial=0)) >= self.points:
            raise ArtifactError("the index names prompts that it has not", code="neighbour_search_failed")
        if int(rows.min(initial=0)) < 0:
            is_missing = rows < 0
            similarity[is_missing], rows[is_missing] = MISSING, 0
        return similarity, rows


class Neighbours:
    """Index and scores beside a graph, verified; immutable and safe to use from several threads.

    Attributes
    ----------
    files : NeighbourFiles
    index : NeighbourIndex
    scores : ndarray of uint8, shape (N, m)
        In steps of 1/255.
    """

    def __init__(self, files: NeighbourFiles, index: NeighbourIndex, scores: NDArray[np.uint8]) -> None:
        self.files = files
        self.index = index
        self.scores = scores

    @classmethod
    def open(cls, folder: Path, files: NeighbourFiles) -> Neighbours:
        """Open the files of an artifact folder, hashes first.

        Parameters
        ----------
        folder : Path
        files : NeighbourFiles
            From a manifest that was checked.

        Returns
        -------
        Neighbours

        Raises
        ------
        ArtifactError
            With one of the codes in the module's docstring.
        MissingExtraError
            faiss is not installed.

        Notes
        -----
        Memory: both files once, in this process.
        """
        import_faiss()  # before gigabytes are read
        scores = read_verified(folder / SCORES_FILE, files.scores_bytes, files.scores_sha256)
        content = read_verified(folder / INDEX_FILE, files.index_bytes, files.index_sha256)
        index = NeighbourIndex(content, kind=files.kind, dimension=files.dimension, points=files.points)
        return cls(files, index, scores.reshape(files.points, files.arms))

    def look_up(self, vectors: FloatArray) -> tuple[FloatArray, NDArray[np.uint8]]:
        """Find what the graph needs of n prompts.

        Parameters
        ----------
        vectors : ndarray of float32, shape (n, d)

        Returns
        -------
        similarity : ndarray of float32, shape (n, k)
        score : ndarray of uint8, shape (n, k, m)

        Raises
        ------
        ArtifactError
            ``neighbour_search_failed``.
        """
        similarity, rows = self.index.search(vectors, self.files.neighbours, self.files.effort)
        return similarity, self.scores[rows]


def import_faiss() -> Any:
    """Import faiss.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        import faiss
    except ImportError as missing:
        raise MissingExtraError(
            "this router keeps its neighbours in a faiss index, and faiss is not installed; run: "
            f"{install_command('cpu')} (extra gpu on a CUDA machine)"
        ) from missing
    return faiss


def _check_header(content: NDArray[np.uint8], kind: IndexKind, dimension: int, points: int) -> None:
    """Refuse, before faiss reads anything, what is not an index of this kind and size."""
    raw = content[: _QUANTISER_AT + 4].tobytes()
    if len(raw) < _HEADER.size:
        raise _refused("is cut short")
    first, found_dimension, found_points, _, _, is_trained, metric = _HEADER.unpack_from(raw)
    if first != _FIRST_BYTES[kind]:
        raise _refused(f"is not of kind {kind}")
    if found_dimension != dimension:
        raise _refused(f"holds vectors of {found_dimension} numbers, not of {dimension}")
    if found_points != points:
        raise _refused(f"holds {found_points:,} prompts, not {points:,}")
    if metric != _INNER_PRODUCT or not is_trained:
        raise _refused("does not compare by inner product")
    if kind in ("ivf", "ivf_sq8") and raw[_QUANTISER_AT:] != _FIRST_BYTES["flat"]:
        raise _refused("finds its lists by another index than a flat one")


def _read(faiss: Any, content: NDArray[np.uint8]) -> tuple[Any, tuple[Any, ...]]:
    """Let faiss read an index; returns it and what must live as long."""
    try:
        if hasattr(faiss, "ZeroCopyIOReader"):
            reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(content), content.nbytes)
            owner = faiss.read_index(reader)
        else:
            reader = None
            owner = faiss.deserialize_index(content)
    except Exception as failure:  # the library raises RuntimeError, MemoryError and classes of its own
        raise _refused(f"cannot be read by faiss: {type(failure).__name__}") from failure
    return faiss.downcast_index(owner), (owner, reader)


def _check_class(faiss: Any, index: Any, kind: IndexKind, dimension: int, points: int) -> None:
    if type(index).__name__ != _CLASSES[kind] or (index.d, index.ntotal) != (dimension, points):
        raise _refused(f"is not of kind {kind}")
    inner = index.storage if kind == "hnsw" else index.quantizer if kind in ("ivf", "ivf_sq8") else None
    if inner is not None and type(faiss.downcast_index(inner)).__name__ != "IndexFlatIP":
        raise _refused(f"is not of kind {kind}")
    if kind in ("ivf", "ivf_sq8") and index.quantizer.d != dimension:
        raise _refused("finds its lists by vectors of another length")
    if kind == "ivf_sq8" and index.sq.qtype != faiss.ScalarQuantizer.QT_8bit:
        raise _refused("does not keep one byte a number")


def _refused(why: str) -> ArtifactError:
    return ArtifactError(f"{INDEX_FILE} {why}", code="neighbour_index_refused")
