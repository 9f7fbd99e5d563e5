"""Audits: intervals that hold at every look, the switch that acts on them, the draw, and the account."""

from __future__ import annotations

import math
from decimal import Decimal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_cache.audit import AccountState, AuditAccount, AuditLedger, LedgerState, audit_draw
from penstock_cache.category_switch import CategorySwitch, SwitchChange, SwitchRules, SwitchState
from penstock_cache.confidence_sequence import Interval, corrected_rate, log_evidence, rate_interval, spent_alpha

RUNS, TRIALS, ALPHA = 400, 2_000, 0.05


def _accepted_counts(rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Fewest and most successes at each number of trials whose interval holds `rate`; both only ever rise."""
    lowest, highest = np.zeros(TRIALS + 1, dtype=int), np.zeros(TRIALS + 1, dtype=int)
    fewest = most = 0
    for trials in range(1, TRIALS + 1):
        while rate_interval(fewest, trials, ALPHA).high < rate:
            fewest += 1
        while most < trials and rate_interval(most + 1, trials, ALPHA).low <= rate:
            most += 1
        lowest[trials], highest[trials] = fewest, most
    return lowest, highest


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_rate_interval_over_many_runs_ever_misses_the_true_rate_in_at_most_five_percent(rate: float) -> None:
    """Looking after every one of 2,000 trials, at most 5 % of runs see the true rate leave the 95 % sequence."""
    draws = np.random.default_rng(20_261).random((RUNS, TRIALS)) < rate
    counts = np.cumsum(draws, axis=1)
    lowest, highest = _accepted_counts(rate)
    missed = ((counts < lowest[1:]) | (counts > highest[1:])).any(axis=1).mean()
    # A binomial of 400 runs at 5 % has a standard deviation of 1.1 %; three of them, so that only a wrong method fails.
    assert missed <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def test_fixed_sample_interval_looked_at_all_the_time_misses_far_more_often() -> None:
    """The textbook 95 % interval fails the same trial, so the trial can tell a wrong method."""
    counts = np.cumsum(np.random.default_rng(20_261).random((RUNS, TRIALS)) < 0.1, axis=1)
    trials = np.arange(1, TRIALS + 1)
    estimate = counts / trials
    margin = 1.96 * np.sqrt(np.maximum(estimate * (1 - estimate), 1e-9) / trials)
    looked = trials >= 100  # leave it its best case: no small samples
    missed = (np.abs(estimate - 0.1) > margin)[:, looked].any(axis=1).mean()
    assert missed > 0.2


@given(st.integers(1, 3_000), st.floats(0.0, 1.0), st.floats(1e-4, 0.5))
def test_rate_interval_of_any_counts_holds_exactly_the_rates_without_evidence_against_them(
    trials: int, share: float, alpha: float
) -> None:
    """The interval holds the estimate, and its ends are where the gambler's wealth reaches 1/α."""
    successes = round(share * trials)
    interval = rate_interval(successes, trials, alpha)
    assert 0.0 <= interval.low <= successes / trials <= interval.high <= 1.0
    limit = math.log(1.0 / alpha)
    for end, inner in ((interval.low, 1e-9), (interval.high, -1e-9)):  # 50 bisections leave less than 1e-15
        if 0.0 < end < 1.0:
            assert log_evidence(successes, trials, end) >= limit - 1e-6  # rounding of sums of a few thousand logs
            assert log_evidence(successes, trials, end + inner) < limit + 1e-6


def test_rate_interval_of_more_trials_is_narrower_and_without_any_is_everything() -> None:
    """Nothing is known at first; then the width falls about as the root of the trials."""
    assert rate_interval(0, 0, 0.05) == Interval(0.0, 1.0, None)
    widths = [(found := rate_interval(n // 20, n, 0.05)).high - found.low for n in (100, 1_600, 25_600)]
    assert widths[0] > 3 * widths[1] > 9 * widths[2]
    assert rate_interval(0, 1_000, 0.05).high < 0.01
    with pytest.raises(ValueError, match="successes"):
        rate_interval(2, 1, 0.05)


def test_evidence_against_an_impossible_rate_is_infinite() -> None:
    """A rate of 0 is impossible after a success, one of 1 after a failure, and neither without."""
    assert log_evidence(1, 2, 0.0) == log_evidence(1, 2, 1.0) == math.inf
    assert log_evidence(0, 5, 0.0) < 0.0
    assert log_evidence(5, 5, 1.0) < 0.0


@given(st.floats(0.0, 1.0), st.floats(0.0, 0.99))
def test_corrected_rate_of_exact_rates_recovers_the_wrong_share(wrong: float, control: float) -> None:
    """From the disagreement that wrong hits and an unsteady model give together, the wrong share comes back."""
    observed = wrong + (1.0 - wrong) * control
    found = corrected_rate(Interval(observed, observed, observed), Interval(control, control, control))
    # The division by 1 − a, at least 0.01, magnifies rounding a hundredfold.
    assert found.low == pytest.approx(wrong, abs=1e-12)
    assert found.high == pytest.approx(wrong, abs=1e-12)


unit = st.floats(0.0, 1.0)


@given(st.tuples(unit, unit, unit), st.tuples(unit, unit, unit))
def test_corrected_rate_of_any_intervals_holds_the_correction_of_every_pair_inside(
    hits: tuple[float, float, float], control: tuple[float, float, float]
) -> None:
    """Whatever the two rates are inside their intervals, the corrected one is inside the corrected interval."""
    (d_low, d, d_high), (a_low, a, a_high) = sorted(hits), sorted(control)
    found = corrected_rate(Interval(d_low, d_high, d), Interval(a_low, a_high, a))
    assert 0.0 <= found.low <= found.high <= 1.0
    assert found.estimate is not None
    assert found.low <= found.estimate <= found.high
    if d >= a and a < 1.0:
        exact = (d - a) / (1.0 - a)
        assert found.low - 1e-9 <= exact <= found.high + 1e-9  # rounding of a quotient of small differences


def test_spent_alpha_over_all_epochs_is_no_more_than_alpha() -> None:
    """However often a sequence begins again, the chances of a miss add up to less than α."""
    assert sum(spent_alpha(0.05, epoch) for epoch in range(1, 10_000)) < 0.05
    assert spent_alpha(0.05, 1) == 0.025


def _ledger(hits: tuple[int, int] = (0, 0), control: tuple[int, int] = (0, 0), category: str = "chat") -> AuditLedger:
    """A ledger with so many disagreements of so many audits."""
    ledger = AuditLedger()
    for is_control, (disagreements, audits) in ((False, hits), (True, control)):
        for number in range(audits):
            ledger.note(category, is_disagreement=number < disagreements, is_control=is_control)
    return ledger


def test_false_hit_rate_of_an_unsteady_model_is_not_blamed_on_the_cache() -> None:
    """Hits that disagree no more often than the model with itself prove no error at all."""
    rate = _ledger(hits=(200, 1_000), control=(200, 1_000)).false_hit_rate("chat")
    assert rate.low == rate.estimate == 0.0
    steady = _ledger(hits=(200, 1_000), control=(0, 1_000)).false_hit_rate("chat")
    assert steady.low > 0.1
    assert steady.estimate == pytest.approx(0.2)


def test_false_hit_rate_without_a_control_has_no_lower_bound() -> None:
    """Without a control all disagreement may be the model's own; the upper bound stands."""
    rate = _ledger(hits=(300, 1_000)).false_hit_rate("chat")
    assert rate.low == 0.0
    assert 0.3 < rate.high < 0.4
    assert AuditLedger().false_hit_rate("never seen") == Interval(0.0, 1.0, None)


def test_ledger_over_many_runs_ever_misses_a_true_false_hit_rate_in_at_most_five_percent() -> None:
    """With both sequences looked at together, at most 5 % of runs ever exclude the true false-hit rate."""
    random, wrong, control = np.random.default_rng(7), 0.05, 0.1
    runs = missed = 0
    for _ in range(60):
        ledger, is_missed = AuditLedger(), False
        disagree = random.random((400, 2)) < (wrong + (1 - wrong) * control, control)
        for number, (hit, twin) in enumerate(disagree.tolist(), start=1):
            ledger.note("chat", is_disagreement=hit, is_control=False)
            ledger.note("chat", is_disagreement=twin, is_control=True)
            if number % 10 == 0:
                rate = ledger.false_hit_rate("chat")
                is_missed |= not rate.low <= wrong <= rate.high
        runs += 1
        missed += is_missed
    # Union bounds make it far rarer than 5 %; 3 of 60 is what 5 % would give.
    assert missed / runs <= 0.05


def _note_lookups(ledger: AuditLedger, hits: int, lookups: int, value_usd: float, overhead_usd: float) -> None:
    for number in range(lookups):
        ledger.note_lookup("chat", is_hit=number < hits, value_usd=value_usd, overhead_usd=overhead_usd)


def test_net_value_of_right_hits_is_their_saving_less_the_overhead() -> None:
    """The estimate is hit rate times saving less errors less overhead, inside bounds that narrow with look-ups."""
    ledger = _ledger(hits=(0, 2_000), control=(0, 2_000))
    _note_lookups(ledger, 400, 2_000, value_usd=0.01, overhead_usd=1e-4)
    net = ledger.net_value_usd("chat", error_cost_usd=0.1)
    assert net.estimate == pytest.approx(0.2 * 0.01 - 1e-4)
    assert net.low < 0.0019 < net.high < 0.003
    assert net.low > 0.0


def test_net_value_with_costly_errors_is_below_zero() -> None:
    """Errors that cost more than hits save make a category lose, and enough audits prove it."""
    ledger = _ledger(hits=(400, 2_000), control=(0, 2_000))
    _note_lookups(ledger, 400, 2_000, value_usd=0.01, overhead_usd=1e-4)
    assert ledger.net_value_usd("chat", error_cost_usd=1.0).high < 0.0


def test_net_value_after_a_few_misses_is_not_yet_condemned() -> None:
    """Look-ups that cost without a hit prove a loss only once the hit rate is known to be too low."""
    ledger = AuditLedger()
    assert ledger.net_value_usd("chat", 1.0) == Interval(-math.inf, math.inf, None)
    _note_lookups(ledger, 0, 20, value_usd=0.01, overhead_usd=1e-5)
    assert ledger.net_value_usd("chat", 0.0).high > 0.0
    _note_lookups(ledger, 0, 20_000, value_usd=0.01, overhead_usd=1e-5)
    assert ledger.net_value_usd("chat", 0.0).high < 0.0


def test_restart_of_a_category_forgets_hits_and_keeps_the_control() -> None:
    """A moved operating point begins new sequences of hits with less α; the model's own unsteadiness stays known."""
    ledger = _ledger(hits=(5, 100), control=(3, 100))
    wide = ledger.disagreement_rate("chat", is_control=True)
    ledger.restart("chat")
    assert ledger.audits("chat") == 0
    assert ledger.disagreement_rate("chat", is_control=True) == wide
    for number in range(100):
        ledger.note("chat", is_disagreement=number < 5, is_control=False)
    once = _ledger(hits=(5, 100)).disagreement_rate("chat", is_control=False)
    again = ledger.disagreement_rate("chat", is_control=False)
    assert again.low < once.low < once.high < again.high
    ledger.restart("chat", is_control_too=True)
    assert ledger.disagreement_rate("chat", is_control=True) == Interval(0.0, 1.0, None)


def test_ledger_state_through_json_goes_on_where_it_was() -> None:
    """Counts survive a restart of the process, and unknown fields are refused."""
    ledger = _ledger(hits=(5, 100), control=(3, 100))
    _note_lookups(ledger, 3, 10, 0.01, 1e-5)
    stored = msgspec.json.encode(ledger.state)
    again = AuditLedger(msgspec.json.decode(stored, type=LedgerState))
    assert again.false_hit_rate("chat") == ledger.false_hit_rate("chat")
    assert again.net_value_usd("chat", 1.0) == ledger.net_value_usd("chat", 1.0)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"categories":{"chat":{"hitz":1}}}', type=LedgerState)


RULES = SwitchRules(budget=0.02, ladder=(0.97, 0.95, 0.93), start=1, error_cost_usd=0.01)


def _earning(ledger: AuditLedger) -> AuditLedger:
    _note_lookups(ledger, 500, 1_000, value_usd=0.01, overhead_usd=1e-5)
    return ledger


def test_switch_of_a_category_proven_wrong_goes_off_and_begins_new_sequences() -> None:
    """When even the lower bound exceeds the budget the category goes off, at its strictest point."""
    switch, ledger = CategorySwitch("chat", RULES), _earning(_ledger(hits=(150, 1_000), control=(0, 1_000)))
    assert switch.review(ledger) is SwitchChange.OFF_FOR_ERRORS
    assert not switch.is_on
    assert switch.operating_point == 0.97
    assert ledger.audits("chat") == 0
    assert switch.review(ledger) is SwitchChange.NONE


def test_switch_with_an_estimate_over_the_budget_gets_stricter_but_stays_on() -> None:
    """Suspicion without proof costs a rung, not the category; at the strictest rung it waits for proof."""
    switch = CategorySwitch("chat", RULES)
    assert switch.review(_earning(_ledger(hits=(4, 100), control=(0, 100)))) is SwitchChange.STRICTER
    assert switch.operating_point == 0.97
    assert switch.review(_earning(_ledger(hits=(4, 100), control=(0, 100)))) is SwitchChange.NONE
    assert switch.is_on


def test_switch_with_few_audits_does_not_move() -> None:
    """One wrong hit of ten is no reason for anything."""
    switch = CategorySwitch("chat", RULES)
    assert switch.review(_earning(_ledger(hits=(1, 10), control=(0, 100)))) is SwitchChange.NONE
    assert switch.review(AuditLedger()) is SwitchChange.NONE


def test_switch_with_the_upper_bound_within_the_budget_gets_looser_up_to_its_ladder() -> None:
    """Only proof loosens, a rung at a time, and never beyond the last rung."""
    switch = CategorySwitch("chat", RULES)
    assert switch.review(_earning(_ledger(hits=(0, 2_000)))) is SwitchChange.LOOSER
    assert switch.operating_point == 0.93
    assert switch.review(_earning(_ledger(hits=(0, 2_000)))) is SwitchChange.NONE
    assert switch.review(_earning(_ledger(hits=(10, 2_000)))) is SwitchChange.NONE


def test_switch_of_a_category_that_loses_money_goes_off() -> None:
    """When even the upper bound of its net value is below 0 a category goes off, however right its hits are."""
    switch, ledger = CategorySwitch("chat", RULES), _ledger(hits=(0, 100))
    _note_lookups(ledger, 100, 20_000, value_usd=0.001, overhead_usd=1e-4)
    assert switch.review(ledger) is SwitchChange.OFF_FOR_VALUE


def test_switch_that_is_off_returns_once_fresh_audits_are_within_the_budget() -> None:
    """Shadow look-ups and audits let a category come back, at its strictest rung; worthless ones keep it off."""
    switch = CategorySwitch("chat", RULES, SwitchState(is_on=False, rung=0))
    assert switch.review(_earning(_ledger(hits=(5, 300), control=(0, 300)))) is SwitchChange.NONE
    worthless = _ledger(hits=(0, 2_000))
    _note_lookups(worthless, 0, 2_000, value_usd=0.01, overhead_usd=1e-5)
    assert switch.review(worthless) is SwitchChange.NONE
    assert switch.review(_earning(_ledger(hits=(0, 2_000)))) is SwitchChange.BACK_ON
    assert (switch.is_on, switch.state.rung) == (True, 0)


def test_switch_with_a_very_long_sequence_begins_it_again() -> None:
    """Old audits do not outvote new ones for ever."""
    rules = SwitchRules(0.02, (0.95,), error_cost_usd=0.01, renew_after_audits=500)
    switch, ledger = CategorySwitch("chat", rules), _earning(_ledger(hits=(5, 500)))
    assert switch.review(ledger) is SwitchChange.RENEWED
    assert ledger.audits("chat") == 0
    assert switch.is_on


@pytest.mark.parametrize(("wrong", "ends_on"), [(0.004, True), (0.15, False)])
def test_switch_under_steady_traffic_ends_where_the_true_rate_says(wrong: float, ends_on: bool) -> None:
    """Reviewed after every audit, a right category is never off and a wrong one goes off and stays off."""
    random = np.random.default_rng(3)
    switch, ledger = CategorySwitch("chat", RULES), AuditLedger()
    was_off = False
    for hit, twin in (random.random((3_000, 2)) < (wrong, 0.0)).tolist():
        ledger.note_lookup("chat", is_hit=True, value_usd=0.01, overhead_usd=1e-5)
        ledger.note("chat", is_disagreement=hit, is_control=False)
        ledger.note("chat", is_disagreement=twin, is_control=True)
        switch.review(ledger)
        was_off |= not switch.is_on
    assert switch.is_on is ends_on
    assert was_off is not ends_on


def test_switch_state_through_json_and_a_shorter_ladder_stays_on_it() -> None:
    """State survives a restart of the process, and a rung beyond a new, shorter ladder becomes its last."""
    switch = CategorySwitch("chat", RULES)
    switch.review(_earning(_ledger(hits=(0, 2_000))))
    state = msgspec.json.decode(msgspec.json.encode(switch.state), type=SwitchState)
    assert CategorySwitch("chat", RULES, state).operating_point == 0.93
    assert CategorySwitch("chat", SwitchRules(0.02, (0.97, 0.95)), state).operating_point == 0.95
    for bad in ({"budget": 0.0, "ladder": (0.9,)}, {"budget": 0.1, "ladder": ()}):
        with pytest.raises(ValueError, match="ladder"):
            SwitchRules(**bad)  # type: ignore[arg-type]


def test_audit_draw_of_a_request_is_fixed_secret_and_even() -> None:
    """The same request draws the same number under one secret, another under another, and all are spread evenly."""
    draws = np.array([audit_draw(b"secret", f"req-{number}", "hit") for number in range(20_000)])
    assert audit_draw(b"secret", "req-7", "hit") == draws[7]
    assert audit_draw(b"other", "req-7", "hit") != draws[7] != audit_draw(b"secret", "req-7", "control")
    assert 0.0 <= draws.min() <= draws.max() < 1.0
    # A binomial of 20,000 draws at 5 % has a standard deviation of 31; five of them.
    assert abs(int((draws < 0.05).sum()) - 1_000) < 155
    assert 0.0 <= audit_draw(b"s", "\ud800", "hit") < 1.0


def test_audit_account_at_its_limit_allows_no_more_until_the_next_period() -> None:
    """What is set aside counts at once; a new period begins with nothing spent."""
    account = AuditAccount(Decimal("1.00"), period_seconds=100.0)
    assert account.reserve(Decimal("0.60"), now=1_010.0) is not None
    assert not account.may_spend(Decimal("0.41"), now=1_020.0)
    assert account.reserve(Decimal("0.41"), now=1_020.0) is None
    assert account.may_spend(Decimal("0.40"), now=1_099.0)
    assert account.may_spend(Decimal("1.00"), now=1_100.0)
    assert not account.may_spend(Decimal("-1"), now=1_100.0)


def test_audit_account_when_the_clock_goes_back_gives_no_second_allowance() -> None:
    """Going back in time opens no period: what was spent stays spent."""
    account = AuditAccount(Decimal(1), period_seconds=100.0)
    account.reserve(Decimal(1), now=1_000.0)
    assert not account.may_spend(Decimal("0.01"), now=10.0)
    assert not account.may_spend(Decimal("0.01"), now=1_099.0)


def test_audit_account_that_settles_charges_what_the_audit_cost() -> None:
    """Less is given back in the same period only; more is charged always."""
    account = AuditAccount(Decimal(1), period_seconds=100.0)
    hold = account.reserve(Decimal("0.50"), now=0.0)
    assert hold is not None
    account.settle(hold, Decimal("0.20"))
    assert account.state.spent_usd == Decimal("0.20")
    late = account.reserve(Decimal("0.50"), now=0.0)
    assert late is not None
    assert account.may_spend(Decimal(1), now=100.0)
    account.settle(late, Decimal(0))
    assert account.state.spent_usd == 0
    account.settle(late, Decimal("0.75"))
    assert account.state.spent_usd == Decimal("0.25")


@given(st.lists(st.tuples(st.decimals(0, 1, places=4), st.floats(0.0, 1.0), st.floats(-50.0, 150.0)), max_size=40))
def test_audit_account_under_any_use_never_spends_beyond_its_limit(uses: list[tuple[Decimal, float, float]]) -> None:
    """As long as audits cost no more than was set aside, no period ever exceeds the limit, nor falls below 0."""
    account, now = AuditAccount(Decimal(2), period_seconds=100.0), 1_000.0
    for cost, share, seconds in uses:
        now += seconds
        hold = account.reserve(cost, now)
        if hold is not None:
            account.settle(hold, cost * Decimal(share))
        assert 0 <= account.state.spent_usd <= 2


def test_account_state_through_json_keeps_every_cent() -> None:
    """Money is stored as text, so a restart changes nothing."""
    account = AuditAccount(Decimal(1), period_seconds=100.0)
    account.reserve(Decimal("0.1000000000000000055"), now=500.0)
    stored = msgspec.json.encode(account.state)
    assert msgspec.json.decode(stored, type=AccountState) == account.state
    with pytest.raises(ValueError, match="limit"):
        AuditAccount(Decimal(-1))
