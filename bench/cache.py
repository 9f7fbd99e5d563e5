"""The cache as the gateway calls it: time of a look-up and of a change, memory, restarts, stalls of the event loop.

Everything goes through `AnswerCache`: the index, a store (memory, and a redis-server of our own on this host), and the
decision rule. The search vector is given; what the encoders take is printed apart. Look-ups are of three kinds: a hit
(another wording of a stored prompt), a near miss (stored prompts are near, the rule refuses them all) and a miss
(nothing is near). "CPU" is processor time of the thread: what a quiet machine would take, or nearly. Stalls are of a
task that wants to run every millisecond, in processor time of the loop between two of its turns, and by the clock.

Usage::

    python bench/cache.py                  about twenty minutes
    python bench/cache.py --quick          some seconds; its figures mean nothing
    python bench/cache.py --sizes 100000   one size

Read `main`, then `_case`; what is measured is in `cache_world`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from cache_index import DIMENSION, made_points
from cache_world import (
    CHOSEN,
    ENCODER,
    TENANT,
    Family,
    World,
    fill,
    fingerprint_of,
    fresh_answer,
    look_for,
    make_world,
    memory_of,
    own_redis,
    partition_key,
    resident_bytes,
    rule_and_name,
    settle,
)
from machine import describe_machine, machine_lines

from penstock_cache.answer_cache import AnswerCache
from penstock_cache.entries import CachedDocument, FloatArray
from penstock_cache.index.partitions import PartitionedIndex
from penstock_cache.lookups import Hit, Lookup, Miss
from penstock_cache.mirror import IndexMirror
from penstock_cache.quotas import CategoryQuotas
from penstock_cache.residency import ResidentSet
from penstock_cache.single_flight import SingleFlight
from penstock_cache.stores import DocumentStore, FileDocumentStore, IndexFollower, MemoryDocumentStore
from penstock_cache.stores.redis_store import RedisDocumentStore
from penstock_gateway.redis_client import RedisClient
from penstock_routers.bundled import bundled_folder
from penstock_routers.encoder import PromptEncoder

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

PACKAGES = ("penstock", "numpy", "numkong", "msgspec", "redis", "onnxruntime", "uvloop")
SIZES = (1_000, 10_000, 100_000, 1_000_000)
FAMILIES, CHURN, RESTARTED = 1_000, 2_000, 50_000
QUICK_SIZES, QUICK_FAMILIES, QUICK_CHURN, QUICK_RESTARTED = (1_000,), 60, 100, 1_500
CASE_SECONDS = 1_200
TICK_SECONDS = 0.001
MISS_AIMS_MS = {100_000: 0.3, 1_000_000: 1.0}
HIT_AIM_MS, BYTES_AIM, STALL_AIM_MS = 1.0, 1_200, 20.0
PARTS = ("search", "fetch", "decide")

Say = Callable[[str], None]
Result = TypeVar("Result")


def main() -> None:
    """Run the bench as the command line asks."""
    options = _parse()
    if options.case:
        print(json.dumps(_run(_case(options.case, options.entries, options.families, options.churn))))
        return
    say: Say = (lambda line: print(line, file=sys.stderr, flush=True)) if options.json else _say
    sizes = options.sizes or (QUICK_SIZES if options.quick else SIZES)
    families, churn = (QUICK_FAMILIES, QUICK_CHURN) if options.quick else (FAMILIES, CHURN)
    machine = describe_machine(PACKAGES)
    report: dict[str, Any] = {"machine": machine, "rule": rule_and_name()[1], "cases": []}
    for line in (*machine_lines(machine), f"decision rule: {report['rule']}"):
        say(line)
    report["embedding_us"] = _embedding(say)
    for placement in ("one", "spread"):
        for entries in sizes:
            case = _in_process(placement, entries, families, churn)
            report["cases"].append(case)
            _say_case(case, say)
    report["restarts"] = _run(_restarts(QUICK_RESTARTED if options.quick else RESTARTED))
    for row in report["restarts"]:
        say("restart, {store}: {entries:,} entries are found again after {seconds:.2f} s (opening {opening:.2f} s); "
            "longest turn of the loop {turn_cpu_ms:.1f} ms CPU, {turn_ms:.1f} ms".format(**row))  # fmt: skip
    report["single_flight"] = _run(_single_flight())
    say("100 identical requests at once, model of 20 ms: {calls} call, all answered after {ms:.1f} ms".format(
        **report["single_flight"]))  # fmt: skip
    report["aims"] = _aims(report)
    say("")
    for aim in report["aims"]:
        say(f"{'reached' if aim['is_reached'] else 'MISSED '}  {aim['aim']}: {aim['found']}")
    if options.json:
        print(json.dumps(report, indent=1))


def _say(line: str) -> None:
    print(line, flush=True)


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run on uvloop, as the gateway does, where there is one."""
    factory = uvloop.new_event_loop if uvloop is not None else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--sizes", nargs="+", type=int, help="entries")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the tables go to stderr")
    parser.add_argument("--case", choices=["one", "spread"], help="one case, in this process")
    parser.add_argument("--entries", type=int, default=1_000, help="of --case")
    parser.add_argument("--families", type=int, default=FAMILIES, help="of --case: four entries each with documents")
    parser.add_argument("--churn", type=int, default=CHURN, help="of --case: insertions with a deletion each")
    return parser.parse_args()


def _in_process(placement: str, entries: int, families: int, churn: int) -> dict[str, Any]:
    """Measure in a process of its own: freed memory of this one would hide what is taken."""
    numbers = {"--entries": entries, "--families": families, "--churn": churn}
    command = [sys.executable, __file__, "--case", placement, *(str(x) for pair in numbers.items() for x in pair)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=CASE_SECONDS)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Ticker:
    """A task that wants to run every millisecond, and how long it had to wait."""

    def __init__(self) -> None:
        self.turn_ms = self.turn_cpu_ms = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Ticker:
        self._task = asyncio.create_task(self._tick())
        await asyncio.sleep(2 * TICK_SECONDS)
        self.turn_ms = self.turn_cpu_ms = 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(2 * TICK_SECONDS)
        assert self._task is not None
        self._task.cancel()

    async def _tick(self) -> None:
        while True:
            wall, used = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK_SECONDS)
            self.turn_ms = max(self.turn_ms, 1e3 * (time.perf_counter() - wall - TICK_SECONDS))
            self.turn_cpu_ms = max(self.turn_cpu_ms, 1e3 * (time.thread_time() - used))

    def found(self) -> dict[str, float]:
        """Return the longest of both."""
        return {"turn_ms": self.turn_ms, "turn_cpu_ms": self.turn_cpu_ms}


async def _case(placement: str, entries: int, families: int, churn: int) -> dict[str, Any]:
    """Fill one mirror, and use it through both stores."""
    with own_redis() as url:
        world = make_world(placement, entries, families)
        stores: dict[str, DocumentStore] = {"memory": MemoryDocumentStore()}
        if url is not None:
            # The deadlines are for gateways; here a busy machine should give a time, not a miss.
            stores["redis"] = RedisDocumentStore(RedisClient(url), look_up_seconds=5.0, write_seconds=5.0)
        caches = {name: await world.open(store, owns_documents=name == "memory") for name, store in stores.items()}
        rows = made_points(entries, 1).rows
        await fill(make_world(placement, 3_000, 1), rows[:3_000] if entries >= 3_000 else made_points(3_000, 1).rows)
        settle()
        case: dict[str, Any] = {"placement": placement, "entries": entries, "stalls": {}, "stores": {}}
        before = resident_bytes()
        async with Ticker() as ticker:
            case |= await fill(world, rows)
        case["stalls"]["fill"] = ticker.found()
        case |= memory_of(world, before)
        for name, cache in caches.items():
            async with Ticker() as ticker:
                documents = [document for family in world.families for document in family.documents]
                for document in documents:
                    await cache.parts.store.put(document, now=time.time())
                    await asyncio.sleep(0)
                await _until(lambda each=documents[-1].entry_id: each in world.mirror)  # type: ignore[misc]
            case["stalls"][f"stores, {name}"] = ticker.found()
            async with Ticker() as ticker:
                looked_up, hits = await _look_ups(world, cache)
            case["stalls"][f"look-ups, {name}"] = ticker.found()
            async with Ticker() as ticker:
                wall, cpu = await _churn(world, cache, churn)
            case["stalls"][f"churn, {name}"] = ticker.found()
            case["stores"][name] = {
                "look_ups": {kind: {"hits": hits[kind], **_summary(rows)} for kind, rows in looked_up.items()},
                "churn": {"wall": _percentiles(wall), "cpu": _percentiles(cpu)},
            }
        async with Ticker() as ticker:
            started = time.perf_counter()
            world.mirror.remove_all(TENANT, None, time.time() + 60.0)
            while len(world.mirror):
                await asyncio.sleep(TICK_SECONDS)
            case["clear_seconds"] = time.perf_counter() - started
        case["stalls"]["a tenant's deletion"] = ticker.found()
        await world.close()
        for store in stores.values():
            await store.aclose()
    case["problems"] = sorted(set(world.problems))
    return case


async def _look_ups(world: World, cache: AnswerCache) -> tuple[dict[str, list[dict[str, int]]], dict[str, int]]:
    """Look up each kind once for every family; the first time, the judge has not read the stored texts yet."""
    draws = np.random.default_rng(3)
    found: dict[str, list[dict[str, int]]] = {}
    kinds = ("hit, first sight", "hit", "near miss", "miss", "exact hit", "exact miss")
    hits: dict[str, int] = {}
    for kind in kinds:
        for number, family in enumerate(world.families):
            look, vector = _request(kind, number, family, draws)
            world.laps.spent.clear()
            clocks = time.perf_counter_ns(), time.thread_time_ns()
            if kind.startswith("exact"):
                answer: Hit | Miss = await cache.find_exact(look, _accepts)
            else:
                answer = await cache.find_semantic(look, vector, CHOSEN, _accepts)
            used, wall = time.thread_time_ns() - clocks[1], time.perf_counter_ns() - clocks[0]
            spent = dict(world.laps.spent)
            spent["decide"] = spent.get("decide", 0) - spent.get("verify", 0)
            row = {"wall": wall - spent.get("verify", 0), "cpu": used - spent.pop("verify", 0), **spent}
            found.setdefault(kind, []).append(row)
            hits[kind] = hits.get(kind, 0) + isinstance(answer, Hit)
            await asyncio.sleep(0)
    return found, hits


def _request(kind: str, number: int, family: Family, draws: np.random.Generator) -> tuple[Lookup, FloatArray]:
    which = number % len(family.texts)
    near = family.vectors[which] + 0.2 * draws.standard_normal(DIMENSION).astype(np.float32) / np.sqrt(DIMENSION)
    if kind.startswith("hit"):
        return look_for(family.partition, "Please " + family.texts[which]), near
    if kind == "near miss":
        return look_for(family.partition, family.texts[which].replace("my", "somebody's")), near
    if kind == "exact hit":
        return look_for(family.partition, family.texts[which]), near
    text = f"what has nothing to do with it, number {number}?"
    return look_for(family.partition, text), draws.standard_normal(DIMENSION).astype(np.float32)


def _accepts(_: CachedDocument) -> bool:
    return True


def _summary(rows: list[dict[str, int]]) -> dict[str, Any]:
    return {part: _percentiles([row.get(part, 0) for row in rows]) for part in ("wall", "cpu", *PARTS)}


def _percentiles(nanoseconds: list[int]) -> dict[str, float]:
    p50, p99 = np.percentile(nanoseconds, [50, 99]) / 1e6
    return {"p50_ms": round(float(p50), 4), "p99_ms": round(float(p99), 4)}


async def _churn(world: World, cache: AnswerCache, count: int) -> tuple[list[int], list[int]]:
    """Store new answers and delete old entries, one for one, each until the index has followed."""
    draws = np.random.default_rng(11)
    stored: list[str] = []
    wall: list[int] = []
    cpu: list[int] = []
    for number in range(count + count // 10):
        owner = int(world.owners[draws.integers(0, len(world.owners))])
        look = look_for(partition_key(owner), f"what is new, number {number}?")
        for _ in range(2):
            cache.parts.contexts.see(TENANT, look.key.context)
        vector = draws.standard_normal(DIMENSION).astype(np.float32)
        clocks = time.perf_counter_ns(), time.thread_time_ns()
        result = await cache.store(look, CHOSEN, fresh_answer(), vector / np.linalg.norm(vector))
        assert result.document is not None, result.reason
        stored.append(result.document.entry_id)
        await _until(lambda: stored[-1] in world.mirror)
        if len(stored) > count // 10:
            going = stored.pop(0)
            await cache.delete(TENANT, [going])
            await _until(lambda going=going: going not in world.mirror)  # type: ignore[misc]
            cpu.append(time.thread_time_ns() - clocks[1])
            wall.append(time.perf_counter_ns() - clocks[0])
    return wall, cpu


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def _restarts(entries: int) -> list[dict[str, Any]]:
    """Fill a store, and start anew from its file or its snapshot."""
    world = make_world("one", 1, entries // 4)
    documents = [document for family in world.families for document in family.documents]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = await FileDocumentStore.open(Path(folder), now=time.time())
        await _put_all(file, documents)
        await file.aclose()
        rows.append(await _restarted("file", len(documents), lambda: FileDocumentStore.open(Path(folder), now=0.0)))
    with own_redis() as url:
        if url is None:
            return rows

        async def connect() -> DocumentStore:
            return RedisDocumentStore(RedisClient(url), look_up_seconds=5.0, write_seconds=5.0)

        first = await connect()
        await _put_all(first, documents)
        await first.aclose()
        rows.append(await _restarted("redis", len(documents), connect))
    return rows


async def _put_all(store: DocumentStore, documents: list[CachedDocument]) -> None:
    """Put documents no faster than a disk writes them: a file store leaves out what waits beyond 64 MB."""
    for start in range(0, len(documents), 8):
        await asyncio.gather(*(store.put(each, now=time.time()) for each in documents[start : start + 8]))
        if start % 1_000 == 0:
            await asyncio.sleep(0.05)


async def _restarted(name: str, entries: int, connect: Callable[[], Awaitable[DocumentStore]]) -> dict[str, Any]:
    mirror = IndexMirror(
        PartitionedIndex(DIMENSION),
        ResidentSet(CategoryQuotas(1 << 40, {})),
        clock=time.time,
        on_problem=lambda _: None,
    )
    follower = IndexFollower(mirror, encoder_id=ENCODER, dimension=DIMENSION)
    async with Ticker() as ticker:
        started = time.perf_counter()
        store = await connect()
        opened = time.perf_counter()
        task = asyncio.create_task(follower.run(store))
        while not follower.is_in_step:
            await asyncio.sleep(TICK_SECONDS)
        seconds = time.perf_counter() - started
    assert len(mirror) == entries, (len(mirror), entries)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with aclosing(store):
        return {"store": name, "entries": entries, "seconds": seconds, "opening": opened - started, **ticker.found()}


async def _single_flight() -> dict[str, Any]:
    """Ask the same thing a hundred times at once; the first asks a model that takes 20 ms."""
    world = make_world("one", 1, 1)
    cache = await world.open(MemoryDocumentStore(), owns_documents=True)
    flights: SingleFlight[CachedDocument] = SingleFlight()
    calls = 0

    async def ask() -> bool:
        nonlocal calls
        look = look_for(partition_key(0), "the same question?")
        if isinstance(await cache.find_exact(look, _accepts), Hit):
            return True
        with flights.seat(fingerprint_of("the same question?")) as seat:
            if await seat.wait(5.0) is None:
                calls += 1
                await asyncio.sleep(0.02)
                result = await cache.store(look, CHOSEN, fresh_answer(), None)
                assert result.document is not None
                seat.deliver(result.document)
        return True

    started = time.perf_counter()
    answered = await asyncio.gather(*(ask() for _ in range(100)))
    found = {"calls": calls, "answered": sum(answered), "ms": 1e3 * (time.perf_counter() - started)}
    await world.close()
    return found


def _embedding(say: Say) -> dict[str, Any]:
    """Time the bundled encoders on one question: the search encoder for every look-up, the other for plausible ones."""
    times = {}
    for name in ("static-minilm-256", "minilm-l6-v2"):
        encoder, spent = PromptEncoder.load(bundled_folder(name)), []
        for number in range(60):
            clock = time.perf_counter_ns()
            encoder.encode([f"how do i reset the password of customer {number} in the web shop?"])
            spent.append(time.perf_counter_ns() - clock)
        times[name] = _percentiles(spent[10:])
        say("embed, {}: p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms".format(name, **times[name]))
    return times


def _say_case(case: dict[str, Any], say: Say) -> None:
    say("\n{entries:,} entries, {placement} ({partitions:,} partitions): {rss_bytes:.0f} B an entry by RSS "
        "({trimmed_bytes:.0f} without what the allocator holds free), {counted_bytes:.0f} by count (index "
        "{index_bytes:.0f}); add {add_cpu_us:.0f} µs CPU, "
        "the longest {longest_add_cpu_ms:.1f} ms; {seconds:.0f} s".format(**case))  # fmt: skip
    say("  store   look-up            served   CPU p50     p99   wall p50     p99 ms   search p50   p99 "
        "   fetch p50   p99   decide p50   p99")  # fmt: skip
    for name, store in case["stores"].items():
        for kind, row in store["look_ups"].items():
            parts = "  ".join(f"{row[part]['p50_ms']:>8.3f} {row[part]['p99_ms']:>7.3f}" for part in PARTS)
            say(f"  {name:<7} {kind:<17} {row['hits']:>7} {row['cpu']['p50_ms']:>9.3f} {row['cpu']['p99_ms']:>7.3f} "
                f"{row['wall']['p50_ms']:>10.3f} {row['wall']['p99_ms']:>7.3f}     {parts}")  # fmt: skip
        churn = store["churn"]
        say("  {:<7} insert+delete             {:>9.3f} {:>7.3f} {:>10.3f} {:>7.3f}".format(
            name, *(churn[clock][p] for clock in ("cpu", "wall") for p in ("p50_ms", "p99_ms"))))  # fmt: skip
    stalls = ", ".join(
        f"{what} {turn['turn_cpu_ms']:.1f} ({turn['turn_ms']:.1f})" for what, turn in case["stalls"].items()
    )
    say(f"  longest turn of the loop, ms CPU (by the clock): {stalls}; deletion took {case['clear_seconds']:.2f} s")
    if case["problems"]:
        say(f"  problems: {', '.join(case['problems'])}")


def _aims(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare with what is to be reached; the sizes that were not run have no line."""
    aims: list[dict[str, Any]] = []

    def note(aim: str, values: dict[str, float], limit: float, unit: str) -> None:
        found = ", ".join(f"{what} {value:.3g}" for what, value in values.items())
        is_reached = all(value <= limit for value in values.values())
        aims.append({"aim": aim, "found": f"{found} {unit}", "is_reached": is_reached, "values": values})

    for case in report["cases"]:
        name = f"{case['entries']:,} entries, {case['placement']}"
        looked_up = {store: found["look_ups"] for store, found in case["stores"].items()}
        if case["entries"] in MISS_AIMS_MS:
            limit = MISS_AIMS_MS[case["entries"]]
            for kind in ("miss", "near miss"):
                row = looked_up["memory"][kind]
                values = {"CPU": row["cpu"]["p99_ms"], "by the clock": row["wall"]["p99_ms"]}
                note(f"{kind} p99 ≤ {limit} ms, {name}, without embedding", values, limit, "ms")
            note(
                f"≤ {BYTES_AIM} B an entry, {name}",
                {"RSS": case["rss_bytes"], "trimmed": case["trimmed_bytes"]},
                BYTES_AIM,
                "B",
            )
        if "redis" in looked_up:
            values = {kind: looked_up["redis"][kind]["wall"]["p99_ms"] for kind in ("exact hit", "hit")}
            note(f"hit p99 ≤ {HIT_AIM_MS} ms with Redis, {name}, without embedding", values, HIT_AIM_MS, "ms")
        values = {what: turn["turn_cpu_ms"] for what, turn in case["stalls"].items()}
        note(f"no stall over {STALL_AIM_MS} ms (CPU), {name}", values, STALL_AIM_MS, "ms")
    for row in report["restarts"]:
        values = {row["store"]: row["turn_cpu_ms"]}
        note(f"no stall over {STALL_AIM_MS} ms (CPU) after a restart", values, STALL_AIM_MS, "ms")
    return aims


if __name__ == "__main__":
    main()
