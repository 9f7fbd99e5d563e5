"""Time per prompt of the encoders, and what each of them is worth to routing.

Times both shipped encoders at 8 to 2,000 tokens in batches of 1, 8 and 32, in int8 and, where torch is installed or a
folder is given, in fp32; then routes four outcome sets on the vectors of each (``encoder_quality.py``).

Usage::

    python bench/encoder.py                          both encoders on the CPU, then routing quality
    python bench/encoder.py --quick                  fewer and smaller sizes, no fp32, a sample of the sets
    PYTHONPATH=routers python bench/encoder.py --device cuda --folder minilm-fp16 --no-quality

The last form needs numpy, msgspec, tokenizers and onnxruntime-gpu, and nothing else of this project.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from data_folder import data_folder
from machine import describe_machine, machine_lines

from penstock_routers.bundled import DEFAULT_ENCODER, PARAPHRASE_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder

TOKENS = (8, 32, 128, 256, 2000)
BATCHES = (1, 8, 32)
# Each is one token for the shipped tokenizers.
WORDS = ("the", "train", "from", "paris", "was", "late", "and", "every", "question", "about", "it", "remained", "open")
PACKAGES = ("numpy", "tokenizers", "onnxruntime", "onnxruntime-gpu", "torch", "scikit-learn")
SECONDS_PER_CELL, QUICK_SECONDS_PER_CELL = 0.6, 0.05
SEEDS = 5


def main() -> None:
    """Run the bench as the command line asks."""
    options = _parse()
    say = (lambda line: print(line, file=sys.stderr)) if options.json else print
    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch:
        encoders = dict(_encoders(options, Path(scratch), say))
        times = [row for name, encoder in encoders.items() for row in _times(name, encoder, options.quick)]
        _print_times(times, say)
        quality = [] if options.no_quality else _quality(encoders, options, say)
    if options.json:
        print(json.dumps({"machine": machine, "times": times, "quality": quality}, indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of one run (1)")
    parser.add_argument("--folder", type=Path, action="append", help="encoder folders instead of the shipped ones")
    parser.add_argument("--prompts", type=int, default=4000, help="prompts per outcome set (4000)")
    parser.add_argument("--quick", action="store_true", help="fewer sizes, no fp32, 600 prompts per set")
    parser.add_argument("--no-quality", action="store_true", help="only times")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the tables go to stderr")
    return parser.parse_args()


def _encoders(
    options: argparse.Namespace, scratch: Path, say: Callable[[str], None]
) -> Iterator[tuple[str, PromptEncoder]]:
    folders = options.folder or [bundled_folder(DEFAULT_ENCODER), bundled_folder(PARAPHRASE_ENCODER)]
    if not options.folder and not options.quick:
        folders += _exported_fp32(scratch, say)
    for folder in folders:
        encoder = PromptEncoder.load(folder, device=options.device, threads=options.threads)
        say(f"{encoder.encoder_id}: {encoder.manifest.precision} on {encoder.device}")
        if encoder.fallback_reason:
            say(f"  not on CUDA: {encoder.fallback_reason}")
        yield f"{encoder.manifest.name} {encoder.manifest.precision}", encoder
        if encoder.kind == "transformer" and encoder.rows_per_run == 1:
            yield f"{encoder.manifest.name} {encoder.manifest.precision}, runs of 32", _with_runs_of(encoder, 32)


def _with_runs_of(encoder: PromptEncoder, rows: int) -> PromptEncoder:
    """Show what batching would save where the manifest forbids it for the vectors' sake."""
    manifest = msgspec.structs.replace(encoder.manifest, rows_per_run=rows)
    return PromptEncoder(manifest, encoder._tokenizer._tokenizer, encoder._session)


def _exported_fp32(scratch: Path, say: Callable[[str], None]) -> list[Path]:
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("sentence_transformers") is None:
        say("fp32 skipped: it is exported here and needs make test-all, or the training extra")
        return []
    from penstock_training.export_encoder import export_encoder  # noqa: PLC0415  (needs torch)

    kinds: dict[str, Any] = {DEFAULT_ENCODER: "static", PARAPHRASE_ENCODER: "transformer"}
    return [
        export_encoder(scratch / name, name=name, kind=kind, precision="fp32").folder for name, kind in kinds.items()
    ]


def _prompt(tokens: int, number: int) -> str:
    """Return a text of about `tokens` tokens; texts of one size differ."""
    return " ".join(WORDS[(number + position * (1 + number % 5)) % len(WORDS)] for position in range(tokens))


def _times(name: str, encoder: PromptEncoder, quick: bool) -> Iterator[dict[str, Any]]:
    limit = QUICK_SECONDS_PER_CELL if quick else SECONDS_PER_CELL
    for tokens in (8, 128) if quick else TOKENS:
        texts = [_prompt(tokens, number) for number in range(max(BATCHES))]
        tokenizer = _median_seconds(lambda texts=texts: encoder.token_ids(texts[0]), limit)
        for batch in (1, 8) if quick else BATCHES:
            seconds = _median_seconds(lambda texts=texts, batch=batch: encoder.encode(texts[:batch]), limit)
            yield {
                "encoder": name,
                "tokens": tokens,
                "tokens_read": len(encoder.model_tokens(texts[0])),
                "batch": batch,
                "microseconds_per_prompt": round(seconds / batch * 1e6, 1),
                "tokenizer_microseconds": round(tokenizer * 1e6, 1),
            }


def _median_seconds(call: Callable[[], object], limit_seconds: float) -> float:
    """Median over at least 5 calls or so many seconds, after a warm-up."""
    call()
    durations: list[float] = []
    stop = time.perf_counter() + limit_seconds
    while len(durations) < 5 or (time.perf_counter() < stop and len(durations) < 2000):
        start = time.perf_counter()
        call()
        durations.append(time.perf_counter() - start)
    return float(np.median(durations))


def _print_times(times: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    batches = sorted({row["batch"] for row in times})
    say("\nµs per prompt, tokenizer included (median)")
    say(f"{'encoder':34} {'tokens':>6} {'tokenizer':>10}" + "".join(f"{f'batch {batch}':>12}" for batch in batches))
    for name, tokens in dict.fromkeys((row["encoder"], row["tokens"]) for row in times):
        cells = [row for row in times if (row["encoder"], row["tokens"]) == (name, tokens)]
        numbers = "".join(f"{row['microseconds_per_prompt']:12,.0f}" for row in cells)
        say(f"{name:34} {tokens:6,} {cells[0]['tokenizer_microseconds']:10,.0f}{numbers}")


def _quality(
    encoders: dict[str, PromptEncoder], options: argparse.Namespace, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    folder = data_folder()
    if not folder.is_dir() or importlib.util.find_spec("sklearn") is None:
        say("routing quality skipped: it needs the outcome sets (PENSTOCK_DATA) and scikit-learn")
        return []
    from encoder_quality import OUTCOME_SETS, area_of, load_outcome_set  # noqa: PLC0415  (needs scikit-learn)

    rows: list[dict[str, Any]] = []
    seeds = 1 if options.quick else SEEDS
    say(f"\nrouting quality: area under cost and quality, mean of {seeds} splits; higher is better")
    for name in OUTCOME_SETS:
        outcomes = load_outcome_set(folder, name, 600 if options.quick else options.prompts)
        for label, encoder in encoders.items():
            if "int8" not in label or "runs" in label:  # the shipped form is what routes
                continue
            vectors = encoder.encode(outcomes.prompts)
            areas = [area_of(outcomes, vectors, seed) for seed in range(seeds)]
            means = {key: round(float(np.mean([area[key] for area in areas])), 4) for key in areas[0]}
            rows.append({"set": name, "prompts": len(outcomes.prompts), "encoder": label, **means})
            say(f"{name:28} {label:24} " + "  ".join(f"{key} {value:.4f}" for key, value in means.items()))
    return rows


if __name__ == "__main__":
    main()
