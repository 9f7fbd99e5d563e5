"""What eviction saves: dollars that hits save of those they could, under several orders; and what quotas protect.

The traffic is generated. Groups of prompts with one answer recur by Zipf's law and change their popularity four times;
beside them comes a stream of prompts that are asked once. Categories differ in price, size, life and share of one-off
prompts; a group has four wordings, any of which finds its entry. Seeds are fixed: same figures on every machine.

Usage::

    python bench/cache_eviction.py             two minutes
    python bench/cache_eviction.py --quick     a few seconds; its figures mean nothing

Every order has the same bytes. Read `main`, then `play` and `measure_quotas`.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import sys
import time
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any, Protocol

import numpy as np
from machine import describe_machine, machine_lines
from numpy.typing import NDArray

from penstock_cache.admission import Candidate
from penstock_cache.eviction import EvictionRules, HitValue
from penstock_cache.quotas import CategoryQuota, CategoryQuotas
from penstock_cache.residency import ResidentSet

SEEDS = (0, 1, 2)
REQUESTS = 100_000
GROUPS = 15_000
PHASES = 4
WORDINGS = 4
ZIPF_EXPONENT = 0.9
CAPACITY_SHARES = (0.01, 0.03, 0.1)
REQUESTS_PER_SECOND = 1.0
RETRIED_SHARE = 0.05
RETRY_WITHIN = 300
PACKAGES = ("penstock", "numpy")

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class CategoryTraffic:
    """How one category's requests look.

    Attributes
    ----------
    share : float
        Of all requests.
    one_off_share : float
        Of its requests, asked once.
    median_cost_usd, median_size_bytes : float
        Of log-normal distributions with σ = 1 and σ = 0.6.
    ttl_seconds : float
    """

    share: float
    one_off_share: float
    median_cost_usd: float
    median_size_bytes: float
    ttl_seconds: float


TRAFFIC = {
    "faq": CategoryTraffic(0.30, 0.2, 0.0005, 2_000, 604_800),
    "chat": CategoryTraffic(0.35, 0.9, 0.001, 3_000, 86_400),
    "code": CategoryTraffic(0.20, 0.7, 0.010, 8_000, 86_400),
    "medical": CategoryTraffic(0.05, 0.5, 0.008, 4_000, 86_400),
    "volatile": CategoryTraffic(0.10, 0.5, 0.002, 2_000, 600),
}
NAMES = tuple(TRAFFIC)


@dataclass(frozen=True)
class Stream:
    """A day of requests; lists have one value a request.

    Attributes
    ----------
    groups : list of int
        What is asked: requests with the same number have one answer.
    wordings, categories : list of int
    cost_usd : list of float
    size_bytes : list of int
    footprint_bytes : int
        Of all groups together.
    possible_usd : float
        What a cache without a limit saves.
    """

    groups: list[int]
    wordings: list[int]
    categories: list[int]
    cost_usd: list[float]
    size_bytes: list[int]
    footprint_bytes: int
    possible_usd: float = 0.0


@dataclass(frozen=True)
class Run:
    """What hits saved."""

    hits: int
    saved_usd: float
    saved_by_category: dict[str, float]


class Order(Protocol):
    """A cache of a fixed number of bytes."""

    def ask(self, stream: Stream, row: int, now: float) -> bool:
        """Answer a request, or take its answer in; whether it was a hit."""


def main() -> None:
    """Run the bench as the command line asks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="one seed, 6,000 requests")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the table goes to stderr")
    options = parser.parse_args()
    say = (lambda line: print(line, file=sys.stderr, flush=True)) if options.json else _say
    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    requests = 6_000 if options.quick else REQUESTS
    streams = [generate(seed, requests) for seed in (SEEDS[:1] if options.quick else SEEDS)]
    orders = [row for share in CAPACITY_SHARES for row in compare(streams, share)]
    print_orders(orders, say)
    quotas = measure_quotas(requests)
    print_quotas(quotas, say)
    bookkeeping = measure_bookkeeping(2_000 if options.quick else 100_000)
    print_bookkeeping(bookkeeping, say)
    if options.json:
        result = {"machine": machine, "results": orders, "quotas": quotas, "bookkeeping": bookkeeping}
        print(json.dumps(result, indent=1))


def _say(line: str) -> None:
    print(line, flush=True)


def generate(seed: int, requests: int, flood: str | None = None) -> Stream:
    """Draw a stream; in its second half every other request is a one-off prompt of the category `flood`."""
    random = np.random.default_rng(seed)
    count = min(GROUPS, requests // 4)
    categories = random.choice(len(NAMES), requests, p=[traffic.share for traffic in TRAFFIC.values()])
    is_one_off = random.random(requests) < np.array([t.one_off_share for t in TRAFFIC.values()])[categories]
    if flood is not None:
        is_flood = (random.random(requests) < 0.5) & (np.arange(requests) >= requests // 2)
        categories[is_flood] = NAMES.index(flood)
        is_one_off |= is_flood
    groups = _popular_groups(random, categories, count)
    groups[is_one_off] = count * len(NAMES) + np.flatnonzero(is_one_off)
    # Somebody asks again at once: a retry, a second try at the same prompt.
    again = np.flatnonzero(is_one_off & (random.random(requests) < RETRIED_SHARE))
    later = again + random.integers(1, RETRY_WITHIN, again.size)
    again, later = again[later < requests], later[later < requests]
    groups[later], categories[later] = groups[again], categories[again]
    unique, first, back = np.unique(groups, return_index=True, return_inverse=True)
    kinds = categories[first]
    median_cost = np.array([t.median_cost_usd for t in TRAFFIC.values()])[kinds]
    median_size = np.array([t.median_size_bytes for t in TRAFFIC.values()])[kinds]
    cost_usd = median_cost * np.exp(random.normal(0.0, 1.0, unique.size))
    size_bytes = (median_size * np.exp(random.normal(0.0, 0.6, unique.size))).astype(np.int64) + 1_024
    stream = Stream(
        groups=groups.tolist(), wordings=random.integers(0, WORDINGS, requests).tolist(),
        categories=kinds[back].tolist(),
        cost_usd=cost_usd[back].tolist(), size_bytes=size_bytes[back].tolist(), footprint_bytes=int(size_bytes.sum()),
    )  # fmt: skip
    return replace(stream, possible_usd=play(Recency(1 << 60), stream).saved_usd)


def _popular_groups(random: np.random.Generator, categories: IntArray, count: int) -> IntArray:
    """Draw groups by Zipf's law; in each phase a quarter of the ranks change places."""
    requests = len(categories)
    weights = np.arange(1, count + 1) ** -ZIPF_EXPONENT
    ranks = random.choice(count, requests, p=weights / weights.sum())
    groups = np.empty(requests, dtype=np.int64)
    moved = np.arange(count)
    for phase in range(PHASES):
        part = slice(phase * requests // PHASES, (phase + 1) * requests // PHASES)
        groups[part] = moved[ranks[part]] * len(NAMES) + categories[part]
        chosen = random.choice(count, count // 4, replace=False)
        moved[chosen] = moved[random.permutation(chosen)]
    return groups


def compare(streams: list[Stream], share: float) -> list[dict[str, Any]]:
    """Play every stream through every order with a share of the footprint as capacity."""
    makers: dict[str, Callable[[int], Order]] = {
        "LRU": Recency,
        "LFU": Frequency,
        "GDSF": Density,
        "ours": lambda capacity: Ours(capacity, is_one_queue=True),
        "ours, no probation": lambda capacity: Ours(
            capacity, EvictionRules(0.0, probation_share=0.0), is_one_queue=True
        ),
        "ours, newcomers full": lambda capacity: Ours(
            capacity, EvictionRules(0.0, newcomer_credit=1.0), is_one_queue=True
        ),
        "ours, by category": Ours,
    }
    rows = []
    for name, maker in makers.items():
        runs = [play(maker(int(share * stream.footprint_bytes)), stream) for stream in streams]
        values = [run.saved_usd / stream.possible_usd for run, stream in zip(runs, streams, strict=True)]
        hits = [run.hits / len(stream.groups) for run, stream in zip(runs, streams, strict=True)]
        rows.append(
            {
                "order": name, "capacity_share": share, "value_hit_rate": mean(values), "lowest": min(values),
                "highest": max(values), "hit_rate": mean(hits),
            }
        )  # fmt: skip
    return rows


def measure_quotas(requests: int) -> list[dict[str, Any]]:
    """Flood one category in the middle of a stream, with and without quotas."""
    stream = generate(7, requests, flood="chat")
    capacity = int(0.03 * stream.footprint_bytes)
    guarded = {
        name: CategoryQuota(
            reserve_bytes=int(share * capacity), cap_bytes=capacity // 4 if name == "chat" else None,
        )
        for name, share in (("faq", 0.1), ("chat", 0.05), ("code", 0.25), ("medical", 0.15), ("volatile", 0.02))
    }  # fmt: skip
    orders: dict[str, Order] = {
        "LRU": Recency(capacity),
        "ours, one queue": Ours(capacity, is_one_queue=True),
        "ours, by category": Ours(capacity),
        "ours, reserves and a cap": Ours(capacity, guarded),
    }
    rows = []
    possible = play(Recency(1 << 60), stream, start=requests // 2)
    for name, order in orders.items():
        run = play(order, stream, start=requests // 2)
        row: dict[str, Any] = {"order": name, "value_hit_rate": run.saved_usd / possible.saved_usd}
        row["by_category"] = {
            category: run.saved_by_category[category] / possible.saved_by_category[category] for category in NAMES
        }
        if isinstance(order, Ours) and name != "ours, one queue":
            row["share_of_bytes"] = {
                category: figures.used_bytes / capacity for category, figures in order.residents.figures().items()
            }
            row["reserves"] = {category: quota.reserve_bytes / capacity for category, quota in guarded.items()}
        rows.append(row)
    return rows


def measure_bookkeeping(entries: int) -> dict[str, Any]:
    """Fill a set, then measure its memory and the time of a hit and of an insert that evicts."""
    ghost_cells = 1024
    ids = [hashlib.blake2b(b"%d" % i, digest_size=16).hexdigest() for i in range(2 * entries)]
    candidates = [
        Candidate(name, NAMES[i % len(NAMES)], 2_000, HitValue(0.001 * (1 + i % 7)), 1e6 + i, bytes.fromhex(name))
        for i, name in enumerate(ids)
    ]
    tracemalloc.start()
    residents = ResidentSet(CategoryQuotas(2_000 * entries), ghost_cells=ghost_cells)
    for candidate in candidates[:entries]:
        residents.admit(candidate, 0.0)
    traced_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    counted_bytes = residents.memory_bytes()
    started = time.process_time()
    for name in ids[:entries:3]:
        residents.note_hit(name, 1.0)
    hit_us = 1e6 * (time.process_time() - started) / len(range(0, entries, 3))
    started = time.process_time()
    for candidate in candidates[entries:]:
        residents.admit(candidate, 2.0)
    insert_us = 1e6 * (time.process_time() - started) / entries
    return {
        "entries": entries,
        "bytes_per_entry": (traced_bytes - 8 * ghost_cells) / entries,
        "counted_bytes_per_entry": (counted_bytes - 8 * ghost_cells) / entries,
        "hit_us": hit_us,
        "insert_us": insert_us,
    }


def play(order: Order, stream: Stream, start: int = 0) -> Run:
    """Send a stream to an order, one request a second; count hits from the request `start` on."""
    hits, saved = 0, dict.fromkeys(NAMES, 0.0)
    for row in range(len(stream.groups)):
        if order.ask(stream, row, row / REQUESTS_PER_SECOND) and row >= start:
            hits += 1
            saved[NAMES[stream.categories[row]]] += stream.cost_usd[row]
    return Run(hits, sum(saved.values()), saved)


def _expires_at(stream: Stream, row: int, now: float) -> float:
    return now + TRAFFIC[NAMES[stream.categories[row]]].ttl_seconds


class Recency:
    """Least recently used."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._used_bytes = 0
        self._entries: OrderedDict[int, tuple[int, float]] = OrderedDict()

    def ask(self, stream: Stream, row: int, now: float) -> bool:
        """Answer or take in."""
        group = stream.groups[row]
        held = self._entries.pop(group, None)
        if held is not None and now < held[1]:
            self._entries[group] = held
            return True
        size = stream.size_bytes[row]
        self._used_bytes += size - (held[0] if held else 0)
        self._entries[group] = (size, _expires_at(stream, row, now))
        while self._used_bytes > self._capacity_bytes:
            self._used_bytes -= self._entries.popitem(last=False)[1][0]
        return False


class Density:
    """GreedyDual-Size with frequency: ``L + F·C/S``."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._used_bytes = 0
        self._inflation = 0.0
        self._entries: dict[int, tuple[int, int, float]] = {}  # size, count, end
        self._keys: dict[int, float] = {}
        self._heap: list[tuple[float, int, int]] = []
        self._touches = 0

    def ask(self, stream: Stream, row: int, now: float) -> bool:
        """Answer or take in."""
        group, size = stream.groups[row], stream.size_bytes[row]
        held = self._entries.get(group)
        is_hit = held is not None and now < held[2]
        count = held[1] + 1 if held and is_hit else 1
        expires_at = held[2] if held and is_hit else _expires_at(stream, row, now)
        self._used_bytes += size if held is None else 0
        self._entries[group] = (size, count, expires_at)
        self._keys[group] = self._inflation + self._value(count, stream.cost_usd[row], size)
        self._touches += 1
        heapq.heappush(self._heap, (self._keys[group], self._touches, group))
        while self._used_bytes > self._capacity_bytes:
            self._evict()
        return is_hit

    def _value(self, count: int, cost_usd: float, size_bytes: int) -> float:
        return count * cost_usd / size_bytes

    def _evict(self) -> None:
        key, _, group = heapq.heappop(self._heap)
        if self._keys.get(group) == key:
            self._inflation = max(self._inflation, key)
            del self._keys[group]
            self._used_bytes -= self._entries.pop(group)[0]


class Frequency(Density):
    """Least frequently used among those resident; no ageing."""

    def _value(self, count: int, cost_usd: float, size_bytes: int) -> float:
        return count - self._inflation


class Ours:
    """`ResidentSet`, with or without quotas."""

    def __init__(
        self,
        capacity_bytes: int,
        rules_or_quotas: EvictionRules | dict[str, CategoryQuota] | None = None,
        *,
        is_one_queue: bool = False,
    ) -> None:
        is_rules = isinstance(rules_or_quotas, EvictionRules)
        rules = rules_or_quotas if isinstance(rules_or_quotas, EvictionRules) else EvictionRules(usd_per_second=0.0)
        quotas = None if is_rules else rules_or_quotas
        self.residents = ResidentSet(CategoryQuotas(capacity_bytes, quotas), rules)
        self._is_one_queue = is_one_queue

    def ask(self, stream: Stream, row: int, now: float) -> bool:
        """Answer or take in."""
        residents, name = self.residents, str(stream.groups[row])
        residents.expire(now)
        if residents.note_hit(name, now):
            return True
        category = "all" if self._is_one_queue else NAMES[stream.categories[row]]
        fingerprint = hashlib.blake2b(b"%d %d" % (stream.groups[row], stream.wordings[row]), digest_size=16).digest()
        value, ends = HitValue(stream.cost_usd[row]), _expires_at(stream, row, now)
        residents.admit(Candidate(name, category, stream.size_bytes[row], value, ends, fingerprint), now)
        return False


def print_orders(rows: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Print the value hit rates."""
    say("")
    say("capacity  order                  dollars saved / possible (lowest, highest)  hits / requests")
    for row in rows:
        say(
            f"{row['capacity_share']:>8.0%}  {row['order']:<22} {row['value_hit_rate']:>8.3f} "
            f"({row['lowest']:.3f}, {row['highest']:.3f}) {row['hit_rate']:>31.3f}"
        )


def print_quotas(rows: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Print what a flood of one-off chat prompts does."""
    say("")
    say("dollars saved / possible while every other request is a one-off chat prompt; capacity 3 %")
    say(f"{'order':<26} {'all':>6} " + " ".join(f"{name:>9}" for name in NAMES) + "   share of bytes (reserve)")
    for row in rows:
        shares = ", ".join(
            f"{name} {share:.0%} ({row['reserves'][name]:.0%})" for name, share in row.get("share_of_bytes", {}).items()
        )
        values = " ".join(f"{row['by_category'][name]:>9.3f}" for name in NAMES)
        say(f"{row['order']:<26} {row['value_hit_rate']:>6.3f} {values}   {shares}")


def print_bookkeeping(row: dict[str, Any], say: Callable[[str], None]) -> None:
    """Print memory and time."""
    say("")
    say(
        f"bookkeeping: {row['bytes_per_entry']:.0f} bytes an entry at {row['entries']:,} entries, ids and the ghost "
        f"table apart (by own count {row['counted_bytes_per_entry']:.0f}); processor time of a hit {row['hit_us']:.1f} "
        f"µs, of an insert that evicts {row['insert_us']:.1f} µs"
    )


if __name__ == "__main__":
    main()
