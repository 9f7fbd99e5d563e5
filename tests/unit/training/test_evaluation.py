"""The evaluation: every number against a direct computation, and honest verdicts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from penstock_routers.policy import Tradeoff
from penstock_training.baselines import ArmMeans, hull_quality
from penstock_training.cli import main
from penstock_training.decisions import EstimateArrays, decide_rows
from penstock_training.errors import OutcomeError
from penstock_training.evaluation import COST_WEIGHTS, _verdicts, evaluate
from penstock_training.evaluation_report import EvaluationReport
from penstock_training.evaluation_text import count_text, render_plain
from penstock_training.intervals import Interval
from penstock_training.outcomes import load_outcomes
from penstock_training.router_under_test import evaluate_artifact
from support.outcome_samples import outcome_row, random_trial, write_json_lines

POINTS = (Tradeoff("quality", 0.0, 1.0), Tradeoff("balanced", 0.2, 1.0), Tradeoff("cost", 1.0, 1.0))
COST_SCALE_USD = 0.01


@cache
def _report(skill: float = 0.9, seed: int = 0, prompts: int = 1200) -> EvaluationReport:
    estimates, matrix = random_trial(seed, prompts, skill=skill)
    return evaluate(estimates, matrix, tradeoffs=POINTS, cost_scale_usd=COST_SCALE_USD, novelty_max=0.9, resamples=200)


def test_evaluate_operating_point_equals_a_direct_computation() -> None:
    """Quality, cost, shares and the distance to the hull are what the decisions give on the same prompts."""
    estimates, matrix = random_trial(0, 1200, skill=0.9)
    point = _report().point("balanced")
    chosen = decide_rows(estimates, POINTS[1], cost_scale_usd=COST_SCALE_USD, novelty_max=0.9).chosen
    rows = np.arange(1200)
    quality = float(matrix.score[rows, chosen].mean())
    cost = float(matrix.cost_usd[rows, chosen].astype(np.float64).mean())
    means = ArmMeans(matrix.score.mean(axis=0, dtype=np.float64), matrix.cost_usd.mean(axis=0, dtype=np.float64))
    assert point.quality.value == pytest.approx(quality)
    assert point.cost_usd.value == pytest.approx(cost)
    assert point.relative_cost.value == pytest.approx(cost / means.cost_usd[2])
    assert point.over_hull.value == pytest.approx(quality - hull_quality(means, cost))
    assert point.arm_shares["arm0"] == pytest.approx(float((chosen == 0).mean()))
    assert point.against_default.first_better == int((matrix.score[rows, chosen] > matrix.score[:, 2]).sum())


def test_evaluate_points_are_ordered_from_cheap_to_dear() -> None:
    """The report lists settings by their weight of cost, whatever the order of the call."""
    assert [point.name for point in _report().points] == ["cost", "balanced", "quality"]


def test_evaluate_knowing_estimates_beat_every_blind_baseline() -> None:
    """A router that knows which prompts are hard is surely better than any mixture at its cost."""
    report = _report()
    point = report.point("balanced")
    assert point.over_hull.low > 0
    assert point.over_price_only.low > 0
    assert point.over_same_shares.low > 0
    assert report.gap_recovered.low > 0.5
    assert "surely better" in " ".join(report.verdicts)


def test_evaluate_estimates_of_other_prompts_show_no_skill() -> None:
    """Shuffled estimates are the control: no sure gain over mixing, no ordering, and the report says so."""
    estimates, matrix = random_trial(4, 1200, skill=0.9)
    order = np.random.default_rng(0).permutation(1200)
    shuffled = estimates.take(order, estimates.arms)
    report = evaluate(shuffled, matrix, tradeoffs=POINTS, cost_scale_usd=COST_SCALE_USD, novelty_max=0.9, resamples=200)
    for point in report.points:
        assert point.over_hull.low <= 0
        assert abs(point.over_same_shares.value) < 0.03  # three standard errors at 1,200 prompts
    assert report.gap_recovered.low < 0.5 < report.gap_recovered.high
    assert report.verdicts[0].startswith("No evidence")


def test_evaluate_price_only_baseline_takes_what_lengths_alone_explain() -> None:
    """Where only the cost differs between prompts, calling dear arms on short ones beats the hull but not that rule."""
    generator = np.random.default_rng(5)
    estimates, matrix = random_trial(5, 2000, arms=2, skill=0.0)
    length = generator.lognormal(0.0, 1.2, size=(2000, 1))
    flat = np.tile(matrix.score.mean(axis=0, dtype=np.float64), (2000, 1))
    cost = np.array([[1e-4, 5e-3]]) * length
    router = replace(estimates, quality=flat, gain=flat - flat[:, [1]], gain_se=np.zeros((2000, 2)), cost_usd=cost)
    report = evaluate(
        router,
        replace(matrix, cost_usd=cost.astype(np.float32)),
        tradeoffs=[Tradeoff("balanced", 0.3, 0.0)],
        cost_scale_usd=5e-3,
        novelty_max=math.inf,
        resamples=200,
    )
    point = report.points[0]
    assert 0.1 < point.arm_shares["arm1"] < 0.95
    assert point.over_hull.low > 0
    assert point.over_price_only.low < 0 < point.over_price_only.high  # no knowledge that the other rule lacks
    assert abs(point.over_price_only.value) < 0.005  # the other rule is swept at other weights; mixtures fill the gaps


def test_evaluate_oracle_is_at_least_every_policy_and_marked_as_inflated() -> None:
    """Nothing beats reading the answers, and the report says that it is no goal."""
    report = _report()
    oracle = {baseline.name: baseline for baseline in report.baselines}["oracle"]
    assert oracle.quality.value >= max(p.quality.value for p in report.points)
    assert oracle.quality.value >= max(arm.quality.value for arm in report.arms)
    assert "luck" in oracle.note


def test_evaluate_gap_recovered_equals_the_metric_over_all_thresholds() -> None:
    """The closed form is the area of the call-share curve."""
    estimates, matrix = random_trial(0, 1200, skill=0.9)
    gain = estimates.gain[:, 2] - estimates.gain[:, 0]
    order = np.argsort(-gain)
    strong, weak = matrix.score[order, 2].astype(float), matrix.score[order, 0].astype(float)
    shares = np.arange(1201) / 1200
    quality = np.concatenate([[weak.mean()], weak.mean() + np.cumsum(strong - weak) / 1200])
    expected = np.trapezoid((quality - weak.mean()) / (strong.mean() - weak.mean()), shares)
    assert _report().gap_recovered.value == pytest.approx(expected, abs=1e-6)


def test_evaluate_novel_prompts_keep_the_default_arm_and_are_counted() -> None:
    """With a novelty bound below everything, the router is always-default."""
    estimates, matrix = random_trial(1, 300)
    report = evaluate(
        estimates, matrix, tradeoffs=POINTS, cost_scale_usd=COST_SCALE_USD, novelty_max=-1.0, resamples=50
    )
    for point in report.points:
        assert point.abstained_share == 1.0
        assert point.arm_shares["arm2"] == 1.0
        assert point.against_default.equal == 300


def test_evaluate_slices_partition_the_prompts_and_small_ones_are_merged() -> None:
    """Slices add up to everything; slices too small to say anything are put together at the end."""
    estimates, matrix = random_trial(2, 300)
    labels = ["maths"] * 200 + ["law"] * 60 + [f"odd{i % 8}" for i in range(40)]
    report = evaluate(
        estimates,
        replace(matrix, categories=labels),
        tradeoffs=POINTS,
        cost_scale_usd=COST_SCALE_USD,
        novelty_max=0.9,
        resamples=50,
    )
    parts = report.point("balanced").by_category
    assert [(part.name, part.prompts) for part in parts] == [("maths", 200), ("law", 60), ("8 smaller ones", 40)]
    mean = sum(part.quality * part.prompts for part in parts) / 300
    assert mean == pytest.approx(report.point("balanced").quality.value)
    assert [part.name for part in report.point("cost").by_source] == ["first", "second"]


def test_evaluate_few_categories_are_shown_singly_however_small() -> None:
    """Up to eight categories need no merging."""
    estimates, matrix = random_trial(2, 80)
    matrix = replace(matrix, categories=[f"kind{i % 8}" for i in range(80)])
    report = evaluate(estimates, matrix, tradeoffs=POINTS, cost_scale_usd=COST_SCALE_USD, novelty_max=0.9, resamples=50)
    parts = report.point("balanced").by_category
    assert [(part.name, part.prompts) for part in parts] == [(f"kind{i}", 10) for i in range(8)]


_SURE, _UNSURE, _NOTHING = Interval(0.1, 0.05, 0.15), Interval(0.55, 0.45, 0.65), Interval(0.0, -0.1, 0.1)


@pytest.mark.parametrize(
    ("ordering", "over_prices", "prompts", "sentence"),
    [
        (Interval(0.6, 0.55, 0.65), _SURE, 100, "the estimates surely know more"),
        (Interval(0.6, 0.55, 0.65), _SURE, 99, None),
        (_UNSURE, _SURE, 5000, None),
        (_UNSURE, _NOTHING, 5000, "the estimates do not surely know more"),
    ],
)
def test_verdicts_claim_knowledge_only_where_prompts_are_ordered_and_many(
    ordering: Interval, over_prices: Interval, prompts: int, sentence: str | None
) -> None:
    """Estimates that do not order prompts better than chance are never said to know them."""
    summary = replace(_report().unguarded_summary, path_over_price_only=over_prices)
    found = [verdict for verdict in _verdicts((), summary, ordering, prompts) if "know more" in verdict]
    assert len(found) == (sentence is not None)
    assert sentence is None or sentence in found[0]


def test_evaluate_missing_cells_are_left_out_and_counted() -> None:
    """Arms without outcomes and prompts without a complete row take no part; unknown costs are filled and counted."""
    estimates, matrix = random_trial(4, 300)
    score, cost = matrix.score.copy(), matrix.cost_usd.copy()
    score[:, 1] = np.nan
    score[:20, 0] = np.nan
    cost[100:110, 2] = np.nan
    report = evaluate(
        estimates,
        replace(matrix, score=score, cost_usd=cost),
        tradeoffs=POINTS,
        cost_scale_usd=COST_SCALE_USD,
        novelty_max=0.9,
        resamples=50,
    )
    assert report.arms_left_out == ("arm1",)
    assert (report.prompts, report.prompts_left_out) == (280, 20)
    assert report.cells_with_expected_cost == 10
    assert [arm.arm for arm in report.arms] == ["arm0", "arm2"]


def test_evaluate_unusable_outcomes_are_refused() -> None:
    """Two arms on common prompts and outcomes of the default arm are the least one can evaluate with."""
    estimates, matrix = random_trial(4, 60)
    without_default, disjoint = matrix.score.copy(), matrix.score.copy()
    without_default[:, 2] = np.nan
    disjoint[:30, 2] = np.nan
    disjoint[30:, :2] = np.nan
    for score, code in ((without_default, "outcome_arm_unknown"), (disjoint, "outcome_no_complete_row")):
        with pytest.raises(OutcomeError) as refused:
            evaluate(estimates, replace(matrix, score=score), tradeoffs=POINTS, cost_scale_usd=1.0, novelty_max=1.0)
        assert refused.value.code == code


def test_evaluate_bad_calls_are_refused() -> None:
    """Names of operating points are unique, and estimates and outcomes are about the same prompts."""
    estimates, matrix = random_trial(4, 60)
    with pytest.raises(ValueError, match="unique"):
        evaluate(estimates, matrix, tradeoffs=[POINTS[0], POINTS[0]], cost_scale_usd=1.0, novelty_max=1.0)
    with pytest.raises(ValueError, match="same prompts"):
        evaluate(estimates, matrix.rows(np.arange(50)), tradeoffs=POINTS, cost_scale_usd=1.0, novelty_max=1.0)


def test_evaluate_same_call_gives_the_same_report() -> None:
    """An evaluation repeats to the last digit."""
    estimates, matrix = random_trial(8, 200)
    reports = [
        evaluate(estimates, matrix, tradeoffs=POINTS, cost_scale_usd=0.01, novelty_max=0.9, resamples=50, seed=3)
        for _ in range(2)
    ]
    assert json.dumps(reports[0].to_json()) == json.dumps(reports[1].to_json())


def test_report_json_has_no_number_that_json_lacks() -> None:
    """Infinite weights of cost and undefined numbers are written so that any parser reads them."""
    text = json.dumps(_report().to_json(), allow_nan=False)
    assert json.loads(text)["curve"][-1]["cost_weight"] == "inf"


def test_report_unknown_point_is_a_key_error() -> None:
    """Only measured settings can be looked up."""
    with pytest.raises(KeyError):
        _report().point("turbo")


def test_render_plain_shows_every_point_and_baseline_without_control_characters() -> None:
    """What goes into a pipe is text."""
    text = render_plain(_report())
    for word in ("cost", "balanced", "quality", "always-cheapest", "always-best", "oracle", "prices only"):
        assert word in text
    assert all(character == "\n" or character.isprintable() for character in text)
    assert max(len(line) for line in text.splitlines()) <= 80


def test_count_text_takes_the_singular_for_one() -> None:
    """No report says "1 prompts"."""
    assert [count_text(n, "prompt") for n in (0, 1, 1200)] == ["0 prompts", "1 prompt", "1,200 prompts"]


def test_evaluate_calibration_of_true_probabilities_is_good() -> None:
    """Estimates that are the truth have a small calibration error and beat the constant mean's Brier score."""
    estimates, matrix = random_trial(6, 6000, skill=1.0)
    report = evaluate(estimates, matrix, tradeoffs=POINTS, cost_scale_usd=0.01, novelty_max=0.9, resamples=20)
    for arm in report.arms:
        assert arm.calibration_error < 0.03
        assert arm.brier < arm.brier_constant
        assert arm.predicted_cost_ratio == pytest.approx(1.0, abs=0.02)


def test_evaluate_best_arm_that_costs_nothing_is_refused() -> None:
    """Where the best arm is free there is nothing to save, and no cost to compare with."""
    estimates, matrix = random_trial(3, 200)
    free = matrix.cost_usd.copy()
    free[:, 2] = 0.0
    with pytest.raises(OutcomeError) as caught:
        evaluate(
            estimates,
            replace(matrix, cost_usd=free),
            tradeoffs=POINTS,
            cost_scale_usd=0.01,
            novelty_max=0.9,
            resamples=20,
        )
    assert caught.value.code == "outcome_best_arm_free"


def test_evaluate_samples_without_one_right_answer_leave_shares_finite() -> None:
    """Where right answers are so rare that a bootstrap sample has none, the interval goes without that sample."""
    estimates, matrix = random_trial(3, 60)
    score = np.zeros_like(matrix.score)
    score[7, 2] = 1.0
    report = evaluate(
        estimates,
        replace(matrix, score=score),
        tradeoffs=POINTS,
        cost_scale_usd=0.01,
        novelty_max=0.9,
        resamples=100,
    )
    share = report.point("quality").share_of_best
    assert np.isfinite([share.value, share.low, share.high]).all()


def test_evaluate_artifact_on_its_own_outcomes_uses_the_test_part_only(tmp_path: Path) -> None:
    """The files that a router was fitted on measure it by the prompts that were kept from it, and by no others."""
    rows = [
        outcome_row(
            f"Which number follows {i}?" if i % 2 else f"Prove lemma {i} about compact sets.",
            arm,
            source="own",
            score=float((i * 7 + k) % 3 > 0 if i % 2 else k),
            cost_usd=(0.0001, 0.001)[k],
        )
        for i in range(333)
        for k, arm in enumerate(("mini", "maxi"))
    ]
    outcomes, out = write_json_lines(tmp_path / "own.jsonl", rows), tmp_path / "router"
    fitted = CliRunner().invoke(main, ["fit", "--json", "--outcomes", str(outcomes), "--out", str(out)])
    assert fitted.exit_code == 0, fitted.output
    matrix = load_outcomes([outcomes]).matrix()
    report = evaluate_artifact(out, matrix, files_digest=matrix.digest, resamples=20)
    assert report.prompts == json.loads(fitted.stdout)["prompts"]["test"]
    assert report.name.startswith("test part")
    assert evaluate_artifact(out, matrix, resamples=20).prompts == 333


def test_evaluate_command_missing_artifact_is_a_short_message(tmp_path: Path) -> None:
    """A wrong folder is one line and exit status 1, without a traceback."""
    outcomes = write_json_lines(tmp_path / "a.jsonl", [outcome_row(), outcome_row(arm="large")])
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path / "nothing"), "--outcomes", str(outcomes)])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "Traceback" not in result.output


def test_evaluate_command_bad_rows_are_shown_and_refused(tmp_path: Path) -> None:
    """The counts and the first bad rows reach the person at the terminal."""
    outcomes = write_json_lines(tmp_path / "a.jsonl", [outcome_row(), outcome_row(arm="large", score=4)])
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path), "--outcomes", str(outcomes)])
    assert result.exit_code == 1
    assert "score_out_of_range" in result.output
    assert "a.jsonl row 2" in result.output


def test_estimate_arrays_of_a_report_are_not_changed() -> None:
    """Evaluating leaves its inputs as they are."""
    estimates, matrix = random_trial(9, 100)
    before = EstimateArrays(
        estimates.arms,
        estimates.reference_arm,
        estimates.quality.copy(),
        estimates.gain.copy(),
        estimates.gain_se.copy(),
        estimates.novelty.copy(),
        estimates.cost_usd.copy(),
    )
    score = matrix.score.copy()
    evaluate(estimates, matrix, tradeoffs=POINTS, cost_scale_usd=0.01, novelty_max=0.9, resamples=20)
    np.testing.assert_array_equal(before.gain, estimates.gain)
    np.testing.assert_array_equal(before.cost_usd, estimates.cost_usd)
    np.testing.assert_array_equal(score, matrix.score)


def test_evaluate_budgets_and_oracle_measures_equal_a_direct_computation() -> None:
    """Quality at a share of the best arm's cost, optimal choices and the gap to the oracle, each by hand."""
    estimates, matrix = random_trial(0, 1200, skill=0.9)
    report = _report()
    score, cost = matrix.score.astype(np.float64), matrix.cost_usd.astype(np.float64)
    rows = np.arange(1200)
    affordable = [score[:, 0].mean()]
    for weight in COST_WEIGHTS:
        chosen = decide_rows(
            estimates, Tradeoff("sweep", weight, 1.0), cost_scale_usd=COST_SCALE_USD, novelty_max=0.9
        ).chosen
        if cost[rows, chosen].mean() <= 0.5 * cost[:, 2].mean():
            affordable.append(score[rows, chosen].mean())
    assert report.summary.quality_at_50.value == pytest.approx(max(affordable))
    chosen = decide_rows(estimates, POINTS[1], cost_scale_usd=COST_SCALE_USD, novelty_max=0.9).chosen
    has_answer = score.max(axis=1) > 0
    cheapest_right = np.argmax(score, axis=1)  # arms rise in price, and argmax takes the first
    point = report.point("balanced")
    assert point.optimal_selection.value == pytest.approx((chosen == cheapest_right)[has_answer].mean())
    oracle = score.max(axis=1).mean()
    assert point.oracle_gap.value == pytest.approx((oracle - score[rows, chosen].mean()) / oracle)
    assert point.non_inferiority.difference == pytest.approx(score[rows, chosen].mean() - score[:, 2].mean())
    assert point.non_inferiority.rerouted == int((chosen != 2).sum())


def test_evaluate_calibration_interval_holds_the_error_it_belongs_to() -> None:
    """The interval's value is the calibration error itself, and the Brier score's interval holds the score."""
    for arm in _report().arms:
        assert arm.calibration_interval.value == pytest.approx(arm.calibration_error)
        assert arm.brier_interval.value == pytest.approx(arm.brier)
        assert arm.brier_interval.low < arm.brier < arm.brier_interval.high
