"""What a gateway runs on a GPU: prompts read by encoder and router, joined in one graph and one after the other.

Unlike ``fused.py`` this goes the product's own way, tokenizer and result objects included, on prompts of our corpus:
`penstock_routers.fused.FusedGraph.read` against `PromptEncoder.encode` and `RouterArtifact.estimate`, and many requests
at once through `penstock_routers.encoder_service.EncoderService.read`, whose one worker thread batches them. To compare
two states of the product, run it with each one's packages on ``PYTHONPATH``, in turn. Needs an artifact that was fitted
with that encoder::

    penstock-train export-encoder minilm-fp16 --kind transformer --precision fp16
    penstock-train fit --outcomes … --encoder minilm-fp16 --out router-fp16
    python bench/gpu/serving.py --encoder minilm-fp16 --router router-fp16
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe_machine, machine_lines

from penstock_routers.artifact import RouterArtifact
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_service import EncoderService
from penstock_routers.features import prompt_features
from penstock_routers.fused import FusedGraph

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
    encoder = PromptEncoder.load(options.encoder, device=options.device)
    if encoder.device != options.device:
        sys.exit(f"the encoder runs on {encoder.device}: {encoder.fallback_reason}")
    artifact = RouterArtifact.load(options.router, encoder_id=encoder.encoder_id)
    fused = FusedGraph.open(encoder, artifact)
    arm = artifact.manifest.arms[0]
    ways: dict[str, Way] = {
        "joined": lambda texts: fused.read(texts, arm),
        "one after the other": lambda texts: _in_turn(encoder, artifact, texts, arm),
    }
    prompts = _prompts()
    rows = []
    for batch in options.batches:
        for name, way in ways.items():
            rows.append(_timed(name, way, prompts, batch, options.seconds))
            print(_line(rows[-1]), file=out, flush=True)
    for concurrent in CONCURRENT:
        rows.append(asyncio.run(_served(encoder, fused, prompts, arm, concurrent, options.seconds)))
        print(_line(rows[-1]), file=out, flush=True)
    agreement = _agreement(options, ways["joined"], prompts[:COMPARED], arm)
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


def _timed(name: str, way: Way, prompts: Sequence[str], batch: int, seconds: float) -> dict[str, Any]:
    """One batch after the other with nothing else to do, after two rounds through all prompts."""
    starts = range(0, len(prompts) - batch + 1, batch)
    for start in (*starts, *starts):
        way(prompts[start : start + batch])
    taken: list[float] = []
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        start = starts[len(taken) % len(starts)]
        began = time.perf_counter()
        way(prompts[start : start + batch])
        taken.append(time.perf_counter() - began)
    return {"way": name, "batch": batch} | _summary(taken, len(taken) * batch / sum(taken))


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
    await service.aclose()
    return {"way": "service", "batch": concurrent} | _summary(taken, len(taken) / seconds)


def _summary(taken: Sequence[float], rate: float) -> dict[str, float]:
    p50, p99 = (float(value) for value in 1e6 * np.percentile(taken, [50, 99]))
    return {"p50_us": p50, "p99_us": p99, "prompts_per_second": rate, "runs": len(taken)}


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['batch']:>4} at once, {row['way']:20} p50 {row['p50_us']:>9,.0f} µs, p99 {row['p99_us']:>9,.0f} µs, "
        f"{row['prompts_per_second']:>8,.0f} prompts/s"
    )


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
