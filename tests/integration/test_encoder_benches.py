"""The benches of encoders run, and what they print has the shape that is written about."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def _quick(root: Path, name: str) -> dict[str, Any]:
    command = [sys.executable, str(root / "bench" / name), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_reading_bench_in_quick_mode_times_every_way(repository_root: Path) -> None:
    """Three ways at four lengths, and five ways to the tokens, each with a positive time."""
    found = _quick(repository_root, "reading.py")
    assert len(found["reading"]) == 12
    assert len(found["tokens"]) >= 20
    assert all(0 < row["low_us"] <= row["median_us"] for row in found["reading"] + found["tokens"])


@pytest.mark.timeout(240)
def test_encode_server_bench_in_quick_mode_compares_both_ways(repository_root: Path) -> None:
    """Both encoders, own and shared, with one worker and two; a shared encoder leaves the worker the smaller part."""
    rows = _quick(repository_root, "encode_server.py")["results"]
    assert {(row["encoder"], row["workers"], row["way"]) for row in rows} == {
        (encoder, workers, way)
        for encoder in ("static-minilm-256", "minilm-l6-v2")
        for workers in (1, 2)
        for way in ("own", "shared")
    }
    assert all(row["us_all"] >= row["us_workers"] > 0 and row["megabytes"] > 0 for row in rows)
