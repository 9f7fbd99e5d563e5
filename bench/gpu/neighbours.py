"""Neighbours on a GPU against the CPU: build and search times for 1 and 32 prompts at once, and recall.

Self-contained but for ``penstock_routers`` (numpy, msgspec) and faiss: copy it to a machine with the GPU build, or run
it on any machine, where it compares CPU indexes only. Vectors are made up: clustered, unit length, one prompt in eight
asked almost alike; recall on real ones is `bench/neighbours.py`'s. Prints one JSON object.

Usage::

    PYTHONPATH=routers python bench/gpu/neighbours.py --points 1000000
    PYTHONPATH=routers python bench/gpu/neighbours.py --vectors vectors.npy      real ones: float32, (N, d), unit length

On a GPU the product's own path is measured too: ``NeighbourIndex.move_to_gpu``, as a gateway takes it.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "routers"))
from penstock_routers.neighbour_index import NeighbourIndex

FloatArray = NDArray[np.float32]
Search = Callable[[FloatArray, int], tuple[Any, Any]]

NEIGHBOURS = 100
QUERIES = 512
BATCHES = (1, 32)
NPROBE = 32


def main() -> None:
    """Run the bench as the command line asks."""
    options = _parse()
    vectors = np.load(options.vectors) if options.vectors else made_up(options.points, options.dimension)
    queries, vectors = vectors[:QUERIES].copy(), vectors[QUERIES:]
    count = min(NEIGHBOURS, len(vectors))
    faiss.omp_set_num_threads(options.threads)
    results: list[dict[str, Any]] = []
    exact: NDArray[np.int64] | None = None

    def add(name: str, seconds: float, search: Search) -> None:
        nonlocal exact
        _, rows = search(queries, count)
        if exact is None:
            exact = rows
        row = {
            "index": name,
            "build_seconds": round(seconds, 2),
            "recall": round(_recall(exact, rows), 4),
            "search_us": {str(size): _times(search, queries, size, count, options.searches) for size in BATCHES},
        }
        print(json.dumps(row), file=sys.stderr, flush=True)
        results.append(row)

    for name, build in {"cpu flat": _flat, "cpu ivf_sq8": _ivf}.items():
        started = time.perf_counter()
        index = build(vectors)
        add(name, time.perf_counter() - started, lambda q, k, index=index: index.search(q, k))
        if name == "cpu ivf_sq8" and _gpus():
            _moved(index, vectors, add)
    if _gpus():
        _gpu_indexes(vectors, add)
    print(
        json.dumps(
            {
                "machine": platform.platform(),
                "faiss": faiss.__version__,
                "build": faiss.get_compile_options(),
                "gpus": _gpus(),
                "has_cagra": hasattr(faiss, "GpuIndexCagra"),
                "points": len(vectors),
                "dimension": vectors.shape[1],
                "neighbours": count,
                "threads": options.threads,
                "results": results,
            },
            indent=1,
        )
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--points", type=int, default=1_000_000, help="made-up vectors (1000000)")
    parser.add_argument("--dimension", type=int, default=256, help="their length (256)")
    parser.add_argument("--vectors", type=Path, help="real ones instead: a .npy file of float32, unit length")
    parser.add_argument("--searches", type=int, default=300, help="timed searches per batch size (300)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    return parser.parse_args()


def made_up(points: int, dimension: int) -> FloatArray:
    """Unit vectors around one centre per hundred, in blocks; every eighth close to the one before."""
    random = np.random.default_rng(0)
    centers = random.standard_normal((max(1, points // 100), dimension)).astype(np.float32)
    found = np.empty((points + QUERIES, dimension), dtype=np.float32)
    for start in range(0, len(found), 65_536):
        stop = min(start + 65_536, len(found))
        block = centers[random.integers(0, len(centers), stop - start)]
        block = block + 0.8 * random.standard_normal(block.shape).astype(np.float32)
        block[7::8] = block[6::8][: len(block[7::8])] + 0.05 * block[7::8]
        found[start:stop] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return found


def _flat(vectors: FloatArray) -> Any:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def _ivf(vectors: FloatArray) -> Any:
    lists = max(1, min(4 * int(len(vectors) ** 0.5), len(vectors) // 39))
    index = faiss.index_factory(vectors.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid, index.cp.spherical = 64, True
    index.train(vectors[np.random.default_rng(0).permutation(len(vectors))[: 64 * lists]])
    index.add(vectors)
    index.nprobe = min(NPROBE, lists)
    return index


def _moved(index: Any, vectors: FloatArray, add: Callable[[str, float, Search], None]) -> None:
    """The path of a gateway: an index from an artifact, moved to the GPU."""
    content = faiss.serialize_index(index)
    opened = NeighbourIndex(content, kind="ivf_sq8", dimension=vectors.shape[1], points=len(vectors))
    started = time.perf_counter()
    if opened.move_to_gpu():
        name = "ivf_sq8 moved to the gpu by move_to_gpu"
        add(name, time.perf_counter() - started, lambda q, k: opened.search(q, k, NPROBE))
    else:
        print("move_to_gpu gave the GPU up; see the warning above", file=sys.stderr)


def _gpu_indexes(vectors: FloatArray, add: Callable[[str, float, Search], None]) -> None:
    resources = faiss.StandardGpuResources()
    for name, build in {
        "gpu flat float32": lambda: _gpu_flat(resources, vectors, half=False),
        "gpu flat float16": lambda: _gpu_flat(resources, vectors, half=True),
        "gpu cagra": lambda: _gpu_cagra(resources, vectors),
    }.items():
        if name == "gpu cagra" and not hasattr(faiss, "GpuIndexCagra"):
            print("this build has no CAGRA", file=sys.stderr)
            continue
        started = time.perf_counter()
        try:
            index = build()
            add(name, time.perf_counter() - started, lambda q, k, index=index: index.search(q, k))
        except RuntimeError as failure:
            print(f"{name}: {str(failure).splitlines()[0][:300]}", file=sys.stderr)


def _gpu_flat(resources: Any, vectors: FloatArray, *, half: bool) -> Any:
    config = faiss.GpuIndexFlatConfig()
    config.useFloat16 = half
    index = faiss.GpuIndexFlatIP(resources, vectors.shape[1], config)
    index.add(vectors)
    return index


def _gpu_cagra(resources: Any, vectors: FloatArray) -> Any:
    index = faiss.GpuIndexCagra(resources, vectors.shape[1], faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    return index


def _gpus() -> int:
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def _recall(exact: NDArray[np.int64], rows: NDArray[np.int64]) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(exact, rows, strict=True)]))


def _times(search: Search, queries: FloatArray, size: int, count: int, searches: int) -> dict[str, float]:
    """Microseconds per search of `size` prompts, after a few to warm up."""
    taken = []
    for number in range(searches + 5):
        start = (number * size) % (len(queries) - size + 1)
        batch = queries[start : start + size]
        started = time.perf_counter()
        search(batch, count)
        taken.append(time.perf_counter() - started)
        if sum(taken) > 20.0:
            break
    p50, p99 = 1e6 * np.percentile(taken[min(5, len(taken) - 1) :], [50, 99])
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "searches": len(taken)}


if __name__ == "__main__":
    main()
