"""CUDA graphs of serving under the worst of circumstances: captures beside another thread, and a device that breaks.

Captures every shape while a second thread opens joined graphs, runs and closes them; times the replay of some shapes
without a tokenizer; then lets an assertion of PyTorch's fail on the device, where that is installed, and looks who
answers. Takes what ``serving.py`` takes::

    python bench/gpu/captures.py --encoder minilm-fp16 --router router-fp16
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gpu_runs import describe_device
from machine import describe_machine, machine_lines

from penstock_routers.artifact import RouterArtifact
from penstock_routers.cuda_buckets import BucketedSession
from penstock_routers.cuda_fallback import CUDA_FAULTS
from penstock_routers.encoder import PromptEncoder
from penstock_routers.features import FEATURE_NAMES
from penstock_routers.fused import FusedGraph

PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tokenizers", "torch")
ROWS = (1, 2, 4, 8, 16, 32, 64)
WORDS = (8, 24, 50, 100, 240)  # of one token each: 16, 32, 64, 128 and 256 with the special ones
ROUNDS = 40
REPLAYED = ((1, 8), (1, 50), (8, 24), (64, 24), (64, 50), (64, 240))
REPLAYS = 200


def main() -> None:
    """Run the bench as the command line asks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--router", type=Path, required=True)
    options = parser.parse_args()
    print(*machine_lines(describe_machine(PACKAGES)), f"device: {describe_device('cuda')}", sep="\n")
    encoder = PromptEncoder.load(options.encoder, device="cuda")
    artifact = RouterArtifact.load(options.router, encoder_id=encoder.encoder_id)
    fused = FusedGraph.open(encoder, artifact)
    session = getattr(fused._session, "_session", None)
    if not isinstance(session, BucketedSession):
        sys.exit(f"runs are not captured here: {fused.device}, {encoder.fallback_reason}")
    arm = artifact.manifest.reference_arm
    _capture_all(options.encoder, artifact, fused, session, arm)
    for rows, words in REPLAYED:
        _replay(encoder, session, [_prompt(words)] * rows)
    _break(fused, arm)


def _prompt(words: int) -> str:
    return "word " * words


def _capture_all(folder: Path, artifact: RouterArtifact, fused: FusedGraph, session: BucketedSession, arm: str) -> None:
    """Read every shape until each has been captured, beside a thread that allocates and frees."""
    is_done, opened = threading.Event(), [0, 0]

    def disturb() -> None:
        while not is_done.is_set():
            other = FusedGraph.open(PromptEncoder.load(folder, device="cuda"), artifact)
            opened[other.device != "cuda"] += 1

    before, taken = session.captured, list[float]()
    other = threading.Thread(target=disturb)
    other.start()
    for rows, words in [(rows, words) for _ in range(ROUNDS) for rows in ROWS for words in WORDS]:
        held, began = session.captured, time.perf_counter()
        fused.read([_prompt(words)] * rows, arm)
        if session.captured > held:
            taken.append(1e3 * (time.perf_counter() - began))
    is_done.set()
    other.join()
    print(
        f"{session.captured - before} shapes captured in {min(taken, default=0):.0f} to {max(taken, default=0):.0f} ms "
        f"each, {session.buffer_bytes / 1e6:.1f} MB of buffers, faults: {CUDA_FAULTS.total}; "
        f"opened meanwhile on CUDA: {opened[0]}, elsewhere: {opened[1]}"
    )


def _replay(encoder: PromptEncoder, session: BucketedSession, texts: list[str]) -> None:
    """Time the session alone: copies, launch and padding, without tokenizer and results."""
    feeds = encoder.feeds([encoder.token_ids(text) for text in texts])
    feeds["features"] = np.zeros((len(texts), len(FEATURE_NAMES)), dtype=np.float32)
    feeds["reference_arm"] = np.zeros(1, dtype=np.int64)
    taken = []
    for _ in range(REPLAYS):
        began = time.perf_counter()
        session.run(feeds)
        taken.append(1e6 * (time.perf_counter() - began))
    p50, p99 = np.percentile(taken[3:], [50, 99])
    print(f"{feeds['input_ids'].shape} replayed: p50 {p50:,.0f} µs, p99 {p99:,.0f} µs")


def _break(fused: FusedGraph, arm: str) -> None:
    """Let a kernel of another library fail; every later call of the process to the device then fails."""
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: no fault was made")
        return
    import torch

    wanted, _ = fused.read([_prompt(8)], arm)[0]
    try:
        torch.zeros(4, device="cuda")[torch.tensor([1 << 20], device="cuda")]
        torch.cuda.synchronize()
    except RuntimeError as failure:
        print(f"fault: {str(failure).splitlines()[0]}")
    for _ in range(2):
        vector, _ = fused.read([_prompt(8)], arm)[0]
        difference = float(np.abs(vector - wanted).max())
        print(f"answered by {fused.device}, differs by {difference:.2g}, faults: {CUDA_FAULTS.total}")


if __name__ == "__main__":
    main()
