"""The benches of many streams and of long runs work: a short pass of each. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="both read /proc")


def bench(root: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a bench and return what it printed."""
    command = [sys.executable, str(root / "bench" / f"{name}.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=root)


def test_streams_bench_in_quick_mode_brings_every_chunk(repository_root: Path) -> None:
    """Thirty streams at once bring all of their chunks, and the gateway's memory is measured before and during it."""
    done = bench(repository_root, "streams", "--quick", "--streams", "30", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    result = json.loads(done.stdout)["result"]
    assert (result["complete"], result["dropped"], result["stalled"]) == (30, 0, 0)
    assert result["most_open"] == 30
    assert result["chunks"] == 30 * result["chunks_per_stream"]
    assert 0.0 < result["memory_mb"]["before"] <= result["memory_mb"]["peak"]
    assert 0.0 <= result["p999_excess_gap_ms"] <= result["largest_excess_gap_ms"]


def test_workers_bench_in_quick_mode_has_both_workers_answer(repository_root: Path) -> None:
    """One worker and two answer by name and routed, and the second of the two does its part."""
    done = bench(repository_root, "workers", "--quick", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    rows = json.loads(done.stdout)["rows"]
    assert [(row["request"], row["workers"]) for row in rows] == [
        ("by name", 1),
        ("by name", 2),
        ("auto", 1),
        ("auto", 2),
    ]
    assert all(row["per_second"] > 0 and row["cpu_us"] > 0 and row["memory_mb"] > 0 for row in rows)
    assert [row["busiest_share"] for row in rows if row["workers"] == 1] == [1.0, 1.0]
    assert all(0.5 <= row["busiest_share"] < 1.0 for row in rows if row["workers"] == 2)


def test_streams_bench_whose_streams_break_says_so_and_fails(repository_root: Path) -> None:
    """A dropped stream is the exit code 1, with what the first one met."""
    done = bench(repository_root, "streams", "--quick", "--streams", "5", "--model", "cut", "--json")
    assert done.returncode == 1, done.stderr + done.stdout
    result = json.loads(done.stdout)["result"]
    assert (result["complete"], result["dropped"]) == (0, 5)
    assert "upstream_broken" in result["first_problem"]


def test_soak_bench_in_a_short_pass_tests_each_trend(repository_root: Path) -> None:
    """Six seconds of mixed traffic end as they should, and everything that could leak has a trend with its interval."""
    done = bench(repository_root, "soak", "--quick", "--minutes", "0.1", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    result = json.loads(done.stdout)["result"]
    assert result["traffic"]["problems"] == 0, result["traffic"]["first_problems"]
    assert result["traffic"]["by_kind"]["plain"] > 0
    assert set(result["trends"]) == {"rss_mb", "fds", "tasks", "threads", "objects"}
    assert all(trend["low"] <= trend["high"] for trend in result["trends"].values())
    assert result["samples"] >= 3


def test_trend_of_a_leak_is_told_from_noise(repository_root: Path) -> None:
    """Growth is found where it is, with its size, and not in noise whose neighbours resemble each other."""
    code = (
        "import sys; sys.path.insert(0, 'bench')\n"
        "import numpy as np\n"
        "from trend import trend_of\n"
        "draw = np.random.default_rng(7)\n"
        "noise = np.zeros(1200)\n"
        "for second in range(1, 1200): noise[second] = 0.9 * noise[second - 1] + draw.normal()\n"
        "leak = np.arange(1200) / 60\n"
        "steady, leaking = trend_of(range(1200), noise), trend_of(range(1200), noise + leak)\n"
        "assert not steady.grows(1.0), steady\n"
        "assert leaking.grows(1.0) and leaking.low < 60.0 < leaking.high, leaking\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=repository_root
    )
    assert done.returncode == 0, done.stderr


def test_scrape_bench_in_quick_mode_measures_growing_registries(repository_root: Path) -> None:
    """Two registries, the larger one with more series and a positive cost."""
    command = [sys.executable, str(repository_root / "bench" / "scrape.py"), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=repository_root)
    assert done.returncode == 0, done.stderr
    small, large = json.loads(done.stdout)["results"]
    assert 200 <= small["series"] < 1_000 <= large["series"]
    assert small["cpu_ms"] > 0
