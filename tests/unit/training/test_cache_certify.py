"""Certified thresholds: the bound's values, the walk along the thresholds, and how often a certificate is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_training.cache_rule.certify import DELTA, Certificate, certify, upper_bound

LADDER = np.array([0.95, 0.9, 0.8, 0.7, 0.6])


def walk(
    hits: list[int], errors: list[int], requests: int = 10_000, budget: float = 0.01, **more: float
) -> Certificate:
    """Certify along the ladder."""
    return certify(LADDER, requests, np.array(hits), np.array(errors), budget=budget, **more)


def binomial_tail(errors: int, trials: int, rate: float) -> float:
    """Return P(at most so many errors), summed term by term."""
    return sum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(errors + 1))


@pytest.mark.parametrize(
    ("errors", "trials", "delta", "expected"),
    [
        # Zero errors have a closed form, 1 − δ^(1/n).
        (0, 1, 0.05, 0.95),
        (0, 299, 0.05, 1 - 0.05 ** (1 / 299)),
        (0, 1000, 0.01, 1 - 0.01 ** (1 / 1000)),
        # All errors but one: the bound solves 1 − p^n = δ.
        (9, 10, 0.05, 0.95 ** (1 / 10)),
        # No evidence, or nothing but errors.
        (0, 0, 0.05, 1.0),
        (10, 10, 0.05, 1.0),
    ],
)
def test_upper_bound_has_the_values_of_its_closed_forms(
    errors: int, trials: int, delta: float, expected: float
) -> None:
    """Where Clopper and Pearson's bound can be written down, it is that."""
    assert upper_bound(errors, trials, delta) == pytest.approx(expected, abs=1e-9)  # the quantile's own accuracy


@pytest.mark.parametrize(("errors", "trials"), [(1, 100), (3, 500), (7, 40), (20, 300)])
def test_upper_bound_is_the_rate_at_which_so_few_errors_are_just_unlikely(errors: int, trials: int) -> None:
    """By definition: at the bound, as few errors as these come with probability δ."""
    bound = upper_bound(errors, trials)
    assert errors / trials < bound < 1.0
    assert binomial_tail(errors, trials, bound) == pytest.approx(DELTA, abs=1e-9)


def test_upper_bound_moves_the_right_way() -> None:
    """More errors raise it, more trials and a larger δ lower it."""
    assert upper_bound(1, 100) < upper_bound(2, 100)
    assert upper_bound(1, 200) < upper_bound(1, 100)
    assert upper_bound(1, 100, 0.1) < upper_bound(1, 100, 0.05)
    assert upper_bound(0, 298) > 0.01 > upper_bound(0, 299)  # what MIN_TEXTS stands on


def test_certify_takes_the_loosest_threshold_of_the_unbroken_walk() -> None:
    """The walk goes from the strictest on, and the last that is within the budget is taken."""
    found = walk([100, 200, 300, 400, 500], [0, 10, 50, 150, 300])
    assert (found.threshold, found.hits, found.false_hits, found.is_certified) == (0.8, 300, 50, True)
    assert found.false_hit_rate_upper == upper_bound(50, 10_000) <= 0.01


def test_certify_stops_at_the_first_threshold_over_the_budget() -> None:
    """A later threshold that looks within it again is not looked at: that is what keeps δ without a correction."""
    found = walk([100, 200, 300, 400, 500], [0, 150, 50, 50, 50])
    assert (found.threshold, found.hits) == (0.95, 100)


@pytest.mark.parametrize(
    ("hits", "errors", "requests"),
    [
        ([100, 200, 300, 400, 500], [150, 0, 0, 0, 0], 10_000),  # over the budget at once
        ([0, 0, 0, 0, 0], [0, 0, 0, 0, 0], 10_000),  # nothing served
        ([50, 60, 70, 80, 90], [0, 0, 0, 0, 0], 298),  # one request too few
        ([0, 0, 0, 0, 0], [0, 0, 0, 0, 0], 0),
    ],
)
def test_certify_without_evidence_certifies_nothing(hits: list[int], errors: list[int], requests: int) -> None:
    """Then there is no threshold, and what is shown is the strictest one's."""
    found = walk(hits, errors, requests)
    assert (found.threshold, found.is_certified, found.hits) == (None, False, hits[0])


def test_certify_skips_thresholds_that_serve_nothing_on_the_way() -> None:
    """A threshold without hits is within the budget but of no use; the walk goes on past it."""
    assert walk([0, 0, 20, 30, 40], [0, 0, 0, 0, 200]).threshold == 0.7


def test_certify_with_a_false_share_takes_a_stricter_threshold_already_passed() -> None:
    """Within the budget per request, hits that are too often wrong are refused as well."""
    hits, errors = [100, 200, 300, 400, 500], [0, 4, 20, 30, 60]
    assert walk(hits, errors).threshold == 0.6
    found = walk(hits, errors, max_false_share=0.03)
    assert (found.threshold, found.false_hits) == (0.9, 4)  # (4 + ½) / 201 = 2.2 %, (20 + ½) / 301 = 6.8 %
    assert walk(hits, [4, 4, 20, 30, 60], max_false_share=0.02).threshold is None


def test_certify_looser_share_beyond_a_bad_one_may_still_be_taken() -> None:
    """The share is no test: of all thresholds passed, the loosest that satisfies it is taken."""
    assert walk([10, 200, 300, 400, 500], [3, 3, 3, 3, 300], max_false_share=0.03).threshold == 0.7


def simulated(seed: int, runs: int, requests: int, rates: NDArray[np.float64], budget: float) -> NDArray[np.bool_]:
    """Return for each run whether the certified threshold's true rate is over the budget.

    Each request is falsely served from its own threshold on, so the errors at the thresholds are nested as in a stream.
    """
    random = np.random.default_rng(seed)
    over = np.zeros(runs, dtype=np.bool_)
    for run in range(runs):
        first_wrong = np.searchsorted(rates, random.random(requests), side="left")
        errors = np.cumsum(np.bincount(first_wrong, minlength=len(rates) + 1)[: len(rates)])
        found = certify(
            np.linspace(0.99, 0.5, len(rates)), requests, np.full(len(rates), requests), errors, budget=budget
        )  # fmt: skip
        if found.threshold is not None:
            rung = int(np.argmin(np.abs(np.linspace(0.99, 0.5, len(rates)) - found.threshold)))
            over[run] = rates[rung] > budget
    return over


@pytest.mark.parametrize(
    "rates",
    [
        np.linspace(0.002, 0.03, 12),  # the budget is crossed slowly: hardest for the walk
        np.array([0.0, 0.0, 0.0101, 0.0102, 0.0103, 0.0104]),  # just over it from the third on
        np.full(20, 0.0101),  # no threshold is within it
        np.concatenate([np.full(10, 0.0), np.full(10, 0.5)]),
    ],
)
def test_certify_over_many_runs_is_wrong_at_most_as_often_as_delta(rates: NDArray[np.float64]) -> None:
    """The share of runs whose true rate is over the budget stays within δ and what 2,000 runs vary by."""
    runs = 2_000
    share = float(simulated(5, runs, 1_000, rates, 0.01).mean())
    # Three standard deviations of a share of δ over 2,000 runs are 0.0146: a correct rule exceeds that once in 740.
    assert share <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / runs)


def test_certify_simulation_tells_a_wrong_rule() -> None:
    """The same runs catch a rule that takes the point estimate for the bound, so the test above can fail."""
    random = np.random.default_rng(5)
    errors = random.binomial(1_000, 0.0101, 2_000)
    assert (errors / 1_000 <= 0.01).mean() > 0.4
