"""The bench of collecting runs: a short pass, so that it cannot rot. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_collecting_bench_in_quick_mode_compares_both_orders(repository_root: Path, penstock_data: Path) -> None:
    """The quick pass gives a figure per learner and order, and the difference of each to random."""
    command = [sys.executable, str(repository_root / "bench" / "collecting.py"), "--quick", "--json"]
    done = subprocess.run(
        [*command, "--data", str(penstock_data)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    assert {(row["learner"], row["order"]) for row in rows} == {
        (learner, order) for learner in ("ridge", "knn") for order in ("informative", "random")
    }
    assert all(0.0 < row["apgr"] < 1.0 for row in rows)
    assert all(row["over_random"] == [0.0, 0.0, 0.0] for row in rows if row["order"] == "random")
