"""The evaluate command on the router that ships with the package."""

from __future__ import annotations

import json
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
    text = CliRunner().invoke(main, arguments)
    assert text.exit_code == 0, text.output
    assert text.output.startswith("all prompts of the files: 48 prompts")
    found = CliRunner().invoke(main, [*arguments, "--json"])
    assert found.exit_code == 0, found.output
    report = json.loads(found.output)
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
