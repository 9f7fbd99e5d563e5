"""What does a command to Redis cost the gateway's own processor? Measured through redis-py and through our client.

Sends GETs of one value to a Redis that it starts itself, from 1, 16 and 64 tasks at once, through redis-py alone,
through `RedisClient` over redis-py's pool (clusters) and over one multiplexed connection (the default), and shows the
client's processor µs per command: user and system time of this process ÷ answered commands. Where there are two cores,
client and server have one each. Rounds are interleaved and medians shown; **compare ratios inside one run only**. Needs
``redis-server``. Run ``python bench/redis_client.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis.asyncio
import uvloop
from machine import describe_machine, machine_lines, usable_cores

from penstock_gateway.redis_client import RedisClient

PACKAGES = ("redis", "hiredis", "uvloop")
CONCURRENCIES = (1, 16, 64)
DEADLINE_SECONDS = 30.0  # nothing may fail here
_START_SECONDS = 10.0

Command = Callable[[], Awaitable[object]]


def main() -> None:
    """Run the bench as the command line asks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--bytes", type=int, default=2_048, help="size of the value (2048)")
    parser.add_argument("--commands", type=int, default=20_000, help="commands per measurement (20000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (5)")
    parser.add_argument("--quick", action="store_true", help="one short round; its figures mean nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the table goes to stderr")
    options = parser.parse_args()
    if options.quick:
        options.commands, options.rounds = 500, 1
    machine = describe_machine(PACKAGES)
    cores = usable_cores()
    with redis_server(cores[-1]) as port:
        if len(cores) > 1:
            os.sched_setaffinity(0, {cores[0]})
        rows = uvloop.run(measure(f"redis://127.0.0.1:{port}/0", options))
    lines = [*machine_lines(machine), *table(rows)]
    print("\n".join(lines), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps({"machine": machine, "value_bytes": options.bytes, "results": rows}, indent=1))


@contextmanager
def redis_server(core: int) -> Iterator[int]:
    """Run a server without persistence on a free loopback port, and yield the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        options = {"bind": "127.0.0.1", "port": str(port), "save": "", "appendonly": "no", "dir": folder}
        arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(["redis-server", *arguments], **silent)
        try:
            os.sched_setaffinity(process.pid, {core})
            _wait(port)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _wait(port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(64).startswith(b"+PONG"):
                return
        time.sleep(0.02)
    raise SystemExit("redis-server did not answer")


async def measure(url: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the median processor µs and commands per second of each client at each concurrency."""
    value = os.urandom(options.bytes)
    plain = redis.asyncio.Redis.from_url(url, max_connections=max(CONCURRENCIES))
    pooled, line = RedisClient(url, is_multiplexed=False), RedisClient(url)
    await line.execute(b"SET", b"key", value, deadline_seconds=DEADLINE_SECONDS)
    clients: dict[str, Command] = {
        "redis-py": lambda: plain.get("key"),
        "RedisClient, pooled": lambda: pooled.execute(b"GET", b"key", deadline_seconds=DEADLINE_SECONDS),
        "RedisClient, multiplexed": lambda: line.execute(b"GET", b"key", deadline_seconds=DEADLINE_SECONDS),
    }
    samples: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(options.rounds):
        for concurrency in CONCURRENCIES:
            for name, command in clients.items():
                assert await command() == value
                sample = await _sample(command, options.commands, concurrency)
                samples.setdefault((name, concurrency), []).append(sample)
    for client in (pooled, line):
        await client.aclose()
    await plain.aclose()
    return [
        {
            "client": name,
            "concurrent": concurrency,
            "cpu_us_per_command": round(statistics.median(cpu for cpu, _ in found), 2),
            "commands_per_second": round(statistics.median(rate for _, rate in found)),
        }
        for (name, concurrency), found in samples.items()
    ]


async def _sample(command: Command, commands: int, concurrency: int) -> tuple[float, float]:
    left = commands

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await command()

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return (time.process_time() - cpu) / commands * 1e6, commands / (time.perf_counter() - wall)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the results as lines for people."""
    lines = ["", f"{'client':26}{'concurrent':>11}{'CPU µs/command':>16}{'commands/s':>12}"]
    for row in sorted(rows, key=lambda row: row["concurrent"]):
        lines.append(
            f"{row['client']:26}{row['concurrent']:11}{row['cpu_us_per_command']:16.2f}{row['commands_per_second']:12,}"
        )
    return lines


if __name__ == "__main__":
    main()
