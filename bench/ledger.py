"""What counting money costs: a reservation and its charge, in memory and in Redis, beside a bare round trip to Redis.

A request has a key, a team and a tag, four budgets and two limits on rates. Times of one caller are what a request
waits; the rates are of 64 callers at once, whose charges are settled in batches as the gateway does. "Redis" is a
redis-server of our own on this host, its processor time from its own statistics. Everything is measured in turns, a
PING with every reservation: **compare ratios inside one run**.

Usage::

    python bench/ledger.py            a minute
    python bench/ledger.py --quick    some seconds; its figures mean nothing

Read `main`, then `_alone` and `_at_once`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from cache_world import own_redis
from machine import describe_machine, machine_lines

from penstock_gateway.ledger.contract import Account, Budget, Charge, Grant, Ledger, Period, RateLimits, Reservation
from penstock_gateway.ledger.memory import MemoryLedger
from penstock_gateway.ledger.redis_layout import ReplicaIdentity
from penstock_gateway.ledger.redis_ledger import RedisLedger
from penstock_gateway.ledger.settling import BATCH_CHARGES, SettleQueue
from penstock_gateway.redis_client import RedisClient

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

PACKAGES = ("penstock", "redis", "hiredis", "msgspec", "uvloop")
ALONE, AT_ONCE, CALLERS = 20_000, 60_000, 64
QUICK_ALONE, QUICK_AT_ONCE = 200, 400
LIMIT = 10**18
LIMITS = RateLimits(requests_per_minute=10**9, tokens_per_minute=10**9)
ACCOUNTS = (
    Account("key:k1", (Budget(Period.DAY, LIMIT), Budget(Period.MONTH, LIMIT)), LIMITS),
    Account("team:red", (Budget(Period.MONTH, LIMIT),)),
    Account("tag:x", (Budget(Period.TOTAL, LIMIT),)),
)
PATIENT_SECONDS = 10.0  # a busy machine should give a time here, not a refusal

Say: TypeAlias = Callable[[str], None]


def main() -> None:
    """Run the bench as the command line asks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="few requests")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the table goes to stderr")
    options = parser.parse_args()
    say: Say = (lambda line: print(line, file=sys.stderr, flush=True)) if options.json else _say
    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    alone, at_once = (QUICK_ALONE, QUICK_AT_ONCE) if options.quick else (ALONE, AT_ONCE)
    report: dict[str, Any] = {"machine": machine, "requests": {"alone": alone, "at_once": at_once}}
    report |= _run(_measure(alone, at_once))
    _tell(report, say)
    if options.json:
        print(json.dumps(report, indent=1))


def _say(line: str) -> None:
    print(line, flush=True)


def _run(work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Run on uvloop, as the gateway does, where there is one."""
    factory = uvloop.new_event_loop if uvloop is not None else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


async def _measure(alone: int, at_once: int) -> dict[str, Any]:
    memory = MemoryLedger()
    report: dict[str, Any] = {"memory": {**await _alone(memory, None, alone), **await _at_once(memory, at_once)}}
    with own_redis() as url:
        if url is None:
            return report
        client = RedisClient(url)
        ledger = RedisLedger(client, timeout_seconds=PATIENT_SECONDS)
        mark = await ledger.mark("done", ReplicaIdentity("bench", "bench"), new_epoch="bench")
        ledger.use(mark.epoch)
        before = await _script_times(client)
        found = await _alone(ledger, client, alone)
        reserve_us = _per_call(before, before := await _script_times(client))
        found |= await _at_once(ledger, at_once)
        found["ping_per_second"] = await _pings_at_once(client, at_once)
        found["batch"] = await _batches(ledger, client, max(2, at_once // BATCH_CHARGES))
        found["redis_cpu_us"] = {"reserve_and_settle": reserve_us}
        await client.aclose()
    found["ratios"] = {
        "reserve_to_ping_p50": found["reserve_us"]["p50"] / found["ping_us"]["p50"],
        "reserve_to_ping_p99": found["reserve_us"]["p99"] / found["ping_us"]["p99"],
        "requests_to_pings": found["per_second"] / found["ping_per_second"],
        "reserve_to_memory_p50": found["reserve_us"]["p50"] / report["memory"]["reserve_us"]["p50"],
    }
    return {**report, "redis": found}


async def _alone(ledger: Ledger, client: RedisClient | None, requests: int) -> dict[str, Any]:
    """One request after the other: reserve, settle; with a PING beside each where there is a Redis."""
    times: dict[str, list[int]] = {"reserve": [], "settle": [], "ping": []}
    now = time.time()
    for number in range(requests):
        reservation = Reservation(f"dec_alone_{number}", ACCOUNTS, 75_000_000, 900, now)
        charge = Charge(reservation.id, ACCOUNTS, 60_000_000, 700, now)
        started = time.perf_counter_ns()
        answer = await ledger.reserve(reservation)
        reserved = time.perf_counter_ns()
        await ledger.settle([charge])
        settled = time.perf_counter_ns()
        if not isinstance(answer, Grant):
            raise SystemExit(f"a request was refused: {answer}")
        times["reserve"].append(reserved - started)
        times["settle"].append(settled - reserved)
        if client is not None:
            started = time.perf_counter_ns()
            await client.execute(b"PING", deadline_seconds=PATIENT_SECONDS)
            times["ping"].append(time.perf_counter_ns() - started)
    return {f"{name}_us": _percentiles(found) for name, found in times.items() if found}


async def _at_once(ledger: Ledger, requests: int) -> dict[str, Any]:
    """Many callers at once; charges go through the queue, and the time ends when all are counted."""
    queue = SettleQueue(ledger)
    queue.start()
    numbers = iter(range(requests))
    now = time.time()

    async def caller() -> None:
        for number in numbers:
            reservation = Reservation(f"dec_many_{number}", ACCOUNTS, 75_000_000, 900, now)
            if not isinstance(answer := await ledger.reserve(reservation), Grant):
                raise SystemExit(f"a request was refused: {answer}")
            queue.put(Charge(reservation.id, ACCOUNTS, 60_000_000, 700, now))
            await asyncio.sleep(0)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    left = await queue.flush(60.0)
    taken = time.perf_counter() - started
    await queue.aclose()
    if left:
        raise SystemExit(f"{left} charges were not settled")
    return {"per_second": requests / taken}


async def _pings_at_once(client: RedisClient, requests: int) -> float:
    numbers = iter(range(requests))

    async def caller() -> None:
        for _ in numbers:
            await client.execute(b"PING", deadline_seconds=PATIENT_SECONDS)
            await asyncio.sleep(0)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return requests / (time.perf_counter() - started)


async def _batches(ledger: RedisLedger, client: RedisClient, batches: int) -> dict[str, float]:
    """Settle full batches, and return how long Redis is busy with one: nobody else is served meanwhile."""
    now, before = time.time(), await _script_times(client)
    for batch in range(batches):
        charges = [
            Charge(f"dec_batch_{batch}_{number}", ACCOUNTS, 60_000_000, 700, now) for number in range(BATCH_CHARGES)
        ]
        await ledger.settle(charges)
    busy_us = _per_call(before, await _script_times(client))
    return {"charges": BATCH_CHARGES, "redis_cpu_ms": busy_us / 1e3, "us_per_charge": busy_us / BATCH_CHARGES}


async def _script_times(client: RedisClient) -> tuple[int, int]:
    """Return how many scripts Redis has run so far, and for how many microseconds."""
    reply = await client.execute(b"INFO", b"commandstats", deadline_seconds=PATIENT_SECONDS)
    calls = microseconds = 0
    for line in bytes(reply).decode().splitlines():  # type: ignore[call-overload]
        name, _, values = line.partition(":")
        if name in ("cmdstat_evalsha", "cmdstat_eval"):
            fields = dict(field.split("=") for field in values.split(","))
            calls, microseconds = calls + int(fields["calls"]), microseconds + int(fields["usec"])
    return calls, microseconds


def _per_call(before: tuple[int, int], after: tuple[int, int]) -> float:
    return (after[1] - before[1]) / max(1, after[0] - before[0])


def _percentiles(nanoseconds: list[int]) -> dict[str, float]:
    ordered = sorted(nanoseconds)
    return {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] / 1e3 for share in (50, 99)}


def _tell(report: dict[str, Any], say: Say) -> None:
    say(f"\n{'':<8}{'reserve p50':>13}{'p99 µs':>9}{'settle p50':>13}{'p99 µs':>9}{'requests/s':>13}")
    for name in ("memory", "redis"):
        if name in report:
            row = report[name]
            figures = (
                row["reserve_us"]["p50"],
                row["reserve_us"]["p99"],
                row["settle_us"]["p50"],
                row["settle_us"]["p99"],
            )
            widths = (13, 9, 13, 9)
            cells = "".join(f"{figure:>{width}.1f}" for figure, width in zip(figures, widths, strict=True))
            say(f"{name:<8}{cells}{row['per_second']:>13,.0f}")
    if "redis" not in report:
        say("redis-server is not installed: memory only")
        return
    redis, ratios = report["redis"], report["redis"]["ratios"]
    say(f"{'PING':<8}{redis['ping_us']['p50']:>13.1f}{redis['ping_us']['p99']:>9.1f}{redis['ping_per_second']:>35,.0f}")
    say(
        f"\na reservation in Redis takes {ratios['reserve_to_ping_p50']:.2f} × a PING (p99 "
        f"{ratios['reserve_to_ping_p99']:.2f} ×) and {ratios['reserve_to_memory_p50']:.0f} × one in memory; "
        f"requests a second are {ratios['requests_to_pings']:.3f} of the PINGs"
    )
    say(
        f"Redis is busy {redis['redis_cpu_us']['reserve_and_settle']:.0f} µs for a reservation or a single charge, and "
        f"{redis['batch']['redis_cpu_ms']:.1f} ms for a batch of {redis['batch']['charges']} "
        f"({redis['batch']['us_per_charge']:.1f} µs a charge)"
    )


if __name__ == "__main__":
    main()
