"""``penstock-train evaluate-logged``: from a log file to the table a person reads, or to one line that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from penstock_routers.artifact import RouterArtifact
from penstock_routers.bundled import bundled_folder
from penstock_training.bandit.evaluation import held_out_rows
from penstock_training.bandit.logged import LoggedOutcomes
from penstock_training.cli import main
from penstock_training.outcomes import load_outcomes
from support.outcome_samples import outcome_row, write_json_lines

ARMS = ("small", "medium", "large", "frontier")


def _log(tmp_path: Path, rows: int = 400, **changes: Any) -> Path:
    """Decisions that are spread evenly over the default artifact's arms; better arms score more often."""
    random = np.random.default_rng(0)
    lines = []
    for i in range(rows):
        arm = int(random.integers(0, len(ARMS)))
        row = outcome_row(
            f"Add {i} and {i % 7}.", ARMS[arm], query_id=f"r{i}", propensity=0.25, cost_usd=10.0 ** (arm - 6)
        )
        row["score"] = float(random.random() < 0.5 + 0.1 * arm)
        lines.append(row | changes)
    return write_json_lines(tmp_path / "log.jsonl", lines)


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["evaluate-logged", "default-router", "--logged", *arguments])


def test_evaluate_logged_table_shows_every_policy_its_support_and_what_to_report(tmp_path: Path) -> None:
    """The screen has values with intervals, effective rows, costs, the recommended estimator; no line beyond 80."""
    result = _run(str(_log(tmp_path)), "--tradeoff", "balanced", "--tradeoff", "0.2")
    assert result.exit_code == 0, result.output
    for part in ("as logged", "balanced", "0.2", "always small", "always frontier", "recommended", "eff. rows",
                 "smallest propensity", "USD per 1,000 requests", "400 decisions"):  # fmt: skip
        assert part in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


def test_evaluate_logged_json_holds_every_estimator_and_both_bounds(tmp_path: Path) -> None:
    """Machines get all estimators, under each treatment of time-outs, with intervals that enclose the values."""
    path = _log(tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[::10]:
        row.update(score=None, is_censored=True)
    write_json_lines(path, rows)
    report = json.loads(_run(str(path), "--censored", "bounds", "--json").stdout)
    assert sum(arm["time_outs"] for arm in report["arms"]) == 40
    routed = report["policies"][1]
    assert routed["policy"] == "balanced"
    worst, best = routed["score"]["worst"], routed["score"]["best"]
    assert list(worst) == ["ips", "snips", "dm", "dr", "sndr"]
    assert worst["sndr"]["low"] < worst["sndr"]["value"] < best["sndr"]["value"] < best["sndr"]["high"]
    assert routed["score_minus_log"]["worst"]["value"] < routed["score_minus_log"]["best"]["value"]
    assert routed["support"][3]["smallest_propensity"] == 0.25


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"propensity": None}, "no_propensity"),
        ({"arm": "large"}, "one_arm_log"),
        ({"propensity": 1.0}, "no_support"),
    ],
)
def test_evaluate_logged_that_cannot_be_answered_is_refused_in_one_message(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    """Without propensities, with one arm, or without exploration there is no number, only what to do."""
    result = _run(str(_log(tmp_path, **changes)))
    assert result.exit_code == 1
    assert f"[{code}]" in result.stderr
    assert result.stdout == ""


def test_evaluate_logged_unknown_setting_is_refused(tmp_path: Path) -> None:
    """A trade-off that the artifact does not have is named."""
    assert "[bad_tradeoff]" in _run(str(_log(tmp_path)), "--tradeoff", "best").stderr


def test_evaluate_logged_reward_model_from_the_log_and_clipping_are_said(tmp_path: Path) -> None:
    """Choices that change the numbers stand beside them."""
    result = _run(str(_log(tmp_path)), "--reward-model", "log", "--clip", "2")
    assert result.exit_code == 0, result.output
    assert "corrected on the log" in result.stdout
    assert "clipping cut off weight" in result.stdout


def test_evaluate_logged_on_the_rows_it_was_fitted_on_uses_the_test_part(tmp_path: Path) -> None:
    """An artifact is not judged on prompts that it learned from: 15 % of them are left when the log is the same."""
    table = load_outcomes([_log(tmp_path)])
    logged, matrix = LoggedOutcomes.from_table(table), table.matrix()
    manifest = RouterArtifact.load(bundled_folder("default-router"), encoder_id=None).manifest
    assert len(held_out_rows(logged, matrix, manifest)) == 400
    training = msgspec.structs.replace(manifest.training, digest=matrix.digest)
    fitted_here = msgspec.structs.replace(manifest, training=training)
    assert len(held_out_rows(logged, matrix, fitted_here)) == 60
