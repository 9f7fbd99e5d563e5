"""Capability tiers: which models of an outcome set stand for ``small``, ``medium``, ``large`` and ``frontier``.

Owns the grouping rule of the default artifact and the tier table made from it. Must not fit anything. Read `TIER_RULES`
first, then `group_into_tiers`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.errors import TrainingError
from penstock_training.outcomes import OutcomeMatrix

FloatArray = NDArray[np.float64]

# Tasks whose answers are written out and whose lengths were counted, not assumed. Everything else in the default sets
# has one-token answers (MMLU) or a model's mean length in every row (MMLU-Redux, Zebra), or is multiple choice.
FREE_FORM_TASKS: Final = frozenset({"gsm", "math-l5", "crux", "gsm8k", "mt_bench"})


@dataclass(frozen=True, slots=True)
class TierRule:
    """Which models of a set belong to a tier: both bounds must hold.

    Attributes
    ----------
    tier : str
    gap_min, gap_max : float
        Bounds of the accuracy gap: logit of the set's best accuracy minus logit of the model's, so that easy and hard
        sets compare; ``gap_min < gap <= gap_max``.
    price_min, price_max : float
        Bounds of the blended list price, USD per million tokens at three input tokens to one output token.
    """

    tier: str
    gap_min: float
    gap_max: float
    price_min: float
    price_max: float


# Set after looking at the accuracy and price of all 55 models of the three sets, before any router was fitted. The
# price bounds overlap on purpose; they drop what nobody would file under that tier: bargains that answer like a tier
# two classes dearer (they would make the tier look cheap) and models that others undercut tenfold.
TIER_RULES: Final[tuple[TierRule, ...]] = (
    TierRule("small", 0.95, 1.80, 0.0, 0.35),
    TierRule("medium", 0.60, 0.95, 0.20, 1.00),
    TierRule("large", 0.25, 0.60, 0.60, 5.00),
    TierRule("frontier", -math.inf, 0.25, 2.00, 20.00),
)
TIERS: Final[tuple[str, ...]] = tuple(rule.tier for rule in TIER_RULES)


@dataclass(frozen=True, slots=True)
class GroupedModel:
    """One model of one set, with the numbers that decided its tier.

    Attributes
    ----------
    source, model : str
    accuracy : float, in [0, 1]
    gap : float
        See `TierRule`.
    price_input, price_output : float
        USD per million tokens, recovered from the set's costs.
    tier : str or None
        None when it fits no rule and is left out.
    """

    source: str
    model: str
    accuracy: float
    gap: float
    price_input: float
    price_output: float
    tier: str | None


@dataclass(frozen=True, slots=True)
class TierTable:
    """Outcomes per tier.

    Attributes
    ----------
    matrix : OutcomeMatrix
        One column per tier, in the order of the rules; score and token counts are means over the tier's models, costs
        are the tier's price reference times its mean token counts. NaN where a set has no model of the tier.
    models : tuple of GroupedModel
        All models, left-out ones included.
    prices : dict of str to (float, float)
        Per tier, USD per million input and output tokens: geometric means over its models.
    """

    matrix: OutcomeMatrix
    models: tuple[GroupedModel, ...]
    prices: dict[str, tuple[float, float]]

    def members(self, tier: str) -> tuple[str, ...]:
        """Name the tier's models as ``source/model``, sorted."""
        return tuple(sorted(f"{m.source}/{m.model}" for m in self.models if m.tier == tier))


def group_into_tiers(
    matrix: OutcomeMatrix, rules: Sequence[TierRule] = TIER_RULES, *, may_lack_tiers: bool = False
) -> TierTable:
    """Group the models of each source into tiers and average their outcomes.

    Parameters
    ----------
    matrix : OutcomeMatrix
        One column per model.
    rules : sequence of TierRule
        One per tier, from the cheapest to the dearest.
    may_lack_tiers : bool
        Whether a tier without any model is left out, as suits an evaluation, instead of being an error.

    Returns
    -------
    TierTable

    Raises
    ------
    TrainingError
        ``no_tier_models``: a tier has no model in any source, or with `may_lack_tiers` all but one have none.
    """
    sources = np.asarray(matrix.sources, dtype=object)
    models: list[GroupedModel] = []
    for source in sorted(set(matrix.sources)):
        models += _grade_models(matrix, source, np.flatnonzero(sources == source), rules)
    if may_lack_tiers:
        found = {m.tier for m in models}
        rules = [rule for rule in rules if rule.tier in found]
        if len(rules) < 2:
            raise TrainingError(
                "fewer than two tiers have a model in these outcome sets: nothing to compare", code="no_tier_models"
            )
    prices = {rule.tier: _tier_price(models, rule.tier) for rule in rules}
    shape = (len(matrix.prompts), len(rules))
    columns = {name: np.full(shape, np.nan, dtype=np.float32) for name in ("score", "input_tokens", "output_tokens")}
    column_of = {arm: index for index, arm in enumerate(matrix.arms)}
    for source in sorted(set(matrix.sources)):
        rows = np.flatnonzero(sources == source)
        for tier_index, rule in enumerate(rules):
            members = [column_of[m.model] for m in models if m.source == source and m.tier == rule.tier]
            chosen = np.array(members, dtype=np.int64)
            for name, values in columns.items():
                values[rows, tier_index] = _row_means(getattr(matrix, name)[np.ix_(rows, chosen)])
    input_price, output_price = (np.array([prices[rule.tier][k] for rule in rules]) for k in (0, 1))
    cost = (columns["input_tokens"] * input_price + columns["output_tokens"] * output_price) / 1e6
    table = replace(
        matrix,
        arms=tuple(rule.tier for rule in rules),
        score=columns["score"],
        input_tokens=columns["input_tokens"],
        output_tokens=columns["output_tokens"],
        cost_usd=cost.astype(np.float32),
    )
    observed = np.flatnonzero(np.isfinite(table.score).any(axis=1))
    return TierTable(table.rows(observed), tuple(models), prices)


def is_free_form(tasks: Sequence[str]) -> NDArray[np.bool_]:
    """Mark the prompts whose answer lengths the length head may learn from (`FREE_FORM_TASKS`)."""
    return np.array([task in FREE_FORM_TASKS for task in tasks], dtype=bool)


def recover_price(input_tokens: FloatArray, output_tokens: FloatArray, cost_usd: FloatArray) -> tuple[float, float]:
    """Find the list price behind a column of costs.

    Parameters
    ----------
    input_tokens, output_tokens : ndarray, shape (n,), tokens
    cost_usd : ndarray, shape (n,), USD
        Rows with a missing value are left out.

    Returns
    -------
    (float, float)
        USD per million input and output tokens, rounded to 1e-4; least squares without intercept, so exact when the
        costs are price times tokens. One blended price for both when the token counts cannot tell them apart. NaN
        without a usable row.
    """
    tokens = np.column_stack([input_tokens, output_tokens]).astype(np.float64)
    usable = np.isfinite(tokens).all(axis=1) & np.isfinite(cost_usd)
    if not usable.any():
        return math.nan, math.nan
    tokens, micro_usd = tokens[usable], cost_usd[usable].astype(np.float64) * 1e6
    solution, _, rank, _ = np.linalg.lstsq(tokens, micro_usd, rcond=1e-6)
    if rank < 2 or solution.min() < 0:
        blended = float(micro_usd.sum() / tokens.sum())
        return round(blended, 4), round(blended, 4)
    return round(float(solution[0]), 4), round(float(solution[1]), 4)


def _grade_models(
    matrix: OutcomeMatrix, source: str, rows: NDArray[np.int64], rules: Sequence[TierRule]
) -> list[GroupedModel]:
    score = matrix.score[rows].astype(np.float64)
    present = [column for column in range(len(matrix.arms)) if np.isfinite(score[:, column]).any()]
    accuracy = {column: float(np.nanmean(score[:, column])) for column in present}
    best = max(accuracy.values())
    graded = []
    for column in present:
        price = recover_price(
            matrix.input_tokens[rows, column].astype(np.float64),
            matrix.output_tokens[rows, column].astype(np.float64),
            matrix.cost_usd[rows, column].astype(np.float64),
        )
        gap = _logit(best) - _logit(accuracy[column])
        tier = _tier_of(gap, (3.0 * price[0] + price[1]) / 4.0, rules)
        graded.append(GroupedModel(source, matrix.arms[column], accuracy[column], gap, *price, tier))
    return graded


def _tier_of(gap: float, blended_price: float, rules: Sequence[TierRule]) -> str | None:
    for rule in rules:
        if rule.gap_min < gap <= rule.gap_max and rule.price_min <= blended_price <= rule.price_max:
            return rule.tier
    return None


def _tier_price(models: Sequence[GroupedModel], tier: str) -> tuple[float, float]:
    members = [m for m in models if m.tier == tier]
    if not members:
        raise TrainingError(f"no model of any outcome set fits tier {tier!r}", code="no_tier_models")
    prices = np.array([(m.price_input, m.price_output) for m in members])
    means = np.exp(np.log(prices).mean(axis=0))
    return round(float(means[0]), 3), round(float(means[1]), 3)


def _row_means(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of each row over its finite entries, NaN for a row without any."""
    finite = np.isfinite(values)
    counts = finite.sum(axis=1)
    totals = np.where(finite, values, 0.0).sum(axis=1, dtype=np.float64)
    means = np.full(values.shape[0], np.nan)
    np.divide(totals, counts, out=means, where=counts > 0)
    return means.astype(np.float32)


def _logit(probability: float) -> float:
    clipped = min(max(probability, 1e-3), 1.0 - 1e-3)
    return math.log(clipped / (1.0 - clipped))
