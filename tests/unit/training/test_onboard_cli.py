"""``penstock-train onboard``: an arm added to the bundled router, and everything that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from penstock_routers.artifact import RouterArtifact
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.features import prompt_features
from penstock_training import pack
from penstock_training.cli import main
from support.outcome_samples import outcome_row, write_json_lines

PRICES = ("--price-input", "2.5", "--price-output", "10")
DEFAULT = "default-router"


def _rows(count: int = 24, arm: str = "novice", score: float | None = None, **changes: Any) -> list[dict[str, Any]]:
    return [
        outcome_row(
            f"What is {number} times {number + 3}? Show the steps.",
            arm,
            **{"score": float(number % 3 > 0) if score is None else score, "output_tokens": 300, **changes},
        )
        for number in range(count)
    ]


def _onboard(folder: Path, rows: list[dict[str, Any]], *options: str, arm: str = "novice") -> Result:
    file = write_json_lines(folder / "outcomes.jsonl", rows)
    command = ["onboard", DEFAULT, "--arm", arm, "--outcomes", str(file), "--out", str(folder / "out"), *options]
    return CliRunner().invoke(main, command)


def test_onboarded_artifact_serves_the_new_arm_and_keeps_the_others(tmp_path: Path) -> None:
    """What serving opens knows one arm more, its parent, and the same numbers of the other arms."""
    result = _onboard(tmp_path, _rows(), *PRICES, "--tier", "large", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.output)
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    parent = RouterArtifact.load(bundled_folder(DEFAULT), encoder_id=encoder.encoder_id)
    grown = RouterArtifact.load(tmp_path / "out", encoder_id=encoder.encoder_id)
    assert grown.id == printed["id"]
    assert grown.manifest.parent == printed["parent"] == parent.id
    assert grown.manifest.arms == (*parent.manifest.arms, "novice")
    entry = grown.manifest.arm_entries[-1]
    assert (entry.tier, entry.prompts, entry.mean_score) == ("large", 24, pytest.approx(16 / 24, abs=1e-4))
    assert (entry.price_usd_per_million_input_tokens, entry.price_usd_per_million_output_tokens) == (2.5, 10.0)
    text = "Which organ makes insulin?"
    vector, features = encoder.encode([text])[0], prompt_features(text)
    before, after = (one.estimate(vector, features, reference_arm="frontier") for one in (parent, grown))
    np.testing.assert_array_equal(after.quality[:-1], before.quality)
    np.testing.assert_array_equal(after.gain_se[:-1], before.gain_se)
    as_default = grown.estimate(vector, features, reference_arm="novice")
    assert as_default.gain[-1] == 0.0
    assert as_default.gain_se[0] > 0.0


def test_onboard_text_states_the_uncertainty_and_a_card_lies_beside(tmp_path: Path) -> None:
    """A person reads the interval, the nearest arm and how many more prompts would halve the doubt."""
    result = _onboard(tmp_path, _rows(), *PRICES)
    assert result.exit_code == 0, result.output
    for words in ("95 % interval", "most like", "would halve", "surely better", "next: penstock-train artifact show"):
        assert words in result.output
    card = (tmp_path / "out" / "CARD.md").read_text(encoding="utf-8")
    assert card.startswith("# novice added")
    assert "95 % interval" in card


def test_onboard_takes_known_arms_scores_and_prices_from_costs(tmp_path: Path) -> None:
    """Rows of known arms on the same prompts count as paired, and costs of the new arm tell its price."""
    rows = _rows(input_tokens=100, cost_usd=(100 * 2.0 + 300 * 2.0) / 1e6)
    result = _onboard(tmp_path, [*rows, *_rows(arm="small", score=1.0)], "--json")
    printed = json.loads(result.output)
    assert printed["paired"] == 24
    assert printed["price"] == pytest.approx([2.0, 2.0])
    assert any("better on these prompts" in remark for remark in printed["remarks"])


def test_onboard_leaves_out_answers_of_a_fallback(tmp_path: Path) -> None:
    """Logged rows where another arm was drawn say when that arm failed, and are no sample of the new one."""
    logged = _rows(24, propensity=0.1)
    for row in logged[:6]:
        row["intended_arm"] = "small"
    result = _onboard(tmp_path, logged, *PRICES, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["prompts"] == 18


def test_onboard_dearest_arm_keeps_what_cost_weights_mean(tmp_path: Path) -> None:
    """A new arm that is dearer than all others raises the unit of cost, so λ rises with it."""
    result = _onboard(tmp_path, _rows(), "--price-input", "34.3", "--price-output", "103", "--json")
    assert result.exit_code == 0, result.output
    parent, grown = (
        RouterArtifact.load(folder, encoder_id=None) for folder in (bundled_folder(DEFAULT), tmp_path / "out")
    )
    prices = [
        (e.price_usd_per_million_input_tokens, e.price_usd_per_million_output_tokens)
        for e in grown.manifest.arm_entries
    ]
    dearest, before = grown.cost_scale_usd(*prices[-1]), max(parent.cost_scale_usd(*price) for price in prices[:-1])
    weights = [[p.cost_weight for p in one.manifest.operating_points] for one in (parent, grown)]
    assert weights[1] == pytest.approx([weight * dearest / before for weight in weights[0] if weight is not None])


def test_onboard_constant_scores_are_allowed_and_said(tmp_path: Path) -> None:
    """All right answers give an arm, shrunk, with a remark in report and manifest."""
    result = _onboard(tmp_path, _rows(score=1.0), *PRICES, "--json")
    printed = json.loads(result.output)
    assert printed["quality"] < 1.0
    assert printed["remarks"][0].startswith("every score is 1")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert printed["remarks"][0] in manifest["training"]["notes"]


@pytest.mark.parametrize(
    ("rows", "options", "arm", "code"),
    [
        (_rows(9), PRICES, "novice", "too_few_prompts"),
        (_rows(), PRICES, "nobody", "unknown_arm"),
        (_rows(arm="small"), PRICES, "small", "arm_known"),
        (_rows(cost_usd=None), (), "novice", "no_prices"),
        (_rows(), (*PRICES, "--encoder", "minilm-l6-v2"), "novice", "artifact_encoder_mismatch"),
        (_rows(score=1.5), PRICES, "novice", "outcome_rows_refused"),
    ],
)
def test_onboard_bad_input_is_refused_with_its_code_and_nothing_written(
    tmp_path: Path, rows: list[dict[str, Any]], options: tuple[str, ...], arm: str, code: str
) -> None:
    """Every mistake has a code, one line, and leaves no folder."""
    result = _onboard(tmp_path, rows, *options, arm=arm)
    assert result.exit_code == 1
    assert f"[{code}]" in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_onboard_into_the_artifact_itself_is_refused(tmp_path: Path) -> None:
    """The parent is what one goes back to, so it is never replaced."""
    file = write_json_lines(tmp_path / "outcomes.jsonl", _rows())
    folder = str(bundled_folder(DEFAULT))
    command = ["onboard", DEFAULT, "--arm", "novice", "--outcomes", str(file), "--out", folder, *PRICES]
    result = CliRunner().invoke(main, command)
    assert "[out_is_artifact]" in result.output


def test_onboard_interrupted_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends between the graph and the manifest leaves no file behind."""

    def interrupt(_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(pack, "encode_manifest", interrupt)
    result = _onboard(tmp_path, _rows(), *PRICES)
    assert result.exit_code != 0
    assert list((tmp_path / "out").rglob("*")) == []
