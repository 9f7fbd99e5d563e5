"""The first page: spend, savings, hit rate, errors and latency, and the same again while it stays open.

Read `overview_page`.
"""

from __future__ import annotations

from typing import Any

from penstock_gateway.console.charts import columns
from penstock_gateway.console.contract import Asked, ConsoleParts, Page
from penstock_gateway.console.recent import LOOKED_AT, Recent, quantile, summarise
from penstock_gateway.console.rendering import moment
from penstock_gateway.endpoints.admin_spend import accounts_of, budget_views, spend_view
from penstock_gateway.errors import GatewayError
from penstock_gateway.ledger.contract import Period
from penstock_gateway.workers.states import CLOSED, COOLING


async def overview_page(parts: ConsoleParts, asked: Asked) -> Page:
    """Show how the gateway does."""
    return Page("overview.html", await _values(parts))


async def live_part(parts: ConsoleParts, asked: Asked) -> Page:
    """Show the part of the overview that changes, for the page that asks while somebody looks at it."""
    return Page("live.html", await _values(parts))


async def _values(parts: ConsoleParts) -> dict[str, Any]:
    pipeline, state = parts.pipeline, await parts.state(LOOKED_AT)
    recent = summarise(state.records)
    spend, problem = await _spend(parts)
    is_long = (recent.last_at or 0.0) - (recent.first_at or 0.0) > 86_400.0
    labels = [moment(at, "%m-%d %H:%M" if is_long else "%H:%M:%S") for at in (recent.first_at, recent.last_at)]
    watch = parts.watch
    return {
        "recent": recent,
        "shares": _shares(recent),
        "p50_ms": quantile(recent.durations_ms, 0.5),
        "p99_ms": quantile(recent.durations_ms, 0.99),
        "overhead_ms": quantile(recent.overheads_ms, 0.5),
        "in_flight": sum(lane.in_flight for lane in state.lanes.values()),
        "chart": columns(recent.columns, (labels[0], labels[1])),
        "models": sorted(recent.models.items(), key=lambda item: (-item[1].requests, item[0])),
        "codes": sorted(state.errors.items(), key=lambda item: (-item[1], item[0]))[:8],
        "reasons": sorted(recent.reasons.items(), key=lambda item: (-item[1], item[0])),
        "spend": spend,
        "spend_problem": problem,
        "baseline": pipeline.settings.baseline,
        "has_cache": pipeline.cache is not None,
        "closed": [name for name, lane in state.lanes.items() if lane.state not in (CLOSED, COOLING)],
        "artifact": pipeline.chooser.artifact_id,
        "refusal": None if watch is None else watch.refusal,
        "port": pipeline.settings.server.port,
    }


def _shares(recent: Recent) -> dict[str, float | None]:
    count = recent.requests
    return {
        "errors": recent.errors / count if count else None,
        "hits": recent.cached / count if count else None,
        "saved": recent.saved_usd / recent.baseline_usd if recent.baseline_usd > 0 else None,
        "abstained": recent.abstained / recent.routed if recent.routed else None,
    }


async def _spend(parts: ConsoleParts) -> tuple[dict[str, Any] | None, str]:
    """Return spend of today and of the month by key, and the fullest budgets; or why nobody knows them now."""
    admin = parts.admin
    now = admin.directory.clock()
    try:
        day, month = [await spend_view(admin, "key", period, now) for period in (Period.DAY, Period.MONTH)]
        accounts = [account for account in accounts_of(admin.directory.table) if account.budgets]
        budgets = await budget_views(admin, accounts[:200])
    except GatewayError as error:
        return None, error.message
    fullest = sorted(budgets, key=lambda budget: -float(budget["used_share"]))[:5]
    return {"day": day, "month": month, "budgets": fullest}, ""
