"""What several workers on one port give: requests per second, processor time, memory, and how evenly they are used.

One gateway per number of workers, each with its provider and one load generator on the same cores, which take a part of
what a machine of two cores has: `cores used` says how much the gateway had. The numbers of workers take turns. Run
``python bench/workers.py``; Linux only (processor time is read from ``/proc``). On a machine with a GPU, a transformer
that the workers share there: ``--workers 1,2,4 --encoder FOLDER --router FOLDER --device cuda``.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from load import LoadPlan
from machine import describe_machine, machine_lines
from overhead import run_load_process
from targets import LOOPBACK, Server, free_port, mock_server

WORKERS = (1, 2)
SECONDS, TURNS, CONNECTIONS = 5.0, 3, 32
QUICK_SECONDS, QUICK_TURNS, QUICK_CONNECTIONS = 0.5, 1, 8
_READY_SECONDS = 30.0
BODIES = {
    "by name": {"model": "mock", "messages": [{"role": "user", "content": "How far is the moon? @@@@@@@@@@"}]},
    "auto": {"model": "auto", "messages": [{"role": "user", "content": "How far is the moon? @@@@@@@@@@"}]},
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of one number of workers.

    Attributes
    ----------
    per_second : float
        Answers.
    cpu_us : float
        Processor time of all the gateway's processes, microseconds an answer.
    cores : float
        Processor time per second of the turn.
    busiest_share : float
        Of the answers, those of the worker that gave most.
    """

    per_second: float
    cpu_us: float
    cores: float
    busiest_share: float


def gateway_server(
    folder: Path,
    *,
    upstream_port: int,
    workers: int,
    routing: dict[str, str] | None = None,
    in_workers: str = "auto",
    arms: Sequence[str] = (),
) -> Server:
    """Start a gateway with events on disk and the default router, or another one."""
    port = free_port()
    deployments: list[dict[str, Any]] = [
        {
            "name": name,
            "base_url": f"http://{LOOPBACK}:{upstream_port}/v1",
            "tier": tier,
            "price": {"input": 1, "output": 2},
            "context_tokens": 128_000,
            "max_output_tokens": 8_192,
        }
        for name, tier in (("mock", "medium"), ("mock-small", "small"))
    ]
    for deployment, arm in zip(deployments, arms, strict=False):
        deployment["arm"] = arm
    settings = {
        "version": 1,
        "server": {"port": port, "workers": workers},
        "deployments": deployments,
        "routing": routing or {},
        "encoder": {"in_workers": in_workers},
        "events": {"folder": str(folder / f"events-{workers}")},
        "log": {"level": "info"},
    }
    path = folder / f"workers-{workers}.yaml"
    path.write_text(json.dumps(settings, indent=1))  # JSON is YAML
    command = [sys.executable, "-m", "penstock_gateway", "serve", "--config", str(path)]
    return Server(f"penstock-{workers}", command, port=port, core=None, log=folder / f"penstock-{workers}.log")


def answered_by_worker(port: int) -> dict[str, float]:
    """Return how many requests each worker has answered; one that is alone is ``"0"``."""
    with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, float] = {}
    for labels, value in re.findall(r"^penstock_requests_total\{(.*)\} (.*)$", text, re.MULTILINE):
        worker = re.search(r'worker="(\d+)"', labels)
        name = worker.group(1) if worker else "0"
        found[name] = found.get(name, 0.0) + float(value)
    return found


def wait_for(port: int, workers: int) -> None:
    """Wait until every worker tells its metrics, and see that requests are routed."""
    until = time.monotonic() + _READY_SECONDS
    while time.monotonic() < until:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        if workers == 1 or len(set(re.findall(r'worker="(\d+)"', text))) == workers:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/readyz", timeout=10) as answer:
                state = json.load(answer)
            if state["routing"] != "on":
                raise click.ClickException(f"nothing is routed: {state['problem']}")
            return
        time.sleep(0.1)
    raise click.ClickException(f"{workers} workers were not ready after {_READY_SECONDS:g} s")


def take_turn(server: Server, body: dict[str, Any], seconds: float, connections: int) -> Turn:
    """Load a gateway for some seconds."""
    before, cpu = answered_by_worker(server.port), server.cpu_seconds()
    plan = LoadPlan(server.port, [json.dumps(body)], connections, seconds, headers={"content-type": "application/json"})
    result = run_load_process(plan, None)
    cpu = server.cpu_seconds() - cpu
    after = answered_by_worker(server.port)
    answered = {worker: count - before.get(worker, 0.0) for worker, count in after.items()}
    return Turn(
        result.finished / result.wall_seconds,
        cpu / result.finished * 1e6,
        cpu / result.wall_seconds,
        max(answered.values()) / sum(answered.values()),
    )


def measure(
    seconds: float,
    turns: int,
    connections: int,
    numbers: Sequence[int] = WORKERS,
    routing: dict[str, str] | None = None,
    in_workers: str = "auto",
    arms: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return a row for each kind of request and number of workers."""
    rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-workers-")))
        upstream = mock_server(folder, core=None, chunks=3, gap_ms=0.0)
        stack.callback(upstream.stop)
        servers: dict[int, Server] = {}
        for workers in numbers:
            servers[workers] = gateway_server(
                folder,
                upstream_port=upstream.port,
                workers=workers,
                routing=routing,
                in_workers=in_workers,
                arms=arms,
            )
            stack.callback(servers[workers].stop)
            wait_for(servers[workers].port, workers)
        memory = {workers: server.memory_mb() for workers, server in servers.items()}
        for kind, body in BODIES.items():
            taken: dict[int, list[Turn]] = {workers: [] for workers in numbers}
            for number in range(turns + 1):
                for workers, server in servers.items():
                    turn = take_turn(server, body, seconds if number else min(seconds, 1.0), connections)
                    if number:  # the first is for warming up
                        taken[workers].append(turn)
            rows += [_row(kind, workers, of_it, memory[workers]) for workers, of_it in taken.items()]
    return rows


def _row(kind: str, workers: int, turns: list[Turn], memory_mb: float) -> dict[str, Any]:
    return {
        "request": kind,
        "workers": workers,
        "per_second": statistics.median(turn.per_second for turn in turns),
        "cpu_us": statistics.median(turn.cpu_us for turn in turns),
        "cores": statistics.median(turn.cores for turn in turns),
        "busiest_share": statistics.median(turn.busiest_share for turn in turns),
        "memory_mb": memory_mb,
    }


@click.command()
@click.option("--quick", is_flag=True, help="Half a second a turn; no figure is to be believed.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.option("--workers", default="1,2", show_default=True, help="Numbers of workers, the first is the base.")
@click.option("--connections", type=click.IntRange(1, 256), default=None, help="Of the load generator.")
@click.option("--encoder", default=None, help="Prompt encoder: a bundled name or a folder.")
@click.option("--router", default=None, help="Folder of an artifact that was fitted with it.")
@click.option("--arms", default="", help="Two of its arms, for the deployments; by tier otherwise.")
@click.option("--in-workers", type=click.Choice(["auto", "own", "shared"]), default="auto", show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def main(
    quick: bool,
    as_json: bool,
    workers: str,
    connections: int | None,
    encoder: str | None,
    router: str | None,
    device: str,
    in_workers: str,
    arms: str,
) -> None:
    """Compare one worker with several."""
    seconds, turns, usual = (QUICK_SECONDS, QUICK_TURNS, QUICK_CONNECTIONS) if quick else (SECONDS, TURNS, CONNECTIONS)
    numbers = [int(number) for number in workers.split(",")]
    routing = {"encoder": encoder, "artifact": router, "device": device}
    given = {name: value for name, value in routing.items() if value is not None}
    rows = measure(
        seconds, turns, connections or usual, numbers, given, in_workers, [arm for arm in arms.split(",") if arm]
    )
    machine = describe_machine()
    if as_json:
        click.echo(json.dumps({"machine": machine, "rows": rows}))
        return
    click.echo("\n".join(machine_lines(machine)))
    click.echo("\nrequest   workers   answers/s     ×   µs each   cores used   busiest   MB")
    base = {row["request"]: row["per_second"] for row in rows if row["workers"] == numbers[0]}
    for row in rows:
        ratio = row["per_second"] / base[row["request"]]
        click.echo(
            f"{row['request']:<9} {row['workers']:>7} {row['per_second']:>11,.0f} {ratio:>5.2f} {row['cpu_us']:>9,.0f}"
            f" {row['cores']:>12.2f} {row['busiest_share']:>9.0%} {row['memory_mb']:>4,.0f}"
        )


if __name__ == "__main__":
    main()
