"""A decision with every field set, its request and its settlement, an event log to put them in, and segments."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from msgspec import structs

from penstock_gateway.accounts.principal import Principal
from penstock_gateway.attempts.records import AttemptKind, AttemptRecord
from penstock_gateway.decisions import CandidateReport, RouteDecision, Settlement
from penstock_gateway.events.log import EventLog
from penstock_gateway.ledger.contract import Account
from penstock_gateway.money.usage import Usage
from penstock_gateway.request_body import ChatRequest, parse_chat_request
from penstock_gateway.settings_events import EventSettings
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
    return structs.replace(made, **changes)


USAGE = Usage(12, 34, 5, 6)
SETTLED = Settlement(
    200,
    None,
    USAGE,
    Decimal("0.00018"),
    12.34567,
    0.5,
    served="mini",
    attempts=(
        AttemptRecord("gpt", AttemptKind.FIRST, 0.5, 3.0, 503, "upstream_error", was_sent=True),
        AttemptRecord("mini", AttemptKind.FALLBACK, 4.0, 8.0, 200, None, was_sent=True, usage=USAGE, first_byte_ms=6.5),
    ),
    first_byte_ms=6.5,
)
COSTS = (None, Decimal("0.00018"))
PRINCIPAL = Principal(TENANT, key_id="k1", accounts=(Account("key:k1"), Account("tag:prod")))
COST_PICOUSD = 180_000_000
ADMITTED_AT = 1_700_000_000.0


def log_in(folder: Path, **options: Any) -> EventLog:
    """Return a log in a folder, not started; options are settings of events, callbacks, or a clock."""
    own = {name: options.pop(name) for name in ("on_drop", "on_problem", "clock") if name in options}
    return EventLog(EventSettings(folder=str(folder), **options), **own)


def note_one(
    log: EventLog,
    decision_id: str,
    *,
    on_written: Callable[[], None] | None = None,
    settlement: Settlement = SETTLED,
    principal: Principal = PRINCIPAL,
    admitted_at: float = ADMITTED_AT,
    cost_picousd: int = COST_PICOUSD,
    **changes: Any,
) -> None:
    """Take a place, and note decision and outcome of a settled request."""
    assert log.admit()
    decision = sample_decision(id=decision_id, **changes)
    log.note_decision(principal, f"req_{decision_id}", sample_request(), decision)
    log.note_outcome(
        principal,
        f"req_{decision_id}",
        decision,
        settlement,
        admitted_at=admitted_at,
        cost_picousd=cost_picousd,
        attempt_costs=COSTS[: len(settlement.attempts)],
        on_written=on_written,
    )


def note(log: EventLog, count: int) -> None:
    """Note settled requests with the ids ``dec_0``, ``dec_1``, …."""
    for number in range(count):
        note_one(log, f"dec_{number}")


def outcome_event(decision_id: str, **changes: Any) -> dict[str, Any]:
    """Return an outcome as it is written, shortened to what readers need."""
    return {
        "schema": 2,
        "type": "outcome",
        "decision_id": decision_id,
        "time": ADMITTED_AT + 1.0,
        "admitted_at": ADMITTED_AT,
        "tenant": "0011223344556677",
        "accounts": ["key:k1", "team:search"],
        "usage": {"input_tokens": 10, "output_tokens": 5},
        "cost_usd": "0.000001",
        "cost_picousd": 1_000_000,
        **changes,
    }


def decision_event(decision_id: str, **changes: Any) -> dict[str, Any]:
    """Return a decision as it is written, with content."""
    return {
        "schema": 2,
        "type": "decision",
        "decision_id": decision_id,
        "time": ADMITTED_AT,
        "tenant": "0011223344556677",
        "intended_arm": "mini",
        "prompt": SECRET_TEXT,
        "is_prompt_cut": False,
        "prompt_hash": "ab" * 16,
        **changes,
    }


def write_segment(folder: Path, name: str, events: Iterable[dict[str, Any] | bytes], *, age: float = 0.0) -> Path:
    """Write a closed segment; bytes are lines as they are, `age` is of its last event, seconds before now."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events-{name}.jsonl"
    lines = (event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n" for event in events)
    path.write_bytes(b"".join(lines))
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return path
