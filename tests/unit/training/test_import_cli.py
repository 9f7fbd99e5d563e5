"""``penstock-train import`` and ``check-outcomes`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penstock_training.cli import main
from support.import_samples import routerbench_rows, spend_log, write_csv, write_lines
from support.outcome_samples import outcome_row, write_json_lines

ROWS = [outcome_row(f"What is {n}?", arm, score=s) for n in range(4) for arm, s in (("small", n % 2), ("large", 1))]


def _run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_import_list_names_every_format_without_paths() -> None:
    """``--list`` says what there is and what each format takes."""
    text = _run("import", "--list").output
    assert all(name in text for name in ("routerbench", "routellm", "mmlu-pro", "zeroeval", "litellm-spend", "events"))
    names = [entry["name"] for entry in json.loads(_run("import", "--list", "--json").output)]
    assert names[0] == "routerbench"


def test_import_without_arguments_says_what_is_missing() -> None:
    """A bare command is a usage error that names the arguments."""
    result = _run("import", "routerbench")
    assert (result.exit_code, "--out FILE" in result.output) == (2, True)


def test_import_prints_counts_and_a_file_that_fit_can_read(tmp_path: Path) -> None:
    """The screen shows rows, arms and digest; the file passes the checks."""
    source = write_csv(tmp_path / "ponds.csv", routerbench_rows())
    out = tmp_path / "ponds.parquet"
    result = _run("import", "routerbench", source, "--out", out)
    assert result.exit_code == 0
    assert "rows 6, prompts 3, arms 2" in result.output
    assert "digest " in result.output
    assert out.exists()


def test_import_json_is_one_object_with_report_or_error(tmp_path: Path) -> None:
    """With --json both success and failure are one JSON object."""
    source = write_csv(tmp_path / "ponds.csv", routerbench_rows())
    out = tmp_path / "ponds.jsonl"
    report = json.loads(_run("import", "routerbench", source, "--out", out, "--json").output)
    assert (report["rows"], report["arms"]["tiny-7b"]["rows"]) == (6, 3)
    again = _run("import", "routerbench", source, "--out", out, "--json")
    assert (again.exit_code, json.loads(again.output)["error"]["code"]) == (1, "import_out_refused")


def test_import_of_spend_logs_takes_scores_and_prices_from_files(tmp_path: Path) -> None:
    """Options that name files reach the importer."""
    logs = write_lines(tmp_path / "spend.jsonl", [spend_log("r1"), spend_log("r2", model="small")])
    scores = write_csv(tmp_path / "s.csv", [{"request_id": "r1", "score": 1}, {"request_id": "r2", "score": 0}])
    out = tmp_path / "o.parquet"
    result = _run("import", "litellm-spend", logs, "--scores", scores, "--arms", "small", "--out", out, "--json")
    report = json.loads(result.output)
    assert list(report["arms"]) == ["small"]
    assert report["left_out"] == {"arm_not_asked_for": 1}


def test_import_error_is_one_line_with_a_code(tmp_path: Path) -> None:
    """A user mistake ends with its code and no traceback."""
    result = _run("import", "routerbench", tmp_path / "none.csv", "--out", tmp_path / "a.parquet")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "[import_path_missing]" in result.output


def test_check_outcomes_of_good_files_exits_with_zero(tmp_path: Path) -> None:
    """Warnings alone do not fail; too few questions do."""
    rows = [
        outcome_row(f"What is the number after {n} in the list?", arm, score=(n + k) % 2)
        for n in range(150)
        for k, arm in enumerate(("small", "large"))
    ]
    path = write_json_lines(tmp_path / "good.jsonl", rows)
    result = _run("check-outcomes", path)
    assert result.exit_code == 0
    assert "nothing to complain about" in result.output
    few = _run("check-outcomes", write_json_lines(tmp_path / "few.jsonl", ROWS), "--json")
    assert few.exit_code == 1
    assert "too_few_prompts" in [finding["code"] for finding in json.loads(few.output)["findings"]]


def test_check_outcomes_names_leaks_and_unknown_arms_with_advice(tmp_path: Path) -> None:
    """The screen names code, count, example and what to do."""
    path = write_json_lines(tmp_path / "a.jsonl", ROWS)
    other = write_json_lines(tmp_path / "b.jsonl", ROWS[:2])
    result = _run("check-outcomes", path, "--against", other, "--arms", "small")
    assert "refused leaking_groups: questions in both sets: 1" in result.output
    assert "warned  unknown_arms: unknown arms: 1 of 2" in result.output
    assert "take these questions out" in result.output


def test_check_outcomes_compares_arms_with_a_bundled_artifact(tmp_path: Path) -> None:
    """An artifact's arms are the known ones."""
    rows = [row | {"arm": "acme-1"} if row["arm"] == "large" else row for row in ROWS]
    path = write_json_lines(tmp_path / "a.jsonl", rows)
    found = json.loads(_run("check-outcomes", path, "--artifact", "default-router", "--json").output)["findings"]
    [unknown] = [finding for finding in found if finding["code"] == "unknown_arms"]
    assert (unknown["count"], unknown["example"]) == (1, "arm acme-1")
    assert "small" in unknown["message"]


@pytest.mark.parametrize("encoder", ["minilm-l6-v2"])
def test_check_outcomes_names_an_artifact_of_another_encoder(tmp_path: Path, encoder: str) -> None:
    """The encoder in use is compared with the artifact's."""
    path = write_json_lines(tmp_path / "a.jsonl", ROWS)
    result = _run("check-outcomes", path, "--artifact", "default-router", "--encoder", encoder, "--json")
    assert "encoder_mismatch" in [finding["code"] for finding in json.loads(result.output)["findings"]]
