"""The benches of routing quality run on real outcomes: a short pass of each. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def outcome_sets(repository_root: Path) -> Path:
    """The folder of the public outcome sets, which are not part of the project."""
    folder = repository_root / ".." / "shared" / "data"
    if not (folder / "routing").is_dir():
        pytest.skip("no outcome sets: docs/data.md says how to make them")
    return folder


def _quick(root: Path, name: str, data: Path) -> dict[str, Any]:
    command = [sys.executable, str(root / "bench" / f"{name}.py"), "--quick", "--json", "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_routing_quality_bench_in_quick_mode_measures_families_and_baselines(
    repository_root: Path, outcome_sets: Path
) -> None:
    """Families, tables, fixed arms and the oracle are all on the board, none above the oracle."""
    rows = _quick(repository_root, "routing_quality", outcome_sets)["sets"]["routerbench_3tasks"]
    area = {row["router"]: row["area"][0] for row in rows}
    assert {"auto", "ensemble", "linear", "table by length", "knn, uniform k=100", "constant arms (hull)"} <= set(area)
    assert max(area, key=lambda name: area[name]) == "oracle (inflated by luck)"
    assert all(0.0 < value < 1.0 for value in area.values())


def test_learning_curve_bench_in_quick_mode_measures_with_and_without_prior(
    repository_root: Path, outcome_sets: Path
) -> None:
    """One own size and all prompts, each with and without an earlier router."""
    points = _quick(repository_root, "learning_curves", outcome_sets)["sets"]["routerbench_3tasks"]
    assert {(point["size"], point["has_prior"]) for point in points} == {
        (100, False), (100, True), (0, False), (0, True),
    }  # fmt: skip


def test_routing_quality_bench_without_data_says_where_it_comes_from(repository_root: Path, tmp_path: Path) -> None:
    """A newcomer without the sets is told which page helps."""
    command = [sys.executable, str(repository_root / "bench" / "routing_quality.py"), "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=repository_root)
    assert done.returncode == 1
    assert "docs/data.md" in done.stderr
