"""Rules of floors, caps, a quality asked for, and switching costs, on top of the choice itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from penstock_routers.policy import (
    Candidate,
    Choice,
    RejectReason,
    RouteReason,
    Tradeoff,
    decide,
    quality_bound,
)
from penstock_routers.policy_limits import NO_TIER, Limits, floor_rank, violation
from penstock_routers.warmth import cached_tokens, input_cost_usd, switch_cost_usd

FLOORS = {"medical": 2, "coding": 1}
unit = st.floats(0.0, 1.0)


@dataclass(frozen=True)
class Offer:
    """A candidate with the rank of its tier."""

    candidate: Candidate
    rank: int


@st.composite
def offers(draw: st.DrawFn) -> list[Offer]:
    """Draw two to six offers; the first is the default arm and of the highest tier."""
    count = draw(st.integers(2, 6))
    return [
        Offer(
            Candidate(
                f"arm{index}",
                draw(unit),
                draw(unit) / 10,
                0.0 if index == 0 else draw(st.floats(-1.0, 1.0)),
                0.0 if index == 0 else draw(unit) / 5,
                draw(st.floats(0.0, 10.0)),
                draw(st.one_of(st.just(0.0), st.floats(0.0, 5.0))),
            ),
            3 if index == 0 else draw(st.integers(NO_TIER, 3)),
        )
        for index in range(count)
    ]


tradeoffs = st.builds(Tradeoff, st.just("t"), st.one_of(st.floats(0.0, 5.0), st.just(math.inf)), st.floats(0.0, 3.0))
qualities = st.one_of(st.none(), unit)
limits = st.builds(Limits, st.integers(NO_TIER, 3), st.one_of(st.none(), st.floats(0.0, 10.0)))


def allowed(given_offers: list[Offer], limit: Limits) -> list[Offer]:
    """Keep the offers that the limits allow."""
    return [o for o in given_offers if violation(limit, tier_rank=o.rank, cost_usd=o.candidate.cost_usd) is None]


def choose(given_offers: list[Offer], tradeoff: Tradeoff, min_quality: float | None, is_novel: bool = False) -> Choice:
    """Decide among offers with the first arm as the default."""
    return decide(
        [o.candidate for o in given_offers],
        default_arm="arm0",
        tradeoff=tradeoff,
        cost_scale_usd=1.0,
        is_novel=is_novel,
        min_quality=min_quality,
    )


@given(offers(), limits, tradeoffs, qualities, st.booleans(), st.randoms(use_true_random=False))
def test_decide_with_limits_any_order_gives_same_choice(drawn, limit, tradeoff, min_quality, is_novel, random) -> None:
    """With floor, cap, quality asked for and switching costs in force the order of arms still never matters."""
    kept = allowed(drawn, limit)
    if not kept:
        return
    shuffled = list(drawn)
    random.shuffle(shuffled)
    assert choose(kept, tradeoff, min_quality, is_novel) == choose(
        allowed(shuffled, limit), tradeoff, min_quality, is_novel
    )


@given(offers(), limits, tradeoffs, qualities, st.booleans(), unit)
def test_decide_with_limits_cheaper_chosen_arm_stays_chosen(
    drawn, limit, tradeoff, min_quality, is_novel, factor
) -> None:
    """An arm that is chosen is still chosen when it becomes cheaper, whatever cap and switching costs are in force."""
    kept = allowed(drawn, limit)
    if not kept:
        return
    chosen = choose(kept, tradeoff, min_quality, is_novel).arm
    cheaper = [
        replace(o, candidate=structs.replace(o.candidate, cost_usd=o.candidate.cost_usd * factor))
        if o.candidate.arm == chosen
        else o
        for o in drawn
    ]
    assert choose(allowed(cheaper, limit), tradeoff, min_quality, is_novel).arm == chosen


@given(offers(), st.integers(NO_TIER, 3), st.integers(NO_TIER, 3), tradeoffs, qualities, st.booleans())
def test_decide_under_a_raised_floor_never_takes_a_lower_tier(
    drawn, one, other, tradeoff, min_quality, is_novel
) -> None:
    """With the default arm above every floor, raising a floor never lowers the tier that answers."""
    rank = {o.candidate.arm: o.rank for o in drawn}
    low, high = sorted((one, other))
    below, above = (choose(allowed(drawn, Limits(floor)), tradeoff, min_quality, is_novel).arm for floor in (low, high))
    assert rank[above] >= max(rank[below], high)


@given(offers(), limits, tradeoffs, qualities)
def test_decide_filtered_arm_is_never_chosen_nor_ranked(drawn, limit, tradeoff, min_quality) -> None:
    """An arm below the floor or above the cap occurs nowhere in the choice, whatever the knob says."""
    kept = allowed(drawn, limit)
    if not kept:
        return
    choice = choose(kept, tradeoff, min_quality)
    by_name = {o.candidate.arm: o for o in drawn}
    for arm in choice.ranking:
        assert by_name[arm].rank >= limit.min_tier_rank
        assert limit.max_cost_usd is None or by_name[arm].candidate.cost_usd <= limit.max_cost_usd


@given(offers(), tradeoffs, unit)
def test_decide_min_quality_takes_the_cheapest_that_surely_reaches_it(drawn, tradeoff, min_quality) -> None:
    """No arm that surely reaches the quality is cheaper than the one chosen; without one the closest answers."""
    choice = choose(drawn, tradeoff, min_quality)
    by_name = {o.candidate.arm: o.candidate for o in drawn}
    reaching = [c for c in by_name.values() if quality_bound(c) >= min_quality]
    chosen = by_name[choice.arm]
    if reaching:
        assert choice.reason is RouteReason.MIN_QUALITY
        assert chosen in reaching
        assert chosen.charged_usd == min(c.charged_usd for c in reaching)
    else:
        assert choice.reason is RouteReason.MIN_QUALITY_UNREACHABLE
        assert quality_bound(chosen) == max(quality_bound(c) for c in by_name.values())


def test_decide_min_quality_of_a_novel_prompt_keeps_the_default() -> None:
    """Estimates of a novel prompt reach nothing surely, so the default arm answers."""
    arms = [Candidate("big", 0.2, 0.0, 0.0, 0.0, 1.0), Candidate("small", 0.99, 0.0, 0.7, 0.0, 0.1)]
    choice = decide(
        arms,
        default_arm="big",
        tradeoff=Tradeoff("t", 0.1, 1.0),
        cost_scale_usd=1.0,
        is_novel=True,
        min_quality=0.9,
    )
    assert (choice.arm, choice.reason) == ("big", RouteReason.ABSTAINED_NOVEL)


def test_decide_min_quality_uncertain_arm_does_not_count() -> None:
    """A cheap arm whose estimate reaches the quality but whose bound does not is passed over."""
    arms = [Candidate("big", 0.95, 0.01, 0.0, 0.0, 1.0), Candidate("small", 0.95, 0.1, 0.0, 0.1, 0.1)]
    choice = decide(arms, default_arm="big", tradeoff=Tradeoff("t", 0.1, 1.0), cost_scale_usd=1.0, min_quality=0.9)
    assert (choice.arm, choice.reason) == ("big", RouteReason.MIN_QUALITY)


def test_decide_switching_cost_keeps_a_conversation_where_it_is_warm() -> None:
    """A saving that is smaller than what leaving the warm arm costs is not taken; at the knob's zero it is."""
    warm = Candidate("warm", 0.8, 0.0, 0.0, 0.0, 0.010)
    other = Candidate("other", 0.8, 0.0, 0.0, 0.0, 0.008, switch_cost_usd=0.05)
    for cost_weight, expected in ((1.0, "warm"), (math.inf, "other")):
        tradeoff = Tradeoff("t", cost_weight, 1.0)
        assert decide([warm, other], default_arm="warm", tradeoff=tradeoff, cost_scale_usd=0.01).arm == expected
    free = structs.replace(other, switch_cost_usd=0.0)
    assert (
        decide([warm, free], default_arm="warm", tradeoff=Tradeoff("t", 1.0, 1.0), cost_scale_usd=0.01).arm == "other"
    )


@pytest.mark.parametrize(
    ("category", "shares", "is_novel", "expected"),
    [
        ("medical", {"medical": 0.9, "coding": 0.0}, False, 2),
        ("coding", {"medical": 0.1, "coding": 0.8}, False, 1),
        ("coding", {"medical": 0.25, "coding": 0.7}, False, 2),  # a second category that is likely enough counts too
        ("general", {"medical": 0.3, "coding": 0.1}, False, 2),  # the head abstains, yet medical is likely
        ("general", {"medical": 0.1, "coding": 0.1}, False, NO_TIER),
        ("general", {"medical": 0.1, "coding": 0.1}, True, 2),  # the label of a novel prompt is a guess
        ("general", {"coding": 0.1}, False, 2),  # the artifact cannot tell what is medical
        ("general", {"medical": math.nan, "coding": 0.1}, False, 2),
        (None, {}, False, 2),  # no estimate at all
    ],
)
def test_floor_rank_of_an_uncertain_label_fails_safe(
    category: str | None, shares: dict[str, float], is_novel: bool, expected: int
) -> None:
    """A floor applies when its category is the label, is likely enough, or cannot be ruled out."""
    assert floor_rank(FLOORS, category=category, shares=shares, is_novel=is_novel) == expected


def test_floor_rank_without_floors_is_no_floor() -> None:
    """A gateway without floors asks nothing of any prompt."""
    assert floor_rank({}, category=None, shares={}, is_novel=True) == NO_TIER


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)),
    st.sampled_from("abc"),
    st.integers(0, 3),
    st.one_of(st.none(), st.sampled_from("abcd")),
    st.dictionaries(st.sampled_from("abcd"), unit),
    st.booleans(),
)
def test_floor_rank_of_a_raised_floor_is_never_lower(floors, raised, rank, category, shares, is_novel) -> None:
    """Adding a floor, or raising one, never lowers what a prompt asks for."""
    higher = {**floors, raised: max(rank, floors.get(raised, NO_TIER))}
    before, after = (floor_rank(f, category=category, shares=shares, is_novel=is_novel) for f in (floors, higher))
    assert after >= before


def test_violation_floor_comes_before_cap() -> None:
    """An arm that breaks both is named for the floor: it is no alternative, however high the cap."""
    limit = Limits(2, 0.5)
    assert violation(limit, tier_rank=1, cost_usd=1.0) is RejectReason.CATEGORY_FLOOR
    assert violation(limit, tier_rank=2, cost_usd=1.0) is RejectReason.MAX_COST
    assert violation(limit, tier_rank=2, cost_usd=0.5) is None
    assert violation(limit, tier_rank=2, cost_usd=math.nan) is RejectReason.MAX_COST
    assert violation(Limits(), tier_rank=NO_TIER, cost_usd=1e9) is None


def test_warmth_of_a_short_prompt_is_none() -> None:
    """Providers cache nothing below 1,024 tokens, so a short conversation may switch freely."""
    assert (cached_tokens(1023, 2000), cached_tokens(1024, 2000), cached_tokens(3000, 2000)) == (0, 1024, 2000)


def test_switch_cost_is_the_discount_lost_and_never_negative() -> None:
    """Leaving costs the discount on the cached prefix; a provider without one, or with a surcharge, costs nothing."""
    assert switch_cost_usd(10_000, 3.0, 0.3, 1.0) == pytest.approx(0.027)
    assert switch_cost_usd(10_000, 3.0, 3.0, 1.0) == 0.0
    assert switch_cost_usd(10_000, 3.0, 4.0, 1.0) == 0.0
    cold, warm = (input_cost_usd(10_000, cached, 3.0, 0.3) for cached in (0, 10_000))
    assert cold - warm == pytest.approx(switch_cost_usd(10_000, 3.0, 0.3, 1.0))
