"""The bench of the promotion gate runs, and in its short pass already tells the gates apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_reusable_holdout_bench_in_quick_mode_compares_every_gate(repository_root: Path) -> None:
    """The plain gate is fooled on most hold-outs by an adaptive author, ours on next to none."""
    command = [sys.executable, str(repository_root / "bench" / "reusable_holdout.py"), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=repository_root)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["wrongly_promoted"]
    plain, _, _, ours = found.values()
    assert plain["adaptive"] > 0.5
    assert max(ours.values()) <= 0.1  # 2 of 20; the chance of more at 1 % each is 0.1 %
