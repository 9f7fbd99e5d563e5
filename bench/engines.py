"""What a Ray cluster costs and brings on one machine: ``penstock-train fit`` by the local engine and by Ray, in turn.

Both fit the same outcomes from one Parquet file with several row groups and must write the same artifact. Wall time
includes everything from the start of the command to its end, for Ray also starting the cluster and stopping it;
processor time is that of all processes, the cluster's included, as seen in /proc. Workers on one machine share its
cores, so nothing here shows what several machines bring; it shows the price. Needs Linux, Ray and the outcome sets.

Usage::

    python bench/engines.py                     12,000 prompts on 11 arms, two rounds
    python bench/engines.py --quick             400 prompts, one round
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from data_folder import data_folder
from machine import describe_machine, machine_lines

PACKAGES = ("numpy", "scikit-learn", "ray")
OUTCOMES = "mmlu_pro.parquet"
ROW_GROUP = 16_384
_LOOK_SECONDS = 0.2  # what a process does after the last look before its end is not counted
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: processes whose parent ends become ours, so that their time can be read
TRAIN = (sys.executable, "-c", "from penstock_training.cli import main; main()")


@dataclass(frozen=True)
class Run:
    """One fit: seconds of wall time, and of processor time of all its processes; the artifact's id."""

    engine: str
    wall_seconds: float
    processor_seconds: float
    artifact: str


def main() -> None:
    """Run the bench as the command line asks."""
    options = _parse()
    say = (lambda line: print(line, file=sys.stderr)) if options.json else print
    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)
    prompts, rounds = (400, 1) if options.quick else (options.prompts, options.rounds)
    runs = []
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "outcomes.parquet")
        rows = _write(options.data / "routing" / OUTCOMES, source, prompts, options.arms)
        say(f"{prompts:,} prompts, {options.arms} arms, {rows:,} rows")
        for _ in range(rounds):
            for engine in ("local", "ray"):
                runs.append(_fit(engine, source, Path(name, engine)))
                say(f"{engine:<6} {runs[-1].wall_seconds:8.1f} s wall {runs[-1].processor_seconds:8.1f} s processor")
    is_same = len({run.artifact for run in runs}) == 1
    say("the same artifact from every run" if is_same else "THE ARTIFACTS DIFFER")
    if options.json:
        print(json.dumps({"machine": machine, "prompts": prompts, "rows": rows, "runs": [asdict(run) for run in runs]}))
    sys.exit(0 if is_same else 1)


def _write(path: Path, into: Path, prompts: int, arms: int) -> int:
    """Write the first prompts and arms of an outcome set; returns the number of rows."""
    table = pq.read_table(path)
    for column, count in (("prompt", prompts), ("model", arms)):
        table = table.filter(pc.is_in(table[column], value_set=pc.unique(table[column])[:count]))
    pq.write_table(table, into, row_group_size=ROW_GROUP)
    return int(table.num_rows)


def _fit(engine: str, source: Path, out: Path) -> Run:
    command = [*TRAIN, "fit", "--json", "--outcomes", str(source), "--out", str(out), "--engine", engine]
    start, said = time.perf_counter(), out.with_suffix(".json")
    with said.open("wb") as stream, _watched() as spent, subprocess.Popen(command, stdout=stream) as process:
        process.wait()
        wall = time.perf_counter() - start
    text = said.read_text(encoding="utf-8")
    if process.returncode:
        raise SystemExit(f"fit failed: {text}")
    return Run(engine, wall, sum(spent.values()), json.loads(text[text.index("{") :])["id"])


@contextmanager
def _watched() -> Iterator[dict[tuple[int, int], float]]:
    """Note the processor seconds of every process below this one, by number and start, until the body ends.

    Ray's raylet lets the kernel forget its workers, so that waiting for the processes would miss most of their time.
    """
    spent: dict[tuple[int, int], float] = {}
    earlier: dict[tuple[int, int], float] = {}
    _note(earlier)  # what an earlier run left behind, ended or about to
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(_LOOK_SECONDS):
            _note(spent)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield spent
    finally:
        _note(spent)
        is_over.set()
        thread.join()
        for process in earlier:
            spent.pop(process, None)


def _note(spent: dict[tuple[int, int], float]) -> None:
    found, below = {}, {os.getpid()}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[int(path.parent.name)] = (int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12]))
    while more := {pid for pid, (parent, _, _) in found.items() if parent in below and pid not in below}:
        below |= more
    for pid in below - {os.getpid()}:
        _, started, ticks = found[pid]
        spent[pid, started] = ticks / os.sysconf("SC_CLK_TCK")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few prompts, one round")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder of the outcome sets")
    parser.add_argument("--prompts", type=int, default=12_000)
    parser.add_argument("--arms", type=int, default=11)
    parser.add_argument("--rounds", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
