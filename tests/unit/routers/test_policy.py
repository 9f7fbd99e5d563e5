"""Rules of the pure choice in `penstock_routers.policy`."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from penstock_routers.policy import Candidate, RouteReason, Tradeoff, decide, switch_bound, utility

BALANCED = Tradeoff("balanced", cost_weight=0.1, guard_z=1.0)
CHEAPEST = Tradeoff("0", cost_weight=math.inf, guard_z=1.0)
BEST = Tradeoff("quality", cost_weight=0.0, guard_z=1.0)


def candidate(arm: str, quality: float = 0.5, cost: float = 1.0, gain: float = 0.0, gain_se: float = 0.01) -> Candidate:
    """Return a candidate with a small standard error."""
    return Candidate(arm, quality, 0.02, gain, gain_se, cost)


unit = st.floats(0.0, 1.0)


@st.composite
def candidate_sets(draw: st.DrawFn) -> list[Candidate]:
    """Draw two to six candidates with unique names; the first one is the default."""
    count = draw(st.integers(2, 6))
    return [
        Candidate(
            f"arm{index}",
            draw(unit),
            draw(unit) / 10,
            0.0 if index == 0 else draw(st.floats(-1.0, 1.0)),
            0.0 if index == 0 else draw(unit) / 5,
            draw(st.floats(0.0, 10.0)),
        )
        for index in range(count)
    ]


tradeoffs = st.builds(Tradeoff, st.just("t"), st.one_of(st.floats(0.0, 5.0), st.just(math.inf)), st.floats(0.0, 3.0))


def test_decide_without_candidates_raises() -> None:
    """An empty candidate list is the caller's mistake."""
    with pytest.raises(ValueError, match="at least one"):
        decide([], default_arm="a", tradeoff=BALANCED, cost_scale_usd=1.0)


def test_decide_sure_saving_leaves_default() -> None:
    """A cheaper arm of equal quality is taken when the gain is surely not negative enough to matter."""
    choice = decide(
        [candidate("big", 0.8, 1.0, 0.0, 0.0), candidate("small", 0.8, 0.1, 0.0, 0.01)],
        default_arm="big",
        tradeoff=BALANCED,
        cost_scale_usd=1.0,
    )
    assert (choice.arm, choice.reason) == ("small", RouteReason.ROUTED)


def test_decide_uncertain_gain_keeps_default() -> None:
    """A better-looking arm is not taken while its gain is within the guard's standard errors."""
    choice = decide(
        [candidate("big", 0.8, 1.0, 0.0, 0.0), candidate("small", 0.8, 0.1, 0.0, 0.2)],
        default_arm="big",
        tradeoff=BALANCED,
        cost_scale_usd=1.0,
    )
    assert (choice.arm, choice.reason) == ("big", RouteReason.DEFAULT_KEPT)


def test_decide_novel_prompt_keeps_default() -> None:
    """A novel prompt keeps the default arm however good another one looks."""
    arms = [candidate("big", 0.5), candidate("small", 0.9, 0.0, 0.4, 0.0)]
    choice = decide(arms, default_arm="big", tradeoff=BALANCED, cost_scale_usd=1.0, is_novel=True)
    assert (choice.arm, choice.reason) == ("big", RouteReason.ABSTAINED_NOVEL)


def test_decide_filtered_default_takes_best_of_the_rest() -> None:
    """When the default arm cannot take the request, the highest utility among the others answers."""
    arms = [candidate("a", 0.5), candidate("b", 0.6)]
    choice = decide(arms, default_arm="gone", tradeoff=BEST, cost_scale_usd=1.0)
    assert (choice.arm, choice.reason) == ("b", RouteReason.DEFAULT_FILTERED)


def test_decide_infinite_weight_takes_cheapest() -> None:
    """The knob's zero takes the cheapest arm whatever its quality and uncertainty."""
    arms = [candidate("big", 0.9, 5.0, 0.0, 0.0), candidate("tiny", 0.1, 0.1, -0.8, 0.5)]
    choice = decide(arms, default_arm="big", tradeoff=CHEAPEST, cost_scale_usd=1.0)
    assert (choice.arm, choice.reason) == ("tiny", RouteReason.CHEAPEST)
    novel = decide(arms, default_arm="big", tradeoff=CHEAPEST, cost_scale_usd=1.0, is_novel=True)
    assert (novel.arm, novel.reason) == ("tiny", RouteReason.CHEAPEST)


def test_decide_single_candidate_names_its_reason() -> None:
    """One candidate is the default itself or the only one left."""
    only = [candidate("a")]
    assert decide(only, default_arm="a", tradeoff=BEST, cost_scale_usd=1.0).reason is RouteReason.DEFAULT_BEST
    assert decide(only, default_arm="b", tradeoff=BEST, cost_scale_usd=1.0).reason is RouteReason.ONLY_CANDIDATE


@given(candidate_sets(), tradeoffs, st.randoms(use_true_random=False), st.booleans())
def test_decide_any_order_gives_same_choice(arms, tradeoff, random, is_novel) -> None:
    """The order in which candidates are listed never matters."""
    shuffled = list(arms)
    random.shuffle(shuffled)
    settings = {"default_arm": "arm0", "tradeoff": tradeoff, "cost_scale_usd": 1.0, "is_novel": is_novel}
    assert decide(arms, **settings) == decide(shuffled, **settings)


@given(candidate_sets(), tradeoffs)
def test_decide_cheaper_chosen_arm_stays_chosen(arms, tradeoff) -> None:
    """An arm that is chosen is still chosen when it becomes cheaper and nothing else changes."""
    settings = {"default_arm": "arm0", "tradeoff": tradeoff, "cost_scale_usd": 1.0}
    chosen = decide(arms, **settings).arm
    cheaper = [replace(c, cost_usd=c.cost_usd / 2) if c.arm == chosen else c for c in arms]
    assert decide(cheaper, **settings).arm == chosen


@given(candidate_sets(), tradeoffs)
def test_decide_ranking_holds_every_candidate_once(arms, tradeoff) -> None:
    """The ranking starts with the choice and is a permutation of the candidates."""
    choice = decide(arms, default_arm="arm0", tradeoff=tradeoff, cost_scale_usd=1.0)
    assert choice.ranking[0] == choice.arm
    assert sorted(choice.ranking) == sorted(c.arm for c in arms)


@given(candidate_sets(), tradeoffs)
def test_decide_routed_arm_passes_the_guard(arms, tradeoff) -> None:
    """Leaving a present default arm always has a positive lower bound."""
    choice = decide(arms, default_arm="arm0", tradeoff=tradeoff, cost_scale_usd=1.0)
    by_name = {c.arm: c for c in arms}
    if choice.reason is RouteReason.CHEAPEST:
        assert by_name[choice.arm].cost_usd == min(c.cost_usd for c in arms)
    elif choice.arm != "arm0":
        assert switch_bound(by_name[choice.arm], by_name["arm0"], tradeoff, 1.0) > 0.0
        assert choice.reason is RouteReason.ROUTED


@given(candidate_sets(), st.floats(0.1, 1000.0))
def test_utility_scaled_prices_give_same_utility(arms, factor) -> None:
    """Multiplying every price, and so the scale, by one factor changes no utility: the currency is irrelevant."""
    for arm in arms:
        scaled = replace(arm, cost_usd=arm.cost_usd * factor)
        assert utility(scaled, BALANCED, factor) == pytest.approx(utility(arm, BALANCED, 1.0), abs=1e-9)


def test_route_reasons_are_all_documented(repository_root: Path) -> None:
    """Clients and dashboards read the closed set of reasons in docs/routing.md."""
    text = (repository_root / "docs" / "routing.md").read_text(encoding="utf-8")
    assert [reason for reason in RouteReason if f"| `{reason}` |" not in text] == []


@given(candidate_sets(), tradeoffs, st.floats(1e-6, 10.0), st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6))
def test_decide_ranks_by_the_utility_that_is_documented(
    arms: list[Candidate], tradeoff: Tradeoff, scale: float, switches: list[float]
) -> None:
    """What the ranking is sorted by is `utility` to the last digit, ties going to the cheaper arm and then the name."""
    arms = [replace(arm, switch_cost_usd=switch) for arm, switch in zip(arms, switches, strict=False)]
    choice = decide(arms, default_arm="arm0", tradeoff=tradeoff, cost_scale_usd=scale)
    by_name = {arm.arm: arm for arm in arms}
    assert choice.utilities == tuple(utility(by_name[arm], tradeoff, scale) for arm in choice.ranking)
    rest = [by_name[arm] for arm in choice.ranking[1:]]
    assert rest == sorted(rest, key=lambda c: (-utility(c, tradeoff, scale), c.charged_usd, c.arm))
