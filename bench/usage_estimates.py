"""Error of the token estimate where a provider reports no usage, and how often the upper bound does not hold.

Counts texts of many kinds with real tokenizers and compares `token_counts.estimate_tokens` (bills without a report) and
`token_counts.tokens_at_most` (what a budget holds for a stream that goes on) with the counts. Errors are by language or
kind of text; the bill's bias is that of the sum, which is what a month's invoice shows.

Tokenizers: OpenAI's (cl100k, o200k) and Claude 2's from the files inside the litellm package, read without importing
it, when the litellm extra is installed; any other as ``--tokenizer NAME=tokenizer.json``; else the tokenizer of the
bundled encoder, which is no language model's and only shows that the bench works. Prompts with recorded cl100k counts
come from the outcome sets, where they are there.

Usage::

    python bench/usage_estimates.py
    python bench/usage_estimates.py --tokenizer gemma3=gemma3/tokenizer.json --tokenizer deepseek=deepseek.json
    python bench/usage_estimates.py --quick --json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_folder import data_folder
from machine import describe_machine, machine_lines
from usage_texts import DENSE_KINDS, passages, texts_by_kind

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.token_counts import estimate_tokens, tokens_at_most

CountTokens = Callable[[str], int]

PACKAGES = ("tokenizers", "tiktoken", "litellm")
PREFIXES_PER_TEXT = 25
# The files of litellm's folder of tokenizers, by tiktoken's own names for them (SHA-1 of where they come from).
_OPENAI = {
    "cl100k": ("cl100k_base", "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"),
    "o200k": ("o200k_base", "fb374d419588a4632f3f557e76b4b70aebbca790"),
}
_RECORDED = ("mmlu_pro", "routellm_mmlu_gsm8k_mtbench", "routerbench_3tasks")


def main() -> None:
    """Run the bench as the command line asks."""
    options = _parse()
    say = (lambda line: print(line, file=sys.stderr)) if options.json else print
    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    per_kind = 3 if options.quick else 60
    tokenizers = dict(_tokenizers(options.tokenizer, say))
    texts = texts_by_kind(per_kind=per_kind)
    rows = [row for name, count in tokenizers.items() for row in _rows(name, count, texts)]
    rows += list(_recorded_rows(200 if options.quick else 5000, say))
    languages, dense = set(passages()), set(DENSE_KINDS)
    groups = [
        _group(rows, "languages", languages),
        _group(rows, "code, prose and JSON", set(texts) - languages - dense),
        _group(rows, "numbers and base64", dense),
    ]
    for line in table_lines(rows):
        say(line)
    for group in groups:
        say(group_line(group))
    if options.json:
        print(json.dumps({"machine": machine, "rows": rows, "groups": groups}, indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--tokenizer", action="append", default=[], metavar="NAME=FILE", help="a tokenizer.json")
    parser.add_argument("--quick", action="store_true", help="three texts of each kind")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the table goes to stderr")
    return parser.parse_args()


def _tokenizers(given: Sequence[str], say: Callable[[str], None]) -> Iterator[tuple[str, CountTokens]]:
    """Yield what counts tokens, by name."""
    found = 0
    for name, count in (*_litellm_tokenizers(), *_files(given)):
        found += 1
        yield name, count
    if not found:
        say("no language model's tokenizer: install the litellm extra, or name one with --tokenizer")
        yield "bundled encoder", _from_file(bundled_folder(DEFAULT_ENCODER) / "tokenizer.json")


def _litellm_tokenizers() -> Iterator[tuple[str, CountTokens]]:
    spec = importlib.util.find_spec("litellm")
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("tiktoken") is None:
        return
    folder = Path(spec.submodule_search_locations[0]) / "litellm_core_utils" / "tokenizers"
    import tiktoken  # noqa: PLC0415  (comes with the litellm extra)

    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)  # else it would fetch
    for name, (encoding, file) in _OPENAI.items():
        if (folder / file).is_file():
            yield name, _counter_of(tiktoken.get_encoding(encoding).encode_ordinary)
    if (folder / "anthropic_tokenizer.json").is_file():
        yield "claude2", _from_file(folder / "anthropic_tokenizer.json")


def _files(given: Sequence[str]) -> Iterator[tuple[str, CountTokens]]:
    for text in given:
        name, _, path = text.partition("=")
        yield name, _from_file(Path(path))


def _from_file(path: Path) -> CountTokens:
    from tokenizers import Tokenizer  # noqa: PLC0415

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _counter_of(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)


def _counter_of(encode: Callable[[str], Sequence[int]]) -> CountTokens:
    return lambda text: len(encode(text))


def _rows(name: str, count: CountTokens, texts: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    for kind, pieces in texts.items():
        pairs = [(len(text.encode()), count(text)) for text in pieces]
        violations, accumulations = 0, 0
        for text in pieces:
            for prefix in _prefixes(text):
                accumulations += 1
                violations += count(prefix) > tokens_at_most(len(prefix.encode()))
        yield summary(name, kind, pairs, violations, accumulations)


def _prefixes(text: str) -> Iterable[str]:
    """Yield a text as far as it has arrived, in steps like those of a stream."""
    step = max(1, len(text) // PREFIXES_PER_TEXT)
    return (text[:end] for end in range(step, len(text) + 1, step))


def _recorded_rows(limit: int, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Yield rows of the outcome sets, whose prompts come with cl100k counts."""
    folder = data_folder() / "routing"
    if importlib.util.find_spec("pyarrow") is None or not folder.is_dir():
        say("recorded counts skipped: they need pyarrow and the outcome sets (PENSTOCK_DATA)")
        return
    from pyarrow import parquet  # noqa: PLC0415

    for name in _RECORDED:
        table = parquet.read_table(folder / f"{name}.parquet", columns=["query_id", "prompt", "input_tokens"])
        columns = (table[column].to_pylist() for column in ("query_id", "prompt", "input_tokens"))
        first: dict[str, tuple[str, int]] = {}
        for query, prompt, tokens in zip(*columns, strict=True):
            if tokens:
                first.setdefault(query, (prompt, tokens))
        pairs = [(len(prompt.encode()), tokens) for prompt, tokens in list(first.values())[:limit]]
        violations = sum(tokens > tokens_at_most(size) for size, tokens in pairs)
        yield summary("cl100k recorded", f"prompts of {name}", pairs, violations, len(pairs))


def summary(
    tokenizer: str, kind: str, pairs: Sequence[tuple[int, int]], violations: int, accumulations: int
) -> dict[str, Any]:
    """Return the errors of the estimate on texts of one kind.

    Parameters
    ----------
    tokenizer, kind : str
    pairs : sequence of (int, int)
        Bytes and true tokens of each text.
    violations, accumulations : int
        How often a text, as far as it had arrived, had more tokens than `tokens_at_most` says; out of how many.

    Returns
    -------
    dict
        `median_error` and `p95_error`: of |estimate − true| ÷ true over texts; `bias`: Σ estimate ÷ Σ true − 1.
    """
    errors = sorted(abs(estimate_tokens(size) - tokens) / tokens for size, tokens in pairs)
    true = sum(tokens for _, tokens in pairs)
    return {
        "tokenizer": tokenizer,
        "kind": kind,
        "texts": len(pairs),
        "true_tokens": true,
        "estimated_tokens": sum(estimate_tokens(size) for size, _ in pairs),
        "bytes_per_token": sum(size for size, _ in pairs) / true,
        "median_error": quantile(errors, 0.5),
        "p95_error": quantile(errors, 0.95),
        "bias": sum(estimate_tokens(size) for size, _ in pairs) / true - 1,
        "violations": violations,
        "accumulations": accumulations,
    }


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least a share of the values does not exceed."""
    return ordered[min(len(ordered) - 1, max(0, int(len(ordered) * share + 0.999999) - 1))]


def _group(rows: Sequence[dict[str, Any]], name: str, kinds: set[str]) -> dict[str, Any]:
    """Sum up many rows: the range of the bias, and the share of broken bounds."""
    own = [row for row in rows if row["kind"] in kinds]
    true = sum(row["true_tokens"] for row in own)
    return {
        "group": name,
        "bias": sum(row["estimated_tokens"] for row in own) / true - 1,
        "lowest_bias": min((row["bias"], row["kind"], row["tokenizer"]) for row in own),
        "highest_bias": max((row["bias"], row["kind"], row["tokenizer"]) for row in own),
        "worst_violation_rate": max(row["violations"] / row["accumulations"] for row in own),
        "violation_rate": sum(row["violations"] for row in own) / sum(row["accumulations"] for row in own),
    }


def table_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows as lines of text."""
    head = f"{'tokenizer':16}{'kind':40}{'texts':>6}{'B/token':>9}{'median':>8}{'p95':>8}{'bias':>8}{'over bound':>12}"
    lines = ["", head]
    for row in rows:
        share = row["violations"] / row["accumulations"]
        lines.append(
            f"{row['tokenizer']:16}{row['kind']:40}{row['texts']:>6}{row['bytes_per_token']:>9.2f}"
            f"{row['median_error']:>8.0%}{row['p95_error']:>8.0%}{row['bias']:>+8.0%}{share:>12.2%}"
        )
    return lines


def group_line(group: dict[str, Any]) -> str:
    """Return a group as one line of text."""
    low, high = group["lowest_bias"], group["highest_bias"]
    return (
        f"{group['group']}: bias {group['bias']:+.0%}, from {low[0]:+.0%} ({low[1]}, {low[2]}) to {high[0]:+.0%} "
        f"({high[1]}, {high[2]}); over the upper bound {group['violation_rate']:.2%}, at worst "
        f"{group['worst_violation_rate']:.2%}"
    )


if __name__ == "__main__":
    main()
