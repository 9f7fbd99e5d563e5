"""Rules of going on with a conversation: whoever answered last keeps it, where another could not or should not."""

from __future__ import annotations

import json
from typing import Any, cast

from penstock_gateway.chooser import ArmChooser, RoutingParts
from penstock_gateway.conversations import ConversationKeepers
from penstock_gateway.request_body import ChatRequest, parse_chat_request
from penstock_gateway.request_policy import RequestPolicy
from penstock_routers.policy import RouteReason
from support.fakes import FakeArtifact, FakeEncoderService, deployment, price

SMALL = deployment("small", price=price("0.1", "0.4"))
LARGE = deployment("large", price=price("2", "8"))
FRONTIER = deployment("frontier", price=price("10", "30"))
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
SIGNED = [{"type": "thinking", "thinking": "hm", "signature": "c2lnbmVk"}]


def request(*messages: dict[str, Any]) -> ChatRequest:
    """Return a parsed request for ``auto``."""
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}, *messages]}
    return parse_chat_request(json.dumps(body).encode())


def agent_step() -> ChatRequest:
    """Return a request that ends with a tool's result."""
    return request(
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
    )


def chooser() -> ArmChooser:
    """Return a chooser over fakes that would take the small deployment."""
    artifact = FakeArtifact({"small": 0.8, "large": 0.8, "frontier": 0.8})
    parts = RoutingParts(cast(Any, artifact), cast(Any, FakeEncoderService()))
    return ArmChooser(
        (SMALL, LARGE, FRONTIER), default_arm="frontier", baseline="frontier", tradeoff="balanced", parts=parts
    )


def test_request_that_ends_with_a_tool_result_is_an_agent_step() -> None:
    """A tool's result after the last answer makes a step, reminder or not; a user's next question does not."""
    assert agent_step().is_agent_step
    called = (
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
    )
    assert request(*called, {"role": "user", "content": "(a reminder)"}).is_agent_step
    asked_again = request(
        *called, {"role": "assistant", "content": "It is 42."}, {"role": "user", "content": "and now?"}
    )
    assert not asked_again.is_agent_step


def test_request_with_signed_thinking_or_reasoning_items_is_bound() -> None:
    """What only its model can read binds a conversation; empty lists and nulls do not."""
    assert request({"role": "assistant", "content": "x", "thinking_blocks": SIGNED}).is_bound
    assert request({"role": "assistant", "content": "x", "reasoning_items": [{"encrypted_content": "e"}]}).is_bound
    assert not request({"role": "assistant", "content": "x", "thinking_blocks": [], "reasoning_items": None}).is_bound


async def test_choose_agent_step_stays_with_its_keeper_without_reading_the_prompt() -> None:
    """The step goes to whoever asked for the tool although another is cheaper, and nothing is embedded."""
    made = chooser()
    decision = await made.choose(agent_step(), None, keeper="large")
    assert (decision.chosen, decision.reason) == ("large", RouteReason.CONTINUED)
    assert [report.name for report in decision.candidates] == ["large", "frontier", "small"]
    assert decision.artifact_id is None


async def test_choose_bound_conversation_has_no_other_candidate() -> None:
    """Another model cannot read it, so there is nothing to fall back to."""
    made = chooser()
    decision = await made.choose(
        request({"role": "assistant", "content": "x", "thinking_blocks": SIGNED}), None, keeper="large"
    )
    assert [report.name for report in decision.candidates if report.rejected is None] == ["large"]


async def test_choose_keeper_that_the_key_may_not_use_is_passed_over() -> None:
    """What a key may not use does not go on with its conversation either."""
    made = chooser()
    policy = RequestPolicy(choosable=frozenset({"small", "frontier"}))
    decision = await made.choose(agent_step(), None, policy, keeper="large")
    assert decision.chosen == "small"
    assert decision.reason is not RouteReason.CONTINUED


def test_keepers_forget_the_longest_unused_and_keep_tenants_apart() -> None:
    """The memory is bounded, looking counts as use, and one tenant's id says nothing to another."""
    keepers = ConversationKeepers(keep=2)
    keepers.remember("a", "first", "small")
    keepers.remember("a", "second", "large")
    assert keepers.find("a", "first") == "small"
    keepers.remember("a", "third", "frontier")
    assert (keepers.find("a", "first"), keepers.find("a", "second"), len(keepers)) == ("small", None, 2)
    assert keepers.find("b", "first") is None
