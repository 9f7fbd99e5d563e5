"""How long fitting a router takes per family, and how much memory.

Fits each family on 350,000 outcomes (12,032 prompts of MMLU-Pro × 29 models, vectors given; generated ones of that size
without the data folder), each in a process of its own: the whole of `penstock-train fit` after encoding, with five
folds, calibration, operating points and parity check.

Usage::

    python bench/training.py                            every family, about ten minutes on one core
    python bench/training.py --families linear,knn
    python bench/training.py --quick                    800 generated prompts, five arms; no figure is to be believed
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine, machine_lines, usable_cores
from router_corpora import generated_corpus, real_corpus

from penstock_training.families.registry import router_spec
from penstock_training.fit import Corpus, FitOptions, fit_router, single_threaded
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.own_router import dearest_arm

PACKAGES = ("penstock", "numpy", "scipy", "scikit-learn", "onnx", "onnxruntime")
PROMPTS, ARMS = 12_000, 29
SHORT_SECONDS, LONG_SECONDS = 60.0, 600.0
MEMORY_MB = 2048.0
# Name on the command line, and what is fitted.
FAMILIES: dict[str, tuple[str, dict[str, float], float]] = {
    "knn": ("knn", {}, SHORT_SECONDS),
    "knn exact": ("knn", {"support_points": 1.0}, SHORT_SECONDS),
    "cluster": ("cluster", {}, SHORT_SECONDS),
    "cluster learned": ("cluster", {"is_learned": 1.0}, SHORT_SECONDS),
    "linear": ("linear", {}, SHORT_SECONDS),
    "factorisation": ("factorisation", {}, SHORT_SECONDS),
    "irt": ("irt", {}, LONG_SECONDS),
    "kernel": ("kernel", {}, LONG_SECONDS),
    "boosting": ("boosting", {}, LONG_SECONDS),
    "mlp": ("mlp", {}, LONG_SECONDS),
    "ensemble": ("ensemble", {}, LONG_SECONDS),
}
Say = Callable[[str], None]


def main() -> None:
    """Run the bench as the command line asks, or, as a child process, fit one family."""
    options = _parse()
    if options.child:
        print(json.dumps(_fit(options.child, Path(options.corpus))))
        return
    say: Say = (lambda line: print(line, file=sys.stderr)) if options.json else print
    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    names = list(FAMILIES) if not options.families else options.families.split(",")
    if unknown := sorted(set(names) - set(FAMILIES)):
        sys.exit(f"unknown families: {', '.join(unknown)}; known: {', '.join(FAMILIES)}")
    corpus, source = _corpus(options.quick)
    outcomes = int(np.isfinite(corpus.matrix.score).sum())
    say(f"{source}: {len(corpus.matrix.prompts):,} prompts, {len(corpus.matrix.arms)} arms, {outcomes:,} outcomes\n")
    say(f"{'family':<17}{'wall s':>9}{'CPU s':>9}{'line s':>8}{'peak MB':>9}{'graph MB':>10}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch:
        path = Path(scratch) / "corpus.npz"
        _save(corpus, path)
        for name in names:
            rows.append(_run(name, path))
            _print_row(rows[-1], say)
    if not options.quick:
        late = [r["family"] for r in rows if r["cpu_seconds"] > r["line_seconds"] or r["peak_mb"] > MEMORY_MB]
        verdict = "all" if not late else "all but " + ", ".join(late)
        say(f"\nwithin {MEMORY_MB:,.0f} MB and their line in CPU seconds: {verdict}")
    if options.json:
        print(json.dumps({"machine": machine, "source": source, "outcomes": outcomes, "families": rows}, indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--families", help=f"of {', '.join(FAMILIES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="800 generated prompts, five arms")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the table goes to stderr")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", help=argparse.SUPPRESS)
    return parser.parse_args()


def _corpus(is_quick: bool) -> tuple[Corpus, str]:
    if is_quick:
        return generated_corpus(800, 5), "generated"
    real = real_corpus()
    return (generated_corpus(PROMPTS, ARMS), "generated") if real is None else (real, "MMLU-Pro")


def _save(corpus: Corpus, path: Path) -> None:
    """Write what a child needs as plain arrays; texts as one JSON array of bytes."""
    matrix = corpus.matrix
    texts = {"prompts": matrix.prompts, "sources": matrix.sources, "tasks": matrix.tasks,
             "categories": matrix.categories, "arms": list(matrix.arms), "prices": corpus.prices}  # fmt: skip
    np.savez(
        path,
        texts=np.frombuffer(json.dumps(texts).encode(), dtype=np.uint8),
        vectors=corpus.vectors,
        features=corpus.features,
        is_free_form=corpus.is_free_form,
        groups=matrix.groups,
        score=matrix.score,
        input_tokens=matrix.input_tokens,
        output_tokens=matrix.output_tokens,
        cost_usd=matrix.cost_usd,
    )


def _load(path: Path) -> Corpus:
    with np.load(path, allow_pickle=False) as saved:
        texts = json.loads(saved["texts"].tobytes())
        matrix = OutcomeMatrix(
            texts["prompts"],
            saved["groups"],
            texts["sources"],
            texts["tasks"],
            texts["categories"],
            tuple(texts["arms"]),
            saved["score"],
            saved["input_tokens"],
            saved["output_tokens"],
            saved["cost_usd"],
        )
        prices = {arm: (float(price[0]), float(price[1])) for arm, price in texts["prices"].items()}
        return Corpus(matrix, saved["vectors"], saved["features"], saved["is_free_form"], prices)


def _fit(name: str, path: Path) -> dict[str, Any]:
    """Fit one family in this process and measure it; loading and importing are not counted in the times."""
    family, settings, line = FAMILIES[name]
    corpus = _load(path)
    options = FitOptions(router=router_spec(family, settings))
    with single_threaded():
        wall, cpu = time.perf_counter(), time.process_time()
        fitted = fit_router(corpus, reference_arm=dearest_arm(corpus.prices), options=options, progress=lambda *_: None)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024.0**2 if sys.platform == "darwin" else 1024.0)
    return {
        "family": name,
        "wall_seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "line_seconds": line,
        "peak_mb": round(peak, 1),
        "graph_mb": round(len(fitted.graph) / 1e6, 3),
    }


def _run(name: str, path: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", name, "--corpus", str(path)]
    threads = str(min(2, len(usable_cores())))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        sys.exit(f"{name} failed:\n{done.stderr}")
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def _print_row(row: dict[str, Any], say: Say) -> None:
    say(
        f"{row['family']:<17}{row['wall_seconds']:9.1f}{row['cpu_seconds']:9.1f}{row['line_seconds']:8.0f}"
        f"{row['peak_mb']:9.0f}{row['graph_mb']:10.2f}"
    )


if __name__ == "__main__":
    main()
