"""The cache's index: time of a search and of a change, recall, drift under turnover, stalls, memory.

`made` points are 384-dimensional and drawn: groups of twenty around centres of 32 latent dimensions, with noise in all.
`prompts` are texts of the cache's sets in the data folder, through the bundled static encoder (256 dimensions); they
are harder than anything drawn. Queries are points that no index holds. Graph libraries are compared where installed.

Usage::

    python bench/cache_index.py                      about twelve minutes, most of it graphs
    python bench/cache_index.py --quick              some ten seconds; its figures mean nothing
    python bench/cache_index.py --kinds clustered    ours alone

One thread, one query at a time. "CPU" is processor time of the thread: what a quiet machine would take, or nearly.
Read `main`, then `compare`.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cache_index_kinds import Kind, entry_id, makers
from data_folder import data_folder
from machine import describe_machine, machine_lines
from numpy.typing import NDArray

from penstock_cache.index.clustered import ClusteredIndex
from penstock_cache.index.kernels import score_rows
from penstock_cache.index.partitions import PartitionedIndex
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder

PACKAGES = ("penstock", "numpy", "numkong", "usearch", "hnswlib")
DIMENSION = 384
NEIGHBOURS = 8
QUERIES = 1000
LATENT, GROUP = 32, 20
PARTITIONS, LARGEST = 200_000, 5
# A graph of a million points takes some twenty minutes to build on one core, and flat search is out of the question.
SIZES: dict[int, tuple[str, ...] | None] = {1000: None, 10_000: None, 100_000: None, 1_000_000: ("clustered",)}
AIMS_MS = {100_000: 0.3, 1_000_000: 1.0}
TURNOVERS = (1, 5, 10)

FloatArray = NDArray[np.float32]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    sizes: dict[int, tuple[str, ...] | None]
    prompts: int
    turnover: dict[str, int]
    queries: int
    partitions: int
    memory: int


FULL = Scale(SIZES, 100_000, {"clustered": 100_000, "usearch": 5000, "hnswlib": 5000}, QUERIES, PARTITIONS, 500_000)
QUICK = Scale({500: None, 6000: ("clustered",)}, 3000, {"clustered": 3000}, 100, 3000, 6000)


def main() -> None:
    """Run the bench as the command line asks."""
    options = _parse()
    if options.memory:
        print(json.dumps(_memory_of(options.memory, options.entries)))
        return
    say: Say = (lambda line: print(line, file=sys.stderr, flush=True)) if options.json else _say
    scale = QUICK if options.quick else FULL
    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    report: dict[str, Any] = {"machine": machine, "searches": [], "turnover": [], "memory": []}
    say("\npoints           kind       effort  build s  add µs (p99)  search µs CPU   wall    p99    recall@1  if ≥ .8")
    for points, kinds in _point_sets(scale, options.data, say):
        for row in compare(points, scale.queries, _both(options.kinds, kinds)):
            report["searches"].append(row)
            say(_search_line(row))
    say("\nturnover         kind     entries    ×   recall@1  if ≥ .8   remove+add µs p50     p99  p99.9 (CPU)")
    for row in turn_over(scale, options.data, options.kinds):
        report["turnover"].append(row)
        say(_turnover_line(row))
    report["stall"] = asyncio.run(stall(scale))
    say("\nlongest gap of an event loop that ticks while {entries:,} entries come and as many go: {gap_ms:.1f} ms; "
        "longest call {call_cpu_ms:.1f} ms CPU".format(**report["stall"]))  # fmt: skip
    for what, entries in (("one", scale.memory), ("spread", scale.partitions)):
        report["memory"].append(_measure_memory(what, entries))
        say("{what}: {entries:,} entries in {partitions:,} partitions, {rss} B an entry by RSS, {counted} by count; "
            "add {add_us:.0f} µs, search p50 {p50:.0f} p99 {p99:.0f} µs".format(**report["memory"][-1]))  # fmt: skip
    if options.json:
        print(json.dumps(report, indent=1))


def _say(line: str) -> None:
    print(line, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=data_folder(), help="data folder (PENSTOCK_DATA)")
    parser.add_argument("--kinds", nargs="+", choices=["flat", "clustered", "usearch", "hnswlib"])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the tables go to stderr")
    parser.add_argument("--memory", choices=["one", "spread"], help="only measure memory, in this process")
    parser.add_argument("--entries", type=int, default=100_000, help="entries, or partitions, of --memory")
    return parser.parse_args()


def _both(asked: list[str] | None, sensible: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the kinds that are asked for and sensible at a size; None where nothing is left out."""
    if asked is None or sensible is None:
        return sensible if asked is None else tuple(asked)
    return tuple(kind for kind in sensible if kind in asked)


@dataclass(frozen=True)
class Points:
    """Rows for an index and queries that it does not hold.

    Attributes
    ----------
    name : str
    rows : ndarray of float16, shape (n, d)
    queries : ndarray of float32, shape (q, d)
    """

    name: str
    rows: NDArray[np.float16]
    queries: FloatArray


def made_points(count: int, queries: int, seed: int = 0) -> Points:
    """Draw points in blocks, so that a million of them never stand in float32."""
    draws = np.random.default_rng(seed)
    basis = draws.standard_normal((LATENT, DIMENSION)).astype(np.float32)
    centres = (
        draws.standard_normal((max(1, count // GROUP), LATENT)).astype(np.float32)
        @ basis
        / np.float32(math.sqrt(LATENT))
    )

    def block(size: int) -> FloatArray:
        points = centres[draws.integers(0, len(centres), size)]
        points = points + 0.6 * draws.standard_normal((size, DIMENSION)).astype(np.float32)
        unit: FloatArray = points / np.linalg.norm(points, axis=1, keepdims=True)
        return unit

    rows = np.empty((count, DIMENSION), dtype=np.float16)
    for start in range(0, count, 20_000):
        rows[start : start + 20_000] = block(min(20_000, count - start))
    return Points(f"made {count:,}", rows, block(queries))


def prompt_points(data: Path, count: int, queries: int, seed: int = 0) -> Points | None:
    """Encode texts of the cache's sets; None without a data folder, or with too few texts in it."""
    texts: dict[str, None] = {}
    for path in sorted((data / "cache").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts.update((json.loads(line)["text"], None) for line in lines)
    if len(texts) < count + queries:
        return None
    order = np.random.default_rng(seed).permutation(len(texts))[: count + queries]
    every = list(texts)
    chosen = [every[i] for i in order]
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    vectors = np.vstack([encoder.encode(chosen[i : i + 1024]) for i in range(0, len(chosen), 1024)])
    return Points(f"prompts {count:,}", vectors[:count].astype(np.float16), vectors[count:])


def _point_sets(scale: Scale, data: Path, say: Say) -> Iterator[tuple[Points, tuple[str, ...] | None]]:
    for size, kinds in scale.sizes.items():
        yield made_points(size, scale.queries), kinds
    prompts = prompt_points(data, scale.prompts, scale.queries)
    if prompts is None:
        say("no data folder: searches among real prompts are left out")
    else:
        yield prompts, None


def nearest(rows: NDArray[np.float16], queries: FloatArray) -> FloatArray:
    """Return the cosine of each query's nearest row."""
    scores = np.empty(len(rows), dtype=np.float32)
    best = np.empty(len(queries), dtype=np.float32)
    for i, query in enumerate(queries):
        score_rows(query.astype(np.float16), rows, scores)
        best[i] = scores.max()
    return best


def compare(points: Points, queries: int, kinds: tuple[str, ...] | None) -> Iterator[dict[str, Any]]:
    """Build each kind over the points, and search it at each effort."""
    best = nearest(points.rows, points.queries)
    for name, make in makers(points.rows.shape[1], len(points.rows)).items():
        if kinds is not None and name not in kinds:
            continue
        index = make()
        seconds, added = _fill(index, points.rows)
        for effort in index.efforts:
            index.set_effort(effort)
            yield {
                "points": points.name, "entries": len(points.rows), "kind": name, "effort": effort,
                "build_seconds": round(seconds, 1), "add_us": _percentiles(added),
                **_searched(index, points.queries[:queries], best[:queries]),
            }  # fmt: skip


def _fill(index: Kind, rows: NDArray[np.float16]) -> tuple[float, list[int]]:
    times, started = [], time.perf_counter()
    for number, row in enumerate(rows):
        vector = row.astype(np.float32)
        before = time.thread_time_ns()
        index.add(number, vector)
        times.append(time.thread_time_ns() - before)
    return time.perf_counter() - started, times[len(times) // 2 :]


def _searched(index: Kind, queries: FloatArray, best: FloatArray) -> dict[str, Any]:
    wall, used, found = [], [], []
    for query in queries:
        clocks = time.perf_counter_ns(), time.thread_time_ns()
        found.append(index.search(query, NEIGHBOURS))
        used.append(time.thread_time_ns() - clocks[1])
        wall.append(time.perf_counter_ns() - clocks[0])
    # A row in float16 is up to 5e-4 longer or shorter than 1.
    hits = np.array(found) >= best - 1e-3
    near = best >= 0.8
    return {
        "search_us": _percentiles(wall), "search_cpu_us": _percentiles(used), "recall": float(hits.mean()),
        "recall_near": float(hits[near].mean()) if near.any() else None,
    }  # fmt: skip


def _percentiles(nanoseconds: list[int]) -> dict[str, float]:
    p50, p99, p999 = np.percentile(nanoseconds, [50, 99, 99.9]) / 1e3
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "p999": round(float(p999), 1)}


def turn_over(scale: Scale, data: Path, kinds: tuple[str, ...] | None) -> Iterator[dict[str, Any]]:
    """Replace entries one by one, each by a point not seen before, and search after 0, 1, 5 and 10 times all of them.

    The points are real prompts while they last, each with a little noise when it comes back.
    """
    for name, size in scale.turnover.items():
        points = prompt_points(data, size, scale.queries) or made_points(size, scale.queries)
        available = makers(points.rows.shape[1], 2 * size)
        if name not in available or (kinds and name not in kinds):
            continue
        draws, index, rows = np.random.default_rng(4), available[name](), points.rows.copy()
        _fill(index, rows)
        index.set_effort(index.efforts[-2] if len(index.efforts) > 1 else 0)
        times: list[int] = []
        for done in range(TURNOVERS[-1] + 1):
            if done:
                times = list(_replace_all(index, points.rows, rows, draws))
            if done in (0, *TURNOVERS):
                searched = _searched(index, points.queries, nearest(rows, points.queries))
                yield {"kind": name, "points": points.name, "entries": size, "turnover": done,
                       "change_us": _percentiles(times) if times else None, **searched}  # fmt: skip


def _replace_all(
    index: Kind, originals: NDArray[np.float16], rows: NDArray[np.float16], draws: np.random.Generator
) -> Iterator[int]:
    """Replace as many random entries as there are; yields nanoseconds of a removal with its addition."""
    dimension = rows.shape[1]
    for number in draws.integers(0, len(rows), len(rows)).tolist():
        source: FloatArray = originals[int(draws.integers(0, len(rows)))].astype(np.float32)
        noise: FloatArray = draws.standard_normal((dimension,), dtype=np.float32)
        vector: FloatArray = source + noise * np.float32(0.3 / math.sqrt(dimension))
        vector /= np.float32(np.linalg.norm(vector))
        rows[number] = vector
        before = time.thread_time_ns()
        index.remove(number)
        index.add(number, vector)
        yield time.thread_time_ns() - before


async def stall(scale: Scale) -> dict[str, Any]:
    """Let entries come and go inline on an event loop, and watch how late a tick of 1 ms comes."""
    entries = 2 * scale.memory // 10
    rows, index = made_points(entries, 1).rows, PartitionedIndex(DIMENSION)
    gap, longest, is_done = 0.0, 0, False

    async def tick() -> None:
        nonlocal gap
        while not is_done:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            gap = max(gap, time.perf_counter() - before - 0.001)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    for number in range(2 * entries):
        before = time.thread_time_ns()
        if number < entries:
            index.add(b"p" * 16, entry_id(number), rows[number].astype(np.float32))
        else:
            index.remove(entry_id(number - entries))
        longest = max(longest, time.thread_time_ns() - before)
        await asyncio.sleep(0)
    is_done = True
    await ticking
    return {"entries": entries, "gap_ms": gap * 1e3, "call_cpu_ms": longest / 1e6}


def _measure_memory(what: str, entries: int) -> dict[str, Any]:
    """Measure in a process of its own: freed memory of this one would hide what is taken."""
    command = [sys.executable, __file__, "--memory", what, "--entries", str(entries)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def _memory_of(what: str, entries: int) -> dict[str, Any]:
    """Fill one partition, or so many with one to five entries each: size s has a share of 1/s, as Zipf's law has it."""
    draws = np.random.default_rng(5)
    if what == "one":
        sizes = np.array([entries])
    else:
        shares = 1.0 / np.arange(1, LARGEST + 1)
        sizes = draws.choice(np.arange(1, LARGEST + 1), size=entries, p=shares / shares.sum())
    owners = draws.permutation(np.repeat(np.arange(len(sizes)), sizes))
    pool = made_points(5000, 100)
    rows = pool.rows.astype(np.float32)
    index = PartitionedIndex(DIMENSION)
    ClusteredIndex(DIMENSION)  # what the first use of anything loads is not the entries'
    before, started = _resident_bytes(), time.perf_counter()
    for number, owner in enumerate(owners.tolist()):
        index.add(_partition(owner), entry_id(number), rows[number % 5000] + rows[(number // 5000) % 5000])
    seconds = time.perf_counter() - started
    taken, times = _resident_bytes() - before, []
    for i in range(2000):
        key, clock = _partition(int(owners[i])), time.perf_counter_ns()
        index.search(key, pool.queries[i % 100], NEIGHBOURS)
        times.append(time.perf_counter_ns() - clock)
    total = len(index)
    return {
        "what": what, "entries": total, "partitions": index.partitions(), "rss": round(taken / total),
        "counted": round(index.memory_bytes() / total), "add_us": 1e6 * seconds / total, **_percentiles(times),
    }  # fmt: skip


def _partition(number: int) -> bytes:
    return bytes.fromhex(entry_id(number + (1 << 40)))


def _resident_bytes() -> int:
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        raise SystemExit("memory is read from /proc, which this system does not have")
    return int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _search_line(row: dict[str, Any]) -> str:
    aim = AIMS_MS.get(row["entries"])
    near = "" if row["recall_near"] is None else f"{row['recall_near']:.3f}"
    return (
        f"{row['points']:<16} {row['kind']:<10} {row['effort'] or '':>6} {row['build_seconds']:>8.1f} "
        f"{row['add_us']['p50']:>7.0f} ({row['add_us']['p99']:.0f}) {row['search_cpu_us']['p50']:>12.0f} "
        f"{row['search_us']['p50']:>10.0f} {row['search_us']['p99']:>6.0f}    {row['recall']:>8.3f} {near:>8}"
        + (f"   aim: p99 {1e3 * aim:.0f} µs" if aim and row["kind"] == "clustered" else "")
    )


def _turnover_line(row: dict[str, Any]) -> str:
    change = row["change_us"]
    near = "" if row["recall_near"] is None else f"{row['recall_near']:.3f}"
    times = "" if change is None else f"{change['p50']:>14.0f} {change['p99']:>12.0f} {change['p999']:>6.0f}"
    return (
        f"{row['points']:<16} {row['kind']:<9} {row['entries']:>7,} {row['turnover']:>4} "
        f"{row['recall']:>9.3f} {near:>8} {times}"
    )


if __name__ == "__main__":
    main()
