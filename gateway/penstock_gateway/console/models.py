"""The page of models: what each deployment is, costs and can do, and how it has been lately. Read `models_page`."""

from __future__ import annotations

from typing import Any

from penstock_gateway.console.contract import Asked, ConsoleParts, Page
from penstock_gateway.console.recent import LOOKED_AT, ModelFigures, summarise
from penstock_gateway.money.price_text import price_fields
from penstock_gateway.workers.states import CLOSED, LaneState


async def models_page(parts: ConsoleParts, asked: Asked) -> Page:
    """Show every deployment and its health."""
    pipeline = parts.pipeline
    state = await parts.state(LOOKED_AT)
    recent = summarise(state.records)
    rows = [
        _row(state.lanes.get(name), recent.models.get(name, ModelFigures()))
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
    return Page(
        "models.html", {"rows": rows, "looked_at": recent.requests, "workers": pipeline.settings.server.workers}
    )


def _row(lane: LaneState | None, figures: ModelFigures) -> dict[str, Any]:
    state = "unknown" if lane is None else lane.state
    return {
        "figures": figures,
        "error_share": figures.errors / figures.requests if figures.requests else None,
        "state": {"closed": "healthy", "half_open": "being probed"}.get(state, state),
        "is_well": state == CLOSED,
        "wait_seconds": 0.0 if lane is None else lane.wait_seconds,
        "in_flight": 0 if lane is None else lane.in_flight,
        "waiting": 0 if lane is None else lane.waiting,
        "limit": None if lane is None else lane.limit,
    }
