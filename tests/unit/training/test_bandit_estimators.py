"""Estimates from weighted log rows: formulas, intervals, and what each estimator is worth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from penstock_training.bandit.estimators import (
    WeightedRows,
    clip_weights,
    difference,
    effective_sample_size,
    estimate,
    student_quantile,
)
from penstock_training.intervals import group_weights
from support.logged_samples import LoggedSample, logged_sample


def _rows(sample: LoggedSample, model: float | np.ndarray | None = None) -> WeightedRows:
    logged, target = sample.logged, sample.router()
    weight = target.weights(logged)
    if model is None:
        return WeightedRows(weight, logged.score, logged.groups)
    mean = np.broadcast_to(np.asarray(model, dtype=np.float64), sample.mean.shape)
    assert target.probability is not None
    expected = (target.probability * mean).sum(axis=1)
    served = mean[np.arange(len(logged)), logged.arm]
    return WeightedRows(weight, logged.score, logged.groups, expected, served)


def test_estimate_worked_example_gives_the_formulas_by_hand() -> None:
    """Four rows, worked out on paper."""
    rows = WeightedRows(
        weight=np.array([2.0, 0.0, 1.0, 1.0]),
        outcome=np.array([1.0, np.nan, 0.0, 1.0]),
        groups=np.arange(4),
        expected=np.array([0.5, 0.5, 0.25, 0.75]),
        expected_served=np.array([0.5, np.nan, 0.25, 0.75]),
    )
    found = {name: entry.value for name, entry in estimate(rows).items()}
    assert found == pytest.approx({"ips": 0.75, "snips": 0.75, "dm": 0.5, "dr": 0.75, "sndr": 0.75})
    assert effective_sample_size(rows.weight) == pytest.approx(16 / 6)


def test_estimate_model_of_zero_turns_doubly_robust_into_inverse_propensity() -> None:
    """A model that expects nothing corrects nothing: dr is ips and sndr is snips, intervals included."""
    found = estimate(_rows(logged_sample(), 0.0))
    for robust, plain in (("dr", "ips"), ("sndr", "snips")):
        one, other = found[robust], found[plain]
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=1e-12)


def test_estimate_weights_of_zero_turn_doubly_robust_into_the_direct_method() -> None:
    """Where nothing was observed, the model alone speaks, and ratios are not given."""
    rows = _rows(logged_sample(), 0.4)
    found = estimate(WeightedRows(np.zeros(2000), rows.outcome, rows.groups, rows.expected, rows.expected_served))
    assert found["dr"].value == pytest.approx(found["dm"].value)
    assert set(found) == {"ips", "dm", "dr"}


def test_estimate_self_normalised_ignores_a_constant_error_of_the_model() -> None:
    """A model that is wrong by the same amount everywhere changes sndr not at all, and dr it does."""
    sample = logged_sample()
    right, wrong = estimate(_rows(sample, sample.mean)), estimate(_rows(sample, sample.mean + 0.3))
    assert wrong["sndr"].value == pytest.approx(right["sndr"].value, abs=1e-12)
    assert abs(wrong["dr"].value - right["dr"].value) > 1e-4
    assert wrong["dm"].value == pytest.approx(right["dm"].value + 0.3)


def test_estimate_over_many_logs_is_unbiased_and_covers() -> None:
    """Over 400 logs mean errors are within three Monte Carlo errors of 0, intervals cover 92 to 98 %, model or not."""
    errors: dict[str, list[float]] = {}
    covered: dict[str, list[bool]] = {}
    for seed in range(400):
        sample = logged_sample(seed, rows=1000)
        truth = sample.router_truth()
        for name, found in estimate(_rows(sample, 0.3 + 0.5 * sample.mean)).items():
            errors.setdefault(name, []).append(found.value - truth)
            covered.setdefault(name, []).append(found.low <= truth <= found.high)
    for name in ("ips", "snips", "dr", "sndr"):
        spread = np.std(errors[name]) / math.sqrt(400)
        assert abs(np.mean(errors[name])) < 3 * spread, name
        # 400 logs: the share itself has a standard error of 1.1 points.
        assert 0.92 <= np.mean(covered[name]) <= 0.98, name
    rmse = {name: float(np.sqrt(np.mean(np.square(values)))) for name, values in errors.items()}
    assert rmse["sndr"] < rmse["ips"]
    assert rmse["sndr"] < rmse["dm"]


@pytest.mark.parametrize("is_grouped", [False, True])
def test_estimate_delta_method_agrees_with_the_bootstrap(is_grouped: bool) -> None:
    """Standard errors are those of a bootstrap over groups, within 6 % (1,000 draws have an error of 2.2 %)."""
    sample = logged_sample(3, rows=3000)
    rows = _rows(sample, 0.2 + 0.5 * sample.mean)
    assert rows.expected is not None
    assert rows.expected_served is not None
    groups = np.arange(3000) // 3 if is_grouped else rows.groups
    if is_grouped:  # rows of a question answered alike: what makes clustering matter
        rows = WeightedRows(
            *(np.repeat(v[::3], 3) for v in (rows.weight, rows.outcome)),
            groups,
            *(np.repeat(v[::3], 3) for v in (rows.expected, rows.expected_served)),
        )
    assert rows.expected is not None
    residual = rows.outcome - rows.expected_served
    columns = np.stack([rows.weight * rows.outcome, rows.weight, rows.expected, rows.weight * residual], axis=1)
    sums = np.stack([np.bincount(groups, weights=column) for column in columns.T], axis=1)
    counts = np.bincount(groups)
    drawn = np.concatenate([w @ np.column_stack([sums, counts]) for w in group_weights(counts.size, 1000, 1)])
    wr, w, d, we, n = drawn.T
    expected = {"ips": wr / n, "snips": wr / w, "dm": d / n, "dr": (d + we) / n, "sndr": d / n + we / w}
    found = estimate(rows)
    for name, draws in expected.items():
        assert found[name].standard_error == pytest.approx(draws.std(), rel=0.06), name
    if is_grouped:
        ungrouped = estimate(WeightedRows(rows.weight, rows.outcome, np.arange(3000)))
        assert found["snips"].standard_error > 1.5 * ungrouped["snips"].standard_error


def test_difference_of_a_policy_to_itself_is_exactly_nothing() -> None:
    """What two estimates share cancels, in the interval too."""
    found = estimate(_rows(logged_sample()))["snips"]
    same = difference(found, found)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_difference_of_policies_that_overlap_is_narrower_than_of_independent_ones() -> None:
    """A policy near the logging policy is compared on the same rows, so the interval shrinks."""
    logged = logged_sample(rows=4000).logged
    plain = estimate(WeightedRows(np.ones(4000), logged.score, logged.groups), ["snips"])["snips"]
    near = estimate(WeightedRows(1.0 + 0.2 * (logged.arm == 2), logged.score, logged.groups), ["snips"])["snips"]
    paired = difference(near, plain)
    assert paired.standard_error < 0.3 * math.hypot(near.standard_error, plain.standard_error)


@pytest.mark.parametrize(
    ("degrees", "exact"), [(4, 2.7764), (10, 2.2281), (30, 2.0423), (200, 1.9719), (math.inf, 1.95996)]
)
def test_student_quantile_known_values_are_met(degrees: float, exact: float) -> None:
    """The 97.5 % quantiles of printed tables, to 0.5 %, which is what the series promises."""
    assert student_quantile(0.975, degrees) == pytest.approx(exact, rel=0.005)


def test_clip_weights_cut_share_is_reported() -> None:
    """Cutting says how much of the weight it took, so that its bias can be bounded."""
    clipped, lost = clip_weights(np.array([1.0, 1.0, 8.0]), 3.0)
    assert clipped.tolist() == [1.0, 1.0, 3.0]
    assert lost == pytest.approx(0.5)
    assert clip_weights(np.array([1.0, 8.0]), math.inf)[1] == 0.0
