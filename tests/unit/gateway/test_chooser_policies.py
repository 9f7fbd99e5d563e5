"""Rules of floors, caps, quality asked for, exploration and warm conversations in the gateway's choice."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, cast

import pytest

from penstock_gateway.chooser import ArmChooser, RoutingParts
from penstock_gateway.conversations import Warm
from penstock_gateway.decisions import RouteDecision
from penstock_gateway.errors import NoCandidate
from penstock_gateway.money.prices import Price
from penstock_gateway.request_body import ChatRequest, parse_chat_request
from penstock_gateway.request_policy import PolicyRules, RequestPolicy
from penstock_routers.policy import RejectReason, RouteReason
from support.fakes import FakeArtifact, FakeEncoderService, deployment, price

SMALL = deployment("small", price=price("0.1", "0.4"))
LARGE = deployment("large", price=price("2", "8"))
FRONTIER = deployment("frontier", price=price("10", "30"))
EQUAL = {"small": 0.8, "large": 0.8, "frontier": 0.8}
SHARES = {"medical": 0.0, "general": 1.0}
MEDICAL_LARGE = RequestPolicy(floors={"medical": 2})


def request(text: str = "hello", **fields: object) -> ChatRequest:
    """Return a parsed request for ``auto``."""
    given = {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}
    return parse_chat_request(json.dumps(given).encode())


def chooser(
    artifact: FakeArtifact | None = None,
    *deployments: Any,
    rules: PolicyRules | None = None,
    default: str = "frontier",
    baseline: str = "frontier",
) -> ArmChooser:
    """Return a chooser over fakes; three deployments of equal quality unless given."""
    parts = None if artifact is None else RoutingParts(cast(Any, artifact), cast(Any, FakeEncoderService()))
    return ArmChooser(
        deployments or (SMALL, LARGE, FRONTIER),
        default_arm=default,
        baseline=baseline,
        tradeoff="balanced",
        parts=parts,
        rules=rules,
    )


def rejections(decision: RouteDecision) -> dict[str, RejectReason]:
    """Return the refused deployments with their reasons."""
    return {c.name: c.rejected for c in decision.candidates if c.rejected is not None}


async def test_choose_floored_category_takes_the_cheapest_tier_at_or_above_the_floor() -> None:
    """A medical prompt goes to the cheapest deployment that the floor allows, and the refusal is explained."""
    decision = await chooser(FakeArtifact(EQUAL, category="medical")).choose(request(), None, MEDICAL_LARGE)
    assert (decision.chosen, decision.floor) == ("large", "large")
    assert rejections(decision) == {"small": RejectReason.CATEGORY_FLOOR}
    (detail,) = (c.rejected_detail for c in decision.candidates if c.rejected)
    assert detail == "its tier small is below large, the floor of this prompt"


async def test_choose_other_category_is_not_floored() -> None:
    """A floor concerns its own category only."""
    artifact = FakeArtifact(EQUAL, category="coding", category_shares=SHARES)
    decision = await chooser(artifact).choose(request(), None, MEDICAL_LARGE)
    assert (decision.chosen, decision.floor) == ("small", None)


@pytest.mark.parametrize("setting", [0.0, "cost"])
@pytest.mark.parametrize(
    "artifact",
    [
        FakeArtifact(EQUAL, category_shares={"medical": 0.25, "general": 0.75}),
        FakeArtifact(EQUAL, category_shares=SHARES, novelty=0.9),
        FakeArtifact(EQUAL),
        None,
    ],
    ids=["likely", "novel", "unknown category", "no artifact"],
)
async def test_choose_uncertain_category_is_floored_at_every_setting_of_the_knob(
    artifact: FakeArtifact | None, setting: float | str
) -> None:
    """Where the category cannot be ruled out the floor holds, for the cheapest too."""
    decision = await chooser(artifact).choose(request(), setting, MEDICAL_LARGE)
    assert decision.chosen in ("large", "frontier")
    assert rejections(decision) == {"small": RejectReason.CATEGORY_FLOOR}


async def test_choose_floor_that_nobody_reaches_is_refused() -> None:
    """A floor is never broken in silence: when no deployment above it can take the request, there is an error."""
    blind = deployment("frontier", abilities=frozenset())
    with pytest.raises(NoCandidate, match="tier large or above") as caught:
        await chooser(FakeArtifact(EQUAL, category="medical"), SMALL, blind).choose(
            request(tools=[{}]), None, MEDICAL_LARGE
        )
    assert (caught.value.code, caught.value.status) == ("category_floor_unmet", 400)


async def test_choose_deployment_without_tier_is_below_every_floor() -> None:
    """What has no tier cannot be shown to reach one."""
    stray = deployment("stray", arm="small", tier=None, price=price("0", "0"))
    decision = await chooser(FakeArtifact(EQUAL, category="medical"), stray, FRONTIER).choose(
        request(), 0.0, MEDICAL_LARGE
    )
    assert decision.chosen == "frontier"


async def test_choose_cap_leaves_only_what_is_expected_to_cost_less() -> None:
    """Candidates above the cap are refused with both numbers; the default arm is no exception."""
    artifact = FakeArtifact({"small": 0.1, "large": 0.5, "frontier": 0.9})
    free = await chooser(artifact).choose(request(), "quality")
    assert free.chosen == "frontier"
    cost = {c.name: c.estimated_cost_usd for c in free.candidates}
    assert cost["large"] is not None
    capped = await chooser(artifact).choose(request(), "quality", RequestPolicy(max_cost_usd=cost["large"]))
    assert (capped.chosen, capped.reason) == ("large", RouteReason.DEFAULT_FILTERED)
    assert rejections(capped) == {"frontier": RejectReason.MAX_COST}


async def test_choose_cap_below_everything_names_the_cheapest_cost() -> None:
    """A cap is a cap: nothing is called, and the error says what would have been enough."""
    for artifact in (FakeArtifact(EQUAL), None):
        with pytest.raises(NoCandidate, match=r"small, is expected to cost 0\.000\d+ USD; the cap is") as caught:
            await chooser(artifact).choose(request(), None, RequestPolicy(max_cost_usd=1e-9))
        assert (caught.value.code, caught.value.param, caught.value.status) == (
            "max_cost_exceeded",
            "max_cost_usd",
            400,
        )
        enough = float(caught.value.message.split("cost ")[1].split(" USD")[0])
        assert (await chooser(artifact).choose(request(), None, RequestPolicy(max_cost_usd=enough))).chosen == "small"


async def test_choose_cap_under_a_floor_names_the_cheapest_above_the_floor() -> None:
    """The cost that is named is one at which the request could have been answered."""
    policy = RequestPolicy(max_cost_usd=1e-9, floors={"medical": 2})
    with pytest.raises(NoCandidate, match="that may answer, large,"):
        await chooser(FakeArtifact(EQUAL, category="medical")).choose(request(), None, policy)


def test_physical_model_above_the_cap_is_refused_and_floors_do_not_bind_it() -> None:
    """A cap holds for a named model too; a floor is about what Penstock chooses."""
    asked = chooser(FakeArtifact(EQUAL))
    assert asked.physical(request(), SMALL, RequestPolicy(floors={"medical": 3})).chosen == "small"
    with pytest.raises(NoCandidate) as caught:
        asked.physical(request(), FRONTIER, RequestPolicy(max_cost_usd=1e-6))
    assert caught.value.code == "max_cost_exceeded"


async def test_choose_min_quality_takes_the_cheapest_that_surely_has_it() -> None:
    """The knob does not matter then; what nobody has goes to the closest, with its own reason."""
    artifact = FakeArtifact({"small": 0.5, "large": 0.85, "frontier": 0.9})
    for setting in ("cost", "quality"):
        decision = await chooser(artifact).choose(request(), setting, RequestPolicy(min_quality=0.8))
        assert (decision.chosen, decision.reason, decision.min_quality) == ("large", RouteReason.MIN_QUALITY, 0.8)
    decision = await chooser(artifact).choose(request(), None, RequestPolicy(min_quality=0.99))
    assert (decision.chosen, decision.reason) == ("frontier", RouteReason.MIN_QUALITY_UNREACHABLE)


async def test_choose_min_quality_without_an_estimate_is_the_default() -> None:
    """Without estimates nothing can be said of quality, so the default arm answers."""
    decision = await chooser(None).choose(request(), None, RequestPolicy(min_quality=0.5))
    assert (decision.chosen, decision.reason) == ("frontier", RouteReason.ABSTAINED_NO_ESTIMATE)


async def test_choose_exploring_draws_from_the_decisions_own_id() -> None:
    """The draw is asked for with the id that the decision then carries, and is not asked for at rate 0."""
    asked_for: list[str] = []

    def draw(decision_id: str) -> tuple[float, float]:
        asked_for.append(decision_id)
        return 0.0, 0.99

    router = chooser(FakeArtifact(EQUAL), rules=PolicyRules(draw=draw))
    plain = await router.choose(request(), None)
    assert (asked_for, plain.propensity, plain.is_explored) == ([], 1.0, False)
    explored = await router.choose(request(), None, RequestPolicy(explore_rate=0.3))
    assert asked_for == [explored.id]
    assert (explored.chosen, explored.reason, explored.is_explored) == ("small", RouteReason.ROUTED, False)
    assert explored.propensity == pytest.approx(0.7 + 0.1)  # the draw hit the policy's own choice, the last by name


async def test_choose_explored_arm_is_never_a_refused_one() -> None:
    """Exploring at full rate never leaves the floor and the cap, whatever is drawn."""
    free = await chooser(FakeArtifact(EQUAL, category="medical")).choose(request(), None)
    frontier_cost = next(c.estimated_cost_usd for c in free.candidates if c.name == "frontier")
    policy = RequestPolicy(explore_rate=1.0, floors={"medical": 2}, max_cost_usd=frontier_cost)
    found = set()
    for step in range(20):
        rules = PolicyRules(draw=lambda _, at=step / 20: (0.0, at))  # type: ignore[misc]
        decision = await chooser(FakeArtifact(EQUAL, category="medical"), rules=rules).choose(request(), None, policy)
        found.add(decision.chosen)
        assert decision.propensity == pytest.approx(0.5)
    assert found == {"large", "frontier"}


async def test_choose_abstention_is_never_explored() -> None:
    """A prompt that the router cannot judge goes to the default arm, at any rate."""
    rules = PolicyRules(draw=lambda _: (0.0, 0.99))
    for artifact in (None, FakeArtifact(EQUAL, novelty=0.9)):
        decision = await chooser(artifact, rules=rules).choose(request(), None, RequestPolicy(explore_rate=1.0))
        assert (decision.chosen, decision.propensity) == ("frontier", 1.0)


CACHING = Price(Decimal("10"), Decimal("1"), Decimal("30"), Decimal("30"))


def conversation(tokens: int) -> ChatRequest:
    """Return a follow-up of about `tokens` prompt tokens."""
    messages = [
        {"role": "user", "content": "a" * 4 * (tokens - 16)},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": "go on"},
    ]
    return parse_chat_request(json.dumps({"model": "auto", "messages": messages}).encode())


async def test_choose_warm_conversation_prices_its_prefix_as_cached() -> None:
    """The warm deployment pays the cached price for the prefix, the others the full one, and the lost discount."""
    large = deployment("large", price=price("2", "8"), context_tokens=100_000)
    frontier = deployment("frontier", price=CACHING, context_tokens=100_000)
    asked = conversation(10_000)
    router = chooser(FakeArtifact(EQUAL), large, frontier, rules=PolicyRules(switch_share=0.5))
    decision = await router.choose(asked, None, warm=Warm("frontier", 8_000))
    by_name = {c.name: c for c in decision.candidates}
    fresh = asked.input_tokens - 8_000
    assert by_name["frontier"].estimated_cost_usd == pytest.approx((fresh * 10 + 8_000 * 1 + 100 * 30) / 1e6)
    assert by_name["frontier"].switch_cost_usd is None
    assert by_name["large"].estimated_cost_usd == pytest.approx((asked.input_tokens * 2 + 100 * 8) / 1e6)
    assert by_name["large"].switch_cost_usd == pytest.approx(0.5 * 8_000 * (10 - 1) / 1e6)
    assert decision.warm == "frontier"


async def test_choose_saving_in_a_conversation_is_against_a_baseline_that_is_warm_too() -> None:
    """Had the baseline answered every turn it would have its cache, so the saving is not inflated by a cold one."""
    small = deployment("small", price=price("0.1", "0.4"), context_tokens=100_000)
    frontier = deployment("frontier", price=CACHING, context_tokens=100_000)
    asked = conversation(10_000)
    decision = await chooser(FakeArtifact(EQUAL), small, frontier).choose(asked, None, warm=Warm("small", 8_000))
    assert decision.chosen == "small"
    fresh = asked.input_tokens - 8_000
    assert decision.baseline_cost_usd == pytest.approx((fresh * 10 + 8_000 * 1 + 100 * 30) / 1e6)


@pytest.mark.parametrize("policy", [RequestPolicy(), RequestPolicy(min_quality=0.5)], ids=["knob", "min_quality"])
async def test_choose_staying_is_paid_for_until_it_has_cost_as_much_as_leaving(policy: RequestPolicy) -> None:
    """What staying costs is added up from turn to turn, and lowers what leaving is charged with."""
    small = deployment("small", price=price("0.1", "0.4"), context_tokens=100_000)
    frontier = deployment("frontier", price=CACHING, context_tokens=100_000)
    artifact = FakeArtifact({"small": 0.8, "frontier": 0.8})
    router = chooser(artifact, small, frontier, rules=PolicyRules(switch_share=1.0))
    warm = Warm("frontier", 8_000)
    stayed = 0
    for _ in range(20):
        decision = await router.choose(conversation(8_500), None, policy, warm)
        if decision.chosen != "frontier":
            break
        stayed += 1
        assert decision.forgone_usd > warm.forgone_usd
        warm = Warm("frontier", 8_000, decision.forgone_usd)
    # Leaving is charged with 8,000 x 9 = 72,000 millionths of a dollar; a turn there saves 15,111 of them.
    assert stayed == 4


async def test_choose_naive_switching_costs_several_times_more_than_counting_on_caches() -> None:
    """Over ten turns of 20,000 tokens, switching between two equal models costs four times what staying does."""
    names = ("frontier", "large")
    models = [deployment(name, price=CACHING, context_tokens=1_000_000) for name in names]
    bills = {}
    for policy in ("naive", "aware"):
        warm: Warm | None = None
        seen: dict[str, int] = {}
        bill = 0.0
        for turn in range(10):
            better, worse = names if turn % 2 else reversed(names)
            artifact = FakeArtifact({better: 0.81, worse: 0.80}, output_tokens=50.0)
            router = chooser(artifact, *models)
            asked = conversation(20_000 + 500 * turn)
            arm = (await router.choose(asked, "cost", warm=warm if policy == "aware" else None)).chosen
            cached = seen.get(arm, 0) if warm is not None and warm.deployment == arm else 0
            bill += ((asked.input_tokens - cached) * 10 + cached * 1 + 50 * 30) / 1e6
            seen[arm] = asked.input_tokens
            warm = Warm(arm, asked.input_tokens)
        bills[policy] = bill
    assert bills["naive"] > 4.0 * bills["aware"], bills
