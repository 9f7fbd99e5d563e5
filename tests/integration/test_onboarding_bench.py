"""The bench of onboarding: a short pass, so that it cannot rot. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_onboarding_bench_in_quick_mode_compares_all_methods(repository_root: Path, penstock_data: Path) -> None:
    """The quick pass gives a recovered share with its interval per method and per hidden arm."""
    command = [sys.executable, str(repository_root / "bench" / "onboarding.py"), "--quick", "--json"]
    done = subprocess.run(
        [*command, "--data", str(penstock_data)], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"onboard", "onboard, new scores only", "cluster means", "onboard, guard"} <= set(found["methods"])
    assert all(low <= high for _, low, high, _ in found["methods"].values())
    assert all(arm["gap"] >= 0.005 for arm in found["arms"])
    assert 0.0 <= found["coverage"] <= 1.0
