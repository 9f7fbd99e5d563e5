"""The judge report: biases that were put into made-up verdicts are found, and absent ones are not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from penstock_training.cli import main
from penstock_training.errors import TrainingError
from penstock_training.scorers.judge_measures import kappa, length_correlation, length_slope
from penstock_training.scorers.judge_report import JudgeReport, read_human_labels, report_on
from penstock_training.scorers.verdict_log import (
    GradeVerdict,
    PairVerdict,
    Verdict,
    Winner,
    append_verdict,
    read_verdicts,
)

QUICK = {"resamples": 200}


def _pairs(
    *, prompts: int = 150, position: float = 0.0, length: float = 0.0, seed: int = 1
) -> tuple[list[PairVerdict], dict[tuple[str, str], float]]:
    """Verdicts of a judge that sees true merit with noise, a liking for the first place and for length; with labels."""
    random = np.random.default_rng(seed)
    pairs, labels = [], {}
    for prompt in range(prompts):
        merits = {"small": 0.0, "dear": 0.0} | {arm: float(random.normal()) for arm in ("small", "dear")}
        sizes = {arm: int(2 ** random.uniform(6, 11)) for arm in merits}
        for arm, merit in merits.items():
            labels[f"q{prompt}", arm] = 1.0 / (1.0 + math.exp(-merit))
        liked = merits["small"] - merits["dear"] + length * math.log2(sizes["small"] / sizes["dear"])

        def winner(lead_of_first: float) -> Winner:
            return "first" if lead_of_first + position + 0.8 * random.normal() > 0 else "second"

        pairs.append(
            PairVerdict(
                "m", f"q{prompt}", "small", "dear", winner(liked), winner(-liked), sizes["small"], sizes["dear"]
            )
        )
    return pairs, labels


def _report(pairs: list[PairVerdict], labels: dict[tuple[str, str], float] | None = None) -> JudgeReport:
    (report,) = report_on(pairs, labels, **QUICK)
    return report


def test_report_on_a_fair_judge_finds_no_bias_and_agreement() -> None:
    """First place wins half, length does nothing, and people agree."""
    report = _report(*_pairs())
    assert report.position is not None
    assert report.position.first_wins is not None
    assert report.position.first_wins.low < 0.5 < report.position.first_wins.high
    assert report.length.slope is not None
    assert report.length.slope.low < 0.0 < report.length.slope.high
    assert report.agreement is not None
    assert report.agreement.labelled == 150
    assert report.agreement.accuracy.value > 0.7
    assert report.agreement.kappa.low > 0.4


def test_report_on_a_judge_that_likes_the_first_place_says_so() -> None:
    """More verdicts change with the order, and the first place wins more than half."""
    fair, biased = _report(_pairs()[0]), _report(_pairs(position=1.0)[0])
    assert fair.position is not None
    assert biased.position is not None
    assert biased.position.first_wins is not None
    assert biased.position.first_wins.low > 0.55
    assert biased.position.inconsistent.low > fair.position.inconsistent.high


def test_report_on_a_judge_that_likes_length_says_so_and_people_do_not() -> None:
    """The slope of winning on length is above 0 for the judge and about 0 for people on the same answers."""
    report = _report(*_pairs(length=0.6))
    assert report.length.slope is not None
    assert report.length.slope.low > 0.3
    assert report.length.longer_wins is not None
    assert report.length.longer_wins.low > 0.55
    assert report.length.human_slope is not None
    assert report.length.human_slope.low < 0.0 < report.length.human_slope.high


def test_report_on_grades_measures_length_within_prompts() -> None:
    """Long prompts get long answers and other grades; only differences within a prompt count."""
    random = np.random.default_rng(3)
    fair, biased, labels = [], [], {}
    for prompt in range(100):
        for arm in ("small", "middle", "dear"):
            size = int(2 ** (6 + prompt / 20 + random.uniform(0, 3)))
            merit = float(random.random())
            labels[f"q{prompt}", arm] = merit
            fair.append(GradeVerdict("fair", f"q{prompt}", arm, 1 + 4 * merit, merit, size))
            liking = (math.log2(size) - 6 - prompt / 20) / 3
            biased.append(GradeVerdict("biased", f"q{prompt}", arm, 1 + 4 * liking, liking, size))
    first, second = report_on([*fair, *biased], labels, **QUICK)
    assert (first.model, second.model, first.kind, first.position) == ("biased", "fair", "rubric", None)
    assert first.length.slope is not None
    assert second.length.slope is not None
    assert first.length.slope.value > 0.99
    assert second.length.slope.low < 0.0 < second.length.slope.high
    assert second.agreement is not None
    assert second.agreement.kappa.value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ([[0.5, 0.0], [0.0, 0.5]], 1.0),
        ([[0.25, 0.25], [0.25, 0.25]], 0.0),
        ([[0.4, 0.1], [0.2, 0.3]], 0.4),  # Cohen's formula by hand: (.7 − .5) / (1 − .5)
        ([[0.0, 0.5], [0.5, 0.0]], -1.0),
    ],
)
def test_kappa_of_a_table_equals_the_formula_by_hand(table: list[list[float]], value: float) -> None:
    """Chance is 0, perfection 1, opposition −1."""
    assert kappa(np.array(table)) == pytest.approx(value)


def test_kappa_of_one_single_label_is_not_a_number() -> None:
    """Where both always say the same one thing, agreement says nothing."""
    assert math.isnan(kappa(np.array([[1.0, 0.0], [0.0, 0.0]])))


def test_length_slope_interval_covers_the_truth_in_nineteen_of_twenty() -> None:
    """Over 200 made-up logs with two pairs per prompt that share their luck, the interval covers in 90 to 99 %."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 2)
    covered = 0
    for _ in range(200):
        doublings = random.normal(size=200)
        chance = 1.0 / (1.0 + np.exp(-(0.2 + 0.5 * doublings)))
        # Both pairs of a prompt lie on the same side of one draw: as correlated as two chances can be.
        score = (np.repeat(random.random(100), 2) < chance).astype(float)
        found = length_slope(score, doublings, groups)
        assert found is not None
        covered += found.low <= 0.5 <= found.high
    assert 0.90 <= covered / 200 <= 0.99  # 95 % ± 3 standard errors of 200 draws, and a little for few groups


@pytest.mark.parametrize(
    ("score", "doublings"),
    [
        ([0.0, 0.0, 1.0, 1.0], [-2.0, -1.0, 1.0, 2.0]),
        ([0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]),
        ([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]),
    ],
)
def test_length_slope_without_a_finite_value_is_none(score: list[float], doublings: list[float]) -> None:
    """Where length decides everything, does not vary, or nothing is lost, there is no slope to report."""
    assert length_slope(np.array(score), np.array(doublings), np.arange(4)) is None


def test_length_correlation_without_differences_within_prompts_is_none() -> None:
    """One answer per prompt has nothing to be compared with."""
    assert length_correlation(np.array([0.1, 0.9]), np.array([1.0, 2.0]), np.array([0, 1])) is None


def test_verdict_log_after_a_resumption_counts_the_last_verdict(tmp_path: Path) -> None:
    """A pair judged twice counts once, and half a line at the end of a killed run is passed over."""
    path = tmp_path / "log.jsonl"
    first = PairVerdict("m", "q1", "small", "dear", "first", "second", 3, 4)
    last = PairVerdict("m", "q1", "small", "dear", "tie", "tie", 3, 4)
    grade = GradeVerdict("m", "q1", "small", 3.0, 0.5, 3)
    for verdict in (first, grade, last):
        append_verdict(path, verdict)
    with path.open("ab") as handle:
        handle.write(b'{"judge": "pairwise", "mod')
    assert sorted(map(repr, read_verdicts(path))) == sorted(map(repr, [last, grade]))


@pytest.mark.parametrize("line", ["{", '{"judge": "other"}', '{"judge": "rubric", "model": 3}', "[]"])
def test_verdict_log_with_a_foreign_line_is_refused_by_number(tmp_path: Path, line: str) -> None:
    """What is no verdict is named by its line."""
    path = tmp_path / "log.jsonl"
    path.write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(TrainingError, match="line 2") as caught:
        read_verdicts(path)
    assert caught.value.code == "verdict_log"


@pytest.mark.parametrize(
    "line", ["{", '{"query_id": "q", "arm": "a"}', '{"query_id": "q", "arm": "a", "score": 2}', ""]
)
def test_human_labels_that_cannot_be_used_are_refused(tmp_path: Path, line: str) -> None:
    """Missing fields, scores out of range, and files without a label are errors."""
    path = tmp_path / "labels.jsonl"
    path.write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(TrainingError) as caught:
        read_human_labels(path)
    assert caught.value.code == "human_labels"


def test_human_labels_may_be_an_outcome_file(tmp_path: Path) -> None:
    """Other fields are not looked at, true counts as 1, and unscored rows are left out."""
    path = tmp_path / "labels.jsonl"
    rows = [
        {"prompt": "p", "query_id": "q1", "arm": "small", "score": True, "cost_usd": 0.1},
        {"query_id": "q1", "arm": "dear", "score": 0.5},
        {"query_id": "q2", "arm": "dear", "score": None},
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    assert read_human_labels(path) == {("q1", "small"): 1.0, ("q1", "dear"): 0.5}


def _write(folder: Path, verdicts: list[Verdict], labels: dict[tuple[str, str], float]) -> tuple[str, str]:
    log, people = folder / "log.jsonl", folder / "people.jsonl"
    for verdict in verdicts:
        append_verdict(log, verdict)
    rows = [{"query_id": query, "arm": arm, "score": score} for (query, arm), score in labels.items()]
    people.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(log), str(people)


def test_judge_report_command_prints_text_and_json_alike(tmp_path: Path) -> None:
    """The same numbers for people and for machines, every share with its interval."""
    pairs, labels = _pairs(prompts=40)
    grades = [GradeVerdict("g", f"q{n}", arm, 3.0, 0.5, 10) for n in range(40) for arm in ("small", "dear")]
    log, people = _write(tmp_path, [*pairs, *grades], labels)
    text = CliRunner().invoke(main, ["judge-report", log, "--human-labels", people])
    assert text.exit_code == 0, text.output
    for words in ("judge m (pairwise): 40 pairs", "judge g (rubric): 80 grades", "Cohen's kappa", "not measurable"):
        assert words in text.output
    found = json.loads(CliRunner().invoke(main, ["judge-report", log, "--human-labels", people, "--json"]).output)
    share = found["judges"][0]["agreement"]["accuracy"]["value"]
    assert f"{100 * share:.1f} %" in text.output
    assert found["judges"][1]["length"]["slope"] is None


def test_judge_report_command_without_a_log_says_so_in_one_line(tmp_path: Path) -> None:
    """A missing or empty log is an error with a code, for people and for machines."""
    result = CliRunner().invoke(main, ["judge-report", str(tmp_path / "none.jsonl")])
    assert result.exit_code == 1
    assert "[verdict_log]" in result.output
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    result = CliRunner().invoke(main, ["judge-report", str(tmp_path / "empty.jsonl"), "--json"])
    assert json.loads(result.output)["error"]["code"] == "verdict_log"
