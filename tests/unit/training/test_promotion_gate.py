"""The promotion gate: its three verdicts, its intervals, and its promise over many tries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from penstock_training.publishing.gate import (
    GateSettings,
    consult,
    detectable_gain,
    is_better,
    is_surely_not_better,
    mean_interval,
    measure,
    prompts_needed,
    rare_loss,
    student_quantile,
)
from penstock_training.publishing.ledger import HoldoutLedger, error_rate
from penstock_training.publishing.paired import PairedPoint, PairedPolicies

SETTINGS = GateSettings()
WHO = {"at": "2026-01-05T10:00:00Z", "by": "somebody"}


def point(
    quality: np.ndarray, cost: np.ndarray | float = 0.0, *, weight: float = 0.1, name: str = "balanced"
) -> PairedPoint:
    """A paired point from differences of quality and cost; the foreseen variance is the true one."""
    cost = np.broadcast_to(np.asarray(cost, dtype=np.float64), quality.shape)
    utility = quality - weight * cost
    is_different = (quality != 0.0) | (cost != 0.0)
    return PairedPoint(name, utility, quality, cost, is_different, np.where(is_different, utility.var() + 1e-9, 0.0))


def pairs(*points: PairedPoint, groups: np.ndarray | None = None, is_open: np.ndarray | None = None) -> PairedPolicies:
    """Paired policies, every prompt a group of its own and none in the open part unless said otherwise."""
    count = points[0].quality.size
    return PairedPolicies(
        np.arange(count) if groups is None else groups,
        {p.name: p for p in points},
        np.zeros(count, dtype=bool) if is_open is None else is_open,
        0,
        (),
    )


def differences(prompts: int, mean: float, seed: int = 0, share: float = 0.3) -> np.ndarray:
    """Differences of -1, 0 and 1 with a given mean and a share of prompts decided differently."""
    chances = [(share - mean) / 2.0, 1.0 - share, (share + mean) / 2.0]
    return np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], size=prompts, p=chances)


def ask(found: PairedPolicies, folder: Path, question: str = "q"):
    """Consult the gate with an account in `folder`."""
    return consult(found, HoldoutLedger(folder, "d"), SETTINGS, question, **WHO)


def test_gate_with_a_clear_gain_promotes(tmp_path: Path) -> None:
    """Five points more quality on 2,000 prompts is promoted at the first try."""
    answer = ask(pairs(point(differences(2000, 0.05))), tmp_path)
    assert (answer.verdict, answer.try_number) == ("promote", 1)
    assert answer.error_rate == error_rate(0, 0)
    assert answer.numbers is None  # there is no open part here


def test_gate_with_equal_quality_and_lower_cost_promotes(tmp_path: Path) -> None:
    """Quality that is not lower by more than the margin and a cost that is surely lower are enough."""
    quality = differences(20_000, 0.0, share=0.05)
    found = pairs(point(quality, -0.2, weight=0.0))
    assert mean_interval(found.points["balanced"].utility, found.groups, 0.01).low <= 0.0
    assert ask(found, tmp_path).verdict == "promote"


def test_gate_with_lower_cost_and_lost_quality_does_not_promote() -> None:
    """A saving buys no more quality than the margin when λ gives it no weight."""
    assert not is_better(pairs(point(differences(20_000, -0.03), -0.2, weight=0.0)), SETTINGS, 0.05)


def test_gate_with_no_failure_among_few_prompts_is_not_sure_of_none() -> None:
    """A cheaper arm that never failed on 300 prompts may fail on one in a hundred; on 1,000 prompts it may not."""
    found = {n: is_better(pairs(point(np.zeros(n), -0.2, weight=0.0)), SETTINGS, 0.0185) for n in (300, 1000)}
    assert found == {300: False, 1000: True}


def test_gate_on_rare_failures_is_wrong_no_more_often_than_allowed() -> None:
    """A candidate that loses a margin's worth on rare prompts passes at most at the error rate, here 5 %."""
    generator = np.random.default_rng(3)
    passed = 0
    for _ in range(1000):
        quality = -(generator.random(600) < SETTINGS.margin).astype(np.float64)
        passed += is_better(pairs(point(quality, -0.2, weight=0.0)), SETTINGS, 0.05)
    assert passed / 1000 <= 0.05


def test_rare_loss_is_the_rule_of_three_and_counts_groups() -> None:
    """At 5 % it is three divided by the number of independent questions."""
    assert rare_loss(np.arange(300), 0.05) == pytest.approx(3.0 / 300, rel=0.01)  # ln 20 = 2.996
    assert rare_loss(np.arange(300) // 3, 0.05) == pytest.approx(3.0 / 100, rel=0.01)


def test_prompts_needed_for_what_is_seen_already_are_those_there_are() -> None:
    """The forecast agrees with what it extrapolates, and grows as the wanted gain falls."""
    assert prompts_needed(1000, 0.05, 0.01, 0.05) == 1000
    assert prompts_needed(1000, 0.05, 0.01, 0.01) > 10_000


def test_gate_on_a_large_holdout_without_gain_keeps(tmp_path: Path) -> None:
    """Where a gain of a point would have been seen, none is an answer."""
    answer = ask(pairs(point(differences(60_000, 0.0))), tmp_path)
    assert answer.verdict == "keep"
    assert answer.detectable_gain < SETTINGS.margin
    assert answer.prompts_needed is None


def test_gate_on_a_small_holdout_says_how_many_prompts_are_needed(tmp_path: Path) -> None:
    """With as many prompts as are said to be needed the verdict is no longer 'not enough data'."""
    answer = ask(pairs(point(differences(500, 0.0))), tmp_path)
    assert answer.verdict == "not_enough_data"
    assert answer.prompts_needed is not None
    assert answer.prompts_needed > 5000
    enough = pairs(point(differences(answer.prompts_needed, 0.0, seed=3)))
    # 10 %: the variance on the small hold-out was an estimate.
    assert detectable_gain(enough.points["balanced"], enough.groups, answer.error_rate) < 1.1 * SETTINGS.margin


def test_gate_answer_but_for_the_promotion_ignores_every_outcome(tmp_path: Path) -> None:
    """Among the verdicts that keep the running artifact, outcomes change nothing: not a digit tells of them."""
    base = point(differences(500, 0.0, share=0.2))
    worse = PairedPoint("balanced", base.utility - 0.1, base.quality - 0.1, *_rest(base))
    answers = [ask(pairs(p), tmp_path / name) for name, p in (("equal", base), ("worse", worse))]
    assert answers[0] == answers[1]


def _rest(base: PairedPoint):
    return base.relative_cost, base.is_different, base.foreseen_variance


def test_gate_with_too_few_questions_spends_nothing(tmp_path: Path) -> None:
    """Too few groups are said before the hold-out is looked at."""
    quality = differences(900, 0.2)
    answer = ask(pairs(point(quality), groups=np.arange(900) // 10), tmp_path)
    assert (answer.verdict, answer.try_number, answer.groups) == ("not_enough_data", 0, 90)
    assert HoldoutLedger(tmp_path, "d").tries == 0


def test_gate_with_hardly_different_decisions_keeps_for_nothing(tmp_path: Path) -> None:
    """A candidate that decides alike has nothing to gain, and costs no try."""
    quality = np.zeros(1000)
    quality[:20] = 1.0
    answer = ask(pairs(point(quality)), tmp_path)
    assert (answer.verdict, answer.try_number, answer.different) == ("keep", 0, 20)


def test_gate_asked_the_same_again_answers_the_same_for_nothing(tmp_path: Path) -> None:
    """Repeating a question tells nothing new, so it is free and cannot be lucky."""
    first = ask(pairs(point(differences(500, 0.0))), tmp_path)
    lucky = ask(pairs(point(differences(2000, 0.2))), tmp_path)
    assert lucky.verdict == first.verdict == "not_enough_data"
    assert HoldoutLedger(tmp_path, "d").tries == 1


def test_gate_on_a_used_up_holdout_asks_for_a_fresh_one(tmp_path: Path) -> None:
    """After thirteen tries even a clear gain is not looked at."""
    for number in range(13):
        ask(pairs(point(differences(500, 0.0, seed=number))), tmp_path, f"q{number}")
    answer = ask(pairs(point(differences(5000, 0.2))), tmp_path, "clear")
    assert answer.verdict == "not_enough_data"
    assert "fresh" in answer.reason


def test_gate_promotion_is_stopped_by_loss_at_another_setting() -> None:
    """A gain at the setting in use does not buy a sure loss at another one."""
    gain, loss = differences(2000, 0.1), differences(2000, -0.1, seed=1)
    assert is_better(pairs(point(gain)), SETTINGS, 0.01)
    assert not is_better(pairs(point(gain), point(loss, name="cost")), SETTINGS, 0.01)


def test_gate_shows_the_open_part_and_nothing_of_the_reserved_one(tmp_path: Path) -> None:
    """The numbers shown are those of the open prompts, whatever the reserved outcomes are."""
    is_open = np.arange(2500) % 5 == 0
    answers = []
    for reserved_mean in (0.0, -0.2):
        quality = np.where(is_open, differences(2500, 0.05), differences(2500, reserved_mean, seed=2))
        foreseen = point(np.where(is_open, quality, 1.0))
        paired = PairedPoint(
            "balanced", quality, quality, np.zeros(2500), np.ones(2500, bool), foreseen.foreseen_variance
        )
        answers.append(ask(pairs(paired, is_open=is_open), tmp_path / str(reserved_mean)))
    assert answers[0] == answers[1]
    assert answers[0].numbers is not None
    found = answers[0].numbers["balanced"]["quality"]
    assert found == mean_interval(differences(2500, 0.05)[is_open], np.arange(500), 0.025)
    assert (answers[0].open_prompts, answers[0].prompts) == (500, 2000)


def test_gate_with_a_candidate_surely_worse_in_the_open_part_keeps_for_nothing(tmp_path: Path) -> None:
    """What is surely not better is said without spending a try of the reserved part."""
    quality = differences(1000, -0.2)
    answer = ask(pairs(point(quality), is_open=np.arange(1000) % 5 == 0), tmp_path)
    assert (answer.verdict, answer.try_number) == ("keep", 0)
    assert "surely not better" in answer.reason


def test_gate_screen_lets_a_saving_within_the_margin_through() -> None:
    """A candidate that may still pass by equal quality and lower cost is not held back by its utility."""
    cheaper = point(np.full(200, -0.005), -0.2, weight=0.0)
    assert not is_surely_not_better(pairs(cheaper), SETTINGS)
    assert is_surely_not_better(pairs(point(np.full(200, -0.005), 0.1, weight=0.0)), SETTINGS)
    assert not is_surely_not_better(pairs(point(np.full(20, -0.5))), SETTINGS)  # too few to say so


def test_measure_covers_every_setting_with_intervals() -> None:
    """What is shown is each difference with a 95 % interval around it."""
    shown = measure(pairs(point(differences(2000, 0.05)), point(differences(2000, 0.0), name="cost")))
    assert set(shown) == {"balanced", "cost"}
    found = shown["balanced"]["quality"]
    assert found.low < 0.05 < found.high


@pytest.mark.parametrize("degrees", [20, 99, 2000])
@pytest.mark.parametrize("tail", [0.05, 1e-3, 1e-5])
def test_student_quantile_of_our_tails_agrees_with_scipy(degrees: int, tail: float) -> None:
    """The expansion is exact to 0.2 % where the gate uses it, as documented."""
    assert student_quantile(1.0 - tail, degrees) == pytest.approx(stats.t.ppf(1.0 - tail, degrees), rel=2e-3)


def test_mean_interval_of_dependent_rows_covers_as_promised() -> None:
    """With whole groups repeated, 95 % intervals contain the truth in about 95 % of 600 samples."""
    generator = np.random.default_rng(5)
    groups = np.repeat(np.arange(120), 4)
    hits = 0
    for _ in range(600):
        found = mean_interval(np.repeat(generator.choice([-1.0, 0.0, 1.0], 120), 4), groups, 0.025)
        hits += found.low <= 0.0 <= found.high
    assert 0.925 <= hits / 600 <= 0.975  # ± 2.8 standard errors of a share of .95


def test_gate_over_two_hundred_useless_tries_is_fooled_at_most_at_its_rate() -> None:
    """Of 300 hold-outs with 200 random useless candidates each, ours is fooled on 5 % at most, a plain gate on most."""
    generator = np.random.default_rng(11)
    plain = ours = 0
    for _ in range(300):
        switched = generator.random((200, 400)) < 0.3
        scores = np.where(switched, generator.choice([-1.0, 0.0, 1.0], 400, p=[0.25, 0.5, 0.25]), 0.0)
        plain += _is_ever(scores, lambda _: 0.05, tries=200)
        ours += _is_ever(scores, lambda tries: error_rate(tries, 0), tries=13)
    assert plain / 300 > 0.4
    assert ours / 300 <= 0.05


def _is_ever(scores: np.ndarray, rate, *, tries: int) -> bool:
    """Whether any of the first candidates passes, with the half of the rate that utility gets."""
    means = scores[:tries].mean(axis=1)
    errors = scores[:tries].std(axis=1, ddof=1) / np.sqrt(scores.shape[1])
    limits = np.array([student_quantile(1.0 - rate(k) / 2.0, scores.shape[1] - 1) for k in range(tries)])
    return bool((means > limits * errors).any())
