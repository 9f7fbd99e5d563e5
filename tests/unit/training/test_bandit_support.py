"""Support: which policies a log cannot tell about, and what the refusal says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from penstock_training.bandit.evaluation import evaluate_logged
from penstock_training.bandit.logged import LoggedOutcomes
from penstock_training.bandit.support import ROWS_MIN, SupportReport, check_support
from penstock_training.bandit.target import TargetPolicy, chosen_target, constant_target, logging_target
from penstock_training.errors import TrainingError
from support.logged_samples import ARMS, logged_sample


def _check(logged: LoggedOutcomes, target: TargetPolicy) -> SupportReport:
    return check_support(logged, target, target.weights(logged))


def _gaps(report: SupportReport) -> dict[str, str]:
    return {entry.arm: entry.gap for entry in report.arms if entry.gap}


def test_support_of_an_explored_log_is_complete_for_every_policy() -> None:
    """With exploration every arm had a chance everywhere: nothing is refused and mean weights are near 1."""
    sample = logged_sample()
    for target in (sample.router(), logging_target(), *(constant_target(sample.logged, arm) for arm in ARMS)):
        report = _check(sample.logged, target)
        assert report.is_supported
        # 2,000 rows with weights of 10 on a tenth: a standard error of .07.
        assert report.mean_weight == pytest.approx(1.0, abs=0.21)


def test_support_of_an_arm_without_rows_is_refused_with_its_share() -> None:
    """An arm that was never logged is named, with the policy's mass on it and what to do."""
    sample = logged_sample()
    logged = sample.logged.rows(np.flatnonzero(sample.logged.arm != 2))
    report = _check(logged, constant_target(logged, "dear"))
    assert _gaps(report) == {"dear": "never_logged"}
    assert report.unsupported == 1.0
    error = report.refusal()
    assert error.code == "no_support"
    for part in ("'always dear'", "100.0 % of prompts", "never chosen in the log", "turn on exploration"):
        assert part in error.message


def test_support_of_a_few_matching_rows_is_refused() -> None:
    """Nineteen rows are not enough to speak for an arm, twenty are."""
    logged = logged_sample().logged
    dear = np.flatnonzero(logged.arm == 2)
    others = np.flatnonzero(logged.arm != 2)
    for count, gaps in ((ROWS_MIN - 1, {"dear": "too_few_rows"}), (ROWS_MIN, {})):
        few = logged.rows(np.concatenate([others, dear[:count]]))
        few = replace(few, propensity=np.where(few.arm == 2, count / len(few), few.propensity))
        assert _gaps(_check(few, constant_target(few, "dear"))) == gaps


def test_support_of_a_log_without_exploration_is_refused_where_the_target_differs() -> None:
    """A deterministic log shows each arm on its own prompts only, whatever the number of rows."""
    sample = logged_sample()
    arm = np.where(sample.is_hard == 1, 2, 0)
    logged = replace(sample.logged, arm=arm, propensity=np.ones(len(arm)))
    report = _check(logged, constant_target(logged, "cheap"))
    assert _gaps(report) == {"cheap": "other_arm_certain"}
    assert report.unsupported == pytest.approx(float((sample.is_hard == 1).mean()))
    assert _check(logged, sample.router()).is_supported


def test_support_hidden_in_the_propensities_is_found_by_their_mean() -> None:
    """Hard prompts where the dear arm was never drawn, though no propensity is 1: its weights sum to too little."""
    sample = logged_sample(rows=6000)
    is_kept = (sample.is_hard == 0) | (sample.logged.arm != 2)
    logged = sample.logged.rows(np.flatnonzero(is_kept))
    report = _check(logged, constant_target(logged, "dear"))
    assert _gaps(report) == {"dear": "weights_short"}
    assert report.unsupported == pytest.approx(0.5, abs=0.1)  # half of the prompts are hard; .04 standard error


def test_support_of_a_share_below_one_percent_is_a_warning() -> None:
    """What moves a mean by less than a point is said, not refused."""
    sample = logged_sample()
    logged = sample.logged.rows(np.flatnonzero(sample.logged.arm != 2))
    chosen = np.ones(len(logged), dtype=np.int64)
    chosen[:10] = 2
    report = _check(logged, chosen_target("nearly middle", chosen, len(ARMS)))
    assert report.is_supported
    assert any("no row stands for dear" in warning for warning in report.warnings)


def test_support_with_propensities_that_are_too_small_is_warned_about() -> None:
    """A mean weight far above 1 shows that the logged propensities are not those that were used."""
    logged = logged_sample().logged
    halved = replace(logged, propensity=logged.propensity / 2.0)
    (warning,) = _check(halved, constant_target(halved, "middle")).warnings
    assert "propensities are too small" in warning


def test_evaluate_logged_required_policy_without_support_is_refused_and_others_are_set_apart() -> None:
    """A fixed arm that cannot be judged does not spoil the report; the policy that was asked about does."""
    logged = logged_sample().logged
    logged = logged.rows(np.flatnonzero(logged.arm != 2))
    targets = [logging_target(), *(constant_target(logged, arm) for arm in ARMS)]
    report = evaluate_logged(logged, targets)
    assert [policy.name for policy in report.policies] == ["as logged", "always cheap", "always middle"]
    assert [support.policy for support in report.unsupported] == ["always dear"]
    with pytest.raises(TrainingError) as refused:
        evaluate_logged(logged, targets, required=["always dear"])
    assert refused.value.code == "no_support"
