"""The cache's benches run: a short pass of each, so that they cannot rot. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

RULES = {
    "exact only",
    "static cosine 0.90",
    "cosine, one threshold",
    "vCache",
    "ours",
    "same words but for courtesies",
    "oracle",
}


def _bench(root: Path, name: str, *options: str) -> str:
    command = [sys.executable, str(root / "bench" / f"{name}.py"), "--quick", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_cache_quality_bench_in_quick_mode_measures_every_rule(repository_root: Path, tmp_path: Path) -> None:
    """Every rule is on the board with its intervals, and the oracle serves nothing false."""
    path = tmp_path / "quality.json"
    _bench(repository_root, "cache_quality", "--json", str(path), "--workers", "1")
    rows = json.loads(path.read_text())["sets"]["own corpus"]
    found = {row["rule"]: row for row in rows if not row["is_zipf"]}
    assert set(found) >= RULES
    assert found["oracle"]["false_hit_rate"] == [0.0, 0.0, 0.0]
    assert found["oracle"]["true_hit_rate"][0] >= max(row["true_hit_rate"][0] for row in found.values())
    assert any(row["is_zipf"] for row in rows)


def test_cache_index_bench_in_quick_mode_gives_a_table(repository_root: Path) -> None:
    """The index bench prints recall, times and bytes for what is installed."""
    document = json.loads(_bench(repository_root, "cache_index", "--json"))
    assert document["machine"]["packages"]["numkong"] != "absent"


def test_cache_eviction_bench_in_quick_mode_compares_policies(repository_root: Path) -> None:
    """The eviction bench prints what each policy saves."""
    assert json.loads(_bench(repository_root, "cache_eviction", "--json"))
