"""Findings about outcomes: each code, its severity, its count, and an example without a prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock_training.data_checks import DataReport, Finding, check_outcomes
from penstock_training.errors import TrainingError
from penstock_training.outcomes import OutcomeMatrix, load_outcomes
from support.outcome_samples import outcome_row, random_trial, write_json_lines


def _sound(prompts: int = 200) -> OutcomeMatrix:
    matrix = random_trial(prompts=prompts)[1]
    texts = [f"What is the number that comes after {i} in the list?" for i in range(prompts)]
    return replace(matrix, prompts=texts, groups=np.arange(prompts, dtype=np.int64))


def _only(report: DataReport, code: str) -> Finding:
    assert report.codes() == (code,)
    return report.findings[0]


def _from_rows(tmp_path: Path, rows: list[dict[str, Any]], **more: Any) -> DataReport:
    table = load_outcomes([write_json_lines(tmp_path / "rows.jsonl", rows)], on_bad_rows="skip")
    return check_outcomes(table.matrix(), load_report=table.report, **more)


GOOD = [
    outcome_row(f"What is {n}?", arm, score=s) for n in range(3) for arm, s in (("small", n % 2), ("large", 1 - n % 2))
]


def test_check_of_sound_outcomes_finds_nothing() -> None:
    """Complete English outcomes of several arms have no finding."""
    report = check_outcomes(_sound(), known_arms=("arm0", "arm1", "arm2"), minimum_questions={"knn": 150})
    assert report.findings == ()
    assert (report.is_refused, report.prompts, report.questions, report.cells) == (False, 200, 200, 600)


@pytest.mark.parametrize(
    ("bad", "code", "example"),
    [
        (outcome_row("What is 9?", score=None), "unscored_rows", "row 7, score missing"),
        (outcome_row("What is 9?", score=1.5), "score_out_of_range", "row 7, score 1.5"),
        (outcome_row("  "), "empty_prompts", "row 7, prompt <str, 2 characters>"),
        (outcome_row("What is 0?", "small"), "duplicate_cells", "row 7, arm 'small'"),
        (outcome_row("What is 9?", cost_usd=-1), "negative_value", "row 7, cost_usd -1"),
    ],
)
def test_check_of_bad_rows_names_count_and_place(tmp_path: Path, bad: dict[str, Any], code: str, example: str) -> None:
    """A bad row of a file is a finding with its count and its line; skipping makes it a warning."""
    refused = _only(_from_rows(tmp_path, [*GOOD, bad]), code)
    assert (refused.severity, refused.count) == ("refused", 1)
    assert example in refused.example
    assert _only(_from_rows(tmp_path, [*GOOD, bad], on_bad_rows="skip"), code).severity == "warned"


def test_check_of_many_kinds_keeps_an_example_of_each(tmp_path: Path) -> None:
    """Fifty rows of one problem do not push the example of another one out."""
    rows = [*GOOD, *(outcome_row(f"What is {n + 20}?", score=None) for n in range(50)), outcome_row("Why?", score=-1)]
    found = {finding.code: finding for finding in _from_rows(tmp_path, rows).findings}
    assert found["unscored_rows"].count == 50
    assert "row 57, score -1" in found["score_out_of_range"].example


def test_check_never_shows_a_prompt(tmp_path: Path) -> None:
    """No finding and no error holds a prompt's text."""
    secret = "The launch code is tangerine"
    rows = [*GOOD, outcome_row(secret, score=None), outcome_row(secret + "!", score=4)]
    report = _from_rows(tmp_path, rows)
    with pytest.raises(TrainingError) as caught:
        report.raise_if_refused()
    assert "tangerine" not in str(report.to_json()) + caught.value.message
    assert caught.value.code in report.codes("refused")


def test_check_of_blank_prompts_in_a_matrix_is_refused() -> None:
    """A matrix that did not come from files is checked as well."""
    matrix = _sound()
    matrix.prompts[5] = " "
    finding = _only(check_outcomes(matrix), "empty_prompts")
    assert (finding.severity, finding.count, finding.example) == ("refused", 1, "prompt 6 (first)")


def test_check_of_wild_scores_in_a_matrix_is_refused() -> None:
    """Scores outside 0 to 1 in a matrix are refused with prompt number and arm."""
    matrix = _sound()
    matrix.score[3, 1] = 2.0
    finding = _only(check_outcomes(matrix), "score_out_of_range")
    assert (finding.severity, finding.example) == ("refused", "prompt 4 (first), arm arm1: 2")


def test_check_of_unscored_prompts_in_a_matrix_is_refused() -> None:
    """A prompt without any score is named."""
    matrix = _sound()
    matrix.score[0] = np.nan
    assert _only(check_outcomes(matrix), "unscored_rows").count == 1


@pytest.mark.parametrize(("known", "severity", "count"), [(("arm0", "other"), "warned", 2), (("other",), "refused", 3)])
def test_check_of_unknown_arms_refuses_only_when_none_is_known(
    known: tuple[str, ...], severity: str, count: int
) -> None:
    """Some unknown arms are a warning; outcomes of nothing but unknown arms are refused."""
    finding = _only(check_outcomes(_sound(), known_arms=known), "unknown_arms")
    assert (finding.severity, finding.count) == (severity, count)


def test_check_of_one_arm_log_is_refused_without_propensity() -> None:
    """A log in which each question was answered by one arm cannot tell arms apart, unless it can be weighted."""
    matrix = _sound()
    kept = np.arange(200) % 3
    for row, column in enumerate(kept):
        matrix.score[row, [c for c in range(3) if c != column]] = np.nan
    finding = _only(check_outcomes(matrix), "one_arm_log")
    assert (finding.severity, finding.count) == ("refused", 200)
    assert _only(check_outcomes(matrix, has_propensity=True), "one_arm_log").severity == "warned"


def test_check_of_one_arm_log_joins_repeated_questions() -> None:
    """The same question asked of two arms in two rows of a log is not a one-arm question."""
    matrix = replace(_sound(), groups=np.arange(200, dtype=np.int64) // 2)
    for row in range(200):
        matrix.score[row, [c for c in range(3) if c != row % 2]] = np.nan
    assert check_outcomes(matrix).codes() == ()


def test_check_of_constant_scores_warns_for_an_arm_and_refuses_all() -> None:
    """One arm with a single score is a warning; a single score everywhere leaves nothing to learn."""
    matrix = _sound()
    matrix.score[:, 2] = 1.0
    finding = _only(check_outcomes(matrix), "constant_scores")
    assert (finding.severity, finding.count, finding.example) == ("warned", 1, "arm arm2: all 200 scores are 1")
    matrix.score[:] = 0.0
    assert _only(check_outcomes(matrix), "constant_scores").severity == "refused"


def test_check_of_too_few_prompts_refuses_when_no_family_is_left() -> None:
    """A family that needs more is passed over with a warning; when every family does, the fit is refused."""
    few = _sound(40)
    warned = _only(check_outcomes(few, minimum_questions={"knn": 150, "constant": 10}), "too_few_prompts")
    assert (warned.severity, warned.count, warned.example) == ("warned", 40, "knn needs 150")
    assert _only(check_outcomes(few, minimum_questions={"knn": 150}), "too_few_prompts").severity == "refused"


def test_check_of_too_few_prompts_counts_questions_and_not_rows() -> None:
    """The same question in many rows is one question."""
    matrix = replace(_sound(), groups=np.zeros(200, dtype=np.int64))
    assert _only(check_outcomes(matrix, minimum_questions={"knn": 150}), "too_few_prompts").count == 1


def test_check_of_leaking_groups_recognises_a_question_in_other_dress() -> None:
    """A question that both sets ask, in whatever form, is refused with its two places."""
    test_set = _sound(3)
    test_set.prompts[:] = [
        "Why is the sky blue?",
        "question: what is the number that comes after 7 in the list ?",
        "How?",
    ]
    finding = _only(check_outcomes(_sound(), against=test_set), "leaking_groups")
    assert (finding.severity, finding.count) == ("refused", 1)
    assert finding.example == "prompt 8 (first) and prompt 2 (second)"


def test_check_of_several_languages_warns_with_shares() -> None:
    """Prompts in another language than the encoder's are a warning with their share; a few in a thousand are not."""
    matrix = _sound()
    matrix.prompts[:20] = [f"Почему число {n} стоит в этом списке?" for n in range(20)]
    report = check_outcomes(matrix)
    finding = _only(report, "several_languages")
    assert (finding.severity, finding.count, "cyrillic 10.0%" in finding.message) == ("warned", 20, True)
    assert report.languages == {"en": 0.9, "cyrillic": 0.1}
    assert check_outcomes(matrix, encoder_languages=frozenset({"en", "cyrillic"})).codes() == ()
    matrix.prompts[1:20] = _sound().prompts[1:20]
    assert check_outcomes(matrix).codes() == ()


def test_check_of_encoder_mismatch_is_refused_with_both_ids() -> None:
    """Vectors of another encoder are meaningless to a graph."""
    finding = _only(check_outcomes(_sound(), encoder_ids=("static-1", "mini-2")), "encoder_mismatch")
    assert (finding.severity, finding.example) == ("refused", "made with static-1, in use mini-2")
    assert check_outcomes(_sound(), encoder_ids=("static-1", "static-1")).codes() == ()


def test_report_lists_refused_findings_first() -> None:
    """What stops a fit stands above what only warns."""
    matrix = _sound()
    matrix.score[:, 2] = 1.0
    report = check_outcomes(matrix, encoder_ids=("a", "b"))
    assert report.codes() == ("encoder_mismatch", "constant_scores")
    assert report.codes("warned") == ("constant_scores",)
