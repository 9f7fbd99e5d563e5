"""The benches of the wire formats and of what stands around every answer run; no figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def results_of(root: Path, name: str) -> Any:
    """Return what a bench in quick mode prints for machines."""
    command = [sys.executable, str(root / "bench" / name), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=root)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)["results"]


def test_large_bodies_bench_in_quick_mode_measures_every_way(repository_root: Path) -> None:
    """Every way has its times at four sizes, and streams both ways are among them."""
    rows = results_of(repository_root, "large_bodies.py")
    assert {(row["front"], row["back"]) for row in rows} >= {
        ("chat", "messages"),
        ("messages", "chat"),
        ("messages", "messages"),
        ("responses", "chat"),
        ("chat", "responses"),
        ("responses", "messages"),
    }
    assert all(len(row["ms"]) == 4 and min(row["ms"]) > 0 for row in rows)
    assert sum(row["subject"].startswith("stream") for row in rows) == 2


def test_http_edge_bench_in_quick_mode_measures_with_and_without(repository_root: Path) -> None:
    """An answer costs something with and without the edge, and compression leaves less than there was."""
    results = results_of(repository_root, "http_edge.py")
    assert {"answer, nothing", "answer, edge", "event, edge with CORS"} <= set(results["edges_us"])
    assert all(us > 0 for us in results["edges_us"].values())
    assert all(0 < row["share"] < 1 for row in results["gzip"])
