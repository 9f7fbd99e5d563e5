"""The evaluate command on the router that ships with the package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from click.testing import CliRunner

from penstock_routers.bundled import bundled_folder
from penstock_training.cli import main
from support.outcome_samples import outcome_row, write_json_lines

TOPICS = ("rivers", "prime numbers", "bread", "contracts", "volcanoes", "sorting a list", "the heart", "taxes")
TIERS = ("small", "medium", "large", "frontier")


def _outcomes(folder: Path) -> Path:
    rows = [
        outcome_row(
            f"{verb} {topic}, part {part}?",
            tier,
            score=float((part + index) % 4 <= index),
            cost_usd=10.0 ** (index - 6),
        )
        for verb in ("Explain", "Compare", "Summarise")
        for topic in TOPICS
        for part in range(2)
        for index, tier in enumerate(TIERS)
    ]
    return write_json_lines(folder / "own.jsonl", rows)


def test_evaluate_command_own_outcomes_give_a_report_as_text_and_as_json(tmp_path: Path) -> None:
    """A user's file with tier names is evaluated at the artifact's operating points, in both forms alike."""
    arguments = ["evaluate", "default-router", "--outcomes", str(_outcomes(tmp_path)), "--resamples", "50"]
    arguments += ["--robustness", "20"]
    text = CliRunner().invoke(main, arguments)
    assert text.exit_code == 0, text.output
    assert text.output.startswith("all prompts of the files: 48 prompts")
    found = CliRunner().invoke(main, [*arguments, "--json"])
    assert found.exit_code == 0, found.output
    (artifact,) = json.loads(found.output)["artifacts"]
    report = artifact["report"]
    assert [point["name"] for point in report["points"]] == ["cost", "balanced", "quality"]
    assert [arm["arm"] for arm in report["arms"]] == list(TIERS)
    for point in report["points"]:
        assert abs(sum(point["arm_shares"].values()) - 1.0) < 1e-9
        assert f"{point['quality']['value']:.3f}" in text.output


def test_evaluate_command_outcomes_of_foreign_arms_are_refused(tmp_path: Path) -> None:
    """Outcomes of arms that the artifact does not know cannot measure it, and the message names the default arm."""
    path = write_json_lines(tmp_path / "own.jsonl", [outcome_row(arm="mine"), outcome_row(arm="yours")])
    result = CliRunner().invoke(
        main, ["evaluate", str(bundled_folder("default-router")), "--outcomes", str(path), "--resamples", "10"]
    )
    assert result.exit_code == 1
    assert "frontier" in result.output


def test_evaluate_command_two_artifacts_are_compared_in_all_three_forms(tmp_path: Path) -> None:
    """Two folders are measured on the same prompts; text, JSON and page hold both and their paired difference."""
    copy = tmp_path / "candidate"
    shutil.copytree(bundled_folder("default-router"), copy)
    page = tmp_path / "report.html"
    arguments = ["evaluate", "default-router", str(copy), "--outcomes", str(_outcomes(tmp_path)), "--resamples", "50"]
    arguments += ["--robustness", "0", "--no-baselines", "--html", str(page)]
    text = CliRunner().invoke(main, arguments)
    assert text.exit_code == 0, text.output
    assert "default-router minus candidate" in text.output
    assert f"written: {page}" in text.output
    found = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)
    assert [artifact["name"] for artifact in found["artifacts"]] == ["default-router", "candidate"]
    differences = found["comparison"]["differences"]
    assert all(d["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0} for d in differences)  # one is a copy
    assert "candidate" in page.read_text(encoding="utf-8")


def test_evaluate_command_one_artifact_twice_is_refused(tmp_path: Path) -> None:
    """Naming an artifact twice is a mistake, said in one line."""
    path = _outcomes(tmp_path)
    result = CliRunner().invoke(main, ["evaluate", "default-router", "default-router", "--outcomes", str(path)])
    assert result.exit_code == 1
    assert "[artifact_repeated]" in result.output


def test_evaluate_command_page_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A page for a folder that is not there is refused with its code."""
    arguments = ["evaluate", "default-router", "--outcomes", str(_outcomes(tmp_path)), "--resamples", "20"]
    arguments += ["--robustness", "0", "--no-baselines", "--html", str(tmp_path / "nowhere" / "x.html")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "[page_not_writable]" in result.output
