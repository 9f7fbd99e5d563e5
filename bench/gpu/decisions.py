"""Decisions of the fused graph on a GPU against encoder, search and router in fp32 on a CPU, on real prompts.

Two steps, because the machine with the outcome sets and the one with the GPU may differ::

    python bench/gpu/decisions.py --prepare asked --encoder minilm-fp32      where ../shared/data (PENSTOCK_DATA) is
    python bench/gpu/decisions.py --folder asked --encoder minilm-fp16       where the GPU is

The first writes, per set, token ids and features of prompts that the router was not fitted on, the router, and the
qualities that the unfused path gives in fp32; no prompt is written. The second fuses the router with the encoder that
is named and prints how many decisions stay the same, as one line a set or ``--json``. Read `ask` and `compare`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from penstock_routers.onnx_session import create_session
from penstock_training.fused_graph import fuse

if TYPE_CHECKING:
    from penstock_routers.encoder import PromptEncoder
    from penstock_training.fused_search import Precision

FITTED, ASKED = 500, 120
SETS = ("zeroeval_core", "mmlu_pro", "routerbench_3tasks", "routellm_mmlu_gsm8k_mtbench")
TRADEOFFS = (0.0, 0.1, 0.5)
_EMBEDDED = 2_000_000_000  # bytes of a graph that onnxruntime can be given in memory, rounded down


@dataclass(frozen=True)
class AskedPrompts:
    """Prompts that no router was fitted on, as the fused graph reads them, and what the unfused path says of them.

    Attributes
    ----------
    router : bytes
        A graph that weighs its neighbours.
    token_ids, attention_mask : ndarray of int64, shape (prompts, tokens)
        Padded to the longest.
    features : ndarray of float32, shape (prompts, f)
    quality : ndarray of float32, shape (prompts, arms)
        In fp32 on a CPU, each step by itself.
    cost : ndarray of float64, shape (arms,)
        Mean cost of an arm, the dearest 1.
    """

    router: bytes
    token_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    features: NDArray[np.float32]
    quality: NDArray[np.float32]
    cost: NDArray[np.float64]

    def feeds(self, rows: slice) -> dict[str, NDArray[Any]]:
        """What the fused graph is given for some of the prompts, without the padding that none of them needs."""
        mask = self.attention_mask[rows]
        longest = int(mask.sum(axis=1).max())
        return {
            "input_ids": self.token_ids[rows, :longest],
            "attention_mask": mask[:, :longest],
            "features": self.features[rows],
            "reference_arm": np.zeros(1, dtype=np.int64),
        }


def ask(outcomes: Path, encoder: PromptEncoder) -> AskedPrompts:
    """Fit a router on part of a set and let the unfused path estimate prompts of the rest.

    Parameters
    ----------
    outcomes : Path
        An outcome file of at least 620 prompts.
    encoder : PromptEncoder
        A transformer, in fp32 on the CPU.
    """
    from penstock_routers.encoder import _padded
    from penstock_training.export import run_graph
    from penstock_training.families.registry import router_spec
    from penstock_training.fit import Corpus, FitOptions, feature_matrix, fit_router
    from penstock_training.outcomes import load_outcomes
    from penstock_training.own_router import arm_prices

    matrix = load_outcomes([outcomes], on_bad_rows="skip").matrix()
    order = np.random.default_rng(0).permutation(len(matrix.prompts))[: FITTED + ASKED]
    prompts = [matrix.prompts[row] for row in order]
    vectors, features = encoder.encode(prompts), feature_matrix(prompts)
    count = len(matrix.prompts)
    whole = Corpus(
        matrix,
        np.zeros((count, encoder.dimension), dtype=np.float32),
        np.zeros((count, features.shape[1]), dtype=np.float32),
        np.ones(count, dtype=bool),
        arm_prices(matrix, {}),
    )
    whole.vectors[order], whole.features[order] = vectors, features
    options = FitOptions(resamples=50, router=router_spec("knn", {"support_points": 1.0, "neighbours": 50.0}))
    corpus = whole.rows(order[:FITTED])
    fitted = fit_router(corpus, reference_arm=matrix.arms[0], options=options, progress=lambda *_: None)
    ids, mask = _padded(
        [encoder.model_tokens(prompt) for prompt in prompts[FITTED:]], encoder.manifest.padding_token_id
    )
    quality = run_graph(fitted.graph, vectors[FITTED:], features[FITTED:], 0).quality
    cost = np.nanmean(matrix.cost_usd, axis=0).astype(np.float64)
    return AskedPrompts(fitted.graph, ids, mask, features[FITTED:], quality, cost / cost.max())


def fused_quality(
    asked: AskedPrompts, encoder: bytes, precision: Precision, *, device: Any = "cpu", batch: int = 1, threads: int = 2
) -> NDArray[np.float32]:
    """Return the fused graph's qualities, shape (prompts, arms), in batches of the given size."""
    graph = fuse(encoder, asked.router, precision=precision)
    session = create_session(graph, device=device, threads=threads, allow_contrib_operators=True, max_bytes=_EMBEDDED)
    place = session.output_names.index("quality")
    count = len(asked.features)
    found = [session.run(asked.feeds(slice(row, row + batch)))[place] for row in range(0, count, batch)]
    if device == "cuda" and session.device != "cuda":
        raise RuntimeError(f"CUDA did not run: {session.fallback_reason}")
    return np.concatenate(found)


def decisions(asked: AskedPrompts, quality: NDArray[np.float32]) -> NDArray[np.int64]:
    """Arms chosen at three trade-offs, ``argmax quality − λ cost``, shape (3, prompts)."""
    return np.stack([(quality - weight * asked.cost).argmax(axis=1) for weight in TRADEOFFS])


def compare(asked: AskedPrompts, quality: NDArray[np.float32]) -> dict[str, float]:
    """How far the qualities are from those in fp32, and what share of the decisions is the same."""
    moved = np.abs(quality - asked.quality)
    same = decisions(asked, quality) == decisions(asked, asked.quality)
    return {
        "decisions": int(same.size),
        "decisions_kept": float(same.mean()),
        "mean_difference": float(moved.mean()),
        "largest_difference": float(moved.max()),
    }


def main() -> None:
    """Prepare or compare, as the command line asks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="write the prompts of all sets there")
    parser.add_argument("--folder", type=Path, help="what --prepare wrote")
    parser.add_argument("--encoder", type=Path, required=True, help="a folder of `penstock-train export-encoder`")
    parser.add_argument("--precision", choices=["fp16", "fp32"], default="fp16", help="of encoder and search (fp16)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.prepare:
        _prepare(options.prepare, options.encoder)
        return
    if not options.folder:
        parser.error("give --prepare or --folder")
    encoder = (options.encoder / "encoder.onnx").read_bytes()
    rows = []
    for path in sorted(options.folder.glob("*.npz")):
        asked = _read(path)
        quality = fused_quality(asked, encoder, options.precision, device=options.device, batch=options.batch)
        rows.append({"set": path.stem, "precision": options.precision, "device": options.device})
        rows[-1] |= compare(asked, quality)
        print(_line(rows[-1]), file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(json.dumps(rows, indent=1))


def _prepare(folder: Path, encoder: Path) -> None:
    from data_folder import data_folder

    from penstock_routers.encoder import PromptEncoder

    folder.mkdir(parents=True, exist_ok=True)
    loaded = PromptEncoder.load(encoder, device="cpu", threads=2)
    for name in SETS:
        asked = ask(data_folder() / "routing" / f"{name}.parquet", loaded)
        router = np.frombuffer(asked.router, dtype=np.uint8)
        arrays = {each: getattr(asked, each) for each in AskedPrompts.__annotations__ if each != "router"}
        np.savez_compressed(folder / f"{name}.npz", router=router, **arrays)
        print(f"{name}: {len(asked.features)} prompts, {asked.token_ids.shape[1]} tokens at most", flush=True)


def _read(path: Path) -> AskedPrompts:
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in AskedPrompts.__annotations__}
    return AskedPrompts(**found | {"router": found["router"].tobytes()})


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['set']:30} {row['precision']} on {row['device']}: {row['decisions_kept']:.2%} of {row['decisions']} "
        f"decisions kept, a quality moved by {row['mean_difference']:.2g}, at most {row['largest_difference']:.2g}"
    )


if __name__ == "__main__":
    main()
