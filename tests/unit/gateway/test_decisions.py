"""Rules of the record of decisions."""

from __future__ import annotations

from decimal import Decimal

from penstock_gateway.decisions import CandidateReport, RecentDecisions, RouteDecision, Settlement
from penstock_gateway.money.usage import Usage
from penstock_routers.policy import RouteReason


def decision(
    identifier: str = "dec_1", cost: float | None = 0.000_001_5, baseline: float | None = 0.1
) -> RouteDecision:
    """Return a decision for `small` against `frontier`."""
    return RouteDecision(
        id=identifier,
        created_at=1_700_000_000.9,
        requested_model="auto",
        tradeoff="balanced",
        chosen="small",
        reason=RouteReason.ROUTED,
        candidates=(CandidateReport("small", "up", "small", "small", quality=0.123456789),),
        artifact_id=None,
        default_arm="frontier",
        baseline="frontier",
        input_tokens=3,
        estimated_cost_usd=cost,
        baseline_cost_usd=baseline,
    )


SETTLED = Settlement(200, None, Usage(10, 5), Decimal("0.0000001"), 12.3456, 0.5)


def test_recent_decisions_tenant_sees_only_its_own() -> None:
    """A decision of another tenant does not exist."""
    recent = RecentDecisions(keep=10)
    recent.add("a", decision())
    assert recent.find("a", "dec_1") is not None
    assert recent.find("b", "dec_1") is None


def test_recent_decisions_beyond_bound_forgets_the_oldest() -> None:
    """Memory is bounded by count, oldest first."""
    recent = RecentDecisions(keep=2)
    for number in range(3):
        recent.add("a", decision(f"dec_{number}"))
    assert [recent.find("a", f"dec_{number}") is not None for number in range(3)] == [False, True, True]


def test_recent_decisions_are_found_by_request_of_their_own_tenant() -> None:
    """A request id is the client's: it leads to the tenant's last decision under it, and to nobody else's."""
    recent = RecentDecisions(keep=10)
    recent.add("a", decision("dec_1"), "req")
    recent.add("b", decision("dec_2"), "req")
    assert (recent.id_of_request("a", "req"), recent.id_of_request("b", "req")) == ("dec_1", "dec_2")
    assert recent.id_of_request("c", "req") is None
    recent.add("a", decision("dec_3"), "req")
    recent.add("a", decision("dec_4"))
    assert recent.id_of_request("a", "req") == "dec_3"
    assert [recent.request_id_of(name) for name in ("dec_1", "dec_4", "dec_9")] == ["req", "", ""]
    assert recent.id_of_request("a", "") is None


def test_recent_decisions_forget_requests_with_them() -> None:
    """The index by request is bounded like the decisions, and forgetting an old one leaves a newer one of its name."""
    recent = RecentDecisions(keep=2)
    for number in range(4):
        recent.add("a", decision(f"dec_{number}"), "same" if number < 3 else "other")
    assert (recent.id_of_request("a", "same"), recent.id_of_request("a", "other")) == ("dec_2", "dec_3")
    recent.add("a", decision("dec_4"), "third")
    assert recent.id_of_request("a", "same") is None
    assert len(recent._requests) == len(recent._requests_of) == 2


def test_recent_decisions_late_settlement_of_forgotten_is_ignored() -> None:
    """A request that outlives its record settles without bringing it back."""
    recent = RecentDecisions(keep=0)
    recent.add("a", decision())
    recent.settle("dec_1", SETTLED)
    assert recent.find("a", "dec_1") is None


def test_recent_decisions_settlement_is_shown_with_the_decision() -> None:
    """Once the request is over its outcome stands beside the decision."""
    recent = RecentDecisions(keep=1)
    recent.add("a", decision())
    recent.settle("dec_1", SETTLED)
    found = recent.find("a", "dec_1")
    assert found is not None
    assert found[1] is SETTLED


def test_decision_json_money_is_plain_decimal_text() -> None:
    """Money never appears with an exponent or as a binary float."""
    shown = decision().as_json()
    assert shown["estimated_cost_usd"] == "0.0000015"
    assert shown["estimated_saving_usd"] == "0.0999985"
    assert SETTLED.as_json()["cost_usd"] == "0.0000001"
    assert shown["candidates"][0]["quality"] == 0.12346


def test_decision_without_estimates_has_no_saving() -> None:
    """An unknown cost gives an unknown saving, never zero."""
    assert decision(cost=None).estimated_saving_usd is None
    assert decision(cost=None).as_json()["estimated_saving_usd"] is None
