"""From outcome rows to decisions that may be weighted: what is left out, what time-outs count for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock_training.bandit.evaluation import evaluate_logged
from penstock_training.bandit.logged import LoggedOutcomes, observe
from penstock_training.bandit.rewards import crossfit_rewards
from penstock_training.bandit.target import constant_target, logging_target
from penstock_training.errors import OutcomeError, TrainingError
from penstock_training.outcomes import OutcomeTable, load_outcomes
from support.logged_samples import ARMS, logged_sample
from support.outcome_samples import outcome_row, write_json_lines


def _table(tmp_path: Path, *changes: dict[str, Any]) -> OutcomeTable:
    rows = [outcome_row(f"Question {i}?", query_id=f"q{i}", **change) for i, change in enumerate(changes)]
    return load_outcomes([write_json_lines(tmp_path / "log.jsonl", rows)])


def test_logged_outcomes_rerouted_and_unweighted_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    """A row that a fallback answered is not the drawn arm's, and one without a propensity cannot be weighted."""
    table = _table(
        tmp_path,
        {"arm": "a", "intended_arm": "a"},
        {"arm": "b", "intended_arm": "a"},
        {"arm": "b", "intended_arm": "gone"},
        {"arm": "b", "propensity": None},
        {"arm": "b", "intended_arm": None},
    )
    logged = LoggedOutcomes.from_table(table)
    assert [logged.arms[arm] for arm in logged.arm] == ["a", "b"]
    assert logged.prompts == ["Question 0?", "Question 4?"]
    assert (logged.counts.rows, logged.counts.without_propensity) == (5, 1)
    assert logged.counts.rerouted == {"a": 1, "gone": 1}
    warnings = " ".join(evaluate_logged(logged, [logging_target()]).warnings)
    assert "1 of 5 rows have no propensity" in warnings
    assert "(a 1, gone 1)" in warnings
    assert "flatter arms that fail" in warnings


def test_logged_outcomes_arms_named_first_keep_their_place(tmp_path: Path) -> None:
    """An artifact's arms come in its order, seen or not; the log's other arms follow."""
    logged = LoggedOutcomes.from_table(_table(tmp_path, {"arm": "a"}, {"arm": "b"}), ["unseen", "b"])
    assert logged.arms == ("unseen", "b", "a")
    assert logged.rows_per_arm.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ([{"propensity": None}, {"arm": "b", "propensity": None}], "no_propensity", "2 have no propensity"),
        ([{"arm": "b", "intended_arm": "a"}], "no_propensity", "1 were answered by another arm"),
        ([{"arm": "a"}, {"arm": "a"}, {"arm": "a"}], "one_arm_log", "one-arm logs: all 3 rows show the arm 'a'"),
    ],
)
def test_logged_outcomes_that_say_nothing_are_refused(
    tmp_path: Path, changes: list[dict[str, Any]], code: str, message: str
) -> None:
    """A log without propensities, or of one arm, is refused with the count and what it shows."""
    with pytest.raises(TrainingError) as refused:
        LoggedOutcomes.from_table(_table(tmp_path, *changes))
    assert refused.value.code == code
    assert message in refused.value.message


@pytest.mark.parametrize("flag", [True, 1])
def test_outcomes_time_out_without_a_score_is_read_and_counts_as_zero(tmp_path: Path, flag: object) -> None:
    """A censored row may lack its score; in the matrix it is 0, because no answer came."""
    table = _table(tmp_path, {"arm": "a"}, {"arm": "b", "score": None, "is_censored": flag})
    assert table.is_censored.tolist() == [False, True]
    assert np.isnan(table.number["score"][1])
    assert table.matrix().score[1].tolist()[1] == 0.0


def test_outcomes_parquet_flags_are_read_as_booleans(tmp_path: Path) -> None:
    """A boolean Parquet column of time-outs is the same as true and false in JSON."""
    rows = [outcome_row("One?", is_censored=False), outcome_row("Two?", "b", score=None, is_censored=True)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    assert load_outcomes([tmp_path / "log.parquet"]).is_censored.tolist() == [False, True]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"is_censored": 2}, "not_a_flag"),
        ({"is_censored": "yes"}, "wrong_type"),
        ({"score": None, "is_censored": False}, "missing_value"),
        ({"score": None}, "missing_value"),
    ],
)
def test_outcomes_flag_that_is_none_is_refused(tmp_path: Path, change: dict[str, Any], kind: str) -> None:
    """Only 0, 1, true and false are flags, and only a time-out excuses a missing score."""
    with pytest.raises(OutcomeError) as refused:
        _table(tmp_path, change)
    assert kind in refused.value.message


def test_matrix_propensity_is_placed_sliced_and_part_of_the_digest(tmp_path: Path) -> None:
    """Propensities go with their cells; without any there is no such matrix and digests stay what they were."""
    table = _table(tmp_path, {"arm": "a"}, {"arm": "b", "propensity": 0.25}, {"arm": "b", "intended_arm": "a"})
    matrix = table.matrix()
    assert matrix.propensity is not None
    assert np.nan_to_num(matrix.propensity, nan=-1.0).tolist() == [[0.5, -1.0], [-1.0, 0.25], [-1.0, 0.0]]
    taken = matrix.rows(np.array([1])).propensity
    assert taken is not None
    assert taken[0, 1] == 0.25
    plain = _table(tmp_path, {"arm": "a", "propensity": ...}, {"arm": "b", "propensity": ...}).matrix()
    assert plain.propensity is None
    assert plain.rows(np.array([0])).propensity is None
    assert matrix.digest != replace(matrix, propensity=None).digest


def test_observe_bounds_enclose_the_other_rules_and_the_truth() -> None:
    """What time-outs would have scored is unknown, so worst and best differ by their weight and enclose the rest."""
    sample = logged_sample(rows=4000)
    random = np.random.default_rng(1)
    censored = (sample.logged.arm == 2) & (random.random(4000) < 0.2)
    logged = replace(sample.logged, is_censored=censored, score=np.where(censored, np.nan, sample.logged.score))
    value = {}
    for rule in ("zero", "ipcw", "bounds"):
        always = evaluate_logged(logged, [constant_target(logged, "dear")], censored=rule).policies[0]
        value[rule] = [entry.value for entry in always.score]
    worst, best = value["bounds"]
    assert value["zero"] == [worst, worst]
    assert worst < value["ipcw"][0] < best
    share = censored.sum() / (logged.arm == 2).sum()  # the arm's weights are equal: bounds differ by their share
    assert best - worst == pytest.approx(share)
    # Censored at random, so the answered rows stand for the rest: within three standard errors of .85.
    assert value["ipcw"][0] == pytest.approx(0.85, abs=0.06)


def test_observe_bounds_of_a_difference_enclose_every_filling() -> None:
    """Whatever each time-out would have scored, the difference to the log lies between its bounds."""
    sample = logged_sample(rows=1000)
    random = np.random.default_rng(3)
    censored = random.random(1000) < 0.3
    hidden = np.where(censored, np.nan, sample.logged.score)
    logged = replace(sample.logged, is_censored=censored, score=hidden)
    worst, best = (
        found.value
        for found in evaluate_logged(logged, [sample.router()], censored="bounds").policies[0].over_log.values()
    )
    fillings = [np.zeros(1000), np.ones(1000), *(random.random((20, 1000)).round())]
    for filled in fillings:
        known = replace(logged, score=np.where(censored, filled, hidden))
        (over,) = evaluate_logged(known, [sample.router()]).policies[0].over_log.values()
        assert worst <= over.value <= best


def test_observe_ipcw_uses_the_prompt_length_that_time_outs_depend_on() -> None:
    """Long prompts time out and score worse: weights by length undo it, an arm's overall rate alone would not."""
    sample = logged_sample(rows=9000)
    is_hard = sample.is_hard == 1
    prompts = ["long " * 50 if hard else "short" for hard in is_hard]
    censored = is_hard & (np.random.default_rng(2).random(9000) < 0.7) & (sample.logged.arm == 1)
    logged = replace(
        sample.logged, prompts=prompts, is_censored=censored, score=np.where(censored, np.nan, sample.logged.score)
    )
    corrected = evaluate_logged(logged, [constant_target(logged, "middle")], censored="ipcw").policies[0].score[0]
    assert corrected.low <= 0.7 <= corrected.high  # the mean of .9 on easy and .5 on hard prompts
    naive = float(logged.score[(logged.arm == 1) & ~censored].mean())
    assert naive > corrected.high


def test_observe_ipcw_of_an_arm_with_time_outs_only_is_refused() -> None:
    """Where no row was answered, none can stand for the others."""
    sample = logged_sample()
    logged = replace(sample.logged, is_censored=sample.logged.arm == 2)
    with pytest.raises(TrainingError) as refused:
        observe(logged, "ipcw")
    assert refused.value.code == "all_censored"


def test_logged_difference_and_cost_are_those_of_the_target() -> None:
    """A fixed arm's cost is its own, and the difference to the log comes with a paired interval that covers it."""
    sample = logged_sample(rows=4000)
    report = evaluate_logged(sample.logged, [logging_target(), sample.router()], rewards=sample.mean)
    log, routed = report.policies
    assert log.over_log == {}
    assert routed.recommended == "sndr"
    assert routed.cost_usd is not None
    assert routed.cost_usd.low <= (1e-4 + 1e-2) / 2 <= routed.cost_usd.high
    truth = sample.router_truth() - float((sample.logging * sample.mean).sum(axis=1).mean())
    (over,) = routed.over_log.values()
    assert over.low <= truth <= over.high
    assert over.value == pytest.approx(routed.score[0].value - log.score[0].value)


def test_logged_cost_unknown_in_every_row_is_not_made_up() -> None:
    """Without a logged cost there is no cost estimate."""
    logged = logged_sample(cost_usd=np.full(2000, np.nan)).logged
    (policy,) = evaluate_logged(logged, [constant_target(logged, "dear")]).policies
    assert policy.cost_usd is None
    assert evaluate_logged(logged, [logging_target()]).to_json()["policies"][0]["cost_usd"] is None


def test_logged_reward_model_without_a_chosen_arm_is_not_used() -> None:
    """A model that does not know an arm cannot speak for a policy that chooses it; others keep it."""
    sample = logged_sample()
    rewards = sample.mean.copy()
    rewards[:, 2] = np.nan
    targets = [constant_target(sample.logged, arm) for arm in ARMS]
    found = evaluate_logged(sample.logged, targets, rewards=rewards).policies
    assert [policy.recommended for policy in found] == ["sndr", "sndr", "snips"]


def test_crossfit_rewards_prediction_of_a_group_ignores_its_own_outcomes() -> None:
    """Turning a question's outcomes around leaves its own predictions as they were, and changes others'."""
    logged = replace(logged_sample(rows=400).logged, groups=np.arange(400) // 2)
    vectors = np.random.default_rng(0).normal(size=(400, 4))
    changed = logged.score.copy()
    changed[:2] = 1.0 - changed[:2]
    one, other = (crossfit_rewards(vectors, logged, outcome, folds=2) for outcome in (logged.score, changed))
    assert one[:2].tolist() == other[:2].tolist()
    assert not np.allclose(one, other)


def test_crossfit_rewards_corrects_a_model_that_is_wrong() -> None:
    """Fitted on the log, the error of a model that is off by .3 goes down to sampling error."""
    sample = logged_sample(rows=4000)
    vectors = np.column_stack([sample.is_hard, 1 - sample.is_hard]).astype(np.float64)
    fitted = crossfit_rewards(vectors, sample.logged, sample.logged.score, base=np.full((4000, 3), 0.2))
    assert np.abs(fitted - sample.mean).mean() < 0.1
