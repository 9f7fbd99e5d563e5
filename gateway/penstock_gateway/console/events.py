"""The pages of events and of one decision: what happened, newest first. Read `events_page`."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from penstock_gateway.console.contract import Asked, ConsoleParts, Page
from penstock_gateway.console.nearest import newest_events
from penstock_gateway.console.playground import chart_of, ranks_of
from penstock_gateway.console.reasons import REASONS
from penstock_gateway.decisions import RouteDecision, Settlement
from penstock_gateway.errors import Conflict, NotFound
from penstock_gateway.events.parquet_segments import ParquetMissing

READ: Final = 2_000
SHOWN: Final = 200
KINDS: Final = ("requests", "decision", "outcome", "feedback")


async def events_page(parts: ConsoleParts, asked: Asked) -> Page:
    """Show the last requests of this process, or the newest lines of the event log."""
    kind = asked.query.get("kind", "requests")
    if kind not in KINDS:
        raise NotFound("There is no such kind of event.")
    only_errors = asked.query.get("errors") == "1"
    folder = parts.events_folder
    values: dict[str, Any] = {
        "kind": kind,
        "kinds": KINDS,
        "only_errors": only_errors,
        "logs_events": folder is not None,
        "shows_content": parts.shows_content,
        "rows": [],
        "events": [],
    }
    if kind == "requests":
        rows = [_request_row(*record) for record in (await parts.state(READ)).records]
        values["rows"] = [row for row in rows if row["error_code"] or not only_errors][:SHOWN]
    elif folder is not None:
        try:
            events = await asyncio.to_thread(newest_events, folder, READ)
        except (OSError, ValueError, ParquetMissing) as error:
            raise Conflict(f"The event log cannot be read: {error}") from None
        found = [event for event in reversed(events) if event.get("type") == kind]
        values["events"] = [event for event in found if event.get("error_code") or not only_errors][:SHOWN]
    return Page("events.html", values)


async def decision_page(parts: ConsoleParts, asked: Asked) -> Page:
    """Show one decision with all its candidates, and what it came to."""
    wanted = asked.query.get("id", "")
    found = parts.pipeline.decisions.find_any(wanted)
    if found is None and parts.others is not None:
        records = (await parts.state(parts.pipeline.decisions.keep)).records
        found = next((record for record in records if record[1].id == wanted), None)
    if found is None:
        raise NotFound("This decision is not remembered any more; only recent ones are.", code="decision_not_found")
    tenant, decision, settlement = found
    return Page(
        "decision.html",
        {
            "tenant": tenant,
            "decision": decision.as_json(),
            "created_at": decision.created_at,
            "reason": REASONS.get(decision.reason.value, ""),
            "chart": chart_of(decision),
            "ranks": ranks_of(decision),
            "outcome": None if settlement is None else settlement.as_json(),
            "attempts": () if settlement is None else settlement.attempts,
        },
    )


def _request_row(tenant: str, decision: RouteDecision, settlement: Settlement | None) -> dict[str, Any]:
    outcome = None if settlement is None else settlement.as_json()
    return {
        "id": decision.id,
        "at": decision.created_at,
        "tenant": tenant,
        "asked": decision.requested_model,
        "chosen": decision.chosen if settlement is None or settlement.served is None else settlement.served,
        "reason": decision.reason.value,
        "outcome": outcome,
        "error_code": None if settlement is None else settlement.error_code,
    }
