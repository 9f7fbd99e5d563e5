"""Rules of trying out other arms: which, how often, and with what propensity."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_routers.policy import Candidate, Choice, RouteReason, Tradeoff, decide, quality_bound
from penstock_routers.policy_explore import EXPLORABLE, Exploration, explore

unit = st.floats(0.0, 1.0)
below_one = st.floats(0.0, 1.0, exclude_max=True)
tradeoffs = st.builds(Tradeoff, st.just("t"), st.one_of(st.floats(0.0, 5.0), st.just(math.inf)), st.floats(0.0, 3.0))


@st.composite
def candidate_sets(draw: st.DrawFn) -> list[Candidate]:
    """Draw one to six candidates with unique names."""
    return [
        Candidate(
            f"arm{index}",
            draw(unit),
            draw(unit) / 10,
            draw(st.floats(-1.0, 1.0)),
            draw(unit) / 5,
            draw(st.floats(0.0, 10.0)),
            draw(st.one_of(st.just(0.0), st.floats(0.0, 5.0))),
        )
        for index in range(draw(st.integers(1, 6)))
    ]


def run(
    arms: list[Candidate],
    exploration: Exploration,
    tradeoff: Tradeoff = Tradeoff("t", 0.1, 1.0),  # noqa: B008 - immutable
    **settings: object,
) -> tuple[Choice, Choice]:
    """Return the policy's own choice and the one after exploration; `arm0` is the default arm."""
    choice = decide(arms, default_arm="arm0", tradeoff=tradeoff, cost_scale_usd=1.0, **settings)
    return choice, explore(choice, arms, default_arm="arm0", exploration=exploration, **settings)


def outcomes(arms: list[Candidate], rate: float, ratio: float, tradeoff: Tradeoff, **settings: object) -> list[Choice]:
    """Return every choice that some draw leads to, one per arm that can come out."""
    grid = [(index + 0.5) / 60 for index in range(60)]  # 60 is a multiple of 1 to 6, so every arm is hit
    found: dict[str, Choice] = {}
    for whether in (0.0, math.nextafter(1.0, 0.0)):
        for which in grid:
            choice = run(arms, Exploration(rate, (whether, which), ratio), tradeoff, **settings)[1]
            found[choice.arm] = choice
    return list(found.values())


@given(candidate_sets(), st.floats(0.0, 0.999), st.floats(0.0, 3.0), tradeoffs, st.booleans())
def test_explore_propensities_over_all_draws_sum_to_one(arms, rate, ratio, tradeoff, is_novel) -> None:
    """The arms that some draw can lead to have propensities that sum to one."""
    found = outcomes(arms, rate, ratio, tradeoff, is_novel=is_novel)
    assert sum(choice.propensity for choice in found) == pytest.approx(1.0, abs=1e-12)
    assert all(0.0 < choice.propensity <= 1.0 for choice in found)


@given(candidate_sets(), unit, st.tuples(below_one, below_one), st.floats(0.0, 3.0), tradeoffs, st.booleans(), unit)
def test_explore_drawn_arm_is_among_the_allowed(arms, rate, draw, ratio, tradeoff, is_novel, min_quality) -> None:
    """A drawn arm is a candidate, costs no more than the cap, and surely has the quality asked for."""
    settings = {"is_novel": is_novel, "min_quality": min_quality}
    before, after = run(arms, Exploration(rate, draw, ratio), tradeoff, **settings)
    by_name = {c.arm: c for c in arms}
    assert sorted(after.ranking) == sorted(by_name)
    assert after.ranking[0] == after.arm
    if after.is_explored:
        assert after.arm != before.arm
        assert before.reason in EXPLORABLE
        assert by_name[after.arm].charged_usd <= ratio * by_name["arm0"].charged_usd
        assert quality_bound(by_name[after.arm]) >= min_quality
    else:
        assert (after.arm, after.reason) == (before.arm, before.reason)


@given(
    candidate_sets(),
    st.tuples(below_one, below_one),
    st.floats(0.0, 3.0),
    tradeoffs,
    st.randoms(use_true_random=False),
)
def test_explore_any_order_gives_same_choice(arms, draw, ratio, tradeoff, random) -> None:
    """With the same draw the order of the candidates never matters."""
    shuffled = list(arms)
    random.shuffle(shuffled)
    exploration = Exploration(0.5, draw, ratio)
    assert run(arms, exploration, tradeoff)[1] == run(shuffled, exploration, tradeoff)[1]


@given(candidate_sets(), st.tuples(below_one, below_one), tradeoffs)
def test_explore_at_rate_zero_is_the_policy_itself(arms, draw, tradeoff) -> None:
    """Switched off, exploration changes nothing and every propensity is one."""
    before, after = run(arms, Exploration(0.0, draw, 10.0), tradeoff)
    assert after is before
    assert after.propensity == 1.0


@given(candidate_sets(), st.floats(0.0, 0.999), st.floats(0.0, 3.0), st.integers(0, 5))
def test_explore_cheaper_arm_is_never_less_likely(arms, rate, ratio, index) -> None:
    """Making an arm cheaper never lowers the probability that it answers."""
    tradeoff = Tradeoff("t", 0.1, 1.0)
    arm = arms[index % len(arms)]
    cheaper = [
        Candidate(c.arm, c.quality, c.quality_se, c.gain, c.gain_se, c.cost_usd / 2) if c is arm else c for c in arms
    ]

    def probability(candidates: list[Candidate]) -> float:
        return sum(c.propensity for c in outcomes(candidates, rate, ratio, tradeoff) if c.arm == arm.arm)

    assert probability(cheaper) >= probability(arms) - 1e-12


def test_explore_novel_prompt_and_cheapest_are_left_alone() -> None:
    """On a prompt that the router cannot judge, and at the knob's zero, nothing is tried out."""
    arms = [Candidate(f"arm{i}", 0.5, 0.01, 0.0, 0.01, 1.0) for i in range(3)]
    always = Exploration(1.0, (0.0, 0.99), 10.0)
    assert run(arms, always, is_novel=True)[1].reason is RouteReason.ABSTAINED_NOVEL
    assert run(arms, always, Tradeoff("0", math.inf, 1.0))[1].reason is RouteReason.CHEAPEST
    assert run(arms, always)[1].reason is RouteReason.EXPLORED


def test_explore_dear_arm_is_out_of_the_cap() -> None:
    """With a ratio of 1 no request is explored that costs more than the default arm would."""
    arms = [Candidate("arm0", 0.5, 0.01, 0.0, 0.0, 1.0), Candidate("dear", 0.5, 0.01, 0.0, 0.01, 1.01)]
    assert run(arms, Exploration(1.0, (0.0, 0.99), 1.0))[1].arm == "arm0"
    assert run(arms, Exploration(1.0, (0.0, 0.99), 1.02))[1].arm == "dear"
