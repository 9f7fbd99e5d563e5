"""Nearest neighbours beside a router's graph: time, memory, recall on real vectors, and what they lose in routing.

The points are prompts and texts of the data folder, encoded with the bundled static encoder: whole, then in windows of
200 characters, then, where that is not enough, blends of two of them (four parts to one). Queries are whole prompts of
MMLU-Pro that are in no index, nor their windows. Outcomes are those of MMLU-Pro's training prompts; a window or blend
has those of the prompt it comes from, and a point without outcomes has the mean of all.

Usage::

    python bench/neighbours.py                       200,000 and 1,000,000 points, eight minutes
    python bench/neighbours.py --quick               under a minute; its figures mean nothing
    python bench/neighbours.py --sizes 1000000 --kinds hnsw     one index, some ten minutes

Searches and graph run on one thread, one query at a time. Read `main`, then `measure`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from data_folder import data_folder
from encoder_quality import COST_WEIGHTS, OutcomeSet, load_outcome_set
from machine import describe_machine, machine_lines
from numpy.typing import NDArray
from pyarrow import parquet

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.manifest import INPUT_NAMES, NEIGHBOUR_INPUT_NAMES
from penstock_routers.onnx_session import create_session
from penstock_training.export import build_graph
from penstock_training.families.beside import BesideHead
from penstock_training.families.knn import KnnFamily
from penstock_training.families.registry import router_spec
from penstock_training.fit import Corpus, FitOptions, feature_matrix, fit_estimator
from penstock_training.index_building import build_index, measure_recall
from penstock_training.metrics import envelope_area, upper_envelope
from penstock_training.outcomes import OutcomeMatrix

SIZES = (200_000, 1_000_000)
# HNSW takes far longer to build over a million points on one core: name it to have it.
KINDS = {200_000: ("flat", "ivf_sq8", "ivf", "hnsw"), 1_000_000: ("flat", "ivf_sq8")}
# As a router that names nothing else is fitted.
SETTINGS = KnnFamily.defaults
NEIGHBOURS = round(SETTINGS["neighbours"])
QUERIES = 2000
TIMED = 1000
TEST_SHARE = 0.3
RESAMPLES = 200
WINDOW, STEP = 200, 100
BLEND = 0.8
PACKAGES = ("penstock", "numpy", "faiss-cpu", "faiss-gpu", "onnxruntime")

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Points:
    """What goes into the indexes: N vectors, most telling first, and the outcomes attached to them.

    Attributes
    ----------
    vectors : ndarray of float32, shape (N, d)
    scores : ndarray of uint8, shape (N, m)
    whole, windows : int
        How many are whole texts, and how many windows of them; the rest are blends.
    queries : ndarray of float32, shape (q, d)
    outcomes : OutcomeSet
        Of MMLU-Pro.
    train, test : ndarray of int64
        Rows of the outcomes; `queries` are those of `test`.
    """

    vectors: FloatArray
    scores: NDArray[np.uint8]
    whole: int
    windows: int
    queries: FloatArray
    outcomes: OutcomeSet
    train: NDArray[np.int64]
    test: NDArray[np.int64]


def main() -> None:
    """Run the bench as the command line asks."""
    options = _parse()
    say = (lambda line: print(line, file=sys.stderr, flush=True)) if options.json else _say
    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    sizes = options.sizes or ([3000] if options.quick else list(SIZES))
    points = gather(options.data, max(sizes), options.quick, say)
    rows: list[dict[str, Any]] = []
    for size in sizes:
        kinds = options.kinds or KINDS.get(size, ("flat", "ivf_sq8", "ivf", "hnsw"))
        rows += measure(points, size, kinds, options.quick, say)
    _print_table(rows, points.scores.shape[1], say)
    if options.json:
        data = {"whole": points.whole, "windows": points.windows, "queries": len(points.queries)}
        print(json.dumps({"machine": machine, "points": data, "results": rows}, indent=1))


def _say(line: str) -> None:
    print(line, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--data", type=Path, default=data_folder(), help="data folder (PENSTOCK_DATA, or ../shared/data)"
    )
    parser.add_argument("--sizes", type=int, nargs="+", help="points in the index (200000 1000000)")
    parser.add_argument("--kinds", nargs="+", choices=["flat", "ivf", "ivf_sq8", "hnsw"], help="kinds of index")
    parser.add_argument("--quick", action="store_true", help="3,000 points and 100 queries")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the table goes to stderr")
    return parser.parse_args()


def gather(data: Path, size: int, quick: bool, say: Callable[[str], None]) -> Points:
    """Read, cut and encode texts until there are `size` points."""
    outcomes = load_outcome_set(data, "mmlu_pro", 1200 if quick else 1 << 30)
    shuffled = np.random.default_rng(0).permutation(outcomes.groups.max() + 1)
    is_test = np.isin(outcomes.groups, shuffled[: int(TEST_SHARE * len(shuffled))])
    train = np.flatnonzero(~is_test)
    test = np.flatnonzero(is_test)[: 100 if quick else QUERIES]
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    hidden = {outcomes.prompts[row] for row in np.flatnonzero(is_test)}
    texts, rows = list(map(outcomes.prompts.__getitem__, train)), list(range(train.size))
    others = [text for text in dict.fromkeys(islice(_other_texts(data), size)) if text not in hidden]
    texts += others
    rows += [-1] * len(others)
    whole = min(len(texts), size)
    if len(texts) < size:
        cut = [(part, row) for text, row in zip(texts, rows, strict=True) for part in _windows(text)]
        order = np.random.default_rng(1).permutation(len(cut))[: size - len(texts)]
        texts += [cut[i][0] for i in order]
        rows += [cut[i][1] for i in order]
    texts, rows = texts[:size], rows[:size]
    started = time.perf_counter()
    real = np.vstack([encoder.encode(texts[i : i + 1024]) for i in range(0, len(texts), 1024)])
    seconds = time.perf_counter() - started
    say(
        f"points: {whole:,} whole texts, {len(texts) - whole:,} windows of {WINDOW} characters, "
        f"{size - len(texts):,} blends; encoded in {seconds:.0f} s"
    )
    vectors, owners = _blended(real, np.array(rows), size)
    own = np.rint(255.0 * outcomes.scores[train]).astype(np.uint8)
    mean = np.rint(255.0 * outcomes.scores[train].mean(axis=0)).astype(np.uint8)
    scores = np.vstack([own, mean])[owners]  # -1 takes the last row
    queries = encoder.encode([outcomes.prompts[row] for row in test])
    return Points(vectors, scores, whole, len(texts) - whole, queries, outcomes, train, test)


def _other_texts(data: Path) -> Iterator[str]:
    """Texts without outcomes here: prompts of the other sets, then the texts of the cache's sets."""
    for path in sorted((data / "routing").glob("*.parquet")):
        if path.stem != "mmlu_pro":
            yield from parquet.read_table(path, columns=["prompt"]).column("prompt").unique().to_pylist()
    for path in sorted((data / "cache").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in lines)


def _windows(text: str) -> list[str]:
    return [text[i : i + WINDOW] for i in range(0, len(text) - STEP, STEP)] if len(text) > WINDOW else []


def _blended(real: FloatArray, owners: NDArray[np.int64], size: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Add blends of two vectors until there are `size`; a blend belongs to its larger part's prompt."""
    missing = size - real.shape[0]
    if missing <= 0:
        return real, owners
    random = np.random.default_rng(2)
    first, second = random.integers(0, real.shape[0], (2, missing))
    vectors = np.empty((size, real.shape[1]), dtype=np.float32)
    vectors[: real.shape[0]] = real
    for start in range(0, missing, 65_536):
        part = slice(start, min(start + 65_536, missing))
        mixed = BLEND * real[first[part]] + (1.0 - BLEND) * real[second[part]]
        mixed /= np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-9)
        vectors[real.shape[0] + part.start : real.shape[0] + part.stop] = mixed
    return vectors, np.concatenate([owners, owners[first]])


def measure(
    points: Points, size: int, kinds: tuple[str, ...], quick: bool, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Build each kind over the first `size` points and compare it with exact neighbours."""
    vectors, scores = points.vectors[:size], points.scores[:size]
    neighbours = min(NEIGHBOURS, size // 10)
    everything = np.vstack([vectors, points.queries])
    exact_similarity, exact_rows = _exact(vectors, points.queries, neighbours)
    prior = points.outcomes.scores[points.train].mean(axis=0)
    exact_quality: NDArray[np.float64] | None = None
    estimator = _estimator(points)
    for kind in kinds:
        started = time.perf_counter()
        built = build_index(vectors, kind, neighbours=neighbours, recall=SETTINGS["index_recall"], seed=0)  # type: ignore[arg-type]
        seconds = time.perf_counter() - started
        for effort in dict.fromkeys((built.effort, max(1, built.effort // 2), max(1, built.effort // 4))):
            tried = replace(built, effort=effort if built.effort else 0)
            head = BesideHead(tried, None, scores, SETTINGS["bandwidth"], SETTINGS["strength"], prior)
            if exact_quality is None:
                exact_quality = head.blend(exact_similarity, scores[exact_rows])
            similarity, rows = built.index.search(points.queries, neighbours, tried.effort)
            quality = head.blend(similarity, scores[rows])
            asked = np.arange(size, size + len(points.queries))
            row = {
                "points": size, "kind": kind, "effort": tried.effort, "build_seconds": round(seconds, 1),
                "megabytes": round(built.content.nbytes / 1e6, 1),
                "recall_asked": built.recall if effort == built.effort else None,
                "recall_new_prompts": measure_recall(everything, asked, exact_rows, rows),
                **_times(head, replace(estimator, head=head), points, quick),
                "quality_difference": float(np.abs(quality - exact_quality).mean()),
                **_area_loss(points, exact_quality, quality, 20 if quick else RESAMPLES),
            }  # fmt: skip
            say(f"  {size:,} {kind} {tried.effort}: built in {seconds:.0f} s, recall {row['recall_new_prompts']:.3f}")
            yield row
            if not built.effort:
                break


def _exact(vectors: FloatArray, queries: FloatArray, count: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Exact neighbours, nearest first."""
    found: list[tuple[FloatArray, NDArray[np.int64]]] = []
    for start in range(0, len(queries), 50):
        similarity = queries[start : start + 50] @ vectors.T
        rows = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        near = np.take_along_axis(similarity, rows, axis=1)
        order = np.argsort(-near, axis=1)
        found.append((np.take_along_axis(near, order, axis=1), np.take_along_axis(rows, order, axis=1)))
    return np.vstack([near for near, _ in found]), np.vstack([rows for _, rows in found])


def _estimator(points: Points) -> Any:
    """Fit the rest of a router on 2,000 prompts: frame, calibration and uncertainty are small in any case."""
    rows = points.train[:2000]
    outcomes = points.outcomes
    arms = tuple(f"arm {i}" for i in range(outcomes.scores.shape[1]))
    prompts = [outcomes.prompts[row] for row in rows]
    matrix = OutcomeMatrix(
        prompts=prompts, groups=outcomes.groups[rows], sources=["mmlu_pro"] * rows.size, tasks=[""] * rows.size,
        categories=[""] * rows.size, arms=arms, score=outcomes.scores[rows].astype(np.float32),
        input_tokens=np.full((rows.size, len(arms)), 100, dtype=np.float32),
        output_tokens=np.full((rows.size, len(arms)), 100, dtype=np.float32),
        cost_usd=outcomes.costs[rows].astype(np.float32),
    )  # fmt: skip
    corpus = Corpus(
        matrix, points.vectors[: rows.size], feature_matrix(prompts), np.ones(rows.size, dtype=bool),
        dict.fromkeys(arms, (1.0, 1.0)),
    )  # fmt: skip
    return fit_estimator(corpus, FitOptions(router=router_spec("knn")), lambda *_: None)[0]


def _times(head: BesideHead, estimator: Any, points: Points, quick: bool) -> dict[str, dict[str, float]]:
    """Microseconds of a search with its scores, and of search and graph together, one prompt at a time.

    Processor time of the thread is what a quiet machine would take; wall time is what this one took.
    """
    session = create_session(build_graph(estimator), device="cpu", threads=1)
    features = feature_matrix([points.outcomes.prompts[row] for row in points.test])
    vector_name, features_name, reference_name = INPUT_NAMES
    index = head.built
    count = 50 if quick else min(TIMED if index.effort else 100, len(points.queries))
    clocks: list[tuple[int, int, int, int]] = []
    for row in range(count):
        vector = points.queries[row : row + 1]
        wall, used = time.perf_counter_ns(), time.thread_time_ns()
        similarity, rows = index.index.search(vector, index.neighbours, index.effort)
        found = (similarity, head.scores[rows])
        searched = time.perf_counter_ns() - wall, time.thread_time_ns() - used
        feeds: dict[str, NDArray[Any]] = dict(zip(NEIGHBOUR_INPUT_NAMES, found, strict=True))
        feeds[vector_name], feeds[features_name] = vector, features[row : row + 1]
        feeds[reference_name] = np.zeros(1, dtype=np.int64)
        session.run(feeds)
        clocks.append((*searched, time.perf_counter_ns() - wall, time.thread_time_ns() - used))
    names = ("search_us", "search_cpu_us", "estimate_us", "estimate_cpu_us")
    return dict(zip(names, map(_percentiles, np.array(clocks).T), strict=True))


def _percentiles(nanoseconds: NDArray[np.int64]) -> dict[str, float]:
    p50, p99 = np.percentile(nanoseconds, [50, 99]) / 1e3
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}


def _area_loss(
    points: Points, exact: NDArray[np.float64], found: NDArray[np.float64], resamples: int
) -> dict[str, Any]:
    """Area under cost and quality with both, and its difference with a 95 % interval over prompts."""
    scores, costs = points.outcomes.scores[points.test], points.outcomes.costs[points.test]
    groups = points.outcomes.groups[points.test]
    relative = points.outcomes.costs[points.train].mean(axis=0)
    relative = relative / relative.max()
    chosen = [np.stack([np.argmax(e - w * relative, axis=1) for w in COST_WEIGHTS]) for e in (exact, found)]
    names, member = np.unique(groups, return_inverse=True)
    random = np.random.default_rng(3)
    differences = []
    for _ in range(resamples):
        weight = np.bincount(random.integers(0, names.size, names.size), minlength=names.size)[member].astype(float)
        areas = [_area(rows, scores, costs, weight) for rows in chosen]
        differences.append(areas[1] - areas[0])
    ones = np.ones(len(groups))
    exact_area, area = (_area(rows, scores, costs, ones) for rows in chosen)
    low, high = np.percentile(differences, [2.5, 97.5])
    return {
        "area_exact": float(exact_area),
        "area": float(area),
        "area_difference": [float(area - exact_area), float(low), float(high)],
    }


def _area(chosen: NDArray[np.int64], scores: NDArray[np.float64], costs: NDArray[np.float64], weight: Any) -> float:
    """Area between the cheapest and the best single arm's cost, both of which are points of the curve."""
    rows = np.arange(len(scores))
    mean_cost, mean_score = (np.average(values, axis=0, weights=weight) for values in (costs, scores))
    cheapest, best = int(mean_cost.argmin()), int(mean_score.argmax())
    cost = [np.average(costs[rows, c], weights=weight) for c in chosen] + [mean_cost[cheapest], mean_cost[best]]
    quality = [np.average(scores[rows, c], weights=weight) for c in chosen] + [mean_score[cheapest], mean_score[best]]
    return float(envelope_area(upper_envelope(cost, quality), mean_cost[cheapest], mean_cost[best]))


def _print_table(rows: list[dict[str, Any]], arms: int, say: Callable[[str], None]) -> None:
    say("")
    say("                                                   search µs, p50          estimate µs, p50       area lost")
    say("points     kind     effort build s     MB  recall     CPU    wall   (p99)     CPU    wall   (p99)  (95 %)")
    for row in rows:
        search, estimate = row["search_us"], row["estimate_us"]
        difference, low, high = row["area_difference"]
        say(
            f"{row['points']:<10,} {row['kind']:<8} {row['effort']:>6} {row['build_seconds']:>7.0f} "
            f"{row['megabytes']:>6.0f}  {row['recall_new_prompts']:.3f} "
            f"{row['search_cpu_us']['p50']:>8.0f} {search['p50']:>7.0f} {search['p99']:>7.0f} "
            f"{row['estimate_cpu_us']['p50']:>7.0f} {estimate['p50']:>7.0f} {estimate['p99']:>7.0f}  "
            f"{-difference:+.4f} ({-high:+.4f} to {-low:+.4f})"
        )
    areas = ", ".join(sorted({f"{row['area_exact']:.4f} over {row['points']:,} points" for row in rows}))
    say(
        f"{NEIGHBOURS} neighbours, one thread, one prompt at a time; recall and area on MMLU-Pro prompts that no index "
        f"holds; search includes the scores, estimate also the graph ({arms} arms); area of exact neighbours: {areas}"
    )


if __name__ == "__main__":
    main()
