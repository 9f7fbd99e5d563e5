"""What a GPU makes of a fused graph's arithmetic: MiniLM, exact search and vote in PyTorch under one CUDA graph.

A stand-in where PyTorch is there and ONNX Runtime's GPU build is not: the same products and selections with made-up
fp16 weights, so that the hardware's side of `fused.py` is known. Whatever ONNX Runtime adds, it does not measure.
Needs torch with CUDA and nothing of this project; prints one JSON object a line. Every time includes the way of the
token ids to the device and that of the estimates back, through page-locked memory.

Usage::

    python bench/gpu/arithmetic.py
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, cuda
from torch.nn import functional

TOKENS, WIDTH, HEADS, LAYERS, VOCABULARY = 64, 384, 12, 6, 30_522
NEIGHBOURS, ARMS = 100, 8
POINTS = (10_240, 102_400, 1_024_000)
BATCHES = (1, 8, 32, 128, 256, 512, 1024)


def main() -> None:
    """Measure the ceilings, then every size in one stage and in two."""
    matrix_rate, bandwidth = _ceilings()
    first: dict[str, Any] = {"card": cuda.get_device_name(), "torch": torch.__version__}
    first |= {"python": platform.python_version(), "tflops": matrix_rate / 1e12, "gbs": bandwidth / 1e9}
    print(json.dumps(first), flush=True)
    layers = [_layer() for _ in range(LAYERS)]
    table = _made(VOCABULARY, WIDTH)
    for count in POINTS:
        vectors = functional.normalize(torch.randn(count, WIDTH, device="cuda", dtype=torch.half), dim=1)
        scores = torch.randint(0, 256, (count, ARMS), device="cuda", dtype=torch.uint8)
        for batch in BATCHES:
            for row in _rows(batch, table, layers, vectors, scores):
                seconds = row["p50_us"] / 1e6
                dense = 24 * TOKENS * LAYERS * WIDTH**2 + 4 * TOKENS**2 * WIDTH * LAYERS
                operations = batch * (dense + 2 * count * WIDTH)
                moved = 2 * (12 * LAYERS * WIDTH**2 + count * WIDTH)
                row["share_of_matrix_rate"] = round(operations / seconds / matrix_rate, 4)
                row["share_of_bandwidth"] = round(moved / seconds / bandwidth, 4)
                print(json.dumps(row), flush=True)


def _rows(
    batch: int, table: Tensor, layers: list[tuple[Tensor, ...]], vectors: Tensor, scores: Tensor
) -> Iterator[dict[str, Any]]:
    host = torch.randint(1_000, 30_000, (batch, TOKENS)).pin_memory()
    ids, back = host.cuda(), torch.empty(batch, ARMS).pin_memory()
    count, known = len(vectors), None
    for group in (0, 1 << round((count / NEIGHBOURS) ** 0.5).bit_length() - 1):
        with cuda.stream(cuda.Stream()), torch.no_grad():
            for _ in range(3):
                _route(ids, table, layers, vectors, scores, group)
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with cuda.graph(graph), torch.no_grad():
            out = _route(ids, table, layers, vectors, scores, group)

        def run(graph: Any = graph, out: Tensor = out) -> None:
            ids.copy_(host, non_blocking=True)
            graph.replay()
            back.copy_(out, non_blocking=True)

        p50, p99 = _timed(run)
        known = back.clone() if known is None else known
        row: dict[str, Any] = {"points": count, "batch": batch, "group": group, "p50_us": p50, "p99_us": p99}
        row |= {"prompts_per_second": round(batch / p50 * 1e6)}
        yield row | {"largest_difference": float((back - known).abs().max())}


def _route(
    ids: Tensor, table: Tensor, layers: list[tuple[Tensor, ...]], vectors: Tensor, scores: Tensor, group: int
) -> Tensor:
    """Token ids (n, t) to qualities (n, m); groups of 0 select in one stage."""
    unit = functional.normalize(_encoded(ids, table, layers), dim=1)
    cosine = unit @ vectors.T
    if group:
        greatest = cosine.view(len(ids), -1, group).amax(2).topk(NEIGHBOURS + 1).indices
        members = greatest.unsqueeze(2) * group + torch.arange(group, device="cuda")
        members = members.view(len(ids), -1)
        best, places = cosine.gather(1, members).topk(NEIGHBOURS)
        rows = members.gather(1, places)
    else:
        best, rows = cosine.topk(NEIGHBOURS)
    weight = ((best.float() - best[:, :1].float()) * 10).exp()
    total = torch.einsum("nk,nkm->nm", weight, scores[rows].float()) / 255
    return (total + 5) / (weight.sum(1, keepdim=True) + 10)


def _encoded(ids: Tensor, table: Tensor, layers: list[tuple[Tensor, ...]]) -> Tensor:
    batch, one = len(ids), torch.ones(WIDTH, device="cuda", dtype=torch.half)
    hidden = functional.layer_norm(table[ids], (WIDTH,), one)
    for joint, out, up, down in layers:
        parts = functional.linear(hidden, joint).view(batch, TOKENS, 3, HEADS, WIDTH // HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, TOKENS, WIDTH)
        hidden = functional.layer_norm(hidden + functional.linear(mixed, out), (WIDTH,), one)
        inner = functional.gelu(functional.linear(hidden, up))
        hidden = functional.layer_norm(hidden + functional.linear(inner, down), (WIDTH,), one)
    return hidden.mean(1)


def _made(*sizes: int) -> Tensor:
    return 0.04 * torch.randn(*sizes, device="cuda", dtype=torch.half)


def _layer() -> tuple[Tensor, ...]:
    return _made(3 * WIDTH, WIDTH), _made(WIDTH, WIDTH), _made(4 * WIDTH, WIDTH), _made(WIDTH, 4 * WIDTH)


def _ceilings() -> tuple[float, float]:
    """Operations per second of a product of 8,192 × 8,192, and bytes per second of adding 1 to 2 GB in place."""
    square = torch.randn(8_192, 8_192, device="cuda", dtype=torch.half)
    stream = torch.empty(1 << 30, device="cuda", dtype=torch.half)
    product, _ = _timed(lambda: square @ square)
    addition, _ = _timed(lambda: torch.add(stream, 1, out=stream))
    return 2 * 8_192**3 / product * 1e6, 2 * 2 * stream.numel() / addition * 1e6


def _timed(run: Callable[[], object], seconds: float = 2.0) -> tuple[float, float]:
    """Microseconds, p50 and p99, one after another."""
    taken: list[float] = []
    while sum(taken) < seconds and len(taken) < 5_000:
        cuda.synchronize()
        started = time.perf_counter()
        run()
        cuda.synchronize()
        taken.append(time.perf_counter() - started)
    kept = sorted(taken[3:])
    return round(1e6 * kept[len(kept) // 2], 1), round(1e6 * kept[int(len(kept) * 0.99)], 1)


if __name__ == "__main__":
    main()
