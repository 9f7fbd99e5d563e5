"""An encoder in every gateway process, or one process for all: processor time and memory.

Starts one or two workers, processes that do what a gateway's worker does (an event loop with one request or sixteen
under way, each encoding prompts of 30 tokens), with the encoder inside, or with one `penstock encode-server` beside
them at a socket file. The two ways take turns. Shown are processor time per prompt of all processes together and of the
workers alone, prompts per second, and memory (proportional set size of all processes together).

Usage::

    python bench/encode_server.py            two minutes
    python bench/encode_server.py --quick    few prompts; no figure is to be believed
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from encoder import WORDS
from machine import describe_machine, machine_lines
from prometheus_client import CollectorRegistry

from penstock_gateway.remote_encoder.address import EncoderAddress
from penstock_gateway.remote_encoder.metrics import RemoteEncoderMetrics
from penstock_gateway.remote_encoder.service import RemoteEncoderService, RemotePlace
from penstock_routers.bundled import DEFAULT_ENCODER, PARAPHRASE_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_manifest import read_manifest
from penstock_routers.encoder_service import EncoderService

PACKAGES = ("penstock", "numpy", "tokenizers", "onnxruntime")
SETTINGS, QUICK_SETTINGS = ((1, 1), (1, 16), (2, 16)), ((1, 1), (2, 16))  # workers, and requests under way in each
PROMPTS = {DEFAULT_ENCODER: 10_000, PARAPHRASE_ENCODER: 600}
TOKENS = 30
TURNS = 3
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run the bench as the command line asks; with ``--worker`` be one of its workers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="few prompts, one turn")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the table goes to stderr")
    parser.add_argument(
        "--worker", nargs=4, metavar=("ENCODER", "PROMPTS", "UNDER_WAY", "SOCKET"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.worker:
        name, prompts, under_way, path = options.worker
        print(json.dumps(asyncio.run(_work(name, int(prompts), int(under_way), path))), flush=True)
        sys.stdin.read()  # until memory has been looked at
        return

    def say(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    say("\nprompts of 30 tokens; µs of processor time a prompt, the least of the turns; MB of all processes together")
    titles = f"{'encoder':20}{'workers':>8}{'under way':>10}{'way':>8}"
    say(f"{titles}{'µs all':>9}{'µs worker':>11}{'prompts/s':>11}{'MB':>7}")
    rows = []
    for row in _rows(options.quick):
        rows.append(row)
        say(
            f"{row['encoder']:20}{row['workers']:8}{row['under_way']:10}{row['way']:>8}{row['us_all']:9.0f}{row['us_workers']:11.0f}"
            f"{row['prompts_per_second']:11.0f}{row['megabytes']:7.0f}"
        )
    if options.json:
        print(json.dumps({"machine": machine, "results": rows}, indent=1))


def _rows(is_quick: bool) -> Iterator[dict[str, Any]]:
    for name, prompts in PROMPTS.items():
        count = prompts // 50 if is_quick else prompts
        for workers, under_way in QUICK_SETTINGS if is_quick else SETTINGS:
            found: dict[str, list[dict[str, float]]] = {"own": [], "shared": []}
            for _ in range(1 if is_quick else TURNS):
                for way, turns in found.items():
                    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch:
                        turns.append(_turn(name, workers, under_way, count, way, Path(scratch)))
            for way, turns in found.items():
                best = {key: min(turn[key] for turn in turns) for key in ("us_all", "us_workers", "megabytes")}
                rate = max(turn["prompts_per_second"] for turn in turns)
                row = {"encoder": name, "workers": workers, "under_way": under_way, "way": way}
                yield row | best | {"prompts_per_second": rate}


def _turn(name: str, workers: int, under_way: int, prompts: int, way: str, scratch: Path) -> dict[str, float]:
    """Start everything, let all workers encode at once, and look at time and memory before they end."""
    path = scratch / "encoder.sock"
    with _server(name, path) if way == "shared" else _nothing() as server:
        before = 0.0 if server is None else _seconds(server.pid)
        place = str(path) if server is not None else "-"
        given = [sys.executable, __file__, "--worker", name, str(prompts), str(under_way), place]
        started = [
            subprocess.Popen(given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(workers)
        ]
        try:
            reports = [json.loads(process.stdout.readline()) for process in started if process.stdout is not None]
            pids = [process.pid for process in started] + ([] if server is None else [server.pid])
            memory = sum(map(_megabytes, pids))
        finally:
            for process in started:
                process.communicate()
        used = sum(report["cpu"] for report in reports)
        served = 0.0 if server is None else _seconds(server.pid) - before
        total = prompts * workers
        return {
            "us_all": (used + served) / total * 1e6,
            "us_workers": used / total * 1e6,
            "prompts_per_second": sum(prompts / report["wall"] for report in reports),
            "megabytes": memory,
        }


async def _work(name: str, prompts: int, under_way: int, path: str) -> dict[str, float]:
    folder = bundled_folder(name)
    service: EncoderService | RemoteEncoderService
    if path == "-":
        service = EncoderService(PromptEncoder.load(folder, device="cpu"))
    else:
        place = RemotePlace(EncoderAddress("unix", path=path), timeout_seconds=30.0)
        service = RemoteEncoderService(
            read_manifest(folder), place, load_local=None, metrics=RemoteEncoderMetrics(CollectorRegistry())
        )
    texts = [_prompt(number) for number in range(64)]
    await service.encode(texts[0])
    numbers = iter(range(prompts))

    async def go_on() -> None:
        for number in numbers:
            await service.encode(texts[number % len(texts)])
            await asyncio.sleep(0)

    before, started = _own_seconds(), time.perf_counter()
    await asyncio.gather(*(go_on() for _ in range(under_way)))
    report = {"cpu": _own_seconds() - before, "wall": time.perf_counter() - started}
    await service.aclose()
    return report


def _prompt(number: int) -> str:
    return " ".join(WORDS[(number + place * (1 + number % 5)) % len(WORDS)] for place in range(TOKENS))


@contextmanager
def _server(name: str, path: Path) -> Iterator[subprocess.Popen[str] | None]:
    command = [sys.executable, "-m", "penstock_gateway", "encode-server", "--listen", f"unix:{path}"]
    process = subprocess.Popen([*command, "--encoder", name, "--device", "cpu"], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        if "encode-server:" not in process.stderr.readline():
            raise SystemExit("the encode server did not start")
        yield process
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _seconds(pid: int) -> float:
    """Processor time of another process; in hundredths, so that a turn must last."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _megabytes(pid: int) -> float:
    """Proportional set size: pages that several processes share count once in their sum."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return float(np.nan)


if __name__ == "__main__":
    main()
