"""A decision with every field set, its request and its settlement, and an event log to put them in."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from penstock_gateway.decisions import CandidateReport, RouteDecision, Settlement
from penstock_gateway.event_log import EventLog
from penstock_gateway.money.usage import Usage
from penstock_gateway.request_body import ChatRequest, parse_chat_request
from penstock_gateway.settings_models import EventSettings
from penstock_routers.policy import RejectReason, RouteReason

SECRET_TEXT = "the patient's name is Rumpelstilzchen"
TENANT = "hospital-north"


def sample_request() -> ChatRequest:
    """Return a request whose text must not get out."""
    return parse_chat_request(
        json.dumps({"model": "auto", "messages": [{"role": "user", "content": SECRET_TEXT}]}).encode()
    )


def sample_decision(**changes: Any) -> RouteDecision:
    """Return a decision for `mini` against `gpt`."""
    made = RouteDecision(
        id="dec_1",
        created_at=1_700_000_000.1239,
        requested_model="auto:cost",
        tradeoff="cost",
        chosen="mini",
        reason=RouteReason.EXPLORED,
        candidates=(
            CandidateReport(
                "mini",
                "up",
                "small-2",
                "small",
                quality=0.8,
                quality_se=0.02,
                gain=-0.1,
                gain_se=0.03,
                output_tokens=90.0,
                estimated_cost_usd=0.000_000_25,
                utility=0.7,
                switch_cost_usd=0.001,
            ),
            CandidateReport(
                "gpt", "up", "frontier-3", "frontier", rejected=RejectReason.MAX_COST, rejected_detail="too dear"
            ),
        ),
        artifact_id="sha256:abc",
        default_arm="gpt",
        baseline="gpt",
        input_tokens=3,
        estimated_cost_usd=0.000_000_25,
        baseline_cost_usd=0.1,
        novelty=0.25,
        category="medical",
        propensity=0.005,
        max_cost_usd=0.01,
        floor="small",
    )
    return replace(made, **changes)


SETTLED = Settlement(200, None, Usage(12, 34, 5, 6), Decimal("0.00018"), 12.34567, 0.5)


def log_in(folder: Path, **options: Any) -> EventLog:
    """Return a log in a folder, not started; options are settings of events, or callbacks."""
    callbacks = {name: options.pop(name) for name in ("on_drop", "on_problem") if name in options}
    return EventLog(EventSettings(folder=str(folder), **options), **callbacks)


def note(log: EventLog, count: int) -> None:
    """Note settled requests with the ids ``dec_0``, ``dec_1``, …."""
    for number in range(count):
        log.note_request(TENANT, sample_request(), sample_decision(id=f"dec_{number}"), SETTLED, "mini")
