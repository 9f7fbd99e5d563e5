"""The page of models: what each deployment is, costs and can do, and how it has been lately. Read `models_page`."""

from __future__ import annotations

import time
from typing import Any

from penstock_gateway.attempts.lanes import Lane
from penstock_gateway.console.contract import Asked, ConsoleParts, Page
from penstock_gateway.console.recent import LOOKED_AT, ModelFigures, summarise
from penstock_gateway.money.price_text import price_fields


async def models_page(parts: ConsoleParts, asked: Asked) -> Page:
    """Show every deployment and its health."""
    pipeline = parts.pipeline
    recent = summarise(pipeline.decisions.newest(LOOKED_AT))
    lanes = {lane.name: lane for lane in pipeline.attempts.runner.book}
    rows = [
        _row(lanes.get(name), recent.models.get(name, ModelFigures()))
        | {
            "name": name,
            "model": deployment.model,
            "provider": deployment.provider or "–",
            "tier": deployment.tier or "–",
            "group": deployment.group,
            "arm": deployment.arm,
            "is_routable": deployment.is_routable,
            "is_default": name == pipeline.settings.default_arm,
            "is_baseline": name == pipeline.settings.baseline,
            "price": price_fields(deployment.price),
            "context_tokens": deployment.context_tokens,
            "max_output_tokens": deployment.max_output_tokens,
            "abilities": sorted(ability.value for ability in deployment.abilities),
            "fallbacks": deployment.fallbacks,
        }
        for name, deployment in pipeline.deployments.items()
    ]
    return Page("models.html", {"rows": rows, "looked_at": recent.requests})


def _row(lane: Lane | None, figures: ModelFigures) -> dict[str, Any]:
    state, wait = "unknown", 0.0
    if lane is not None:
        wait = lane.breaker.closed_seconds(time.perf_counter())
        state = lane.breaker.state.value
        if state == "closed" and wait > 0:
            state = "cooling"
    return {
        "figures": figures,
        "error_share": figures.errors / figures.requests if figures.requests else None,
        "state": {"closed": "healthy", "half_open": "being probed"}.get(state, state),
        "is_well": state == "closed",
        "wait_seconds": wait,
        "in_flight": 0 if lane is None else lane.slots.in_flight,
        "waiting": 0 if lane is None else lane.slots.waiting,
        "limit": None if lane is None else lane.slots.limit,
    }
