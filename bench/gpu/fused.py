"""Routed prompts per second from token ids: one fused graph against encoder, search and router one after the other.

Builds `penstock_training.fused_graph` for made-up points and a router fitted on made-up outcomes, then measures on
CUDA (IO binding, a CUDA graph per batch size, fp16, page-locked host buffers; TensorRT too where its provider is
installed) or, smaller, on the CPU: prompts per second by batch, p50 and p99 of a single prompt with nothing else to do,
and the share of the two ceilings, memory bandwidth and matrix rate, both measured here through the same runtime. Every
time includes the way of the token ids to the device and of the estimates back.

Usage::

    python bench/gpu/fused.py                            10 k, 100 k and 1 M points, batches from 1 to 1,024
    python bench/gpu/fused.py --quick --json             a small pass on any machine
    python bench/gpu/fused.py --encoder minilm-fp16      an encoder folder of `penstock-train export-encoder`
    python bench/gpu/fused.py --write-router FILE        fit the router only, for a machine without scikit-learn
    python bench/gpu/fused.py --router FILE              that router

Without ``--encoder`` the encoder has MiniLM's shape and made-up weights: right for times, without a meaning. Decisions
on real prompts are compared by ``tests/contract/test_fused_decisions.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gpu_runs import BoundGraph, Kind, ceilings, describe_device, providers_here
from machine import describe_machine, machine_lines
from minilm_shape import Shape, made_up_prompts, minilm_shaped

from penstock_routers.features import FEATURE_NAMES
from penstock_routers.onnx_session import create_session
from penstock_training.fused_graph import fuse, with_fixed_shape
from penstock_training.fused_search import Points, Stages
from penstock_training.transformer_encoder import transformer_graph

PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "faiss-cpu", "faiss-gpu", "tensorrt", "scikit-learn")
POINTS = (10_000, 100_000, 1_000_000)
BATCHES = (1, 8, 32, 128, 256, 512, 1024)
ARMS = 8
NEIGHBOURS = 100
FLAT = 4.0  # index_kind: an exact index beside the graph
STAGES: tuple[Stages, ...] = (1, 2)
FITTED_PROMPTS = 1_000
SECONDS_PER_CELL = 2.0
Say = Callable[[str], None]


def main() -> None:
    """Run the bench as the command line asks."""
    options = _parse()
    if options.write_router:
        options.write_router.write_bytes(_router(None, Shape().width))
        return
    say: Say = (lambda line: print(line, file=sys.stderr, flush=True)) if options.json else print
    machine, device = describe_machine(PACKAGES), describe_device(options.device)
    for line in (*machine_lines(machine), f"device: {device}"):
        say(line)
    limits = ceilings(options.device, options.precision, is_small=options.quick or options.device == "cpu")
    say(f"ceilings: {limits['bytes_per_second'] / 1e9:,.0f} GB/s, {limits['operations_per_second'] / 1e12:.3f} TFLOP/s")
    rows = []
    for row in _rows(options, limits, say):
        rows.append(row)
        say(_line(row))
    if options.json:
        print(json.dumps({"machine": machine, "device": device, "ceilings": limits, "results": rows}, indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["fp16", "fp32"], help="fp16 on CUDA, fp32 on the CPU")
    parser.add_argument("--points", type=int, nargs="+", help="10000 100000 1000000")
    parser.add_argument("--batches", type=int, nargs="+", help="1 8 32 128 256 512 1024")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a prompt (64)")
    parser.add_argument("--encoder", type=Path, help="an encoder folder; a made-up MiniLM otherwise")
    parser.add_argument("--router", type=Path, help="a graph of --write-router; fitted here otherwise")
    parser.add_argument("--write-router", type=Path, metavar="FILE", help="fit the router, write its graph, stop")
    parser.add_argument("--seconds", type=float, default=SECONDS_PER_CELL, help="of each measurement (2)")
    parser.add_argument(
        "--quick", action="store_true", help="few points, small batches, a made-up encoder of one layer"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object; the table goes to stderr")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if "CUDAExecutionProvider" in providers_here() else "cpu"
    options.precision = options.precision or ("fp16" if options.device == "cuda" else "fp32")
    options.points = options.points or ((3_000,) if options.quick else POINTS)
    options.batches = options.batches or ((1, 4) if options.quick else BATCHES)
    options.seconds = 0.05 if options.quick else options.seconds
    return options


def _rows(options: argparse.Namespace, limits: dict[str, float], say: Say) -> Iterator[dict[str, Any]]:
    shape = Shape(layers=1, vocabulary=2_000) if options.quick else Shape()
    encoder, router = _encoder(options, shape), _router(options.router, shape.width)
    for count in options.points:
        points = _points(count, shape.width)
        graphs = {
            stages: fuse(encoder, router, neighbours=points, precision=options.precision, stages=stages)
            for stages in STAGES
        }
        for batch in options.batches:
            feeds = _feeds(batch, options.tokens, shape)
            wanted: dict[str, Any] | None = None
            for name, run in _paths(options, encoder, router, points, graphs, feeds, say):
                found = run()
                wanted = found if wanted is None else wanted
                row = {"points": count, "batch": batch, "precision": options.precision, "path": name}
                row |= _times(run, options.seconds)
                yield row | _shares(row, options, shape, limits) | _agreement(found, wanted)


def _encoder(options: argparse.Namespace, shape: Shape) -> bytes:
    if options.encoder is not None:
        return bytes((options.encoder / "encoder.onnx").read_bytes())
    made = minilm_shaped(shape, options.tokens)
    return transformer_graph(made, "fp16") if options.precision == "fp16" else made


def _router(path: Path | None, width: int) -> bytes:
    """A router that weighs neighbours, fitted on a few made-up outcomes; the points come later."""
    if path is not None:
        return path.read_bytes()
    from router_corpora import generated_corpus

    from penstock_training.families.registry import router_spec
    from penstock_training.fit import FitOptions, fit_router

    corpus = generated_corpus(FITTED_PROMPTS, ARMS)
    corpus = replace(corpus, vectors=np.pad(corpus.vectors, ((0, 0), (0, width - corpus.vectors.shape[1]))))
    settings = {"support_points": 1.0, "neighbours": float(NEIGHBOURS), "index_from": 50.0, "index_kind": FLAT}
    options = FitOptions(resamples=50, router=router_spec("knn", settings))
    arm = corpus.matrix.arms[0]
    return bytes(fit_router(corpus, reference_arm=arm, options=options, progress=lambda *_: None).graph)


def _points(count: int, width: int) -> Points:
    """Unit vectors around one centre per hundred; in blocks, so that a million take little more than themselves."""
    random = np.random.default_rng(2)
    centers = random.standard_normal((max(1, count // 100), width), dtype=np.float32)
    vectors = np.empty((count, width), dtype=np.float32)
    for start in range(0, count, 65_536):
        block = vectors[start : start + 65_536]
        block[:] = centers[random.integers(0, len(centers), len(block))]
        block += 0.8 * random.standard_normal(block.shape, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return Points(vectors, random.integers(0, 256, (count, ARMS), dtype=np.uint8), NEIGHBOURS)


def _feeds(batch: int, tokens: int, shape: Shape) -> dict[str, Any]:
    features = np.random.default_rng(3).standard_normal((batch, len(FEATURE_NAMES))).astype(np.float32)
    prompts = made_up_prompts(batch, tokens, shape)
    return prompts | {"features": features, "reference_arm": np.zeros(1, dtype=np.int64)}


def _paths(
    options: argparse.Namespace,
    encoder: bytes,
    router: bytes,
    points: Points,
    graphs: dict[Stages, bytes],
    feeds: dict[str, Any],
    say: Say,
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield the ways to answer the batch, each closed before the next opens: the points fill much of a device."""
    yield "unfused", _unfused(options.device, encoder, router, points, feeds)
    kinds: list[Kind] = ["cuda graph", "cuda"] if options.device == "cuda" else ["cpu"]
    if options.device == "cuda" and "TensorrtExecutionProvider" in providers_here():
        kinds.append("tensorrt")
    for stages, fused in graphs.items():
        fixed = with_fixed_shape(fused, len(feeds["features"]), options.tokens)
        for kind in kinds:
            name = f"fused, {stages}-stage, {kind}"
            try:
                bound = BoundGraph(fixed, feeds, kind)
                bound()
            except Exception as failure:  # the runtime raises a dozen classes of its own; the other ways still run
                say(f"  {name}: cannot run: {str(failure).splitlines()[0][:300]}")
                continue
            if bound.remark:
                say(f"  {name}: {bound.remark}")
            yield name, bound
            bound.close()


def _unfused(
    device: str, encoder: bytes, router: bytes, points: Points, feeds: dict[str, Any]
) -> Callable[[], dict[str, Any]]:
    """As a gateway does it today: encode, fetch, search (faiss, on the GPU where its build can), run the router."""
    encoding = create_session(
        encoder,
        device="cuda" if device == "cuda" else "cpu",
        allow_contrib_operators=True,
        max_bytes=1 << 31,
    )
    search = _search(points, device)
    routing = create_session(router)

    def run() -> dict[str, Any]:
        (vectors,) = encoding.run({name: feeds[name] for name in ("input_ids", "attention_mask")})
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        similarity, rows = search(vectors)
        given = {
            "prompt_vector": vectors,
            "features": feeds["features"],
            "reference_arm": feeds["reference_arm"],
            "neighbour_similarity": similarity,
            "neighbour_score": points.scores[rows],
        }
        return dict(zip(routing.output_names, routing.run(given), strict=True))

    return run


def _search(points: Points, device: str) -> Callable[[Any], tuple[Any, Any]]:
    """Exact search as `NeighbourIndex` does it: faiss, on the GPU where the build has one."""
    import faiss

    count = points.neighbours
    width = points.vectors.shape[1]
    faiss.omp_set_num_threads(1)
    if device == "cuda" and hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0:
        index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), width)
    else:
        index = faiss.IndexFlatIP(width)
    index.add(points.vectors)
    return lambda vectors: index.search(np.ascontiguousarray(vectors), count)


def _times(run: Callable[[], object], seconds: float) -> dict[str, float]:
    """Microseconds of a batch, one after another with nothing else to do, after a warm-up."""
    for _ in range(3):
        run()
    taken: list[float] = []
    stop = time.perf_counter() + seconds
    while len(taken) < 5 or (time.perf_counter() < stop and len(taken) < 20_000):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    p50, p99 = (float(value) for value in 1e6 * np.percentile(taken, [50, 99]))
    return {"p50_us": round(p50, 1), "p99_us": round(p99, 1), "runs": len(taken)}


def _shares(
    row: dict[str, Any], options: argparse.Namespace, shape: Shape, limits: dict[str, float]
) -> dict[str, float]:
    """Prompts per second, and what part of the measured ceilings they are.

    A batch needs the products of the encoder and of the search (``2 N d`` a prompt), and must read the encoder's
    matrices and all points once; what goes through memory between two operators is not counted, so that the bandwidth
    share is a lower bound.
    """
    batch, count, seconds = row["batch"], row["points"], row["p50_us"] / 1e6
    size = 2 if row["precision"] == "fp16" else 4
    operations = batch * (shape.operations(options.tokens) + 2.0 * count * shape.width)
    moved = size * (shape.layer_weights + count * shape.width)
    return {
        "prompts_per_second": round(batch / seconds, 1),
        "share_of_matrix_rate": round(operations / seconds / limits["operations_per_second"], 4),
        "share_of_bandwidth": round(moved / seconds / limits["bytes_per_second"], 4),
    }


def _agreement(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, float]:
    """Largest difference of a quality from the first path's, and how many rows keep their best arm."""
    same = found["quality"].argmax(axis=1) == wanted["quality"].argmax(axis=1)
    difference = np.abs(found["quality"] - wanted["quality"]).max()
    return {"largest_difference": float(difference), "same_best_arm": round(float(same.mean()), 4)}


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['points']:>9,} points, batch {row['batch']:>5}, {row['path']:26} p50 {row['p50_us']:>11,.0f} µs, "
        f"p99 {row['p99_us']:>11,.0f} µs, {row['prompts_per_second']:>9,.0f} prompts/s, matrix rate "
        f"{row['share_of_matrix_rate']:6.1%}, bandwidth {row['share_of_bandwidth']:6.1%}, "
        f"best arm kept {row['same_best_arm']:.1%}"
    )


if __name__ == "__main__":
    main()
