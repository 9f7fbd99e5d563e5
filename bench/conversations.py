"""The price of changing the model in the middle of a conversation, and what counting on prompt caches saves.

Providers read a prompt that they have just seen from a cache at a tenth of its price; a router that changes the model
from turn to turn pays the full price each time. Conversations of ten turns over a long first prompt are routed three
ways by the gateway's own chooser: *naive* (every prompt as if it were the first), *aware* (the expected cost knows
which prefix is cached where) with several shares of regret, and *fixed* (one model for all). The bill is worked out
from what each provider really has cached. Nothing is sent anywhere; prices come from the bundled list, qualities are
made up. Run ``python bench/conversations.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import numpy as np
from machine import describe_machine, machine_lines

from penstock_gateway.chooser import ArmChooser, RoutingParts
from penstock_gateway.conversations import Warm
from penstock_gateway.deployments import Ability, Deployment
from penstock_gateway.money.prices import Price, cost_usd
from penstock_gateway.money.snapshot import load_snapshot
from penstock_gateway.money.usage import Usage
from penstock_gateway.request_body import ChatRequest
from penstock_gateway.request_policy import PolicyRules
from penstock_routers.estimates import Estimate
from penstock_routers.policy import Tradeoff
from penstock_routers.warmth import cached_tokens

TURNS = 10
FIRST_TOKENS = 20_000  # instructions, tools and documents of an agent or an assistant
TURN_TOKENS = 300
ANSWER_TOKENS = 500
COST_WEIGHT = 0.02  # λ; twenty thousand tokens at the large model are worth a fifth of an answer
CACHE_SECONDS = 300.0  # what OpenAI and Anthropic promise at least, from the last use
GAPS = {"a turn every 10 s (agents)": 10.0, "a turn every 3 min (people)": 180.0}
MODELS = {
    "large": ("openai", "gpt-5.4"),
    "peer": ("anthropic", "claude-sonnet-4-6"),
    "peer-2": ("gemini", "gemini-3.1-pro-preview"),
    "small": ("openai", "gpt-5.4-nano"),
}
# Chance of a good answer per kind of turn. The peer is now a little better than the large model, now a little worse.
SKILL = {
    "hard": {"large": 0.85, "peer": 0.85, "peer-2": 0.85, "small": 0.30},
    "easy": {"large": 0.95, "peer": 0.95, "peer-2": 0.95, "small": 0.94},
}
SHARES = (0.0, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Scenario:
    """A kind of conversation.

    Attributes
    ----------
    name : str
    models : tuple of str
        The first is the default.
    hard : tuple of float
        Chance of a hard turn, per turn.
    noise : float
        Standard deviation of the estimates around the true quality.
    """

    name: str
    models: tuple[str, ...]
    hard: tuple[float, ...]
    noise: float


SCENARIOS = (
    Scenario("three peers, a toss-up", ("large", "peer", "peer-2"), (1.0,) * TURNS, 0.1),
    Scenario("hard and easy turns mixed", ("large", "small"), (0.5,) * TURNS, 0.02),
    Scenario("hard at first, then easy", ("large", "small"), (1.0, 1.0) + (0.0,) * (TURNS - 2), 0.02),
    Scenario("hard throughout", ("large", "small"), (1.0,) * TURNS, 0.02),
)


class _ScriptedArtifact:
    """A router whose estimate for the next turn is set from outside."""

    id = "sha256:" + "0" * 64
    reads_context = False

    def __init__(self, arms: tuple[str, ...]) -> None:
        self.manifest = SimpleNamespace(arms=arms)
        self.quality = dict.fromkeys(arms, 0.5)

    def estimate(self, vector: Any, features: Any, *, reference_arm: str, context: Any = None) -> Estimate:
        """Return the quality that was set."""
        arms = self.manifest.arms
        quality = np.array([self.quality[arm] for arm in arms], dtype=np.float32)
        zeros = np.zeros(len(arms), dtype=np.float32)
        gain = quality - quality[arms.index(reference_arm)]
        tokens = np.full(len(arms), ANSWER_TOKENS, dtype=np.float32)
        return Estimate.of(
            arms, reference_arm, quality=quality, quality_se=zeros, gain=gain, gain_se=zeros, output_tokens=tokens
        )

    def is_novel(self, estimate: Estimate) -> bool:
        """Every prompt is familiar."""
        return False

    def cost_scale_usd(self, input_price: float, output_price: float) -> float:
        """Return the cost of one typical request: the bundled router's reference, 300 tokens in and 300 out."""
        return (300.0 * input_price + 300.0 * output_price) / 1e6

    def tradeoff(self, value: str | float) -> Tradeoff:
        """Return the one setting of this bench."""
        return Tradeoff(str(value), COST_WEIGHT, 0.0)


class _NoEncoder:
    async def encode(self, text: str) -> Any:
        """The script does not look at vectors."""
        return np.zeros(1, dtype=np.float32)


def deployments_of(names: tuple[str, ...]) -> list[Deployment]:
    """Return deployments with the bundled list's prices."""
    snapshot, found = load_snapshot(), []
    for name in names:
        provider, model = MODELS[name]
        facts = snapshot.models[provider][model]
        cached = facts.input if facts.cached_input is None else facts.cached_input
        price = Price(facts.input, cached, facts.output, facts.output if facts.reasoning is None else facts.reasoning)
        found.append(Deployment(name, model, "direct", "", None, name, price, 1_000_000, 100_000, frozenset(Ability)))
    return found


async def run_scenario(
    scenario: Scenario, gap: float, policy: str, share: float, conversations: int
) -> tuple[float, float]:
    """Return the mean bill of a conversation, USD, and the mean chance of a good answer."""
    deployments = deployments_of(scenario.models)
    prices = {deployment.name: deployment.price for deployment in deployments}
    artifact: Any = _ScriptedArtifact(scenario.models)
    encoder: Any = _NoEncoder()
    chooser = ArmChooser(
        deployments,
        default_arm=scenario.models[0],
        baseline=scenario.models[0],
        tradeoff="balanced",
        parts=RoutingParts(artifact, encoder),
        rules=PolicyRules(switch_share=share),
    )
    bill = quality = 0.0
    for number in range(conversations):
        # What each provider has cached, and since which turn: every policy is billed by the same truth.
        seen: dict[str, tuple[int, int]] = {}
        warm: Warm | None = None
        for turn, tokens, script in _turns(scenario, number):
            artifact.quality = script["estimate"]
            arm, forgone = scenario.models[0], 0.0
            if policy != "fixed":
                request = _request(tokens, is_follow_up=turn > 0)
                decision = await chooser.choose(request, None, warm=warm if policy == "aware" else None)
                arm, forgone = decision.chosen, decision.forgone_usd
            before, then = seen.get(arm, (0, 0))
            cached = cached_tokens(before, tokens) if (turn - then) * gap <= CACHE_SECONDS else 0
            bill += float(cost_usd(Usage(tokens, ANSWER_TOKENS, cached), prices[arm]))
            quality += script["quality"][arm]
            seen[arm] = tokens, turn
            warm = Warm(arm, tokens, forgone)
    return bill / conversations, quality / conversations / TURNS


def _turns(scenario: Scenario, number: int) -> Iterator[tuple[int, int, dict[str, dict[str, float]]]]:
    """Yield turn, prompt tokens, true and estimated quality; the same for every policy."""
    draw = random.Random(f"{scenario.name} {number}")
    for turn in range(TURNS):
        skill = SKILL["hard" if draw.random() < scenario.hard[turn] else "easy"]
        quality = {arm: skill[arm] for arm in scenario.models}
        estimate = {arm: min(1.0, max(0.0, quality[arm] + draw.gauss(0.0, scenario.noise))) for arm in scenario.models}
        tokens = FIRST_TOKENS + turn * (TURN_TOKENS + ANSWER_TOKENS)
        yield turn, tokens, {"quality": quality, "estimate": estimate}


def _request(tokens: int, *, is_follow_up: bool) -> ChatRequest:
    return ChatRequest(
        fields={},
        model="auto",
        is_stream=False,
        wants_usage=False,
        routing_text="next",
        input_tokens=tokens,
        attachments=0,
        needs=frozenset(),
        max_tokens=None,
        choices=1,
        tradeoff=None,
        includes_cost=False,
        is_follow_up=is_follow_up,
    )


def main() -> None:
    """Run every scenario under every policy and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quick", action="store_true", help="a few conversations only; figures mean nothing")
    options = parser.parse_args()
    conversations = 5 if options.quick else 200
    policies = [("fixed", 0.0), ("naive", 0.0), *(("aware", share) for share in SHARES)]
    rows = []
    for scenario in SCENARIOS:
        for pace, gap in GAPS.items():
            for policy, share in policies:
                bill, quality = asyncio.run(run_scenario(scenario, gap, policy, share, conversations))
                name = f"aware, regret {share:g}" if policy == "aware" else policy
                rows.append(
                    {"scenario": scenario.name, "pace": pace, "policy": name, "bill_usd": bill, "quality": quality}
                )
    machine = describe_machine(("penstock", "numpy"))
    if options.json:
        print(
            json.dumps(
                {
                    "machine": machine,
                    "conversations": conversations,
                    "turns": TURNS,
                    "results": rows,
                }
            )
        )
        return
    print("\n".join(machine_lines(machine)))
    print(f"{conversations} conversations of {TURNS} turns, {FIRST_TOKENS} tokens at first; mean of one conversation")
    for (scenario_name, pace), group in groupby(rows, key=lambda row: (row["scenario"], row["pace"])):
        of_policy = {row["policy"]: row for row in group}
        print(f"\n{scenario_name}, {pace}")
        for name, row in of_policy.items():
            times = row["bill_usd"] / of_policy["fixed"]["bill_usd"]
            print(f"  {name:18} {row['bill_usd']:8.4f} USD, {times:5.2f} × fixed, quality {row['quality']:.3f}")


if __name__ == "__main__":
    main()
