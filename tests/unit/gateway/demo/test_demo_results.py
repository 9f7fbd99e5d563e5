"""Rules of the demonstration's figures: where they come from and how they are totalled."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from penstock_gateway.demo.prompts import DEMO_PROMPTS
from penstock_gateway.demo.results import (
    DemoRow,
    is_abstention,
    outlook,
    row_as_json,
    row_from_decision,
    strategies,
    strategy_as_json,
)
from penstock_gateway.demo.simulated_answers import compose_answer, count_pieces
from penstock_gateway.demo.simulated_models import SIMULATED_MODELS


def decision(model: str = "sim-medium", reason: str = "routed", **changes: Any) -> dict[str, Any]:
    """What the gateway says about one finished request."""
    costs = {"sim-small": "0.0001", "sim-medium": "0.0004", "sim-large": "0.002", "sim-frontier": "0.008"}
    qualities = {"sim-small": 0.5, "sim-medium": 0.6, "sim-large": 0.7, "sim-frontier": 0.8}
    candidates = [
        {"model": name, "quality": qualities[name], "estimated_cost_usd": cost} for name, cost in costs.items()
    ]
    return {
        "id": "dec_1",
        "model": model,
        "reason": reason,
        "candidates": candidates,
        "estimated_cost_usd": costs[model],
        "estimated_saving_usd": str(Decimal(costs["sim-frontier"]) - Decimal(costs[model])),
        "outcome": {"cost_usd": "0.0005", "overhead_ms": 0.4},
        **changes,
    }


def row(prompt: str, made: dict[str, Any], *, has_opinion: bool = True) -> DemoRow:
    """A row of the table."""
    return row_from_decision(1, prompt, made, has_opinion=has_opinion)


def test_row_of_a_routed_decision_holds_the_chosen_models_figures() -> None:
    """Quality and cost are those predicted for the chosen model; the simulated cost is the settled one."""
    made = row_from_decision(3, "hello", decision(), has_opinion=True)
    assert (made.number, made.tier, made.quality) == (3, "medium", 0.6)
    assert made.predicted_cost_usd == Decimal("0.0004")
    assert made.predicted_saving_usd == Decimal("0.0076")
    assert made.simulated_cost_usd == Decimal("0.0005")


@pytest.mark.parametrize("reason", ["abstained_novel", "cheapest"])
def test_row_of_a_prompt_without_an_opinion_has_no_predicted_quality(reason: str) -> None:
    """No opinion, no quality, although the artifact computed a number and whatever the decision's reason is."""
    assert row("hello", decision("sim-small", reason), has_opinion=False).quality is None


@pytest.mark.parametrize(("reason", "is_one"), [("abstained_novel", True), ("routed", False), ("cheapest", False)])
def test_abstention_is_told_by_its_reason(reason: str, is_one: bool) -> None:
    """All reasons of an abstention begin alike."""
    assert is_abstention(decision(reason=reason)) is is_one


def test_row_of_a_dry_run_has_no_simulated_cost() -> None:
    """A decision without an outcome was never sent, so nothing was simulated."""
    assert row("hello", decision(outcome=None)).simulated_cost_usd is None


def test_strategies_over_mixed_rows_compare_quality_on_the_same_prompts() -> None:
    """Means are taken over the prompts with an opinion, for the routed run and the fixed models alike."""
    rows = [
        row("first", decision()),
        row("second", decision("sim-frontier", "abstained_novel"), has_opinion=False),
    ]
    fixed = ("sim-frontier", "sim-small")
    routed, frontier, small = strategies(rows, fixed_models=fixed, seed=0, count_tokens=count_pieces)
    assert (routed.mean_quality, frontier.mean_quality, small.mean_quality) == (0.6, 0.8, 0.5)
    assert routed.predicted_cost_usd == Decimal("0.0084")
    assert frontier.predicted_cost_usd == Decimal("0.016")
    assert routed.simulated_cost_usd == Decimal("0.0010")


def test_strategies_of_a_fixed_model_cost_what_its_template_answers_would() -> None:
    """The simulated cost of a fixed model is its price times the tokens of the answers it would have given."""
    rows = [row("first", decision())]
    small = strategies(rows, fixed_models=("sim-small",), seed=0, count_tokens=count_pieces)[1]
    model = SIMULATED_MODELS["sim-small"]
    request = {"messages": [{"role": "user", "content": "first"}]}
    answer = compose_answer(model, request, seed=0, count_tokens=count_pieces)
    millionths = (
        answer.input_tokens * model.input_usd_per_million_tokens
        + answer.output_tokens * model.output_usd_per_million_tokens
    )
    assert small.simulated_cost_usd == millionths / 1_000_000


def test_strategies_without_any_opinion_have_no_mean_quality() -> None:
    """A mean over nothing is absent, not zero."""
    rows = [row("first", decision("sim-frontier", "abstained_novel"), has_opinion=False)]
    found = strategies(rows, fixed_models=("sim-small",), seed=0, count_tokens=count_pieces)
    assert [strategy.mean_quality for strategy in found] == [None, None]


def test_outlook_of_a_setting_counts_tiers_and_sums_predictions() -> None:
    """Another setting of the knob is summed from predictions alone."""
    point = outlook("cost", [row("a", decision()), row("b", decision("sim-small"))])
    assert point.decisions_by_tier == {"medium": 1, "small": 1}
    assert point.predicted_cost_usd == Decimal("0.0005")


def test_outlook_with_the_knob_at_zero_equals_always_using_the_cheapest_model() -> None:
    """The same decisions give the same mean, over the prompts with an opinion, whichever table they stand in."""
    rows = [
        row("first", decision("sim-small", "cheapest")),
        row("second", decision("sim-small", "cheapest"), has_opinion=False),
    ]
    routed, small = strategies(rows, fixed_models=("sim-small",), seed=0, count_tokens=count_pieces)
    point = outlook("0", rows)
    assert point.mean_quality == routed.mean_quality == small.mean_quality == 0.5
    assert point.predicted_cost_usd == small.predicted_cost_usd


def test_figures_in_json_are_each_named_predicted_simulated_or_measured() -> None:
    """No figure may be taken for a measurement that it is not."""
    made = row("first", decision())
    total = strategies([made], fixed_models=(), seed=0, count_tokens=count_pieces)[0]
    named = {"number", "prompt", "model", "tier", "reason", "decision_id", "strategy"}
    figures = (set(row_as_json(made)) | set(strategy_as_json(total))) - named
    assert all(name.startswith(("predicted_", "simulated_", "measured_")) for name in figures)


def test_demo_prompts_are_forty_different_ones_of_varied_length() -> None:
    """The prompts are ours to count: forty, none twice, from a line to a paragraph, without surrounding space."""
    assert len(DEMO_PROMPTS) == len({prompt.casefold() for prompt in DEMO_PROMPTS}) == 40
    assert all(prompt == prompt.strip() for prompt in DEMO_PROMPTS)
    lengths = [len(prompt) for prompt in DEMO_PROMPTS]
    assert min(lengths) < 40
    assert max(lengths) > 200
