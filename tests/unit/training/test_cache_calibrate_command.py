"""``penstock-train cache-calibrate``: a rule from one's own texts, refusals in one line, and runs that are killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from penstock_cache.errors import RuleError
from penstock_cache.rule import MANIFEST_FILE, MODEL_FILE, PairModel, RuleManifest, load_rule, read_manifest
from penstock_routers.bundled import DEFAULT_ENCODER, PARAPHRASE_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_training.cache_rule.calibrate import BUDGETS, THRESHOLDS, RuleCalibration
from penstock_training.cache_rule.rule_files import CARD_FILE, StoredScorer, read_scorer, write_rule
from penstock_training.cache_rule.texts import read_texts
from penstock_training.cli import main
from penstock_training.errors import TrainingError
from support.cache_questions import question_quads, write_json_rows

QUADS = 110  # 440 texts; of them 40 %, 176, certify after a refit, and 149 requests without an error certify 2 %


def calibrate(*arguments: object) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["cache-calibrate", *map(str, arguments)])


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file of quads."""
    return write_json_rows(tmp_path_factory.mktemp("texts") / "own.jsonl", question_quads(QUADS))


@pytest.fixture(scope="module")
def refitted(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A rule whose model was fitted on the texts."""
    out = tmp_path_factory.mktemp("rules") / "own-rule"
    return out, calibrate("--texts", texts, "--out", out, "--refit")


def loaded(folder: Path) -> RuleManifest:
    """Load a rule for the bundled encoders, as serving does, and return its manifest."""
    search, verify = (PromptEncoder.load(bundled_folder(name)) for name in (DEFAULT_ENCODER, PARAPHRASE_ENCODER))

    def unused(graph: bytes) -> PairModel:
        raise AssertionError("opened")

    with pytest.raises(AssertionError, match="opened"):
        load_rule(folder, unused, encoder_id=search.encoder_id, verifier_id=verify.encoder_id)
    return read_manifest((folder / MANIFEST_FILE).read_bytes())


def test_calibrate_with_refit_writes_a_rule_that_loads(texts: Path, refitted: tuple[Path, Result]) -> None:
    """The folder holds manifest, model and card; the output shows every budget and what to write into the settings."""
    out, result = refitted
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {MANIFEST_FILE, MODEL_FILE, CARD_FILE}
    manifest = loaded(out)
    pooled = [point for point in manifest.points if point.category == "*"]
    assert [point.budget for point in pooled] == list(BUDGETS)
    assert {point.mode for point in manifest.points} == {"semantic"}
    assert manifest.data == [
        {
            "name": "own",
            "role": "fit and calibrate",
            "licence": "own",
            "texts": 4 * QUADS,
            "sha256": read_texts([texts]).digest,
        }
    ]
    assert "wrote" in result.output
    assert "mode: semantic" in result.output
    assert result.output.count("all together") == len(BUDGETS)


def test_calibrate_certifies_only_what_the_texts_can(refitted: tuple[Path, Result]) -> None:
    """Only the texts that were not fitted on are counted, and what so few cannot certify stays off."""
    manifest = loaded(refitted[0])
    by_budget = {point.budget: point for point in manifest.points if point.category == "*"}
    for point in by_budget.values():
        assert point.requests == 4 * (QUADS - round(0.6 * QUADS))
        assert point.threshold is None or point.threshold in THRESHOLDS
        assert (point.threshold is None) or point.false_hit_rate_upper <= point.budget
    assert by_budget[0.001].threshold is None
    assert by_budget[0.02].threshold is not None  # generated near-misses are told apart by one word
    assert by_budget[0.02].hits > 20


@pytest.fixture(scope="module")
def recalibrated(texts: Path, refitted: tuple[Path, Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rule that has the other's model and operating points of all the texts."""
    out = tmp_path_factory.mktemp("rules") / "recalibrated"
    result = calibrate("--texts", texts, "--out", out, "--base", refitted[0])
    assert result.exit_code == 0, result.output
    return out


def test_calibrate_without_refit_keeps_the_bases_model(refitted: tuple[Path, Result], recalibrated: Path) -> None:
    """Only the operating points are new: model and word weights are the base's, and all texts count."""
    assert (recalibrated / MODEL_FILE).read_bytes() == (refitted[0] / MODEL_FILE).read_bytes()
    manifest, of_base = loaded(recalibrated), loaded(refitted[0])
    assert manifest.word_weights == of_base.word_weights
    assert {point.requests for point in manifest.points if point.category == "*"} == {4 * QUADS}
    assert [item["role"] for item in manifest.data] == ["calibrate"]


def test_calibrate_certifies_every_use_of_the_second_encoder(refitted: tuple[Path, Result]) -> None:
    """Asking always loses nothing, and finds no less than asking adaptively; never asking has a stated loss."""
    manifest = loaded(refitted[0])
    always, never = manifest.other_uses
    assert (always.use, always.miss_rate, never.use) == ("always", 0.0, "never")
    assert never.miss_rate >= manifest.plausible_miss_rate
    for use in (always, never):
        assert [(each.category, each.budget) for each in use.points] == [
            (each.category, each.budget) for each in manifest.points
        ]
        assert f"verifier_use: {use.use}" in (refitted[0] / CARD_FILE).read_text()
    assert always.points[-1].hits >= manifest.points[-1].hits


def test_calibrate_beside_thresholds_of_the_other_mode_keeps_their_plausibility(
    texts: Path, refitted: tuple[Path, Result], tmp_path: Path
) -> None:
    """Thresholds that are kept were certified with the base's screen, and would not hold behind another."""
    base = read_scorer(refitted[0])
    strict = RuleCalibration(0.45, 0.987, 0.0, base.manifest.points, base.manifest.other_uses)
    write(tmp_path / "base", strict, StoredScorer(base.manifest, base.words, base.content))
    for mode, keeps in (("faq-intent", True), ("semantic", False)):
        result = calibrate("--texts", texts, "--out", tmp_path / mode, "--base", tmp_path / "base", "--mode", mode)
        assert result.exit_code == 0, result.output
        made = loaded(tmp_path / mode)
        assert (made.min_plausible == 0.987) is keeps
        for points in (made.points, *(use.points for use in made.other_uses)):
            assert {each.mode for each in points} == ({"semantic", "faq-intent"} if keeps else {"semantic"})


def test_calibrate_json_prints_one_object(texts: Path, refitted: tuple[Path, Result], tmp_path: Path) -> None:
    """A program gets folder and points alone; points for intents stand beside the base's for paraphrases."""
    out = tmp_path / "rule"
    result = calibrate("--texts", texts, "--out", out, "--base", refitted[0], "--mode", "faq-intent", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["out"] == str(out)
    points = {mode: [each for each in told["points"] if each["mode"] == mode] for mode in ("semantic", "faq-intent")}
    assert [each["budget"] for each in points["faq-intent"] if each["category"] == "*"] == list(BUDGETS)
    assert points["semantic"] == msgspec.to_builtins(loaded(refitted[0]).points)
    assert len(told["points"]) == sum(map(len, points.values()))


def test_calibrate_own_category_gets_points_of_its_own_from_300_texts_on(
    refitted: tuple[Path, Result], recalibrated: Path
) -> None:
    """With 440 faq texts the category stands beside the pooled row; after a refit 176 are too few."""
    assert {point.category for point in loaded(recalibrated).points} == {"*", "faq"}
    assert {point.category for point in loaded(refitted[0]).points} == {"*"}


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        (question_quads(74), "cache_texts_too_few"),  # 296 texts
        ([{"text": "x", "group": "a"}] * 400, "cache_texts_one_group"),
        ([*question_quads(2), {"a": "x"}], "cache_texts_invalid"),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_calibrate_texts_that_cannot_be_used_are_refused(
    tmp_path: Path, rows: list[dict[str, str]], code: str, as_json: bool
) -> None:
    """One line with the code, or one JSON object; status 1, and no folder is made."""
    path = write_json_rows(tmp_path / "own.jsonl", rows)
    result = calibrate("--texts", path, "--out", tmp_path / "rule", "--refit", *(["--json"] if as_json else []))
    assert result.exit_code == 1
    if as_json:
        assert json.loads(result.stdout)["error"]["code"] == code
    else:
        assert f"[{code}]" in result.output
        assert len(result.output.strip().split("\n")) == 1
    if code == "cache_texts_invalid":
        assert "own.jsonl:3" in result.output
    assert not (tmp_path / "rule").exists()


def test_calibrate_file_or_base_that_is_missing_is_refused(texts: Path, tmp_path: Path) -> None:
    """What is missing is named; a run without texts is a question of usage."""
    missing = calibrate("--texts", tmp_path / "no.jsonl", "--out", tmp_path / "rule")
    assert (missing.exit_code, "[cache_texts_missing]" in missing.output) == (1, True)
    assert "no.jsonl" in missing.output
    baseless = calibrate("--texts", texts, "--out", tmp_path / "rule", "--base", tmp_path / "nothing")
    assert (baseless.exit_code, "[cache_rule_unusable]" in baseless.output) == (1, True)
    assert calibrate("--out", tmp_path / "rule").exit_code == 2
    assert not (tmp_path / "rule").exists()


def test_calibrate_texts_without_any_pair_to_learn_from_are_refused(tmp_path: Path) -> None:
    """Texts of which none is near another with the same answer cannot be fitted on, and that is said."""
    subjects = ("granite", "violins", "taxes", "penguins", "soup", "rockets", "verbs", "glaciers", "chess", "bread")
    rows = [{"text": f"{subjects[n % 10]} {n}", "group": f"g{n}"} for n in range(320)]
    result = calibrate("--texts", write_json_rows(tmp_path / "own.jsonl", rows), "--out", tmp_path / "rule", "--refit")
    assert (result.exit_code, "[cache_texts_no_pairs]" in result.output) == (1, True), result.output
    assert not (tmp_path / "rule").exists()


class Killed(BaseException):
    """What ends a run in the middle of a write."""


@pytest.mark.parametrize("is_new", [True, False], ids=["new folder", "over an older rule"])
@pytest.mark.parametrize("fatal_write", [1, 2, 3])
def test_rule_of_a_killed_run_does_not_load(
    refitted: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal_write: int, is_new: bool
) -> None:
    """Whichever file a run dies in, half written, the folder is refused and no mixture of two rules is served."""
    base = read_scorer(refitted[0])
    scorer = StoredScorer(base.manifest, base.words, base.content)
    calibration = RuleCalibration(0.45, 0.2, 0.0, base.manifest.points)
    folder, writes = tmp_path / "rule", 0
    if not is_new:
        write(folder, calibration, scorer)
        assert loaded(folder).points == base.manifest.points

    def dying(plain: Any) -> Any:
        def write_half(path: Path, content: Any, **options: Any) -> int:
            nonlocal writes
            writes += 1
            if writes == fatal_write:
                plain(path, content[: len(content) // 2], **options)
                raise Killed
            return int(plain(path, content, **options))

        return write_half

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", dying(Path.write_bytes))
        patched.setattr(Path, "write_text", dying(Path.write_text))
        with pytest.raises(Killed):
            write(folder, calibration, scorer)
    with pytest.raises(RuleError) as caught:
        load_rule(folder, lambda _: lambda rows: rows[:, 0], encoder_id="search", verifier_id="verify")
    assert caught.value.code in ("cache_rule_missing", "cache_rule_damaged")
    with pytest.raises(TrainingError):
        read_scorer(folder)


def write(folder: Path, calibration: RuleCalibration, scorer: StoredScorer) -> None:
    """Write a rule for the bundled encoders."""
    manifest = scorer.manifest
    write_rule(
        folder, calibration, scorer, encoder_id=manifest.encoder_id, verifier_id=manifest.verifier_id, data=[]
    )  # fmt: skip
