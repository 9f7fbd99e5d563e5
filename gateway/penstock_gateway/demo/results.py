"""What the demonstration found: one row per prompt and the totals of three strategies.

Pure numbers, no I/O and no drawing. *Predicted* figures come from the router artifact (quality, answer length) and the
simulated price list; *simulated* figures come from the token counts of the template answers. Read `strategies`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from penstock_gateway.demo.simulated_answers import CountTokens, compose_answer
from penstock_gateway.demo.simulated_models import SIMULATED_MODELS
from penstock_gateway.money.prices import Price, cost_usd, format_usd
from penstock_gateway.money.usage import Usage


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the router predicted for one prompt on one model."""

    quality: float | None
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One prompt and what became of it.

    Attributes
    ----------
    number : int
        From 1.
    prompt, model, tier, reason, decision_id : str
    has_opinion : bool
        Whether the router predicts the quality of answers to this prompt. It depends on the prompt alone, not on the
        trade-off: with the knob at 0 an unknown prompt goes to the cheapest model without being an abstention.
    quality : float or None
        Predicted quality of the chosen model, in [0, 1]; None without an opinion.
    predicted_cost_usd, predicted_saving_usd : Decimal
        Of this request, and against always the frontier model.
    simulated_cost_usd : Decimal or None
        Settled by the gateway from the simulated usage.
    overhead_ms : float
        The gateway's own time before the provider was called (measured).
    forecasts : mapping of str to Forecast
        By model.
    """

    number: int
    prompt: str
    model: str
    tier: str
    reason: str
    decision_id: str
    has_opinion: bool
    quality: float | None
    predicted_cost_usd: Decimal
    predicted_saving_usd: Decimal
    simulated_cost_usd: Decimal | None
    overhead_ms: float
    forecasts: Mapping[str, Forecast]


@dataclass(frozen=True, slots=True)
class Strategy:
    """Totals of one way to choose models.

    Attributes
    ----------
    name : str
        ``"routed"`` or ``"always <model>"``.
    mean_quality : float or None
        Mean predicted quality over the prompts on which the router had an opinion.
    predicted_cost_usd, simulated_cost_usd : Decimal
        Over all prompts.
    """

    name: str
    mean_quality: float | None
    predicted_cost_usd: Decimal
    simulated_cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class SettingOutlook:
    """What the same prompts would have come to at another setting of the trade-off knob, all predicted.

    Attributes
    ----------
    tradeoff : str
    decisions_by_tier : mapping of str to int
    mean_quality : float or None
        As in `Strategy`.
    predicted_cost_usd : Decimal
    """

    tradeoff: str
    decisions_by_tier: Mapping[str, int]
    mean_quality: float | None
    predicted_cost_usd: Decimal


def outlook(tradeoff: str, rows: Sequence[DemoRow]) -> SettingOutlook:
    """Total the decisions made at one setting."""
    return SettingOutlook(
        tradeoff,
        dict(Counter(row.tier for row in rows)),
        _mean([row.quality for row in rows]),
        sum((row.predicted_cost_usd for row in rows), Decimal(0)),
    )


def is_abstention(decision: Mapping[str, Any]) -> bool:
    """Whether the router gave no opinion and the default model answers."""
    return str(decision["reason"]).startswith("abstained")


def row_from_decision(number: int, prompt: str, decision: Mapping[str, Any], *, has_opinion: bool) -> DemoRow:
    """Build a row from ``GET /v1/decisions/{id}``, or from ``POST /v1/route``, which has no outcome.

    Parameters
    ----------
    number : int
    prompt : str
    decision : mapping
    has_opinion : bool
        As in `DemoRow`.

    Returns
    -------
    DemoRow
    """
    forecasts = {
        candidate["model"]: Forecast(candidate["quality"], Decimal(candidate["estimated_cost_usd"]))
        for candidate in decision["candidates"]
        if candidate["estimated_cost_usd"] is not None
    }
    model = str(decision["model"])
    outcome = decision.get("outcome") or {}
    settled = outcome.get("cost_usd")
    return DemoRow(
        number=number,
        prompt=prompt,
        model=model,
        tier=SIMULATED_MODELS[model].tier,
        reason=str(decision["reason"]),
        decision_id=str(decision["id"]),
        has_opinion=has_opinion,
        quality=forecasts[model].quality if has_opinion else None,
        predicted_cost_usd=Decimal(decision["estimated_cost_usd"]),
        predicted_saving_usd=Decimal(decision["estimated_saving_usd"] or 0),
        simulated_cost_usd=None if settled is None else Decimal(settled),
        overhead_ms=float(outcome.get("overhead_ms") or 0.0),
        forecasts=forecasts,
    )


def strategies(
    rows: Sequence[DemoRow], *, fixed_models: Sequence[str], seed: int, count_tokens: CountTokens
) -> list[Strategy]:
    """Total the routed run and, beside it, what sending everything to one model would have come to.

    Parameters
    ----------
    rows : sequence of DemoRow
    fixed_models : sequence of str
    seed : int
    count_tokens : CountTokens
        As the simulated upstream used them, so that its answers can be composed again without sending anything.

    Returns
    -------
    list of Strategy
        The routed run first.
    """
    routed = Strategy(
        "routed",
        _mean([row.quality for row in rows]),
        sum((row.predicted_cost_usd for row in rows), Decimal(0)),
        sum((row.simulated_cost_usd or Decimal(0) for row in rows), Decimal(0)),
    )
    return [routed, *(_always(model, rows, seed, count_tokens) for model in fixed_models)]


def _always(model: str, rows: Sequence[DemoRow], seed: int, count_tokens: CountTokens) -> Strategy:
    forecasts = [row.forecasts[model] for row in rows]
    known = [forecast.quality for row, forecast in zip(rows, forecasts, strict=True) if row.has_opinion]
    return Strategy(
        f"always {model}",
        _mean(known),
        sum((forecast.cost_usd for forecast in forecasts), Decimal(0)),
        sum((_simulated_cost_usd(model, row.prompt, seed, count_tokens) for row in rows), Decimal(0)),
    )


def _simulated_cost_usd(model_name: str, prompt: str, seed: int, count_tokens: CountTokens) -> Decimal:
    model = SIMULATED_MODELS[model_name]
    request = {"messages": [{"role": "user", "content": prompt}]}
    answer = compose_answer(model, request, seed=seed, count_tokens=count_tokens)
    input_price, output_price = model.input_usd_per_million_tokens, model.output_usd_per_million_tokens
    price = Price(input_price, input_price, output_price, output_price)
    return cost_usd(Usage(answer.input_tokens, answer.output_tokens), price)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def row_as_json(row: DemoRow) -> dict[str, Any]:
    """Return a row as plain values; every figure's name says *predicted*, *simulated* or *measured*."""
    return {
        "number": row.number,
        "prompt": row.prompt,
        "model": row.model,
        "tier": row.tier,
        "reason": row.reason,
        "decision_id": row.decision_id,
        "predicted_quality": row.quality,
        "predicted_cost_usd": format_usd(row.predicted_cost_usd),
        "predicted_saving_usd": format_usd(row.predicted_saving_usd),
        "simulated_cost_usd": None if row.simulated_cost_usd is None else format_usd(row.simulated_cost_usd),
        "measured_overhead_ms": row.overhead_ms,
    }


def strategy_as_json(strategy: Strategy) -> dict[str, Any]:
    """Return a strategy's totals as plain values."""
    return {
        "strategy": strategy.name,
        "predicted_quality": strategy.mean_quality,
        "predicted_cost_usd": format_usd(strategy.predicted_cost_usd),
        "simulated_cost_usd": format_usd(strategy.simulated_cost_usd),
    }


def outlook_as_json(point: SettingOutlook) -> dict[str, Any]:
    """Return a setting's totals as plain values."""
    return {
        "tradeoff": point.tradeoff,
        "decisions_by_tier": dict(point.decisions_by_tier),
        "predicted_quality": point.mean_quality,
        "predicted_cost_usd": format_usd(point.predicted_cost_usd),
    }
