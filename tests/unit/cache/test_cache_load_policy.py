"""How a busy model loosens budgets: within bounds, with hysteresis, and only for those who agreed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_cache.confidence_sequence import Interval
from penstock_cache.load_policy import CategoryLimits, LoadPolicy, LoadRules, ModelCapacity

CHAT = CategoryLimits(error_budget=0.005, max_error_budget=0.02, ttl_seconds=3_600.0, max_ttl_seconds=7_200.0)
NEWS = CategoryLimits(0.005, 0.02, 60.0, 600.0, is_volatile=True)
RULES = LoadRules(low=0.7, high=0.9, hysteresis=0.1, half_life_seconds=1.0, stale_seconds=60.0)
NOW = 1_000.0


def _policy(**capacity: Any) -> LoadPolicy:
    return LoadPolicy({"big": ModelCapacity(**(capacity or {"max_in_flight": 100}))}, RULES)


def _hold(policy: LoadPolicy, in_flight: int, since: float = NOW, seconds: int = 40) -> float:
    """Keep a model at one load for so long that the mean is there, and return the time then."""
    for second in range(seconds + 1):
        policy.observe("big", since + second, in_flight=in_flight)
    return since + seconds


def _budget(policy: LoadPolicy, now: float) -> float:
    return policy.allowance("big", CHAT, now, is_opted_in=True).error_budget


def test_allowance_of_an_idle_or_unknown_model_is_the_one_at_rest() -> None:
    """Without load nothing moves, and a model without a stated capacity never moves anything."""
    policy = _policy()
    now = _hold(policy, 50)
    policy.observe("other", now, in_flight=10_000)
    for model in ("big", "other", "never seen"):
        allowance = policy.allowance(model, CHAT, now, is_opted_in=True)
        assert (allowance.error_budget, allowance.ttl_seconds, allowance.relaxation) == (0.005, 3_600.0, 0.0)


def test_allowance_of_a_full_model_reaches_its_bounds_and_no_further() -> None:
    """Far beyond the upper load both budget and TTL are at their bounds exactly."""
    policy = _policy()
    now = _hold(policy, 500)
    allowance = policy.allowance("big", CHAT, now, is_opted_in=True)
    assert (allowance.error_budget, allowance.ttl_seconds, allowance.relaxation) == (0.02, 7_200.0, 1.0)


def test_allowance_between_the_loads_is_linear_in_the_load_less_its_hysteresis() -> None:
    """At a load of 0.9 that has risen, 0.8 counts: half way from 0.7 to 0.9."""
    policy = _policy()
    now = _hold(policy, 90)
    # 40 half-lives leave 1e-12 of the way to the load.
    assert _budget(policy, now) == pytest.approx(0.0125, abs=1e-9)
    assert policy.allowance("big", CHAT, now, is_opted_in=True).ttl_seconds == pytest.approx(5_400.0, abs=1e-5)


@pytest.mark.parametrize(("limits", "is_opted_in"), [(NEWS, True), (CHAT, False)])
def test_allowance_for_a_volatile_category_or_without_consent_stays_at_rest(
    limits: CategoryLimits, is_opted_in: bool
) -> None:
    """Volatile answers and tenants who did not ask for it keep their budget under any load."""
    policy = _policy()
    now = _hold(policy, 1_000)
    allowance = policy.allowance("big", limits, now, is_opted_in=is_opted_in)
    assert (allowance.error_budget, allowance.ttl_seconds) == (limits.error_budget, limits.ttl_seconds)


def test_allowance_under_a_wavering_load_keeps_still_inside_the_hysteresis() -> None:
    """A load that wavers by less than the hysteresis moves nothing; one that falls below it does."""
    policy = _policy()
    now = _hold(policy, 90)
    held = _budget(policy, now)
    for load in (85, 90, 82, 89):
        now = _hold(policy, load, now)
        assert _budget(policy, now) == pytest.approx(held, abs=1e-9)  # as above: 1e-12 of the way is left
    now = _hold(policy, 75, now)
    assert 0.005 < _budget(policy, now) < held
    now = _hold(policy, 69, now)
    assert _budget(policy, now) == 0.005
    now = _hold(policy, 79, now)
    assert _budget(policy, now) == 0.005  # 0.1 more than the lower load is needed to begin again


def test_allowance_after_one_observation_has_not_moved() -> None:
    """One glance at a full model proves nothing: the mean starts at 0 and needs time."""
    policy = _policy()
    policy.observe("big", NOW, in_flight=10_000)
    assert _budget(policy, NOW) == 0.005
    policy.observe("big", NOW, in_flight=10_000)
    assert _budget(policy, NOW) == 0.005


def test_allowance_without_recent_observations_is_the_one_at_rest() -> None:
    """Load that nobody has seen for a while is no load, whichever way the clock went."""
    policy = _policy()
    now = _hold(policy, 200)
    assert _budget(policy, now + 60.0) == 0.02
    assert _budget(policy, now + 60.1) == 0.005
    assert _budget(policy, now - 3_600.0) == 0.005


def test_load_after_the_clock_went_back_follows_observations_again() -> None:
    """A clock that goes back by an hour does not freeze the load of before."""
    policy = _policy()
    _hold(policy, 200)
    now = _hold(policy, 0, NOW - 3_600.0)
    assert policy.load("big", now) == pytest.approx(0.0, abs=1e-9)  # 40 half-lives leave 2e-12
    assert _budget(policy, now) == 0.005


def test_load_by_latency_counts_the_slow_latency_as_full() -> None:
    """A model that answers as slowly as its slow latency is at 1; the larger of the two signals counts."""
    policy = _policy(max_in_flight=100, slow_latency_seconds=8.0)
    for second in range(41):
        policy.observe("big", NOW + second, in_flight=10, latency_seconds=8.0)
    assert policy.load("big", NOW + 40) == pytest.approx(1.0, abs=1e-9)  # 40 half-lives
    for second in range(41, 82):
        policy.observe("big", NOW + second, in_flight=60, latency_seconds=0.8)
    assert policy.load("big", NOW + 81) == pytest.approx(0.6, abs=1e-9)


def test_load_by_a_signal_that_went_silent_follows_the_other() -> None:
    """Latencies that nobody has reported for a while no longer count, while requests in flight still do."""
    policy = _policy(max_in_flight=100, slow_latency_seconds=8.0)
    for second in range(41):
        policy.observe("big", NOW + second, in_flight=20, latency_seconds=80.0)
    now = _hold(policy, 20, NOW + 41, seconds=60)
    assert policy.load("big", now) == pytest.approx(0.2, abs=1e-9)  # 40 half-lives and more
    assert _budget(policy, now) == 0.005


@given(
    st.lists(st.tuples(st.floats(-100.0, 100.0), st.integers(0, 400), st.floats(0.0, 50.0)), max_size=30),
    st.floats(-100.0, 100.0),
)
def test_allowance_after_any_observations_is_within_bounds_and_never_looser_than_the_load_says(
    observations: list[tuple[float, int, float]], later: float
) -> None:
    """Budget and TTL stay between rest and bound, and hysteresis only ever makes them stricter."""
    policy = _policy(max_in_flight=100, slow_latency_seconds=8.0)
    now = NOW
    for seconds, in_flight, latency_seconds in observations:
        now += seconds
        policy.observe("big", now, in_flight=in_flight, latency_seconds=latency_seconds)
        for moment in (now, now + later):
            allowance = policy.allowance("big", CHAT, moment, is_opted_in=True)
            assert CHAT.error_budget <= allowance.error_budget <= CHAT.max_error_budget
            assert CHAT.ttl_seconds <= allowance.ttl_seconds <= CHAT.max_ttl_seconds
            unhindered = (policy.load("big", moment) - RULES.low) / (RULES.high - RULES.low)
            assert allowance.relaxation <= max(0.0, unhindered) + 1e-12  # rounding of one division


def test_relaxed_seconds_of_a_model_are_those_in_which_it_loosened_something() -> None:
    """The time under load is counted, and a gap without observations counts for no longer than they are trusted."""
    policy = _policy()
    now = _hold(policy, 50)
    assert policy.relaxed_seconds("big") == policy.relaxed_seconds("unknown") == 0.0
    now = _hold(policy, 200, now)
    relaxed = policy.relaxed_seconds("big")
    assert 30.0 <= relaxed <= 40.0
    policy.observe("big", now + 10_000.0, in_flight=0)
    assert policy.relaxed_seconds("big") <= relaxed + RULES.stale_seconds


def test_report_of_a_busy_model_puts_the_realised_error_beside_the_budget() -> None:
    """Every category has its budget at rest, its budget now and what the audits found; only proof counts as over."""
    policy = _policy()
    now = _hold(policy, 500)
    over, unsure = Interval(0.021, 0.05, 0.03), Interval(0.001, 0.05, 0.03)
    limits = {"chat": CHAT, "faq": CHAT, "news": NEWS}
    rows = {row.category: row for row in policy.report("big", limits, {"chat": over, "faq": unsure}, now)}
    assert rows["chat"].allowed_error_budget == 0.02
    assert rows["chat"].realised is over
    assert [rows[name].is_over_budget for name in limits] == [True, False, False]
    assert rows["news"].allowed_error_budget == rows["news"].error_budget == 0.005
    assert rows["news"].realised.estimate is None
    assert rows["faq"].load == pytest.approx(5.0, abs=1e-9)  # 40 half-lives


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (LoadRules, {"low": 0.9, "high": 0.9}),
        (LoadRules, {"hysteresis": -0.1}),
        (LoadRules, {"half_life_seconds": 0.0}),
        (ModelCapacity, {"max_in_flight": 0}),
        (ModelCapacity, {"slow_latency_seconds": 0.0}),
        (CategoryLimits, {"error_budget": 0.02, "max_error_budget": 0.01, "ttl_seconds": 1, "max_ttl_seconds": 1}),
        (CategoryLimits, {"error_budget": 0.0, "max_error_budget": 1.1, "ttl_seconds": 1, "max_ttl_seconds": 1}),
        (CategoryLimits, {"error_budget": 0.0, "max_error_budget": 0.1, "ttl_seconds": 2, "max_ttl_seconds": 1}),
    ],
)
def test_load_settings_out_of_range_are_refused(kind: type, fields: dict[str, float]) -> None:
    """Bounds in the wrong order are an error at start."""
    with pytest.raises(ValueError, match=r"load policy|above 0|at least 1|budgets|TTLs"):
        kind(**fields)


def test_policy_that_is_given_other_models_keeps_what_it_knows_of_those_that_stay() -> None:
    """A model that comes is watched from then on, one that goes is forgotten, and a load that was seen still counts."""
    policy = LoadPolicy({name: ModelCapacity(max_in_flight=100) for name in ("big", "gone")}, RULES)
    now = _hold(policy, 500)
    policy.observe("gone", now, in_flight=500)
    policy.use({name: ModelCapacity(max_in_flight=100) for name in ("big", "new")})
    assert policy.load("big", now) == pytest.approx(5.0)
    policy.observe("gone", now, in_flight=500)
    assert policy.relaxed_seconds("gone") == policy.load("gone", now) == 0.0
    for second in range(40):
        policy.observe("new", now + second, in_flight=500)
    assert policy.load("new", now + 39) == pytest.approx(5.0)
