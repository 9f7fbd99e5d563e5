"""Rules of choosing a deployment: filter, estimate, decide, abstain."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from msgspec import structs

from penstock_gateway.arm_costs import ArmCosts
from penstock_gateway.chooser import ArmChooser, RoutingParts
from penstock_gateway.deployments import Ability, Deployment
from penstock_gateway.errors import NoCandidate
from penstock_gateway.request_body import ChatRequest, parse_chat_request
from penstock_routers.errors import EncoderError
from penstock_routers.policy import RejectReason, RouteReason
from penstock_routers.token_counts import ASSUMED_OUTPUT_TOKENS
from support.fakes import ALL_ABILITIES, FakeArtifact, FakeEncoderService, deployment, price

SMALL = deployment("small", price=price("0.1", "0.4"))
FRONTIER = deployment("frontier", price=price("10", "30"))
EQUAL_QUALITY = {"small": 0.8, "frontier": 0.8}


def request(text: str = "hello", **fields: object) -> ChatRequest:
    """Return a parsed request for ``auto``."""
    given = {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}
    return parse_chat_request(json.dumps(given).encode())


def chooser(
    artifact: FakeArtifact | None,
    *deployments: Deployment,
    default: str = "frontier",
    failure: Exception | None = None,
    on_failure: Callable[[], None] = lambda: None,
) -> ArmChooser:
    """Return a chooser over fakes."""
    parts = None
    if artifact is not None:
        parts = RoutingParts(cast(Any, artifact), cast(Any, FakeEncoderService(failure)))
    return ArmChooser(
        deployments or (SMALL, FRONTIER),
        default_arm=default,
        baseline="frontier",
        tradeoff="balanced",
        parts=parts,
        on_failure=on_failure,
    )


async def test_choose_equal_quality_takes_the_cheaper_and_states_the_saving() -> None:
    """Two arms of equal quality: the cheaper answers, and the saving is the difference of the two estimates."""
    decision = await chooser(FakeArtifact(EQUAL_QUALITY)).choose(request(), None)
    assert (decision.chosen, decision.reason) == ("small", RouteReason.ROUTED)
    small, frontier = decision.candidates
    assert small.estimated_cost_usd is not None
    assert frontier.estimated_cost_usd is not None
    assert decision.estimated_saving_usd == pytest.approx(frontier.estimated_cost_usd - small.estimated_cost_usd)


async def test_choose_cost_estimate_uses_own_prices_and_predicted_tokens() -> None:
    """The estimate is prompt tokens at the input price plus predicted tokens at the output price."""
    decision = await chooser(FakeArtifact(EQUAL_QUALITY, output_tokens=200.0)).choose(request(), None)
    assert decision.estimated_cost_usd == pytest.approx((decision.input_tokens * 0.1 + 200 * 0.4) / 1e6)


async def test_choose_token_limit_caps_the_estimate() -> None:
    """A request that limits its output cannot be expected to cost more than that limit; ``n`` multiplies it."""
    decision = await chooser(FakeArtifact(EQUAL_QUALITY, output_tokens=200.0)).choose(request(max_tokens=10, n=3), None)
    assert decision.candidates[0].output_tokens == pytest.approx(30.0)


async def test_choose_filtered_arm_is_reported_with_its_reason() -> None:
    """A deployment that cannot take the request is listed with the reason, never chosen."""
    weak = deployment("small", abilities=ALL_ABILITIES - {Ability.TOOLS}, price=price("0.1", "0.4"))
    decision = await chooser(FakeArtifact(EQUAL_QUALITY), weak, FRONTIER).choose(request(tools=[{"type": "x"}]), None)
    assert decision.chosen == "frontier"
    assert [(c.name, c.rejected) for c in decision.candidates if c.rejected] == [("small", RejectReason.NO_TOOLS)]


async def test_choose_novel_prompt_abstains_to_default() -> None:
    """A prompt beyond the novelty bound is answered by the default arm."""
    decision = await chooser(FakeArtifact(EQUAL_QUALITY, novelty=0.9)).choose(request(), None)
    assert (decision.chosen, decision.reason) == ("frontier", RouteReason.ABSTAINED_NOVEL)


@pytest.mark.parametrize("text", ["", "   \n"])
async def test_choose_without_text_abstains(text: str) -> None:
    """Nothing to embed means no estimate."""
    decision = await chooser(FakeArtifact(EQUAL_QUALITY)).choose(request(text), None)
    assert decision.reason is RouteReason.ABSTAINED_NO_ESTIMATE


async def test_choose_attachment_abstains() -> None:
    """The router has only seen text; a request with an image is answered by the default arm."""
    parts = [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    asked = parse_chat_request(json.dumps({"model": "auto", "messages": [{"role": "user", "content": parts}]}).encode())
    decision = await chooser(FakeArtifact(EQUAL_QUALITY)).choose(asked, None)
    assert (decision.chosen, decision.reason) == ("frontier", RouteReason.ABSTAINED_NO_ESTIMATE)


@pytest.mark.parametrize("failure", [EncoderError("broken"), ValueError("bug"), TimeoutError()])
async def test_choose_router_failure_never_fails_the_request(failure: Exception) -> None:
    """Whatever goes wrong in the router, the default arm answers and the failure is counted."""
    failures: list[None] = []
    failing = chooser(FakeArtifact(EQUAL_QUALITY), failure=failure, on_failure=lambda: failures.append(None))
    decision = await failing.choose(request(), None)
    assert (decision.chosen, decision.reason) == ("frontier", RouteReason.ABSTAINED_NO_ESTIMATE)
    assert len(failures) == 1


async def test_choose_without_artifact_states_an_assumed_cost() -> None:
    """Without an artifact the default answers and its cost is estimated with the assumed output length."""
    decision = await chooser(None).choose(request(), None)
    assert decision.artifact_id is None
    expected = (decision.input_tokens * 10 + ASSUMED_OUTPUT_TOKENS * 30) / 1e6
    assert decision.estimated_cost_usd == pytest.approx(expected)


async def test_choose_abstaining_with_filtered_default_takes_highest_tier_left() -> None:
    """Without estimates and without the default, capability comes before price."""
    blind = deployment("frontier", abilities=ALL_ABILITIES - {Ability.JSON})
    large = deployment("large", price=price("5", "9"))
    decision = await chooser(None, SMALL, large, blind).choose(request(response_format={"type": "json_object"}), None)
    assert decision.chosen == "large"


async def test_choose_nothing_fits_names_every_reason() -> None:
    """When every deployment is filtered the error lists each one's obstacle."""
    tiny = deployment("small", context_tokens=10)
    blind = deployment("frontier", abilities=frozenset())
    with pytest.raises(NoCandidate, match=r"small: .*context of 10; frontier: .*no tools") as caught:
        await chooser(None, tiny, blind).choose(request("a" * 100, tools=[{}]), None)
    assert caught.value.code == "no_candidate"


async def test_choose_too_long_for_all_has_openais_code() -> None:
    """A prompt too long for every candidate carries the code that clients know."""
    with pytest.raises(NoCandidate) as caught:
        await chooser(None).choose(request("a" * 100_000), None)
    assert caught.value.code == "context_length_exceeded"


async def test_choose_arm_missing_from_artifact_is_no_candidate() -> None:
    """A deployment whose arm the artifact does not know is reported, not guessed."""
    stray = deployment("stray", tier=None, price=price("0", "0"))
    decision = await chooser(FakeArtifact(EQUAL_QUALITY), SMALL, FRONTIER, stray).choose(request(), None)
    assert decision.chosen == "small"
    assert [c.rejected for c in decision.candidates if c.name == "stray"] == [RejectReason.NO_ESTIMATE]


async def test_choose_unroutable_deployment_is_never_chosen() -> None:
    """A deployment that is not routable is not even listed."""
    hidden = deployment("small", is_routable=False, price=price("0", "0"))
    decision = await chooser(FakeArtifact(EQUAL_QUALITY), hidden, FRONTIER).choose(request(), "cost")
    assert [c.name for c in decision.candidates] == ["frontier"]


async def test_choose_two_deployments_of_one_arm_take_the_cheaper() -> None:
    """Deployments that share an arm share its estimates, so price decides between them."""
    dear = deployment("dear", arm="small", tier="small", price=price("0.2", "0.8"))
    decision = await chooser(FakeArtifact(EQUAL_QUALITY), dear, SMALL, FRONTIER).choose(request(), None)
    assert decision.chosen == "small"


async def test_choose_knob_zero_needs_no_estimate() -> None:
    """The cheapest is the cheapest, whether or not the router knows the prompt."""
    for asked in (chooser(None), chooser(FakeArtifact(EQUAL_QUALITY, novelty=0.9))):
        decision = await asked.choose(request(), 0.0)
        assert (decision.chosen, decision.reason) == ("small", RouteReason.CHEAPEST)


async def test_choose_knob_zero_is_cheapest_and_one_is_best() -> None:
    """The ends of the knob are the cheapest and the best arm."""
    artifact = FakeArtifact({"small": 0.3, "frontier": 0.9})
    assert (await chooser(artifact).choose(request(), 0.0)).chosen == "small"
    assert (await chooser(artifact).choose(request(), 1.0)).chosen == "frontier"


async def test_choose_with_a_reading_made_before_counts_its_time() -> None:
    """`routing_ms` is embedding, estimating and deciding, whoever did the first two."""
    chosen = chooser(FakeArtifact(EQUAL_QUALITY))
    reading = structs.replace(await chosen.read(request()), duration_ms=250.0)
    decision = await chosen.choose(request(), None, reading=reading)
    assert decision.routing_ms >= 250.0


async def test_choose_estimates_of_another_artifact_are_read_in_its_own_order() -> None:
    """Where an arm's numbers stand is remembered per artifact; another one lists its arms in another order."""
    small_first, frontier_first = {"small": 0.1, "frontier": 0.9}, {"frontier": 0.9, "small": 0.1}
    arms = chooser(FakeArtifact(small_first))
    for artifact in (FakeArtifact(small_first), FakeArtifact(frontier_first)):
        arms = arms.with_artifact(
            cast(Any, artifact), cast(Any, FakeEncoderService()), {"small": "small", "frontier": "frontier"}
        )
        decision = await arms.choose(request(), "quality")
        qualities = {report.name: report.quality for report in decision.candidates}
        assert qualities == {"small": pytest.approx(0.1), "frontier": pytest.approx(0.9)}


def test_costs_of_a_deployment_of_an_earlier_configuration_are_by_its_own_price() -> None:
    """A reload may change a price while an answer of before is still being looked at."""
    costs = ArmCosts((SMALL, FRONTIER), 0.25)
    before = deployment("small", price=price("1", "4"))
    now, then = costs.score(request(), SMALL), costs.score(request(), before)
    assert then.cost_usd == pytest.approx(10 * now.cost_usd)
