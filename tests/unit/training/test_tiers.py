"""Grouping models into tiers: the rule, the recovered prices, the averaged outcomes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from penstock_training.errors import TrainingError
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.tiers import TIER_RULES, TierRule, group_into_tiers, is_free_form, recover_price

RULES = (TierRule("low", 0.5, 3.0, 0.0, 1.0), TierRule("high", -math.inf, 0.5, 0.5, 50.0))


def _matrix() -> OutcomeMatrix:
    """Four models on 100 prompts of one set: two weak and cheap, one good and dear, one good at a bargain price."""
    rows, share = 100, np.array([0.5, 0.4, 0.8, 0.79])
    score = (np.arange(rows)[:, None] < share * rows).astype(np.float32)
    sent = np.tile(np.arange(10, 10 + rows)[:, None], 4).astype(np.float32)
    written = np.tile((np.arange(rows)[::-1] * 3 % 70 + 5)[:, None], 4).astype(np.float32)
    price = np.array([[0.1, 0.1], [0.4, 0.4], [5.0, 20.0], [0.1, 0.2]])
    cost = (sent * price[:, 0] + written * price[:, 1]) / 1e6
    return OutcomeMatrix(
        prompts=[f"prompt {i}" for i in range(rows)],
        groups=np.arange(rows),
        sources=["a set"] * rows,
        tasks=["gsm"] * rows,
        categories=[""] * rows,
        arms=("weak", "weaker", "good", "bargain"),
        score=score,
        input_tokens=sent,
        output_tokens=written,
        cost_usd=cost.astype(np.float32),
    )


def test_group_into_tiers_models_go_by_accuracy_and_price_together() -> None:
    """A good model at a price far below its tier's fits no tier and is left out."""
    table = group_into_tiers(_matrix(), RULES)
    assert {m.model: m.tier for m in table.models} == {"weak": "low", "weaker": "low", "good": "high", "bargain": None}
    assert table.members("low") == ("a set/weak", "a set/weaker")


def test_group_into_tiers_scores_are_means_over_members_and_prices_geometric_means() -> None:
    """The tier's score on a prompt is its models' mean, its price reference the geometric mean of theirs."""
    table = group_into_tiers(_matrix(), RULES)
    assert table.matrix.arms == ("low", "high")
    assert set(np.unique(table.matrix.score[:, 0])) == {0.0, 0.5, 1.0}
    assert table.prices["low"] == (0.2, 0.2)
    assert table.prices["high"] == (5.0, 20.0)
    wanted = (table.matrix.input_tokens[:, 1] * 5 + table.matrix.output_tokens[:, 1] * 20) / 1e6
    assert np.allclose(table.matrix.cost_usd[:, 1], wanted, rtol=1e-5)


def test_group_into_tiers_without_a_model_for_a_tier_says_which() -> None:
    """A tier nobody belongs to is an error that names it."""
    with pytest.raises(TrainingError, match="'nobody'") as caught:
        group_into_tiers(_matrix(), (*RULES, TierRule("nobody", 9.0, 10.0, 0.0, 1.0)))
    assert caught.value.code == "no_tier_models"


def test_group_into_tiers_that_may_be_lacking_are_left_out() -> None:
    """For an evaluation a tier without a model is no obstacle, as long as two are left to compare."""
    rules = (*RULES, TierRule("nobody", 9.0, 10.0, 0.0, 1.0))
    table = group_into_tiers(_matrix(), rules, may_lack_tiers=True)
    assert table.matrix.arms == ("low", "high")
    assert np.array_equal(table.matrix.score, group_into_tiers(_matrix(), RULES).matrix.score)
    with pytest.raises(TrainingError) as caught:
        group_into_tiers(_matrix(), rules[1:], may_lack_tiers=True)
    assert caught.value.code == "no_tier_models"


def test_tier_rules_accuracy_bands_touch_without_overlap() -> None:
    """No accuracy belongs to two tiers."""
    bands = sorted((rule.gap_min, rule.gap_max) for rule in TIER_RULES)
    assert all(first[1] == second[0] for first, second in itertools.pairwise(bands))
    assert [rule.tier for rule in TIER_RULES] == ["small", "medium", "large", "frontier"]


def test_recover_price_from_exact_costs_is_the_list_price() -> None:
    """Costs that are price times tokens give the price back."""
    sent, written = np.array([10.0, 20.0, 35.0]), np.array([100.0, 5.0, 50.0])
    assert recover_price(sent, written, (sent * 2.5 + written * 10) / 1e6) == (2.5, 10.0)


def test_recover_price_of_inseparable_tokens_is_one_blended_price() -> None:
    """When input and output always come in one proportion, both get the mean price per token."""
    sent = np.array([10.0, 20.0, 40.0])
    assert recover_price(sent, sent, sent * 6 / 1e6) == (3.0, 3.0)


def test_recover_price_without_costs_is_nan() -> None:
    """No cost, no price; nothing is invented."""
    nothing = np.full(3, np.nan)
    assert all(math.isnan(price) for price in recover_price(np.ones(3), np.ones(3), nothing))


def test_is_free_form_takes_counted_answers_only() -> None:
    """Multiple choice and tasks with one assumed length teach no lengths."""
    assert is_free_form(["gsm", "mmlu", "mmlu-redux", "zebra-grid", "mt_bench", ""]).tolist() == [
        True, False, False, False, True, False,
    ]  # fmt: skip
