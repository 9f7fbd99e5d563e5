"""What reading a prompt costs before a decision: tokens, vector, features, estimates, by two runs or by one.

Times the shipped static encoder and the shipped artifact at 8 to 256 tokens: as it was (every word asked of the
tokenizer, the encoder's graph, the router's graph), with words looked up in the vocabulary, and with both graphs joined
into one run, which is what the gateway serves. Each way answers the same prompt in turn, in processor time of the
thread; the low percentile is what a quiet core would show. A second table takes the tokenizer apart, on made-up text
and, where the outcome sets are there, on real prompts.

Usage::

    python bench/reading.py            a minute
    python bench/reading.py --quick    a few rounds; no figure is to be believed
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from data_folder import data_folder
from encoder import WORDS
from machine import describe_machine, machine_lines

from penstock_routers.artifact import RouterArtifact
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.features import prompt_features
from penstock_routers.fused import FusedGraph
from penstock_routers.text import window

PACKAGES = ("penstock", "numpy", "tokenizers", "onnxruntime")
TOKENS = (8, 30, 128, 256)
PROMPTS = 64
REAL_PROMPTS = 500
LOW = 10
Way = Callable[[str], object]


def main() -> None:
    """Run the bench as the command line asks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=2_000, help="prompts read by each way (2,000)")
    parser.add_argument("--quick", action="store_true", help="100 rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the tables go to stderr")
    options = parser.parse_args()
    rounds = 100 if options.quick else options.rounds

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    artifact = RouterArtifact.load(bundled_folder("default-router"), encoder_id=encoder.encoder_id)
    texts = {f"{tokens} tokens": [_prompt(tokens, number) for number in range(PROMPTS)] for tokens in TOKENS}
    say(f"\nµs of processor time to read a prompt, percentile {LOW} of {rounds:,} (median)")
    reading = _table(_ways(encoder, artifact), texts, rounds, say)
    say("\nµs of processor time for its tokens")
    tokenizing = _table(_tokenizers(encoder), texts | _real_prompts(encoder), rounds, say)
    if options.json:
        print(json.dumps({"machine": machine, "rounds": rounds, "reading": reading, "tokens": tokenizing}, indent=1))


def _prompt(tokens: int, number: int) -> str:
    """Words of one token each; prompts of one size differ."""
    return " ".join(WORDS[(number + place * (1 + number % 5)) % len(WORDS)] for place in range(tokens))


def _ways(encoder: PromptEncoder, artifact: RouterArtifact) -> dict[str, Way]:
    other = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))  # joining takes its own graph away
    fused, reference = FusedGraph.open(other, artifact), artifact.manifest.reference_arm

    def asking_every_word(text: str) -> object:
        ids = encoder._tokenizer.asked(window(text, encoder.manifest.window))
        return artifact.estimate(encoder._run([ids])[0], prompt_features(text), reference_arm=reference)

    def two_runs(text: str) -> object:
        return artifact.estimate(encoder.encode([text])[0], prompt_features(text), reference_arm=reference)

    return {
        "every word asked, two runs": asking_every_word,
        "words looked up, two runs": two_runs,
        "words looked up, one run": lambda text: fused.read([text], reference),
    }


def _tokenizers(encoder: PromptEncoder) -> dict[str, Way]:
    plain = encoder._tokenizer._tokenizer
    return {
        "encode, special tokens": lambda text: plain.encode(text).ids,
        "encode": lambda text: plain.encode(text, add_special_tokens=False).ids,
        "encode_batch of one": lambda text: plain.encode_batch([text], add_special_tokens=False)[0].ids,
        "encode_batch_fast of one": encoder._tokenizer.asked,
        "words looked up": encoder._tokenizer.ids,
    }


def _real_prompts(encoder: PromptEncoder) -> dict[str, list[str]]:
    """A sample of each outcome set, windowed; empty where they are not there."""
    folder = data_folder() / "routing"
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.parquet")) if folder.is_dir() else ():
        import pyarrow.parquet  # noqa: PLC0415  (only where there is something to read)

        column = pyarrow.parquet.read_table(path, columns=["prompt"])["prompt"]
        prompts = list(dict.fromkeys(text for text in column.to_pylist() if text))
        chosen = np.random.default_rng(0).permutation(len(prompts))[:REAL_PROMPTS]
        found[path.stem] = [window(prompts[row], encoder.manifest.window) for row in chosen]
    return found


def _table(
    ways: dict[str, Way], texts: dict[str, list[str]], rounds: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Time every way on every kind of text; real prompts differ in length, so that their mean is shown."""
    rows: list[dict[str, Any]] = []
    say(f"{'':28}" + "".join(f"{name:>32}" for name in ways))
    for kind, prompts in texts.items():
        taken = _interleaved(ways, prompts, rounds)
        cells = []
        for name, microseconds in taken.items():
            low, middle, mean = *np.percentile(microseconds, (LOW, 50)), microseconds.mean()
            rows.append({"texts": kind, "way": name, "low_us": low, "median_us": middle, "mean_us": mean})
            cells.append(f"{low:.0f} ({middle:.0f})" if len(prompts) == PROMPTS else f"mean {mean:.0f}")
        say(f"{kind:28}" + "".join(f"{cell:>32}" for cell in cells))
    return rows


def _interleaved(ways: dict[str, Way], prompts: list[str], rounds: int) -> dict[str, Any]:
    taken = {name: np.empty(rounds) for name in ways}
    for number in range(-20, rounds):
        text = prompts[number % len(prompts)]
        for name, way in ways.items():
            started = time.thread_time_ns()
            way(text)
            if number >= 0:
                taken[name][number] = (time.thread_time_ns() - started) / 1e3
    return taken


if __name__ == "__main__":
    main()
