"""Where does the time of a request go? Samples the gateway under load and draws a flame graph.

Needs `py-spy` (``pip install py-spy``) and, on Linux, the right to trace a process of one's own. What is drawn holds
the interpreter's lock: the event loop's thread nearly alone. Run ``python bench/flame_graph.py --out graph.svg``.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import click
from load import LoadPlan
from machine import usable_cores
from overhead import CONNECTIONS, run_load_process
from targets import BENCH_FOLDER, CLIENT_KEY, PHYSICAL_MODEL, mock_server, penstock_server
from traffic import Traffic

RATE_PER_SECOND = 997  # no divisor of the gateway's own periods


@click.command()
@click.option("--model", default=PHYSICAL_MODEL, show_default=True, help="'auto' draws a routed request.")
@click.option("--seconds", type=click.FloatRange(1, 100), default=15.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("flame-graph.svg"), show_default=True)
def main(model: str, seconds: float, out: Path) -> None:
    """Draw where the gateway's time goes, and list the largest shares by file."""
    spy = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if spy is None:
        click.echo("SKIPPED: py-spy is not installed (pip install py-spy).", err=True)
        return
    cores = usable_cores()
    gateway_core, load_core = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    traffic = Traffic(model, "short", {"authorization": f"Bearer {CLIENT_KEY}"})
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="penstock-flame-") as name:
        folder = Path(name)
        mock = mock_server(folder, core=load_core, chunks=50, gap_ms=5.0)
        stack.callback(mock.stop)
        gateway = penstock_server(folder, upstream_port=mock.port, core=gateway_core)
        stack.callback(gateway.stop)
        plan = LoadPlan(gateway.port, traffic.bodies(), CONNECTIONS, 2.0, headers=traffic.headers)
        run_load_process(plan, load_core)
        command = [sys.executable, str(BENCH_FOLDER / "load.py")]
        loading = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        stack.callback(loading.wait)
        assert loading.stdin is not None
        loading.stdin.write(json.dumps({**asdict(plan), "seconds": seconds + 2.0}))
        loading.stdin.close()
        raw = folder / "stacks.txt"
        for kind, path in (("flamegraph", out), ("raw", raw)):
            sampled = [spy, "record", "--gil", "-r", str(RATE_PER_SECOND), "-d", str(max(1, int(seconds / 2)))]
            subprocess.run(
                [*sampled, "-f", kind, "-o", str(path), "-p", str(gateway.pid)], check=True, capture_output=True
            )
        _list_files(raw)
    title = f"Penstock under load, model {model}: the event loop's thread; wide is slow"
    out.write_text(re.sub(r'(<text id="title"[^>]*>)[^<]*', rf"\g<1>{title}", out.read_text()))
    click.echo(f"drawn: {out}")


def _list_files(raw: Path) -> None:
    """Print in which files the time is spent, callees left out."""
    shares: Counter[str] = Counter()
    for line in raw.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        shares[stack.rpartition(";")[2].partition("(")[2].partition(":")[0]] += int(count)
    total = sum(shares.values())
    for file, count in shares.most_common(20):
        click.echo(f"{count / total:6.1%}  {file}")


if __name__ == "__main__":
    main()
