"""What a gateway runs on a GPU: prompts read by encoder and router, joined in one graph and one after the other.

Unlike ``fused.py`` this goes the product's own way, tokenizer and result objects included, on prompts of our corpus:
`penstock_routers.fused.FusedGraph.read` against `PromptEncoder.encode` and `RouterArtifact.estimate`, and many requests
at once through `penstock_routers.encoder_service.EncoderService.read`, whose one worker thread batches them. On CUDA
each is measured with captured graphs replayed, and with every operator launched singly, in turn. Needs an artifact that
was fitted with that encoder::

    penstock-train export-encoder minilm-fp16 --kind transformer --precision fp16
    penstock-train fit --outcomes … --encoder minilm-fp16 --out router-fp16
    python bench/gpu/serving.py --encoder minilm-fp16 --router router-fp16
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe_machine, machine_lines

from penstock_routers import encoder as encoder_module
from penstock_routers import fused as fused_module
from penstock_routers.artifact import RouterArtifact
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_service import EncoderService
from penstock_routers.features import prompt_features
from penstock_routers.fused import FusedGraph
from penstock_routers.onnx_session import OnnxSession, create_session

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tokenizers")
BATCHES = (1, 8, 32, 64)
PROMPTS = 512
CONCURRENT = (1, 8, 64, 250)  # requests under way; the service lets 256 wait
COMPARED = 64  # with the CPU, which takes its time
SECONDS_PER_CELL = 2.0
WARM_UP_SECONDS = 2.0
Way = Callable[[Sequence[str]], list[Any]]


def main() -> None:
    """Run the bench as the command line asks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--router", type=Path, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--seconds", type=float, default=SECONDS_PER_CELL, help="of each measurement (2)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    out = sys.stderr if options.json else sys.stdout
    machine = describe_machine(PACKAGES)
    print(*machine_lines(machine), sep="\n", file=out)
    opened = {"replayed": _opened(options, capture=True)}
    if options.device == "cuda":
        opened["launched singly"] = _opened(options, capture=False)
    encoder, artifact, fused = opened["replayed"]
    arm = artifact.manifest.arms[0]
    ways: dict[str, Way] = {name: partial(each.read, reference_arm=arm) for name, (_, _, each) in opened.items()}
    ways["one after the other"] = lambda texts: _in_turn(encoder, artifact, texts, arm)
    prompts = _prompts()
    rows = []
    for batch in options.batches:
        rows += [_said(row, out) for row in _timed(ways, prompts, batch, options.seconds)]
    for concurrent in CONCURRENT:
        for name in [*opened] * 2:
            serving, _, graph = opened[name]
            row = asyncio.run(_served(serving, graph, prompts, arm, concurrent, options.seconds))
            rows.append(_said({"way": f"service, {name}"} | row, out))
    agreement = _agreement(options, ways["replayed"], prompts[:COMPARED], arm)
    print(f"joined graph on {fused.device} against two runs on the CPU: {agreement}", file=out)
    if options.json:
        print(json.dumps({"machine": machine, "device": fused.device, "results": rows, "agreement": agreement}))


def _prompts() -> list[str]:
    found: list[str] = []
    for path in sorted((ROOT / "cache" / "corpus").glob("open_*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            found += [value for name, value in json.loads(line).items() if name in ("a", "a2", "b", "b2")]
    return [found[row] for row in np.random.default_rng(0).permutation(len(found))[:PROMPTS]]


def _in_turn(encoder: PromptEncoder, artifact: RouterArtifact, texts: Sequence[str], arm: str) -> list[Any]:
    vectors = encoder.encode(texts)
    return [
        (vector, artifact.estimate(vector, prompt_features(text), reference_arm=arm))
        for vector, text in zip(vectors, texts, strict=True)
    ]


def _opened(options: argparse.Namespace, *, capture: bool) -> tuple[PromptEncoder, RouterArtifact, FusedGraph]:
    """Encoder, artifact and joined graph as serving has them, or without CUDA graphs."""

    def open_session(graph: bytes, **given: Any) -> OnnxSession:
        return create_session(graph, **given | {"capture": capture})

    with mock.patch.object(encoder_module, "create_session", open_session):
        encoder = PromptEncoder.load(options.encoder, device=options.device)
    if encoder.device != options.device:
        sys.exit(f"the encoder runs on {encoder.device}: {encoder.fallback_reason}")
    artifact = RouterArtifact.load(options.router, encoder_id=encoder.encoder_id)
    with mock.patch.object(fused_module, "create_session", open_session):
        return encoder, artifact, FusedGraph.open(encoder, artifact)


def _timed(ways: dict[str, Way], prompts: Sequence[str], batch: int, seconds: float) -> list[dict[str, Any]]:
    """One batch after the other with nothing else to do, the ways in turn, after two rounds through all prompts."""
    batches = [prompts[start : start + batch] for start in range(0, len(prompts) - batch + 1, batch)]
    for way in ways.values():
        for texts in (*batches, *batches):
            way(texts)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    stop = time.perf_counter() + seconds * len(ways)
    for texts in itertools.cycle(batches):
        for name, way in ways.items():
            began = time.perf_counter()
            way(texts)
            taken[name].append(time.perf_counter() - began)
        if time.perf_counter() >= stop:
            break
    return [
        {"way": name, "batch": batch} | _summary(each, batch * len(each) / sum(each)) for name, each in taken.items()
    ]


async def _served(
    encoder: PromptEncoder, fused: FusedGraph, prompts: Sequence[str], arm: str, concurrent: int, seconds: float
) -> dict[str, Any]:
    """So many requests under way at any time, each of a prompt and the next as soon as it is answered."""
    service = EncoderService(encoder)
    taken: list[float] = []
    loop = asyncio.get_running_loop()
    begin = loop.time() + WARM_UP_SECONDS
    stop = begin + seconds

    async def client(number: int) -> None:
        place = number
        while (began := loop.time()) < stop or not taken:
            await service.read(prompts[place % len(prompts)], fused, arm)
            place += concurrent
            if began >= begin:
                taken.append(loop.time() - began)

    await asyncio.gather(*(client(number) for number in range(concurrent)))
    rate = len(taken) / (loop.time() - begin)
    await service.aclose()
    return {"batch": concurrent} | _summary(taken, rate)


def _summary(taken: Sequence[float], rate: float) -> dict[str, float]:
    p50, p99 = (float(value) for value in 1e6 * np.percentile(taken, [50, 99]))
    return {"p50_us": p50, "p99_us": p99, "prompts_per_second": rate, "runs": len(taken)}


def _said(row: dict[str, Any], out: TextIO) -> dict[str, Any]:
    line = (
        f"{row['batch']:>4} at once, {row['way']:24} p50 {row['p50_us']:>9,.0f} µs, p99 {row['p99_us']:>9,.0f} µs, "
        f"{row['prompts_per_second']:>8,.0f} prompts/s"
    )
    print(line, file=out, flush=True)
    return row


def _agreement(options: argparse.Namespace, way: Way, prompts: Sequence[str], arm: str) -> dict[str, float]:
    """Differences of vectors and qualities from the CPU's, and how many prompts keep their best arm."""
    encoder = PromptEncoder.load(options.encoder, device="cpu", threads=2)
    artifact = RouterArtifact.load(options.router, encoder_id=encoder.encoder_id)
    found, wanted = (
        [pair for text in prompts for pair in each([text])]
        for each in (way, lambda texts: _in_turn(encoder, artifact, texts, arm))
    )
    quality, exact = (np.array([estimate.quality for _, estimate in pairs]) for pairs in (found, wanted))
    vectors = np.abs(np.array([a for a, _ in found]) - np.array([b for b, _ in wanted]))
    return {
        "prompts": len(prompts),
        "best_arm_kept": float((quality.argmax(axis=1) == exact.argmax(axis=1)).mean()),
        "largest_quality_difference": float(np.abs(quality - exact).max()),
        "largest_vector_difference": float(vectors.max()),
    }


if __name__ == "__main__":
    main()
