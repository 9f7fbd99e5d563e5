"""Event logs of made-up traffic whose true savings are known, because every arm's cost of every request is drawn.

Predictions are wrong in the ways that matter: each arm by a factor of its own, more on hard prompts, prompts counted
short in one team, conversations that belong together. Read `World`.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

ARMS = ("small", "large", "frontier")
PRICE_IN = {"small": 0.1e-6, "large": 1.0e-6, "frontier": 5.0e-6}
PRICE_OUT = {"small": 0.4e-6, "large": 4.0e-6, "frontier": 20.0e-6}
# Tokens in fact over those predicted, by arm; and how much that grows with the prompt's difficulty.
LENGTH_FACTOR = {"small": 0.7, "large": 1.3, "frontier": 1.9}
HARD_FACTOR = 1.5
COUNTED_SHORT = {"search": 1.0, "support": 1.6}  # prompt tokens in fact over those assumed
START = 1_790_000_000.0


@dataclass
class World:
    """A log, and what it would have cost otherwise.

    Attributes
    ----------
    records : list of dict
        Decisions and outcomes.
    fact_usd, other_usd : float
        What it cost, and what these very requests would have cost on the arms compared with.
    """

    records: list[dict[str, Any]]
    fact_usd: float = 0.0
    other_usd: float = 0.0


def draw_world(
    seed: int,
    *,
    is_observed: bool,
    conversations: int = 120,
    explore: float = 0.3,
    has_parts: bool = True,
    answered_by: tuple[str, ...] = ARMS,
) -> World:
    """Draw a log of routed requests, or of requests whose model was given and which the router only watched.

    Parameters
    ----------
    seed : int
    is_observed : bool
    conversations : int
    explore : float
        Probability with which a routed request goes to an arm drawn evenly.
    has_parts : bool
        Whether the prompt's part of expected costs is logged.
    answered_by : tuple of str
        Arms that clients ask for when the router only watches.
    """
    random = Random(seed)
    world = World([])
    for conversation in range(conversations):
        team = random.choice(list(COUNTED_SHORT))
        mood = random.lognormvariate(0.0, 0.5)
        asked = random.choice(answered_by)
        for _ in range(1 + int(random.expovariate(0.5))):
            is_hard = random.random() < 0.4
            drawn = {arm: _costs(random, arm, team, is_hard, mood) for arm in ARMS}
            wanted = "frontier" if is_hard else "small"
            if is_observed:
                served, other, propensity = asked, wanted, 1.0
            else:
                served = random.choice(ARMS) if random.random() < explore else wanted
                propensity = explore / len(ARMS) + (1.0 - explore) * (served == wanted)
                other = "frontier"
            number = len(world.records) // 2
            inputs, assumed = int(drawn[served]["input"]), int(drawn[served]["assumed_input"])
            fact = drawn[served]["usd"]
            world.fact_usd += fact
            world.other_usd += drawn[other]["usd"]
            candidates = [candidate(arm, drawn[arm], has_parts=has_parts) for arm in ARMS]
            made = {"reason": "routed", "artifact": "sha256:1", "category": "math" if is_hard else "chat"}
            decision = {
                "schema": 2,
                "type": "decision",
                "decision_id": f"dec_{number}",
                "time": START + 60.0 * number,
                "tenant": team,
                "conversation": f"c{conversation}",
                "requested_model": served if is_observed else "auto",
                "intended_arm": served,
                "propensity": propensity,
                "default_arm": "frontier",
                "input_tokens": assumed,
                "shadow": {**made, "arm": other, "candidates": candidates} if is_observed else None,
                **({"reason": "physical_model"} if is_observed else {**made, "candidates": candidates}),
            }
            world.records += [decision, outcome(decision, served, team, fact, inputs, int(drawn[served]["output"]))]
    return world


def candidate(arm: str, drawn: dict[str, float], *, has_parts: bool = True) -> dict[str, Any]:
    """Return what a decision says of an arm."""
    prompt = drawn["assumed_input"] * PRICE_IN[arm]
    made = {
        "arm": arm,
        "output_tokens": drawn["expected_output"],
        "cost_usd": f"{prompt + drawn['expected_output'] * PRICE_OUT[arm]:.9f}",
        "gain": {"small": -0.05, "large": -0.02, "frontier": 0.0}[arm],
        "gain_se": 0.01,
        "rejected": None,
    }
    return {**made, "prompt_cost_usd": f"{prompt:.9f}"} if has_parts else made


def outcome(
    decision: dict[str, Any], served: str, team: str, cost_usd: float, inputs: int, outputs: int
) -> dict[str, Any]:
    """Return the outcome of a decision that a provider answered."""
    return {
        "schema": 2,
        "type": "outcome",
        "decision_id": decision["decision_id"],
        "time": decision["time"] + 2.0,
        "admitted_at": decision["time"],
        "accounts": [f"key:{team}-key", f"team:{team}"],
        "served_arm": served,
        "status": 200,
        "error_code": None,
        "usage": {"input_tokens": inputs, "output_tokens": outputs},
        "is_cost_estimated": False,
        "cost_usd": f"{cost_usd:.12f}",
        "cost_picousd": round(cost_usd * 1e12),
        "attempts": [],
    }


def _costs(random: Random, arm: str, team: str, is_hard: bool, mood: float) -> dict[str, float]:
    """Draw what one arm would do with one request, and what is expected of it."""
    assumed = float(random.randrange(50, 2000))
    expected = random.lognormvariate(4.5, 0.6) * (2.0 if is_hard else 1.0)
    factor = LENGTH_FACTOR[arm] * (HARD_FACTOR if is_hard else 1.0) * mood
    output = float(max(1, round(expected * factor * random.lognormvariate(0.0, 0.3))))
    inputs = float(round(assumed * COUNTED_SHORT[team]))
    return {
        "assumed_input": assumed,
        "input": inputs,
        "expected_output": expected,
        "output": output,
        "usd": inputs * PRICE_IN[arm] + output * PRICE_OUT[arm],
    }
