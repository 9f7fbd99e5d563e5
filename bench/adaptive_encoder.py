"""What the transformer is worth: never, only where it can matter, always; for routing and for semantic hits.

Routing: four outcome sets, a router on the static encoder's vectors, one on the transformer's, and the static one whose
unsure decisions are left to the other (``adaptive_routing.py``). Hits: the cache's text sets as streams
(``adaptive_hits.py``). Times are processor time of one text at a time on this machine, one thread.

Usage::

    python bench/adaptive_encoder.py                 all sets; needs ../shared/data (PENSTOCK_DATA)
    python bench/adaptive_encoder.py --quick         a part of one set each, for a first look
    python bench/adaptive_encoder.py --json

Vectors are kept in ``.bench`` for the next run; the first takes some ten minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from adaptive_hits import measure_hits
from adaptive_routing import measure_routing
from cache_texts import SETS, is_available, kept_vectors, load_encoded
from data_folder import data_folder
from encoder_quality import OUTCOME_SETS, load_outcome_set
from machine import describe_machine, machine_lines
from scipy import stats

from penstock_routers.bundled import DEFAULT_ENCODER, PARAPHRASE_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_training.cache_rule.calibrate import MIN_COSINE
from penstock_training.cache_rule.pair_table import pair_table
from penstock_training.cache_rule.rule_files import read_scorer

PACKAGES = ("numpy", "onnxruntime", "tokenizers", "scikit-learn")
TEXT_SETS = ("own corpus", "hwu64", "qqp", "clinc150", "banking77")
SEEDS = 5
MOST_PROMPTS = 6_000
TIMED_TEXTS, QUICK_TIMED_TEXTS = 150, 20
QUICK_TEXTS = 200
Say = Callable[[str], None]


def main() -> None:
    """Run the bench as the command line asks."""
    options = _parse()
    say: Say = (lambda line: print(line, file=sys.stderr, flush=True)) if options.json else print
    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    encoders = {
        name: PromptEncoder.load(bundled_folder(name), device="cpu") for name in (DEFAULT_ENCODER, PARAPHRASE_ENCODER)
    }
    routing = [row for name in _outcome_sets(options) for row in _route(name, options, encoders, say)]
    hits = [row for name in _text_sets(options) for row in _hit(name, options, encoders, say)]
    if options.json:
        print(json.dumps({"machine": machine, "routing": routing, "hits": hits}, indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, help=f"splits and orders of each set ({SEEDS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TEXTS} texts of one set each, two seeds")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the tables go to stderr")
    options = parser.parse_args()
    options.seeds = options.seeds or (2 if options.quick else SEEDS)
    return options


def _outcome_sets(options: argparse.Namespace) -> list[str]:
    names = [name for name in OUTCOME_SETS if (data_folder() / "routing" / f"{name}.parquet").is_file()]
    return names[:1] if options.quick else names


def _text_sets(options: argparse.Namespace) -> list[str]:
    names = [name for name in TEXT_SETS if name in SETS and is_available(name)]
    return names[:1] if options.quick else names


def _route(
    name: str, options: argparse.Namespace, encoders: dict[str, PromptEncoder], say: Say
) -> list[dict[str, Any]]:
    outcomes = load_outcome_set(data_folder(), name, QUICK_TEXTS if options.quick else MOST_PROMPTS)
    static, transformer = (kept_vectors(outcomes.prompts, encoder) for encoder in encoders)
    cheap, dear = (_microseconds(encoder, outcomes.prompts, options.quick) for encoder in encoders.values())
    splits = [measure_routing(outcomes, static, transformer, seed) for seed in range(options.seeds)]
    rows = []
    for way in splits[0]:
        areas = np.array([split[way].area for split in splits])
        gain = areas - [split["static"].area for split in splits]
        asked = float(np.mean([split[way].asked for split in splits]))
        rows.append(
            {
                "set": name,
                "way": way,
                "area": float(areas.mean()),
                "gain_over_static": float(gain.mean()),
                "half_width": _half_width(gain),
                "agreement": float(np.mean([split[way].agreement for split in splits])),
                "asked": asked,
                "microseconds": (dear if way == "always" else cheap + asked * dear),
            }
        )
        say(_routing_line(rows[-1]))
    return rows


def _hit(name: str, options: argparse.Namespace, encoders: dict[str, PromptEncoder], say: Say) -> list[dict[str, Any]]:
    encoded = load_encoded(name, max_texts=QUICK_TEXTS if options.quick else None)
    cheap, dear = (_microseconds(encoder, encoded.texts.texts, options.quick) for encoder in encoders.values())
    table = pair_table(encoded, min_cosine=MIN_COSINE)
    scorer = read_scorer(bundled_folder("cache-rule"))
    streams = [measure_hits(table, scorer, scorer.manifest.min_plausible, seed) for seed in range(options.seeds)]
    rows = []
    for way in streams[0]:
        found = {
            field: float(np.mean([asdict(run[way])[field] for run in streams])) for field in asdict(streams[0][way])
        }
        rows.append({"set": name, "way": way, **found, "microseconds": cheap + found["asked"] * dear})
        say(_hits_line(rows[-1]))
    return rows


def _microseconds(encoder: PromptEncoder, texts: Sequence[str], is_quick: bool) -> float:
    """Mean processor time of one text, the median of three passes."""
    count = QUICK_TIMED_TEXTS if is_quick else TIMED_TEXTS
    sample = [texts[row] for row in np.random.default_rng(0).permutation(len(texts))[:count]]
    passes = []
    for _ in range(3):
        started = time.process_time()
        for text in sample:
            encoder.encode([text])
        passes.append((time.process_time() - started) / len(sample))
    return 1e6 * float(np.median(passes))


def _half_width(gains: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Of the 95 % interval of the mean over splits, which share prompts: narrower than fresh data would give."""
    if len(gains) < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5)


def _routing_line(row: dict[str, Any]) -> str:
    area = f"area {row['area']:.4f} ({row['gain_over_static']:+.4f} ± {row['half_width']:.4f})"
    return f"{row['set']:28} {row['way']:14} {area}, decisions as always {row['agreement']:6.1%}, {_use(row)}"


def _hits_line(row: dict[str, Any]) -> str:
    hits = f"hits {row['hits']:6.2%}, false {row['false_hits']:6.3%} of requests"
    return f"{row['set']:28} {row['way']:14} {hits}, verdict as always {row['agreement']:6.2%}, {_use(row)}"


def _use(row: dict[str, Any]) -> str:
    return f"transformer for {row['asked']:6.1%}, {row['microseconds']:8,.0f} µs"


if __name__ == "__main__":
    main()
