"""The penstock-train command: help without heavy imports, predictions, errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from penstock_routers.artifact import RouterArtifact
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_training.cli import main
from penstock_training.errors import TrainingError
from penstock_training.predict import artifact_prices, predict_prompt, prices_of_arms, read_price_list
from support.outcome_samples import outcome_row, write_json_lines

PROMPTS = ["What is 12 * 12?", "Which organ makes insulin?"]


def _json_lines(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


def test_help_imports_nothing_heavy() -> None:
    """Listing the commands loads neither scikit-learn, torch, pyarrow, onnx nor a runtime."""
    heavy = ("sklearn", "torch", "pyarrow", "onnx", "onnxruntime", "matplotlib", "pandas", "scipy")
    script = (
        "import sys; from click.testing import CliRunner; from penstock_training.cli import main; "
        "result = CliRunner().invoke(main, ['--help']); print(result.output); "
        f"print('HEAVY', [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "HEAVY []" in done.stdout
    for command in ("evaluate", "export-encoder", "fit", "predict"):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["fit", "predict", "evaluate", "export-encoder"])
def test_every_listed_command_has_help(command: str) -> None:
    """Each command says what it does."""
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_predict_json_lists_every_arm_with_numbers() -> None:
    """One JSON object per prompt, candidates in the order of the ranking."""
    result = CliRunner().invoke(main, ["predict", "--json", *PROMPTS])
    assert result.exit_code == 0, result.output
    rows = _json_lines(result.output)
    assert [row["prompt"] for row in rows] == PROMPTS
    for row in rows:
        candidates = row["candidates"]
        assert isinstance(candidates, list)
        assert candidates[0]["arm"] == row["arm"]
        assert {c["arm"] for c in candidates} == {"small", "medium", "large", "frontier"}


def test_predict_reads_prompts_from_a_file_and_text_output_names_reason(tmp_path: Path) -> None:
    """A file gives one prompt per line, blank ones skipped; the text output shows arm and reason."""
    (tmp_path / "prompts.txt").write_text("\n \n".join(PROMPTS) + "\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["predict", "--prompts", str(tmp_path / "prompts.txt"), "--tradeoff", "0"])
    assert result.exit_code == 0
    assert result.output.count("quality") == 8
    assert result.output.count("cheapest") == 2


def test_predict_cheapest_setting_takes_cheapest_arm_always() -> None:
    """At 0 every prompt goes to the cheapest arm, familiar or not, blank ones too."""
    rows = _json_lines(CliRunner().invoke(main, ["predict", "--json", "--tradeoff", "0", *PROMPTS, " "]).output)
    assert {(row["arm"], row["reason"]) for row in rows} == {("small", "cheapest")}


def test_predict_unpriced_arms_are_never_chosen() -> None:
    """Only arms with a price are candidates."""
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    artifact = RouterArtifact.load(bundled_folder("default-router"), encoder_id=encoder.encoder_id)
    prices = artifact_prices(artifact.manifest)
    del prices["small"]
    found = predict_prompt(
        PROMPTS[0],
        artifact=artifact,
        encoder=encoder,
        prices=prices,
        tradeoff=artifact.tradeoff(0.0),
        default_arm="frontier",
    )
    assert set(found.choice.ranking) == {"medium", "large", "frontier"}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["predict", "--tradeoff", "best", "x"], "bad_tradeoff"),
        (["predict", "--default-arm", "nobody", "x"], "unknown_arm"),
        (["predict", "--artifact", "no/where", "x"], "artifact_missing"),
        (["predict", "--artifact", "nowhere", "x"], "artifact_missing"),
        (["predict", "--artifact", ".", "x"], "artifact_missing"),
        (["predict", "--encoder", "nowhere", "x"], "encoder_missing"),
        (["predict", "--prompts", "latin.txt"], "bad_prompts"),
        (["predict", "--prices", "nowhere.json", "x"], "bad_prices"),
        (["predict", "--encoder", "minilm-l6-v2", "x"], "artifact_encoder_mismatch"),
        (["evaluate", "no/where", "--outcomes", "good.jsonl"], "artifact_missing"),
        (["evaluate", "nowhere", "--outcomes", "good.jsonl"], "artifact_missing"),
        (["evaluate", "default-router", "--outcomes", "good.jsonl", "--default-arm", "nobody"], "unknown_arm"),
        (["evaluate", "default-router", "--outcomes", "nowhere.jsonl"], "outcome_file_missing"),
        (["evaluate", "default-router", "--outcomes", "good.jsonl"], "outcome_arm_unknown"),
        (["fit", "--outcomes", "nowhere.jsonl", "--out", "unused"], "outcome_file_missing"),
        (["fit", "--outcomes", "empty.jsonl", "--out", "unused"], "outcome_no_usable_row"),
        (["fit", "--outcomes", "bad.jsonl", "--out", "unused"], "outcome_rows_refused"),
        (["fit", "--outcomes", "one_arm.jsonl", "--out", "unused"], "too_few_arms"),
        (["fit", "--outcomes", "good.jsonl", "--out", "unused"], "too_few_prompts"),
        (["fit", "--outcomes", "enough.jsonl", "--out", "unused", "--reference-arm", "nobody"], "unknown_arm"),
        (["fit", "--outcomes", "good.jsonl", "--out", "."], "out_not_empty"),
        (["fit", "--outcomes", "good.jsonl", "--out", "good.jsonl"], "out_not_writable"),
        (["fit", "--outcomes", "good.jsonl", "--out", "unused", "--encoder", "no/where"], "encoder_missing"),
        (["fit", "--default", "--data", "nowhere", "--out", "unused"], "data_missing"),
    ],
)
def test_commands_wrong_input_is_one_line_with_a_code(
    arguments: list[str], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's mistake ends with status 1 and a first line that ends in the code, as text and as JSON."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    write_json_lines(tmp_path / "good.jsonl", [outcome_row(arm="mini"), outcome_row(arm="maxi")])
    enough = [outcome_row(f"question {i}?", arm, score=i % 2, propensity=...) for i in range(200) for arm in ("a", "b")]
    write_json_lines(tmp_path / "enough.jsonl", enough)
    write_json_lines(tmp_path / "one_arm.jsonl", [outcome_row()])
    write_json_lines(tmp_path / "bad.jsonl", [outcome_row(), outcome_row(arm="maxi", score=2)])
    text = CliRunner().invoke(main, arguments)
    as_json = CliRunner().invoke(main, [arguments[0], "--json", *arguments[1:]])
    assert text.exit_code == as_json.exit_code == 1
    assert text.stderr.splitlines()[0].endswith(f" [{code}]")
    assert text.stdout == ""
    assert json.loads(as_json.stdout)["error"]["code"] == code
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--artifact", "nowhere", "x"], "no artifact folder 'nowhere', and no bundled one of that name"),
        (
            ["evaluate", "nowhere", "--outcomes", "x.jsonl"],
            "no artifact folder 'nowhere', and no bundled one of that name",
        ),
        (["evaluate", "no/where", "--outcomes", "x.jsonl"], "there is no artifact folder 'no/where'"),
        (
            ["predict", "--default-arm", "nope", "x"],
            "the artifact has no arm 'nope'; arms: small, medium, large, frontier",
        ),
    ],
)
def test_commands_wrong_name_is_said_with_what_there_is(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message repeats the name that was given."""
    monkeypatch.chdir(tmp_path)
    write_json_lines(tmp_path / "x.jsonl", [outcome_row(), outcome_row(arm="frontier")])
    assert message in CliRunner().invoke(main, arguments).stderr


@pytest.mark.parametrize(
    "arguments",
    [["evaluate", "default-router", "--outcomes", "x"], ["fit", "--outcomes", "x", "--out", "unused"]],
)
def test_commands_without_the_fit_extra_say_how_to_get_it(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only serving is installed, one line names the missing package, make setup and the extra."""
    for package in ("pyarrow", "sklearn", "onnx", "matplotlib"):
        monkeypatch.setitem(sys.modules, package, None)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.endswith(" [missing_extra]")
    for part in ("pyarrow", "make setup", "[cpu,fit]"):
        assert part in line


def test_evaluate_needs_no_scikit_learn(tmp_path: Path) -> None:
    """Measuring an artifact reads outcome files but fits nothing."""
    rows = [outcome_row(f"Add {i} and 3.", arm) for i in range(9) for arm in ("small", "medium", "large", "frontier")]
    path = write_json_lines(tmp_path / "own.jsonl", rows)
    script = (
        "import sys; sys.modules.update(dict.fromkeys(('sklearn', 'onnx', 'matplotlib', 'threadpoolctl')));"
        "from penstock_training.cli import main; main(sys.argv[1:])"
    )
    arguments = ["evaluate", "default-router", "--outcomes", str(path), "--resamples", "5"]
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "9 prompts" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit"],
        ["fit", "--default", "--outcomes", "x"],
        ["fit", "--default", "--reference-arm", "x"],
        ["fit", "--outcomes", "x"],
        ["predict"],
        ["evaluate", "default-router"],
    ],
)
def test_commands_contradictory_options_are_usage_errors(arguments: list[str]) -> None:
    """Options that do not go together are refused before anything is read."""
    assert CliRunner().invoke(main, arguments).exit_code == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"a": 1}',
        '{"a": [1]}',
        '{"a": [1, 2, 3]}',
        '{"a": "12"}',
        '{"a": [1, -2]}',
        '{"a": [1, "NaN"]}',
        '{"a": [1, NaN]}',
        '{"a": [1, 1e999]}',
        '{"a": [null, 1]}',
        "[" * 100_000,
    ],
)
def test_read_price_list_bad_content_is_refused(tmp_path: Path, content: str) -> None:
    """A price list is an object of pairs of finite numbers."""
    path = tmp_path / "prices.json"
    path.write_text(content)
    with pytest.raises(TrainingError) as caught:
        read_price_list(path)
    assert caught.value.code == "bad_prices"


def test_read_price_list_good_content_and_unknown_arms(tmp_path: Path) -> None:
    """Pairs are read as numbers; a name that is no arm is refused with the names that are."""
    path = tmp_path / "prices.json"
    path.write_text('{"a": [1, 2.5]}')
    assert read_price_list(path) == {"a": (1.0, 2.5)}
    assert prices_of_arms({"a": (1.0, 2.5)}, ("a", "b")) == {"a": (1.0, 2.5)}
    with pytest.raises(TrainingError, match="its arms are b"):
        prices_of_arms({"a": (1.0, 2.5)}, ("b",))


def test_fit_own_outcomes_writes_an_artifact_that_predicts(tmp_path: Path) -> None:
    """From a JSONL file of one's own to decisions, with the arms' own names; what was skipped is shown."""
    lines = []
    for i in range(300):
        prompt = f"Add {i} and {i + 7}." if i % 2 else f"Write line {i} of a sonnet about {i + 7} ships."
        for arm, price, score in (("mini", 1e-4, i % 2), ("maxi", 1e-3, 1)):
            row = {"prompt": prompt, "arm": arm, "score": score, "input_tokens": 10, "output_tokens": 40 + i % 9}
            lines.append(json.dumps({**row, "cost_usd": price * (50 + i % 9) / 50}))
    lines.append("{")
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    out = tmp_path / "router"
    result = CliRunner().invoke(
        main,
        ["fit", "--json", "--outcomes", str(tmp_path / "own.jsonl"), "--out", str(out), "--on-bad-rows", "skip"],
    )
    assert result.exit_code == 0, result.output
    assert "1 of 601 rows are bad" in result.stderr
    summary = json.loads(result.stdout)
    assert summary["arms"] == ["maxi", "mini"]
    assert summary["reference_arm"] == "maxi"
    assert (out / "CARD.md").is_file()
    shown = CliRunner().invoke(
        main, ["predict", "--json", "--artifact", str(out), "Add 31 and 38.", "Add 151 and 158."]
    )
    assert [row["arm"] for row in _json_lines(shown.output)] == ["mini", "mini"]


@pytest.mark.parametrize("best", ["cheap", "free"])
def test_fit_outcomes_whose_best_arm_is_the_cheapest_end_well_or_in_one_line(tmp_path: Path, best: str) -> None:
    """A cheap best arm gives a router that uses it; where it costs nothing there is nothing to save."""
    rows = [
        outcome_row(f"What is {i} plus {i + 3}?", arm, score=float(i % 4 > 0 or arm == best), cost_usd=cost)
        for i in range(240)
        for arm, cost in (("dear", 0.01), (best, 0.0001 if best == "cheap" else 0.0))
    ]
    path, out = write_json_lines(tmp_path / "own.jsonl", rows), tmp_path / "router"
    result = CliRunner().invoke(main, ["fit", "--json", "--outcomes", str(path), "--out", str(out)])
    found = json.loads(result.stdout)
    if best == "free":
        assert (result.exit_code, found["error"]["code"]) == (1, "outcome_best_arm_free")
        assert not out.exists()
    else:
        assert result.exit_code == 0, result.output
        text = CliRunner().invoke(main, ["fit", "--outcomes", str(path), "--out", str(out)]).stdout
        assert text.endswith(f"wrote {out}; next: penstock-train evaluate {out} --outcomes OTHER\n")
        cheapest = {point["name"]: point for point in found["operating_points"]}["cost"]
        assert cheapest["test"]["relative_cost"] < 0.02
        assert RouterArtifact.load(out, encoder_id=None).manifest.arms == ("cheap", "dear")
