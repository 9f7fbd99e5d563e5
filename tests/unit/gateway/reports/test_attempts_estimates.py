"""What trying again costs, and how far estimates were from facts."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from penstock_gateway.reports.attempts import attempts_report
from penstock_gateway.reports.estimates import estimates_report
from support.event_samples import decision_event, outcome_event
from support.savings_worlds import draw_world


def attempt(deployment: str, kind: str, picousd: int | None, error: str | None = None) -> dict[str, Any]:
    """Return an attempt as it is written."""
    return {"deployment": deployment, "kind": kind, "cost_picousd": picousd, "error_code": error}


def test_attempts_are_counted_by_deployment_with_what_failed_ones_cost() -> None:
    """Retries, fallbacks and hedges are told apart; what failed is charged where it failed; duplicates count once."""
    first = outcome_event(
        "a",
        attempts=[
            attempt("gpt", "first", 50, "upstream_timeout"),
            attempt("gpt", "retry", None, "upstream_error"),
            attempt("mini", "fallback", 10),
        ],
    )
    second = outcome_event("b", attempts=[attempt("mini", "first", 5)])
    report = attempts_report([first, second, first, outcome_event("c", attempts=[]), decision_event("a")])
    assert (report.requests, report.requests_repeated) == (2, 1)
    assert (report.cost_usd, report.failed_usd) == (Decimal("6.5E-11"), Decimal("5E-11"))
    gpt, mini = report.as_json()["deployments"]
    assert (gpt["attempts"], gpt["retry"], gpt["failed"], gpt["failed_usd"]) == (2, 1, 2, "0.00000000005")
    assert gpt["errors"] == {"upstream_timeout": 1, "upstream_error": 1}
    assert (mini["attempts"], mini["fallback"], mini["failed"]) == (2, 1, 0)


def test_estimates_are_compared_with_reported_facts_only() -> None:
    """Ratios are facts over expectations by arm; an estimated bill is no fact and is passed over."""
    world = draw_world(1, is_observed=True, conversations=50)
    arms = {arm.arm: arm for arm in estimates_report(world.records)}
    assert set(arms) == {"small", "large", "frontier"}
    outcomes = [record for record in world.records if record["type"] == "outcome"]
    facts = sum(record["usage"]["output_tokens"] for record in outcomes if record["served_arm"] == "small")
    assert arms["small"].fact_output == pytest.approx(facts)
    assert arms["frontier"].as_json()["output_tokens_ratio"] > 1.5
    for record in outcomes:
        record["is_cost_estimated"] = True
    assert estimates_report(world.records) == []
