"""`--engine`: what it takes, and what it says without Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from penstock_training.cli import main
from support.outcome_samples import outcome_row, write_json_lines


def _rows(prompts: int = 240) -> list[dict[str, object]]:
    chance = {"small": 3, "large": 6}
    return [
        outcome_row(
            f"Explain topic {number} of lesson {number % 7} to a child of {number % 11}",
            arm,
            score=float(number * 7919 % 10 < chance[arm] + 2 * (number % 2)),
            cost_usd=0.001 * chance[arm],
            propensity=...,
            timestamp=...,
        )
        for number in range(prompts)
        for arm in chance
    ]


def _fit(*arguments: str) -> dict[str, object]:
    done = CliRunner().invoke(main, ["fit", "--router", "linear", "--no-prior", "--json", *arguments])
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_fit_folder_of_parts_gives_the_router_of_the_file(tmp_path: Path) -> None:
    """A data set is fitted on without its texts being here, and the artifact's id is that of the plain file."""
    table = pa.Table.from_pylist(_rows())
    pq.write_table(table, tmp_path / "sample.parquet")
    (tmp_path / "parts").mkdir()
    pq.write_table(table.slice(0, 250), tmp_path / "parts" / "0.parquet", row_group_size=100)
    pq.write_table(table.slice(250), tmp_path / "parts" / "1.parquet", row_group_size=77)
    whole = _fit("--outcomes", str(tmp_path / "sample.parquet"), "--out", str(tmp_path / "a"))
    parts = _fit("--outcomes", str(tmp_path / "parts"), "--out", str(tmp_path / "b"))
    assert whole["id"] == parts["id"]


def test_fit_without_ray_names_the_command_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal comes before anything is read, and ends in the command."""
    monkeypatch.setitem(sys.modules, "ray", None)
    path = write_json_lines(tmp_path / "a.jsonl", _rows(2))
    found = _fit("--outcomes", str(path), "--out", str(tmp_path / "a"), "--engine", "ray")
    error = found["error"]
    assert isinstance(error, dict)
    assert error["code"] == "missing_extra"
    assert ".[cpu,fit,ray]" in error["message"]
    assert not list((tmp_path / "a").glob("*"))


def test_fit_default_has_no_engine() -> None:
    """The bundled router is fitted in one process."""
    done = CliRunner().invoke(main, ["fit", "--default", "--engine", "ray"])
    assert done.exit_code == 2
    assert "--engine ray goes with --outcomes" in done.stderr


def test_training_package_does_not_import_ray() -> None:
    """Ray is imported when a cluster is asked for, and by nothing before."""
    modules = "penstock_training.commands.fit, penstock_training.engines.ray_engine"
    code = f"import sys, {modules}; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
